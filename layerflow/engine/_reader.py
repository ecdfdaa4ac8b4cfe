"""Values read to digests of their content.

Traced programs are told by their steps, with all rules that these carry and the settings they were traced under;
functions by their code, what they close over, their defaults and the globals they read; instances by class and fields;
what comes with an installed package by its name and version.
"""

import copyreg
import enum
import functools
import hashlib
import importlib
import itertools
import types
import uuid
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from layerflow.base import _jax
from layerflow.base._checks import closed_over, is_concrete
from layerflow.engine._origin import chains, name_of, offered_as, version_of

_PLAIN = {bool, int, float, complex, str, bytes, types.NoneType, types.EllipsisType, types.NotImplementedType}
_DEEPEST = 64  # of what holds one another; Python's stack has room for three times as many
# What these give no one knows.
_UNREADABLE = {"globals", "locals", "vars", "eval", "exec", "__import__", "open", "input"}
_CONTAINERS = (tuple, list, set, frozenset, dict, np.ndarray, functools.partial)
# What a class has beside what its author wrote, or what no number depends on.
_NOT_OF_A_CLASS = {
    *("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__annotate__", "__annotate_func__"),
    *("__annotations_cache__", "__firstlineno__", "__static_attributes__", "__abstractmethods__", "__abstractvars__"),
    *("__abstractclassvars__", "__dataclass_params__", "__dataclass_fields__", "__parameters__", "__orig_bases__"),
    *("_abc_impl", "__type_params__", "__slotnames__"),
}


