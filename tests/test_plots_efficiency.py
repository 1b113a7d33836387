"""Figures of what fewer backbones lose: every point, label and bar is where its number is."""

import pandas as pd
import pytest

from ecgmoe import backbones, plots

KS = (0, 3, 1)
RELATIVE = pd.Series([1.0, 0.62, 0.2], index=pd.Index(KS, name="k"))


@pytest.fixture
def scores():
    rows = [
        {"seed": seed, "k": k, "task": task, "lost": lost + seed, "low": lost - 1, "high": lost + 2}
        for task, losses in {"rr": (0.0, 1.0, 5.0), "sex": (0.0, 0.4, 3.0)}.items()
        for k, lost in zip(KS, losses, strict=True)
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows)


def test_losses_stand_at_their_times(scores):
    fig = plots.tradeoff(scores, RELATIVE)
    rr, sex = fig.axes
    assert [ax.get_title() for ax in fig.axes] == ["RR interval", "Sex"]
    assert (rr.get_ylabel(), sex.get_ylabel()) == ("lost, ms", "lost, points")
    line = next(line for line in rr.lines if len(line.get_xdata()) == 3 and line.get_linestyle() == "-")
    assert line.get_xdata().tolist() == pytest.approx([20, 62, 100])
    assert line.get_ydata().tolist() == pytest.approx([5.5, 1.5, 0.5])
    assert [text.get_text() for text in rr.texts] == ["1", "3", "all"]
    assert any(list(line.get_ydata()) == [1, 1] for line in sex.lines), "one point is marked for shares"
    assert not any(list(line.get_ydata()) == [1, 1] for line in rr.lines)


def test_bars_are_the_mean_load():
    load = pd.DataFrame(
        {"seed": [0, 1, 0, 1], "k": [0, 0, 1, 1]} | {name: [1, 1, 0.1, 0.3] for name in backbones.NAMES}
    )
    fig = plots.router_load(load)
    (ax,) = fig.axes
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([20] * 5)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["k = 1"]
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {*backbones.TITLES.values(), "even load"}
