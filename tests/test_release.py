"""What a release promises: one version, a changelog of it, and public names that do not change unseen."""

import pathlib
import re

import layerflow as lf

ROOT = pathlib.Path(__file__).parents[1]


def test_citation_and_changelog_are_of_this_version():
    citation = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE).group(1)
    newest = re.search(r"^## (\S*)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE).group(1)

    assert lf.__version__ == citation == newest
