"""Networks of two layers on whitened inputs whose flow is a matrix Riccati equation: balanced, and wide ones."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from layerflow._problem import Problem
from layerflow.base._numerics import safe_root
from layerflow.methods._assumptions import Assumption, beyond_rounding
from layerflow.methods._form import ClosedForm, Layers, data_of
from layerflow.methods._two_layers import TwoLayers, judged
from layerflow.networks import LinearNetwork
from layerflow.observables import layer_imbalance
from layerflow.tasks import Modes
from layerflow.theory._width import wide_layers


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
        (w1, w2), data = problem.start.weights, data_of(problem)
        xx, yx = (
            (jnp.diag(data.variance), (data.variance * data.target)[None, :])
            if isinstance(data, Modes)
            else (data.xx, data.yx)
        )
        scale = jnp.asarray(problem.start.output_scale, w1.dtype)
        return TwoLayers(w1, w2, layer_imbalance(problem.start, problem), scale, xx, yx)


class WideNetwork(BalancedNetwork):
    """Two layers of as many hidden units as inputs and outputs together, that start as wide random ones do.

        w2 w2^T = (A A^T + K^2)^(1/2),    w1^T w1 = (A^T A + K^2)^(1/2),    A = w2 w1,

    which at A = 0 is w2 w2^T = K and w1^T w1 = K; or zero-balanced, which is K = 0. On whitened inputs.
    """

    name = "wide network on whitened inputs (mixed dynamics), or a balanced one (matrix Riccati)"

    def unfit(self, problem: Problem) -> str | None:
        reason = super().unfit(problem)
        if reason is not None:
            return reason
        inp, hid, out = problem.start.widths
        return None if hid >= inp + out else "it has fewer hidden units than inputs and outputs together"

    def assumptions(
        self, problem: Problem, ts: Float[Array, " t"] | None = None, layers: Layers | None = None, quick: bool = False
    ) -> list[Assumption]:
        here = self._layers(problem)
        whitened, balanced, positive = super().assumptions(problem, ts, layers, quick)
        wide = _is_wide(here)
        needs = (
            "the start is that of wide random layers, w2 w2^T and w1^T w1 the roots of A A^T + K^2 and A^T A + K^2 "
            "with A = w2 w1, or zero-balanced, w2^T w2 = w1 w1^T"
        )
        either = lambda needs, one, other: Assumption(
            needs,
            jnp.where(wide, one, other.violation),
            jnp.where(wide, Assumption.to_rounding(needs, one).cost, other.cost),
            jnp.asarray(other.doubtful) & ~wide,
        )
        violated = jnp.minimum(_unlike_wide(here), balanced.violation)
        return [
            either(whitened.needs, here.violations[0], whitened),
            either(needs, violated, balanced),
            positive,
        ]

    def weights(self, problem: Problem, ts: Float[Array, " t"]) -> Layers:
        here, wide = self._layers(problem), _is_wide(self._layers(problem))
        near = here.nearest
        scale = jnp.where(wide, _weight_scale(here), 1.0)  # of the others nothing is asked, but numbers
        path = wide_layers(near.w1, near.w2, scale, near.target, here.times(ts))
        unscaled = lambda layer, start: jnp.where(here.root > 0, layer / here.root, start[None])
        mixed = map(unscaled, path, problem.start.weights)
        return tuple(jnp.where(wide, *both) for both in zip(mixed, super().weights(problem, ts), strict=True))


def _weight_scale(here: TwoLayers) -> Float[Array, ""]:
    """K: the eigenvalues of w2^T w2 - w1 w1^T are K, as many as outputs, -K, as many as inputs, and 0."""
    imbalance = here.root**2 * here.imbalance
    squares = jnp.sum(imbalance**2) / (here.w1.shape[1] + here.w2.shape[0])
    return safe_root(squares)


def _unlike_wide(here: TwoLayers) -> Float[Array, ""]:
    """How far the Gram matrices are from those of a wide network, relative to the weights."""
    near, scale = here.nearest, _weight_scale(here)
    squares = lambda gram, a: gram @ gram - a - scale**2 * jnp.eye(len(a), dtype=a.dtype)
    a = near.w2 @ near.w1
    inputs, outputs = squares(near.w1.T @ near.w1, a.T @ a), squares(near.w2 @ near.w2.T, a @ a.T)
    size = jnp.sum(near.w1**2) + jnp.sum(near.w2**2)
    return jnp.maximum(jnp.abs(inputs).max(), jnp.abs(outputs).max()) / jnp.where(size > 0, size**2, 1.0)


def _is_wide(here: TwoLayers) -> Bool[Array, ""]:
    """Whether a start is that of a wide network, not a zero-balanced one, by a K that leaves its roots digits."""
    scale, near = _weight_scale(here), here.nearest
    least = jnp.finfo(scale.dtype).eps ** 0.25 * jnp.sqrt(jnp.sum((near.w2 @ near.w1) ** 2))
    return (scale > least) & (_unlike_wide(here) < here.violations[1])
