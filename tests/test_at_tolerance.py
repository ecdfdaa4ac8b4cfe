"""Cells that sit at the noise of their tolerance stop, say so, keep their values, and are told of beforehand."""

import warnings

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import layerflow as lf
from layerflow.engine import _chunks, _computation
from layerflow.engine._kept import programs
from layerflow.methods import FAILURES
from layerflow.sweeps import _chunks as _loop

X = jax.random.normal(jax.random.key(0), (8, 80))
Y = X @ jnp.full((80, 1), 100.0) + 1.0


def steep(target=1.0):
    """B4: with weights of 10, steps of rtol 1e-6 leave a loss of about 1e-5; the square of `target` times that."""
    w = 10.0 * jnp.sqrt(target) * jnp.ones(80)
    return lf.Problem(lf.DiagonalNetwork((w, w)), lf.Samples(X, Y).rescale(target=target))


def until(loss=1e-8, rtol=1e-6, **how):
    return lf.Flow(t1=1e3, rtol=rtol, until=loss, **how)


@pytest.fixture(scope="module")
def at_tolerance():
    """B4's case, after the word that it is warned with."""
    with pytest.warns(UserWarning, match=r"is below what rtol") as said:
        path = lf.solve(steep(), until(), observe=(lf.loss, lf.kernel_distance))
    return path, [str(word.message) for word in said]


def test_a_cell_at_its_tolerance_stops_and_keeps_its_values(at_tolerance):
    """B4: it took 100,000 steps and was called out of steps, NaN; a tenth of the loss's noise needs rtol 1e-9."""
    path, said = at_tolerance

    assert path.status == lf.Status.AT_TOLERANCE
    assert path.num_steps < 3000
    assert path.end < 1e3
    assert 1e-8 < path.observed["loss"] < 1e-4
    assert np.isfinite(path.observed["kernel_distance"])
    assert np.isfinite(path.network.weights[0]).all()
    assert len(said) == 1
    assert said[0].startswith("until=1e-08 is below what rtol=1e-06 leaves of the loss, about ")
    assert said[0].endswith("or raise `until`.")


def test_a_tolerance_that_suffices_converges_without_a_word():
    """The one that the warning names, and B4's 1e-9."""
    path = lf.solve(steep(), until(rtol=1e-9))

    assert path.status == lf.Status.CONVERGED
    assert path.num_steps < 100
    assert path.observed["loss"] <= 1e-8


