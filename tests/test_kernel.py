"""Flows of small networks as one kernel of a GPU, run here step by step: what lanes one after the other compute."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.triton import lowering
from test_lanes_last import FUNCTIONS, LANES, drawn

import layerflow as lf
from layerflow.engine import _entries, _kernel, _lanes
from layerflow.engine._entries import array_of, entries_of, has_rules, most_at_once, operations
from layerflow.engine._flat import Flat
from layerflow.engine._kept import programs
from layerflow.engine._lanes_last import called_by
from layerflow.engine._under_way import UnderWay
from layerflow.methods import Lane, Position, Saved

TASK = lf.Moments.whitened(yx=jnp.diag(jnp.array([2.0, 1.0])))
ON = lf.Machine(chunk=300, lanes=128)
NOT_WRITTEN = {
    "whole numbers", "products of a batch", "empty products", "traces", "loops", "scans", "branches", "factorisations",
    "gathers", "random numbers", "reductions", "large products",
}  # fmt: skip


def networks(key, scale, target):
    return lf.Problem(lf.gaussian(key, (2, 2, 2), std=scale), TASK.rescale(target=target))


def modes(scale, target):
    layer = scale * jnp.ones(2)
    return lf.Problem(lf.DiagonalNetwork((layer, layer)), lf.Modes(target * jnp.ones(2), 1.0))


def swept(cell, t1=3.0, until=None, **how):
    axes = {"scale": jnp.geomspace(0.1, 1, 12), "target": jnp.linspace(0.5, 3, 13)}
    return lf.sweep(cell, axes, method=lf.Flow(t1=t1, until=until), on=ON, progress=False, observe=lf.loss, **how)


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Lanes travel as on a GPU; gives the kernels that ran, one entry each."""
    ran, run, travel = [], _kernel.Kernel.run, _lanes.Lanes.travel

    def as_there(lanes, *arguments):
        return travel(dataclasses.replace(lanes, platform="gpu"), *arguments)

    def one_by_one(kernel, *arguments):
        ran.append(kernel)
        return run(kernel, *arguments, interpret=True)

    def begin():
        programs.clear()
        monkeypatch.setattr(_lanes.Lanes, "travel", as_there)
        monkeypatch.setattr(_kernel.Kernel, "run", one_by_one)
        return ran

    yield begin
    programs.clear()


def test_few_ts_are_saved_at_once_and_a_step_that_passed_more_is_retaken(on_a_gpu):
    ts = jnp.concatenate([jnp.linspace(0.0, 2.0, 30), jnp.linspace(2.001, 2.01, 15), jnp.array([5.0])])
    lanes = swept(networks, t1=5.0, ts=ts)
    ran = on_a_gpu()

    there = swept(networks, t1=5.0, ts=ts)

    assert not ran  # a kernel has no place for them
    np.testing.assert_array_equal(there.status, lanes.status)
    np.testing.assert_array_equal(there.num_steps, lanes.num_steps)
    np.testing.assert_allclose(there.loss, lanes.loss, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("cell", "how"),
    [(networks, {}), (modes, {"t1": 200.0, "until": "converged"})],
    ids=["networks", "converged"],
)
def test_a_kernel_computes_what_lanes_compute(cell, how, on_a_gpu):
    lanes = swept(cell, **how)
    ran = on_a_gpu()

    kernel = swept(cell, **how)

    assert len(ran) == 1
    np.testing.assert_array_equal(kernel.status, lanes.status)
    np.testing.assert_allclose(kernel.num_steps, lanes.num_steps, atol=1)
    np.testing.assert_allclose(kernel.loss, lanes.loss, rtol=1e-6, atol=1e-12)


def test_a_kernel_comes_back_after_many_steps_and_goes_on(on_a_gpu, monkeypatch):
    lanes = swept(networks)
    monkeypatch.setattr("layerflow.engine._computation.MANY_STEPS", 16)
    ran = on_a_gpu()

    kernel = swept(networks)

    assert len(ran) == 2  # the second program goes on, as often as is needed
    np.testing.assert_array_equal(kernel.num_steps, lanes.num_steps)
    np.testing.assert_allclose(kernel.loss, lanes.loss, rtol=1e-12)


