"""One row: the programs of a sweep compiled for a device, in a process of its own, and what is read from them.

python -m benchmarks.accelerators.row TARGET SWEEP DTYPE
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import warnings
from typing import Any

import jax

from benchmarks.accelerators import counts, targets
from benchmarks.accelerators.sweeps import SWEEPS
from layerflow.engine._chunks import Batch
from layerflow.engine._compiled import working_set
from layerflow.engine._lanes import burst_on
from layerflow.engine._machine import Plan, check_float64, lanes_on
from layerflow.methods import Exact

CELLS = 2**14  # of what is not in lanes
WAY = ("travel", "run")  # the programs in which cells travel


def row(target: targets.Target, sweep: str) -> dict[str, Any]:
    """Compile, and read; `refused` says of each program that cannot be compiled why."""
    try:
        batch, device = SWEEPS[sweep](), target.device()
        program = batch.frozen.program
        with warnings.catch_warnings(action="ignore"):  # what float64 costs
            check_float64(program.start.outputs.dtype, device, program.method.emulated)
    except ValueError as error:  # what layerflow does not do in this precision
        return {"refused": _first_line(error)}
    lanes = lanes_on(device.platform) if program.method.in_lanes else None
    plan = Plan(CELLS if lanes is None else 4 * lanes, lanes, filled=True)
    result = _of_plan(target, batch, plan, device)
    while "RESOURCE_EXHAUSTED" in result.get("refused", "") and plan.size > 1:  # as a sweep would do
        plan = Plan.of(plan.size // 2, lanes, filled=True)
        result = _of_plan(target, batch, plan, device)
    return result


def _of_plan(target: targets.Target, batch: Batch, plan: Plan, device: Any) -> dict[str, Any]:
    """Compile the programs of chunks of one size, and read them."""
    gives: dict[str, Any] = {}
    result, refused, sizes, seconds = {}, [], [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name in batch.programs.keys(plan, device):
            options = {"xla_dump_to": folder} if target.platform == "cuda" and name in WAY else {}
            begin = time.perf_counter()
            try:
                lowered = batch.programs.lowered(name, plan, device, gives)
                gives[name] = lowered.out_info
                compiled = lowered.compile(options)
            except Exception as error:  # whatever a compiler cannot do
                refused.append(f"{name}: {_first_line(error)}")
                if name not in gives:
                    break
                continue
            seconds += time.perf_counter() - begin
            sizes.append(working_set(compiled))
            if name in WAY:
                result |= _numbers(target, batch, plan, device.platform, compiled.as_text())
        if target.platform == "cuda":
            result |= _of_kernels(target, pathlib.Path(folder))
    result |= {"cells": plan.size, "memory_bytes": max(sizes, default=0), "compile_seconds": round(seconds, 1)}
    return result | ({"refused": "; ".join(refused)} if refused else {})


def _numbers(target: targets.Target, batch: Batch, plan: Plan, platform: str, text: str) -> dict[str, Any]:
    """What the program in which cells travel launches and moves, and how fast that might be."""
    if plan.lanes is not None:
        cells = plan.size // plan.lanes  # of each lane, and each takes a step at least
        found = counts.of_one_kernel(text, cells) or counts.of_bursts(text, burst_on(platform))
    else:
        whole = isinstance(batch.frozen.program.method, Exact)
        found = counts.of_whole(text) if whole else counts.of_loop(text)
    lanes = plan.lanes or plan.size
    seconds = target.seconds(found.step) + target.seconds(found.between) / found.steps
    return {
        "step_launches": round(found.step.launches, 3),
        "refill_launches": round(found.between.launches, 3),
        "host_syncs": int(found.host_syncs) if target.platform == "cuda" else 0,
        "bytes_per_lane_step": round(found.step.bytes / lanes, 1),
        "estimated_lane_steps_per_second": float(f"{lanes / seconds:.3g}"),
    }


def _of_kernels(target: targets.Target, folder: pathlib.Path) -> dict[str, Any]:
    """The most that a kernel of the way takes, of what XLA left in a folder, and how fast one that is all of it is."""
    told, result = "", {}
    for kernel in folder.glob("*.ptx"):  # each alone, for all of them define the same constants
        text = kernel.read_text()
        arch = re.search(r"^\.target (\w+)", text, re.MULTILINE)
        if arch is None or ".entry" not in text:  # constants alone
            continue
        command = [targets.ptxas(), "-v", f"-arch={arch[1]}", "-o", "/dev/null", kernel]
        told += subprocess.run(command, check=True, capture_output=True, text=True).stderr
        if ".entry travel(" in text:
            result = _speed(target, text)
    return registers(told) | result if told else {}


def _speed(target: targets.Target, kernel: str) -> dict[str, float]:
    """Of a kernel that lets all cells travel: it takes its time for arithmetic, nearly all of it of a lane's step."""
    many = lambda kind: len(re.findall(rf"^\s+\w+(?:\.\w+)*\.{kind} ", kernel, re.MULTILINE))
    operations = {"f64": many("f64"), "f32": many("f32")}
    seconds = operations["f64"] / target.float64 + operations["f32"] / target.float32
    return {"operations": sum(operations.values()), "estimated_lane_steps_per_second": float(f"{1 / seconds:.3g}")}


def registers(told: str) -> dict[str, int]:
    """The most registers and spilled bytes of any kernel, of what ptxas tells."""
    most = lambda pattern: max(map(int, re.findall(pattern, told)), default=0)
    return {"registers": most(r"Used (\d+) registers"), "spilled_bytes": most(r"(\d+) bytes spill stores")}


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]


if __name__ == "__main__":
    name, sweep, dtype = sys.argv[1:]
    jax.config.update("jax_enable_x64", dtype == "float64")
    print(json.dumps(row(targets.TARGETS[name], sweep)), flush=True)
