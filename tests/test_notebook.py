"""What a notebook shows and offers: cards, and `diagram.lf`."""

import html
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
import xarray

import layerflow as lf
from layerflow.base._card import Card

mpl.use("agg")
METHOD = lf.Flow(t1=2.0)


def cell(key, gain, scale):
    """One mode from weights sqrt(scale), which fails below zero."""
    layer = jnp.sqrt(scale) * (1 + 0.1 * jax.random.uniform(key, (1,)))
    return lf.Problem(lf.DiagonalNetwork((layer, layer)), lf.Modes(jnp.ones(1), gain))


@pytest.fixture(scope="module")
def diagram():
    axes = {"gain": [1.0, 2.0, 3.0], "scale": [-1.0, 0.1, 0.5, 1.0]}
    return lf.sweep(cell, axes, seeds=2, method=METHOD)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def read(page):
    """The words that a reader of HTML sees."""
    return html.unescape(re.sub(r"<[^>]*>", " ", page)).split()


def test_what_has_a_card_shows_the_same_in_a_notebook(diagram):
    path = lf.solve(cell(jax.random.key(0), 1.0, 0.1), METHOD, ts=jnp.linspace(0, 2, 9), observe=lf.mode_strengths)
    curve = (path.ts, 3 * jnp.exp(path.ts))
    fit = lf.calibrate(lambda t, c: c * jnp.exp(t), curve, ("c",), parameters={"c": 1.0})

    for shown in (path.problem, path, fit, diagram.lf, diagram.lf.card):
        assert read(shown._repr_html_()) == str(shown).split()
    assert str(diagram.lf) == repr(diagram.lf) == str(diagram)
    assert "mode_strengths (9, 1)" in str(path)
    assert "reached t1, at t = 2" in str(path)
    assert re.search(r"c +3 ± ", str(fit))


def test_a_card_of_a_trajectory_that_is_traced_or_one_of_many_leaves_out_how_it_ended():
    solve = lambda scale: lf.solve(cell(jax.random.key(0), 1.0, scale), METHOD)

    many = jax.vmap(solve)(jnp.array([0.1, 0.5]))

    assert "loss (2,)" in str(many)
    assert "ended" not in str(many)


def test_a_card_escapes_what_is_not_ours():
    """A cell function may be called `<lambda>`."""
    page = Card("Diagram of `<lambda>`", (("<b>", 'a & "b"'),))._repr_html_()

    assert "<lambda>" not in page
    assert "<b>" not in page
    assert read(page) == ["Diagram", "of", "`<lambda>`", "<b>", "a", "&", '"b"']


def test_a_card_wears_the_colours_of_the_page(diagram):
    """Readable on a dark theme as on a light one: no colour of its own, neither of text nor of ground."""
    styles = " ".join(re.findall(r'style="([^"]*)"', diagram.lf._repr_html_()))

    assert set(re.findall(r"color:([^;]*)", styles)) == {"inherit"}
    assert "background" not in styles


def test_a_diagram_answers_as_the_functions_do(diagram):
    assert diagram.lf.failures().equals(lf.failures(diagram))
    assert len(diagram.lf.failures()) == 6
    alone = diagram.lf.replay(cell, gain=2.0, scale=0.5, seed=1)
    np.testing.assert_allclose(alone.observed["loss"], diagram.loss.sel(gain=2.0, scale=0.5, seed=1), rtol=1e-6)
    with pytest.raises(ValueError, match=r"The nearest is 0\.5"):
        diagram.lf.replay(cell, gain=2.0, scale=0.6, seed=1)
    assert (diagram.lf.retry(cell, lf.Flow(t1=1.0)).retried.sel(scale=-1.0) == 1).all()
    xarray.testing.assert_identical(diagram.lf.boundary(1e-4, log=True), lf.boundary(diagram.loss, 1e-4, log=True))
    assert diagram.lf.provenance() == lf.provenance(diagram)


def test_help_on_a_method_is_that_on_its_function():
    accessor = xarray.Dataset.lf
    for name in ("boundary", "failures", "replay", "retry", "provenance"):
        said, function = getattr(accessor, name).__doc__, getattr(lf, name)
        assert "Raises:" in said
        assert ">>>" not in said
        assert function.__doc__.splitlines()[0] in said


def test_a_diagram_of_two_axes_is_drawn_as_a_map_of_the_mean_over_seeds(diagram):
    ax = diagram.lf.plot(log=True)
    ax.figure.canvas.draw()

    assert (ax.get_xlabel(), ax.get_ylabel()) == ("scale", "gain")
    (mesh,) = ax.collections
    np.testing.assert_allclose(mesh.get_array(), np.exp(np.log(diagram.loss).mean("seed")), rtol=1e-12)


def test_all_else_is_drawn_as_curves(diagram):
    """One axis; or times, which are no axis of the sweep."""
    ax = diagram.isel(scale=1).lf.plot("loss")
    assert ax.get_xlabel() == "gain"
    assert len(ax.collections) == 1  # the band

    over_time = diagram.isel(scale=1, seed=0).expand_dims(t=[0.0, 1.0, 2.0])
    over_time["status"] = diagram.status.isel(scale=1, seed=0)
    ax = over_time.lf.plot("loss")
    assert ax.get_xlabel() == "t"
    assert len(ax.lines) == 3


def test_what_is_no_diagram_is_told_so():
    dataset = xarray.Dataset({"loss": ("x", [1.0])})

    for ask in (lambda: dataset.lf.card, dataset.lf.failures, dataset.lf.plot, dataset.lf.provenance):
        with pytest.raises(ValueError, match=r"A diagram as lf\.sweep or lf\.open_diagram returns it is needed"):
            ask()


def test_the_card_of_a_diagram_that_lost_its_facts_says_where_to_ask(diagram):
    with pytest.raises(ValueError, match="or of a selection of it"):
        _ = diagram.drop_attrs().lf.card
    assert "12 done, 3 failed" in str(diagram.isel(seed=0).lf.card)


def test_a_diagram_is_itself_again_from_a_netcdf_file(diagram, tmp_path):
    diagram.to_netcdf(tmp_path / "diagram.nc", engine="scipy")

    again = lf.open_diagram(tmp_path / "diagram.nc")

    assert again.equals(diagram)
    assert again.status.dtype == np.uint8
    assert str(again).splitlines()[:5] == str(diagram).splitlines()[:5]
    assert again.lf.failures().to_string() == diagram.lf.failures().to_string()
    assert again.lf.replay(cell, gain=1.0, scale=0.1, seed=0).status == 0


def test_a_file_that_holds_no_diagram_is_refused(tmp_path):
    xarray.Dataset({"a": 1.0}).to_netcdf(tmp_path / "other.nc", engine="scipy")

    with pytest.raises(ValueError, match="with its variable `status`"):
        lf.open_diagram(tmp_path / "other.nc")


@pytest.mark.parametrize(
    "program",
    [
        "import xarray, layerflow; xarray.Dataset().lf",
        "import layerflow as lf; lf.open_diagram({path!r}).lf.failures()",
    ],
)
def test_diagrams_have_lf_and_importing_layerflow_stays_light(diagram, tmp_path, program):
    """Whichever of xarray and layerflow is imported first."""
    path = tmp_path / "diagram.nc"
    diagram.to_netcdf(path, engine="scipy")
    light = "import sys, layerflow; assert not {'xarray', 'matplotlib', 'dask', 'pandas'} & sys.modules.keys()"
    lines = [light] * program.startswith("import layerflow") + [program.format(path=str(path))]

    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=100)
