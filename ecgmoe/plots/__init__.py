"""Figures of the book: each function returns a matplotlib figure that is already closed, so that it shows once."""

from ecgmoe.plots.ablation import differences, learning_curves
from ecgmoe.plots.attribution import interventions, phase_attribution
from ecgmoe.plots.audit import claimed_and_recomputed, printed_against_constants, printed_zero_shot
from ecgmoe.plots.backbones import by_depth, pretraining_curves, twins
from ecgmoe.plots.detectors import detector_speed, f1_against_tolerance
from ecgmoe.plots.efficiency import router_load, scaling, tradeoff
from ecgmoe.plots.model import architecture, costs, gates, predictions, scores_by_model, training_curves
from ecgmoe.plots.prediction import explained
from ecgmoe.plots.recordings import (
    ecg_paper,
    label_coverage,
    label_distributions,
    lead_quality,
    rhythm_counts,
    rhythm_strips,
)
from ecgmoe.plots.reliability import calibration_curves, robustness_curves, subgroup_scores
from ecgmoe.plots.rhythm import aligned_beats, peaks_on_strip, poincare, rr_agreement, trust_in_beats
from ecgmoe.plots.style import COLOURS, SPLIT_COLOURS, style

__all__ = [
    "COLOURS",
    "SPLIT_COLOURS",
    "aligned_beats",
    "architecture",
    "by_depth",
    "calibration_curves",
    "claimed_and_recomputed",
    "costs",
    "detector_speed",
    "differences",
    "ecg_paper",
    "explained",
    "f1_against_tolerance",
    "gates",
    "interventions",
    "label_coverage",
    "label_distributions",
    "lead_quality",
    "learning_curves",
    "peaks_on_strip",
    "phase_attribution",
    "poincare",
    "predictions",
    "pretraining_curves",
    "printed_against_constants",
    "printed_zero_shot",
    "rhythm_counts",
    "rhythm_strips",
    "robustness_curves",
    "router_load",
    "rr_agreement",
    "scaling",
    "scores_by_model",
    "style",
    "subgroup_scores",
    "tradeoff",
    "training_curves",
    "trust_in_beats",
    "twins",
]
