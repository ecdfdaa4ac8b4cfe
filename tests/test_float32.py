"""What single precision keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import layerflow as lf


@pytest.fixture(scope="module")
def figure_6a():
    """The cells of Figure 6(a), solved in a given precision from the same numbers."""
    task = lf.random_regression(jax.random.key(1), n=10, inp=2, out=2, whiten=True)
    lam, scale = (a.ravel() for a in np.meshgrid(np.linspace(-9, 9, 20), np.linspace(1, 20, 20)))
    draw = lambda lam, scale: lf.lambda_balanced(jax.random.key(0), lam, jnp.sqrt(scale), inp=2, hid=2, out=2).weights
    w1, w2 = jax.vmap(draw)(jnp.asarray(lam), jnp.asarray(scale))

    def solve(dtype, method):
        rounded = lambda array: jnp.asarray(array).astype(jnp.float32).astype(dtype)

        def cell(w1, w2, scale):
            start = lf.LinearNetwork((rounded(w1), rounded(w2)))
            samples = lf.Samples(rounded(task.x), rounded(task.y))
            return lf.Problem(start, samples.rescale(target=1 / rounded(scale)))

        axes = {"cell": lf.paired({"w1": w1, "w2": w2, "scale": scale})}
        return lf.sweep(cell, axes, method=method, observe=(lf.kernel_distance, lf.layer_movement)).kernel_distance

    return solve


def test_kernel_distances_agree_with_float64_down_to_the_lazy_corner(figure_6a):
    """There 1 - cosine would be rounding noise: the smallest is 4e-11, the rounding of a number near 1 is 6e-8."""
    double, single = (figure_6a(dtype, lf.Flow(t1=39.99)) for dtype in (jnp.float64, jnp.float32))

    assert single.dtype == np.float32
    error = np.abs(single.values / double.values - 1)
    assert double.values.min() < 1e-10
    assert np.median(error) < 2e-3
    assert error.max() < 5e-2


def test_a_movement_below_the_rounding_of_the_weights_is_measured():
    """Weights of size 1 that move by 1e-9 look unmoved in float32, but the movement keeps its digits."""
    weight = jnp.ones((1, 2), jnp.float32)
    task = lf.Moments(jnp.eye(2, dtype=jnp.float32), weight, jnp.full((1, 1), 2.0, jnp.float32))
    nearly_learned = task.rescale(target=1.0)
    problem = lf.Problem(lf.LinearNetwork((weight,)), nearly_learned, decay=1e-9)

    path = lf.solve(problem, lf.Flow(t1=0.01), observe=lf.layer_movement)

    # w' = (1 - w) - decay w, so |w - 1| = decay (1 - e^-t) for small decay. The velocity is taken at rounded
    # weights and does not feel the pull back, t/2 of the whole.
    np.testing.assert_allclose(path.observed["layer_movement"], [1e-9 * (1 - np.exp(-0.01))], rtol=1e-2)
    np.testing.assert_array_equal(path.network.weights[0], weight)
