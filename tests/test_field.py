"""Starts, tasks and measurements that the field uses, against their definitions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import layerflow as lf


@pytest.fixture
def regression(key):
    return lf.random_regression(key, n=20, inp=4, out=3)


@pytest.mark.parametrize("lam", [-0.5, 0.0, 0.5])
def test_an_aligned_start_keeps_the_modes_of_the_task_apart(key, lam, regression):
    """W2 W1 stays diagonal in the task's singular vectors on whitened inputs (Eq. 69)."""
    task = lf.Moments.whitened(yx=regression.moments.yx)
    start = lf.aligned(task, lam, jnp.array([0.3, 0.2, 0.1]), hid=3, key=key)
    u, _, vt = np.linalg.svd(task.yx, full_matrices=False)
    w1, w2 = start.weights

    np.testing.assert_allclose(w2.T @ w2 - w1 @ w1.T, lam * np.eye(3), atol=1e-12)
    np.testing.assert_allclose(u.T @ start.matrix @ vt.T, np.diag([0.3, 0.2, 0.1]), atol=1e-12)
    end = lf.solve(lf.Problem(start, task), lf.Flow(t1=1.0, rtol=1e-9)).network
    modes = u.T @ end.matrix @ vt.T
    np.testing.assert_allclose(modes, np.diag(np.diag(modes)), atol=1e-7)


def test_upstream_and_downstream_move_weight_and_keep_the_function(key):
    start = lf.gaussian(key, (4, 5, 3), std=0.5)
    up, down = lf.upstream(start, 3.0), lf.downstream(start, 3.0)

    np.testing.assert_allclose(up.matrix, start.matrix, atol=1e-13)
    np.testing.assert_allclose(down.matrix, start.matrix, atol=1e-13)
    np.testing.assert_allclose(up.weights[1], 9 * down.weights[1], rtol=1e-12)
    assert jnp.linalg.norm(up.weights[1]) > jnp.linalg.norm(up.weights[0])


def test_orthogonal_layers_have_equal_singular_values(key):
    network = lf.orthogonal(key, (4, 2, 3, 3), gain=(0.5, 2.0, 1.0))

    for w, gain in zip(network.weights, (0.5, 2.0, 1.0), strict=True):
        np.testing.assert_allclose(np.linalg.svd(w, compute_uv=False), gain, rtol=1e-12)


@pytest.mark.parametrize(
    ("widths", "lams"),
    [
        ((3, 3, 3, 3), (0.7, -1.2)),  # square: any imbalance
        ((2, 3, 3, 2), (1.0, -1.0)),  # a surplus that begins and ends
        ((4, 3, 2, 3, 5), (-0.3, 0.2, 0.4)),  # a bottleneck: lighter towards it, heavier behind it
        ((2, 2, 2, 2, 2), (1e4, -1e4, 3.0)),
        ((3, 2, 2), (-0.5,)),
    ],
)
def test_a_chain_has_its_imbalances_and_its_strengths(key, widths, lams):
    strengths = np.linspace(2.0, 0.1, min(widths))
    network = lf.lambda_balanced_chain(key, lams, strengths, widths=widths)

    for lam, before, after in zip(lams, network.weights, network.weights[1:], strict=False):
        scale = abs(before).max() ** 2 + abs(after).max() ** 2
        np.testing.assert_allclose(after.T @ after - before @ before.T, lam * np.eye(len(before)), atol=1e-14 * scale)
    scale = np.prod([np.linalg.norm(w, 2) for w in network.weights])
    found = np.linalg.svd(network.matrix, compute_uv=False)[: min(widths)]
    np.testing.assert_allclose(found, strengths, atol=1e-14 * scale)


def test_a_chain_of_two_layers_is_lambda_balanced_and_flow_keeps_all_of_its_imbalances(key, regression):
    for w, expected in zip(
        lf.lambda_balanced_chain(key, -0.5, 0.3, widths=(4, 3, 3)).weights,
        lf.lambda_balanced(key, -0.5, 0.3, inp=4, hid=3, out=3).weights,
        strict=True,
    ):
        np.testing.assert_allclose(w, expected, atol=1e-14)
    problem = lf.Problem(lf.lambda_balanced_chain(key, (-0.4, 0.3), 0.5, widths=(4, 3, 3, 3)), regression)

    ends = lf.solve(problem, lf.Flow(t1=2.0, rtol=1e-9), observe=lf.layer_imbalance).observed

    np.testing.assert_allclose(ends["layer_imbalance_hidden1"], -0.4 * np.eye(3), atol=1e-7)
    np.testing.assert_allclose(ends["layer_imbalance_hidden2"], 0.3 * np.eye(3), atol=1e-7)


