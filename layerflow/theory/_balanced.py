"""Lambda-balanced two-layer networks on whitened inputs: the Q Q^T solution."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from layerflow.base._checks import require
from layerflow.theory._arguments import finite
from layerflow.theory._eigen import flow_axes, flow_matrix
from layerflow.theory._matrices import measured, real_arrays, times
from layerflow.theory._riccati import long_time_factor, riccati_factor


class Balanced(eqx.Module):
    """Two layers of weights up to a rotation of the hidden units, at one time or at many.

    With Q = [w1^T; w2] the solution fixes Q Q^T, hence all that does not change with w1 -> O w1,
    w2 -> w2 O^T for orthogonal O: the map, loss, tangent kernel, and both Gram matrices below.
    `w1` and `w2` themselves equal the weights of the gradient flow up to one such O per time. To
    measure from the start, make it a record too: `Balanced(w1, w2)`.
    """

    w1: Float[Array, "*t hid inp"]
    w2: Float[Array, "*t out hid"]

    @property
    def matrix(self) -> Float[Array, "*t out inp"]:
        """The end-to-end matrix w2 w1."""
        return self.w2 @ self.w1

    @property
    def input_gram(self) -> Float[Array, "*t inp inp"]:
        """w1^T w1."""
        return self.w1.mT @ self.w1

    @property
    def output_gram(self) -> Float[Array, "*t out out"]:
        """w2 w2^T."""
        return self.w2 @ self.w2.mT

    @property
    def factor(self) -> Float[Array, "*t inp_out hid"]:
        """Q = [w1^T; w2]."""
        return jnp.concatenate([self.w1.mT, self.w2], axis=-2)

    def loss(self, sigma_yx: ArrayLike) -> Float[Array, "*t"]:
        """|w2 w1 - sigma_yx|^2 / 2, the loss on whitened inputs above that of the best linear map."""
        matrix = self.matrix
        return 0.5 * jnp.sum(
            (matrix - jnp.broadcast_to(_like(sigma_yx, matrix, "sigma_yx"), matrix.shape)) ** 2, axis=(-2, -1)
        )

    def ntk(self, x: ArrayLike) -> Float[Array, "*t out_n out_n"]:
        """Tangent kernel I (x) X w1^T w1 X^T + w2 w2^T (x) X X^T on inputs `x` of shape (n, inp).

        Row k n + i is output k on sample i.
        """
        x = _like(x, self.w1, "x")
        out, n = self.w2.shape[-2], x.shape[0]
        eye = jnp.eye(out, dtype=self.w2.dtype)
        kernel = jnp.einsum("km,...ij->...kimj", eye, x @ self.input_gram @ x.T)
        kernel = kernel + jnp.einsum("...km,ij->...kimj", self.output_gram, x @ x.T)
        return kernel.reshape(*kernel.shape[:-4], out * n, out * n)

    def kernel_distance(self, start: "Balanced", xx: ArrayLike | None = None) -> Float[Array, "*t"]:
        """D = |K0/|K0| - K/|K||^2 / 2 between the tangent kernels of `start` and now (Fort et al., 2020).

        No kernel over samples is built. With a = w1^T w1, b = w2 w2^T, X the inputs and G = X X^T,

            K = I (x) X a X^T + b (x) G,
            |K|^2 = out |X a0 X^T|^2 + |G|^2 (|b0|^2 + out (s + tr b / out)^2),

        a0 being a without its share s I along G, b0 being b without its trace. This is linear in
        (a, b) before the squares, so the difference of two kernels has digits down to D = 1e-20.

        Args:
            start: The network to measure from.
            xx: E[x x^T] of the inputs on which the kernels act, shape (inp, inp); the identity if not given.
        """
        xx = jnp.eye(self.w1.shape[-1], dtype=self.w1.dtype) if xx is None else _like(xx, self.w1, "xx")
        now, then = ((network.input_gram, network.output_gram) for network in (self, start))
        size_now, size_then = (jnp.sqrt(_square(*grams, xx))[..., None, None] for grams in (now, then))
        a, b = (
            end / size_now - jnp.broadcast_to(begin / size_then, end.shape)
            for end, begin in zip(now, then, strict=True)
        )
        return 0.5 * _square(a, b, xx)


class Violations(eqx.Module):
    """How far a task and a start are from the assumptions of the Q Q^T solution."""

    lam: Float[Array, ""]  # the mean of the diagonal of w2^T w2 - w1 w1^T, unless given
    whitened: Float[Array, ""]  # largest entry of |xx - I|
    balanced: Float[Array, ""]  # largest entry of |w2^T w2 - w1 w1^T - lam I|


def balanced_violations(
    w1: ArrayLike, w2: ArrayLike, xx: ArrayLike | None = None, lam: ArrayLike | None = None
) -> Violations:
    """Measure the assumptions of `balanced_network`: whitened inputs and a lambda-balanced start.

    Args:
        w1: First layer, shape (hid, inp).
        w2: Second layer, shape (out, hid).
        xx: E[x x^T], shape (inp, inp); taken as whitened if not given.
        lam: Layer imbalance; estimated as the mean of the diagonal of w2^T w2 - w1 w1^T if not given.

    Returns:
        `lam`, and `whitened` and `balanced`, the largest entries of the two violations.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import balanced_violations
        >>> found = balanced_violations(jnp.eye(2), 2 * jnp.eye(2), xx=jnp.diag(jnp.array([1.0, 1.5])))
        >>> float(found.lam), float(found.whitened), float(found.balanced)
        (3.0, 0.5, 0.0)
    """
    w1, w2 = _layers(w1, w2)
    imbalance = _imbalance(w1, w2)
    lam = jnp.trace(imbalance) / w1.shape[0] if lam is None else _like(lam, w1, "lam")
    if xx is None:
        whitened = jnp.zeros((), w1.dtype)
    else:
        xx = _like(xx, w1, "xx")
        if xx.shape != (w1.shape[1],) * 2:
            raise ValueError(f"Argument `xx` is E[x x^T] and needs shape {(w1.shape[1],) * 2}, but it has {xx.shape}.")
        whitened = jnp.abs(xx - jnp.eye(w1.shape[1], dtype=w1.dtype)).max()
    return Violations(lam, whitened, jnp.abs(imbalance - lam * jnp.eye(w1.shape[0], dtype=w1.dtype)).max())


def balanced_network(w1: ArrayLike, w2: ArrayLike, lam: ArrayLike, sigma_yx: ArrayLike, t: ArrayLike) -> Balanced:
    """A lambda-balanced two-layer network on whitened inputs after gradient flow for a time t.

    For E[x x^T] = I and w2^T w2 - w1 w1^T = lam I at t = 0, and with no other condition on widths,
    ranks, alignment or scale, gradient flow of L = E|y - w2 w1 x|^2 / 2 keeps Q = [w1^T; w2] at

        (Q Q^T)' = F Q Q^T + Q Q^T F - (Q Q^T)^2,    F = [[-lam/2 I, sigma_yx^T], [sigma_yx, lam/2 I]],
        Q Q^T(t) = e^{Ft} Q0 (I + Q0^T int_0^t e^{2Fs} ds Q0)^{-1} Q0^T e^{Ft}.

    One evaluation is exact to rounding at any t: one eigendecomposition of F, then an elimination
    with pivots chosen by logarithms, where the textbook form overflows. Rounding limits a start that
    lies exactly on its way into a saddle (see `sign_obstruction`): it leaves it after t of about
    35 / s_min. First derivatives are finite everywhere; second ones need distinct eigenvalues of F.

    Args:
        w1: First layer at t = 0, shape (hid, inp).
        w2: Second layer at t = 0, shape (out, hid).
        lam: Layer imbalance, shape ().
        sigma_yx: Input-output correlation E[y x^T], shape (out, inp).
        t: Gradient-flow time, shape ().

    Returns:
        The network at that time, up to a rotation of its hidden units.

    Raises:
        ValueError: If the shapes do not fit, a time is negative, or the start is not lambda-balanced.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import balanced_network
        >>> network = balanced_network(0.1 * jnp.eye(2), 0.1 * jnp.eye(2), 0.0, jnp.diag(jnp.array([2.0, 1.0])), 1.5)
        >>> network.matrix.round(3).diagonal().tolist()
        [1.3..., 0.16...]

    References:
        Fukumizu (1998); Braun et al. (2022), NeurIPS; Dominé et al. (2025), arXiv:2409.14623.
        Nam et al., arXiv:2502.21009, appendix G.
    """
    (t,) = time_or_times(t, "t", ())
    w1, w2, lam, sigma_yx, t = balanced_arguments(w1, w2, lam, sigma_yx, t, "t")
    return record(_factor(w1, w2, lam, sigma_yx, t), w1.shape[1])


def balanced_path(w1: ArrayLike, w2: ArrayLike, lam: ArrayLike, sigma_yx: ArrayLike, ts: ArrayLike) -> Balanced:
    """`balanced_network` at many times at once, in any order: every time costs one evaluation.

    Args:
        w1: First layer at t = 0, shape (hid, inp).
        w2: Second layer at t = 0, shape (out, hid).
        lam: Layer imbalance, shape ().
        sigma_yx: Input-output correlation E[y x^T], shape (out, inp).
        ts: Gradient-flow times, shape (t,).

    Returns:
        The network along the path, time first in every array.

    Raises:
        ValueError: As for `balanced_network`.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import Balanced, balanced_path
        >>> w1, w2, sigma_yx = jnp.array([[3.0]]), jnp.array([[5.0]]), jnp.array([[1.0]])
        >>> path = balanced_path(w1, w2, 16.0, sigma_yx, jnp.array([0.0, 1e4]))
        >>> path.loss(sigma_yx).round(6).tolist()
        [98.0, 0.0]

    References:
        As for `balanced_network`.
    """
    (ts,) = time_or_times(ts, "ts", (None,))
    w1, w2, lam, sigma_yx, ts = balanced_arguments(w1, w2, lam, sigma_yx, ts, "ts")
    along = jax.vmap(_factor, in_axes=(None, None, None, None, 0))
    return record(along(w1, w2, lam, sigma_yx, ts), w1.shape[1])


def balanced_limit(lam: ArrayLike, sigma_yx: ArrayLike, hid: int) -> Balanced:
    """Where almost every lambda-balanced network comes to as t goes to infinity.

        w2 w1 -> best approximation of rank hid to sigma_yx = U diag(s) V^T,
        w1^T w1 -> V diag((sqrt(lam^2 + 4 s^2) - lam) / 2) V^T,    w2 w2^T -> U diag((sqrt(...) + lam) / 2) U^T

    over the hid largest s. Hidden units beyond min(inp, out), and those of modes with s = 0, keep
    sqrt(|lam|) in the heavier layer. In which directions depends on the start where they have a
    choice (hid < out for lam > 0, hid < inp for lam < 0); this returns one of them. A start in the
    wrong half of weight space does not come here, see `sign_obstruction`.

    Args:
        lam: Layer imbalance, shape ().
        sigma_yx: Input-output correlation E[y x^T], shape (out, inp).
        hid: Width of the hidden layer.

    Returns:
        The network at the end, up to a rotation of its hidden units.

    Raises:
        ValueError: If `sigma_yx` is not a matrix, or no network of these widths has that imbalance.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import balanced_limit
        >>> jnp.abs(balanced_limit(0.0, jnp.diag(jnp.array([2.0, 1.0])), hid=1).matrix).round(4).tolist()
        [[2.0, 0.0], [0.0, 0.0]]

    References:
        Dominé et al. (2025), arXiv:2409.14623.
    """
    lam, sigma_yx = real_arrays(lam=lam, sigma_yx=sigma_yx)
    _matrix(sigma_yx, "sigma_yx", ("out", "inp"))
    (out, inp) = sigma_yx.shape
    for width, side, sign, heavier in ((out, "out", 1, "w2"), (inp, "inp", -1, "w1")):
        if hid > width:
            lam = require(
                lam,
                sign * lam <= 0,
                f"No network with hid={hid} and {side}={width} has an imbalance lam {'>' if sign > 0 else '<'} 0, "
                f"because {heavier} has at most rank {width}{measured(lam)}. Take hid <= {side}, or another lam.",
            )
    size = inp + out
    # Columns beyond the size of Q Q^T stay empty.
    factor = long_time_factor(flow_matrix(lam, sigma_yx), min(hid, size))
    return record(jnp.pad(factor, ((0, 0), (0, max(hid - size, 0)))), inp)


def sign_obstruction(w1: ArrayLike, w2: ArrayLike, sigma_yx: ArrayLike) -> Bool[Array, ""]:
    """Whether the sign of a determinant keeps a zero-balanced network from its target.

    For lam = 0, inp = out and hid >= inp, gradient flow keeps the sign of det(w2 w1). If it differs
    from that of det(sigma_yx), the exact flow ends at the best approximation of rank inp - 1, with
    loss s_min^2 / 2; so do half of all random starts. In floating point, rounding errors escape
    after t of about 35 / s_min. With lam != 0 there is no obstruction, but for small |lam| a plateau.

    Args:
        w1: First layer at t = 0, shape (hid, inp).
        w2: Second layer at t = 0, shape (out, hid).
        sigma_yx: Input-output correlation E[y x^T], shape (out, inp).

    Returns:
        A boolean of shape (); False for inp != out and for hid < inp, where no determinant obstructs.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import sign_obstruction
        >>> bool(sign_obstruction(jnp.eye(2), jnp.eye(2), jnp.diag(jnp.array([1.0, -1.0]))))
        True
    """
    w1, w2 = _layers(w1, w2)
    sigma_yx = _like(sigma_yx, w1, "sigma_yx")
    _fits(w1, w2, sigma_yx)
    if w1.shape[1] != w2.shape[0] or w1.shape[0] < w1.shape[1]:
        return jnp.zeros((), bool)
    # One batched call: independent ones can block each other on the CPU.
    signs, _ = jnp.linalg.slogdet(jnp.stack([w2 @ w1, sigma_yx]))
    return signs[0] * signs[1] < 0


def record(factor: Float[Array, "*t inp_out hid"], inp: int) -> Balanced:
    """The layers of Q = [w1^T; w2]."""
    return Balanced(factor[..., :inp, :].mT, factor[..., inp:, :])


def _like(value: ArrayLike, other: Array, name: str) -> Array:
    return finite(value, name).astype(other.dtype)


def _imbalance(w1: Float[Array, "hid inp"], w2: Float[Array, "out hid"]) -> Float[Array, "hid hid"]:
    return w2.T @ w2 - w1 @ w1.T


@jax.jit  # traced once, not at every sweep
def _factor(w1: Array, w2: Array, lam: Array, sigma_yx: Array, t: Array) -> Float[Array, "inp_out hid"]:
    """Q = [w1^T; w2] at time t."""
    q0, axes = jnp.concatenate([w1.T, w2]), flow_axes(lam, sigma_yx)
    return riccati_factor(flow_matrix(lam, sigma_yx), q0, t, axes)


def _square(a: Float[Array, "*t inp inp"], b: Float[Array, "*t out out"], xx: Float[Array, "inp inp"]) -> Array:
    """|I (x) X a X^T + b (x) X X^T|^2 / n^2, as a sum of squares."""
    trace = lambda matrix: jnp.trace(matrix, axis1=-2, axis2=-1)
    out, gram = b.shape[-1], jnp.sum(xx**2)
    seen = xx @ a
    share = trace(seen @ xx) / gram
    seen = seen - jnp.einsum("...,ij->...ij", share, xx)
    mean = trace(b) / out
    traceless = b - jnp.einsum("...,ij->...ij", mean, jnp.eye(out, dtype=b.dtype))
    across = jnp.maximum(jnp.sum(seen * seen.mT, axis=(-2, -1)), 0.0)
    return out * across + gram * (jnp.sum(traceless**2, axis=(-2, -1)) + out * (share + mean) ** 2)


def _matrix(value: Array, name: str, axes: tuple[str, str]) -> None:
    if value.ndim != 2:
        raise ValueError(f"Argument `{name}` is a matrix of shape ({', '.join(axes)}), but it has shape {value.shape}.")


def _layers(w1: ArrayLike, w2: ArrayLike) -> tuple[Array, Array]:
    """Both layers in one dtype, or an error."""
    w1, w2 = real_arrays(w1=w1, w2=w2)
    _matrix(w1, "w1", ("hid", "inp"))
    _matrix(w2, "w2", ("out", "hid"))
    if w2.shape[1] != w1.shape[0]:
        raise ValueError(
            f"Two layers need `w1` of shape (hid, inp) and `w2` of shape (out, hid), but they have shapes {w1.shape} "
            f"and {w2.shape}. For a map x^T W1 W2 pass w1 = W1.T and w2 = W2.T."
        )
    return w1, w2


def _fits(w1: Array, w2: Array, sigma_yx: Array) -> None:
    needed = (w2.shape[0], w1.shape[1])
    if sigma_yx.shape != needed:
        raise ValueError(
            f"Argument `sigma_yx` is E[y x^T], so for these weights it needs shape {needed}, but it has shape "
            f"{sigma_yx.shape}."
        )


def time_or_times(t: ArrayLike, name: str, shape: tuple[int | None, ...]) -> list[Array]:
    """`t` as an array of one time or of many, or an error."""
    time = finite(t, name)
    if time.ndim != len(shape) or time.size == 0:
        what = (
            "one time; for many call balanced_path" if not shape else "times in a vector; for one call balanced_network"
        )
        raise ValueError(f"Argument `{name}` holds {what}, but it has shape {time.shape}.")
    return [time]


def balanced_arguments(
    w1: ArrayLike, w2: ArrayLike, lam: ArrayLike, sigma_yx: ArrayLike, t: Array, name: str
) -> list[Array]:
    """All arguments in one dtype, or an error."""
    w1, w2, lam, sigma_yx, t = real_arrays(w1=w1, w2=w2, lam=lam, sigma_yx=sigma_yx, t=t)
    w1, w2 = _layers(w1, w2)
    _fits(w1, w2, sigma_yx)
    if lam.shape != ():
        raise ValueError(f"Argument `lam` is one number, but it has shape {lam.shape}. Map over many with jax.vmap.")
    t = times(t, name)
    violation = balanced_violations(w1, w2, lam=lam).balanced
    size = jnp.abs(lam) + jnp.max(jnp.abs(w1)) ** 2 + jnp.max(jnp.abs(w2)) ** 2
    lam = require(
        lam,
        violation <= 100 * math.sqrt(jnp.finfo(w1.dtype).eps) * size,
        f"This solution assumes a lambda-balanced start, w2^T w2 - w1 w1^T = lam I, but the largest entry of "
        f"|w2^T w2 - w1 w1^T - lam I| is too large{measured(violation)}. Draw the start with lf.lambda_balanced, or "
        f"look at balanced_violations(w1, w2).",
    )
    return [w1, w2, lam, sigma_yx, t]
