"""Figures of what a pass costs and how that grows, and of what is lost where fewer backbones run."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ecgmoe import backbones, tasks
from ecgmoe.plots.style import COLOURS, INK, style
from ecgmoe.scaling import AXES, BACKBONES, PRECISION, UNCUT, WINDOWS, of

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


def scaling(runs: Mapping[str, pd.DataFrame]) -> Figure:
    """How the time of a pass grows, a panel each thing that is varied; dashed, what arithmetic alone would take.

    Parameters
    ----------
    runs : mapping of str to DataFrame
        From :func:`ecgmoe.scaling.measure`, by the words for the machine and the sizes; their settings may differ. All
        is drawn as a percentage of the time a record that the run's first setting takes.
    """
    style()
    fig, axes = plt.subplots(2, 3, figsize=(8.6, 4.6), layout="constrained")
    for ax, axis in zip(axes.flat, AXES, strict=True):
        parts = {name: of(table, axis) for name, table in runs.items()}
        settings = list(dict.fromkeys(setting for rows in parts.values() for setting in rows.index))
        if axis != PRECISION:
            settings.sort(reverse=axis == BACKBONES)
        place = {setting: setting if axis in (WINDOWS, UNCUT) else i for i, setting in enumerate(settings)}
        for i, (name, rows) in enumerate(parts.items()):
            at, colour = rows.index.map(place), COLOURS[i % len(COLOURS)]
            bound = 1000 / rows["bound_records_per_s"] / rows["ms_per_record"].iloc[0]
            ax.plot(at, 100 * rows["relative"], "o-", color=colour, ms=4, lw=1.4, label=name)
            ax.plot(at, 100 * bound, "--", color=colour, lw=1.0)
        ax.set_xticks(list(place.values()), [str(setting) for setting in place])
        ax.margins(x=0.08, y=0.1)
        ax.set(xlabel=axis, ylim=(0, None))
    fig.supylabel("time a record, % of the first setting", fontsize=9)
    handles, _ = axes.flat[0].get_legend_handles_labels()
    handles.append(Line2D([], [], color=INK, ls="--", lw=1.0, label="bound by arithmetic"))
    fig.legend(handles=handles, ncols=len(handles), loc="outside lower center", fontsize=8)
    plt.close(fig)
    return fig
