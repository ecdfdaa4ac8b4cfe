"""What users bring: names, arrays and settings of any kind are taken, or refused with what to do instead."""

import functools
import pathlib
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import layerflow as lf
from layerflow.base._keys import as_key

pytestmark = pytest.mark.usefixtures("as_users_see_it")

FLOW = lf.Flow(t1=1.0)
EXACT = lf.Exact(t1=1.0)  # compiles sooner
TARGETS = {"target": [1.0, 2.0]}
KEY = jax.random.key(3)
TIMES = [0.0, 1.0]


def cell(target):
    """One mode from zero; a negative target makes the weights NaN."""
    return lf.Problem(lf.linear_model(jnp.sqrt(target) * jnp.zeros(1)), lf.Modes(jnp.ones(1), target))


def drawn(key, target):
    return lf.Problem(lf.linear_model(jax.random.normal(key, (1,))), lf.Modes(jnp.ones(1), target))


def sweep(function=cell, axes=None, **how):
    return lf.sweep(function, TARGETS if axes is None else axes, **({"method": EXACT, "progress": False} | how))


@pytest.fixture(scope="module")
def diagram():
    return sweep(ts=TIMES)


@pytest.fixture(scope="module")
def seeded():
    return sweep(drawn, seeds=2, root=5)


def swapped(values):
    """The same numbers, the bytes of each the other way round."""
    return np.asarray(values).astype(">f8")


def masked(values):
    return np.ma.masked_array(values, np.arange(np.size(values)).reshape(np.shape(values)) == 0)


class Own(eqx.Module):
    """A network of the user's own."""

    weight: np.ndarray | jax.Array

    @property
    def matrix(self):
        return self.weight


def own(weight):
    return lf.Problem(Own(weight), lf.Modes(jnp.ones(2), 1.0))


EYE = np.eye(2)
TAKERS = {
    "Samples": lambda a: lf.Samples(a(EYE), EYE).x,
    "targets of Samples": lambda a: lf.Samples(EYE, a(EYE)).y,
    "Moments": lambda a: lf.Moments.whitened(a(EYE)).yx,
    "inverse of Moments": lambda a: lf.Moments(EYE, EYE, EYE, inverse=a(EYE), floor=0.0).inverse,
    "Modes": lambda a: lf.Modes(a([1.0, 2.0]), 1.0).variance,
    "rescaled": lambda a: lf.Samples(EYE, EYE).rescale(target=a([[2.0, 3.0]] * 2)).y,
    "linear_model": lambda a: lf.linear_model(a(EYE)).matrix,
    "LinearNetwork": lambda a: lf.LinearNetwork((a(EYE),)).matrix,
    "DiagonalNetwork": lambda a: lf.DiagonalNetwork((a([1.0, 2.0]),)).strengths,
    "a module of one's own": lambda a: jnp.asarray(own(a([[1.0, 2.0]])).start.weight),
    "decay": lambda a: (
        lf.Problem(lf.linear_model(jnp.ones(2)), lf.Modes(jnp.ones(2), 1.0), decay=a([[2.0, 3.0]])).decay
    ),
    "starts": lambda a: lf.lambda_balanced(KEY, 0.0, a([1.0, 2.0]), inp=2, hid=2, out=2).matrix,
    "theory": lambda a: lf.theory.sigmoidal(a([0.0, 1.0]), 0.1, 1.0, 1.0),
    "paired": lambda a: lf.paired({"target": a([1.0, 2.0])}).values["target"],
    "static": lambda a: jnp.stack(lf.static(a(EYE)).values),
    "axis": lambda a: sweep(axes={"target": a([1.0, 2.0])}).loss,
    "ts": lambda a: lf.solve(cell(1.0), FLOW, ts=a([0.0, 1.0])).ts,
}


@pytest.mark.parametrize("taker", TAKERS)
def test_numbers_of_another_byte_order_are_numbers(taker):
    np.testing.assert_array_equal(TAKERS[taker](swapped), TAKERS[taker](np.asarray))


