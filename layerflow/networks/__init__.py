"""What is trained: weights as a PyTree, callable on one input."""

from layerflow.networks._diagonal import DiagonalNetwork
from layerflow.networks._fields import constant, is_weight
from layerflow.networks._linear import LinearNetwork, linear_model
from layerflow.networks._linearised import LinearisedNetwork, is_linear, linearise

__all__ = [
    "DiagonalNetwork",
    "LinearNetwork",
    "LinearisedNetwork",
    "constant",
    "is_linear",
    "is_weight",
    "linear_model",
    "linearise",
]
