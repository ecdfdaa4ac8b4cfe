"""Tasks, and starts against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import layerflow as lf
from layerflow.tasks import Task


def test_moments_give_the_loss_and_gradient_of_their_samples(key, coloured_samples):
    network = lf.gaussian(key, (4, 3, 2), std=0.7)
    moments = coloured_samples.moments

    np.testing.assert_allclose(moments.loss(network), coloured_samples.loss(network), rtol=1e-12)
    slopes = [
        jax.grad(lambda w, t=task: t.loss(lf.LinearNetwork(w)))(network.weights) for task in (moments, coloured_samples)
    ]
    np.testing.assert_allclose(slopes[0][0], slopes[1][0], atol=1e-12)
    np.testing.assert_allclose(slopes[0][1], slopes[1][1], atol=1e-12)


def test_moments_keep_the_digits_of_a_small_loss():
    """At a distance of 1e-9 from the target the loss is 1e-18; from tr(W xx W^T) and its kin it would be noise."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(3, 5)), rng.normal(size=(2, 5))
    task = lf.Moments.from_samples(x, x @ w.T)  # fewer samples than inputs
    miss = 1e-9 * rng.normal(size=(2, 5))

    loss = task.loss(lf.LinearNetwork((w + miss,)))

    np.testing.assert_allclose(loss, 0.5 * np.sum((x @ miss.T) ** 2) / 3, rtol=1e-5)


@pytest.mark.parametrize("factors", [dict(target=3.0), dict(input=0.5), dict(input=0.5, target=-2.0)])
def test_rescaling_is_the_same_in_all_forms(key, coloured_samples, factors):
    network = lf.gaussian(key, (4, 2), std=0.7)
    x, y = coloured_samples.x * factors.get("input", 1.0), coloured_samples.y * factors.get("target", 1.0)
    expected = lf.Samples(x, y).loss(network)

    np.testing.assert_allclose(coloured_samples.rescale(**factors).loss(network), expected, rtol=1e-12)
    np.testing.assert_allclose(coloured_samples.moments.rescale(**factors).loss(network), expected, rtol=1e-12)

    modes = lf.Modes(variance=jnp.array([0.5, 2.0]), target=jnp.array([1.0, 3.0]))
    diagonal = lf.DiagonalNetwork((jnp.array([0.3, 0.4]), jnp.array([0.5, 0.6])))
    as_moments = lf.Moments(
        jnp.diag(modes.variance), (modes.variance * modes.target)[None, :], 2 * modes.null_loss()[None, None]
    )
    np.testing.assert_allclose(
        modes.rescale(**factors).loss(diagonal), as_moments.rescale(**factors).loss(diagonal), rtol=1e-12
    )


def test_whitened_regression_is_white_to_rounding(key):
    x = lf.random_regression(key, n=10, inp=4, out=3, whiten=True).x

    np.testing.assert_allclose(x.T @ x / 10, np.eye(4), atol=1e-13)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-13)


@pytest.mark.parametrize(("inp", "hid", "out"), [(3, 2, 4), (2, 2, 2), (4, 1, 3)])
def test_the_least_loss_is_that_of_the_best_map_of_the_rank(key, inp, hid, out):
    """Against alternating least squares, which finds the same minimum by going there."""
    task = lf.random_regression(key, n=12, inp=inp, out=out)
    x, y = np.asarray(task.x), np.asarray(task.y)
    w1, w2 = (np.array(w) for w in lf.gaussian(key, (inp, hid, out), std=1.0).weights)
    for _ in range(3000):
        w2 = np.linalg.lstsq(x @ w1.T, y, rcond=None)[0].T
        w1 = np.linalg.pinv(w2) @ np.linalg.lstsq(x, y, rcond=None)[0].T

    least = task.least_loss(lf.gaussian(key, (inp, hid, out)))

    np.testing.assert_allclose(least, 0.5 * np.sum((y - x @ (w2 @ w1).T) ** 2) / 12, rtol=1e-9)


def test_an_own_task_needs_a_loss_only(key):
    class Ring(Task):
        radius: float

        def loss(self, network):
            return (jnp.sum(network.matrix**2) - self.radius**2) ** 2

    path = lf.solve(lf.Problem(lf.gaussian(key, (2, 2), std=0.5), Ring(2.0)), lf.Flow(t1=20.0))
    np.testing.assert_allclose(jnp.sum(path.network.matrix**2), 4.0, rtol=1e-5)


