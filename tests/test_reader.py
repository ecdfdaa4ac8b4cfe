"""What is read of the user's own functions and objects: each pair differs in one thing that may change a number."""

import collections
import enum
import functools
import re
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from layerflow.engine._identity import identity

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
