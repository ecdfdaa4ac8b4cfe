"""Closed forms of layerwise linear models: arrays in, arrays out, nothing of the engine they are checked against."""

from layerflow.theory._absolute import absolute_moments, shifted_absolute_moments
from layerflow.theory._aligned import aligned_matrix, aligned_strengths
from layerflow.theory._aligned_features import AlignedFeatures, aligned_features
from layerflow.theory._balanced import (
    Balanced,
    Violations,
    balanced_limit,
    balanced_network,
    balanced_path,
    balanced_violations,
    sign_obstruction,
)
from layerflow.theory._balancing import balancing, label_noise_balancing
from layerflow.theory._chain import LayerChain, effective_depth, layer_chain, layer_chain_delay, layer_chain_time
from layerflow.theory._collapse import Collapse, collapsed
from layerflow.theory._conserved import conserved_difference, conserved_imbalances, conserved_scalar, decayed
from layerflow.theory._decay import DecayStates, DecayThresholds, decay_energy, decay_states, decay_thresholds
from layerflow.theory._decaying_pair import decaying_network, decaying_pair
from layerflow.theory._deep import deep_mode, deep_time
from layerflow.theory._estimator import EstimatorErrors, estimator_errors, estimator_limit, linear_estimator
from layerflow.theory._fine_tuning import FineTuned, fine_tuned
from layerflow.theory._large_steps import (
    CriticalSteps,
    ScalarDescent,
    TwoCycle,
    critical_steps,
    flow_sharpness,
    scalar_descent,
    two_cycle,
)
from layerflow.theory._late_test import (
    EstimatorTimes,
    accuracy_of_variance,
    critical_delay,
    edge_delay,
    edge_errors,
    estimator_times,
    forgetting_time,
    variance_of_accuracy,
)
from layerflow.theory._leaky import leaky_loss, leaky_map, leaky_pair
from layerflow.theory._leaky_scalar import LeakyScalar, leaky_scalar_first_order, leaky_scalar_network
from layerflow.theory._least_l1 import l1_rate, least_l1
from layerflow.theory._mirror import deep_mirror_strength, mirror_coordinate, mirror_potential, mirror_strength
from layerflow.theory._mirror_flow import MirrorPath, deep_mirror_flow, mirror_flow
from layerflow.theory._mode import LayerPair, exponential, layer_pair, sigmoidal
from layerflow.theory._neuron import Neuron, single_neuron, symmetric_factorisation
from layerflow.theory._normalised import (
    NormalisedNeuron,
    heavy_normalised_neuron,
    light_normalised_neuron,
    normalised_cosine,
    normalised_neuron,
    normalised_pair,
)
from layerflow.theory._projection import Projection, bregman_projection, least_norm
from layerflow.theory._richness import (
    ends_at_saddle,
    frozen_kernel_output,
    growth_bound,
    inflection_time,
    kernel_growth,
)
from layerflow.theory._saddles import Saddles, saddle_to_saddle
from layerflow.theory._scalar import ScalarNetwork, scalar_network, scalar_network_limit, scalar_network_time
from layerflow.theory._scaling import ComputeLaw, ScalingLaw, compute_law, data_law, parameter_law, time_law
from layerflow.theory._schedules import scheduled_network, scheduled_strength
from layerflow.theory._sequence import balanced_sequence, forgetting, forgetting_excess, reversal_time, switch_rates
from layerflow.theory._skills import (
    expected_skill_loss,
    skill_frequencies,
    skill_loss,
    skill_strengths_in_data,
    skill_strengths_in_parameters,
    skill_strengths_in_time,
)
from layerflow.theory._spiked import Spike, joint_strengths, joint_student_error, spike, student_error
from layerflow.theory._stages import (
    critical_speed_ratio,
    exponential_time,
    plateau_losses,
    sigmoidal_time,
    stages_separate,
)
from layerflow.theory._stopping import (
    Ridge,
    best_stopping_time,
    critical_error,
    critical_stopping_time,
    direction_stopping_time,
    optimal_ridge,
)
from layerflow.theory._transition import (
    balanced_strength,
    transition,
    transition_exponential,
    transition_sigmoidal,
)
from layerflow.theory._two_rates import (
    TwoRateNetwork,
    WidthPhase,
    two_rate_network,
    two_rate_network_limit,
    width_phase,
)
from layerflow.theory._width import wide_kernel_growth, wide_matrix, wide_time

