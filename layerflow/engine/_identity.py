"""Identity is content: one digest for the cache of programs and for stores, equal across processes.

Two values have one digest only if they do the same to every number: traced programs by their steps, with all rules
that these carry and the settings they were traced under; functions by their code, what they close over, their
defaults and the globals they read; instances by class and fields; what comes with an installed package by its name
and version. What cannot be read so equals itself alone, in this process: it is told apart from all else, and
`Identity.strange` names it.
"""

import dataclasses
import dis
import enum
import functools
import hashlib
import importlib.metadata
import itertools
import os
import sys
import sysconfig
import types
import uuid
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.extend.core as jec
import jax.numpy as jnp
import numpy as np

from layerflow._checks import is_concrete


@dataclasses.dataclass(frozen=True)
class Identity:
    """A digest, and what it could only tell by the very object."""

    digest: str
    strange: frozenset[str] = frozenset()

    @property
    def lasting(self) -> bool:
        """Whether another process would find the same digest."""
        return not self.strange


def identity(*values: Any) -> Identity:
    """The identity of some values together."""
    reader = _Reader()
    return Identity(reader.read(values).hex(), frozenset(reader.strange))


def settings() -> dict[str, str]:
    """What of JAX's settings a number may depend on, as they are in this thread, and XLA's flags."""
    mute = ("--xla_dump", "--xla_force_host_platform_device_count")
    flags = " ".join(flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(mute))
    return {name: str(setting(name)) for name in SETTINGS if name in jax.config.values} | {"XLA_FLAGS": flags}


def setting(name: str) -> Any:
    """A setting of JAX, as it is in this thread."""
    return getattr(jax.config, name, jax.config.values[name])


# fmt: off
SETTINGS = (
    "jax_accurate_erf_inv", "jax_allow_f16_reductions", "jax_bcoo_cusparse_lowering", "jax_custom_jvp3",
    "jax_custom_vjp3", "jax_default_prng_impl", "jax_disable_most_optimizations", "jax_enable_custom_prng",
    "jax_enable_x64", "jax_exec_time_optimization_effort", "jax_explicit_x64_dtypes", "jax_high_dynamic_range_gumbel",
    "jax_legacy_prng_key", "jax_optimization_level",
    "jax_ragged_dot_use_gpu_pallas_triton_lowering", "jax_ragged_dot_use_ragged_dot_instruction",
    "jax_random_seed_offset", "jax_remat3", "jax_scan3", "jax_softmax_custom_jvp", "jax_threefry_gpu_kernel_lowering",
    "jax_threefry_partitionable", "jax_use_direct_linearize", "jax_use_hlo_logistic_lowering", "jax_use_magma",
    "jax_use_rgv3",
)
# fmt: on

_PLAIN = (bool, int, float, complex, str, bytes, types.NoneType, types.EllipsisType, types.NotImplementedType)
_UNREADABLE = {
    "globals",
    "locals",
    "vars",
    "eval",
    "exec",
    "__import__",
    "open",
    "input",
}  # what they give no one knows
# What a class has beside what its author wrote, or what no number depends on.
_NOT_OF_A_CLASS = {
    *("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__annotate__", "__annotate_func__"),
    *("__annotations_cache__", "__firstlineno__", "__static_attributes__", "__abstractmethods__", "__abstractvars__"),
    *("__abstractclassvars__", "__dataclass_params__", "__dataclass_fields__", "__parameters__", "__orig_bases__"),
    *("_abc_impl", "__type_params__", "__slotnames__"),
}