def test_a_chain_differentiates_by_its_imbalances(key):
    """Forward, reverse and finite differences agree; at zero strength the derivative is finite."""
    first = jax.jit(
        lambda lam: (
            lf.lambda_balanced_chain(key, jnp.stack([lam, jnp.asarray(0.1)]), 0.5, widths=(2,) * 4).weights[0].sum()
        )
    )
    h = 1e-5
    expected = (first(0.4 + h) - first(0.4 - h)) / (2 * h)

    np.testing.assert_allclose(jax.jit(jax.jacfwd(first))(0.4), expected, rtol=1e-8)
    np.testing.assert_allclose(jax.jit(jax.grad(first))(0.4), expected, rtol=1e-8)
    still = lambda lam: lf.lambda_balanced_chain(key, lam, 0.0, widths=(2,) * 4).matrix.sum()
    assert np.isfinite(jax.jit(jax.grad(still))(0.0))


def test_power_law_modes_follow_their_power():
    variance = lf.power_law_modes(50, exponent=1.6, target=2.0).variance

    np.testing.assert_allclose(variance.sum(), 1.0, rtol=1e-12)
    np.testing.assert_allclose(variance / variance[0], np.arange(1, 51) ** -1.6, rtol=1e-12)


def test_a_teacher_can_be_learned_and_its_noise_cannot(key):
    network = lf.gaussian(key, (3, 2, 2), std=1.0)
    clean, noisy = (lf.teacher(key, network, n=2000, inp=3, noise=noise) for noise in (0.0, 0.5))

    np.testing.assert_allclose(clean.loss(network), 0.0, atol=1e-25)
    np.testing.assert_allclose(noisy.loss(network), 0.5 * 2 * 0.5**2, rtol=0.1)
    mlp = eqx.nn.MLP(3, 4, 5, 1, key=key)
    assert lf.teacher(key, mlp, n=6, inp=3).y.shape == (6, 4)


def test_fold_gives_a_key_to_each_name(key):
    keys = [lf.fold(key, name) for name in ("task", "start", "task")]

    assert keys[0] == keys[2]
    assert keys[0] != keys[1]


def test_a_stream_is_fresh_at_every_step(key):
    """Descent on a stream sees other samples at each step, the same in every run of one key."""
    task = lf.Stream(lambda key, n: (jax.random.normal(key, (n, 2)), jax.random.normal(key, (n, 1))))

    first, again, second = (task.batch(key, jnp.asarray(step), 3).x for step in (0, 0, 1))

    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    problem = lf.Problem(lf.linear_model(jnp.zeros(2)), task)
    with pytest.raises(TypeError, match="no whole to follow"):
        lf.solve(problem, lf.Flow(t1=1.0))


def test_batches_with_replacement_are_drawn_anew(key):
    """Some sample comes twice in ten draws of ten, which an epoch without replacement excludes."""
    task = lf.Samples(jnp.arange(10.0)[:, None], jnp.arange(10.0)[:, None])

    rows = np.concatenate([task.batch(key, jnp.asarray(step), 5, replace=True).x[:, 0] for step in range(2)])
    assert len(set(rows)) < 10
    problem = lf.Problem(lf.linear_model(jnp.zeros(1)), task)
    rate = {"learning_rate": 1e-3, "steps": 30, "batch": 5}
    ends = [
        lf.solve(problem, lf.Descent(optax.sgd, replace=replace, **rate), key=key).network.matrix
        for replace in (True, False)
    ]
    assert not np.array_equal(*ends)


