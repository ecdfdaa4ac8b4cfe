"""A sweep prepared once, to be called again and again with other numbers."""

import dataclasses
import inspect
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from layerflow._sweep import checked_machine, computed
from layerflow.base._checks import check_known, check_whole, named_apart, plain, plain_leaves, spelled
from layerflow.base._keys import as_key
from layerflow.base._numerics import full_precision, undisturbed
from layerflow.engine._chunks import Batch
from layerflow.engine._grid import Axis, Paired, Static
from layerflow.engine._identity import settings
from layerflow.engine._machine import Machine
from layerflow.engine._wanted import Observe, Summarise
from layerflow.methods import Method, Times
from layerflow.observables import loss
from layerflow.sweeps._cell_function import CellFunction, left_open, without_default
from layerflow.sweeps._request import Request, grid_of

if TYPE_CHECKING:
    import xarray

_OWN = ("root", "seeds")


@full_precision()
@undisturbed()
def prepare(
    cell: CellFunction,
    axes: Mapping[str, Any] | None = None,
    *,
    method: Method | None = None,
    seeds: int | None = None,
    root: int | np.integer | PRNGKeyArray = 0,
    ts: Times | None = None,
    observe: Observe = loss,
    summary: Summarise | None = None,
    paths: bool = True,
    derivative: Sequence[str] = (),
    verify: bool = False,
    progress: bool = True,
    on: Machine | None = None,
    store: str | os.PathLike[str] | None = None,
) -> "Prepared":
    """Prepare a sweep as `jax.jit` prepares a function: what the cell reads from outside is read once.

    Traces and compiles what `sweep` would, for any number of calls. Arguments of the cell that no axis gives
    may stay open: they are given at each call, as may other values of the axes.

        run = lf.prepare(cell, axes, method=lf.Flow(t1=20.0))
        run(scale=0.7), run(scale=0.8, t1=40.0), run(lam=jnp.linspace(-1, 1, 50))

    A global, an array or a number that the cell, an observable or a summary closes over keeps the value that it had
    when it was traced: here, or at the first call where arguments stay open. Call `prepare` anew to have it read again;
    `sweep` reads it at each call.

    Args:
        cell: As in `sweep`. Arguments without an axis and without a default stay open; those with a default keep it
            unless a call gives them.
        axes: As in `sweep`. Without any, one cell is solved at each call: the handle of `solve`, as a diagram without
            axes.
        method: As in `sweep`.
        seeds: As in `sweep`.
        root: As in `sweep`.
        ts: As in `sweep`.
        observe: As in `sweep`.
        summary: As in `sweep`.
        paths: As in `sweep`.
        derivative: As in `sweep`.
        verify: As in `sweep`.
        progress: As in `sweep`.
        on: As in `sweep`, without a cluster.
        store: As in `sweep`. Every call goes into it, so that each but the first needs the same numbers.

    Returns:
        Prepared, which is called by name and returns the diagram that `sweep` returns, bit for bit. A call takes
        open arguments of the cell (numbers, arrays, keys, or PyTrees of them such as a task); other values of axes,
        of the same kind and as many as you like; numbers of `method` (`t1`, `rtol`, `atol`, `dt0` and `until` of Flow,
        `t1` of Exact, `steps` and hyperparameters of Descent); `root`; and `seeds`.

    Raises:
        TypeError: As in `sweep`; at a call, for a name that it does not know, a value of another kind or shape than at
            the first call, or an argument left open.
        ValueError: As in `sweep`; at a call, for numbers that `method` does not take, or where JAX's settings changed.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> def cell(key, lam, scale):
        ...     start = lf.lambda_balanced(key, lam, scale, inp=2, hid=2, out=2)
        ...     return lf.Problem(start, lf.Moments.whitened(yx=jnp.eye(2)))
        >>> run = lf.prepare(cell, {"lam": jnp.linspace(-3, 3, 5)}, method=lf.Exact(t1=10.0))
        >>> near, far = run(scale=0.1), run(scale=0.5, t1=1.0)
        >>> dict(far.sizes)
        {'lam': 5}
    """
    on = checked_machine(on, store)
    if on.client is not None:
        raise ValueError("A prepared sweep computes in this process. Leave `client` out, or call lf.sweep.")
    opened = without_default(left_open(cell, _arguments_of(axes))) if callable(cell) else []
    request = Request.of(
        cell,
        axes,
        method=method,
        seeds=seeds,
        root=root,
        ts=ts,
        observe=observe,
        summary=summary,
        paths=paths,
        derivative=derivative,
        verify=verify,
        opened=opened,
    )
    return Prepared(request, axes or {}, seeds, on, store, progress)


