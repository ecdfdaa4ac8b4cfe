"""Sweeps that differ in one thing, which is another program, or in a number alone, which is not."""

import contextlib
import functools

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import layerflow as lf
from layerflow.engine._machine import Plan
from layerflow.sweeps._request import Request

MODES = lf.Modes(jnp.ones(1), 2.0)
DATA = lf.Samples(np.linspace(-1.0, 2.0, 6)[:, None], np.linspace(-1.0, 1.0, 6)[:, None])
STEPS = functools.partial(lf.Descent, optax.sgd, steps=2)
SHORT = STEPS(learning_rate=0.1)
FACTOR = MOMENTUM = 0.0


def plain(a):
    return lf.Problem(lf.DiagonalNetwork((a * jnp.ones(1), jnp.ones(1))), MODES)


def sampled(a):
    return lf.Problem(lf.DiagonalNetwork((a * jnp.ones(1), jnp.ones(1))), DATA)


def drawn(key, a):
    return lf.Problem(lf.DiagonalNetwork((a * jax.random.normal(key, (1,)), jnp.ones(1))), MODES)


def first_weight(network, problem):  # noqa: ARG001
    return network.weights[0][0]


# What a user may change, each made anew at every call; two values of it, which give other numbers.


def scaled_cell(factor):
    return {"cell": lambda a: plain(factor * a)}


def looped_cell(factor):
    return {"cell": lambda a: plain(jax.lax.fori_loop(0, 2, lambda _, x: factor * x, a))}


def cell_over(array):
    net = lambda a: lf.DiagonalNetwork((a.astype(array.dtype) * array, jnp.asarray(array)))
    return {"cell": lambda a: lf.Problem(net(a), lf.Modes(jnp.ones(array.shape, array.dtype), jnp.asarray(array)))}


def with_problem(**how):
    return {"cell": lambda a: lf.Problem(plain(a).start, MODES, **how)}


def frozen_layer(frozen):
    start = plain(1.0).start
    return with_problem(rates=eqx.tree_at(lambda n: n.weights, start, (None if frozen else 1.0, 1.0)))


def with_activation(function):
    net = lambda a: lf.MLP((a * jnp.ones((2, 1)), jnp.ones((1, 2))), activation=function)
    return {"cell": lambda a: lf.Problem(net(a), DATA)}


def over_static(sizes):
    def cell(size, a):
        return lf.Problem(lf.DiagonalNetwork((a * jnp.ones(size), jnp.ones(size))), lf.Modes(jnp.ones(size), 2.0))

    return {"cell": cell, "axes": {"size": lf.static(sizes), "a": [0.5, 1.0]}, "observe": lf.loss}


def over_paired(joined):
    cell = lambda a, b: plain(joined(a, b))
    return {"cell": cell, "axes": {"p": lf.paired({"a": [0.5, 1.0], "b": [1.0, 2.0]})}}


def drawn_within(flag):
    def cell(key, a):
        with jax.threefry_partitionable(flag):
            return drawn(key, a)

    return {"cell": cell, "seeds": 2}


def observing(function):
    return {"observe": {"o": lambda network, problem: function(network.weights[0])}}


def by_jvp(factor):
    @jax.custom_jvp
    def total(x):
        return jnp.sum(x)

    @total.defjvp
    def rule(at, along):
        return total(at[0]), factor * jnp.sum(along[0])

    return observing(total) | {"derivative": ("a",)}


def by_global_rule(factor):
    globals()["FACTOR"] = factor

    @jax.custom_jvp
    def total(x):
        return jnp.sum(x)

    @total.defjvp
    def rule(at, along):
        return total(at[0]), FACTOR * jnp.sum(along[0])

    return observing(total) | {"derivative": ("a",)}


def by_nondiff(factor):
    @functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
    def total(c, x):  # noqa: ARG001
        return jnp.sum(x)

    @total.defjvp
    def rule(c, at, along):
        return total(c, at[0]), c * jnp.sum(along[0])

    return observing(functools.partial(total, factor)) | {"derivative": ("a",)}


def by_vjp(factor):
    @jax.custom_vjp
    def total(x):
        return jnp.sum(x)

    total.defvjp(lambda x: (total(x), x.shape), lambda shape, slope: (factor * slope * jnp.ones(shape),))
    return observing(total)


def by_vmap(factor):
    @jax.custom_batching.custom_vmap
    def total(x):
        return jnp.sum(x)

    @total.def_vmap
    def rule(size, batched, x):  # noqa: ARG001
        return factor * jnp.sum(x, axis=1), True

    return observing(total)


def by_callback(factor):
    called = lambda x: np.asarray(factor * x.sum())
    ask = lambda w: jax.pure_callback(called, jax.ShapeDtypeStruct((), float), w, vmap_method="sequential")
    return observing(ask)


