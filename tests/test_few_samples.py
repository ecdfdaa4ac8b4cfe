"""Linear networks on fewer samples than inputs, which go by the samples, against the same by the moments."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import layerflow as lf
from layerflow.base._jax import jaxprs_in_params
from layerflow.engine._cell import Cell

FLOW, EXACT = lf.Flow(t1=30.0, rtol=1e-9), lf.Exact(t1=30.0)
NETWORKS = {
    "deep": lambda key: lf.gaussian(key, (9, 2, 5, 2), std=0.5),
    "wide": lambda key: lf.gaussian(key, (9, 40, 2), std=0.1),
    "one layer": lambda key: lf.gaussian(key, (9, 2), std=0.5),
    "twin": lambda key: lf.linearise(lf.gaussian(key, (9, 3, 2), std=0.5)),
}


def drawn(n=4, inp=9, rank=None, out=2):
    """Samples of coloured inputs, of full rank unless told otherwise."""
    rng = np.random.default_rng(3)
    rank = min(n, inp) if rank is None else rank
    return lf.Samples(rng.normal(size=(n, rank)) @ rng.normal(size=(rank, inp)) / rank, rng.normal(size=(n, out)))


def matrix(network, problem):  # noqa: ARG001
    return network.matrix


def in_moments(problem):
    return lf.Problem(problem.start, problem.task.moments)


@pytest.mark.parametrize(("n", "kind"), [(8, lf.Samples), (9, lf.Moments), (10, lf.Moments)])
def test_samples_that_are_no_fewer_than_inputs_go_by_their_moments(key, n, kind):
    problem = lf.Problem(NETWORKS["deep"](key), drawn(n))

    assert type(Cell.of(problem, FLOW).task) is kind
    assert type(Cell.of(problem, lf.Descent(optax.sgd, learning_rate=0.1, steps=1)).task) is kind
    assert type(Cell.of(problem, EXACT).task) is lf.Moments


@pytest.mark.parametrize("name", NETWORKS)
def test_they_give_the_loss_and_the_velocity_of_their_moments(key, name):
    task, network = drawn(), NETWORKS[name](key)
    moved = jax.tree.map(lambda w: 1.1 * w, network)  # where a twin is no more at its start

    np.testing.assert_allclose(task.loss(moved), task.moments.loss(moved), rtol=1e-12)
    slopes = [lf.Problem(network, of).velocity(moved) for of in (task, task.moments)]
    for slope, expected in zip(*map(jax.tree.leaves, slopes), strict=True):
        np.testing.assert_allclose(slope, expected, atol=1e-12)


@pytest.mark.parametrize("method", [FLOW, lf.Descent(optax.sgd, learning_rate=0.1, steps=100)], ids=["flow", "descent"])
def test_they_are_learned_as_their_moments_are(key, method):
    problem = lf.Problem(NETWORKS["deep"](key), drawn())
    observe = (lf.loss, matrix, lf.kernel_distance)

    found, expected = (lf.solve(p, method, observe=observe).observed for p in (problem, in_moments(problem)))

    assert found["kernel_distance"] > 0.01
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rank", [4, 2, 0])
def test_their_least_loss_is_that_of_the_moments(key, rank):
    """For every width of the bottleneck, which cuts off nothing, something or all; on inputs of less rank too."""
    task = drawn(4, rank=max(rank, 1), out=3)
    task = task.rescale(input=float(rank > 0))
    for hid in (1, 2, 3):
        network = lf.gaussian(key, (9, hid, 3))
        np.testing.assert_allclose(task.least_loss(network), task.moments.least_loss(network), rtol=1e-10)
    assert task.least_loss(lf.gaussian(key, (9, 1, 3))) > 1e-3
    assert (task.least_loss(network) < 1e-20) == (rank == 4)  # as many independent samples as targets


def test_they_converge_where_their_moments_do(key):
    """With a floor above zero, for the inputs do not span all samples."""
    problem = lf.Problem(NETWORKS["deep"](key), drawn(6, rank=3))
    flow = lf.Flow(t1=1e4, until="converged")

    found, expected = (lf.solve(p, flow) for p in (problem, in_moments(problem)))

    assert found.status == expected.status == lf.Status.CONVERGED
    assert found.observed["loss"] > 0.1
    np.testing.assert_allclose(found.end, expected.end, rtol=1e-5)


def test_closed_forms_hold_on_them(key):
    problem = lf.Problem(NETWORKS["one layer"](key), drawn())
    assert lf.Exact.applies(problem)

    exact, of_moments, flow = (
        lf.solve(p, method, observe=matrix).observed["matrix"]
        for p, method in ((problem, EXACT), (in_moments(problem), EXACT), (problem, FLOW))
    )

    np.testing.assert_array_equal(exact, of_moments)
    np.testing.assert_allclose(exact, flow, atol=1e-7)


def test_flows_on_them_are_held_against_closed_forms(key):
    start, task = NETWORKS["one layer"](key), drawn()
    cell = lambda target: lf.Problem(start, task.rescale(target=target))

    diagram = lf.sweep(cell, {"target": [1.0, 2.0]}, method=FLOW, verify=True, observe=matrix)

    assert bool(diagram.verified.all())
    assert bool((diagram.matrix_error < 1e-7).all())


@pytest.mark.parametrize("step", [1.0, 1e-8])
@pytest.mark.parametrize("name", ["deep", "wide", "diagonal"])
def test_the_kernel_distance_keeps_its_digits(key, name, step):
    """A distance of 1e-16 is that of the moments; where the movement is large, that of the kernel itself."""
    task = drawn(out=1 if name == "diagonal" else 2)
    vectors = lf.DiagonalNetwork((jnp.linspace(0.5, 1.0, 9), jnp.linspace(1.0, -1.0, 9)))
    start = vectors if name == "diagonal" else NETWORKS[name](key)
    rng = np.random.default_rng(0)
    end = jax.tree.map(lambda w: w + step * jnp.asarray(rng.normal(size=w.shape)), start.weights)
    end, problem = type(start)(end), lf.Problem(start, task)

    distance = lf.kernel_distance(end, problem)

    np.testing.assert_allclose(distance, lf.kernel_distance(end, in_moments(problem)), rtol=1e-9)
    if step == 1.0:
        k0, k1 = (np.asarray(lf.ntk(network, problem)) for network in (start, end))
        cosine = np.sum(k0 * k1) / np.sqrt(np.sum(k0**2) * np.sum(k1**2))
        np.testing.assert_allclose(distance, 1 - cosine, rtol=1e-9)


def test_the_distance_between_functions_is_that_of_the_moments(key):
    f, g = NETWORKS["deep"](key), NETWORKS["wide"](key)
    task = drawn()

    np.testing.assert_allclose(
        lf.function_distance(f, g, lf.Problem(f, task)),
        lf.function_distance(f, g, lf.Problem(f, task.moments)),
        rtol=1e-12,
    )
    laziness = [
        lf.solve(lf.Problem(f, of), FLOW, observe=lf.laziness).observed["laziness"] for of in (task, task.moments)
    ]
    assert laziness[0] > 0.05
    np.testing.assert_allclose(*laziness, rtol=1e-6)


def test_no_inputs_by_inputs_matrix_is_built(key):
    """Nor is there any other array larger than samples and weights, whatever is measured."""
    n, inp = 3, 200
    task, start = drawn(n, inp), lf.gaussian(key, (inp, 4, 2), std=0.1)

    def all_of_it(weights, moved):
        network, problem = lf.LinearNetwork(moved), lf.Problem(lf.LinearNetwork(weights), task)
        reduced = task.reduced(network)
        measured = [f(network, problem) for f in (lf.loss, lf.kernel_distance)]
        distance = lf.function_distance(network, problem.start, problem)
        return jax.grad(reduced.loss)(network), reduced.least_loss(network), measured, distance

    jaxpr = jax.make_jaxpr(all_of_it)(start.weights, start.weights)

    assert max(largest(jaxpr.jaxpr)) <= 4 * inp


def largest(jaxpr):
    """The sizes of all arrays of a program."""
    for step in jaxpr.eqns:
        yield from (out.aval.size for out in step.outvars)
        for inner in jaxprs_in_params(step.params):
            yield from largest(inner)


PROGRAM = """
    import resource
    import jax, numpy as np, optax
    import layerflow as lf

    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    imported = peak()
    rng = np.random.default_rng(0)
    task = lf.Samples(rng.normal(size=(10, 20_000)) / 20_000**0.5, rng.normal(size=(10, 2)))
    cell = lambda key, std: lf.Problem(lf.gaussian(key, (20_000, 20, 2), std=std), task)
    descent = lf.Descent(optax.sgd, learning_rate=0.1, steps=20)
    for method in (lf.Flow(t1=100.0), lf.Flow(t1=1e3, until="converged"), descent):
        path = lf.solve(cell(jax.random.key(0), 0.05), method)
        diagram = lf.sweep(cell, {"std": [0.02, 0.05]}, seeds=2, method=method, progress=False)
        assert path.observed["loss"] < task.null_loss() and bool((diagram.loss < task.null_loss()).all())
    print((peak() - imported) / 2**20)
"""


@pytest.mark.slow
def test_ten_samples_of_twenty_thousand_inputs_need_less_than_a_gibibyte():
    """Beyond what the imports need; a matrix of inputs by inputs alone would be 1.5 GiB in float32."""
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1
