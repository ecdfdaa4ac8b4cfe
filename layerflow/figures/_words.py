"""How figures say what they measured and how they were made."""

from typing import Any

import numpy as np
import xarray

_FACTS = ("method", "optimiser", "solver", "t1", "rtol", "dtype", "device", "layerflow_version", "created")


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's coefficient over the cells that have both values."""
    from scipy.stats import spearmanr

    result: Any = spearmanr(first, second, nan_policy="omit")
    return float(result.statistic)


def facts(diagram: xarray.Dataset) -> dict[str, Any]:
    """How a diagram was made, for a Dataset that is put together from it and others."""
    return {name: diagram.attrs[name] for name in _FACTS if name in diagram.attrs}
