"""Sweeps on disk: the same diagram as in memory, resumed, refused, repaired."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import zipfile

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray
import zarr

import layerflow as lf

pytestmark = pytest.mark.optimised

LAMS, SCALES = np.array([-2.0, 0.0, 2.0]), np.array([0.5, 1.0, 2.0, 4.0])
TASK = lf.Moments.whitened(yx=jnp.array([[1.0, 0.3], [-0.2, 0.8]]))
METHOD = lf.Flow(t1=3.0)
CHUNKS = lf.Machine(chunk=5, lanes=3)


def cell(key, lam, scale):
    start = lf.lambda_balanced(key, lam, 0.5, inp=2, hid=2, out=2)
    return lf.Problem(start, TASK.rescale(target=scale))


def swept(store=None, cell=cell, axes=None, seeds=2, method=METHOD, on=CHUNKS, **how):
    axes = {"lam": LAMS, "scale": SCALES} if axes is None else axes
    return lf.sweep(cell, axes, seeds=seeds, method=method, on=on, store=store, **how)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "diagram.zarr"


def assert_same(one, other):
    """Equal bit for bit, in order, labels and types; `attrs` of the whole tell how it was made, and may differ."""
    xarray.testing.assert_identical(one.drop_attrs(deep=False), other.drop_attrs(deep=False))
    assert list(one.data_vars) == list(other.data_vars)
    for name in one.variables:
        assert one[name].dtype == other[name].dtype
        assert one[name].values.tobytes() == other[name].values.tobytes()


def by_shape(key, lam, shape):
    inp, hid, out = shape
    task = lf.random_regression(key, n=10, inp=inp, out=out, whiten=True)
    return lf.Problem(lf.lambda_balanced(key, lam, 1.0, inp=inp, hid=hid, out=out), task)


def parts(network, _):
    return {"first": network.matrix[0], "whole": network.matrix}


SHAPES = lf.static({"funnel": (4, 2, 2), "anti-funnel": (2, 2, 4), "square": (3, 3, 3)})
KINDS = {
    "plain": dict(observe=(lf.loss, lf.kernel_distance, lf.layer_imbalance)),
    "static": dict(cell=by_shape, axes={"lam": LAMS, "shape": SHAPES}, seeds=3, observe=(lf.loss, lf.effective_rank)),
    "over time": dict(ts=[0.0, 1.0, 3.0], observe={"mine": parts}, on=lf.Machine(chunk=7)),
    "summary": dict(ts=np.linspace(0, 3, 20), observe=lf.mode_strengths, summary=lf.half_times, paths=False),
    "derivative and verify": dict(derivative=("lam",), verify=True, observe=(lf.loss, lf.kernel_distance)),
    "descent": dict(
        method=lf.Descent(optax.sgd, learning_rate=0.1, steps=20), ts=[0, 10, 20], observe=lf.loss, seeds=1
    ),
    "implicit": dict(method=lf.Flow(t1=3.0, solver=dfx.Kvaerno5()), observe=lf.loss),
    "one cell": dict(cell=lambda: cell(jax.random.key(0), 1.0, 1.0), axes={}, seeds=None),
}


LONG = {"static", "derivative and verify"}  # compile many programs


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in LONG)) for kind in KINDS])
def test_a_store_holds_the_diagram_of_memory(kind, path):
    """All variables bit for bit, with their labels; before and after it is opened anew."""
    stored, kept = swept(path, **KINDS[kind]), swept(**KINDS[kind])

    assert_same(stored, kept)
    assert_same(lf.open_diagram(path), kept)
    for name in ("chunk", "method", "fingerprint", "root", "dtype"):
        assert stored.attrs[name] == kept.attrs[name]


@pytest.mark.slow
def test_a_part_of_a_stored_diagram_is_that_of_memory(path):
    """Whichever axes lie outside in the store: numbers, slices backwards, lists."""
    stored, kept = swept(path, **KINDS["static"]), swept(**KINDS["static"])

    for part in (
        dict(lam=1),
        dict(shape=0, seed=slice(None, None, -1)),
        dict(shape=[2, 0], lam=[0, 2], seed=1),
        dict(seed=slice(0, 0)),
        dict(lam=-1, shape=1, seed=2),
    ):
        assert_same(stored.isel(part), kept.isel(part))
    assert_same(stored.sel(shape="square", lam=2.0), kept.sel(shape="square", lam=2.0))
    assert_same(stored.loss.mean("seed").to_dataset(), kept.loss.mean("seed").to_dataset())


def test_the_store_is_zarr_that_anyone_reads(path):
    """Flat arrays with named dimensions and a description in JSON, without layerflow."""
    kept = swept(path)

    flat = xarray.open_zarr(path, consolidated=False)
    description = json.loads((path / "zarr.json").read_text())["attributes"]["layerflow"]

    np.testing.assert_array_equal(flat.loss.values.ravel(), kept.loss.values.ravel())
    assert flat.loss.dims == ("combination", "cell")
    assert description["facts"]["rtol"] == 1e-6
    assert description["coordinates"]["lam"]["values"] == [-2.0, 0.0, 2.0]
    assert (description["chunk"], description["lanes"]) == (5, [3])
    assert description["asked"]["observe"] == {"loss": "loss"}
    assert {"layerflow_version", "jax_version", "root", "fingerprint"} <= description["facts"].keys()


@pytest.fixture
def computed(monkeypatch):
    """How many chunks were computed."""
    from layerflow.engine._chunks import Batch

    count, run = [], Batch.run
    monkeypatch.setattr(Batch, "run", lambda *a: count.append(1) or run(*a))
    return count


def cut(path, *chunks):
    """Take the mark of some chunks away, as if the process had been killed before it was written."""
    for chunk in chunks:
        (path / "status/c" / chunk).unlink()


def test_the_same_call_goes_on_with_what_is_missing(path, computed):
    kept = swept()
    swept(path)
    computed.clear()
    cut(path, "0/1", "0/4")

    part = lf.open_diagram(path).load()
    resumed = swept(path)

    assert len(computed) == 2
    assert_same(resumed, kept)
    assert (part.status == lf.Status.MISSING).sum() == 9
    assert "15 done, 0 failed, 9 missing" in str(part)
    computed.clear()
    assert_same(swept(path), kept)
    assert not computed


def test_a_sweep_into_a_store_holds_no_diagram_in_memory(path, monkeypatch):
    """Nor does it look whether one would fit."""
    kept = swept()

    def refuse(*_):
        raise AssertionError("the diagram is in memory")

    monkeypatch.setattr("layerflow.sweeps._memory.InMemory.__init__", refuse)
    assert_same(swept(path), kept)


def test_a_store_moves_with_its_folder(path, tmp_path, computed):
    kept = swept()
    swept(path)
    computed.clear()
    shutil.move(path, tmp_path / "elsewhere.zarr")

    assert_same(swept(tmp_path / "elsewhere.zarr"), kept)
    assert not computed


# Faults


@pytest.mark.parametrize("variable", ["loss", "num_steps", "status"])
@pytest.mark.parametrize("fault", ["flipped", "truncated", "empty", "gone"])
def test_a_damaged_chunk_is_found_and_computed_again(fault, variable, path, computed):
    """By its checksum, or because there is no file where the mark says that there is one."""
    kept = swept()
    swept(path)
    computed.clear()
    file = path / variable / "c/0/2"
    whole = file.read_bytes()
    flipped = whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
    damage = {"flipped": flipped, "truncated": whole[:-3], "empty": b""}
    file.unlink() if fault == "gone" else file.write_bytes(damage[fault])

    if fault != "gone":
        with pytest.raises(ValueError, match=r"is damaged.*Call the sweep again"):
            lf.open_diagram(path)[variable].load()
    resumed = swept(path)

    assert len(computed) == 1
    assert_same(resumed, kept)


@pytest.mark.parametrize("arrays", range(4))
def test_a_store_whose_making_was_cut_off_is_made_anew(arrays, path, monkeypatch):
    """After any number of its arrays; nothing was in it yet, and what comes may be another sweep."""
    create, made = zarr.Group.create_array, []

    def cut_off(*arguments, **how):
        if len(made) == arrays:
            raise ZeroDivisionError
        made.append(1)
        return create(*arguments, **how)

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Group, "create_array", cut_off)
        with pytest.raises(ZeroDivisionError):
            swept(path, **KINDS["plain"])

    assert_same(swept(path), swept())
    assert not (path / "kernel_distance").exists()


@pytest.mark.parametrize("files", range(4))
def test_a_chunk_cut_off_between_two_files_is_computed_again(files, path, monkeypatch, computed):
    """The process dies after any number of files of the third chunk, the last of which is the mark."""
    from layerflow.store._store import Store

    write = Store.write

    def cut_off(store, number, cells, values):
        if cells[0] < 10:
            return write(store, number, cells, values)
        for name in sorted(store.arrays, key=lambda name: name == "status")[:files]:
            store.arrays[name][number, 10:15] = values[name][:5]
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", cut_off)
        with pytest.raises(ZeroDivisionError):
            swept(path)
    computed.clear()

    resumed = swept(path)
    assert len(computed) == 3
    assert_same(resumed, swept())


@pytest.mark.usefixtures("_ctrl_c")
def test_an_interrupt_ends_after_the_running_chunk_and_says_how_to_go_on(path, monkeypatch, computed):
    from layerflow.engine._chunks import Batch

    kept, run = swept(), Batch.run
    computed.clear()

    def interrupted(*arguments):
        if len(computed) == 2:
            signal.raise_signal(signal.SIGINT)
        return run(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "run", interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"3 of 5 chunks are kept in .*diagram.zarr. The same call goes on"):
            swept(path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    computed.clear()

    assert_same(swept(path), kept)
    assert len(computed) == 2


@pytest.mark.usefixtures("_ctrl_c")
def test_a_second_interrupt_ends_at_once(path, monkeypatch):
    from layerflow.engine._chunks import Batch

    def impatient(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "run", impatient)
        with pytest.raises(KeyboardInterrupt):
            swept(path)

    assert_same(swept(path), swept())


@pytest.mark.usefixtures("_ctrl_c")
def test_an_interrupt_that_is_ignored_stays_so(path, monkeypatch):
    """As in jobs of the background."""
    from layerflow.engine._chunks import Batch

    run = Batch.run
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with monkeypatch.context() as patch:
        patch.setattr(Batch, "run", lambda *a: signal.raise_signal(signal.SIGINT) or run(*a))
        stored = swept(path)

    assert_same(stored, swept())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB, which only root can mount."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], check=False).returncode:
        pytest.skip("mounting a file system takes root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_loses_nothing_and_says_so(small_disk, computed):
    """It goes on after space is made; first the disk has no room for the store at all."""
    kept = swept()
    filler = small_disk / "filler"
    filler.write_bytes(bytes(299_000))
    with pytest.raises(OSError, match=r"No space left.*Make room, or name another folder"):
        swept(small_disk / "d.zarr")
    filler.write_bytes(bytes(200_000))
    with pytest.raises(OSError, match=r"no space is left for the store .*d.zarr; \d of 5 chunks are kept. Make space"):
        swept(small_disk / "d.zarr")
    there = len(list((small_disk / "d.zarr/status/c/0").iterdir()))
    filler.unlink()
    computed.clear()

    assert_same(swept(small_disk / "d.zarr"), kept)
    assert 0 < there < 5
    assert len(computed) == 5 - there


def test_a_store_in_use_is_refused_with_the_name_of_who_writes(path):
    from layerflow.store._lock import locked
    from layerflow.store._place import Place

    swept(path)
    cut(path, "0/1")

    with (
        locked(Place(path)),
        pytest.raises(BlockingIOError, match=rf"in use: process {os.getpid()} on .* writes to it"),
    ):
        swept(path)
    swept(path)


def test_a_store_behind_a_url_is_held_by_its_log():
    """There the record of the last run tells; a process of this host that is gone holds nothing."""
    from layerflow.store._log import Run
    from layerflow.store._place import Place

    url = "memory://in-use.zarr"
    kept = swept(url)
    run = Run(Place(url), 24, 0)
    with pytest.raises(BlockingIOError, match=rf"in use: process {os.getpid()} .*delete _layerflow/log there"):
        swept(url)
    with subprocess.Popen(["true"]) as gone:
        run.record["pid"] = gone.pid
    run.add(0)
    run._write()

    assert_same(swept(url), kept)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "static"])
def test_a_store_lies_behind_a_url(kind, computed):
    url = f"memory://{kind}.zarr"
    kept = swept(**KINDS[kind])
    swept(url, **KINDS[kind])
    computed.clear()

    from layerflow.store._place import Place

    Place(url).remove("status", "c", "0", "1")
    assert_same(swept(url, **KINDS[kind]), kept)
    assert_same(lf.open_diagram(url), kept)
    assert len(computed) == 1


# What is refused, with nothing touched


def everything(folder):
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_another_sweep_is_refused_with_the_differences(path, computed):
    swept(path)
    before = everything(path)
    computed.clear()

    other = lf.Moments.whitened(yx=2 * jnp.eye(2))
    changed = lambda key, lam, scale: lf.Problem(cell(key, lam, scale).start, other.rescale(target=scale))
    twice = lambda network, problem: 2 * lf.loss(network, problem)
    for words, change in {
        r"axis lam of 3 values, -2.0 to 2.0 there, of 2 values, 0.0 to 2.0 here": dict(
            axes={"lam": LAMS[1:], "scale": SCALES}
        ),
        r"axes lam, scale, seed there, scale, lam, seed here": dict(axes={"scale": SCALES, "lam": LAMS}),
        r"axis seed of 2 values, 0 to 1 there, of 3 values": dict(seeds=3),
        r"rtol 1e-06 there, 1e-07 here; t1 3.0 there, 4.0 here": dict(method=lf.Flow(t1=4.0, rtol=1e-7)),
        r"solver Tsit5 there, Dopri5 here": dict(method=lf.Flow(t1=3.0, solver=dfx.Dopri5())),
        r"root 0 0 there, 0 1 here": dict(root=1),
        r"chunk 5 there, 6 here": dict(on=lf.Machine(chunk=6)),
        r"lanes 3 there, 2 here": dict(on=lf.Machine(lanes=2)),
        r"observe loss there, loss, kernel_distance here": dict(observe=(lf.loss, lf.kernel_distance)),
        r"what was traced of the cell function": dict(observe={"loss": twice}),
        r"ts none there, 0.0, 1.0 here": dict(ts=[0.0, 1.0]),
        r"numbers that the cell function closes over": dict(cell=changed),
        r"what was traced of the cell function, its observables or the method": dict(
            method=lf.Flow(t1=3.0, controller=dfx.PIDController(rtol=1e-6, atol=1e-8, pcoeff=0.2, icoeff=0.4))
        ),
    }.items():
        with pytest.raises(ValueError, match=rf"is of another sweep. They differ in .*{words}"):
            swept(path, **change)
    assert everything(path) == before
    assert not computed


def test_the_chunks_of_the_store_are_taken_where_none_are_asked_for(path, computed):
    """What fits the memory may differ from one day to the next; the bits may not."""
    kept = swept()
    swept(path)
    cut(path, "0/1", "0/3")
    computed.clear()

    resumed = swept(path, on=lf.Machine())

    assert (resumed.attrs["chunk"], resumed.attrs["lanes"]) == (5, 3)
    assert_same(resumed, kept)
    assert len(computed) == 2


def test_a_place_that_is_no_store_is_refused(tmp_path, computed):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/notes.txt").write_text("mine")
    zarr.create_group(tmp_path / "other.zarr", attributes={"by": "others"})
    before = everything(tmp_path)

    for name, error, words in (
        ("file", FileExistsError, r"needs a folder of its own, but .*file is a file"),
        ("file/below", NotADirectoryError, r"file on the way to .*below is a file"),
        ("folder", FileExistsError, r"holds something that is no store of layerflow, notes.txt say"),
        ("other.zarr", FileExistsError, r"The zarr group .*other.zarr is no store of layerflow"),
    ):
        with pytest.raises(error, match=words):
            swept(tmp_path / name)
    with pytest.raises(ImportError, match=r"nowhere://x cannot be reached"):
        swept("nowhere://x")
    with pytest.raises(FileNotFoundError, match=r"There is no store of layerflow at .*missing"):
        lf.open_diagram(tmp_path / "missing")
    assert everything(tmp_path) == before
    assert not computed


@pytest.fixture
def read_only(tmp_path):
    """A folder that lets nobody write: root only heeds a file system."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    swept(folder / "done.zarr")
    if os.geteuid() == 0:
        bind = ["mount", "--bind", folder, folder], ["mount", "-o", "remount,bind,ro", folder]
        if any(subprocess.run(words, check=False).returncode for words in bind):
            pytest.skip("mounting a file system takes root")
        yield folder
        subprocess.run(["umount", "-l", folder], check=True)
    else:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