class _Reader:
    """Reads values to digests; `strange` gathers what had to be told by the very object."""

    def __init__(self) -> None:
        self.strange: set[str] = set()
        self.functions = 0  # read so far: what they read may change behind a program that holds them
        self._known: dict[int, tuple[Any, bytes]] = {}  # with the value, so that its address stays its own
        self._within: dict[int, int] = {}

    def read(self, value: Any) -> bytes:
        """The digest of a value."""
        kind = type(value)
        if kind in _PLAIN:
            return _hash(kind.__name__.encode(), repr(value).encode())
        if id(value) in self._known:
            return self._known[id(value)][1]
        if id(value) in self._within:  # it holds itself
            return _hash(b"within", str(self._within[id(value)]).encode())
        self._within[id(value)] = len(self._within)
        try:
            found = _hash(*self._words(value))
        finally:
            del self._within[id(value)]
        self._known[id(value)] = value, found
        return found

    def _words(self, value: Any) -> Iterator[bytes]:
        """What makes a value what it is."""
        reading = next((read for kinds, read in _READINGS if isinstance(value, kinds)), None)
        if reading is not None:
            yield reading.__name__.encode()
            yield from reading(self, value)
        elif _is_installed(type(value)) and (name := _offered_as(value)):
            yield from (b"offered", name.encode())
        elif _has_fields(value):
            yield b"instance"
            yield self.read(type(value))
            yield from self._entries(_fields(value))
        elif _is_installed(type(value)) and " at 0x" not in (text := repr(value)):
            yield from (b"text", _name(type(value)).encode(), text.encode())
        else:
            yield from self._token(value)

    def _entries(self, entries: Mapping[Any, Any]) -> Iterator[bytes]:
        for name, value in entries.items():
            yield self.read(name)
            yield self.read(value)

    def _token(self, value: Any) -> Iterator[bytes]:
        """A name for the very object, which no other has in any process."""
        name = getattr(value, "__qualname__", None)
        self.strange.add(str(name) if isinstance(name, str) else f"a {type(value).__qualname__}")
        yield from (b"token", _PROCESS, str(_number_of(value)).encode())

    def _sequence(self, value: Any) -> Iterator[bytes]:
        yield self.read(type(value))
        yield from map(self.read, value)

    def _set(self, value: Any) -> Iterator[bytes]:
        yield from sorted(map(self.read, value))

    def _mapping(self, value: Any) -> Iterator[bytes]:
        yield from self._entries(value)

    def _program(self, value: Any) -> Iterator[bytes]:
        yield self.jaxpr(value if isinstance(value, jec.Jaxpr) else value.jaxpr)
        yield from map(self.read, getattr(value, "consts", ()))

    def _array(self, value: Any) -> Iterator[bytes]:
        if not is_concrete(value):
            yield from self._token(value)
            return
        plain = jax.random.key_data(value) if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else value
        plain = np.ascontiguousarray(plain)
        if plain.dtype.hasobject:
            yield from (str(plain.shape).encode(), *map(self.read, plain.ravel().tolist()))
        else:
            yield from (f"{value.dtype} {value.shape}".encode(), plain.tobytes())

    def _text(self, value: Any) -> Iterator[bytes]:
        yield from (_name(type(value)).encode(), str(value).encode())

    def _enum(self, value: Any) -> Iterator[bytes]:
        yield from (_name(type(value)).encode(), value.name.encode())

    def _structure(self, value: Any) -> Iterator[bytes]:
        yield self.read(value.node_data())
        yield from map(self.read, value.children())

    def _module(self, value: Any) -> Iterator[bytes]:
        yield value.__name__.encode()
        if version := _version(value.__name__):
            yield version.encode()
        else:  # the user's own: all that it holds
            yield from self._entries({k: v for k, v in vars(value).items() if not k.startswith("__")})

    def _class(self, value: Any) -> Iterator[bytes]:
        yield _name(value).encode()
        if version := _version(value.__module__):
            yield version.encode()
            if "<locals>" not in value.__qualname__:
                return
        yield from map(self.read, value.__bases__)
        yield from self._entries({k: v for k, v in vars(value).items() if k not in _NOT_OF_A_CLASS})

    def _function(self, value: Any) -> Iterator[bytes]:
        self.functions += 1
        if name := _offered_as(value):
            yield from (b"offered", name.encode())
            return
        while _name(value).startswith("jax.") and "_memoize." in value.__qualname__:  # JAX's memory of what it computed
            value = _closed_over(value)["fn"]
        closed = _closed_over(value)
        code = value.__code__
        yield from self._code(code)
        yield from map(self.read, (value.__defaults__, value.__kwdefaults__))
        yield from self._entries(closed)
        if version := _version(value.__module__):
            yield version.encode()
        else:
            yield from self._globals(value)

    def _globals(self, function: Any) -> Iterator[bytes]:
        """What a function reads of its module, and of modules there."""
        for name, *attributes in sorted(set(_chains(function.__code__))):
            if name not in function.__globals__:
                if name in _UNREADABLE:
                    yield from self._token(function)
                continue
            found = function.__globals__[name]
            for attribute in attributes:
                if not isinstance(found, types.ModuleType) or _version(found.__name__) or not hasattr(found, attribute):
                    break
                found = getattr(found, attribute)
            yield from (name.encode(), self.read(found))

    def _code(self, code: types.CodeType) -> Iterator[bytes]:
        numbers = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        yield repr((*numbers, *names)).encode()
        yield from (code.co_code, getattr(code, "co_exceptiontable", b""))
        yield from map(self.read, code.co_consts)

    def _method(self, value: Any) -> Iterator[bytes]:
        yield from map(self.read, (value.__func__, value.__self__))

    def _builtin(self, value: Any) -> Iterator[bytes]:
        yield _name(value).encode()
        owner = getattr(value, "__self__", None)
        yield b"" if owner is None or isinstance(owner, types.ModuleType) else self.read(owner)

    def _partial(self, value: Any) -> Iterator[bytes]:
        yield from map(self.read, (value.func, value.args, value.keywords))

    def _property(self, value: Any) -> Iterator[bytes]:
        yield from map(self.read, (value.fget, value.fset, value.fdel))

    def _wrapped(self, value: Any) -> Iterator[bytes]:
        yield self.read(value.__wrapped__)

    def _wrapped_fun(self, value: Any) -> Iterator[bytes]:
        """A function as JAX hands it about, with what it has been transformed by."""
        self.functions += 1
        yield from map(self.read, (value.f, value.transforms, value.params))

    def _passing(self, value: Any) -> Iterator[bytes]:
        """What JAX notes while it traces, which no number depends on."""
        yield b""

    def jaxpr(self, jaxpr: jec.Jaxpr) -> bytes:
        """What a program does, the names of its variables aside.

        Jitted functions are traced once, so a program called twice is the same object and is read once.
        """
        if jaxpr in _digests:
            return _digests[jaxpr]
        before = self.functions, len(self.strange)
        found = _hash(*self._steps(jaxpr))
        if before == (self.functions, len(self.strange)):
            _digests[jaxpr] = found
        return found

    def _steps(self, jaxpr: jec.Jaxpr) -> Iterator[bytes]:
        """The steps of a program one after the other, every variable by a number and its kind."""
        numbers: dict[jec.Var, bytes] = {}

        def atom(value: Any) -> bytes:
            if isinstance(value, jec.Literal):
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