class Reader:
    """Reads values to digests; `strange` gathers what had to be told by the very object."""

    def __init__(self) -> None:
        self.strange: set[str] = set()
        self.own = 0  # what of the user's was met so far, which may change behind a program that holds it
        self._known: dict[int, tuple[Any, bytes, int]] = {}  # with the value, so that its address stays its own
        self._within: dict[int, int] = {}

    def read(self, value: Any) -> bytes:
        """The digest of a value."""
        if _is_plain(value):
            return f"{type(value).__name__} {value!r}".encode()
        if id(value) in self._known:
            _, found, own = self._known[id(value)]
            self.own += own
            return found
        if id(value) in self._within:  # it holds itself
            return _hash(b"within", str(self._within[id(value)]).encode())
        before, self._within[id(value)] = self.own, len(self._within)
        try:
            found = _hash(*(self._words(value) if len(self._within) <= _DEEPEST else self.unlike(value)))
        finally:
            del self._within[id(value)]
        self._known[id(value)] = value, found, self.own - before
        return found

    def _words(self, value: Any) -> Iterator[bytes]:
        """What makes a value what it is."""
        reading = _reading_of(type(value))
        if value is _jax.no_axis_name:
            yield b"no axis"
        elif reading is not None:
            yield reading.__name__.encode()
            yield from getattr(self, reading.__name__)(value)
        elif name := self.offered(value):
            yield from (b"offered", name.encode())
        elif (parts := _parts(value)) is not None:
            yield b"parts"
            yield from map(self.read, parts)
            if not self.version(type(value).__module__):  # whatever its author has a copy hold
                self.own += 1
                yield from self.entries(dict(sorted(getattr(value, "__dict__", {}).items())))
        else:
            yield from self.token(value)

    def entries(self, entries: Mapping[Any, Any]) -> Iterator[bytes]:
        for name, value in entries.items():
            yield self.read(name)
            yield self.read(value)

    def token(self, value: Any) -> Iterator[bytes]:
        """A name for the very object, which no other has in any process."""
        self.own += 1
        name = getattr(value, "__qualname__", None)
        self.strange.add(str(name) if isinstance(name, str) else f"a {type(value).__qualname__}")
        yield from (b"token", _PROCESS, str(_number_of(value)).encode())

    def unlike(self, value: Any) -> Iterator[bytes]:
        """A name that even the same object has but once: what is nested so deep may change where no one looks."""
        self.own += 1
        self.strange.add(f"a {type(value).__qualname__} inside of {_DEEPEST} others")
        yield from (b"unlike", _PROCESS, str(next(_count)).encode())

    def version(self, module: str | None) -> str:
        """Name and version of the installed package that a module belongs to; "" if it is a user's own."""
        return version_of(module)

    def offered(self, value: Any) -> str:
        """Where an installed package has this very object; "" if it is nobody's."""
        found = offered_as(value)
        return found if found and self.version(value.__module__) else ""

    def sequence(self, value: Any) -> Iterator[bytes]:
        yield self.read(type(value))
        yield from map(self.read, value)

    def set_(self, value: Any) -> Iterator[bytes]:
        yield from sorted(map(self.read, value))

    def program(self, value: Any) -> Iterator[bytes]:
        yield self.jaxpr(value if isinstance(value, _jax.Jaxpr) else value.jaxpr)
        yield from map(self.read, getattr(value, "consts", ()))

    def array(self, value: Any) -> Iterator[bytes]:
        if not is_concrete(value):
            yield from self.token(value)
            return
        plain = jax.random.key_data(value) if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else value
        plain = np.ascontiguousarray(plain)
        if plain.dtype.hasobject:
            yield from (str(plain.shape).encode(), *map(self.read, plain.ravel().tolist()))
        else:
            yield from (f"{value.dtype} {value.shape}".encode(), hashlib.sha256(plain.tobytes()).digest())

    def text(self, value: Any) -> Iterator[bytes]:
        yield from (name_of(type(value)).encode(), str(value).encode())

    def enum_(self, value: Any) -> Iterator[bytes]:
        yield from (self.read(type(value)), self.read(value.name), self.read(value.value))

    def structure(self, value: Any) -> Iterator[bytes]:
        yield self.read(value.node_data())
        yield from map(self.read, value.children())

    def module(self, value: Any) -> Iterator[bytes]:
        yield value.__name__.encode()
        if version := self.version(value.__name__):
            yield version.encode()
        else:  # the user's own: all that it holds
            yield from self.entries({k: v for k, v in vars(value).items() if not k.startswith("__")})

    def class_(self, value: Any) -> Iterator[bytes]:
        yield name_of(value).encode()
        if version := self.version(value.__module__):
            yield version.encode()
            if "<locals>" not in value.__qualname__:
                return
        yield from map(self.read, (type(value), *value.__bases__) if type(value) is not type else value.__bases__)
        yield from self.entries({k: v for k, v in vars(value).items() if k not in _NOT_OF_A_CLASS})

    def function(self, value: Any) -> Iterator[bytes]:
        if name := self.offered(value):
            yield from (b"offered", name.encode())
            return
        if "_memoize." in value.__qualname__ and name_of(value).startswith("jax."):
            value = closed_over(value)["fn"]  # without what JAX remembers of it
        closed = closed_over(value)
        code = value.__code__
        yield from self.code(code)
        yield from map(self.read, (value.__defaults__, value.__kwdefaults__))
        yield from self.entries(closed)
        # By where it was written: `functools.wraps` has it bear another's name.
        if version := self.version(value.__globals__.get("__name__")):
            yield version.encode()
        else:
            self.own += 1
            yield from self.globals_read(value)
            yield from self.entries({k: v for k, v in vars(value).items() if k != "__wrapped__"})

    def globals_read(self, function: Any) -> Iterator[bytes]:
        """What a function reads of its module, of modules there, and of those that it imports."""
        for name, *attributes in sorted(set(chains(function.__code__))):
            if name.startswith(" "):
                yield from self.imported(name[1:], function)
                continue
            if name not in function.__globals__:
                if name in _UNREADABLE:
                    yield from self.token(function)
                continue
            found = function.__globals__[name]
            for attribute in attributes:
                if not isinstance(found, types.ModuleType) or not hasattr(found, attribute):
                    break
                found = getattr(found, attribute)
            yield from (name.encode(), self.read(found))

    def imported(self, name: str, function: Any) -> Iterator[bytes]:
        """A module that a function imports where it is called."""
        try:
            found = importlib.import_module(name)
        except Exception:  # relative to a package, or not there yet
            yield from self.token(function)
            return
        yield from (name.encode(), self.read(found))

    def code(self, value: types.CodeType) -> Iterator[bytes]:
        yield _code(value)

    def method(self, value: Any) -> Iterator[bytes]:
        yield from map(self.read, (value.__func__, value.__self__))

    def builtin(self, value: Any) -> Iterator[bytes]:
        yield name_of(value).encode()
        owner = getattr(value, "__self__", None)
        yield b"" if owner is None or isinstance(owner, types.ModuleType) else self.read(owner)

    def partial(self, value: Any) -> Iterator[bytes]:
        yield from map(self.read, (value.func, value.args, value.keywords, vars(value)))

    def property_(self, value: Any) -> Iterator[bytes]:
        yield from map(self.read, (value.fget, value.fset, value.fdel))

    def wrapped(self, value: Any) -> Iterator[bytes]:
        yield self.read(value.__wrapped__)

    def wrapped_fun(self, value: Any) -> Iterator[bytes]:
        """A function as JAX hands it about, with what it has been transformed by."""
        yield from map(self.read, (value.f, value.transforms, value.params))

    def closed_rule(self, value: Any) -> Iterator[bytes]:
        """A rule of batching, as JAX hands it about."""
        yield self.read(value.rule)

    def passing(self, value: Any) -> Iterator[bytes]:
        """What JAX notes while it traces, which no number depends on."""
        yield b""

    def jaxpr(self, jaxpr: _jax.Jaxpr) -> bytes:
        """What a program does, the names of its variables aside.

        Jitted functions are traced once, so a program called twice is the same object and is read once.
        """
        if jaxpr in _digests:
            return _digests[jaxpr]
        before = self.own
        found = _hash(*self._steps(jaxpr))
        if before == self.own:
            _digests[jaxpr] = found
        return found

    def _steps(self, jaxpr: _jax.Jaxpr) -> Iterator[bytes]:
        """The steps of a program one after the other, every variable by a number and its kind."""
        numbers: dict[_jax.Var, bytes] = {}

        def atom(value: Any) -> bytes:
            if isinstance(value, _jax.Literal):
                return b"%r %b" % (_kind(value.aval), np.asarray(value.val).tobytes())
            if value in numbers:
                return numbers[value]
            numbers[value] = b"%d" % len(numbers)
            return _kind(value.aval)

        yield from map(atom, [*jaxpr.constvars, *jaxpr.invars])
        for step in jaxpr.eqns:
            yield step.primitive.name.encode()
            yield _context(step.ctx)
            yield from map(atom, [*step.invars, *step.outvars])
            for name, value in sorted(step.params.items()):
                yield name.encode()
                yield self.read(value)
        yield from map(atom, jaxpr.outvars)


