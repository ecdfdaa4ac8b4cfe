"""Which closed form holds for a problem, how far its assumptions are violated, and the weights it gives.

`layerflow.theory` has the formulas, of arrays; here they meet networks and tasks.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from layerflow import theory
from layerflow._checks import collect
from layerflow._problem import Problem
from layerflow.networks import DiagonalNetwork, LayerwiseNetwork, LinearNetwork
from layerflow.observables import layer_imbalance
from layerflow.tasks import Modes, Moments


@dataclasses.dataclass(frozen=True)
class Assumption:
    """What a closed form assumes of the numbers of a problem.

    Attributes:
        needs: What needs to hold, in words, and how to have it.
        violation: How far it is from holding, relative; zero if it does.
    """

    needs: str
    violation: Float[Array, ""]


class ClosedForm(abc.ABC):
    """One result of the theory, applied to problems.

    Attributes:
        name: What the result is called.
        up_to_rotation: Whether it knows the weights only up to a rotation of the hidden units.
    """

    name: str
    up_to_rotation = False

    @abc.abstractmethod
    def unfit(self, problem: Problem) -> str | None:
        """Why the kind of network or task does not fit; None if it does."""

    def assumptions(self, problem: Problem) -> list[Assumption]:
        """What is assumed of the numbers, with its violation."""
        return []

    @abc.abstractmethod
    def weights(self, problem: Problem, ts: Float[Array, " t"]) -> tuple[Float[Array, "t ..."], ...]:
        """Every layer at the times `ts`."""


class LinearModel(ClosedForm):
    """One layer on any data: every axis of the inputs learns exponentially (Eq. 10)."""

    name = "exponential modes of a linear model (Eq. 10)"

    def unfit(self, problem: Problem) -> str | None:
        network = problem.start
        if not isinstance(network, LinearNetwork | DiagonalNetwork) or len(network.weights) != 1:
            return "it is no linear network of one layer"
        if isinstance(network, DiagonalNetwork) and not isinstance(_data(problem), Modes):
            return "its modes are coupled by data: only on Modes is a diagonal network one mode each"
        return None

    def weights(self, problem: Problem, ts: Float[Array, " t"]) -> tuple[Float[Array, "t ..."], ...]:
        network, data = problem.start, _data(problem)
        (w,), scale = network.weights, jnp.asarray(network.output_scale, network.weights[0].dtype)
        if isinstance(data, Modes):  # each mode by itself: w has shape (inp,) or (1, inp)
            variance, axes, slope = data.variance, None, data.variance * data.target
        else:
            variance, axes = jnp.linalg.eigh(data.xx)
            w, slope = w @ axes, data.yx @ axes
        # With f = scale * w x a mode moves at E scale^2 to S / scale. Where nothing excites it, it stays.
        excited = variance * jnp.abs(scale) > jnp.finfo(variance.dtype).eps * jnp.abs(variance).max()
        excited, variance, slope = (jnp.broadcast_to(array, w.shape) for array in (excited, variance, slope))
        target = jnp.where(excited, slope / jnp.where(excited, variance * scale, 1.0), 0.0)
        speed = jnp.where(excited, variance * scale**2, 0.0)
        wide = lambda array: jnp.broadcast_to(array, (len(ts), *w.shape))
        late = ts.reshape(-1, *[1] * w.ndim)
        moved = theory.exponential(*map(wide, (late, w, target, speed)))
        return (moved if axes is None else moved @ axes.T,)


class LayerPairs(ClosedForm):
    """Independent modes of two layers each, of any sizes (Eqs. 6 and 8)."""

    name = "modes of two layers (Eqs. 6, 8; Theorem I.1 at width 1)"

    def unfit(self, problem: Problem) -> str | None:
        if not isinstance(problem.start, DiagonalNetwork) or len(problem.start.weights) != 2:
            return "it is no diagonal network of two layers"
        return None if isinstance(_data(problem), Modes) else "its modes are coupled: give the task as Modes"

    def weights(self, problem: Problem, ts: Float[Array, " t"]) -> tuple[Float[Array, "t ..."], ...]:
        task, (a, b) = _data(problem), problem.start.weights
        z = 1 / jnp.asarray(problem.start.output_scale, a.dtype)
        # A mode is a scalar network of width 1; there the output scale has its place.
        moved = theory.scalar_network(ts[:, None], a[:, None], b[:, None], task.target, z=z, variance=task.variance)
        return moved.a[..., 0], moved.b[..., 0]


class DeepModes(ClosedForm):
    """Independent modes of more than two equal layers (THEORY: u' = L E u^(2 - 2/L) (S - u))."""

    name = "deep modes of equal layers"

    def unfit(self, problem: Problem) -> str | None:
        network = problem.start
        if not isinstance(network, DiagonalNetwork) or len(network.weights) < 3:
            return "it is no diagonal network of three layers or more"
        if not isinstance(network.output_scale, float) or network.output_scale != 1:
            return "its output scale is not 1"
        return None if isinstance(_data(problem), Modes) else "its modes are coupled: give the task as Modes"

    def assumptions(self, problem: Problem) -> list[Assumption]:
        layers, target = jnp.stack(problem.start.weights), _data(problem).target
        strength = jnp.prod(layers, axis=0)
        size = jnp.abs(layers).max()
        spread = jnp.abs(jnp.abs(layers) - jnp.abs(layers[:1])).max() / jnp.where(size > 0, size, 1.0)
        outside = jnp.maximum(-strength, strength - target).max()
        return [
            Assumption("all layers of a mode are equal in size", spread),
            Assumption("every mode starts between 0 and its target", jnp.where(outside < 0, 0.0, 1.0 + outside)),
        ]

    def weights(self, problem: Problem, ts: Float[Array, " t"]) -> tuple[Float[Array, "t ..."], ...]:
        task, layers = _data(problem), problem.start.weights
        start = problem.start.strengths
        inside = (start > 0) & (start < task.target)
        safe = lambda value, other: jnp.where(inside, value, other)
        strength = theory.deep_mode(
            ts[:, None], safe(start, 0.5), safe(task.target, 1.0), len(layers), safe(task.variance, 1.0)
        )
        size = jnp.where(inside[None, :], strength, jnp.nan) ** (1 / len(layers))
        return tuple(jnp.sign(w)[None, :] * size for w in layers)


class ScalarNetwork(ClosedForm):
    """One input, one output and any width, from any start (Theorem I.1)."""

    name = "scalar network of any width (Theorem I.1)"

    def unfit(self, problem: Problem) -> str | None:
        network = problem.start
        if isinstance(network, LinearNetwork) and len(network.weights) == 2:
            return None if (network.widths[0], network.widths[2]) == (1, 1) else "it has more than one input or output"
        return "it is no linear network of two layers"

    def weights(self, problem: Problem, ts: Float[Array, " t"]) -> tuple[Float[Array, "t ..."], ...]:
        (w1, w2), data = problem.start.weights, _data(problem)
        variance, slope = (
            (data.variance[0], data.variance[0] * data.target[0])
            if isinstance(data, Modes)
            else (data.xx[0, 0], data.yx[0, 0])
        )
        z = 1 / jnp.asarray(problem.start.output_scale, w1.dtype)
        target = jnp.where(variance > 0, slope / jnp.where(variance > 0, variance, 1.0), 0.0)
        moved = theory.scalar_network(ts, w1[:, 0], w2[0], target, z=z, variance=variance)
        return moved.a[..., None], moved.b[:, None, :]


class BalancedNetwork(ClosedForm):
    """Two layers, lambda-balanced, on whitened inputs: the matrix Riccati solution."""

    name = "lambda-balanced network on whitened inputs (matrix Riccati)"
    up_to_rotation = True

    def unfit(self, problem: Problem) -> str | None:
        network = problem.start
        if isinstance(network, LinearNetwork) and len(network.weights) == 2:
            return None
        return "it is no linear network of two layers"

    def assumptions(self, problem: Problem) -> list[Assumption]:
        w1, w2 = problem.start.weights
        xx, _ = self._moments(problem)
        variance = jnp.trace(xx) / xx.shape[0]
        eye = jnp.eye(xx.shape[0], dtype=xx.dtype)
        imbalance, lam = self._imbalance(problem)
        size = jnp.sum(w1**2) + jnp.sum(w2**2)
        off = jnp.abs(imbalance - lam * jnp.eye(len(w1), dtype=w1.dtype)).max()
        return [
            Assumption(
                "the inputs are whitened, E[x x^T] = c I (random_regression(whiten=True), principal_components)",
                jnp.abs(xx - variance * eye).max() / jnp.where(variance > 0, variance, 1.0),
            ),
            Assumption(
                "the start is lambda-balanced, w2^T w2 - w1 w1^T = lam I (lambda_balanced, aligned)",
                off / jnp.where(size > 0, size, 1.0),
            ),
        ]

    def weights(self, problem: Problem, ts: Float[Array, " t"]) -> tuple[Float[Array, "t ..."], ...]:
        w1, w2 = problem.start.weights
        xx, yx = self._moments(problem)
        _, lam = self._imbalance(problem)
        variance = jnp.trace(xx) / xx.shape[0]
        scale = jnp.asarray(problem.start.output_scale, w1.dtype)
        # Layers times the root of the output scale, at that speed, learn as if the scale were 1.
        root, sign = jnp.sqrt(jnp.abs(scale)), jnp.sign(scale)
        target = sign * yx / jnp.where(variance > 0, variance, 1.0)
        path = theory.balanced_path(root * w1, root * w2, root**2 * lam, target, ts * variance * jnp.abs(scale))
        return path.w1 / root, path.w2 / root

    def _moments(self, problem: Problem) -> tuple[Float[Array, "inp inp"], Float[Array, "out inp"]]:
        data = _data(problem)
        if isinstance(data, Modes):
            return jnp.diag(data.variance), (data.variance * data.target)[None, :]
        return data.xx, data.yx

    def _imbalance(self, problem: Problem) -> tuple[Float[Array, "hid hid"], Float[Array, ""]]:
        imbalance = layer_imbalance(problem.start, problem)
        return imbalance, jnp.trace(imbalance) / len(imbalance)


FORMS: tuple[ClosedForm, ...] = (LinearModel(), LayerPairs(), DeepModes(), ScalarNetwork(), BalancedNetwork())


def closed_form(problem: Problem) -> ClosedForm | str:
    """The closed form for problems of this kind, or why there is none."""
    data = _data(problem)
    if not hasattr(problem.start, "matrix"):
        return f"closed forms are of linear networks, with a `matrix`, which a {type(problem.start).__name__} has not"
    if not isinstance(data, Modes | Moments):
        return f"closed forms are of linear networks on Modes, Moments or Samples, not on {type(problem.task).__name__}"
    for name, usual in (("decay", 0.0), ("rates", 1.0)):
        leaves = jax.tree.leaves(getattr(problem, name), is_leaf=lambda leaf: leaf is None)
        if not all(isinstance(leaf, float) and leaf == usual for leaf in leaves):
            return f"closed forms have no `{name}` of their own: leave it at {usual:g}"
    reasons = {}
    for form in FORMS:
        reason = form.unfit(problem)
        if reason is None:
            return form
        reasons[form.name] = reason
    return "; ".join(f"not {name}, for {reason}" for name, reason in reasons.items())


def conserved_drift(network: PyTree, problem: Problem, t: Float[Array, ""]) -> Float[Array, ""] | None:
    """How far the layer imbalances are from their law e^{-2 decay t} at time t, relative to |weights|^2.

    None where none is conserved: other networks than linear, diagonal and layerwise ones, one layer, rates
    or decays of their own for some weights.
    """
    start = problem.start
    if type(start) not in (LinearNetwork, DiagonalNetwork, LayerwiseNetwork):
        return None
    if not isinstance(start, LayerwiseNetwork) and len(start.weights) < 2:
        return None
    decay = problem.decay
    plain = isinstance(problem.rates, float) and problem.rates == 1 and jnp.ndim(decay) == 0
    if not plain or len(jax.tree.leaves(decay)) != 1:
        return None
    imbalances = lambda network: jax.tree.leaves(layer_imbalance(network, problem))
    fading = jnp.exp(-2 * jnp.asarray(decay, t.dtype) * t)
    squares = lambda network: sum(jnp.sum(w**2) for w in jax.tree.leaves(problem.split(network)[0]))
    size = squares(start) + squares(network)
    pairs = zip(imbalances(network), imbalances(start), strict=True)
    drift = jnp.stack([jnp.abs(now - fading * then).max() for now, then in pairs]).max()
    return drift / jnp.where(size > 0, size, 1.0)


def exact_weights(form: ClosedForm, problem: Problem, ts: Float[Array, " t"]) -> tuple[Float[Array, "t ..."], ...]:
    """Every layer at the times `ts` by the closed form."""
    with collect():  # the formulas' own checks: what they ask for is told by `assumptions`
        return form.weights(problem, ts)


def _data(problem: Problem) -> Any:
    """The task in the form that linear networks see of it."""
    return problem.task.reduced(problem.start)
