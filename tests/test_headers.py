"""Headers of data files: they bound what is read, and none is believed."""

import os
import tracemalloc
import types
import zipfile

import numpy as np
import pytest

from layerflow.cli._datafile import read_data

X, Y = np.arange(12.0).reshape(4, 3), np.array([[1.0], [2.0], [3.0], [4.0]])


def saved(folder, **arrays):
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def npy(shape, dtype="<f8", body=b"", version=1, columns_first=False):
    """An NPY file of a made-up header."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': {columns_first}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(header).to_bytes(2 if version == 1 else 4, "little") + header + body


EIGHT = np.arange(8.0).tobytes()
FOUR = npy("(4,)", body=np.arange(4.0).tobytes())
HEADERS = {
    "more than there is": (npy("(4, 1000)", body=EIGHT), r"header of `x` says shape \(4, 1000\) of float64, but its"),
    "beyond all memory": (npy(f"({10**30}, 4)", body=EIGHT), r"header of `x` says shape \(1000000.*float64, but its"),
    "less than there is": (npy("(4, 1)", body=EIGHT), r"header of `x` says shape \(4, 1\)"),
    "below zero": (npy("(-4, -2)", body=EIGHT), r"header of `x` says shape \(-4, -2\)"),
    "no shape": (npy("'four'", body=EIGHT), "damaged"),
    "no numbers but zeros": (npy(f"({10**30}, 0)"), r"at least one sample.* its shape is \(1000"),
    "a later version": (npy("(4, 2)", body=EIGHT, version=3), r"needs real numbers, but holds records"),
    "an unknown version": (npy("(4, 2)", body=EIGHT, version=9), r"NPY version 9"),
    "records": (npy("(4,)", dtype="(2,)<f8", body=EIGHT), r"damaged|needs real numbers"),
    "a header that runs a program": (npy("__import__('os').abort()", body=EIGHT), "damaged"),
    "deep brackets": (npy("(" * 5000, body=EIGHT), "damaged"),
}


def zipped(folder, *members):
    with zipfile.ZipFile(folder / "data.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return folder / "data.npz"


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_does_not_fit_its_array_is_refused(case, tmp_path):
    content, words = HEADERS[case]
    with pytest.raises(ValueError, match=words) as caught:
        read_data(zipped(tmp_path, ("x.npy", content), ("y.npy", FOUR)))
    assert "data.npz" in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("x.npy", "x.npy"), ("x", "x.npy")])
def test_an_array_that_is_there_twice_is_refused(names, tmp_path):
    members = [(name, npy("(4, 2)", body=EIGHT)) for name in names]
    with pytest.raises(ValueError, match=r"data.npz holds `x` 2 times"):
        read_data(zipped(tmp_path, *members, ("y.npy", FOUR)))


@pytest.mark.parametrize("columns_first", [False, True])
@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2", "|b1", "|i1", ">u8", "<i8"])
def test_arrays_of_every_kind_and_order_are_read_as_numpy_reads_them(dtype, columns_first, tmp_path):
    x = (np.random.default_rng(0).normal(size=(4, 3, 2)) * 5).astype(dtype)
    path = saved(tmp_path, x=np.asfortranarray(x) if columns_first else x, y=Y)
    np.testing.assert_array_equal(read_data(path).x, x.astype(float).reshape(4, 6))


def test_a_flipped_number_is_found(tmp_path):
    path = saved(tmp_path, x=X, y=Y)
    path.write_bytes(path.read_bytes().replace(np.float64(7.0).tobytes(), np.float64(5.0).tobytes()))
    with pytest.raises(ValueError, match="damaged"):
        read_data(path)


def peak_of(call):
    """The most that a call takes, in bytes; what it returns or raises."""
    tracemalloc.start()
    try:
        found = call()
    except MemoryError as error:
        found = error
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, found


def test_what_unpacks_to_more_than_the_memory_is_refused_by_its_header(tmp_path, monkeypatch):
    """Two kilobytes of two million zeros; nothing of them is unpacked."""
    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=np.zeros((1000, 2000), np.uint8), y=np.zeros(1000))
    monkeypatch.setattr("psutil.virtual_memory", lambda: types.SimpleNamespace(available=10**7))

    peak, error = peak_of(lambda: read_data(path))

    assert peak < 10**6
    assert isinstance(error, MemoryError)
    assert str(error).startswith(
        f"{path}: Reading its arrays in float64, the largest `x` of shape (1000, 2000), would take"
    )


def test_reading_takes_little_more_than_what_is_read(tmp_path):
    """A fourth more, of which checks take an eighth."""
    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=np.zeros((1000, 3000), np.uint8), y=np.zeros(1000))
    peak, data = peak_of(lambda: read_data(path))
    assert peak < 1.25 * (data.x.nbytes + data.y.nbytes)


def test_rows_for_more_classes_than_fit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: types.SimpleNamespace(available=10**7))
    path = saved(tmp_path, x=np.ones((4000, 1)), y=np.arange(4000))
    with pytest.raises(MemoryError, match=r"One-hot rows over the 4,000 classes of `y` would take"):
        read_data(path, targets="classes")


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "data.npz")
    with pytest.raises(OSError, match=r"data.npz is no regular file"):
        read_data(tmp_path / "data.npz")


def complaint(path):
    try:
        read_data(path)
    except (ValueError, OSError, MemoryError) as error:
        return str(error)
    return None


def test_headers_of_a_data_file_are_read_or_refused_in_words(tmp_path):
    """Three hundred changed headers of NPY, and bytes of the archive about them."""
    path, ends = tmp_path / "data.npz", []
    x = np.arange(6.0).tobytes()
    for seed in range(300):
        rng = np.random.default_rng(seed)
        header = "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }"
        pieces = ["'<f8'", "False", "(3, 2)", "'descr'", "}", "3", "2"]
        strange = [
            "'|O'",
            "'<U99999999'",
            "True",
            "(3, -2)",
            f"({10**20},)",
            "(3, 2, 0)",
            "None",
            "('<f8', 9)",
            "[[",
            "",
        ]
        header = header.replace(str(rng.choice(pieces)), str(rng.choice(strange))).encode()
        content = bytearray(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + x)
        if rng.random() < 0.3:
            content[rng.integers(12)] ^= int(rng.integers(1, 256))
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", bytes(content))
            archive.writestr("y.npy", bytes(content))
        ends.append(complaint(path))
    words = [said for said in ends if said is not None]
    assert len(words) > 200
    assert all(str(path) in said for said in words)