class Lasting(Reader):
    """Reads what does the same at each call: arrays, and whatever may read what changes, count as the user's own."""

    def version(self, module: str | None) -> str:
        found = super().version(module)
        self.own += found.partition(" ")[0] not in _READ_NOTHING
        return found

    def builtin(self, value: Any) -> Iterator[bytes]:
        self.version(value.__module__)
        yield from super().builtin(value)

    def array(self, value: Any) -> Iterator[bytes]:
        self.own += 1
        yield b""


# Packages whose functions go by their arguments and by JAX's settings alone.
_READ_NOTHING = {"python", "numpy", "jax", "jaxlib", "equinox", "diffrax", "lineax", "optimistix", "optax", "layerflow"}
_digests: "weakref.WeakKeyDictionary[_jax.Jaxpr, bytes]" = weakref.WeakKeyDictionary()
_PROCESS = uuid.uuid4().bytes
_numbers: dict[int, int] = {}
_count = itertools.count()
_forever: list[Any] = []  # what cannot be watched is kept, so that its address stays its own


def _number_of(value: Any) -> int:
    """A number that no other object of this process has or will have."""
    if id(value) not in _numbers:
        _numbers[id(value)] = next(_count)
        try:
            weakref.finalize(value, _numbers.pop, id(value))
        except TypeError:
            _forever.append(value)
    return _numbers[id(value)]


