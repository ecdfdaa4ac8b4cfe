"""A cell as traced functions of flat arrays, ready to travel."""

import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from layerflow.base._checks import require
from layerflow.engine._cell import Apart, Cell
from layerflow.engine._functions import Functions, random_signs
from layerflow.engine._identity import Identity, identity, lasting
from layerflow.engine._kept import traces
from layerflow.engine._lanes_last import apart, fits
from layerflow.engine._trace import Traced, trace
from layerflow.engine._wanted import Measured, Wanted
from layerflow.methods import STEPS, Course, Method, Path, failed, masked

_GAUGE = 1e-3  # relative change of an observable beyond which it depends on the rotation


class Prepared(NamedTuple):
    """What is computed of a cell once, before it travels: the loss extremes only where convergence is judged."""

    start: Array
    least_loss: Array
    null_loss: Array


@dataclass(frozen=True, eq=False)
class Program:
    """What stays the same when the numbers of a cell change; equal programs compile once.

    What the method and the user ask nothing of is None: tracing takes longer than many a small diagram.
    """

    start: Traced
    measure: Traced
    velocity: Traced | None
    loss: Traced | None
    begin: Traced | None
    descend: Traced | None
    extremes: Traced | None
    follow: Traced | None
    flow: Traced | None
    begin_watch: Traced | None
    watch: Traced | None
    summarise: Traced | None
    exact: Traced | None
    verify: Traced | None
    turned: tuple[int, int, int] | None  # widths of a network known up to a rotation of its hidden units
    own: int  # how many weights the network has; what comes after them is its twin's
    apart: Apart

    @functools.cached_property
    def identity(self) -> Identity:
        """What the program does."""
        return self._identity(_FUNCTIONS)

    @functools.cached_property
    def way(self) -> Identity:
        """What the program does while cells travel, whatever is measured of them."""
        return self._identity(TRAVELLING)

    def _identity(self, names: Sequence[str]) -> Identity:
        """What some of its functions do, by its method."""
        parts = {name: part.identity for name in names if (part := getattr(self, name)) is not None}
        words = {name: parts[name].digest if name in parts else None for name in names}
        method = identity(self.apart.marked_method.untraced, self.turned, self.own, words)
        return Identity(method.digest, method.strange.union(*(part.strange for part in parts.values())))

    def __hash__(self) -> int:
        return hash(self.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self.identity == other.identity

    @property
    def method(self) -> Method:
        """The method without its arrays."""
        return self.apart.static.method

    def prepare(self, constants: dict[str, list[Array]], leaves: list[Array]) -> Prepared:
        """What is computed of a cell once, before it travels."""
        call, nothing = self._caller(constants), (jnp.zeros(()), jnp.zeros(()))
        return Prepared(call("start", leaves), *(nothing if self.extremes is None else call("extremes", leaves)))

    def course(
        self, constants: dict[str, list[Array]], leaves: list[Array], method: list[Array], prepared: Prepared
    ) -> Course:
        """The cell whose arrays are `leaves` as its method sees it."""
        call = self._caller(constants)
        return Course(
            start=prepared.start,
            velocity=apart(lambda w, key, step: call("velocity", w, leaves, key, step)),
            loss=lambda w: call("loss", w, leaves),
            follow=lambda moved: {} if self.follow is None else call("follow", moved, leaves),
            measure=lambda moved, peaks, flow=None: call("measure", moved, peaks, flow, leaves, method),
            begin=lambda w: call("begin", w, leaves, method),
            descend=lambda moved, velocity, states: call("descend", moved, velocity, states, leaves, method),
            watch=lambda seen, moved, velocity: (
                None if self.watch is None else call("watch", seen, moved, velocity, leaves)
            ),
            watched=None if self.begin_watch is None else call("begin_watch", leaves),
            flow=None if self.flow is None else lambda w: call("flow", w, leaves),
            exact=lambda ts: call("exact", ts, leaves),
            least_loss=prepared.least_loss,
            null_loss=prepared.null_loss,
            own=self.own,
        )

    def travel(
        self,
        constants: dict[str, list[Array]],
        leaves: list[Array],
        method: list[Array],
        ts: Array | None,
        key: PRNGKeyArray,
    ) -> Path:
        """Solve the cell whose arrays are `leaves`, by the method whose arrays are `method`."""
        course = self.course(constants, leaves, method, self.prepare(constants, leaves))
        path = self.apart.method(method).travel(course, ts, key)
        return self.judged(constants, leaves, method, ts, path)

    def judged(
        self, constants: dict[str, list[Array]], leaves: list[Array], method: list[Array], ts: Array | None, path: Path
    ) -> Path:
        """A path held against theory and summed up, as far as that is wanted."""
        call = self._caller(constants)
        if self.verify is not None:
            # Beyond an early stop the flow holds its last value: so does what it is held against.
            at = jnp.atleast_1d(path.end if ts is None else jnp.minimum(ts, path.end)).astype(path.weights.dtype)
            exact = None if self.exact is None else call("exact", at, leaves)
            verified = call("verify", exact, path.observed, path.weights, path.end, leaves, method)
            path = eqx.tree_at(lambda path: path.verified, path, masked(verified, failed(path.status)))
        if self.summarise is None:
            return path
        seen = (path.observed, path.weights, path.status.astype(int), path.num_steps.astype(int), path.end)
        summaries = call("summarise", ts, *seen, path.watched or {}, leaves)
        return eqx.tree_at(lambda path: path.summaries, path, summaries)

    def gauge(self, constants: dict[str, list[Array]], leaves: list[Array], method: list[Array]) -> list[Array]:
        """By how much each observable at the end changes with a rotation of the hidden units, relatively."""
        assert self.exact is not None
        assert self.turned is not None
        call = self._caller(constants)
        start, times = call("start", leaves), self.exact.arguments[0]
        moved = call("exact", jnp.full(times.shape, self.apart.method(method).end, times.dtype), leaves)[0][-1]
        turned = _rotated(start + moved, self.turned) - start
        eps = jnp.finfo(start.dtype).eps
        rounded = [moved + eps * signs * jnp.abs(start + moved) for signs in random_signs(start.size, start.dtype)]
        measure = jax.vmap(lambda moved: call("measure", moved, {}, None, leaves, method))
        size = lambda array: jnp.abs(array).max(initial=0.0)

        def gap(plain: Array, other: Array, *near: Array) -> Array:
            """What rounding the weights makes of an observable that cancels, a small loss say, is no change."""
            noise = jnp.stack([size(plain - one) for one in near]).max()
            return size(plain - other) / (size(plain) + size(other) + eps**0.5 + noise / eps**0.5)

        return [gap(*values) for values in measure(jnp.stack([moved, turned, *rounded]))]

    def floor(self, constants: dict[str, list[Array]], leaves: list[Array], method: list[Array]) -> tuple[Array, ...]:
        """What errors of rtol in the weights of the start make of the loss, `until`, and rtol.

        The loss of weights off by h |w| is off by about h^2, of which a difference at h = 1e-3 tells the factor.
        """
        call, stops_at = self._caller(constants), self.apart.method(method).stops_at
        assert stops_at is not None
        start, step = call("start", leaves), 1e-3
        loss = lambda w: call("loss", w, leaves)
        off = step * jnp.abs(start) * jnp.where(jnp.arange(start.size) < self.own, 1.0, 0.0)
        bent = [
            jnp.abs(loss(start + off * sign) + loss(start - off * sign) - 2 * loss(start)) / 2
            for sign in random_signs(start.size, start.dtype)
        ]
        until, rtol = (jnp.asarray(value, start.dtype) for value in stops_at)
        return (rtol / step) ** 2 * jnp.stack(bent).max(), until, rtol

    def _caller(self, constants: dict[str, list[Array]]) -> Callable[..., Any]:
        """Call a function of the program by name."""
        return lambda name, *arguments: getattr(self, name)(constants[name], *arguments)

    def factorises(self, names: Iterable[str] | None = None) -> bool:
        """Whether some of its functions, or any, call a matrix factorisation."""
        found = [getattr(self, name) for name in (_FUNCTIONS if names is None else names)]
        return any(part is not None and part.factorises for part in found)

    @property
    def small_steps(self) -> bool:
        """Whether explicit steps, and all that they evaluate, are better off with the lanes as their last axis."""
        evaluated = [part for part in (self.velocity, self.loss, self.follow) if part is not None]
        return self.method.unrolled and all(fits(part.jaxpr) for part in evaluated)

    @property
    def parts(self) -> list[Traced]:
        """Everything that was traced."""
        return [part for name in _FUNCTIONS if (part := getattr(self, name)) is not None]


def _rotated(weights: Array, widths: tuple[int, int, int]) -> Array:
    """Two layers, one after the other in a flat vector, with their hidden units rotated into one another."""
    inp, hid, out = widths
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(hid, hid)))
    turn = jnp.asarray(turn, weights.dtype)
    w1, w2 = weights[: hid * inp].reshape(hid, inp), weights[hid * inp :].reshape(out, hid)
    return jnp.concatenate([(turn @ w1).ravel(), (w2 @ turn.T).ravel()])


