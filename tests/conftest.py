"""Float64, strict promotion and one compile cache for all workers."""

import functools
import gc
import inspect
import pathlib
import signal
import sys

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax._src import compiler

import layerflow as lf
from layerflow.engine import _programs
from layerflow.engine._kept import programs

# For `benchmarks`, at the end: an installed layerflow comes before these sources.
sys.path.append(str(pathlib.Path(__file__).parents[1]))

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser):
    parser.addoption("--figures", help="folder that `layerflow figure all --quick` wrote: read, not computed again")


def pytest_configure(config):
    """Keep compiled programs between runs and workers: compiling is most of the time."""
    if hasattr(config, "cache"):  # pytest -p no:cacheprovider has none
        lf.enable_compile_cache(config.cache.mkdir("jax"))
    gc.set_threshold(50_000, 20, 20)  # JAX makes many objects: looking for cycles took a twentieth of the time


def pytest_collectstart(collector):
    """What a file computes at its head is compiled as its tests are."""
    if isinstance(collector, pytest.Module):
        optimise("pytest.mark.optimised" in collector.path.read_text("utf-8"))


def pytest_collection_finish():
    """Modules and tests stay: no need to look through them for cycles."""
    gc.freeze()


@pytest.fixture
def as_users_see_it():
    """Without the run-time checks of annotations, which users do not have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def compiled(monkeypatch):
    """Names of the programs of sweeps as they are compiled, with none kept from before."""
    names, compile_all = [], _programs.compiled
    monkeypatch.setattr(_programs, "compiled", lambda low, which: names.extend(low) or compile_all(low, which))
    programs.clear()
    return names


@pytest.fixture(scope="session")
def quick_figure(request):
    """The data of a figure by its quick recipe, in its own precision."""
    import xarray

    from layerflow.figures import FIGURES  # and matplotlib, which processes that a test starts do without

    @functools.cache
    def data(name):
        if request.config.getoption("--figures"):
            path = pathlib.Path(request.config.getoption("--figures"), f"figure_{name}.nc")
            return xarray.load_dataset(path, engine="scipy")
        jax.config.update("jax_enable_x64", FIGURES[name].dtype == "float64")
        before = optimise(True)  # it computes for long
        quick = "quick" in inspect.signature(FIGURES[name].compute).parameters
        try:
            return FIGURES[name].compute(**{"quick": True} if quick else {})
        finally:
            jax.config.update("jax_enable_x64", True)
            optimise(before)

    return data


@pytest.fixture
def key():
    return jax.random.key(7)


@pytest.fixture
def _ctrl_c():
    """Python's own answer to an interrupt, which a shell takes from jobs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def whitened_task():
    """Three modes of strengths 3, 2, 1 on whitened inputs."""
    return lf.Moments.whitened(yx=jnp.diag(jnp.array([3.0, 2.0, 1.0])))


@pytest.fixture
def coloured_samples():
    """Twelve samples, four inputs, two outputs, not whitened."""
    rng = np.random.default_rng(3)
    return lf.Samples(rng.normal(size=(12, 4)), rng.normal(size=(12, 2)))


class Compilations:
    """Counts programs that XLA compiles, whoever asks for them."""

    def __init__(self):
        self.count = self.let_go = 0
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            self.count += 1


_compilations = Compilations()


@pytest.fixture
def compilations():
    return _compilations


# Most of what the tests take is XLA compiling small programs, two thirds of which is left out so.
_SOON = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
_options = compiler.get_compile_options


@functools.cache
def _soon_here():
    """Those of these options that XLA has in this version of JAX."""
    nothing = jax.jit(lambda: 0).lower()

    def there(option):
        try:
            nothing.compile(compiler_options=option)
        except jax.errors.JaxRuntimeError:  # No such compile option
            return False
        return True

    return {name: value for name, value in _SOON.items() if there({name: value})}


def _soon(*arguments, env_options_overrides=None, **how):
    return _options(*arguments, env_options_overrides=_soon_here() | (env_options_overrides or {}), **how)


def optimise(wanted):
    """Have XLA optimise what is compiled from now on, as it does for users, or compile it soon; what held before."""
    before = compiler.get_compile_options
    ask = _options if wanted or not _soon_here() else _soon
    if before is not ask:
        compiler.get_compile_options = ask
        programs.clear()
        jax.clear_caches()
    return before is _options


@pytest.fixture(scope="module", autouse=True)
def _optimised(request):
    """What a file compiles is optimised if it is marked so, because it holds bits or speed."""
    optimise(request.node.get_closest_marker("optimised") is not None)


@pytest.fixture
def as_users_compile():
    """One test that holds bits, in a file that does not."""
    before = optimise(True)
    yield
    optimise(before)


@pytest.fixture(autouse=True)
def few_programs():
    """Let go of compiled programs now and then: each takes some 25 memory maps, and Linux gives a process 65,530."""
    yield
    if _compilations.count > _compilations.let_go + 1000:
        _compilations.let_go = _compilations.count
        programs.clear()
        jax.clear_caches()
