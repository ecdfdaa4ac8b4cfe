"""What all figures promise, and the claims of Figures 6(a) and 6(b)."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import xarray

from layerflow.cli._index import made_in_words
from layerflow.figures import FIGURES

SMALL = {"grid": 5, "seeds": 2, "n_skills": 2000}  # what a figure takes of these


DEEP = {name for name, figure in FIGURES.items() if hasattr(figure, "DTYPE")}  # trained for a minute or more
EVERYDAY = {"2", "3", "6a", "6b", "G"}  # of one kind each; the others compile for a minute together, and 3+ alone


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in EVERYDAY)) for n in FIGURES])
def test_every_figure_is_drawn_and_judged_from_its_file(name, tmp_path, quick_figure):
    """The file holds all that the picture and the sentences on agreement need, and they are the same."""
    figure = FIGURES[name]
    taken = inspect.signature(figure.compute).parameters
    assert all(parameter.default is not inspect.Parameter.empty for parameter in taken.values())
    small = {key: value for key, value in SMALL.items() if key in taken}
    diagram = quick_figure(name) if name in DEEP else figure.compute(**small)

    diagram.to_netcdf(tmp_path / "figure.nc", engine="scipy")
    with xarray.open_dataset(tmp_path / "figure.nc", engine="scipy") as read:
        read.load()

    sentences = figure.agreement(diagram)
    assert sentences
    assert "device" not in read.attrs or read.attrs["device"] in made_in_words(read)
    assert figure.agreement(read) == sentences
    assert all(sentence[0].isupper() and sentence.endswith(".") for sentence in (*sentences, *figure.NOTES))
    assert "nan" not in " ".join(sentences)
    figure.draw(read).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


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