def check_gauge(gaps: list[Array], measured: list[Measured]) -> None:
    """Raise for an observable that depends on a rotation which the closed form does not know."""
    for of, gap in zip(measured, gaps, strict=True):
        require(
            gap,
            ~(gap > _GAUGE),
            f"The closed form knows the weights up to a rotation of the hidden units, but `{of.name}` changes with "
            f"it. Measure what does not (the matrix, Gram matrices, kernels), or use lf.Flow(t1=...).",
        )


def say_floor(found: tuple[Array, ...], where: Callable[[int], str]) -> None:
    """Warn of cells whose `until` lies far below what their tolerance makes of the loss.

    Args:
        found: What `Program.floor` gives, of one cell or several.
        where: Words for the cell of a number, for several.
    """
    floor, until, rtol = (np.atleast_1d(np.asarray(array, float)) for array in found)
    # Losses that fall below zero are of a task whose least loss no one knows.
    below = np.flatnonzero((until >= 0) & (until < 0.1 * floor))
    if not below.size:
        return
    first = int(below[0])
    tight = rtol[first] * (until[first] / floor[first]) ** 0.5
    lower = f"Lower rtol, to {tight:.0e} say, or raise `until`." if tight else "Raise `until`, which no step meets."
    warnings.warn(
        f"until={until[first]:.2g} is below what rtol={rtol[first]:.2g} leaves of the loss, about {floor[first]:.1g} "
        f"with weights like those of the start{where(first)}. Cells that stay at it stop with status AT_TOLERANCE. "
        f"{lower}",
        stacklevel=2,
    )


