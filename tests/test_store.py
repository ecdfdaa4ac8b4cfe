"""Sweeps on disk: the same diagram as in memory, resumed, refused, repaired."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray

import layerflow as lf

LAMS, SCALES = np.array([-2.0, 0.0, 2.0]), np.array([0.5, 1.0, 2.0, 4.0])
TASK = lf.Moments.whitened(yx=jnp.array([[1.0, 0.3], [-0.2, 0.8]]))
METHOD = lf.Flow(t1=3.0)
CHUNKS = lf.Machine(chunk=5, lanes=3)


def cell(key, lam, scale):
    start = lf.lambda_balanced(key, lam, 0.5, inp=2, hid=2, out=2)
    return lf.Problem(start, TASK.rescale(target=scale))


def swept(store=None, cell=cell, axes=None, seeds=2, method=METHOD, on=CHUNKS, **how):
    axes = {"lam": LAMS, "scale": SCALES} if axes is None else axes
    return lf.sweep(cell, axes, seeds=seeds, method=method, on=on, store=store, **how)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "diagram.zarr"


def assert_same(one, other):
    """Equal bit for bit, in order, labels and types; `attrs` of the whole tell how it was made, and may differ."""
    xarray.testing.assert_identical(one.drop_attrs(deep=False), other.drop_attrs(deep=False))
    assert list(one.data_vars) == list(other.data_vars)
    for name in one.variables:
        assert one[name].dtype == other[name].dtype
        assert one[name].values.tobytes() == other[name].values.tobytes()


def by_shape(key, lam, shape):
    inp, hid, out = shape
    task = lf.random_regression(key, n=10, inp=inp, out=out, whiten=True)
    return lf.Problem(lf.lambda_balanced(key, lam, 1.0, inp=inp, hid=hid, out=out), task)


def parts(network, _):
    return {"first": network.matrix[0], "whole": network.matrix}


SHAPES = lf.static({"funnel": (4, 2, 2), "anti-funnel": (2, 2, 4), "square": (3, 3, 3)})
KINDS = {
    "plain": dict(observe=(lf.loss, lf.kernel_distance, lf.layer_imbalance)),
    "static": dict(cell=by_shape, axes={"lam": LAMS, "shape": SHAPES}, seeds=3, observe=(lf.loss, lf.effective_rank)),
    "over time": dict(ts=[0.0, 1.0, 3.0], observe={"mine": parts}, on=lf.Machine(chunk=7)),
    "summary": dict(ts=np.linspace(0, 3, 20), observe=lf.mode_strengths, summary=lf.half_times, paths=False),
    "derivative and verify": dict(derivative=("lam",), verify=True, observe=(lf.loss, lf.kernel_distance)),
    "descent": dict(
        method=lf.Descent(optax.sgd, learning_rate=0.1, steps=20), ts=[0, 10, 20], observe=lf.loss, seeds=1
    ),
    "one cell": dict(cell=lambda: cell(jax.random.key(0), 1.0, 1.0), axes={}, seeds=None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_holds_the_diagram_of_memory(kind, path):
    """All variables bit for bit, with their labels; before and after it is opened anew."""
    stored, kept = swept(path, **KINDS[kind]), swept(**KINDS[kind])

    assert_same(stored, kept)
    assert_same(lf.open_diagram(path), kept)
    for name in ("chunk", "method", "fingerprint", "root", "dtype"):
        assert stored.attrs[name] == kept.attrs[name]


def test_a_part_of_a_stored_diagram_is_that_of_memory(path):
    """Whichever axes lie outside in the store: numbers, slices backwards, lists."""
    stored, kept = swept(path, **KINDS["static"]), swept(**KINDS["static"])

    for part in (
        dict(lam=1),
        dict(shape=0, seed=slice(None, None, -1)),
        dict(shape=[2, 0], lam=[0, 2], seed=1),
        dict(seed=slice(0, 0)),
        dict(lam=-1, shape=1, seed=2),
    ):
        assert_same(stored.isel(part), kept.isel(part))
    assert_same(stored.sel(shape="square", lam=2.0), kept.sel(shape="square", lam=2.0))
    assert_same(stored.loss.mean("seed").to_dataset(), kept.loss.mean("seed").to_dataset())


def test_the_store_is_zarr_that_anyone_reads(path):
    """Flat arrays with named dimensions and a description in JSON, without layerflow."""
    kept = swept(path)

    flat = xarray.open_zarr(path, consolidated=False)
    description = json.loads((path / "zarr.json").read_text())["attributes"]["layerflow"]

    np.testing.assert_array_equal(flat.loss.values.ravel(), kept.loss.values.ravel())
    assert flat.loss.dims == ("combination", "cell")
    assert description["facts"]["rtol"] == 1e-6
    assert description["coordinates"]["lam"]["values"] == [-2.0, 0.0, 2.0]
    assert (description["chunk"], description["lanes"]) == (5, [3])
    assert description["observe"] == {"loss": "loss"}
    assert {"layerflow_version", "jax_version", "root", "fingerprint"} <= description["facts"].keys()


@pytest.fixture
def computed(monkeypatch):
    """How many chunks were computed."""
    from layerflow.engine._chunks import Batch

    count, run = [], Batch.run
    monkeypatch.setattr(Batch, "run", lambda *a: count.append(1) or run(*a))
    return count


def cut(path, *chunks):
    """Take the mark of some chunks away, as if the process had been killed before it was written."""
    for chunk in chunks:
        (path / "status/c" / chunk).unlink()


def test_the_same_call_goes_on_with_what_is_missing(path, computed):
    kept = swept()
    swept(path)
    computed.clear()
    cut(path, "0/1", "0/4")

    part = lf.open_diagram(path).load()
    resumed = swept(path)

    assert len(computed) == 2
    assert_same(resumed, kept)
    assert (part.status == lf.Status.MISSING).sum() == 9
    assert "15 done, 0 failed, 9 missing" in str(part)
    computed.clear()
    assert_same(swept(path), kept)
    assert not computed


def test_a_store_moves_with_its_folder(path, tmp_path, computed):
    kept = swept()
    swept(path)
    computed.clear()
    shutil.move(path, tmp_path / "elsewhere.zarr")

    assert_same(swept(tmp_path / "elsewhere.zarr"), kept)
    assert not computed
