"""How figures say what they measured and how they were made."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import xarray

_FACTS = ("method", "optimiser", "solver", "t1", "rtol", "dtype", "device", "layerflow_version", "created")


def listed(numbers: Iterable[Any], form: str = ".1f") -> str:
    """Numbers in a row, with a proper minus sign: 0.5, 1.0 and −2.0."""
    words = [format(float(number), form).replace("-", "−") for number in numbers]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def beside(measured: Mapping[Any, float], expected: Mapping[Any, float], form: str = ".1f") -> str:
    """Measured numbers and those to compare them with: `−5.3, −3.9 (−5.4, −3.8 by the recipe)`."""
    return f"{listed(measured.values(), form)} (by the paper's recipe {listed(expected.values(), form)})"


def verdict(holds: Any) -> str:
    """Whether a measured number bears out what the paper says."""
    return "as the paper says" if bool(holds) else "against what the paper says"


def rank_correlation(first: "np.ndarray", second: "np.ndarray") -> float:
    """Spearman's coefficient over the cells that have both values."""
    from scipy.stats import spearmanr

    result: Any = spearmanr(first, second, nan_policy="omit")
    return float(result.statistic)


def facts(diagram: "xarray.Dataset") -> dict[str, Any]:
    """How a diagram was made, for a Dataset that is put together from it and others."""
    return {name: diagram.attrs[name] for name in _FACTS if name in diagram.attrs}
