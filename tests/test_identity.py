"""Identity is content: what changes a number makes another program and another store, in every process; nothing else does."""

import contextlib
import functools
import json
import subprocess
import sys

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import layerflow as lf
from layerflow._asked import Asked
from layerflow.engine._identity import identity
from layerflow.engine._kept import programs
from layerflow.methods._recipe import made_by, recipe_of

MODES = lf.Modes(jnp.ones(1), 2.0)
DATA = lf.Samples(np.linspace(-1.0, 1.0, 6)[:, None], np.linspace(-2.0, 2.0, 6)[:, None])
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


def over_paired(factor):
    cell = lambda a, b: plain(factor * a * b)
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
O = {"o": first_weight}
# What differs: how it is made, and two of it that give other numbers or other shapes.
DIFFERENT = {
    "text of the cell function": (scaled_cell, 1.0, 2.0),
    "shape closed over": (cell_over, np.ones(1), np.ones(2)),
    "dtype closed over": (cell_over, np.ones(1), np.ones(1, np.float32)),
    "dtype of an axis": (lambda v: {"axes": {"a": v}, "cell": lambda a: plain(a.astype(float))}, [1.0, 2.0], [1, 2]),
    "length of a vector axis": (
        lambda n: {"cell": lambda v: plain(v.sum()), "axes": {"v": lf.paired({"v": np.ones((2, n))})}},
        1,
        2,
    ),
    "paired axis": (over_paired, 1.0, 2.0),
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
    "kind of until": (lambda u: flow(until=u), None, "converged"),
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
    "summary": (lambda f: {"ts": TS, "observe": O, "summary": {"s": f}}, SUM, MEAN),
    "paths": (lambda p: {"ts": TS, "observe": O, "summary": {"s": SUM}, "paths": p}, True, False),
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
    "times": (lambda last: {"ts": np.array([0.0, last])}, 1.0, 2.0),
}


def run(go, request):
    """A sweep as these parts ask for it."""
    request = {"cell": plain, "axes": {"a": [0.5, 1.0]}, "method": SHORT, "observe": O} | request
    with request.pop("under", contextlib.nullcontext)():
        return go(request.pop("cell"), request.pop("axes"), **request)


def program(request):
    """All that two sweeps need to have in common to be computed by one program."""
    nothing = {"seeds": None, "root": 0, "ts": None, "summary": None, "paths": True, "derivative": (), "verify": False}

    def go(cell, axes, **how):
        batches = Asked.of(cell, axes, **nothing | how).batches()
        arguments = [(b.shared, b.root, b.one, b.frozen.constants, b.ts) for b in batches]
        return [(b.identity, *b._key(own)[1:]) for b, own in zip(batches, arguments, strict=True)]

    return run(go, request)


def numbers(request):
    """The bits of all variables of a sweep."""
    diagram = run(functools.partial(lf.sweep, progress=False, on=lf.Machine(devices=1, chunk=4)), request)
    return {name: variable.values.tobytes() for name, variable in diagram.data_vars.items()}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_changes_a_number_makes_another_program(what):
    """And the same, made anew, is the same."""
    make, one, other = DIFFERENT[what]

    first = program(make(one))

    assert program(make(one)) == first
    assert program(make(other)) != first
    assert all(found.lasting for found, *_ in first)


@pytest.mark.parametrize("what", NUMBERS)
def test_numbers_are_arguments_of_one_program(what):
    make, one, other = NUMBERS[what]

    assert program(make(one)) == program(make(other))


_ALONE = {"seeds", "summary", "verify", "axes"}  # parts that do not go with all others


@st.composite
def choices(draw):
    """Some of what may differ, by name, and which of the two, twice."""
    names = draw(st.lists(st.sampled_from(sorted(DIFFERENT)), min_size=2, max_size=4, unique=True))
    one = draw(st.tuples(*[st.integers(1, 2)] * len(names)))
    return names, one, draw(st.just(one) | st.tuples(*[st.integers(1, 2)] * len(names)))