class Times(eqx.Module):
    factor: float = eqx.field(static=True)

    def __call__(self, network, problem):
        return self.factor * first_weight(network, problem)


def own_solver(theta):
    """Of one name, with a tableau of the user's own (A4)."""

    class Mine(dfx.AbstractERK):
        tableau = dfx.ButcherTableau(
            c=np.array([0.5]),
            a_lower=(np.array([0.5]),),
            b_sol=np.array([1 - theta, theta]),
            b_error=np.array([0.1, -0.1]),
        )
        interpolation_cls = dfx.ThirdOrderHermitePolynomialInterpolation.from_k

        def order(self, terms):
            return 1

    return {"method": lf.Flow(t1=2.0, solver=Mine(), controller=dfx.ConstantStepSize(), dt0=0.5)}


def own_controller(factor):
    class Halving(dfx.ConstantStepSize):
        def init(self, terms, t0, t1, y0, dt0, *rest):
            return super().init(terms, t0, t1, y0, factor * dt0, *rest)

    return {"method": lf.Flow(t1=2.0, controller=Halving(), dt0=0.5)}


def controlled(**fields):
    return {"method": lf.Flow(t1=2.0, controller=dfx.PIDController(rtol=1e-3, atol=1e-5, **fields))}


def flow(**how):
    return {"method": lf.Flow(t1=2.0, **how)}


def stepping(optimiser=optax.sgd, *, cell=plain, **how):
    how = how if "rate" in how else {"learning_rate": 0.1} | how
    return {"method": lf.Descent(optimiser, steps=2, **how), "cell": cell}


def momentum_of_a_global(momentum):
    globals()["MOMENTUM"] = momentum
    return stepping(lambda learning_rate: optax.sgd(learning_rate, momentum=MOMENTUM))


def scheduled(decay):
    return stepping(lambda rate: optax.sgd(optax.exponential_decay(rate, 1, decay)), rate=0.1)


def scheduled_by_closure(decay):
    return stepping(learning_rate=lambda step: 0.1 * decay**step)


def under(manager, **request):
    return request | {"under": manager}


@contextlib.contextmanager
def setting(name, value):
    before = jax.config.values[name]
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


def offset(number):
    return under(lambda: setting("jax_random_seed_offset", number), cell=drawn, seeds=2)


SUM, MEAN = (lambda path: path.observed["o"].sum()), (lambda path: 2 * path.observed["o"].mean())
TS = np.array([0.0, 1.0, 2.0])
FIRST = {"o": first_weight}

