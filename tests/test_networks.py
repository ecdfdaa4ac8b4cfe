"""Networks by their connections: any set of them, biases and skips, skills and free features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import layerflow as lf
from layerflow import theory

ANY = ((0, 0), (2, 0), (1, 1), (2, 1), (0, 2))  # of three inputs and three hidden units
METHOD = lf.Flow(t1=5.0, rtol=1e-9)
TS = jnp.linspace(0.0, 5.0, 11)


def drawn(key, connections=ANY, *, scale=0.5, **parts):
    first, last = jax.random.normal(key, (2, len(connections)))
    hid = 1 + max(j for _, j in connections)
    return lf.LayerwiseNetwork(connections, scale * first, scale * last[:hid], **parts)


def matrix(network, problem):  # noqa: ARG001
    return network.matrix[0]


def bias(network, problem):  # noqa: ARG001
    return network.bias


def path(start, task, observe):
    return lf.solve(lf.Problem(start, task), METHOD, ts=TS, observe={"value": observe}).observed["value"]


@pytest.fixture
def affine_samples():
    """Centred and whitened inputs, targets 1.5 x_0 - x_1 + 0.8."""
    x = jax.random.normal(jax.random.key(2), (20, 3))
    x = x - jnp.mean(x, axis=0)[None, :]
    u, _, vt = jnp.linalg.svd(x, full_matrices=False)
    x = jnp.sqrt(20.0) * u @ vt
    return lf.Samples(x, (x @ jnp.array([1.5, -1.0, 0.0]) + 0.8)[:, None])


def test_one_to_one_connections_are_a_diagonal_network(key):
    task = lf.Modes(variance=jnp.array([1.0, 0.5, 2.0]), target=jnp.array([1.0, -2.0, 0.5]))
    network = drawn(key, ((0, 0), (1, 1), (2, 2)))

    diagonal = path(lf.DiagonalNetwork((network.first, network.last)), task, matrix)
    np.testing.assert_allclose(path(network, task, matrix), diagonal, atol=1e-7)
    closed = theory.layer_pair(TS[:, None], network.first[None], network.last[None], task.target, task.variance)
    np.testing.assert_allclose(path(network, task, matrix), closed.strength, atol=1e-7)


def test_all_connections_are_a_linear_network(key, coloured_samples):
    task = lf.Samples(coloured_samples.x, coloured_samples.y[:, :1])
    network = drawn(key, tuple((i, j) for j in range(2) for i in range(4)))
    linear = lf.LinearNetwork((network.first.reshape(2, 4), network.last[None, :]))

    np.testing.assert_allclose(path(network, task, matrix), path(linear, task, matrix), atol=1e-7)
    distances = [path(start, task, lf.kernel_distance) for start in (network, linear)]
    np.testing.assert_allclose(*distances, atol=1e-7)
    assert distances[0][-1] > 1e-4  # far above the tolerance


def test_any_connections_descend_as_a_linear_network_whose_missing_weights_stay_zero(key, coloured_samples):
    """Small-step descent in NumPy, with a mask."""
    x, y = np.asarray(coloured_samples.x[:, :3]), np.asarray(coloured_samples.y[:, 0])
    network = drawn(key, skip=jnp.array([0.1, -0.2, 0.3]))
    i, j = np.array(ANY).T
    mask, a, b, skip = np.zeros((3, 3)), np.zeros((3, 3)), np.array(network.last), np.array(network.skip)
    mask[i, j], a[i, j] = 1.0, network.first
    steps = 5000
    for _ in range(steps):
        slope = x.T @ (x @ (a @ b + skip) - y) / len(x)
        a, b, skip = a - mask * np.outer(slope, b) / steps, b - a.T @ slope / steps, skip - slope / steps

    end = lf.solve(lf.Problem(network, lf.Samples(x, y[:, None])), lf.Flow(t1=1.0, rtol=1e-9)).network
    # Descent is off the flow by about half a step, 1e-4, times speeds of order one.
    np.testing.assert_allclose(end.strengths, a @ b + skip, atol=1e-3)
    np.testing.assert_allclose(end.last, b, atol=1e-3)


@pytest.mark.parametrize(
    "parts",
    [{}, {"skip": jnp.ones(3)}, {"hidden_bias": 0.3 * jnp.ones(3), "bias": 0.0}],
    ids=["plain", "skips", "biases"],
)
def test_every_hidden_unit_conserves_its_difference_of_squares(key, affine_samples, parts):
    """b_j^2 - sum_i a_ij^2 - hidden_bias_j^2, from d/ds of the map under a_j -> s a_j, b_j -> b_j / s."""
    network = drawn(key, **parts)
    problem = lf.Problem(network, affine_samples)

    kept = lf.solve(problem, METHOD, ts=TS, observe=lf.layer_imbalance).observed["layer_imbalance"]

    np.testing.assert_allclose(kept, jnp.broadcast_to(kept[0], kept.shape), atol=1e-7)
    moved = lf.solve(problem, METHOD).network
    assert jnp.abs(moved.last**2 - network.last**2).max() > 0.1  # what is kept is kept by both layers moving


def test_the_last_bias_saturates_exponentially_where_the_modes_are_sigmoidal(affine_samples):
    """Appendix J.3: nothing multiplies the last bias, so bias' = mean - bias on centred inputs."""
    start = jnp.full(2, 0.03)
    network = lf.LayerwiseNetwork(((0, 0), (1, 1)), start, start * jnp.array([1.0, -1.0]), bias=0.0, inp=3)

    value = path(network, affine_samples, bias)
    strengths = path(network, affine_samples, lambda network, problem: network.strengths)

    np.testing.assert_allclose(value, theory.exponential(TS, 0.0, 0.8), atol=1e-7)
    np.testing.assert_allclose(strengths[:, 0], theory.sigmoidal(TS, 9e-4, 1.5), atol=1e-7)
    np.testing.assert_allclose(strengths[:, 1], theory.sigmoidal(TS, 9e-4, 1.0) * -1, atol=1e-7)
    half = int(jnp.argmin(jnp.abs(TS - 1.0)))
    assert value[half] > 0.6 * 0.8  # the bias has done most of its way
    assert strengths[half, 0] < 0.02  # before any mode set out


