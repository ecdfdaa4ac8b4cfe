"""Ways in which numbers or labels could go wrong without a word."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import layerflow as lf

FLOW = lf.Flow(t1=2.0)
MODES = lf.Modes(variance=jnp.ones(2), target=1.0)


def cell(scale):
    return lf.Problem(lf.DiagonalNetwork((scale * jnp.ones(2), jnp.ones(2))), MODES)


def test_two_callbacks_are_two_programs():
    """What Python function a program calls stands nowhere in its text."""
    seen = []
    for factor in (1.0, 2.0):
        called = functools.partial(lambda factor, x: np.asarray(factor * x), factor)
        measure = lambda network, problem, called=called: jax.pure_callback(
            called, jax.ShapeDtypeStruct((), float), network.weights[0][0] * 0 + 1.0, vmap_method="sequential"
        )
        seen.append(float(lf.solve(cell(1.0), FLOW, observe={"measured": measure}).observed["measured"]))

    assert seen == [1.0, 2.0]


def test_a_network_with_a_matrix_is_not_taken_for_a_linear_map(key):
    """Only the library's own linear networks are integrated on second moments."""

    class Bent(eqx.Module):
        matrix: jax.Array

        def __call__(self, x):
            return jnp.tanh(self.matrix @ x)

    x = jax.random.normal(key, (20, 2))
    samples = lf.Samples(x, jnp.tanh(2 * x[:, :1]))

    path = lf.solve(lf.Problem(Bent(jnp.full((1, 2), 0.1)), samples), lf.Flow(t1=300.0))

    assert path.observed["loss"] < 1e-6
    np.testing.assert_allclose(path.network.matrix, [[2.0, 0.0]], atol=0.01)


def test_moments_of_spread_inputs_keep_what_is_learned_of_the_small_ones(key):
    """In float32 the squares of a range of 1e3 leave no digits in E[x x^T]; the samples do."""
    x = jax.random.normal(key, (100, 2), jnp.float32) * jnp.array([[1.0, 1e-3]], jnp.float32)
    samples = lf.Samples(x, 1000 * x[:, 1:])
    network = lf.linear_model(jnp.array([0.0, 1000.0], jnp.float32))

    assert samples.loss(network) == 0
    np.testing.assert_allclose(samples.moments.loss(network), 0.0, atol=1e-4 * float(samples.null_loss()))


@pytest.mark.parametrize("kind", [lf.LinearNetwork, lf.DiagonalNetwork])
def test_a_frozen_layer_has_no_part_in_the_kernel(key, kind):
    """The tangent kernel is that of the weights that move."""
    shapes = ((2, 3), (1, 2)) if kind is lf.LinearNetwork else ((3,), (3,))
    keys = jax.random.split(key, 3)
    start = kind(tuple(jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=False)))
    x = jax.random.normal(keys[2], (8, 3))
    rates = eqx.tree_at(lambda network: network.weights, start, (None, 1.0))
    problem = lf.Problem(start, lf.Samples(x, x @ jnp.ones((3, 1))), rates=rates)
    dense = lambda network, problem: (
        0.5
        * jnp.sum(
            (
                lf.ntk(network, problem) / jnp.linalg.norm(lf.ntk(network, problem))
                - lf.ntk(problem.start, problem) / jnp.linalg.norm(lf.ntk(problem.start, problem))
            )
            ** 2
        )
    )

    observed = lf.solve(problem, FLOW, observe={"fast": lf.kernel_distance, "dense": dense}).observed

    np.testing.assert_allclose(observed["fast"], observed["dense"], atol=1e-12)


def test_layers_of_whole_numbers_train():
    network = lf.LinearNetwork((jnp.array([[1, 0], [0, 1]]), 0.1 * jnp.eye(2)))
    end = lf.solve(lf.Problem(network, lf.Moments.whitened(yx=3 * jnp.eye(2))), FLOW).network

    assert np.abs(end.weights[0] - np.eye(2)).max() > 0.1


def test_variables_are_told_by_name_and_not_by_order():
    def swapped(network, problem):  # noqa: ARG001
        a, b = {"a": 1.0}, {"b": 2.0}
        return a | b if len(network.weights) == 2 else b | a

    def deep(depth):
        return lf.Problem(lf.DiagonalNetwork((0.5 * jnp.ones(2),) * depth), MODES)

    diagram = lf.sweep(deep, {"depth": lf.static([2, 3])}, method=FLOW, observe=swapped)

    np.testing.assert_array_equal(diagram.swapped_a, [1.0, 1.0])
    np.testing.assert_array_equal(diagram.swapped_b, [2.0, 2.0])


