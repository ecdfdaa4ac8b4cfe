"""Keep compiled programs from one process to the next."""

import pathlib

import jax


def enable_compile_cache(folder: str | pathlib.Path | None = None) -> pathlib.Path:
    """Let JAX keep compiled programs on disk, so that a second process starts warm.

    Changes JAX's global settings, so it is never called by importing layerflow; the command
    line calls it.

    Args:
        folder: Where to keep them; the user's cache folder if not given.

    Returns:
        The folder.

    Example:
        >>> import layerflow as lf
        >>> folder = lf.enable_compile_cache()  # doctest: +SKIP
    """
    import platformdirs

    folder = pathlib.Path(platformdirs.user_cache_dir("layerflow")) / "jax" if folder is None else pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Our programs compile in about a second, below what JAX keeps by default.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder
