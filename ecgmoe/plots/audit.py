"""Figures of the paper's printed numbers beside what explains them."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ecgmoe import paper, tasks
from ecgmoe.plots.style import COLOURS, INK, style


def printed_zero_shot(table: paper.Table, mean_rr: float) -> Figure:
    """Draw what trivial predictors say of the paper's figures: RR errors by an untrained head, and F1 of one class.

    Parameters
    ----------
    table : mapping
        ``paper.TABLE_1``.
    mean_rr : float
        Mean RR interval of the population, ms: the error of predicting 0.

    Returns
    -------
    Figure
        Left: RR error of each backbone against ``mean_rr``. Right: macro-F1 of a classifier that names one class only,
        over the share of the other class.
    """
    style()
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.1), layout="constrained", width_ratios=[1.15, 1])
    models = list(table)
    cells = [table[model]["rr"] for model in models]
    left.axvline(mean_rr, color=COLOURS[3], label=f"predicting 0: {mean_rr:.1f} ms")
    left.errorbar(
        [cell.mean for cell in cells],
        range(len(models)),
        xerr=[cell.spread or 0.0 for cell in cells],
        fmt="o",
        color=COLOURS[0],
        capsize=3,
        label="Table 1: mean ± spread",
    )
    left.set(yticks=range(len(models)), yticklabels=models, ylim=(len(models) - 0.5, -1.6), xlabel="RR error, ms")
    left.set_title("An untrained head predicts about 0", loc="left")
    left.legend(loc="upper left", ncols=2, fontsize=8, handlelength=1.2, columnspacing=1.0)

    share = np.linspace(0.005, 0.6, 200)
    f1 = [paper.majority_macro_f1(p) for p in share]
    right.plot(100 * share, f1, color=COLOURS[3], label="names the other class only")
    right.hlines([0.49, 0.50], 0, 8, color=COLOURS[0], linewidth=1, linestyles="dashed")
    right.text(9, 0.52, "fine-tuned potassium of MOMENT,\nECG-FM, TEMPO: 0.49-0.50", color=COLOURS[0], va="center")
    right.hlines([0.33, 0.34], 44, 56, color=COLOURS[2], linewidth=1, linestyles="dashed")
    right.text(43, 0.335, "zero-shot sex of\nECG-FM, MOMENT:\n0.33-0.34", color=COLOURS[2], va="center", ha="right")
    right.set(xlabel="share of the class that is never named, %", ylabel="macro-F1", xlim=(0, 60), ylim=(0.25, 0.56))
    right.set_title("Macro-F1 without looking", loc="left")
    right.legend(loc="lower left", fontsize=8)
    plt.close(fig)
    return fig


def printed_against_constants(
    table: paper.Table,
    constants: Mapping[str, Sequence[tuple[float, str]]],
    others: str = "backbone, fine-tuned",
) -> Figure:
    """Draw a table of the paper, one panel a task, with lines where predictors that look at nothing would be.

    Parameters
    ----------
    table : mapping
        ``paper.TABLE_2`` or another.
    constants : mapping of str to sequence of (value, label)
        Lines by task; may be empty.
    others : str
        What the rows beside ECG-MoE are.

    Returns
    -------
    Figure
    """
    style()
    fig, axes = plt.subplots(2, 3, figsize=(8.2, 4.9), layout="constrained")
    models = list(table)
    for ax, (name, task) in zip(axes.flat, tasks.TASKS.items(), strict=False):
        cells = [table[model][name] for model in models]
        colours = [COLOURS[1] if model == "ECG-MoE" else COLOURS[0] for model in models]
        ax.barh(models, [c.mean for c in cells], xerr=[c.spread or 0.0 for c in cells], color=colours, height=0.7)
        for i, (value, label) in enumerate(constants.get(name, ())):
            ax.axvline(value, color=(COLOURS[3], INK)[i], linestyle=("-", ":")[i], linewidth=1.5, label=label)
        ax.set(ylim=(len(models) - 0.5, -1.9 if constants else -0.5))
        ax.set_xlabel({"rr": "MAE, ms", "age": "MAE, years", "rhythm": "accuracy"}.get(name, "F1"))
        ax.set_title(f"{task.title} {'↑' if task.higher_is_better else '↓'}", loc="left")
        if constants.get(name):
            ax.legend(
                loc="upper right", fontsize=7.5, handlelength=1.5, borderaxespad=0.0,
                frameon=True, framealpha=1.0, edgecolor="none",
            )  # fmt: skip
        if ax not in axes[:, 0]:
            ax.set_yticklabels([])
    axes.flat[-1].axis("off")
    swatches = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[i]) for i in (1, 0)]
    axes.flat[-1].legend(swatches, ["ECG-MoE", others], loc="center left", fontsize=9)
    plt.close(fig)
    return fig


def claimed_and_recomputed(rows: Sequence[tuple[str, float, Mapping[str, float]]], unit: str) -> Figure:
    """Draw claimed figures (a bar across) beside what the tables give (points with names).

    Parameters
    ----------
    rows : sequence of (claim, claimed value, recomputed values by name)
    unit : str
        Label of the axis.

    Returns
    -------
    Figure
    """
    style()
    fig, ax = plt.subplots(figsize=(8.2, 0.75 * len(rows) + 1.0), layout="constrained")
    for y, (_, claimed, found) in enumerate(rows):
        near = min(found.values(), key=lambda value: abs(value - claimed))
        ok = round(near, 1) == round(claimed, 1)
        ax.plot([claimed, claimed], [y - 0.33, y + 0.33], color=COLOURS[3], linewidth=3, label="" if y else "claimed")
        at = [y] * len(found)
        ax.scatter(list(found.values()), at, color=COLOURS[0], zorder=3, label="" if y else "recomputed")
        for i, (name, value) in enumerate(sorted(found.items(), key=lambda item: item[1])):
            below = i % 2 and not ok
            ax.annotate(
                f"{name} {value:.1f}",
                (value, y),
                xytext=(9, 0) if ok else (0, -7 if below else 7),
                textcoords="offset points",
                ha="left" if ok else "center",
                va="center" if ok else "top" if below else "bottom",
                fontsize=8,
            )
    ax.set(yticks=range(len(rows)), yticklabels=[row[0] for row in rows], ylim=(len(rows) - 0.4, -1), xlabel=unit)
    ax.margins(x=0.1)
    ax.legend(loc="upper right", ncols=2)
    plt.close(fig)
    return fig
