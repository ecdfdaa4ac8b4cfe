"""Second moments: all that a linear network sees of its data."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from layerflow.base._checks import is_concrete, plain, real_array, require
from layerflow.base._numerics import product, safe_root, spanned
from layerflow.tasks._base import Task, factors, linear_map


class Moments(Task):
    """All that a linear network sees of its data: second moments of inputs and targets.

    The loss of a network with end-to-end matrix W is E|y - W x|^2 / 2, evaluated as

        L = tr(G xx^+ G^T) / 2 + floor,    G = W xx - yx,    floor = E|y - yx xx^+ x|^2 / 2,

    which unlike tr(W xx W^T - 2 W yx^T + yy) / 2 keeps its digits when the loss is small, and
    never turns negative. A step costs the same for 10 samples or 10^9.

    Args:
        xx: E[x x^T], shape (inp, inp), symmetric.
        yx: E[y x^T], shape (out, inp).
        yy: E[y y^T], shape (out, out).
        inverse, floor: The pseudo-inverse xx^+ and the loss of the best linear map, where they
            are known more exactly than from the moments; these are then taken as they come.

    Attributes:
        inverse: The pseudo-inverse xx^+, shape (inp, inp).
        floor: The loss of the best linear map, shape ().

    Raises:
        ValueError: If the shapes do not fit, `xx` is not symmetric, or no data can have
            these moments.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> task = lf.Moments.whitened(yx=jnp.diag(jnp.array([3.0, 2.0, 1.0])))
        >>> float(task.loss(lf.LinearNetwork((jnp.zeros((3, 3)),))))
        7.0
    """

    xx: Float[Array, "inp inp"]
    yx: Float[Array, "out inp"]
    yy: Float[Array, "out out"]
    inverse: Float[Array, "inp inp"]
    floor: Float[Array, ""]

    def __init__(
        self,
        xx: ArrayLike,
        yx: ArrayLike,
        yy: ArrayLike,
        *,
        inverse: ArrayLike | None = None,
        floor: ArrayLike | None = None,
    ) -> None:
        xx, yx, yy = real_array(xx, "xx"), real_array(yx, "yx"), real_array(yy, "yy")
        if yx.ndim != 2 or xx.shape != (yx.shape[1],) * 2 or yy.shape != (yx.shape[0],) * 2:
            raise ValueError(
                f"Moments needs `xx` of shape (inp, inp), `yx` of shape (out, inp) and `yy` of shape (out, out), but "
                f"they have shapes {xx.shape}, {yx.shape} and {yy.shape}. From data: Moments.from_samples(x, y)."
            )
        if inverse is None or floor is None:
            # Variances below rounding of the largest count as zero.
            inverse = jnp.linalg.pinv(xx, rtol=xx.shape[0] * jnp.finfo(xx.dtype).eps, hermitian=True)
            xx, floor = _checked_floor(xx, yx, yy, inverse)
        self.inverse = jnp.asarray(plain(inverse, "Argument `inverse`"))
        self.xx, self.yx, self.yy, self.floor = xx, yx, yy, jnp.asarray(plain(floor, "Argument `floor`"))

    @classmethod
    def from_samples(cls, x: ArrayLike, y: ArrayLike, weight: ArrayLike | None = None) -> "Moments":
        """Second moments of a sample, one row per sample.

        Args:
            x: Inputs, shape (n, inp).
            y: Targets, shape (n, out).
            weight: How much each sample counts, shape (n,); all alike if not given.

        Raises:
            ValueError: If `x` and `y` are not matrices of one length, or `weight` does not fit, is
                negative or zero throughout.
        """
        x, y = sample_pair(x, y)
        return moments_of(cls, x, y, None if weight is None else sample_weight(weight, x))

    @classmethod
    def whitened(cls, yx: ArrayLike, yy: ArrayLike | None = None) -> "Moments":
        """Whitened inputs, E[x x^T] = I, with a given correlation.

        Args:
            yx: E[y x^T], shape (out, inp).
            yy: E[y y^T], shape (out, out); yx @ yx^T (targets without noise) if not given.
        """
        yx = real_array(yx, "yx")
        if yx.ndim != 2:
            raise ValueError(f"Argument `yx` is E[y x^T] and needs shape (out, inp), but it has shape {yx.shape}.")
        return cls(jnp.eye(yx.shape[1], dtype=yx.dtype), yx, yx @ yx.T if yy is None else yy)

    def __str__(self) -> str:
        """What the task is and its sizes, in a few words."""
        return f"Moments of {self.yx.shape[1]} inputs and {self.yx.shape[0]} outputs"

    def check(self, network: PyTree) -> None:
        """Raise unless `network` is a linear map that fits."""
        linear_map(network, self, (self.yx.shape[0], self.yx.shape[1]))

    def loss(self, network: PyTree) -> Float[Array, ""]:
        """L = E|y - W x|^2 / 2, from the moments alone."""
        return _loss(network.matrix, self.xx, self.yx, self.yy, self.inverse, self.floor)

    def excess(self, network: PyTree) -> Float[Array, ""]:
        """E|f(x) - f*(x)|^2 = tr(G xx^+ G^T), f* the best linear map: twice the loss less `floor`, to all digits."""
        out = self.yy.shape[0]
        explained = self.yy - 2 / out * self.floor * jnp.eye(out, dtype=self.yy.dtype)
        nothing = jnp.zeros_like(self.floor)
        return 2 * _loss(network.matrix, self.xx, self.yx, explained, self.inverse, nothing)

    def rescale(self, *, input: ArrayLike = 1.0, target: ArrayLike = 1.0) -> "Moments":
        """Inputs times `input` and targets times `target`."""
        input, target = factors(input, target)
        return eqx.tree_at(
            lambda m: (m.xx, m.yx, m.yy, m.inverse, m.floor),
            self,
            (
                self.xx * input**2,
                self.yx * (input * target),
                self.yy * target**2,
                self.inverse / input**2,
                self.floor * target**2,
            ),
        )

    def least_loss(self, network: PyTree) -> Float[Array, ""]:
        """The loss of the best matrix of the rank that the narrowest layer allows (reduced-rank regression)."""
        self.check(network)
        if not hasattr(network, "widths"):
            return super().least_loss(network)
        variance, axes = jnp.linalg.eigh(self.xx)
        whitened_best = self.yx @ self.inverse @ axes * jnp.sqrt(jnp.maximum(variance, 0.0))[None, :]
        strengths = jnp.linalg.svd(whitened_best, compute_uv=False)
        # A diagonal network has two widths too, and one output: no bottleneck.
        beyond_rank = strengths[min(network.widths) :]
        return jax.lax.stop_gradient(self.floor + 0.5 * jnp.sum(beyond_rank**2))

    def null_loss(self) -> Float[Array, ""]:
        """L = E|y|^2 / 2."""
        return 0.5 * jnp.trace(self.yy)


@jax.custom_jvp
def _loss(w: Array, xx: Array, yx: Array, yy: Array, inverse: Array, floor: Array) -> Array:  # noqa: ARG001
    slope = w @ xx - yx
    return 0.5 * jnp.sum((slope @ inverse) * slope) + floor


@_loss.defjvp
def _(point: tuple[Array, ...], change: tuple[Array, ...]) -> tuple[Array, Array]:
    """The derivative of tr(W xx W^T - 2 W yx^T + yy) / 2: cheap, exact, and without a pseudo-inverse."""
    (w, xx, yx, *_), (dw, dxx, dyx, dyy, *_) = point, change
    by_data = 0.5 * jnp.sum((w @ dxx) * w) - jnp.sum(w * dyx) + 0.5 * jnp.trace(dyy)
    slope = product(w, xx) - yx  # of every stage of every step
    return _loss(*point), jnp.sum(slope * dw) + by_data


def inverse_of(xx: Float[Array, "inp inp"]) -> tuple[Array, Array]:
    """E[x x^T], if it is one, and its pseudo-inverse."""
    slack = 100 * jnp.finfo(xx.dtype).eps ** 0.5
    variance, axes = jnp.linalg.eigh(xx)
    largest = jnp.abs(variance).max()
    xx = require(
        xx,
        (jnp.abs(xx - xx.T).max() <= slack * jnp.abs(xx).max()) & (variance.min() >= -slack * largest),
        "Argument `xx` is E[x x^T] and needs to be symmetric, with no negative variance, but it is not.",
    )
    spanned = variance > len(xx) * jnp.finfo(xx.dtype).eps * largest
    return xx, (axes * jnp.where(spanned, 1 / jnp.where(spanned, variance, 1.0), 0.0)[None, :]) @ axes.T


def _checked_floor(xx: Array, yx: Array, yy: Array, inverse: Array) -> tuple[Array, Array]:
    """E[x x^T] and the loss of the best linear map, if data can have these moments."""
    slack = 100 * jnp.finfo(xx.dtype).eps ** 0.5
    xx = require(
        xx,
        jnp.abs(xx - xx.T).max() <= slack * jnp.abs(xx).max(),
        "Argument `xx` is E[x x^T] and needs to be symmetric, but it is not.",
    )
    best = yx @ inverse
    explained, power = jnp.sum(best * yx), jnp.trace(yy)
    power = require(
        power,
        (explained <= power * (1 + slack)) & (jnp.abs(best @ xx - yx).max() <= slack * jnp.abs(yx).max()),
        "No data can have these moments: the targets would have to follow the inputs more closely than E[y y^T] and "
        "E[x x^T] allow. Check that `yx` is E[y x^T] and that all three are averages over the same samples.",
    )
    return xx, 0.5 * jnp.maximum(power - explained, 0.0)


def moments_of(
    kind: type[Moments], x: Float[Array, "n ..."], y: Float[Array, "n ..."], weight: Float[Array, " n"] | None
) -> Moments:
    """Second moments of samples whose numbers are checked."""
    if x.ndim != 2 or y.ndim != 2:
        raise ValueError(
            f"Second moments need `x` of shape (n, inp) and `y` of shape (n, out), but they have shapes {x.shape} "
            f"and {y.shape}. Flatten each sample first, as in x.reshape(len(x), -1)."
        )
    return _of_samples(kind, x, y, weight)


@eqx.filter_jit
def _of_samples(
    kind: type[Moments], x: Float[Array, "n inp"], y: Float[Array, "n out"], weight: Float[Array, " n"] | None
) -> Moments:
    rooted_x, rooted_y, n = _weighed(x, y, weight)
    u, s, vt, kept = _axes(rooted_x)
    inverse = (vt.T * jnp.where(kept, n / jnp.where(kept, s, 1.0) ** 2, 0.0)[None, :]) @ vt
    xx, yx, yy = (mean_product(*pair, weight) for pair in ((x, x), (y, x), (y, y)))
    return kind(xx, yx, yy, inverse=inverse, floor=_floor(u, rooted_y, n))


def mean_product(
    a: Float[Array, "n p"], b: Float[Array, "n q"], weight: Float[Array, " n"] | None
) -> Float[Array, "p q"]:
    """E[a b^T] over samples, by weight: linear in the weights, so that derivatives by those of 0 are right too."""
    if weight is None:
        return a.T @ b / a.shape[0]
    return (weight[:, None] * a).T @ b / jnp.sum(weight)


def least_of_rank(
    rank: int, x: Float[Array, "n inp"], y: Float[Array, "n out"], weight: Float[Array, " n"] | None = None
) -> Float[Array, ""]:
    """The loss of the best matrix of a rank, from the samples (reduced-rank regression)."""
    x, y, n = _weighed(*jax.lax.stop_gradient((x, y, weight)))
    u, *_ = _axes(x)
    strengths = jnp.linalg.svd(u.T @ y, compute_uv=False) / n**0.5
    return _floor(u, y, n) + 0.5 * jnp.sum(strengths[rank:] ** 2)


def _weighed(
    x: Float[Array, "n inp"], y: Float[Array, "n out"], weight: Float[Array, " n"] | None
) -> tuple[Array, Array, Float[Array, ""] | int]:
    """Inputs and targets whose sums of products over n are the weighted means of products, and that n."""
    if weight is None:
        return x, y, x.shape[0]
    root = safe_root(weight)[:, None]
    return root * x, root * y, jnp.sum(weight)


def _axes(x: Float[Array, "n inp"]) -> tuple[Array, Array, Array, Array]:
    """The singular vectors and values of the inputs, and which of these are more than rounding; of the rest u is 0."""
    # From the samples, not from their moments, which hold the square of their range.
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    kept = spanned(s, x.shape)
    return jnp.where(kept[None, :], u, 0.0), s, vt, kept


def _floor(u: Float[Array, "n r"], y: Float[Array, "n out"], n: Float[Array, ""] | int) -> Float[Array, ""]:
    """The loss of the best linear map of inputs that span the columns of `u`."""
    residual = y - u @ (u.T @ y)
    return 0.5 * jnp.sum(residual**2) / n


def sample_pair(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """Inputs and targets as arrays of floats with one row per sample, or an error."""
    x, y = real_array(x, "x"), real_array(y, "y")
    if x.ndim < 1 or y.ndim < 1 or x.shape[0] != y.shape[0]:
        raise ValueError(
            f"Inputs and targets need one row per sample, so the same length, but `x` has shape {x.shape} and `y` has "
            f"shape {y.shape}. If samples are columns, transpose both."
        )
    if x.shape[0] == 0:
        raise ValueError(f"At least one sample is needed, but `x` has shape {x.shape}.")
    for name, array in (("x", x), ("y", y)):
        if is_concrete(array) and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise ValueError(
                f"Samples need finite numbers, but `{name}` holds {np.asarray(array)[row]} at sample {row}."
            )
    return x, y


def sample_weight(weight: ArrayLike, x: Float[Array, "n ..."]) -> Float[Array, " n"]:
    """One weight per sample in the precision of the inputs, or an error."""
    weight = real_array(weight, "weight")
    if weight.shape != x.shape[:1]:
        raise ValueError(
            f"Argument `weight` holds one number per sample, so for {x.shape[0]} samples it needs shape "
            f"({x.shape[0]},), but it has shape {weight.shape}."
        )
    weight = weight.astype(x.dtype)
    total = jnp.sum(weight)
    return require(
        weight,
        jnp.all(weight >= 0) & (total > 0) & (total < jnp.inf),
        "Argument `weight` says how much each sample counts: finite numbers, none negative and not all zero.",
    )
