"""Networks with non-linearities, the tasks that they learn, and what is measured of their features."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import layerflow as lf
from layerflow import theory

FLOW = lf.Flow(t1=3.0, rtol=1e-10, atol=1e-12)


@pytest.fixture
def samples():
    x = jax.random.normal(jax.random.key(2), (12, 4))
    return lf.Samples(x, x[:, :2] - 0.5 * x[:, 2:])


@pytest.mark.slow
def test_the_linear_end_of_the_dial_is_the_linear_network(key, samples):
    """phi(z) = slope z + (1 - slope) relu(z) is z at slope 1: the same flow, as an array too."""
    linear = lf.gaussian(key, (4, 5, 2))

    def cell(slope):
        return lf.Problem(lf.MLP(linear.weights, slope=slope), samples)

    swept = lf.sweep(cell, {"slope": [0.5, 1.0]}, method=FLOW, observe=lf.loss, progress=False)
    alone = lf.solve(lf.Problem(linear, samples), FLOW, observe=lf.loss)

    np.testing.assert_allclose(swept.loss.sel(slope=1.0), alone.observed["loss"], rtol=1e-8)
    assert abs(float(swept.loss.sel(slope=0.5)) / float(alone.observed["loss"]) - 1) > 1e-3
    static = lf.MLP(linear.weights, slope=1.0)
    np.testing.assert_array_equal(static(samples.x[0]), linear(samples.x[0]))


def test_slope_leads_to_the_leaky_relu(key):
    network = lf.MLP.gaussian(key, (3, 7, 2), std=1.0, slope=jnp.asarray(0.2))
    x = jnp.array([1.0, -2.0, 0.5])
    hidden = jax.nn.leaky_relu(network.weights[0] @ x + network.biases[0], 0.2)

    np.testing.assert_allclose(network.features(x), hidden, rtol=1e-12)
    np.testing.assert_allclose(network(x), network.classifier @ hidden + network.biases[1], rtol=1e-12)


def test_starts_have_the_spread_asked_for(key):
    """Standard errors of a standard deviation are 1 / sqrt(2 n)."""
    lecun = lf.MLP.lecun(key, (400, 300, 10), gain=(5.0, 1.0))
    normal = lf.MLP.gaussian(key, (400, 300, 10), std=0.3)

    assert float(jnp.std(lecun.weights[0])) == pytest.approx(5 / 20, rel=0.02)
    assert float(jnp.std(lecun.weights[1])) == pytest.approx(1 / 300**0.5, rel=0.06)
    assert float(jnp.abs(lecun.biases[0]).max()) <= 1 / 20
    assert float(jnp.std(lecun.biases[0])) == pytest.approx(1 / 20 / 3**0.5, rel=0.15)
    assert float(jnp.std(normal.weights[0])) == pytest.approx(0.3, rel=0.02)
    assert float(jnp.std(normal.biases[0])) == pytest.approx(0.3, rel=0.15)
    assert lf.MLP.lecun(key, (4, 3), bias=False).biases is None


def test_homogeneous_networks_keep_their_function_upstream_and_downstream(key):
    """ReLU(c z) = c ReLU(z) for c > 0, hidden biases included."""
    network = lf.MLP.gaussian(key, (3, 8, 8, 2), std=0.7)
    x = jnp.array([0.3, -1.0, 2.0])

    heavier = lf.upstream(network, 4.0)

    np.testing.assert_allclose(heavier(x), network(x), rtol=1e-12)
    np.testing.assert_allclose(heavier.weights[-1], 4 * network.weights[-1])
    np.testing.assert_allclose(lf.downstream(heavier, 4.0).biases[0], network.biases[0])


def test_transformer_attends_as_written(key):
    """One head by hand: softmax of scaled products of queries and keys, then residuals."""
    network = lf.Transformer.lecun(key, tokens=3, vocabulary=6, out=5, width=4, heads=1, hid=7)
    x = jnp.eye(6)[jnp.array([1, 4, 5])]
    stream = [network.embedding @ token + position for token, position in zip(x, network.positions, strict=True)]
    query = network.query[0] @ stream[-1]
    attention = jax.nn.softmax(jnp.array([query @ (network.key[0] @ h) for h in stream]) / 2.0)
    mixed = sum(a * (network.value[0] @ h) for a, h in zip(attention, stream, strict=True))
    last = stream[-1] + network.output[0] @ mixed
    last = last + network.mlp_out @ jax.nn.relu(network.mlp_in @ last + network.mlp_bias)

    np.testing.assert_allclose(network.features(x), last, rtol=1e-12)
    np.testing.assert_allclose(network(x), network.unembedding @ last, rtol=1e-12)


@pytest.mark.slow
def test_transformer_trains_in_a_sweep(key):
    train, test = lf.modular_arithmetic(key, 5, train=0.6, form="tokens")

    def cell(key, scale):
        network = lf.Transformer.lecun(key, tokens=3, vocabulary=6, out=5, width=8, heads=2, hid=16)
        network = eqx.tree_at(lambda network: network.embedding, network, scale * network.embedding)
        return lf.Problem(network, train, test=test)

    method = lf.Descent(optax.adam, learning_rate=1e-2, steps=60)
    observe = (lf.loss, lf.on_test(lf.accuracy))
    diagram = lf.sweep(cell, {"scale": [0.3, 1.0]}, ts=[0, 60], method=method, observe=observe, progress=False)

    assert (diagram.loss.isel(step=1) < 0.7 * diagram.loss.isel(step=0)).all()


@pytest.mark.parametrize("operation", ["addition", "subtraction", "multiplication", "division"])
def test_modular_arithmetic_holds_every_pair_once_with_its_result(key, operation):
    train, test = lf.modular_arithmetic(key, 7, train=0.7, operation=operation)
    x, y = (np.concatenate([getattr(part, name) for part in (train, test)]) for name in "xy")
    a, b, c = x[:, :7].argmax(1), x[:, 7:].argmax(1), y.argmax(1)

    assert len({*zip(a, b, strict=True)}) == len(a) == (42 if operation == "division" else 49)
    expected = {
        "addition": (a + b - c) % 7,
        "subtraction": (a - b - c) % 7,
        "multiplication": (a * b - c) % 7,
        "division": (a - b * c) % 7,
    }
    assert (expected[operation] == 0).all()
    assert train.x.shape[0] == round(0.7 * len(a))
    tokens, _ = lf.modular_arithmetic(key, 7, train=0.7, operation=operation, form="tokens")
    np.testing.assert_array_equal(tokens.x[:, 0, :7], train.x[:, :7])
    np.testing.assert_array_equal(tokens.x[:, 2].argmax(1), 7)


def test_polynomial_regression_follows_one_direction(key):
    train, test = lf.polynomial_regression(key, n=400, inp=3, test=50)

    pairs = np.einsum("ni,nj->nij", train.x, train.x).reshape(400, 9)
    weights, *_ = np.linalg.lstsq(pairs, train.y[:, 0], rcond=None)
    spectrum = np.linalg.eigvalsh(weights.reshape(3, 3))

    np.testing.assert_allclose(spectrum[:2], 0, atol=1e-10)  # y = (beta . x)^2 / 2 has rank 1
    assert spectrum[2] > 0.01
    assert test.x.shape == (50, 3)
    assert float(jnp.mean(train.x**2)) == pytest.approx(1 / 3, rel=0.1)


def test_sparse_parity_has_its_skills_and_frequencies(key):
    parity = lf.SparseParity(skills=3, bits=40, per_skill=2, target=2.0)
    x, y = parity.draw(key, 20_000)
    skill, bits = x[:, :3].argmax(1), np.asarray(x[:, 3:])
    owned = np.stack([bits[np.arange(len(bits)), 2 * skill + i] for i in range(2)])

    np.testing.assert_allclose(y[:, 0], 2.0 * (2 * (owned.sum(0) % 2) - 1))
    shares = np.bincount(skill) / len(skill)
    np.testing.assert_allclose(shares, parity.frequency, atol=4 * 0.5 / len(skill) ** 0.5)  # four standard errors
    np.testing.assert_allclose(bits.mean(0), 0.5, atol=5 * 0.5 / len(skill) ** 0.5)
    correlation = np.corrcoef(bits.T) - np.eye(40)
    assert np.abs(correlation).max() < 6 / len(skill) ** 0.5


def test_skill_strengths_of_a_network_that_has_them(key):
    """R_k = E[f g_k] on samples of skill k, and a_k b_k of the skill model."""
    parity = lf.SparseParity(skills=2, bits=6, per_skill=3)
    strengths = jnp.array([0.7, -0.2])

    def network(x):
        g = 2 * (jnp.sum(x[2:].reshape(2, 3), axis=1) % 2) - 1
        return jnp.sum(x[:2] * g * strengths)[None]

    task = parity.by_skill(key, 30)
    problem = lf.Problem(lf.linear_model(jnp.zeros(8)), lf.Samples(jnp.zeros((1, 8)), jnp.zeros((1, 1))), test=task)
    skilled = lf.skill_network(strengths)
    modes = lf.Problem(skilled, lf.Modes(variance=parity.frequency, target=5.0))

    np.testing.assert_allclose(lf.on_test(lf.skill_strengths)(network, problem), strengths, rtol=1e-12)
    np.testing.assert_allclose(lf.skill_strengths(skilled, modes), strengths, rtol=1e-12)
    half_squares = 0.5 * parity.frequency * (strengths - 5.0) ** 2
    np.testing.assert_allclose(task.loss(network), jnp.sum(half_squares), rtol=1e-12)


def test_neural_collapse_has_the_reference_values():
    """The case NC of THEORY section 13, with a bias."""
    features = jnp.array([[1, 0.1, 0], [0.9, 0, 0.1], [0, 1, 0.2], [0.1, 1.1, 0], [0, 0.1, 1], [-0.1, 0, 0.8]])
    classifier = jnp.array([[1, -0.2, -0.1], [0, 1, 0.1], [-0.3, 0, 0.9]])
    network = lf.feature_model(features.T, classifier.T, jnp.array([0.0, 0.1, 0.0]))
    labels = jax.nn.one_hot(jnp.array([0, 0, 1, 1, 2, 2]), 3)
    problem = lf.Problem(network, lf.Samples(jnp.eye(6), labels))

    measured = lf.neural_collapse(network, problem)

    expected = {
        "nc1": 0.0092143071998,
        "nc2_equinorm": 0.019262641590,
        "nc2_equiangular": 0.024122067335,
        "nc3": 0.28309975694,
        "nc4": 0.0,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(measured[name], value, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(lf.features(network, problem), features)


@pytest.mark.parametrize("centred", [False, True])
def test_free_features_collapse_where_theory_says(key, centred):
    """From weights of size eps, NC1 ends at O(eps^6), and the rank at c, or c - 1 for centred labels."""
    classes, each, eps = 4, 5, 1e-3
    y = jnp.repeat(jnp.eye(classes), each, axis=0) - (1 / classes if centred else 0.0)
    start = lf.gaussian(key, (classes * each, 6, classes), std=eps)
    problem = lf.Problem(start, lf.Samples(jnp.eye(classes * each), y))
    observe = (lf.neural_collapse, lf.feature_rank)

    path = lf.solve(problem, lf.Flow(t1=2000.0, rtol=1e-10), ts=jnp.array([0.0, 2000.0]), observe=observe)

    limit = theory.collapsed(classes, each, 6, centred=centred)
    at_end = {name: float(values[-1]) for name, values in path.observed.items()}
    assert at_end["neural_collapse_nc1"] < 1e-10 * float(path.observed["neural_collapse_nc1"][0])
    np.testing.assert_allclose(at_end["neural_collapse_nc3"], limit.nc3, atol=1e-4)
    np.testing.assert_allclose(at_end["neural_collapse_nc2_equiangular"], 0, atol=1e-4)
    assert at_end["neural_collapse_nc4"] == 0
    # Surplus directions keep their size, a thousandth of the others'.
    assert at_end["feature_rank"] == pytest.approx(classes - centred, abs=0.1)


def test_bias_of_the_feature_model_can_be_left_out_or_frozen(key):
    start = lf.feature_model(jax.random.normal(key, (3, 4)), jnp.ones((2, 3)), jnp.array([0.5, -0.5]))
    task = lf.Samples(jnp.eye(4), jax.nn.one_hot(jnp.array([0, 0, 1, 1]), 2))
    rates = eqx.tree_at(lambda network: network.biases[1], jax.tree.map(lambda _: 1.0, start), 0.0)

    still = lf.solve(lf.Problem(start, task, rates=rates), FLOW).network
    free = lf.solve(lf.Problem(start, task), FLOW).network

    np.testing.assert_array_equal(still.biases[1], start.biases[1])
    assert float(jnp.abs(free.biases[1] - start.biases[1]).max()) > 0.01


PARITY = lf.SparseParity()
SMALL, WIDE = (lf.Samples(jnp.ones((4, inp)), jnp.ones((4, 2))) for inp in (3, 5))


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda key: lf.MLP((jnp.ones((2, 3)), jnp.ones((1, 3)))), r"`weights\[0\]` has shape \(2, 3\) and gives 2"),
        (lambda key: lf.MLP(()), "At least one layer is what makes an MLP"),
        (lambda key: lf.MLP((jnp.ones((2, 3)),), (jnp.ones(3),)), r"`biases\[0\]` has shape \(3,\)"),
        (lambda key: lf.MLP((jnp.ones((2, 3)),), ()), "one vector, or None, per layer, so 1"),
        (lambda key: lf.MLP((jnp.ones((2, 3)),), activation="relu"), "needs a function such as jnp.tanh"),
        (lambda key: lf.MLP((jnp.ones((2, 3)),), slope="relu"), "`slope` needs numbers"),
        (lambda key: lf.MLP((jnp.ones((2, 3)),), slope=jnp.ones(2)), r"`slope` is one number .* shape \(2,\)"),
        (
            lambda key: lf.Problem(lf.MLP.lecun(key, (3, 2)), SMALL, test=WIDE),
            "The test task does not fit the network. The network needs to take one input of shape",
        ),
        (lambda key: lf.MLP.lecun(key, (3, 2), gain=(1.0, 2.0)), r"needs shape \(1,\)"),
        (lambda key: lf.MLP.gaussian(key, (3,), std=1.0), "at least two whole numbers"),
        (
            lambda key: lf.Transformer.lecun(key, tokens=3, vocabulary=5, out=5, width=10, heads=4),
            "4 does not divide 10",
        ),
        (lambda key: lf.Transformer.lecun(key, tokens=0, vocabulary=5, out=5), "`tokens` is a whole number of at"),
        (lambda key: lf.modular_arithmetic(key, 21), "a whole number such as 23 or 113, but it is 21, which 3 divides"),
        (lambda key: lf.modular_arithmetic(key, 7.0), "to be a prime, .* but it is 7.0"),
        (lambda key: lf.modular_arithmetic(key, 7, train=1.0), "leaves some to train and some to test on"),
        (lambda key: lf.modular_arithmetic(key, 7, operation="power"), "is one of addition"),
        (lambda key: lf.modular_arithmetic(key, 7, form="words"), '"pair" or "tokens"'),
        (lambda key: lf.SparseParity(skills=11), "11 skills of 3 bits need `bits` of at least 33, but it is 32"),
        (lambda key: lf.SparseParity(skills=0), "`skills` is a whole number of at least 1"),
        (lambda key: PARITY.by_skill(key, 0), "`n` is a whole number of at least 1"),
        (lambda key: lf.Problem(lf.MLP.gaussian(key, (37, 2), std=1.0), PARITY.by_skill(key, 2)), "one output"),
        (lambda key: lf.polynomial_regression(key, n=0, inp=3), "`n` is a whole number of at least 1"),
        (lambda key: lf.feature_model(jnp.ones((3, 4)), jnp.ones((2, 3)), jnp.ones(3)), r"`biases\[1\]` has shape"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(key, call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(key)


@pytest.mark.parametrize(
    ("observe", "message"),
    [
        (lf.features, "offers them as `features"),
        (lf.skill_strengths, "needs to know the skills"),
        (lf.neural_collapse, "offers them as `features"),
    ],
)
def test_observables_say_what_they_need(observe, message):
    network = lf.skill_network(jnp.ones(2))
    problem = lf.Problem(network, lf.Samples(jnp.ones((3, 2)), jnp.ones((3, 1))))

    with pytest.raises(TypeError, match=message):
        lf.solve(problem, FLOW, observe=observe)


def test_no_closed_form_is_told_by_the_network(key):
    problem = lf.Problem(lf.MLP.lecun(key, (3, 2)), SMALL)

    assert "leaky ReLU network of one input, with input weights of one sign" in str(lf.Exact.applies(problem))
    assert "for it has other than two layers, or biases" in str(lf.Exact.applies(problem))


def test_collapse_needs_classes(key):
    network = lf.gaussian(key, (2, 3, 1))
    problem = lf.Problem(network, lf.Samples(jnp.ones((3, 2)), jnp.ones((3, 1))))

    with pytest.raises(ValueError, match="one output per class"):
        lf.solve(problem, FLOW, observe=lf.neural_collapse)
