"""Principal components of a sample's inputs: fewer of them, uncorrelated, whitened if wanted."""

import operator

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._checks import is_concrete, real_array, whole


class PrincipalComponents(eqx.Module):
    """What `principal_components` returns: a map of inputs, fixed by the training inputs.

    Attributes:
        mean: Mean of the training inputs, shape (inp,).
        axes: Orthonormal directions as columns, shape (inp, components).
        variance: Of the training inputs along each axis, with 1/n, falling, shape (components,).
        whiten: Whether each component is divided by its standard deviation.
    """

    mean: Float[Array, " inp"]
    axes: Float[Array, "inp components"]
    variance: Float[Array, " components"]
    whiten: bool = eqx.field(static=True)

    def __call__(self, x: ArrayLike) -> Float[Array, "m components"]:
        """The components of inputs of shape (m, inp), in the precision of the training inputs."""
        x = real_array(x, "x")
        inp = self.mean.shape[0]
        if x.ndim != 2 or x.shape[1] != inp:
            raise ValueError(
                f"These principal components are those of {inp} inputs, so they take an array of shape (m, {inp}), but "
                f"`x` has shape {x.shape}. One input at a time goes in as x[None, :]."
            )
        axes = self.axes / jnp.sqrt(self.variance)[None, :] if self.whiten else self.axes
        # A GPU's default for float32 keeps three digits, and whitening would be as rough as that.
        return jnp.matmul(x.astype(axes.dtype) - self.mean[None, :], axes, precision="highest")


def principal_components(x: ArrayLike, components: int | None = None, *, whiten: bool = False) -> PrincipalComponents:
    """Find the directions of largest variance of the training inputs.

    The map that comes back takes any inputs x, such as those of the test task, to

        z = (x - mean) @ axes,    divided by the standard deviations if whitened,

    with components by falling variance. Whitened training inputs have z^T z / n = I to
    rounding. All moments of layerflow carry this 1/n, where scikit-learn has 1/(n - 1).

    The largest entry of each axis is positive, so axes with variances of their own are the
    same on any machine. Everything is computed in float64, once and outside of any sweep.

    Args:
        x: Training inputs, shape (n, inp).
        components: How many to keep; as many as there are inputs if not given.
        whiten: Give every component the variance 1.

    Returns:
        Function of inputs of shape (m, inp) that returns shape (m, components).

    Raises:
        ValueError: If `x` is no matrix of finite numbers, or `components` no positive whole
            number; if there are fewer inputs, or the centred samples span fewer directions
            (n - 1 at most), than are to be kept. Without `components` and `whiten`, inputs
            that are constant or follow from others are no error: the last components are 0.
        TypeError: If `x` holds no numbers, or depends on an axis of a sweep.

    Example:
        >>> import jax, layerflow as lf
        >>> task = lf.random_regression(jax.random.key(0), n=20, inp=5, out=1)
        >>> components = lf.principal_components(task.x, 2, whiten=True)
        >>> z = components(task.x)
        >>> z.shape, f"{(z**2).mean():.3f}", f"{abs((z[:, 0] * z[:, 1]).mean()):.3f}"
        ((20, 2), '1.000', '0.000')
    """
    x = _inputs(x)
    n, inp = x.shape
    kept = inp if components is None else _count(components, inp)
    if kept > n - 1:
        raise ValueError(
            f"More components than samples allow: {n} samples, once centred, span at most {n - 1} directions, but "
            f"{kept} components are to be kept. "
            f"{f'Ask for at most components={n - 1}, or give more samples' if n > 1 else 'Give more samples'}."
        )
    # In the precision of the result, so that the mean taken off here is the one taken off later.
    mean = np.asarray(x.mean(0, dtype=np.float64), x.dtype)
    constant = np.ptp(x, axis=0) == 0
    mean = np.where(constant, x[0], mean)  # the mean of equal numbers may be off by rounding
    centred = x.astype(np.float64) - mean
    # Of the data, not eigh of their covariance, which holds the square of their range.
    with np.errstate(over="ignore", invalid="ignore"):
        _, s, axes = np.linalg.svd(centred, full_matrices=False)
    with np.errstate(over="ignore", under="ignore"):
        variance = s**2 / n
    if not np.isfinite(variance).all() or (variance[0] == 0 and not constant.all()):
        raise ValueError(
            f"Inputs as large as {np.abs(centred).max():.1g} about their mean have no variance that {x.dtype} holds. "
            f"Rescale them, as in x / abs(x).max()."
        )
    rank = int(np.sum(s > max(n, inp) * np.finfo(x.dtype).eps * s[0]))
    if rank == 0 or (kept > rank and (whiten or components is not None)):
        raise ValueError(_too_few_directions(kept, rank, x, np.flatnonzero(constant)))
    axes = _signed(axes[:kept].T)
    return PrincipalComponents(
        jnp.asarray(mean), jnp.asarray(axes, x.dtype), jnp.asarray(variance[:kept], x.dtype), bool(whiten)
    )


