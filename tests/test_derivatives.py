"""Derivatives of solutions by layer imbalance, scale, data and time."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import layerflow as lf

TASK = lf.random_regression(jax.random.key(1), n=10, inp=2, out=2, whiten=True)
POINT = jnp.array([0.5, 2.0])


def problem(lam, ratio, key=None):
    start = lf.lambda_balanced(jax.random.key(0) if key is None else key, lam, jnp.sqrt(ratio), inp=2, hid=2, out=2)
    return lf.Problem(start, TASK.rescale(target=1 / ratio))


def measured(method, ts=None):
    """A number that depends on everything that a solve gives back."""

    def number(point):
        path = lf.solve(problem(*point), method, ts=ts, observe=(lf.kernel_distance, lf.loss))
        values = jnp.stack(list(path.observed.values()))
        return jnp.sum(values) + jnp.sum(path.network.matrix)

    return jax.jit(number)


def slope(function, point, h=1e-4):
    """Central differences of fourth order."""
    sides = lambda e, h: (function(point + h * e) - function(point - h * e)) / (2 * h)
    return np.array([(4 * sides(e, h / 2) - sides(e, h)) / 3 for e in np.eye(2)])


@pytest.mark.parametrize("ts", [None, pytest.param([0.0, 0.7, 5.0], marks=pytest.mark.slow)])
def test_forward_and_reverse_mode_of_a_flow_agree_with_differences(ts):
    ts = None if ts is None else jnp.array(ts)
    method = lambda adjoint: lf.Flow(t1=5.0, rtol=1e-9, adjoint=adjoint, max_steps=1024)
    forward = jax.jacfwd(measured(method(None), ts))(POINT)
    reverse = jax.grad(measured(method(diffrax.RecursiveCheckpointAdjoint()), ts))(POINT)

    np.testing.assert_allclose(reverse, forward, rtol=1e-10)
    # Steps are chosen anew at every point: differences are as good as the tolerance over h.
    np.testing.assert_allclose(forward, slope(measured(method(None), ts), POINT, h=1e-2), rtol=1e-5)


def at_the_end(method):
    """Matrix, kernel distance and loss of a balanced network, by its imbalance, its task and time."""

    def values(lam, yx, t1):
        start = lf.lambda_balanced(jax.random.key(0), lam, 0.4, inp=2, hid=2, out=2)
        path = lf.solve(
            lf.Problem(start, lf.Moments.whitened(yx=yx)), method(t1), observe=(lf.kernel_distance, lf.loss)
        )
        return jnp.concatenate([path.network.matrix.ravel(), jnp.stack(list(path.observed.values()))])

    return values


@pytest.fixture(scope="module")
def jacobians():
    """By both modes, through Exact and through Flow.

    A flow that stands still takes steps as long as it likes, and its derivatives are those of its steps: hence dtmax.
    """
    short = diffrax.PIDController(rtol=1e-10, atol=1e-12, dtmax=0.02)
    through = lambda adjoint: at_the_end(lambda t1: lf.Flow(t1=t1, controller=short, adjoint=adjoint))
    exact, flow, back = at_the_end(lf.Exact), through(None), through(diffrax.RecursiveCheckpointAdjoint())
    by = (0, 1, 2)
    return {
        "exact forward": jax.jit(jax.jacfwd(exact, by)),
        "exact reverse": jax.jit(jax.jacrev(exact, by)),
        "flow forward": jax.jit(jax.jacfwd(flow, by)),
        "flow reverse": jax.jit(jax.jacrev(back, by)),
    }


GENERIC = np.array([[1.0, 0.3], [-0.2, 0.8]])
SWITCHES = {
    "lam = 0": (0.0, GENERIC),
    "repeated singular values": (0.3, np.eye(2)),
    "repeated singular values at lam = 0": (0.0, np.eye(2)),
    "a singular value of 0": (0.3, np.diag([1.0, 0.0])),
    "s = u0": (0.3, np.asarray(lf.lambda_balanced(jax.random.key(0), 0.3, 0.4, inp=2, hid=2, out=2).matrix)),
    "s = u0 at lam = 0": (0.0, np.asarray(lf.lambda_balanced(jax.random.key(0), 0.0, 0.4, inp=2, hid=2, out=2).matrix)),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SWITCHES)
def test_all_derivatives_agree_where_formulas_switch(case, jacobians):
    """Forward and reverse, of the closed form and of the flow, by imbalance, data and time: four times one answer."""
    lam, yx = SWITCHES[case]
    found = {name: jacobian(lam, jnp.asarray(yx), 2.0) for name, jacobian in jacobians.items()}
    for place in range(3):
        expected = found["exact forward"][place]
        np.testing.assert_allclose(found["exact reverse"][place], expected, atol=1e-11)
        np.testing.assert_allclose(found["flow forward"][place], expected, atol=1e-8)
        np.testing.assert_allclose(found["flow reverse"][place], found["flow forward"][place], atol=1e-10)


@pytest.mark.slow
def test_both_modes_of_descent_agree_with_differences():
    method = lambda adjoint: lf.Descent(optax.adam, learning_rate=0.01, steps=100, adjoint=adjoint)
    forward = jax.jacfwd(measured(method(None)))(POINT)
    reverse = jax.grad(measured(method(diffrax.RecursiveCheckpointAdjoint())))(POINT)

    np.testing.assert_allclose(reverse, forward, rtol=1e-10)
    np.testing.assert_allclose(forward, slope(measured(method(None)), POINT), rtol=1e-7)


@pytest.mark.slow
def test_direct_adjoint_differentiates_twice():
    """Forward over forward, and reverse over forward by a loop of bounded length."""
    twice = jax.jacfwd(jax.jacfwd(measured(lf.Flow(t1=2.0))))(POINT)
    hessian = jax.hessian(measured(lf.Flow(t1=2.0, max_steps=64, adjoint=diffrax.DirectAdjoint())))(POINT)

    np.testing.assert_allclose(hessian, twice, rtol=1e-9)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-9)


def test_the_derivative_by_the_end_time_is_the_velocity():
    end = lambda t1: lf.solve(problem(*POINT), lf.Flow(t1=t1, rtol=1e-10)).network.matrix
    at = lf.solve(problem(*POINT), lf.Flow(t1=2.0, rtol=1e-10)).network
    velocity = problem(*POINT).velocity(at)
    (w1, w2), (d1, d2) = at.weights, velocity.weights

    np.testing.assert_allclose(jax.jacfwd(end)(2.0), d2 @ w1 + w2 @ d1, rtol=1e-6)


@pytest.mark.slow
def test_the_gradient_by_the_data_is_that_of_differences():
    """By targets, in reverse mode, inside jit."""
    start = problem(*POINT).start
    method = lf.Flow(t1=2.0, rtol=1e-9, adjoint=diffrax.RecursiveCheckpointAdjoint())
    final = jax.jit(lambda y: lf.solve(lf.Problem(start, lf.Samples(TASK.x, y)), method).observed["loss"])
    direction = np.random.default_rng(0).normal(size=TASK.y.shape)
    h = 1e-3

    along = jnp.sum(jax.grad(final)(TASK.y) * direction)

    np.testing.assert_allclose(
        along, (final(TASK.y + h * direction) - final(TASK.y - h * direction)) / (2 * h), rtol=1e-6
    )


def test_the_default_says_how_to_get_a_gradient():
    with pytest.raises(RuntimeError, match=r"adjoint=diffrax.RecursiveCheckpointAdjoint\(\)"):
        jax.grad(measured(lf.Flow(t1=1.0)))(POINT)


def test_a_start_differentiates_through_balance():
    """At lam = 0, where the heavier layer changes sides, the derivative is that of either side."""
    weights = lambda lam: jnp.stack(lf.lambda_balanced(jax.random.key(0), lam, 0.5, inp=2, hid=2, out=2).weights)
    h = 1e-5

    for derivative in (jax.jacfwd(weights)(0.0), jax.jacrev(weights)(0.0)):
        np.testing.assert_allclose(derivative, (weights(h) - weights(-h)) / (2 * h), atol=1e-9)
    wide = jax.jacfwd(lambda lam: lf.lambda_balanced(jax.random.key(0), lam, 0.0, inp=2, hid=3, out=3).matrix)(0.0)
    assert np.isfinite(wide).all()


def cell(key, lam, ratio):
    return problem(lam, ratio, key)


@pytest.fixture(scope="module")
def diagram():
    axes = {"lam": [-2.0, 0.0, 1.0], "ratio": [1.0, 3.0]}
    summary = lf.time_to_fraction(0.5, of="kernel_distance")
    what = {"ts": [0.0, 0.5, 2.0], "observe": lf.kernel_distance, "summary": summary}
    return lf.sweep(cell, axes, seeds=2, method=lf.Flow(t1=2.0), derivative=("lam", "ratio"), **what)


@pytest.mark.slow
def test_a_map_of_derivatives_is_that_of_single_solves(diagram):
    assert diagram.kernel_distance_d_lam.dims == ("lam", "ratio", "seed", "t")
    assert "derivative of kernel distance by lam" in diagram.kernel_distance_d_lam.attrs["long_name"]
    for seed in range(2):
        key = jax.random.fold_in(jax.random.key(0), seed)
        final = lambda point, key=key: lf.solve(
            problem(*point, key), lf.Flow(t1=2.0), ts=jnp.array([0.0, 0.5, 2.0]), observe=lf.kernel_distance
        ).observed["kernel_distance"]
        by_lam, by_ratio = jax.jacfwd(final)(jnp.array([1.0, 3.0])).T
        here = diagram.sel(lam=1.0, ratio=3.0, seed=seed)
        np.testing.assert_allclose(here.kernel_distance_d_lam, by_lam, rtol=1e-4, atol=1e-12)
        np.testing.assert_allclose(here.kernel_distance_d_ratio, by_ratio, rtol=1e-4, atol=1e-12)


def test_the_map_is_even_in_the_imbalance(diagram):
    """So its derivative is zero at balance, which both branches of every `where` have to agree on."""
    middle = abs(diagram.kernel_distance_d_lam.sel(lam=0.0))

    assert middle.max() < 1e-8 * abs(diagram.kernel_distance_d_lam).max()


def test_a_failed_cell_has_no_derivative():
    def explode(eta):
        problem = lf.Problem(lf.linear_model(jnp.zeros(1)), lf.Modes(jnp.ones(1), 1.0))
        return problem, lf.Descent(optax.sgd, learning_rate=eta, steps=5000)

    diagram = lf.sweep(explode, {"eta": [0.1, 4.0]}, derivative="eta")

    np.testing.assert_array_equal(np.isnan(diagram.loss_d_eta), [False, True])


def test_derivatives_keep_the_order_in_which_their_axes_were_named():
    """Which is not that of their names: L = (target - size)^2 / 2 of one layer that stays, at t = 0."""

    def one(target, size):
        return lf.Problem(lf.linear_model(size[None]), lf.Modes(jnp.ones(1), target))

    axes = {"target": [3.0], "size": [1.0]}
    diagram = lf.sweep(one, axes, method=lf.Flow(t1=1.0), ts=[0.0], derivative=("target", "size"), progress=False)

    assert (diagram.loss_d_target.item(), diagram.loss_d_size.item()) == (2.0, -2.0)
