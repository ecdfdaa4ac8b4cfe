"""What is trained: weights as a PyTree, callable on one input."""

from layerflow.networks._diagonal import DiagonalNetwork, skill_network
from layerflow.networks._difference import DifferenceNetwork
from layerflow.networks._feature_model import feature_model
from layerflow.networks._fields import constant
from layerflow.networks._fields import is_weight as is_weight
from layerflow.networks._layerwise import LayerwiseNetwork
from layerflow.networks._linear import LinearNetwork, linear_model
from layerflow.networks._linearised import LinearisedNetwork as LinearisedNetwork
from layerflow.networks._linearised import is_linear as is_linear
from layerflow.networks._linearised import linearise
from layerflow.networks._mlp import MLP
from layerflow.networks._transformer import Transformer

__all__ = [
    "MLP",
    "DiagonalNetwork",
    "DifferenceNetwork",
    "LayerwiseNetwork",
    "LinearNetwork",
    "Transformer",
    "constant",
    "feature_model",
    "linear_model",
    "linearise",
    "skill_network",
]
