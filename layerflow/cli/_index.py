"""The page that shows all figures: plain HTML in one file, beside the pictures that it shows."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from html import escape
from string import Template
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from layerflow import __version__
from layerflow.cli._shared import Saved
from layerflow.diagrams._words import method_in_words

if TYPE_CHECKING:
    import xarray

    import layerflow.figures


@dataclasses.dataclass(frozen=True)
class Entry:
    """One figure on the page."""

    name: str
    title: str
    notes: tuple[str, ...]
    parameters: Mapping[str, Any]
    files: tuple[str, ...] = ()
    claims: tuple["layerflow.figures.Claim", ...] = ()
    made: str = ""
    error: str = ""
    seconds: float = 0.0

    def done(self, diagram: "xarray.Dataset", saved: Saved, figure: "layerflow.figures.Figure") -> "Entry":
        """With its data and claims, and with its picture or why there is none."""
        files = tuple(file.name for file in saved.files)
        notes = (*self.notes, *figure.remarks(diagram))
        made, claims = made_in_words(diagram), figure.claims(diagram)
        return dataclasses.replace(self, notes=notes, files=files, claims=claims, made=made, error=saved.undrawn)

    def failed(self, error: str) -> "Entry":
        """With what went wrong."""
        return dataclasses.replace(self, error=error)

    def after(self, seconds: float) -> "Entry":
        """With its run time."""
        return dataclasses.replace(self, seconds=seconds)


def write_index(page: pathlib.Path, entries: list[Entry]) -> None:
    """Write the page, into the folder of the pictures."""
    names = "\n".join(f'<a href="#{_anchor(e)}">{escape(e.name)}</a>' for e in entries)
    seconds = f"{sum(e.seconds for e in entries):.0f}"
    sections = "\n".join(map(_section, entries))
    page.write_text(_PAGE.substitute(names=names, sections=sections, seconds=seconds, version=__version__), "utf-8")


def _anchor(entry: Entry) -> str:
    """The name as an identifier."""
    return f"figure-{entry.name.replace('+', '-plus')}"


def _section(entry: Entry) -> str:
    """One figure: picture, caption, parameters, and claims."""
    return _SECTION.substitute(
        anchor=_anchor(entry),
        name=escape(entry.name),
        title=escape(entry.title),
        body=(_error(entry) if entry.error else _picture(entry)) + _links(entry),
        claims=_listing("Agrees with the paper?", map(_item, entry.claims)),
        notes=_listing("Caption", map(escape, entry.notes)),
        facts=_facts(entry),
    )


def _picture(entry: Entry) -> str:
    """The picture, which leads to the one for print."""
    files = _by_ending(entry)
    alt = escape(f"Figure {entry.name}: {entry.title}", quote=True)
    return f'<a href="{files["pdf"]}"><img src="{files["png"]}" alt="{alt}" loading="lazy"></a>'


def _links(entry: Entry) -> str:
    """All files that there are."""
    files = _by_ending(entry)
    words = {"png": "PNG", "pdf": "PDF", "nc": "data (NetCDF)"}
    links = " · ".join(f'<a href="{files[end]}">{word}</a>' for end, word in words.items() if end in files)
    return f'\n<p class="files">{links}</p>' if links else ""


def _by_ending(entry: Entry) -> dict[str, str]:
    return {name.rsplit(".", 1)[1]: quote(name) for name in entry.files}


def _error(entry: Entry) -> str:
    """What went wrong in place of a picture."""
    return f'<p class="error"><strong>Not drawn.</strong> {escape(entry.error)}</p>'


def _item(claim: "layerflow.figures.Claim") -> str:
    """A claim, in red where it does not hold; its sentence says so too, for the colour-blind."""
    sentence = escape(str(claim))
    return sentence if claim.holds else f'<strong class="unmet">{sentence}</strong>'


def _listing(heading: str, sentences: Iterable[str]) -> str:
    """Sentences under a heading; nothing if there are none."""
    items = "".join(f"<li>{sentence}</li>\n" for sentence in sentences)
    return f"<h3>{escape(heading)}</h3>\n<ul>\n{items}</ul>" if items else ""


def _facts(entry: Entry) -> str:
    """Parameters, how it was made, and the run time."""
    rows = {**entry.parameters, "made": entry.made, "run time": f"{entry.seconds:.1f} s"}
    cells = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>\n" for k, v in rows.items() if v != "")
    return f"<dl>\n{cells}</dl>"


def made_in_words(diagram: "xarray.Dataset") -> str:
    """Method, precision and device, as far as the diagram knows them."""
    attrs = diagram.attrs
    words = [method_in_words(attrs)] if "method" in attrs else []
    return ", ".join([*words, *(str(attrs[key]) for key in ("dtype", "device") if key in attrs)])


_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Figures by layerflow</title>
<style>
:root { color-scheme: light; --ink: #1b1f24; --soft: #5b6570; --line: #dde2e7; --link: #0b5cad; --bad: #a4262c; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; color: var(--ink); background: #fff;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; line-height: 1.35; margin: 0 0 .75rem; }
h2 span { color: var(--soft); font-weight: 400; }
h3 { font-size: .95rem; margin: 1.1rem 0 .25rem; }
p { margin: .3rem 0; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: .4rem; margin: 1rem 0 0; }
nav a { padding: .2rem .7rem; border: 1px solid var(--line); border-radius: 1rem; text-decoration: none; }
section { margin-top: 2rem; padding-top: 2rem; border-top: 1px solid var(--line); }
img { display: block; width: 100%; height: auto; }
ul { margin: 0; padding-left: 1.2rem; }
li { margin: .2rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0; font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; }
.soft, .files { color: var(--soft); font-size: .9rem; }
.unmet { color: var(--bad); }
.error { padding: .75rem 1rem; border-left: 4px solid var(--bad); background: #fdf3f3; }
</style>
</head>
<body>
<h1>Figures by layerflow</h1>
<p class="soft">Of Nam et al., “Solve Layerwise Linear Models First”
(<a href="https://arxiv.org/abs/2502.21009">arXiv:2502.21009</a>), computed anew in $seconds s
by layerflow $version.</p>
<nav aria-label="Figures">
$names
</nav>
$sections
</body>
</html>
""")

_SECTION = Template("""\
<section id="$anchor">
<h2><span>Figure $name</span> $title</h2>
$body
$claims
$notes
<h3>Parameters</h3>
$facts
</section>""")
