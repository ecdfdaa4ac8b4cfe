"""Sweeps: labels, equality with the loop they replace, failures, and what compiles."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray

import layerflow as lf

LAMS = np.array([-2.0, 0.0, 2.0])
SCALES = np.array([0.5, 1.0, 2.0, 4.0])
METHOD = lf.Flow(t1=5.0)
TASK = lf.Moments.whitened(yx=jnp.array([[1.0, 0.3], [-0.2, 0.8]]))


def cell(key, lam, scale):
    start = lf.lambda_balanced(key, lam, 0.5, inp=2, hid=2, out=2)
    return lf.Problem(start, TASK.rescale(target=scale))


OBSERVE = (lf.loss, lf.kernel_distance, lf.layer_imbalance)


@pytest.fixture(scope="module")
def diagram():
    return lf.sweep(cell, {"lam": LAMS, "scale": SCALES}, seeds=2, method=METHOD, observe=OBSERVE)


def test_a_sweep_equals_the_loop_of_single_solves(diagram):
    """To ten times the tolerance: XLA's arithmetic differs in the last bits with the width of a batch."""
    for lam in LAMS:
        for scale in SCALES:
            for seed in range(2):
                problem = cell(jax.random.fold_in(jax.random.key(0), seed), lam, scale)
                path = lf.solve(problem, METHOD, observe=OBSERVE)
                here = diagram.sel(lam=lam, scale=scale, seed=seed)
                for name, value in path.observed.items():
                    np.testing.assert_allclose(here[name], value, rtol=1e-5, atol=1e-5)


def test_dimensions_names_and_facts_are_told(diagram):
    assert dict(diagram.sizes) == {"lam": 3, "scale": 4, "seed": 2, "layer_imbalance_0": 2, "layer_imbalance_1": 2}
    assert list(diagram.data_vars)[:3] == ["loss", "kernel_distance", "layer_imbalance"]
    assert diagram.lam.attrs == {"long_name": "layer imbalance λ", "units": "weight²"}
    assert diagram.layer_imbalance.attrs["units"] == "weight²"
    np.testing.assert_array_equal(diagram.scale, SCALES)
    np.testing.assert_allclose(
        diagram.layer_imbalance,
        np.broadcast_to(LAMS[:, None, None, None, None] * np.eye(2), (3, 4, 2, 2, 2)),
        atol=1e-4,
    )
    facts = diagram.attrs
    assert facts["method"] == "Flow"
    assert (facts["t1"], facts["rtol"], facts["atol"], facts["solver"]) == (5.0, 1e-6, 1e-8, "Tsit5")
    assert facts["dtype"] == "float64"
    assert facts["device"].startswith("cpu")
    assert {"layerflow_version", "jax_version", "diffrax_version", "wall_seconds", "compile_seconds"} <= facts.keys()
    assert "reached_t1 converged saddle not_finite" in diagram.status.attrs["flag_meanings"]
    assert (diagram.status == 0).all()
    assert (diagram.num_steps > 5).all()


def test_a_diagram_goes_through_a_netcdf_file(diagram, tmp_path):
    diagram.to_netcdf(tmp_path / "diagram.nc", engine="scipy")

    with xarray.open_dataset(tmp_path / "diagram.nc", engine="scipy") as read:
        assert read.drop_vars("status").equals(diagram.drop_vars("status"))
        assert read.attrs["fingerprint"] == diagram.attrs["fingerprint"]


def test_seeds_are_common_to_all_cells_and_set_by_the_root():
    """Seed s has the key fold_in(root, s), whatever the cell."""
    draw = lambda key, lam: lf.Problem(lf.linear_model(jax.random.normal(key, (2,)) + 0 * lam), modes())
    start = lambda network, problem: problem.start.weights[0][0]
    run = lambda **kw: lf.sweep(draw, {"lam": LAMS}, method=METHOD, observe={"start": start}, **kw).start.values

    zero, one = run(seeds=3), run(seeds=3, root=1)

    assert (zero == zero[:1]).all()
    np.testing.assert_array_equal(zero[0, 2], jax.random.normal(jax.random.fold_in(jax.random.key(0), 2), (2,)))
    np.testing.assert_array_equal(run(), zero[:, 0])
    assert (zero != one).all()
    np.testing.assert_array_equal(run(seeds=3, root=jax.random.key(1)), one)


def modes():
    return lf.Modes(variance=jnp.array([1.0, 0.5]), target=1.0)


