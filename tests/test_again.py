"""Failed cells: listed, run alone, run again; and what a diagram says of how it was made."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import layerflow as lf

SCALES, VARIANCES = [-0.5, 0.5, 2.0], [-1.0, 1.0, 500.0]
SHORT, LONG = lf.Flow(t1=3.0, max_steps=30), lf.Flow(t1=3.0, rtol=1e-7)


def cell(key, scale, variance):
    """Starts at NaN for a negative scale; blows up for a negative variance, and takes many steps for a large one."""
    layer = jnp.sqrt(scale) * jnp.ones(2) * (1 + 0.01 * jnp.sign(key_sign(key)))
    return lf.Problem(lf.DiagonalNetwork((layer, layer)), lf.Modes(variance=variance * jnp.ones(2), target=0.0))


def key_sign(key):
    return jax.random.normal(key)


def swept(store=None, method=SHORT, observe=(lf.loss, lf.mode_strengths), **how):
    axes = {"scale": SCALES, "variance": VARIANCES}
    return lf.sweep(cell, axes, seeds=2, method=method, observe=observe, store=store, **how)


@pytest.fixture(params=["memory", "store"])
def store(request, tmp_path):
    return None if request.param == "memory" else tmp_path / "diagram.zarr"


def test_failures_are_listed_with_axis_values_and_reason(store):
    table = lf.failures(swept(store))

    assert list(table.columns) == ["scale", "variance", "seed", "status", "reason"]
    assert set(table["status"]) == {"not_finite", "out_of_steps"}
    assert (table[table["status"] == "not_finite"]["scale"] == -0.5).all()
    out = table[table["status"] == "out_of_steps"]
    assert set(out["reason"]) == {"took max_steps steps before t1"}
    assert set(out["variance"]) == {-1.0, 500.0}
    assert len(table) == 6 + len(out) == (swept(store).status >= 3).sum()
    assert len(lf.failures(swept(store).isel(variance=1, scale=[1, 2]))) == 0
    few = lf.failures(swept(store).isel(variance=0, seed=1))
    assert few["scale"].tolist() == SCALES
    assert set(few["variance"]) == {-1.0}


def test_a_replay_is_the_cell_alone(store):
    """Within the tolerance, with the key of its seed; a failure fails again, for the same reason."""
    diagram = swept(store)

    path = lf.replay(cell, diagram, scale=0.5, variance=1.0, seed=1)
    failed = lf.replay(cell, diagram, scale=-0.5, variance=1, seed=0)

    here = diagram.sel(scale=0.5, variance=1.0, seed=1)
    np.testing.assert_allclose(path.observed["mode_strengths"], here.mode_strengths, rtol=1e-5)
    assert int(path.num_steps) == int(here.num_steps)
    assert failed.status == lf.Status.NOT_FINITE
    assert lf.replay(cell, diagram, scale=0.5, variance=500.0, seed=0, method=LONG).status == lf.Status.REACHED_T1
    part = diagram.isel(seed=1, scale=[1])
    np.testing.assert_array_equal(lf.replay(cell, part, variance=1.0).observed["loss"], path.observed["loss"])


def test_a_retry_runs_the_failed_cells_alone_and_marks_them(store, monkeypatch):
    """The others keep their bits; what fails again has its new reason."""
    from layerflow.engine._chunks import Batch

    first = swept(store, on=lf.Machine(chunk=4))
    before, bad = first.load().copy(deep=True), (first.status >= 3).values
    diagram = swept(store, on=lf.Machine(chunk=4))
    run, cells = Batch.run, []
    monkeypatch.setattr(Batch, "run", lambda self, d, c, p, *how: cells.append(c.total) or run(self, d, c, p, *how))

    merged = lf.retry(cell, diagram, LONG)

    assert sum(cells) == bad.sum()
    whole = swept(method=LONG)
    np.testing.assert_array_equal(merged.retried.values, bad.astype(np.uint8))
    for name in before.data_vars:
        np.testing.assert_array_equal(merged[name].values[~bad], before[name].values[~bad])
        np.testing.assert_allclose(merged[name].values[bad], whole[name].values[bad], rtol=1e-5)
    assert (merged.status.sel(variance=500.0, scale=[0.5, 2.0]) == 0).all()
    assert (merged.status.sel(variance=-1.0, scale=2.0) == lf.Status.BLEW_UP).all()
    again = lf.retry(cell, merged, lf.Flow(t1=0.1, solver=dfx.Dopri5()))
    assert (again.status.sel(scale=[0.5, 2.0]) == 0).all()
    np.testing.assert_array_equal(again.retried.values, np.where(merged.status >= 3, 2, bad))
    assert again.retried.isel(seed=0, variance=[2, 0]).values.tolist() == again.retried.values[:, [2, 0], 0].tolist()
    if store is not None:
        np.testing.assert_array_equal(lf.open_diagram(store).retried, again.retried)
        np.testing.assert_array_equal(lf.open_diagram(store).mode_strengths, again.mode_strengths)


def test_a_retry_that_was_cut_off_leaves_no_trace(tmp_path, monkeypatch):
    import zarr

    path = tmp_path / "diagram.zarr"
    diagram, kept, create = swept(path), swept().load(), zarr.Group.create_array

    def cut_off(group, name, **how):
        if name == "status":
            raise ZeroDivisionError
        return create(group, name, **how)

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Group, "create_array", cut_off)
        with pytest.raises(ZeroDivisionError):
            lf.retry(cell, diagram, LONG)

    assert "retried" not in lf.open_diagram(path)
    np.testing.assert_array_equal(lf.open_diagram(path).loss, kept.loss)
    assert (lf.retry(cell, lf.open_diagram(path), LONG).status.sel(variance=500.0, scale=2.0) == 0).all()


def test_a_sweep_called_again_keeps_what_a_retry_found(tmp_path):
    """Also where a damaged chunk is computed anew."""
    path = tmp_path / "diagram.zarr"
    merged = lf.retry(cell, swept(path, on=lf.Machine(chunk=4)), LONG).load()
    (path / "loss/c/0/1").write_bytes(b"")

    resumed = swept(path, on=lf.Machine(chunk=4))

    for name in merged.data_vars:
        np.testing.assert_array_equal(resumed[name].values, merged[name].values)


def shaped(key, shape, data, lam):
    inp, hid, out = shape
    task = lf.Moments.whitened(yx=jnp.outer(jnp.ones(out), jnp.ones(inp)) * data[0] + data[1])
    return lf.Problem(lf.lambda_balanced(key, lam, 1.0, inp=inp, hid=hid, out=out), task), SHORT


LABELLED = {
    "shape": lf.static({"funnel": (3, 2, 2), "square": (2, 2, 2)}),
    "case": lf.paired({"data": [[0.1, 0.2], [90.0, 80.0]]}, labels=["small", "large"]),
    "lam": [-1.0, 1.0],
}


@pytest.mark.slow
def test_axes_that_a_diagram_knows_by_label_are_given_again(store):
    """Static shapes, vectors of a paired axis, and a method of the cell's own."""
    diagram = lf.sweep(shaped, LABELLED, observe=lf.loss, store=store)
    where = {"shape": "funnel", "case": "large", "lam": 1.0}

    for call in (lambda: lf.replay(shaped, diagram, **where), lambda: lf.retry(shaped, diagram, LONG)):
        with pytest.raises(ValueError, match=r"knows axis `shape` by its labels alone.*axes=\{\"shape\": ...\}"):
            call()
    path = lf.replay(shaped, diagram, axes=LABELLED, **where)
    merged = lf.retry(shaped, diagram, LONG, axes=LABELLED)

    assert path.status == lf.Status.OUT_OF_STEPS == diagram.sel(where).status
    assert (merged.status == 0).all()
    assert (merged.retried.sel(case="large") == 1).all()
    alone = lf.replay(shaped, diagram, axes=LABELLED, **(where | {"case": "small"}))
    np.testing.assert_allclose(alone.observed["loss"], diagram.loss.sel(where | {"case": "small"}), rtol=1e-5)