def test_labels_come_from_the_observable_with_the_longest_name():
    tell = lambda name: lf.observable(long_name=name)(lambda network, problem: {"x": 1.0})

    diagram = lf.sweep(lambda: cell(0.5), method=FLOW, observe={"a": tell("short"), "a_b": tell("long")})

    assert diagram.a_b_x.attrs["long_name"] == "long x"
    assert diagram.a_x.attrs["long_name"] == "short x"


@pytest.mark.parametrize(
    ("other", "got"),
    [
        (lf.Descent(optax.sgd, learning_rate=0.1, steps=20), "Descent and Flow"),
        (lf.Exact(t1=20.0), "Exact and Flow"),
    ],
)
def test_measured_on_the_way_all_cells_have_one_kind_of_method(other, got):
    """Times and steps do not share a dimension, nor do a flow and a closed form share one record of how they ran."""
    with pytest.raises(TypeError, match=f"one kind of method, got {got}: "):
        lf.sweep(lambda how: (cell(0.1), how), {"how": lf.static({"flow": FLOW, "other": other})}, ts=[0, 5, 10])


@pytest.mark.parametrize("name", ["mode", "scale"])
def test_a_dimension_of_an_observable_gives_way_to_an_axis(name):
    """An axis called `mode` beside `mode_strengths`, of the same size or another."""
    by_name = {"mode": lambda mode: cell(mode), "scale": lambda scale: cell(scale)}[name]
    diagram = lf.sweep(by_name, {name: [0.1, 0.2]}, method=FLOW, observe=lf.mode_strengths)

    own = "mode_strengths_0" if name == "mode" else "mode"
    assert diagram.mode_strengths.dims == (name, own)


def test_one_name_for_two_sizes_gives_way_too(key):
    x = jax.random.normal(key, (5, 2))
    problem = lf.Problem(lf.gaussian(key, (2, 2, 1)), lf.Samples(x[:3], x[:3, :1]), test=lf.Samples(x, x[:, :1]))

    diagram = lf.sweep(lambda: problem, method=FLOW, observe=(lf.ntk, lf.on_test(lf.ntk)))

    assert diagram.ntk.shape == (3, 3)
    assert diagram.test_ntk.shape == (5, 5)


def test_a_paired_axis_without_labels_shows_its_own_values():
    diagram = lf.sweep(lambda scale: cell(scale), {"scale": lf.paired({"scale": [-3.0, 0.5, 3.0]})}, method=FLOW)

    np.testing.assert_array_equal(diagram.scale, [-3.0, 0.5, 3.0])


def test_a_horizon_far_away_is_no_failure():
    path = lf.solve(cell(0.1), lf.Flow(t1=1e14, until="converged"))

    assert path.status == lf.Status.CONVERGED


def test_keys_of_every_kind_are_keys():
    draw = lambda key: lf.Problem(lf.linear_model(jax.random.normal(key, (2,))), MODES)
    start = lambda network, problem: problem.start.weights[0]
    run = lambda root: lf.sweep(draw, root=root, method=FLOW, observe={"start": start}).start.values

    for same in (np.int64(3), jax.random.key(3), jax.random.PRNGKey(3)):
        np.testing.assert_array_equal(run(same), run(3))
    with pytest.raises(ValueError, match=r"needs random keys of JAX's threefry.*key<rbg>"):
        run(jax.random.key(3, impl="rbg"))


def test_a_heat_map_takes_names_beside_numbers_and_values_in_any_order():
    import matplotlib as mpl

    mpl.use("agg")
    deep = lambda depth, scale: lf.Problem(lf.DiagonalNetwork((scale * jnp.ones(2),) * depth), MODES)
    axes = {"depth": lf.static({"two": 2, "three": 3}), "scale": [0.5, 0.1, 0.2]}
    diagram = lf.sweep(deep, axes, method=FLOW)

    ax = lf.plot.heatmap(diagram)

    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["two", "three"]
    corners = ax.collections[0].get_coordinates()[0, :, 0]
    assert (np.diff(corners) > 0).all()
    np.testing.assert_allclose(ax.collections[0].get_array()[0, 0], diagram.loss.sel(depth="two", scale=0.1))
