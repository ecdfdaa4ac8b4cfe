"""Stores and names from anywhere: whatever they hold, a call ends in a result or in words, and writes nowhere else."""

import contextlib
import copy
import io
import json
import os
import pathlib
import shutil
import sys
import types

import google_crc32c
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray
import zarr
from numcodecs import Zstd

import layerflow as lf
from layerflow.cli import main
from layerflow.cli._shared import Saved
from layerflow.diagrams._array import label
from layerflow.store._description import sealed
from layerflow.store._frames import unpacked_size

CACHES = [jax.config.jax_compilation_cache_dir]  # before a command names its own: JAX keeps the first open
AXES = {"scale": np.array([0.5, 1.0, 2.0]), "kind": lf.static({"plain": 1.0, "steep": 40.0})}
METHOD = lf.Flow(t1=1.0, max_steps=30)
HOW = dict(ts=[0.0, 1.0], observe={"loss": lf.loss, "own": lambda network, _: {"part": network.weights[0]}})


def cell(scale, kind):
    layer = jnp.sqrt(scale) * jnp.ones(2)
    return lf.Problem(lf.DiagonalNetwork((layer, layer)), lf.Modes(kind * jnp.array([1.0, 30.0]), 1.0))


def swept(store, **how):
    return lf.sweep(cell, AXES, **{"method": METHOD, **HOW, "on": lf.Machine(chunk=2), "store": store, **how})


def retry_on(store, _, steps=10_000):
    given = dict(observe=HOW["observe"], axes=AXES)
    return lf.retry(cell, lf.open_diagram(store), lf.Flow(t1=1.0, max_steps=steps), **given)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store of several variables over time, with failures, of which a retry mended some."""
    path = tmp_path_factory.mktemp("whole") / "d.zarr"
    assert len(lf.failures(swept(path))) > 0
    retry_on(path, None, steps=100)
    return path


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A store that the command began, and left one chunk undone."""
    folder = tmp_path_factory.mktemp("begun")
    rng = np.random.default_rng(0)
    np.savez(folder / "mine.npz", x=rng.normal(size=(6, 2)), y=rng.normal(size=(6, 2)))
    flags = ["--grid", "2", "--t1", "1", "--out", str(folder / "out"), "--store", str(folder / "d.zarr")]
    main(["diagram", str(folder / "mine.npz"), *flags])
    (folder / "d.zarr/status/c/0/0").unlink()
    return folder / "d.zarr"


# Values that turn up in place of others.
STRANGE = [None, True, -1, 0, 1, 3, 2**31, 10**30, 1.5, float("nan"), float("inf"), "", "x", "../x", "/tmp/x", "~/x"]
STRANGE += [
    "status",
    "loss",
    "--out",
    "\x1b[31m",
    "<f8",
    "O",
    "<U900000000",
    [],
    [1, {}],
    {},
    [[1.0], [2.0]],
    {"name": "x"},
]


