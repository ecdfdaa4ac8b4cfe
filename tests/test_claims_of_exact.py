"""A closed form is claimed where it gives the answer, and nowhere else: judged by what its assumptions cost."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import layerflow as lf
from layerflow.methods import allowed_cost, closed_form, exact_weights
from layerflow.methods._exact import _judged

ALLOWED = allowed_cost(jnp.float64)
SPREADS = [0.0, 1e-12, 1e-9, 1e-6, 1e-3]


def three_layers(*sizes, target):
    layers = (jnp.asarray(size) for size in sizes)
    return lf.Problem(lf.DiagonalNetwork(tuple(layers)), lf.Modes(jnp.ones(len(target)), target))


def two_layers(coloured=0.0, unbalanced=0.0, *, sign=1.0, dtype=jnp.float64):
    """A balanced 2-2-2 start on whitened inputs, that misses both by as much as is said."""
    eye, off = jnp.eye(2, dtype=dtype), jnp.array([[1.0, 1.0], [1.0, -1.0]], dtype)
    moments = eye + coloured * off, jnp.diag(jnp.array([2.0, sign], dtype)), 9 * eye
    return lf.Problem(lf.LinearNetwork((0.3 * (eye + unbalanced * off), 0.3 * eye)), lf.Moments(*moments))


@eqx.filter_jit
def by_closed_form(problem, t):
    return [layer[0] for layer in exact_weights(closed_form(problem), problem, t[None])]


def by_flow(problem, t):
    return lf.solve(problem, lf.Flow(t1=t, rtol=1e-13, atol=1e-18)).network.weights


def error(problem, t):
    """Relative, of what a rotation of the hidden units leaves alone."""
    ours, theirs = by_closed_form(problem, jnp.asarray(t)), by_flow(problem, t)
    if ours[0].ndim == 1:
        return max(float(np.abs(a / b - 1).max()) for a, b in zip(ours, theirs, strict=True))
    grams = [(w1.T @ w1, w2 @ w1, w2 @ w2.T) for w1, w2 in (ours, theirs)]
    return max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(*grams, strict=True))


def claims(problems, t):
    """Whether each is claimed, and its error."""
    return [(bool(lf.Exact.applies(problem, t)), error(problem, t)) for problem in problems]


def assert_claimed_where_near(found):
    for claimed, far in found:
        assert far < 2 * ALLOWED if claimed else far > ALLOWED / 10


def test_deep_modes_of_which_one_has_unequal_layers_have_no_closed_form():
    """Sizes differ by 1e-8 beside layers of 1, and decide when the mode is learnt: at t = 6990 it is at 1e4."""
    problem = three_layers([1.0, 1e-8], [1.0, 2.4e-8], [1.0, 1e-8], target=jnp.array([2.0, 1e4]))

    assert not lf.Exact.applies(problem)
    with pytest.raises(ValueError, match=r"equal in size: violated by 0.58, relative, which leaves no digit"):
        lf.solve(problem, lf.Exact(t1=6990.0))


def test_deep_modes_are_claimed_where_the_flow_is_as_near():
    """Layers are off in first order of their spread, strengths in second and while they grow; both fade."""
    apart = lambda s: three_layers([0.01 * (1 + s)], [0.01], [0.01 * (1 - s)], target=jnp.array([2.0]))
    early, late = (claims(map(apart, SPREADS), t) for t in (1.0, 80.0))

    assert_claimed_where_near(early)
    assert_claimed_where_near(late)
    assert [claimed for claimed, _ in early] == [True, True, False, False, False]
    assert [claimed for claimed, _ in late] == [True, True, True, False, False]


@pytest.mark.parametrize("which", ["coloured", "unbalanced"])
def test_balanced_networks_are_claimed_where_the_flow_is_as_near(which):
    """Early as well as late."""
    problems = [two_layers(**{which: spread}) for spread in SPREADS]
    early, late = (claims(problems, t) for t in (1e-5, 10.0))

    assert_claimed_where_near(early)
    assert_claimed_where_near(late)
    assert [claimed for claimed, _ in early] == [True, True, True, True, False]
    assert [claimed for claimed, _ in late] == [True, True, False, False, False]


def correlated(off, sign=1.0):
    """Pairs of two layers that grow, cross zero, and stand still; inputs correlated by as much as is said."""
    eye, ones = jnp.diag(jnp.array([1.0, 0.5, 2.0])), jnp.ones((3, 3)) - jnp.eye(3)
    start = lf.DiagonalNetwork((jnp.array([0.3, 0.1, 1.0]), jnp.array([0.3, sign * 0.8, 0.5])), 0.7)
    return lf.Problem(start, lf.Moments(eye + off * ones, jnp.array([[0.5, 1.0, 0.8]]), 9 * jnp.eye(1)))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_pairs_of_layers_are_claimed_where_the_flow_is_as_near(sign):
    """The cost bounds the error, relative to the layers of a mode, and is not twenty times as large."""
    for off in SPREADS:
        for t in (0.1, 4.0, 40.0):
            problem = correlated(off, sign)
            ours, theirs = by_closed_form(problem, jnp.asarray(t)), by_flow(problem, t)
            far = [np.abs(a - b) / np.hypot(*theirs) for a, b in zip(ours, theirs, strict=True)]
            (assumed, _) = _judged(closed_form(problem), problem, jnp.array([t]))
            assert np.max(far) < assumed.cost + 1e-12
            assert assumed.cost < 20 * np.max(far) + 1e-12
            assert bool(lf.Exact.applies(problem, t)) == (float(assumed.cost) <= ALLOWED)
    assert lf.Exact.applies(correlated(1e-12, sign))
    assert not lf.Exact.applies(correlated(1e-9, sign))


@pytest.mark.slow
def test_sweeps_and_verify_judge_alike():
    """Cells of one batch apart from one another, as a loop of solves would."""
    sweep = lambda method, **how: lf.sweep(two_layers, {"unbalanced": SPREADS}, method=method, **how)

    exact, verified = sweep(lf.Exact(t1=10.0)), sweep(lf.Flow(t1=10.0, rtol=1e-3), verify=True)

    np.testing.assert_array_equal(exact.status == lf.Status.REACHED_T1, [True, True, False, False, False])
    np.testing.assert_array_equal(np.isnan(verified.loss_error), [False, False, True, True, True])


def test_on_the_way_into_a_saddle_only_rounding_is_forgiven():
    """det(w2 w1) of the wrong sign: an imbalance of 1e-12, harmless elsewhere, costs 1e-5 by t = 25."""
    off = two_layers(unbalanced=1e-12, sign=-1.0)

    assert error(off, 25.0) > 1e-6
    assert lf.Exact.applies(off, 1.0)
    assert not lf.Exact.applies(off, 25.0)
    assert lf.Exact.applies(two_layers(sign=-1.0), 25.0)
    assert lf.Exact.applies(two_layers(unbalanced=1e-12), 25.0)


def test_inputs_whitened_in_half_of_the_digits_of_float32_have_no_closed_form():
    """E[x x^T] off by 3e-4 moves the final matrix by 6e-4, more than the digits that float32 has."""
    problem = two_layers(3e-4, dtype=jnp.float32)

    for verdict, costs in (
        (lf.Exact.applies(problem), ". What that costs depends on the time"),
        (lf.Exact.applies(problem, 40.0), ", which makes the answer wrong by 0.000"),
    ):
        assert "needs that the inputs are whitened" in str(verdict)
        assert f"violated by 0.0003, relative{costs}" in str(verdict)
    assert lf.Exact.applies(two_layers(3e-6, dtype=jnp.float32), 40.0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_what_the_library_whitens_and_balances_is_claimed(dtype):
    """Ten inputs of twelve samples, imbalances up to 1e3: none is further off than rounding explains."""
    cast = lambda tree: jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_array(leaf) else leaf, tree)
    task = cast(lf.random_regression(jax.random.key(1), n=14, inp=10, out=10, whiten=True))
    for lam in (-1e3, 0.0, 1e3):
        start = cast(lf.lambda_balanced(jax.random.key(2), lam, 0.1, inp=10, hid=10, out=10))
        assert lf.Exact.applies(lf.Problem(start, task))


BACKWARDS = {
    "pairs": lf.Problem(lf.DiagonalNetwork((jnp.ones(2), jnp.ones(2))), lf.Modes(jnp.array([-1.0, 1.0]), 2.0)),
    "scalar": lf.Problem(lf.LinearNetwork((jnp.ones((1, 1)), jnp.ones((1, 1)))), lf.Modes(-jnp.ones(1), 2.0)),
    "balanced": lf.Problem(
        lf.LinearNetwork((jnp.eye(2), jnp.eye(2))), lf.Moments(-jnp.eye(2), -2 * jnp.eye(2), 9 * jnp.eye(2))
    ),
}


@pytest.mark.parametrize("name", BACKWARDS)
def test_time_that_runs_backwards_has_no_closed_form(name):
    """A negative variance: flows blow up, where formulas go on beyond."""
    for verdict in (lf.Exact.applies(BACKWARDS[name]), lf.Exact.applies(BACKWARDS[name], 3.0)):
        assert "no variance of the inputs is negative: violated by 1" in str(verdict)


def test_a_linear_model_learns_faint_modes_and_at_any_output_scale():
    """Modes of 1e-17, below rounding of the largest, and all axes at an output scale of 1e-10."""
    faint = lf.Problem(lf.linear_model(jnp.zeros(2)), lf.Modes(jnp.array([1.0, 1e-17]), 1.0))
    data = lf.Moments(jnp.diag(jnp.array([1.0, 1e-7])), jnp.array([[1.0, 2e-7]]), jnp.array([[2.0]]))
    small = lf.Problem(lf.LinearNetwork((jnp.zeros((1, 2)),), jnp.asarray(1e-10)), data)

    learnt = 1 - np.exp(-1.0)
    np.testing.assert_allclose(by_closed_form(faint, jnp.asarray(1e17))[0][0], [1.0, learnt], rtol=1e-12)
    np.testing.assert_allclose(by_closed_form(small, jnp.asarray(1e27))[0][0], [1e10, 2e10 * learnt], rtol=1e-12)


def test_a_network_of_output_scale_zero_stays():
    start = lf.LinearNetwork((jnp.eye(2), jnp.eye(2)), jnp.asarray(0.0))
    layers = by_closed_form(lf.Problem(start, two_layers().task), jnp.asarray(3.0))

    for layer in layers:
        np.testing.assert_array_equal(layer, jnp.eye(2))


def test_a_task_with_a_loss_of_its_own_has_no_closed_form():
    class Quartic(lf.Modes):
        def loss(self, network):
            return jnp.sum((self.target - network.matrix[0]) ** 4)

    verdict = lf.Exact.applies(lf.Problem(lf.linear_model(jnp.zeros(2)), Quartic(jnp.ones(2), 1.0)))

    assert "but Quartic has a `loss` of its own" in str(verdict)


def test_times_to_judge_at_are_times():
    for ts in (-1.0, np.zeros(0), np.ones((1, 1)), np.nan):
        with pytest.raises(ValueError, match=r"`ts` needs a time t >= 0 or a vector of them, such as t1=40.0"):
            lf.Exact.applies(two_layers(), ts)


def test_a_negative_variance_of_one_mode_is_followed_backwards_by_a_linear_model():
    """w' = E (S - w) has its solution at any sign of E; of moments no data have a negative variance."""
    backwards = lf.Problem(lf.linear_model(jnp.array([0.5, 0.5])), lf.Modes(jnp.array([-1.0, 0.5]), 2.0))
    no_data = lf.Moments(-jnp.eye(2), jnp.ones((1, 2)), 4 * jnp.eye(1))

    expected = 2 - 1.5 * np.exp([3.0, -1.5])
    np.testing.assert_allclose(by_closed_form(backwards, jnp.asarray(3.0))[0][0], expected, rtol=1e-12)
    assert "no variance of the inputs is negative" in str(lf.Exact.applies(lf.Problem(backwards.start, no_data)))


def test_a_loss_that_cancels_is_no_change_with_a_rotation():
    """At targets of 1e5 the loss in float32 is rounding, which a rotation of the hidden units makes anew."""
    with jax.enable_x64(False):
        task = lf.Moments.whitened(yx=jnp.diag(jnp.array([2e5, 1e5], jnp.float32)))
        cell = lambda key, lam: lf.Problem(lf.lambda_balanced(key, lam, 0.1, inp=2, hid=2, out=2), task)
        diagram = lf.sweep(cell, {"lam": [1.0, 2.0]}, method=lf.Exact(t1=1.0), progress=False)

        assert not diagram.failed.any()
        assert (abs(diagram.loss) < 1e-6 * float(jnp.sum(task.yx**2))).all()
        with pytest.raises(ValueError, match="`first` changes with"):
            lf.sweep(
                cell,
                {"lam": [1.0]},
                method=lf.Exact(t1=1.0),
                observe={"first": lambda network, problem: network.weights[0][0, 0]},
                progress=False,
            )
