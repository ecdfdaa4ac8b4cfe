"""Two layers near the assumptions of the matrix Riccati solution, and what the distance from them costs the answer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from layerflow import theory
from layerflow.base._checks import collect
from layerflow.methods._assumptions import beyond_rounding


class Balanced(NamedTuple):
    """Lambda-balanced layers on whitened inputs, in units in which output scale and variance are 1."""

    w1: Float[Array, "hid inp"]
    w2: Float[Array, "out hid"]
    lam: Float[Array, ""]
    target: Float[Array, "out inp"]

    def path(self, ts: Float[Array, " t"]) -> theory.Balanced:
        """The closed form at `ts`."""
        with collect():  # the formula's own checks: what it asks for is told by the assumptions
            return theory.balanced_path(self.w1, self.w2, self.lam, self.target, ts)


class TwoLayers(NamedTuple):
    """Any two layers of an output scale, and the moments of their task."""

    w1: Float[Array, "hid inp"]
    w2: Float[Array, "out hid"]
    imbalance: Float[Array, "hid hid"]  # w2^T w2 - w1 w1^T
    scale: Float[Array, ""]
    xx: Float[Array, "inp inp"]
    yx: Float[Array, "out inp"]

    @property
    def lam(self) -> Float[Array, ""]:
        """The imbalance of the nearest balanced layers."""
        return jnp.trace(self.imbalance) / len(self.imbalance)

    @property
    def variance(self) -> Float[Array, ""]:
        """That of the nearest whitened inputs."""
        return jnp.trace(self.xx) / self.xx.shape[0]

    @property
    def root(self) -> Float[Array, ""]:
        """Layers times the root of the output scale, at that speed, learn as if the scale were 1."""
        return jnp.sqrt(jnp.abs(self.scale))

    @property
    def nearest(self) -> Balanced:
        """Balanced layers on whitened inputs that stand here."""
        target = jnp.sign(self.scale) * self.yx / jnp.where(self.variance > 0, self.variance, 1.0)
        return Balanced(self.root * self.w1, self.root * self.w2, self.root**2 * self.lam, target)

    def times(self, ts: Float[Array, " t"]) -> Float[Array, " t"]:
        """`ts` in the units of `nearest`."""
        return ts * self.variance * jnp.abs(self.scale)

    @property
    def coloured(self) -> Float[Array, "inp inp"]:
        """D in E[x x^T] = c (I + D)."""
        off = self.xx - self.variance * jnp.eye(self.xx.shape[0], dtype=self.xx.dtype)
        return off / jnp.where(self.variance > 0, self.variance, 1.0)

    @property
    def unbalanced(self) -> Float[Array, "hid hid"]:
        """B in w2^T w2 - w1 w1^T = lam I + B."""
        return self.imbalance - self.lam * jnp.eye(len(self.imbalance), dtype=self.imbalance.dtype)

    @property
    def violations(self) -> Float[Array, "2"]:
        """The relative sizes of D and B."""
        size = jnp.sum(self.w1**2) + jnp.sum(self.w2**2)
        return jnp.stack(
            [jnp.abs(self.coloured).max(), jnp.abs(self.unbalanced).max() / jnp.where(size > 0, size, 1.0)]
        )

    def costs(self, ts: Float[Array, " t"]) -> Float[Array, "2"]:
        """The relative errors of the formula, at the worst of `ts`, that D and B cause.

        The flow of Q = [w1^T; w2] is that of the formula with the target moved by -W D, and with J Q B / 2 more,
        where J Q / 2 is what moving lam adds. So formulas at targets moved by -W D, W being the start or as near the
        target as the fastest rate may have brought it, and at lam + |B| show what D and B do in the time.
        """
        (w1, w2, lam, target), ts = self.nearest, self.times(ts)
        start, size = w2 @ w1, self.root**2 * jnp.sqrt(jnp.sum(self.unbalanced**2))
        fastest = jnp.sum(w1**2) + jnp.sum(w2**2) + jnp.abs(lam) + 2 * jnp.sqrt(jnp.sum(target**2))
        way = jnp.minimum(fastest * ts, 1.0)[:, None, None] * (target - start)[None]
        by_now, at_first = (start[None] + way) @ self.coloured, start[None] @ self.coloured + jnp.zeros_like(way)
        none = jnp.zeros_like(way)
        targets = target[None, None] - jnp.stack([none, none, by_now, at_first])
        lams = lam + size * jnp.array([0.0, 1.0, 0.0, 0.0], size.dtype)
        at = lambda lam, target, t: jax.tree.map(lambda of_t: of_t[0], Balanced(w1, w2, lam, target).path(t[None]))
        paths = jax.vmap(jax.vmap(at, (None, 0, 0)), (0, 0, None))(lams, targets, ts)
        answer = jax.tree.map(lambda of_all: of_all[0], paths)
        _, unbalanced, *coloured = jax.vmap(lambda path: _gap(path, answer))(paths)
        return jnp.stack([jnp.stack(coloured).max(), unbalanced])


@jax.jit  # traced once, not at every sweep
def judged(here: TwoLayers, ts: Float[Array, " t"]) -> Float[Array, "2"]:
    """What it costs the formula at `ts` that inputs are not whitened, and layers not balanced.

    What is as small as rounding of the given numbers costs what rounding costs, and is not judged further.
    """
    violations = here.violations
    doubtful, given = beyond_rounding(violations), jax.lax.stop_gradient((here, ts))

    def judge(state: Any) -> Any:
        _, (here, ts), _ = state
        return jnp.asarray(False), jax.tree.map(jnp.zeros_like, given), here.costs(ts)

    # A loop in place of a condition: a batch without cells to be judged takes no turn. Its state holds all that is
    # given, and changes: what stays the same from turn to turn is computed ahead of the loop, needed or not.
    state = (jnp.any(doubtful), given, jax.lax.stop_gradient(violations))
    *_, found = jax.lax.while_loop(lambda state: state[0], judge, state)
    return jnp.where(doubtful, found, violations)


def _gap(one: theory.Balanced, other: theory.Balanced) -> Float[Array, ""]:
    """How far two paths are apart, relative to the layers, in what a rotation of the hidden units leaves alone."""
    size = lambda matrices: jnp.sqrt(jnp.sum(matrices**2, axis=(-2, -1)))
    first, last = size(other.input_gram), size(other.output_gram)
    gaps = [
        (one.input_gram - other.input_gram, first),
        (one.output_gram - other.output_gram, last),
        (one.matrix - other.matrix, jnp.sqrt(first * last)),
    ]
    ratios = [size(gap) / jnp.where(scale > 0, scale, 1.0) for gap, scale in gaps]
    return jnp.stack(ratios).max()