def places(value, path=()):
    """Where values stand in nested ones."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(one for key, own in inside for one in places(own, (*path, key)))]


def mutated(value, rng):
    """Nested values with one of them changed, taken away, doubled, or under another name."""
    value = copy.deepcopy(value)
    *path, last = places(value)[rng.integers(1, len(places(value)))]
    parent = value
    for key in path:
        parent = parent[key]
    match rng.integers(6):
        case 0:
            del parent[last]
        case 1 if isinstance(parent, list):
            parent.append(parent[last])
        case 1:
            parent[str(STRANGE[rng.integers(len(STRANGE))])] = parent.pop(last)
        case 2 if isinstance(parent[last], int | float):
            parent[last] *= int(rng.choice([-1, 2, 10**9]))
        case _:
            parent[last] = STRANGE[rng.integers(len(STRANGE))]
    return value


def mutate(store, rng):
    """Change one description, or the metadata of the store, an array, the log or a retry; or the bytes of those."""
    files = sorted(store.rglob("zarr.json"))
    file = store / "zarr.json" if rng.random() < 0.5 else files[rng.integers(len(files))]
    text = file.read_text()
    if rng.random() < 0.1:
        at = rng.integers(len(text))
        file.write_text(text[:at] + (chr(rng.integers(32, 127)) + text[at + 1 :] if rng.random() < 0.5 else ""))
        return
    content = json.loads(text)
    own = content["attributes"].get("layerflow") if rng.random() < 0.9 else None
    if own is None:
        file.write_text(json.dumps(mutated(content, rng)))
        return
    del own["seal"]
    for _ in range(rng.integers(1, 3)):
        own = mutated(own, rng)
    file.write_text(json.dumps(content | {"attributes": {"layerflow": sealed(own)}}))


def read(store, _):
    diagram = lf.open_diagram(store)
    str(diagram)
    diagram.load()
    lf.failures(diagram)


def sweep_on(store, _):
    swept(store)


class Refused(Exception):
    """The line with which a command ended."""


def command(word):
    """A command that is given the store."""

    def run(store, out):
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stderr", said)
            try:
                main([word, str(store), *(["--out", str(out)] if word == "resume" else [])])
                return
            except SystemExit as stop:
                code = stop.code
        line = said.getvalue().splitlines()[-1]
        assert code == 2
        assert line.startswith("layerflow: ")
        assert line.isprintable()
        raise Refused(line)

    return run


class Writes:
    """What this process writes to: Python tells of each file that it opens, makes, moves or deletes."""

    EVENTS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate")

    def __init__(self):
        self.paths = None
        sys.addaudithook(self._hear)

    def _hear(self, event, arguments):
        if self.paths is None or event not in self.EVENTS:
            return
        if event != "open" or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            paths = arguments[: 1 if event == "open" else 2]
            if event in ("os.remove", "os.rmdir") and arguments[1] >= 0:  # relative to a folder that is open
                paths = [os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), arguments[0])]
            self.paths += [os.fsdecode(path) for path in paths if isinstance(path, str | bytes | os.PathLike)]


@contextlib.contextmanager
def nothing_written_but_in(*folders):
    """Check where files are written."""
    writes.paths = []
    try:
        yield
        allowed = [*map(str, folders), *CACHES, jax.config.jax_compilation_cache_dir, os.devnull]
        elsewhere = [path for path in writes.paths if not os.path.realpath(path).startswith(tuple(allowed))]
        assert not elsewhere
    finally:
        writes.paths = None


writes = Writes()


@contextlib.contextmanager
def no_more_memory_than(size):
    """Check how many bytes this process takes at most beyond those that it has."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak
    before = resident("VmRSS")
    yield
    assert resident("VmHWM") - before < size


def resident(name):
    """Bytes of memory of this process, now (`VmRSS`) or at the peak (`VmHWM`)."""
    line = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


