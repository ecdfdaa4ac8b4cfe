"""A trajectory of gradient flow, one attempted step at a time."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from layerflow.methods._course import Course, Path, Peaks, Status, failed, higher, masked
from layerflow.methods._unrolled import UnrolledStep


class Lane(eqx.Module):
    """A trajectory under way."""

    t: Float[Array, ""]
    t_next: Float[Array, ""]
    moved: Float[Array, " size"]  # weights - start: in float32 a lazy cell's own digits would drown in the weights
    solver_state: PyTree
    control: PyTree
    first_step: Float[Array, ""]
    made_jump: Bool[Array, ""]
    status: Int[Array, ""]
    num_steps: Int[Array, ""]
    peaks: Peaks  # largest values so far of what observables follow
    saved: Float[Array, "t size"]  # `moved` at `ts`, as far as reached
    saved_peaks: Peaks  # likewise
    num_saved: Int[Array, ""]

    @property
    def running(self) -> Bool[Array, ""]:
        return self.status == Status.RUNNING


class Stepper:
    """One attempted step at a time of one cell: the loop of `diffeqsolve`, opened up.

    Against `diffeqsolve` it checks for failure at every step, ends a cell on its own status, and
    leaves no host callback in the program.

    Args:
        flow: The Flow, with its numbers.
        course: The cell.
        ts: Where to keep the state.
    """

    def __init__(self, flow: Any, course: Course, ts: Float[Array, " t"] | None) -> None:
        dtype = course.start.dtype
        cast = lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf
        flow = jax.tree.map(cast, flow)
        self.flow, self.course = flow, course
        self.ts = jnp.zeros(0, dtype) if ts is None else ts.astype(dtype)
        self.with_ts = ts is not None
        self.t1 = flow.t1
        self.t1_floor = flow.t1 * (1 - 100 * jnp.finfo(dtype).eps)  # a step ending beyond ends at t1
        self.controller = flow.controller
        self.solver = _stepping(flow.solver, flow.controller)
        key = jax.random.key(0)  # a flow follows the whole task: no batches to draw
        self.weights_term = dfx.ODETerm(lambda _t, w, _args: course.velocity(w, key, jnp.asarray(0)))
        self.term = dfx.ODETerm(lambda _t, moved, _args: self.weights_term.vf(_t, course.start + moved, _args))
        estimates_error = isinstance(flow.solver, dfx.AbstractAdaptiveSolver)
        self.error_order: Any = flow.solver.error_order(self.term) if estimates_error else None

    def load(self) -> Lane:
        """The cell at t = 0."""
        start, t0 = self.course.start, jnp.zeros_like(self.t1)
        t_next, control = self.controller.init(
            self.weights_term, t0, self.t1, start, self.flow.dt0, None, self.solver.func, self.error_order
        )
        t_next = jnp.minimum(t_next, self.t1)
        moved = jnp.zeros_like(start)
        solver_state = self.solver.init(self.term, t0, t_next, moved, None)
        peaks = self.course.follow(moved)
        finite = jnp.all(jnp.isfinite(start)) & jnp.all(jnp.isfinite(self.term.vf(t0, moved, None)))
        return Lane(
            t=t0,
            t_next=t_next.astype(t0.dtype),
            moved=moved,
            solver_state=_arrays(solver_state),
            control=_arrays(control),
            first_step=(t_next - t0).astype(t0.dtype),
            made_jump=jnp.asarray(False),
            status=jnp.where(finite, Status.RUNNING, Status.NOT_FINITE),
            num_steps=jnp.asarray(0),
            peaks=peaks,
            saved=self._rows(start),
            saved_peaks=jax.tree.map(self._rows, peaks),
            num_saved=jnp.asarray(0),
        )

    def _rows(self, value: Array) -> Array:
        """Room for one value at each of `ts`."""
        return jnp.zeros((self.ts.shape[0], *value.shape), value.dtype)

    def advance(self, lane: Lane) -> Lane:
        """One attempted step; a finished lane stays as it is."""
        start = self.course.start
        moved, error, dense, solver_state, solver_result = self.solver.step(
            self.term, lane.t, lane.t_next, lane.moved, None, lane.solver_state, lane.made_jump
        )
        # A NaN error counts as a large one: the step left the region where the velocity is finite.
        error = None if error is None else jnp.where(jnp.isnan(error), jnp.inf, error)
        # The controller sees weights, not displacements: the tolerance is relative to the weights.
        keep, t, t_next, made_jump, control, result = self.controller.adapt_step_size(
            lane.t, lane.t_next, start + lane.moved, start + moved, None, error, self.error_order, lane.control
        )
        keep = jnp.asarray(keep)
        t = jnp.minimum(t, self.t1)
        clipped = jnp.where(keep, self.t1, t + 0.5 * (self.t1 - t))
        t_next = jnp.where(t_next > self.t1_floor, clipped, t_next)

        hold = lambda flag, new, old: jax.tree.map(lambda n, o: jnp.where(flag, n, o), _arrays(new), old)
        running = lane.running
        accepted = running & keep
        after = eqx.tree_at(
            lambda lane: (lane.t, lane.t_next, lane.moved, lane.solver_state, lane.control, lane.made_jump, lane.peaks),
            lane,
            (
                hold(running, t, lane.t),
                hold(running, t_next, lane.t_next),
                hold(accepted, moved, lane.moved),
                hold(accepted, solver_state, lane.solver_state),
                hold(running, control, lane.control),
                hold(accepted, made_jump, lane.made_jump),
                hold(accepted, higher(lane.peaks, self.course.follow(moved)), lane.peaks),
            ),
        )
        after = eqx.tree_at(lambda lane: lane.num_steps, after, lane.num_steps + running.astype(int))
        okay = (dfx.is_successful(solver_result) | ~keep) & dfx.is_successful(result)
        after = eqx.tree_at(
            lambda lane: lane.status, after, jnp.where(running, self._status(after, keep, okay), lane.status)
        )
        return self._save(lane, after, accepted, dense) if self.with_ts else after

    def _status(self, lane: Lane, keep: Bool[Array, ""], okay: Bool[Array, ""]) -> Int[Array, ""]:
        """The status of a lane that was running before this step."""
        eps = jnp.finfo(lane.moved.dtype).eps
        dt = lane.t_next - lane.t
        stuck = ~keep & ((dt <= 1e-14 * (lane.t + lane.first_step)) | (lane.t + dt <= lane.t))
        size, start = jnp.abs(lane.moved).max(initial=0.0), jnp.abs(self.course.start).max(initial=0.0)
        # A flow that blows up in finite time ends in ever smaller steps at ever larger weights.
        grown = size > 1e3 * (1 + start)
        reached = lane.t >= self.t1
        status = jnp.asarray(Status.RUNNING)
        status = jnp.where(lane.num_steps >= self.flow.max_steps, Status.OUT_OF_STEPS, status)
        status = jnp.where(reached, Status.REACHED_T1, status)
        if self.flow.until is not None:
            met, still = self._until(lane)
            status = jnp.where(reached & still, Status.SADDLE, status)
            status = jnp.where(met & keep, Status.CONVERGED, status)
        status = jnp.where(stuck, jnp.where(grown, Status.BLEW_UP, Status.STALLED), status)
        status = jnp.where(size > eps**-3, Status.BLEW_UP, status)
        status = jnp.where(okay, status, Status.SOLVER_FAILED)
        return jnp.where(jnp.all(jnp.isfinite(lane.moved)), status, Status.NOT_FINITE)

    def _until(self, lane: Lane) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
        """Whether `until` is met, and whether the cell stands still (met or not)."""
        weights = self.course.start + lane.moved
        loss = self.course.loss(weights)
        if not isinstance(until := self.flow.until, str):
            return loss <= jnp.asarray(until), jnp.asarray(False)
        rtol = jnp.asarray(self.flow.tolerances.get("rtol", 1e-6), loss.dtype)
        scale = jnp.maximum(self.course.null_loss, self.course.loss(self.course.start))
        # Where steps are as long as stability allows, the solver's noise in the loss is some (100 rtol)^2; rounding
        # of the loss comes on top.
        at_least = loss - self.course.least_loss <= (rtol / 100 + 10 * jnp.finfo(loss.dtype).eps) * scale
        # dL/dt = -|velocity|^2. Relative to what it has been at work for, t, no scale of the
        # problem enters; late in a run the solver's own noise is far below this.
        still = jnp.sum(self.term.vf(lane.t, lane.moved, None) ** 2) * lane.t <= rtol * scale
        return at_least & still, still

    def _save(self, before: Lane, after: Lane, accepted: Bool[Array, ""], dense: dict[str, Any]) -> Lane:
        """Write the state at all of `ts` that this step passed."""
        interpolation = self.solver.interpolation_cls(t0=before.t, t1=before.t_next, **dense)
        # A loop over the few times that a step passes, except where reverse mode would have to keep its states.
        write = self._write_passed if self.flow.loop.kind == "lax" else self._write_where
        return write(before, after, accepted, interpolation)

    def _write_passed(self, before: Lane, after: Lane, accepted: Bool[Array, ""], interpolation: Any) -> Lane:
        count = self.ts.shape[0]

        def passed(lane: Lane) -> Bool[Array, ""]:
            t = self.ts[jnp.minimum(lane.num_saved, count - 1)]
            return accepted & (lane.num_saved < count) & (t <= before.t_next)

        def write(lane: Lane) -> Lane:
            t = self.ts[jnp.minimum(lane.num_saved, count - 1)]
            row = jnp.where(passed(lane), lane.num_saved, count)  # row `count` does not exist and is dropped
            moved = interpolation.evaluate(t)
            peaks = higher(before.peaks, self.course.follow(moved))
            put = lambda rows, value: rows.at[row].set(value, mode="drop")
            return eqx.tree_at(
                lambda lane: (lane.saved, lane.saved_peaks, lane.num_saved),
                lane,
                (
                    put(lane.saved, moved),
                    jax.tree.map(put, lane.saved_peaks, peaks),
                    lane.num_saved + passed(lane).astype(int),
                ),
            )

        return self.flow.loop(passed, write, after)

    def _write_where(self, before: Lane, after: Lane, accepted: Bool[Array, ""], interpolation: Any) -> Lane:
        number = jnp.arange(self.ts.shape[0])
        passed = accepted & (number >= before.num_saved) & (self.ts <= before.t_next)
        # Times that were not passed are evaluated inside the step, where nothing overflows.
        moved = jax.vmap(interpolation.evaluate)(jnp.where(passed, self.ts, before.t))
        peaks = jax.vmap(lambda moved: higher(before.peaks, self.course.follow(moved)))(moved)
        put = lambda rows, values: jax.vmap(jnp.where)(passed, values, rows)
        return eqx.tree_at(
            lambda lane: (lane.saved, lane.saved_peaks, lane.num_saved),
            after,
            (
                put(after.saved, moved),
                jax.tree.map(put, after.saved_peaks, peaks),
                after.num_saved + jnp.sum(passed),
            ),
        )

    def finish(self, lane: Lane) -> Path:
        """Measure; what lies beyond a stop holds its last value, beyond a failure it is NaN."""
        bad = failed(lane.status)
        weights = jnp.where(bad, jnp.nan, self.course.start + lane.moved)
        # Measured on the start where there is nothing to measure: some factorisations hang on NaN.
        final = jnp.where(bad, 0.0, lane.moved)
        if self.with_ts:
            missing = jnp.arange(self.ts.shape[0]) >= lane.num_saved
            fill = lambda rows, last: jax.vmap(lambda gone, row: jnp.where(gone, last, row))(missing, rows)
            moved, peaks = fill(lane.saved, final), jax.tree.map(fill, lane.saved_peaks, lane.peaks)
            observed = masked(jax.vmap(self.course.measure)(moved, peaks), missing & bad)
        else:
            observed = masked(self.course.measure(final, lane.peaks), bad)
        return Path(observed, weights, lane.status, lane.num_steps, lane.t)


def _arrays(tree: PyTree) -> PyTree:
    """Python numbers and flags as arrays, so that a loop can carry them."""
    return jax.tree.map(jnp.asarray, tree)


def _stepping(solver: Any, controller: Any) -> Any:
    """What makes the steps: the solver, unrolled if explicit, or with the tolerances of its implicit stages set."""
    if UnrolledStep.fits(solver):
        return UnrolledStep(solver)
    if not isinstance(solver, dfx.AbstractImplicitSolver):
        return solver
    # As in `diffeqsolve`, stages are solved to the tolerance of the steps unless the user says otherwise.
    root_finder = solver.root_finder
    names = ("rtol", "atol", "norm")
    unset = [name for name in names if type(getattr(root_finder, name)).__name__ == "_UseStepSizeTol"]
    values = [getattr(controller, name) for name in unset]
    return eqx.tree_at(lambda s: [getattr(s.root_finder, name) for name in unset], solver, values)
