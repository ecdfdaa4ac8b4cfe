"""What a release promises: one version, a changelog of it, and public names that do not change unseen."""

import pathlib
import re

import pytest

import layerflow as lf
from layerflow.figures import FIGURES

ROOT = pathlib.Path(__file__).parents[1]
LAYERFLOW = """
    Calibration Descent DescentClass DiagonalNetwork DifferenceNetwork Exact Flow LayerwiseNetwork LinearNetwork
    MLP Machine Modes Moments Problem Samples SparseParity Status Stream Task Trajectory Transformer Watch
    accuracy aligned alignment boundary calibrate collapse constant descent_class digits downstream
    effective_rank enable_compile_cache excess_error failures feature_model feature_rank features first_time
    fold function_distance gaussian grokking_delay half_times kernel_distance lambda_balanced
    lambda_balanced_chain layer_imbalance layer_movement laziness leaving_flow linear_model linearise loss
    mode_order mode_strengths modular_arithmetic neural_collapse ntk observable on_test open_diagram orthogonal
    paired phase plateaus plot polynomial_regression population power_law_modes prepare principal_components
    provenance random_regression replay retry scaled_sharpness sharpness skill_network skill_strengths solve
    sparse_teacher static sweep symmetrised teacher theory time_to_fraction upstream weight_norms
"""
THEORY = """
    AlignedFeatures Balanced Collapse ComputeLaw CriticalSteps DecayStates DecayThresholds EstimatorErrors
    EstimatorTimes FineTuned LayerChain LayerPair LeakyScalar MirrorPath Neuron NormalisedNeuron Projection
    Ridge Saddles ScalarDescent ScalarNetwork ScalingLaw Spike TwoCycle TwoRateNetwork Violations WidthPhase
    absolute_moments accuracy_of_variance aligned_features aligned_matrix aligned_strengths balanced_limit
    balanced_network balanced_path balanced_sequence balanced_strength balanced_violations balancing
    best_stopping_time bregman_projection collapsed compute_law conserved_difference conserved_imbalances
    conserved_scalar critical_delay critical_error critical_speed_ratio critical_steps critical_stopping_time
    data_law decay_energy decay_states decay_thresholds decayed decaying_network decaying_pair deep_mirror_flow
    deep_mirror_strength deep_mode deep_time direction_stopping_time edge_delay edge_errors effective_depth
    ends_at_saddle estimator_errors estimator_limit estimator_times expected_skill_loss exponential
    exponential_time fine_tuned flow_sharpness forgetting forgetting_excess forgetting_time frozen_kernel_output
    growth_bound heavy_normalised_neuron inflection_time joint_strengths joint_student_error kernel_growth
    l1_rate label_noise_balancing layer_chain layer_chain_delay layer_chain_time layer_pair leaky_loss leaky_map
    leaky_pair leaky_scalar_first_order leaky_scalar_network least_l1 least_norm light_normalised_neuron
    linear_estimator mirror_coordinate mirror_flow mirror_potential mirror_strength normalised_cosine
    normalised_neuron normalised_pair optimal_ridge parameter_law plateau_losses reversal_time saddle_to_saddle
    scalar_descent scalar_network scalar_network_limit scalar_network_time scheduled_network scheduled_strength
    shifted_absolute_moments sigmoidal sigmoidal_time sign_obstruction single_neuron skill_frequencies
    skill_loss skill_strengths_in_data skill_strengths_in_parameters skill_strengths_in_time spike
    stages_separate student_error switch_rates
    symmetric_factorisation time_law transition transition_exponential transition_sigmoidal two_cycle
    two_rate_network two_rate_network_limit variance_of_accuracy wide_kernel_growth wide_matrix wide_time
    width_phase
"""
PLOT = """
    PALETTE arrows band boundary colours curves heatmap modes over_seeds panels style
"""
DRAWN = """
    2 3 3+ 4 4+ 4d 5 6a 6b 6+ 7 8 8+ delay 9 10 11 dial G I noise linear-grokking
    sparsity large-steps width
"""


def test_citation_and_changelog_are_of_this_version():
    citation = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE).group(1)
    newest = re.search(r"^## (\S*)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE).group(1)

    assert lf.__version__ == citation == newest


@pytest.mark.parametrize(
    ("names", "frozen"),
    [(lf.__all__, LAYERFLOW), (lf.theory.__all__, THEORY), (lf.plot.__all__, PLOT), (FIGURES, DRAWN)],
    ids=["layerflow", "theory", "plot", "figures"],
)
def test_public_names_are_those_that_were_promised(names, frozen):
    """A name that is new is added above; one that goes or changes breaks code of others and its version says so."""
    assert sorted(names) == sorted(frozen.split())


def test_every_public_name_is_there():
    for module in (lf, lf.theory, lf.plot):
        for name in module.__all__:
            assert hasattr(module, name)