_digests: "weakref.WeakKeyDictionary[jec.Jaxpr, bytes]" = weakref.WeakKeyDictionary()
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
    found = hashlib.sha256()
    for word in words:
        found.update(b"%d " % len(word))
        found.update(word)
    return found.digest()


@functools.lru_cache(maxsize=1024)
def _context(context: Any) -> bytes:
    return repr(context).encode()


@functools.lru_cache(maxsize=1024)
def _kind(aval: Any) -> bytes:
    """Shape, dtype and whether it promotes, which the text may leave out."""
    return f"{aval} {getattr(aval, 'weak_type', None)}".encode()


def _closed_over(function: Any) -> dict[str, Any]:
    """What a function closes over, by name."""
    closed = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            closed[name] = cell.cell_contents
        except ValueError:  # never bound
            closed[name] = None
    return closed


@functools.lru_cache(maxsize=1024)
def _chains(code: types.CodeType) -> tuple[tuple[str, ...], ...]:
    """The global names that code and the functions inside it read, each with the attributes taken of it at once."""
    chains, chain = [], None
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "IMPORT_NAME"):
            chains.append(chain := [step.argval])
        elif chain is not None and step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            chain.append(step.argval)
        elif step.opname not in ("CACHE", "PUSH_NULL", "PRECALL", "EXTENDED_ARG"):
            chain = None
    inside = [_chains(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)]
    return (*map(tuple, chains), *itertools.chain(*inside))


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


