"""Where training starts."""

from layerflow.starts._balanced import lambda_balanced
from layerflow.starts._gaussian import gaussian, symmetrised

__all__ = ["gaussian", "lambda_balanced", "symmetrised"]
