"""Data files: NPZ archives of inputs `x` and targets `y`, with or without `x_test` and `y_test`."""

import contextlib
import os
import pathlib
import uuid
import zipfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Array, Float

from layerflow._targets import Targets, as_rows, check_targets
from layerflow.tasks import Samples

NAMES = ("x", "y", "x_test", "y_test")

# What the arrays are called elsewhere, without case, "_" and "-".
ALIASES = {
    "x": ("x", "xtrain", "trainx", "xtr", "input", "inputs", "data", "features", "images", "trainimages"),
    "y": ("y", "ytrain", "trainy", "ytr", "t", "target", "targets", "label", "labels", "trainlabels"),
    "x_test": ("xtest", "testx", "xte", "testdata", "testinputs", "testimages"),
    "y_test": ("ytest", "testy", "yte", "testtargets", "testlabels"),
}


@dataclass(frozen=True)
class Data:
    """What a data file holds, as matrices of float64 with one row per sample."""

    x: Float[np.ndarray, "n inp"]
    y: Float[np.ndarray, "n out"]
    x_test: Float[np.ndarray, "m inp"] | None = None
    y_test: Float[np.ndarray, "m out"] | None = None


def read_data(path: str | os.PathLike[str], *, targets: Targets = "values") -> Data:
    """Read the arrays of an NPZ file, and check them for what would fail later.

    The file is what np.savez(path, x=x, y=y) writes, and optionally x_test=..., y_test=...;
    other arrays in it are left alone. Pickles are never loaded, so reading runs no code.

    Args:
        path: The file.
        targets: What `y` holds: "values" (numbers, taken as they are), "classes" (one whole number
            per sample, turned into one-hot rows over the classes of `y` in rising order),
            "one-hot" (rows of zeros with a single 1) or "centred" (one-hot minus 1/out, to 1e-6).

    Returns:
        Inputs of shape (n, inp) and targets of shape (n, out) in float64: each sample is
        flattened, and vectors become one column.

    Raises:
        ValueError: If the file is no NPZ, is damaged, or lacks `x` or `y`; if an array is empty, a
            single number, no real numbers or not finite; if lengths or widths differ; if the
            targets are not what `targets` says.
        OSError: If there is no such file or it cannot be read.

    Example:
        >>> import os, tempfile, numpy as np
        >>> from layerflow._datafile import read_data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "data.npz")
        ...     np.savez(path, x=np.ones((3, 4, 4)), y=np.array([5, 7, 5]))
        ...     data = read_data(path, targets="classes")
        >>> data.x.shape, data.y.tolist()
        ((3, 16), [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    """
    check_targets(targets)
    arrays = _read(pathlib.Path(path))
    try:
        matrices = {name: _matrix(array, name) for name, array in arrays.items()}
        _check_sizes(arrays, matrices)
        y, y_test = as_rows(matrices["y"], matrices.get("y_test"), targets)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Data(matrices["x"], y, matrices.get("x_test"), y_test)


def write_data(path: str | os.PathLike[str], train: Samples, test: Samples | None = None) -> None:
    """Write tasks to an NPZ file that `read_data` reads.

    Inputs are kept in float32, which halves the file, and targets as they are. The file
    appears whole or not at all: a crash or a full disk leaves an older file as it was.

    Args:
        path: The file, with the ending .npz; one that is there is replaced.
        train, test: Tasks for training and for testing.

    Raises:
        ValueError: If `path` has another ending, or float32 cannot hold the inputs.
        OSError: If the folder is missing or cannot be written.

    Example:
        >>> import jax, os, tempfile, layerflow as lf
        >>> from layerflow._datafile import read_data, write_data
        >>> task = lf.random_regression(jax.random.key(0), n=3, inp=2, out=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_data(os.path.join(folder, "data.npz"), task)
        ...     read_data(os.path.join(folder, "data.npz")).x.shape
        (3, 2)
    """
    path = pathlib.Path(path)
    # np.savez would add the ending, and the file would not be where its owner looks for it.
    if path.suffix.lower() != ".npz":
        raise ValueError(f"A data file needs the ending .npz, but the path is {path}. Use {path}.npz.")
    arrays: dict[str, Any] = {"x": _single(train.x, "x"), "y": np.asarray(train.y)}
    if test is not None:
        arrays |= {"x_test": _single(test.x, "x_test"), "y_test": np.asarray(test.y)}
    beside = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        try:
            with beside.open("xb") as file:
                np.savez_compressed(file, **arrays)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"{path} cannot be written: {_reason(error)}. Name a file in a folder that exists and is yours to write."
        ) from error


def _single(x: Array, name: str) -> np.ndarray:
    """Inputs in float32, or an error if they are too large for it."""
    with np.errstate(over="ignore"):
        single = np.asarray(x).astype(np.float32)
    if not np.isfinite(single).all():
        raise ValueError(f"Inputs are kept in float32, but `{name}` holds numbers beyond its range. Rescale them.")
    return single


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Those of the four arrays that the file holds, or an error that says what it is instead."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder. Name a data file, an NPZ, in it.")
    with _in_plain_words(path):
        file = path.open("rb")
    with file:  # NumPy would leave a file open that it opens itself and then cannot read
        _check_archive(path, file)
        with _in_plain_words(path):
            archive = np.load(file, allow_pickle=False)
        with archive:
            _check_names(path, archive.files)
            return {name: _member(path, archive, name) for name in NAMES if name in archive.files}


