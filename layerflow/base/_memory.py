"""Whether there is room: asked before memory is taken, for the system ends a process that takes too much."""


def free_memory() -> int:
    """Bytes of the host's memory that are free."""
    import psutil  # takes a while to import, for what is asked once in a sweep

    return psutil.virtual_memory().available


def check_room(size: int, what: str, mend: str) -> None:
    """Raise if `size` bytes, which `what` would take, have no room in memory; `mend` says what to do."""
    free = free_memory()
    if size > 0.8 * free:
        # A size that is made up may have hundreds of digits.
        needed = f"{size / 2**30:,.1f} GiB" if size < 2**80 else "more memory than there is"
        raise MemoryError(f"{what} would take {needed}, but {free / 2**30:.1f} GiB are free. {mend}")
