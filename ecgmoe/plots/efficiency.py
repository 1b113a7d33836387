"""Figures of what a pass costs and how that grows, and of what is lost where fewer backbones run."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ecgmoe import backbones, tasks
from ecgmoe.plots.style import COLOURS, INK, style
from ecgmoe.scaling import BACKBONES, BATCH, PRECISION, TASKS, UNCUT, WINDOWS, of

_LOST = {"rr": "ms", "age": "years"}


def tradeoff(scores: pd.DataFrame, relative: pd.Series) -> Figure:
    """What is lost on the validation part against the time of a pass, a panel a task and a point a k.

    Parameters
    ----------
    scores : DataFrame
        Of :class:`ecgmoe.tradeoff.Tradeoff`. Dots are trainings with their intervals, the line joins means over seeds.
    relative : Series
        Time of a pass by ``k``, as a multiple of that of all backbones (k = 0).
    """
    style()
    names = [name for name in tasks.TASKS if name in set(scores["task"])]
    fig, axes = plt.subplots(1, len(names), figsize=(8.6, 2.5), layout="constrained", squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        task = tasks.TASKS[name]
        own = scores[scores["task"] == name]
        ax.axhline(0, color="0.6", lw=0.8)
        if task.kind != "regression":
            ax.axhline(1, color=COLOURS[3], lw=0.9, ls="--")
        x = 100 * own["k"].map(relative)
        shift = (own["seed"] - own["seed"].mean()) * 1.2
        bars = np.stack([own["lost"] - own["low"], own["high"] - own["lost"]]).clip(min=0)
        ax.errorbar(x + shift, own["lost"], bars, fmt="o", ms=2.8, lw=0.8, color=COLOURS[0], alpha=0.55)
        mean = own.groupby("k")["lost"].mean()
        at = (100 * relative.reindex(mean.index)).sort_values()
        ax.plot(at, mean[at.index], color=COLOURS[0], lw=1.3)
        for k in at.index:
            label = "all" if k == 0 else str(k)
            aside = -5 if k == 2 else 4  # neighbours that take the same time stay legible
            side = "right" if k == 2 else "left"
            ax.annotate(label, (at[k], mean[k]), (aside, 3), textcoords="offset points", ha=side, color=INK, fontsize=8)
        ax.set_title(task.title)
        ax.set_ylabel(f"lost, {_LOST.get(name, 'points')}")
        ax.set_xlim(0, 112)
    fig.supxlabel("time of a pass, % of that with all backbones", fontsize=9)
    plt.close(fig)
    return fig


def router_load(shares: pd.DataFrame) -> Figure:
    """On how many of the records each backbone runs, a group of bars a k, mean over seeds.

    Parameters
    ----------
    shares : DataFrame
        ``load`` of :class:`ecgmoe.tradeoff.Tradeoff`.
    """
    style()
    mean = shares[shares["k"] > 0].drop(columns="seed").groupby("k").mean().sort_index(ascending=False)
    fig, ax = plt.subplots(figsize=(7.6, 2.4), layout="constrained")
    width = 0.8 / mean.shape[1]
    for m, name in enumerate(mean):
        at = np.arange(len(mean)) + (m - (mean.shape[1] - 1) / 2) * width
        ax.bar(at, 100 * mean[name], width * 0.92, color=COLOURS[m], label=backbones.TITLES[str(name)])
    for i, k in enumerate(mean.index):
        even = 100 * k / mean.shape[1]
        ax.plot([i - 0.43, i + 0.43], [even, even], color=INK, lw=0.9, ls="--", label="even load" if i == 0 else None)
    ax.set_xticks(range(len(mean)), [f"k = {k}" for k in mean.index])
    ax.set(ylabel="records that it runs on, %", ylim=(0, 103))
    ax.legend(ncols=6, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), columnspacing=1.0, handlelength=1.2)
    plt.close(fig)
    return fig


def scaling(table: pd.DataFrame) -> Figure:
    """How a pass grows, a panel each thing that is varied, and the bound by arithmetic beside each as a dashed line.

    Parameters
    ----------
    table : DataFrame
        From :func:`ecgmoe.scaling.measure`.
    """
    style()
    fig, axes = plt.subplots(2, 3, figsize=(8.6, 4.6), layout="constrained")
    latency, rate, precision, k, asked, length = axes.flat
    batch = of(table, BATCH)
    for ax, column, title in ((latency, "pass_ms", "time of a pass, ms"), (rate, "records_per_s", "records a second")):
        _measured(ax, batch, column, title)
        ax.set(xscale="log", xlabel=BATCH)
        ax.set_xticks(batch.index, [str(n) for n in batch.index], minor=False)
        ax.minorticks_off()
    latency.set_yscale("log")
    for ax, axis in ((precision, PRECISION), (k, BACKBONES), (asked, TASKS)):
        rows = of(table, axis)
        _measured(ax, rows.set_axis(range(len(rows))), "ms_per_record", "ms a record")
        ax.set_xticks(range(len(rows)), [str(setting) for setting in rows.index])
        ax.set(xlabel=axis, xlim=(-0.5, len(rows) - 0.5))
    _measured(length, of(table, WINDOWS), "ms_per_record", "ms a recording", label="measured, cut into windows")
    _measured(length, of(table, UNCUT), "ms_per_record", "ms a recording", colour=1, label="measured, uncut")
    length.set(xlabel="seconds of a recording", xticks=of(table, UNCUT).index)
    for ax in axes.flat[1:]:
        ax.set_ylim(0, None)
    cut, bound, uncut, _ = length.lines
    fig.legend(handles=[cut, uncut, bound], ncols=3, loc="outside lower center", fontsize=8)
    plt.close(fig)
    return fig


def _measured(ax: Axes, rows: pd.DataFrame, column: str, title: str, colour: int = 0, label: str = "measured") -> None:
    """Draw a column of measurements as dots on a line, and what arithmetic alone would allow, dashed."""
    bound = rows["bound_records_per_s"]
    if column != "records_per_s":
        bound = 1000 / bound * (rows["records"] if column == "pass_ms" else 1)
    ax.plot(rows.index, rows[column], "o-", color=COLOURS[colour], ms=4, lw=1.4, label=label)
    ax.plot(rows.index, bound, "--", color=COLOURS[colour] if colour else INK, lw=1.0, label="bound by arithmetic")
    ax.set_title(title)
