"""What is read from compiled programs, as XLA prints them for GPUs and TPUs, and what the command rejects."""

import json
import subprocess

import pytest

from benchmarks.accelerators import commands, counts, hlo, row, sweeps, targets

LANES = 4
# Lanes as XLA prints them for a GPU, cut short. A step: two launches, one in a call, one in the loop within the step.
# Between bursts: a copy, a scatter in place, and the outer condition.
BURSTS = """
HloModule jit_travel, is_scheduled=true, entry_computation_layout={(f64[4]{0})->f64[4]{0}}

%fused_scatter (rows: f64[100,2], where: s64[4,1], new: f64[4,2]) -> f64[100,2] {
  %rows = f64[100,2]{1,0} parameter(0)
  %where = s64[4,1]{1,0} parameter(1)
  %new = f64[4,2]{1,0} parameter(2)
  ROOT %scatter.1 = f64[100,2]{1,0} scatter(%rows, %where, %new), update_window_dims={1}, to_apply=%region_1
}

%fused_add (a: f64[4], b: f64[100]) -> f64[4] {
  %a = f64[4]{0} parameter(0)
  %b = f64[100]{0} parameter(1)
  %slice.1 = f64[4]{0} dynamic-slice(%b, %a), dynamic_slice_sizes={4}
  ROOT %add.1 = f64[4]{0} add(%a, %slice.1)
}

%fused_sqrt (f.1: f64[4]{0}) -> f64[4]{0} {
  %f.1 = f64[4]{0} parameter(0)
  ROOT %f.2 = f64[4]{0} sqrt(%f.1)
}

%fused_any (f.1: f64[4]{0}) -> pred[] {
  %f.1 = f64[4]{0} parameter(0)
  ROOT %f.2 = pred[] reduce(%f.1)
}

%fused_once (f.1: f64[4]{0}) -> f64[4]{0} {
  %f.1 = f64[4]{0} parameter(0)
  ROOT %f.2 = f64[4]{0} negate(%f.1)
}

%fused_compare (f.1: s64[]) -> pred[] {
  %f.1 = s64[] parameter(0)
  ROOT %f.2 = pred[] compare(%f.1)
}

%called (x.1: f64[4], y.1: f64[100]) -> f64[4] {
  %x.1 = f64[4]{0} parameter(0)
  %y.1 = f64[100]{0} parameter(1)
  ROOT %fusion.1 = f64[4]{0} fusion(%x.1, %y.1), kind=kLoop, calls=%fused_add
}

%passes_body (p.1: (f64[4])) -> (f64[4]) {
  %p.1 = (f64[4]{0}) parameter(0)
  %g.1 = f64[4]{0} get-tuple-element(%p.1), index=0
  %copy.3 = f64[4]{0} copy(%g.1)
  ROOT %tuple.1 = (f64[4]{0}) tuple(%copy.3)
}

%passes (p.2: (f64[4])) -> pred[] {
  %p.2 = (f64[4]{0}) parameter(0)
  %g.2 = f64[4]{0} get-tuple-element(%p.2), index=0
  ROOT %any = pred[] fusion(%g.2), kind=kInput, calls=%fused_any
}

%step (s: (s64[], f64[4], f64[100])) -> (s64[], f64[4], f64[100]) {
  %s = (s64[], f64[4]{0}, f64[100]{0}) parameter(0)
  %s.0 = s64[] get-tuple-element(%s), index=0
  %s.1 = f64[4]{0} get-tuple-element(%s), index=1
  %s.2 = f64[100]{0} get-tuple-element(%s), index=2
  %call.1 = f64[4]{0} call(%s.1, %s.2), to_apply=%called
  %sqrt = f64[4]{0} fusion(%call.1), kind=kLoop, calls=%fused_sqrt
PASSES
  ROOT %tuple.2 = (s64[], f64[4]{0}, f64[100]{0}) tuple(%s.0, %sqrt, %s.2)
}

%burst (b: (s64[], f64[4], f64[100], f64[100,2])) -> (s64[], f64[4], f64[100], f64[100,2]) {
  %b = (s64[], f64[4]{0}, f64[100]{0}, f64[100,2]{1,0}) parameter(0)
  %b.3 = f64[100,2]{1,0} get-tuple-element(%b), index=3
  %zero = s64[] constant(0)
  %copy.1 = s64[] copy(%zero)
  %bitcast.1 = s64[4,1]{1,0} bitcast(%b.3)
STEPS
  ROOT %put = f64[100,2]{1,0} fusion(%b.3, %bitcast.1, %new.1), kind=kInput, calls=%fused_scatter
}

%goes_on (b.4: (s64[], f64[4], f64[100], f64[100,2])) -> pred[] {
  %b.4 = (s64[], f64[4]{0}, f64[100]{0}, f64[100,2]{1,0}) parameter(0)
  %b.5 = s64[] get-tuple-element(%b.4), index=0
  ROOT %lt = pred[] fusion(%b.5), kind=kLoop, calls=%fused_compare
}

ENTRY %main.1 (x: f64[4]) -> f64[4] {
  %x = f64[4]{0} parameter(0)
  %once = f64[4]{0} fusion(%x), kind=kLoop, calls=%fused_once
  %tuple.9 = (s64[], f64[4]{0}, f64[100]{0}, f64[100,2]{1,0}) tuple(%once)
  %while.9 = (s64[], f64[4]{0}, f64[100]{0}, f64[100,2]{1,0}) while(%tuple.9), condition=%goes_on, body=%burst
  ROOT %out = f64[4]{0} get-tuple-element(%while.9), index=1
}
"""
EIGHT = """  %while.1 = (s64[], f64[4]{0}, f64[100]{0}) while(%b), condition=%c, body=%step, \
backend_config={"known_trip_count":{"n":"8"},"known_init_step":{"init":"0","step":"1"}}"""
KERNEL = """  %pallas.1 = (f64[4]{0}, f64[4]{0}) custom-call(%b.3), custom_call_target="__gpu$xla.gpu.triton", \
api_version=API_VERSION_TYPED_FFI"""
PASSES = "  %while.2 = (f64[4]{0}) while(%sqrt), condition=%passes, body=%passes_body"
# As XLA prints a loop for a TPU: 64-bit numbers are pairs, it says nothing of rounds, and arrays lie in tiles.
TPU = """
HloModule jit_travel

%eight (c: (u32[], u32[])) -> pred[] {
  %c = (u32[]{:T(128)}, u32[]{:T(128)}) parameter(0)
  %high = u32[]{:T(128)} get-tuple-element(%c), index=1
  %low = u32[]{:T(128)} get-tuple-element(%c), index=0
  %constant.0 = u32[]{:T(128)} constant(0)
  %constant.8 = u32[]{:T(128)} constant(8), metadata={op_name="jit(travel)/while/body/while/cond/lt"}
  %equal = pred[]{:T(512)S(6)} compare(%high, %constant.0), direction=EQ
  %less = pred[]{:T(512)S(6)} compare(%low, %constant.8), direction=LT
  ROOT %and.1 = pred[]{:T(512)} and(%equal, %less)
}

%step (s: (u32[], f32[2,256])) -> (u32[], f32[2,256]) {
  %s = (u32[]{:T(128)}, f32[2,256]{1,0:T(8,128)S(1)}) parameter(0)
  %s.1 = f32[2,256]{1,0:T(8,128)S(1)} get-tuple-element(%s), index=1
  ROOT %mul = f32[2,256]{1,0:T(8,128)S(1)} multiply(%s.1, %s.1), \
backend_config={"window_config":{"estimated_cycles":"3000"}}
}

%burst (b: (u32[], f32[2,256])) -> (u32[], f32[2,256]) {
  %b = (u32[]{:T(128)}, f32[2,256]{1,0:T(8,128)S(1)}) parameter(0)
  ROOT %while.1 = (u32[]{:T(128)}, f32[2,256]{1,0:T(8,128)S(1)}) while(%b), condition=%eight, body=%step
}

%goes_on (g: (u32[], u32[])) -> pred[] {
  %g = (u32[]{:T(128)}, u32[]{:T(128)}) parameter(0)
  %left = u32[]{:T(128)} get-tuple-element(%g), index=0
  %total = u32[]{:T(128)} get-tuple-element(%g), index=1
  ROOT %compare.2 = pred[]{:T(512)} compare(%left, %total), direction=LT
}

ENTRY %main (m: (u32[], f32[2,256])) -> (u32[], f32[2,256]) {
  %m = (u32[]{:T(128)}, f32[2,256]{1,0:T(8,128)S(1)}) parameter(0)
  ROOT %while.2 = (u32[]{:T(128)}, f32[2,256]{1,0:T(8,128)S(1)}) while(%m), condition=%goes_on, body=%burst
}
"""