@pytest.fixture
def ends_well(tmp_path, monkeypatch):
    """Run calls on a changed copy of a store, on a machine of 1 GiB: each ends in a result, or in words."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("layerflow.cli._diagram.set_up", lambda _: None)
    monkeypatch.setattr("psutil.virtual_memory", lambda: types.SimpleNamespace(available=2**30))
    monkeypatch.setattr("layerflow.cli._diagram.draw", lambda _, numbers: Saved([numbers]))
    store, out = tmp_path / "d.zarr", tmp_path / "out"

    def run(base, change, *calls):
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(base, store, symlinks=True)
        change(store)
        with no_more_memory_than(2**30), nothing_written_but_in(store, out):
            words = [said for call in calls if (said := ending(call, store, out)) is not None]
        assert {path.name for path in tmp_path.iterdir()} <= {"d.zarr", "out"}
        assert [said for said in words if str(store) not in said and str(out) not in said] == []
        return words

    return run


def ending(call, *arguments):
    """The words in which a call ends, or None where it has a result; any other error is raised."""
    try:
        call(*arguments)
    except (ValueError, OSError, MemoryError, Refused) as error:
        return str(error)
    return None


def retried(store, out):
    """As `retry_on`; its words are on arguments as often as on the store."""
    words = ending(retry_on, store, out)
    if words is not None:
        raise ValueError(f"{store}: {words}")


def changed(seed):
    return lambda store: mutate(store, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(50))
def test_a_changed_store_is_read_or_refused_in_words(seed, whole, begun, ends_well):
    ends_well(whole, changed(seed), read, command("status"))
    ends_well(begun, changed(seed), read, command("failures"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_changed_stores_are_gone_on_with_or_refused_in_words(whole, begun, ends_well):
    words = []
    for seed in range(500):
        words += ends_well(whole, changed(seed), read, command("status"), sweep_on, retried)
        words += ends_well(begun, changed(seed), read, command("status"), command("failures"), command("resume"))
    assert len(words) > 1000


# Single faults, each with the words that it is told in


@pytest.fixture
def store(whole, tmp_path):
    """A copy of the store, to be changed."""
    shutil.copytree(whole, tmp_path / "d.zarr")
    return tmp_path / "d.zarr"


def change(file, at, value):
    """Put a value into JSON, or take away what is there; a description is sealed again."""
    content = json.loads(file.read_text())
    own = content["attributes"].get("layerflow", content)
    own.pop("seal", None)
    *path, last = at
    parent = own
    for key in path:
        parent = parent[key]
    if value is None:
        del parent[last]
    else:
        parent[last] = value
    if own is not content:
        content["attributes"]["layerflow"] = sealed(own)
    file.write_text(json.dumps(content))


DESCRIPTIONS = {
    "no record of what was asked": (["asked"], None, r'missing required key\(s\): "asked"'),
    "a format that is no number": (["format"], "x", r"format 'x' is none"),
    "a format before the first": (["format"], 0, r"format 0 is none"),
    "a later format": (["format"], 99, r"was written by a later version of layerflow. Update layerflow"),
    "a command of no words": (["command"], [1, {}], r"'command' of the description"),
    "an endless chunk": (["chunk"], 10**12, r"a chunk of 1000000000000 cells cannot be, where there are 3"),
    "a chunk of nothing": (["chunk"], 0, r"a chunk of 0 cells cannot be"),
    "a chunk that is true": (["chunk"], True, r"`chunk` of the description is True"),
    "lanes without end": (["lanes"], [2, 10**9], r"lanes \[2, 1000000000\] cannot be"),
    "lanes of one combination": (["lanes"], [2], r"for 2 combinations"),
    "a size that is not": (["asked", "axes", 1, "size"], -2, r"axis 'kind' has another size than values"),
    "an axis twice": (["asked", "axes", 1, "name"], "scale", r"two axes have one name"),
    "an axis without values": (["coordinates", "scale"], None, r"the axis 'scale' has no values"),
    "no values": (["coordinates", "t", "values"], [], r"another number of values than its axis, or none"),
    "objects": (["coordinates", "scale", "dtype"], "|O", r"values of coordinate 'scale' are not of type '\|O'"),
    "wide text": (["coordinates", "kind", "dtype"], "<U900000000", r"values of coordinate 'kind' are not of type"),
    "text as numbers": (["coordinates", "scale", "values", 0], "x", r"values of coordinate 'scale' are not"),
    "large numbers": (["coordinates", "scale", "values", 0], 10**400, r"values of coordinate 'scale' are not"),
    "a variable that is a path": (["variables", 0], "../loss", r"'../loss' cannot be the name of a variable"),
    "a variable from the root": (["variables", 0], "/loss", r"'/loss' cannot be the name of a variable"),
    "a variable of our own": (["variables", 0], "_layerflow/log", r"cannot be the name of a variable"),
    "a variable twice": (["variables", 0], "own_part", r"'own_part' is there twice"),
    "a variable in another": (["variables", 0], "status/c", r"'status' is there twice, or holds another"),
    "a variable that is not there": (["variables", 0], "accuracy", r"There is no array accuracy in the store"),
    "no status": (["variables", 2], "t2", r"the variable `status` is missing"),
    "a variable named as an axis": (["variables", 0], "scale", r"name of a variable and of something else"),
    "an unknown method": (["facts", "method"], "Magic", r"method 'Magic' is none of Flow, Exact, Descent"),
    "a method without its solver": (["facts", "solver"], None, r"`solver` of the method is missing"),
    "a number beyond all": (["facts", "max_steps"], 10**400, r"holds the number beyond all sizes"),
    "a root of words": (["facts", "root"], "0 x", r"the root '0 x' holds no words of a key"),
    "a coloured device": (["facts", "device"], "\x1b[31m", r"`device` holds what cannot be printed, '\\x1b\[31m'"),
}


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_a_description_that_cannot_be_is_refused_with_the_reason(case, store):
    at, value, words = DESCRIPTIONS[case]
    change(store / "zarr.json", at, value)
    with pytest.raises(ValueError, match=words):
        lf.open_diagram(store)


def test_keys_of_later_versions_are_let_through(store):
    for at in (["facts", "flags"], ["asked", "method"], ["later"]):
        change(store / "zarr.json", at, {"some": ["thing"]})
    assert lf.open_diagram(store).sizes["scale"] == 3


METADATA = {
    "loss": [
        (["shape"], [2, 4, 2]),
        (["shape"], [2, 3, 2, 1]),
        (["data_type"], "string"),
        (["dimension_names"], ["combination", "cell", "scale"]),
        (["dimension_names"], ["cell", "combination", "t"]),
        (["chunk_grid", "configuration", "chunk_shape"], [2, 2, 2]),
        (["chunk_key_encoding", "configuration", "separator"], "."),
        (["codecs", 1, "configuration", "level"], "x"),
        (["codecs", 2], {"name": "gzip", "configuration": {"level": 1}}),
        (["fill_value"], 0.0),
        (["attributes"], "x"),
    ],
    "status": [(["data_type"], "int8"), (["fill_value"], 0)],
    "_layerflow/retries/1/cells": [(["data_type"], "float64"), (["shape"], [9]), (["shape"], [10**15])],
    "_layerflow/retries/1/loss": [(["shape"], [2, 3])],
}


@pytest.mark.parametrize(("array", "at", "value"), [(array, *case) for array in METADATA for case in METADATA[array]])
def test_an_array_that_is_not_as_described_is_refused(array, at, value, store):
    change(store / array / "zarr.json", at, value)
    with pytest.raises(ValueError, match=rf"{store}.*(is not one that layerflow writes|cannot be read|is damaged)"):
        lf.open_diagram(store).load()


def test_what_is_larger_than_the_memory_is_refused_when_it_is_read_and_only_then(store, monkeypatch):
    """A variable of a terabyte, of which no chunk is there."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: types.SimpleNamespace(available=2**30))
    shutil.rmtree(store / "own_part/c")
    shutil.rmtree(store / "_layerflow/retries")
    change(store / "own_part/zarr.json", ["shape"], [2, 3, 2, 10**10])
    change(store / "own_part/zarr.json", ["chunk_grid", "configuration", "chunk_shape"], [1, 2, 2, 10**10])

    diagram = lf.open_diagram(store)
    assert np.isfinite(diagram.loss.values).any()
    for part in (diagram, diagram.isel(own_part_0=[0, 1])):
        with pytest.raises(MemoryError, match=r"Reading `own_part` of the store .* would take .* GiB, but 1.0 GiB are"):
            part.own_part.load()


