"""What a call of layerflow costs: what is traced and compiled anew, and what is not."""

import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import layerflow as lf
from layerflow.engine import _program
from layerflow.engine._chunks import Batch
from layerflow.engine._kept import traces

TASK = lf.Modes(jnp.array([1.0, 0.5]), jnp.array([2.0, 1.0]))
EASY = lf.Descent(optax.sgd, steps=2, learning_rate=0.1)


def modes(a, activation=None):
    """Two modes, or a network with an activation of the user's on two samples."""
    if activation is None:
        return lf.Problem(lf.DiagonalNetwork((a * jnp.ones(2), a * jnp.ones(2))), TASK)
    network = lf.MLP((a * jnp.ones((2, 2)), jnp.ones((1, 2))), activation=activation)
    return lf.Problem(network, lf.Samples(jnp.eye(2), jnp.ones((2, 1))))


def sweep(cell=modes, **how):
    return lf.sweep(cell, {"a": [0.5, 1.0]}, method=EASY, progress=False, **how)


@pytest.fixture
def traced(monkeypatch):
    """Names of the functions of a cell as they are traced."""
    names, trace = [], _program.trace
    monkeypatch.setattr(_program, "trace", lambda f, *arguments: names.append(f.__name__) or trace(f, *arguments))
    traces.clear()
    return names


@pytest.mark.parametrize("observe", [lf.loss, (lf.loss, lf.weight_norms), {"other": lf.loss}])
def test_functions_of_layerflow_are_traced_once(traced, observe):
    """They go by their arguments alone, so that another trace would give the same."""
    first = sweep(observe=observe)
    assert sorted(traced) == ["begin", "descend", "loss", "measure", "start", "velocity"]
    again = sweep(lambda a: modes(a), observe=observe)
    assert len(traced) == 6
    lf.solve(modes(0.5), EASY, observe=observe)
    before = len(traced)
    lf.solve(modes(1.0), EASY, observe=observe)

    assert len(traced) == before
    assert again.drop_attrs().identical(first.drop_attrs())


def test_an_observable_of_the_user_is_all_that_is_traced_again(traced):
    sweep(observe={"own": lambda network, problem: lf.loss(network, problem)})
    traced.clear()
    sweep(observe={"own": lambda network, problem: lf.loss(network, problem)})

    assert traced == ["measure"]


GAIN = 2.0


def gained(network, problem):
    """An observable that reads a number of its module."""
    return GAIN * lf.loss(network, problem)


class Gained(lf.Modes):
    """A task that does."""

    def loss(self, network):
        return GAIN * super().loss(network)


def bent(x):
    """An activation that does."""
    return GAIN * x


USERS = {
    "observable": lambda: sweep(observe={"loss": gained}),
    "task": lambda: sweep(lambda a: lf.Problem(modes(a).start, Gained(TASK.variance, TASK.target))),
    "activation": lambda: sweep(lambda a: modes(a, activation=bent)),
    "observable on the test task": lambda: sweep(
        lambda a: lf.Problem(modes(a).start, TASK, test=TASK), observe={"loss": lf.on_test(gained)}
    ),
}


@pytest.mark.parametrize("call", USERS.values(), ids=USERS)
def test_functions_of_the_user_are_traced_at_each_call(monkeypatch, call):
    """What they read may have changed."""
    before = call().loss
    monkeypatch.setitem(globals(), "GAIN", 3.0)
    after = call().loss

    assert (after > 1.4 * before).all() or (abs(after - before) > 0.01).all()


def test_functions_are_traced_anew_under_other_settings(traced):
    """The same steps may then be others."""
    sweep()
    before = len(traced)
    with jax.numpy_dtype_promotion("standard"):
        sweep()

    assert len(traced) == 2 * before


def test_arrays_of_an_observable_are_not_kept():
    """What closes over arrays is traced anew, and let go of."""
    task = lf.Modes(jnp.array([1.0, 0.5]), jnp.array([1.0, 3.0]))
    other = lambda network, problem, held=task.target: jnp.sum(held) * lf.loss(network, problem)
    ref = weakref.ref(task.target)
    sweep(observe={"other": other})
    del task, other

    assert ref() is None


def random(key, lam, scale):
    """A start that draws, checks its numbers and calls a factorisation."""
    start = lf.lambda_balanced(key, lam, 0.1 * scale, inp=2, hid=2, out=2)
    return lf.Problem(start, lf.Moments.whitened(yx=jnp.eye(2)))


SIZES = {
    "a vector": ({"lam": 40}, {"lam": 41}),
    "a few cells": ({"lam": 3, "scale": 2}, {"lam": 4, "scale": 2}),
    "a map": ({"lam": 40, "scale": 40}, {"lam": 41, "scale": 40}),
}
WAYS = {
    "Exact": lf.Exact(t1=1.0),
    "Descent": EASY,
    "Flow": lf.Flow(t1=0.1, until=1e-3),
}