def joined(names, which):
    """The program of what these make together, as far as no two of them make one part; and which those are."""
    request, kept = {}, []
    for name, number in zip(names, which, strict=True):
        own = DIFFERENT[name][0](DIFFERENT[name][number])
        if not request or not own.keys() & request.keys() and not (own | request).keys() & _ALONE:
            request, kept = request | own, [*kept, (name, number)]
    return program(request), kept


@settings(max_examples=15, deadline=None, derandomize=True)
@given(choices())
def test_programs_are_one_if_and_only_if_all_their_parts_are(chosen):
    names, *which = chosen
    (one, parts), (other, others) = (joined(names, numbers) for numbers in which)

    assert (one == other) == (parts == others)


def bits_are_its_own(what, which):
    """What a sweep gives after its like is what it gives alone."""
    make, one, other = which[what]
    numbers(make(one))
    after = numbers(make(other))
    programs.clear()
    return after == numbers(make(other))


@pytest.mark.parametrize("what", ["rule of custom_vmap", "rule of custom_jvp", "global of an optimiser"])
def test_a_sweep_after_its_like_gives_its_own_numbers(what):
    assert bits_are_its_own(what, DIFFERENT)


@pytest.mark.slow
@pytest.mark.parametrize("what", [*DIFFERENT, *NUMBERS])
def test_every_sweep_after_its_like_gives_its_own_numbers(what):
    which = DIFFERENT if what in DIFFERENT else NUMBERS
    make, one, other = which[what]

    assert bits_are_its_own(what, which)
    if what != "XLA's effort" and what != "adjoint" and what != "rule of custom_vjp":  # which may change the last bits
        assert numbers(make(one)) != numbers(make(other))


@pytest.mark.slow
def test_rules_decide_derivatives_and_batches():
    """A2: rules c x, c = 2 then 10, in both modes of differentiation; and a rule of batches that gives another value."""
    slopes = [run(lf.sweep, by_jvp(factor)).o_d_a.values for factor in (2.0, 10.0)]
    reverse = lf.Descent(optax.sgd, learning_rate=0.1, steps=2, adjoint=dfx.RecursiveCheckpointAdjoint())
    measured = lambda a, request: lf.solve(plain(a), reverse, observe=request["observe"]).observed["o"]
    grads = [jax.grad(measured)(1.0, by_vjp(factor)) for factor in (2.0, 10.0)]
    values = [run(lf.sweep, by_vmap(factor)).o.values for factor in (2.0, 1.0)]
    (true,) = lf.solve(plain(0.5), SHORT).network.weights[0]

    np.testing.assert_allclose(slopes[1], 5 * slopes[0], rtol=1e-12)
    np.testing.assert_allclose(grads[1], 5 * grads[0], rtol=1e-12)
    np.testing.assert_allclose(values[0], 2 * values[1], rtol=1e-12)
    np.testing.assert_allclose(values[1][0], true, rtol=1e-12)


def test_what_an_optimiser_reads_is_its_own(tmp_path):
    """A3: momentum by a global, in a sweep, in solve and in a store; truth is momentum by argument."""
    by_argument = lambda m: lambda learning_rate: optax.sgd(learning_rate, momentum=m)
    found, truth, solved = [], [], []
    for momentum in (0.0, 0.9):
        request = momentum_of_a_global(momentum)
        found.append(run(lf.sweep, request).o.values)
        solved.append(lf.solve(plain(0.5), request["method"], observe=O).observed["o"])
        truth.append(run(lf.sweep, stepping(by_argument(momentum))).o.values)
        if not momentum:
            run(lf.sweep, request | {"store": tmp_path / "s"})
    with pytest.raises(ValueError, match="is of another sweep. They differ in what was traced"):
        run(lf.sweep, momentum_of_a_global(0.9) | {"store": tmp_path / "s"})

    np.testing.assert_array_equal(found, truth)
    np.testing.assert_allclose(solved, np.asarray(truth)[:, 0], rtol=1e-12)
    assert abs(found[0] - found[1]).min() > 1e-3