@functools.lru_cache(maxsize=4096)
def _version(module: str | None) -> str:
    """Name and version of the installed package, or of Python, that a module belongs to; "" if it is a user's own."""
    top = (module or "").partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return f"python {sys.version}"
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    paths = [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
    if top != "layerflow" and not any(file.startswith(f"{path}{os.sep}") for path in paths):
        return ""
    try:
        return f"{top} {importlib.metadata.version(top)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{top} {getattr(sys.modules[top], '__version__', '')}"


def _is_installed(kind: type) -> bool:
    return bool(_version(kind.__module__))


def _offered_as(value: Any) -> str:
    """Where an installed package has this very object, with its version; "" if it is nobody's."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", getattr(value, "__name__", None))
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name or not _version(module):
        return ""
    there: Any = sys.modules.get(module)
    for part in name.split("."):
        there = getattr(there, part, None)
    return f"{module}.{name} of {_version(module)}" if there is value else ""


def _has_fields(value: Any) -> bool:
    """Whether all that an instance holds is told by its attributes."""
    kinds = type(value).__mro__[:-1]
    return bool(kinds) and all(kind.__flags__ & _HEAP for kind in kinds)


_HEAP = 1 << 9  # made by a class statement, not by C


def _fields(value: Any) -> dict[str, Any]:
    slots = [slot for kind in type(value).__mro__ for slot in getattr(kind, "__slots__", ())]
    there = {slot: getattr(value, slot) for slot in slots if slot != "__weakref__" and hasattr(value, slot)}
    return dict(sorted((there | getattr(value, "__dict__", {})).items()))


def _jax_classes() -> dict[str, Any]:
    """Classes of JAX that have no public name, by the traces in which they appear."""
    from jax._src import core, custom_batching, linear_util

    return {
        "WrappedFun": linear_util.WrappedFun,
        "Store": (linear_util.Store, linear_util.EqualStore),
        "ClosedRule": custom_batching.ClosedRule,
        "passing": (core.Trace, core.DebugInfo, core.Var),
    }


_JAX = _jax_classes()

# How values are read, by their kind; the first that fits.
_READINGS: tuple[tuple[Any, Any], ...] = (
    ((jec.Jaxpr, jec.ClosedJaxpr), _Reader._program),
    ((*_JAX["passing"], *_JAX["Store"]), _Reader._passing),
    (_JAX["WrappedFun"], _Reader._wrapped_fun),
    (_JAX["ClosedRule"], lambda self, value: iter([self.read(value.rule)])),
    ((jax.Array, np.ndarray, np.generic), _Reader._array),
    ((np.dtype, jax.core.AbstractValue, jax.sharding.Sharding, jax.sharding.Mesh, range, slice), _Reader._text),
    (enum.Enum, _Reader._enum),
    (jax.tree_util.PyTreeDef, _Reader._structure),
    ((tuple, list), _Reader._sequence),
    ((set, frozenset), _Reader._set),
    ((dict, types.MappingProxyType), _Reader._mapping),
    (types.ModuleType, _Reader._module),
    (type, _Reader._class),
    (types.FunctionType, _Reader._function),
    (types.MethodType, _Reader._method),
    (types.CodeType, _Reader._code),
    ((types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType), _Reader._builtin),
    (functools.partial, _Reader._partial),
    (property, _Reader._property),
    ((staticmethod, classmethod, type(jax.jit(lambda: None))), _Reader._wrapped),
)
