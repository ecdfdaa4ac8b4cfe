"""What all figures promise, and the claims of Figures 6(a) and 6(b)."""

import inspect
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import xarray

from layerflow.cli._index import made_in_words
from layerflow.figures import FIGURES, Claim

SMALL = {"grid": 7, "seeds": 2}  # what a figure takes of these
EVERYDAY = ("2", "3", "6a", "6b", "G")  # of one kind each; the others compile for a minute together, and 3+ alone
RECORDED = pathlib.Path(__file__).parents[1] / "benchmarks" / "results" / "claims.json"
CASES = [
    *(pytest.param(name, SMALL, id=f"{name}-small") for name in EVERYDAY),
    *(pytest.param(name, None, id=name, marks=pytest.mark.slow) for name in FIGURES),  # by its quick recipe
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "small"), CASES)
def test_every_figure_is_drawn_from_its_file_and_all_its_claims_hold(name, small, tmp_path, quick_figure):
    """The file holds all that the picture and the claims need, and these are the same."""
    figure = FIGURES[name]
    taken = inspect.signature(figure.compute).parameters
    assert all(parameter.default is not inspect.Parameter.empty for parameter in taken.values())
    diagram = quick_figure(name) if small is None else figure.compute(**{k: small[k] for k in small if k in taken})

    diagram.to_netcdf(tmp_path / "figure.nc", engine="scipy")
    with xarray.open_dataset(tmp_path / "figure.nc", engine="scipy") as read:
        read.load()

    claims = figure.claims(diagram)
    assert claims
    assert not [str(claim) for claim in claims if not claim.holds]
    assert figure.claims(read) == claims
    assert "device" not in read.attrs or read.attrs["device"] in made_in_words(read)
    sentences = [*map(str, claims), *figure.notes, *figure.remarks(read)]
    assert all(
        (sentence[0].isupper() or not sentence[0].isalpha()) and sentence.endswith(".") for sentence in sentences
    )
    assert not re.search(r"\bnan\b", " ".join(sentences))
    figure.draw(read).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_the_claims_of_the_full_recipes_hold_as_far_as_they_were_recorded():
    """`python -m benchmarks.figures --record` keeps what `layerflow figure` computed without --quick."""
    recorded = json.loads(RECORDED.read_text("utf-8"))["figures"]

    assert recorded
    assert recorded.keys() <= FIGURES.keys()
    for name, claims in recorded.items():
        assert claims, name
        assert not [claim["words"] for claim in claims if not claim["holds"]]


def test_a_claim_holds_where_every_number_does_and_nan_never_does():
    near = [Claim.near("It", value, [1.0, 10.0], rtol=0.1) for value in ([1.05, 10.5], [1.05, 12.0], [np.nan, 10.0])]
    assert [claim.holds for claim in near] == [True, False, False]
    between = [Claim.between("It", value, low=0.0, high=1.0) for value in (0.5, [0.5, 2.0], np.nan)]
    assert [claim.holds for claim in between] == [True, False, False]

    assert not Claim.near("Nothing", [], [], atol=1.0).holds
    assert not Claim.between("Nothing", [], high=1.0).holds

    assert str(near[1]) == "It: 1.05 and 12; expected: 1 and 10 ± 10 %. Does not hold."
    assert str(between[0]) == "It: 0.5; expected: at least 0 and at most 1. Holds."
    assert str(Claim("It", np.True_, -12_000, "less")) == "It: −12,000; expected: less. Holds."
    assert str(Claim("It", False, [], "any")) == "It: none; expected: any. Does not hold."


@pytest.fixture(scope="module")
def figure_6a():
    return FIGURES["6a"].compute(grid=7, seeds=6)


def log_mean(distance):
    return np.log10(distance).mean("seed")


def test_figure_6a_is_rich_near_balance_at_a_small_ratio_and_lazy_elsewhere(figure_6a):
    """Mean log10 at ratio 1 is about -5.4 at |lam| = 9 and -3.8 at 3 for random tasks (THEORY section 14)."""
    distance = log_mean(figure_6a.kernel_distance)
    rich = distance.sel(lam=0, weight_to_target=1, method="nearest")

    assert rich > -2
    assert rich == distance.max()
    for lam, expected in ((-9, -5.4), (9, -5.4), (-3, -3.8), (3, -3.8)):
        # One task here, thirty there: tasks spread by about one in log10.
        assert abs(distance.sel(lam=lam, weight_to_target=1, method="nearest") - expected) < 1.5
    assert (distance.diff("weight_to_target").mean("weight_to_target") < 0).all()
    assert (distance.sel(weight_to_target=20, lam=[-9, 9]) < -8).all()
    assert (figure_6a.status == 0).all()


def test_figure_6a_by_flow_is_figure_6a_by_descent(figure_6a):
    """Descent at rate 0.01 differs from the flow by 6e-5 in D (THEORY section 14)."""
    descent = FIGURES["6a"].compute(grid=7, seeds=6, method="descent")

    np.testing.assert_allclose(descent.kernel_distance, figure_6a.kernel_distance, atol=3e-4)


def test_figure_6b_is_rich_at_small_ratio_and_lazy_at_large():
    """Mean log10 D at equal scales: -0.6, -5.1 at ratio 0.1, 50; at difference 0.5: -1.1, -6.0 (section 14)."""
    diagram = FIGURES["6b"].compute(grid=3, seeds=1)
    # The quoted means are those of log10(D + 1e-6).
    distance = np.log10(diagram.kernel_distance + 1e-6).mean("seed")
    at = lambda ratio, difference: float(
        distance.sel(weight_to_target=ratio, std_difference=difference, method="nearest")
    )

    for ratio, difference, expected in (
        (0.1, 0, -0.6),
        (50, 0, -5.1),
        (0.1, 0.5, -1.1),
        (50, 0.5, -6.0),
        (50, -0.5, -6.0),
    ):
        assert abs(at(ratio, difference) - expected) < 0.6


def test_importing_layerflow_is_light_and_changes_no_setting():
    """xarray and matplotlib wait until they are used; precision and warnings belong to the user."""
    program = (
        "import jax, sys, warnings; before = (jax.config.values.copy(), list(warnings.filters)); import layerflow; "
        "assert before == (jax.config.values, warnings.filters); "
        "late = {'xarray', 'matplotlib', 'pandas', 'tqdm', 'scipy.io', 'zarr', 'dask', 'distributed'}; "
        "assert not late & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)
