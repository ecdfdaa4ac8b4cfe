"""How a function of (network, problem) says what it measures."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, PyTree

from layerflow._problem import Problem
from layerflow.base._checks import spelled

Observable = Callable[[Any, Problem], Any]


class Watch(NamedTuple):
    """How a summary sees every step of a descent; both return what it has seen, a PyTree of arrays of fixed shapes."""

    begin: Callable[[Any, Problem], Any]  # of the network at its start, and the problem
    step: Callable[[Any, Any, Any, Problem], Any]  # of that, the network before the step, its velocity, and the problem


def observable(
    *,
    dims: tuple[str, ...] = (),
    long_name: str | None = None,
    units: str = "1",
    follow: Callable[[Any, Any, Problem], Array] | None = None,
    beside_flow: bool = False,
    watch: Watch | None = None,
    classes: Mapping[int, str] | None = None,
) -> Callable[[Callable[..., Any]], Any]:
    """Say what an observable or a summary measures, for the labels of a diagram. Plain functions work too.

    Args:
        dims: Name of each dimension of the returned array; numbered if not given.
        long_name: Label for axes and colour bars; the name of the function if not given.
        units: Unit, "1" for pure numbers.
        follow: A function of (network, linearised twin, problem) to evaluate at every step of the
            two side by side. The observable then reads its largest values so far, see `laziness`: NaN from
            where the twin diverged. A variable `<name>_status` says how the twin ended.
        beside_flow: Whether the observable compares a descent with the flow, see `leaving_flow`. A variable
            `<name>_status` says how the flow ended.
        watch: What a summary sees of every step of a descent, see `descent_class`. It needs no `ts` then.
        classes: What the codes that a summary gives mean, in one word each, if it gives codes. It is then asked of
            cells that failed too.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> @lf.observable(dims=("mode",), long_name="singular values of the product")
        ... def spectrum(network, problem):
        ...     return jnp.linalg.svd(network.matrix, compute_uv=False)
    """
    _check_watch(watch)
    _check_classes(classes)

    def mark(function: Callable[..., Any]) -> Any:
        spelt = tuple(map(spelled, dims))
        told = {"dims": spelt, "long_name": long_name, "units": units, "follow": follow}
        for name, value in {**told, "beside_flow": beside_flow, "watch": watch, "classes": classes}.items():
            setattr(function, name, value)
        return function

    return mark


def _check_watch(watch: Any) -> None:
    if watch is not None and not (isinstance(watch, Watch) and all(map(callable, watch))):
        raise TypeError(f"Argument `watch` needs lf.Watch(begin, step) of two functions, but it is {watch!r}.")


def _check_classes(classes: Any) -> None:
    if classes is None:
        return
    words = isinstance(classes, Mapping) and all(
        isinstance(code, int) and isinstance(word, str) and word.split() == [word] for code, word in classes.items()
    )
    if not words or not classes:
        raise TypeError(
            f"Argument `classes` needs a word without spaces for each code, {{0: 'lazy', 1: 'rich'}}, but it is "
            f"{classes!r}."
        )


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
        beside_flow=getattr(function, "beside_flow", False),
    )(measured_on_test)
