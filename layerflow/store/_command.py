"""The command that begins a sweep, for the store to remember."""

import contextlib
from collections.abc import Generator
from contextvars import ContextVar

_command: ContextVar[list[str] | None] = ContextVar("_command", default=None)


@contextlib.contextmanager
def begun_by(command: list[str]) -> Generator[None]:
    """Let stores made inside remember the words of the command line, so that it can go on with them."""
    token = _command.set(command)
    try:
        yield
    finally:
        _command.reset(token)


def command() -> list[str] | None:
    """The words of the command line; None where a sweep was called from Python."""
    return _command.get()
