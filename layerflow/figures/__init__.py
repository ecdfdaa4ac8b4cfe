"""The figures of the paper, one file each.

A figure is a module with a `TITLE`, with `NOTES` (its caption, and where it departs from the paper), and with

    compute(...) -> xarray.Dataset    keywords have defaults; `grid`, `seeds`, `method`, `quick` where these make sense
    draw(Dataset) -> Figure           of matplotlib
    agreement(Dataset) -> sentences   in words and numbers, on how far it agrees with the paper

Those of deep networks are in single precision, `DTYPE = "float32"`, and with `quick=True` take minutes on two cores.

The Dataset holds all that the other two need and can be written as NetCDF by scipy.
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

FIGURES: dict[str, ModuleType] = {
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

__all__ = ["FIGURES"]
