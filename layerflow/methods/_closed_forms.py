"""Which closed form holds for a problem, what it assumes, and the weights it gives.

`layerflow.theory` has the formulas, of arrays; here they meet networks and tasks.
"""

import abc
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from layerflow import theory
from layerflow._problem import Problem
from layerflow.base._checks import collect
from layerflow.methods._assumptions import Assumption, cost_of_coupling, cost_of_spread
from layerflow.methods._one_layer import along_axes, one_layer
from layerflow.methods._two_layers import TwoLayers, beyond_rounding, judged
from layerflow.networks import DiagonalNetwork, LayerwiseNetwork, LinearNetwork
from layerflow.observables import layer_imbalance
from layerflow.tasks import Modes, Moments

Layers = tuple[Float[Array, "t ..."], ...]


class ClosedForm(abc.ABC):
    """One result of the theory, applied to problems.

    Attributes:
        name: What the result is called.
        up_to_rotation: Whether it knows the weights only up to a rotation of the hidden units.
        decays: Whether it knows what weight decay does.
    """

    name: str
    up_to_rotation = False
    decays = False

    @abc.abstractmethod
    def unfit(self, problem: Problem) -> str | None:
        """Why the kind of network or task does not fit; None if it does."""

    def assumptions(
        self, problem: Problem, ts: Float[Array, " t"] | None = None, layers: Layers | None = None, quick: bool = False
    ) -> list[Assumption]:
        """What is assumed of the numbers, and what its violation costs.

        Args:
            problem: Whose numbers are judged.
            ts: Where the answer is wanted; its worst time counts. Not given, at any time.
            layers: The answer there, `weights(problem, ts)`.
            quick: Leave open what takes longer to find out than the answer, where a violation is beyond rounding.
        """
        return []

    @abc.abstractmethod
    def weights(self, problem: Problem, ts: Float[Array, " t"]) -> Layers:
        """Every layer at the times `ts`."""


class LinearModel(ClosedForm):
    """One layer on any data, with or without weight decay: every axis of the inputs learns exponentially (Eq. 10).

        w(t) = e^{-k t} w(0) + t phi1(k t) scale E[y x],    k = scale^2 E + decay,    phi1(y) = (1 - e^{-y}) / y.

    Of Moments, axes whose variance is below rounding of the largest count as zero, as in the task itself.
    """

    name = "exponential modes of a linear model (Eq. 10)"
    decays = True

    def unfit(self, problem: Problem) -> str | None:
        network = problem.start
        if not isinstance(network, LinearNetwork | DiagonalNetwork) or len(network.weights) != 1:
            return "it is no linear network of one layer"
        if isinstance(network, DiagonalNetwork) and not isinstance(_data(problem), Modes):
            return "its modes are coupled by data: only on Modes is a diagonal network one mode each"
        if any(jnp.ndim(decay) > 0 for decay in problem.decays):
            return "its `decay` is not one number for all weights"
        return None

    def assumptions(
        self, problem: Problem, ts: Float[Array, " t"] | None = None, layers: Layers | None = None, quick: bool = False
    ) -> list[Assumption]:
        data = _data(problem)
        return [] if isinstance(data, Modes) else [Assumption.not_negative(jnp.diagonal(data.xx))]

    def weights(self, problem: Problem, ts: Float[Array, " t"]) -> Layers:
        network, data = problem.start, _data(problem)
        (w,), (decay,) = network.weights, problem.decays
        scale = jnp.asarray(network.output_scale, w.dtype)
        decay = None if isinstance(decay, float) and decay == 0 else jnp.asarray(decay, w.dtype)
        if isinstance(data, Modes):  # each mode by itself: w has shape (inp,) or (1, inp)
            slope, excited = data.variance * data.target, data.variance * scale != 0
            return (along_axes(ts, w, data.variance, slope, excited, scale, decay),)
        return (one_layer(ts, w, data.xx, data.yx, scale, decay),)


