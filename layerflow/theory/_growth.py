"""The growth factor of Theorem I.1, in a form that never overflows or divides by zero."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool

from layerflow.base._numerics import safe_root
from layerflow.theory._special import Alike, cosh_root, quotient, sinhc_root


class Growth(eqx.Module):
    """gamma = up / down, and the h with f = S0 + (S - S0) h (A / down + B / up).

    Here A = Sigma0 + S0 belongs to the aligned sums a + b, which grow by gamma^(1/2), and
    B = Sigma0 - S0 to the anti-aligned a - b, which shrink by it. All three are scaled alike.
    """

    up: Alike
    down: Alike
    h: Alike

    def factor(self) -> Alike:
        """Gamma itself, infinite where nothing is aligned and it outgrew all floats."""
        value = quotient(self.up, self.down)
        return jnp.where(self.down > 0, value, jnp.where(self.up > 0, jnp.inf, 1.0))

    def roots(self) -> tuple[Alike, Alike]:
        """gamma^(1/2) and gamma^(-1/2), where infinite 0: what it multiplies is then 0."""
        return safe_root(quotient(self.up, self.down)), safe_root(quotient(self.down, self.up))

    def turn(self, way: Alike) -> tuple[Alike, Alike, Bool[Array, "*shape"]]:
        """Cosh and sinh of log(gamma) / 2, from S - S0 = `way`, and whether that is small.

        gamma - 1 = 2 (S - S0) h / down has no difference in it. Where it is not small, 1 and 0.
        """
        middle = safe_root(self.up * self.down)
        small = jnp.abs(way * self.h) < middle
        by = lambda number, other: jnp.where(small, number / jnp.where(small, middle, 1.0), other)
        return by(0.5 * (self.up + self.down), 1.0), by(way * self.h, 0.0), small

    def halves(self, a: Array, b: Array) -> tuple[Array, Array]:
        """A gamma / 2 and B / (2 gamma), whose difference is f and whose sum is Sigma."""
        return 0.5 * self.up * quotient(a, self.down), 0.5 * self.down * quotient(b, self.up)

    def output(self, a: Array, b: Array, start: Array, target: Array) -> Alike:
        """f, from S0 = `start`, and S = `target`."""
        more, less = self.halves(a, b)
        risen = start + (target - start) * self.h * (quotient(a, self.down) + quotient(b, self.up))
        # Where all weights have shrunk, as on the way to the saddle, the sum would cancel.
        return jnp.where(more + less < jnp.abs(start), more - less, risen)


def growth(t: Alike, target: Alike, a: Alike, b: Alike) -> Growth:
    """The growth at time `t`, in units of Z / E, from A and B at t = 0.

    gamma = [cosh(r t) + (S + B) sinh(r t) / r] / [cosh(r t) + (A - S) sinh(r t) / r], r^2 = S^2 + A B.
    """
    # f -> -f, S -> -S, A <-> B, gamma -> 1 / gamma leaves the flow as it is: only S >= 0 is left to do.
    rising = target >= 0
    size = jnp.where(rising, target, -target)
    fed, starved = jnp.where(rising, a, b), jnp.where(rising, b, a)
    square = size**2 + fed * starved
    # Short of r t = 1, series in r^2: no root, so derivatives exist where r = 0, and nothing cancels by
    # more than a factor e. Beyond, r > 0, and e^{r t} is divided out.
    short = square * t * t < 1
    squared = jnp.where(short, square * t * t, 0.0)
    c, s = cosh_root(squared), jnp.where(short, t, 1.0) * sinhc_root(squared)
    r = jnp.sqrt(jnp.where(short, 1.0, square))
    e = jnp.exp(-2 * r * t)
    h = -jnp.expm1(-2 * r * t) / (2 * r)
    gain = jnp.where(short, c + (size + starved) * s, 0.5 * (1 + e) + (size + starved) * h)
    loss = jnp.where(short, c + (fed - size) * s, e + (fed + fed * starved / (r + size)) * h)
    return Growth(jnp.where(rising, gain, loss), jnp.where(rising, loss, gain), jnp.where(short, s, h))


def final_growth(target: Alike, a: Alike, b: Alike) -> Growth:
    """The growth as t -> inf."""
    rate, plus, minus = rates(target, a, b)
    return Growth(plus + b, minus + a, jnp.ones_like(rate))


def rates(level: Alike, a: Alike, b: Alike) -> tuple[Alike, Alike, Alike]:
    """r = sqrt(level^2 + A B), r + level and r - level, the last two without cancellation."""
    r = safe_root(level**2 + a * b)
    larger = r + jnp.where(level >= 0, level, -level)
    smaller = quotient(a * b, larger)
    return r, jnp.where(level >= 0, larger, smaller), jnp.where(level >= 0, smaller, larger)
