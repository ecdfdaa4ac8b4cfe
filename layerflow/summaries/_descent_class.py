"""How gradient descent with a large step ends, in classes."""

import enum
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from layerflow._problem import Problem
from layerflow._trajectory import Trajectory
from layerflow.base._checks import is_concrete, real_array, require
from layerflow.methods import Status
from layerflow.networks import is_weight
from layerflow.observables import observable
from layerflow.observables._at_hand import watched
from layerflow.observables._distance import residual_of
from layerflow.observables._observable import Watch

_BOUND = 1e6  # of outputs: beyond it descent is taken to diverge


class DescentClass(enum.IntEnum):
    """How descent ended, as `descent_class` tells it. Codes are never renumbered."""

    DIVERGES = 0
    FOLLOWS = 1
    OSCILLATES = 2
    CATAPULTS = 3
    PERIOD_TWO = 4
    WANDERS = 5

    @property
    def meaning(self) -> str:
        """The class in words."""
        return _MEANINGS[self]


_MEANINGS = {
    DescentClass.DIVERGES: "outputs beyond a million, or not finite",
    DescentClass.FOLLOWS: "converged, as the flow does",
    DescentClass.OSCILLATES: "converged, and passed the target on its way",
    DescentClass.CATAPULTS: "converged, and the loss was once above its start",
    DescentClass.PERIOD_TWO: "repeats itself every two steps",
    DescentClass.WANDERS: "bounded, but neither converged nor of period two when the steps ended",
}


class _Seen(eqx.Module):
    """What was seen of the steps before one."""

    before: tuple[PyTree, PyTree]  # the weights before the last step, and before that which went ahead of it
    start: Float[Array, ""]  # the loss there
    highest: Float[Array, ""]  # loss so far
    largest: Float[Array, ""]  # output so far
    residual: Float[Array, "..."]
    change: Float[Array, "..."]  # of the residual by the last step
    crossed: Bool[Array, "..."]  # which of its entries changed their sign by that
    moving: Bool[Array, ""]  # whether that was a step of weights that still moved
    overshot: Bool[Array, ""]


