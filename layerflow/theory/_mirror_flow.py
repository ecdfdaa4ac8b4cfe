"""The path of a diagonal network on any data, integrated in mirror coordinates."""

import functools
from typing import Any, cast

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._checks import require
from layerflow.base._numerics import full_precision
from layerflow.theory._arguments import ensure, finite, positive, times
from layerflow.theory._matrices import of_inputs, real_arrays, symmetric
from layerflow.theory._mirror import deep_strength, deeper, log_scales, strength

_STEPS = 100_000  # of a path at most, far beyond what was met
_LEAST = 1e-3  # of `rtol`: less is rounding of a long step
_TINY = 1e-30  # in place of no variance


class MirrorPath(eqx.Module):
    """A diagonal network along its flow; time first if there are many."""

    coordinate: Float[Array, "*t inp"]  # theta, or m of a deep network
    strength: Float[Array, "*t inp"]  # beta


def mirror_flow(
    t: ArrayLike,
    xx: ArrayLike,
    yx: ArrayLike,
    theta: ArrayLike,
    difference: ArrayLike,
    *,
    rtol: float | None = None,
    adjoint: dfx.AbstractAdjoint | None = None,
) -> MirrorPath:
    """Gradient flow of f(x) = sum_i a_i b_i x_i on any data, for |C| as small as the dtype holds.

        theta' = -2 (E[x x^T] beta - E[y x]),    beta_i = (|C_i| / 2) sinh theta_i,

    the flow of the loss E|f - y|^2 / 2, for |C| up to 1e12 times beta. The layers of a start of |C| = 1e-160 differ by
    less than rounding, and a flow of the layers would take steps without end; this one is stiff in no more than what
    it has learnt, which an implicit solver steps over. The network u^2 - v^2 has the same path at twice the speed:
    give it 2 t.

    Args:
        t: Times t >= 0, shape () or (t,), in any order.
        xx: E[x x^T], shape (inp, inp).
        yx: E[y x], shape (inp,): row 0 of the `yx` of Moments.
        theta: Mirror coordinates at t = 0, shape (inp,) or (): 0 where beta = 0, else `mirror_coordinate`.
        difference: C, not 0, shape (inp,) or ().
        rtol: Tolerance of a step, absolute for theta and so relative for beta; 1e-11 in float64, 1e-4 in float32.
        adjoint: As for Flow: `diffrax.ForwardMode()` (the default), `RecursiveCheckpointAdjoint()` for `jax.grad`.

    Returns:
        theta and beta at `t`; NaN from where a step failed.

    Raises:
        ValueError: If the shapes do not fit, a time is negative, C is 0 or larger than that, `rtol` is not
            positive, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import mirror_flow
        >>> late = mirror_flow(300.0, jnp.eye(2), jnp.array([1.0, -2.0]), 0.0, 1e-100)
        >>> [f"{beta:.5f}" for beta in late.strength]
        ['1.00000', '-2.00000']

    References:
        Woodworth et al. (2020), arXiv:2002.09277; Azulay et al. (2021), arXiv:2102.09769.
    """
    t, xx, yx, theta, scale = _arguments(t, xx, yx, theta=theta, difference=log_scales(difference))
    tolerance, by = _numerics(rtol, adjoint, t)
    absolute = _absolute(tolerance, xx, yx, strength(theta, scale), 0.5 * jnp.exp(scale))
    path = _integrate(strength, t, xx, yx, -2.0 * jnp.ones_like(scale), theta, scale, absolute, by)
    return MirrorPath(path, strength(path, jnp.broadcast_to(scale, path.shape)))


def deep_mirror_flow(
    t: ArrayLike,
    xx: ArrayLike,
    yx: ArrayLike,
    m: ArrayLike,
    size: ArrayLike,
    *,
    depth: int,
    rtol: float | None = None,
    adjoint: dfx.AbstractAdjoint | None = None,
) -> MirrorPath:
    """Gradient flow of f(x) = sum_i (u_i^D - v_i^D) x_i on any data, at depth D >= 3.

        m' = -alpha^{D - 2} D (D - 2) (E[x x^T] beta - E[y x]),    beta of `deep_mirror_strength`.

    Args:
        t: Times t >= 0, shape () or (t,), in any order.
        xx: E[x x^T], shape (inp, inp).
        yx: E[y x], shape (inp,).
        m: Mirror coordinates at t = 0, shape (inp,) or (): 0 for a start from u = v.
        size: alpha, shape (inp,) or (): the weights themselves where u = v, else (2 / (u^{2 - D} +
            v^{2 - D}))^{1 / (D - 2)}.
        depth: D, at least 3.
        rtol, adjoint: As for `mirror_flow`.

    Returns:
        m and beta at `t`; NaN from where a step failed.

    Raises:
        ValueError: As for `mirror_flow`, and if |m| is not below 1, `size` is not positive or `depth` is below 3.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import deep_mirror_flow
        >>> late = deep_mirror_flow(50.0, jnp.eye(2), jnp.array([1.0, -2.0]), 0.0, 0.3, depth=3)
        >>> [f"{beta:.5f}" for beta in late.strength]
        ['1.00000', '-2.00000']

    References:
        Woodworth et al. (2020), arXiv:2002.09277.
    """
    inside = ensure(finite(m, "m"), lambda x: abs(x) < 1, "Argument `m` needs numbers above -1 and below 1")
    depth, size = deeper(depth), positive(size, "size", "the weight alpha of both branches")
    t, xx, yx, m, alpha = _arguments(t, xx, yx, m=inside, size=size)
    beta = _deep(depth)
    tolerance, by = _numerics(rtol, adjoint, t)
    absolute = _absolute(tolerance, xx, yx, beta(m, alpha), alpha**depth)
    path = _integrate(beta, t, xx, yx, -depth * (depth - 2) * alpha ** (depth - 2), m, alpha, absolute, by)
    return MirrorPath(path, beta(path, jnp.broadcast_to(alpha, path.shape)))


