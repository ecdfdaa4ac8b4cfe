"""Fit the few free parameters of a closed form to a measured curve."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from layerflow._trajectory import Trajectory
from layerflow.base._card import Card, Carded
from layerflow.base._checks import collect, plain

_REFUSED = 1e6  # misfit, relative to the size of the curve, of values that the closed form does not take
_FLAT = 1e-6  # change of the curve, relative to its size, with a parameter: below it says nothing of it
_SINGULAR = 1e-12  # of the largest singular value: parameters below cannot be told apart from the curve


@dataclass(frozen=True)
class Calibration(Carded):
    """A closed form fitted to a curve.

    Attributes:
        values: Every free parameter by name.
        errors: Its standard error, from the residuals and how steeply the curve depends on it.
        covariance: Of the free parameters, in their order.
        residual: Root mean square of measured minus fitted.
        curve: The closed form with these values, a function of time.
    """

    values: dict[str, float]
    errors: dict[str, float]
    covariance: np.ndarray = field(repr=False)
    residual: float
    curve: Callable[[ArrayLike], Array] = field(repr=False)

    def _card(self) -> Card:
        """Every free parameter with its standard error, and the residual."""
        fitted = [(name, f"{value:.6g} ± {self.errors[name]:.2g}") for name, value in self.values.items()]
        return Card("Calibration", (*fitted, ("residual", f"{self.residual:.3g}")))


def calibrate(
    closed_form: Callable[..., ArrayLike],
    trajectory: Trajectory | tuple[ArrayLike, ArrayLike],
    free: Sequence[str],
    *,
    of: str | None = None,
    parameters: Mapping[str, Any],
) -> Calibration:
    """Fit free parameters of a closed form to a measured curve, by least squares.

        minimise sum_i |curve(t_i; free) - measured_i|^2

    Args:
        closed_form: Function of (t, **parameters) that gives one number for each time: any of
            `layerflow.theory` with scalar parameters, or your own in jax.numpy.
        trajectory: What `solve` returned with `ts`, or a pair of times and values, shape (t,) each.
        free: Names of the parameters to fit.
        of: Which observable of the trajectory; may be left out if there is one.
        parameters: Every parameter by name; those in `free` are first guesses.

    Returns:
        Values, standard errors, and the fitted curve.

    Raises:
        TypeError: If the closed form does not take these parameters.
        ValueError: If the curve is not one number per time, there are fewer times than free parameters,
            the first guess gives no finite curve or leads nowhere, or the curve cannot tell the
            parameters apart.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> def decay(t, rate, height):
        ...     return height * jnp.exp(-rate * t)
        >>> ts = jnp.linspace(0, 3, 50)
        >>> fit = lf.calibrate(decay, (ts, 2 * jnp.exp(-0.7 * ts)), ("rate",), parameters={"rate": 1.0, "height": 2.0})
        >>> print(f"{fit.values['rate']:.3f}")
        0.700
    """
    from scipy.optimize import least_squares

    ts, measured = _curve_of(trajectory, of)
    free = (free,) if isinstance(free, str) else tuple(free)
    _check_names(closed_form, free, parameters)
    if len(ts) < len(free):
        raise ValueError(f"{len(free)} free parameters need as many times at least, but the curve has {len(ts)}.")
    fixed = {name: value for name, value in parameters.items() if name not in free}
    scale = np.sqrt(np.mean(measured**2)) or 1.0

    @jax.jit
    def misfit(guess: Array) -> Array:
        with collect() as checks:
            curve = closed_form(jnp.asarray(ts), **fixed, **dict(zip(free, guess, strict=True)))
        if not eqx.is_array_like(curve):
            raise TypeError(
                f"The closed form needs to return an array, but it returned a {type(curve).__name__}: wrap it, as in "
                f"lambda t, a0: lf.theory.layer_pair(t, a0, 0.1, 1.0).strength."
            )
        curve = jnp.asarray(curve)
        if curve.shape != ts.shape:
            raise ValueError(f"The closed form needs to give shape {ts.shape}, one number per time, not {curve.shape}.")
        # Values that the closed form refuses are worse than any others.
        allowed = jnp.all(jnp.stack([jnp.asarray(True), *checks.holds])) & jnp.isfinite(curve)
        return jnp.where(allowed, (curve - measured) / scale, _REFUSED)

    jacobian = jax.jit(jax.jacfwd(misfit))
    guess = np.array([float(parameters[name]) for name in free])
    first = dict(zip(free, map(float, guess), strict=True))
    if (np.asarray(misfit(jnp.asarray(guess))) == _REFUSED).any():
        raise ValueError(f"The first guess {first} gives no curve of finite numbers. Choose another.")
    slopes: Any = lambda x: np.asarray(jacobian(jnp.asarray(x)), float)
    found = least_squares(
        lambda x: np.asarray(misfit(jnp.asarray(x)), float),
        guess,
        jac=slopes,
        x_scale="jac",
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
    )
    reach = np.linalg.norm(found.jac, axis=0) * np.abs(found.x)
    if not found.success or (reach < _FLAT).any():
        idle = ", ".join(name for name, r in zip(free, reach, strict=True) if r < _FLAT) or "the parameters"
        raise ValueError(
            f"The fit went nowhere from the first guess {first}: there the curve hardly depends on {idle}. Choose a "
            f"guess that looks like the curve."
        )
    covariance = _covariance(found.jac, found.fun, free)
    values = dict(zip(free, map(float, found.x), strict=True))
    return Calibration(
        values=values,
        errors=dict(zip(free, map(float, np.sqrt(np.diag(covariance))), strict=True)),
        covariance=covariance,
        residual=float(scale * np.sqrt(np.mean(found.fun**2))),
        curve=lambda t: jnp.asarray(closed_form(t, **fixed, **values)),
    )


def _curve_of(trajectory: Any, of: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Times and values of the curve to fit."""
    if isinstance(trajectory, Trajectory):
        if trajectory.ts is None:
            raise ValueError("A curve needs times: solve with ts=jnp.linspace(0, 40, 200).")
        if of is None and len(trajectory.observed) == 1:
            (of,) = trajectory.observed
        if of not in trajectory.observed:
            raise ValueError(f"Name one of {', '.join(f'`{n}`' for n in trajectory.observed)}: of=..., not {of!r}.")
        ts, values = np.asarray(trajectory.ts, float), np.asarray(trajectory.observed[of], float)
    else:
        for part in trajectory if isinstance(trajectory, tuple | list) else ():
            plain(part, "The curve")
        try:
            ts, values = (np.asarray(array, float) for array in trajectory)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"Argument `trajectory` needs what lf.solve returns, or a pair of times and values, but it is a "
                f"{type(trajectory).__name__}."
            ) from error
    if ts.ndim != 1 or values.shape != ts.shape:
        raise ValueError(
            f"A curve is one number per time, but times have shape {ts.shape} and values {values.shape}. Choose one "
            f"curve, as in (path.ts, path.observed['mode_strengths'][:, 0])."
        )
    if not (np.isfinite(ts).all() and np.isfinite(values).all()):
        raise ValueError("The curve holds NaN or infinity: leave out where the trajectory failed.")
    return ts, values


