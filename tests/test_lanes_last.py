"""Functions of one lane, run with the lanes as their last axis: what `jax.vmap` computes, on any program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import layerflow as lf
from layerflow.engine import _lanes_last
from layerflow.engine._kept import programs
from layerflow.engine._lanes_last import apart, fits, lanes_last

LANES = 5


def drawn(*shapes, dtype="float64"):
    """One array for each shape, with the lanes as its last axis."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.uniform(0.1, 1, (*shape, LANES)), dtype) for shape in shapes]


M23, M34, V3, NUMBER = (2, 3), (3, 4), (3,), ()
FUNCTIONS = {
    "arithmetic": (lambda a, s: jnp.where(a > s, -a / (1 + s**2), jnp.clip(a, 0.2, s)), [M23, NUMBER]),
    "exponentials": (lambda a: jnp.exp(a) + jnp.log1p(a) * jnp.sqrt(a) ** 3 + jax.nn.sigmoid(a), [M23]),
    "whole numbers": (lambda a: jnp.argsort(a, axis=1) + jnp.floor(3 * a).astype(int), [M23]),
    "reductions": (lambda a: (a.sum(0), a.max(axis=1), a.min(), a.prod(), jnp.all(a > 0), a.cumsum(1)), [M23]),
    "means": (lambda a: (a - a.mean(axis=1, keepdims=True)) / a.std(axis=1, keepdims=True), [M23]),
    "shapes": (lambda a: (a.reshape(6), a.T, a[:, 1:], a[::2, 0], a[None], a.reshape(3, 1, 2).squeeze(1)), [M23]),
    "reshape in another order": (lambda a: jax.lax.reshape(a, (6,), (1, 0)), [M23]),
    "joined": (lambda a, v: (jnp.concatenate([a, v[None]]), jnp.stack([v, v]), a[:, ::-1]), [M23, V3]),
    "split": (lambda v: jnp.split(v, [1]), [V3]),
    "products": (lambda a, b, v: (a @ b, a @ v, v @ b, v @ v, b.T @ a.T, jnp.outer(v, v)), [M23, M34, V3]),
    "product of many axes": (lambda a, b: jnp.einsum("ijk,lkj->il", a, b), [(2, 3, 2), (4, 2, 3)]),
    "products of a batch": (lambda a, b: jnp.einsum("bij,bjk->bik", a, b), [(2, 2, 3), (2, 3, 2)]),
    "large products": (lambda a, b: (a @ b, a[0] @ a[0]), [(2, 30), (30, 2)]),
    "empty products": (lambda a: a[:, :0] @ a[:0], [M23]),
    "traces": (lambda a: (jnp.trace(a @ a.T), jnp.diag(a[0]), jnp.einsum("ij,ij->", a, a)), [M23]),
    "loops": (lambda a: jax.lax.fori_loop(0, 3, lambda i, a: a * (1 + i), a), [M23]),
    "scans": (lambda a: jax.lax.scan(lambda sum_, row: (sum_ + row.sum(), row * sum_), 0.0, a), [M23]),
    "branches": (lambda a: jax.lax.cond(a.sum() > 1.8, jnp.sin, jnp.cos, a), [M23]),
    "factorisations": (lambda a: jnp.linalg.svd(a, compute_uv=False), [M23]),
    "gathers": (lambda a, v: (a[:, jnp.argmax(v)], a.at[0].set(v)), [M23, V3]),
    "rules of their own": (lambda a: (jax.nn.relu(a - 0.5), jax.nn.silu(a), jax.nn.logsumexp(a)), [M23]),
    "gradients": (lambda a, b: jax.grad(lambda a: jnp.sum(jnp.tanh(a @ b) ** 2))(a), [M23, M34]),
    "calls": (lambda a, b: jax.jit(lambda a: apart(jnp.matmul)(a, b) + 1)(a), [M23, M34]),
    "what no lane changes": (lambda a: (a, jnp.arange(3.0), jnp.eye(2) @ jnp.ones((2, 2))), [M23]),
    "what is passed on": (lambda a: (a, 2.0), [M23]),
    "random numbers": (lambda a: a + jax.random.normal(jax.random.key(0), a.shape, a.dtype), [M23]),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_lanes_last_is_the_one_that_vmap_makes(name, dtype):
    function, shapes = FUNCTIONS[name]
    arrays = drawn(*shapes, dtype=dtype)
    axes = (-1,) * len(arrays)

    ours = jax.jit(lanes_last(function, axes, LANES))(*arrays)

    vmapped = jax.jit(jax.vmap(function, in_axes=axes, out_axes=-1))(*arrays)
    assert jax.tree.structure(ours) == jax.tree.structure(vmapped)
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(vmapped), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=50 * jnp.finfo(dtype).eps)


@pytest.mark.parametrize("lanes", [1, LANES])
def test_arguments_and_what_is_closed_over_may_be_shared(lanes):
    own, (shared, closed) = drawn(M23)[0][..., :lanes], [array[..., 0] for array in drawn(M34, (4,))]
    function = lambda pair, s: (pair["own"] @ pair["shared"] * s + closed[None], pair["shared"] @ closed)
    axes = ({"own": -1, "shared": None}, None)

    ours = jax.jit(lanes_last(function, axes, lanes))({"own": own, "shared": shared}, jnp.asarray(2.0))

    vmapped = jax.vmap(function, in_axes=axes, out_axes=-1, axis_size=lanes)({"own": own, "shared": shared}, 2.0)
    jax.tree.map(lambda mine, theirs: np.testing.assert_allclose(mine, theirs, rtol=1e-14), ours, vmapped)


