"""`layerflow resume`, `status` and `failures`: sweeps kept in a store, whose room is imported late for zarr."""

import dataclasses
import datetime
import pathlib
from dataclasses import dataclass
from typing import Annotated

import tyro

import layerflow as lf
from layerflow.cli._diagram import OUT, Diagram
from layerflow.cli._parse import parsed
from layerflow.cli._shared import UserError

_ROWS = 100  # of a table of failures; a terminal is no place for more


@dataclass(frozen=True)
class Resume:
    """Go on with a diagram that `layerflow diagram --store` began, from the first missing chunk."""

    path: Annotated[str, tyro.conf.Positional]
    """Folder or URL of the store."""
    out: pathlib.Path = OUT
    """Folder for the picture (PNG, PDF) and the numbers (NetCDF), named after the data."""

    def run(self) -> None:
        """Run the command that the store remembers again."""
        from layerflow.store._place import Place
        from layerflow.store._store import Store

        command = Store(Place(self.path)).description["command"]
        if command is None:
            raise UserError(f"The store {self.path} was not begun by this command. Call lf.sweep again as before.")
        # The store may have moved since, or have come from elsewhere: where to write is not for it to say.
        dataclasses.replace(self._remembered(command), out=self.out, store=self.path).run()

    def _remembered(self, command: list[str]) -> Diagram:
        """The diagram of a store; nothing else is run, whatever its description says."""
        words = list(command)
        if "--out" in words:  # that stores of layerflow 0.2 remember
            at = words.index("--out")
            del words[at : at + 2]
        known = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Diagram)} - {"--out", "--store"}
        strange = [word for word in words[1:] if word.startswith("--") and word not in known]
        try:
            if strange or not words or words[0].startswith("-"):
                raise UserError(f"`{strange[0]}` is none of its flags" if strange else "it names no data")
            diagram = parsed(Diagram, words, None)
        except UserError as error:
            raise UserError(
                f"The store {self.path} remembers {words[:8]}, which is no `layerflow diagram`: {error}"
            ) from None
        return diagram


@dataclass(frozen=True)
class Status:
    """Say how far a sweep in a store is."""

    path: Annotated[str, tyro.conf.Positional]
    """Folder or URL of the store."""

    def run(self) -> None:
        """Print cells done, failed and missing, the rate and the time left."""
        from layerflow.store._status import progress_of

        now = progress_of(self.path)
        rate = "unknown" if now.rate is None else f"{now.rate:,.0f} cells a second in the last run"
        print(f"{self.path}: {now.cells:,} cells")
        print(f"  done      {now.done:,} ({100 * now.done / now.cells:.1f} %)")
        print(f"  failed    {now.failed:,}")
        print(f"  missing   {now.missing:,}")
        print(f"  rate      {rate}")
        if now.missing:
            left = "unknown" if now.seconds_left is None else _duration(now.seconds_left)
            print(f"  left      {left}")
        if now.last:
            last = now.last
            how = "ended" if last["ended"] else "under way, or was killed"
            print(f"  last run  process {last['pid']} on {last['host']}, last heard of {last['updated']}, {how}")


def _duration(seconds: float) -> str:
    try:
        return str(datetime.timedelta(seconds=round(seconds)))
    except OverflowError:
        return "millions of years"


@dataclass(frozen=True)
class Failures:
    """List the cells of a store that failed, with the reason."""

    path: Annotated[str, tyro.conf.Positional]
    """Folder or URL of the store."""

    def run(self) -> None:
        """Print a table, and how many failed for what reason."""
        table = lf.failures(lf.open_diagram(self.path))
        if not len(table):
            print("No cell failed.")
            return
        print(table.head(_ROWS).to_string(index=False))
        if len(table) > _ROWS:
            print(f"... and {len(table) - _ROWS:,} more: layerflow.failures(layerflow.open_diagram({self.path!r}))")
        for reason, count in table["reason"].value_counts().items():
            print(f"  {count:,} {reason}")
