"""Figures of calibration, subgroups and disturbed recordings: each shows what it was given, and is closed."""

import numpy as np
import pandas as pd
import pytest
from test_evaluation import make_cohort, noisy
from test_plots_model import drawn

from ecgmoe import evaluation, plots, reliability, robustness
from ecgmoe.tasks import TASKS


@pytest.fixture(scope="module")
def cohort():
    return make_cohort()[0]


def test_calibration_has_a_line_a_model_beside_the_diagonal(cohort):
    runs = {"first": noisy(cohort), "second": {"sex": noisy(cohort, 2)["sex"]}}
    curves = {model: reliability.reliability_curve(run, cohort, n_boot=20) for model, run in runs.items()}
    figure = drawn(plots.calibration_curves(curves))
    assert [ax.get_title() for ax in figure.axes] == [TASKS[name].title for name in ("sex", "potassium", "rhythm")]
    sex = curves["second"]
    assert any(
        len(line.get_xdata()) == len(sex)
        and np.allclose(line.get_xdata(), sex["claimed"])
        and np.allclose(line.get_ydata(), sex["observed"])
        for line in figure.axes[0].lines
    )
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["first", "second"]


def test_subgroups_have_a_dot_each_or_a_dash(cohort):
    run = {"m": noisy(cohort)}
    scores = reliability.subgroups(run, cohort, n_boot=20)
    whole = evaluation.score_table(run, cohort, n_boot=0)
    figure = drawn(plots.subgroup_scores(scores, whole))
    assert [ax.get_title().split("\n")[0] for ax in figure.axes] == [task.title for task in TASKS.values()]
    named = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert [name.rsplit(" (", 1)[0] for name in named] == ["male", "female", *reliability.AGE_BANDS]
    known = scores[scores["group"] != reliability.UNKNOWN].dropna(subset="value")
    for ax, name in zip(figure.axes, TASKS, strict=True):
        values = known[known["task"] == name]["value"].tolist()
        dots = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
        assert dots == pytest.approx(values)
        assert len(ax.texts) == len(named) - len(values)
        assert ax.lines[0].get_xdata()[0] == whole.set_index("task")["value"][name]


def test_robustness_has_a_panel_a_kind_and_task_and_floors_are_dashed():
    rows = [
        (model, kind, strength, name, TASKS[name].metric, base + i, base + i - 0.5, base + i + 0.5)
        for base, model in enumerate(("ours", "other", "floor"))
        for kind, strengths in (("wander", (0.0, 0.3, 1.0)), ("rate", (100.0, 50.0, 25.0)))
        for i, strength in enumerate(strengths)
        for name in ("rr", "sex")
        if not (model == "floor" and name == "sex")
    ]
    columns = ["model", "kind", "strength", "task", "metric", "value", "low", "high"]
    figure = drawn(plots.robustness_curves(pd.DataFrame(rows, columns=columns), "ours", ["floor"]))
    assert [len(ax.lines) for ax in figure.axes] == [3, 2, 3, 2]
    ours, other, floor = figure.axes[0].lines
    assert ours.get_ydata().tolist() == [0, 1, 2] and ours.get_linewidth() > other.get_linewidth()
    assert floor.get_linestyle() == "--" and other.get_linestyle() == "-"
    assert [label.get_text() for label in figure.axes[2].get_xticklabels()] == ["100", "50", "25"]
    words = " ".join(ax.get_xlabel() for ax in figure.axes)
    assert robustness.KINDS["wander"].title in words and robustness.KINDS["rate"].axis in words
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "other", "floor"]
