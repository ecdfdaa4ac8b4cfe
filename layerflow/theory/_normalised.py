"""Normalised inputs and a normalised neuron: what normalisation makes of the same networks."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._checks import whole
from layerflow.base._numerics import safe_root
from layerflow.theory._arguments import ensure, finite, not_negative, positive, times, together, variances
from layerflow.theory._mode import LayerPair, grown_exponentially, layer_pair
from layerflow.theory._special import Alike, phi1, quotient

# Weights of the results with 1, 2, 3 and 4 substeps, with which the errors of orders 2, 4 and 6 cancel.
_EXTRAPOLATION = {1: -1 / 360, 2: 16 / 45, 3: -729 / 280, 4: 1024 / 315}


class NormalisedNeuron(eqx.Module):
    """State of f = g w.x / sqrt(w^T E[x x^T] w); both arrays have the times' and the parameters' joint shape."""

    scale: Alike  # g
    cosine: Alike  # phi, between w and the target


def normalised_pair(
    t: ArrayLike, a0: ArrayLike, b0: ArrayLike, target: ArrayLike, variance: ArrayLike = 1.0
) -> LayerPair:
    """One mode of two layers whose inputs are divided by their standard deviation: f = a b x / sqrt(E).

        a' = b (S sqrt(E) - a b),    b' = a (S sqrt(E) - a b),

    the mode of `layer_pair` with S sqrt(E) in place of S and 1 in place of E. Speeds of modes 2 S E become 2 S sqrt(E),
    so that their spread is the square root of what it was. With a the learnt scale of a normalised input, this is
    batch normalisation of uncorrelated inputs; correlated ones need to be whitened in their principal components.

    Args:
        t: Times t >= 0.
        a0, b0: The two layers at t = 0, of any sign and size.
        target: S, the strength that the task asks for before normalisation, of any sign.
        variance: E = E[x^2] of the mode's input before normalisation.

    All shapes broadcast, and the results have the shape they broadcast to.

    Returns:
        The layers `a` and `b` and their product `strength`, which goes to S sqrt(E).

    Raises:
        ValueError: If a time or a variance is negative, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import normalised_pair
        >>> late = normalised_pair(100.0, 0.05, 0.05, 1.0, jnp.array([4.0, 0.09]))
        >>> [f"{strength:.4f}" for strength in late.strength]
        ['2.0000', '0.3000']
    """
    target, variance = finite(target, "target"), variances(variance)
    return layer_pair(t, a0, b0, target * safe_root(variance))


def normalised_neuron(
    t: ArrayLike,
    scale: ArrayLike,
    cosine: ArrayLike,
    target: ArrayLike,
    weight_norm: ArrayLike,
    *,
    steps: int = 200,
) -> NormalisedNeuron:
    """A neuron normalised over the population, f = g w.x / |w| on whitened inputs, after gradient flow for a time t.

        g' = s phi - g,    phi' = (g s / |w|^2) (1 - phi^2),    loss (g^2 - 2 g s phi + s^2) / 2,

    with phi the cosine between w and the target beta, and s = |beta|. |w| stays, so it sets how fast w turns beside
    the scale g: see `heavy_normalised_neuron` and `light_normalised_neuron`. No elementary solution is known (Abel's
    equation); the flow is integrated in steps of t / steps and of order 8, made of the exact flows of g for fixed
    phi and of phi for fixed g.

    Args:
        t: Times t >= 0.
        scale: g at t = 0, of any sign.
        cosine: phi at t = 0, from -1 to 1.
        target: s >= 0.
        weight_norm: |w| > 0.
        steps: How many steps to take. The error is below 1e-11 while a step is shorter than
            0.7 / max(1, s / |w|, |g| s / |w|^2).

    All shapes broadcast, and the results have the shape they broadcast to.

    Returns:
        `scale` and `cosine` at `t`.

    Raises:
        ValueError: If a time or s is negative, |w| is not positive, phi is not from -1 to 1, a number is not real or
            not finite, or `steps` is not a whole number from 1 on.

    Example:
        >>> from layerflow.theory import normalised_neuron
        >>> now = normalised_neuron(2.0, 0.2, 0.3, 1.0, 1.0)
        >>> print(f"{now.scale:.6f} {now.cosine:.6f}")
        0.544929 0.766338
    """
    if not whole(steps) or steps < 1:
        raise ValueError(
            f"Argument `steps` counts steps and needs to be a whole number from 1 on, but it is {steps!r}."
        )
    t, scale, cosine, target, weight_norm = together(
        t=times(t),
        scale=scale,
        cosine=_cosines(cosine),
        target=not_negative(target, "target", "the length of the target"),
        weight_norm=_norms(weight_norm),
    )
    return _normalised_neuron(t, scale, cosine, target, weight_norm, int(steps))


def normalised_cosine(
    t: ArrayLike,
    cosine: ArrayLike,
    scale: ArrayLike,
    target: ArrayLike,
    weight_norm: ArrayLike,
    decay: ArrayLike = 0.0,
) -> Float[Array, "..."]:
    """The cosine to the target of a normalised neuron whose scale g is fixed.

        phi = tanh(artanh phi(0) + (g s / |w(0)|^2) (e^{2 nu t} - 1) / (2 nu)),

    with t in place of the last quotient at nu = 0. Weight decay nu on w shrinks |w|, which speeds up the rotation. With
    w fixed instead, g is `exponential(t, g(0), s phi)`.

    Args:
        t: Times t >= 0.
        cosine: phi at t = 0, from -1 to 1.
        scale: g, of any sign.
        target: s = |beta| >= 0.
        weight_norm: |w| > 0 at t = 0.
        decay: nu >= 0.

    All shapes broadcast.

    Returns:
        phi(t), of the common shape.

    Raises:
        ValueError: If a time, s or nu is negative, |w| is not positive, phi is not from -1 to 1, or a number is not
            real or not finite.

    Example:
        >>> from layerflow.theory import normalised_cosine
        >>> print(f"{normalised_cosine(1.0, 0.0, 1.0, 1.0, 1.0):.4f}")  # tanh 1
        0.7616
    """
    arrays = together(
        t=times(t),
        cosine=_cosines(cosine),
        scale=scale,
        target=not_negative(target, "target", "the length of the target"),
        weight_norm=_norms(weight_norm),
        decay=not_negative(decay, "decay", "the decay of the weights"),
    )
    return _normalised_cosine(*arrays)


def heavy_normalised_neuron(
    t: ArrayLike, cosine: ArrayLike, target: ArrayLike, weight_norm: ArrayLike
) -> NormalisedNeuron:
    """`normalised_neuron` for |w| >> s: w turns slowly, and the scale follows at once.

        g = s phi,    phi^2 = 1 / (1 + (1 / phi(0)^2 - 1) e^{-2 s^2 t / |w|^2}).

    The sign of phi stays, so that the neuron may end at g = -s, phi = -1, which is the same function. The error is
    of order s^2 / |w|^2, after a time of about 1 in which g comes to s phi.

    Args:
        t: Times t >= 0.
        cosine: phi at t = 0, from -1 to 1.
        target: s = |beta| >= 0.
        weight_norm: |w| > 0.

    All shapes broadcast, and the results have the shape they broadcast to.

    Returns:
        `scale` and `cosine` at `t`.

    Raises:
        ValueError: As for `normalised_neuron`.

    Example:
        >>> from layerflow.theory import heavy_normalised_neuron
        >>> now = heavy_normalised_neuron(100.0, 0.2, 1.0, 10.0)
        >>> print(f"{now.scale:.4f} {now.cosine:.4f}")
        0.4852 0.4852
    """
    arrays = together(
        t=times(t),
        cosine=_cosines(cosine),
        target=not_negative(target, "target", "the length of the target"),
        weight_norm=_norms(weight_norm),
    )
    return _heavy_normalised_neuron(*arrays)


def light_normalised_neuron(t: ArrayLike, scale: ArrayLike, target: ArrayLike) -> NormalisedNeuron:
    """`normalised_neuron` for |w| << s: w turns at once, and the scale is a linear readout.

        phi = sign g(0),    g = phi s + (g(0) - phi s) e^{-t}.

    The error is of order |w|^2 / s^2, after the short time in which w turns.

    Args:
        t: Times t >= 0.
        scale: g at t = 0, not 0.
        target: s = |beta| >= 0.

    All shapes broadcast, and the results have the shape they broadcast to.

    Returns:
        `scale` and `cosine` at `t`.

    Raises:
        ValueError: If a time or s is negative, g is 0, or a number is not real or not finite.

    Example:
        >>> from layerflow.theory import light_normalised_neuron
        >>> now = light_normalised_neuron(1.0, -0.5, 1.0)
        >>> print(f"{now.scale:.4f} {now.cosine:.0f}")
        -0.8161 -1
    """
    scale = ensure(finite(scale, "scale"), lambda x: x != 0, "Argument `scale` needs numbers other than 0")
    arrays = together(t=times(t), scale=scale, target=not_negative(target, "target", "the length of the target"))
    return _light_normalised_neuron(*arrays)


def _cosines(cosine: ArrayLike) -> Array:
    return ensure(finite(cosine, "cosine"), lambda x: abs(x) <= 1, "Argument `cosine` needs numbers from -1 to 1")


def _norms(weight_norm: ArrayLike) -> Array:
    return positive(weight_norm, "weight_norm", "the length of the weights")


def _turned(cosine: Alike, angle: Alike) -> Alike:
    """tanh(artanh cosine + angle), at -1 and 1 too."""
    back = jnp.exp(-2 * jnp.abs(angle))
    up = (1 + cosine) * jnp.where(angle < 0, back, 1.0)
    down = (1 - cosine) * jnp.where(angle < 0, 1.0, back)
    return jnp.where(up + down > 0, quotient(up - down, up + down), cosine)


@jax.jit
def _normalised_cosine(t: Alike, cosine: Alike, scale: Alike, target: Alike, norm: Alike, decay: Alike) -> Alike:
    # Beyond, phi is +-1 at any float, and infinity times a scale of 0 has no value.
    most = 0.5 * jnp.log(jnp.finfo(t.dtype).max)
    stretched = t * phi1(-jnp.minimum(2 * decay * t, most))
    return _turned(cosine, stretched * scale * target / norm**2)


@jax.jit
def _heavy_normalised_neuron(t: Alike, cosine: Alike, target: Alike, norm: Alike) -> NormalisedNeuron:
    rest = (1 - cosine) * (1 + cosine) * jnp.exp(-2 * target**2 * t / norm**2)
    length = safe_root(cosine**2 + rest)
    turned = quotient(cosine, length)
    return NormalisedNeuron(target * turned, turned)


@jax.jit
def _light_normalised_neuron(t: Alike, scale: Alike, target: Alike) -> NormalisedNeuron:
    sign = jnp.sign(scale)
    return NormalisedNeuron(grown_exponentially(t, scale, sign * target, jnp.ones_like(t)), sign)


@eqx.filter_jit
def _normalised_neuron(
    t: Alike, scale: Alike, cosine: Alike, target: Alike, norm: Alike, steps: int
) -> NormalisedNeuron:
    h, speed = t / steps, target / norm**2

    def split(scale: Array, angle: Array, substeps: int) -> Array:
        """By how much both change in the two exact flows in turn, half of the first at either end: errors are even."""
        part = h / substeps
        rotated, gained = 0.5 * part * speed * scale, jnp.zeros_like(scale)
        for k in range(substeps):
            pull = target * _turned(cosine, angle + rotated)
            gained = gained - (pull - scale - gained) * jnp.expm1(-part)
            rotated = rotated + (0.5 if k == substeps - 1 else 1.0) * part * speed * (scale + gained)
        return jnp.stack([gained, rotated])

    def step(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        changes = [weight * split(*state, substeps) for substeps, weight in _EXTRAPOLATION.items()]
        gained, rotated = functools.reduce(jnp.add, changes)
        return (state[0] + gained, state[1] + rotated), None

    (scale, angle), _ = jax.lax.scan(step, (scale, jnp.zeros_like(scale)), length=steps)
    return NormalisedNeuron(scale, _turned(cosine, angle))