def test_accuracy_reads_labels_at_any_scale():
    y = jnp.eye(3)[jnp.array([0, 1, 2, 0])]
    network = lf.LinearNetwork((jnp.eye(3),))
    x = jnp.array([[2.0, 1, 0], [0, 1, 3], [0, 0, 1], [1, 0, 0]])

    for labels in (y, 30 * y, y - 1 / 3):
        np.testing.assert_allclose(lf.accuracy(network, lf.Problem(network, lf.Samples(x, labels))), 0.75)
    signs = lf.Samples(x, jnp.array([[1.0], [-1.0], [1.0], [-1.0]]))
    first = lf.linear_model(jnp.array([1.0, 0.0, -1.0]))
    np.testing.assert_allclose(lf.accuracy(first, lf.Problem(first, signs)), 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "mlp", "descending"])
def test_sharpness_is_the_largest_eigenvalue_of_the_full_hessian(key, kind, regression):
    """Also where the whole spectrum is negative or has repeated values."""
    if kind == "descending":
        task = lf.Modes(variance=-jnp.array([1.0, 2.0, 2.0]), target=1.0)
        network = lf.linear_model(jnp.zeros(3))
    else:
        task = regression
        linear = lf.gaussian(key, (4, 3, 3), std=0.5)
        network = linear if kind == "linear" else eqx.nn.MLP(4, 3, 6, 1, activation=jnp.tanh, key=key)
    problem = lf.Problem(network, task)
    weights, rest = problem.split(network)
    flat, unravel = jax.flatten_util.ravel_pytree(weights)
    with jax.numpy_rank_promotion("allow"):
        hessian = jax.hessian(lambda w: task.loss(eqx.combine(unravel(w), rest)))(flat)
        sharpness = lf.sharpness(network, problem)

    np.testing.assert_allclose(sharpness, np.linalg.eigvalsh(hessian)[-1], rtol=1e-8)


@pytest.mark.slow
def test_the_derivative_of_the_sharpness_is_that_of_differences(key, regression):
    """In both modes: v . dH v, though the iteration for v is not differentiated."""
    mlp = eqx.nn.MLP(4, 3, 6, 1, activation=jnp.tanh, key=key)

    def scaled(size):
        network = jax.tree.map(lambda leaf: size * leaf if eqx.is_inexact_array(leaf) else leaf, mlp)
        return lf.sharpness(network, lf.Problem(network, regression))

    h = 1e-5
    with jax.numpy_rank_promotion("allow"):
        expected = (scaled(1 + h) - scaled(1 - h)) / (2 * h)
        np.testing.assert_allclose([jax.jacfwd(scaled)(1.0), jax.grad(scaled)(1.0)], expected, rtol=1e-7)


def test_descent_is_stable_up_to_two_over_the_sharpness():
    """On a parabola: 1.9 converges, 2.1 diverges."""
    problem = lf.Problem(lf.linear_model(jnp.zeros(2)), lf.Modes(variance=jnp.array([3.0, 1.0]), target=1.0))
    sharpness = lf.sharpness(problem.start, problem)
    np.testing.assert_allclose(sharpness, 3.0, rtol=1e-12)

    for factor, stable in ((1.9, True), (2.1, False)):
        method = lf.Descent(optax.sgd, learning_rate=factor / sharpness, steps=200)
        assert (lf.solve(problem, method).observed["loss"] < 1e-6) == stable


def test_scaled_sharpness_is_that_of_each_cells_own_step_size():
    """2 at the edge of stability: the learning rate is an axis, and on a parabola the curvature is 3."""
    task = lf.Modes(variance=jnp.array([3.0, 1.0]), target=1.0)

    def cell(eta):
        return lf.Problem(lf.linear_model(jnp.zeros(2)), task), lf.Descent(optax.sgd, learning_rate=eta, steps=50)

    diagram = lf.sweep(cell, {"eta": [0.1, 0.6]}, ts=[0, 50], observe=lf.scaled_sharpness)

    np.testing.assert_allclose(diagram.scaled_sharpness, [[0.3, 0.3], [1.8, 1.8]], rtol=1e-12)


def test_alignment_is_one_for_aligned_layers_and_less_for_others(key, regression):
    problem = lf.Problem(lf.aligned(regression, 0.3, jnp.array([0.3, 0.2, 0.1]), hid=3, key=key), regression)

    np.testing.assert_allclose(lf.alignment(problem.start, problem), 1.0, atol=1e-10)
    assert lf.alignment(lf.gaussian(key, (4, 3, 3)), problem).mean() < 0.9