def test_sweeps_name_the_first_cell_that_stays_above_its_until():
    """And failures, Status.failed and retry leave it alone: it holds what the tolerance gives."""
    cell = lambda target: steep(target)
    axes = {"target": [1e-3, 1.0]}
    with pytest.warns(UserWarning, match=r"leaves of the loss, about .*, first at target=1\.0\. Cells that stay"):
        diagram = lf.sweep(cell, axes, method=until(max_steps=3000), progress=False)

    assert diagram.status.values.tolist() == [lf.Status.CONVERGED, lf.Status.AT_TOLERANCE]
    assert np.isfinite(diagram.loss.values).all()
    assert lf.failures(diagram).empty
    assert not diagram.status.isin([s for s in lf.Status if s.failed]).any()
    with pytest.raises(ValueError, match="No cell of the diagram failed"):
        lf.retry(cell, diagram, until(rtol=1e-9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lf.sweep(cell, axes, method=until(max_steps=3000, loss=1e-2), progress=False)


def two_modes(slow, depth=2):
    """A mode learned at once, whose steps are as long as stability allows, and one on a plateau."""
    layer = jnp.array([1.0, slow])
    return lf.Problem(lf.DiagonalNetwork((layer,) * depth), lf.Modes(jnp.ones(2), jnp.array([100.0, 0.05])))


PLATEAUS = {
    "stiff mode at its noise": (two_modes(1e-4), 2e3, 1e-8),
    "converged": (two_modes(1e-4), 2e3, "converged"),
    "depth 3": (two_modes(0.2, 3), 1e4, 1e-5),
}


@pytest.mark.parametrize(
    "name", ["stiff mode at its noise", *(pytest.param(n, marks=pytest.mark.slow) for n in list(PLATEAUS)[1:])]
)
def test_a_slow_plateau_beside_a_stiff_mode_is_no_noise(name):
    """The stiff mode stands at its noise for thousands of steps while the loss of the slow one is yet to fall."""
    problem, t1, goal = PLATEAUS[name]
    path = lf.solve(problem, lf.Flow(t1=t1, until=goal))

    assert path.num_steps > 3000
    assert path.status in (lf.Status.CONVERGED, lf.Status.REACHED_T1)
    if goal != "converged":
        assert path.status == lf.Status.CONVERGED


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver", [dfx.Bosh3(), dfx.Dopri8(), dfx.Kvaerno5()], ids=lambda solver: type(solver).__name__
)
@pytest.mark.filterwarnings("ignore:until=:UserWarning")
def test_no_solver_runs_out_of_steps_at_its_tolerance(solver):
    path = lf.solve(steep(), until(solver=solver))

    assert path.status in (lf.Status.AT_TOLERANCE, lf.Status.CONVERGED)
    assert path.num_steps < 10_000


def test_a_loss_that_falls_below_zero_has_no_floor():
    """Where no one knows the least loss nothing is said; where no step can meet `until`, nothing of rtol."""

    class Falling(lf.Task):
        def loss(self, network):
            return -jnp.sum(network.matrix**2)

    falling = lf.Problem(lf.linear_model(jnp.ones(1)), Falling())
    assert lf.solve(falling, lf.Flow(t1=5.0, until=-4.0)).status == lf.Status.CONVERGED
    with pytest.warns(UserWarning, match=r"AT_TOLERANCE\. Raise `until`, which no step meets\.$"):
        lf.solve(two_modes(1.0), lf.Flow(t1=1.0, until=0.0))


CODES = {
    "REACHED_T1": 0,
    "CONVERGED": 1,
    "SADDLE": 2,
    "NOT_FINITE": 3,
    "BLEW_UP": 4,
    "STALLED": 5,
    "OUT_OF_STEPS": 6,
    "SOLVER_FAILED": 7,
    "OUTSIDE": 8,
    "AT_TOLERANCE": 9,
    "MISSING": 255,
    "RUNNING": -1,
    "DOUBTFUL": -2,
}


def test_codes_are_never_renumbered():
    """Stores hold them. Which are failures is a set, not a range: 9 is none."""
    assert {status.name: int(status) for status in lf.Status} == CODES
    assert {int(status) for status in FAILURES} == {3, 4, 5, 6, 7, 8}
    assert [status.failed for status in lf.Status] == [3 <= code <= 8 for code in CODES.values()]
    assert all(status.meaning for status in lf.Status)


class Bar:
    """What a progress bar is told."""

    def __init__(self, words):
        self.words = words

    def set_postfix_str(self, word):
        self.words.append(word)

    def set_description(self, *_, **__):
        pass

    def update(self, cells):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_compile")
def test_the_bar_names_slow_cells_and_no_bit_changes(monkeypatch):
    """D3: a chunk comes back after so many steps, says which cells go on, and goes on with them."""
    task = lf.Moments.whitened(yx=jnp.diag(jnp.array([2.0, 1.0])))
    cell = lambda key, lam: lf.Problem(lf.lambda_balanced(key, lam, 0.1, inp=2, hid=2, out=2), task)
    found = []
    for most in (200, 10**9):
        words = []
        with monkeypatch.context() as patch:
            for module in (_chunks, _computation, _loop):
                patch.setattr(module, "MANY_STEPS", most)
            patch.setattr("layerflow.sweeps._chunks.progress_bar", lambda *_, words=words: Bar(words))
            programs.clear()
            axes, observe = {"lam": [0.5, 1.0, 300.0, 400.0]}, (lf.loss, lf.kernel_distance)
            diagram = lf.sweep(cell, axes, method=lf.Flow(t1=40.0), ts=[0.0, 1.0, 40.0], observe=observe)
        found.append((words, diagram))
    programs.clear()  # those compiled to come back after other numbers of steps

    (told, one), (silent, other) = found
    assert {"2 cells beyond 200 steps, lam=300.0", ""} <= set(told)
    assert set(silent) <= {""}
    for name in ("loss", "kernel_distance", "num_steps", "status", "end"):
        assert one[name].values.tobytes() == other[name].values.tobytes()
