"""What is followed beside a network never decides its status: the linearised twin may leave the numbers alone."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import layerflow as lf

pytestmark = pytest.mark.optimised

RATE = 0.45


def catapult(scale=1.0):
    """B2: at learning rate times sharpness of 2.025 the network settles and its twin grows by 2.5 % a step."""
    w = jnp.diag(jnp.array([1.5, 1.0], jnp.float32)) * scale
    task = lf.Moments.whitened(yx=jnp.diag(jnp.array([2.0, 1.0], jnp.float32)))
    return lf.Problem(lf.LinearNetwork((w, w)), task)


def descent(steps):
    return lf.Descent(optax.sgd, learning_rate=jnp.asarray(RATE, jnp.float32), steps=steps)


class Bounded(eqx.Module):
    """f(x) = tanh(w x) stays below 1, its linearised twin does not."""

    w: jax.Array

    def __call__(self, x):
        return jnp.tanh(self.w * x)


class Cubic(lf.Samples):
    """Twins blow up in finite time: dg/dt is proportional to g^2."""

    def loss(self, network):
        return -jnp.mean(jax.vmap(network)(self.x) ** 3) / 3


class Barrier(lf.Samples):
    """Beyond f = 1.5, which twins reach at infinite speed, there is no loss."""

    def loss(self, network):
        return jnp.mean(jnp.log(1.5 - jax.vmap(network)(self.x)))


def bounded(kind, start=0.5):
    return lf.Problem(Bounded(jnp.reshape(start, 1)), kind(jnp.ones((1, 1)), jnp.ones((1, 1))))


BOTH = (lf.loss, lf.laziness)


def pair(problem, method, **how):
    """A network by itself, and beside its twin."""
    return lf.solve(problem, method, **how), lf.solve(problem, method, observe=BOTH, **how)


def test_a_network_that_catapults_outlives_its_twin():
    """B2, in float32: the loss is that of the network alone, and only laziness is NaN."""
    alone, beside = pair(catapult(), descent(4000))

    assert beside.status == alone.status == lf.Status.REACHED_T1
    assert beside.num_steps == alone.num_steps == 4000
    assert beside.observed["loss"].dtype == jnp.float32
    np.testing.assert_array_equal(beside.observed["loss"], alone.observed["loss"])
    assert beside.observed["loss"] < 1e-10
    assert np.isnan(beside.observed["laziness"])
    assert beside.followed_status == {"laziness": lf.Status.NOT_FINITE}
    assert alone.followed_status == {}


def test_sweeps_say_where_a_twin_left_and_keep_all_else():
    """NaN from the first of `ts` beyond the step at which the twin overflowed; other cells keep theirs."""
    cell = lambda scale: catapult(scale.astype(jnp.float32))
    ts = [0, 500, 1000, 4000]
    diagram = lf.sweep(cell, {"scale": [0.5, 1.0]}, method=descent(4000), ts=ts, observe=BOTH, progress=False)

    assert (diagram.status == lf.Status.REACHED_T1).all()
    assert diagram.laziness_status.values.tolist() == [lf.Status.REACHED_T1, lf.Status.NOT_FINITE]
    assert np.isnan(diagram.laziness.values).tolist() == [[False] * 4, [False, False, False, True]]
    assert np.isfinite(diagram.loss.values).all()
    assert lf.failures(diagram).empty


STEP = 0.02
SHORT = dfx.PIDController(rtol=1e-6, atol=1e-8, dtmax=STEP)
FLOWS = {
    "cubic": (Cubic, lf.Flow(t1=20.0), lf.Status.BLEW_UP),
    "barrier": (Barrier, lf.Flow(t1=20.0), None),
    "fixed steps": (
        Cubic,
        lf.Flow(t1=20.0, solver=dfx.Heun(), controller=dfx.ConstantStepSize(), dt0=0.05),
        None,
    ),
    "implicit": (Cubic, lf.Flow(t1=20.0, solver=dfx.Kvaerno3()), None),
    "stages not unrolled": (Cubic, lf.Flow(t1=20.0, solver=dfx.Tsit5(scan_kind="lax")), None),
    "until": (Cubic, lf.Flow(t1=40.0, until=-0.3, controller=SHORT), lf.Status.BLEW_UP),
    "few steps": (Cubic, lf.Flow(t1=20.0, max_steps=60), lf.Status.OUT_OF_STEPS),
}


@pytest.mark.parametrize("name", ["cubic", *(pytest.param(n, marks=pytest.mark.slow) for n in FLOWS if n != "cubic")])
def test_a_flow_goes_on_without_its_twin(name):
    """To the solver's tolerance, 1e-6 a step, as if the twin had never been there.

    An early stop is at the end of a step, which is another one: weights move there by at most 0.07 in unit time.
    """
    kind, method, lost = FLOWS[name]
    ts = np.linspace(0.0, float(method.t1), 9)
    alone, beside = pair(bounded(kind), method, ts=ts)

    assert beside.status == alone.status
    assert not lf.Status(int(alone.status)).failed
    left = lf.Status(int(beside.followed_status["laziness"]))
    assert left.failed
    assert lost is None or left == lost
    within = 1e-4 if method.until is None else 0.07 * STEP
    np.testing.assert_allclose(beside.observed["loss"], alone.observed["loss"], rtol=1e-4, atol=0.1 * within)
    np.testing.assert_allclose(beside.network.w, alone.network.w, atol=within)
    np.testing.assert_allclose(beside.end, alone.end, atol=STEP)
    lazy = np.isfinite(beside.observed["laziness"])
    assert lazy[0]
    assert not lazy[-1]
    assert lazy.tolist() == sorted(lazy.tolist(), reverse=True)


@pytest.mark.slow
def test_cells_of_a_flow_lose_their_twins_each_for_itself():
    """Lanes, where others go on beside; and the steps of the network after its twin was lost are its own."""
    cell = lambda start: bounded(Cubic, start)
    go = lambda observe: lf.sweep(
        cell, {"start": [-0.5, 0.3, 0.5]}, method=lf.Flow(t1=20.0), observe=observe, progress=False
    )
    alone, beside = go(lf.loss), go(BOTH)

    assert (beside.status == alone.status).all()
    assert beside.laziness_status.values.tolist() == [lf.Status.REACHED_T1, lf.Status.BLEW_UP, lf.Status.BLEW_UP]
    assert np.isnan(beside.laziness.values).tolist() == [False, True, True]
    np.testing.assert_allclose(beside.loss, alone.loss, rtol=1e-4)
    assert (beside.num_steps < alone.num_steps + 1000).all()


@pytest.mark.slow
def test_a_network_converges_though_its_twin_diverges():
    """Fixed steps as those of B2, in float32: until="converged" judges the network alone."""
    fixed = {"solver": dfx.Euler(), "controller": dfx.ConstantStepSize(), "dt0": RATE, "until": "converged"}
    alone, beside = pair(catapult(), lf.Flow(t1=5000 * RATE, **fixed))

    assert beside.status == alone.status == lf.Status.CONVERGED
    assert beside.followed_status["laziness"] == lf.Status.NOT_FINITE
    assert np.isnan(beside.observed["laziness"])
    assert max(beside.observed["loss"], alone.observed["loss"]) < 1e-6


def test_a_solver_without_an_estimate_of_its_error_follows_a_twin():
    task = lf.Modes(variance=jnp.ones(1), target=1.0)
    start = lf.DiagonalNetwork((jnp.array([0.5]), jnp.array([0.5])))
    method = lf.Flow(t1=1.0, solver=dfx.Euler(), controller=dfx.ConstantStepSize(), dt0=0.1)

    found = lf.solve(lf.Problem(start, task), method, observe=(lf.loss, lf.laziness))

    descent = lf.Descent(optax.sgd, learning_rate=0.1, steps=10)
    expected = lf.solve(lf.Problem(start, task), descent, observe=(lf.loss, lf.laziness))
    for name in ("loss", "laziness"):
        np.testing.assert_allclose(found.observed[name], expected.observed[name], rtol=1e-9)