def test_no_axes_and_no_key_are_a_diagram_of_one_cell():
    single = lf.sweep(lambda: lf.Problem(lf.linear_model(jnp.zeros(2)), modes()), method=METHOD)
    repeated = lf.sweep(
        lambda key: lf.Problem(lf.linear_model(jax.random.normal(key, (2,))), modes()), seeds=3, method=METHOD
    )

    np.testing.assert_allclose(single.loss, 0.5 * (np.exp(-10.0) + 0.5 * np.exp(-5.0)), rtol=1e-4)
    assert single.loss.dims == ()
    assert repeated.loss.dims == ("seed",)


@pytest.mark.slow
def test_static_axes_change_shapes_and_keep_their_place():
    """Each value compiles once; dimensions stay in the user's order, labelled."""

    def shaped(key, lam, widths, scale):
        inp, hid, out = widths
        task = lf.random_regression(key, n=10, inp=inp, out=out, whiten=True)
        return lf.Problem(lf.lambda_balanced(key, lam, scale, inp=inp, hid=hid, out=out), task)

    shapes = lf.static({"funnel": (4, 2, 2), "anti-funnel": (2, 2, 4)})
    axes = {"lam": LAMS, "widths": shapes, "scale": SCALES[:2]}
    diagram = lf.sweep(shaped, axes, method=METHOD, observe=(lf.kernel_distance, lf.effective_rank))

    assert diagram.kernel_distance.dims == ("lam", "widths", "scale")
    assert list(diagram.widths.values) == ["funnel", "anti-funnel"]
    problem = shaped(jax.random.fold_in(jax.random.key(0), 0), 2.0, (2, 2, 4), 1.0)
    alone = lf.solve(problem, METHOD, observe=lf.kernel_distance).observed["kernel_distance"]
    np.testing.assert_allclose(diagram.kernel_distance.sel(lam=2.0, widths="anti-funnel", scale=1.0), alone, rtol=1e-4)


def test_paired_axes_move_together():
    def two(variance, target):
        return lf.Problem(lf.linear_model(jnp.zeros(2)), lf.Modes(variance=variance, target=target))

    axis = lf.paired({"variance": [[1.0, 2.0], [3.0, 4.0]], "target": [5.0, 6.0]}, labels=["low", "high"])
    diagram = lf.sweep(two, {"case": axis}, method=lf.Flow(t1=0.1), observe=lf.mode_strengths)

    expected = np.array([5.0, 6.0])[:, None] * -np.expm1(-0.1 * np.array([[1.0, 2.0], [3.0, 4.0]]))
    np.testing.assert_allclose(diagram.mode_strengths, expected, rtol=1e-5)
    assert list(diagram.case.values) == ["low", "high"]
    assert list(diagram.target.values) == [5.0, 6.0]


@pytest.mark.parametrize(
    ("method", "name"), [(METHOD, "t"), (lf.Descent(optax.sgd, learning_rate=0.1, steps=50), "step")]
)
def test_values_over_time_have_a_time_dimension(method, name):
    ts = [0.0, 1.0, 5.0] if name == "t" else [0, 10, 50]
    diagram = lf.sweep(cell, {"lam": LAMS, "scale": SCALES[:1]}, method=method, ts=ts, observe=lf.mode_strengths)

    assert diagram.mode_strengths.dims == ("lam", "scale", name, "mode")
    np.testing.assert_array_equal(diagram[name], ts)
    path = lf.solve(cell(jax.random.fold_in(jax.random.key(0), 0), 2.0, 0.5), method, ts=ts, observe=lf.mode_strengths)
    np.testing.assert_allclose(
        diagram.mode_strengths.sel(lam=2.0, scale=0.5), path.observed["mode_strengths"], atol=1e-5
    )


def test_a_cell_may_return_its_method():
    """So a learning rate can be an axis."""

    def rate(eta):
        start = lf.DiagonalNetwork((jnp.ones(2), jnp.ones(2)))
        return lf.Problem(start, modes()), lf.Descent(optax.sgd, learning_rate=eta, steps=20)

    etas = np.array([1e-3, 1e-2, 1e-1])
    diagram = lf.sweep(rate, {"eta": etas}, ts=[0, 5, 20])

    for eta in etas:
        alone = lf.solve(*rate(eta), ts=[0, 5, 20]).observed["loss"]
        np.testing.assert_allclose(diagram.loss.sel(eta=eta), alone, rtol=1e-12)


