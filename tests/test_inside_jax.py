"""What layerflow leans on inside JAX, Equinox, diffrax and xarray: each test says in a sentence what has moved."""

import ast
import logging
import pathlib
import subprocess
import sys

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

import layerflow as lf
from layerflow.base import _jax
from layerflow.diagrams._dataset import Diagram
from layerflow.engine import _compiled, _lanes_last, _trace
from layerflow.engine._identity import SETTINGS
from layerflow.engine._lanes_last import fits, lanes_last
from layerflow.engine._machine import Plan
from layerflow.methods._course import Loop
from layerflow.methods._stepper import _stepping
from layerflow.sweeps._request import Request

VERSION = f"jax {jax.__version__}"
PACKAGE = pathlib.Path(lf.__file__).parent

# Modules that promise nothing, and who imports them.
WITHOUT_PROMISE = ("jax._src", "jax.core", "jax.extend", "jax.experimental", "jax.interpreters", "jax.config.values")
WITHOUT_PROMISE += ("equinox.internal", "equinox._", "diffrax._", "optax._", "xarray.core", "matplotlib._")
LEANING = {
    "base/_jax.py": "jax",
    "engine/_kernel.py": "jax.experimental.pallas",  # see test_kernel
    "methods/_course.py": "equinox.internal",
    "store/_lazy.py": "xarray.core",  # as its manual says for backends
    "store/_diagram.py": "xarray.core",
}


