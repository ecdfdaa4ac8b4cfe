"""A trajectory of gradient flow, one attempted step at a time."""

import dataclasses
import functools
import operator
from typing import Any, NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from layerflow.methods._course import Course, Path, Peaks, Status, failed, higher, masked
from layerflow.methods._unrolled import UnrolledStep

_PATIENCE = 1000  # steps at the noise of the tolerance, before a cell is taken to stay there


class Position(eqx.Module):
    """Where a trajectory stands, and all that is left of it once it ended; or many, stacked."""

    t: Float[Array, "*lanes"]
    moved: Float[Array, "*lanes size"]  # weights - start: in float32 a lazy cell's digits would drown in weights
    peaks: Peaks  # largest values so far of what observables follow
    status: Int[Array, "*lanes"]
    num_steps: Int[Array, "*lanes"]
    num_saved: Int[Array, "*lanes"]
    twin: Int[Array, "*lanes"] | None = None  # the status of what follows the network

    @property
    def running(self) -> Bool[Array, "*lanes"]:
        return self.status == Status.RUNNING


class Lane(eqx.Module):
    """A trajectory under way; or many, stacked."""

    at: Position
    t_next: Float[Array, "*lanes"]
    solver_state: PyTree
    control: PyTree
    first_step: Float[Array, "*lanes"]
    much: Float[Array, "*lanes"]  # weights that moved more than this have blown up
    made_jump: Bool[Array, "*lanes"]
    lowest: Float[Array, "*lanes"] | None  # where there is an `until`: how far above its goal the loss was at least
    since: Int[Array, "*lanes"] | None  # steps near the noise of the tolerance since that last halved


class Goal(NamedTuple):
    """How a trajectory stands to its `until`."""

    gap: Float[Array, ""]  # of the loss above the least that is known
    met: Bool[Array, ""]
    still: Bool[Array, ""]  # the network stands still, met or not
    all_still: Bool[Array, ""]  # and what follows it
    at_noise: Bool[Array, ""]  # the flow could close the gap at one step, but its errors open it again
    away: Bool[Array, ""]  # it could not, by far: on a plateau, or on the way


