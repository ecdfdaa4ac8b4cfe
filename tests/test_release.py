"""What a release promises: one version, a changelog of it, and public names that do not change unseen."""

import pathlib
import re

import pytest

import layerflow as lf
from layerflow.figures import FIGURES

ROOT = pathlib.Path(__file__).parents[1]
LAYERFLOW = """
    DifferenceNetwork
    MLP Calibration Descent DiagonalNetwork Exact Flow LayerwiseNetwork LinearNetwork Machine Modes Moments Problem
    Samples SparseParity Status Stream Task Trajectory Transformer accuracy aligned alignment boundary calibrate
    constant digits downstream effective_rank enable_compile_cache failures feature_model feature_rank features
    first_time fold function_distance gaussian grokking_delay half_times kernel_distance lambda_balanced
    lambda_balanced_chain layer_imbalance layer_movement laziness linear_model linearise loss mode_order
    mode_strengths modular_arithmetic neural_collapse ntk observable on_test open_diagram orthogonal paired plateaus
    plot polynomial_regression power_law_modes prepare principal_components provenance random_regression replay
    retry scaled_sharpness sharpness skill_network skill_strengths solve static sweep symmetrised teacher theory
    time_to_fraction upstream weight_norms
"""
THEORY = """
    FineTuned MirrorPath Projection Saddles bregman_projection deep_mirror_flow deep_mirror_strength fine_tuned
    l1_rate least_l1 least_norm mirror_coordinate mirror_flow mirror_potential mirror_strength saddle_to_saddle
    AlignedFeatures Balanced Collapse ComputeLaw LayerPair Neuron ScalarNetwork ScalingLaw Violations
    aligned_features aligned_matrix aligned_strengths balanced_limit balanced_network balanced_path
    balanced_strength balanced_violations collapsed compute_law conserved_difference conserved_imbalances
    conserved_scalar critical_speed_ratio data_law decayed deep_mode deep_time ends_at_saddle expected_skill_loss
    exponential exponential_time frozen_kernel_output growth_bound inflection_time kernel_growth layer_pair
    parameter_law plateau_losses scalar_network scalar_network_limit scalar_network_time sigmoidal sigmoidal_time
    sign_obstruction single_neuron skill_frequencies skill_loss skill_strengths_in_data
    skill_strengths_in_parameters skill_strengths_in_time stages_separate symmetric_factorisation time_law
    transition transition_exponential transition_sigmoidal
"""
PLOT = """
    PALETTE arrows band boundary colours curves heatmap modes over_seeds panels style
"""
DRAWN = """
    2 3 3+ 4 4+ 4d 5 6a 6b 6+ 7 8 8+ delay 9 10 11 dial G I
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