@pytest.mark.parametrize("taker", TAKERS)
def test_masked_numbers_are_refused_and_masks_of_nothing_are_not(taker):
    with pytest.raises(ValueError, match=r"some are masked.*values.compressed\(\)"):
        TAKERS[taker](masked)
    np.testing.assert_array_equal(TAKERS[taker](np.ma.asarray), TAKERS[taker](np.asarray))


def test_a_curve_to_calibrate_keeps_its_mask():
    with pytest.raises(ValueError, match="some are masked"):
        lf.calibrate(
            lf.theory.sigmoidal, (np.arange(5.0), masked(np.ones(5))), "start", parameters={"start": 0.1, "target": 1.0}
        )


SETTINGS = {"disable_jit": jax.disable_jit, "nans": lambda: jax.debug_nans(True), "infs": lambda: jax.debug_infs(True)}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_for_debugging_change_no_diagram(setting, diagram):
    failing, observe = {"target": [-1.0, 1.0]}, {"endless": lambda n, p: 1.0 / (0.0 * n.matrix.sum())}
    with SETTINGS[setting]():
        same, failed = sweep(ts=TIMES), sweep(axes=failing, method=FLOW, observe=observe)
        alone = lf.solve(cell(jnp.array(2.0)), FLOW)
        again = lf.retry(cell, failed, FLOW, observe=observe)

    np.testing.assert_array_equal(same.loss, diagram.loss)
    assert failed.status.values.tolist() == again.status.values.tolist() == [lf.Status.NOT_FINITE, lf.Status.REACHED_T1]
    np.testing.assert_array_equal(again.endless, [np.nan, np.inf])
    assert alone.status == lf.Status.REACHED_T1


def test_labels_that_are_numbers_stay_numbers():
    def shaped(width):
        return lf.Problem(lf.LinearNetwork((jnp.ones((width, 1)), jnp.ones((1, width)))), lf.Modes(jnp.ones(1), 9.0))

    widths = sweep(shaped, {"width": lf.static(np.arange(1, 3))})
    pair = sweep(axes={"pair": lf.paired(TARGETS, labels=np.array([4, 7]))})

    assert widths.width.dtype == pair.pair.dtype == int
    assert widths.sel(width=2).loss == lf.replay(shaped, widths, width=2).observed["loss"]
    assert pair.pair.values.tolist() == [4, 7]
    assert lf.static(np.float32([0.5])).labels == [0.5]
    assert lf.static({"a": 1}).labels + lf.static([(1, 2)]).labels == ["a", "(1, 2)"]


def test_names_are_spelled_as_python_spells_them():
    def lunate(ϵ):  # noqa: PLC2401  U+03F5, which Python reads as U+03B5
        return cell(ϵ)

    found = sweep(lunate, {"ϵ": TARGETS["target"]}, observe={"ℓ": lf.loss}, derivative="ϵ")
    pair = sweep(lunate, {"pair": lf.paired({"ϵ": TARGETS["target"]})})

    assert [*found.data_vars][:2] == ["l", "l_d_ε"]
    assert found.l.dims == ("ε",)
    assert pair.coords["ε"].values.tolist() == TARGETS["target"]
    replayed = lf.replay(lunate, found, observe={"ℓ": lf.loss}, **{"ϵ": 2.0})
    np.testing.assert_allclose(replayed.observed["l"], found.l.sel({"ε": 2.0}), rtol=1e-12)
    assert lf.observable(dims=("ϵ",))(lambda n, p: 0.0).dims == ("ε",)


def test_a_jitted_cell_is_the_cell(seeded):
    until = lf.Flow(t1=40.0, until="converged")
    jitted = jax.jit(drawn)

    converged = sweep(functools.partial(jitted, target=1.0), {}, method=until, seeds=2)

    assert (converged.status == lf.Status.CONVERGED).all()
    assert lf.solve(jitted(KEY, 1.0), until).status == lf.Status.CONVERGED
    assert lf.replay(jitted, seeded, target=1.0, seed=0, method=until).status == lf.Status.CONVERGED
    np.testing.assert_array_equal(sweep(jitted, seeds=2, root=5).loss, seeded.loss)


