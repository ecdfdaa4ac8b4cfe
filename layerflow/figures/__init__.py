"""The figures of the paper, one file each, written as a user would, with `import layerflow as lf`.

Each is a `Figure`: `title`, `notes` (its caption, and where it departs from the paper), and

    compute(...) -> xarray.Dataset    keywords have defaults; `grid`, `seeds`, `method`, `quick` where these make sense
    draw(Dataset)                     the picture, of matplotlib: `panels` under the title
    claims(Dataset) -> Claims         what was measured, what is expected, and whether it holds

Those of deep networks are in single precision, `dtype="float32"`, and with `quick=True` take minutes on two cores.
"""

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
    _large_steps,
    _linear_grokking,
    _noise,
    _sparsity,
    _width,
)
from layerflow.figures._figure import Claim, Figure

FIGURES: dict[str, Figure] = {
    "2": _figure2.FIGURE,
    "3": _figure3.FIGURE,
    "3+": _figure3_plus.FIGURE,
    "4": _figure4.FIGURE,
    "4+": _figure4plus.FIGURE,
    "4d": _figure4_networks.FIGURE,
    "5": _figure5.FIGURE,
    "6a": _figure6a.FIGURE,
    "6b": _figure6b.FIGURE,
    "6+": _figure6plus.FIGURE,
    "7": _figure7.FIGURE,
    "8": _figure8.FIGURE,
    "8+": _figure8plus.FIGURE,
    "delay": _delay_map.FIGURE,
    "9": _figure9.FIGURE,
    "10": _figure10.FIGURE,
    "11": _figure11.FIGURE,
    "dial": _dial.FIGURE,
    "G": _figure_g.FIGURE,
    "I": _figure_i.FIGURE,
    "noise": _noise.FIGURE,
    "linear-grokking": _linear_grokking.FIGURE,
    "sparsity": _sparsity.FIGURE,
    "large-steps": _large_steps.FIGURE,
    "width": _width.FIGURE,
}

__all__ = ["FIGURES", "Claim", "Figure"]
