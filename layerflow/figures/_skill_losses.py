"""Losses of the skill model over time, data, parameters and compute, summed over all skills."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import layerflow as lf

START, TARGET = 0.01, 1.0  # R(0) and S of every skill


def losses(alpha: float, learned: np.ndarray, n_skills: int) -> dict[str, tuple[np.ndarray, ...]]:
    """What is spent to learn about so many skills, and the loss then; for compute the best N too."""
    frequency = lf.theory.skill_frequencies(n_skills, alpha)
    # Skill k is at half its strength at t = log_odds / (2 S p_k), is seen after 1 / p_k samples, and takes N = k.
    often = np.interp(np.log(learned), np.log(np.arange(1, n_skills + 1)), np.log(np.asarray(frequency)))
    times, samples = np.log(TARGET / START - 1) / (2 * TARGET) * np.exp(-often), np.exp(-often)
    numbers = learned.round()
    computes = learned * times
    found = [least_over_parameters(compute, frequency) for compute in computes]
    return {
        "time": (times, _each(lambda t: loss_in_time(t, frequency), times)),
        "data": (samples, _each(lambda d: lf.theory.expected_skill_loss(d, frequency, TARGET), samples)),
        "parameters": (numbers, _each(lambda n: _loss_in_parameters(n, frequency), numbers)),
        "compute": (computes, np.array([least for least, _ in found]), np.array([best for _, best in found])),
    }


def _each(of: Callable[[float], jax.Array], values: np.ndarray) -> np.ndarray:
    """One value at a time, for all skills at all of them would fill the memory."""
    return np.array([float(of(value)) for value in values])


def loss_in_time(t: float, frequency: jax.Array) -> jax.Array:
    """The loss at time t with data and parameters in plenty."""
    return lf.theory.skill_loss(lf.theory.skill_strengths_in_time(t, frequency, START, TARGET), frequency, TARGET)


def _loss_in_parameters(number: float, frequency: jax.Array) -> jax.Array:
    """The loss when the first skills alone are learned, to the end."""
    return lf.theory.skill_loss(
        lf.theory.skill_strengths_in_parameters(number, frequency.size, TARGET), frequency, TARGET
    )


def least_over_parameters(compute: float, frequency: jax.Array) -> tuple[float, float]:
    """The least loss over N of the N first skills learned for the time compute / N, and that N.

    On a mesh of numbers N that narrows about the best one; no law is made use of.
    """
    loss_at = lambda number: float(_loss_of_first(number, compute / number, frequency))
    low, high = 1, frequency.size
    while high - low > 8:
        mesh = np.unique(np.geomspace(low, high, 9).round().astype(int))
        best = int(np.argmin([loss_at(number) for number in mesh]))
        low, high = mesh[max(best - 1, 0)], mesh[min(best + 1, len(mesh) - 1)]
    return min((loss_at(number), float(number)) for number in range(low, high + 1))


@jax.jit
def _loss_of_first(number: jax.Array, t: jax.Array, frequency: jax.Array) -> jax.Array:
    """The loss when the first skills alone are learned for the time t."""
    strengths = lf.theory.skill_strengths_in_time(t, frequency, START, TARGET)
    return lf.theory.skill_loss(jnp.where(jnp.arange(frequency.size) < number, strengths, 0.0), frequency, TARGET)