def _inputs(x: ArrayLike) -> np.ndarray:
    """The training inputs as a matrix of known, finite numbers, or an error."""
    if not is_concrete(x):
        raise TypeError(
            "Principal components are found once, from inputs that are known, but `x` is traced: it depends on an axis "
            "of a sweep or an argument of jax.jit. Find them outside of the cell function, and call them inside."
        )
    x = np.asarray(real_array(x, "x"))
    if x.ndim != 2 or x.size == 0:
        raise ValueError(
            f"Principal components need inputs of shape (n, inp), one row per sample, but `x` has shape {x.shape}."
            f"{' Flatten each sample first: x.reshape(len(x), -1).' if x.ndim > 2 and x.size else ''}"
        )
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise ValueError(
            f"Principal components need finite numbers, but `x` holds {x[row, column]} at sample {row}, input {column}."
        )
    return x


def _count(components: int, inp: int) -> int:
    """The components to keep, or an error."""
    if not is_concrete(components):
        operator.index(components)  # raises what a sweep turns into its advice on lf.static
    if not whole(components) or components < 1:
        raise ValueError(f"Argument `components` is a positive whole number or None, but it is {components!r}.")
    if components > inp:
        raise ValueError(
            f"There are as many components as inputs at most, so for {inp} inputs `components` is 1 to {inp}, but it "
            f"is {components}."
        )
    return int(components)


def _too_few_directions(kept: int, rank: int, x: np.ndarray, constant: np.ndarray) -> str:
    """What to tell someone who wants more components than the training inputs have variance in."""
    inp = x.shape[1]
    if rank == 0:
        return f"Principal components need inputs that vary, but all {inp} inputs of `x` are constant."
    names = f"{', '.join(str(i) for i in constant[:3])}{', ...' if constant.size > 3 else ''}"
    reasons = [f"{constant.size} of {inp} inputs are constant (columns {names})"] if constant.size else []
    if rank < inp - constant.size:
        reasons.append(f"{inp - constant.size - rank} follow from others to rounding in {x.dtype} (copies, sums)")
    drop = ", or drop the constant inputs: x[:, np.ptp(x, axis=0) > 0]" if rank == inp - constant.size else ""
    return (
        f"More components than directions: {kept} are to be kept, but `x` varies along {rank} directions, as "
        f"{' and '.join(reasons)}. Ask for at most components={rank}{drop}."
    )


def _signed(axes: np.ndarray) -> np.ndarray:
    """The axes with the largest entry of each positive; among equals, the first."""
    size = np.abs(axes)
    # Rounding alone would choose between entries of equal size, as in (1, -1) / sqrt(2).
    first = np.argmax(size > (1 - 1e-6) * size.max(0), axis=0)
    return axes * np.sign(np.take_along_axis(axes, first[None, :], axis=0))
