"""Several tasks one after the other: what stays of the first, what is forgotten, and what a reversal takes."""

import jax
import mpmath
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.integrate import solve_ivp
from scipy.linalg import expm

import layerflow as lf
from layerflow import theory

EXACT = {"rtol": 1e-12, "atol": 1e-13}
sequence = jax.jit(theory.balanced_sequence)


def rotation(x):
    return np.array([[np.cos(x), -np.sin(x)], [np.sin(x), np.cos(x)]])


def start(lam, rho, u, v, r):
    """Square layers with singular values rho of the product U diag(rho) V^T."""
    k = np.sqrt(lam**2 + 4 * np.asarray(rho) ** 2)
    return r @ np.diag(np.sqrt((k - lam) / 2)) @ v.T, u @ np.diag(np.sqrt((k + lam) / 2)) @ r.T


def drawn(lam, shape, seed=0, size=0.3):
    inp, hid, out = shape
    return lf.lambda_balanced(jax.random.key(seed), lam, size, inp=inp, hid=hid, out=out).weights


def integrated(w1, w2, tasks, switches, ts, factors=None):
    """Maps along the flow of one task after the other in NumPy, at `ts` in order and at each switch after it."""
    hid, inp = w1.shape
    ends = [*switches, np.inf]
    begins = [0.0, *switches]
    factors = np.ones(len(switches)) if factors is None else factors
    state, maps = np.concatenate([np.ravel(w1), np.ravel(w2)]), []

    def layers(y):
        return y[: hid * inp].reshape(hid, inp), y[hid * inp :].reshape(-1, hid)

    for k, task in enumerate(tasks):

        def velocity(_, y, task=task):
            w1, w2 = layers(y)
            gap = task - w2 @ w1
            return np.concatenate([(w2.T @ gap).ravel(), (gap @ w1.T).ravel()])

        inside = [t for t in ts if begins[k] <= t < ends[k]]
        stops = [*inside, ends[k]] if np.isfinite(ends[k]) else inside
        run = solve_ivp(velocity, (begins[k], stops[-1]), state, "DOP853", stops, rtol=1e-12, atol=1e-14).y.T
        maps += [layers(y)[1] @ layers(y)[0] for y in run[: len(inside)]]
        if k < len(factors):
            state = factors[k] * run[-1]
    return np.array(maps)


FIRST = np.array([[1.0, 0.3], [-0.2, 0.8]])
ROWS = {
    "lam 0.5": (
        start(0.5, [0.2, 0.6], rotation(0.7), rotation(0.3), np.eye(2)),
        (0.5, [FIRST, [[-0.5, 0.4], [0.3, -0.9]]], [2.0], 3.5),
        [[-0.115001126793564, 0.374892616417918], [0.123697767181706, -0.414354526949659]],
        (1.414136789173196, 0.207894257935784),
    ),
    "lam 0": (
        start(0.0, [0.2, 0.6], rotation(0.7), rotation(0.3), rotation(0.4)),
        (0.0, [FIRST, [[0.6, -0.7], [0.5, 0.9]]], [3.0], 4.0),
        [[0.669394751399659, -0.528979276842841], [0.375341927742136, 0.889580880409423]],
        (0.567774769894969, 0.024855956151554),
    ),
    "lam -2": (
        start(-2.0, [0.1, 0.1], np.eye(2), rotation(1.0), rotation(0.2)),
        (-2.0, [np.diag([1, 0.5]), [[0, -1], [0.5, 0]], np.diag([1, 0.5])], [1.0, 2.0], 2.5),
        [[0.714976896572117, -0.282307557372698], [0.142501958032918, 0.355606681347221]],
        (0.101045982476090, None),
    ),
}


# ---- Composition


@pytest.mark.parametrize("row", ROWS)
def test_reference_values_of_sequences(row):
    (w1, w2), (lam, tasks, switches, t), matrix, (first, second) = ROWS[row]
    tasks = np.array(tasks, float)
    end = sequence(w1, w2, lam, tasks, np.array(switches), np.array([t]))
    np.testing.assert_allclose(end.matrix[0], matrix, **EXACT)
    np.testing.assert_allclose(end.loss(tasks[0])[0], first, **EXACT)
    if second is not None:
        np.testing.assert_allclose(end.loss(tasks[1])[0], second, **EXACT)
    if row == "lam 0.5":
        np.testing.assert_allclose(np.trace(end.input_gram[0]), 0.385033798082925, **EXACT)


