"""Lanes: any solver in them, any grid in any chunks, each cell until its own end, in the memory that there is."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lanes import WIDE, WITHIN, assert_same, drawn, poisoned, swept

import layerflow as lf
from layerflow.engine import _chunks


@pytest.fixture(scope="module")
def forty():
    return swept({name: values[:40] for name, values in WIDE.items()}, lanes=40)


@settings(max_examples=15, deadline=None)
@given(
    cells=st.one_of(st.sampled_from([1, 3]), st.integers(13, 40)),  # a chunk larger than the grid is another program
    means=st.sampled_from([{"chunk": 8, "lanes": 5}, {"chunk": 13, "lanes": 1}]),
    bad=st.sets(st.integers(0, 39), max_size=10),
)
def test_any_grid_in_any_chunks_with_any_poison(forty, cells, means, bad):
    """Every cell is what it is among forty, and every poisoned one says so."""
    bad = sorted(number for number in bad if number < cells)
    arguments = {name: values[:cells] for name, values in WIDE.items()}

    diagram = swept(poisoned(arguments, bad), **means)

    rest = np.setdiff1d(np.arange(cells), bad)
    gap = np.abs(diagram.matrix.values - forty.matrix.values[:cells]).max(axis=(1, 2)) / WIDE["scale"][:cells]
    assert (gap[rest] < WITHIN).all()
    assert (diagram.status[rest] == lf.Status.REACHED_T1).all()
    assert (diagram.status[bad] >= lf.Status.NOT_FINITE).all()


SOLVERS = [dfx.Kvaerno5(), dfx.ImplicitEuler(), dfx.Heun(), dfx.Dopri8(), dfx.ReversibleHeun()]
MORE = [dfx.Kvaerno3(), dfx.Kvaerno4(), dfx.Bosh3(), dfx.Dopri5(), dfx.Midpoint(), dfx.Ralston()]
MODES = lf.Modes(variance=jnp.array([1.0, 0.3]), target=1.0)


@pytest.mark.parametrize(
    "solver",
    [*SOLVERS, *(pytest.param(solver, marks=pytest.mark.slow) for solver in MORE)],
    ids=lambda solver: type(solver).__name__,
)
def test_lanes_step_every_solver(solver):
    """Against `diffeqsolve` of each cell, at log-spaced times and with its step counts."""
    starts, ts = np.geomspace(0.01, 0.5, 5), jnp.geomspace(0.1, 4.0, 6)
    controller = dfx.PIDController(rtol=1e-5, atol=1e-7)
    cell = lambda start: lf.Problem(lf.DiagonalNetwork((start * jnp.ones(2),) * 2), MODES)
    method = lf.Flow(t1=4.0, solver=solver, controller=controller, dt0=0.01)

    diagram = lf.sweep(
        cell, {"start": starts}, method=method, ts=ts, observe=lf.mode_strengths, on=lf.Machine(lanes=2), progress=False
    )

    velocity = lambda _t, w, _: (MODES.variance * w[1] * (1 - w[0] * w[1]), MODES.variance * w[0] * (1 - w[0] * w[1]))
    for number, start in enumerate(starts):
        y0, save = (jnp.full(2, start),) * 2, dfx.SaveAt(ts=ts)
        term = dfx.ODETerm(velocity)
        solved = dfx.diffeqsolve(
            term, solver, 0.0, 4.0, 0.01, y0, saveat=save, stepsize_controller=controller, max_steps=10_000
        )
        # Interpolation of low order errs more than its steps do; both sides do it alike.
        np.testing.assert_allclose(diagram.mode_strengths[number], solved.ys[0] * solved.ys[1], atol=1e-4)
        assert abs(int(diagram.num_steps[number]) - int(solved.stats["num_steps"])) <= 1


def test_lanes_stop_each_at_its_own_convergence():
    """Hard cells go on where easy ones are done, and what lies beyond holds the last value."""
    starts, ts = np.geomspace(1e-6, 0.5, 20), jnp.geomspace(0.1, 200.0, 9)
    cell = lambda start: lf.Problem(lf.DiagonalNetwork((start * jnp.ones(2),) * 2), MODES)
    method = lf.Flow(t1=200.0, until="converged")

    diagram = lf.sweep(cell, {"start": starts}, method=method, ts=ts, on=lf.Machine(lanes=3), progress=False)

    assert (diagram.status == lf.Status.CONVERGED).all()
    assert (diagram.end.diff("start") < 0).all()
    for number in (0, 10, 19):
        path = lf.solve(cell(jnp.asarray(starts[number])), method, ts=ts)
        np.testing.assert_allclose(diagram.loss[number], path.observed["loss"], rtol=1e-3, atol=1e-12)


def test_a_call_that_runs_out_of_memory_is_split(monkeypatch):
    """The chunk stays what it is; the diagram says what happened."""
    whole, call = swept(WIDE, lanes=16, chunk=50), _chunks.Batch._call

    def small_only(self, device, cells, plan, *how):
        if plan.size > 20:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
        return call(self, device, cells, plan, *how)

    monkeypatch.setattr(_chunks.Batch, "_call", small_only)
    with pytest.warns(UserWarning, match=r"Out of memory with 50 cells in one call"):
        split = swept(WIDE, lanes=16, chunk=50)

    assert split.attrs["chunk"] == 50
    assert split.attrs["calls_split"] == 6 * 3
    assert whole.attrs["calls_split"] == 0
    assert_same(split, whole, WIDE["scale"])


def test_chunks_are_halved_where_the_compiler_finds_no_room_for_them(monkeypatch):
    """As XLA does for a TPU."""
    whole, compile_ = swept(WIDE, lanes=16), _chunks.Batch.compile

    def small_only(self, plan, device):
        if plan.size > 50:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM.")
        return compile_(self, plan, device)

    monkeypatch.setattr(_chunks.Batch, "compile", small_only)
    small = swept(WIDE, lanes=16)

    assert 25 < small.attrs["chunk"] <= 50 < whole.attrs["chunk"]
    assert_same(small, whole, WIDE["scale"])
    with pytest.raises(MemoryError, match=r"60 cells in one call takes more memory than .* has\. Take smaller chunks"):
        swept(WIDE, lanes=16, chunk=60)


def test_chunks_fit_the_memory_that_programs_say_they_take():
    """The rough estimate is wrong here: an observable works on far more than it returns."""

    def hungry(network, problem):  # noqa: ARG001
        return jnp.sum(jnp.sin(jnp.outer(jnp.arange(100.0), jnp.arange(100.0)) * network.matrix[0, 0]))

    diagram = swept(drawn(500), lf.Flow(t1=0.1), observe=hungry, memory=0.006)

    assert 1 < diagram.attrs["chunk"] < 500
    assert diagram.attrs["chunk_bytes"] < 0.006 * 2**30