# What differs: how it is made, and two of it that give other numbers or other shapes.
DIFFERENT = {
    "text of the cell function": (lambda cell: {"cell": cell}, lambda a: plain(2 * a), lambda a: plain(a + 2)),
    "number inside of a loop": (looped_cell, 1.0, 2.0),
    "shape closed over": (lambda v: cell_over(v) | {"observe": {"o": lf.loss}}, np.ones(1), np.ones(2)),
    "dtype closed over": (cell_over, np.ones(1), np.ones(1, np.float32)),
    "dtype of an axis": (lambda v: {"axes": {"a": v}, "cell": lambda a: plain(a.astype(float))}, [1.0, 2.0], [1, 2]),
    "length of a vector axis": (
        lambda n: {"cell": lambda v: plain(v.sum()), "axes": {"v": lf.paired({"v": np.ones((2, n))})}},
        1,
        2,
    ),
    "paired axis": (over_paired, jnp.add, jnp.multiply),
    "static axis": (over_static, [1, 2], [1, 3]),
    "decay": (lambda d: with_problem(decay=d), 0.0, 0.5),
    "rate of None": (frozen_layer, False, True),
    "activation": (with_activation, jnp.tanh, jax.nn.sigmoid),
    "activation of one's own": (lambda c: with_activation(lambda x: jnp.tanh(c * x)), 1.0, 2.0),
    "observable": (lambda f: {"observe": {"o": f}}, first_weight, lambda n, p: n.weights[1][0]),
    "default of an observable": (lambda c: {"observe": {"o": lambda n, p, c=c: c * n.weights[0][0]}}, 1.0, 2.0),
    "field of an observable": (lambda c: {"observe": {"o": Times(c)}}, 1.0, 2.0),
    "rule of custom_jvp": (by_jvp, 2.0, 10.0),
    "rule of custom_jvp that reads a global": (by_global_rule, 2.0, 10.0),
    "argument that is not differentiated": (by_nondiff, 2.0, 10.0),
    "rule of custom_vjp": (by_vjp, 2.0, 10.0),
    "rule of custom_vmap": (by_vmap, 2.0, 1.0),
    "callback": (by_callback, 2.0, 1.0),
    "solver": (lambda s: flow(solver=s()), dfx.Tsit5, dfx.Bosh3),
    "tableau": (own_solver, 0.5, 0.0),
    "controller of one's own": (own_controller, 1.0, 0.5),
    "field of a controller": (lambda d: controlled(dtmax=d), None, 0.1),
    "coefficient of a controller": (lambda c: controlled(safety=c), 0.9, 0.5),
    "kind of until": (lambda u: {"method": lf.Flow(t1=40.0, until=u)}, None, "converged"),
    "until or not": (lambda u: flow(until=u), None, 0.3),
    "dt0 or not": (lambda d: flow(dt0=d), None, 0.01),
    "optimiser": (stepping, optax.sgd, optax.adam),
    "flag of an optimiser": (lambda n: stepping(momentum=0.9, nesterov=n), False, True),
    "global of an optimiser": (momentum_of_a_global, 0.0, 0.9),
    "schedule": (scheduled, 0.5, 0.4),
    "schedule by closure": (scheduled_by_closure, 0.5, 0.4),
    "batch": (lambda b: stepping(cell=sampled, batch=b), 2, 3),
    "replace": (lambda r: stepping(cell=sampled, batch=2, replace=r), False, True),
    "adjoint": (lambda a: stepping(adjoint=a), None, dfx.DirectAdjoint()),
    "length of ts": (lambda n: {"ts": TS[:n]}, 2, 3),
    "summary": (lambda f: {"ts": TS, "observe": FIRST, "summary": {"s": f}}, SUM, MEAN),
    "paths": (lambda p: {"ts": TS, "observe": FIRST, "summary": {"s": SUM}, "paths": p}, True, False),
    "derivative": (lambda d: {"derivative": d}, (), ("a",)),
    "verify": (lambda v: {"verify": v} | flow(), False, True),
    "threefry flag inside a cell": (drawn_within, True, False),
    "threefry flag around a sweep": (
        lambda flag: under(lambda: jax.threefry_partitionable(flag), cell=drawn, seeds=2),
        True,
        False,
    ),
    "offset of seeds": (offset, 0, 1),
    "XLA's effort": (
        lambda flag: under(lambda: setting("jax_disable_most_optimizations", flag)),
        False,
        True,
    ),
}
# Numbers that are arguments of the program: two of each, for which it is one.
NUMBERS = {
    "numbers closed over": (cell_over, np.ones(1), np.full(1, 2.0)),
    "numbers of an axis": (lambda v: {"axes": {"a": v}}, [1.0, 2.0], [3.0, 4.0]),
    "t1": (lambda t1: {"method": lf.Flow(t1=t1)}, 1.0, 2.0),
    "rtol": (lambda rtol: flow(rtol=rtol), 1e-3, 1e-6),
    "max_steps": (lambda most: flow(max_steps=most), 100_000, 2),
    "until": (lambda until: flow(until=until), 0.3, 0.2),
    "steps": (lambda steps: {"method": lf.Descent(optax.sgd, learning_rate=0.1, steps=steps)}, 2, 3),
    "learning rate": (lambda rate: stepping(learning_rate=rate), 0.1, 0.2),
    "root": (lambda root: {"cell": drawn, "seeds": 2, "root": root}, 0, 1),
    "number in the cell function": (scaled_cell, 1.0, 2.0),
    "number of NumPy in the cell function": (scaled_cell, np.float64(1.0), np.float64(2.0)),
    "times": (lambda last: {"ts": np.array([0.0, last])}, 1.0, 2.0),
}


def run(go, request):
    """A sweep as these parts ask for it."""
    request = {"cell": plain, "axes": {"a": [0.5, 1.0]}, "method": SHORT, "observe": FIRST} | request
    with request.pop("under", contextlib.nullcontext)():
        return go(request.pop("cell"), request.pop("axes"), **request)


def program(request):
    """All that two sweeps need to have in common to be computed by one program."""
    nothing = {"seeds": None, "root": 0, "ts": None, "summary": None, "paths": True, "derivative": (), "verify": False}

    def go(cell, axes, **how):
        batches = Request.of(cell, axes, **nothing | how).batches()
        plan = lambda batch: Plan.of(2, 2 if batch.frozen.program.method.in_lanes else None)
        return [(batch.identity, batch.programs.keys(plan(batch), jax.devices()[0])) for batch in batches]

    return run(go, request)


def numbers(request):
    """The bits of all variables of a sweep."""
    diagram = run(functools.partial(lf.sweep, progress=False, on=lf.Machine(devices=1, chunk=4)), request)
    return {name: variable.values.tobytes() for name, variable in diagram.data_vars.items()}