def test_a_hidden_bias_is_a_mode_of_the_constant_input(affine_samples):
    """Alone in its unit it is a layer of the pair (hidden_bias, b): sigmoidal, not exponential."""
    network = lf.LayerwiseNetwork(((0, 0),), jnp.array([0.0]), jnp.array([0.03]), hidden_bias=jnp.array([0.03]), inp=3)
    problem = lf.Problem(network, lf.Samples(affine_samples.x, jnp.full((20, 1), 0.8)))

    offset = lf.solve(problem, METHOD, ts=TS, observe={"offset": lambda n, p: n.offset}).observed["offset"]

    np.testing.assert_allclose(offset, theory.sigmoidal(TS, 9e-4, 0.8), atol=1e-7)


def test_beside_a_skip_connection_a_mode_of_two_layers_keeps_its_sum_over_the_exponential_of_the_skip():
    """With theta' = E (S - u), (a + b)' = (a + b) theta' and (a - b)' = -(a - b) theta' (Eqs. 78, 79)."""
    network = lf.LayerwiseNetwork(((0, 0),), jnp.array([0.3]), jnp.array([-0.1]), skip=jnp.array([0.2]))
    end = lf.solve(lf.Problem(network, lf.Modes(jnp.array([0.7]), 3.0)), METHOD).network

    grown = jnp.exp(end.skip - network.skip)
    np.testing.assert_allclose(end.first + end.last, 0.2 * grown, rtol=1e-6)
    np.testing.assert_allclose(end.first - end.last, 0.4 / grown, rtol=1e-6)
    assert grown > 2


