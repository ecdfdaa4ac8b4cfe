"""A prepared sweep: traced and compiled once, called with other numbers."""

import copy
import functools
import gc
import pickle
import resource

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import layerflow as lf

TASK = lf.Modes(jnp.array([1.0, 0.5]), jnp.array([2.0, 1.0]))
AXES = {"a": [0.5, 1.0, 1.5]}
EASY = lf.Descent(optax.sgd, steps=3, learning_rate=0.1)


def modes(a, scale=1.0):
    return lf.Problem(lf.DiagonalNetwork((a * jnp.ones(2), a * jnp.ones(2))), TASK.rescale(target=scale))


def narrow(a, n=1):
    """A cell without a number of a dtype of its own."""
    weights = a * jnp.asarray(n, a.dtype) * jnp.ones(2, a.dtype)
    return lf.Problem(lf.DiagonalNetwork((weights, weights)), lf.Modes(jnp.ones(2, a.dtype), 1.0))


def opened(key, a, scale):
    """A cell with an argument that no axis gives."""
    return lf.Problem(lf.DiagonalNetwork((a * jax.random.normal(key, 2), jnp.ones(2))), TASK.rescale(target=scale))


prepare = functools.partial(lf.prepare, progress=False)
sweep = functools.partial(lf.sweep, progress=False)


def same(one, other):
    """Whether two diagrams are equal but for when and how fast they were made."""
    return one.drop_attrs().identical(other.drop_attrs())


METHODS = {
    "Descent": (EASY, {"learning_rate": 0.2}, lf.Descent(optax.sgd, steps=3, learning_rate=0.2)),
    "Exact": (lf.Exact(t1=2.0), {"t1": 1.0}, lf.Exact(t1=1.0)),
}


@pytest.mark.parametrize(("method", "numbers", "other"), METHODS.values(), ids=METHODS)
def test_a_call_is_a_sweep(method, numbers, other):
    run = prepare(modes, AXES, method=method)

    assert same(run(), sweep(modes, AXES, method=method))
    assert same(run(**numbers), sweep(modes, AXES, method=other))
    assert same(run(a=[0.7, 0.9]), sweep(modes, {"a": [0.7, 0.9]}, method=method))
    assert same(run(), sweep(modes, AXES, method=method))


@pytest.mark.slow
def test_a_call_is_a_sweep_by_flow_with_all_that_it_takes():
    """Numbers of the flow, seeds, root, times, summaries, derivatives and checks against theory."""
    cell = lambda key, a: opened(key, a, 1.0)
    how = {"ts": [0.5, 1.0], "summary": lf.half_times, "observe": (lf.loss, lf.mode_strengths), "verify": True}
    how |= {"derivative": "a", "seeds": 2}
    run = prepare(cell, AXES, method=lf.Flow(t1=1.0, until=1e-9, dt0=0.1), **how)
    given = {"rtol": 1e-4, "dt0": 0.05, "until": 1e-8, "t1": 1.5}

    assert same(run(), sweep(cell, AXES, method=lf.Flow(t1=1.0, until=1e-9, dt0=0.1), **how))
    assert same(run(**given, root=3), sweep(cell, AXES, method=lf.Flow(**given), root=3, **how))
    assert same(run(seeds=3), sweep(cell, AXES, method=lf.Flow(t1=1.0, until=1e-9, dt0=0.1), **how | {"seeds": 3}))


def test_open_arguments_are_given_at_the_call(compiled):
    """Numbers, arrays and whole tasks; another value compiles nothing."""

    def cell(a, scale, task):
        return lf.Problem(lf.DiagonalNetwork((a * jnp.ones(2), a * jnp.ones(2))), task.rescale(target=scale))

    run = prepare(cell, AXES, method=EASY)
    assert not compiled  # nothing is known of what stays open
    other = lf.Modes(jnp.array([1.0, 2.0]), jnp.array([0.5, 1.0]))
    first = run(scale=1.0, task=TASK)
    compiled.clear()
    second = run(scale=0.5, task=other)

    assert not compiled
    assert same(first, sweep(functools.partial(cell, scale=1.0, task=TASK), AXES, method=EASY))
    assert same(second, sweep(functools.partial(cell, scale=0.5, task=other), AXES, method=EASY))