class Saved(eqx.Module):
    """The movement and the peaks at `ts`, as far as a trajectory came."""

    moved: Float[Array, "*rows size"]
    peaks: Peaks


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
        self.term = dfx.ODETerm(self._velocity)
        estimates_error = isinstance(flow.solver, dfx.AbstractAdaptiveSolver)
        self.error_order: Any = flow.solver.error_order(self.term) if estimates_error else None

    def _velocity(self, t: Any, moved: Float[Array, " size"], lost: Bool[Array, ""] | None) -> Float[Array, " size"]:
        """The velocity of the displacement; a twin that was lost stands still."""
        velocity = self.weights_term.vf(t, self.course.start + moved, None)
        return velocity if lost is None else self.course.hold_twin(lost, 0.0, velocity)

    def load(self) -> Lane:
        """The cell at t = 0."""
        start, t0 = self.course.start, jnp.zeros_like(self.t1)
        t_next, control = self.controller.init(
            self.weights_term, t0, self.t1, start, self.flow.dt0, None, self.solver.func, self.error_order
        )
        t_next = jnp.minimum(t_next, self.t1)
        moved = jnp.zeros_like(start)
        solver_state = self.solver.init(self.term, t0, t_next, moved, None)
        finite = jnp.isfinite(start) & jnp.isfinite(self.term.vf(t0, moved, None))
        begun = lambda finite: jnp.where(jnp.all(finite), Status.RUNNING, Status.NOT_FINITE)
        status = begun(finite[: self.course.own])
        twin = begun(self.course.of_twin(finite)) if self.course.has_twin else None
        none = jnp.asarray(0)
        return Lane(
            at=Position(t0, moved, self.course.follow(moved), status, num_steps=none, num_saved=none, twin=twin),
            t_next=t_next.astype(t0.dtype),
            solver_state=_arrays(solver_state),
            control=_arrays(control),
            first_step=(t_next - t0).astype(t0.dtype),
            # A flow that blows up in finite time ends in ever smaller steps at ever larger weights.
            much=1e3 * (1 + jnp.abs(start).max(initial=0.0)),
            made_jump=jnp.asarray(False),
            lowest=None if self.flow.until is None else jnp.full_like(t0, jnp.inf),
            since=None if self.flow.until is None else none,
        )

    def hardness(self) -> Float[Array, ""]:
        """How fast the flow changes its course at the start, which tells roughly how many steps it will take.

        |J v| / |v| with v the velocity and J its Jacobian, by a small difference.
        """
        start, still = self.course.start, jnp.zeros_like(self.t1)
        velocity = self.weights_term.vf(still, start, None)
        norm = lambda vector: jnp.sqrt(jnp.sum(vector**2))
        speed = norm(velocity)
        ahead = jnp.finfo(start.dtype).eps ** 0.5 * (1 + norm(start)) / jnp.where(speed > 0, speed, 1.0)
        change = self.weights_term.vf(still, start + ahead * velocity, None) - velocity
        return self.t1 * norm(change) / jnp.where(speed > 0, ahead * speed, 1.0)

    def room(self, *cells: int) -> Saved:
        """Room for the values at `ts` of one cell, or of as many as are named."""
        shape = jax.eval_shape(lambda: (self.course.start, self.course.follow(self.course.start)))
        rows = lambda value: jnp.zeros((*cells, self.ts.shape[0], *value.shape), value.dtype)
        return Saved(*jax.tree.map(rows, shape))

    def advance(self, lane: Lane) -> tuple[Lane, dict[str, Any]]:
        """One attempted step, and what its interpolation needs; a finished lane stays as it is."""
        start, at = self.course.start, lane.at
        lost = None if at.twin is None else at.twin != Status.RUNNING
        moved, error, dense, solver_state, solver_result = self.solver.step(
            self.term, at.t, lane.t_next, at.moved, lost, lane.solver_state, lane.made_jump
        )
        # A NaN error counts as a large one: the step left the region where the velocity is finite.
        error = None if error is None else jnp.where(jnp.isnan(error), jnp.inf, error)
        # The controller sees weights, not displacements: the tolerance is relative to the weights.
        keep, t, t_next, made_jump, control, result = self.controller.adapt_step_size(
            at.t, lane.t_next, start + at.moved, start + moved, None, error, self.error_order, lane.control
        )
        keep = jnp.asarray(keep)
        t = jnp.minimum(t, self.t1)
        clipped = jnp.where(keep, self.t1, t + 0.5 * (self.t1 - t))
        t_next = jnp.where(t_next > self.t1_floor, clipped, t_next)

        hold = lambda flag, new, old: jax.tree.map(lambda n, o: jnp.where(flag, n, o), _arrays(new), old)
        running = at.running
        accepted = running & keep
        position = Position(
            t=hold(running, t, at.t),
            moved=hold(accepted, moved, at.moved),
            peaks=hold(accepted, higher(at.peaks, self.course.follow(moved)), at.peaks),
            status=at.status,
            num_steps=at.num_steps + running.astype(int),
            num_saved=at.num_saved,
            twin=at.twin,
        )
        after = Lane(
            at=position,
            t_next=hold(running, t_next, lane.t_next),
            solver_state=hold(accepted, solver_state, lane.solver_state),
            control=hold(running, control, lane.control),
            first_step=lane.first_step,
            much=lane.much,
            made_jump=hold(accepted, made_jump, lane.made_jump),
            lowest=lane.lowest,
            since=lane.since,
        )
        okay = (dfx.is_successful(solver_result) | ~keep) & dfx.is_successful(result)
        if at.twin is None:
            after, status = self._status(after, moved, keep, okay)
        else:
            after, status = self._apart_from_twin(lane, after, moved, keep, okay)
        return eqx.tree_at(lambda lane: lane.at.status, after, jnp.where(running, status, at.status)), dense

    def _apart_from_twin(
        self, before: Lane, lane: Lane, proposed: Float[Array, " size"], keep: Bool[Array, ""], okay: Bool[Array, ""]
    ) -> tuple[Lane, Int[Array, ""]]:
        """The lane and its status, which what follows the network never decides.

        Where a step fails with a twin in it, the twin is lost with that status and stands still, and the network goes
        on from its last accepted step.
        """
        course, running = self.course, Status.RUNNING
        was = jnp.asarray(before.at.twin)
        alive = before.at.running & (was == running)
        lane, status = self._status(lane, proposed, keep, okay)
        at = lane.at
        followed = [at.moved[course.own :], *jax.tree.leaves(at.peaks)]
        finite = functools.reduce(operator.and_, [jnp.all(jnp.isfinite(part)) for part in followed])
        left = jnp.where(finite, jnp.where(failed(status), status, running), Status.NOT_FINITE)
        dropped = alive & (left != running)
        twin = jnp.where(dropped, left, was)
        lost = twin != running
        moved = course.hold_twin(lost, before.at.moved, at.moved)
        peaks = jax.tree.map(lambda peak: jnp.where(lost, jnp.nan, peak), at.peaks)
        lane = dataclasses.replace(lane, at=dataclasses.replace(at, moved=moved, peaks=peaks, twin=twin))
        if isinstance(self.solver, UnrolledStep):
            state = course.hold_twin(lost, 0.0, lane.solver_state)
        else:
            begun = _arrays(self.solver.init(self.term, at.t, lane.t_next, moved, lost))
            state = jax.tree.map(lambda new, old: jnp.where(dropped, new, old), begun, lane.solver_state)
        # Where the twin made the steps shrink, the network begins anew.
        t_next = jnp.where(dropped & ~keep, jnp.minimum(at.t + lane.first_step, self.t1), lane.t_next)
        lane = dataclasses.replace(lane, solver_state=state, t_next=t_next)
        return lane, jnp.where(dropped & failed(status), running, status)

    def _status(
        self, lane: Lane, proposed: Float[Array, " size"], keep: Bool[Array, ""], okay: Bool[Array, ""]
    ) -> tuple[Lane, Int[Array, ""]]:
        """A lane that was running before this step, which proposed a displacement, and its status."""
        at, eps = lane.at, jnp.finfo(lane.at.moved.dtype).eps
        dt = lane.t_next - at.t
        stuck = ~keep & ((dt <= 1e-14 * (at.t + lane.first_step)) | (at.t + dt <= at.t))
        grown = jnp.abs(at.moved).max(initial=0.0) > lane.much
        size = jnp.abs(proposed).max(initial=0.0)
        finite = jnp.isfinite(size)
        reached = at.t >= self.t1
        # A network has steps of its own beyond those that it took with a twin which ran out of them.
        extra = 0 if at.twin is None else jnp.where(at.twin == Status.OUT_OF_STEPS, self.flow.max_steps, 0)
        status = jnp.asarray(Status.RUNNING)
        status = jnp.where(at.num_steps >= self.flow.max_steps + extra, Status.OUT_OF_STEPS, status)
        status = jnp.where(reached, Status.REACHED_T1, status)
        if self.flow.until is not None:
            goal = self._goal(lane)
            lane = self._counted(lane, goal)
            at_tolerance = goal.at_noise & (jnp.asarray(lane.since) >= _PATIENCE)
            status = jnp.where(at_tolerance & ~reached, Status.AT_TOLERANCE, status)
            status = jnp.where(reached & goal.still, Status.SADDLE, status)
            status = jnp.where(goal.met & keep & (goal.all_still | reached), Status.CONVERGED, status)
        stalled = jnp.where(finite, Status.STALLED, Status.NOT_FINITE)
        status = jnp.where(stuck, jnp.where(grown, Status.BLEW_UP, stalled), status)
        status = jnp.where(keep & (size > eps**-3), Status.BLEW_UP, status)
        status = jnp.where(okay, status, Status.SOLVER_FAILED)
        return lane, jnp.where(keep & ~finite, Status.NOT_FINITE, status)

    def _goal(self, lane: Lane) -> Goal:
        """How a lane stands to `until`."""
        at, own, until = lane.at, self.course.own, self.flow.until
        loss = self.course.loss(self.course.start + at.moved)
        if isinstance(self.solver, UnrolledStep):
            velocity = lane.solver_state
        else:
            velocity = self.term.vf(at.t, at.moved, None if at.twin is None else at.twin != Status.RUNNING)
        speed = jnp.sum(velocity[:own] ** 2)
        if isinstance(until, str):
            rtol = jnp.asarray(self.flow.tolerances.get("rtol", 1e-6), loss.dtype)
            scale = jnp.maximum(self.course.null_loss, self.course.loss(self.course.start))
            gap = loss - self.course.least_loss
            # Where steps are as long as stability allows, the solver's noise in the loss is some (100 rtol)^2; rounding
            # of the loss comes on top.
            met = gap <= (rtol / 100 + 10 * jnp.finfo(loss.dtype).eps) * scale
            # dL/dt = -|velocity|^2. Relative to what it has been at work for, t, no scale of the
            # problem enters; late in a run the solver's own noise is far below this.
            still, all_still = (square * at.t <= rtol * scale for square in (speed, jnp.sum(velocity**2)))
        else:
            gap, met, still, all_still = loss, loss <= jnp.asarray(until), jnp.asarray(False), jnp.asarray(True)
        fall = speed * (lane.t_next - at.t)
        at_noise = ~met & (gap <= 0.5 * fall) & ("rtol" in self.flow.tolerances)
        return Goal(gap, met & (still | all_still), still, all_still, at_noise, gap > 5 * fall)

    def _counted(self, lane: Lane, goal: Goal) -> Lane:
        """The lane, with for how long it has been near the noise of its tolerance without its gap halving."""
        assert lane.lowest is not None
        halved = goal.gap <= 0.5 * lane.lowest
        since = jnp.where(halved | goal.away, 0, jnp.asarray(lane.since) + lane.at.running.astype(int))
        counted = (jnp.where(halved, goal.gap, lane.lowest), since)
        return eqx.tree_at(lambda lane: (lane.lowest, lane.since), lane, counted)

    def _passed(self, before: Lane, lane: Lane, most: int) -> tuple[Array, Array, Bool[Array, " most"]]:
        """The next of `ts` to be saved, so many: their numbers, the times, and which the step from `before` passed."""
        count, numbers = self.ts.shape[0], lane.at.num_saved + jnp.arange(most)
        ts = self.ts[jnp.minimum(numbers, count - 1)]
        return numbers, ts, (lane.at.t > before.at.t) & (numbers < count) & (ts <= before.t_next)

    def passes(self, before: Lane, lane: Lane) -> Bool[Array, ""]:
        """Whether the step from `before` passed a time of `ts` that is still to be saved."""
        return self._passed(before, lane, 1)[2][0]

    def visit(
        self, before: Lane, lane: Lane, dense: dict[str, Any], most: int = 1
    ) -> tuple[Lane, Int[Array, " most"], Saved]:
        """Evaluate the next such times, `most` at once: the lane with them counted, their numbers, the values there.

        Beyond the last of `ts` where there is none.
        """
        numbers, ts, passed = self._passed(before, lane, most)
        moved = jax.vmap(self._interpolation(before, dense).evaluate)(ts)
        values = Saved(moved, jax.vmap(lambda moved: higher(before.at.peaks, self.course.follow(moved)))(moved))
        lane = eqx.tree_at(lambda lane: lane.at.num_saved, lane, lane.at.num_saved + jnp.sum(passed))
        return lane, jnp.where(passed, numbers, self.ts.shape[0]), values

    def step(self, lane: Lane, saved: Saved) -> tuple[Lane, Saved]:
        """Advance, and save the values at all of `ts` that were passed."""
        after, dense = self.advance(lane)
        if not self.with_ts:
            return after, saved
        if self.flow.loop.kind != "lax":
            return self._save_where(lane, after, dense, saved)

        def save(state: tuple[Lane, Saved]) -> tuple[Lane, Saved]:
            passing, number, values = self.visit(lane, state[0], dense)
            return passing, jax.tree.map(lambda rows, v: rows.at[number].set(v, mode="drop"), state[1], values)

        return self.flow.loop(lambda state: self.passes(lane, state[0]), save, (after, saved))

    def _interpolation(self, before: Lane, dense: dict[str, Any]) -> Any:
        return self.solver.interpolation_cls(t0=before.at.t, t1=before.t_next, **dense)

    def _save_where(self, before: Lane, after: Lane, dense: dict[str, Any], saved: Saved) -> tuple[Lane, Saved]:
        """Without an inner loop, of which reverse mode would have to keep every state."""
        number = jnp.arange(self.ts.shape[0])
        passed = (after.at.t > before.at.t) & (number >= before.at.num_saved) & (self.ts <= before.t_next)
        # Times that were not passed are evaluated inside the step, where nothing overflows.
        evaluate = self._interpolation(before, dense).evaluate
        moved = jax.vmap(evaluate)(jnp.where(passed, self.ts, before.at.t))
        peaks = jax.vmap(lambda moved: higher(before.at.peaks, self.course.follow(moved)))(moved)
        put = lambda rows, values: jax.vmap(jnp.where)(passed, values, rows)
        count = after.at.num_saved + jnp.sum(passed)
        after = eqx.tree_at(lambda lane: lane.at.num_saved, after, count)
        return after, jax.tree.map(put, saved, Saved(moved, peaks))

    def finish(self, at: Position, saved: Saved) -> Path:
        """Measure; what lies beyond a stop holds its last value, beyond a failure it is NaN."""
        bad = failed(at.status)
        weights = jnp.where(bad, jnp.nan, self.course.start + at.moved)
        # Measured on the start where there is nothing to measure: some factorisations hang on NaN.
        final = jnp.where(bad, 0.0, at.moved)
        if self.with_ts:
            missing = jnp.arange(self.ts.shape[0]) >= at.num_saved
            fill = lambda rows, last: jax.vmap(lambda gone, row: jnp.where(gone, last, row))(missing, rows)
            moved, peaks = fill(saved.moved, final), jax.tree.map(fill, saved.peaks, at.peaks)
            observed = masked(jax.vmap(self.course.measure)(moved, peaks), missing & bad)
        else:
            observed = masked(self.course.measure(final, at.peaks), bad)
        twin = None if at.twin is None else jnp.where(at.twin == Status.RUNNING, at.status, at.twin)
        return Path(observed, weights, at.status, at.num_steps, at.t, twin)


def _arrays(tree: PyTree) -> PyTree:
    """Python numbers and flags as arrays, so that a loop can carry them."""
    return jax.tree.map(jnp.asarray, tree)


# What a root finder holds in place of a tolerance that is to be that of the steps.
_OF_STEPS = type(dfx.with_stepsize_controller_tols(dfx.VeryChord)().rtol)


def _stepping(solver: Any, controller: Any) -> Any:
    """What makes the steps: the solver, unrolled if explicit, or with the tolerances of its implicit stages set."""
    if UnrolledStep.fits(solver):
        return UnrolledStep(solver)
    if not isinstance(solver, dfx.AbstractImplicitSolver):
        return solver
    # As in `diffeqsolve`, stages are solved to the tolerance of the steps unless the user says otherwise.
    root_finder = solver.root_finder
    names = ("rtol", "atol", "norm")
    unset = [name for name in names if isinstance(getattr(root_finder, name), _OF_STEPS)]
    values = [getattr(controller, name) for name in unset]
    return eqx.tree_at(lambda s: [getattr(s.root_finder, name) for name in unset], solver, values)