def imported(path):
    """The modules that a file imports, and what of JAX and Equinox it takes by dots."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node).replace("eqx.", "equinox.").replace("dfx.", "diffrax.").replace("xr.", "xarray.")


def test_what_nobody_promises_is_taken_in_few_places():
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).as_posix()
        for name in imported(path):
            allowed = place in LEANING and name.startswith(LEANING[place])
            assert allowed or not name.startswith(WITHOUT_PROMISE), (
                f"layerflow/{place} takes {name}, which nobody promises to keep. Take it from layerflow/base/_jax.py, "
                f"and have a test here."
            )


@pytest.mark.parametrize("gone", ["jax._src.custom_batching.ClosedRule", "jax.extend.core.get_opaque_trace_state"])
def test_what_is_gone_is_named_where_layerflow_is_imported(gone):
    module, _, name = gone.rpartition(".")
    program = f"import jax, {module}; del {gone}; import layerflow"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    said = ended.stderr.strip().splitlines()[-1]
    assert f"layerflow needs what {VERSION} does not have" in said
    assert f"'{name}' from '{module}'" in said


def only_step(function):
    (step,) = jax.make_jaxpr(function)(jnp.ones(2)).eqns
    return step


by_jvp = jax.custom_jvp(lambda x: 2 * x)
by_jvp.defjvp(lambda at, along: (by_jvp(at[0]), along[0]))
by_vjp = jax.custom_vjp(lambda x: 2 * x)
by_vjp.defvjp(lambda x: (by_vjp(x), None), lambda _, slope: (slope,))
by_vmap = jax.custom_batching.custom_vmap(lambda x: 2 * x)
by_vmap.def_vmap(lambda size, batched, x: (2 * x, batched[0]))


def test_rules_are_where_identities_look_for_them():
    say = f"{VERSION}: %s. See layerflow/base/_jax.py and layerflow/engine/_reader.py."
    for function in (by_jvp, by_vjp):
        rules = [v for v in only_step(function).params.values() if isinstance(v, _jax.WrappedFun)]
        moved = f"the rules of a {type(function).__name__} are no WrappedFun any more"
        assert len(rules) == 1 + (function is by_vjp), say % moved
        for rule in rules:
            there = all(hasattr(rule, name) for name in ("f", "transforms", "params"))
            assert there, say % "a WrappedFun has no f, transforms and params any more"
        remembered = rules[0].f
        assert "_memoize." in remembered.__qualname__, say % "what computes a rule is not wrapped by _memoize any more"
        assert "fn" in remembered.__code__.co_freevars, say % "_memoize does not call what it wraps `fn` any more"
    rules = [v for v in only_step(by_vmap).params.values() if isinstance(v, _jax.ClosedRule)]
    assert rules, say % "the rule of custom_vmap is no ClosedRule any more"
    assert callable(rules[0].rule), say % "a ClosedRule has no `rule` any more"


def test_programs_and_their_contexts_are_what_identities_read():
    say = f"{VERSION}: %s. See layerflow/base/_jax.py, and layerflow/engine/_reader.py for the ctx."
    contexts = []
    for flag in (True, False):
        with jax.threefry_partitionable(flag):
            contexts.append(repr(only_step(lambda x: 2 * x).ctx))
    assert contexts[0] != contexts[1], say % "the ctx of a step does not tell jax_threefry_partitionable any more"
    assert " at 0x" not in contexts[0], say % "the ctx of a step holds an address, so no other process can compare it"
    array = jnp.arange(3.0)
    closed = jax.make_jaxpr(lambda x: x + array)(1.0)
    assert len(closed.jaxpr.constvars) == 1, say % "arrays closed over are no constvars of a jaxpr any more"
    opened = _jax.opened(closed)
    assert not opened.constvars, say % "jaxpr.replace does not take constvars and invars any more"
    found = _jax.run(opened, array, 1.0)
    assert (found[0] == array + 1).all(), say % "a jaxpr of its constants as arguments does not run any more"
    double, whole = jax.make_jaxpr(lambda x, y: jnp.sin(2 * x) + y)(1.0, 1.0).jaxpr.eqns[0], closed.jaxpr
    half = _jax.part(whole, double.invars[1:], [double], double.outvars)
    assert float(_jax.run(half, 3.0)[0]) == 6, say % "jaxpr.replace does not take eqns and outvars any more"
    apart, numbers = _jax.lifted(jax.make_jaxpr(lambda x: (2.5 * x + np.float64(0.5), 4))(1.0).jaxpr)
    assert sorted(map(float, numbers)) == [0.5, 2.5, 4], say % "numbers are no literals of a jaxpr any more"
    other = _jax.run(apart, *(2 * number for number in numbers), 1.0)
    assert list(map(float, other)) == [6, 8], say % "a jaxpr whose literals are arguments does not run any more"
    for function in (jax.jit(jnp.sin), lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), by_jvp, by_vjp):
        last = jax.make_jaxpr(function)(jnp.ones(2)).eqns[-1]
        inner = list(_jax.jaxprs_in_params(last.params))
        moved = f"jaxprs_in_params finds no program in the params of `{last.primitive.name}` any more"
        assert {isinstance(one, _jax.Jaxpr) for one in inner} == {True}, say % moved


def test_a_trace_is_told_from_the_one_inside():
    state, inner, same = _jax.get_opaque_trace_state, [], []

    def function(x):
        outer = state()
        jax.vmap(lambda x: inner.append(state()) or x)(x)
        same.append((outer == state(), *(outer == one for one in inner)))
        return x

    jax.make_jaxpr(function)(jnp.ones(2))
    assert same == [(True, False)], (
        f"{VERSION}: get_opaque_trace_state does not tell a vmap from the trace around it any more, so checks of "
        f"layerflow/base/_checks.py would leave the trace that they belong to."
    )


def test_what_a_program_calls_is_not_inlined():
    text = jax.jit(lanes_last(_lanes_last.apart(jnp.add), (-1, -1), 5)).lower(jnp.ones(5), jnp.ones(5)).as_text()
    assert 'inlineable = "false"' in text, (
        f"{VERSION}: a jitted function is no step with a `name`, or set_xla_metadata does not mark calls, so XLA may "
        f"compute a velocity several times. See layerflow/engine/_lanes_last.py, `_called`."
    )


def test_loops_of_equinox_differentiate():
    say = f"%s of equinox.internal, for {VERSION}, is not what layerflow/methods/_course.py takes it for: %s"
    summed = lambda loop: lambda x: loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * x), (0, 1.0))[1]
    for kind, most in (("lax", None), ("checkpointed", None), ("bounded", 8)):
        loop = Loop(kind, most)
        mode = jax.jacfwd if kind == "lax" else jax.grad
        assert float(mode(summed(loop))(2.0)) == 12, say % ("while_loop", f"kind={kind!r} gives another slope of x^3.")
    with pytest.raises(RuntimeError) as error:
        jax.grad(summed(Loop()))(2.0)
    assert "differentiates in forward mode" in str(error.value), say % ("nondifferentiable_backward", error.value)


def test_root_finders_mark_the_tolerances_that_are_those_of_steps():
    flow = lf.Flow(t1=1.0, rtol=1e-3, atol=1e-5, solver=dfx.Kvaerno3())
    finder = _stepping(flow.solver, flow.controller).root_finder
    assert (finder.rtol, finder.atol) == (1e-3, 1e-5), (
        "diffrax: a root finder does not hold one object in place of tolerances that are to be those of steps any "
        "more, see layerflow/methods/_stepper.py, `_OF_STEPS`."
    )


def test_a_status_that_was_added_to_is_no_code():
    status = (Diagram({"status": ("x", np.zeros(2, np.uint8))}) + 1).status
    assert status.dtype.kind == "f", (
        f"xarray {xarray.__version__}: arithmetic of a Dataset does not go by _binary_op any more, which "
        f"layerflow/diagrams/_dataset.py overrides."
    )


FACTORISATIONS = {
    "qr": jnp.linalg.qr,
    **dict.fromkeys(("geqrf", "householder_product"), jnp.linalg.qr),
    "cholesky": jnp.linalg.cholesky,
    "lu": jax.scipy.linalg.lu,
    "svd": jnp.linalg.svd,
    "eigh": jnp.linalg.eigh,
    "eig": jnp.linalg.eig,
    "schur": jax.scipy.linalg.schur,
    "hessenberg": jax.scipy.linalg.hessenberg,
    "triangular_solve": lambda a: jax.scipy.linalg.solve_triangular(a, a),
}


@pytest.mark.parametrize("name", sorted(_trace._FACTORISATIONS | FACTORISATIONS.keys()))
def test_factorisations_are_known(name):
    traced, _ = _trace.trace(FACTORISATIONS[name], jnp.eye(3))
    assert traced.factorises, (
        f"{VERSION}: what called `{name}` is now {names_in(traced.jaxpr)}, of which layerflow/engine/_trace.py knows "
        f"nothing, so factorisations may run in batches, which were seen to hang."
    )


def names_in(jaxpr):
    """The names of primitives in a program."""
    inner = [names_in(one) for step in jaxpr.eqns for one in _jax.jaxprs_in_params(step.params)]
    return {step.primitive.name for step in jaxpr.eqns}.union(*inner)


def lax(name, *more):
    """Of jax.lax, called with as many arrays as it takes."""
    return lambda *arrays: getattr(jax.lax, name)(*arrays, *more)


# For each name that layerflow/engine/_lanes_last.py knows, something that this version of JAX traces to it.
UNARY = """
neg sign abs floor ceil round is_finite exp exp2 expm1 log log2 log1p sqrt rsqrt cbrt square one_minus_square sin cos
tan asin acos atan sinh cosh tanh asinh atanh logistic erf erfc
"""
BINARY = "add sub mul div rem max min pow atan2 nextafter eq ne lt le gt ge"
NAMED = {
    **{name: lambda x, _, name=name: lax(name)(x) for name in UNARY.split()},
    **{name: lax(name) for name in BINARY.split()},
    **{name: lambda x, y, name=name: lax(f"bitwise_{name}")(x > 0.5, y > 0.5) for name in ("and", "or", "xor")},
    "not": lambda x, _: ~(x > 0.5),
    "acosh": lambda x, _: jax.lax.acosh(1 + x),
    "integer_pow": lambda x, _: x**3,
    "polynomial": lambda x, y: jax.lax.polynomial(x, [y, y, x]),
    "select_n": lambda x, y: jax.lax.select(x > y, x, y),
    "clamp": lambda x, y: jax.lax.clamp(0.3, x, y),
    "add_any": lambda x, y: jax.grad(lambda x: jnp.sum(jnp.sin(x) * y + x * y))(x),
    "stop_gradient": lambda x, _: jax.lax.stop_gradient(x),
    "convert_element_type": lambda x, _: x.astype(jnp.float16),
    "concatenate": lambda x, y: jnp.concatenate([x, y], axis=1),
    "stack": lambda x, y: jnp.stack([x, y], axis=1),
    "unstack": lambda x, _: jnp.unstack(x, axis=1),
    "split": lambda x, _: jnp.split(x, [1], axis=1),
    "squeeze": lambda x, _: x[:, :1].squeeze(1),
    "rev": lambda x, _: x[:, ::-1],
    "reduce_sum": lambda x, _: x.sum(axis=0),
    "reduce_max": lambda x, _: x.max(axis=0),
    "reduce_min": lambda x, _: x.min(axis=0),
    "reduce_prod": lambda x, _: x.prod(axis=0),
    "reduce_and": lambda x, y: jnp.all(x > y, axis=1),
    "reduce_or": lambda x, y: jnp.any(x > y, axis=1),
    "cumsum": lambda x, _: jnp.cumsum(x, axis=1),
    "broadcast_in_dim": lambda x, _: jnp.broadcast_to(x, (4, 2, 3)),
    "reshape": lambda x, _: x.reshape(3, 2),
    "transpose": lambda x, _: x.T,
    "slice": lambda x, _: jax.lax.slice(x, (0, 1), (2, 3), (1, 2)),
    "dot_general": lambda x, y: x @ y.T,
    "jit": lambda x, _: jax.jit(lambda x: 2 * x)(x),
    "custom_jvp_call": lambda x, _: by_jvp(x),
    "custom_vjp_call": lambda x, _: by_vjp(x),
}
LOOPS = {
    "while": lambda x, _: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: 2 * x, x),
    "scan": lambda x, _: jax.lax.scan(lambda sum_, row: (sum_ + row, sum_), x[0], x),
    "cond": lambda x, y: jax.lax.cond(x.sum() > y.sum(), jnp.sin, jnp.cos, x),
}
RULES = {*_lanes_last.ENTRYWISE, *_lanes_last._BY_AXIS, *_lanes_last._BY_SHAPE, *_lanes_last._CALLS, "dot_general"}
LATER = {"log2", "one_minus_square", "polynomial"} if jax.__version_info__ < (0, 12) else set()


def slow(caplog):
    """The names of what `jax.vmap` mapped, lanes last."""
    return [record.args[0] for record in caplog.records if record.name == _lanes_last.__name__]


@pytest.mark.parametrize("name", sorted((RULES | NAMED.keys()) - LATER))
def test_rules_of_lanes_last_have_the_names_that_jax_gives(name, caplog):
    caplog.set_level(logging.DEBUG, _lanes_last.__name__)
    lanes = jnp.asarray(np.random.default_rng(0).uniform(0.1, 0.9, (2, 2, 3, 5)))
    function = NAMED[name]

    found = names_in(jax.make_jaxpr(function)(*lanes[..., 0]).jaxpr)
    ours = jax.jit(lanes_last(function, (-1, -1), 5))(*lanes)

    gone = f"{VERSION}: `{name}` is not among {sorted(found)} any more, see layerflow/engine/_lanes_last.py."
    assert name in found, gone
    assert not slow(caplog), f"{VERSION}: no rule of layerflow/engine/_lanes_last.py knows {slow(caplog)}."
    vmapped = jax.jit(jax.vmap(function, -1, -1))(*lanes)
    moved = f"{VERSION}: `{name}` has other params, see layerflow/engine/_lanes_last.py."
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(vmapped), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-14, err_msg=moved)


@pytest.mark.parametrize("name", sorted(_lanes_last._LOOPS | LOOPS.keys()))
def test_loops_have_the_names_that_jax_gives(name):
    jaxpr = jax.make_jaxpr(LOOPS[name])(*jnp.ones((2, 2, 3))).jaxpr
    assert not fits(jaxpr), (
        f"{VERSION}: `{name}` is not among {names_in(jaxpr)} any more, so layerflow/engine/_lanes_last.py takes a loop "
        f"for something that has no rule."
    )


NETWORKS = {
    "2-2-2": (lf.LinearNetwork((jnp.eye(2), jnp.eye(2))), lf.Moments.whitened(yx=jnp.eye(2))),
    "5-5-5": (lf.LinearNetwork((jnp.eye(5), jnp.eye(5))), lf.Moments.whitened(yx=jnp.eye(5))),
    "modes": (lf.DiagonalNetwork((jnp.ones(3), jnp.ones(3))), lf.Modes(variance=jnp.ones(3), target=1.0)),
}


@pytest.mark.parametrize("ts", [None, (0.5, 1.0)], ids=["at the end", "over time"])
@pytest.mark.parametrize("until", [None, "converged", 1e-3])
@pytest.mark.parametrize("kind", NETWORKS)
def test_steps_of_small_networks_never_fall_to_the_slow_rule(kind, until, ts, caplog):
    caplog.set_level(logging.DEBUG, _lanes_last.__name__)
    start, task = NETWORKS[kind]
    cell = lambda scale: lf.Problem(start, task.rescale(target=scale))
    method = lf.Flow(t1=1.0, solver=dfx.Tsit5(), until=until)
    asked = {"method": method, "ts": ts, "observe": lf.loss, "seeds": None, "root": 0, "summary": None, "paths": True}
    (batch,) = Request.of(cell, {"scale": [1.0, 2.0, 3.0]}, **asked, derivative=(), verify=False).batches()

    steps = sorted(names_in(batch.frozen.program.velocity.jaxpr))
    assert batch.frozen.program.small_steps, (
        f"{VERSION}: a step of {kind} has the lanes first, for layerflow/engine/_lanes_last.py finds a loop or a large "
        f"product in its velocity, {steps}, or in its loss."
    )
    batch.programs.of_chunks(Plan.of(3, 3), jax.devices()[0])
    assert not slow(caplog), (
        f"{VERSION}: a step of {kind} calls {sorted(set(slow(caplog)))}, which no rule of "
        f"layerflow/engine/_lanes_last.py knows, so jax.vmap maps it, which is slower."
    )


# Of some version of JAX alone that layerflow runs on.
_NOT_EVERYWHERE = {
    *("jax_accurate_erf_inv", "jax_custom_jvp3", "jax_exec_time_optimization_effort", "jax_memory_fitting_effort"),
    *("jax_pallas_use_mosaic_gpu", "jax_ragged_dot_use_gpu_pallas_triton_lowering", "jax_use_hlo_logistic_lowering"),
    "jax_use_rgv3",
}
# What changes no number of a program: where and when it is computed, kept, told of, checked or refused.
_NO_NUMBER = """
jax2tf_associative_scan_reductions jax2tf_default_native_serialization jax_array_garbage_collection_guard
jax_backend_target jax_captured_constants_report_frames jax_captured_constants_warn_bytes jax_check_proxy_envs
jax_check_static_indices jax_check_tracer_leaks jax_compilation_cache_check_contents jax_compilation_cache_dir
jax_compilation_cache_expect_pgle jax_compilation_cache_include_metadata_in_key jax_compilation_cache_max_size
jax_compiler_detailed_logging_min_ops jax_cpu_collectives_implementation jax_cpu_enable_async_dispatch
jax_cpu_get_global_topology_timeout_minutes jax_cpu_get_local_topology_timeout_minutes
jax_cross_host_transfer_socket_address jax_cross_host_transfer_timeout_seconds jax_cross_host_transfer_transfer_size
jax_cross_host_transport_addresses jax_cuda_visible_devices jax_debug_key_reuse
jax_debug_leaked_clients_on_clear_backends jax_debug_log_modules jax_disable_bwd_checks jax_disable_vmap_shmap_error
jax_disallow_mesh_context_manager jax_distributed_debug jax_distributed_verify_secure_credentials jax_dump_ir_modes
jax_dump_ir_to jax_enable_checks jax_enable_compilation_cache jax_enable_pgle jax_enable_preemption_service
jax_enable_recoverability jax_error_checking_behavior_divide jax_error_checking_behavior_nan
jax_error_checking_behavior_oob jax_experimental_unsafe_xla_runtime_errors jax_explain_cache_misses
jax_export_calling_convention_version jax_export_deserialize_expired_versions
jax_export_ignore_forward_compatibility jax_force_dcn_cross_host_transfers jax_hlo_source_file_canonicalization_regex
jax_include_debug_info_in_dumps jax_include_full_tracebacks_in_locations jax_log_checkpoint_residuals jax_log_compiles
jax_logging_level jax_mock_gpu_topology jax_mosaic_allow_hlo jax_mosaic_unzip_debug_locations jax_mtls_ca_file
jax_mtls_cert_file jax_mtls_key_file jax_mtls_peer_uri_prefix jax_mutable_array_checks jax_no_execution jax_no_tracing
jax_num_cpu_devices jax_oneapi_visible_devices jax_pallas_enable_debug_checks jax_pallas_poison_buffers
jax_pallas_verbose_errors jax_persistent_cache_enable_xla_caches jax_persistent_cache_min_compile_time_secs
jax_persistent_cache_min_entry_size_bytes jax_pgle_aggregation_percentile jax_pgle_profiling_runs
jax_pjrt_client_create_options jax_pprint_use_color jax_raise_on_ppermute_sort_diff jax_raise_persistent_cache_errors
jax_refs_to_pins jax_remat_barrier_no_cotangents jax_remove_custom_partitioning_ptr_from_cache_key
jax_rocm_visible_devices jax_send_traceback_to_runtime jax_serialization_version jax_share_binary_between_hosts
jax_share_binary_between_hosts_timeout_ms jax_sort_devices_by_process_index jax_source_url_schema jax_thread_guard
jax_traceback_filtering jax_traceback_in_locations_limit jax_tracer_error_num_traceback_frames jax_transfer_guard
jax_transfer_guard_device_to_device jax_transfer_guard_device_to_host jax_transfer_guard_host_to_device
jax_use_cpp_shard_args jax_use_simplified_jaxpr_constants jax_xla_profile_version mock_num_gpu_processes
jax_embedded_constants_max_bytes
"""
# What a program's steps tell, once traced.
_TRACED = """
check_vma eager_constant_folding jax_auto_pcast jax_numpy_dtype_promotion jax_numpy_rank_promotion
jax_pallas_auto_assign_collective_ids jax_pallas_auto_assign_collective_ids_limit
jax_remove_size_one_mesh_axis_from_type jax_use_emit_pipeline_primitive jax_use_shardy_partitioner
"""
# What layerflow sets itself while it computes, and devices, which programs and stores know.
_OWN = """
jax_debug_infs jax_debug_nans jax_default_device jax_default_matmul_precision jax_disable_jit jax_platform_name
jax_platforms jax_xla_backend
"""


def test_xla_lets_steps_follow_one_another():
    try:
        jax.jit(jnp.sin).lower(1.0).compile(_compiled.IN_SEQUENCE)
    except jax.errors.JaxRuntimeError as error:
        pytest.fail(
            f"XLA of {VERSION} does not know {_compiled.IN_SEQUENCE}, so that short steps are handed from thread to "
            f"thread and chunks take longer ({error}). Its successor goes into layerflow/engine/_compiled.py."
        )


def test_an_xla_without_that_option_computes_the_same(monkeypatch):
    lower = {"double": lambda: jax.jit(lambda x: 2 * x).lower(1.5)}
    monkeypatch.setattr(_compiled, "IN_SEQUENCE", {"xla_cpu_of_another_time": "yes"})

    (program,) = _compiled.compiled(lower, {"double": False}).values()

    assert program.call(1.5) == 3.0


def test_every_setting_of_jax_is_known():
    known = {*SETTINGS, *_NO_NUMBER.split(), *_TRACED.split(), *_OWN.split()}

    new = sorted(set(jax.config.values) - known)
    assert not new, (
        f"{VERSION} has settings that are not known here: {', '.join(new)}. Those that may change a number "
        f"belong into SETTINGS of layerflow.engine._identity, the others into a list of this file."
    )
    gone = sorted(set(SETTINGS) - set(jax.config.values) - _NOT_EVERYWHERE)
    assert not gone, f"{VERSION} has no {', '.join(gone)} any more, under this name at least."
