"""What a diagram says of how it was made: all that decides its numbers, and only of one sweep."""

import json
import re

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray

import layerflow as lf
from layerflow.sweeps._record import method_facts


def cell(lam):
    layer = jnp.sqrt(lam) * jnp.ones(1)
    return lf.Problem(lf.DiagonalNetwork((layer, layer)), lf.Modes(jnp.ones(1), 2.0))


@pytest.fixture(scope="module")
def early():
    """A flow of settings of its own, that most cells leave early."""
    controller = dfx.PIDController(rtol=1e-5, atol=1e-7, dtmax=0.5, norm=largest)
    method = lf.Flow(t1=1e4, controller=controller, dt0=0.01, max_steps=30_000, until=1e-6)
    return lf.sweep(cell, {"lam": [0.5, 1.0, 1.5]}, method=method, root=3)


def largest(tree):
    return jnp.max(jnp.abs(jax.tree.leaves(tree)[0]))


def test_provenance_tells_all_that_decides_numbers(early):
    said = " ".join(lf.provenance(early).split())

    for words in (
        "gradient flow to t = 10000, Tsit5, rtol 1e-05, atol 1e-07, in float64",
        "Settings that are not the defaults: PIDController with norm=largest, dtmax=0.5, first step 0.01, at most "
        "30,000 steps a cell, until the loss is at most 1e-06.",
        f"3 of 3 cells met `until`, the median cell stopped at t = {np.median(early.end):.4g}. No cell failed.",
        "threefry2x32 root 0 3",
    ):
        assert words in said
    assert lf.provenance(early) == early.lf.provenance()
    assert float(early.end.max()) < 100


def test_a_card_tells_settings_and_when_cells_stopped(early):
    card = str(early)

    assert "\n  settings  PIDController with norm=largest, dtmax=0.5, first step 0.01," in card
    assert f"\n  stopped   3 of 3 cells met `until`, the median cell stopped at t = {np.median(early.end):.4g}" in card


def test_the_worst_error_is_that_of_cells_that_have_one():
    """A start of NaN fails, and has no error to hold against theory."""
    diagram = lf.sweep(cell, {"lam": [-1.0, 1.0]}, method=lf.Flow(t1=1.0), verify=True)

    assert np.isnan(diagram.error_over_tolerance.values).tolist() == [True, False]
    for name in ("error_over_tolerance", "drift"):
        assert diagram.attrs[f"worst_{name}"] == diagram[name].values[1]


def test_what_is_as_usual_is_not_told():
    facts = method_facts(lf.Flow(t1=3.0))

    assert facts == {
        "method": "Flow",
        "solver": "Tsit5",
        "controller": "PIDController",
        "t1": 3.0,
        "rtol": 1e-6,
        "atol": pytest.approx(1e-8),
        "max_steps": 100_000,
    }


