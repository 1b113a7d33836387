"""Figures of the backbones: every score, twin, floor, depth and loss is drawn."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ecgmoe import backbones, evaluation, plots, probing

TITLES = [backbones.TITLES[name] for name in backbones.NAMES]


def drawn(figure: Figure) -> Figure:
    figure.canvas.draw()
    assert figure.get_facecolor() == (1, 1, 1, 1)
    assert not plt.get_fignums()
    return figure


def made_up(tasks: tuple[str, ...]) -> probing.Probes:
    rows, depths = [], []
    for task in tasks:
        for i, title in enumerate(TITLES):
            for kind, value in (("backbone", 10.0 + i), ("twin", 20.0 + i)):
                rows.append((title, kind, task, "mae", value, value - 1, value + 1, 50))
                depths += [(title, kind, depth, task, value - depth) for depth in range(3)]
        rows += [(floor, "floor", task, "mae", 30.0, 29.0, 31.0, 50) for floor in evaluation.FLOORS]
    scores = pd.DataFrame(rows, columns=["model", "kind", "task", "metric", "value", "low", "high", "n"])
    none = pd.DataFrame()
    return probing.Probes(scores, none, none, pd.DataFrame(depths, columns=["model", "kind", "depth", "task", "value"]))


@pytest.fixture(scope="module")
def runs():
    return {"this page": made_up(("rr", "sex", "potassium")), "elsewhere": made_up(("rr", "sex"))}


def test_every_backbone_stands_beside_its_twin(runs):
    figure = drawn(plots.twins(runs, "pretrained", "random twin"))
    assert len(figure.axes) == 6
    first = figure.axes[0]
    assert [label.get_text() for label in first.get_yticklabels()] == TITLES
    assert len([line for line in first.lines if line.get_marker() == "o"]) == 2 * len(TITLES)
    assert len([line for line in first.lines if line.get_xdata()[0] == 30.0]) == 4, "floors as lines"
    assert [text.get_text() for text in figure.axes[5].texts] == ["not available"]
    assert [ax.get_ylabel() for ax in figure.axes[::3]] == ["this page", "elsewhere"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:2] == ["pretrained", "random twin"] and evaluation.PEAKS in legend
    assert len(drawn(plots.twins({"this page": made_up(("rr",))})).axes) == 1


def test_every_depth_is_a_point(runs):
    figure = drawn(plots.by_depth({name: probes for name, probes in runs.items() if name == "this page"}))
    assert len(figure.axes) == 3
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    assert len(lines) == 2 * len(TITLES) and all(list(line.get_xdata()) == [0, 1, 2] for line in lines)
    assert len(drawn(plots.by_depth(runs)).axes[5].texts) == 1


def test_every_term_of_a_loss_is_a_line_and_missing_weights_are_said():
    cards = {
        "ecg-fm": {"loss by epoch": [{"masked frames": 3.0, "segments": 2.0}, {"masked frames": 2, "segments": 1}]}
    }
    figure = drawn(plots.pretraining_curves(cards))
    assert [ax.get_title() for ax in figure.axes] == TITLES
    assert [len(ax.lines) for ax in figure.axes] == [0, 0, 0, 0, 2]
    assert "no weights" in figure.axes[0].texts[0].get_text()
    assert len(drawn(plots.pretraining_curves({})).axes) == 5
