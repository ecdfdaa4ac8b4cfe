"""The few tasks of a developer, each run in the environment that nox is installed in: `nox -l` lists them.

pip install -e ".[dev]" && nox -s lint
"""

import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import venv

import nox

nox.options.default_venv_backend = "none"
nox.options.stop_on_first_error = True
os.environ["PATH"] = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])


@nox.session
def figures(session: nox.Session) -> None:
    """Every figure, by its quick recipe, into figures/."""
    session.run("layerflow", "figure", "all", "--quick")


@nox.session
def slow(session: nox.Session) -> None:
    """Tests that the everyday run leaves out, on the figures that were drawn."""
    session.run("pytest", "-n", "2", "-m", "slow", "--figures=figures", "tests")


@nox.session
def pages(session: nox.Session) -> None:
    """The code of the README and of the documentation, and what it prints."""
    session.run("python", ".ci/blocks.py")


@nox.session
def notebooks(session: nox.Session) -> None:
    """Every notebook from its first cell to its last, and the app."""
    session.run(
        *("pytest", "-n", "2", "--dist", "load", "--timeout", "600", "--nbmake", "--nbmake-timeout", "300", "notebooks")
    )
    session.run("python", "notebooks/live.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Format, lint, which room may import which, and types."""
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("lint-imports")
    session.run("pyright")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, without a warning, into docs/_build/html."""
    session.run("sphinx-build", "-q", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session
def build(session: nox.Session) -> None:
    """What a release uploads: built, checked, installed and imported elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        session.run("python", "-m", "build", "--outdir", folder, ".", silent=True)
        (wheel,), (source,) = pathlib.Path(folder).glob("*.whl"), pathlib.Path(folder).glob("*.tar.gz")
        session.run("twine", "check", "--strict", str(wheel), str(source))
        venv.create(f"{folder}/venv", with_pip=True)
        for package in ([str(wheel)], ["--no-deps", "--force-reinstall", str(source)]):
            session.run(f"{folder}/venv/bin/pip", "install", "-q", *package)
            with session.chdir(folder):
                session.run("venv/bin/python", "-c", "import layerflow; print(layerflow.__version__)")
                session.run("venv/bin/layerflow", "figure", "--help", silent=True)


@nox.session
def accelerators(session: nox.Session) -> None:
    """A step launches no more on accelerators than is recorded: a few programs, compiled without a device."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        session.skip("There are wheels for Linux on x86-64 alone.")
    with tempfile.TemporaryDirectory() as folder:  # of its own: JAX loads what finds accelerators wherever it is
        session.run(sys.executable, "-m", "venv", folder)
        python = f"{folder}/bin/python"
        session.run(python, "-m", "pip", "install", "-q", "-e", ".[accelerators]")
        session.run(python, "-m", "benchmarks.accelerators", "--check")


SECOND = "3.13"  # gets the newest JAX, where Python 3.11 stops at 0.10


@nox.session
def second_python(session: nox.Session) -> None:
    """What leans on JAX's insides, and a few of all other tests, on another Python and the JAX that it gets."""
    leaning = ("identity", "inside_jax", "let_go", "beside", "at_tolerance", "words")
    files = (*leaning, "sweep", "solve", "store", "lanes_last", "kernel", "theory_noise", "descent_class")
    memory = "tests/test_lanes_any.py::test_chunks_fit_the_memory_that_programs_say_they_take"
    with tempfile.TemporaryDirectory() as folder:
        session.run(_second_python(session), "-m", "venv", folder)
        python = f"{folder}/bin/python"
        session.run(python, "-m", "pip", "install", "-q", "-e", ".[test]")
        session.run(python, "-m", "pytest", "-q", "-n", "2", *(f"tests/test_{name}.py" for name in files), memory)


def _second_python(session: nox.Session) -> str:
    """That Python: the one on the path, where it is more than pyenv's pointer to none, or one that pyenv has."""
    versions = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv"), "versions")
    kept = map(str, sorted(versions.glob(f"{SECOND}.*/bin/python")))
    runs = lambda python: subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0
    found = next(filter(runs, filter(None, [shutil.which(f"python{SECOND}"), *kept])), None)
    if found is None:
        session.error(
            f"This needs Python {SECOND}, but there is none on PATH nor in {versions}. Install it, `pyenv install "
            f"{SECOND}` or the package of your system"
        )
    return found
