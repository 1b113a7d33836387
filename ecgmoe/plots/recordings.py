"""Figures of recordings and their labels."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ecgmoe import tasks
from ecgmoe.datasets import Cohort
from ecgmoe.plots.style import INK, SPLIT_COLOURS, style
from ecgmoe.records import LEADS

_PAPER, _FINE, _COARSE = "#fffaf8", "#f6d9d4", "#e8a79d"


def ecg_paper(signal: np.ndarray, fs: float, leads: Sequence[str] = LEADS, title: str | None = None) -> Figure:
    """Draw a recording as a clinic prints it: 25 mm a second, 10 mm a millivolt, with a calibration pulse.

    Twelve leads come as four columns of 2.5 seconds over three rows, with the whole of lead II as a rhythm strip below;
    any other number of leads as one full row each. Small squares are 1 mm (40 ms, 0.1 mV), large ones 5 mm.

    Parameters
    ----------
    signal : ndarray of shape (leads, samples)
        mV.
    fs : float
        Sampling rate in Hz.
    leads : sequence of str
    title : str, optional

    Returns
    -------
    Figure
    """
    style()
    seconds = signal.shape[1] / fs
    if tuple(leads) == LEADS:
        width = seconds / 4
        strips = [(lead, i % 3, i // 3 * width, i // 3 * width, width) for i, lead in enumerate(LEADS)]
        strips.append(("II", 3, 0.0, 0.0, seconds))
        n_rows = 4
    else:
        strips = [(lead, row, 0.0, 0.0, seconds) for row, lead in enumerate(leads)]
        n_rows = len(strips)

    row_mv, margin_s = 2.5, 0.5
    top, bottom = 2.0, -(n_rows - 1) * row_mv - 1.5
    size_mm = np.array([(seconds + 1.5 * margin_s) * 25, (top - bottom) * 10])
    fig, ax = plt.subplots(figsize=size_mm / 25.4, layout="constrained")
    ax.set(xlim=(-margin_s, seconds + margin_s / 2), ylim=(bottom, top), aspect=0.4, facecolor=_PAPER)
    for step_s, step_mv, colour, line in ((0.04, 0.1, _FINE, 0.3), (0.2, 0.5, _COARSE, 0.5)):
        ax.vlines(np.arange(-margin_s, seconds + margin_s, step_s), bottom, top, colour, linewidth=line, zorder=0)
        ax.hlines(np.arange(bottom, top, step_mv), *ax.get_xlim(), colour, linewidth=line, zorder=0)
    for row in range(n_rows):
        at = -margin_s + np.array([0.08, 0.14, 0.14, 0.34, 0.34, 0.40])
        ax.plot(at, np.array([0, 0, 1, 1, 0, 0]) - row * row_mv, color=INK, linewidth=0.8)
    for lead, row, place, start, length in strips:
        part = slice(round(start * fs), round((start + length) * fs))
        lead_mv = signal[list(leads).index(lead), part]
        ax.plot(place + np.arange(len(lead_mv)) / fs, lead_mv - row * row_mv, color=INK, linewidth=0.8)
        halo = {"facecolor": _PAPER, "edgecolor": "none", "pad": 0.8, "alpha": 0.8}
        ax.text(place + 0.05, 0.95 - row * row_mv, lead, fontsize=9, fontweight="bold", bbox=halo, zorder=1.5)
    if title:
        ax.set_title(title, loc="left")
    ax.text(1.0, -0.01, "25 mm/s    10 mm/mV", transform=ax.transAxes, ha="right", va="top", fontsize=8)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(visible=True, color=_COARSE)
    plt.close(fig)
    return fig


def rhythm_strips(cohort: Cohort) -> Figure:
    """Draw lead II of the first training record of each rhythm class (of any record where training has none)."""
    strips = {}
    for rhythm in tasks.RHYTHMS:
        of_class = (cohort.table["rhythm"] == rhythm).to_numpy()
        rows = np.flatnonzero(of_class & (cohort.split == "train"))
        rows = rows if len(rows) else np.flatnonzero(of_class)
        if len(rows):
            strips[rhythm] = cohort.signal[rows[0], LEADS.index("II")]
    strips = strips or {"II": cohort.signal[0, LEADS.index("II")]}
    centred = np.stack([strip - np.median(strip) for strip in strips.values()])
    return ecg_paper(centred, cohort.fs, leads=tuple(strips))


def rhythm_counts(cohort: Cohort) -> Figure:
    """Draw the number of records of each rhythm class, by split, on a logarithmic axis."""
    style()
    table = cohort.table.assign(split=cohort.split)
    counts = table.groupby(["rhythm", "split"]).size().unstack(fill_value=0)
    counts = counts.reindex([name for name in tasks.RHYTHMS if name in counts.index])
    fig, ax = plt.subplots(figsize=(7.5, 0.36 * len(counts) + 1.2), layout="constrained")
    splits = [name for name in SPLIT_COLOURS if name in counts]
    height = 0.8 / max(1, len(splits))
    for i, name in enumerate(splits):
        at = np.arange(len(counts)) + (i - (len(splits) - 1) / 2) * height
        ax.barh(at, counts[name], height, color=SPLIT_COLOURS[name], label=name)
    ax.set(
        xscale="log",
        xlabel="records",
        yticks=range(len(counts)),
        yticklabels=counts.index,
        ylim=(len(counts), -1),
        xlim=(0.8, None),
    )
    ax.xaxis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.legend(loc="lower right")
    plt.close(fig)
    return fig


#: Columns whose distribution is worth a look, with title and unit.
_LABELS: Mapping[str, tuple[str, str]] = {
    "age": ("Age", "years"),
    "rr_interval": ("RR interval", "ms"),
    "potassium": ("Potassium", "mmol/l"),
}


def label_distributions(cohort: Cohort) -> Figure:
    """Draw the distributions of age, RR interval and, where it is known, potassium, by split.

    Censored ages are left out, as they are of every age figure.
    """
    style()
    table = cohort.table.assign(age=cohort.table["age"].mask(cohort.table["age"] > tasks.AGE_CENSORED_ABOVE))
    shown = [column for column in _LABELS if table[column].notna().any()]
    fig, axes = plt.subplots(1, len(shown), figsize=(3.1 * len(shown), 2.7), layout="constrained", squeeze=False)
    for ax, column in zip(axes[0], shown, strict=True):
        _histogram(ax, table[column], cohort.split)
        title, unit = _LABELS[column]
        ax.set(title=title, xlabel=unit)
    axes[0, 0].set_ylabel("share of the split")
    axes[0, -1].legend()
    plt.close(fig)
    return fig


def _histogram(ax: Axes, values: pd.Series, split: np.ndarray) -> None:
    edges = np.histogram_bin_edges(values.dropna(), bins=24)
    for name, colour in SPLIT_COLOURS.items():
        part = values[split == name].dropna()
        if len(part):
            weights = np.full(len(part), 1 / len(part))
            ax.hist(part, edges.tolist(), weights=weights, histtype="step", color=colour, linewidth=1.4, label=name)


def label_coverage(cohort: Cohort) -> Figure:
    """Draw, for each task and split, the share of records that have a label."""
    style()
    splits = [name for name in SPLIT_COLOURS if (cohort.split == name).any()]
    share = np.array(
        [
            [np.isfinite(task.targets(cohort.table[cohort.split == name])).mean() for name in splits]
            for task in tasks.TASKS.values()
        ]
    )
    fig, ax = plt.subplots(figsize=(4.8, 2.6), layout="constrained")
    sns.heatmap(
        100 * share,
        annot=True,
        fmt=".1f",
        cmap="Blues",
        vmin=0,
        vmax=220,  # light enough for dark text
        cbar=False,
        linewidths=2,
        annot_kws={"color": INK},
        xticklabels=splits,
        yticklabels=[task.title for task in tasks.TASKS.values()],
        ax=ax,
    )
    ax.set_title("records with a label, %")
    ax.tick_params(length=0)
    plt.setp(ax.get_yticklabels(), rotation=0)
    plt.close(fig)
    return fig


def lead_quality(quality: np.ndarray, rhythm: pd.Series) -> Figure:
    """Draw the mean signal quality of each lead for the records of each rhythm class.

    Parameters
    ----------
    quality : ndarray of shape (records, 12)
        From 0 to 1, as from :func:`ecgmoe.beats.signal_quality`.
    rhythm : Series of shape (records,)

    Returns
    -------
    Figure
    """
    style()
    mean = pd.DataFrame(quality, columns=list(LEADS)).groupby(rhythm.to_numpy()).mean()
    mean = mean.reindex([name for name in tasks.RHYTHMS if name in mean.index])
    fig, ax = plt.subplots(figsize=(8.6, 0.32 * len(mean) + 1.0), layout="constrained")
    options = {"annot": True, "fmt": ".2f", "vmin": 0, "vmax": 1, "cmap": "cividis", "cbar": False, "linewidths": 1}
    sns.heatmap(mean, ax=ax, annot_kws={"fontsize": 7}, **options)
    ax.set(ylabel="")
    ax.tick_params(length=0)
    plt.setp(ax.get_yticklabels(), rotation=0)
    plt.close(fig)
    return fig