def test_a_read_only_folder_is_refused_and_can_be_read(read_only, computed):
    kept = swept()
    computed.clear()

    for name in ("new.zarr", "deep/down/new.zarr", "done.zarr"):
        with pytest.raises(PermissionError, match=r"Nothing can be written to .*read-only"):
            swept(read_only / name)
    assert not computed
    assert_same(lf.open_diagram(read_only / "done.zarr"), kept)


def test_a_changed_description_is_found(path):
    swept(path)
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text.replace("1e-06", "1e-07"))
    for call in (swept, lf.open_diagram):
        with pytest.raises(ValueError, match=r"description of the store .* was changed since it was written"):
            call(path)
    (path / "zarr.json").write_text(text[:-20])
    with pytest.raises(ValueError, match=r"zarr.json in .* cannot be read"):
        swept(path)


def test_exact_everywhere_outside_is_told_as_in_memory(path):
    """Two layers of unequal imbalance have no closed form; what was found stays in the store."""
    plain = lambda scale: lf.Problem(
        lf.DiagonalNetwork((jnp.ones(1), 2 * jnp.ones(1), jnp.ones(1))), lf.Modes(jnp.ones(1), scale)
    )
    for store in (None, path):
        with pytest.raises(ValueError, match=r"So it is in every cell"):
            lf.sweep(plain, {"scale": SCALES}, method=lf.Exact(t1=1.0), store=store)