def test_a_bias_and_an_output_scale_are_axes_of_a_sweep(affine_samples):
    """The last bias at output scale c follows bias' = c (mean - c bias)."""

    def cell(start, scale):
        network = lf.LayerwiseNetwork(((0, 0),), jnp.zeros(1), jnp.zeros(1), bias=start, output_scale=scale, inp=3)
        return lf.Problem(network, affine_samples)

    axes = {"start": jnp.array([0.0, 0.5]), "scale": jnp.array([0.5, 2.0])}
    diagram = lf.sweep(cell, axes, method=METHOD, ts=TS, observe=bias)

    start, scale = axes["start"][:, None, None], axes["scale"][None, :, None]
    expected = theory.exponential(TS[None, None], start, 0.8 / scale, scale**2)
    np.testing.assert_allclose(diagram.bias, expected, atol=1e-7)


def test_a_layerwise_network_has_a_lazy_twin(key):
    """The twin starts with the same strengths and learns exponentially where the network does not."""
    task = lf.Modes(variance=jnp.ones(3), target=1.0)
    network = drawn(key, ((0, 0), (1, 1), (2, 2)))

    lazy = path(lf.linearise(network), task, matrix)

    rate = network.first**2 + network.last**2
    strengths = network.strengths
    np.testing.assert_allclose(lazy, theory.exponential(TS[:, None], strengths[None], 1.0, rate[None]), atol=1e-7)


def test_without_biases_samples_are_learned_from_their_moments_and_to_their_least_loss(key, affine_samples):
    network = drawn(key, ((0, 0), (1, 1), (2, 1)))
    assert isinstance(affine_samples.reduced(network), lf.Moments)
    assert affine_samples.reduced(drawn(key, bias=0.0)) is affine_samples
    # What no linear map has is the constant.
    np.testing.assert_allclose(affine_samples.least_loss(network), 0.5 * 0.8**2, rtol=1e-9)