@functools.cache
def _deep(depth: int) -> Any:
    """`deep_strength` of one depth, the same function at every call, so that it compiles once."""
    return lambda m, alpha: deep_strength(m, alpha, depth)


def _arguments(t: ArrayLike, xx: ArrayLike, yx: ArrayLike, **per_input: ArrayLike) -> list[Array]:
    """Everything in one dtype, what is per input in the shape of `yx`."""
    t, xx, yx, *rest = real_arrays(t=times(t), xx=xx, yx=yx, **per_input)
    if yx.ndim != 1 or xx.shape != yx.shape * 2 or t.ndim > 1:
        raise ValueError(
            f"A flow on data needs `xx` of shape (inp, inp), `yx` of shape (inp,) and `t` of shape () or (t,), but "
            f"they have shapes {xx.shape}, {yx.shape} and {t.shape}. Of Moments with one output give yx[0]."
        )
    own = of_inputs(yx.size, **dict(zip(per_input, rest, strict=True)))
    return [t, symmetric(xx, "xx", "E[x x^T]"), yx, *own]


def _numerics(rtol: float | None, adjoint: dfx.AbstractAdjoint | None, t: Array) -> tuple[Array, dfx.AbstractAdjoint]:
    usual = 1e-11 if t.dtype == jnp.float64 else 1e-4
    tolerance = positive(usual if rtol is None else rtol, "rtol", "a tolerance").astype(t.dtype)
    return tolerance, dfx.ForwardMode() if adjoint is None else adjoint


def _absolute(rtol: Array, xx: Array, yx: Array, start: Array, scale: Array) -> Array:
    """The tolerance of coordinates, smaller where strengths are far below their scale: there these are proportional."""
    size = jnp.maximum(jnp.abs(start).max(), jnp.abs(yx).max() / jnp.maximum(jnp.diagonal(xx).max(), _TINY))
    above = jax.lax.stop_gradient(jnp.where(size > 0, scale.max() / jnp.where(size > 0, size, 1.0), 0.0))
    absolute = rtol * jnp.clip(1 / jnp.maximum(above, 1.0), _LEAST, 1.0)
    return require(
        absolute,
        absolute * above < 0.01,
        f"Coordinates are strengths over their scale, too small here to keep the digits of these: the scale needs to "
        f"be below {0.01 / (_LEAST * 1e-11):.0e} times the strengths in float64, 1e5 in float32. So lazy a flow its "
        f"layers do: lf.Flow.",
    )


def _above_noise(scaled: Float[Array, " inp"]) -> Float[Array, ""]:
    """How far an iteration of the implicit step moved, over the tolerance; 0 where that is a hundredth.

    At rest iterations are rounding, which does not fall. Taken for divergence it would cost every other step.
    """
    size = jnp.abs(scaled).max()
    return jnp.where(size < 0.01, 0.0, size)


@eqx.filter_jit
@full_precision()
def _integrate(
    beta: Any,
    t: Float[Array, "*t"],
    xx: Float[Array, "inp inp"],
    yx: Float[Array, " inp"],
    speed: Float[Array, " inp"],
    start: Float[Array, " inp"],
    shape: Float[Array, " inp"],
    absolute: Float[Array, ""],
    adjoint: dfx.AbstractAdjoint,
) -> Float[Array, "*t inp"]:
    """Coordinates at times `t` of the flow coordinate' = speed (xx beta(coordinate, shape) - yx)."""
    velocity = lambda _, coordinate, of: of[2] * (of[0] @ beta(coordinate, of[3]) - of[1])
    order = jnp.argsort(jnp.atleast_1d(t))
    sorted_t = jnp.atleast_1d(t)[order]
    # Absolute: theta is a logarithm, and hundreds where |C| is small. Relative only to stay above rounding.
    relative, within = 8 * float(jnp.finfo(t.dtype).eps), cast(Any, absolute)
    run = dfx.diffeqsolve(
        dfx.ODETerm(velocity),
        dfx.Kvaerno5(root_finder=dfx.VeryChord(rtol=relative, atol=within, norm=_above_noise)),
        t0=0.0,
        t1=sorted_t[-1],
        dt0=None,
        y0=start,
        args=(xx, yx, speed, shape),
        saveat=dfx.SaveAt(ts=sorted_t),
        stepsize_controller=dfx.PIDController(rtol=relative, atol=within),
        adjoint=adjoint,
        max_steps=_STEPS,
        throw=False,
    )
    found: Any = run.ys
    reached = jnp.where(jnp.isfinite(found), found, jnp.nan)
    return jnp.zeros_like(reached).at[order].set(reached).reshape(*t.shape, *start.shape)
