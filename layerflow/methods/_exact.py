"""The closed form in place of integration."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from layerflow._problem import Problem
from layerflow.base._checks import is_concrete, real_array, require
from layerflow.methods._assumptions import Assumption, allowed_cost
from layerflow.methods._closed_forms import ClosedForm, closed_form, exact_weights
from layerflow.methods._course import Course, Path, Status, failed, masked
from layerflow.methods._method import Method


@dataclasses.dataclass(frozen=True)
class Applies:
    """Which closed form holds for a problem; true if one does.

    Attributes:
        form: Its name, or None.
        reasons: What fails, by how much, what that costs the answer, and what would hold.
    """

    form: str | None
    reasons: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.form is not None

    def __str__(self) -> str:
        return self.form or f"No closed form holds: {'; '.join(self.reasons)}."


class Exact(Method):
    """Closed forms of `layerflow.theory` in place of integration, where one holds.

    Linear models on any data, with or without one number of weight decay; diagonal networks on Modes, and
    those of two layers on uncorrelated inputs; linear networks of more layers, equal in size and aligned with
    the task, on whitened inputs; two-layer networks of one input and one output from any
    start; of these two also where both layers have positive `rates` of their own, on Modes if diagonal;
    two-layer networks on whitened inputs that are lambda-balanced, or have the Gram matrices with which infinitely
    wide random layers start (`theory.wide_matrix`). Of leaky ReLU, an `MLP` of two layers without biases on Samples:
    one input, one output and input weights of one sign, or one unit with its mirror image, one output, on two or
    more white inputs that come with their negatives. Two-layer networks on
    whitened inputs are known up to a rotation of the hidden units: an observable that depends on it is refused.

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

    needs = frozenset({"exact"})

    t1: Float[Array, ""]

    def __init__(self, t1: ArrayLike) -> None:
        t1 = real_array(t1, "t1")
        if t1.shape != ():
            raise ValueError(f"Argument `t1` is gradient-flow time, one number, but it has shape {t1.shape}.")
        self.t1 = require(
            t1, (t1 > 0) & (t1 < jnp.inf), f"Argument `t1` needs to be positive and finite, but it is {t1}."
        )

    @property
    def emulated(self) -> bool:
        """Whether XLA compiles it in float64 for a TPU, where it ends in an error of its own."""
        return False

    @property
    def numbers(self) -> dict[str, Any]:
        """What a prepared sweep may give anew."""
        return {"t1": self.t1}

    def with_numbers(self, **numbers: Any) -> "Exact":
        """The same with another end."""
        return Exact(**{**self.numbers, **numbers})

    @staticmethod
    def applies(problem: Problem, ts: ArrayLike | None = None) -> Applies:
        """Which closed form holds for a problem of known numbers, or why none does.

        No start and no data fulfil what a form assumes but to rounding. One is claimed where the relative error
        that the violation causes in the answer is at most eps^(2/3): 2e-5 in float32, 4e-11 in float64.

        Args:
            problem: What is to be solved.
            ts: Where the answer is wanted, one time such as t1 or several, shape (t,); solving judges it there.
                Not given, a form of deep modes holds at any time, and one of lambda-balanced networks or of
                uncorrelated inputs where the violation itself, which time may amplify, is as small.

        Returns:
            `Applies`, true if a form holds.

        Raises:
            TypeError: If no Problem came, or inside `jax.jit` or a cell function, where numbers are not known.
            ValueError: If `ts` is no time.
        """
        if not isinstance(problem, Problem):
            raise TypeError(f"A Problem is needed, lf.Problem(start, task), but a {type(problem).__name__} came.")
        form = closed_form(problem)
        if isinstance(form, str):
            return Applies(None, (form,))
        if not is_concrete(problem.start.weights[0]):
            raise TypeError("Exact.applies looks at numbers, which are not known inside jax.jit or a cell function.")
        dtype = problem.start.weights[0].dtype
        found = form.assumptions(problem) if ts is None else _judged(form, problem, _times(ts).astype(dtype))
        said = _in_words if ts is not None else _at_any_time
        broken = tuple(said(form.name, a) for a in found if not float(a.cost) <= allowed_cost(dtype))
        return Applies(None if broken else form.name, broken)

    @property
    def end(self) -> Float[Array, ""]:
        """Where the method ends, in the units of `ts`."""
        return self.t1

    def facts(self) -> dict[str, Any]:
        """What a record of the run says of the method."""
        return {"t1": self.t1}

    @staticmethod
    def in_words(facts: dict[str, Any]) -> str:
        """How cells were solved, from the facts of a diagram."""
        return "closed form" + (f" to t = {facts['t1']:g}" if "t1" in facts else "")

    def refusal(self, problem: Problem, ts: Array | None, dtype: Any) -> str:
        """Why no closed form holds for a problem of known numbers."""
        return str(Exact.applies(problem, self.times(ts, dtype)))

    def times(self, ts: Float[Array, " t"] | None, dtype: Any) -> Float[Array, " t_1"]:
        """Where the closed form is evaluated and judged: at `ts` and at t1, beyond which nothing moves."""
        t1 = self.t1.astype(dtype)
        return t1[None] if ts is None else jnp.concatenate([jnp.minimum(ts.astype(dtype), t1), t1[None]])

    def travel(self, course: Course, ts: Float[Array, " t"] | None, key: PRNGKeyArray) -> Path:
        """Evaluate the closed form at `ts` and t1; a cell outside its assumptions has status OUTSIDE."""
        t1 = self.t1.astype(course.start.dtype)
        moved, inside, doubtful = course.exact(self.times(ts, t1.dtype))
        finite = jnp.all(jnp.isfinite(moved))
        status = jnp.where(finite, Status.REACHED_T1, Status.NOT_FINITE)
        status = jnp.where(inside, status, Status.OUTSIDE)
        status = jnp.where(doubtful, Status.DOUBTFUL, status)
        bad = failed(status)
        moved = jnp.where(bad, 0.0, moved)
        if ts is None:
            observed = masked(course.measure(moved[0], {}), bad)
        else:
            every = jax.vmap(lambda moved: course.measure(moved, {}))(moved[:-1])
            observed = masked(every, jnp.broadcast_to(bad, ts.shape))
        weights = jnp.where(bad, jnp.nan, course.start + moved[-1])
        return Path(observed, weights, status, jnp.asarray(0), t1)


