"""Where training starts."""

from layerflow.starts._aligned import aligned, downstream, orthogonal, upstream
from layerflow.starts._balanced import lambda_balanced
from layerflow.starts._chain import lambda_balanced_chain
from layerflow.starts._gaussian import gaussian, symmetrised

__all__ = [
    "aligned",
    "downstream",
    "gaussian",
    "lambda_balanced",
    "lambda_balanced_chain",
    "orthogonal",
    "symmetrised",
    "upstream",
]
