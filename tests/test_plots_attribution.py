"""Figures of what a model looks at: every value is written, every cause framed."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from synthetic import toy_cohort

from ecgmoe import beats, interventions, plots
from ecgmoe.interventions import PHASES


def drawn(figure: Figure) -> Figure:
    figure.canvas.draw()
    assert not plt.get_fignums()
    return figure


def test_a_strip_shows_every_intervention_over_the_recording():
    cohort = toy_cohort(8)
    peaks = beats.detect_r_peaks(cohort.signal, cohort.fs)
    made = interventions.make_usual(cohort.signal, cohort.fs, peaks, interventions.usual(cohort))
    figure = drawn(plots.interventions(cohort.signal, cohort.fs, made, row=2, lead="V2", seconds=4.0))
    assert [ax.get_ylabel() for ax in figure.axes] == list(PHASES)
    for ax, (changed, moved) in zip(figure.axes, made.values(), strict=True):
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), cohort.signal[2, 7, :400])
        np.testing.assert_array_equal(ax.lines[1].get_ydata(), changed[2, 7, :400])
        assert len(ax.lines[2].get_xdata()) == (moved[2] < 400).sum()


def test_attributions_are_written_clear_ones_bold_and_causes_framed():
    rows = [
        (group, "rhythm", phase, value, value - 0.15, value + 0.15, 9)
        for group, values in (("one", (0.5, 0.1, 0.0, -0.1, 0.2, 0.3)), ("two", (-0.1, -0.2, -0.3, -0.4, -0.5, -0.6)))
        for phase, value in zip(PHASES, values, strict=True)
    ]
    found = pd.DataFrame(rows, columns=["group", "task", "phase", "value", "low", "high", "n"])
    figure = drawn(plots.phase_attribution(found, {"one": ("P", "RR")}))
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.texts[:6]] == ["0.50", "0.10", "0.00", "-0.10", "0.20", "0.30"]
    bold = [phase for phase, text in zip(PHASES, ax.texts, strict=False) if text.get_fontweight() == "bold"]
    assert bold == ["P", "T", "RR"]
    frames = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert [PHASES[int(frame.get_x())] for frame in frames] == ["P", "RR"]
    assert [int(frame.get_y()) for frame in frames] == [0, 0]


def test_without_any_group_the_figure_says_so():
    none = pd.DataFrame(columns=["group", "task", "phase", "value", "low", "high", "n"])
    (text,) = drawn(plots.phase_attribution(none, {"one": ("P",)})).axes[0].texts
    assert text.get_text() == "no recording of these groups"
