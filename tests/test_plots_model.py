"""Figures of beats and of the model: each shows what it was given, and is closed."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from synthetic import toy_cohort

from ecgmoe import baselines, beats, evaluation, paper, plots, tasks


@pytest.fixture(scope="module")
def cohort():
    return toy_cohort()


@pytest.fixture(scope="module")
def peaks(cohort):
    return beats.detect_r_peaks(cohort.signal, cohort.fs)


def drawn(figure: Figure) -> Figure:
    """The figure after a real rendering: what cannot be drawn fails here and not on a page."""
    figure.canvas.draw()
    assert figure.get_facecolor() == (1, 1, 1, 1)
    assert not plt.get_fignums()
    return figure


def test_every_interval_of_a_strip_is_written(cohort, peaks):
    figure = drawn(plots.peaks_on_strip(cohort.signal[0], cohort.fs, peaks[0], "one"))
    written = [float(text.get_text()) for text in figure.axes[0].texts if text.get_text()]
    np.testing.assert_allclose(written, np.diff(peaks[0]) * 1000 / cohort.fs, atol=0.5)


def test_aligned_beats_show_all_beats_and_their_mean(cohort, peaks):
    cut = beats.segment_beats(cohort.signal, cohort.fs, peaks, window=None)
    figure = drawn(plots.aligned_beats(cut, {"first": 0, "second": 1}))
    assert [len(ax.lines) for ax in figure.axes] == [int(cut.mask_BN[i].sum()) + 2 for i in (0, 1)]


def test_agreement_has_a_point_a_known_record_and_the_printed_error(cohort, peaks):
    label = cohort.targets()["rr"].copy()
    label[:3] = np.nan
    figure = drawn(plots.rr_agreement(label, beats.mean_rr(peaks, cohort.fs)))
    assert len(figure.axes[0].collections[0].get_offsets()) == len(cohort) - 3
    assert figure.axes[1].lines[1].get_xdata()[0] == paper.TABLE_2["ECG-MoE"]["rr"].mean


def test_poincare_has_a_point_a_pair_of_intervals(cohort, peaks):
    figure = drawn(plots.poincare(peaks, cohort.fs, cohort.table["rhythm"], ["sinus rhythm", "other"]))
    pairs = [len(p) - 2 for p, r in zip(peaks, cohort.table["rhythm"], strict=True) if r == "sinus rhythm"]
    assert len(figure.axes[0].collections[0].get_offsets()) == sum(pairs)
    assert "0 records" in figure.axes[1].get_title()


def test_the_architecture_names_every_part_and_task():
    words = " ".join(text.get_text() for text in drawn(plots.architecture()).axes[0].texts).replace("\n", " ")
    for part in (*paper.TABLE_1, "kernel 3", "kernel 15", "dilation 2", *(t.title for t in tasks.TASKS.values())):
        assert part in words


def test_gates_write_every_weight():
    weights = pd.DataFrame([[0.25, 0.75], [0.5, 0.5]], index=["a", "b"], columns=["x", "y"])
    texts = [text.get_text() for text in drawn(plots.gates(weights)).axes[0].texts]
    assert texts == ["0.25", "0.75", "0.50", "0.50"]


def test_curves_mark_the_epoch_that_is_kept():
    history = pd.DataFrame({"epoch": [0, 1, 2], "train": [3.0, 2, 1], "validation": [3.0, 1, 2], "rr": [1.0, 0.5, 0.6]})
    figure = drawn(plots.training_curves(history))
    assert figure.axes[0].lines[2].get_xdata()[0] == 1
    assert figure.axes[1].lines[0].get_ydata().tolist() == [1, 0.5, 0.6]


def test_predictions_and_scores_show_the_test_part(cohort, peaks):
    floors = baselines.floors_from(cohort, beats.mean_rr(peaks, cohort.fs))
    figure = drawn(plots.predictions(cohort, floors[evaluation.MEAN]))
    assert [ax.get_title() for ax in figure.axes] == [task.title for task in cohort.tasks.values()]
    known = (cohort.split == "test") & np.isfinite(cohort.targets()["age"])
    assert len(figure.axes[1].collections[0].get_offsets()) == known.sum()

    scores = evaluation.score_table(floors, cohort, n_boot=20)
    figure = drawn(plots.scores_by_model(scores, evaluation.MEAN, evaluation.FLOORS))
    named = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert named == [evaluation.MEAN, evaluation.MEDIAN, evaluation.PEAKS], "the zero predictor would set the scale"


def test_costs_write_each_figure():
    table = pd.DataFrame({"ms_per_record": [2.0, 0.5]}, index=["whole", "part"])
    assert [text.get_text().strip() for text in drawn(plots.costs(table)).axes[0].texts] == ["2", "0.5"]