def test_a_schedule_takes_its_rate_from_an_axis():
    """By a factory of that number, as the error of the other way says."""

    def decayed(rate):
        return optax.sgd(optax.exponential_decay(rate, 10, 0.5))

    def rate(eta):
        start = lf.DiagonalNetwork((jnp.ones(2), 0.5 * jnp.ones(2)))
        return lf.Problem(start, modes()), lf.Descent(decayed, rate=eta, steps=20)

    diagram = lf.sweep(rate, {"eta": [0.01, 0.1]})

    fixed = lf.Descent(optax.sgd, learning_rate=optax.exponential_decay(0.1, 10, 0.5), steps=20)
    # Optax computes the schedule of a plain number in float32.
    np.testing.assert_allclose(diagram.loss[1], lf.solve(rate(0.1)[0], fixed).observed["loss"], rtol=1e-6)


def test_a_cell_may_solve_first_and_go_on_from_there(key):
    """Continual learning, compiled as one program."""

    def second(scale):
        first = lf.Problem(lf.gaussian(key, (2, 2, 2), std=0.5), TASK)
        learned = lf.solve(first, lf.Flow(t1=3.0)).network
        return lf.Problem(learned, TASK.rescale(target=scale))

    diagram = lf.sweep(second, {"scale": SCALES}, method=METHOD, observe=(lf.loss, lf.layer_movement))
    np.testing.assert_allclose(diagram.loss.sel(scale=2.0), lf.solve(second(2.0), METHOD).observed["loss"], atol=1e-6)


def poisoned(scale, variance):
    layer = jnp.sqrt(scale) * jnp.ones(2)
    return lf.Problem(lf.DiagonalNetwork((layer, layer)), lf.Modes(variance=variance * jnp.ones(2), target=0.0))


def test_a_failed_cell_is_nan_says_why_and_holds_nobody_up():
    """One blows up in finite time, one starts at NaN (the root of a negative number)."""
    axes = {"scale": [-0.5, 0.1, 0.5], "variance": [-1.0, 1.0]}
    diagram = lf.sweep(poisoned, axes, method=lf.Flow(t1=20.0), observe=(lf.loss, lf.mode_strengths))

    status = diagram.status.transpose("scale", "variance").values
    assert (status[0] == lf.Status.NOT_FINITE).all()
    assert (status[1:, 0] == lf.Status.BLEW_UP).all()
    assert (status[1:, 1] == lf.Status.REACHED_T1).all()
    bad = diagram.status >= lf.Status.NOT_FINITE
    assert diagram.loss.isnull().equals(bad.rename("loss"))
    assert diagram.mode_strengths.isnull().all("mode").equals(bad.rename("mode_strengths"))
    assert diagram.num_steps.where(bad, 0).max() < 500


def test_chunks_do_not_change_the_diagram(diagram):
    """To ten times the tolerance, the last chunk filled up."""
    axes = {"lam": LAMS, "scale": SCALES}
    small = lf.sweep(cell, axes, seeds=2, method=METHOD, observe=OBSERVE, on=lf.Machine(chunk=7))

    assert small.attrs["chunk"] == 7
    assert diagram.attrs["chunk"] == 256  # filled up
    for name in ("loss", "kernel_distance"):
        np.testing.assert_allclose(small[name], diagram[name], rtol=1e-5, atol=1e-5)


def test_a_small_memory_makes_small_chunks():
    tiny = lf.sweep(cell, {"lam": LAMS, "scale": SCALES}, method=METHOD, on=lf.Machine(memory=1e-5))

    assert tiny.attrs["chunk"] < 12


def fresh_cell(task):
    """The text of `cell` again, closing over other data."""

    def cell(key, lam, scale):
        start = lf.lambda_balanced(key, lam, 0.5, inp=2, hid=2, out=2)
        return lf.Problem(start, task.rescale(target=scale))

    return cell


def test_a_second_sweep_compiles_nothing(compilations):
    """Other values, tolerance, horizon, seeds, data, and the cell function defined anew."""
    run = lambda cell, lams, root, method: lf.sweep(
        cell, {"lam": lams, "scale": SCALES}, seeds=2, root=root, method=method, observe=(lf.loss, lf.kernel_distance)
    )
    task, other = (lf.Moments.whitened(yx=yx) for yx in (jnp.eye(2), 2 * jnp.eye(2)))
    root, other_root = jax.random.key(0), jax.random.key(5)
    methods = [lf.Flow(t1=2.0), lf.Flow(t1=3.0, rtol=1e-7)]
    first = run(fresh_cell(task), LAMS, root, methods[0])

    before = compilations.count
    second = run(fresh_cell(other), LAMS + 1, other_root, methods[1])

    assert compilations.count == before
    assert first.attrs["compile_seconds"] > 0
    assert second.attrs["compile_seconds"] == 0
    assert not np.allclose(first.loss, second.loss)


