"""Where training starts."""

from layerflow.starts._aligned import aligned, downstream, orthogonal, upstream
from layerflow.starts._balanced import lambda_balanced
from layerflow.starts._gaussian import gaussian, symmetrised

__all__ = [
    "aligned",
    "downstream",
    "gaussian",
    "lambda_balanced",
    "orthogonal",
    "symmetrised",
    "upstream",
]
