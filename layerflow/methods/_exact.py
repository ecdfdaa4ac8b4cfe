"""The closed form in place of integration."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from layerflow._checks import is_concrete, real_array, require
from layerflow._problem import Problem
from layerflow.methods._closed_forms import closed_form
from layerflow.methods._course import Course, Path, Status, failed, masked


@dataclasses.dataclass(frozen=True)
class Applies:
    """Which closed form holds for a problem; true if one does.

    Attributes:
        form: Its name, or None.
        reasons: What fails, by how much, and what would hold.
    """

    form: str | None
    reasons: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.form is not None

    def __str__(self) -> str:
        return self.form or f"No closed form holds: {'; '.join(self.reasons)}."


class Exact(eqx.Module):
    """Closed forms of `layerflow.theory` in place of integration, where one holds.

    Linear models on any data; diagonal networks on Modes; two-layer networks of one input and one output
    from any start; lambda-balanced two-layer networks on whitened inputs. The last are known up to a
    rotation of the hidden units: an observable that depends on it is refused.

    Args:
        t1: End in units of gradient-flow time, shape ().

    Raises:
        ValueError: If t1 is not positive.

    Example:
        >>> import jax, jax.numpy as jnp, layerflow as lf
        >>> task = lf.Moments.whitened(yx=jnp.diag(jnp.array([2.0, 1.0])))
        >>> start = lf.lambda_balanced(jax.random.key(0), 0.5, 0.1, inp=2, hid=2, out=2)
        >>> print(lf.Exact.applies(lf.Problem(start, task)))
        lambda-balanced network on whitened inputs (matrix Riccati)
        >>> print(f"{lf.solve(lf.Problem(start, task), lf.Exact(t1=40.0)).observed['loss']:.3f}")
        0.000
    """

    t1: Float[Array, ""]

    def __init__(self, t1: ArrayLike) -> None:
        t1 = real_array(t1, "t1")
        if t1.shape != ():
            raise ValueError(f"Argument `t1` is gradient-flow time, one number, but it has shape {t1.shape}.")
        self.t1 = require(
            t1, (t1 > 0) & (t1 < jnp.inf), f"Argument `t1` needs to be positive and finite, but it is {t1}."
        )

    @staticmethod
    def applies(problem: Problem) -> Applies:
        """Which closed form holds for a problem of known numbers, or why none does."""
        if not isinstance(problem, Problem):
            raise TypeError(f"A Problem is needed, lf.Problem(start, task), but a {type(problem).__name__} came.")
        form = closed_form(problem)
        if isinstance(form, str):
            return Applies(None, (form,))
        if not is_concrete(problem.start.weights[0]):
            raise TypeError("Exact.applies looks at numbers, which are not known inside jax.jit or a cell function.")
        tolerance = assumed_within(problem.start.weights[0].dtype)
        broken = [a for a in form.assumptions(problem) if not float(a.violation) <= tolerance]
        if not broken:
            return Applies(form.name, ())
        reasons = (f"{a.needs}: violated by {float(a.violation):.2g}, relative" for a in broken)
        return Applies(None, tuple(f"the {form.name} needs that {reason}" for reason in reasons))

    @property
    def end(self) -> Float[Array, ""]:
        """Where the method ends, in the units of `ts`."""
        return self.t1

    @property
    def untraced(self) -> Any:
        """What decides the numbers beside the functions that are traced."""
        return self

    def facts(self) -> dict[str, Any]:
        """What a record of the run says of the method."""
        return {"t1": self.t1}

    def check_precision(self, dtype: Any) -> None:
        """Any precision will do."""

    def travel(self, course: Course, ts: Float[Array, " t"] | None, key: PRNGKeyArray) -> Path:
        """Evaluate the closed form at `ts` and t1; a cell outside its assumptions has status OUTSIDE."""
        t1 = self.t1.astype(course.start.dtype)
        at = t1[None] if ts is None else jnp.concatenate([jnp.minimum(ts.astype(t1.dtype), t1), t1[None]])
        moved, inside = course.exact(at)
        finite = jnp.all(jnp.isfinite(moved))
        status = jnp.where(finite, Status.REACHED_T1, Status.NOT_FINITE)
        status = jnp.where(inside, status, Status.OUTSIDE)
        bad = failed(status)
        moved = jnp.where(bad, 0.0, moved)
        if ts is None:
            observed = masked(course.measure(moved[0], {}), bad)
        else:
            every = jax.vmap(lambda moved: course.measure(moved, {}))(moved[:-1])
            observed = masked(every, jnp.broadcast_to(bad, ts.shape))
        weights = jnp.where(bad, jnp.nan, course.start + moved[-1])
        return Path(observed, weights, status, jnp.asarray(0), t1)


def assumed_within(dtype: Any) -> float:
    """How far, relatively, an assumption may be violated by rounding."""
    return float(jnp.finfo(dtype).eps) ** 0.5
