"""Devices that pull work: who computes what, and in which thread."""

import threading

import jax
import numpy as np
import pytest

import layerflow as lf
from layerflow.engine._devices import pull
from layerflow.engine._kept import programs
from layerflow.sweeps._request import Request, cells_of

TWO = [jax.devices()[0]] * 2  # threads, that is: one device may serve both


def test_what_a_device_asks_for_is_done_by_the_calling_thread():
    """JAX was seen to crash when it compiled in other threads, after memory ran out say."""

    def work(_, job, ask):
        return job, threading.current_thread(), ask(threading.current_thread)

    done = [result for _, result in pull(TWO, range(8), lambda _: None, work)]

    assert sorted(job for job, _, _ in done) == list(range(8))
    assert {asked for _, _, asked in done} == {threading.main_thread()}
    assert threading.main_thread() not in {own for _, own, _ in done}


def test_an_error_of_what_was_asked_for_is_raised_where_results_are_read():
    def work(_, job, ask):
        return ask(lambda: 1 / job)

    with pytest.raises(ZeroDivisionError):
        list(pull(TWO, range(4), lambda _: None, work))


def test_a_chunk_that_memory_runs_out_on_is_compiled_anew_by_who_compiles(monkeypatch):
    """Halves of a chunk are other programs: they are asked for, never compiled where the chunk runs."""

    def cell(scale):
        return lf.Problem(lf.linear_model(scale * jax.numpy.ones(1)), lf.Modes(jax.numpy.ones(1), 1.0))

    request = Request.of(
        *(cell, {"scale": np.arange(1.0, 9.0)}),
        **{"method": lf.Exact(t1=1.0), "seeds": None, "root": 0, "ts": None, "observe": lf.loss, "summary": None},
        **{"paths": True, "derivative": (), "verify": False},
    )
    (batch,), device = request.batches(), jax.local_devices()[0]
    plan = batch.plan(8, lf.Machine(devices=1))
    cells = cells_of(request.grid, np.arange(8), plan.size)
    whole, call, requests = batch.run(device, cells, plan), batch._call, []

    def short_of_memory(device, cells, plan, *how):
        if plan.size == 8:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return call(device, cells, plan, *how)

    def ask(request):
        requests.append(request)
        return request()

    monkeypatch.setattr(batch, "_call", short_of_memory)
    programs.clear()
    with pytest.warns(UserWarning, match="split in two"):
        halves = batch.run(device, cells, plan, ask)

    assert len(requests) == 1  # both halves are one program
    jax.tree.map(np.testing.assert_array_equal, halves, jax.device_get(whole))
