"""Data files: NPZ archives of inputs `x` and targets `y`, with or without `x_test` and `y_test`."""

import contextlib
import math
import os
import pathlib
import uuid
import zipfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.lib.format as npy
from jaxtyping import Array, Float

from layerflow.base._memory import check_room
from layerflow.cli._targets import Targets, as_rows, check_targets
from layerflow.tasks import Samples

NAMES = ("x", "y", "x_test", "y_test")
_BLOCK = 2**17  # numbers that are unpacked and turned into float64 at once

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


class Header(NamedTuple):
    """What a member of the archive says of its array."""

    name: str
    member: zipfile.ZipInfo
    shape: tuple[int, ...]
    columns_first: bool
    dtype: np.dtype
    begin: int  # of the numbers, in bytes


class Held(NamedTuple):
    """An array as it was read, and the shape that it has in the file."""

    shape: tuple[int, ...]
    matrix: Float[np.ndarray, "n width"]


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
            single number, no real numbers or not finite; if an array is there twice or its header
            does not fit it; if lengths or widths differ; if the targets are not what `targets` says.
        MemoryError: If the arrays have no room; nothing but their headers has been read then.
        OSError: If there is no such file or it cannot be read.

    Example:
        >>> import os, tempfile, numpy as np
        >>> from layerflow.cli._datafile import read_data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "data.npz")
        ...     np.savez(path, x=np.ones((3, 4, 4)), y=np.array([5, 7, 5]))
        ...     data = read_data(path, targets="classes")
        >>> data.x.shape, data.y.tolist()
        ((3, 16), [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    """
    check_targets(targets)
    held = _read(pathlib.Path(path))
    matrices = {name: one.matrix for name, one in held.items()}
    try:
        for name, matrix in matrices.items():
            _check_finite(matrix, name)
        _check_sizes(held)
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
        ValueError: If `path` has another ending, float32 cannot hold the inputs, or samples have weights or a loss
            that is not that of squares.
        OSError: If the folder is missing or cannot be written.

    Example:
        >>> import jax, os, tempfile, layerflow as lf
        >>> from layerflow.cli._datafile import read_data, write_data
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
    if any(task is not None and task.weight is not None for task in (train, test)):
        raise ValueError(
            "A data file holds no weights, but these samples have some. Write Samples(x, y) of those that count."
        )
    if any(task is not None and task.criterion != "square" for task in (train, test)):
        raise ValueError("A data file names no loss and is read for the square one. Write lf.Samples(task.x, task.y).")
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


def _read(path: pathlib.Path) -> dict[str, Held]:
    """Those of the four arrays that the file holds, or an error that says what it is instead."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder. Name a data file, an NPZ, in it.")
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise OSError(f"{path} is no regular file. Name a data file, an NPZ.")
    with _in_plain_words(path):
        file = path.open("rb")
    with file:
        _check_archive(path, file)
        with _in_plain_words(path):
            archive = zipfile.ZipFile(file)
        with archive:
            held = [member.filename.removesuffix(".npy") for member in archive.infolist()]
            _check_names(path, held)
            headers = {name: _header(path, archive, name) for name in NAMES if name in held}
            _check_room(path, headers)
            return {name: Held(header.shape, _numbers(path, archive, header)) for name, header in headers.items()}


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


def _header(path: pathlib.Path, archive: zipfile.ZipFile, name: str) -> Header:
    """What a member says of its array, checked: nothing of the array is read before."""
    (member,) = (one for one in archive.infolist() if one.filename.removesuffix(".npy") == name)
    with _in_plain_words(path), archive.open(member) as file:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        header = None if read is None else Header(name, member, *read(file), file.tell())
    if header is None:  # version 3 is of field names beyond Latin-1 alone
        raise ValueError(f"{path}: Array `{name}` needs real numbers, but holds records (NPY version {version[0]}).")
    _check_kind(path, header)
    size = header.begin + math.prod(header.shape) * header.dtype.itemsize
    if min(header.shape) < 0 or member.file_size != size:
        raise ValueError(
            f"{path} is damaged or was changed: the header of `{name}` says shape {_shape(header.shape)} of "
            f"{header.dtype}, but its {member.file_size:,} bytes hold something else. Copy or write it again."
        )
    return header


def _check_kind(path: pathlib.Path, header: Header) -> None:
    """Raise unless an array holds real numbers, one row per sample."""
    name, dtype = header.name, header.dtype
    if dtype.hasobject:
        raise ValueError(
            f"{path}: Array `{name}` needs numbers, but holds Python objects (dtype object), which are never "
            f"loaded. Write it as np.asarray({name}, float)."
        )
    if dtype.kind not in "buif":
        text = dtype.kind in "US" and name[0] == "y"
        hint = " Number the classes: np.unique(y, return_inverse=True)[1]." if text else ""
        raise ValueError(f"{path}: Array `{name}` needs real numbers, but its dtype is {dtype}.{hint}")
    if not header.shape:
        raise ValueError(f"{path}: Array `{name}` needs one row per sample, but it is a single number.")
    if 0 in header.shape:
        raise ValueError(
            f"{path}: Array `{name}` needs at least one sample and one number in each, but its shape is "
            f"{_shape(header.shape)}."
        )


def _shape(shape: tuple[int, ...]) -> str:
    # A header may say any shape, even one that would fill the screen.
    text = str(shape)
    return text if len(text) <= 60 else f"{text[:50]}..."


def _check_room(path: pathlib.Path, headers: dict[str, Header]) -> None:
    """Raise if the arrays have no room in memory: all in float64, and one twice where its columns come first."""
    sizes = [8 * math.prod(header.shape) for header in headers.values()]
    again = max((size for size, h in zip(sizes, headers.values(), strict=True) if h.columns_first), default=0)
    largest = max(headers.values(), key=lambda header: math.prod(header.shape))
    check_room(
        sum(sizes) + again,
        f"{path}: Reading its arrays in float64, the largest `{largest.name}` of shape {_shape(largest.shape)},",
        "Keep fewer samples or inputs.",
    )


def _numbers(path: pathlib.Path, archive: zipfile.ZipFile, header: Header) -> Float[np.ndarray, "n width"]:
    """The array in float64 with one row per sample; a block at a time, so that nothing is held twice."""
    rows, dtype = header.shape[0], header.dtype
    numbers = np.empty(math.prod(header.shape))
    with _in_plain_words(path), archive.open(header.member) as file, np.errstate(over="ignore"):
        file.read(header.begin)
        for begin in range(0, numbers.size, _BLOCK):
            into = numbers[begin : begin + _BLOCK]
            into[:] = np.frombuffer(file.read(into.size * dtype.itemsize), dtype)
        if header.columns_first:
            numbers = numbers.reshape(header.shape, order="F")
    return numbers.reshape(rows, -1)


@contextlib.contextmanager
def _in_plain_words(path: pathlib.Path) -> Generator[None]:
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
        raise ValueError(_damaged(path)) from error


def _damaged(path: pathlib.Path) -> str:
    return f"{path} is damaged or cut short: its arrays cannot be read. Copy or write it again."


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _check_names(path: pathlib.Path, held: list[str]) -> None:
    """Raise if `x` or `y` is missing, a test array is alone, one goes by another name, or one is there twice."""
    twice = [name for name in NAMES if held.count(name) > 1]
    if twice:
        raise ValueError(
            f"{path} holds `{twice[0]}` {held.count(twice[0])} times. Write it again, with each array once."
        )
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


def _check_finite(matrix: Float[np.ndarray, "n width"], name: str) -> None:
    """Raise unless all numbers are finite."""
    finite = np.isfinite(matrix)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(
            f"Array `{name}` needs finite numbers, but holds {matrix[row, column]} at sample {row}"
            f"{f' and {(~finite).sum() - 1} more such' if (~finite).sum() > 1 else ''}."
        )


def _check_sizes(held: dict[str, Held]) -> None:
    """Raise unless inputs and targets have one length, and training and test samples one width."""
    for x, y in (NAMES[:2], NAMES[2:]):
        if x in held and len(held[x].matrix) != len(held[y].matrix):
            raise ValueError(
                f"Inputs and targets need one row per sample, so the same length, but `{x}` has shape "
                f"{held[x].shape} and `{y}` has shape {held[y].shape}. If samples are columns, transpose both."
            )
    for train, test in (("x", "x_test"), ("y", "y_test")):
        if test in held and held[train].matrix.shape[1] != held[test].matrix.shape[1]:
            raise ValueError(
                f"Samples for training and for testing need one width, but `{train}` has shape {held[train].shape} "
                f"and `{test}` has shape {held[test].shape}."
            )