@pytest.fixture
def store_of_0_2_0(tmp_path):
    """What layerflow 0.2.0 wrote of the sweep below."""
    with zipfile.ZipFile(pathlib.Path(__file__).parent / "data/store_0_2_0.zip") as packed:
        packed.extractall(tmp_path / "old")
    return tmp_path / "old"


PAIRS = lf.Flow(t1=1.0)


def pairs(key, scale):  # noqa: ARG001 - without a key there are no seeds
    start = lf.DiagonalNetwork((scale * jnp.ones(2), jnp.ones(2)))
    return lf.Problem(start, lf.Modes(variance=jnp.ones(2), target=1.0))


def swept_pairs(store=None):
    how = {"method": PAIRS, "observe": (lf.loss, lf.mode_strengths), "on": lf.Machine(chunk=2, lanes=2)}
    return lf.sweep(pairs, {"scale": [0.1, 0.2, 0.4]}, seeds=2, **how, store=store)


def test_a_store_of_0_2_0_is_read_and_not_gone_on_with(store_of_0_2_0):
    """Its fingerprint left out what can change a number, so no other call can be held against it."""
    old, now = lf.open_diagram(store_of_0_2_0), swept_pairs()

    assert old.attrs["layerflow_version"] == "0.2.0"
    for name in ("loss", "mode_strengths", "end"):
        np.testing.assert_allclose(old[name].values, now[name].values, rtol=1e-12)
    assert "0 failed" in str(old)
    with pytest.raises(ValueError, match=r"made by layerflow 0.2.0, whose fingerprint.*lf.open_diagram reads what it"):
        swept_pairs(store_of_0_2_0)
    with pytest.raises(ValueError, match=r"does not say all of its method \(diagrams of layerflow 0.2.0"):
        lf.replay(pairs, old, scale=0.2, seed=1)
    alone = lf.replay(pairs, old, scale=0.2, seed=1, method=PAIRS)
    np.testing.assert_allclose(alone.observed["loss"], old.loss.values[1, 1], rtol=1e-6)


@pytest.mark.parametrize(
    "method", [lf.Flow(t1=1.0), lf.Descent(optax.sgd, learning_rate=0.1, steps=3)], ids=["flow", "sgd"]
)
def test_what_is_followed_is_kept_with_its_status(tmp_path, method):
    how = {"method": method, "observe": {"own": lf.laziness, "verified": lf.loss}, "on": lf.Machine(chunk=2)}
    kept = lf.sweep(pairs, {"scale": [0.1, 0.2]}, **how, seeds=1, store=tmp_path / "s")

    for name, values in lf.sweep(pairs, {"scale": [0.1, 0.2]}, **how, seeds=1).data_vars.items():
        np.testing.assert_array_equal(kept[name].values, values.values)
    assert kept.own_status.dtype == np.uint8


def test_a_chunk_that_is_gone_is_not_read_as_nothing(tmp_path):
    kept = swept_pairs(tmp_path / "s")
    (tmp_path / "s/loss/c/0/1").unlink()

    assert np.isfinite(kept.loss.sel(scale=0.1).values).all()
    with pytest.raises(ValueError, match=r"A chunk of `loss` in the store .* is lost.*Call the sweep again"):
        lf.open_diagram(tmp_path / "s").loss.values  # noqa: B018