def test_another_learning_rate_compiles_nothing(compilations):
    run = lambda method: lf.sweep(cell, {"lam": LAMS, "scale": SCALES}, method=method)
    methods = [lf.Descent(optax.adam, learning_rate=rate, steps=steps) for rate, steps in ((0.1, 20), (0.2, 30))]
    run(methods[0])

    before = compilations.count
    run(methods[1])

    assert compilations.count == before


def test_another_observable_compiles_what_measures_alone(compilations):
    run = lambda *observe: lf.sweep(cell, {"lam": LAMS, "scale": SCALES}, method=METHOD, observe=observe)
    run(lf.loss)

    before = compilations.count
    run(lf.loss, lf.kernel_distance)

    assert compilations.count == before + 1


def test_another_text_is_another_program():
    """The same shapes, another observable: nothing of the first may be reused."""
    double = lambda network, problem: 2 * lf.loss(network, problem)
    once, twice = (
        lf.sweep(cell, {"lam": LAMS, "scale": SCALES}, method=METHOD, observe={"loss": f}) for f in (lf.loss, double)
    )

    np.testing.assert_allclose(twice.loss, 2 * once.loss, rtol=1e-12)


def test_data_inside_a_jitted_function_are_not_mistaken():
    """JAX hides what an inner jitted function closed over; its values are part of the program's identity."""

    def run(target):
        scaled = jax.jit(lambda scale: target * scale)
        inner = lambda scale: lf.Problem(
            lf.linear_model(jnp.zeros(2)), lf.Modes(variance=jnp.ones(2), target=scaled(scale))
        )
        return lf.sweep(inner, {"scale": SCALES}, method=lf.Flow(t1=30.0), observe=lf.mode_strengths).mode_strengths

    np.testing.assert_allclose(run(jnp.array([1.0, 2.0])).sel(scale=4.0), [4.0, 8.0], rtol=1e-5)
    np.testing.assert_allclose(run(jnp.array([3.0, 5.0])).sel(scale=4.0), [12.0, 20.0], rtol=1e-5)


@pytest.mark.slow
def test_what_cells_share_is_not_copied_per_cell():
    """A large data set that a cell closes over stays one array in the program."""
    from layerflow.engine import _chunks

    x = jnp.ones((50_000, 2)) * jnp.linspace(-1, 1, 50_000)[:, None]
    samples = lf.Samples(x, x)
    seen = []
    original = _chunks.Batch._bytes_per_cell

    def spied(self):
        seen.append(original(self))
        return seen[-1]

    mlp = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    with pytest.MonkeyPatch.context() as patch, jax.numpy_rank_promotion("allow"):
        patch.setattr(_chunks.Batch, "_bytes_per_cell", spied)
        lf.sweep(lambda decay: lf.Problem(mlp, samples, decay=decay), {"decay": [0.1, 0.2]}, method=lf.Flow(t1=0.01))

    assert seen[0] < 100_000 < x.nbytes


def test_programs_hold_no_host_callback():
    """So that JAX can keep them on disk, and devices never wait for Python."""
    from layerflow.engine import _programs
    from layerflow.engine._kept import Kept

    texts = []
    original = _programs.jax.jit

    def spied(function, **kwargs):
        compiled = original(function, **kwargs)
        lower = compiled.lower

        class Lowering:
            __call__ = staticmethod(compiled)

            def lower(self, *arguments):
                lowered = lower(*arguments)
                texts.append(lowered.as_text())
                return lowered

        return Lowering()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_programs, "programs", Kept(8))
        patch.setattr(_programs.jax, "jit", spied)
        lf.sweep(
            cell, {"lam": LAMS, "scale": SCALES}, seeds=2, method=lf.Flow(t1=1.0, until="converged"), ts=[0.0, 1.0]
        )

    assert any("while" in text for text in texts)
    assert not any("callback" in text for text in texts)


class Convolution(eqx.Module):
    """A small convolutional network, of one output scale that varies from cell to cell."""

    conv: eqx.nn.Conv2d
    read: eqx.nn.Linear
    scale: jax.Array = lf.constant()

    def __init__(self, key, scale):
        first, second = jax.random.split(key)
        self.conv, self.read = eqx.nn.Conv2d(1, 2, 3, key=first), eqx.nn.Linear(8, 2, key=second)
        self.scale = scale

    def __call__(self, x):
        return self.scale * self.read(jnp.tanh(self.conv(x)).ravel())


