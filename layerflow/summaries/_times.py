"""When something happens along a path.

Times are interpolated linearly between the times `ts` at which the path was measured, so they are as
fine as those; infinite for what has not happened by the last of them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow._trajectory import Trajectory
from layerflow.base._checks import real_array, require
from layerflow.observables import observable
from layerflow.observables._basic import mode_targets

Summary = Callable[[Trajectory], Any]


def path_of(trajectory: Trajectory, name: str, asking: str) -> tuple[Float[Array, " t"], Float[Array, "t ..."]]:
    """Times and values of an observable, or an error that says how to have it measured."""
    if trajectory.ts is None:
        raise ValueError(f"{asking} reads a whole path, but the trajectory was measured at its end only. Give `ts`.")
    if name not in trajectory.observed:
        raise ValueError(
            f"{asking} reads the path of `{name}`, but these are observed: {', '.join(trajectory.observed)}. "
            f"Add it to `observe`, or name another."
        )
    values = trajectory.observed[name]
    return trajectory.ts.astype(values.dtype), values


def first_time_above(ts: Array, values: Float[Array, "t ..."], level: ArrayLike) -> Float[Array, "..."]:
    """When `values` are first at `level` or above, for each of their further dimensions."""
    above = values >= level
    after = jnp.argmax(above, axis=0)
    before = jnp.maximum(after - 1, 0)
    at = lambda index: jnp.take_along_axis(values, index[None], axis=0)[0]
    rise = at(after) - at(before)
    share = jnp.where(rise > 0, (level - at(before)) / jnp.where(rise > 0, rise, 1.0), 1.0)
    time = ts[before] + share * (ts[after] - ts[before])
    return jnp.where(jnp.any(above, axis=0), time, jnp.inf)


def first_time(of: str, level: ArrayLike, *, falling: bool = False) -> Summary:
    """Summary: when an observable first reaches a level.

    Args:
        of: Name of the observable, as in `observe`.
        level: The level, shape ().
        falling: Reached from above, as a loss does; from below if not given.

    Returns:
        Summary that gives one time for each number that the observable holds; infinite if the
        level is not reached.

    Raises:
        ValueError: When measured, if the observable is not observed.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> problem = lf.Problem(lf.linear_model(jnp.zeros(1)), lf.Modes(variance=jnp.ones(1), target=1.0))
        >>> summary = lf.first_time("loss", 0.1, falling=True)
        >>> path = lf.solve(problem, lf.Flow(t1=5.0), ts=jnp.linspace(0, 5, 100), summary=summary)
        >>> print(f"{path.summary['first_time']:.2f}")  # log(5) / 2, as L = exp(-2 t) / 2
        0.80
    """
    level = real_array(level, "level")
    sign = -1.0 if falling else 1.0

    @observable(long_name=f"first time of {of.replace('_', ' ')} at the level", units="time")
    def first_time(trajectory: Trajectory) -> Array:
        ts, values = path_of(trajectory, of, "first_time")
        return first_time_above(ts, sign * values, (sign * level).astype(values.dtype))

    return first_time


def time_to_fraction(fraction: ArrayLike, *, of: str = "loss") -> Summary:
    """Summary: when an observable has gone a fraction of the way from its first value to its last.

    Args:
        fraction: In (0, 1], shape ().
        of: Name of the observable, as in `observe`.

    Returns:
        Summary that gives one time for each number that the observable holds; infinite where it ends
        as it began.

    Raises:
        ValueError: If `fraction` is out of range, or, when measured, the observable is not observed.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> problem = lf.Problem(lf.linear_model(jnp.zeros(1)), lf.Modes(variance=jnp.ones(1), target=1.0))
        >>> path = lf.solve(problem, lf.Flow(t1=20.0), ts=jnp.linspace(0, 20, 400), summary=lf.time_to_fraction(0.9))
        >>> print(f"{path.summary['time_to_fraction']:.2f}")  # log(10) / 2
        1.15
    """
    fraction = real_array(fraction, "fraction")
    fraction = require(
        fraction, (fraction > 0) & (fraction <= 1), f"Argument `fraction` needs to be in (0, 1], but it is {fraction}."
    )

    @observable(long_name=f"time of {of.replace('_', ' ')} to a fraction of its way", units="time")
    def time_to_fraction(trajectory: Trajectory) -> Array:
        ts, values = path_of(trajectory, of, "time_to_fraction")
        way = values[-1] - values[0]
        progress = jax.vmap(lambda now: jnp.where(way == 0, -1.0, (now - values[0]) / jnp.where(way == 0, 1.0, way)))
        return first_time_above(ts, progress(values), fraction.astype(values.dtype))

    return time_to_fraction


@observable(dims=("mode",), long_name="half-time of the mode", units="time")
def half_times(trajectory: Trajectory) -> Float[Array, " mode"]:
    """Summary: when each mode first has half of the strength that the task asks for.

    Needs `mode_strengths` among `observe`. The strength asked for is the target of Modes, and the
    strength of the mode in the best linear map of data.

    Returns:
        Array of shape (mode,); infinite for modes that do not get there.

    Raises:
        ValueError: If `mode_strengths` is not observed.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> weights = (jnp.array([0.1, 0.1]), jnp.array([0.1, 0.1]))
        >>> problem = lf.Problem(lf.DiagonalNetwork(weights), lf.Modes(variance=1.0, target=jnp.array([1.0, 2.0])))
        >>> measure = {"observe": lf.mode_strengths, "summary": lf.half_times}
        >>> path = lf.solve(problem, lf.Flow(t1=5.0), ts=jnp.linspace(0, 5, 500), **measure)
        >>> [f"{t:.2f}" for t in path.summary["half_times"]]  # log(S/u0 - 1) / (2 S)
        ['2.30', '1.32']

    References:
        Saxe et al. (2014), arXiv:1312.6120.
    """
    ts, strengths = path_of(trajectory, "mode_strengths", "half_times")
    target = mode_targets(trajectory.problem, "half_times")
    share = strengths / jnp.where(target == 0, -1.0, target)[None, :]
    return first_time_above(ts, share, 0.5)


@observable(dims=("mode",), long_name="place of the mode in the order of half-times")
def mode_order(trajectory: Trajectory) -> Float[Array, " mode"]:
    """Summary: the place of each mode in the order of its half-time, from 1 for the first.

    Needs `mode_strengths` among `observe`.

    Returns:
        Array of shape (mode,); infinite for modes that do not get halfway.

    Raises:
        ValueError: If `mode_strengths` is not observed.
    """
    times = half_times(trajectory)
    place = 1 + jnp.argsort(jnp.argsort(times)).astype(times.dtype)
    return jnp.where(jnp.isfinite(times), place, jnp.inf)


def grokking_delay(
    *, train: str = "accuracy", test: str = "test_accuracy", level: ArrayLike = 0.9, falling: bool = False
) -> Summary:
    """Summary: when training and when testing first reach a level, and how long the second waits.

    Args:
        train, test: Names of the two observables, as in `observe`.
        level: The level, shape ().
        falling: Reached from above, as losses do; from below if not given.

    Returns:
        Summary called "grokking" that gives `grokking_train`, `grokking_test` and
        `grokking_delay`, the second minus the first; infinite where the level is not reached, and the
        delay NaN where training does not reach it.

    Raises:
        ValueError: When measured, if one of the two is not observed.

    Example:
        >>> import layerflow as lf
        >>> observe = (lf.accuracy, lf.on_test(lf.accuracy))
        >>> summary = lf.grokking_delay(level=0.95)

    References:
        Power et al. (2022), arXiv:2201.02177.
    """
    learned, generalised = (first_time(name, level, falling=falling) for name in (train, test))

    @observable(long_name="grokking", units="time or steps")
    def grokking(trajectory: Trajectory) -> dict[str, Array]:
        train_time, test_time = learned(trajectory), generalised(trajectory)
        delay = jnp.where(jnp.isfinite(train_time), test_time - train_time, jnp.nan)
        return {"train": train_time, "test": test_time, "delay": delay}

    return grokking
