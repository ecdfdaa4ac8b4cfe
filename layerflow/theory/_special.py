"""Functions with a removable 0/0, smooth there to every order, and a quotient that keeps its range."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Alike = Float[Array, "*shape"]  # arrays of one shape throughout a function


def phi1(y: Alike) -> Alike:
    """(1 - e^{-y}) / y, and 1 at y = 0."""
    near = jnp.abs(y) < 1
    # The derivative of the quotient loses a digit for each that y has after the point, the second derivative two.
    series = _polynomial(jnp.where(near, y, 0.0), lambda n: -1 / (n + 1), 18)
    away = jnp.where(near, 1.0, y)
    return jnp.where(near, series, quotient(-jnp.expm1(-away), away))


def phi2(y: Alike) -> Alike:
    """(e^{-y} - 1 + y) / y^2, and 1/2 at y = 0."""
    near = jnp.abs(y) < 1
    series = 0.5 * _polynomial(jnp.where(near, y, 0.0), lambda n: -1 / (n + 2), 18)
    away = jnp.where(near, 1.0, y)
    return jnp.where(near, series, quotient(1 + quotient(jnp.expm1(-away), away), away))


def log1p_over(x: Alike) -> Alike:
    """log(1 + x) / x for x > -1, and 1 at x = 0."""
    near = jnp.abs(x) < 0.25
    small = jnp.where(near, x, 0.0)
    # log(1 + x) = 2 artanh(y) with y = x / (2 + x), whose series is in powers of y^2 < 1/49.
    series = _polynomial((small / (2 + small)) ** 2, lambda n: (2 * n - 1) / (2 * n + 1), 11)
    away = jnp.where(near, 1.0, x)
    return jnp.where(near, 2 * series / (2 + small), quotient(jnp.log1p(away), away))


def cosh_root(x: Alike) -> Alike:
    """cosh(sqrt(x)) for 0 <= x <= 1, smooth at 0."""
    return _polynomial(x, lambda n: 1 / ((2 * n - 1) * (2 * n)), 10)


def sinhc_root(x: Alike) -> Alike:
    """sinh(sqrt(x)) / sqrt(x) for 0 <= x <= 1, smooth at 0."""
    return _polynomial(x, lambda n: 1 / (2 * n * (2 * n + 1)), 10)


def _polynomial(x: Alike, ratio: Callable[[int], float], degree: int) -> Alike:
    """1 + r(1) x + r(1) r(2) x^2 + ..., from the ratio r(n) of neighbouring coefficients."""
    value = jnp.ones_like(x)
    for n in range(degree, 0, -1):
        value = 1 + ratio(n) * x * value
    return value


@jax.custom_jvp
def quotient(part: Alike, whole: Alike) -> Alike:
    """part / whole, and 0 where `whole` is 0."""
    zero = whole == 0
    return jnp.where(zero, 0.0, part / jnp.where(zero, 1.0, whole))


@quotient.defjvp
def _(point: tuple[Array, Array], change: tuple[Array, Array]) -> tuple[Array, Array]:
    """Without the square of the denominator, which under- or overflows long before the quotient does."""
    (part, whole), (dpart, dwhole) = point, change
    value = quotient(part, whole)
    return value, quotient(dpart - value * dwhole, whole)


def or_infinite(part: Alike, whole: Alike) -> Alike:
    """part / whole, and infinite where `whole` is not positive."""
    return jnp.where(whole > 0, quotient(part, whole), jnp.inf)
