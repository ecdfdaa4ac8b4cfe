"""`layerflow figure` and `layerflow list`: the figures of the paper, by name or all at once."""

import difflib
import inspect
import pathlib
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args

import tyro

from layerflow.base._memory import check_room
from layerflow.cli._index import Entry, write_index
from layerflow.cli._shared import (
    DoesNotHold,
    Dtype,
    MethodName,
    UserError,
    check_positive,
    draw,
    keep,
    report,
    set_up,
    writable,
)

if TYPE_CHECKING:
    import layerflow.figures

ALL = "all"
_NUMBERS_PER_POINT = 100  # that figures hold at least for each point of an axis: times, or the other axis


@dataclass(frozen=True)
class Figure:
    """Compute and draw a figure of the paper, or `all` of them with a page to look through."""

    name: Annotated[str, tyro.conf.Positional]
    """Which figure, or `all`; `layerflow list` names them."""
    grid: int | None = None
    """Points along each axis; the figure's own number if not given."""
    seeds: int | None = None
    """Random starts in each cell; the figure's own number if not given."""
    method: MethodName | None = None
    """Gradient flow, its closed form where there is one, or gradient descent as the authors have it; the flow if not
    given."""
    quick: bool = False
    """A smaller recipe for the figures of deep networks, minutes in place of up to hours; their captions say what it
    leaves out."""
    dtype: Dtype | None = None
    """Precision of all numbers; if not given float64, and float32 for deep networks."""
    out: pathlib.Path = pathlib.Path("figures")
    """Folder for pictures (PNG, PDF), data (NetCDF), and for `all` the page index.html."""

    def run(self) -> None:
        """Compute, draw, save and report."""
        folder = writable(self.out)
        check_positive(grid=self.grid, seeds=self.seeds)
        numbers = _NUMBERS_PER_POINT * (self.grid or 1) * (self.seeds or 1)
        check_room(8 * numbers, "Such a figure", "Take a smaller --grid or fewer --seeds.")
        set_up(self.dtype or "float64")  # before anything is imported that could ask for a device
        from layerflow.figures import FIGURES

        if self.name.lower() == ALL:
            self._draw_all(FIGURES, folder)
            return
        name = _known(self.name, FIGURES)
        parameters = _parameters(f"Figure {name}", FIGURES[name], self._given)
        begin = time.perf_counter()
        diagram, saved = self._drawn(name, FIGURES[name], parameters, folder)
        figure = FIGURES[name]
        claims = figure.claims(diagram)
        notes = (*figure.notes, *figure.remarks(diagram))
        report(f"Figure {name}: {figure.title}", diagram, notes, saved, begin, claims)
        saved.check()
        _check({name: claims})

    @property
    def _given(self) -> dict[str, Any]:
        """The flags for `compute` that were given."""
        flags = {"grid": self.grid, "seeds": self.seeds, "method": self.method, "quick": self.quick or None}
        return {flag: value for flag, value in flags.items() if value is not None}

    def _drawn(
        self, name: str, figure: "layerflow.figures.Figure", parameters: dict[str, Any], folder: pathlib.Path
    ) -> Any:
        """Compute, save and draw one figure, in its precision; the diagram and what was saved."""
        set_up(self.dtype or figure.dtype)
        diagram = figure.compute(**parameters)
        return diagram, draw(lambda: figure.draw(diagram), keep(diagram, folder / f"figure_{name}"))

    def _draw_all(self, figures: dict[str, "layerflow.figures.Figure"], folder: pathlib.Path) -> None:
        """One figure after the other; one that fails is told on the page and costs the others nothing."""
        from tqdm import tqdm

        parameters = {name: _parameters_if_taken(figure, self._given) for name, figure in figures.items()}
        unused = [flag for flag in self._given if not any(flag in taken for taken in parameters.values())]
        if unused:
            raise UserError(f"No figure takes --{unused[0]} {self._given[unused[0]]}.")
        entries: list[Entry] = []
        page = folder / "index.html"
        with tqdm(figures.items(), unit="figure") as bar:
            for name, figure in bar:
                bar.set_description(f"figure {name}")
                begin = time.perf_counter()
                entry = Entry(name, figure.title, figure.notes, _all_parameters(figure, parameters[name]))
                try:
                    diagram, saved = self._drawn(name, figure, parameters[name], folder)
                    entry = entry.done(diagram, saved, figure)
                except Exception as error:  # whatever it is, the other figures are worth having
                    entry = entry.failed("".join(traceback.format_exception_only(error)).strip())
                entries.append(entry.after(time.perf_counter() - begin))
                write_index(page, entries)  # after each, so that nothing drawn is lost
        _summarise(entries, page)


