"""Figures of the model: its architecture, gates, predictions, costs and rivals."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator

from ecgmoe import tasks
from ecgmoe.datasets import Cohort
from ecgmoe.evaluation import ZERO
from ecgmoe.plots.style import COLOURS, metric_axis, style


def _box(ax: Axes, xy: tuple[float, float], size: tuple[float, float], text: str, colour: object) -> None:
    ax.add_patch(FancyBboxPatch(xy, *size, boxstyle="round,pad=0.02,rounding_size=0.08", fc=colour, ec="0.25", lw=0.9))
    ax.text(xy[0] + size[0] / 2, xy[1] + size[1] / 2, text, ha="center", va="center", fontsize=7.2, color="0.08")


def architecture() -> Figure:
    """ECG-MoE as it is built here: five frozen backbones, periodic experts, gates, fusion and heads."""
    style()
    fig, ax = plt.subplots(figsize=(8.6, 4.5), layout="constrained")
    ax.set(xlim=(0, 12), ylim=(0, 6.6))
    ax.axis("off")
    blue, orange, green, grey, pink = (sns.light_palette(COLOURS[i], 10)[3] for i in (0, 1, 2, 7, 4))

    def arrow(start: tuple[float, float], end: tuple[float, float], **style: object) -> None:
        ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "0.3", "lw": 1.0, **style})

    _box(ax, (0.1, 2.9), (1.35, 0.9), "12-lead ECG\n10 s, mV", grey)
    for i, name in enumerate(("TimesNet", "DLinear", "MOMENT", "TEMPO", "ECG-FM")):
        y = 5.95 - 0.52 * i
        _box(ax, (2.3, y), (1.5, 0.4), name, blue)
        arrow((1.5, 3.6), (2.28, y + 0.2))
        arrow((3.84, y + 0.2), (4.68, 4.95))
    _box(ax, (4.7, 4.45), (1.75, 1.0), "project, weigh\n$F_m=\\bigoplus_k(W_kF_k+b_k)$\n(1), (2)", blue)
    _box(ax, (2.3, 2.5), (1.5, 0.55), "R-peaks → beats,\nRR intervals", grey)
    arrow((1.5, 3.2), (2.28, 2.8))
    for i, kernel in enumerate((3, 7, 15)):
        _box(ax, (4.6, 3.3 - 0.46 * i), (1.95, 0.36), f"shape expert, kernel {kernel}", orange)
        arrow((3.84, 2.8), (4.56, 3.48 - 0.46 * i))
        arrow((6.6, 3.48 - 0.46 * i), (7.18, 2.9))
    for i, dilation in enumerate((1, 2)):
        _box(ax, (4.6, 1.72 - 0.46 * i), (1.95, 0.36), f"rhythm expert, dilation {dilation}", orange)
        arrow((3.84, 2.6), (4.56, 1.9 - 0.46 * i))
        arrow((6.6, 1.9 - 0.46 * i), (7.18, 2.6))
    _box(ax, (7.2, 2.3), (1.6, 0.95), "mix by $g_p$ (3),\nattention over\nbeats: $F_{periodic}$", orange)
    _box(ax, (2.3, 0.15), (1.5, 0.62), "signal\ncharacteristics $\\bar X$", green)
    _box(ax, (4.5, 0.1), (2.15, 0.7), "task embedding $e_t$\ngates: softmax$(U[\\bar X\\oplus e_t])$", green)
    arrow((0.8, 2.88), (2.28, 0.46))
    arrow((3.84, 0.46), (4.46, 0.46))
    arrow((6.7, 0.5), (7.9, 2.27), linestyle="--")
    arrow((6.7, 0.4), (9.6, 3.3), linestyle="--")
    _box(
        ax, (9.1, 3.35), (1.35, 1.1), "fuse (4)\n$\\hat\\alpha_mF_m\\oplus$\n$\\hat\\alpha_pF_{periodic}$\n+ LoRA", pink
    )
    arrow((6.48, 4.95), (9.08, 4.1))
    arrow((8.84, 2.9), (9.2, 3.33))
    for i, task in enumerate(tasks.TASKS.values()):
        y = 5.35 - 0.72 * i
        _box(ax, (10.85, y), (1.1, 0.5), task.title.replace(" abnormality", "\nabnormality"), grey)
        arrow((10.48, 3.9), (10.83, y + 0.25))
    plt.close(fig)
    return fig


def gates(weights: pd.DataFrame, label: str = "mean weight") -> Figure:
    """A heatmap of gate weights: one row a task (or rhythm), one column a choice; rows sum to 1."""
    style()
    width = 1.4 + 0.07 * max(len(str(name)) for name in weights.index) + 0.95 * weights.shape[1]
    fig, ax = plt.subplots(figsize=(width, 1.0 + 0.36 * len(weights)), layout="constrained")
    sns.heatmap(weights, ax=ax, annot=True, fmt=".2f", cmap="crest", vmin=0, cbar_kws={"label": label}, linewidths=0.5)
    ax.set(xlabel="", ylabel="")
    ax.tick_params(axis="y", rotation=0, length=0)
    ax.tick_params(axis="x", length=0)
    ax.set_xticks(ax.get_xticks(), [str(name).replace(", ", "\n") for name in weights.columns])
    plt.close(fig)
    return fig


def training_curves(history: pd.DataFrame) -> Figure:
    """Training and validation loss by epoch, and the validation loss of each task relative to its first epoch."""
    style()
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 2.8), layout="constrained")
    left.plot(history["epoch"], history["train"], label="train (with contrastive term)", color=COLOURS[0])
    left.plot(history["epoch"], history["validation"], label="validation", color=COLOURS[1])
    left.axvline(history["epoch"][history["validation"].argmin()], color="0.5", ls=":", lw=1)
    left.set(xlabel="epoch", ylabel="sum of task losses")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend()
    for i, name in enumerate(history.columns[3:]):
        right.plot(
            history["epoch"],
            history[name] / history[name].iloc[0],
            label=tasks.TASKS[name].title,
            color=COLOURS[i],
        )
    right.set(xlabel="epoch", ylabel="validation loss / first epoch")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend(fontsize=7)
    plt.close(fig)
    return fig


def predictions(cohort: Cohort, predicted: Mapping[str, np.ndarray]) -> Figure:
    """Test records: predicted against labelled values, score histograms of binary tasks, confusion of rhythms."""
    style()
    names = list(cohort.tasks)
    fig, axes = plt.subplots(1, len(names), figsize=(2.3 * len(names) + 1.4, 2.9), layout="constrained", squeeze=False)
    targets, test = cohort.targets(), cohort.split == "test"
    for ax, name in zip(axes[0], names, strict=True):
        task, known = cohort.tasks[name], test & np.isfinite(targets[name])
        y, p = targets[name][known], predicted[name][known]
        ax.set_title(task.title)
        if task.kind == "regression":
            ax.scatter(y, p, s=6, alpha=0.4, color=COLOURS[0], linewidths=0)
            ax.axline((float(y.mean()), float(y.mean())), slope=1, color="0.3", lw=0.8)
            ax.set(xlabel=f"label ({task.unit})", ylabel=f"prediction ({task.unit})")
        elif task.kind == "binary":
            for value, colour in zip((0, 1), (COLOURS[0], COLOURS[1]), strict=True):
                ax.hist(p[y == value], np.linspace(0, 1, 21), alpha=0.6, color=colour, label=task.classes[value])
            ax.set(xlabel=f"probability of “{task.classes[1]}”", ylabel="records")
            ax.legend(fontsize=7)
        else:
            seen = np.flatnonzero(np.bincount(y.astype(int), minlength=len(task.classes)))
            matrix = np.array([[np.mean(p[y == a].argmax(1) == b) for b in seen] for a in seen])
            ax.imshow(matrix, cmap="crest", vmin=0, vmax=1)
            ax.set(xlabel="predicted class", ylabel="labelled class")
            ax.set_xticks(range(len(seen)), [str(c + 1) for c in seen], fontsize=6)
            ax.set_yticks(range(len(seen)), [str(c + 1) for c in seen], fontsize=6)
    plt.close(fig)
    return fig


def scores_by_model(scores: pd.DataFrame, highlight: str, floors: Sequence[str] = ()) -> Figure:
    """Headline metric with its interval by model, a panel a task; floors hollow, one model highlighted.

    The zero predictor is left out: its errors would set the scale.
    """
    style()
    scores = scores[scores["model"] != ZERO]
    names = list(dict.fromkeys(scores["task"]))
    order = list(dict.fromkeys(scores["model"]))
    fig, axes = plt.subplots(
        1, len(names), figsize=(1.55 * len(names) + 1.6, 0.8 + 0.26 * len(order)), sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for ax, name in zip(axes[0], names, strict=True):
        task = tasks.TASKS[name]
        rows = scores[scores["task"] == name].set_index("model")
        for i, model in enumerate(order):
            if model not in rows.index:
                continue
            value, low, high = rows.loc[model, ["value", "low", "high"]]
            colour = COLOURS[1] if model == highlight else "0.45" if model in floors else COLOURS[0]
            ax.plot([low, high], [i, i], color=colour, lw=1.4)
            ax.plot(value, i, "o", color=colour, mfc="white" if model in floors else colour, ms=4.5)
        if name == "rr":
            ax.set_xscale("symlog", linthresh=1)
        arrow = "higher is better" if task.higher_is_better else "lower is better"
        ax.set_title(f"{task.title}\n{arrow}", fontsize=9)
        ax.set_xlabel(metric_axis(task))
        ax.grid(axis="y", color="0.92")
    axes[0, 0].set_yticks(range(len(order)), order)
    axes[0, 0].set_ylim(len(order) - 0.5, -0.5)
    plt.close(fig)
    return fig


def costs(table: pd.DataFrame, column: str = "ms_per_record", label: str = "ms a record, one thread") -> Figure:
    """Bars of a measured cost, longest last, each with its figure."""
    style()
    fig, ax = plt.subplots(figsize=(7.6, 0.7 + 0.3 * len(table)), layout="constrained")
    values = table[column]
    ax.barh(range(len(table)), values, color=COLOURS[0])
    for i, value in enumerate(values):
        ax.text(value, i, f" {value:.3g}", va="center", fontsize=8)
    ax.set_yticks(range(len(table)), table.index)
    ax.invert_yaxis()
    ax.set_xlabel(label)
    ax.margins(x=0.12)
    plt.close(fig)
    return fig
