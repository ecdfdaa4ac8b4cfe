"""Aligned starts of any depth, their closed form, and theory drawn over the modes of a path."""

import jax.numpy as jnp
import numpy as np
import pytest

import layerflow as lf

SHAPES = [(3, (3, 3), 3), (2, (4, 3, 5), 4), (4, (2, 2), 3)]


def task_of(inp, out, seed=0, variance=1.0):
    yx = jnp.asarray(np.random.default_rng(seed).normal(size=(out, inp)))
    return lf.Moments(variance * jnp.eye(inp), yx, yx @ yx.T / variance + jnp.eye(out))


@pytest.mark.parametrize(("inp", "hid", "out"), SHAPES)
def test_every_layer_has_the_vectors_of_its_neighbours_and_of_the_task(inp, hid, out, key):
    task, strengths = task_of(inp, out), 0.1 + 0.1 * np.arange(min(inp, *hid, out))
    network = lf.aligned(task, 0.0, strengths, hid=hid, key=key)

    u, _, vt = np.linalg.svd(task.yx)
    found = u.T @ np.asarray(network.matrix) @ vt.T
    expected = np.zeros((out, inp))
    np.fill_diagonal(expected[: len(strengths), : len(strengths)], strengths)
    np.testing.assert_allclose(found, expected, atol=1e-14)
    for before, after in zip(network.weights[:-1], network.weights[1:], strict=True):
        np.testing.assert_allclose(after.T @ after, before @ before.T, atol=1e-14)
    assert network.widths == (inp, *hid, out)


def test_each_pair_may_have_an_imbalance_and_one_hidden_layer_is_as_it_was(key):
    task = task_of(3, 3)
    w1, w2, w3 = lf.aligned(task, (0.5, -0.2), 0.3, hid=(3, 3), key=key).weights
    np.testing.assert_allclose(w2.T @ w2 - w1 @ w1.T, 0.5 * np.eye(3), atol=1e-14)
    np.testing.assert_allclose(w3.T @ w3 - w2 @ w2.T, -0.2 * np.eye(3), atol=1e-14)
    plain, listed = (lf.aligned(task, 0.4, 0.3, hid=hid).weights for hid in (3, (3,)))
    for one, other in zip(plain, listed, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="No linear network of widths"):
        lf.aligned(task, (0.5, 0.5), 0.3, hid=(5, 5))
    with pytest.raises(ValueError, match="shape"):
        lf.aligned(task, (0.5, 0.5, 0.5), 0.3, hid=(3, 3))


@pytest.mark.parametrize(
    ("inp", "hid", "out"), [SHAPES[0], *(pytest.param(*shape, marks=pytest.mark.slow) for shape in SHAPES[1:])]
)
def test_the_closed_form_is_the_flow_in_all_weights(inp, hid, out, key):
    problem = lf.Problem(
        lf.aligned(task_of(inp, out, variance=0.7), 0.0, 0.05, hid=hid, key=key), task_of(inp, out, variance=0.7)
    )
    assert lf.Exact.applies(problem, 5.0).form.startswith("deep modes of an aligned")

    exact, flow = (
        lf.solve(problem, how).network.weights for how in (lf.Exact(t1=5.0), lf.Flow(t1=5.0, rtol=1e-11, atol=1e-13))
    )

    for one, other in zip(exact, flow, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)


def test_modes_of_equal_strength_are_told_apart_by_the_start(key):
    """Of three equal targets, with starts of their own; and the other way round."""
    for targets, strengths in ((jnp.ones(3), [0.3, 0.2, 0.1]), (jnp.array([3.0, 2.0, 1.0]), 0.1)):
        task = lf.Moments.whitened(yx=jnp.diag(targets))
        problem = lf.Problem(lf.aligned(task, 0.0, jnp.asarray(strengths), hid=(3, 4), key=key), task)
        modes = lambda network, problem: jnp.diagonal(network.matrix)
        exact, flow = (
            lf.solve(problem, how, observe={"modes": modes}).observed["modes"]
            for how in (lf.Exact(t1=3.0), lf.Flow(t1=3.0, rtol=1e-10, atol=1e-12))
        )
        np.testing.assert_allclose(exact, flow, atol=1e-8)


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (lambda task, key: lf.gaussian(key, (3, 3, 3, 3)), "share singular vectors"),
        (lambda task, key: lf.aligned(task, (0.1, 0.0), 0.2, hid=(3, 3)), "all layers of a mode are equal in size"),
        (lambda task, key: lf.aligned(task, 0.0, 9.0, hid=(3, 3)), "every mode starts between 0 and its target"),
        (lambda task, key: lf.aligned(task, 0.0, 0.0, hid=(3, 3)), "every mode starts between 0 and its target"),
        (lambda task, key: lf.aligned(task_of(3, 3, seed=5), 0.0, 0.2, hid=(3, 3)), "share singular vectors"),
    ],
    ids=["random", "imbalance", "beyond", "zero", "another task"],
)
def test_other_chains_are_refused_with_what_fails(start, reason, key):
    task = task_of(3, 3)
    found = lf.Exact.applies(lf.Problem(start(task, key), task), 3.0)
    assert not found
    assert reason in str(found)


@pytest.mark.slow
def test_derivatives_and_verification():
    task = lf.Moments.whitened(yx=jnp.diag(jnp.array([3.0, 2.0, 1.0])))
    cell = lambda strength: lf.Problem(lf.aligned(task, 0.0, strength, hid=(3, 3)), task)
    axis, how = {"strength": [0.1, 0.3]}, {"observe": lf.loss, "progress": False}
    slopes = [
        lf.sweep(cell, axis, method=method, derivative=["strength"], **how).loss_d_strength
        for method in (lf.Exact(t1=1.0), lf.Flow(t1=1.0, rtol=1e-10, atol=1e-12))
    ]
    np.testing.assert_allclose(*slopes, rtol=1e-6)
    assert lf.sweep(cell, axis, method=lf.Flow(t1=1.0), verify=True, **how).verified.all()


def test_theory_is_drawn_over_the_modes():
    task = lf.Moments.whitened(yx=jnp.diag(jnp.array([3.0, 1.0])))
    problem = lf.Problem(lf.aligned(task, 0.0, 0.1, hid=(2, 2)), task)
    solved = lambda method, count: lf.solve(problem, method, ts=jnp.linspace(0, 4, count), observe=lf.mode_strengths)
    path, closed = solved(lf.Flow(t1=4.0), 30), solved(lf.Exact(t1=4.0), 9)

    ax = lf.plot.modes(path, closed=closed)

    thin = [line for line in ax.lines if line.get_color() == "black" and len(line.get_xdata())]
    np.testing.assert_allclose([line.get_ydata() for line in thin], closed.observed["mode_strengths"].T)
    assert "closed form" in [text.get_text() for text in ax.get_legend().get_texts()]
    with pytest.raises(ValueError, match="`closed` needs strengths of the same 2 modes"):
        lf.plot.modes(path, closed=lf.plot._modes._strengths(closed).isel(mode=[0]))