@pytest.mark.usefixtures("as_users_compile")
def test_a_lane_has_the_same_bits_in_every_place():
    function = lambda a, b: jnp.tanh(apart(jnp.matmul)(a, b)).sum() * (b @ b.T @ a.T)
    a, b = drawn(M23, M34)
    run = jax.jit(lanes_last(function, (-1, -1), LANES))
    order = np.array([3, 0, 4, 1, 2])

    np.testing.assert_array_equal(run(a[..., order], b[..., order]), run(a, b)[..., order])


@pytest.mark.parametrize(
    ("function", "shapes", "fit"),
    [
        (lambda a, b: jnp.tanh(a @ b), [(8, 8), (8, 8)], True),
        (lambda a, b: a @ b, [(2, 9), (9, 2)], False),
        (lambda a, b: a @ b, [(100,), (100,)], True),
        (lambda a, b: jax.jit(lambda a: a @ b)(a), [(2, 9), (9, 2)], False),
        (lambda a: jax.lax.fori_loop(0, 3, lambda _, a: 2 * a, a), [(2, 2)], False),
        (lambda a: jax.lax.while_loop(lambda a: a.sum() < 1, lambda a: 2 * a, a), [(2, 2)], False),
        (lambda a: jax.lax.cond(a.sum() > 1, jnp.sin, jnp.cos, a), [(2, 2)], False),
    ],
    ids=["small", "long sums", "two vectors", "in a call", "scan", "while", "cond"],
)
def test_programs_of_small_products_without_loops_fit(function, shapes, fit):
    assert fits(jax.make_jaxpr(function)(*[jnp.ones(shape) for shape in shapes]).jaxpr) == fit


def cell_of(kind):
    """A cell function of networks whose steps are small."""
    rng = np.random.default_rng(1)
    some = lambda *shape: jnp.asarray(rng.normal(size=shape))
    weights = {
        "layers": (some(3, 2), some(2, 3)),
        "deep": (some(3, 2), some(2, 3), some(2, 2)),
        "diagonal": (some(2),) * 2,
    }
    network, outputs = (lf.DiagonalNetwork, 1) if kind == "diagonal" else (lf.LinearNetwork, 2)
    task = lf.Moments.whitened(yx=jnp.diag(jnp.array([1.0, 0.5]))[:outputs])
    return lambda scale, gain: lf.Problem(network(tuple(gain * w for w in weights[kind])), task.rescale(target=scale))


def function(network, problem):  # noqa: ARG001
    """What the network computes, as a matrix."""
    return jax.vmap(network)(jnp.eye(2)).T


@pytest.mark.parametrize(
    ("kind", "ts", "until"), [("layers", (0.1, 1.0, 5.0), "converged"), ("deep", None, None), ("diagonal", None, None)]
)
def test_cells_are_those_of_lanes_first(monkeypatch, kind, ts, until):
    """To rounding, with the same steps: with the lane as the first axis, and as the last."""
    flow = lf.Flow(t1=5.0, rtol=1e-6, until=until)
    axes = {"scale": np.geomspace(0.1, 10, 5), "gain": [0.1, 0.3, 1.0]}
    observe = [lf.loss, function]
    diagram = lambda: lf.sweep(cell_of(kind), axes, method=flow, observe=observe, ts=ts, progress=False)
    ran = []
    run = _lanes_last._run
    monkeypatch.setattr(_lanes_last, "_run", lambda *what, **how: ran.append(what) or run(*what, **how))

    last = diagram()
    assert ran
    ran.clear()
    programs.clear()
    monkeypatch.setattr("layerflow.engine._program.fits", lambda _: False)
    first = diagram()

    assert not ran
    assert first.attrs["compile_seconds"] > 0
    np.testing.assert_array_equal(last.num_steps, first.num_steps)
    np.testing.assert_array_equal(last.status, first.status)
    np.testing.assert_allclose(last.function, first.function, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(last.loss, first.loss, rtol=1e-9, atol=1e-12)


def test_lanes_come_first_where_cells_are_differentiated(monkeypatch):
    """Functions keep the rules that they have for their derivatives."""
    monkeypatch.setattr(_lanes_last, "_run", lambda *_: pytest.fail("lanes were last"))

    axes = {"scale": [1.0, 2.0], "gain": [0.5]}
    flow = lf.Flow(t1=1.0)
    diagram = lf.sweep(cell_of("layers"), axes, method=flow, observe=lf.loss, derivative="scale", progress=False)

    assert (abs(diagram.loss_d_scale) > 0).all()


def calls_in(function, *shapes):
    """How many functions XLA is told to keep apart."""
    arrays = drawn(*shapes)
    axes = (-1,) * len(arrays)
    return jax.jit(lanes_last(function, axes, LANES)).lower(*arrays).as_text().count("call @")


def test_what_is_used_once_is_joined_and_what_is_used_more_often_is_computed_apart():
    square = (2, 2)
    assert calls_in(apart(lambda a, b: -(a @ b)), square, square) == 1  # the function that is apart itself
    assert calls_in(apart(lambda a, b: (a @ b) @ b), square, square) == 2  # a factor of the other
    error = lambda a, b, c: a @ b + c
    assert calls_in(apart(lambda a, b, c: [b @ (e := error(a, b, c)), e @ a]), square, square, square) == 2
    assert calls_in(apart(lambda a, b: jnp.tanh(a) @ b), square, square) == 2
    assert calls_in(lambda a, b: jnp.tanh(a) * b, square, square) == 0


def test_a_product_of_one_term_stays_apart_from_sums():
    assert calls_in(apart(lambda a, b, c: a @ b + c), (2, 1), (1, 2), (2, 2)) == 2
