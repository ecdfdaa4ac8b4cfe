"""Lanes: whatever steps beside a cell, it goes its own way."""

import functools
import subprocess
import sys

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import layerflow as lf
import layerflow.sweeps._chunks as run_module
from layerflow.engine import _chunks

pytestmark = pytest.mark.optimised

TARGET = np.diag([1.0, 0.5])
RTOL = 1e-6
FLOW = lf.Flow(t1=20.0, rtol=RTOL, atol=1e-8, dt0=0.01)
WITHIN = 10 * RTOL  # of ten times the tolerance of a step, relative to the target


def matrix(network, problem):  # noqa: ARG001
    return network.matrix


def problem(w1, w2, scale, poison=0):
    """A network on whitened inputs, of which poison 1 makes the variance NaN, and 2 negative: weights blow up."""
    task = lf.Moments.whitened(yx=jnp.asarray(TARGET)).rescale(target=scale)
    variance = jnp.array([1.0, jnp.nan, -1e3])[poison]
    # Past the checks of lf.Moments, which would find the poison.
    return lf.Problem(lf.LinearNetwork((w1, w2)), eqx.tree_at(lambda t: t.xx, task, task.xx * variance))


def drawn(cells, kind="wide"):
    """Starts and target scales over four decades, or all scales one."""
    rng = np.random.default_rng(1)
    w1, w2 = 0.1 * rng.normal(size=(2, cells, 2, 2))
    scale = 10 ** rng.uniform(-2, 2, cells) if kind == "wide" else np.ones(cells)
    return {"w1": w1, "w2": w2, "scale": scale}


def swept(arguments, method=FLOW, observe=matrix, **means):
    """The diagram of these cells, with these means."""
    on = lf.Machine(**means)
    ts = means.pop("ts", None)
    return lf.sweep(
        problem, {"cell": lf.paired(arguments)}, method=method, observe=observe, progress=False, ts=ts, on=on
    )


def assert_same(diagram, other, scale, within=WITHIN, equal_steps=0.98):
    """Equal to some tolerance relative to the targets, with equal step counts nearly everywhere."""
    assert (diagram.status == lf.Status.REACHED_T1).all()
    gap = np.abs(diagram.matrix.values - np.asarray(other.matrix)).max(axis=(-2, -1)) / scale
    assert gap.max() < within
    assert np.mean(diagram.num_steps.values == np.asarray(other.num_steps)) >= equal_steps


WIDE = drawn(256)


@pytest.fixture(scope="module")
def wide():
    return swept(WIDE, lanes=256)


@pytest.mark.parametrize("means", [{"lanes": 1, "chunk": 64}, {"lanes": 7}, {"lanes": 32, "chunk": 100}], ids=str)
def test_lanes_and_chunks_do_not_change_a_cell(wide, means):
    """To ten times the tolerance: XLA's arithmetic differs in its last bits with the width of a batch."""
    assert_same(swept(WIDE, **means), wide, WIDE["scale"])


def test_a_cell_in_a_lane_takes_the_steps_of_diffeqsolve(wide):
    """The same first step, solver and tolerances."""

    @jax.jit
    @jax.vmap
    def alone(w1, w2, scale):
        velocity = lambda _t, w, s: (w[1].T @ (s * TARGET - w[1] @ w[0]), (s * TARGET - w[1] @ w[0]) @ w[0].T)
        controller = dfx.PIDController(rtol=RTOL, atol=1e-8)
        term, steps = dfx.ODETerm(velocity), 2**14
        solved = dfx.diffeqsolve(
            term, dfx.Tsit5(), 0.0, 20.0, 0.01, (w1, w2), scale, stepsize_controller=controller, max_steps=steps
        )
        return solved.ys[1][0] @ solved.ys[0][0], solved.stats["num_steps"]

    ends, steps = alone(**{name: jnp.asarray(values) for name, values in WIDE.items()})

    gap = np.abs(wide.matrix.values - ends).max(axis=(1, 2)) / WIDE["scale"]
    assert gap.max() < WITHIN
    assert np.mean(wide.num_steps.values == steps) >= 0.98


def test_a_cell_in_a_lane_is_the_cell_alone(wide):
    """`solve` of single problems."""
    alone = jax.jit(lambda cell: lf.solve(problem(**cell), FLOW, observe=matrix))
    for number in range(0, 256, 32):
        path = alone({name: values[number] for name, values in WIDE.items()})
        np.testing.assert_allclose(
            wide.matrix[number], path.observed["matrix"], atol=WITHIN * WIDE["scale"][number], rtol=0
        )


UNIFORM = drawn(100, "uniform")
FIXED = lf.Flow(t1=5.0, solver=dfx.Tsit5(), controller=dfx.ConstantStepSize(), dt0=0.05)


