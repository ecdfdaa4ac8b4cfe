"""How Sphinx builds this documentation: `sphinx-build -W --keep-going -b html docs docs/_build/html`."""

import ast
import enum
import inspect
import re
import textwrap
import tokenize
from collections.abc import Iterator
from io import StringIO
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.roles import XRefRole

import layerflow

project = "layerflow"
author = "The layerflow developers"
version = release = layerflow.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "myst_nb",
]
exclude_patterns = ["_build", "README.md"]
nb_execution_mode = "off"  # code of the pages runs in CI, by .ci/blocks.py
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
default_role = "py:obj"  # what docstrings put in backticks is a link where it names something public

html_theme = "furo"
html_title = f"layerflow {release}"
html_static_path = ["_static"]
html_css_files = ["layerflow.css"]
html_copy_source = False
html_show_sphinx = False

autodoc_typehints = "none"  # shapes stand in the docstrings
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
smartquotes = False  # x' is a derivative
add_module_names = False
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 100

_SECTION = re.compile(r"(Args|Attributes|Example|Raises|References|Returns):$")
_ITEM = re.compile(r"( *)([\w*, ]+?)(: .*|:)$")


def setup(app: Sphinx) -> None:
    """Connect what follows; docstrings are prepared before napoleon reads them, at priority 500."""
    app.connect("autodoc-process-docstring", _prepare, priority=400)
    app.connect("autodoc-process-signature", _without_addresses)
    app.connect("missing-reference", _public_name)
    app.add_role("lf", _PublicName(warn_dangling=True, innernodeclass=nodes.literal))


class _PublicName(XRefRole):
    """{lf}`sweep`: a link to a public name, shown as users write it, lf.sweep."""

    def process_link(
        self, env: BuildEnvironment, refnode: Any, has_explicit_title: bool, title: str, target: str
    ) -> tuple[str, str]:
        refnode["refdomain"], refnode["reftype"] = "py", "obj"
        return (title if has_explicit_title else f"lf.{title}"), f"layerflow.{target}"


def _public_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.Element) -> Any:
    """Resolve `lf.sweep` in a docstring."""
    if node.get("refdomain") != "py" or not node["reftarget"].startswith("lf."):
        return None
    target = f"layerflow.{node['reftarget'].removeprefix('lf.')}"
    return env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, shown)


def _prepare(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Our docstrings as reStructuredText: equations stand as they are typed, and no sign is taken for markup."""
    lines[:] = [*_restructured(lines), *(_fields(thing) if what == "class" else [])]


def _restructured(lines: list[str]) -> Iterator[str]:
    section, literal = None, False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line and indent == 0:
            literal = False
            heading = _SECTION.match(line)
            section = heading.group(1) if heading else None
            if section == "Returns":
                yield from ("", ":returns:")
                continue
        if section == "Example" or (section is None and line and indent == 0 and line.startswith(">>>")):
            yield line
        elif section is None and indent >= 4:
            if not literal:
                yield from (".. code-block:: text", "")
            literal = True
            yield line
        elif section in ("Args", "Attributes", "Raises") and indent == 4 and (item := _ITEM.match(line)):
            yield "".join((item.group(1), item.group(2), _escaped(item.group(3))))
        else:
            yield _escaped(line)


def _escaped(line: str) -> str:
    """Prose in which |w|, 2 * w and x_ are no markup; `code` and *stress* are."""
    parts = re.split(r"(`[^`]*`)", line)
    parts[1::2] = [code if re.fullmatch(r"`\w+(\.\w+)*`", code) else f"`{code}`" for code in parts[1::2]]
    for number in range(0, len(parts), 2):
        stressed = re.split(r"((?<!\S)\*\w[\w -]*\w\*(?!\w))", parts[number])
        stressed[::2] = [re.sub(r"([|*\\])|(?<=\w)(_)(?!\w)", r"\\\1\2", text) for text in stressed[::2]]
        parts[number] = "".join(stressed)
    return "".join(parts)


def _fields(thing: type) -> list[str]:
    """The fields of a record whose docstring leaves them to comments; the members of an enumeration."""
    if issubclass(thing, enum.Enum):
        told = {member.name: f"{member.value}, {member.meaning}" for member in thing if member.value >= 0}
    elif re.search(r"^(Args|Attributes):$", inspect.getdoc(thing) or "", flags=re.MULTILINE):
        return []
    else:
        told = _commented(thing)
    return ["", *(f":ivar {name}: {_escaped(words)}" for name, words in told.items()), ""] if told else []


def _commented(thing: type) -> dict[str, str]:
    """Shape of every field, and the comment behind it."""
    source = textwrap.dedent(inspect.getsource(thing))
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    fields = [field for field in ast.parse(source).body[0].body if isinstance(field, ast.AnnAssign)]
    words = {}
    for field in fields:
        shape = re.search(r"Array, '(.*?)'", ast.unparse(field.annotation))
        shaped = f"shape ({shape.group(1).replace('*', '').strip()})" if shape else ""
        words[ast.unparse(field.target)] = "; ".join(filter(None, [comments.get(field.lineno, ""), shaped]))
    return words


def _without_addresses(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """A signature whose defaults are names, not addresses of objects."""
    if signature is None or not callable(thing):
        return signature, None
    for parameter in inspect.signature(thing).parameters.values():
        named = getattr(parameter.default, "__name__", None)
        signature = re.sub(rf"({parameter.name}=)<.*?>(?=[,)])", rf"\g<1>{named}", signature) if named else signature
    return signature, None
