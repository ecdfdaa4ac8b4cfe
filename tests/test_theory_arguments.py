"""What every closed form asks of its numbers, and says where they are no such numbers."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from layerflow import theory

ONE, EYE, P = np.ones(1), np.eye(2), np.array([0.3, -0.2])
T = {"t": np.array([0.5, 1.0])}
MODE = {"start": 0.1 * ONE, "target": ONE, "variance": ONE}
SCALAR = {"a0": P, "b0": P, "target": ONE, "z": ONE}
TWO_RATES = {"a0": P, "b0": P, "target": ONE, "gain": ONE, "rate_a": ONE, "rate_b": ONE}
ROWS = np.array([[1.0, 0.5]])
DATA, MOMENTS = {"x": ROWS, "y": ONE}, {"xx": EYE, "yx": P}
REGRESSION = {"samples_per_input": ONE, "signal": ONE, "noise": ONE, "start": ONE}
PAIR = {"first": ONE, "second": ONE, "alignment": 0.5 * ONE}
LAYERS = {"w1": EYE, "w2": EYE, "sigma_yx": EYE}
TASKS = {"sigma_yx": np.ones((2, 2, 2)), "switches": ONE, "factors": ONE}
TURNED = {"cosine": 0.5 * ONE, "target": ONE, "weight_norm": ONE}
LEAKY = {"a0": np.array([0.3, 0.2]), "b0": P, "target": ONE, "variance_above": ONE, "variance_below": ONE}
# A good call of every closed form; whatever an array holds here is asked to be real, finite and there.
CALLS = {
    "absolute_moments": {"w": EYE},
    "accuracy_of_variance": {"variance": ONE, "tolerance": ONE},
    "aligned_features": T | {"aligned": ONE, "anti_aligned": ONE, "target": ONE, "z": ONE, "variance": ONE},
    "aligned_matrix": {"u": EYE, "v": EYE, "strengths": np.ones(2), "targets": np.ones(2)} | T,
    "aligned_strengths": {"strengths": np.ones(2), "targets": np.ones(2)} | T,
    "balanced_limit": {"lam": 0.0, "sigma_yx": EYE, "hid": 2},
    "balanced_network": LAYERS | {"lam": 0.0, "t": 1.0},
    "balanced_path": LAYERS | {"lam": 0.0, "ts": np.ones(2)},
    "balanced_sequence": LAYERS | TASKS | {"lam": 0.0, "ts": np.ones(2)},
    "balanced_strength": T | {"lam": ONE, "target": ONE, "strength": ONE},
    "balanced_violations": {"w1": EYE, "w2": EYE, "xx": EYE},
    "balancing": SCALAR,
    "bregman_projection": DATA | {"theta": np.ones(2), "difference": np.ones(2)},
    "best_stopping_time": REGRESSION,
    "compute_law": {"alpha": ONE, "start": 0.1 * ONE, "target": ONE},
    "conserved_difference": {"a": P, "b": P},
    "conserved_scalar": {"a": P, "b": P},
    "critical_delay": {"threshold": ONE, "signal": ONE, "start": ONE},
    "critical_error": T | {"signal": ONE, "noise": ONE, "start": ONE},
    "critical_speed_ratio": {"weight_to_target": 0.1 * ONE, "margin": 0.1 * ONE},
    "critical_steps": SCALAR,
    "critical_stopping_time": {"signal": ONE, "noise": ONE, "start": ONE},
    "data_law": {"alpha": ONE, "target": ONE},
    "decay_energy": {"strength": ONE, "target": ONE, "depth": 3, "decay": ONE, "variance": ONE},
    "decay_states": {"target": ONE, "depth": 3, "decay": 0.1 * ONE, "variance": ONE},
    "decay_thresholds": {"target": ONE, "depth": 3, "variance": ONE},
    "decayed": {"conserved": ONE, "decay": 0.1, "t": 1.0},
    "decaying_network": LAYERS | {"t": 1.0, "decay": 0.1},
    "decaying_pair": T | {"a0": ONE, "b0": ONE, "target": ONE, "decay": 0.1 * ONE, "variance": ONE},
    "deep_mirror_flow": T | MOMENTS | {"m": P, "size": np.ones(2), "depth": 3},
    "deep_mirror_strength": {"m": 0.1 * ONE, "size": ONE, "depth": 3},
    "deep_mode": T | MODE | {"depth": 3},
    "deep_time": {"start": 0.1 * ONE, "end": 0.5 * ONE, "target": ONE, "depth": 3},
    "direction_stopping_time": {"eigenvalue": ONE} | REGRESSION,
    "edge_delay": {"samples_per_input": 2.0 * ONE},
    "edge_errors": T | {"samples_per_input": 2.0 * ONE, "signal": ONE, "start": ONE},
    "effective_depth": {"layers": np.array([0.5, 0.7])},
    "ends_at_saddle": SCALAR,
    "estimator_errors": T | REGRESSION | {"decay": ONE},
    "estimator_limit": REGRESSION | {"decay": ONE},
    "estimator_times": {"threshold": ONE, "samples_per_input": ONE, "signal": ONE, "start": ONE, "decay": ONE},
    "expected_skill_loss": {"samples": ONE, "frequency": np.full(2, 0.5), "target": ONE},
    "exponential": T | MODE,
    "exponential_time": {"fraction": 0.5 * ONE} | MODE,
    "fine_tuned": {"auxiliary": ONE, "readout": ONE},
    "flow_sharpness": SCALAR,
    "forgetting": {"first": EYE, "second": EYE},
    "forgetting_excess": {"first_loss": ONE, "second_loss": ONE, "distance": ONE},
    "forgetting_time": {"threshold": ONE, "samples_per_input": 0.5 * ONE, "start": ONE, "decay": ONE},
    "frozen_kernel_output": T | SCALAR,
    "growth_bound": SCALAR,
    "heavy_normalised_neuron": T | TURNED,
    "inflection_time": SCALAR,
    "joint_strengths": PAIR,
    "joint_student_error": T | {"lam": ONE, "start": ONE, "inp": 3, "out": 3, "noise": ONE} | PAIR,
    "kernel_growth": SCALAR,
    "l1_rate": {"x": ROWS, "strength": np.array([1.0, 0.0])},
    "label_noise_balancing": {"learning_rate": 0.1 * ONE, "noise": ONE, "sharpness": ONE, "z": ONE, "variance": ONE},
    "layer_chain": T | {"a0": np.array([0.5, 0.7]), "target": ONE, "variance": ONE},
    "layer_chain_delay": {"start": 0.1 * ONE, "light": 3, "target": ONE, "heavy": ONE, "variance": ONE},
    "layer_chain_time": {"a0": np.array([0.5, 0.7]), "end": 0.5 * ONE, "target": ONE, "variance": ONE},
    "layer_pair": T | {"a0": ONE, "b0": ONE, "target": ONE},
    "leaky_loss": {"w1": EYE, "w2": EYE, "sigma_yx": EYE, "slope": 0.5},
    "leaky_map": {"linear": lambda target, t: theory.sigmoidal(t, 0.1, target), "target": ONE, "slope": 0.5} | T,
    "leaky_pair": {"w": P, "a": 1.0, "beta": P, "slope": 0.5} | T,
    "leaky_scalar_first_order": T | LEAKY | {"slope": 0.5 * ONE},
    "leaky_scalar_network": T | LEAKY | {"slope": 0.5 * ONE},
    "least_l1": DATA,
    "least_norm": DATA | {"start": P, "difference": P},
    "light_normalised_neuron": T | {"scale": ONE, "target": ONE},
    "mirror_coordinate": {"a": P, "b": P},
    "mirror_flow": T | MOMENTS | {"theta": P, "difference": P},
    "mirror_potential": {"strength": P, "difference": ONE},
    "mirror_strength": {"theta": P, "difference": ONE},
    "linear_estimator": T | {"x": EYE, "y": np.ones(2), "w0": P},
    "normalised_cosine": T | TURNED | {"scale": ONE, "decay": ONE},
    "normalised_neuron": T | TURNED | {"scale": ONE},
    "normalised_pair": T | {"a0": ONE, "b0": ONE, "target": ONE, "variance": ONE},
    "optimal_ridge": {"samples_per_input": ONE, "signal": ONE, "noise": ONE},
    "parameter_law": {"alpha": ONE, "target": ONE},
    "plateau_losses": {"target": ONE, "variance": ONE},
    "reversal_time": {"lam": ONE, "strength": ONE, "target": -ONE},
    "saddle_to_saddle": MOMENTS,
    "scalar_descent": {"learning_rate": 0.1 * ONE, "steps": 2} | SCALAR,
    "scalar_network": T | SCALAR,
    "scalar_network_limit": SCALAR,
    "scalar_network_time": {"output": 0.5 * ONE} | SCALAR,
    "scheduled_network": LAYERS | {"integral": jnp.sin, "t": 1.0},
    "scheduled_strength": T | {"start": ONE, "integral": jnp.sin, "variance": ONE},
    "shifted_absolute_moments": {"w": EYE, "mean": P},
    "sigmoidal": T | MODE,
    "sigmoidal_time": {"fraction": 0.5 * ONE} | MODE,
    "sign_obstruction": LAYERS,
    "single_neuron": {"w": P, "a": 1.0, "beta": P, "t": 1.0},
    "skill_frequencies": {"n_skills": 3, "alpha": ONE},
    "skill_loss": {"strengths": np.ones(2), "frequency": np.full(2, 0.5), "target": ONE},
    "skill_strengths_in_data": {"samples": ONE, "frequency": np.full(2, 0.5), "target": ONE},
    "skill_strengths_in_parameters": {"parameters": ONE, "n_skills": 3, "target": ONE},
    "skill_strengths_in_time": {"t": ONE, "frequency": np.full(2, 0.5), "start": 0.1, "target": 1.0},
    "spike": {"strength": ONE, "outputs_per_input": ONE},
    "stages_separate": {"start": 0.1 * ONE, "target": ONE},
    "student_error": T | {"lam": ONE, "strengths": ONE, "start": ONE, "inp": 3, "out": 3, "noise": ONE},
    "switch_rates": {"lam": 1.0, "strengths": ONE},
    "symmetric_factorisation": {"u": EYE, "sigma": EYE, "t": 1.0},
    "time_law": {"alpha": ONE, "start": 0.1 * ONE, "target": ONE},
    "transition": T | {"lam": ONE, "target": ONE, "strength": ONE},
    "transition_exponential": T | {"lam": ONE},
    "transition_sigmoidal": T | {"target": ONE, "strength": ONE},
    "two_cycle": {"learning_rate": 0.1 * ONE, "target": ONE, "z": ONE, "variance": ONE},
    "two_rate_network": T | TWO_RATES | {"variance": ONE},
    "two_rate_network_limit": TWO_RATES,
    "wide_kernel_growth": {"weight_scale": ONE, "target": ONE},
    "wide_matrix": {"start": EYE, "weight_scale": 1.0, "sigma_yx": EYE, "t": np.ones(2)},
    "wide_time": {"fraction": 0.5 * ONE, "weight_scale": ONE, "target": ONE},
    "width_phase": {"gain": ONE, "variance_a": ONE, "variance_b": ONE, "rate_a": ONE, "rate_b": ONE},
    "variance_of_accuracy": {"accuracy": 0.5 * ONE, "tolerance": ONE},
}
COUNTS = {"aligned", "anti_aligned", "samples", "parameters"}  # things that are counted come in whole numbers
ARRAYS = [
    (name, argument) for name, call in CALLS.items() for argument in call if isinstance(call[argument], np.ndarray)
]
TIMES = [(name, argument) for name, call in CALLS.items() for argument in call if argument in ("t", "ts")]


def call(name, **changed):
    return getattr(theory, name)(**CALLS[name] | changed)


def test_every_closed_form_is_asked():
    """All but those of plain whole numbers and of lists of matrices."""
    functions = {name for name in theory.__all__ if not inspect.isclass(getattr(theory, name))}
    assert functions - {*CALLS} == {"collapsed", "conserved_imbalances"}


@pytest.mark.parametrize(("name", "argument"), ARRAYS)
def test_arrays_need_to_be_floating_point_numbers(name, argument):
    shape = CALLS[name][argument].shape
    words = rf"`{argument}` needs floating point numbers, but it is an array of int64\. Write {argument}\.astype"
    if argument not in COUNTS:
        with pytest.raises(ValueError, match=words):
            call(name, **{argument: np.ones(shape, int)})
    with pytest.raises(ValueError, match=rf"`{argument}` needs real numbers, but its dtype is complex128"):
        call(name, **{argument: np.ones(shape, complex)})
    with pytest.raises(ValueError, match=rf"`{argument}` needs at least one number, but it is empty, of shape \(0,\)"):
        call(name, **{argument: np.zeros(0)})
    with pytest.raises(ValueError, match=rf"`{argument}` needs finite .*, but it holds nan"):
        call(name, **{argument: np.full(shape, np.nan)})


@pytest.mark.parametrize(("name", "argument"), TIMES)
def test_times_need_to_be_finite_and_not_negative(name, argument):
    like = np.ones_like(CALLS[name][argument])
    with pytest.raises(ValueError, match=rf"`{argument}` needs .*(not negative, but it holds|negative:) -2"):
        call(name, **{argument: -2.0 * like})
    with pytest.raises(ValueError, match=rf"`{argument}` needs finite .*, but it holds nan"):
        call(name, **{argument: np.nan * like})


def test_plain_numbers_and_counts_may_be_whole():
    assert theory.sigmoidal(1, 1, 2) == theory.sigmoidal(1.0, 1.0, 2.0)
    assert theory.data_law(0.6, 1)(np.array([10, 100])).shape == (2,)
    assert theory.skill_strengths_in_data(jnp.array([1, 10]), np.full(2, 0.5), 1.0).shape == (2, 2)
    assert theory.aligned_features(1.0, np.array([1, 2]), 1, 1.0).output.shape == (2,)
