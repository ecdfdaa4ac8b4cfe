"""Cards: what a problem, a solution or a diagram shows of itself, printed or in a notebook, and whether to trust it."""

import html
from dataclasses import dataclass

# The text takes its colour from the page, light or dark; names stand back from what they name in either.
_TABLE = "border-collapse:collapse;text-align:left;margin:0.2em 0"
_CAPTION = "caption-side:top;text-align:left;color:inherit;font-weight:bold;padding:0.2em 0"
_NAME = "text-align:left;vertical-align:top;font-weight:normal;opacity:0.7;padding:0.1em 1.2em 0.1em 0"
_TEXT = "text-align:left;padding:0.1em 0"


@dataclass(frozen=True)
class Card:
    """A title and named lines below it: text when printed, a small table in a notebook."""

    title: str
    lines: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return "\n".join([self.title, *(f"  {name:9} {text}" for name, text in self.lines)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.html

    @property
    def html(self) -> str:
        """What a notebook shows."""
        cell = lambda tag, style, text: f'<{tag} style="{style}">{html.escape(text)}</{tag}>'
        rows = (f"<tr>{cell('th', _NAME, name)}{cell('td', _TEXT, text)}</tr>" for name, text in self.lines)
        return f'<table style="{_TABLE}">{cell("caption", _CAPTION, self.title)}{"".join(rows)}</table>'


class Carded:
    """What shows itself by a card: printed, and as a table in a notebook."""

    def _card(self) -> Card:
        raise NotImplementedError

    def __str__(self) -> str:
        return str(self._card())

    def _repr_html_(self) -> str:
        return self._card().html
