"""Claims of Figures 8, 8+ and delay: what shortens grokking, and what the solvable models say of it beforehand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import layerflow as lf
from layerflow.figures import _delay_map, _figure8, _figure8plus
from layerflow.figures._grokking import steps_to
from layerflow.figures._levers import ARGUMENTS, LEVERS, configurations
from layerflow.figures._words import rank_correlation

ONE = dict.fromkeys(ARGUMENTS, 1.0) | {"decay": 0.0}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_lever_shortens_the_delay_in_every_start(quick_figure):
    """Target up; weights, input, output, width down; decay up (Kumar et al., 2024; Nam et al., 2025, Fig. 8)."""
    diagram = quick_figure("8")

    default, levers = diagram.delay.isel(config=0), diagram.delay.isel(config=slice(1, None))
    assert diagram.config.values.tolist() == list(LEVERS)
    assert (diagram.test_time.isel(config=0) > 5 * diagram.train_time.isel(config=0)).all()
    assert np.isfinite(levers).all()
    assert (levers < default).all()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_linearised_twin_trains_and_does_not_generalise(quick_figure):
    """What generalises late is not in the kernel of the start."""
    diagram = quick_figure("8")

    for one in (diagram.isel(task=number) for number in range(2)):
        sign = -1 if one.falling else 1
        reached = lambda curve, one=one, sign=sign: (sign * curve >= sign * one.level).any("point")
        assert reached(one.lazy_train).all()
        assert not reached(one.lazy_test).any()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_weight_to_target_ratio_orders_the_delays(quick_figure):
    """Equal ratios by target and by output are one path, up to the rounding of single precision."""
    diagram = quick_figure("8")

    for one in (diagram.isel(task=number, config=slice(0, -1)) for number in range(2)):
        delay = one.delay.median("seed")
        by_ratio = delay.values[np.argsort(one.ratio.values)]
        assert by_ratio[-1] == delay.max()
        assert np.corrcoef(np.argsort(np.argsort(one.ratio)), np.argsort(np.argsort(delay)))[0, 1] > 0.7
        np.testing.assert_allclose(one.delay.sel(config="target up"), one.delay.sel(config="output down"), rtol=0.05)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_upstream_embeddings_generalise_before_downstream_ones(quick_figure):
    """Kunin et al. (2024): a smaller variance of the token embeddings reduces the time to grok."""
    diagram = quick_figure("8+")

    smallest, *_, largest = diagram.grokking_delay.fillna(np.inf).median("seed").values
    assert np.isfinite(diagram.grokking_train).all()
    assert smallest < 0.6 * largest
    assert float((diagram.grokking_test[0] < diagram.grokking_test[-1]).mean()) >= 0.75


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_layer_of_the_linear_network_predicts_the_delay(quick_figure):
    """Better than the kernel of the linear network does, which does not know upstream from downstream."""
    diagram = quick_figure("delay")
    wait = (diagram.delay / diagram.train_time).fillna(np.inf).median("seed").values

    by = {name: rank_correlation(-wait.ravel(), diagram[name].values.ravel()) for name, *_ in _delay_map.LINES}
    assert by["first_layer_growth"] > 0.8
    assert by["first_layer_growth"] > by["kernel_growth"]
    assert np.isfinite(wait[diagram.first_layer_growth.values > 2 * _delay_map.DOUBLED]).all()


def test_first_layer_growth_is_that_of_the_flow_of_the_linear_network():
    """cosh g + c^2 sinh g with 2 g = arcsinh(1/Q), Q = q (c^2 + c^-2)/2, and the flow itself."""
    c, q = 1.7, 0.4
    g = 0.5 * np.arcsinh(1 / (q * (c**2 + c**-2) / 2))
    start = lf.LinearNetwork((jnp.array([[1 / c], [1 / c]]), jnp.array([[c, -c]])), q / 2)

    end = lf.solve(lf.Problem(start, lf.Modes(1.0, jnp.ones(1))), lf.Flow(t1=200.0, rtol=1e-9)).network
    growth, kernel = _delay_map.predicted(np.array(c), np.array(q))

    np.testing.assert_allclose(growth, np.cosh(g) + c**2 * np.sinh(g), rtol=1e-9)
    np.testing.assert_allclose(growth, end.weights[0][0, 0] * c, rtol=1e-6)
    np.testing.assert_allclose(kernel, np.hypot(1, 2 / (q * (c**2 + c**-2))), rtol=1e-9)


def test_the_kernels_line_meets_the_first_layers_line_at_balance():
    """e^g = 2 at c = 1, so 1/Q = sinh(2 g) = 15/8 and the kernel grows by 17/8."""
    growth, kernel = _delay_map.predicted(np.array(1.0), np.array(8 / 15))

    np.testing.assert_allclose((growth, kernel), (_delay_map.DOUBLED, _delay_map.KERNEL_LEVEL), rtol=1e-12)


@pytest.mark.parametrize("task", _figure8.TASKS["quick"], ids=lambda task: task.name)
@pytest.mark.parametrize("lever", ["gain", "inp", "output", "width"])
def test_rates_keep_the_clock_of_the_lazy_limit(task, lever, key):
    """The trace of the tangent kernel times the learning rate is the default's, up to the draw of the weights."""
    task = dataclasses.replace(task, hid=2000)
    speeds = [_speed(task, key, ONE), _speed(task, key, ONE | {lever: 0.5})]

    np.testing.assert_allclose(speeds[1], speeds[0], rtol=0.1)