def test_a_key_can_stay_open():
    cell = lambda a, noise: modes(a, jax.random.normal(noise))
    run, key = prepare(cell, AXES, method=EASY), jax.random.key(1)
    first = run(noise=key)

    assert same(first, sweep(functools.partial(cell, noise=key), AXES, method=EASY))
    assert not same(run(noise=jax.random.key(2)), first)
    with pytest.raises(TypeError, match=r"`noise` was prepared as key<fry> of shape \(\), but now is 0.5"):
        run(noise=0.5)


def test_a_default_holds_until_a_call_gives_the_argument(compiled):
    run = prepare(modes, AXES, method=EASY)
    run()
    given = run(scale=0.5)
    compiled.clear()

    assert same(given, sweep(functools.partial(modes, scale=0.5), AXES, method=EASY))
    compiled.clear()
    run(scale=0.6)
    run()
    assert not compiled


def test_without_axes_it_is_the_handle_of_solve():
    run = prepare(functools.partial(modes, 0.5), method=lf.Exact(t1=2.0), observe=lf.mode_strengths)
    diagram, path = run(t1=1.0), lf.solve(modes(0.5), lf.Exact(t1=1.0), observe=lf.mode_strengths)

    assert diagram.status.shape == ()
    np.testing.assert_allclose(diagram.mode_strengths, path.observed["mode_strengths"], rtol=1e-6)


GAIN = 1.0


def test_what_the_cell_reads_from_outside_is_read_once(monkeypatch):
    """As under `jax.jit`; `sweep` reads it at each call."""
    held = {"scale": 1.0}
    cell = lambda a: modes(a, GAIN * held["scale"])
    run = prepare(cell, AXES, method=EASY)
    before = run()
    held["scale"] = 2.0
    monkeypatch.setitem(globals(), "GAIN", 3.0)

    assert same(run(), before)
    assert not same(sweep(cell, AXES, method=EASY), before)
    assert same(prepare(cell, AXES, method=EASY)(), sweep(cell, AXES, method=EASY))


def test_axes_that_move_together_take_other_values():
    cell = lambda a, b: modes(a, b)
    run = prepare(cell, {"a": lf.paired({"a": [0.5, 1.0], "b": [1.0, 2.0]})}, method=EASY)
    other = {"a": lf.paired({"a": [0.6, 0.7, 0.8], "b": [1.0, 3.0, 2.0]})}

    assert same(run(**other), sweep(cell, other, method=EASY))
    with pytest.raises(TypeError, match=r"gives a, b, but values for a came.*lf\.paired"):
        run(a=[0.5, 1.0])


def test_static_values_each_have_their_program():
    cell = lambda a, n: lf.Problem(lf.DiagonalNetwork((a * jnp.ones(n), jnp.ones(n))), lf.Modes(jnp.ones(n), 1.0))
    axes = {"n": lf.static([1, 2]), "a": [0.5, 1.0]}
    run = prepare(cell, axes, method=EASY)

    assert same(run(a=[0.7, 0.8]), sweep(cell, {**axes, "a": [0.7, 0.8]}, method=EASY))
    with pytest.raises(TypeError, match=r"`n` decide the program, lf\.static: prepare it anew"):
        run(n=lf.static([2, 3]))


def test_a_store_takes_the_calls_of_equal_numbers(tmp_path):
    run = prepare(modes, AXES, method=EASY, store=tmp_path / "s.zarr")

    assert same(run().load(), run().load())
    with pytest.raises(ValueError, match="another sweep"):
        run(learning_rate=0.3)