@pytest.mark.parametrize(
    ("method", "fact", "told"),
    [
        (lf.Flow(t1=1.0, solver=dfx.Kvaerno5(root_find_max_steps=20)), "solver", {"root_find_max_steps": 20}),
        (
            lf.Flow(t1=1.0, controller=dfx.StepTo(jnp.array([0.0, 0.5, 1.0])), solver=dfx.Euler()),
            "controller",
            {"ts": [0.0, 0.5, 1.0]},
        ),
        (
            lf.Flow(t1=1.0, controller=dfx.ClipStepSizeController(dfx.PIDController(1e-4, 1e-6), step_ts=[0.5])),
            "controller",
            {"controller": {"name": "PIDController", "rtol": 1e-4, "atol": 1e-6}, "step_ts": [0.5]},
        ),
        (
            lf.Descent(optax.sgd, steps=3, learning_rate=0.1, momentum=0.9, nesterov=True),
            "optimiser",
            {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
        ),
        (
            lf.Descent(optax.sgd, steps=3, learning_rate=optax.cosine_decay_schedule(0.1, 100)),
            "optimiser",
            {"learning_rate": "schedule(alpha=0.0, decay_steps=100, exponent=1.0, init_value=0.1)"},
        ),
    ],
)
def test_settings_are_told_by_name(method, fact, told):
    """And the same in every process: no address of an object."""
    facts = method_facts(method)

    assert json.loads(facts[f"{fact}_settings"]) == told
    assert not re.search(r"0x[0-9a-f]{4}", str(facts))
    assert all(isinstance(value, int | float | str) and not isinstance(value, bool) for value in facts.values())


def test_a_descent_is_told_whole():
    """Batches, whether drawn with replacement, and a schedule by its numbers."""
    task = lf.random_regression(jax.random.key(0), n=4, inp=2, out=1)
    rate = optax.cosine_decay_schedule(0.1, 100)
    method = lf.Descent(optax.sgd, steps=3, batch=2, replace=True, learning_rate=rate, momentum=0.5)
    diagram = lf.sweep(
        lambda gain: lf.Problem(lf.linear_model(gain * jnp.ones(2)), task), {"gain": [1.0]}, method=method
    )

    said = " ".join(lf.provenance(diagram).split())

    assert "3 steps of sgd, batches of 2, in float64" in said
    for words in ("learning_rate=schedule(", "decay_steps=100", "momentum=0.5", "batches drawn with replacement"):
        assert words in said


@pytest.fixture(scope="module")
def parts():
    """Sweeps of one cell function that differ in root, in t1 and in values."""
    sweep = lambda lam, t1=1.0, root=0: lf.sweep(noisy, {"lam": lam}, seeds=2, root=root, method=lf.Flow(t1=t1))
    return {
        "plain": sweep([0.5, 1.0]),
        "root": sweep([0.5, 1.0], root=1),
        "t1": sweep([0.5, 1.0], t1=2.0),
        "values": sweep([1.5, 2.0], root=1),
    }


def noisy(key, lam):
    return cell(lam * (1 + 0.1 * jax.random.uniform(key)))


TOGETHER = {
    "other root, one after the other": ("root", "seed", r"seed=0, more often than its sweep had it"),
    "other root, a new dimension": ("root", "root", r"a dimension `root`, which is no axis of its sweep"),
    "other t1": ("t1", "lam", r"lam=0.5, more often than its sweep had it"),
    "other values": ("values", "lam", r"lam=1.5, which its sweep did not have"),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_what_is_put_together_from_sweeps_has_no_record_of_one(parts, name):
    """Its attrs are those of the first: every answer that rests on them is refused, and its text is xarray's."""
    other, dim, words = TOGETHER[name]
    both = xarray.concat([parts["plain"], parts[other]], dim)
    both["status"][:] = lf.Status.BLEW_UP

    for ask in (
        lambda: lf.replay(noisy, both, lam=0.5, seed=0),
        lambda: lf.retry(noisy, both, lf.Flow(t1=1.0)),
        lambda: lf.provenance(both),
        lambda: both.lf.card,
    ):
        with pytest.raises(ValueError, match=f"{words}.*Combine the answers, not the diagrams; or give each part"):
            ask()
    assert "Dimensions" in str(both)


def test_parts_and_records_of_old_are_as_before(parts, tmp_path):
    plain = parts["plain"]
    old = plain.copy()
    asked = json.loads(plain.attrs["asked"])
    for axis in asked["axes"]:
        del axis["values"]
    old.attrs = plain.attrs | {"asked": json.dumps(asked)}
    plain.to_netcdf(tmp_path / "diagram.nc", engine="scipy")

    for diagram in (
        plain.isel(lam=[1], seed=0),
        plain.sel(lam=0.5),
        plain.isel(lam=slice(None, None, -1)).transpose(),
        xarray.concat([plain.isel(lam=[1]), plain.isel(lam=[0])], "lam"),
        lf.open_diagram(tmp_path / "diagram.nc"),
        old,
    ):
        assert "spans" in lf.provenance(diagram)
        assert "gradient flow to t = 1" in str(diagram.lf.card)


def test_a_long_axis_is_told_by_its_ends():
    from layerflow.diagrams._asked import asked_again

    lam = np.linspace(0.5, 1.0, 5000)
    diagram = lf.sweep(cell, {"lam": lam}, method=lf.Exact(t1=1.0))

    (axis,) = asked_again(diagram)["axes"]
    assert axis["values"] == {"first": 0.5, "last": 1.0, "count": 5000}
    assert asked_again(diagram.isel(lam=[3, 4]))
    for changed in (xarray.concat([diagram, diagram], "lam"), diagram.assign_coords(lam=np.log10(lam))):
        with pytest.raises(ValueError, match=r"Axis `lam` had 5000 values in the sweep, from 0.5 to 1.0, but has"):
            asked_again(changed)


def test_a_sweep_with_one_value_twice_is_one_sweep():
    diagram = lf.sweep(cell, {"lam": [0.5, 0.5]}, method=lf.Flow(t1=1.0))

    assert lf.provenance(diagram)
    with pytest.raises(ValueError, match=r"lam=0.5, more often than its sweep had it"):
        lf.provenance(xarray.concat([diagram, diagram.isel(lam=[0])], "lam"))
