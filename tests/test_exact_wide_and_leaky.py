"""Closed forms in place of integration for wide networks, layers of two rates, and leaky ReLU."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import layerflow as lf

TS = [0.0, 0.3, 2.0]
FINE = lf.Flow(t1=2.0, rtol=1e-11, atol=1e-13)


def outputs(network, problem):
    return jax.vmap(network)(problem.task.x)


def matrix(network, problem):  # noqa: ARG001
    return network.matrix


def wide(inp, out, scale, hid, seed=0):
    """A network in which w2^T w2 - w1 w1^T has the eigenvalues K, -K and 0, and w2 w1 = 0."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(hid, hid)))[0]
    root = jnp.sqrt(jnp.asarray(scale))
    start = lf.LinearNetwork((root * turn[:, :inp], root * turn[:, inp : inp + out].T))
    return lf.Problem(start, lf.Moments.whitened(yx=jnp.asarray(rng.normal(size=(out, inp)))))


def mirrored_samples(inp=3, variance=1.0):
    """White samples with their negatives, and odd targets."""
    rng = np.random.default_rng(1)
    half = np.linalg.qr(rng.normal(size=(8, inp)))[0] * np.sqrt(8 * variance)
    x = np.concatenate([half, -half])
    odd = (half @ np.array([[1.0], [-0.5], [0.3]])) + 0.1 * rng.normal(size=(8, 1))
    return lf.Samples(x, np.concatenate([odd, -odd]))


def pair(slope):
    w = jnp.array([0.5, -0.3, 0.2])
    return lf.MLP((jnp.stack([w, -w]), jnp.array([[0.6, -0.6]])), slope=slope)


def one_input(sign=1.0, slope=0.2):
    return lf.MLP((sign * jnp.array([[0.4], [0.2], [0.9]]), jnp.array([[0.3, -0.1, 0.2]])), slope=slope)


RNG = np.random.default_rng(2)
X = RNG.normal(size=(12, 1)) + 0.3
SCATTERED = lf.Samples(X, 1.4 * X + 0.2 * RNG.normal(size=(12, 1)), weight=np.arange(12.0))
SCALAR = lf.LinearNetwork((jnp.array([[0.5], [-0.2], [0.1]]), jnp.array([[0.3, 0.4, -0.6]])), output_scale=0.5)


def rated(network, *rates, task=None):
    task = lf.Moments(jnp.array([[0.7]]), jnp.array([[1.0]]), jnp.array([[9.0]])) if task is None else task
    return lf.Problem(network, task, rates=eqx.tree_at(lambda network: network.weights, network, rates))


DIAGONAL = lf.DiagonalNetwork((jnp.array([0.3, -0.2]), jnp.array([0.1, 0.4])))
CASES = {
    "wide, 2-6-3": (wide(2, 3, 0.3, 6), matrix),
    "wide, 4-6-2, small K": (wide(4, 2, 1e-3, 6), matrix),
    "wide, zero-balanced": (
        lf.Problem(lf.lambda_balanced(jax.random.key(0), 0.0, 0.1, inp=3, hid=6, out=2), wide(3, 2, 1.0, 6).task),
        matrix,
    ),
    "two rates": (rated(SCALAR, 1.0, 4.0), matrix),
    "two rates on modes": (
        rated(DIAGONAL, 0.5, jnp.array(3.0), task=lf.Modes(jnp.ones(2), jnp.array([1.0, 2.0]))),
        matrix,
    ),
    "leaky, input weights above 0": (lf.Problem(one_input(), SCATTERED), outputs),
    "ReLU, input weights below 0": (lf.Problem(one_input(-1.0, slope=0.0), SCATTERED), outputs),
    "a leaky pair": (lf.Problem(pair(0.7), mirrored_samples()), outputs),
    "a ReLU pair": (lf.Problem(pair(0.0), mirrored_samples(variance=0.5)), outputs),
}


EVERYDAY = ("wide, 2-6-3", "two rates", "ReLU, input weights below 0", "a leaky pair")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in EVERYDAY else pytest.mark.slow) for case in CASES]
)
def test_it_is_the_flow_and_verifies_it(case):
    problem, measured = CASES[case]
    assert lf.Exact.applies(problem, 2.0)
    observe = {"f": measured, "loss": lf.loss}

    exact = lf.solve(problem, lf.Exact(t1=2.0), ts=TS, observe=observe).observed
    flow = lf.sweep(
        lambda x: problem, {"x": [1.0]}, method=FINE, ts=TS, observe=observe, verify=True, progress=False
    ).isel(x=0)

    np.testing.assert_allclose(exact["f"], flow.f, atol=3e-10)
    np.testing.assert_allclose(exact["loss"], flow.loss, atol=3e-10)
    assert flow.verified
    assert np.isfinite(flow.loss_error).all()