def bursts(steps=EIGHT, passes=""):
    return BURSTS.replace("STEPS", steps).replace("PASSES", passes)


def test_launches_of_a_step_are_those_of_the_loop_in_the_loop():
    found = counts.of_bursts(bursts(), 8)

    assert found.step.launches == 2  # in the call, and beside it
    assert found.between.launches == 3  # the copy, the scatter, the condition
    assert found.host_syncs == 1


def test_a_kernel_that_is_the_whole_way_is_one_launch():
    text = (
        "HloModule jit_travel\n\nENTRY %main (b.3: f64[100]) -> (f64[4], f64[4]) {\n  %b.3 = f64[100]{0} parameter(0)\n"
    )
    found = counts.of_one_kernel(f"{text}{KERNEL}\n}}\n", 4)

    assert found is not None
    assert (found.step.launches, found.between.launches, found.host_syncs) == (1 / 4, 0, 0)
    assert found.step.bytes == (800 + 2 * 32) / 4
    assert counts.of_one_kernel(bursts(KERNEL), 4) is None


def test_a_loop_of_unknown_length_in_each_step_waits_at_each_step():
    found = counts.of_bursts(bursts(passes=PASSES), 8)

    assert found.step.launches == 2 + 2  # one round of it, and its condition
    assert found.host_syncs == 1 + 8


