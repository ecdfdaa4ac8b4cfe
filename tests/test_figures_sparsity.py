"""The claims of figure sparsity: which solution, over scale and samples, and after pretraining."""

import numpy as np
import pytest

from layerflow import theory
from layerflow.figures import FIGURES, _sparsity


@pytest.fixture(scope="module")
def quick(quick_figure):
    return quick_figure("sparsity")


def test_rates_are_straight_lines_of_the_slope_of_the_linear_programme():
    rates = _sparsity._rates()
    sparse, dense = (rates.isel(kind_of_target=kind) for kind in (0, 1))

    slope = lambda values: np.polyfit(np.log(sparse.rate_scale[:10]), np.log(values[:10]), 1)[0]
    np.testing.assert_allclose(slope(sparse.off), 0.155628, rtol=5e-3)
    np.testing.assert_allclose(slope(sparse.excess_norm), 0.155628, rtol=0.02)
    assert float(dense.off[0]) > 0.5
    assert float(dense.excess_norm[0]) < 0.01


def test_fine_tuning_begins_where_pretraining_ended():
    auxiliary = np.zeros(100)
    auxiliary[:2] = 1.0, -1.0

    theta, c = _sparsity._starts(auxiliary)

    beta = theory.mirror_strength(theta, c)
    assert (beta[:2] == 0).all()
    for row, factor in enumerate(_sparsity.FACTORS, start=2):
        np.testing.assert_allclose(c[row, :2], factor**2 * (1 + 0.5e-6 - 1e-8), rtol=1e-9)
        np.testing.assert_allclose(c[row, 2:], factor**2 * (1e-6 - 1e-8), rtol=1e-9)
        np.testing.assert_allclose(beta[row, :2], 1e-4 * factor**2, rtol=1e-5)


@pytest.mark.slow
def test_small_scales_need_few_samples_and_large_ones_nearly_as_many_as_inputs(quick):
    middle = quick.error.median("draw")
    enough = middle.sel(n=slice(18, None))

    assert (enough.isel(scale=0) < 1e-4).all()
    assert (enough.isel(scale=-1) > 0.1).all()
    assert (enough.diff("scale") > -1e-6).all()  # smaller scales are nearer to the target
    # Where the solution of least l1 norm is the target, the error falls with the scale; the line is past there.
    found = (quick.l1_error < 1e-6).mean("draw") == 1
    assert (quick.error.sel(n=quick.n[found]).isel(scale=0) < 1e-2).all()


@pytest.mark.slow
def test_what_pretraining_is_worth_depends_on_the_task(quick):
    """Features as they are help the same task; shrunk, they help one that needs few of them."""
    middle = quick.tuned.median("tuned_draw").sel(tuned_n=15)
    same, nested = middle.sel(task="same"), middle.sel(task="nested")

    assert float(same.sel(start="pretrained × 1")) < float(same.sel(start="pretrained × 0.01"))
    assert float(nested.sel(start="pretrained × 0.01")) < 0.1 * float(nested.sel(start="pretrained × 1"))
    assert float(nested.sel(start="pretrained × 1")) < float(nested.sel(start="scratch, lazy"))


@pytest.mark.slow
def test_claims_fail_where_they_should(quick):
    broken = {
        "flow of the layers": quick.assign(projected=quick.projected + 0.1),
        "mirror flow and projection": quick.assign(flow_norm=quick.flow_norm + 1e-6),
        "Slope": quick.assign(rate=1.05 * quick.rate),
        "saddles": quick.assign(saddle=quick.saddle + 1e-3),
        "the same features": quick.assign(tuned=quick.tuned[:, [0, 1, 4, 3, 2]].assign_coords(start=quick.start)),
        "Samples": quick.assign(error=quick.error[:, ::-1].assign_coords(scale=quick.scale)),
    }
    for words, diagram in broken.items():
        failed = [claim.words for claim in FIGURES["sparsity"].claims(diagram) if not claim.holds]
        assert any(words in claim for claim in failed), words
