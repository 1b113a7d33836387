"""Figures of what a model looks at: interventions on a recording, and what each costs."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ecgmoe.interventions import PHASES
from ecgmoe.plots.style import COLOURS, style
from ecgmoe.records import LEADS


def interventions(
    signal: np.ndarray,
    fs: float,
    made: Mapping[str, tuple[np.ndarray, Sequence[np.ndarray]]],
    row: int = 0,
    lead: str = "II",
    seconds: float = 5.0,
) -> Figure:
    """One lead of one record under each intervention, over the recording as it was (grey).

    Parameters
    ----------
    signal : ndarray of shape (records, 12, samples)
        mV, as recorded.
    fs : float
        Sampling rate in Hz.
    made : mapping
        From :func:`ecgmoe.interventions.make_usual` of the same recordings.
    row : int
        Record to show.
    lead : str
    seconds : float
        From the beginning.
    """
    style()
    n, at = round(seconds * fs), LEADS.index(lead)
    fig, axes = plt.subplots(len(made), 1, figsize=(8.6, 0.85 * len(made) + 0.4), sharex=True, layout="constrained")
    time = np.arange(signal.shape[-1])[:n] / fs
    for ax, (phase, (changed, peaks)) in zip(np.atleast_1d(axes), made.items(), strict=True):
        ax.plot(time, signal[row, at, :n], color="0.72", lw=1.0)
        ax.plot(time, changed[row, at, :n], color=COLOURS[0], lw=1.0)
        shown = peaks[row][peaks[row] < n]
        height = np.interp(shown, np.arange(signal.shape[-1]), changed[row, at])
        ax.plot(shown / fs, height, "o", color=COLOURS[3], ms=3.5, mfc="none", mew=1)
        ax.set_ylabel(phase, rotation=0, ha="right", va="center", fontweight="bold")
        ax.set(yticks=[])
        ax.spines["left"].set_visible(False)
    np.atleast_1d(axes)[-1].set_xlabel("time (s)")
    plt.close(fig)
    return fig


def phase_attribution(found: pd.DataFrame, true: Mapping[str, Sequence[str]] | None = None) -> Figure:
    """Rise of the loss by group and phase: each row coloured by its own largest value, since units differ.

    Parameters
    ----------
    found : DataFrame
        From :func:`ecgmoe.attribution.attribution`. Values whose interval lies above 0 are bold.
    true : mapping of str to sequence of str, optional
        Phases to be framed, by group: the known cause.

    Notes
    -----
    Without any group the figure says so.
    """
    style()
    groups = list(dict.fromkeys(found["group"]))
    if not groups:
        fig, ax = plt.subplots(figsize=(5, 0.6))
        ax.axis("off")
        ax.text(0.5, 0.5, "no recording of these groups", ha="center", va="center")
        plt.close(fig)
        return fig
    wide = found.pivot(index="group", columns="phase", values="value").loc[groups, list(PHASES)]
    low = found.pivot(index="group", columns="phase", values="low").loc[groups, list(PHASES)]
    share = wide.clip(lower=0).div(wide.max(axis=1).clip(lower=1e-9), axis=0)
    width = 1.6 + 0.075 * max(map(len, groups)) + 0.8 * len(PHASES)
    fig, ax = plt.subplots(figsize=(width, 0.9 + 0.42 * len(groups)), layout="constrained")
    label = "share of the largest in the row"
    sns.heatmap(share, ax=ax, annot=wide, fmt=".2f", cmap="crest", vmin=0, vmax=1, cbar_kws={"label": label}, lw=0.5)
    for text, clear in zip(ax.texts, (low.to_numpy() > 0).ravel(), strict=True):
        text.set_fontweight("bold" if clear else "normal")
    for row, group in enumerate(groups):
        for phase in (true or {}).get(group, ()):
            place = (PHASES.index(phase) + 0.04, row + 0.06)
            ax.add_patch(Rectangle(place, 0.92, 0.88, fill=False, ec=COLOURS[3], lw=2.2))
    ax.set(xlabel="part of the cycle that was made usual", ylabel="")
    ax.tick_params(axis="both", length=0)
    ax.tick_params(axis="y", rotation=0)
    plt.close(fig)
    return fig