def test_what_is_looked_up_or_written_in_place_counts_by_what_is_touched():
    found = counts.of_bursts(bursts(), 8)

    in_the_call, beside = 32 + 32 + 32, 32 + 32  # a slice of 4 among 100, not all of them
    assert found.step.bytes == in_the_call + beside
    scatter = 32 + 64  # its places; the new rows were no array of this text's, so they count where they are written
    condition, copy = 8 + 1, 8 + 8
    assert found.between.bytes == scatter + condition + copy


def test_of_a_choice_the_longest_branch_counts_and_the_host_waits():
    choice = """
%long (p: f64[4]) -> f64[4] {
  %p = f64[4]{0} parameter(0)
  %one = f64[4]{0} copy(%p)
  ROOT %two = f64[4]{0} copy(%one)
}

%short (q: f64[4]) -> f64[4] {
  ROOT %q = f64[4]{0} parameter(0)
}

ENTRY %main (i: s32[], x: f64[4]) -> f64[4] {
  %i = s32[] parameter(0)
  %x = f64[4]{0} parameter(1)
  ROOT %chosen = f64[4]{0} conditional(%i, %x, %x), branch_computations={%short, %long}
}
"""
    assert counts.of_whole(choice).step == hlo.Load(launches=2, bytes=4 * 32, syncs=1)


def test_steps_of_a_loop_without_bursts_wait_where_their_number_is_not_known():
    loop = bursts().replace("body=%burst", "body=%step")

    assert counts.of_loop(loop).step.launches == 2 + 1  # with the condition
    assert counts.of_loop(loop).host_syncs == 1
    with pytest.raises(ValueError, match="holds bursts"):
        counts.of_bursts(loop, 8)


def test_a_program_for_a_tpu_is_read_without_what_xla_says_of_gpus():
    found = counts.of_bursts(TPU, 8)

    assert (found.step.launches, found.step.cycles) == (1, 3000)
    assert found.between.launches == 1  # the condition
    assert targets.TARGETS["v5e"].seconds(found.step) == 3000 / 1.5e9


@pytest.mark.parametrize(
    ("types", "size"),
    [
        ("f64[4,2]{1,0}", 64),
        ("(pred[3]{0}, s64[], bf16[2]{0})", 3 + 8 + 4),
        ("f32[2,100]{1,0:T(8,128)}", 4 * 8 * 128),
        ("f32[16384,8]{0,1:T(8,128)S(1)}", 4 * 16384 * 8),
        ("u32[]{:T(128)}", 4),
    ],
)
def test_bytes_of_types(types, size):
    assert hlo.size(types) == size


def test_the_most_registers_of_what_ptxas_tells():
    told = """ptxas info    : Compiling entry function 'a' for 'sm_90a'
    24 bytes stack frame, 176 bytes spill stores, 88 bytes spill loads
ptxas info    : Used 96 registers, used 0 barriers
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 142 registers, used 1 barriers
"""
    assert row.registers(told) == {"registers": 142, "spilled_bytes": 176}


def test_a_gpu_is_estimated_by_launches_and_traffic():
    load = hlo.Load(launches=4, bytes=4.8e6)

    assert targets.TARGETS["h200"].seconds(load) == pytest.approx(4 * 2.5e-6 + 1e-6)