def test_a_key_that_the_user_bound_is_kept():
    bound = functools.partial(functools.partial(drawn), key=KEY)
    here = [float(lf.Modes(jnp.ones(1), 1.0).loss(drawn(KEY, 1.0).start)), 0.0]

    found = sweep(bound, {"target": [1.0]}, ts=[0.0])

    np.testing.assert_allclose(found.loss.values.ravel(), here[:1], rtol=1e-14)
    assert float(lf.replay(bound, found).observed["loss"][0]) == pytest.approx(here[0], rel=1e-14)
    np.testing.assert_array_equal(sweep(eqx.Partial(drawn, key=KEY), {"target": [1.0]}, ts=[0.0]).loss, found.loss)
    with pytest.raises(TypeError, match=r"no `key` but the one that functools.partial binds, so all seeds"):
        sweep(bound, seeds=2)
    with pytest.raises(TypeError, match=r"`target` is bound by functools.partial, and an axis gives it too"):
        sweep(functools.partial(drawn, target=1.0))


WHATS = ["axis", "paired", "cell", "observable", "method", "ts", "static", "retry", "replay"]


@pytest.mark.parametrize(
    ("transform", "what"), [("grad", what) for what in WHATS] + [("vmap", "cell"), ("jit", "cell"), ("jit", "ts")]
)
def test_a_sweep_is_not_transformed(transform, what, diagram):
    failed = diagram.copy(deep=True)
    failed["status"][0] = lf.Status.STALLED
    parts = {
        "axis": lambda s: sweep(axes={"target": s * jnp.ones(2)}),
        "paired": lambda s: sweep(axes={"pair": lf.paired({"target": s * jnp.ones(2)})}),
        "cell": lambda s: sweep(lambda target: cell(s * target)),
        "observable": lambda s: sweep(observe={"o": lambda n, p: s * n.matrix}),
        "method": lambda s: sweep(method=lf.Flow(t1=s)),
        "ts": lambda s: sweep(ts=s * jnp.ones(1)),
        "static": lambda s: lf.static(s * jnp.ones(2)),
        "retry": lambda s: lf.retry(lambda target: cell(s * target), failed, FLOW),
        "replay": lambda s: lf.replay(cell, failed, target=s),
    }
    at = jnp.ones(1) if transform == "vmap" else 1.0

    with pytest.raises(TypeError, match=r"known numbers.*traced, here .*derivative=.*lf.solve"):
        getattr(jax, transform)(parts[what])(at)


def test_a_sweep_of_known_numbers_may_stand_in_a_function_that_is_differentiated(diagram):
    assert jax.grad(lambda s: s * sweep(ts=TIMES).loss.values[0, 0])(1.0) == diagram.loss.values[0, 0]


def two(network, problem):  # noqa: ARG001
    return jnp.ones((2, 2))


@lf.observable(dims=("mode", "mode"))
def twice(network, problem):  # noqa: ARG001
    return jnp.ones((2, 2))


@lf.observable(dims=("target",))
def along_the_axis(network, problem):  # noqa: ARG001
    return jnp.ones(2)


@lf.observable(dims=("loss",))
def along_a_variable(network, problem):  # noqa: ARG001
    return jnp.ones(3)


def test_declared_dimensions_that_mean_something_else_give_way_to_numbers():
    found = sweep(observe=(lf.loss, twice, along_the_axis, along_a_variable))

    assert found.twice.dims == ("target", "twice_0", "twice_1")
    assert found.along_the_axis.dims == ("target", "along_the_axis_0")
    assert found.along_a_variable.dims == ("target", "along_a_variable_0")


def test_a_name_that_only_looks_like_a_derivative_is_a_name():
    found = sweep(observe={"b_d_target": lf.loss}, derivative="target")

    assert found.b_d_target.attrs["long_name"] == "loss"
    assert found.b_d_target_d_target.attrs["long_name"] == "derivative of loss by target"