def test_skills_emerge_as_the_skill_model_says():
    """Eq. 11: every skill is a mode of two equal layers, of the variance p_k (Nam et al., 2024)."""
    frequency = theory.skill_frequencies(5, 0.6)
    task = lf.Modes(variance=frequency, target=5.0)

    strengths = path(lf.skill_network(jnp.full(5, 1e-3)), task, lf.mode_strengths)

    closed = theory.skill_strengths_in_time(TS, frequency[None], 1e-3, 5.0)
    np.testing.assert_allclose(strengths, closed, atol=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_a_skill_network_has_the_strengths_asked_for_in_equal_layers(depth):
    strengths = jnp.array([0.4, -0.2, 0.0])
    network = lf.skill_network(strengths, depth=depth)

    np.testing.assert_allclose(network.strengths, strengths, atol=1e-15)
    assert len(network.weights) == depth
    for layer in network.weights[:-1]:
        np.testing.assert_array_equal(layer, jnp.abs(network.weights[-1]))


def test_free_features_collapse():
    """From small balance: within a class all alike, classes orthogonal, Gram m^(-1/2) I (Mixon et al., 2020)."""
    labels = jnp.repeat(jnp.arange(3), 4)
    task = lf.Samples(jnp.eye(12), jax.nn.one_hot(labels, 3))
    small = lf.lambda_balanced(jax.random.key(1), 0.0, 1e-3, inp=12, hid=3, out=3)
    problem = lf.Problem(lf.feature_model(*small.weights), task)

    features, classifier = lf.solve(problem, lf.Flow(t1=400.0, rtol=1e-8)).network.weights

    means = features.reshape(3, 3, 4).mean(axis=-1)
    np.testing.assert_allclose(features, jnp.repeat(means, 4, axis=1), atol=1e-4)
    np.testing.assert_allclose(means.T @ means, jnp.eye(3) / 2, atol=1e-4)
    np.testing.assert_allclose(classifier @ classifier.T, 2 * jnp.eye(3), atol=1e-4)


def few_samples(n=3, inp=5):
    rng = np.random.default_rng(4)
    return lf.Samples(rng.normal(size=(n, inp)), rng.normal(size=(n, 1)))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_diagonal_networks_of_any_depth_learn_from_data_in_lanes(depth):
    """Coupled coordinates: each cell of the sweep is the flow of theory's own right side, w_l' = -w/w_l g."""
    samples = few_samples()
    layers = [0.3 + 0.1 * np.arange(5) + 0.2 * layer for layer in range(depth)]
    x, y = np.asarray(samples.x), np.asarray(samples.y)[:, 0]

    def cell(scale):
        return lf.Problem(lf.DiagonalNetwork(tuple(scale * w for w in layers)), samples)

    def velocity(_, flat):
        w = flat.reshape(depth, 5)
        product = w.prod(axis=0)
        return (product / w * -(x.T @ (x @ product - y) / len(y))).ravel()

    scales, method = [0.5, 1.0], lf.Flow(t1=2.0, rtol=1e-10)
    diagram = lf.sweep(cell, {"scale": scales}, method=method, observe={"matrix": matrix}, progress=False)

    for scale, found in zip(scales, diagram.matrix.values, strict=True):
        run = solve_ivp(velocity, (0.0, 2.0), scale * np.ravel(layers), method="DOP853", rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(found, run.y[:, -1].reshape(depth, 5).prod(axis=0), atol=1e-8)
        end = lf.solve(cell(scale), method).network.strengths
        np.testing.assert_allclose(found, end, atol=1e-12)
    assert diagram.attrs["lanes"] > 1


@pytest.mark.parametrize(
    "task", [few_samples(), few_samples().moments, few_samples(n=9)], ids=["few", "moments", "many"]
)
def test_a_difference_of_squares_is_the_diagonal_network_at_twice_the_speed(task):
    """u^2 - v^2 = a b with u = (a + b)/2, v = (a - b)/2; u v = C/4 stays (Woodworth et al., 2020)."""
    a, b = jnp.linspace(0.5, 1.0, 5), jnp.linspace(-0.3, 0.6, 5)
    problem = lf.Problem(lf.DifferenceNetwork((a + b) / 2, (a - b) / 2, output_scale=0.7), task)

    run = lambda problem, rate: lf.solve(problem, lf.Flow(t1=4.0 / rate, rtol=1e-11), ts=TS[:9] / rate, observe=matrix)
    twice = run(problem, 2.0)
    once = run(lf.Problem(lf.DiagonalNetwork((a, b), 0.7), task), 1.0)

    np.testing.assert_allclose(twice.observed["matrix"], once.observed["matrix"], atol=1e-9)
    np.testing.assert_allclose(4 * twice.network.u * twice.network.v, a**2 - b**2, atol=1e-9)
    if isinstance(task, lf.Samples):
        kernels = [lf.kernel_distance(run.network, lf.Problem(run.problem.start, task)) for run in (twice, once)]
        np.testing.assert_allclose(*kernels, rtol=1e-7)


def test_a_difference_network_keeps_the_digits_of_nearly_equal_branches():
    u = jnp.array([1.0])
    np.testing.assert_allclose(lf.DifferenceNetwork(u, u - 2.0**-40).strengths, 2.0**-39 - 2.0**-80, rtol=1e-15)
    np.testing.assert_allclose(lf.DifferenceNetwork(2 * u, u, depth=3, output_scale=2.0)(u), 14.0)


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("depth", [0, 2.0, True])
def test_the_depth_of_a_difference_network_is_a_whole_number(depth):
    with pytest.raises(ValueError, match=r"`depth` is a whole number of at least 1"):
        lf.DifferenceNetwork(jnp.ones(2), jnp.ones(2), depth)


@pytest.mark.usefixtures("as_users_see_it")
def test_the_branches_of_a_difference_network_are_of_one_length():
    with pytest.raises(ValueError, match=r"`u` has shape \(2,\) and `v` \(3,\)"):
        lf.DifferenceNetwork(jnp.ones(2), jnp.ones(3))