def _check_names(closed_form: Callable[..., Any], free: tuple[str, ...], parameters: Mapping[str, Any]) -> None:
    if not free:
        raise ValueError("Argument `free` names at least one parameter to fit, but it is empty.")
    missing = [name for name in free if name not in parameters]
    if missing:
        raise ValueError(
            f"A first guess is missing for {', '.join(f'`{n}`' for n in missing)}: give it in `parameters`."
        )
    takes = inspect.signature(closed_form).parameters
    unknown = [n for n in parameters if n not in takes and not any(p.kind is p.VAR_KEYWORD for p in takes.values())]
    if unknown:
        raise TypeError(
            f"The closed form does not take {', '.join(f'`{n}`' for n in unknown)}; it takes {', '.join(takes)}."
        )


def _covariance(jacobian: np.ndarray, misfit: np.ndarray, free: tuple[str, ...]) -> np.ndarray:
    """s^2 (J^T J)^-1 with s^2 the variance of the residuals."""
    sizes = np.linalg.norm(jacobian, axis=0)
    _, strengths, axes = np.linalg.svd(jacobian / np.where(sizes > 0, sizes, 1.0), full_matrices=False)
    if strengths[-1] <= _SINGULAR * strengths[0] or not sizes.all():
        raise ValueError(
            f"The curve cannot tell the parameters {', '.join(free)} apart: some change of them leaves it as it is. "
            f"Free fewer of them, or measure where they differ."
        )
    freedom = max(len(misfit) - len(free), 1)
    inverse = (axes.T / strengths**2) @ axes / np.outer(sizes, sizes)
    return inverse * np.sum(misfit**2) / freedom