@pytest.mark.parametrize(
    ("lam", "shape"),
    [
        (0.0, (2, 2, 2)),
        (0.4, (3, 2, 2)),
        pytest.param(-3.0, (3, 2, 2), marks=pytest.mark.slow),
        pytest.param(0.4, (2, 3, 4), marks=pytest.mark.slow),
        pytest.param(-3.0, (3, 3, 1), marks=pytest.mark.slow),
        pytest.param(0.0, (3, 3, 1), marks=pytest.mark.slow),
    ],
)
def test_sequences_follow_direct_integration(lam, shape):
    """Three tasks, times in any order, with and without weights multiplied at the switches; widths of every kind."""
    inp, _, out = shape
    w1, w2 = drawn(lam, shape)
    tasks = np.random.default_rng(1).normal(size=(3, out, inp))
    switches, ts = np.array([0.7, 1.5]), np.array([0.0, 0.4, 0.7, 1.1, 1.5, 2.4])
    for factors in (np.ones(2), np.array([0.5, 1.2])):
        path = sequence(w1, w2, lam, tasks, switches, ts[::-1], factors=factors)
        expected = integrated(w1, w2, tasks, switches, ts, factors)
        np.testing.assert_allclose(path.matrix[::-1], expected, atol=1e-10)


@pytest.mark.parametrize("lam", [0.0, 0.7, -1.5])
def test_the_factor_agrees_with_the_form_of_the_product_alone(lam):
    """P -> e^{FT} P (I + Psi P)^{-1} e^{FT}, and P J P = lambda P after every task."""
    w1, w2 = drawn(lam, (3, 3, 3), seed=2)
    tasks = np.random.default_rng(3).normal(size=(3, 3, 3))
    p, signs = np.block([[w1.T], [w2]]) @ np.block([[w1, w2.T]]), np.diag([-1.0] * 3 + [1.0] * 3)
    for task in tasks:
        rates, v = np.linalg.eigh(np.block([[-lam / 2 * np.eye(3), task.T], [task, lam / 2 * np.eye(3)]]))
        grown = v @ np.diag(np.exp(0.8 * rates)) @ v.T
        psi = v @ np.diag(np.expm1(1.6 * rates) / (2 * rates)) @ v.T
        p = grown @ p @ np.linalg.inv(np.eye(6) + psi @ p) @ grown
    q = sequence(w1, w2, lam, tasks, np.array([0.8, 1.6]), np.array([2.4])).factor[0]
    np.testing.assert_allclose(q @ q.T, p, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(q @ q.T @ signs @ q @ q.T, lam * q @ q.T, atol=1e-11)


def test_weights_matter_only_up_to_rotations_of_hidden_units():
    w1, w2 = drawn(0.3, (2, 2, 2))
    tasks, o = np.random.default_rng(4).normal(size=(2, 2, 2)), rotation(1.1)
    ts = np.array([0.5, 1.0, 2.0])
    plain, turned = (sequence(*w, 0.3, tasks, np.array([1.0]), ts) for w in ((w1, w2), (o @ w1, w2 @ o.T)))
    np.testing.assert_allclose(plain.matrix, turned.matrix, **EXACT)
    np.testing.assert_allclose(plain.input_gram, turned.input_gram, **EXACT)


def test_tasks_of_the_same_singular_vectors_are_modes_one_by_one():
    u, v, lam = rotation(0.4), rotation(-1.1), 0.6
    rho, first, second = np.array([0.2, 0.5]), np.array([1.5, 0.7]), np.array([-0.4, 1.2])
    tasks = np.stack([u @ np.diag(s) @ v.T for s in (first, second)])
    end = sequence(*start(lam, rho, u, v, np.eye(2)), lam, tasks, np.array([0.8]), np.array([1.7]))
    modes = theory.balanced_strength(0.9, lam, second, theory.balanced_strength(0.8, lam, first, rho))
    np.testing.assert_allclose(end.matrix[0], u @ np.diag(modes) @ v.T, **EXACT)


# ---- What the end of a task remembers


@pytest.mark.parametrize(("lam", "shape"), [(0.3, (2, 2, 2)), (-1.0, (4, 2, 2))])
def test_the_end_of_a_task_knows_neither_earlier_tasks_nor_scale(lam, shape):
    inp, _, out = shape
    last = np.linspace(-1.0, 1.5, out * inp).reshape(out, inp)
    end = theory.balanced_limit(lam, last, shape[1])
    for seed, size in [(0, 0.1), (1, 2.0)]:
        tasks = np.stack([np.random.default_rng(seed).normal(size=(out, inp)), last])
        late = sequence(*drawn(lam, shape, seed, size), lam, tasks, np.array([1.0]), np.array([80.0]))
        np.testing.assert_allclose(late.input_gram[0], end.input_gram, atol=1e-12)
        np.testing.assert_allclose(late.output_gram[0], end.output_gram, atol=1e-12)


def test_the_grams_at_the_end_of_a_square_task():
    """W2 W2^T = lambda / 2 I + (S S^T + lambda^2 / 4 I)^(1/2), W1^T W1 with S^T S and -lambda."""
    lam, end = 0.3, theory.balanced_limit(0.3, FIRST, 2)

    def gram(square, lam):
        rates, v = np.linalg.eigh(square)
        return v @ np.diag(lam / 2 + np.sqrt(rates + lam**2 / 4)) @ v.T

    np.testing.assert_allclose(end.output_gram, gram(FIRST @ FIRST.T, lam), **EXACT)
    np.testing.assert_allclose(end.input_gram, gram(FIRST.T @ FIRST, -lam), **EXACT)


def test_modes_without_a_target_take_their_time():
    """rho_0 / (1 + 2 rho_0 t) for lambda = 0, and e^{-|lambda| t} at last."""
    ts = np.array([0.0, 1.0, 10.0, 100.0])
    first = np.array([[1.0, 0.0], [0.0, 0.0]])
    w1, w2 = start(0.0, [0.2, 0.6], np.eye(2), np.eye(2), np.eye(2))
    path = sequence(w1, w2, 0.0, np.stack([first, 2 * first]), np.array([5.0]), ts)
    np.testing.assert_allclose(path.matrix[:, 1, 1], 0.6 / (1 + 1.2 * ts), rtol=1e-11)
    late = theory.balanced_strength(np.array([8.0, 9.0]), -1.5, 0.0, 0.6)
    np.testing.assert_allclose(np.log(late[0] / late[1]), 1.5, rtol=1e-6)


def test_a_network_that_is_not_balanced_does_remember():
    """The first Gram matrix after a detour through another task differs, by far more than rounding."""
    rng = np.random.default_rng(0)
    w1, w2, other = rng.normal(size=(3, 2, 2))

    def gram(tasks):
        y = np.concatenate([w1.ravel(), w2.ravel()])
        for task in tasks:

            def velocity(_, y, task=task):
                w1, w2 = y.reshape(2, 2, 2)
                gap = task - w2 @ w1
                return np.stack([w2.T @ gap, gap @ w1.T]).ravel()

            y = solve_ivp(velocity, (0.0, 60.0), y, "DOP853", rtol=1e-11, atol=1e-13).y[:, -1]
        np.testing.assert_allclose(y[4:].reshape(2, 2) @ y[:4].reshape(2, 2), FIRST, atol=1e-6)
        return y[:4].reshape(2, 2).T @ y[:4].reshape(2, 2)

    assert np.linalg.norm(gram([FIRST]) - gram([4 * other, FIRST])) > 0.1


# ---- Reversal


@pytest.mark.parametrize(
    ("lam", "s1", "s2", "t", "strength", "crossing"),
    [
        (0.0, 1.3, 1.3, 0.8, 0.086615056631352, np.inf),
        (0.1, 1.0, 1.0, 1.5, 0.0020983854501656, 1.520955723920437),
        (-2.0, 0.7, 1.2, 0.4, -0.377310869382212, 0.215862120670459),
        (1e-6, 1.0, 1.0, 0.0, 1.0, 7.254329119261203),
    ],
)
def test_reference_values_of_reversals(lam, s1, s2, t, strength, crossing):
    np.testing.assert_allclose(theory.balanced_strength(t, lam, -s2, s1), strength, rtol=1e-11)
    np.testing.assert_allclose(theory.balanced_strength(t, lam, s2, -s1), -strength, rtol=1e-11)
    for sign in (1.0, -1.0):
        np.testing.assert_allclose(theory.reversal_time(-lam, sign * s1, -sign * s2), crossing, rtol=1e-13)


@pytest.mark.parametrize("lam", [1e-8, 1e-3, 0.4, 30.0])
@pytest.mark.parametrize(("s1", "s2"), [(1.0, 1.0), (0.3, 2.0), (5.0, 0.1)])
def test_reversal_times_are_those_of_the_general_line_in_fifty_digits(lam, s1, s2):
    with mpmath.workdps(50):
        m, a, b = (mpmath.mpf(x) for x in (lam, s1, s2))
        r, k = mpmath.sqrt(b**2 + m**2 / 4), mpmath.sqrt(m**2 + 4 * a**2)
        big = (k + 2 * a) / 2
        g, plus, minus = m / (2 * big), m**2 / 4 / ((r + b) * big), -(b + r) / big
        expected = float(mpmath.log((g - minus) * (1 - plus) / ((g - plus) * (1 - minus))) / (2 * r))
        equal = float(mpmath.log(1 + 2 * r / m) / (2 * r))
    np.testing.assert_allclose(theory.reversal_time(lam, s1, -s2), expected, rtol=2e-14)
    if s1 == s2:
        np.testing.assert_allclose(theory.reversal_time(lam, s1, -s2), equal, rtol=2e-14)


def test_limits_of_the_reversal_time():
    times = theory.reversal_time(np.array([1e-6, 1e-3, 0.1, 1.0, 10.0]), 1.0, -1.0)
    np.testing.assert_allclose(times, [7.2543, 3.8007, 1.5210, 0.52519, 0.068935], rtol=3e-5)
    np.testing.assert_allclose(theory.reversal_time(1e-12, 1.5, -1.5), np.log(3e12) / 3, rtol=1e-11)
    np.testing.assert_allclose(theory.reversal_time(1e6, 1.0, -1.0), np.log(2) / 1e6, rtol=1e-6)
    never = theory.reversal_time(np.array([0.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0]), np.array([-1.0, 1.0, 0.0]))
    assert np.isinf(never).all()
    assert theory.reversal_time(0.0, 0.0, -1.0) == 0


@pytest.mark.parametrize("s2", [0.6, 1.3])
def test_without_imbalance_a_reversal_decays_to_the_plateau(s2):
    """rho = s2 / ((1 + s2 / s1) e^{2 s2 t} - 1), the loss from (s1 + s2)^2 / 2 to s2^2 / 2."""
    s1, ts = 1.3, np.linspace(0.0, 10.0, 41)
    rho = theory.balanced_strength(ts, 0.0, -s2, s1)
    np.testing.assert_allclose(rho, s2 / ((1 + s2 / s1) * np.exp(2 * s2 * ts) - 1), atol=1e-15)
    loss = 0.5 * (rho + s2) ** 2
    np.testing.assert_allclose([loss[0], loss[-1]], [0.5 * (s1 + s2) ** 2, 0.5 * s2**2], rtol=3e-5)


@pytest.mark.parametrize("lam", [0.1, -1.0])
def test_a_learnt_matrix_reverses_mode_by_mode(lam):
    u, s, vt = np.linalg.svd(FIRST)
    learnt = theory.balanced_limit(lam, FIRST, 2)
    ts = np.linspace(0.0, 3.0, 13)
    path = theory.balanced_path(learnt.w1, learnt.w2, lam, -FIRST, ts)
    modes = theory.balanced_strength(ts[:, None], lam, -s, s)
    np.testing.assert_allclose(
        u.T @ np.asarray(path.matrix) @ vt.T, np.asarray(modes)[:, :, None] * np.eye(2), atol=1e-12
    )
    crossed = theory.balanced_path(learnt.w1, learnt.w2, lam, -FIRST, theory.reversal_time(lam, s, -s))
    np.testing.assert_allclose(
        np.diagonal(u.T @ np.asarray(crossed.matrix) @ vt.T, 0, 1, 2).diagonal(), 0.0, atol=1e-12
    )


@pytest.mark.parametrize("eps", [1e-3, 1e-4, 1e-5])
def test_a_slight_misalignment_escapes_the_saddle_in_time(eps):
    """Half of the new target after [2 ln(1/eps) + (5/2) ln 2] / s, up to terms that vanish with eps."""
    s, t = 1.7, (2 * np.log(1 / eps) + 2.5 * np.log(2)) / 1.7
    old = np.sqrt(s) * np.array([-np.cos(eps), np.sin(eps)])
    now = theory.single_neuron(old, np.sqrt(s), np.array([s, 0.0]), t)
    np.testing.assert_allclose(now.map[0] / s, 0.5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_parity_decides_whether_a_square_reversal_is_learnt(n):
    """sign det(W2 W1) stays: with n even the loss ends at 0, with n odd at s_min^2 / 2."""
    s = np.array([1.0, 0.8, 0.5, 0.7])[:n]
    task = np.diag(s)
    learnt = theory.balanced_limit(0.0, task, n)
    skew = np.triu(np.random.default_rng(0).normal(size=(n, n)), 1)
    turn = expm(1e-2 * (skew - skew.T))
    path = theory.balanced_path(learnt.w1 @ turn.T, learnt.w2, 0.0, -task, np.array([40.0]))
    assert bool(theory.sign_obstruction(learnt.w1, learnt.w2, -task)) == (n % 2 == 1)
    np.testing.assert_allclose(path.loss(-task)[0], 0.5 * s.min() ** 2 * (n % 2), atol=1e-5)


# ---- The single neuron near a reversal


def neuron_in_sixty_digits(w, a, beta, t):
    with mpmath.workdps(60):
        w, beta = ([mpmath.mpf(float(x)) for x in v] for v in (w, beta))
        a, t = mpmath.mpf(float(a)), mpmath.mpf(float(t))
        s, delta = mpmath.sqrt(sum(x * x for x in beta)), a * a - sum(x * x for x in w)
        k = mpmath.sqrt(delta**2 / 4 + s**2)
        along = sum(x * y for x, y in zip(w, beta, strict=True)) / s
        across = [x - along * y / s for x, y in zip(w, beta, strict=True)]

        def flow(u):
            c, h = mpmath.cosh(k * u), mpmath.sinh(k * u) / k
            return c * along + h * (s * a - delta / 2 * along), c * a + h * (s * along + delta / 2 * a)

        half, end = flow(t / 2), flow(t)
        m = 1 + mpmath.sinh(k * t) / k * (half[0] ** 2 + half[1] ** 2)
        m += sum(x * x for x in across) * (t if delta == 0 else (1 - mpmath.exp(-delta * t)) / delta)
        turned = [end[0] * y / s + mpmath.exp(-delta * t / 2) * x for x, y in zip(across, beta, strict=True)]
        return np.array([float(x / mpmath.sqrt(m)) for x in [*turned, end[1]]])


@pytest.mark.parametrize("eps", [0.3, 1e-2, 1e-6, 0.0])
@pytest.mark.parametrize("length", [1.0, 0.7, 1.6])
def test_the_neuron_keeps_its_digits_near_a_reversal(eps, length):
    """Against 60 digits for the numbers as they are stored, delta = 0 and of both signs; never away from eps = 0."""
    w, a, beta = length * np.array([-np.cos(eps), np.sin(eps)]), 1.0, np.array([1.3, 0.0])
    for t in (0.5, 5.0, 20.0, 40.0):
        now = theory.single_neuron(w, a, beta, t)
        np.testing.assert_allclose([*now.w, now.a], neuron_in_sixty_digits(w, a, beta, t), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("eps", [1e-1, 1e-2, 1e-3])
def test_in_any_direction_a_reversal_loses_the_rounding_of_a_product(eps):
    """About 1e-16 / eps^2 at worst, where w and beta are along no axis."""
    w, beta = (np.array([np.cos(x), np.sin(x)]) for x in (0.7 + np.pi - eps, 0.7))
    for t in (5.0, 20.0, 40.0):
        now = theory.single_neuron(w, 1.0, beta, t)
        exact = neuron_in_sixty_digits(w, 1.0, beta, t)
        np.testing.assert_allclose([*now.w, now.a], exact, atol=1e-14 + 1e-16 / eps**2, rtol=0)


@pytest.mark.parametrize(
    ("delta", "phi", "t", "w", "a", "losses"),
    [
        (
            0.0,
            1.0,
            1.0,
            (0.761758934749998, 0.524887857702779),
            0.925085908354064,
            (0.161490618028390, 0.076846111503306),
        ),
        (1.0, 2.5, 0.7, (-0.073509765227244, 0.312618946977659), 1.050302000185273, (None, 0.298526308041566)),
    ],
)
def test_reference_values_of_a_neuron_with_a_second_task(delta, phi, t, w, a, losses):
    """From the end of a task of strength 1, to one whose direction is turned by phi."""
    size = np.sqrt((np.sqrt(delta**2 + 4) - delta) / 2)
    first, second = np.array([1.0, 0.0]), np.array([np.cos(phi), np.sin(phi)])
    now = theory.single_neuron(size * first, 1 / size, second, t)
    turned = np.array([[np.cos(phi), np.sin(phi)], [-np.sin(phi), np.cos(phi)]])
    found = min([now.w, turned @ now.w], key=lambda x: np.abs(np.asarray(x) - w).max())
    np.testing.assert_allclose(found, w, **EXACT)
    np.testing.assert_allclose(now.a, a, **EXACT)
    for loss, target in zip(losses, (first, second), strict=True):
        if loss is not None:
            np.testing.assert_allclose(0.5 * np.sum((now.map - target) ** 2), loss, **EXACT)


# ---- Forgetting


@pytest.mark.parametrize(
    ("lam", "shape", "hid"),
    [
        (0.7, (2, 2, 2), None),
        (0.0, (3, 1, 3), 1),
        pytest.param(0.0, (2, 2, 2), None, marks=pytest.mark.slow),
        pytest.param(-2.0, (2, 2, 2), None, marks=pytest.mark.slow),
        pytest.param(0.7, (3, 2, 4), 2, marks=pytest.mark.slow),
        pytest.param(-2.0, (3, 2, 4), 2, marks=pytest.mark.slow),
        pytest.param(-2.0, (3, 1, 3), 1, marks=pytest.mark.slow),
    ],
)
def test_what_is_forgotten_at_last_is_the_distance_of_the_tasks(lam, shape, hid):
    """|S_1 - S_2|^2 / 2 without a bottleneck and with the best part of S_2 behind one, at every imbalance and scale."""
    inp, width, out = shape
    first, second = np.random.default_rng(5).normal(size=(2, out, inp))
    u, s, vt = np.linalg.svd(second, full_matrices=False)
    end = (u[:, :width] * s[:width]) @ vt[:width]
    np.testing.assert_allclose(theory.forgetting(first, second, hid=hid), 0.5 * np.sum((first - end) ** 2), rtol=1e-13)
    seeds = [seed for seed in range(9) if not theory.sign_obstruction(*drawn(lam, shape, seed), second)]
    for seed, size in zip(seeds[:2], (0.1, 1.5), strict=True):
        start, tasks = drawn(lam, shape, seed, size), np.stack([first, second])
        late = sequence(*start, lam, tasks, np.array([1.0]), np.array([200.0]))
        np.testing.assert_allclose(late.loss(first)[0], theory.forgetting(first, second, hid=hid), rtol=1e-9)


def excess(lam, first, second, t1=30.0, n=3001):
    """x from the end of the first task, and L_1 / D where L_2 / D = 1/4."""
    learnt, ts = theory.balanced_limit(lam, first, 2), np.concatenate([[0.0], np.geomspace(1e-4, t1, n)])
    path = theory.balanced_path(learnt.w1, learnt.w2, lam, second, ts)
    losses, distance = (path.loss(first), path.loss(second)), theory.forgetting(first, second)
    quarter = np.interp(-0.25, -losses[1] / distance, losses[0] / distance)
    return theory.forgetting_excess(*losses, distance), quarter


def test_strengths_that_change_are_forgotten_needlessly_by_rich_networks():
    first, second = np.diag([1.0, 0.01]), np.diag([2.0, 1.01])
    for lam, x, quarter in [(0.0, 0.348, 0.54), (0.1, 0.280, 0.53), (1.0, 0.066, 0.31), (10.0, 1.3e-4, 0.25)]:
        found = excess(lam, first, second)
        np.testing.assert_allclose(found[0], x, atol=6e-4 if lam < 10 else 6e-6)
        np.testing.assert_allclose(found[1], quarter, atol=6e-3)


@pytest.mark.parametrize(("phi", "x", "digit"), [(0.3, 4e-4, 1e-4), (1.4, 4e-3, 1e-3), (2.5, 2e-3, 1e-3)])
def test_rotated_tasks_are_forgotten_along_the_straight_line(phi, x, digit):
    """Rich or lazy: x below 0.005, and L_1 / D = 0.25 to 0.26 where L_2 / D = 1/4."""
    first = np.diag([1.0, 0.6])
    second = rotation(phi) @ first @ rotation(phi).T
    found = excess(0.0, first, second)
    np.testing.assert_allclose(found[0], x, atol=digit / 2)
    for lam in (0.0, 1.0, 10.0):
        found = excess(lam, first, second)
        assert 0 <= found[0] < 5e-3
        assert 0.2499 < found[1] < 0.26


def test_needless_forgetting_vanishes_in_lazy_networks_as_the_fourth_power():
    first = np.diag([1.0, 0.6])
    second = rotation(1.4) @ first @ rotation(1.4).T
    x = [excess(lam, first, second, 40 / lam)[0] for lam in (10.0, 20.0)]
    np.testing.assert_allclose(np.log2(x[0] / x[1]), 4.0, atol=0.15)


def test_two_modes_have_an_excess_below_the_root_of_two_less_one():
    """And come near it where one changes long before the other."""
    drawn = np.random.default_rng(6).uniform(0.01, 3.0, size=(20, 4))
    for a, b, c, d in drawn:
        assert excess(0.0, np.diag([a, b]), np.diag([c, d]), n=501)[0] < 2**0.5 - 1
    late = excess(0.0, np.diag([1.0, 1e-9]), np.diag([2.0, 1.0]))[0]
    assert 0.41 < late < 2**0.5 - 1


def test_a_neuron_of_heavy_first_layer_unlearns_before_it_relearns():
    delta, phi = -5.0, 1.5
    size = np.sqrt((np.sqrt(delta**2 + 4) - delta) / 2)
    first, second = np.array([1.0, 0.0]), np.array([np.cos(phi), np.sin(phi)])
    path = theory.single_neuron(size * first, 1 / size, second, np.linspace(0.0, 30.0, 3001)).map
    losses = [0.5 * np.sum((np.asarray(path) - task) ** 2, axis=1) for task in (first, second)]
    found = theory.forgetting_excess(*losses, theory.forgetting(first[None], second[None]))
    np.testing.assert_allclose(found, 0.37, atol=5e-3)


@pytest.mark.parametrize("lam", [0.0, 0.5, -2.0])
def test_the_next_task_begins_at_these_rates(lam):
    """The derivative of the map at the switch, and the leading order of L_1."""
    u, s, vt = np.linalg.svd(FIRST)
    second, learnt = np.array([[-0.5, 0.4], [0.3, -0.9]]), theory.balanced_limit(lam, FIRST, 2)
    velocity = learnt.output_gram @ (second - FIRST) + (second - FIRST) @ learnt.input_gram
    change = theory.switch_rates(lam, s) * (u.T @ (second - FIRST) @ vt.T)
    np.testing.assert_allclose(u.T @ velocity @ vt.T, change, atol=1e-13)
    early = theory.balanced_path(learnt.w1, learnt.w2, lam, second, np.array([1e-5])).loss(FIRST)[0]
    np.testing.assert_allclose(early, 0.5e-10 * np.sum(change**2), rtol=1e-4)


# ---- Transfer

SHARED = {"both": (0, 0), "one": (0, 1), "none": (1, 1)}
TRANSFER = {
    (0.0, 1e-6): {"both": 0.5014, "one": 2.029, "none": 5.539, "scratch": 5.473},
    (0.0, 1e-3): {"both": 0.5014, "one": 2.027, "none": 3.410, "scratch": 3.170},
    (1.0, 1e-6): {"both": 0.4656, "one": 1.325, "none": 1.514, "scratch": 1.195},
    (10.0, 1e-6): {"both": 0.1189, "one": 0.2441, "none": 0.2446, "scratch": 0.2259},
}


def first_below(level, path_loss, high=20.0):
    """When a loss that falls with time is first below a level, by three ever finer grids."""
    low = 0.0
    for _ in range(3):
        ts = np.linspace(low, high, 201)
        first = np.argmax(np.asarray(path_loss(ts)) < level)
        low, high = ts[first - 1], ts[first]
    return high


@pytest.mark.slow
@pytest.mark.parametrize(("lam", "eps"), TRANSFER)
def test_one_shared_side_removes_the_plateau(lam, eps):
    """Times to 1 % of the second task's loss after the first was learnt to 1 % and for as long again."""
    basis = np.eye(4)
    w1, w2 = start(lam, np.full(4, eps), basis, basis, basis)
    first, level = np.outer(basis[0], basis[0]), 0.01 * 0.5 * 1.5**2
    learnt = first_below(0.005, lambda ts: theory.balanced_path(w1, w2, lam, first, ts).loss(first))
    found = {}
    switch = np.array([2 * learnt])

    def after_the_first(second):
        tasks = np.stack([first, second])
        return first_below(level, lambda ts: sequence(w1, w2, lam, tasks, switch, switch + ts).loss(second))

    for name, (out, inp) in SHARED.items():
        found[name] = after_the_first(1.5 * np.outer(basis[out], basis[inp]))
    second = 1.5 * first
    found["scratch"] = first_below(level, lambda ts: theory.balanced_path(w1, w2, lam, second, ts).loss(second))
    for name, time in TRANSFER[lam, eps].items():
        np.testing.assert_allclose(found[name], time, rtol=3e-4)


def test_a_pretrained_linear_model_learns_the_difference():
    """w - w_0 is the flow from 0 for w_* - w_0, and the error rises with its length at every time, size and noise."""
    rng = np.random.default_rng(10)
    x, wanted, before, noise = rng.normal(size=(4, 6)), rng.normal(size=6), rng.normal(size=6), rng.normal(size=4)
    t = np.array([0.3, 5.0])
    tuned = theory.linear_estimator(t, x, x @ wanted + noise, before)
    fresh = theory.linear_estimator(t, x, x @ (wanted - before) + noise, np.zeros(6))
    np.testing.assert_allclose(np.asarray(tuned) - before, fresh, **EXACT)
    ts, sizes, signals = np.array([0.1, 3.0, 1e3]), np.array([0.3, 1.0, 4.0]), np.array([0.2, 1.0, 1.7])
    grid = np.meshgrid(ts, sizes, [0.0, 2.0], signals, indexing="ij")
    errors = theory.estimator_errors(grid[0], grid[1], noise=grid[2], signal=grid[3]).test
    assert (np.diff(errors, axis=-1) > -1e-15).all()
    assert (np.diff(errors, axis=-1)[:, :2] > 0).all()


# ---- Numbers in and out


@pytest.mark.slow
def test_derivatives_of_sequences():
    w1, w2 = start(0.5, [0.2, 0.6], rotation(0.7), rotation(0.3), np.eye(2))
    tasks, switch, ts = np.random.default_rng(8).normal(size=(2, 2, 2)), np.array([1.0]), np.array([0.6, 1.7])

    def matrix(tasks, switches, ts, factor):
        return sequence(w1, w2, 0.5, tasks, switches, ts, factors=factor).matrix

    check_grads(jax.jit(matrix), (tasks, switch, ts, 0.8), order=1, modes=("fwd", "rev"), rtol=1e-6)


def test_derivatives_of_times_and_losses():
    check_grads(theory.reversal_time, (0.3, 1.2, -0.7), order=1, modes=("rev",), rtol=1e-6)
    slopes = jax.jit(jax.vmap(jax.grad(theory.reversal_time, argnums=(0, 1, 2))))
    points = np.array([(0.0, 1.0, -1.0), (1.0, 0.0, -1.0), (0.0, 0.0, 0.0), (1e-8, 1.0, -1.0)])
    assert np.isfinite(slopes(*points.T)).all()
    second = np.array([[-0.5, 0.4], [0.3, -0.9]])
    np.testing.assert_allclose(jax.grad(theory.forgetting)(FIRST, second), FIRST - second, **EXACT)
    assert np.isfinite(jax.grad(theory.forgetting_excess)(np.array([0.0, 0.5]), np.array([1.0, 0.5]), 1.0)).all()


@pytest.mark.slow
def test_sequences_map_over_tasks():
    w1, w2 = drawn(0.0, (2, 2, 2))
    tasks = np.random.default_rng(9).normal(size=(3, 2, 2, 2))
    call = lambda tasks: sequence(w1, w2, 0.0, tasks, np.array([1.0]), np.array([0.5, 2.0])).matrix
    np.testing.assert_allclose(jax.vmap(call)(tasks), np.stack([call(pair) for pair in tasks]), atol=1e-14)


def test_sequences_in_float32():
    (w1, w2), (lam, tasks, switches, t), matrix, _ = ROWS["lam 0.5"]
    single = lambda x: np.asarray(x, np.float32)
    end = sequence(single(w1), single(w2), lam, single(tasks), single(switches), single([t]))
    assert end.w1.dtype == np.float32
    np.testing.assert_allclose(end.matrix[0], matrix, atol=2e-6)
    time = theory.reversal_time(single([1e-6, 30.0]), single(1.0), single(-1.0))
    assert time.dtype == np.float32
    np.testing.assert_allclose(
        time, [7.254329119261203, np.log1p(2 * np.sqrt(226) / 30) / (2 * np.sqrt(226))], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"sigma_yx": np.eye(2)}, r"one matrix for each of two tasks or more.*shape \(2, 2\).*call balanced_path"),
        ({"sigma_yx": np.ones((3, 2, 2))}, r"Between 3 tasks there are 2 switches.*\(2,\).*shapes \(1,\)"),
        ({"sigma_yx": np.ones((2, 3, 2))}, r"`sigma_yx` is E\[y x\^T\], so for these weights it needs shape \(2, 2\)"),
        ({"factors": np.ones(2)}, r"`factors` \(\) or \(1,\), but they have shapes \(1,\) and \(2,\)"),
        ({"factors": -1.0}, r"`factors` is what multiplies the weights and needs to be positive, but it holds -1"),
        ({"switches": np.array([-1.0])}, r"`switches` needs times from 0 on, but some are negative: -1"),
        ({"ts": 1.0}, r"`ts` holds times in a vector, but it has shape \(\)"),
        ({"w1": 2 * np.eye(2)}, r"lambda-balanced start"),
    ],
)
def test_errors_of_sequences(changed, words):
    call = {"w1": np.eye(2), "w2": np.eye(2), "lam": 0.0, "sigma_yx": np.ones((2, 2, 2))}
    call |= {"switches": np.ones(1), "ts": np.ones(1)}
    with pytest.raises(ValueError, match=words):
        theory.balanced_sequence(**call | changed)


def test_errors_of_what_is_measured():
    with pytest.raises(ValueError, match=r"Sort it with jnp\.sort"):
        theory.balanced_sequence(np.eye(1), np.eye(1), 0.0, np.ones((3, 1, 1)), np.array([2.0, 1.0]), np.ones(1))
    with pytest.raises(ValueError, match=r"`first` and `second` of one shape \(out, inp\).*\(2, 2\) and \(2, 3\)"):
        theory.forgetting(np.ones((2, 2)), np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"those along a path.*shape \(\.\.\., t\)"):
        theory.forgetting_excess(1.0, np.ones(2), 1.0)
    with pytest.raises(
        ValueError, match=r"`distance` is half the squared distance of the tasks and needs to be positive"
    ):
        theory.forgetting_excess(np.ones(2), np.ones(2), 0.0)
    with pytest.raises(ValueError, match=r"`strengths` holds one per mode, shape \(n,\).*Map over many"):
        theory.switch_rates(np.ones(2), np.ones(2))
