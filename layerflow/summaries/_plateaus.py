"""Plateaus of a path: where it rests between drops."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from layerflow._trajectory import Trajectory
from layerflow.observables import observable
from layerflow.summaries._times import first_time_above, path_of

_NEARLY = 0.99  # of the fall: what comes later is the end, whose length would set the pace otherwise


def plateaus(
    *, flat: float = 0.1, shortest: float = 0.05, most: int = 8, of: str = "loss"
) -> Callable[[Trajectory], dict[str, Array]]:
    """Summary: where the loss rests, from saddle to saddle.

    The pace of a path is the mean rate of its fall until 99% of it is done. A plateau is a run of `ts`
    in which it falls more slowly than `flat` times that, for at least `shortest` times as long as
    those 99% take. For n modes learned one after the other there are n, at heights

        1/2 sum over unlearned modes of E_i S_i^2,

    and one more where it has come to rest, if `ts` go on long enough.

    Args:
        flat: How slow, relative to the pace.
        shortest: How long, relative to the fall.
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
        >>> [f"{height:.2f}" for height in path.summary["plateaus_height"][:2]]
        ['2.50', '0.50']

    References:
        Saxe et al. (2014), arXiv:1312.6120; Jacot et al. (2021), arXiv:2106.15933, for saddle to saddle.
    """
    for name, value in (("flat", flat), ("shortest", shortest), ("most", most)):
        if not value > 0:
            raise ValueError(f"Argument `{name}` needs to be positive, but it is {value}.")

    @observable(dims=("plateau",), long_name=f"{of.replace('_', ' ')} on its plateaus:")
    def plateaus(trajectory: Trajectory) -> dict[str, Array]:
        ts, values = path_of(trajectory, of, "plateaus")
        if values.ndim != 1:
            raise ValueError(f"plateaus reads one number at each time, but `{of}` has shape {values.shape[1:]}.")
        fall = values[0] - values[-1]
        lasts = first_time_above(ts, (values[0] - values) / jnp.where(fall > 0, fall, 1.0), _NEARLY) - ts[0]
        dt = jnp.diff(ts)
        slow = -jnp.diff(values) <= flat * _NEARLY * fall / lasts * dt

        begins = slow & ~jnp.concatenate([jnp.zeros(1, bool), slow[:-1]])
        run = jnp.where(slow, jnp.cumsum(begins) - 1, -1)  # -1 falls out of every sum
        runs = max(most, ts.shape[0] // 2)
        over = lambda reduce, of_interval: reduce(of_interval, run, num_segments=runs)
        begin, end = over(jax.ops.segment_min, ts[:-1]), over(jax.ops.segment_max, ts[1:])
        area = over(jax.ops.segment_sum, 0.5 * (values[:-1] + values[1:]) * dt)
        length = over(jax.ops.segment_sum, jnp.where(slow, dt, 0.0))
        long = length >= shortest * lasts
        first = jnp.argsort(~long, stable=True)[:most]
        keep = lambda array: jnp.where(long[first], array[first], jnp.nan)
        height = area / jnp.where(length > 0, length, 1.0)
        return {"count": jnp.sum(long), "height": keep(height), "begin": keep(begin), "end": keep(end)}

    return plateaus
