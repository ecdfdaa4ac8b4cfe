"""A cell as functions of flat arrays: of its leaves, and of the flat vector of the trainable parameters."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PRNGKeyArray, PyTree

from layerflow._problem import Problem
from layerflow._trajectory import Trajectory
from layerflow.engine._cell import Apart, Cell
from layerflow.engine._wanted import Measured, Wanted, watch_of
from layerflow.methods import allowed_cost, closed_form, conserved_drift, exact_weights, failed, masked
from layerflow.observables._at_hand import at_hand
from layerflow.tasks import Stream, Task

_ALLOWANCE = 100.0  # of the tolerance of a step: errors of many steps add up


class Functions:
    """A cell as functions of its leaves and of the flat vector w of the trainable parameters."""

    def __init__(self, apart: Apart, wanted: Wanted) -> None:
        self.apart, self.wanted, self.static = apart, wanted, apart.static
        follows = {name: getattr(function, "follow", None) for name, function in wanted.observe.items()}
        self.followed = {name: follow for name, follow in follows.items() if follow is not None}
        if self.followed and ("exact" in self.static.method.needs or wanted.verify):
            raise TypeError(
                f"{', '.join(self.followed)} follows the path step by step, which no closed form takes. Leave it out "
                f"here, and measure it with lf.Flow(t1=...), without verify."
            )
        if wanted.verify and "rtol" not in self.static.method.tolerances:
            raise TypeError(
                f"verify holds errors against the tolerance of lf.Flow(t1=..., rtol=...), but the method is "
                f"{type(self.static.method).__name__} and has none."
            )
        self.watches = {name: watch_of(f) for name, f in wanted.summary.items() if watch_of(f)}
        self.beside_flow = [name for name, f in wanted.observe.items() if getattr(f, "beside_flow", False)]
        for name in self.watches:
            self._check_descends(name)
        for name in self.beside_flow:
            self.static.method.check_steps_of_flow(name)
        # What tracing showed of a function beside its steps, by its name: of `start` how many weights the network has
        # without its twin, of `exact` the widths where it knows the weights up to a rotation of hidden units, and of
        # `measure`, `summarise` and `verify` what they give.
        self.shown: dict[str, Any] = {}

    def _check_descends(self, name: str) -> None:
        """Raise unless there are steps of descent on the whole task to watch."""
        method = self.static.method
        if "optimiser" not in method.needs:
            raise TypeError(
                f"{name} watches every step of a descent, so it needs lf.Descent(optax.sgd, learning_rate=..., "
                f"steps=...), but the method is {type(method).__name__}."
            )
        if method.drawn is not None:
            raise TypeError(
                f"{name} watches descent on the whole task, but this one draws a batch at every step, whose noise it "
                f"would take for oscillation. Leave out `batch`."
            )

    def cell(self, leaves: list[Array]) -> Cell:
        return self.apart.cell(leaves)

    def problems(self, leaves: list[Array]) -> list[Problem]:
        """The problem and, where an observable follows the two side by side, its linearised twin."""
        problem = self.cell(leaves).problem
        return [problem, problem.linearised] if self.followed else [problem]

    def ravelled(self, leaves: list[Array]) -> tuple[Array, Callable[[Array], list[PyTree]], list[PyTree]]:
        """The weights at the start, the way back to their trees, and all the rest of the networks."""
        weights, rest = zip(*(problem.split(problem.start) for problem in self.problems(leaves)), strict=True)
        return *ravel_pytree(list(weights)), list(rest)

    def start(self, leaves: list[Array]) -> Array:
        problem = self.cell(leaves).problem
        self.shown["start"] = sum(leaf.size for leaf in jax.tree.leaves(problem.split(problem.start)[0]))
        return self.ravelled(leaves)[0]

    def begin(self, w: Array, leaves: list[Array], method: list[Array]) -> list[PyTree]:
        """The state of the optimiser for each network."""
        how = self.optimiser(w, method)
        return [how.begin(jax.tree.leaves(weights)) for weights in self.ravelled(leaves)[1](w)]

    def descend(
        self, moved: Array, velocity: Array, states: list[PyTree], leaves: list[Array], method: list[Array]
    ) -> tuple[Array, list[PyTree]]:
        """The movement after one step of descent, and the states of the optimiser."""
        (start, unravel, _), how = self.ravelled(leaves), self.optimiser(moved, method)
        parts = lambda w: [jax.tree.leaves(weights) for weights in unravel(w)]
        of_each = zip(parts(-velocity), states, parts(start + moved), parts(moved), strict=True)
        stepped = [how.descend(*own) for own in of_each]
        return ravel_pytree([tree for tree, _ in stepped])[0], [state for _, state in stepped]

    def optimiser(self, w: Array, method: list[Array]) -> Any:
        """The method, which has one, in the precision of the weights."""
        cast = lambda leaf: leaf.astype(w.dtype) if eqx.is_inexact_array(leaf) else leaf
        return jax.tree.map(cast, self.apart.method(method))

    def networks(self, w: Array, leaves: list[Array]) -> list[PyTree]:
        _, unravel, rest = self.ravelled(leaves)
        return [eqx.combine(*parts) for parts in zip(unravel(w), rest, strict=True)]

    def network(self, w: Array, leaves: list[Array]) -> PyTree:
        return self.networks(w, leaves)[0]

    def moved(self, moved: Array, leaves: list[Array]) -> list[tuple[PyTree, PyTree]]:
        """Every network where the weights are `start + moved`, with its movement."""
        start, unravel, _ = self.ravelled(leaves)
        return list(zip(self.networks(start + moved, leaves), unravel(moved), strict=True))

    def velocity(self, w: Array, leaves: list[Array], key: PRNGKeyArray, step: Array) -> Array:
        cell, drawn = self.cell(leaves), self.static.method.drawn
        task = whole(cell.task) if drawn is None else cell.problem.task.batch(key, step, *drawn)
        pairs = zip(self.problems(leaves), self.networks(w, leaves), strict=True)
        return ravel_pytree([problem.velocity(network, task) for problem, network in pairs])[0].astype(w.dtype)

    def flow(self, w: Array, leaves: list[Array]) -> Array:
        """The velocity of the network's own weights on the whole task."""
        cell = self.cell(leaves)
        weights, rest = cell.problem.split(cell.problem.start)
        network = eqx.combine(ravel_pytree(weights)[1](w), rest)
        return ravel_pytree(cell.problem.velocity(network, whole(cell.task)))[0].astype(w.dtype)

    def begin_watch(self, leaves: list[Array]) -> dict[str, PyTree]:
        """What summaries have seen before the first step, by the summary's name."""
        problem = self.cell(leaves).problem
        return {name: watch.begin(problem.start, problem) for name, watch in self.watches.items()}

    def watch(self, seen: dict[str, PyTree], moved: Array, velocity: Array, leaves: list[Array]) -> dict[str, PyTree]:
        """What they have seen after one more step, which begins where the weights are `start + moved`."""
        start, unravel, _ = self.ravelled(leaves)
        network, problem = self.networks(start + moved, leaves)[0], self.cell(leaves).problem
        return {n: watch.step(seen[n], network, unravel(velocity)[0], problem) for n, watch in self.watches.items()}

    def loss(self, w: Array, leaves: list[Array]) -> Array:
        loss = self.cell(leaves).task.loss(self.network(w, leaves))
        if jnp.shape(loss) != ():
            raise ValueError(
                f"The `loss` of a task needs to be one number, but that of {type(self.static.task).__name__} has shape "
                f"{jnp.shape(loss)}. Take a mean or a sum."
            )
        return jnp.asarray(loss)

    def extremes(self, leaves: list[Array]) -> tuple[Array, Array]:
        """The least loss and that of the zero function, where convergence is judged by them."""
        cell = self.cell(leaves)
        if cell.problem.has_decay:
            raise ValueError(
                'With weight decay the least loss is not known, so until="converged" cannot be judged. '
                "Give a loss to stop at, until=1e-3, or leave `until` out."
            )
        return cell.task.least_loss(cell.problem.start), cell.task.null_loss()

    def follow(self, moved: Array, leaves: list[Array]) -> dict[str, Array]:
        """What observables follow along the path, by the observable's name."""
        movements = self.moved(moved, leaves)
        networks, problem = [network for network, _ in movements], self.cell(leaves).problem
        with at_hand(movements=movements):
            return {name: follow(*networks, problem) for name, follow in self.followed.items()}

    def measure(
        self, moved: Array, peaks: dict[str, Array], flow: Array | None, leaves: list[Array], method: list[Array]
    ) -> list[Array]:
        """All observables where the weights are `start + moved`, and those of the flow at that time `start + flow`."""
        movements, problem = self.moved(moved, leaves), self.cell(leaves).problem
        returned: dict[str, Any] = {}
        beside = None
        if flow is not None:
            weights, rest = problem.split(problem.start)
            start, unravel = ravel_pytree(weights)
            beside = eqx.combine(unravel(start + flow), rest)
            movements = [*movements, (beside, unravel(flow))]
        with at_hand(movements=movements, method=self.apart.method(method), flow=beside):
            for name, function in self.wanted.observe.items():
                with at_hand(peaks=peaks.get(name)):
                    returned[name] = _called(name, function, movements[0][0], problem)
        values, self.shown["measure"] = _told(returned, "observed")
        return values

    def in_moments(self, leaves: list[Array]) -> Problem:
        """The problem with its task as closed forms take it."""
        cell = self.cell(leaves)
        task = cell.task.in_moments(cell.problem.start)
        return eqx.tree_at(lambda p: p.task, cell.problem, task, is_leaf=lambda node: isinstance(node, Task))

    def closed(self, leaves: list[Array]) -> tuple[Any, Problem]:
        """The closed form, and the problem with its task as linear networks see it."""
        problem = self.in_moments(leaves)
        form = closed_form(problem)
        if isinstance(form, str):
            raise ValueError(f"No closed form holds: {form}. Use lf.Flow(t1=...).")
        self.shown["exact"] = problem.start.widths if form.up_to_rotation else None
        return form, problem

    def has_closed_form(self, leaves: list[Any]) -> bool:
        """Whether a closed form holds for problems of this kind."""
        found: list[Any] = []
        jax.eval_shape(lambda leaves: found.append(closed_form(self.in_moments(leaves))), leaves)
        return not isinstance(found[0], str)

    def flat(self, problem: Problem, layers: tuple[Array, ...]) -> Array:
        """The flat vector of a linear network with these layers."""
        network = eqx.tree_at(lambda network: network.weights, problem.start, layers)
        return ravel_pytree(problem.split(network)[0])[0]

    def exact(self, ts: Array, leaves: list[Array]) -> tuple[Array, Array, Array]:
        """The movement at `ts` by the closed form, whether what it assumes holds, and whether that was left open."""
        (form, problem), (start, _, _) = self.closed(leaves), self.ravelled(leaves)
        layers = exact_weights(form, problem, ts)
        weights = jax.vmap(lambda layers: self.flat(problem, layers))(layers)
        assumed = form.assumptions(problem, ts, layers, self.wanted.quick)
        held = [jnp.asarray(True), *(a.cost <= allowed_cost(start.dtype) for a in assumed)]
        doubtful = [jnp.asarray(False), *(jnp.asarray(a.doubtful) for a in assumed)]
        return weights - start[None, :], jnp.all(jnp.stack(held)), jnp.any(jnp.stack(doubtful))

    def verify(
        self,
        exact: tuple[Array, Array, Array] | None,
        observed: list[Array],
        w: Array,
        end: Array,
        leaves: list[Array],
        method: list[Array],
    ) -> list[Array]:
        """Errors against the closed form, drift of what is conserved, and the worst of both over what is allowed."""
        problem, (start, _, _) = self.cell(leaves).problem, self.ravelled(leaves)
        tolerances = self.apart.method(method).tolerances
        rtol, atol = (_ALLOWANCE * jnp.asarray(tolerances[name], w.dtype) for name in ("rtol", "atol"))
        ratios, values, told = [], [], []
        if exact is not None:
            moved, inside, _ = exact
            every = jax.vmap(lambda moved: self.measure(moved, {}, None, leaves, method))
            rights = every(moved)
            allowed = [jnp.zeros_like(value) for value in rights]
            for direction in random_signs(w.shape[0], w.dtype):
                # Weights as far off as the tolerance allows, and what that does to each observable.
                off = (rtol * jnp.abs(start[None, :] + moved) + atol) * direction[None, :]
                # Of all entries of an observable: one alone may happen to stand still.
                allowed = [
                    jnp.maximum(a, jnp.abs(o - e).max(axis=tuple(range(1, e.ndim)), keepdims=True))
                    for a, o, e in zip(allowed, every(moved + off), rights, strict=True)
                ]
            for of, value, right, most in zip(self.shown["measure"], observed, rights, allowed, strict=True):
                error = jnp.where(inside, jnp.abs(value.reshape(right.shape) - right), jnp.nan)
                floor = 100 * jnp.finfo(right.dtype).eps * jnp.abs(right)
                ratios.append(jnp.where(inside, (error / (most + floor + jnp.finfo(right.dtype).tiny)).max(), 0.0))
                values.append(error.reshape(value.shape))
                told.append(of._replace(kind="error", like=_like(values[-1])))
        drift = conserved_drift(self.network(w, leaves), problem, end)
        checks = {} if drift is None else {"drift": drift}
        if drift is not None:
            ratios.append(drift / rtol)
        # NaN where there is nothing to compare with.
        checks["error_over_tolerance"] = jnp.stack(ratios).max() if ratios else jnp.full((), jnp.nan, w.dtype)
        self.shown["verify"] = [*told, *(Measured("check", name, "", _like(check)) for name, check in checks.items())]
        return [*values, *checks.values()]

    def summarise(
        self,
        ts: Array | None,
        observed: list[Array],
        w: Array,
        status: Array,
        num_steps: Array,
        end: Array,
        seen: dict[str, PyTree],
        leaves: list[Array],
    ) -> list[Array]:
        """All summaries of a path; NaN where it failed, but those that say of failures too."""
        trajectory = Trajectory(
            problem=self.cell(leaves).problem,
            ts=ts,
            observed=dict(zip((of.name for of in self.shown["measure"]), observed, strict=True)),
            summary={},
            followed_status={},
            network=self.network(w, leaves),
            status=status,
            num_steps=num_steps,
            end=end,
        )
        returned: dict[str, Any] = {}
        for name, function in self.wanted.summary.items():
            with at_hand(watched=seen.get(name)):
                returned[name] = _called(name, function, trajectory)
        values, told = _told(returned, "summed")
        self.shown["summarise"] = told
        of_failures = [bool(getattr(self.wanted.summary[one.of], "classes", None)) for one in told]
        masks = masked(values, failed(status))
        return [own if kept else mask for own, mask, kept in zip(values, masks, of_failures, strict=True)]


