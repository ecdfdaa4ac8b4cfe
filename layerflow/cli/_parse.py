"""Words of the command line as one of its commands."""

import contextlib
import io
import re
from typing import Any

import tyro

from layerflow.cli._shared import UserError


def parsed(command: Any, arguments: list[str] | None, description: str | None) -> Any:
    """The command as typed; tyro's boxed complaint is brought down to one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(command, prog="layerflow", description=description, args=arguments)
    except SystemExit as stop:
        if stop.code in (None, 0):
            raise
        words = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())
        inside = [line.strip("│| ") for line in words.splitlines()[1:]]  # the first line is the box's title
        parts = re.split(r"Argument helptext|For full helptext|[─-]{4,}", " ".join(inside))
        complaint = next((part for part in parts if part.strip()), "The command was not understood")
        raise UserError(f"{' '.join(complaint.split()).rstrip('.')}. See `layerflow --help`.") from None