def verified(**observe):
    return lambda **how: sweep(observe=observe, verify=True, method=FLOW, **how)


def renamed(name, function=cell):
    """The cell by another name of its axis."""
    return lambda **arguments: function(arguments[name])


COLLISIONS = {
    "axis and numbered dimension": (
        lambda **how: sweep(renamed("w_0"), {"w_0": [1.0, 2.0, 3.0]}, observe={"w": two}, **how),
        r"variable `w` are numbered w_0, w_1, but `w_0` is the name of an axis",
    ),
    "of equal size": (
        lambda **how: sweep(renamed("w_0"), {"w_0": [1.0, 2.0]}, observe={"w": two}, **how),
        r"numbered w_0, w_1, but `w_0` is the name of an axis",
    ),
    "variable and numbered dimension": (
        lambda **how: sweep(observe={"w": two, "w_1": lf.loss}, **how),
        r"numbered w_0, w_1, but `w_1` is the name of an axis, a variable",
    ),
    "derivative": (
        lambda **how: sweep(observe={"a": lf.loss, "a_d_target": lf.loss}, derivative="target", **how),
        r"two variables called `a_d_target`.*`derivative`.*observe=\{'my_a_d_target'",
    ),
    "error": (verified(loss=lf.loss, loss_error=lf.loss), r"two variables called `loss_error`.*`verify`"),
    "drift": (
        lambda **how: sweep(
            lambda target: lf.Problem(lf.skill_network(target[None]), lf.Modes(jnp.ones(1), 1.0)),
            observe={"drift": lf.loss},
            verify=True,
            method=FLOW,
            **how,
        ),
        r"two variables called `drift`",
    ),
    "status of what is followed": (
        lambda **how: sweep(observe={"own": lf.laziness, "own_status": lf.loss}, method=FLOW, **how),
        r"two variables called `own_status`",
    ),
    "failed": (lambda **how: sweep(observe={"failed": lf.loss}, **how), r"`failed` has the name .*my_failed"),
    "verified": (verified(verified=lf.loss), r"two variables called `verified`"),
    "error_over_tolerance": (verified(error_over_tolerance=lf.loss), r"two variables called `error_over_tolerance`"),
    "axis called verified": (
        lambda **how: sweep(renamed("verified"), {"verified": [1.0]}, verify=True, method=FLOW, **how),
        r"variable `verified` has the name of an axis",
    ),
    "axis called like a derivative": (
        lambda **how: sweep(
            lambda target, loss_d_target: cell(target),
            TARGETS | {"loss_d_target": [1.0]},
            derivative="target",
            **how,
        ),
        r"variable `loss_d_target` has the name of an axis",
    ),
    "retried": (lambda **how: sweep(observe={"retried": lf.loss}, **how), r"the diagram's own variables"),
    "part of a dict": (
        lambda **how: sweep(observe={"loss": lambda n, p: {"status": 1.0}, "loss_status": lf.loss}, **how),
        r"Two observables are called `loss_status`",
    ),
    "argument and axis": (
        lambda **how: sweep(
            lambda target, other: cell(target),
            {"target": lf.paired({"other": [1.0]}), "both": lf.paired({"target": [1.0]})},
            **how,
        ),
        r"axis `both` gives the argument `target`, and another axis is called so",
    ),
    "two spellings of an axis": (
        lambda **how: sweep(renamed("ε"), {"ϵ": [1.0], "ε": [1.0]}, **how),
        r"takes the names `ϵ` and `ε` for one. Rename one axis",
    ),
    "a path": (lambda **how: sweep(observe={"train/loss": lf.loss}, **how), r"'train/loss'.*without `/`"),
}


@pytest.mark.parametrize("case", COLLISIONS)
def test_names_that_collide_are_refused_before_anything_is_made(case, tmp_path):
    call, words = COLLISIONS[case]
    for how in ({}, {"store": tmp_path / "store"}):
        with pytest.raises(ValueError, match=words):
            call(**how)
    assert not (tmp_path / "store").exists()


