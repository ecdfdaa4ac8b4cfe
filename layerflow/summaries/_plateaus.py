"""Plateaus of a path: where it rests between drops."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from layerflow._trajectory import Trajectory
from layerflow.observables import observable
from layerflow.summaries._times import path_of


def plateaus(
    *, flat: float = 0.2, shortest: float = 0.02, least: float = 0.01, most: int = 8, of: str = "loss"
) -> Callable[[Trajectory], dict[str, Array]]:
    """Summary: where the loss rests, from saddle to saddle.

    A plateau is a run of `ts` in which the loss falls more slowly than `flat` times its fastest fall
    before, and its fastest fall after; before anything fell, or when nothing is left to fall, the one
    that there is. For n modes learned one after the other there are n plateaus, at heights

        1/2 sum over unlearned modes of E_i S_i^2,

    and one more where the loss has come to rest, if `ts` go on long enough. A drop is not seen if
    drops of more than 1/`flat` times its rate lie both before and after it.

    Args:
        flat: How slow, relative to the slower of the drops on either side.
        shortest: How long, relative to the time at which the plateau ends.
        least: What counts as nothing, relative to the whole fall.
        most: How many to tell of, from the first on.
        of: Name of the observable, as in `observe`; one number at each time.

    Returns:
        Summary that gives `plateaus_count`, shape (), and `plateaus_height` (the mean over the plateau),
        `plateaus_begin` and `plateaus_end`, shape (most,), NaN beyond the count.

    Raises:
        ValueError: If an argument is not positive, or, when measured, the observable is not
            observed or holds more than one number.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> weights = (jnp.array([1e-4, 1e-4]), jnp.array([1e-4, 1e-4]))
        >>> problem = lf.Problem(lf.DiagonalNetwork(weights), lf.Modes(variance=1.0, target=jnp.array([2.0, 1.0])))
        >>> path = lf.solve(problem, lf.Flow(t1=20.0), ts=jnp.linspace(0, 20, 400), summary=lf.plateaus())
        >>> [f"{height:.1f}" for height in path.summary["plateaus_height"][:3]]
        ['2.5', '0.5', '0.0']

    References:
        Saxe et al. (2014), arXiv:1312.6120; Jacot et al. (2021), arXiv:2106.15933, for saddle to saddle.
    """
    for name, value in (("flat", flat), ("shortest", shortest), ("least", least), ("most", most)):
        if not value > 0:
            raise ValueError(f"Argument `{name}` needs to be positive, but it is {value}.")

    @observable(dims=("plateau",), long_name=f"{of.replace('_', ' ')} on its plateaus:")
    def plateaus(trajectory: Trajectory) -> dict[str, Array]:
        ts, values = path_of(trajectory, of, "plateaus")
        if values.ndim != 1:
            raise ValueError(f"plateaus reads one number at each time, but `{of}` has shape {values.shape[1:]}.")
        dt = jnp.diff(ts)
        slow = _slow(values, dt, flat, least)
        begins = slow & ~jnp.concatenate([jnp.zeros(1, bool), slow[:-1]])
        run = jnp.where(slow, jnp.cumsum(begins) - 1, -1)  # -1 falls out of every sum
        over = lambda reduce, of_interval: reduce(of_interval, run, num_segments=max(most, ts.shape[0] // 2))
        begin, end = over(jax.ops.segment_min, ts[:-1]), over(jax.ops.segment_max, ts[1:])
        area = over(jax.ops.segment_sum, 0.5 * (values[:-1] + values[1:]) * dt)
        length = over(jax.ops.segment_sum, dt)
        long = (length > 0) & (length >= shortest * end)
        first = jnp.argsort(~long, stable=True)[:most]
        keep = lambda array: jnp.where(long[first], array[first], jnp.nan)
        height = area / jnp.where(length > 0, length, 1.0)
        return {"count": jnp.sum(long), "height": keep(height), "begin": keep(begin), "end": keep(end)}

    return plateaus


def _slow(
    values: Float[Array, " t"], dt: Float[Array, " intervals"], flat: float, least: float
) -> Bool[Array, " intervals"]:
    """In which intervals the path falls slowly, against the drops before and after."""
    rate = -jnp.diff(values) / dt
    before, after = jax.lax.cummax(rate), jax.lax.cummax(rate, reverse=True)
    nothing = least * (values[0] - values[-1])
    before = jnp.where(values[0] - values[1:] <= nothing, jnp.inf, before)
    after = jnp.where(values[:-1] - values[-1] <= nothing, jnp.inf, after)
    return rate <= flat * jnp.minimum(before, after)
