"""Figures of the ablation: how far every row is from ECG-MoE, and what more records bring."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ecgmoe import tasks
from ecgmoe.evaluation import METRIC_LABELS, headlines
from ecgmoe.plots.style import COLOURS, metric_axis, style


def differences(pairs: pd.DataFrame, groups: Mapping[str, Sequence[str]], model: str = "ECG-MoE") -> Figure:
    """A forest of differences to a model, a panel a task and a line a row: right of zero the row is better.

    Parameters
    ----------
    pairs : DataFrame
        From :func:`ecgmoe.ablation.compare`: the model minus each row, in the unit of the task's metric.
    groups : mapping of str to sequence of str
        Names of rows, from top to bottom, by the words for their group. Rows that ``pairs`` does not hold are left out.
    model : str

    Notes
    -----
    Differences are turned so that better is right, whichever way the metric goes. A floor may be a hundred times as far
    as a rival: each panel holds the intervals of four rows in five, and what lies beyond is an arrow at its edge.
    Colour tells whether the adjusted p value is below 0.05.
    """
    style()
    present = set(pairs["baseline"])
    named = {group: [name for name in names if name in present] for group, names in groups.items()}
    named = {group: names for group, names in named.items() if names}
    order = [name for names in named.values() for name in names]
    panels = list(dict.fromkeys(pairs["task"]))
    fig, axes = plt.subplots(
        1, len(panels), figsize=(1.9 * len(panels) + 2.2, 1.3 + 0.19 * len(order)), sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    colours = {"model": COLOURS[3], "baseline": COLOURS[2], "neither": "0.45"}
    for ax, name in zip(axes[0], panels, strict=True):
        task = tasks.TASKS[name]
        sign = -1 if task.higher_is_better else 1
        rows = pairs[pairs["task"] == name].set_index("baseline")
        edge = 1.1 * float(np.quantile(rows[["low", "high"]].abs().max(axis=1), 0.8)) or 1.0
        for i, row in enumerate(order):
            if row not in rows.index:
                continue
            value, low, high = (sign * float(rows.loc[row, key]) for key in ("difference", "low", "high"))
            colour = colours[rows.loc[row, "better"]]
            marker = "o" if abs(value) <= edge else "<" if value < 0 else ">"
            ax.plot(np.clip([low, high], -edge, edge), [i, i], color=colour, lw=1.3)
            ax.plot(np.clip(value, -edge, edge), i, marker, color=colour, ms=3.5)
        ax.set_xlim(-1.06 * edge, 1.06 * edge)
        ax.axvline(0, color="0.2", lw=0.8)
        for end in np.cumsum([len(names) for names in named.values()])[:-1]:
            ax.axhline(end - 0.5, color="0.85", lw=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
        ax.set_title(task.title, fontsize=9)
        ax.set_xlabel(f"better by ({task.unit or METRIC_LABELS[task.metric]}) →", fontsize=8)
        ax.tick_params(axis="x", labelsize=6.5)
    axes[0, 0].set_yticks(range(len(order)), order, fontsize=7.5)
    axes[0, 0].set_ylim(len(order) - 0.4, -0.6)
    words = {"model": f"clearly worse than {model}", "baseline": "clearly better", "neither": "not separable"}
    handles = [Line2D([], [], marker="o", ms=4, color=colours[key], label=text) for key, text in words.items()]
    fig.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=8)
    plt.close(fig)
    return fig


def learning_curves(curve: pd.DataFrame) -> Figure:
    """Headline metric against the number of training records, a panel a task and a line a model.

    Parameters
    ----------
    curve : DataFrame
        From :func:`ecgmoe.curve.measure`.
    """
    style()
    names = [name for name in tasks.TASKS if name in set(curve["task"])]
    fig, axes = plt.subplots(1, len(names), figsize=(2.4 * len(names), 2.9), layout="constrained", squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        task = tasks.TASKS[name]
        rows = headlines(curve[curve["task"] == name])
        for i, model in enumerate(dict.fromkeys(rows["model"])):
            own = rows[rows["model"] == model].sort_values("records")
            colour = COLOURS[(1, 0, *range(2, len(COLOURS)))[i % len(COLOURS)]]
            ax.fill_between(own["records"], own["low"], own["high"], color=colour, alpha=0.15, lw=0)
            ax.plot(own["records"], own["value"], "os^"[i % 3] + "-", color=colour, ms=4, lw=1.3, label=model)
        ax.set_xscale("log", base=2)
        sizes = sorted(set(rows["records"]))
        ax.set_xticks(sizes, [f"{n / 1000:.2g}" if n < 1000 else f"{n / 1000:.1f}" for n in sizes])
        ax.minorticks_off()
        ax.set_title(f"{task.title}\n{'higher' if task.higher_is_better else 'lower'} is better", fontsize=9)
        ax.set_ylabel(metric_axis(task))
        ax.set_xlabel("training records, thousands")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    plt.close(fig)
    return fig