def test_names_near_those_of_the_diagram_are_free(tmp_path):
    found = sweep(observe={"failures": lf.loss, "loss_status": lf.loss, "drift": lf.loss}, store=tmp_path / "store")

    assert {"failures", "loss_status", "drift"} < {*lf.open_diagram(tmp_path / "store").data_vars}
    np.testing.assert_array_equal(found.failures, found.drift)


def test_means_of_codes_are_no_codes(seeded):
    mean = seeded.mean("seed")
    halves = seeded.assign(status=("target", [3.5, 0.0]))
    unknown = seeded.assign(status=("target", [77, 0]))
    for broken in (mean, halves, unknown):
        for ask in (lf.failures, lf.provenance, lambda d: d.lf.card, lambda d: lf.retry(drawn, d, FLOW)):
            with pytest.raises(ValueError, match=r"a mean of codes is no code.*diagram.failed.mean"):
                ask(broken)
    assert mean.lf.plot().get_ylabel() is not None  # asks for no code


@pytest.mark.parametrize("kind", ["int8", "int32", "float32", "float64"])
def test_codes_of_a_file_are_read_back_whatever_holds_them(kind, seeded, tmp_path):
    some = seeded.copy(deep=True)
    some["status"][0, 0] = lf.Status.STALLED
    some.assign(status=some.status.astype(kind)).to_netcdf(tmp_path / "d.nc", engine="scipy")
    if kind == "float64":
        with pytest.raises(ValueError, match="dtype"):
            lf.open_diagram(tmp_path / "d.nc")
        return
    read = lf.open_diagram(tmp_path / "d.nc")
    assert read.status.dtype == np.uint8
    assert lf.failures(read).status.tolist() == ["stalled"]


def test_cells_that_are_masked_are_no_failures(seeded, tmp_path):
    some = seeded.copy(deep=True)
    some["status"][:, 0] = lf.Status.STALLED
    kept = some.where(some.target > 1.5)

    assert lf.failures(kept).target.tolist() == [2.0]
    kept.to_netcdf(tmp_path / "d.nc", engine="scipy")
    assert lf.open_diagram(tmp_path / "d.nc").status.values.tolist() == [[255, 255], [5, 0]]


@pytest.mark.parametrize("number", [2**32, 2**40 + 7, -(2**40), 2**63 - 1, 5, 2**31, 2**32 - 1])
def test_a_root_gives_one_key_in_either_precision(number):
    keys = []
    for wide in (True, False):
        with jax.enable_x64(wide):
            keys.append(np.asarray(jax.random.key_data(as_key(number, "root"))).tolist())
    assert keys[0] == keys[1]
    assert keys[0] == [number >> 32 & 0xFFFFFFFF, number & 0xFFFFFFFF]


def test_classes_without_a_sample_have_not_collapsed(key):
    """Two of three classes are there: what their means decide is not known, what the classifier is remains."""
    task = lf.Samples(np.eye(3), np.eye(3)[[0, 1, 1]])
    start = lf.gaussian(key, (3, 4, 3), std=1.0)

    gaps = lf.neural_collapse(start, lf.Problem(start, task))

    assert {name for name, value in gaps.items() if np.isnan(value)} == {
        "nc1",
        "nc2_equinorm",
        "nc2_equiangular",
        "nc3",
        "nc4",
    }


def test_the_package_shows_its_own_names_alone():
    foreign = [name for name in {*dir(lf)} - {*lf.__all__} if not name.startswith("_")]
    foreign = [name for name in foreign if not getattr(lf, name).__name__.startswith("layerflow.")]

    assert {*foreign} <= {"jaxtyping"}  # put there by what checks annotations in tests