@pytest.mark.parametrize("size", [0, 1, 200, 255, 256, 300, 65_791, 65_792, 70_000, 10**7])
def test_a_chunk_says_what_it_unpacks_to(size):
    packed = Zstd(level=1).encode(np.zeros(size, np.uint8))
    assert unpacked_size(bytes(packed[:18])) == size


def test_a_chunk_that_unpacks_to_more_than_the_memory_is_refused(store, monkeypatch):
    """Forty million zeros in two kilobytes, with the checksum that belongs to them."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: types.SimpleNamespace(available=2**25))
    frame = bytes(Zstd(level=1).encode(np.zeros(4 * 10**7, np.uint8)))
    (store / "loss/c/0/0/0").write_bytes(frame + google_crc32c.value(frame).to_bytes(4, "little"))
    for call in (read, sweep_on):
        with pytest.raises(MemoryError, match=r"Unpacking the chunk loss/c/0/0/0 of the store would take 0.0 GiB"):
            call(store, None)


RECORDS = {
    "a log that is none": ("_layerflow/log", ["attributes", "runs"], "x", r"'x' stands where a list belongs"),
    "a run that is none": ("_layerflow/log", ["attributes", "runs", 0], 5, r"a run is 5 in place of named values"),
    "a run of another kind": ("_layerflow/log", ["attributes", "runs", 0, "pid"], "x", r"'pid' of a run"),
    "a run before its begin": ("_layerflow/log", ["attributes", "runs", 0, "done"], -1, r"of a run cannot be"),
    "a retry by no method": ("_layerflow/retries/1", ["attributes", "method"], "x", r"the method is 'x' in place of"),
    "a retry without a solver": ("_layerflow/retries/1", ["attributes", "method", "solver"], None, r"`solver` of the"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_records_that_cannot_be_are_refused_with_what_to_delete(case, store):
    group, at, value, words = RECORDS[case]
    change(store / group / "zarr.json", at, value)
    with pytest.raises(ValueError, match=rf"{words}.* Delete "):
        lf.open_diagram(store)


@pytest.mark.parametrize("cells", [[5, 0], [0, 0], [-1, 0], [0, 6]])
def test_a_retry_of_cells_that_are_none_is_refused(cells, store):
    folder = store / "_layerflow/retries/1"
    group = zarr.open_group(folder)
    group["cells"][:2] = cells
    with pytest.raises(ValueError, match=r"its cells are not in order, or not of the grid"):
        lf.open_diagram(store)


def test_files_of_others_among_the_chunks_are_left_alone(store):
    for name in ("0/.sync-conflict", "notes.txt", "0/9999999999", "7/0/0"):
        (store / "status/c" / name).parent.mkdir(parents=True, exist_ok=True)
        (store / "status/c" / name).write_text("mine")
    assert command("status")(store, None) is None
    assert swept(store).sizes["scale"] == 3


def test_nothing_is_written_through_a_link_that_leads_out_of_the_store(store, tmp_path):
    (tmp_path / "mine").mkdir()
    shutil.rmtree(store / "loss/c/0")
    (store / "loss/c/0").symlink_to(tmp_path / "mine")
    for call in (sweep_on, retry_on):
        with pytest.raises(FileExistsError, match=r"holds a link, .*loss/c/0, and nothing is written through links"):
            call(store, None)
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../loss", r"called '../loss', but files of diagrams need a name without `/`"),
        ("..", r"'..' cannot be the name of a variable.* Name what is measured otherwise"),
    ],
)
def test_a_variable_that_would_lie_elsewhere_is_refused_before_anything_is_computed(tmp_path, name, words):
    with pytest.raises(ValueError, match=words):
        lf.sweep(cell, AXES, method=METHOD, observe={name: lf.loss}, store=tmp_path / "new.zarr")
    assert not (tmp_path / "loss").exists()


# The command of a store


def with_command(begun, tmp_path, words):
    shutil.copytree(begun, tmp_path / "d.zarr")
    own = json.loads((begun / "zarr.json").read_text())["attributes"]["layerflow"]["command"]
    change(tmp_path / "d.zarr/zarr.json", ["command"], [*own, *words])
    return tmp_path / "d.zarr"


@pytest.mark.slow
def test_where_to_draw_is_not_for_the_store_to_say(begun, tmp_path, monkeypatch):
    """A store of version 0.2.0 names a folder; what it is told on the command line counts, or the usual folder."""
    store = with_command(begun, tmp_path, ["--out", str(tmp_path / "theirs")])
    monkeypatch.chdir(tmp_path)
    for flags, folder in ((["--out", "mine"], "mine"), ([], "diagrams")):
        main(["resume", str(store), *flags])
        assert (tmp_path / folder / "mine.nc").exists()
    assert not (tmp_path / "theirs").exists()


@pytest.mark.parametrize(
    "words",
    [["--store", "/tmp/other"], ["--out=/tmp/other"], ["--help"], ["--bogus"], ["data", "digits"], ["--ou", "x"]],
)
def test_a_store_runs_nothing_but_a_diagram(words, begun, tmp_path):
    store = with_command(begun, tmp_path, words)
    with pytest.raises(Refused, match=r"layerflow: The store .* remembers .*, which is no `layerflow diagram`: "):
        command("resume")(store, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


# Other files


@pytest.mark.parametrize("content", [b"CDF\x01\x00\x00", b"\x89HDF\r\n\x1a\n", b"words", b""])
def test_a_file_that_is_no_netcdf_is_refused_in_words(content, tmp_path):
    (tmp_path / "d.nc").write_bytes(content)
    with pytest.raises((ValueError, OSError), match=r"d\.nc"):
        lf.open_diagram(tmp_path / "d.nc")


# Names in pictures


def test_names_with_dollar_signs_are_drawn_as_they_are_and_long_names_as_mathematics():
    bad, good = "a$b^$", r"speed $v^2$"
    values = xarray.DataArray(np.ones((2, 3)), {bad: ["$x^$", "y"], "n": [1, 2, 3]}, (bad, "n"), f"{bad}_d_{bad}")
    values.attrs = {"long_name": f"derivative of {bad} by {bad}", "units": f"1/[{bad}]", "of": bad, "by": bad}
    values.n.attrs = {"long_name": good}
    for draw in (lf.plot.heatmap, lf.plot.curves):
        ax = draw(values)
        ax.figure.canvas.draw()
        assert ax.get_xlabel() == good
        plt.close(ax.figure)
    assert label(values) == r"derivative of a\$b^\$ by a\$b^\$ (1/[a\$b^\$])"
    ax = lf.plot.arrows(values.rename({bad: "coordinate"}).rename("own$^$"))
    ax.figure.canvas.draw()
    plt.close(ax.figure)