def test_more_launches_are_worse_and_fewer_are_not():
    before = {"target": "h200", "sweep": "2-2-2", "dtype": "float64", "step_launches": 18, "compiled_by": "a 1"}

    assert commands.worsened(before, before | {"step_launches": 17}) == []
    (line,) = commands.worsened(before, before | {"step_launches": 19})
    assert line == "h200 2-2-2 float64: a step launches 19, 18 are recorded."
    (line,) = commands.worsened(before, before | {"step_launches": 19, "compiled_by": "a 2"})
    assert line.endswith("18 are recorded. Compilers differ: a 1, now a 2.")
    refused = before | {"refused": "travel: no"}
    assert commands.worsened(before, refused) == ["h200 2-2-2 float64 is refused now: travel: no"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "h20"], "There is no target 'h20'. Did you mean h200? There are: h200, h100, a100, v5e."),
        (["--sweeps", "2-2"], "There is no sweep '2-2'. Did you mean 2-2-2? There are: 2-2-2, 5-5-5"),
        (["--dtype", "float16"], "There is no dtype 'float16'."),
        (["--check", "--target", "h200"], "--check has rows of its own."),
        (["--out", "/no/folder/rows.json"], "lies in a folder that does not exist"),
    ],
)
def test_what_cannot_be_is_rejected_before_anything_compiles(monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(targets, "_installed", lambda module: True)
    monkeypatch.setattr(commands, "compiled", lambda *key: pytest.fail("compiled"))

    with pytest.raises(SystemExit, match=r"^2$"):
        commands.main(arguments)
    assert words in capsys.readouterr().err


def test_a_file_of_something_else_is_not_overwritten(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(targets, "_installed", lambda module: True)
    (tmp_path / "other.json").write_text('{"machine": 1}')

    with pytest.raises(SystemExit, match=r"^2$"):
        commands.main(["--out", str(tmp_path / "other.json")])
    assert "holds something else than rows" in capsys.readouterr().err


def test_missing_wheels_are_named_with_what_installs_them(monkeypatch, capsys):
    monkeypatch.setattr(targets, "_installed", lambda module: False)

    with pytest.raises(SystemExit, match=r"^2$"):
        commands.main(["--target", "v5e"])
    assert 'takes libtpu, not installed here. Install it: pip install "layerflow[accelerators]"' in (
        capsys.readouterr().err
    )


def test_rows_are_stored_beside_others_and_checked_against(monkeypatch, capsys, tmp_path):
    """With what compiles replaced: every key that is asked for gets a row."""
    monkeypatch.setattr(targets, "_installed", lambda module: True)
    launches = {"step_launches": 3.0, "compiled_by": "a 1"}
    monkeypatch.setattr(commands, "compiled", lambda t, s, d: {"target": t, "sweep": s, "dtype": d} | launches)
    out = ["--out", str(tmp_path / "rows.json")]

    with pytest.raises(SystemExit, match=r"^2$"):
        commands.main(["--check", *out])
    assert "holds no row h200 2-2-2 float64" in capsys.readouterr().err
    commands.main(["--target", "h200", "v5e", "--sweeps", "2-2-2", "5-5-5", *out])
    commands.main(["--target", "h200", "--sweeps", "2-2-2", "--dtype", "float64", *out])
    assert len(json.loads((tmp_path / "rows.json").read_text())["rows"]) == 8
    with pytest.raises(SystemExit, match=r"^0$"):
        commands.main(["--check", *out])
    launches["step_launches"] = 4.0
    with pytest.raises(SystemExit, match=r"^1$"):
        commands.main(["--check", *out])
    assert "v5e 2-2-2 float32: a step launches 4, 3 are recorded." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (subprocess.CompletedProcess([], -6, "", "F1130 10:00:00 1 a.cc:1] Check failed\n@ 0x1\n"), "Check failed"),
        (subprocess.CompletedProcess([], 1, "", "Traceback\nValueError: no\n"), "exit code 1: ValueError: no"),
    ],
    ids=["crash", "error"],
)
def test_a_row_whose_process_ends_badly_is_refused(monkeypatch, result, words):
    monkeypatch.setattr(commands, "compilers", lambda platform: "a 1")
    monkeypatch.setattr(commands.subprocess, "run", lambda *command, **how: result)

    assert words in commands.compiled("v5e", "2-2-2", "float64")["refused"]


def test_the_command_knows_the_sweeps_that_there_are():
    assert list(commands.NAMES) == list(sweeps.SWEEPS)


def test_the_sweep_of_a_figure_is_the_one_that_its_module_asks_for(monkeypatch):
    monkeypatch.setattr(sweeps, "batch_of", lambda cell, axes, **how: (axes, how))
    axes, how = sweeps.SWEEPS["figure-10"]()

    assert list(axes) == ["shape", "lam"]
    assert (how["ts"].shape, how["seeds"]) == ((61,), 16)
