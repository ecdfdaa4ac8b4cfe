"""What a call costs over its programs, what a small change compiles, and mini-batches against a scan.

    python -m benchmarks.calls

Figure 6(a), 40 x 40 cells, float64. `over` is what a whole call takes beyond its compiled programs.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import layerflow as lf
from benchmarks import _measure
from benchmarks.suite.problems import figure_6a

AXES = {"lam": np.linspace(-9.0, 9.0, 40), "weight_to_target": np.linspace(1.0, 20.0, 40)}
OBSERVE = (lf.kernel_distance, lf.loss)
METHODS = {"exact": lf.Exact(t1=39.99), "flow": lf.Flow(t1=39.99)}


def over(run: Callable[[], Any], repeats: int = 31) -> dict[str, float]:
    """Median milliseconds of a whole call, of its programs, and of the rest."""
    calls, programs = [], []
    for _ in range(2):  # compiles, and then finds all compiled
        run()
    for _ in range(repeats):
        with _measure.programs() as spans:
            begin = time.perf_counter()
            run()
            calls.append(time.perf_counter() - begin)
        programs.append(_measure.covered(spans))
    rest = [call - program for call, program in zip(calls, programs, strict=True)]
    medians = {"call": calls, "programs": programs, "over": rest}
    return {f"{name}_ms": 1e3 * statistics.median(values) for name, values in medians.items()}


def calls() -> dict[str, float]:
    """Figure 6(a) by `sweep` and by a prepared sweep."""
    result = {}
    for name, method in METHODS.items():
        how: dict[str, Any] = {"method": method, "observe": OBSERVE, "progress": False}
        prepared = lf.prepare(figure_6a, AXES, **how)
        for way, run in {"sweep": lambda how=how: lf.sweep(figure_6a, AXES, **how), "prepared": prepared}.items():
            result |= {f"{name}_{way}_{what}": value for what, value in over(run).items()}
    return result


def compiled() -> dict[str, float]:
    """Seconds that sweeps take in which something small has changed, and what they compile."""

    def cell(key: Any, lam: Any, weight_to_target: Any, scale: float = 1.0) -> lf.Problem:
        return figure_6a(key, lam, scale * weight_to_target)

    scaled = lambda scale: lambda key, lam, weight_to_target: cell(key, lam, weight_to_target, scale)
    longer = AXES | {"lam": np.linspace(-9.0, 9.0, 41)}
    flow = METHODS["flow"]
    changes = {
        "first": lambda: lf.sweep(scaled(1.0), AXES, method=flow, seeds=1, observe=OBSERVE, progress=False),
        "another_row": lambda: lf.sweep(scaled(1.0), longer, method=flow, seeds=1, observe=OBSERVE, progress=False),
        "three_seeds": lambda: lf.sweep(scaled(1.0), AXES, method=flow, seeds=3, observe=OBSERVE, progress=False),
        "another_number": lambda: lf.sweep(scaled(2.0), AXES, method=flow, seeds=1, observe=OBSERVE, progress=False),
        "another_observable": lambda: lf.sweep(
            scaled(1.0), AXES, method=flow, seeds=1, observe=(*OBSERVE, lf.weight_norms), progress=False
        ),
    }
    result = {}
    for name, change in changes.items():
        begin = time.perf_counter()
        diagram = change()
        result[f"{name}_seconds"] = time.perf_counter() - begin
        result[f"{name}_compile_seconds"] = diagram.attrs["compile_seconds"]
    return result


def batches() -> dict[str, float]:
    """Steps of an MLP in batches of 32 against one shuffle an epoch in `lax.scan`, by numbers of samples."""
    return {f"{samples}_ratio": _against_a_scan(samples) for samples in (1_000, 10_000, 100_000)}


def _against_a_scan(samples: int, steps: int = 4000, batch: int = 32) -> float:
    x = jax.random.normal(jax.random.key(0), (samples, 5))
    task = lf.Samples(x, jnp.sin(x[:, :1]))
    network = lf.MLP.lecun(jax.random.key(1), (5, 32, 32, 1), activation=jnp.tanh)
    method = lf.Descent(optax.sgd, learning_rate=0.01, steps=steps, batch=batch)
    ours = jax.jit(lambda network: lf.solve(lf.Problem(network, task), method).observed["loss"])
    scan = jax.jit(lambda network: _scan(network, task, steps, batch))
    one, other = [], []
    for run in (ours, scan):
        jax.block_until_ready(run(network))
    for _ in range(5):
        one.append(_measure.seconds(lambda: ours(network), repeats=1))
        other.append(_measure.seconds(lambda: scan(network), repeats=1))
    return statistics.median(one) / statistics.median(other)


def _scan(network: Any, task: lf.Samples, steps: int, batch: int) -> Any:
    """The same descent by hand."""
    epoch = len(task.x) // batch
    gradient = jax.grad(lambda network, x, y: lf.Samples(x, y).loss(network))

    def step(carry: Any, number: Any) -> Any:
        network, order = carry
        shuffled = lambda: jax.random.permutation(jax.random.fold_in(jax.random.key(0), number), len(task.x))
        order = jax.lax.cond(number % epoch == 0, shuffled, lambda: order)
        where = jax.lax.dynamic_slice_in_dim(order, (number % epoch) * batch, batch)
        slope = gradient(network, task.x[where], task.y[where])
        return (jax.tree.map(lambda w, d: w - 0.01 * d, network, slope), order), None

    (network, _), _ = jax.lax.scan(step, (network, jnp.arange(len(task.x))), jnp.arange(steps))
    return task.loss(network)


if __name__ == "__main__":
    _measure.run("calls", calls, compiled, batches)