def _speed(task, key, values):
    problem, method = task.cell(jax.random.key(1))(key, **jax.tree.map(jnp.asarray, values))
    inputs = problem.task.x[:20]
    gradient = lambda x: jax.tree.leaves(problem.split(jax.jacrev(lambda f: f(x)[0])(problem.start))[0])
    sizes = [sum(float(jnp.sum(leaf**2)) for leaf in gradient(x)) for x in inputs]
    return np.mean(sizes) * float(method.hyperparameters["learning_rate"])


@pytest.mark.parametrize("task", _figure8.TASKS["quick"], ids=lambda task: task.name)
def test_a_smaller_width_is_a_smaller_network(task, key):
    """Units that are left out stay at zero through training."""
    problem, method = dataclasses.replace(task, steps=5).cell(jax.random.key(1))(
        key, **jax.tree.map(jnp.asarray, ONE | {"width": 0.5})
    )
    path = lf.solve(problem, method)

    readout = path.network.weights[1]
    assert float((readout == 0).mean()) == 0.5


def test_each_lever_moves_one_argument():
    table = np.stack([configurations((4.0, 0.5, 0.5, 0.5, 0.5), 1e-3).values[name] for name in ARGUMENTS])

    assert ((table != table[:, :1]).sum(axis=0) == [0, 1, 1, 1, 1, 1, 1]).all()


def test_steps_are_whole_and_do_not_repeat():
    steps = steps_to(1000, 50)

    assert (np.diff(steps) > 0).all()
    assert (steps[0], steps[-1]) == (0, 1000)


@pytest.mark.parametrize("scales", [(1.0,), (0.5, -1.0), (0.0, 1.0)])
def test_scales_that_cannot_be_compared_are_told(scales):
    with pytest.raises(ValueError, match="two or more positive numbers"):
        _figure8plus.compute(quick=True, scales=scales)


@pytest.mark.slow
def test_the_full_recipes_can_be_built():
    """Sizes fit together and one step is finite, at the sizes of the full presets."""
    for task in _figure8.TASKS["full"]:
        problem, method = task.cell(jax.random.key(1))(jax.random.key(0), **jax.tree.map(jnp.asarray, ONE))
        velocity = jax.tree.leaves(problem.velocity(problem.start))
        assert all(np.isfinite(leaf).all() for leaf in velocity)
        assert int(method.steps) == task.steps
    recipe = dataclasses.replace(_figure8plus.RECIPES["full"], steps=1, prime=11)
    diagram = _figure8plus.compute(seeds=1, scales=(0.5, 2.0), recipe=recipe)
    assert (diagram.status == 0).all()
