"""Compiled programs, kept by what they do: the last so many, for each takes memory until it is let go."""

import collections
import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Any


class Kept:
    """What was made under a key, the `most` last used of it; for several threads.

    Args:
        most: How many.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._made: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What is kept under a key, made if there is nothing."""
        return self.get_all({"": key}, lambda _: {"": make()})[""]

    def get_all(
        self, keys: Mapping[str, Hashable], make: Callable[[dict[str, Any]], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """What is kept under several keys, by a name for each; `make` is told what there is, and makes the rest."""
        with self._lock:
            found = {name: self._made[key] for name, key in keys.items() if key in self._made}
        made = {} if len(found) == len(keys) else make(found)
        with self._lock:
            for name, key in keys.items():
                self._made[key] = found[name] if name in found else made[name]
                self._made.move_to_end(key)
            while len(self._made) > self.most:
                self._made.popitem(last=False)
        return {**found, **made}

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._made.clear()


# Functions as traced, where another trace would give the same.
traces = Kept(128)
# A program takes some 25 memory maps, of which Linux gives a process 65,530, and sweeps have two.
programs = Kept(512)
