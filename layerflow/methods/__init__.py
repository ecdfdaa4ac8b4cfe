"""How to travel through weight space, and until when: the only place that takes networks to diffrax and optax."""

from layerflow.methods._arguments import Times, checked_method, checked_times
from layerflow.methods._assumptions import allowed_cost
from layerflow.methods._closed_forms import closed_form, conserved_drift, exact_weights
from layerflow.methods._course import FAILURES, Course, Path, Status, failed, masked
from layerflow.methods._descent import Descent
from layerflow.methods._exact import Applies, Exact
from layerflow.methods._flow import Flow
from layerflow.methods._method import STEPS, Method, Time
from layerflow.methods._stepper import Lane, Position, Saved, Stepper

METHODS = {method.__name__: method for method in (Flow, Exact, Descent)}

__all__ = [
    "FAILURES",
    "METHODS",
    "STEPS",
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
    "Time",
    "Times",
    "allowed_cost",
    "checked_method",
    "checked_times",
    "closed_form",
    "conserved_drift",
    "exact_weights",
    "failed",
    "masked",
]