def _check_archive(path: pathlib.Path, file: BinaryIO) -> None:
    """Raise unless the file is a zip."""
    with _in_plain_words(path):
        begin, whole = file.read(6), zipfile.is_zipfile(file)
        file.seek(0)
    if begin.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        if not whole:
            raise ValueError(_damaged(path))
        return
    what = "a single array (NPY)" if begin == b"\x93NUMPY" else "something else" if begin else "empty"
    raise ValueError(f"{path} needs to be an NPZ file, but is {what}. Write it with np.savez(path, x=x, y=y).")


def _member(path: pathlib.Path, archive: Any, name: str) -> np.ndarray:
    with _in_plain_words(path, name):
        array = archive[name]
    if not isinstance(array, np.ndarray):  # NumPy hands on the bytes of what is no array
        raise ValueError(_damaged(path))
    return array


@contextlib.contextmanager
def _in_plain_words(path: pathlib.Path, name: str = "") -> Generator[None]:
    """Turn what the system, zipfile and NumPy raise into one line on the file."""
    try:
        yield
    except MemoryError:
        raise
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}.") from None
    except OSError as error:
        raise OSError(f"{path} cannot be read: {_reason(error)}.") from error
    except Exception as error:  # there are a dozen errors for damaged bytes
        if name and "Object arrays" in str(error):
            raise ValueError(
                f"{path}: Array `{name}` needs numbers, but holds Python objects (dtype object), which are never "
                f"loaded. Write it as np.asarray({name}, float)."
            ) from None
        raise ValueError(_damaged(path)) from error


def _damaged(path: pathlib.Path) -> str:
    return f"{path} is damaged or cut short: its arrays cannot be read. Copy or write it again."


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _check_names(path: pathlib.Path, held: list[str]) -> None:
    """Raise if `x` or `y` is missing, a test array is alone, or an array goes by another name."""
    near = {name: [other for other in held if _plain(other) in ALIASES[name]] for name in NAMES if name not in held}
    # A test task under another name would be left alone without a word.
    tested = any(name in held or near[name] for name in NAMES[2:])
    missing = [name for name in (NAMES if tested else NAMES[:2]) if name not in held]
    if not missing:
        return
    hints = [f" Rename `{near[name][0]}` to `{name}` if that is what it is." for name in missing if near[name]]
    if "arr_0" in held:
        hints = [" Name the arrays as you write them: np.savez(path, x=x, y=y)."]
    raise ValueError(
        f"A data file needs the arrays {_listed(NAMES if tested else NAMES[:2])}, but {path} holds "
        f"{_listed(held) or 'none'}: no {_listed(missing)}.{''.join(hints)}"
    )


def _listed(names: Sequence[str]) -> str:
    # A file may hold any name, even one that would break the line or colour the screen.
    return ", ".join(f"`{repr(name)[1:-1]}`" for name in names[:10]) + (", ..." if len(names) > 10 else "")


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _matrix(array: np.ndarray, name: str) -> Float[np.ndarray, "n width"]:
    """The array in float64 with one row per sample, or an error."""
    if array.dtype.kind not in "buif":
        hint = (
            " Number the classes: np.unique(y, return_inverse=True)[1]."
            if array.dtype.kind in "US" and name[0] == "y"
            else ""
        )
        raise ValueError(f"Array `{name}` needs real numbers, but its dtype is {array.dtype}.{hint}")
    if array.ndim == 0:
        raise ValueError(f"Array `{name}` needs one row per sample, but it is a single number.")
    if array.size == 0:
        raise ValueError(
            f"Array `{name}` needs at least one sample and one number in each, but its shape is {array.shape}."
        )
    with np.errstate(over="ignore"):
        matrix = array.astype(np.float64).reshape(array.shape[0], -1)
    finite = np.isfinite(matrix)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(
            f"Array `{name}` needs finite numbers, but holds {matrix[row, column]} at sample {row}"
            f"{f' and {(~finite).sum() - 1} more such' if (~finite).sum() > 1 else ''}."
        )
    return matrix


def _check_sizes(arrays: dict[str, np.ndarray], matrices: dict[str, np.ndarray]) -> None:
    """Raise unless inputs and targets have one length, and training and test samples one width."""
    for x, y in (NAMES[:2], NAMES[2:]):
        if x in arrays and len(arrays[x]) != len(arrays[y]):
            raise ValueError(
                f"Inputs and targets need one row per sample, so the same length, but `{x}` has shape "
                f"{arrays[x].shape} and `{y}` has shape {arrays[y].shape}. If samples are columns, transpose both."
            )
    for train, test in (("x", "x_test"), ("y", "y_test")):
        if test in matrices and matrices[train].shape[1] != matrices[test].shape[1]:
            raise ValueError(
                f"Samples for training and for testing need one width, but `{train}` has shape {arrays[train].shape} "
                f"and `{test}` has shape {arrays[test].shape}."
            )
