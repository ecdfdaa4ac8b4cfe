"""How to travel through weight space, and until when: the only place that talks to diffrax and optax."""

from layerflow.methods._assumptions import allowed_cost
from layerflow.methods._closed_forms import closed_form, conserved_drift, exact_weights
from layerflow.methods._course import FAILURES, Course, Path, Status, failed, masked
from layerflow.methods._descent import Descent
from layerflow.methods._exact import Applies, Exact
from layerflow.methods._flow import Flow
from layerflow.methods._stepper import Lane, Position, Saved, Stepper

Method = Flow | Descent | Exact

__all__ = [
    "FAILURES",
    "Applies",
    "Course",
    "Descent",
    "Exact",
    "Flow",
    "Lane",
    "Method",
    "Path",
    "Position",
    "Saved",
    "Status",
    "Stepper",
    "allowed_cost",
    "closed_form",
    "conserved_drift",
    "exact_weights",
    "failed",
    "masked",
]