_FUNCTIONS = [field.name for field in fields(Program) if "Traced" in str(field.type)]
# What a flow in lanes calls on its way, and what is called once it ended.
TRAVELLING = ("start", "velocity", "loss", "extremes", "follow")
MEASURING = ("start", "measure", "summarise", "exact", "verify")


@dataclass(frozen=True)
class Frozen:
    """A cell taken apart: a program, the arrays that its functions closed over, and what it measures."""

    program: Program
    constants: dict[str, list[Array]]
    measured: list[Measured]  # in the order of `Path.observed`, at one time
    summed: list[Measured]  # in the order of `Path.summaries`
    verified: list[Measured]  # in the order of `Path.verified`
    beside: dict[str, str]  # observables that are told of another path too: "twin" or "flow", as `Path` has its status
    network: Callable[
        [Array, list[Array]], PyTree
    ]  # from the trainable parameters and leaves back to the user's network
    lasting: str | None  # a digest of all of it, if another trace would give the same


def freeze(apart: Apart, leaves: list[Any], method: list[Any], wanted: Wanted, ts: Any, key: Any) -> Frozen:
    """Trace a cell's functions, but those that do the same whenever they are traced.

    Args:
        apart: The cell without its arrays.
        leaves: Those arrays, or `jax.ShapeDtypeStruct`s like them.
        method: The method's arrays, or their shapes.
        wanted: What to measure.
        ts: Where to measure, or None.
        key: Shape and kind of the key of a cell.
    """
    cell, static = Functions(apart, wanted), apart.static
    functions: dict[str, Any] = dict.fromkeys(_FUNCTIONS)
    constants: dict[str, list[Array]] = {}
    kinds = jax.tree.map(lambda a: (a.shape, a.dtype, getattr(a, "weak_type", False)), (leaves, method, ts, key))
    of_cell = lasting(static, apart.structure, apart.method_structure, kinds, wanted.quick, bool(cell.followed))
    of_wanted = None if of_cell is None else lasting(of_cell, wanted)

    def traced(name: str, *arguments: Any) -> Any:
        """What a function of the cell gives."""
        make = lambda: (*trace(getattr(cell, name), *arguments), cell.shown.get(name))
        same = of_wanted if name in _OF_WANTED else of_cell
        found = make() if same is None else traces.get((name, same), make)
        functions[name], constants[name], cell.shown[name] = found
        return functions[name].outputs

    w = traced("start", leaves)
    _check_weights(w, static)
    step, needs = jax.ShapeDtypeStruct((), jnp.result_type(int)), static.method.needs
    if "loss" in needs:
        traced("loss", w, leaves)
    if "velocity" in needs:
        traced("velocity", w, leaves, key, step)
    if "optimiser" in needs:
        traced("descend", w, w, traced("begin", w, leaves, method), leaves, method)
    if static.method.judges_convergence:
        traced("extremes", leaves)
    peaks = traced("follow", w, leaves) if cell.followed else {}
    flow = jax.ShapeDtypeStruct((cell.shown["start"],), w.dtype) if cell.beside_flow else None
    if flow is not None:
        traced("flow", flow, leaves)
    watched = traced("begin_watch", leaves) if cell.watches else {}
    if watched:
        _check_watched(watched, traced("watch", watched, w, w, leaves))
    over_ts = () if ts is None else ts.shape
    seen = [jax.ShapeDtypeStruct(over_ts + v.shape, v.dtype) for v in traced("measure", w, peaks, flow, leaves, method)]
    end = step if static.method.time is STEPS else jax.ShapeDtypeStruct((), w.dtype)
    if wanted.summary:
        traced("summarise", jax.eval_shape(lambda: ts), seen, w, step, step, end, watched, leaves)
    _check_apart(cell.shown["measure"], cell.shown.get("summarise", []))
    exact = None
    if "exact" in needs or (wanted.verify and cell.has_closed_form(leaves)):
        count = (0 if ts is None else ts.shape[0]) + ("exact" in needs)
        exact = traced("exact", jax.ShapeDtypeStruct((max(count, 1),), w.dtype), leaves)
    if wanted.verify:
        traced("verify", exact, seen, w, end, leaves, method)
    return Frozen(
        Program(**functions, turned=cell.shown.get("exact"), own=cell.shown["start"], apart=apart),
        constants=constants,
        measured=cell.shown["measure"],
        summed=cell.shown.get("summarise", []),
        verified=cell.shown.get("verify", []),
        beside=dict.fromkeys(cell.followed, "twin") | dict.fromkeys(cell.beside_flow, "flow"),
        network=cell.network,
        lasting=of_wanted,
    )


