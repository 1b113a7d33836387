"""Figures of what results can be relied on for: calibration, subgroups, disturbed recordings."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ecgmoe import reliability, robustness, tasks
from ecgmoe.plots.style import COLOURS, metric_axis, style


def calibration_curves(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Observed against claimed shares, a panel a task; the diagonal is a model whose probabilities are right.

    Parameters
    ----------
    curves : mapping of str to DataFrame
        From :func:`ecgmoe.reliability.reliability_curve`, by model.
    """
    style()
    names = [name for name in tasks.TASKS if any(name in set(curve["task"]) for curve in curves.values())]
    fig, axes = plt.subplots(1, len(names), figsize=(2.7 * len(names) + 0.4, 3.3), layout="constrained", squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        ax.axline((0, 0), slope=1, color="0.5", lw=0.8)
        for i, (model, curve) in enumerate(curves.items()):
            rows = curve[curve["task"] == name]
            if rows.empty:
                continue
            spread = np.abs(rows[["low", "high"]].to_numpy().T - rows["observed"].to_numpy())
            ax.errorbar(
                rows["claimed"], rows["observed"], spread, fmt="os^D"[i % 4] + "-", ms=3.5, lw=1.2, elinewidth=0.8,
                color=COLOURS[(1, 0, 2, 4)[i % 4]], label=model, alpha=0.9,
            )  # fmt: skip
        task = tasks.TASKS[name]
        binary = task.kind == "binary"
        ax.set_title(task.title)
        ax.set_xlabel(f"probability of “{task.classes[1]}”" if binary else "probability of the named class")
        ax.set_ylabel(f"share that is “{task.classes[1]}”" if binary else "share that is right")
        ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    shown = {label: line for ax in axes.flat for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=4)
    plt.close(fig)
    return fig


def subgroup_scores(scores: pd.DataFrame, whole: pd.DataFrame) -> Figure:
    """Headline metric by sex and by age band with intervals, a panel a task; the line is that of all records.

    Parameters
    ----------
    scores : DataFrame
        From :func:`ecgmoe.reliability.subgroups`, of one model.
    whole : DataFrame
        From :func:`ecgmoe.evaluation.score_table`, of the same model.
    """
    style()
    names = [name for name in tasks.TASKS if name in set(scores["task"])]
    scores = scores[scores["group"] != reliability.UNKNOWN]
    groups = list(dict.fromkeys(zip(scores["by"], scores["group"], strict=True)))
    fig, axes = plt.subplots(
        1, len(names), figsize=(1.55 * len(names) + 1.2, 0.9 + 0.3 * len(groups)), sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for ax, name in zip(axes[0], names, strict=True):
        task = tasks.TASKS[name]
        ax.axvline(float(whole.loc[whole["task"] == name, "value"].iloc[0]), color="0.6", lw=1, ls=":")
        rows = scores[scores["task"] == name]
        values = rows[["value", "low", "high"]].to_numpy(float)
        found = dict(zip(zip(rows["by"], rows["group"], strict=True), values, strict=True))
        for i, group in enumerate(groups):
            value, low, high = found.get(group, np.full(3, np.nan))
            if np.isnan(value):
                ax.text(0.5, i, "–", transform=ax.get_yaxis_transform(), ha="center", va="center", color="0.3", size=12)
                continue
            colour = COLOURS[0] if group[0] == "sex" else COLOURS[2]
            ax.plot([low, high], [i, i], color=colour, lw=1.4)
            ax.plot(value, i, "o", color=colour, ms=4.5)
        ax.set_title(f"{task.title}\n{'higher' if task.higher_is_better else 'lower'} is better", fontsize=9)
        ax.set_xlabel(metric_axis(task))
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.grid(axis="y", color="0.92")
    most = scores.groupby(["by", "group"], sort=False)["n"].max()
    axes[0, 0].set_yticks(range(len(groups)), [f"{group} ({most[by, group]})" for by, group in groups])
    axes[0, 0].set_ylim(len(groups) - 0.5, -0.5)
    plt.close(fig)
    return fig


def robustness_curves(curves: pd.DataFrame, highlight: str, floors: Sequence[str] = ()) -> Figure:
    """Headline metric against the strength of a disturbance: a row a kind, a panel a task, a line a model.

    Parameters
    ----------
    curves : DataFrame
        From :func:`ecgmoe.robustness.curves`.
    highlight : str
        Model whose line is thick, with its interval.
    floors : sequence of str
        Models whose lines are dashed.
    """
    style()
    kinds = [kind for kind in robustness.KINDS if kind in set(curves["kind"])]
    names = [name for name in tasks.TASKS if name in set(curves["task"])]
    models = list(dict.fromkeys(curves["model"]))
    others = [model for model in models if model != highlight and model not in floors]
    hues = dict(zip(others, (COLOURS[i] for i in (0, 2, 3, 4, 9, 5, 6, 8)), strict=False))
    fig, axes = plt.subplots(
        len(kinds), len(names), figsize=(1.75 * len(names) + 0.5, 1.75 * len(kinds) + 0.8), sharey="col",
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for row, kind in zip(axes, kinds, strict=True):
        for ax, name in zip(row, names, strict=True):
            task = tasks.TASKS[name]
            here = curves[(curves["kind"] == kind) & (curves["task"] == name)]
            at = {strength: i for i, strength in enumerate(dict.fromkeys(here["strength"]))}
            for i, model in enumerate(models):
                own = here[here["model"] == model]
                if own.empty:
                    continue
                x = [at[strength] for strength in own["strength"]]
                if model == highlight:
                    look: dict[str, object] = {"color": COLOURS[1], "lw": 2.0, "zorder": 3}
                    ax.fill_between(x, own["low"], own["high"], color=COLOURS[1], alpha=0.18, lw=0)
                elif model in floors:
                    look = {"color": "0.35", "lw": 1.1, "ls": ("--", ":")[list(floors).index(model) % 2]}
                else:
                    look = {"color": hues.get(model, "0.6"), "lw": 1.0}
                ax.plot(x, own["value"], marker="os^Dv<>P"[i % 8], ms=3, label=model, **look)
            ax.set_xticks(list(at.values()), [f"{strength:g}" for strength in at])
            if name == "rr":
                ax.set_yscale("symlog", linthresh=10)
            if kind == kinds[0]:
                better = "higher" if task.higher_is_better else "lower"
                ax.set_title(f"{task.title}\n{better} is better", fontsize=8.5)
            ax.set_ylabel(metric_axis(task), fontsize=7.5)
            ax.tick_params(labelsize=7)
            ax.margins(x=0.08)
        row[len(names) // 2].set_xlabel(f"{robustness.KINDS[kind].title}: {robustness.KINDS[kind].axis}", fontsize=8.5)
    shown = {label: line for ax in axes.flat for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend([shown[model] for model in models], models, loc="outside lower center", ncols=4, fontsize=8)
    plt.close(fig)
    return fig
