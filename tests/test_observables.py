"""What is measured, against definitions evaluated another way."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import layerflow as lf


def dense_kernel(network, x):
    """J J^T from automatic differentiation, sample by sample."""
    weights, unravel = jax.flatten_util.ravel_pytree(network.weights)
    with_weights = lambda w: type(network)(unravel(w), network.output_scale)
    outputs = lambda w: jnp.stack([with_weights(w)(row) for row in x]).T.ravel()
    jacobian = jax.jacfwd(outputs)(weights)
    return np.asarray(jacobian @ jacobian.T)


def one_minus_cosine(k0, k1):
    return 1 - np.sum(k0 * k1) / np.linalg.norm(k0) / np.linalg.norm(k1)


@pytest.mark.parametrize("widths", [(4, 2), (4, 3, 2), (4, 5, 2, 3), (4, 1, 1), (3, 4, 4, 4, 1)])
def test_the_kernel_distance_is_that_of_the_dense_kernels(key, widths):
    """At any depth and width, inputs not white, from samples or from their moments."""
    k1, k2, k3 = jax.random.split(key, 3)
    start, end = lf.gaussian(k1, widths, std=0.7), lf.gaussian(k2, widths, std="ntk")
    task = lf.Samples(jax.random.normal(k3, (6, widths[0])), jnp.zeros((6, widths[-1])))
    expected = one_minus_cosine(dense_kernel(start, task.x), dense_kernel(end, task.x))

    for data in (task, task.moments):
        distance = lf.kernel_distance(end, lf.Problem(start, data))
        np.testing.assert_allclose(distance, expected, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_diagonal_network_has_the_kernel_distance_of_its_dense_kernels(key, depth):
    k1, k2, k3 = jax.random.split(key, 3)
    start, end = (lf.DiagonalNetwork(tuple(jax.random.normal(k, (depth, 4)))) for k in (k1, k2))
    task = lf.Samples(jax.random.normal(k3, (6, 4)), jnp.zeros((6, 1)))
    expected = one_minus_cosine(dense_kernel(start, task.x), dense_kernel(end, task.x))

    for data in (task, task.moments):
        np.testing.assert_allclose(lf.kernel_distance(end, lf.Problem(start, data)), expected, atol=1e-12)


def test_a_linear_network_on_modes_has_the_kernel_distance_of_their_moments(key):
    """Modes are uncorrelated inputs: E[x x^T] = diag(variance)."""
    k1, k2 = jax.random.split(key)
    start, end = lf.gaussian(k1, (4, 3, 1), std=0.7), lf.gaussian(k2, (4, 3, 1), std=0.7)
    modes = lf.Modes(variance=jnp.array([1.0, 0.5, 0.2, 0.1]), target=1.0)
    moments = lf.Moments(jnp.diag(modes.variance), modes.variance[None, :], jnp.full((1, 1), 2.0))

    distances = [lf.kernel_distance(end, lf.Problem(start, task)) for task in (modes, moments)]

    assert distances[1] > 0.01
    np.testing.assert_allclose(*distances, rtol=1e-12)


def test_ntk_is_the_closed_form_of_linear_networks(key):
    """K = I (x) X^T W1^T W1 X + W2 W2^T (x) X^T X, outputs first (THEORY section 10)."""
    network = lf.gaussian(key, (4, 3, 2), std=0.7)
    task = lf.Samples(jax.random.normal(key, (5, 4)), jnp.zeros((5, 2)))
    x, (w1, w2) = np.asarray(task.x), map(np.asarray, network.weights)

    kernel = lf.ntk(network, lf.Problem(network, task))

    expected = np.kron(np.eye(2), x @ w1.T @ w1 @ x.T) + np.kron(w2 @ w2.T, x @ x.T)
    np.testing.assert_allclose(kernel, expected, atol=1e-12)


class FewWeights(eqx.Module):
    """Three outputs of two weights: forward mode is the cheaper one."""

    weights: jax.Array

    def __call__(self, x):
        a, b = self.weights
        return jnp.stack([jnp.sin(a * x[0]), b * x[1] * a, jnp.tanh(b * x[0] + a)])


@pytest.mark.parametrize("kind", ["few weights", "many weights", "convolution"])
def test_ntk_is_the_square_of_the_jacobian_for_any_network(key, kind):
    """Whichever mode of differentiation is the cheaper one; outputs first."""
    if kind == "convolution":
        network = eqx.nn.Sequential([eqx.nn.Conv2d(1, 2, 2, key=key), eqx.nn.Lambda(jnp.tanh)])
        x = jax.random.normal(key, (4, 1, 3, 3))
    else:
        network = FewWeights(jnp.array([0.3, -0.7])) if kind == "few weights" else eqx.nn.MLP(2, 3, 4, 1, key=key)
        x = jax.random.normal(key, (4, 2))
    with jax.numpy_rank_promotion("allow"):
        y = jnp.zeros_like(jax.vmap(network)(x))
        problem = lf.Problem(network, lf.Samples(x, y))
        weights, rest = problem.split(network)
        flat, unravel = jax.flatten_util.ravel_pytree(weights)
        outputs = lambda w: jax.vmap(eqx.combine(unravel(w), rest))(x).reshape(len(x), -1).T.ravel()
        j = np.asarray(jax.jacfwd(outputs)(flat))
        kernel = lf.ntk(network, problem)

    np.testing.assert_allclose(kernel, j @ j.T, atol=1e-13)


def test_the_empirical_distance_is_the_closed_form_of_linear_networks(key, coloured_samples):
    """A linear network that does not say so goes through its Jacobians."""
    k1, k2 = jax.random.split(key)
    start, end = (lf.gaussian(k, (4, 3, 2), std=0.7) for k in (k1, k2))

    class Own(eqx.Module):
        weights: tuple

        def __call__(self, x):
            return self.weights[1] @ (self.weights[0] @ x)

    empirical = lf.kernel_distance(Own(end.weights), lf.Problem(Own(start.weights), coloured_samples))

    np.testing.assert_allclose(empirical, lf.kernel_distance(end, lf.Problem(start, coloured_samples)), atol=1e-10)


def test_the_kernel_distance_keeps_its_digits_on_the_lazy_side():
    """A movement of 1e-9 gives a distance near 1e-18, where 1 - cosine is zero or noise.

    The reference is the dense form in fifty digits' worth of integers: exact rational arithmetic.
    """
    from fractions import Fraction

    step = 2.0**-30
    w1, w2 = np.array([[1.0, 0.5], [-0.25, 2.0]]), np.array([[0.5, -1.0], [1.0, 0.75]])
    moved1, moved2 = w1 + step * np.array([[1, 2], [-1, 1]]), w2 + step * np.array([[-2, 1], [1, 3]])
    fractions = np.vectorize(Fraction, otypes=[object])

    def kernel(w1, w2):
        w1, w2 = fractions(w1), fractions(w2)
        return np.kron(fractions(np.eye(2)), w1.T @ w1) + np.kron(w2 @ w2.T, fractions(np.eye(2)))

    k0, k1 = kernel(w1, w2), kernel(moved1, moved2)
    cosine_squared = (k0 * k1).sum() ** 2 / ((k0 * k0).sum() * (k1 * k1).sum())
    expected = float(1 - cosine_squared) / 2  # 1 - cos = (1 - cos^2) / (1 + cos)

    start, end = lf.LinearNetwork((w1, w2)), lf.LinearNetwork((moved1, moved2))
    distance = lf.kernel_distance(end, lf.Problem(start, lf.Moments.whitened(yx=jnp.eye(2))))

    assert 1e-19 < expected < 1e-17
    np.testing.assert_allclose(distance, expected, rtol=1e-5)


def test_the_kernel_distance_ignores_a_change_of_scale(key):
    """Twice the weights are four times the kernel, and no distance at all."""
    start = lf.gaussian(key, (4, 3, 2), std=0.7)
    end = lf.LinearNetwork(tuple(2 * w for w in start.weights))

    assert lf.kernel_distance(end, lf.Problem(start, lf.Moments.whitened(yx=jnp.ones((2, 4))))) < 1e-30


def test_large_imbalance_is_lazy_as_its_fourth_power(key):
    """D = O(lam^-4) on a square network (THEORY section 10)."""
    task = lf.Moments.whitened(yx=jnp.array([[1.0, 0.3], [-0.2, 0.8]]))

    def cell(lam):
        return lf.Problem(lf.lambda_balanced(key, lam, 0.1, inp=2, hid=2, out=2), task)

    lams = np.array([20.0, 40.0, 80.0])
    distance = lf.sweep(
        cell, {"lam": lams}, method=lf.Flow(t1=20.0, rtol=1e-9), observe=lf.kernel_distance
    ).kernel_distance

    scaled = distance.values * lams**4
    np.testing.assert_allclose(scaled, scaled[-1], rtol=0.05)


def test_mode_strengths_read_the_modes_of_the_task():
    """u_k^T W v_k with the singular vectors of E[y x^T]; a network equal to the task has its singular values."""
    yx = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))
    network = lf.LinearNetwork((yx,))

    strengths = lf.mode_strengths(network, lf.Problem(network, lf.Moments.whitened(yx=yx)))

    np.testing.assert_allclose(strengths, np.linalg.svd(yx, compute_uv=False), atol=1e-12)


@pytest.mark.parametrize(
    ("strengths", "rank"), [([1.0, 1.0, 1.0], 3.0), ([2.0, 0.0, 0.0], 1.0), ([0.0, 0.0, 0.0], 0.0)]
)
def test_effective_rank_counts_equal_singular_values(strengths, rank):
    network = lf.LinearNetwork((jnp.diag(jnp.array(strengths)),))
    problem = lf.Problem(network, lf.Moments.whitened(yx=jnp.eye(3)))

    np.testing.assert_allclose(lf.effective_rank(network, problem), rank, atol=1e-12)
    assert np.isfinite(jax.grad(lambda w: lf.effective_rank(lf.LinearNetwork((w,)), problem))(network.matrix)).all()


def test_layer_movement_is_relative_to_each_layer(key):
    start = lf.gaussian(key, (3, 2, 2), std=0.5)
    end = lf.LinearNetwork((1.1 * start.weights[0], start.weights[1]))

    movement = lf.layer_movement(end, lf.Problem(start, lf.Moments.whitened(yx=jnp.ones((2, 3)))))

    np.testing.assert_allclose(movement, [0.1, 0.0], atol=1e-12)


def test_on_test_measures_the_test_task(key, coloured_samples):
    """For every observable, under its own name."""
    network = lf.gaussian(key, (4, 3, 2), std=0.5)
    test = coloured_samples.rescale(input=2.0)
    problem = lf.Problem(network, coloured_samples, test=test)

    path = lf.solve(problem, lf.Flow(t1=1.0), observe=(lf.loss, lf.on_test(lf.loss)))

    np.testing.assert_allclose(path.observed["test_loss"], test.loss(path.network), rtol=1e-12)
    np.testing.assert_allclose(path.observed["loss"], coloured_samples.loss(path.network), rtol=1e-12)
    assert lf.on_test(lf.kernel_distance).__name__ == "test_kernel_distance"


def test_own_observables_name_their_dimensions(key, whitened_task):
    @lf.observable(dims=("value",), long_name="singular values", units="weight²")
    def spectrum(network, problem):  # noqa: ARG001
        return jnp.linalg.svd(network.matrix, compute_uv=False)

    def count(network, problem):  # noqa: ARG001
        return {"layers": len(network.weights), "wide": True}

    def cell(scale):
        return lf.Problem(lf.gaussian(key, (3, 3, 3), std=scale), whitened_task)

    diagram = lf.sweep(cell, {"scale": [0.1, 0.2]}, method=lf.Flow(t1=1.0), observe=(spectrum, count))

    assert diagram.spectrum.dims == ("scale", "value")
    assert diagram.spectrum.attrs == {"long_name": "singular values", "units": "weight²"}
    np.testing.assert_array_equal(diagram.count_layers, [3.0 - 1, 2.0])
    np.testing.assert_array_equal(diagram.count_wide, [1.0, 1.0])
