"""The documentation names everything there is, and its links lead somewhere."""

import operator
import pathlib
import re

import pytest

import layerflow as lf
from layerflow.figures import FIGURES

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
PARTS = {"1": 2, "2": 0, "3": 0, "4": 4, "5": 2, "6": 3, "7": 2, "8": 1, "9": 1, "10": 0}
PARTS |= {"A": 0, "B": 0, "C": 5, "D": 4, "E": 4, "F": 2, "G": 4, "H": 3, "I": 0, "J": 4}
SECTIONS = [number for part, under in PARTS.items() for number in (part, *(f"{part}.{k + 1}" for k in range(under)))]
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))


def prose(page):
    """A page without its blocks of code, those of directives left in."""
    return re.sub(r"^ *```(?!\{)\w*\n.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page):
    """What the headings of a page can be linked by."""
    included = re.search(r"^```\{include\} (.*)$", page.read_text(), flags=re.MULTILINE)
    text = prose(page.parent / included.group(1) if included else page)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(heading):
    """The tables below a heading of the map of the paper, as lists of cells."""
    text = (DOCS / "paper.md").read_text()
    section = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in section.group(1).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_every_public_name_has_one_place_in_the_reference():
    pages = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    documented = re.findall(r"^\.\. auto(?:class|data|function|module):: (.*)$", pages, flags=re.MULTILINE)
    public = [f"layerflow.{name}" for name in lf.__all__]
    public += [f"layerflow.theory.{name}" for name in lf.theory.__all__]
    public += [f"layerflow.plot.{name}" for name in lf.plot.__all__]

    public += ["layerflow.figures", "layerflow.figures.Claim", "layerflow.figures.Figure"]

    assert sorted(documented) == sorted(public)


@by_page
def test_every_public_name_that_a_page_links_exists(page):
    for name in re.findall(r"\{lf\}`([^`]*)`", page.read_text()):
        assert operator.attrgetter(name)(lf), name


@by_page
def test_every_link_of_a_page_has_a_target(page):
    for target in re.findall(r"\]\(([^)\s]*)\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), target


def test_every_term_that_a_page_refers_to_is_in_the_glossary():
    text = "\n".join(page.read_text() for page in PAGES)
    glossary = re.search(r"\{glossary\}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE).group(1)

    assert set(re.findall(r"\{term\}`(.*?)`", text)) <= set(re.findall(r"^(\S.*)$", glossary, flags=re.MULTILINE))


@by_page
def test_no_code_escapes_the_script_that_runs_it(page):
    """`.ci/blocks.py` runs blocks of python and sh; text is output, and what is in braces a directive."""
    fences = re.findall(r"^ *```(\S*)[^`\n]*$", page.read_text(), flags=re.MULTILINE)

    assert {fence for fence in fences if not fence.startswith("{")} <= {"", "python", "sh", "text"}


def test_every_section_of_the_paper_is_on_the_map():
    assert [row[0] for row in rows("Sections")] == SECTIONS


def test_every_figure_is_on_the_map():
    assert sorted(name.strip("`") for _, name, _ in rows("Figures") if name) == sorted(FIGURES)


def test_every_equation_of_the_paper_is_on_the_map_once():
    numbers = []
    for first, *_ in rows("Equations")[:-1]:  # the last has no number
        ends = [int(number) for number in re.findall(r"\d+", first)]
        numbers += range(ends[0], ends[1] + 1) if "–" in first else ends

    assert sorted(numbers) == list(range(1, 99))
