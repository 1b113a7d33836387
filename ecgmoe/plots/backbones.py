"""Figures of the backbones: their pretraining, and what is in their features."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ecgmoe import backbones, tasks
from ecgmoe.evaluation import CHARACTERISTICS, INTERVALS, MEAN, METRIC_LABELS, PEAKS
from ecgmoe.plots.style import COLOURS, style
from ecgmoe.probing import BACKBONE, TWIN, Probes

#: Floors that are drawn, with colour and dashes; the others would hide them or set the scale.
_FLOORS: dict[str, tuple[Any, Any]] = {
    MEAN: ("0.45", ":"),
    INTERVALS: (COLOURS[2], "--"),
    PEAKS: (COLOURS[4], "-."),
    CHARACTERISTICS: (COLOURS[3], (0, (6, 1))),
}


def pretraining_curves(cards: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Mean loss of every epoch of pretraining, a panel a backbone and a line a term of its objective.

    Parameters
    ----------
    cards : mapping of str to card
        From ``probing.cards()``; a backbone without one gets a panel that says so.
    """
    style()
    fig, axes = plt.subplots(1, len(backbones.NAMES), figsize=(8.6, 2.4), layout="constrained")
    for ax, name in zip(axes, backbones.NAMES, strict=True):
        ax.set_title(backbones.TITLES[name])
        if name not in cards:
            ax.text(0.5, 0.5, "no weights\nhere yet", ha="center", va="center", transform=ax.transAxes, color="0.4")
            ax.set(xticks=[], yticks=[])
            continue
        curve = pd.DataFrame(cards[name]["loss by epoch"])
        for i, term in enumerate(curve):
            ax.plot(range(1, len(curve) + 1), curve[term], marker="o", ms=2.5, lw=1.2, color=COLOURS[i], label=term)
        ax.set(xlabel="epoch", ylim=(0, 1.08 * float(curve.to_numpy().max())))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        ax.legend(fontsize=6.5, handlelength=1.2)
    axes[0].set_ylabel("loss on folds 1-8")
    plt.close(fig)
    return fig


def twins(runs: Mapping[str, Probes], own: str = "pretrained", twin: str = "random twin") -> Figure:
    """Score of each backbone beside that of its twin, with intervals, and floors as lines: a panel a task, a row a run.

    Parameters
    ----------
    runs : mapping of str to Probes
        By the words for the recordings.
    own, twin : str
        Words for the weights of the backbones and of their twins.
    """
    style()
    titles = [backbones.TITLES[name] for name in backbones.NAMES]
    fig, axes, names = _panels(runs, height=1.9)
    lines: dict[str, Line2D] = {}
    for row, (data, probes) in enumerate(runs.items()):
        for ax, name in zip(axes[row], names, strict=True):
            scores = probes.scores[probes.scores["task"] == name].set_index(["kind", "model"])
            _head(ax, name, row, data, missing=scores.empty)
            if scores.empty:
                continue
            for floor, (colour, dashes) in _FLOORS.items():
                if ("floor", floor) in scores.index:
                    lines[floor] = ax.axvline(scores.loc[("floor", floor), "value"], color=colour, ls=dashes, lw=1.1)
            for kind, shift in ((BACKBONE, -0.16), (TWIN, 0.16)):
                for i, title in enumerate(titles):
                    value, low, high = scores.loc[(kind, title), ["value", "low", "high"]]
                    colour, face = (COLOURS[0], COLOURS[0]) if kind == BACKBONE else (COLOURS[1], "white")
                    ax.plot([low, high], [i + shift] * 2, color=colour, lw=1.3)
                    (dot,) = ax.plot(value, i + shift, "o", color=colour, mfc=face, ms=4.5, ls="none")
                lines[own if kind == BACKBONE else twin] = dot
            ax.set_yticks(range(len(titles)), titles)
            ax.set_ylim(len(titles) - 0.5, -0.5)
    order = [own, twin, *(floor for floor in _FLOORS if floor in lines)]
    fig.legend([lines[name] for name in order], order, loc="outside lower center", ncols=3, fontsize=8)
    plt.close(fig)
    return fig


def by_depth(runs: Mapping[str, Probes], own: str = "pretrained", twin: str = "random twin") -> Figure:
    """Score on the validation part against the depth of the features: a panel a task, a line a backbone, twins dashed.

    Parameters
    ----------
    runs, own, twin
        As :func:`twins` takes them.
    """
    style()
    fig, axes, names = _panels(runs, height=2.1, field="depths")
    for row, (data, probes) in enumerate(runs.items()):
        for ax, name in zip(axes[row], names, strict=True):
            found = probes.depths[probes.depths["task"] == name]
            _head(ax, name, row, data, missing=found.empty)
            for i, short in enumerate(backbones.NAMES):
                for kind, dashes, face in ((BACKBONE, "-", COLOURS[i]), (TWIN, ":", "white")):
                    line = found[(found["model"] == backbones.TITLES[short]) & (found["kind"] == kind)]
                    ax.plot(
                        line["depth"], line["value"], dashes, marker="o", ms=3.5, lw=1.3, color=COLOURS[i], mfc=face
                    )
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            if row == len(runs) - 1:
                ax.set_xlabel("depth")
    shown = [Line2D([], [], color=COLOURS[i], label=backbones.TITLES[name]) for i, name in enumerate(backbones.NAMES)]
    shown += [Line2D([], [], color="0.3", ls=dashes, label=text) for dashes, text in (("-", own), (":", twin))]
    fig.legend(handles=shown, loc="outside lower center", ncols=7, fontsize=8)
    plt.close(fig)
    return fig


def _panels(runs: Mapping[str, Probes], height: float, field: str = "scores") -> tuple[Figure, Any, list[str]]:
    """A figure with a row of axes a run and a column a task that any of them has."""
    present = {name for probes in runs.values() for name in getattr(probes, field)["task"]}
    names = [name for name in tasks.TASKS if name in present]
    size = (8.6, 0.5 + height * len(runs))
    fig, axes = plt.subplots(
        len(runs), len(names), figsize=size, sharey=field == "scores", squeeze=False, layout="constrained"
    )
    return fig, axes, names


def _head(ax: Axes, name: str, row: int, data: str, *, missing: bool) -> None:
    """Title, axis label, and a word where a task is not available."""
    task = tasks.TASKS[name]
    unit = f", {task.unit}" if task.unit else ""
    label = f"{METRIC_LABELS[task.metric]}{unit} {'↑' if task.higher_is_better else '↓'}"
    if row == 0:
        ax.set_title(f"{task.title}\n{label}", fontsize=8.5)
    first = ax.get_subplotspec()
    if first is not None and first.is_first_col():
        ax.set_ylabel(data)
    if missing:
        ax.text(0.5, 0.5, "not available", ha="center", va="center", transform=ax.transAxes, color="0.4")
        ax.set(xticks=[])
    ax.grid(axis="y", color="0.93")
