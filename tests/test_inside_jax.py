"""What identities lean on inside JAX: each thing is there, and no setting of a newer JAX goes unnoticed."""

import jax
import jax.extend.core as jec
import jax.numpy as jnp

from layerflow.engine._identity import SETTINGS


def only_step(function):
    (step,) = jax.make_jaxpr(function)(jnp.ones(2)).eqns
    return step


@jax.custom_jvp
def by_jvp(x):
    return 2 * x


by_jvp.defjvp(lambda at, along: (by_jvp(at[0]), along[0]))


@jax.custom_vjp
def by_vjp(x):
    return 2 * x


by_vjp.defvjp(lambda x: (by_vjp(x), None), lambda _, slope: (slope,))


@jax.custom_batching.custom_vmap
def by_vmap(x):
    return 2 * x


by_vmap.def_vmap(lambda size, batched, x: (2 * x, batched[0]))


def test_rules_are_where_identities_look_for_them():
    from jax._src import core, custom_batching, linear_util

    say = f"jax {jax.__version__}: %s. See layerflow.engine._reader."
    for function in (by_jvp, by_vjp):
        rules = [v for v in only_step(function).params.values() if isinstance(v, linear_util.WrappedFun)]
        moved = f"the rules of {function.__name__} are no linear_util.WrappedFun any more"
        assert len(rules) == 1 + (function is by_vjp), say % moved
        for rule in rules:
            there = all(hasattr(rule, name) for name in ("f", "transforms", "params"))
            assert there, say % "a linear_util.WrappedFun has no f, transforms and params any more"
        remembered = rules[0].f
        assert "_memoize." in remembered.__qualname__, say % "what computes a rule is not wrapped by _memoize any more"
        assert "fn" in remembered.__code__.co_freevars, say % "_memoize does not call what it wraps `fn` any more"
    rules = [v for v in only_step(by_vmap).params.values() if isinstance(v, custom_batching.ClosedRule)]
    assert rules, say % "the rule of custom_vmap is no custom_batching.ClosedRule any more"
    assert callable(rules[0].rule), say % "a custom_batching.ClosedRule has no `rule` any more"
    for owner, names in ((linear_util, ("Store", "EqualStore")), (core, ("Trace", "DebugInfo", "Var"))):
        missing = [name for name in names if not isinstance(getattr(owner, name, None), type)]
        assert not missing, say % f"{owner.__name__} has no {', '.join(missing)} any more"


def test_programs_and_their_contexts_are_what_identities_read():
    say = f"jax {jax.__version__}: %s. See layerflow.engine._trace and _reader."
    contexts = []
    for flag in (True, False):
        with jax.threefry_partitionable(flag):
            contexts.append(repr(only_step(lambda x: 2 * x).ctx))
    assert contexts[0] != contexts[1], say % "the ctx of a step does not tell jax_threefry_partitionable any more"
    assert " at 0x" not in contexts[0], say % "the ctx of a step holds an address, so no other process can compare it"
    array = jnp.arange(3.0)
    closed = jax.make_jaxpr(lambda x: x + array)(1.0)
    own = closed.jaxpr
    assert len(own.constvars) == 1, say % "arrays closed over are no constvars of a jaxpr any more"
    opened = own.replace(constvars=[], invars=[*own.constvars, *own.invars])
    assert not opened.constvars, say % "jaxpr.replace does not take constvars and invars any more"
    found = jec.jaxpr_as_fun(jec.ClosedJaxpr(opened, []))(array, 1.0)
    assert (found[0] == array + 1).all(), say % "a jaxpr of its constants as arguments does not run any more"


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


def test_every_setting_of_jax_is_known():
    known = {*SETTINGS, *_NO_NUMBER.split(), *_TRACED.split(), *_OWN.split()}

    new = sorted(set(jax.config.values) - known)
    assert not new, (
        f"jax {jax.__version__} has settings that are not known here: {', '.join(new)}. Those that may change a number "
        f"belong into SETTINGS of layerflow.engine._identity, the others into a list of this file."
    )
    gone = sorted(set(SETTINGS) - set(jax.config.values) - _NOT_EVERYWHERE)
    assert not gone, f"jax {jax.__version__} has no {', '.join(gone)} any more, under this name at least."