def _times(ts: ArrayLike) -> Float[Array, " t"]:
    """Times as a vector, or an error."""
    array = real_array(ts, "ts")
    if array.ndim > 1 or array.size == 0 or not bool(jnp.all((array >= 0) & (array < jnp.inf))):
        raise ValueError(f"Argument `ts` needs a time t >= 0 or a vector of them, such as t1=40.0, but it is {ts!r}.")
    return jnp.atleast_1d(array)


@eqx.filter_jit  # where numbers are not known, the formulas' own checks raise nothing
def _judged(form: ClosedForm, problem: Problem, ts: Float[Array, " t"]) -> list[Assumption]:
    """What a form assumes, and what that costs at `ts`."""
    return form.assumptions(problem, ts, exact_weights(form, problem, ts))


def _in_words(form: str, broken: Assumption) -> str:
    """What a form needs, how far it is violated, and what that costs."""
    violation, cost = float(broken.violation), float(broken.cost)
    error = f", which makes the answer wrong by {cost:.2g}" if cost < 1 else ", which leaves no digit of the answer"
    error = error if np.isfinite(cost) else ", and nothing bounds what that costs the answer"
    return f"the {form} needs that {broken.needs}: violated by {violation:.2g}, relative{error}"


def _at_any_time(form: str, broken: Assumption) -> str:
    """The same where the cost was not judged, but taken to be the violation itself."""
    if float(broken.cost) != float(broken.violation):
        return _in_words(form, broken)
    words = f"the {form} needs that {broken.needs}: violated by {float(broken.violation):.2g}, relative"
    return f"{words}. What that costs depends on the time: Exact.applies(problem, t1)"