def whole(task: Task) -> Task:
    """A task that is followed as a whole, or an error."""
    if isinstance(task, Stream):
        raise TypeError(
            "A Stream gives fresh samples at every step and has no whole to follow: use Descent(..., batch=...), "
            "or fix a sample, lf.Samples(*draw(key, n)), for Flow."
        )
    return task


def _called(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What the user's function returns, or an error in the user's words."""
    try:
        return function(*arguments)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        raise TypeError(
            f"`{name}` hands a JAX array to NumPy or Python, which cannot be compiled. Use jax.numpy: {error}"
        ) from error
    except IndexError as error:
        if "static" not in str(error) and "concrete" not in str(error):
            raise
        raise TypeError(
            f"`{name}` takes part of an array, as in x[:n], by a number that is traced. A shape has to be the same in "
            f"every cell: make that number an axis lf.static([...]), or weigh by jnp.where. JAX says: {error}"
        ) from error


def _told(returned: dict[str, Any], kind: Literal["observed", "summed"]) -> tuple[list[Array], list[Measured]]:
    """What functions returned, as floating point numbers so that NaN can mark failure, and what each is."""
    values: list[Array] = []
    told: list[Measured] = []
    for name, value in returned.items():
        parts = value if isinstance(value, dict) else {"": value}
        if not parts:
            raise ValueError(f"`{name}` returned an empty dict: nothing to keep. Give it at least one entry.")
        for part, one in parts.items():
            array = _floating(f"{name}_{part}" if isinstance(value, dict) else name, one, kind)
            values.append(array)
            told.append(Measured(kind, name, str(part), _like(array)))
    twice = next((one.name for i, one in enumerate(told) if one.name in {other.name for other in told[:i]}), None)
    if twice is not None:
        raise ValueError(f"Two observables are called `{twice}`. Name them apart: observe={{'a': f, 'b': g}}.")
    return values, told


def _floating(variable: str, value: Any, kind: str) -> Array:
    """What a function returned as floating point numbers, or an error."""
    if not eqx.is_array_like(value):
        argument = "observe" if kind == "observed" else "summary"
        raise TypeError(
            f"Functions of `{argument}` return an array or a dict of arrays, but `{variable}` is a "
            f"{type(value).__name__}."
        )
    array = jnp.asarray(value)
    if jnp.iscomplexobj(array):
        raise TypeError(
            f"`{variable}` is complex, which files of diagrams do not hold. Return its parts: "
            f"{{'real': z.real, 'imag': z.imag}}."
        )
    return array if jnp.issubdtype(array.dtype, jnp.inexact) else array.astype(float)


def _like(array: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def random_signs(size: int, dtype: Any) -> list[Array]:
    """A few signs for every weight, to try out errors of weights with."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.choice([-1.0, 1.0], size), dtype) for _ in range(4)]