@pytest.mark.parametrize(("sizes", "more"), SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=[pytest.mark.slow] if name == "Flow" else []) for name, m in WAYS.items()],
    ids=WAYS,
)
def test_a_row_or_a_few_seeds_more_compile_nothing(compiled, method, sizes, more):
    values = lambda sizes: {name: jnp.linspace(0.5, 1.0, size) for name, size in sizes.items()}
    cell = random if "scale" in sizes else lambda key, lam: random(key, lam, 1.0)
    run = lambda sizes, seeds: lf.sweep(cell, values(sizes), seeds=seeds, method=method, progress=False)
    first = run(sizes, 1)
    assert "build" in compiled
    compiled.clear()
    other, seeds = run(more, 1), run(sizes, 3)

    assert not compiled
    assert other.status.size == first.status.size // sizes["lam"] * more["lam"]
    np.testing.assert_array_equal(seeds.isel(seed=[0]).loss, first.loss)  # of one program, bit for bit
    exact = lf.sweep(cell, values(more), seeds=1, method=method, progress=False, on=lf.Machine(chunk=other.status.size))
    np.testing.assert_allclose(other.loss, exact.loss, rtol=1e-5)


def test_large_cells_are_filled_by_an_eighth_at_most():
    """Side by side, what fills a chunk costs as much as a cell."""
    machine = lf.Machine(memory=8.0, devices=1)
    for cells in range(1, 1500, 7):
        plan = machine.filled(cells, 1, 2**20, None)
        chunks = -(-cells // plan.size)
        assert cells <= chunks * plan.size <= 1.125 * cells + chunks


def test_small_cells_that_step_side_by_side_are_filled_by_little():
    """2000 steps of `Descent` of 2-2-2 take 8.5 ms a call, 1.8 a chunk and 0.066 a cell, as measured."""
    takes = lambda cells, size: 8.5 + -(-cells // size) * (1.8 + 0.066 * size)
    machine = lf.Machine(memory=8.0, devices=1)
    for seeds in (1, 2, 3, 4):
        for each in range(2, 1500, 7):
            cells = each * seeds
            own, even = machine.filled(cells, seeds, 500, None), -(-cells // -(-cells // 512))
            assert own == machine.filled(each, 1, 500, None)
            assert takes(cells, own.size) <= (1.2 if seeds == 1 else 1.45) * takes(cells, even)


def test_large_cells_are_looked_at_one_for_one(monkeypatch):
    """A thousand losses of large networks, of which five are asked for, would take longer than their flow."""
    sizes, floor = [], Batch.floor
    monkeypatch.setattr(
        Batch, "floor", lambda self, values, seeds: sizes.append(len(seeds)) or floor(self, values, seeds)
    )
    for width in (2, 400):
        cell = lambda a, width=width: lf.Problem(lf.linear_model(a * jnp.ones(width)), lf.Modes(jnp.ones(width), 1.0))
        lf.sweep(cell, {"a": [0.1, 0.2, 0.3]}, method=lf.Flow(t1=0.1, until=1e-3), progress=False)

    assert sizes == [1024, 3]


def test_few_large_cells_have_a_lane_each():
    """A lane takes its time whether there is a cell in it or not."""
    machine = lf.Machine(memory=8.0, devices=1)
    few = machine.filled(5, 1, 2**20, machine.lanes_of(2**20))
    many = machine.filled(50, 1, 2**20, machine.lanes_of(2**20))

    assert (few.size, few.lanes) == (5, 5)
    assert many.lanes == machine.lanes_of(2**20)
    assert machine.filled(60, 3, 2**20, many.lanes) == machine.filled(21, 1, 2**20, many.lanes)


def test_cells_with_room_for_many_times_are_hardly_filled():
    """Room takes its time to make: a gigabyte of it for cells that are not there would take longer than they."""
    plan = lf.Machine(memory=8.0, devices=1).filled(1600, 1, 2**19, 256)

    assert (plan.size, plan.lanes) == (1664, 256)


def test_a_chunk_that_is_given_is_not_filled_up():
    given = sweep(on=lf.Machine(chunk=2))

    assert given.attrs["chunk"] == 2
    assert "filled" not in given.attrs
    assert sweep().attrs["filled"] == 1


def test_a_store_tells_numbers_apart_that_a_cell_function_closes_over(tmp_path):
    """They are arguments of one program, and still of another sweep."""
    store = tmp_path / "s.zarr"
    sweep(lambda a: modes(1.0 * a), store=store)

    with pytest.raises(ValueError, match="another sweep"):
        sweep(lambda a: modes(2.0 * a), store=store)
