"""The figures of the paper, one file each, written as a user would, with `import layerflow as lf`.

Each is a `Figure`: `title`, `notes` (its caption, and where it departs from the paper), and

    compute(...) -> xarray.Dataset    keywords have defaults; `grid`, `seeds`, `method`, `quick` where these make sense
    draw(Dataset)                     the picture, of matplotlib: `panels` under the title
    claims(Dataset) -> Claims         what was measured, what is expected, and whether it holds

Those of deep networks are in single precision, `dtype="float32"`, and with `quick=True` take minutes on two cores.
"""

from types import ModuleType

from layerflow.figures import (
    _delay_map,
    _dial,
    _figure2,
    _figure3,
    _figure3_plus,
    _figure4,
    _figure4_networks,
    _figure4plus,
    _figure5,
    _figure6a,
    _figure6b,
    _figure6plus,
    _figure7,
    _figure8,
    _figure8plus,
    _figure9,
    _figure10,
    _figure11,
    _figure_g,
    _figure_i,
)
from layerflow.figures._figure import Claim, Figure


def _figure_of(module: ModuleType) -> Figure:
    """TRANSITION: a module that is not a Figure yet."""
    if hasattr(module, "FIGURE"):
        return module.FIGURE
    judged = lambda data: tuple(Claim(said.rstrip("."), True, "-", "-") for said in module.agreement(data))
    dtype = getattr(module, "DTYPE", "float64")
    return Figure(module.TITLE, module.NOTES, module.compute, module.draw, judged, dtype=dtype)


_MODULES = {
    "2": _figure2,
    "3": _figure3,
    "3+": _figure3_plus,
    "4": _figure4,
    "4+": _figure4plus,
    "4d": _figure4_networks,
    "5": _figure5,
    "6a": _figure6a,
    "6b": _figure6b,
    "6+": _figure6plus,
    "7": _figure7,
    "8": _figure8,
    "8+": _figure8plus,
    "delay": _delay_map,
    "9": _figure9,
    "10": _figure10,
    "11": _figure11,
    "dial": _dial,
    "G": _figure_g,
    "I": _figure_i,
}
FIGURES: dict[str, Figure] = {name: _figure_of(module) for name, module in _MODULES.items()}

__all__ = ["FIGURES", "Claim", "Figure"]