def test_what_a_lane_carries_may_become_what_its_cell_has():
    lane = Lane(
        at=Position(jnp.zeros(256), jnp.zeros((256, 1)), {}, *[jnp.zeros(256, int)] * 3),
        t_next=jnp.zeros(256),
        solver_state=None,
        control=jnp.arange(256.0),
        first_step=jnp.ones(256),
        much=jnp.ones(256),
        made_jump=jnp.zeros(256, bool),
        lowest=None,
        since=None,
    )
    end = lambda cell, lane: eqx.tree_at(lambda lane: (lane.control, lane.at.status), lane, (cell, jnp.asarray(1)))
    kernel = _kernel.Kernel(end, 0, 3 * jnp.arange(256.0), lane)
    assert kernel.fits(128)
    first = jax.tree.map(lambda array: array[:128], lane)
    begun = UnderWay(jnp.arange(128), first, lane.at, Saved(jnp.zeros((256, 0, 1)), {}), *map(jnp.asarray, (128, 0, 0)))

    there = kernel.run(begun, jnp.arange(256), jnp.asarray(256), None, interpret=True)

    assert (int(there.finished), int(there.queued)) == (256, 256)
    np.testing.assert_array_equal(there.ended.status, 1)
    np.testing.assert_array_equal(there.lanes.control, 3 * np.arange(128.0, 256.0))


def test_large_networks_and_times_have_no_kernel(on_a_gpu):
    ran, task = on_a_gpu(), lf.Moments.whitened(yx=jnp.eye(5))
    wide = lambda key, scale, target: lf.Problem(lf.gaussian(key, (5, 5, 5), std=scale), task.rescale(target=target))
    swept(wide, t1=0.01)
    swept(networks, t1=0.01, ts=jnp.array([0.0, 0.01]))
    assert ran == []


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - NOT_WRITTEN))
def test_a_program_written_number_by_number_is_the_one_that_vmap_makes(name):
    function, shapes = FUNCTIONS[name]
    arrays = drawn(*shapes)
    like = [jax.ShapeDtypeStruct(array.shape[:-1], array.dtype) for array in arrays]
    flat = Flat(jax.make_jaxpr(function)(*like), called_by).without_unused()
    assert has_rules(flat)
    rows = lambda array: array_of(list(array.reshape(-1, array.shape[-1])), array.shape[:-1])
    constants = {n: array_of(list(jnp.ravel(one)), one.shape) for n, one in flat.constants.items()}

    written = entries_of(flat, dict(enumerate(map(rows, arrays))) | constants)

    vmapped = jax.tree.leaves(jax.vmap(function, in_axes=-1, out_axes=-1)(*arrays))
    for ours, theirs in zip(written, vmapped, strict=True):
        assert ours.shape == theirs.shape[:-1]
        numbers = [np.broadcast_to(one, LANES) for one in ours.flat]
        np.testing.assert_allclose(np.reshape(numbers, theirs.shape), theirs, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "name", sorted(NOT_WRITTEN - {"reductions", "products of a batch", "traces", "large products"})
)
def test_what_has_no_rule_is_told(name):
    function, shapes = FUNCTIONS[name]
    like = [jax.ShapeDtypeStruct(array.shape[:-1], array.dtype) for array in drawn(*shapes)]
    assert not has_rules(Flat(jax.make_jaxpr(function)(*like), called_by).without_unused())


def test_pallas_knows_what_kernels_are_written_in():
    known = {str(primitive) for primitive in lowering.triton_lowering_rules}
    here = {name for name in _entries._ENTRYWISE if hasattr(jax.lax, f"{name}_p")}
    gone = f"jax {jax.__version__}: Pallas has no rule for {here - known}, see layerflow/engine/_entries.py."
    assert here, gone
    assert here <= known, gone


def test_numbers_at_once_and_operations_are_counted():
    flat = Flat(jax.make_jaxpr(lambda a, b, c: (a @ b).T + c)(*[np.ones((2, 2))] * 3), called_by).without_unused()
    assert operations(flat) == 2 * 2 * 4 + 4
    assert most_at_once(flat, set()) == 4 * 8  # the product, and then the sum
    assert most_at_once(flat, {0, 1, 2}) == 0