def test_what_cannot_be_run_again_is_told(store):
    diagram = swept(store)
    good = {"scale": 0.5, "variance": 1.0, "seed": 0}
    own = lf.sweep(
        lambda scale: cell_of(scale), {"scale": SCALES}, method=SHORT, observe={"mine": lambda n, p: lf.loss(n, p)}
    )
    descent = lf.sweep(cell_of, {"scale": SCALES}, method=lf.Descent(own_sgd, learning_rate=0.1, steps=3))

    for change, error, words in (
        ({"scale": 0.3}, ValueError, r"scale=0.3 is not on the grid. The nearest is 0.5"),
        ({"seed": 2}, ValueError, r"seed=2 is not on the grid"),
        ({"scale": "wide"}, ValueError, r"scale=wide is not on the grid. It has -0.5, 0.5, 2.0"),
        ({"width": 3}, TypeError, r"named by its value along each of scale, seed, variance, but `width` is none"),
    ):
        with pytest.raises(error, match=words):
            lf.replay(cell, diagram, **(good | change))
    with pytest.raises(TypeError, match=r"but `seed` is missing"):
        lf.replay(cell, diagram, scale=0.5, variance=1.0)
    with pytest.raises(ValueError, match=r"`mine` is no function of layerflow: give `observe`"):
        lf.replay(cell_of, own, scale=0.5)
    with pytest.raises(ValueError, match=r"does not say all of its method: give `method`"):
        lf.replay(cell_of, descent, scale=0.5)
    with pytest.raises(ValueError, match=r"nothing to retry"):
        lf.retry(cell, diagram.isel(variance=[1], scale=[1, 2]), LONG)
    with pytest.raises(ValueError, match=r"cells now give a variable `sharpness`.*the diagram holds none"):
        lf.retry(cell, diagram, LONG, observe=lf.sharpness)
    with pytest.raises(ValueError, match=r"The cell function is not that of the diagram"):
        lf.retry(deeper, diagram, LONG)
    with pytest.raises(ValueError, match=r"does not say how it was made"):
        lf.replay(cell, diagram.drop_attrs(), **good)
    for call in (lf.failures, lf.provenance):
        with pytest.raises(ValueError, match=r"with its variable `status`"):
            call(diagram.drop_vars("status"))
    if store is not None:
        with pytest.raises(ValueError, match=r"takes the whole diagram: lf.open_diagram"):
            lf.retry(cell, diagram.isel(variance=[0, 1]), LONG)