# What depends on what is wanted, not on the cell alone.
_OF_WANTED = {"follow", "begin_watch", "watch", "measure", "summarise", "verify"}


def _check_watched(begun: dict[str, PyTree], stepped: dict[str, PyTree]) -> None:
    """Raise unless a summary keeps arrays of the same shapes from step to step."""
    for name, seen in begun.items():
        kinds = [jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", tree) for tree in (seen, stepped[name])]
        if kinds[0] != kinds[1]:
            raise TypeError(
                f"What `{name}` has seen needs arrays of the same shapes and dtypes after every step, but its "
                f"watch.begin gives {kinds[0]} and its watch.step {kinds[1]}."
            )


def _check_apart(measured: list[Measured], summed: list[Measured]) -> None:
    names = {one.name for one in summed}
    for name in (one.name for one in measured if one.name in names):
        raise ValueError(f"An observable and a summary both give `{name}`. Name one of them apart: {{'other': f}}.")


def _check_weights(w: jax.ShapeDtypeStruct, static: Cell) -> None:
    if w.size == 0:
        raise ValueError(
            f"Nothing moves: a {type(static.problem.start).__name__} has no floating point arrays outside of "
            f"constants, or all its rates are None."
        )
    if not jnp.issubdtype(w.dtype, jnp.floating):
        raise TypeError(f"Weights need to be real floating point numbers, but their common dtype is {w.dtype}.")