def _known(name: str, figures: dict[str, "layerflow.figures.Figure"]) -> str:
    """The name as the registry has it, or an error with the nearest one."""
    by_lower = {known.lower(): known for known in figures}
    if name.lower() in by_lower:
        return by_lower[name.lower()]
    begun = [known for known in by_lower if known.startswith(name.lower())]
    near = begun or difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.7)
    hint = f" Did you mean {' or '.join(by_lower[one] for one in near)}?" if near else ""
    raise UserError(f"There is no figure {name!r}.{hint} Figures: {', '.join(figures)}, or {ALL}.")


def _taken(figure: "layerflow.figures.Figure") -> dict[str, inspect.Parameter]:
    """The flags that `compute` of a figure takes."""
    parameters = inspect.signature(figure.compute).parameters
    return {name: parameters[name] for name in ("grid", "seeds", "method", "quick") if name in parameters}


def _parameters(words: str, figure: "layerflow.figures.Figure", given: dict[str, Any]) -> dict[str, Any]:
    """What to call `compute` with, or an error that says which flags the figure takes."""
    taken = _taken(figure)
    there = " and ".join(f"--{name}" for name in taken) or "none of --grid, --seeds, --method and --quick"
    for flag in given:
        if flag not in taken:
            raise UserError(f"{words} does not take --{flag}; it takes {there}.")
    if not _method_fits(taken, given):
        methods = " or ".join(get_args(taken["method"].annotation))
        raise UserError(f"{words} has no --method {given['method']}; it has {methods}.")
    return given


def _method_fits(taken: dict[str, inspect.Parameter], given: dict[str, Any]) -> bool:
    """Whether a method, if given, is one of the figure's."""
    methods = get_args(taken["method"].annotation) if "method" in given else ()
    return not methods or given["method"] in methods


def _parameters_if_taken(figure: "layerflow.figures.Figure", given: dict[str, Any]) -> dict[str, Any]:
    """Those of the flags given that this figure takes."""
    taken = _taken(figure)
    fitting = {flag: value for flag, value in given.items() if flag in taken}
    if not _method_fits(taken, fitting):
        del fitting["method"]
    return fitting


def _all_parameters(figure: "layerflow.figures.Figure", given: dict[str, Any]) -> dict[str, Any]:
    """Every parameter of `compute`, defaults included."""
    bound = inspect.signature(figure.compute).bind(**given)
    bound.apply_defaults()
    return dict(bound.arguments)


def _summarise(entries: list[Entry], page: pathlib.Path) -> None:
    """Say what was drawn, what failed and what does not hold."""
    for entry in entries:
        print(f"{entry.name:4} {entry.seconds:6.1f} s  {entry.error or entry.title}")
    print(f"  file      {page}")
    failed = [entry.name for entry in entries if entry.error]
    if failed:
        raise UserError(f"{len(failed)} of {len(entries)} figures failed: {', '.join(failed)}. {page} says why.")
    _check({entry.name: entry.claims for entry in entries})


def _check(claims: dict[str, tuple["layerflow.figures.Claim", ...]]) -> None:
    """Raise if a claim does not hold, with the names of those."""
    unmet = {name: [claim.words for claim in some if not claim.holds] for name, some in claims.items()}
    said = [f"figure {name} ({'; '.join(words)})" for name, words in unmet.items() if words]
    if said:
        raise DoesNotHold(f"{sum(map(len, unmet.values()))} claims do not hold: {', '.join(said)}.")


@dataclass(frozen=True)
class List:
    """Name the figures."""

    def run(self) -> None:
        """Print every figure's name and title."""
        from layerflow.figures import FIGURES

        for name, figure in FIGURES.items():
            print(f"{name:4} {figure.title}")
        print(f"{ALL:4} every one of these, with a page to look through")
