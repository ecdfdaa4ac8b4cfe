"""How to travel through weight space, and until when: the only place that talks to diffrax and optax."""

from layerflow.methods._closed_forms import closed_form, conserved_drift, exact_weights
from layerflow.methods._course import Course, Path, Status, failed, masked
from layerflow.methods._descent import Descent
from layerflow.methods._exact import Applies, Exact, assumed_within
from layerflow.methods._flow import Flow

Method = Flow | Descent | Exact

__all__ = [
    "Applies",
    "Course",
    "Descent",
    "Exact",
    "Flow",
    "Method",
    "Path",
    "Status",
    "assumed_within",
    "closed_form",
    "conserved_drift",
    "exact_weights",
    "failed",
    "masked",
]
