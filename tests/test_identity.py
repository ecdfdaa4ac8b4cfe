"""Identity is content: what changes a number makes another program and another store, and nothing else does."""

import functools
import json
import subprocess
import sys

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from changes import (
    DIFFERENT,
    FIRST,
    NUMBERS,
    SHORT,
    by_jvp,
    by_vjp,
    by_vmap,
    controlled,
    drawn,
    flow,
    momentum_of_a_global,
    numbers,
    observing,
    own_solver,
    plain,
    program,
    run,
    setting,
    stepping,
    under,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import layerflow as lf
from layerflow.engine._identity import identity
from layerflow.engine._kept import programs
from layerflow.methods._recipe import made_by, recipe_of

pytestmark = pytest.mark.optimised


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_changes_a_number_makes_another_program(what):
    """And the same, made anew, is the same."""
    make, one, other = DIFFERENT[what]

    first = program(make(one))

    assert program(make(one)) == first
    assert program(make(other)) != first
    assert not any(found.strange for found, *_ in first)


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
        if not request or not (own.keys() & request.keys() or (own | request).keys() & _ALONE):
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


# What may change the last bits, or a slope that no sweep asks for.
_PERHAPS = {"XLA's effort", "adjoint", "rule of custom_vjp", "dtype of an axis"}


@pytest.mark.slow
@pytest.mark.parametrize("what", [*DIFFERENT, *NUMBERS])
def test_every_sweep_after_its_like_gives_its_own_numbers(what):
    which = DIFFERENT if what in DIFFERENT else NUMBERS
    make, one, other = which[what]

    assert bits_are_its_own(what, which)
    if what not in _PERHAPS:
        assert numbers(make(one)) != numbers(make(other))


@pytest.mark.slow
def test_rules_decide_derivatives_and_batches():
    """A2: rules c x, c = 2 then 10, in both modes of differentiation; and another value by a rule of batches."""
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
        solved.append(lf.solve(plain(0.5), request["method"], observe=FIRST).observed["o"])
        truth.append(run(lf.sweep, stepping(by_argument(momentum))).o.values)
        if not momentum:
            run(lf.sweep, request | {"store": tmp_path / "s"})
    with pytest.raises(ValueError, match=r"is of another sweep. They differ in what was traced"):
        run(lf.sweep, momentum_of_a_global(0.9) | {"store": tmp_path / "s"})

    np.testing.assert_array_equal(found, truth)
    np.testing.assert_allclose(solved, np.asarray(truth)[:, 0], rtol=1e-12)
    assert abs(found[0] - found[1]).min() > 1e-3


def test_a_store_tells_solvers_and_settings_apart(tmp_path):
    """A4 and A5: of one name with other tableaus; a store and a diagram of one stream of random numbers."""
    by_solver = [own_solver(theta) | {"store": tmp_path / "solver"} for theta in (0.5, 0.0)]
    run(lf.sweep, by_solver[0])
    with pytest.raises(ValueError, match=r"is of another sweep. They differ in what was traced"):
        run(lf.sweep, by_solver[1])

    failing = {"cell": drawn, "seeds": 2, "method": lf.Flow(t1=2.0, max_steps=1), "observe": lf.loss}
    diagram = run(lf.sweep, failing | {"store": tmp_path / "stream"})
    with jax.threefry_partitionable(False):
        with pytest.raises(ValueError, match=r"jax_threefry_partitionable True there, False here"):
            run(lf.sweep, failing | {"store": tmp_path / "stream"})
        with pytest.raises(ValueError, match=r"other settings of JAX.* jax_threefry_partitionable was True"):
            lf.replay(drawn, diagram, a=0.5, seed=0)
        with pytest.raises(ValueError, match=r"other settings of JAX.* jax_threefry_partitionable was True"):
            lf.retry(drawn, diagram, lf.Flow(t1=2.0))
    assert (lf.retry(drawn, diagram, lf.Flow(t1=2.0), progress=False).status == 0).all()


def test_replay_keeps_all_of_a_controller_or_asks_for_the_method():
    """A7: `dtmax` decides the number of steps; what no package offers cannot be told by name."""
    diagram = run(lf.sweep, controlled(dtmax=0.02) | {"observe": lf.loss})
    path = lf.replay(plain, diagram, a=0.5)

    assert path.num_steps.item() == diagram.num_steps.sel(a=0.5).item() > 90
    np.testing.assert_allclose(path.observed["loss"], diagram.loss.sel(a=0.5), rtol=1e-12)
    with pytest.raises(ValueError, match=r"does not say all of its method: give `method`"):
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
        with pytest.raises(ValueError, match=r"needs random keys of JAX's threefry"):
            run(lf.sweep, request)
    once = run(lf.sweep, {"cell": lambda a: drawn(rbg, a)})  # one draw for all cells
    np.testing.assert_allclose(once.o[0], lf.solve(drawn(rbg, 0.5), SHORT, observe=FIRST).observed["o"], rtol=1e-12)
    weights = [run(lf.sweep, keyed | {"on": lf.Machine(chunk=chunk)}).o.values for chunk in (2, 8)]
    alone = [
        lf.solve(drawn(jax.random.fold_in(jax.random.key(0), s), 0.5), SHORT, observe=FIRST).observed["o"]
        for s in range(4)
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
    return [[found.digest, *([key[-3].digest, key[-1]] for key in keys.values())] for found, keys in program(request)]


@pytest.mark.slow
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
    with pytest.raises(ValueError, match=r"which holds a object: another process cannot compare that"):
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
