"""What gradient flow conserves, whatever the data (THEORY section 3: Eqs. 8, 48)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import layerflow as lf

TS = np.linspace(0.0, 5.0, 11)
# rtol is 1e-8; 1e-6 leaves room for error over the whole run.
METHOD = lf.Flow(t1=5.0, rtol=1e-8)


@pytest.mark.parametrize("lam", [-2.0, 0.0, 2.0])
def test_gradient_flow_conserves_the_layer_imbalance(key, lam, whitened_task):
    """d/dt (w2^T w2 - w1 w1^T) = 0 (Saxe et al., 2014)."""
    start = lf.lambda_balanced(key, lam, 0.1, inp=3, hid=3, out=3)

    path = lf.solve(lf.Problem(start, whitened_task), METHOD, ts=TS, observe=lf.layer_imbalance)

    imbalance = path.observed["layer_imbalance"]
    np.testing.assert_allclose(imbalance, np.broadcast_to(lam * np.eye(3), imbalance.shape), atol=1e-6)


@pytest.mark.parametrize("widths", [(4, 3, 2), (4, 1, 3, 2), (4, 5, 5, 5, 2)])
def test_every_pair_of_layers_keeps_its_imbalance_at_any_depth_and_width(key, widths, coloured_samples):
    """w_{l+1}^T w_{l+1} - w_l w_l^T is constant for every l, inputs not white, bottlenecks included."""
    problem = lf.Problem(lf.gaussian(key, widths, std=0.5), coloured_samples)

    path = lf.solve(problem, METHOD, ts=TS, observe=lf.layer_imbalance)

    assert len(path.observed) == len(widths) - 2
    for imbalance in path.observed.values():
        np.testing.assert_allclose(imbalance, np.broadcast_to(imbalance[0], imbalance.shape), atol=1e-6)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_a_diagonal_network_keeps_the_differences_of_squares(key, depth):
    """a_i^2 - b_i^2 = C_i (Eq. 8), for chains of any depth."""
    layers = tuple(jax.random.normal(key, (depth, 5)))
    problem = lf.Problem(lf.DiagonalNetwork(layers), lf.Modes(variance=jnp.linspace(0.2, 2.0, 5), target=1.0))

    path = lf.solve(problem, METHOD, ts=TS, observe=lf.layer_imbalance)

    for imbalance in path.observed.values():
        np.testing.assert_allclose(imbalance, np.broadcast_to(imbalance[0], imbalance.shape), atol=1e-6)


def test_weight_decay_shrinks_the_imbalance_exponentially(key, coloured_samples):
    """With decay mu on all layers the imbalance follows exp(-2 mu t)."""
    mu = 0.3
    problem = lf.Problem(lf.gaussian(key, (4, 3, 2), std=0.7), coloured_samples, decay=mu)

    path = lf.solve(problem, METHOD, ts=TS, observe=lf.layer_imbalance)

    imbalance = path.observed["layer_imbalance"]
    expected = np.asarray(imbalance[0]) * np.exp(-2 * mu * TS)[:, None, None]
    np.testing.assert_allclose(imbalance, expected, atol=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_loss_never_rises_along_a_flow(key, depth, coloured_samples):
    """dL/dt = -|velocity|^2 <= 0."""
    problem = lf.Problem(lf.gaussian(key, (4, *[3] * (depth - 1), 2), std=0.5), coloured_samples)

    path = lf.solve(problem, METHOD, ts=np.linspace(0, 5, 101))

    # Late in the run the loss is flat to the tolerance of the solver.
    assert np.diff(path.observed["loss"]).max() < 1e-9


def test_discrete_descent_breaks_the_imbalance_in_proportion_to_the_rate(key, coloured_samples):
    """Each step errs by O(rate^2), a run of fixed time by O(rate): the flow's law is no accident."""
    import optax

    problem = lf.Problem(lf.gaussian(key, (4, 3, 2), std=0.5), coloured_samples)
    start = lf.layer_imbalance(problem.start, problem)

    def drift(rate):
        method = lf.Descent(optax.sgd, learning_rate=rate, steps=round(2.0 / rate))
        return np.abs(lf.solve(problem, method, observe=lf.layer_imbalance).observed["layer_imbalance"] - start).max()

    assert drift(1e-2) > 1e-4
    np.testing.assert_allclose(drift(1e-2) / drift(1e-3), 10.0, rtol=0.2)
