"""The command `layerflow`: figures of the paper by name, diagrams of your own data, and sweeps kept in a store.

Turns float64 on (unless told otherwise) and keeps compiled programs in the user's cache folder.
"""

import io
import sys
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


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors end it with one line and exit code 2, claims that do not hold with exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        # Some encodings lack λ: a "?" in its place is no reason to lose what was computed.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        parsed(Command, arguments, __doc__).run()
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
    except (DoesNotHold, UserError, ValueError, TypeError, ImportError, MemoryError, OSError) as error:
        words = " ".join(str(error).split())
        # What is quoted in it may come from a file, and is not to colour the screen.
        print("layerflow:", "".join(one if one.isprintable() else "?" for one in words), file=sys.stderr)
        sys.exit(1 if isinstance(error, DoesNotHold) else 2)
    except KeyboardInterrupt as stop:
        print(f"layerflow: {stop or 'interrupted'}", file=sys.stderr)
        sys.exit(130)
