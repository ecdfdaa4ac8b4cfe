"""Cards: what `print` shows of a problem and of a diagram, a few lines on what it is and whether to trust it."""

from collections.abc import Iterable


def card(title: str, lines: Iterable[tuple[str, str]]) -> str:
    """A title and named lines below it."""
    return "\n".join([title, *(f"  {name:9} {text}" for name, text in lines)])