@pytest.mark.slow
def test_a_convolutional_network_goes_through_a_sweep_unchanged(key):
    """A larger output scale is lazier: in its kernel and in its flow (Chizat et al., 2019)."""
    images, labels = jax.random.normal(key, (6, 1, 4, 4)), jnp.eye(2)[jnp.arange(6) % 2]
    train = lf.Samples(images, labels)

    def cell(key, scale):
        return lf.Problem(Convolution(key, scale), train, test=lf.Samples(images[:3], labels[:3]))

    observe = (lf.loss, lf.kernel_distance, lf.laziness, lf.on_test(lf.accuracy), lf.sharpness)
    with jax.numpy_rank_promotion("allow"):
        diagram = lf.sweep(cell, {"scale": [1.0, 10.0]}, seeds=2, method=lf.Flow(t1=0.05), observe=observe)

    assert (diagram.status == 0).all()
    for name in ("kernel_distance", "laziness"):
        assert np.isfinite(diagram[name]).all()
    assert set(diagram.data_vars) >= {"loss", "test_accuracy", "sharpness"}


def test_a_bottleneck_of_three_layers_goes_through_a_sweep_unchanged():
    """It learns the best map of its rank, from a balanced chain and from a Gaussian start."""
    task = lf.Moments.whitened(yx=jnp.diag(jnp.array([3.0, 2.0, 1.0])))

    def cell(key, lam):
        return lf.Problem(lf.lambda_balanced_chain(key, (lam, -lam), 0.3, widths=(3, 2, 2, 3)), task)

    observe = (lf.loss, lf.kernel_distance, lf.laziness, lf.effective_rank)
    diagram = lf.sweep(cell, {"lam": [-0.5, 0.0, 0.5]}, seeds=2, method=lf.Flow(t1=60.0), observe=observe)

    np.testing.assert_allclose(diagram.loss, 0.5, rtol=1e-4)
    assert (diagram.effective_rank < 2.01).all()
    assert (diagram.laziness > 0.01).all()


def test_print_shows_a_card(diagram):
    """What, sizes, method, cells done and failed, steps, seconds, memory; repr stays that of xarray."""
    said = str(diagram)

    for words in (
        "Diagram of `cell`: 3 lam x 4 scale x 2 seed = 24 cells",
        "lam -2 to 2, scale 0.5 to 4, seed 0 to 1",
        "loss, kernel_distance, layer_imbalance (layer_imbalance_0, layer_imbalance_1)",
        "gradient flow to t = 5, Tsit5, rtol 1e-06",
        "24 done, 0 failed",
        f"{int(diagram.num_steps.max())} at most",
        "for compiling",
        "to compute a chunk",
        "float64 on cpu",
    ):
        assert words in said
    assert "12 done" in str(diagram.isel(seed=0))
    assert str(diagram.mean("seed")) == repr(diagram.mean("seed"))
    assert repr(diagram).startswith("<xarray.")
    assert diagram.attrs["chunk_bytes"] > 0


def test_a_card_tells_failures_by_kind():
    cell = lambda eta: (
        lf.Problem(lf.linear_model(jnp.zeros(1)), lf.Modes(jnp.ones(1), 1.0)),
        lf.Descent(optax.sgd, learning_rate=eta, steps=5000),
    )

    diagram = lf.sweep(cell, {"eta": [0.1, 4.0, 5.0]})

    assert "3 done, 2 failed (2 not_finite)" in str(diagram)
    assert "sgd" in str(diagram)


def test_a_problem_prints_its_network_task_and_what_is_not_as_usual():
    network = lf.gaussian(jax.random.key(0), (2, 3, 2), std="ntk")
    task = lf.Samples(jnp.ones((5, 2)), jnp.ones((5, 2)))
    rates = eqx.tree_at(lambda network: network.weights, network, (None, 2.0))

    said = str(lf.Problem(network, task, test=task, decay=0.1, rates=rates))

    assert "LinearNetwork, 2-3-2, 6 weights, 7 more numbers do not move" in said
    assert "Samples, 5 of inputs (2,) and targets (2,)" in said
    assert "test" in said
    assert "0.1" in said
    assert "frozen, 2" in said
    usual = str(lf.Problem(network, task.moments))
    assert "decay" not in usual
    assert "Moments of 2 inputs and 2 outputs" in usual