@pytest.mark.parametrize("method", [FLOW, FIXED], ids=["uniform", "fixed steps"])
def test_where_step_control_amplifies_nothing_only_rounding_is_left(method):
    few, many = (swept(UNIFORM, method, lanes=lanes) for lanes in (7, 64))

    assert_same(few, many, 1.0, within=1e-11, equal_steps=1.0)


def poisoned(arguments, cells):
    """These cells poisoned, in turn by NaN and by what makes weights blow up."""
    poison = np.zeros(len(arguments["scale"]), int)
    poison[cells] = 1 + np.arange(len(cells)) % 2
    return arguments | {"poison": poison}


def test_poisoned_neighbours_change_no_bit():
    bad = np.arange(5, 256, 20)
    clean, beside = swept(poisoned(WIDE, []), lanes=16), swept(poisoned(WIDE, bad), lanes=16)

    rest = np.setdiff1d(np.arange(256), bad)
    np.testing.assert_array_equal(beside.matrix[rest], clean.matrix[rest])
    np.testing.assert_array_equal(beside.num_steps[rest], clean.num_steps[rest])
    assert (beside.status[bad[::2]] == lf.Status.NOT_FINITE).all()
    assert (beside.status[bad[1::2]] == lf.Status.BLEW_UP).all()
    assert beside.matrix[bad].isnull().all()


def test_the_order_of_chunks_changes_no_bit(monkeypatch):
    forward = swept(WIDE, lanes=16, chunk=50)
    pull = run_module.pull
    monkeypatch.setattr(run_module, "pull", lambda devices, jobs, *how: pull(devices, reversed(list(jobs)), *how))

    backward = swept(WIDE, lanes=16, chunk=50)

    np.testing.assert_array_equal(backward.matrix, forward.matrix)


@settings(max_examples=15, deadline=None)
@given(
    cells=st.integers(1, 40),
    means=st.sampled_from([{"chunk": 8, "lanes": 5}, {"chunk": 13, "lanes": 1}]),
    bad=st.sets(st.integers(0, 39), max_size=10),
)
def test_any_grid_in_any_chunks_with_any_poison(wide, cells, means, bad):
    """Every cell is what it is among 256 others, and every poisoned one says so."""
    bad = sorted(number for number in bad if number < cells)
    arguments = {name: values[:cells] for name, values in WIDE.items()}

    diagram = swept(poisoned(arguments, bad), **means)

    rest = np.setdiff1d(np.arange(cells), bad)
    gap = np.abs(diagram.matrix.values - wide.matrix.values[:cells]).max(axis=(1, 2)) / WIDE["scale"][:cells]
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


def test_chunks_fit_the_memory_that_programs_say_they_take():
    """The rough estimate is wrong here: an observable works on far more than it returns."""

    def hungry(network, problem):  # noqa: ARG001
        return jnp.sum(jnp.sin(jnp.outer(jnp.arange(100.0), jnp.arange(100.0)) * network.matrix[0, 0]))

    diagram = swept(drawn(500), lf.Flow(t1=0.1), observe=hungry, memory=0.006)

    assert 1 < diagram.attrs["chunk"] < 500
    assert diagram.attrs["chunk_bytes"] < 0.006 * 2**30


_TWO_DEVICES = """
import sys, jax, numpy as np
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 2)
sys.path.insert(0, {folder!r})
import layerflow as lf
from test_lanes import WIDE, swept
assert len(jax.devices()) == 2
one, both = (swept(WIDE, lanes=16, chunk=50, devices=devices) for devices in (1, 2))
np.testing.assert_array_equal(one.matrix, both.matrix)
np.testing.assert_array_equal(one.num_steps, both.num_steps)
def balanced(key, lam):
    return lf.Problem(lf.lambda_balanced(key, lam, 0.1, inp=2, hid=2, out=2), lf.Moments.whitened(np.eye(2)))
for run in range(5):  # factorisations of two threads at once were seen to hang
    on = lf.Machine(chunk=50, devices=2)
    lf.sweep(balanced, {{"lam": np.linspace(-1, 1, 40)}}, seeds=10, method=lf.Flow(t1=1.0), on=on)
print("equal")
"""


@pytest.mark.slow
def test_two_devices_change_no_bit(request):
    """Two virtual devices of one CPU, each pulling chunks."""
    program = _TWO_DEVICES.format(folder=str(request.path.parent))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=False)

    assert done.stdout == "equal\n", done.stderr


def test_descent_with_equal_steps_is_no_matter_of_lanes():
    import optax

    method = functools.partial(lf.Descent, optax.sgd, steps=10)
    diagram = swept(UNIFORM, method(learning_rate=0.1))

    assert "lanes" not in diagram.attrs