def _hash(*words: bytes) -> bytes:
    """A digest of words, each told from the next."""
    return hashlib.sha256(repr(words).encode()).digest()


@functools.lru_cache(maxsize=4096)
def _code(code: types.CodeType) -> bytes:
    """What code does, wherever it was written."""
    numbers = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    body = (code.co_code, getattr(code, "co_exceptiontable", b""))
    return _hash(repr((*numbers, *names)).encode(), *body, *map(Reader().read, code.co_consts))


@functools.lru_cache(maxsize=1024)
def _context(context: Any) -> bytes:
    return repr(context).encode()


@functools.lru_cache(maxsize=1024)
def _kind(aval: Any) -> bytes:
    """Shape, dtype and whether it promotes, which the text may leave out."""
    return f"{aval} {getattr(aval, 'weak_type', None)}".encode()


def _parts(value: Any) -> tuple[Any, ...] | None:
    """What a copy of a value would be made of; None if it cannot be copied, or is nothing but itself."""
    if type(value) is object:
        return None
    try:
        copied = copyreg.dispatch_table.get(type(value), lambda value: value.__reduce_ex__(2))(value)
    except Exception:  # what its class says to that, which may be anything
        return None
    if not isinstance(copied, tuple):  # a name
        return None
    made, arguments, state, *rest = (*copied, None)[: max(len(copied), 3)]
    in_order = lambda fields: dict(sorted(fields.items())) if isinstance(fields, dict) else fields
    state = tuple(map(in_order, state)) if isinstance(state, tuple) else in_order(state)
    return made, arguments, state, *(list(part) if isinstance(part, Iterator) else part for part in rest)


def _is_plain(value: Any) -> bool:
    """Whether the text of a value says all of it."""
    return all(map(_is_plain, value)) if type(value) is tuple else _is_plain_kind(type(value))


@functools.lru_cache(maxsize=4096)
def _is_plain_kind(kind: type) -> bool:
    placed = (jax.sharding.Sharding, jax.sharding.Mesh, _jax.UnspecifiedValue)
    return kind in _PLAIN or issubclass(kind, (np.dtype, *placed))


@functools.lru_cache(maxsize=4096)
def _reading_of(kind: type) -> Any:
    """How values of a kind are read; None if their fields or their text say what they are."""
    reading = next((read for kinds, read in _READINGS if issubclass(kind, kinds)), None)
    # More may be in what inherits from these than their items.
    plainly = kind in _CONTAINERS or not issubclass(kind, _CONTAINERS)
    return reading if plainly or issubclass(kind, enum.Enum) else None


# How values are read, by their kind; the first that fits.
_READINGS: tuple[tuple[Any, Any], ...] = (
    ((_jax.Jaxpr, _jax.ClosedJaxpr), Reader.program),
    (_jax.NOTES, Reader.passing),
    (_jax.WrappedFun, Reader.wrapped_fun),
    (_jax.ClosedRule, Reader.closed_rule),
    ((jax.Array, _jax.Tracer, np.ndarray, np.generic), Reader.array),
    ((_jax.AbstractValue, range, slice), Reader.text),
    (enum.Enum, Reader.enum_),
    (jax.tree_util.PyTreeDef, Reader.structure),
    ((tuple, list), Reader.sequence),
    ((set, frozenset), Reader.set_),
    ((dict, types.MappingProxyType), Reader.entries),
    (types.ModuleType, Reader.module),
    (type, Reader.class_),
    (types.FunctionType, Reader.function),
    (types.MethodType, Reader.method),
    (types.CodeType, Reader.code),
    ((types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType), Reader.builtin),
    (functools.partial, Reader.partial),
    (property, Reader.property_),
    ((staticmethod, classmethod, type(jax.jit(lambda: None))), Reader.wrapped),
)
