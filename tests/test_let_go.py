"""What was computed is let go of: compiled programs beyond the last so many, and the arrays of every call."""

import functools
import gc
import json
import subprocess
import sys
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import layerflow as lf
from layerflow.engine._kept import Kept, programs
from layerflow.engine._trace import Traced, trace

METHODS = {
    "Flow": lf.Flow(t1=1.0),
    "Descent": lf.Descent(optax.adam, learning_rate=0.1, steps=2),
    "Exact": lf.Exact(t1=1.0),
}
EASY = METHODS["Descent"]


def test_the_least_recently_used_is_let_go_of():
    kept, made = Kept(2), []
    ask = lambda key: kept.get(key, lambda: made.append(key) or key)

    for key in "abacab":
        assert ask(key) == key

    assert made == ["a", "b", "c", "b"]  # asking for a anew made b the oldest when c came
    kept.clear()
    ask("a")
    assert made == ["a", "b", "c", "b", "a"]


def test_threads_share_what_is_kept():
    """Each gets what belongs to its key, and no more is kept than is to be."""
    kept, wrong = Kept(4), []

    def ask(seed):
        for number in np.random.default_rng(seed).integers(0, 8, 2000).tolist():
            if kept.get(number, lambda number=number: number) != number:
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong
    assert len(kept._made) == 4


def arrays_and_cell():
    """Arrays, a cell and an observable that close over them."""
    xx, yx, other = jnp.eye(2), jnp.diag(jnp.array([2.0, 1.0])), jnp.arange(2.0)
    task = lf.Moments(xx=xx, yx=yx, yy=jnp.diag(jnp.array([5.0, 2.0])))

    def cell(key, a):
        return lf.Problem(lf.lambda_balanced(key, 0.0, a, inp=2, hid=2, out=2), task)

    def observed(network, problem):  # noqa: ARG001
        return jnp.sum(network.matrix @ other) + jax.lax.fori_loop(0, 2, lambda _, c: c + jnp.sum(other), 0.0)

    return [xx, yx, other, task.xx, task.yx], cell, {"o": observed}


def refs_and_run(go):
    """Weak references to the arrays that a call closes over, after it."""
    arrays, cell, observe = arrays_and_cell()
    refs = [weakref.ref(array) for array in arrays]
    go(cell, observe)
    return refs


@pytest.fixture
def _no_cycles_collected():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def swept(method, cell, observe, **how):
    lf.sweep(cell, {"a": [0.5, 1.0]}, method=method, observe=observe, progress=False, **how)


def solved(method, cell, observe):
    lf.solve(cell(jax.random.key(0), 0.5), method, observe=observe)


CALLS = {
    "sweep by Descent": functools.partial(swept, EASY),
    "sweep by Descent with ts": functools.partial(swept, EASY, ts=[0, 2]),
    "solve by Descent": functools.partial(solved, EASY),
}
SLOW = {
    f"sweep by {name}": functools.partial(swept, method) for name, method in METHODS.items() if name != "Descent"
} | {
    "sweep by Flow, verified": functools.partial(swept, METHODS["Flow"], verify=True),
    "sweep by Flow with ts and slopes": functools.partial(swept, METHODS["Flow"], ts=[0.0, 1.0], derivative=("a",)),
    "solve by Flow": functools.partial(solved, METHODS["Flow"]),
    "solve by Exact": functools.partial(solved, METHODS["Exact"]),
}


@pytest.mark.usefixtures("_no_cycles_collected")
@pytest.mark.parametrize(
    "call",
    [*CALLS.values(), *(pytest.param(call, marks=pytest.mark.slow) for call in SLOW.values())],
    ids=[*CALLS, *SLOW],
)
def test_arrays_of_a_call_are_freed_at_once(call):
    """By counts of references alone: gigabytes of data must not wait for the collector of cycles."""
    refs = refs_and_run(call)

    assert [ref() is not None for ref in refs] == [False] * len(refs)


def test_a_kept_trace_holds_no_array():
    """In jax 0.12 a jaxpr holds its constants: what is kept of a trace lets go of them."""
    array = jnp.arange(3.0)
    ref = weakref.ref(array)
    traced, constants = trace(lambda x, array=array: jax.lax.fori_loop(0, 2, lambda _, c: c + array, x), jnp.ones(3))
    again = traced(constants, jnp.ones(3))
    assert again.tolist() == [1.0, 3.0, 5.0]

    del array, constants, again
    gc.collect()  # what JAX itself keeps of the lambda

    assert ref() is None
    assert traced.outputs.shape == (3,)


@pytest.fixture
def _few_kept():
    """Room for one sweep's programs."""
    before, programs.most = programs.most, 4
    yield
    programs.most = before


@pytest.mark.usefixtures("_few_kept")
def test_nothing_is_left_of_programs_that_were_let_go():
    """Three sweeps by programs of their own leave as much as two, and more calls of the last nothing."""
    modes = lf.Modes(jnp.ones(1), 2.0)
    cell = lambda a: lf.Problem(lf.DiagonalNetwork((a * jnp.ones(1), jnp.ones(1))), modes)
    kinds = (Traced, type(jax.jit(lambda: None).lower().compile()))

    def left(factor):
        swept(EASY, cell, {"o": lambda network, problem: factor * network.weights[0][0]})
        gc.collect()
        held = [type(one) for one in gc.get_objects()]
        return [held.count(kind) for kind in kinds], len(jax.live_arrays())

    counts = [left(factor) for factor in (1.0, 2.0, 3.0, 3.0, 3.0)]

    assert counts[1:] == counts[1:2] * 4
    assert counts[1][0][1] > 0


_MEMORY = """
import ctypes, gc, json, statistics, sys
import jax, jax.numpy as jnp, optax, psutil
jax.config.update("jax_enable_x64", True)
import layerflow as lf
from layerflow.engine._kept import programs
programs.most = 4
modes = lf.Modes(jnp.ones(1), 2.0)
cell = lambda a: lf.Problem(lf.DiagonalNetwork((a * jnp.ones(1), jnp.ones(1))), modes)
method = lf.Descent(optax.sgd, learning_rate=0.1, steps=1)
def other(number):
    observe = {"o": lambda network, problem: (number + 0.5) * network.weights[0][0]}
    lf.sweep(cell, {"a": [0.5, 1.0]}, method=method, observe=observe, progress=False)
def alike(number):
    lf.sweep(cell, {"a": [0.5 + number, 1.0]}, method=method, progress=False)
    lf.solve(cell(0.5 + number), method)
def taken():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss / 2**20
def rise(call, times, warm):
    for number in range(warm):
        call(number)
    before = statistics.median([taken() for _ in range(3)])
    for number in range(warm, times):
        call(number)
    return statistics.median([taken() for _ in range(3)]) - before
print(json.dumps([rise(other, OTHERS), rise(alike, ALIKE), len(programs._made)]))
"""


def rises(others, alike):
    """By how many MB a process grows over other programs, and over calls of one, after the first of them."""
    program = _MEMORY.replace("OTHERS", str(others)[1:-1]).replace("ALIKE", str(alike)[1:-1])
    flags = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=280, check=False, env=flags
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_memory_stays_flat():
    """Over 20 programs more than are kept, and over 1000 calls of one; a program takes some 0.5 MB."""
    others, alike, kept = rises((40, 20), (1000, 20))

    assert kept == 4
    assert others < 5
    assert alike < 5
