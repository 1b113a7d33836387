"""Figures of the recordings and their labels: scale, content, and that each is closed."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ecgmoe import plots
from ecgmoe.datasets import Cohort
from ecgmoe.datasets.ptbxl import CARD
from ecgmoe.records import LEADS


@pytest.fixture
def cohort() -> Cohort:
    n = 30
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "patient_id": range(n),
            "fold": np.resize([7, 7, 8, 9, 9], n),
            "rr_interval": rng.normal(800, 100, n),
            "age": np.resize([50.0, 60.0, 90.0], n),
            "sex": np.resize([0.0, 1.0, np.nan], n),
            "potassium": np.nan,
            "potassium_abnormal": np.nan,
            "rhythm": np.resize(np.array(["sinus rhythm", "other", None], object), n),
        },
        index=pd.RangeIndex(1, n + 1, name="ecg_id"),
    )
    signal = rng.normal(0, 0.3, (n, 12, 1000)).astype(np.float32)
    return Cohort(CARD, table, signal, 100, pd.DataFrame({"record": [], "reason": []}))


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_paper_has_the_scale_of_a_clinic(cohort: Cohort) -> None:
    figure = plots.ecg_paper(cohort.signal[0], 100, title="one")
    figure.draw_without_rendering()
    ax = figure.axes[0]
    (x0, y0), (x1, y1) = ax.transData.transform([(0.0, 0.0), (1.0, 1.0)])
    assert (x1 - x0) / (y1 - y0) == pytest.approx(25 / 10)
    assert (x1 - x0) / figure.dpi * 25.4 == pytest.approx(25, rel=0.1)
    assert [text for text in texts(figure) if text in LEADS] == [*LEADS, "II"]
    assert ax.get_title(loc="left") == "one"


def test_paper_shows_each_lead_at_its_time(cohort: Cohort) -> None:
    lines = plots.ecg_paper(cohort.signal[0], 100).axes[0].lines
    traces = {round(line.get_xdata()[0], 2): line for line in lines if len(line.get_xdata()) == 250}
    assert sorted(traces) == [0.0, 2.5, 5.0, 7.5]
    v6 = traces[7.5].get_ydata()
    expected = cohort.signal[0, LEADS.index("V6"), 750:]
    np.testing.assert_allclose(v6 - v6.mean(), expected - expected.mean(), atol=1e-5)


def test_other_leads_come_one_below_the_other(cohort: Cohort) -> None:
    figure = plots.ecg_paper(cohort.signal[0, :2], 100, leads=("I", "II"))
    assert sum(len(line.get_xdata()) == 1000 for line in figure.axes[0].lines) == 2


def test_strips_show_one_record_of_each_rhythm(cohort: Cohort) -> None:
    assert texts(plots.rhythm_strips(cohort))[:2] == ["sinus rhythm", "other"]


def test_strips_without_any_rhythm_show_one_record(cohort: Cohort) -> None:
    cohort.table["rhythm"] = None
    assert texts(plots.rhythm_strips(cohort))[0] == "II"


def test_rhythm_counts_are_those_of_the_table(cohort: Cohort) -> None:
    ax = plots.rhythm_counts(cohort).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["sinus rhythm", "other"]
    assert sum(bar.get_width() for bar in ax.patches) == cohort.table["rhythm"].notna().sum()


def test_distributions_leave_out_what_is_missing_or_censored(cohort: Cohort) -> None:
    figure = plots.label_distributions(cohort)
    assert [ax.get_title() for ax in figure.axes] == ["Age", "RR interval"]
    assert figure.axes[0].get_xlim()[1] < 89


def test_coverage_is_the_share_with_a_label(cohort: Cohort) -> None:
    shares = np.array([float(text) for text in texts(plots.label_coverage(cohort))]).reshape(5, 3)
    assert (shares[0] == 100).all()
    assert (shares[3] == 0).all()
    for row in (1, 2, 4):
        assert shares[row].mean() == pytest.approx(100 * 2 / 3, abs=0.1)


def test_quality_is_the_mean_of_each_rhythm_and_lead(cohort: Cohort) -> None:
    quality = np.tile(np.linspace(0, 1, 12), (len(cohort), 1))
    quality[(cohort.table["rhythm"] == "other").to_numpy()] = 0.25
    shown = np.array([float(text) for text in texts(plots.lead_quality(quality, cohort.table["rhythm"]))])
    np.testing.assert_allclose(shown.reshape(2, 12), [np.linspace(0, 1, 12), np.full(12, 0.25)], atol=0.006)


def test_each_beat_bears_its_confidence_and_early_ones_are_filled(cohort: Cohort) -> None:
    peaks, early = np.array([100.5, 200.0, 250.0, 400.0]), np.array([False, False, True, False])
    figure = plots.trust_in_beats(cohort.signal[0], 100, peaks, np.array([0.99, 0.9, 0.5, 1.0]), early)
    assert texts(figure) == ["0.99", "0.90", "0.50", "1.00"]
    _, usual, filled = figure.axes[0].lines
    np.testing.assert_allclose(usual.get_xdata(), peaks[~early] / 100)
    np.testing.assert_allclose(filled.get_xdata(), [2.5])


def test_figures_are_closed_and_opaque(cohort: Cohort) -> None:
    for draw in (plots.rhythm_strips, plots.rhythm_counts, plots.label_distributions, plots.label_coverage):
        assert draw(cohort).get_facecolor() == (1, 1, 1, 1)
    assert not plt.get_fignums()