def test_a_store_tells_solvers_and_settings_apart(tmp_path):
    """A4 and A5: of one name with other tableaus; a store and a diagram of one stream of random numbers."""
    by_solver = [own_solver(theta) | {"store": tmp_path / "solver"} for theta in (0.5, 0.0)]
    run(lf.sweep, by_solver[0])
    with pytest.raises(ValueError, match="is of another sweep. They differ in what was traced"):
        run(lf.sweep, by_solver[1])

    failing = {"cell": drawn, "seeds": 2, "method": lf.Flow(t1=2.0, max_steps=1), "observe": lf.loss}
    diagram = run(lf.sweep, failing | {"store": tmp_path / "stream"})
    with jax.threefry_partitionable(False):
        with pytest.raises(ValueError, match="jax_threefry_partitionable True there, False here"):
            run(lf.sweep, failing | {"store": tmp_path / "stream"})
        with pytest.raises(ValueError, match="other settings of JAX.* jax_threefry_partitionable was True"):
            lf.replay(drawn, diagram, a=0.5, seed=0)
        with pytest.raises(ValueError, match="other settings of JAX.* jax_threefry_partitionable was True"):
            lf.retry(drawn, diagram, lf.Flow(t1=2.0))
    assert (lf.retry(drawn, diagram, lf.Flow(t1=2.0), progress=False).status == 0).all()


def test_replay_keeps_all_of_a_controller_or_asks_for_the_method():
    """A7: `dtmax` decides the number of steps; what no package offers cannot be told by name."""
    diagram = run(lf.sweep, controlled(dtmax=0.02) | {"observe": lf.loss})
    path = lf.replay(plain, diagram, a=0.5)

    assert path.num_steps.item() == diagram.num_steps.sel(a=0.5).item() > 90
    np.testing.assert_allclose(path.observed["loss"], diagram.loss.sel(a=0.5), rtol=1e-12)
    with pytest.raises(ValueError, match="does not say all of its method: give `method`"):
        lf.replay(plain, run(lf.sweep, momentum_of_a_global(0.0) | {"observe": lf.loss}), a=0.5)


METHODS = {
    "Flow": lf.Flow(t1=1.0, rtol=1e-4, atol=1e-9, until=0.1, max_steps=7, dt0=0.1),
    "controller": controlled(dtmax=0.1, dtmin=1e-9, pcoeff=0.2, icoeff=0.8, safety=0.8)["method"],
    "jumps": flow(controller=dfx.ClipStepSizeController(dfx.PIDController(rtol=1e-3, atol=1e-4), jump_ts=jnp.ones(1)))[
        "method"
    ],
    "times": flow(controller=dfx.StepTo(ts=jnp.linspace(0.0, 2.0, 5)))["method"],
    "implicit": flow(solver=dfx.Kvaerno3(scan_kind="lax"), until="converged")["method"],
    "root finder": flow(solver=dfx.Kvaerno5(root_finder=dfx.VeryChord(rtol=1e-5, atol=1e-7, norm=None)))["method"],
    "adjoint": flow(adjoint=dfx.DirectAdjoint(), max_steps=9)["method"],
    "Exact": lf.Exact(t1=1.0),
    "Descent": lf.Descent(optax.adamw, learning_rate=1e-3, b1=0.8, nesterov=True, steps=9, batch=3, replace=True),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_methods_come_back_from_their_recipe(method):
    recipe = json.loads(json.dumps(recipe_of(method)))

    assert identity(made_by(recipe)) == identity(method)


def test_keys_that_draw_by_the_batch_are_refused():
    """B1: of rbg, wherever they come from; with threefry a start depends on seed and cell alone."""
    keyed = {"seeds": 4, "cell": drawn}
    rbg = jax.random.key(0, impl="rbg")
    for request in (
        keyed | {"root": rbg},
        {"cell": lambda a: drawn(jax.random.fold_in(rbg, (2 * a).astype(int)), a)},
        under(lambda: setting("jax_default_prng_impl", "rbg"), **keyed),
    ):
        with pytest.raises(ValueError, match="needs random keys of JAX's threefry"):
            run(lf.sweep, request)
    once = run(lf.sweep, {"cell": lambda a: drawn(rbg, a)})  # one draw for all cells
    np.testing.assert_allclose(once.o[0], lf.solve(drawn(rbg, 0.5), SHORT, observe=O).observed["o"], rtol=1e-12)
    weights = [run(lf.sweep, keyed | {"on": lf.Machine(chunk=chunk)}).o.values for chunk in (2, 8)]
    alone = [
        lf.solve(drawn(jax.random.fold_in(jax.random.key(0), s), 0.5), SHORT, observe=O).observed["o"] for s in range(4)
    ]

    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-12)
    np.testing.assert_allclose(weights[0][0], alone, rtol=1e-12)
    assert len(set(weights[0][0].tolist())) == 4