@pytest.mark.parametrize("widths", [(w1, w2, w3) for w1 in (1, 3) for w2 in (1, 2, 3) for w3 in (1, 3)])
@pytest.mark.parametrize("lam", [-1.5, 0.0, 1.5])
def test_lambda_balance_exists_exactly_where_theory_says(key, lam, widths):
    """lam = 0 always; lam > 0 iff hid <= out; lam < 0 iff hid <= inp (THEORY 8.1)."""
    inp, hid, out = widths
    draw = lambda: lf.lambda_balanced(key, lam, 0.7, inp=inp, hid=hid, out=out)
    if (lam > 0 and hid > out) or (lam < 0 and hid > inp):
        with pytest.raises(ValueError, match=r"No two-layer network with"):
            draw()
        return
    w1, w2 = map(np.asarray, draw().weights)

    np.testing.assert_allclose(w2.T @ w2 - w1 @ w1.T, lam * np.eye(hid), atol=1e-13)
    strengths = np.linalg.svd(w2 @ w1, compute_uv=False)[: min(widths)]
    np.testing.assert_allclose(strengths, 0.7, atol=1e-13)


def test_lambda_balance_is_exact_at_extremes(key):
    """The lighter layer keeps its digits where sqrt((k - lam) / 2) would cancel."""
    for lam in (1e6, -1e6, 1e-12):
        network = lf.lambda_balanced(key, lam, jnp.array([0.3, 0.1]), inp=2, hid=2, out=2)
        np.testing.assert_allclose(np.linalg.svd(network.matrix, compute_uv=False), [0.3, 0.1], rtol=1e-8)
    slope = jax.jacfwd(lambda lam: lf.lambda_balanced(key, lam, 0.0, inp=2, hid=2, out=2).matrix)(0.0)
    assert np.isfinite(slope).all()


def test_starts_are_uniform_over_rotations(key):
    """The mean of a Haar rotation is zero and that of its squared entries 1/n."""
    draw = lambda key: lf.lambda_balanced(key, 0.0, 1.0, inp=3, hid=3, out=3).matrix
    matrices = jax.lax.map(draw, jax.random.split(key, 4000))

    np.testing.assert_allclose(matrices.mean(0), 0, atol=4 / np.sqrt(3 * 4000))
    np.testing.assert_allclose((matrices**2).mean(0), 1 / 3, atol=0.03)
    assert 0.45 < (jnp.linalg.det(matrices) > 0).mean() < 0.55


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg", "old"])
@pytest.mark.parametrize("widths", [(3, 3, 3, 3), (4, 3, 3, 2), (2, 5)])
def test_every_layer_is_drawn_by_a_key_of_its_own(kind, widths):
    key = jax.random.PRNGKey(5) if kind == "old" else jax.random.key(5, impl=kind)
    keys, shapes = jax.random.split(key, len(widths) - 1), zip(widths[1:], widths[:-1], strict=True)

    drawn = lf.gaussian(key, widths, std=1.0).weights

    expected = [jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True)]
    for own, other in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize(
    ("std", "expected"), [((0.1, 2.0), (0.1, 2.0)), (0.5, (0.5, 0.5)), ("lecun", (0.1, 0.05)), ("ntk", (1, 1))]
)
def test_gaussian_weights_have_the_deviation_asked_for(key, std, expected):
    network = lf.gaussian(key, (100, 400, 100), std=std)

    for w, deviation in zip(network.weights, expected, strict=True):
        np.testing.assert_allclose(w.std(), deviation, rtol=0.02)
        np.testing.assert_allclose(w.mean(), 0, atol=0.02 * deviation)
    np.testing.assert_allclose(network.output_scale, 0.1 * 0.05 if std == "ntk" else 1.0, rtol=1e-12)


@pytest.mark.parametrize("widths", [(3, 4, 2), (3, 4, 6, 2)])
def test_a_symmetrised_network_starts_at_zero_and_can_learn(key, widths):
    task = lf.Moments.whitened(yx=jnp.asarray(np.random.default_rng(0).normal(size=(2, 3))))
    start = lf.symmetrised(key, widths, std=0.8)

    np.testing.assert_allclose(start.matrix, 0, atol=1e-15)
    path = lf.solve(lf.Problem(start, task), lf.Flow(t1=200.0))
    assert path.observed["loss"] < 1e-6


class Absolute(lf.Samples):
    """Samples whose loss is not quadratic."""

    def loss(self, network):
        return jnp.mean(jnp.abs(jax.vmap(network)(self.x) - self.y))


def test_samples_with_a_loss_of_their_own_are_learned_by_it(coloured_samples):
    """A linear network on samples goes by their moments, which know of the quadratic loss alone."""
    task, start = Absolute(coloured_samples.x, coloured_samples.y), lf.gaussian(jax.random.key(0), (4, 2), std=0.1)
    rate = 1e-3

    found = lf.solve(lf.Problem(start, task), lf.Descent(optax.sgd, learning_rate=rate, steps=1)).network

    expected = start.matrix - rate * jax.grad(task.loss)(start).weights[0]
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-12)
    with pytest.raises(TypeError, match="No least loss is known"):
        task.least_loss(start)