def test_small_starts_align_as_they_learn(key, whitened_task):
    """Silent alignment: layers line up before the loss falls (Atanasov et al., 2022)."""
    problem = lf.Problem(lf.gaussian(key, (3, 3, 3), std=1e-6), whitened_task)

    path = lf.solve(problem, lf.Flow(t1=4.0), ts=[0.0, 4.0], observe=(lf.alignment, lf.loss))

    assert path.observed["loss"][1] > 0.99 * path.observed["loss"][0]
    assert path.observed["alignment"][1, 0, 0] > 0.99 > path.observed["alignment"][0, 0, 0]


def test_function_distance_is_the_same_from_samples_and_moments(key, regression):
    k1, k2 = jax.random.split(key)
    f, g = lf.gaussian(k1, (4, 3, 3), std=0.5), lf.gaussian(k2, (4, 3, 3), std=0.5)
    x = np.asarray(regression.x)
    expected = np.sqrt(np.mean(np.sum((x @ (f.matrix - g.matrix).T) ** 2, axis=1)))

    for task in (regression, regression.moments):
        np.testing.assert_allclose(lf.function_distance(f, g, lf.Problem(f, task)), expected, rtol=1e-10)
    slope = jax.grad(
        lambda w: lf.function_distance(lf.LinearNetwork((w,)), lf.LinearNetwork((w,)), lf.Problem(f, regression))
    )
    assert np.isfinite(slope(f.matrix)).all()


def test_weight_norms_are_those_of_the_arrays_that_move(key, regression):
    network = lf.gaussian(key, (4, 3, 3), std=0.5)
    norms = lf.weight_norms(network, lf.Problem(network, regression))

    np.testing.assert_allclose(norms, [np.linalg.norm(w) for w in network.weights], rtol=1e-12)


def test_a_linearised_network_keeps_the_kernel_of_its_start(key, regression):
    """Its flow is that of kernel regression with the kernel at the start, to the end."""
    network = lf.gaussian(key, (4, 3, 3), std=0.5)
    x, y = np.asarray(regression.x), np.asarray(regression.y)
    kernel = np.asarray(lf.ntk(network, lf.Problem(network, regression)))
    f0 = (x @ network.matrix.T).T.ravel()
    t = 1.3
    values, vectors = np.linalg.eigh(kernel / len(x))
    remaining = vectors @ (np.exp(-values * t) * (vectors.T @ (f0 - y.T.ravel())))

    lazy = lf.solve(lf.Problem(lf.linearise(network), regression), lf.Flow(t1=t, rtol=1e-9)).network

    np.testing.assert_allclose((x @ lazy.matrix.T).T.ravel(), y.T.ravel() + remaining, atol=1e-7)
    np.testing.assert_allclose(jax.vmap(lazy)(regression.x), x @ lazy.matrix.T, atol=1e-12)
    np.testing.assert_array_equal(lazy.start.weights[0], network.weights[0])


def test_a_heavy_start_flows_like_its_linearised_twin(key, regression):
    """Large imbalance is lazy: the functions of the two stay together, and do not for a balanced start."""

    def apart(lam):
        network = lf.lambda_balanced(key, lam, 0.3, inp=4, hid=3, out=3)
        ends = [
            lf.solve(lf.Problem(start, regression), lf.Flow(t1=0.3 / (1 + abs(lam)))).network
            for start in (network, lf.linearise(network))
        ]
        return lf.function_distance(*ends, lf.Problem(network, regression))

    assert apart(100.0) < 0.01 * apart(0.0)


@pytest.mark.slow
def test_an_mlp_has_a_linearised_twin_too(key):
    x = jax.random.normal(key, (6, 3))
    mlp = eqx.nn.MLP(3, 2, 5, 1, activation=jnp.tanh, key=key)
    with jax.numpy_rank_promotion("allow"):
        lazy = lf.linearise(mlp)
        problem = lf.Problem(lazy, lf.Samples(x, jnp.ones((6, 2))))
        path = lf.solve(problem, lf.Flow(t1=20.0), ts=[0.0, 20.0])
        np.testing.assert_allclose(jax.vmap(lazy)(x), jax.vmap(mlp)(x), rtol=1e-14)
    assert path.observed["loss"][1] < 0.2 * path.observed["loss"][0]
    assert not hasattr(lazy, "matrix")
