"""How to travel through weight space, and until when: the only place that talks to diffrax and optax."""

from layerflow.methods._course import Course, Path, Status, failed, masked
from layerflow.methods._descent import Descent
from layerflow.methods._flow import Flow

Method = Flow | Descent

__all__ = ["Course", "Descent", "Flow", "Method", "Path", "Status", "failed", "masked"]