class LayerPairs(ClosedForm):
    """Independent modes of two layers each, of any sizes (Eqs. 6 and 8), on Modes or on uncorrelated inputs."""

    name = "modes of two layers (Eqs. 6, 8; Theorem I.1 at width 1)"

    def unfit(self, problem: Problem) -> str | None:
        if not isinstance(problem.start, DiagonalNetwork) or len(problem.start.weights) != 2:
            return "it is no diagonal network of two layers"
        return None

    def assumptions(
        self, problem: Problem, ts: Float[Array, " t"] | None = None, layers: Layers | None = None, quick: bool = False
    ) -> list[Assumption]:
        data, (variance, target) = _data(problem), self._modes(problem)
        positive = Assumption.not_negative(variance)
        if isinstance(data, Modes):
            return [positive]
        start, scale = problem.start.weights, jnp.asarray(problem.start.output_scale, variance.dtype)
        coupling, largest = jnp.abs(data.xx - jnp.diag(variance)), jnp.abs(variance).max()
        violation = cost = coupling.max() / jnp.where(largest > 0, largest, 1.0)
        if ts is not None and layers is not None:
            found = cost_of_coupling(coupling, variance, target, scale, start, ts, layers)
            cost = jnp.where(beyond_rounding(violation), found, violation)
        uncoupled = "the inputs are uncorrelated, E[x x^T] diagonal (Modes, random_regression(whiten=True))"
        return [Assumption(uncoupled, violation, cost), positive]

    def weights(self, problem: Problem, ts: Float[Array, " t"]) -> Layers:
        (variance, target), (a, b) = self._modes(problem), problem.start.weights
        z = 1 / jnp.asarray(problem.start.output_scale, a.dtype)
        # A mode is a scalar network of width 1; there the output scale has its place.
        moved = theory.scalar_network(ts[:, None], a[:, None], b[:, None], target, z=z, variance=variance)
        return moved.a[..., 0], moved.b[..., 0]

    def _modes(self, problem: Problem) -> tuple[Float[Array, " mode"], Float[Array, " mode"]]:
        """The variance and the target of every mode."""
        data = _data(problem)
        if isinstance(data, Modes):
            return data.variance, data.target
        variance = jnp.diagonal(data.xx)
        excited = variance > 0
        return variance, jnp.where(excited, data.yx[0] / jnp.where(excited, variance, 1.0), 0.0)


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

    def assumptions(
        self, problem: Problem, ts: Float[Array, " t"] | None = None, layers: Layers | None = None, quick: bool = False
    ) -> list[Assumption]:
        task, signed = _data(problem), jnp.stack(problem.start.weights)
        strength, sizes = jnp.prod(signed, axis=0), jnp.abs(signed)
        largest = sizes.max(axis=0)
        spread = (largest - sizes.min(axis=0)) / jnp.where(largest > 0, largest, 1.0)
        outside = jnp.maximum(-strength, strength - task.target).max()
        inside = (strength > 0) & (strength < task.target)
        # A mode outside has no answer that layers of another size could cost.
        sizes, target = jnp.where(inside[None, :], sizes, 0.5), jnp.where(inside, task.target, 1.0)
        now = None if layers is None else jnp.where(inside[None, :], functools.reduce(jnp.multiply, layers), 0.5)
        return [
            Assumption(
                "all layers of a mode are equal in size",
                spread.max(),
                cost_of_spread(sizes, target, task.variance, ts, now),
            ),
            Assumption.strict("every mode starts between 0 and its target", jnp.where(outside < 0, 0.0, 1.0 + outside)),
        ]

    def weights(self, problem: Problem, ts: Float[Array, " t"]) -> Layers:
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

    def assumptions(
        self, problem: Problem, ts: Float[Array, " t"] | None = None, layers: Layers | None = None, quick: bool = False
    ) -> list[Assumption]:
        data = _data(problem)
        return [Assumption.not_negative(data.variance if isinstance(data, Modes) else data.xx)]

    def weights(self, problem: Problem, ts: Float[Array, " t"]) -> Layers:
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

    def assumptions(
        self, problem: Problem, ts: Float[Array, " t"] | None = None, layers: Layers | None = None, quick: bool = False
    ) -> list[Assumption]:
        here = self._layers(problem)
        violations = here.violations
        doubtful = beyond_rounding(violations) & quick
        costs = violations if ts is None or quick else judged(here, ts)
        whitened = "the inputs are whitened, E[x x^T] = c I (random_regression(whiten=True), principal_components)"
        balanced = "the start is lambda-balanced, w2^T w2 - w1 w1^T = lam I (lambda_balanced, aligned)"
        return [
            Assumption(whitened, violations[0], costs[0], doubtful[0]),
            Assumption(balanced, violations[1], costs[1], doubtful[1]),
            Assumption.not_negative(here.variance),
        ]

    def weights(self, problem: Problem, ts: Float[Array, " t"]) -> Layers:
        here = self._layers(problem)
        path, learns = here.nearest.path(here.times(ts)), here.root > 0  # at output scale 0 nothing does
        unscaled = lambda layer, start: jnp.where(learns, layer / here.root, start[None])
        return tuple(map(unscaled, (path.w1, path.w2), problem.start.weights))

    def _layers(self, problem: Problem) -> TwoLayers:
        (w1, w2), data = problem.start.weights, _data(problem)
        xx, yx = (
            (jnp.diag(data.variance), (data.variance * data.target)[None, :])
            if isinstance(data, Modes)
            else (data.xx, data.yx)
        )
        scale = jnp.asarray(problem.start.output_scale, w1.dtype)
        return TwoLayers(w1, w2, layer_imbalance(problem.start, problem), scale, xx, yx)