def descent_class(tolerance: ArrayLike = 1e-6) -> Callable[[Trajectory], Array]:
    """Summary: how gradient descent ends, for any network. Every step is watched; `ts` need not be given.

    The first of these that holds, by its code in `DescentClass`:

        0  diverges      an output was beyond 10^6 (not with losses of classification), or weights are not finite;
           and of those whose velocity at the end is below the tolerance:
        3  catapults     the loss was once above its start,
        2  oscillates    an entry of the residual changed its sign and, if there are several, turned back by the next
                         step,
        1  follows       all others;
        4  period_two    |w_K - w_(K-2)| is below the tolerance at the last step K, and |w_K - w_(K-1)| is not,
        5  wanders       all others, slow ones too: take more steps.

    Outputs and residuals are W and E[y x^T] - W E[x x^T] on Moments, u and S - u on Modes, f(x_i) and y_i - f(x_i) on
    Samples. Flow never changes the sign of a residual that is one number; of several it may take one through 0, but
    goes on from there, and does not turn back at once. What happens while the velocity
    is below the tolerance is rounding, and counts for nothing.

    Descent with small steps takes many of them, and "wanders" until it has: give `steps` in proportion to 1 / rate,
    paired({"rate": 4 / count, "steps": count}). Several classes as one are lf.phase({"converged":
    diagram.descent_class.isin([1, 2, 3]), ...}), whose boundary is where steps begin not to converge.

    The codes mean in a diagram what its attributes `flag_values` and `flag_meanings` say, as with `status`:
    `plot.heatmap` draws them by name, and `boundary(diagram.descent_class, ("catapults", "diverges"))` is the line
    between two. Cells that failed because they diverged have their class too.

    Args:
        tolerance: Of the largest entry of the velocity, in units of weight per time, and of how far any weight is from
            two steps before, in units of weight; shape ().

    Returns:
        Summary that gives the code of a class, shape ().

    Raises:
        TypeError: With a method that is no descent or draws batches, with weight decay, before anything runs; for a
            task whose targets are not known.
        ValueError: If the tolerance is not one positive number.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf, optax
        >>> def cell(learning_rate):
        ...     start = lf.DiagonalNetwork((jnp.array([1.2]), jnp.array([0.1])))
        ...     problem = lf.Problem(start, lf.Modes(variance=jnp.ones(1), target=1.0))
        ...     return problem, lf.Descent(optax.sgd, learning_rate=learning_rate, steps=2000)
        >>> rates = {"learning_rate": [0.1, 0.7, 0.95, 1.2, 1.6]}
        >>> diagram = lf.sweep(cell, rates, summary=lf.descent_class(), progress=False)
        >>> [lf.DescentClass(int(code)).name.lower() for code in diagram.descent_class]
        ['follows', 'oscillates', 'oscillates', 'period_two', 'diverges']

    References:
        Lewkowycz et al. (2020), arXiv:2003.02218, for the catapult; Zhu et al. (2022), arXiv:2210.03294; Kreisler et
        al. (2023), arXiv:2305.13064.
    """
    tolerance = real_array(tolerance, "tolerance")
    if tolerance.shape != ():
        raise ValueError(f"Argument `tolerance` is one number, but it has shape {tolerance.shape}.")
    came = f", but it is {tolerance}" if is_concrete(tolerance) else ""
    tolerance = require(tolerance, tolerance > 0, f"Argument `tolerance` needs to be positive{came}.")

    def moving(velocity: PyTree) -> Bool[Array, ""]:
        return _largest(velocity) >= tolerance

    def begin(network: PyTree, problem: Problem) -> _Seen:
        if problem.has_decay:
            raise TypeError(
                "descent_class tells classes by the residual and the loss of the task, which the flow itself may carry "
                "past 0 and above their start where there is weight decay. Leave out `decay`."
            )
        weights, loss = eqx.filter(network, is_weight(network)), problem.task.loss(network)
        left, outputs = residual_of(network, problem)
        no, still = jnp.asarray(False), jnp.zeros_like(left)
        return _Seen((weights, weights), loss, loss, _largest(outputs), left, still, still != 0, no, no)

    def step(seen: _Seen, network: PyTree, velocity: PyTree, problem: Problem) -> _Seen:
        weights, loss = eqx.filter(network, is_weight(network)), problem.task.loss(network)
        left, outputs = residual_of(network, problem)
        change = left - seen.residual
        crossed = (left * seen.residual < 0) & seen.moving
        turned = crossed if left.size == 1 else seen.crossed & (change * seen.change < 0)
        return _Seen(
            before=(weights, seen.before[0]),
            start=seen.start,
            highest=jnp.where(seen.moving, jnp.maximum(seen.highest, loss), seen.highest),
            largest=jnp.maximum(seen.largest, _largest(outputs)),
            residual=left,
            change=change,
            crossed=crossed,
            moving=moving(velocity),
            overshot=seen.overshot | jnp.any(turned),
        )

    @observable(
        long_name="class of the descent",
        watch=Watch(begin, step),
        classes={int(one): one.name.lower() for one in DescentClass},
    )
    def descent_class(trajectory: Trajectory) -> Array:
        seen, network, problem = watched(), trajectory.network, trajectory.problem
        if seen is None:
            raise TypeError(
                "descent_class watches every step, so it is given with the descent: lf.solve(problem, "
                "lf.Descent(optax.sgd, ...), summary=lf.descent_class())."
            )
        velocity = problem.velocity(network)
        weights = eqx.filter(network, is_weight(network))
        by_one, by_two = (_largest(jax.tree.map(jnp.subtract, weights, then)) for then in seen.before)
        seen = step(seen, network, velocity, problem)
        # Losses of classification draw outputs to infinity.
        to_a_target = getattr(problem.task, "criterion", "square") == "square"
        unbounded = ~(seen.largest <= _BOUND) if to_a_target else jnp.asarray(False)
        finite = trajectory.status == Status.REACHED_T1
        raised = seen.highest > seen.start * (1 + jnp.finfo(seen.start.dtype).eps ** 0.75)
        return jnp.select(
            [
                ~finite | unbounded,
                seen.moving & (by_two < tolerance) & (by_one >= tolerance),
                seen.moving,
                raised,
                seen.overshot,
            ],
            [
                DescentClass.DIVERGES,
                DescentClass.PERIOD_TWO,
                DescentClass.WANDERS,
                DescentClass.CATAPULTS,
                DescentClass.OSCILLATES,
            ],
            DescentClass.FOLLOWS,
        )

    return descent_class


def _largest(tree: PyTree) -> Float[Array, ""]:
    """The largest size of any number; of nothing 0."""
    return jnp.stack([jnp.abs(leaf).max(initial=0.0) for leaf in jax.tree.leaves(tree)]).max()
