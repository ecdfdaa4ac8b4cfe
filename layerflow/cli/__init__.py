"""The command `layerflow`: figures of the paper by name, diagrams of your own data, and sweeps kept in a store.

Turns float64 on (unless told otherwise) and keeps compiled programs in the user's cache folder. With `--traceback`
before a command errors are shown whole.
"""

import io
import pathlib
import sys
import traceback
from typing import Annotated

import tyro

from layerflow.cli._data import Data
from layerflow.cli._diagram import Diagram
from layerflow.cli._figure import Figure, List
from layerflow.cli._parse import parsed
from layerflow.cli._shared import DoesNotHold, UserError
from layerflow.cli._store import Failures, Resume, Status

Command = (
    Annotated[Figure, tyro.conf.subcommand("figure")]
    | Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Diagram, tyro.conf.subcommand("diagram")]
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Resume, tyro.conf.subcommand("resume")]
    | Annotated[Status, tyro.conf.subcommand("status")]
    | Annotated[Failures, tyro.conf.subcommand("failures")]
)


_FAULT = 70  # exit code where software is wrong, not what it was given
_ROOT = pathlib.Path(__file__).parents[1]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors end it with one line and exit code 2, claims that do not hold with exit code 1.

    What is layerflow's own fault is called so, with exit code 70. With `--traceback` any error is raised.
    """
    for stream in (sys.stdout, sys.stderr):
        # Some encodings lack λ: a "?" in its place is no reason to lose what was computed.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    given = sys.argv[1:] if arguments is None else arguments
    words = [word for word in given if word != "--traceback"]
    try:
        parsed(Command, words, __doc__).run()
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
    except KeyboardInterrupt as stop:
        print(f"layerflow: {stop or 'interrupted'}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if len(words) < len(given):
            raise
        said, code = " ".join(str(error).split()), _code_of(error)
        if code == _FAULT:
            said = f"a fault of layerflow, {type(error).__name__}: {said}. `layerflow --traceback ...` shows it whole"
        # What is quoted in it may come from a file, and is not to colour the screen.
        print("layerflow:", "".join(one if one.isprintable() else "?" for one in said), file=sys.stderr)
        sys.exit(code)


def _code_of(error: Exception) -> int:
    """The exit code of an error: values and types are the user's where layerflow itself found them wrong."""
    *_, (last, _) = traceback.walk_tb(error.__traceback__)
    ours = pathlib.Path(last.f_code.co_filename).is_relative_to(_ROOT) and isinstance(error, ValueError | TypeError)
    users = ours or isinstance(error, UserError | ImportError | MemoryError | OSError)
    return 1 if isinstance(error, DoesNotHold) else 2 if users else _FAULT