def own_sgd(learning_rate):
    return optax.sgd(learning_rate)


def deeper(key, scale, variance):
    layers = cell(key, scale, variance).start.weights
    return lf.Problem(lf.DiagonalNetwork((*layers, layers[0])), cell(key, scale, variance).task)


def cell_of(scale):
    layer = jnp.sqrt(scale) * jnp.ones(2)
    return lf.Problem(lf.DiagonalNetwork((layer, layer)), lf.Modes(variance=jnp.ones(2), target=0.0))


def test_a_root_of_large_words_goes_through_a_netcdf_file(tmp_path):
    root = jax.random.wrap_key_data(jnp.array([2**31 + 5, 7], jnp.uint32))
    diagram = swept(root=root)
    diagram.to_netcdf(tmp_path / "diagram.nc", engine="scipy")

    again = lf.replay(cell, lf.open_diagram(tmp_path / "diagram.nc"), scale=0.5, variance=1.0, seed=1)

    np.testing.assert_array_equal(again.observed["loss"], diagram.loss.sel(scale=0.5, variance=1.0, seed=1))


def test_provenance_is_a_paragraph(store):
    diagram = lf.retry(cell, swept(store, root=7), LONG)

    said = " ".join(lf.provenance(diagram).split())

    for words in (
        "The diagram of `cell` spans scale (3 values, -0.5 to 2), variance (3 values, -1 to 500), seed (2 values",
        "18 cells. Each was solved by gradient flow to t = 3, Tsit5, rtol 1e-06, atol 1e-08, in float64 on cpu",
        "gave loss, mode_strengths",
        "threefry2x32 root 0 7",
        "cells failed (",
        "weights grew without bound",
        "weights or velocity became NaN or infinite",
        "run again by gradient flow to t = 3, Tsit5, rtol 1e-07",
        f"layerflow {lf.__version__}, jax ",
        "in chunks of 18 cells with 18 lanes, which give"
        if store
        else "in filled chunks of 256 cells with 64 lanes, as the",
        diagram.attrs["fingerprint"][:16],
    ):
        assert words in said