BAD = {
    "an unknown name": ({"lamda": 1.0}, TypeError, r"does not know `lamda`. It takes open arguments: scale; axes: a"),
    "an argument left open": (
        {},
        TypeError,
        r"`scale` of the cell function was left open. Give it: run\(scale=\.\.\.\)",
    ),
    "another shape": ({"scale": np.ones(2)}, TypeError, r"prepared with shape \(\), but now has shape \(2,\)"),
    "another kind": ({"scale": 1j}, TypeError, r"prepared as float\d\d, which does not hold complex"),
    "no number": ({"scale": "big"}, TypeError, r"PyTrees of them can stay open, but `scale` is 'big'.*partial"),
    "nothing": ({"scale": None}, TypeError, r"can stay open, but `scale` is None"),
    "another structure": (
        {"scale": {"x": 1.0}},
        TypeError,
        r"first given as a number or an array, now as {'x': \*}",
    ),
    "an axis of text": ({"scale": 1.0, "a": ["x"]}, TypeError, r"Axis `a` needs real numbers"),
    "an empty axis": ({"scale": 1.0, "a": []}, ValueError, r"Axis `a` is empty"),
    "one number for an axis": ({"scale": 1.0, "a": 0.5}, ValueError, r"needs a vector of values, but it is one number"),
    "vectors for an axis": ({"scale": 1.0, "a": [[0.5, 1.0]]}, TypeError, r"prepared with shape \(\) at each position"),
    "a complex axis": ({"scale": 1.0, "a": [1j]}, TypeError, r"Axis `a` needs real numbers"),
    "a bad number of the method": ({"scale": 1.0, "steps": 0}, ValueError, r"`steps` needs to be positive"),
    "a fraction of a step": (
        {"scale": 1.0, "steps": 2.5},
        TypeError,
        r"`steps` is a whole number, but it is 2.5",
    ),
    "yes for a number of steps": (
        {"scale": 1.0, "steps": True},
        ValueError,
        r"`steps` is a whole number, but it has dtype bool",
    ),
    "a whole number beyond its dtype": ({"scale": 1.0, "steps": 2**70}, ValueError, r"`steps` counts steps, at most"),
    "masked values": (
        {"scale": 1.0, "a": np.ma.masked_array([0.5, 1.0], [True, False])},
        ValueError,
        r"some are masked",
    ),
    "more than a number holds": ({"scale": 10**400}, TypeError, r"`scale`"),
    "no seeds": ({"scale": 1.0, "seeds": None}, TypeError, r"prepared without `seeds`"),
    "keys that draw by the batch": ({"scale": 1.0, "root": jax.random.key(0, impl="rbg")}, ValueError, r"threefry"),
    "a number that the method was made without": (
        {"scale": 1.0, "batch": 3},
        TypeError,
        r"Give it to lf.Descent where",
    ),
    "a method": ({"scale": 1.0, "method": EASY}, TypeError, r"does not know `method`"),
    "no seeds before": ({"scale": 1.0, "seeds": 3}, TypeError, r"prepared without `seeds`"),
    "a bad root": ({"scale": 1.0, "root": 0.5}, TypeError, r"`root` needs a key"),
}


@pytest.fixture(scope="module")
def called():
    """A prepared sweep that was called once."""
    run = prepare(opened, AXES, method=EASY)
    run(scale=1.0)
    return run