def _arguments_of(axes: Any) -> list[str]:
    """The arguments of the cell function that axes give."""
    if not isinstance(axes, Mapping):
        return []
    given = lambda name, values: values.values if isinstance(values, Paired) else [spelled(name)]
    return [argument for name, values in axes.items() for argument in given(name, values)]


class Prepared:
    """What `prepare` returns: call it with what stayed open, or with other numbers."""

    def __init__(
        self,
        request: Request,
        axes: Mapping[str, Any],
        seeds: int | None,
        on: Machine,
        store: str | os.PathLike[str] | None,
        progress: bool,
    ) -> None:
        self._request, self._axes, self._seeds = request, named_apart(axes, "axis"), seeds
        self._on, self._store, self._progress = on, store, progress
        self._settings = settings()
        self._traced: dict[frozenset[str], list[Batch]] = {}  # by the names of the open arguments that calls gave
        self._kinds: dict[str, PyTree] = {}
        self._may_open = left_open(request.cell, _arguments_of(axes))
        self._opened = without_default(self._may_open)
        self._numbers = {} if request.method is None else request.method.numbers
        self._check_names()
        if not self._opened:
            for batch in self._batches(request):
                batch.plan(request.grid.cells, on, filled=store is None)

    def __reduce__(self) -> Any:
        raise TypeError(
            "A prepared sweep holds compiled programs, which cannot be copied. Prepare it anew where needed."
        )

    def __repr__(self) -> str:
        return f"<prepared sweep of `{self._request.title}`: {self._takes()}>"

    @full_precision()
    @undisturbed()
    def __call__(self, *unnamed: Any, **given: Any) -> "xarray.Dataset":
        """Compute the diagram, with these numbers in place of those that were prepared."""
        if unnamed:
            raise TypeError(f"A prepared sweep is called by name, as in run(t1=2.0). It takes {self._takes()}.")
        begin, given = time.perf_counter(), named_apart(given, "argument")
        check_known((given, jnp.zeros(())), "an argument of a prepared sweep, or all that is computed there")
        self._check(given)
        request = self._asked(given)
        return computed(request, self._batches(request), self._on, self._store, self._progress, begin)

    def _asked(self, given: dict[str, Any]) -> Request:
        """The request with what a call gives."""
        own = {name: given[name] for name in self._numbers if name in given}
        request = self._request
        return dataclasses.replace(
            request,
            grid=self._grid(given),
            method=self._method(own) if own else request.method,
            root=as_key(given["root"], "root") if "root" in given else request.root,
            opened={name: self._of_kind(name, value) for name, value in given.items() if name in self._may_open},
        )

    def _batches(self, request: Request) -> list[Batch]:
        """What was traced for open arguments of these names, with the numbers of a request."""
        names = frozenset(request.opened)
        if names in self._traced:
            return request.again(self._traced[names])
        try:
            batches = request.batches()
        except Exception:  # their kinds may be why
            self._kinds = {name: kind for name, kind in self._kinds.items() if name not in names}
            raise
        for batch in batches:
            batch.read_all()
        self._traced[names] = batches
        return batches

    def _method(self, numbers: dict[str, Any]) -> Method:
        """The method with some of its numbers anew."""
        method = self._request.method
        assert method is not None
        as_kind = lambda name: _cast(f"Argument `{name}`", numbers[name], self._numbers[name])
        plainly = lambda name: isinstance(numbers[name], int | float) and self._numbers[name].shape == ()
        # Plain numbers as they are, as where the method was made: what follows from them may be rounded otherwise.
        kept = {name: value if plainly(name) else as_kind(name) for name, value in numbers.items()}
        new = method.with_numbers(**kept)
        kind = lambda array: (array.dtype, array.weak_type)
        others = {n: as_kind(n) for n in numbers if kind(new.numbers[n]) != kind(self._numbers[n])}
        return method.with_numbers(**kept | others) if others else new

    def _grid(self, given: dict[str, Any]) -> Any:
        """The grid with other values of some axes."""
        if not {*self._axes, "seeds"} & {*given}:
            return self._request.grid
        asked = {axis.name: axis for axis in self._request.grid.axes}
        axes = {name: _again(asked[name], given[name]) if name in given else v for name, v in self._axes.items()}
        return grid_of(self._request.cell, axes, given.get("seeds", self._seeds), self._opened)[0]

    def _of_kind(self, name: str, value: Any) -> PyTree:
        """An open argument as arrays, of the kind that its first value had."""
        leaves, structure = jax.tree.flatten(plain_leaves(value, f"Argument `{name}`"))
        if not leaves or not all(map(eqx.is_array_like, leaves)):
            raise _cannot_stay_open(name, value)
        if name not in self._kinds:
            self._kinds[name] = jax.tree.unflatten(structure, [_first(name, leaf) for leaf in leaves])
        kinds, before = jax.tree.flatten(self._kinds[name])
        if structure != before:
            raise TypeError(
                f"Argument `{name}` was first given as {_in_words(self._kinds[name])}, now as {_in_words(value)}, "
                f"and its structure decides the program. Prepare it anew."
            )
        cast = [_cast(f"Argument `{name}`", leaf, kind) for leaf, kind in zip(leaves, kinds, strict=True)]
        return jax.tree.unflatten(structure, cast)

    def _check(self, given: dict[str, Any]) -> None:
        """Raise for names that mean nothing here, and for what is left open."""
        known = {*self._may_open, *self._axes, *self._numbers, *_OWN}
        unknown = [name for name in given if name not in known]
        if unknown:
            method = type(self._request.method)
            part = unknown[0] in inspect.signature(method).parameters
            mend = f" Give it to lf.{method.__name__} where the sweep is prepared." if part else ""
            raise TypeError(f"The prepared sweep does not know `{unknown[0]}`. It takes {self._takes()}.{mend}")
        missing = [name for name in self._opened if name not in given]
        if missing:
            left = ", ".join(f"{name}=..." for name in missing)
            raise TypeError(f"The argument `{missing[0]}` of the cell function was left open. Give it: run({left}).")
        if "seeds" in given and (self._seeds is None or given["seeds"] is None):
            was = "without" if self._seeds is None else "with"
            raise TypeError(
                f"The sweep was prepared {was} `seeds`, which decides what its diagram is. Prepare it anew."
            )
        changed = [name for name, value in settings().items() if self._settings[name] != value]
        if changed:
            raise ValueError(
                f"The sweep was prepared under another setting of JAX: {changed[0]} was {self._settings[changed[0]]}. "
                f"Set it back, or prepare it anew."
            )

    def _check_names(self) -> None:
        """Raise where a name would mean two things at a call."""
        for name in (*self._may_open, *self._axes):
            if name in _OWN or name in self._numbers:
                what = "the sweep" if name in _OWN else f"lf.{type(self._request.method).__name__}"
                raise TypeError(
                    f"At a call `{name}` would mean the argument of the cell function and that of {what}. Rename the "
                    f"former."
                )

    def _takes(self) -> str:
        """What a call may give."""
        kinds = {
            "open arguments": [*self._opened, *(f"{n} (has a default)" for n, d in self._may_open.items() if d)],
            "axes": list(self._axes),
            "numbers of the method": list(self._numbers),
            "of the sweep": ["root", *(["seeds"] if self._seeds is not None else [])],
        }
        return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names)