FORMS: tuple[ClosedForm, ...] = (LinearModel(), LayerPairs(), DeepModes(), ScalarNetwork(), BalancedNetwork())


def closed_form(problem: Problem) -> ClosedForm | str:
    """The closed form for problems of this kind, or why there is none."""
    refused = _refused(problem)
    if refused is not None:
        return refused
    decaying, reasons = not _usual(problem.decay, 0.0), {}
    for form in FORMS:
        reason = form.unfit(problem)
        if reason is None and (form.decays or not decaying):
            return form
        reasons[form.name] = reason
    return "; ".join(f"not {name}, for {reason}" for name, reason in reasons.items())


def _refused(problem: Problem) -> str | None:
    """Why no closed form holds for a problem, whatever the network."""
    data = _data(problem)
    if not hasattr(problem.start, "matrix"):
        return f"closed forms exist only for linear networks; {type(problem.start).__name__} has no `matrix`"
    if not isinstance(data, Modes | Moments):
        return f"closed forms are of linear networks on Modes, Moments or Samples, not on {type(problem.task).__name__}"
    if type(data).loss not in (Modes.loss, Moments.loss):
        return f"closed forms are of the quadratic loss, but {type(data).__name__} has a `loss` of its own"
    if not _usual(problem.rates, 1.0):
        return "closed forms have no `rates` of their own: leave it at 1"
    if not _usual(problem.decay, 0.0) and all(form.unfit(problem) for form in FORMS if form.decays):
        return "closed forms have no `decay` of their own, but one number for all weights of one layer: leave it at 0"
    return None


def _usual(tree: PyTree, number: float) -> bool:
    """Whether all coefficients are this plain number."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: leaf is None)
    return all(isinstance(leaf, float) and leaf == number for leaf in leaves)


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


def exact_weights(form: ClosedForm, problem: Problem, ts: Float[Array, " t"]) -> Layers:
    """Every layer at the times `ts` by the closed form."""
    with collect():  # the formulas' own checks: what they ask for is told by `assumptions`
        return form.weights(problem, ts)


def _data(problem: Problem) -> Any:
    """The task in the form that linear networks see of it."""
    return problem.task.in_moments(problem.start)
