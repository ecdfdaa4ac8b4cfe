"""The sweeps whose programs are compiled."""

import functools
import unittest.mock
from collections.abc import Callable, Mapping
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax

import layerflow as lf
from layerflow.engine._chunks import Batch
from layerflow.sweeps._request import Request

_AXES = {"scale": np.geomspace(0.1, 10.0, 64)}


def batch_of(cell: Callable[..., Any], axes: Mapping[str, Any] | None = None, **how: Any) -> Batch:
    """What a sweep of these arguments compiles; the first, of one with static axes."""
    asked: dict[str, Any] = {
        "method": lf.Flow(t1=20.0),
        "seeds": 64,
        "root": 0,
        "ts": None,
        "observe": lf.loss,
        "summary": None,
        "paths": True,
        "derivative": (),
        "verify": False,
    }
    return Request.of(cell, _AXES if axes is None else axes, **asked | how).batches()[0]


def _networks(*widths: int, **how: Any) -> Batch:
    """Linear networks from random starts that learn the identity, scaled."""
    task = lf.Moments.whitened(yx=jnp.eye(widths[-1], widths[0]))

    def cell(key: jax.Array, scale: jax.Array) -> lf.Problem:
        return lf.Problem(lf.gaussian(key, widths), task.rescale(target=scale))

    return batch_of(cell, **how)


def _samples() -> Batch:
    """Networks 5-5-5 on ten samples."""
    x = jax.random.normal(jax.random.key(1), (10, 5))
    task = lf.Samples(x, x @ jnp.diag(jnp.arange(1.0, 6.0)))

    def cell(key: jax.Array, scale: jax.Array) -> lf.Problem:
        return lf.Problem(lf.gaussian(key, (5, 5, 5), std=scale), task)

    return batch_of(cell)


def _descent() -> Batch:
    """Descent of multilayer perceptrons 5-32-1 on a hundred samples."""
    x = jax.random.normal(jax.random.key(1), (100, 5))
    task = lf.Samples(x, jnp.sin(x[:, :1]))

    def cell(key: jax.Array, learning_rate: jax.Array) -> tuple[lf.Problem, lf.Descent]:
        network = lf.MLP.lecun(key, (5, 32, 1), activation=jnp.tanh)
        return lf.Problem(network, task), lf.Descent(optax.sgd, steps=2000, learning_rate=learning_rate)

    return batch_of(cell, {"learning_rate": np.geomspace(1e-3, 1e-1, 64)}, method=None)


def _exact() -> Batch:
    """Closed forms of lambda-balanced networks."""
    task = lf.Moments.whitened(yx=jnp.diag(jnp.array([2.0, 1.0])))

    def cell(key: jax.Array, lam: jax.Array) -> lf.Problem:
        return lf.Problem(lf.lambda_balanced(key, lam, 0.1, inp=2, hid=2, out=2), task)

    return batch_of(cell, {"lam": np.linspace(-3.0, 3.0, 64)}, method=lf.Exact(t1=10.0))


class _Asked(Exception):
    """Leaves the module of a figure where it asks for a sweep."""


def _of_figure(number: str) -> Batch:
    """The sweep of a figure, as its module asks for it."""
    from layerflow.figures import _figure6a, _figure10

    def asked(*cell_and_axes: Any, **how: Any) -> None:
        raise _Asked(batch_of(*cell_and_axes, **how))

    with unittest.mock.patch.object(lf, "sweep", asked):
        try:
            {"6a": _figure6a.compute, "10": _figure10.compute}[number]()
        except _Asked as error:
            return error.args[0]
    raise AssertionError(f"Figure {number} asks for no sweep.")


SWEEPS: dict[str, Callable[[], Batch]] = {
    "2-2-2": functools.partial(_networks, 2, 2, 2),
    "5-5-5": functools.partial(_networks, 5, 5, 5),
    "20-20-20": functools.partial(_networks, 20, 20, 20),
    "2-2-2-2-2": functools.partial(_networks, *[2] * 5),
    "samples": _samples,
    "times": lambda: _networks(2, 2, 2, ts=np.geomspace(0.01, 20.0, 100)),
    "converged": lambda: _networks(2, 2, 2, method=lf.Flow(t1=1e4, until="converged")),
    "kvaerno5": lambda: _networks(2, 2, 2, method=lf.Flow(t1=20.0, solver=diffrax.Kvaerno5())),
    "derivative": functools.partial(_networks, 2, 2, 2, derivative=("scale",)),
    "descent": _descent,
    "exact": _exact,
    "figure-6a": functools.partial(_of_figure, "6a"),
    "figure-10": functools.partial(_of_figure, "10"),
}
