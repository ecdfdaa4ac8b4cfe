"""What is read of the user's own functions and objects: each pair differs in one thing that may change a number."""

import collections
import enum
import functools
import importlib
import re
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from layerflow.engine._identity import identity
from layerflow.engine._origin import offered_as, version_of

READ = {"value": 1.0}


def by_import(value, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.dont_write_bytecode", True)  # which would be taken for that of a file as old and as long
    (tmp_path / "own_module.py").write_text(f"ALPHA = {value}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "own_module", raising=False)

    def rule(x):
        from own_module import ALPHA  # pyright: ignore[reportMissingImports]

        return ALPHA * x

    return rule


def by_member(value):
    class Mode(enum.Enum):
        A = value

    return Mode.A


def by_attribute(value):
    def rule(x):
        return rule.alpha * x

    rule.alpha = value
    return rule


def by_partial(value):
    rule = functools.partial(jnp.multiply, 2.0)
    rule.alpha = value
    return rule


def by_wrapped(value, monkeypatch):
    monkeypatch.setitem(READ, "value", value)

    @functools.wraps(jnp.sin)
    def rule(x):
        return READ["value"] * x

    return rule


def by_default(value):
    return collections.defaultdict(lambda: value, {"a": 1.0})


class Held(dict):
    """A dict with more to it than its items."""


def by_more_than_items(value):
    held = Held(a=1.0)
    held.alpha = value
    return held


class Forgetful:
    """Of which a copy holds nothing."""

    def __init__(self, value):
        self.value = value

    def __getstate__(self):
        return {}


def by_meta(value):
    class Meta(type):
        @property
        def alpha(cls):
            return value

    class Own(metaclass=Meta):
        pass

    return Own


def by_mask(value):
    return np.ma.masked_array([1.0, 2.0], [False, value > 1])


def by_pattern(value):
    return re.compile("a" * 300 + str(value))


WAYS = [
    *(by_import, by_member, by_attribute, by_partial, by_wrapped, by_default, by_more_than_items, Forgetful, by_meta),
    *(by_mask, by_pattern, np.random.default_rng),
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_differs_in_one_value_is_told_apart(way, request):
    take = way.__code__.co_varnames[: way.__code__.co_argcount] if hasattr(way, "__code__") else ()
    more = [request.getfixturevalue(name) for name in take[1:]]
    one, same, other = (identity(way(value, *more)) for value in (1, 1, 2))

    assert one == same
    assert one != other
    assert not one.strange


def test_what_cannot_be_read_is_itself_alone():
    lock, other = threading.Lock(), threading.Lock()

    assert identity(lock) == identity(lock) != identity(other)
    assert identity(lock).strange == {"a lock"}
    assert identity(object()) != identity(object())


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages", "aside"])
def test_a_package_is_installed_wherever_an_installer_put_it(tmp_path, monkeypatch, folder):
    """For the user alone, in a Python that this one builds on, or by `pip install --target`."""
    name = f"layerflow_test_{folder.partition('-')[0]}"
    package, told = tmp_path / folder / name, tmp_path / folder / f"{name}-1.5.dist-info"
    for made in (package, told):
        made.mkdir(parents=True)
    (package / "__init__.py").write_text("import math\n\ndef twice(x):\n    return 2 * x\n")
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    monkeypatch.syspath_prepend(tmp_path / folder)
    module = importlib.import_module(name)

    assert version_of(name) == f"{name} 1.5"
    assert offered_as(module.twice) == f"{name}.twice of {name} 1.5"


def test_a_module_beside_a_program_is_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "layerflow_test_own.py").write_text("__version__ = '2.0'\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("layerflow_test_own")

    assert version_of("layerflow_test_own") == version_of("") == version_of(None) == ""


def test_what_is_nested_too_deep_is_like_nothing():
    def nested(depth):
        return functools.reduce(lambda inner, _: [inner], range(depth), "end")

    deep = nested(2000)

    assert identity(nested(20)) == identity(nested(20))
    assert identity(deep).strange == {"a list inside of 64 others"}
    assert identity(deep) != identity(deep)
