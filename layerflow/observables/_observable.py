"""How a function of (network, problem) says what it measures."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, PyTree

from layerflow._problem import Problem
from layerflow.base._checks import spelled

Observable = Callable[[Any, Problem], Any]


def observable(
    *,
    dims: tuple[str, ...] = (),
    long_name: str | None = None,
    units: str = "1",
    follow: Callable[[Any, Any, Problem], Array] | None = None,
) -> Callable[[Callable[..., Any]], Any]:
    """Say what an observable or a summary measures, for the labels of a diagram. Plain functions work too.

    Args:
        dims: Name of each dimension of the returned array; numbered if not given.
        long_name: Label for axes and colour bars; the name of the function if not given.
        units: Unit, "1" for pure numbers.
        follow: A function of (network, linearised twin, problem) to evaluate at every step of the
            two side by side. The observable then reads its largest values so far, see `laziness`: NaN from
            where the twin diverged. A variable `<name>_status` says how the twin ended.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> @lf.observable(dims=("mode",), long_name="singular values of the product")
        ... def spectrum(network, problem):
        ...     return jnp.linalg.svd(network.matrix, compute_uv=False)
    """

    def mark(function: Callable[..., Any]) -> Any:
        spelt = tuple(map(spelled, dims))
        for name, value in (("dims", spelt), ("long_name", long_name), ("units", units), ("follow", follow)):
            setattr(function, name, value)
        return function

    return mark


def on_test(function: Observable) -> Observable:
    """The same observable, measured on the problem's test task.

    Args:
        function: Any observable.

    Returns:
        Observable called "test_" and the name of `function`.

    Raises:
        ValueError: When measured, if the problem has no test task.

    Example:
        >>> import layerflow as lf
        >>> lf.on_test(lf.loss).__name__
        'test_loss'
    """
    name = getattr(function, "__name__", type(function).__name__)

    def tested(problem: Problem) -> Problem:
        if problem.test is None:
            raise ValueError(
                f"on_test({name}) needs a test task, but the problem has none: lf.Problem(..., test=task)."
            )
        return eqx.tree_at(lambda problem: problem.task, problem, problem.test)

    def measured_on_test(network: PyTree, problem: Problem) -> Any:
        return function(network, tested(problem))

    follow: Any = getattr(function, "follow", None)
    followed = lambda network, twin, problem: follow(network, twin, tested(problem))

    measured_on_test.__name__ = f"test_{name}"
    measured_on_test.tested = function  # pyright: ignore[reportFunctionMemberAccess]
    label = getattr(function, "long_name", None) or name
    return observable(
        dims=getattr(function, "dims", ()),
        long_name=f"{label} on the test task",
        units=getattr(function, "units", "1"),
        follow=None if follow is None else followed,
    )(measured_on_test)
