"""Which closed form holds for a problem, what it assumes, and the weights it gives.

`layerflow.theory` has the formulas, of arrays; here they meet networks and tasks.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from layerflow import theory
from layerflow._problem import Problem
from layerflow.base._checks import collect
from layerflow.methods._assumptions import Assumption, beyond_rounding, cost_of_coupling, cost_of_spread
from layerflow.methods._chain_form import AlignedChain
from layerflow.methods._form import ClosedForm, Layers, data_of, usual
from layerflow.methods._leaky_forms import LeakyPair, LeakyScalar
from layerflow.methods._one_layer import along_axes, one_layer
from layerflow.methods._riccati_forms import BalancedNetwork, WideNetwork
from layerflow.networks import MLP, DiagonalNetwork, LayerwiseNetwork, LinearNetwork
from layerflow.observables import layer_imbalance
from layerflow.tasks import Modes, Moments, Samples, Task


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
        if isinstance(network, DiagonalNetwork) and not isinstance(data_of(problem), Modes):
            return "its modes are coupled by data: only on Modes is a diagonal network one mode each"
        if any(jnp.ndim(decay) > 0 for decay in problem.decays):
            return "its `decay` is not one number for all weights"
        return None

    def assumptions(
        self, problem: Problem, ts: Float[Array, " t"] | None = None, layers: Layers | None = None, quick: bool = False
    ) -> list[Assumption]:
        data = data_of(problem)
        return [] if isinstance(data, Modes) else [Assumption.not_negative(jnp.diagonal(data.xx))]

    def weights(self, problem: Problem, ts: Float[Array, " t"]) -> Layers:
        network, data = problem.start, data_of(problem)
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
    rated = True

    def unfit(self, problem: Problem) -> str | None:
        if not isinstance(problem.start, DiagonalNetwork) or len(problem.start.weights) != 2:
            return "it is no diagonal network of two layers"
        if not usual(problem.rates, 1.0) and not isinstance(data_of(problem), Modes):
            return "its layers have `rates` of their own, and its modes are coupled by data: give the task as Modes"
        return _unfit_rates(problem)

    def assumptions(
        self, problem: Problem, ts: Float[Array, " t"] | None = None, layers: Layers | None = None, quick: bool = False
    ) -> list[Assumption]:
        data, (variance, target) = data_of(problem), self._modes(problem)
        positive = Assumption.not_negative(variance)
        if isinstance(data, Modes):
            return [positive, *_positive_rates(problem)]
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
        # A mode is a scalar network of width 1; there the output scale has its place.
        a, b = _scalar_layers(problem, ts[:, None], a[:, None], b[:, None], target, variance)
        return a[..., 0], b[..., 0]

    def _modes(self, problem: Problem) -> tuple[Float[Array, " mode"], Float[Array, " mode"]]:
        """The variance and the target of every mode."""
        data = data_of(problem)
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
        return None if isinstance(data_of(problem), Modes) else "its modes are coupled: give the task as Modes"

    def assumptions(
        self, problem: Problem, ts: Float[Array, " t"] | None = None, layers: Layers | None = None, quick: bool = False
    ) -> list[Assumption]:
        task, signed = data_of(problem), jnp.stack(problem.start.weights)
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
        task, layers = data_of(problem), problem.start.weights
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
    rated = True

    def unfit(self, problem: Problem) -> str | None:
        network = problem.start
        if isinstance(network, LinearNetwork) and len(network.weights) == 2:
            fits = (network.widths[0], network.widths[2]) == (1, 1)
            return _unfit_rates(problem) if fits else "it has more than one input or output"
        return "it is no linear network of two layers"

    def assumptions(
        self, problem: Problem, ts: Float[Array, " t"] | None = None, layers: Layers | None = None, quick: bool = False
    ) -> list[Assumption]:
        data = data_of(problem)
        variance = data.variance if isinstance(data, Modes) else data.xx
        return [Assumption.not_negative(variance), *_positive_rates(problem)]

    def weights(self, problem: Problem, ts: Float[Array, " t"]) -> Layers:
        (w1, w2), data = problem.start.weights, data_of(problem)
        variance, slope = (
            (data.variance[0], data.variance[0] * data.target[0])
            if isinstance(data, Modes)
            else (data.xx[0, 0], data.yx[0, 0])
        )
        target = jnp.where(variance > 0, slope / jnp.where(variance > 0, variance, 1.0), 0.0)
        a, b = _scalar_layers(problem, ts, w1[:, 0], w2[0], target, variance)
        return a[..., None], b[:, None, :]


def _scalar_layers(
    problem: Problem,
    ts: Float[Array, "t ..."],
    a: Float[Array, "... p"],
    b: Float[Array, "... p"],
    target: Float[Array, "..."],
    variance: Float[Array, "..."],
) -> tuple[Float[Array, "t ... p"], Float[Array, "t ... p"]]:
    """Both layers of scalar networks at `ts`, each at its rate."""
    gain = jnp.asarray(problem.start.output_scale, a.dtype)
    if usual(problem.rates, 1.0):
        moved = theory.scalar_network(ts, a, b, target, z=1 / gain, variance=variance)
        return moved.a, moved.b
    rate_a, rate_b = (jnp.asarray(rate, a.dtype) for rate in problem.layer_rates)
    rates = {"rate_a": rate_a, "rate_b": rate_b}
    moved = theory.two_rate_network(ts, a, b, target, gain=gain, variance=variance, **rates)
    return moved.a, moved.b


def _unfit_rates(problem: Problem) -> str | None:
    """Why rates are of another kind than one number for each of two layers."""
    rates = problem.layer_rates
    return (
        None if len(rates) == 2 and not any(map(jnp.ndim, rates)) else "its `rates` are not one number for each layer"
    )


def _positive_rates(problem: Problem) -> list[Assumption]:
    """That no layer stands still or goes uphill."""
    if usual(problem.rates, 1.0):
        return []
    least = jnp.stack([jnp.asarray(rate, problem.start.weights[0].dtype) for rate in problem.layer_rates]).min()
    return [Assumption.strict("the rates of both layers are positive", jnp.where(least > 0, 0.0, 1.0 - least))]


LINEAR: tuple[ClosedForm, ...] = (
    LinearModel(),
    LayerPairs(),
    DeepModes(),
    AlignedChain(),
    ScalarNetwork(),
    WideNetwork(),
    BalancedNetwork(),
)
LEAKY: tuple[ClosedForm, ...] = (LeakyScalar(), LeakyPair())


def closed_form(problem: Problem) -> ClosedForm | str:
    """The closed form for problems of this kind, or why there is none."""
    refused = _refused(problem)
    if refused is not None:
        return refused
    decaying, rated = not usual(problem.decay, 0.0), not usual(problem.rates, 1.0)
    reasons = {}
    for form in LEAKY if type(problem.start) is MLP else LINEAR:
        reason = form.unfit(problem)
        if reason is None and decaying and not form.decays:
            reason = "its `decay` is not 0"
        if reason is None and rated and not form.rated:
            reason = "its `rates` are not 1"
        if reason is None:
            return form
        reasons[form.name] = reason
    return "; ".join(f"not {name}, for {reason}" for name, reason in reasons.items())


def _refused(problem: Problem) -> str | None:
    """Why no closed form holds for a problem, whatever the network."""
    task, data = problem.task, data_of(problem)
    if isinstance(task, Samples) and task.criterion != "square":
        return f"closed forms are of the square loss, but the loss of these samples is {task.criterion}"
    if type(problem.start) is MLP:
        of_samples = type(task).loss is Samples.loss
        return None if of_samples else f"leaky ReLU has closed forms on Samples, not on {type(task).__name__}"
    return _refused_data(problem, data) or _refused_coefficients(problem)


def _refused_data(problem: Problem, data: Task) -> str | None:
    """Why there is none on this task, for a network other than of leaky ReLU."""
    if not hasattr(problem.start, "matrix"):
        return f"closed forms exist only for linear networks; {type(problem.start).__name__} has no `matrix`"
    if not isinstance(data, Modes | Moments):
        return f"closed forms are of linear networks on Modes, Moments or Samples, not on {type(problem.task).__name__}"
    if type(data).loss not in (Modes.loss, Moments.loss):
        return f"closed forms are of the quadratic loss, but {type(data).__name__} has a `loss` of its own"
    return None


def _refused_coefficients(problem: Problem) -> str | None:
    """Why no closed form of a linear network holds with its rates and decay."""
    if not usual(problem.rates, 1.0) and all(form.unfit(problem) for form in LINEAR if form.rated):
        return (
            "closed forms have no `rates` of their own, but one positive number for each layer of scalar networks and "
            "of two layers on Modes: leave it at 1"
        )
    if not usual(problem.decay, 0.0) and all(form.unfit(problem) for form in LINEAR if form.decays):
        return "closed forms have no `decay` of their own, but one number for all weights of one layer: leave it at 0"
    return None


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
