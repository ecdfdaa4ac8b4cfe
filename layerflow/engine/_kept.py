"""Compiled programs, kept by what they do: the last so many, for each takes memory until it is let go."""

import collections
import threading
from collections.abc import Callable, Hashable
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
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        made = make()
        with self._lock:
            self._made[key] = made
            while len(self._made) > self.most:
                self._made.popitem(last=False)
        return made

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._made.clear()


# A program takes some 25 memory maps, of which Linux gives a process 65,530, and sweeps have two.
programs = Kept(512)