__all__ = [
    "AlignedFeatures",
    "Balanced",
    "Collapse",
    "ComputeLaw",
    "CriticalSteps",
    "DecayStates",
    "DecayThresholds",
    "EstimatorErrors",
    "EstimatorTimes",
    "FineTuned",
    "LayerChain",
    "LayerPair",
    "LeakyScalar",
    "MirrorPath",
    "Neuron",
    "NormalisedNeuron",
    "Projection",
    "Ridge",
    "Saddles",
    "ScalarDescent",
    "ScalarNetwork",
    "ScalingLaw",
    "Spike",
    "TwoCycle",
    "TwoRateNetwork",
    "Violations",
    "WidthPhase",
    "absolute_moments",
    "accuracy_of_variance",
    "aligned_features",
    "aligned_matrix",
    "aligned_strengths",
    "balanced_limit",
    "balanced_network",
    "balanced_path",
    "balanced_sequence",
    "balanced_strength",
    "balanced_violations",
    "balancing",
    "best_stopping_time",
    "bregman_projection",
    "collapsed",
    "compute_law",
    "conserved_difference",
    "conserved_imbalances",
    "conserved_scalar",
    "critical_delay",
    "critical_error",
    "critical_speed_ratio",
    "critical_steps",
    "critical_stopping_time",
    "data_law",
    "decay_energy",
    "decay_states",
    "decay_thresholds",
    "decayed",
    "decaying_network",
    "decaying_pair",
    "deep_mirror_flow",
    "deep_mirror_strength",
    "deep_mode",
    "deep_time",
    "direction_stopping_time",
    "edge_delay",
    "edge_errors",
    "effective_depth",
    "ends_at_saddle",
    "estimator_errors",
    "estimator_limit",
    "estimator_times",
    "expected_skill_loss",
    "exponential",
    "exponential_time",
    "fine_tuned",
    "flow_sharpness",
    "forgetting",
    "forgetting_excess",
    "forgetting_time",
    "frozen_kernel_output",
    "growth_bound",
    "heavy_normalised_neuron",
    "inflection_time",
    "joint_strengths",
    "joint_student_error",
    "kernel_growth",
    "l1_rate",
    "label_noise_balancing",
    "layer_chain",
    "layer_chain_delay",
    "layer_chain_time",
    "layer_pair",
    "leaky_loss",
    "leaky_map",
    "leaky_pair",
    "leaky_scalar_first_order",
    "leaky_scalar_network",
    "least_l1",
    "least_norm",
    "light_normalised_neuron",
    "linear_estimator",
    "mirror_coordinate",
    "mirror_flow",
    "mirror_potential",
    "mirror_strength",
    "normalised_cosine",
    "normalised_neuron",
    "normalised_pair",
    "optimal_ridge",
    "parameter_law",
    "plateau_losses",
    "reversal_time",
    "saddle_to_saddle",
    "scalar_descent",
    "scalar_network",
    "scalar_network_limit",
    "scalar_network_time",
    "scheduled_network",
    "scheduled_strength",
    "shifted_absolute_moments",
    "sigmoidal",
    "sigmoidal_time",
    "sign_obstruction",
    "single_neuron",
    "skill_frequencies",
    "skill_loss",
    "skill_strengths_in_data",
    "skill_strengths_in_parameters",
    "skill_strengths_in_time",
    "spike",
    "stages_separate",
    "student_error",
    "switch_rates",
    "symmetric_factorisation",
    "time_law",
    "transition",
    "transition_exponential",
    "transition_sigmoidal",
    "two_cycle",
    "two_rate_network",
    "two_rate_network_limit",
    "variance_of_accuracy",
    "wide_kernel_growth",
    "wide_matrix",
    "wide_time",
    "width_phase",
]