@pytest.mark.slow
def test_tests_run_without_the_cache_of_pytest():
    """A process of its own, which takes seconds to import."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", __file__]
    ran = subprocess.run(command, cwd=pathlib.Path(__file__).parents[1], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr


DESCENT = lf.Descent(optax.sgd, learning_rate=0.1, steps=3)
CASES = {
    "position only": (lambda: sweep(lambda target, /: cell(target)), TypeError, r"`target` by position only.*the `/`"),
    "a key by position": (
        lambda: sweep(lambda key, /, target: cell(target)),
        TypeError,
        r"`key` by position only, but arguments are handed over by name",
    ),
    "any by position": (
        lambda: sweep(lambda key, *rest: cell(*rest)),
        TypeError,
        r"it takes `key`, and \*rest by position. Axes are named after its arguments: def cell\(key, target\)",
    ),
    "replay by position": (
        lambda: lf.replay(lambda target, /: cell(target), sweep(ts=TIMES), target=1.0),
        TypeError,
        r"`target` by position only",
    ),
    "slice up to a value": (
        lambda: sweep(lambda n: cell(jnp.ones(4)[:n].sum()), {"n": [1, 2]}),
        TypeError,
        r"value of an axis.*lf.static\(\[...\]\)",
    ),
    "mask of a value": (
        lambda: sweep(lambda n: cell(jnp.ones(4)[jnp.arange(4) < n].sum()), {"n": [1, 2]}),
        TypeError,
        r"value of an axis.*lf.static\(\[...\]\).*jnp.where",
    ),
    "index out of range": (lambda: sweep(lambda target: cell(TIMES[7])), IndexError, r"list index out of range"),
    "set of times": (lambda: lf.solve(cell(1.0), FLOW, ts={0.0, 1.0}), TypeError, r"`ts`.*a set.*sorted\(...\)"),
    "generator of times": (lambda: sweep(ts=iter([0.0, 1.0])), TypeError, r"`ts`.*a generator. Write list\(...\)"),
    "set along an axis": (lambda: sweep(axes={"target": {1.0, 2.0}}), TypeError, r"Axis `target`.*sorted\(...\)"),
    "generator in a pair": (lambda: lf.paired({"target": iter([1.0])}), TypeError, r"Axis `target`.*list\(...\)"),
    "generator of labels": (lambda: lf.paired(TARGETS, labels=iter("ab")), TypeError, r"`labels`.*list\(...\)"),
    "half a step": (
        lambda: sweep(method=DESCENT, ts=[0.0, 2 / 0.3]),
        ValueError,
        r"counts steps.*ts=jnp.round\(ts\).astype\(int\)",
    ),
    "whole weights": (
        lambda: lf.solve(own(np.ones((1, 2), int)), FLOW),
        ValueError,
        r"Nothing moves.*int64.*Cast them.*w.astype\(float\)",
    ),
    "whole weights in a sweep": (
        lambda: sweep(lambda target: own(jnp.ones((1, 2), int))),
        ValueError,
        r"Nothing moves.*Cast them.*w.astype\(float\)",
    ),
    "root beyond 64 bits": (lambda: sweep(root=2**63), ValueError, r"`root`.*64 bits.*number % 2\*\*63"),
    "key beyond 64 bits": (lambda: lf.solve(cell(1.0), FLOW, key=-(2**64)), ValueError, r"`key`.*64 bits"),
    "derivative by a number": (lambda: sweep(derivative=(1,)), ValueError, r"here: target\), but `1` is not one"),
    "axis called by a number": (lambda: sweep(axes={1: [1.0]}), TypeError, r"Names are text, but one axis is called 1"),
    "function called by a number": (lambda: sweep(observe={1: lf.loss}), TypeError, r"Names are text.*`observe`"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_told_in_the_users_words(case):
    call, kind, words = CASES[case]
    with pytest.raises(kind, match=words):
        call()


def test_arithmetic_makes_no_codes(seeded):
    for made in (seeded * 2, 2 * seeded, seeded - seeded):
        with pytest.raises(ValueError, match="a mean of codes is no code"):
            lf.failures(made)
    np.testing.assert_array_equal((seeded * 2).loss, 2 * seeded.loss)


def test_a_loss_to_stop_at_is_a_number():
    with pytest.raises(ValueError, match=r"`until` is a loss to stop at, or None, but it is NaN"):
        lf.Flow(t1=1.0, until=float("nan"))