def _in_words(tree: PyTree) -> str:
    """What a PyTree is, as far as that decides a program."""
    structure = jax.tree.structure(tree)
    leaf = jax.tree_util.treedef_is_leaf(structure)
    return "a number or an array" if leaf else str(structure).removeprefix("PyTreeDef(").removesuffix(")")


def _cannot_stay_open(name: str, value: Any) -> TypeError:
    return TypeError(
        f"Numbers, arrays and PyTrees of them can stay open, but `{name}` is {value!r}. Bind it before, "
        f"lf.prepare(functools.partial(cell, {name}=...), ...), which compiles once for each."
    )


def _first(name: str, value: Any) -> jax.Array:
    """The first value of an open argument, which says of what kind the others are."""
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise _cannot_stay_open(name, value) from error


def _cast(what: str, value: Any, kind: jax.Array) -> jax.Array:
    """A value of the kind that was prepared, or an error."""
    if any(jnp.issubdtype(getattr(one, "dtype", float), jax.dtypes.prng_key) for one in (value, kind)):
        if (getattr(value, "shape", None), getattr(value, "dtype", None)) != (kind.shape, kind.dtype):
            raise TypeError(f"{what} was prepared as {kind.dtype} of shape {kind.shape}, but now is {value!r}.")
        return value
    array = np.asarray(value)
    if array.shape != kind.shape:
        raise TypeError(
            f"{what} was prepared with shape {kind.shape}, but now has shape {array.shape}. Prepare it anew."
        )
    cast = _as_dtype(what, array, kind.dtype)
    return jnp.asarray(cast.item()) if kind.weak_type else jnp.asarray(cast)


