"""Normalised inputs, a normalised neuron, targets that change with time, and weights rescaled on the way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.integrate import solve_ivp

import layerflow as lf
from layerflow import theory

EXACT = {"rtol": 1e-12, "atol": 1e-13}
neuron = theory.normalised_neuron


def integrated(velocity, start, ts):
    run = solve_ivp(velocity, (0.0, ts[-1]), np.ravel(start), "DOP853", ts, rtol=1e-12, atol=1e-14)
    return run.y.T


# ---- Normalised inputs


def test_learnt_scales_on_normalised_inputs_are_modes():
    """f = sum_j g_j b_j x_j / sqrt(E_j) by the gradient of its loss, and the modes one by one."""
    e, s, ts = np.array([4.0, 1.0, 0.09]), np.array([1.0, -0.5, 2.0]), np.linspace(0.0, 6.0, 13)
    g0, b0 = np.array([0.3, 0.2, 0.1]), np.array([0.1, -0.4, 0.5])

    def velocity(_, y):
        g, b = np.split(y, 2)
        # The gradient of sum_j E_j (S_j - g_j b_j / sqrt(E_j))^2 / 2.
        gap = e * (s - g * b / np.sqrt(e)) / np.sqrt(e)
        return np.concatenate([b * gap, g * gap])

    g, b = np.split(integrated(velocity, [g0, b0], ts), 2, axis=1)
    modes = theory.normalised_pair(ts[:, None], g0[None], b0[None], s[None], e[None])
    np.testing.assert_allclose(modes.a, g, atol=1e-10)
    np.testing.assert_allclose(modes.b, b, atol=1e-10)


def test_normalisation_takes_the_root_of_the_spread_of_speeds():
    e = np.array([4.0, 1.0, 0.09])
    plain = theory.sigmoidal_time(0.5, 0.0025, 1.0, e)
    normalised = theory.sigmoidal_time(0.5, 0.0025, np.sqrt(e), 1.0)
    np.testing.assert_allclose(plain, [0.749, 2.99, 33.3], rtol=2e-3)
    np.testing.assert_allclose(normalised, [1.67, 2.99, 7.97], rtol=2e-3)
    half = theory.normalised_pair(normalised, 0.05, 0.05, 1.0, e).strength
    np.testing.assert_allclose(half, 0.5 * np.sqrt(e), rtol=1e-12)


def test_correlated_inputs_whitened_in_their_components_are_balanced():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 3))
    xx, yx = x @ x.T + 0.3 * np.eye(3), rng.normal(size=(2, 3))
    w1, w2 = lf.lambda_balanced(jax.random.key(0), -0.4, 0.3, inp=3, hid=2, out=2).weights
    e, v = np.linalg.eigh(xx)
    whiten = v @ np.diag(e**-0.5)

    def velocity(_, y):
        w1, w2 = y[:6].reshape(2, 3), y[6:].reshape(2, 2)
        gap = (yx - w2 @ w1 @ whiten.T @ xx) @ whiten
        return np.concatenate([(w2.T @ gap).ravel(), (gap @ w1.T).ravel()])

    end = integrated(velocity, np.concatenate([np.ravel(w1), np.ravel(w2)]), [1.5])[0]
    now = theory.balanced_network(w1, w2, -0.4, yx @ whiten, 1.5)
    np.testing.assert_allclose(now.matrix, end[6:].reshape(2, 2) @ end[:6].reshape(2, 3), atol=1e-10)


# ---- One normalised neuron


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ((2.0, 0.2, 0.3, 1.0, 1.0), (0.544929472874572, 0.766337616965650)),
        ((3.0, 0.5, -0.5, 2.0, 2.0), (-1.409698485871527, -0.906414832782667)),
    ],
)
def test_reference_values_of_the_normalised_neuron(start, end):
    now = neuron(*start)
    np.testing.assert_allclose([now.scale, now.cosine], end, **EXACT)


@pytest.mark.parametrize("xx", [np.eye(3), np.diag([2.0, 0.5, 0.1])])
def test_the_length_of_the_weights_is_kept_by_flow_and_grows_by_descent(xx):
    """f = g w.x / sqrt(w^T E[x x^T] w): the gradient is orthogonal to w, so a step adds its square, exactly."""
    beta, rate = jnp.array([1.0, -0.5, 0.3]), 0.3

    def loss(w, g):
        left = beta - g * w / jnp.sqrt(w @ xx @ w)
        return 0.5 * left @ xx @ left

    w, g = jnp.array([0.4, 0.7, -1.2]), 0.8
    gradient = jax.grad(loss)(w, g)
    np.testing.assert_allclose(w @ gradient, 0.0, atol=1e-15)
    after = w - rate * gradient
    np.testing.assert_allclose(after @ after, w @ w + rate**2 * gradient @ gradient, rtol=1e-15)


def test_the_normalised_neuron_is_the_flow_of_its_weights():
    """All of w by the gradient of the population loss in NumPy, against scale and cosine alone."""
    beta, w0, g0, ts = np.array([1.0, -0.5, 0.3]), np.array([0.4, 0.7, -1.2]), 0.8, np.linspace(0.0, 5.0, 11)
    s, norm = np.linalg.norm(beta), np.linalg.norm(w0)

    def velocity(_, y):
        w, g = y[:3], y[3]
        unit = w / np.linalg.norm(w)
        along = beta @ unit
        return np.append(g / np.linalg.norm(w) * (beta - along * unit), along - g)

    path = integrated(velocity, np.append(w0, g0), ts)
    now = neuron(ts, g0, w0 @ beta / (s * norm), s, norm)
    np.testing.assert_allclose(now.scale, path[:, 3], atol=1e-10)
    np.testing.assert_allclose(now.cosine, path[:, :3] @ beta / (s * norm), atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(path[:, :3], axis=1), norm, rtol=1e-10)


@pytest.mark.parametrize(
    ("norm", "target", "scale", "cosine", "t"),
    [(0.1, 1.0, 0.2, 0.2, 2.0), (0.1, 1.0, -0.7, 0.5, 1.0), (10.0, 1.0, 0.2, 0.2, 100.0), (0.5, 3.0, 2.0, -0.9, 2.0)],
)
def test_steps_are_as_exact_as_they_say(norm, target, scale, cosine, t):
    """To 1e-11 at steps of 0.7 / max(1, s / |w|, |g| s / |w|^2), and of order 8."""
    velocity = lambda _, y: [target * y[1] - y[0], target / norm**2 * y[0] * (1 - y[1] ** 2)]
    path = solve_ivp(velocity, (0, t), [scale, cosine], "DOP853", rtol=1e-13, atol=1e-15)
    fastest = max(1.0, target / norm, np.abs(path.y[0]).max() * target / norm**2)
    steps = int(np.ceil(t * fastest / 0.7))
    now = neuron(t, scale, cosine, target, norm, steps=steps)
    np.testing.assert_allclose([now.scale, now.cosine], path.y[:, -1], atol=1e-11)


def test_the_order_of_the_steps_is_eight():
    exact = neuron(4.0, 0.2, -0.4, 2.0, 0.5).scale
    errors = [abs(float(neuron(4.0, 0.2, -0.4, 2.0, 0.5, steps=steps).scale - exact)) for steps in (16, 32)]
    assert 7 < np.log2(errors[0] / errors[1]) < 9.5


def test_a_fixed_scale_turns_the_weights_by_a_hyperbolic_tangent():
    """With decay of the weights and without; the cosine stays from -1 to 1 at any time."""
    s, scale, norm, ts = 1.3, -0.7, 0.8, np.linspace(0.0, 2.0, 9)
    for decay in (0.0, 0.4):
        velocity = lambda _, y, decay=decay: [scale * s / y[1] * (1 - y[0] ** 2), -2 * decay * y[1]]
        path = integrated(velocity, [0.3, norm**2], ts)
        np.testing.assert_allclose(theory.normalised_cosine(ts, 0.3, scale, s, norm, decay), path[:, 0], atol=1e-10)
    plain = np.tanh(np.arctanh(0.3) + scale * s * ts / norm**2)
    np.testing.assert_allclose(theory.normalised_cosine(ts, 0.3, scale, s, norm), plain, **EXACT)
    ends = theory.normalised_cosine(1e6, np.array([-1.0, 1.0, 0.3, 0.3]), np.array([1.0, -1.0, 0.0, 1.0]), s, norm, 1.0)
    np.testing.assert_allclose(ends, [-1.0, 1.0, 0.3, 1.0], atol=1e-15)


def test_weights_that_stay_leave_a_linear_readout():
    """At phi = 1 or -1 w has nowhere to turn, and g is exponential."""
    ts = np.linspace(0.0, 4.0, 9)
    for cosine in (1.0, -1.0):
        now = neuron(ts, 0.3, cosine, 1.5, 0.7)
        np.testing.assert_allclose(now.scale, theory.exponential(ts, 0.3, 1.5 * cosine), **EXACT)
        np.testing.assert_array_equal(now.cosine, cosine)


@pytest.mark.parametrize(("square", "error"), [(10.0, 0.39), (100.0, 0.44)])
def test_heavy_weights_turn_slowly_with_an_error_of_first_order(square, error):
    ts = np.linspace(0.0, 6 * square, 301)
    now = neuron(ts, 0.2, 0.2, 1.0, np.sqrt(square), steps=1000)
    limit = theory.heavy_normalised_neuron(ts, 0.2, 1.0, np.sqrt(square))
    np.testing.assert_allclose(np.abs(now.cosine - limit.cosine).max() * square, error, atol=5e-3)
    assert np.abs(now.scale - limit.scale)[ts > 10].max() < 1 / square


def test_heavy_weights_keep_the_sign_of_their_cosine():
    """The same function either way: (g, phi) = (s, 1) or (-s, -1)."""
    for cosine in (0.2, -0.2):
        now = neuron(2000.0, 0.0, cosine, 1.0, 10.0, steps=4000)
        limit = theory.heavy_normalised_neuron(2000.0, cosine, 1.0, 10.0)
        np.testing.assert_allclose([now.scale, now.cosine], np.sign([cosine, cosine]), atol=1e-8)
        np.testing.assert_allclose([limit.scale, limit.cosine], np.sign([cosine, cosine]), atol=1e-8)


def test_light_weights_are_a_linear_readout_with_an_error_of_first_order():
    ts = np.linspace(0.0, 8.0, 401)
    limit = theory.light_normalised_neuron(ts, 0.2, 1.0)
    np.testing.assert_allclose(limit.scale, 1 - 0.8 * np.exp(-ts), **EXACT)
    for square in (1e-2, 1e-3):
        now = neuron(ts, 0.2, 0.2, 1.0, np.sqrt(square), steps=2000)
        assert 2.2 < np.abs(now.scale - limit.scale).max() / square < 2.6
        np.testing.assert_allclose(now.cosine[ts > 1], limit.cosine[ts > 1], atol=1e-8)
    other = theory.light_normalised_neuron(3.0, -0.5, 1.0)
    now = neuron(3.0, -0.5, 0.2, 1.0, 0.03, steps=4000)
    np.testing.assert_allclose([now.scale, now.cosine], [other.scale, other.cosine], atol=5e-3)


# ---- Schedules


def smooth(x):
    """The integral of the target 1 + 3 cos(2 x)."""
    return x + 1.5 * jnp.sin(2 * x)


@pytest.mark.parametrize("start", [0.05, 2.0, -0.3])
@pytest.mark.parametrize("variance", [1.0, 0.4])
def test_equal_layers_follow_a_target_of_time(start, variance):
    ts = np.linspace(0.0, 6.0, 13)
    a = np.sqrt(abs(start))
    target = lambda t: 1 + 3 * np.cos(2 * t)
    velocity = lambda t, y: variance * (target(t) - y[0] * y[1]) * y[::-1]
    path = integrated(velocity, [a, np.sign(start) * a], ts)
    now = theory.scheduled_strength(ts, start, smooth, variance)
    np.testing.assert_allclose(now, path[:, 0] * path[:, 1], atol=1e-10)


def test_a_constant_target_is_a_sigmoid_at_any_time():
    """No exponential overflows, of either sign, and a constant in the integral does not matter."""
    ts = np.array([0.0, 1.0, 20.0, 400.0])
    for target in (1.5, -1.5):
        now = theory.scheduled_strength(ts, 0.1, lambda t, s=target: s * t + 7.0, panels=1600)
        np.testing.assert_allclose(now, theory.sigmoidal(ts, 0.1, target), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 2, 4)])
def test_zero_balanced_matrices_follow_a_target_of_time(shape):
    inp, hid, out = shape
    w1, w2 = lf.lambda_balanced(jax.random.key(1), 0.0, 0.3, inp=inp, hid=hid, out=out).weights
    sigma_yx, n = np.random.default_rng(2).normal(size=(out, inp)), hid * inp

    def velocity(t, y):
        w1, w2 = y[:n].reshape(hid, inp), y[n:].reshape(out, hid)
        gap = (1 + 3 * np.cos(2 * t)) * sigma_yx - w2 @ w1
        return np.concatenate([(w2.T @ gap).ravel(), (gap @ w1.T).ravel()])

    ts = np.array([0.4, 1.3, 4.0])
    path = integrated(velocity, np.concatenate([np.ravel(w1), np.ravel(w2)]), ts)
    end = jax.vmap(lambda t: theory.scheduled_network(w1, w2, sigma_yx, smooth, t))(ts)
    expected = path[:, n:].reshape(-1, out, hid) @ path[:, :n].reshape(-1, hid, inp)
    np.testing.assert_allclose(end.matrix, expected, atol=1e-10)


def test_a_constant_schedule_is_the_balanced_network():
    """At long times too; and a schedule of pieces is a sequence of tasks."""
    w1, w2 = lf.lambda_balanced(jax.random.key(1), 0.0, 0.3, inp=3, hid=2, out=2).weights
    sigma_yx = np.random.default_rng(3).normal(size=(2, 3))
    for t in (0.0, 1.0, 40.0):
        now = theory.scheduled_network(w1, w2, sigma_yx, lambda x: 1.2 * x, t, panels=256)
        np.testing.assert_allclose(now.factor @ now.factor.T, gram(w1, w2, 1.2 * sigma_yx, t), atol=1e-12)
    sizes, switches = np.array([2.0, -1.0]), np.array([0.8])
    pieces = lambda x: jnp.where(x < 0.8, 2.0 * x, 1.6 - (x - 0.8))
    now = theory.scheduled_network(w1, w2, sigma_yx, pieces, 1.6, panels=64)  # an edge of panels at 0.8
    tasks = sizes[:, None, None] * sigma_yx
    composed = theory.balanced_sequence(w1, w2, 0.0, tasks, switches, np.array([1.6]))
    np.testing.assert_allclose(now.matrix, composed.matrix[0], atol=1e-12)


def gram(w1, w2, sigma_yx, t):
    q = theory.balanced_network(w1, w2, 0.0, sigma_yx, t).factor
    return q @ q.T


@pytest.mark.parametrize("schedule", ["constant", "high", "opposite", "slow"])
def test_a_schedule_of_the_target_does_not_change_the_end(schedule):
    """Weights, and Sigma = sqrt(S^2 + Sigma(0)^2 - f(0)^2), for excursions to 10 S and to the opposite sign."""
    targets = {
        "constant": lambda t: 1.0,
        "high": lambda t: 1 + 9 * np.exp(-4 * (t - 1) ** 2),
        "opposite": lambda t: 1 - 3 * np.exp(-4 * (t - 1) ** 2),
        "slow": lambda t: 1 - np.exp(-t),
    }
    a0, b0, s = np.array([0.5, -0.2, 0.1]), np.array([0.3, 0.4, -0.6]), 1.5

    def velocity(t, y):
        a, b = np.split(y, 2)
        return (s * targets[schedule](t) - a @ b) * np.concatenate([b, a])

    a, b = np.split(integrated(velocity, [a0, b0], [60.0])[0], 2)
    end = theory.scalar_network_limit(a0, b0, s)
    np.testing.assert_allclose([a, b], [end.a, end.b], atol=1e-9)
    np.testing.assert_allclose(0.5 * (a @ a + b @ b), end.weight_scale, rtol=1e-9)


def test_a_schedule_may_change_between_calls():
    """What it closes over is read at every call."""
    sizes = [1.0]
    integral = lambda t: sizes[0] * t
    strength = lambda: float(theory.scheduled_strength(1.0, 0.1, integral))
    first, sizes[0] = strength(), 2.0
    np.testing.assert_allclose([first, strength()], theory.sigmoidal(1.0, 0.1, np.array([1.0, 2.0])), rtol=1e-13)


# ---- Rescaling


def test_reference_values_of_rescaled_and_scheduled_pairs():
    """Pieces of constant target by one mode after the other, and by a sequence of one-by-one tasks."""
    first = theory.layer_pair(0.8, 0.9, 0.2, 1.5)
    end = theory.layer_pair(1.1, 0.4 * first.a, 0.4 * first.b, 1.5)
    np.testing.assert_allclose([end.a, end.b], [1.119003356027282, 1.062529298796189], **EXACT)
    first = theory.layer_pair(0.3, 0.3, -0.1, 5.0)
    end = theory.layer_pair(1.0, first.a, first.b, 1.0)
    np.testing.assert_allclose([end.a, end.b], [0.826363621391159, 0.776451437476106], **EXACT)
    first = theory.sigmoidal(2.0, 1.0, 1.0)
    end = theory.sigmoidal(1.0, 0.25 * first, -1.0)
    np.testing.assert_allclose(np.sqrt(end), 0.166793476768837, **EXACT)
    for a, b, targets, switch, t, factor, expected in [
        (0.9, 0.2, (1.5, 1.5), 0.8, 1.9, 0.4, (1.119003356027282, 1.062529298796189)),
        (0.3, -0.1, (5.0, 1.0), 0.3, 1.3, 1.0, (0.826363621391159, 0.776451437476106)),
        (1.0, 1.0, (1.0, -1.0), 2.0, 3.0, 0.5, (0.166793476768837, 0.166793476768837)),
    ]:
        w1, w2, tasks = np.array([[b]]), np.array([[a]]), np.reshape(targets, (2, 1, 1))
        path = theory.balanced_sequence(w1, w2, a**2 - b**2, tasks, np.array([switch]), np.array([t]), factors=factor)
        np.testing.assert_allclose(np.abs([path.w2[0, 0, 0], path.w1[0, 0, 0]]), expected, **EXACT)
        np.testing.assert_allclose(path.matrix.ravel(), expected[0] * expected[1], **EXACT)


def test_shrinking_the_weights_makes_the_rest_of_training_richer():
    """Sigma(inf) = sqrt(S^2 + c^4 (Sigma^2 - f^2)), and the kernel grows by that over c^2 Sigma."""
    a, b, s, c = np.array([0.9]), np.array([0.2]), 1.5, np.array([1.0, 0.5, 0.1])
    weight_scale, f = 0.425, 0.18
    growth = theory.kernel_growth(c[:, None] * a, c[:, None] * b, s)
    np.testing.assert_array_less(np.abs(growth - np.array([3.64, 14.1, 353.0])), [5e-3, 5e-2, 0.5])
    end = np.sqrt(s**2 + c**4 * (weight_scale**2 - f**2))
    np.testing.assert_allclose(growth, end / (c**2 * weight_scale), rtol=1e-13)
    np.testing.assert_allclose(theory.scalar_network_limit(c[:, None] * a, c[:, None] * b, s).weight_scale, end)


def test_another_output_scale_goes_on_from_the_same_weights():
    a0, b0, s = np.array([0.5, -0.2]), np.array([0.3, 0.4]), 1.2
    first = theory.scalar_network(0.6, a0, b0, s, z=1.0)
    end = theory.scalar_network(0.9, first.a, first.b, s, z=3.0)

    def velocity(t, y):
        a, b = np.split(y, 2)
        z = 1.0 if t < 0.6 else 3.0
        return (s - a @ b / z) / z * np.concatenate([b, a])

    middle = integrated(velocity, [a0, b0], [0.6 - 1e-15])[0]
    late = integrated(lambda t, y: velocity(t + 0.6, y), middle, [0.9])[0]
    np.testing.assert_allclose(np.concatenate([end.a, end.b]), late, atol=1e-10)


# ---- Numbers in and out


def test_derivatives():
    check_grads(lambda *x: neuron(1.5, *x, steps=20).scale, (0.4, 0.3, 1.2, 0.9), order=1, modes=("rev",), rtol=1e-6)
    strength = lambda start, s: theory.scheduled_strength(2.0, start, lambda t: s * jnp.sin(t), panels=4)
    check_grads(strength, (0.3, 1.4), order=1, modes=("rev",), rtol=1e-6)
    for cosine in (-1.0, 0.0, 1.0):
        of = lambda cosine, scale: theory.normalised_cosine(3.0, cosine, scale, 1.0, 0.5, 0.0)
        assert np.isfinite(jax.grad(of, argnums=(0, 1))(cosine, 0.0)).all()
        heavy = lambda cosine: theory.heavy_normalised_neuron(1.0, cosine, 1.0, 3.0).scale
        assert np.isfinite(jax.grad(heavy)(cosine))


def test_derivatives_of_a_scheduled_network_where_eigenvalues_coincide():
    start = 0.4 * np.eye(2)
    matrix = jax.jit(lambda s, t: theory.scheduled_network(start, start, s, jnp.sin, t, panels=4).matrix)
    check_grads(matrix, (np.eye(2), 1.1), order=1, modes=("rev",), rtol=1e-6)


def test_float32():
    single = np.float32
    now = neuron(single(2.0), single(0.2), single(0.3), single(1.0), single(1.0))
    assert now.scale.dtype == single
    np.testing.assert_allclose([now.scale, now.cosine], [0.544929472874572, 0.766337616965650], atol=2e-6)
    strength = theory.scheduled_strength(np.array([1.0, 20.0], single), 0.1, lambda t: 1.5 * t)
    assert strength.dtype == single
    np.testing.assert_allclose(strength, theory.sigmoidal(np.array([1.0, 20.0]), 0.1, 1.5), rtol=1e-5)


def test_errors():
    for changed, words in [
        ({"cosine": 1.5}, r"`cosine` needs numbers from -1 to 1, but it holds 1\.5"),
        ({"weight_norm": 0.0}, r"`weight_norm` is the length of the weights and needs to be positive"),
        ({"target": -1.0}, r"`target` is the length of the target and needs to be at least 0"),
        ({"steps": 0}, r"`steps` counts steps and needs to be a whole number.*but it is 0"),
    ]:
        call = {"t": 1.0, "scale": 0.5, "cosine": 0.5, "target": 1.0, "weight_norm": 1.0} | changed
        with pytest.raises(ValueError, match=words):
            neuron(**call)
    with pytest.raises(ValueError, match=r"`decay` is the decay of the weights and needs to be at least 0"):
        theory.normalised_cosine(1.0, 0.5, 1.0, 1.0, 1.0, -1.0)
    with pytest.raises(ValueError, match=r"`scale` needs numbers other than 0"):
        theory.light_normalised_neuron(1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"`panels` counts pieces of time and needs to be a whole number.*but it is 0"):
        theory.scheduled_strength(1.0, 0.1, jnp.sin, panels=0)
    with pytest.raises(
        ValueError, match=r"`integral` takes an array of times.*shape \(\) the same.*returned shape \(2,\)"
    ):
        theory.scheduled_strength(1.0, 0.1, lambda t: jnp.ones(2))
    with pytest.raises(ValueError, match=r"`t` holds one time, but it has shape \(2,\)\. Map over many"):
        theory.scheduled_network(np.eye(2), np.eye(2), np.eye(2), jnp.sin, np.ones(2))
    with pytest.raises(ValueError, match="lambda-balanced start"):
        theory.scheduled_network(np.eye(2), 2 * np.eye(2), np.eye(2), jnp.sin, 1.0)