@pytest.mark.slow
def test_weights_of_a_scalar_network_and_of_leaky_ones_are_known_not_only_what_they_do():
    for case in ("two rates", "two rates on modes", "leaky, input weights above 0", "a leaky pair"):
        problem, _ = CASES[case]
        exact, flow = (lf.solve(problem, method).network.weights for method in (lf.Exact(t1=2.0), FINE))
        for one, other in zip(exact, flow, strict=True):
            np.testing.assert_allclose(one, other, atol=3e-10)


@pytest.mark.slow
def test_gram_matrices_of_a_wide_network_are_known():
    problem, _ = CASES["wide, 2-6-3"]
    gram = {
        "inputs": lambda network, problem: network.weights[0].T @ network.weights[0],
        "outputs": lambda network, problem: network.weights[1] @ network.weights[1].T,
        "kernel": lf.kernel_distance,
    }
    exact, flow = (lf.solve(problem, method, ts=TS, observe=gram).observed for method in (lf.Exact(t1=2.0), FINE))
    for name in gram:
        np.testing.assert_allclose(exact[name], flow[name], atol=1e-9)


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (lf.Problem(lf.gaussian(jax.random.key(0), (2, 6, 3)), wide(2, 3, 1.0, 6).task), "that of wide random layers"),
        (rated(SCALAR, 1.0, -4.0), "rates of both layers are positive"),
        (rated(SCALAR, 1.0, None), "no `rates` of their own, but one positive number"),
        (rated(SCALAR, 1.0, jnp.ones((1, 3))), "no `rates` of their own, but one positive number"),
        (rated(wide(2, 3, 1.0, 6).start, 1.0, 2.0, task=wide(2, 3, 1.0, 6).task), "no `rates` of their own"),
        (
            lf.Problem(eqx.tree_at(lambda n: n.weights[0], one_input(), jnp.array([[0.4], [-0.2], [0.9]])), SCATTERED),
            "all input weights are of one sign",
        ),
        (lf.Problem(lf.MLP((jnp.array([[0.1]]), jnp.array([[-0.6]])), slope=0.2), SCATTERED), "keep their sign"),
        (lf.Problem(pair(0.5), lf.Samples(mirrored_samples().x[1:], mirrored_samples().y[1:])), "whitened"),
        (
            lf.Problem(pair(0.5), lf.Samples(mirrored_samples().x, mirrored_samples().y + 1.0)),
            "the samples come with their negatives",
        ),
        (
            lf.Problem(eqx.tree_at(lambda n: n.weights[1], pair(0.5), jnp.array([[0.6, 0.6]])), mirrored_samples()),
            "those of the other with the other sign",
        ),
        (lf.Problem(pair(-1.0), mirrored_samples()), "the slope is above -1"),
        (lf.Problem(pair(0.5), mirrored_samples(), decay=0.1), "its `decay` is not 0"),
        (lf.Problem(lf.MLP.lecun(jax.random.key(0), (3, 2, 1)), mirrored_samples()), "or biases"),
        (lf.Problem(lf.MLP(pair(0.5).weights, activation=jnp.tanh), mirrored_samples()), "no MLP of leaky ReLU"),
    ],
)
def test_where_none_holds_it_says_what_fails(problem, reason):
    found = lf.Exact.applies(problem, 2.0)
    assert not found
    assert reason in str(found)


@pytest.mark.slow
def test_derivatives_by_axes_are_those_of_the_flow():
    """By K, by the ratio of rates and by the slope."""
    cells = {
        "scale": lambda scale: wide(2, 3, scale, 6),
        "rate": lambda rate: rated(SCALAR, 1.0, rate),
        "slope": lambda slope: lf.Problem(pair(slope), mirrored_samples()),
    }
    for name, cell in cells.items():
        how = {"observe": lf.loss, "derivative": [name], "progress": False}
        exact, flow = (
            lf.sweep(cell, {name: [0.4, 0.9]}, method=method, **how)[f"loss_d_{name}"]
            for method in (lf.Exact(t1=2.0), FINE)
        )
        np.testing.assert_allclose(exact, flow, rtol=1e-7, atol=1e-10)


@pytest.mark.slow
def test_float32_has_its_digits():
    cast = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32) if eqx.is_array(leaf) else leaf, tree)
    for case in ("wide, 2-6-3", "two rates", "leaky, input weights above 0", "a leaky pair"):
        problem, measured = CASES[case]
        single = lf.solve(cast(problem), lf.Exact(t1=2.0), observe={"f": measured}).observed["f"]
        assert single.dtype == jnp.float32
        double = lf.solve(problem, lf.Exact(t1=2.0), observe={"f": measured}).observed["f"]
        np.testing.assert_allclose(single, double, atol=2e-5)


def test_a_problem_without_one_is_refused_when_solved():
    with pytest.raises(ValueError, match="rates of both layers are positive"):
        lf.solve(rated(SCALAR, 1.0, -4.0), lf.Exact(t1=2.0))