HELD = object()


def holds_an_object():
    def rule(at, along):
        return at[0].sum(), along[0].sum() if HELD else None

    @jax.custom_jvp
    def total(x):
        return jnp.sum(x)

    total.defjvp(rule)
    return observing(total)


def process(folder):
    """What another process does: every program, and stores to go on with, of a Descent and of a strange observable."""
    for name, request in {"adam": stepping(optax.adam), "strange": holds_an_object()}.items():
        run(functools.partial(lf.sweep, progress=False), request | {"store": f"{folder}/{name}"} | HALVES)
    print(json.dumps({name: told(make(one)) for name, (make, one, _) in DIFFERENT.items()}))


HALVES = {"on": lf.Machine(chunk=1, devices=1)}


def told(request):
    return [[found.digest, shapes] for found, _, shapes in program(request)]


def test_every_process_finds_the_same_and_goes_on(request, tmp_path):
    """A1: nothing of an identity is an address; what only this process can tell is refused elsewhere, in words."""
    command = f"import sys; sys.path.insert(0, {str(request.path.parent)!r})\nimport conftest, test_identity as t\n"
    command += f"t.lf.enable_compile_cache({jax.config.jax_compilation_cache_dir!r})\nt.process({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: told(make(one)) for name, (make, one, _) in DIFFERENT.items()}

    store = tmp_path / "adam"
    (store / "status/c/0/1").unlink()
    half = lf.open_diagram(store)
    assert half.status.values.tolist() == [0, 255]
    whole = run(lf.sweep, stepping(optax.adam) | {"store": store} | HALVES)
    alone = run(lf.sweep, stepping(optax.adam) | HALVES)
    assert whole.o.values.tobytes() == alone.o.values.tobytes()
    assert whole.attrs["runs"] == 2

    assert program(holds_an_object()) == program(holds_an_object())
    with pytest.raises(ValueError, match="which holds a object: another process cannot compare that"):
        run(lf.sweep, holds_an_object() | {"store": tmp_path / "strange"} | HALVES)


@pytest.mark.slow
def test_a_cluster_runs_descents(tmp_path):
    """A1: workers find the identity that the client found."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster,
        Client(cluster) as client,
    ):
        on = lf.Machine(client=client, chunk=1)
        stored = run(lf.sweep, stepping(optax.adam) | {"store": tmp_path / "d", "on": on, "cell": lambda a: plain(a)})
    assert stored.o.values.tobytes() == run(lf.sweep, stepping(optax.adam) | HALVES).o.values.tobytes()


@pytest.mark.slow
def test_the_command_resumes_descents(tmp_path):
    """A1: in another process, `layerflow resume`."""
    x = np.random.default_rng(0).normal(size=(12, 2))
    np.savez(tmp_path / "mine.npz", x=x, y=x[:, :1])
    layerflow = [sys.executable, "-m", "layerflow.cli"]
    how = ["--method", "descent", "--learning-rate", "0.1", "--t1", "1", "--grid", "3", "--observe", "loss"]
    begin = [*layerflow, "diagram", str(tmp_path / "mine.npz"), *how, "--whiten", "--store", str(tmp_path / "d")]
    go = functools.partial(subprocess.run, check=True, capture_output=True, cwd=tmp_path, timeout=200)
    go([*begin, "--out", str(tmp_path)])
    before = lf.open_diagram(tmp_path / "d").load()
    next(file for file in (tmp_path / "d/status/c").rglob("*") if file.is_file()).unlink()

    go([*layerflow, "resume", str(tmp_path / "d")])

    after = lf.open_diagram(tmp_path / "d")
    assert after.attrs["runs"] == 2
    assert after.loss.values.tobytes() == before.loss.values.tobytes()