def _as_dtype(what: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Numbers as a dtype that holds them, or an error."""
    if not _fits(array.dtype, dtype):
        raise TypeError(
            f"{what} was prepared as {dtype}, which does not hold {array.dtype}: {array}. Give the first value as the "
            f"wider kind, as in 1.0 for 1, or prepare it anew."
        )
    cast = array.astype(dtype)
    check_whole(array, cast, what)
    return cast


def _fits(given: np.dtype, dtype: np.dtype) -> bool:
    """Whether numbers of one dtype are held by another, but for digits that JAX itself drops."""
    if given.kind in "OSUMm":
        return False
    known = jax.dtypes.canonicalize_dtype(given)
    narrower = jnp.issubdtype(known, jnp.inexact) and known.itemsize > dtype.itemsize
    return known == dtype or (known.kind != "b" and not narrower and np.can_cast(known, dtype, "same_kind"))


def _again(axis: Axis, values: Any) -> Any:
    """Other values of an axis, of the kind of the first, or an error."""
    if axis.static or isinstance(values, Static):
        raise TypeError(f"The values of the axis `{axis.name}` decide the program, lf.static: prepare it anew.")
    of = values.values if isinstance(values, Paired) else {axis.name: values}
    if set(of) != set(axis.arguments):
        raise TypeError(
            f"The axis `{axis.name}` gives {', '.join(sorted(axis.arguments))}, but values for {', '.join(sorted(of))} "
            f"came. Give the same arguments, lf.paired for several."
        )
    given = {name: np.asarray(plain(own, f"Axis `{name}`")) for name, own in of.items()}
    if any(array.dtype.kind not in "biuf" for array in given.values()):
        return values  # no numbers, which is said where axes are made
    cast = {}
    for name, array in given.items():
        kind = axis.arguments[name]
        if array.ndim and array.shape[1:] != kind.shape[1:]:
            raise TypeError(
                f"`{name}` was prepared with shape {kind.shape[1:]} at each position of `{axis.name}`, but now "
                f"has shape {array.shape[1:]}. Prepare it anew."
            )
        cast[name] = _as_dtype(f"Axis `{name}`", array, kind.dtype)
    return Paired(cast, values.labels) if isinstance(values, Paired) else cast[axis.name]
