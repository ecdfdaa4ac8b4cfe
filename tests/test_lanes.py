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

import layerflow as lf
import layerflow.sweeps._chunks as run_module

pytestmark = pytest.mark.optimised

TARGET = np.diag([1.0, 0.5])
RTOL = 1e-6
FLOW = lf.Flow(t1=20.0, rtol=RTOL, atol=1e-8, dt0=0.01)
WITHIN = 10 * RTOL  # of ten times the tolerance of a step, relative to the target


def matrix(network, problem):  # noqa: ARG001
    return network.matrix


def problem(w1, w2, scale, poison):
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
    return {"w1": w1, "w2": w2, "scale": scale, "poison": np.zeros(cells, int)}


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


@pytest.mark.parametrize("means", [{"lanes": 1, "chunk": 64}, {"lanes": 7}, {"lanes": 16, "chunk": 50}], ids=str)
def test_lanes_and_chunks_do_not_change_a_cell(wide, means):
    """To ten times the tolerance: XLA's arithmetic differs in its last bits with the width of a batch."""
    assert_same(swept(WIDE, **means), wide, WIDE["scale"])


def test_a_cell_in_a_lane_takes_the_steps_of_diffeqsolve(wide):
    """The same first step, solver and tolerances."""

    @jax.jit
    @jax.vmap
    def alone(w1, w2, scale, poison):  # noqa: ARG001
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


UNIFORM = drawn(256, "uniform")
FIXED = lf.Flow(t1=5.0, solver=dfx.Tsit5(), controller=dfx.ConstantStepSize(), dt0=0.05)


@pytest.mark.parametrize("method", [FLOW, FIXED], ids=["uniform", "fixed steps"])
def test_where_step_control_amplifies_nothing_only_rounding_is_left(method):
    few, many = (swept(UNIFORM, method, lanes=lanes) for lanes in (7, 256))

    assert_same(few, many, 1.0, within=1e-11, equal_steps=1.0)


def poisoned(arguments, cells):
    """These cells poisoned, in turn by NaN and by what makes weights blow up."""
    poison = np.zeros(len(arguments["scale"]), int)
    poison[cells] = 1 + np.arange(len(cells)) % 2
    return arguments | {"poison": poison}


def test_poisoned_neighbours_change_no_bit():
    bad = np.arange(5, 256, 20)
    clean, beside = (swept(cells, lanes=16, chunk=50) for cells in (WIDE, poisoned(WIDE, bad)))

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
