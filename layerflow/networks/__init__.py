"""What is trained: weights as a PyTree, callable on one input."""

from layerflow.networks._diagonal import DiagonalNetwork, skill_network
from layerflow.networks._feature_model import feature_model
from layerflow.networks._fields import constant, is_weight
from layerflow.networks._layerwise import LayerwiseNetwork
from layerflow.networks._linear import LinearNetwork, linear_model
from layerflow.networks._linearised import LinearisedNetwork, is_linear, linearise
from layerflow.networks._mlp import MLP
from layerflow.networks._transformer import Transformer

__all__ = [
    "MLP",
    "DiagonalNetwork",
    "LayerwiseNetwork",
    "LinearNetwork",
    "LinearisedNetwork",
    "Transformer",
    "constant",
    "feature_model",
    "is_linear",
    "is_weight",
    "linear_model",
    "linearise",
    "skill_network",
]
