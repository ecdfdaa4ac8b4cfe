"""Explicit Runge-Kutta steps, written out stage by stage from a solver's own tableau.

diffrax runs the stages in a loop over a buffer, which costs several times more than the stages
themselves where the state is as small as ours, and has no forward-mode derivative.
"""

from typing import Any

import diffrax as dfx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


class UnrolledStep:
    """The step of an explicit Runge-Kutta solver, for one autonomous equation of flat state."""

    def __init__(self, solver: dfx.AbstractERK) -> None:
        self.solver = solver
        assert isinstance(solver.tableau, dfx.ButcherTableau)  # see `fits`
        self.tableau = solver.tableau
        self.interpolation_cls = solver.interpolation_cls
        self.error_order = solver.error_order
        self.func = solver.func

    @staticmethod
    def fits(solver: dfx.AbstractSolver[Any]) -> bool:
        """Whether `solver` steps by its tableau alone."""
        plain = type(solver).step is dfx.AbstractRungeKutta.step
        return isinstance(solver, dfx.AbstractERK) and plain and isinstance(solver.tableau, dfx.ButcherTableau)

    def init(self, term: dfx.ODETerm[Any], t0: Array, t1: Array, y0: Array, args: Any) -> Float[Array, " size"]:
        """The velocity at the start, which every step hands on to the next."""
        del t1
        return term.vf(t0, y0, args)

    def step(
        self, term: dfx.ODETerm[Any], t0: Array, t1: Array, y0: Array, args: Any, velocity: Array, made_jump: Any
    ) -> tuple[Array, Array, dict[str, PyTree], Array, Any]:
        """One step from t0 to t1: what `solver.step` returns, with the velocity as solver state."""
        del made_jump  # gradient flow has none
        tableau, dt = self.tableau, t1 - t0
        increments = [dt * velocity]
        y = y0
        for row, c in zip(tableau.a_lower, tableau.c, strict=True):
            y = y0 + _combination(row, increments)
            velocity = term.vf(t0 + float(c) * dt, y, args)
            increments.append(dt * velocity)
        if not tableau.ssal:
            y = y0 + _combination(tableau.b_sol, increments)
        if not tableau.fsal:
            velocity = term.vf(t1, y, args)
        error = _combination(tableau.b_error, increments)
        return y, error, {"y0": y0, "y1": y, "k": jnp.stack(increments)}, velocity, dfx.RESULTS.successful


def _combination(coefficients: Any, increments: list[Array]) -> Array:
    """sum_i c_i k_i, leaving out the zeros of the tableau."""
    terms = [float(c) * k for c, k in zip(coefficients, increments, strict=True) if c != 0]
    return sum(terms[1:], start=terms[0])