@pytest.mark.parametrize(("given", "error", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_told_before_anything_runs(called, monkeypatch, given, error, words):
    monkeypatch.setattr("layerflow._prepare.computed", lambda *_: pytest.fail("it ran"))

    with pytest.raises(error, match=words):
        called(**given)


def test_a_first_call_that_fails_leaves_the_kind_open():
    run = prepare(opened, AXES, method=EASY)
    with pytest.raises(Exception, match=r"\w"):
        run(scale=jnp.ones((3, 3)))

    assert same(run(scale=1.0), sweep(functools.partial(opened, scale=1.0), AXES, method=EASY))


def test_traced_numbers_are_refused(called):
    with pytest.raises(TypeError, match="computed of known numbers"):
        jax.jit(lambda scale: called(scale=scale).loss.values)(1.0)


@pytest.mark.parametrize(
    ("cell", "name"),
    [(lambda a, learning_rate: modes(a, learning_rate), "learning_rate"), (lambda a, root: modes(a, root), "root")],
)
def test_names_that_would_mean_two_things_are_refused(cell, name):
    with pytest.raises(TypeError, match=f"`{name}` would mean the argument of the cell function and that of"):
        prepare(cell, AXES, method=EASY)


def test_what_cannot_be_prepared_is_told_as_by_sweep():
    with pytest.raises(TypeError, match="does not take `b`"):
        prepare(modes, {"b": [1.0]}, method=EASY)
    with pytest.raises(ValueError, match=r"`derivative` names axes"):
        prepare(modes, AXES, method=EASY, derivative="b")


def test_another_setting_of_jax_is_refused(called):
    with (
        jax.enable_x64(not jax.config.jax_enable_x64),
        pytest.raises(ValueError, match=r"jax_enable_x64 was \w+\. Set it"),
    ):
        called(scale=1.0)


def test_words_for_people(called):
    assert repr(called) == (
        "<prepared sweep of `opened`: open arguments: scale; axes: a; numbers of the method: steps, learning_rate; "
        "of the sweep: root>"
    )


def test_atol_follows_rtol_unless_it_was_given():
    usual, own = lf.Flow(t1=1.0, rtol=1e-4), lf.Flow(t1=1.0, rtol=1e-4, atol=1e-3)

    assert usual.with_numbers(rtol=1e-3).tolerances == lf.Flow(t1=1.0, rtol=1e-3).tolerances
    assert own.with_numbers(rtol=1e-3).tolerances == lf.Flow(t1=1.0, rtol=1e-3, atol=1e-3).tolerances
    tiny = lf.Flow(t1=1.0, rtol=1e-6, atol=1e-14)
    assert tiny.with_numbers(rtol=1e-5).tolerances == lf.Flow(t1=1.0, rtol=1e-5, atol=1e-14).tolerances
    steps = lf.Flow(t1=1.0, controller=dfx.ConstantStepSize(), dt0=0.1)
    assert steps.with_numbers(dt0=0.2).dt0 == lf.Flow(t1=1.0, dt0=0.2).dt0
    assert set(steps.numbers) == {"t1", "dt0"}
    with pytest.raises(ValueError, match="StepTo needs times from 0 to t1=2"):
        lf.Flow(t1=1.0, controller=dfx.StepTo(ts=jnp.linspace(0.0, 1.0, 9))).with_numbers(t1=2.0)


def test_in_float32_tolerances_are_those_of_a_method_made_anew():
    with jax.enable_x64(False):
        run = prepare(narrow, AXES, method=lf.Flow(t1=0.1))
        for rtol in (1e-3, 1e-5, 3e-6):
            assert run(rtol=rtol).attrs["atol"] == float(lf.Flow(t1=0.1, rtol=rtol).tolerances["atol"])
        with pytest.raises(ValueError, match="rtol=1e-09 is below what float32 weights carry"):
            run(rtol=1e-9)


def test_a_number_that_the_prepared_kind_does_not_hold_is_refused():
    method = lambda: lf.Flow(t1=0.1)
    whole = lambda a, n: narrow(a, n)
    with jax.enable_x64(False):
        run, along = prepare(whole, AXES, method=method()), prepare(whole, {**AXES, "n": [1, 2]}, method=method())
        run(n=1)
        for call in (lambda: run(n=2**32 + 1), lambda: along(n=[2**32 + 2]), lambda: along(n=np.array([2**32 + 2]))):
            with pytest.raises(ValueError, match="`n` holds whole numbers beyond int32"):
                call()
    run = prepare(whole, AXES, method=method())
    run(n=np.float16(1.0))
    with pytest.raises(TypeError, match=r"prepared as float16, which does not hold float\d\d: 1.2345678"):
        run(n=1.2345678)


def test_a_prepared_sweep_stays_where_it_is(called):
    for copied in (copy.deepcopy, copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match="holds compiled programs, which cannot be copied"):
            copied(called)
    with pytest.raises(TypeError, match=r"is called by name, as in run\(t1=2.0\)"):
        called(1.0)
    with pytest.raises(TypeError, match="computed of known numbers"):
        jax.jit(lambda x: x * called(scale=1.0).loss.values)(1.0)


def test_steps_that_bound_a_loop_are_no_number():
    """More of them would be cut off where the loop ends."""
    run = prepare(modes, AXES, method=lf.Descent(optax.sgd, steps=3, learning_rate=0.1, adjoint=dfx.DirectAdjoint()))

    with pytest.raises(TypeError, match="does not know `steps`"):
        run(steps=5)


@pytest.mark.slow
def test_a_thousand_calls_take_no_more_memory():
    run = prepare(modes, AXES, method=EASY)
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(200):
        run(learning_rate=0.1 + 1e-3 * number)
    gc.collect()
    before = peak()
    for number in range(1000):
        run(learning_rate=0.1 + 1e-4 * number, scale=1.0)

    assert peak() - before < 5 * 2**10  # KiB
