"""Closed forms as a method: against the flow that they replace, and refused where they do not hold."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import layerflow as lf
from layerflow.methods._one_layer import one_layer

TIGHT = lf.Flow(t1=4.0, rtol=1e-11, atol=1e-13)
TS = jnp.array([0.0, 0.3, 1.7, 4.0])
KEYS = jax.random.split(jax.random.key(3), 8)


def modes_of(task, inp):
    """Rank-deficient, coloured samples of that many inputs and outputs."""
    return lf.Samples(*(np.random.default_rng(task).normal(size=(7, n)) for n in (inp, 2)))


COUPLED = (np.random.default_rng(3).normal(size=(7, n)) for n in (3, 1))
WHITE = lf.random_regression(KEYS[0], n=12, inp=3, out=2, whiten=True)
PROBLEMS = {
    "linear model on coloured data": lf.Problem(lf.linear_model(jax.random.normal(KEYS[1], (2, 4))), modes_of(1, 4)),
    "linear model on more inputs than samples": lf.Problem(
        lf.linear_model(jax.random.normal(KEYS[1], (2, 9))), modes_of(2, 9)
    ),
    "linear model with an output scale": lf.Problem(
        lf.LinearNetwork((jax.random.normal(KEYS[1], (2, 4)),), 0.5), modes_of(1, 4)
    ),
    "linear model with decay": lf.Problem(
        lf.LinearNetwork((jax.random.normal(KEYS[1], (2, 9)),), 0.5), modes_of(2, 9), decay=0.3
    ),
    "linear model with a decay of its layer": lf.Problem(
        lf.linear_model(jnp.ones(3)),
        lf.Modes(jnp.array([1.0, 0.5, 0.0]), 2.0),
        decay=eqx.tree_at(lambda network: network.weights, lf.linear_model(jnp.ones(3)), (0.2,)),
    ),
    "linear model on modes": lf.Problem(
        lf.linear_model(jnp.array([0.3, -1.0, 0.0])), lf.Modes(jnp.array([1.0, 0.5, 0.0]), 2.0)
    ),
    "pairs of layers": lf.Problem(
        lf.DiagonalNetwork((jnp.array([0.3, -0.1, 1.0, 0.5]), jnp.array([0.3, 0.8, -1.0, 0.0])), 0.7),
        lf.Modes(jnp.array([1.0, 0.5, 0.2, 1.0]), jnp.array([1.0, -2.0, 1.5, 0.4])),
    ),
    "pairs of layers on whitened data": lf.Problem(
        lf.DiagonalNetwork((jnp.array([0.3, -0.1, 1.0]), jnp.array([0.3, 0.8, -1.0])), 0.7),
        lf.random_regression(KEYS[6], n=12, inp=3, out=1, whiten=True),
    ),
    "pairs of layers on uncorrelated inputs": lf.Problem(
        lf.DiagonalNetwork((jnp.array([0.3, -0.1, 1.0, 0.5]), jnp.array([0.3, 0.8, -1.0, 0.0]))),
        lf.Moments(jnp.diag(jnp.array([1.0, 0.5, 2.0, 0.0])), jnp.array([[0.8, -1.0, 0.3, 0.0]]), 5 * jnp.eye(1)),
    ),
    "deep modes": lf.Problem(
        lf.DiagonalNetwork(tuple(s * jnp.array([0.5, 0.7]) for s in (1.0, -1.0, -1.0))),
        lf.Modes(jnp.array([1.0, 0.5]), jnp.array([1.0, 2.0])),
    ),
    "scalar network": lf.Problem(
        lf.LinearNetwork((jax.random.normal(KEYS[2], (5, 1)), jax.random.normal(KEYS[3], (1, 5))), 0.4),
        lf.Moments(jnp.full((1, 1), 1.3), jnp.full((1, 1), -0.8), jnp.full((1, 1), 2.0)),
    ),
    "balanced": lf.Problem(lf.lambda_balanced(KEYS[4], -0.7, 0.4, inp=3, hid=2, out=2), WHITE),
    "balanced, of scaled inputs and outputs": lf.Problem(
        eqx.tree_at(
            lambda network: network.output_scale,
            lf.lambda_balanced(KEYS[4], 0.7, 0.4, inp=3, hid=2, out=2),
            jnp.asarray(-0.6),
        ),
        WHITE.rescale(input=1.5, target=2.0),
    ),
    "single neuron": lf.Problem(lf.gaussian(KEYS[5], (3, 1, 1), std=0.7), lf.Moments.whitened(jnp.ones((1, 3)))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_exact_is_the_flow(name):
    """Of everything that a rotation of hidden units leaves alone; weights too where they are known."""
    problem = PROBLEMS[name]
    observe = (lf.loss, lf.kernel_distance, matrix)
    exact, flow = (lf.solve(problem, method, ts=TS, observe=observe) for method in (lf.Exact(t1=4.0), TIGHT))

    assert lf.Exact.applies(problem)
    assert exact.status == 0
    for key, value in flow.observed.items():
        np.testing.assert_allclose(exact.observed[key], value, atol=1e-9)
    np.testing.assert_allclose(exact.network.matrix, flow.network.matrix, atol=1e-9)
    if "balanced" not in name and "neuron" not in name:
        for ours, theirs in zip(exact.network.weights, flow.network.weights, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-9)


def matrix(network, problem):  # noqa: ARG001
    return network.matrix


def figure_6a(key, lam, ratio):
    task = lf.random_regression(jax.random.key(1), n=10, inp=2, out=2, whiten=True).moments
    start = lf.lambda_balanced(key, lam, jnp.sqrt(ratio), inp=2, hid=2, out=2)
    return lf.Problem(start, task.rescale(target=1 / ratio))


AXES = {"lam": np.linspace(-9, 9, 7), "ratio": np.linspace(1, 20, 5)}


@pytest.mark.slow
def test_figure_6a_is_the_same_by_exact_and_by_a_tight_flow():
    sweep = lambda method: lf.sweep(figure_6a, AXES, seeds=2, method=method, observe=(lf.kernel_distance, lf.loss))
    exact, flow = sweep(lf.Exact(t1=39.99)), sweep(lf.Flow(t1=39.99, rtol=1e-10))

    assert (exact.status == 0).all()
    np.testing.assert_allclose(exact.kernel_distance, flow.kernel_distance, atol=1e-8)
    np.testing.assert_allclose(exact.loss, flow.loss, atol=1e-8)
    # The lazy corner, 1e-11, keeps digits of its own.
    np.testing.assert_allclose(exact.kernel_distance, flow.kernel_distance, rtol=1e-6)
    assert "closed form to t = 39.99" in str(exact)


def test_the_figure_is_drawn_by_its_closed_form(tmp_path, capsys):
    from layerflow.cli import main

    main(["figure", "6a", "--grid", "3", "--seeds", "1", "--method", "exact", "--out", str(tmp_path)])

    assert "closed form to t = 39.99" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["figure", "6b", "--grid", "3", "--seeds", "1", "--method", "exact", "--out", str(tmp_path)])
    assert "Figure 6b has no --method exact" in capsys.readouterr().err


@pytest.mark.slow
def test_verify_finds_the_errors_of_a_flow_within_its_tolerance():
    diagram = lf.sweep(figure_6a, AXES, method=lf.Flow(t1=39.99), observe=(lf.kernel_distance, lf.loss), verify=True)
    exact = lf.sweep(figure_6a, AXES, method=lf.Exact(t1=39.99), observe=(lf.kernel_distance, lf.loss))

    for name in ("kernel_distance", "loss"):
        np.testing.assert_allclose(diagram[f"{name}_error"], abs(diagram[name] - exact[name]), atol=1e-15)
    assert bool(diagram.verified.all())
    assert 0 < diagram.attrs["worst_error_over_tolerance"] < 1
    assert 0 < diagram.attrs["worst_drift"] < 1e-5
    assert "35 cells, worst error" in str(diagram)


@pytest.mark.slow
def test_verify_finds_a_method_that_is_worse_than_it_says():
    """Euler steps under a controller that believes them: the tolerance promised is not kept."""
    import diffrax

    class Believing(diffrax.PIDController):
        def adapt_step_size(self, *arguments):
            y_error = jax.tree.map(lambda error: 1e-6 * error, arguments[5])
            return super().adapt_step_size(*arguments[:5], y_error, *arguments[6:])

    controller = Believing(rtol=1e-6, atol=1e-8)
    method = lf.Flow(t1=5.0, controller=controller)

    diagram = lf.sweep(figure_6a, {"lam": [0.0, 3.0], "ratio": [1.0]}, method=method, verify=True)

    assert (diagram.error_over_tolerance > 10).any()
    assert not diagram.verified.all()


@pytest.mark.slow
def test_verify_holds_a_flow_that_stopped_early_against_the_time_where_it_stopped():
    method = lf.Flow(t1=100.0, until="converged")
    at = {"lam": [1.0, 3.0], "ratio": [1.0]}

    diagram = lf.sweep(figure_6a, at, method=method, observe=(lf.loss, lf.mode_strengths), verify=True)

    assert (diagram.end < 90).all()
    assert diagram.verified.all()
    assert (diagram.mode_strengths_error < 1e-4).all()


def test_verify_gives_no_verdict_where_there_is_nothing_to_hold_against():
    def cell(key):
        return lf.Problem(eqx.nn.MLP(3, 2, 4, 1, key=key), modes_of(1, 3))

    with jax.numpy_rank_promotion("allow"):
        diagram = lf.sweep(cell, method=lf.Flow(t1=0.1), verify=True)

    assert np.isnan(diagram.error_over_tolerance)
    assert not diagram.verified


def test_drift_is_that_from_the_decay_law():
    """With decay mu imbalances fade as e^{-2 mu t}: no closed form, but still something to hold."""

    def cell(key, mu):
        return lf.Problem(lf.gaussian(key, (3, 4, 2), std=0.7), modes_of(1, 3), decay=mu)

    diagram = lf.sweep(cell, {"mu": [0.0, 0.1]}, method=lf.Flow(t1=5.0), verify=True)

    assert set(diagram.data_vars) & {"loss_error", "drift"} == {"drift"}
    assert (diagram.drift < 1e-5).all()
    loose = lf.sweep(cell, {"mu": [0.0, 0.1]}, method=lf.Flow(t1=5.0, rtol=1e-3), verify=True)
    assert (loose.drift > diagram.drift).all()


def test_a_cell_outside_is_masked_and_says_so():
    """Two starts, of which one is balanced."""
    plain, off = lf.lambda_balanced(KEYS[4], 0.5, 0.4, inp=3, hid=2, out=2), jnp.array([0.0, 0.1])

    def cell(shift):
        start = eqx.tree_at(lambda network: network.weights[0], plain, plain.weights[0] + shift)
        return lf.Problem(start, WHITE)

    diagram = lf.sweep(cell, {"shift": off}, method=lf.Exact(t1=1.0))

    np.testing.assert_array_equal(diagram.status, [lf.Status.REACHED_T1, lf.Status.OUTSIDE])
    np.testing.assert_array_equal(np.isnan(diagram.loss), [False, True])
    assert "1 outside" in str(diagram)
    verified = lf.sweep(cell, {"shift": off}, method=lf.Flow(t1=1.0), verify=True)
    np.testing.assert_array_equal(np.isnan(verified.loss_error), [False, True])
    assert (verified.drift < 1e-5).all()


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (
            lf.Problem(lf.lambda_balanced(KEYS[4], 0.5, 0.4, inp=3, hid=2, out=2), modes_of(1, 3)),
            r"whitened.*violated by",
        ),
        (lf.Problem(lf.gaussian(KEYS[4], (3, 2, 2)), WHITE), r"lambda-balanced, .*violated by"),
        (lf.Problem(lf.gaussian(KEYS[4], (3, 2, 2, 2)), WHITE), r"layers share singular vectors .*violated by"),
        (lf.Problem(lf.gaussian(KEYS[4], (3, 2, 2)), WHITE, decay=0.1), r"no `decay` of their own, but one number for"),
        (
            lf.Problem(lf.linear_model(jnp.ones((2, 3))), WHITE, decay=0.1 * jnp.ones((2, 3))),
            r"no `decay` of their own",
        ),
        (
            lf.Problem(lf.linear_model(jnp.ones((2, 3))), WHITE, rates=0.1),
            r"no `rates` of their own, but one positive number",
        ),
        (
            lf.Problem(lf.DiagonalNetwork((jnp.ones(3), jnp.ones(3))), lf.Samples(*COUPLED)),
            r"the inputs are uncorrelated, E\[x x\^T\] diagonal .*: violated by",
        ),
        (lf.Problem(eqx.nn.MLP(3, 2, 2, 1, key=KEYS[0]), WHITE), r"on Modes, Moments or Samples|linear network"),
        (
            lf.Problem(lf.DiagonalNetwork((jnp.ones(2), jnp.ones(2), 0.5 * jnp.ones(2))), lf.Modes(jnp.ones(2), 3.0)),
            r"all layers of a mode are equal in size: violated by 0.5",
        ),
    ],
)
def test_applies_says_which_assumption_fails_and_by_how_much(problem, words):
    verdict = lf.Exact.applies(problem)

    assert not verdict
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(str(verdict))


def test_what_a_rotation_of_hidden_units_changes_is_refused():
    problem = PROBLEMS["balanced"]
    first_weight = lambda network, problem: network.weights[0][0, 0]

    with pytest.raises(ValueError, match=r"up to a rotation of the hidden units, but `w` changes with it"):
        lf.solve(problem, lf.Exact(t1=1.0), observe={"w": first_weight, "loss": lf.loss})
    with pytest.raises(ValueError, match=r"but `w` changes with it"):
        lf.sweep(lambda: problem, method=lf.Exact(t1=1.0), observe={"w": first_weight})
    with pytest.raises(ValueError, match=r"but `w` changes with it"):
        lf.sweep(lambda: problem, method=lf.Flow(t1=1.0), observe={"w": first_weight}, verify=True)
    fine = (lf.layer_imbalance, lf.effective_rank, lf.mode_strengths, lf.weight_norms)
    assert lf.solve(problem, lf.Exact(t1=1.0), observe=fine).status == 0


def test_a_second_exact_sweep_compiles_nothing(compilations):
    run = lambda t1: lf.sweep(figure_6a, {"lam": [0.0, 1.0], "ratio": [1.0]}, method=lf.Exact(t1=t1))
    run(1.0)
    before = compilations.count

    run(2.0)

    assert compilations.count == before


@pytest.mark.slow
def test_calibration_recovers_what_a_mode_was_made_with():
    """The way that Figure 4 is calibrated on its first skill: speed and start, from a curve with noise."""
    path = lf.solve(
        lf.Problem(lf.DiagonalNetwork((jnp.array([0.1]), jnp.array([0.1]))), lf.Modes(jnp.full(1, 0.7), 2.0)),
        lf.Flow(t1=8.0, rtol=1e-9),
        ts=np.linspace(0, 8, 200),
        observe={"strength": lambda network, problem: network.strengths[0]},
    )
    known = {"target": 2.0, "start": 0.05, "variance": 1.0}

    clean = lf.calibrate(lf.theory.sigmoidal, path, ("variance", "start"), parameters=known)
    np.testing.assert_allclose([clean.values["variance"], clean.values["start"]], [0.7, 0.01], rtol=1e-6)
    noise = np.random.default_rng(0).normal(size=(30, 200), scale=0.05)
    curve = np.asarray(path.observed["strength"])
    fits = [
        lf.calibrate(lf.theory.sigmoidal, (path.ts, curve + n), "variance", parameters=known | {"start": 0.01})
        for n in noise
    ]
    found = np.array([fit.values["variance"] for fit in fits])
    # The stated error is the scatter of the fits.
    np.testing.assert_allclose(np.mean([fit.errors["variance"] for fit in fits]), found.std(), rtol=0.3)
    assert abs(found.mean() - 0.7) < 4 * found.std() / np.sqrt(30)
    np.testing.assert_allclose(fits[0].residual, 0.05, rtol=0.2)
    np.testing.assert_allclose(clean.curve(path.ts), curve, atol=1e-6)


def few_or_white(kind, noise, scale, decay):
    """A linear model of fewer samples than inputs or on inputs of equal variance, or pairs of layers on these."""
    teacher = lf.linear_model(jnp.array([1.0, -0.5, 0.3, 0.0]))
    most = lf.teacher(KEYS[7], teacher, n=9, inp=4, noise=noise).rescale(input=scale)
    task = most.first(jnp.asarray(3)) if kind == "few" else lf.population(teacher, noise=noise, xx=scale * jnp.eye(4))
    if kind == "pairs":
        return lf.Problem(lf.DiagonalNetwork((jnp.full(4, 0.4), jnp.full(4, -0.7))), task)
    return lf.Problem(lf.linear_model(jnp.full(4, 0.2)), task, decay=decay)


@pytest.mark.parametrize("kind", ["few", "white", "pairs"])
def test_derivatives_of_closed_forms_are_central_differences(kind):
    """By noise, scale, decay and time, also where variances of inputs are equal, whose axes have no derivative."""
    names = ("noise", "scale") if kind == "pairs" else ("decay", "noise", "scale")
    cell = lambda noise, scale, decay=0.0: few_or_white(kind, noise, scale, decay)
    value = lambda t, **numbers: lf.solve(cell(**numbers), lf.Exact(t1=t)).observed["loss"]
    at = {"t": jnp.asarray(2.0)} | dict.fromkeys(names, jnp.asarray(0.3))
    slope = lambda name: (value(**at | {name: at[name] + 1e-5}) - value(**at | {name: at[name] - 1e-5})) / 2e-5

    diagram = lf.sweep(cell, {n: [0.3] for n in names}, method=lf.Exact(t1=2.0), derivative=names, progress=False)

    for name in names:
        np.testing.assert_allclose(diagram[f"loss_d_{name}"].item(), slope(name), rtol=1e-6, atol=1e-9)
    for derivative in (jax.jacfwd, jax.grad):
        by_time = derivative(lambda t: value(**at | {"t": t}))(at["t"])
        np.testing.assert_allclose(by_time, slope("t"), rtol=1e-6)


@pytest.mark.parametrize("decay", [None, 0.3, -0.2])
@pytest.mark.parametrize("variances", [(1.0, 1.0, 1.0), (1.0, 1.0, 0.4), (2.0, 0.7, 0.1)])
def test_one_layer_has_derivatives_along_any_change_of_its_data(decay, variances):
    """Of a change of E[x x^T] that turns its axes, early and late, against central differences of fourth order."""
    rng = np.random.default_rng(4)
    w, yx, dw, dyx = rng.normal(size=(4, 2, 3))
    turn, change = np.linalg.qr(rng.normal(size=(3, 3)))[0], rng.normal(size=(3, 3))
    xx, ts = turn @ np.diag(variances) @ turn.T, np.array([0.01, 0.04, 1.0, 20.0])
    point = [ts, w, xx, yx, np.array(0.8), *([] if decay is None else [np.array(decay)])]
    tangent = [0.1 * ts, dw, change + change.T, dyx, np.array(0.3), *([] if decay is None else [np.array(0.2)])]
    moved = jax.jit(lambda *numbers: one_layer(*numbers, *([None] if decay is None else [])))
    at = lambda h: moved(*(a + h * b for a, b in zip(point, tangent, strict=True)))

    slope = jax.jvp(moved, point, tangent)[1]

    h = 1e-3
    expected = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    sizes = np.abs(expected).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(slope / sizes, expected / sizes, atol=1e-7)


def test_decay_is_an_axis_and_flows_with_decay_are_held_against_it():
    cell = lambda decay: lf.Problem(lf.linear_model(jnp.ones((2, 4))), modes_of(1, 4), decay=decay)
    axes = {"decay": [0.0, 0.1, 3.0]}

    diagram = lf.sweep(cell, axes, method=lf.Flow(t1=5.0), verify=True, progress=False)
    exact = lf.sweep(cell, axes, method=lf.Exact(t1=5.0), progress=False)

    assert bool(diagram.verified.all())
    np.testing.assert_allclose(diagram.loss, exact.loss, rtol=1e-5)
    np.testing.assert_allclose(exact.loss[0], lf.solve(cell(0.0), lf.Exact(t1=5.0)).observed["loss"], rtol=1e-13)
