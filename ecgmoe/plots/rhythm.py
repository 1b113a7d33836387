"""Figures of beats and RR intervals."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ecgmoe import paper
from ecgmoe.beats import Beats
from ecgmoe.plots.style import COLOURS, style
from ecgmoe.records import LEADS


def peaks_on_strip(signal: np.ndarray, fs: float, peaks: np.ndarray, title: str = "", lead: str = "II") -> Figure:
    """One lead with the detected R-peaks marked and the RR intervals between them written in ms."""
    style()
    fig, ax = plt.subplots(figsize=(8.6, 2.3), layout="constrained")
    x = signal[LEADS.index(lead)]
    seconds = np.arange(len(x)) / fs
    ax.plot(seconds, x, color="0.15", lw=0.8)
    height = np.interp(peaks, np.arange(len(x)), x)
    ax.plot(peaks / fs, height, "o", color=COLOURS[3], ms=5, mfc="none", mew=1.5)
    top = x.max() + 0.15 * np.ptp(x)
    for left, right in zip(peaks, peaks[1:], strict=False):
        ax.annotate("", (left / fs, top), (right / fs, top), arrowprops={"arrowstyle": "<->", "color": COLOURS[0]})
        middle = (left + right) / 2 / fs
        ax.text(middle, top + 0.03 * np.ptp(x), f"{(right - left) / fs * 1000:.0f}", ha="center", fontsize=7)
    ax.set(xlabel="time (s)", ylabel=f"lead {lead} (mV)", title=title, ylim=(None, top + 0.2 * np.ptp(x)))
    plt.close(fig)
    return fig


def trust_in_beats(
    signal: np.ndarray, fs: float, peaks: np.ndarray, confidence: np.ndarray, ectopic: np.ndarray, lead: str = "II"
) -> Figure:
    """One lead with the confidence of each beat written above it; beats that come early are filled."""
    style()
    fig, ax = plt.subplots(figsize=(8.6, 2.3), layout="constrained")
    x = signal[LEADS.index(lead)]
    ax.plot(np.arange(len(x)) / fs, x, color="0.15", lw=0.8)
    height = np.interp(peaks, np.arange(len(x)), x)
    for early, fill, text in ((False, "none", "beat"), (True, COLOURS[3], "early beat")):
        at = ectopic == early
        ax.plot(peaks[at] / fs, height[at], "o", color=COLOURS[3], ms=6, mfc=fill, mew=1.5, label=text)
    top = x.max() + 0.1 * np.ptp(x)
    for peak, sure in zip(peaks, confidence, strict=True):
        ax.text(peak / fs, top, f"{sure:.2f}", ha="center", fontsize=7)
    ax.set(xlabel="time (s)", ylabel=f"lead {lead} (mV)", ylim=(None, top + 0.15 * np.ptp(x)))
    ax.legend(loc="lower right", ncols=2)
    plt.close(fig)
    return fig


def aligned_beats(beats: Beats, rows: Mapping[str, int], lead: str = "II") -> Figure:
    """All beats of a few records laid over each other, with their mean; phase in parts of the RR interval."""
    style()
    fig, axes = plt.subplots(1, len(rows), figsize=(8.6, 2.6), sharey=False, layout="constrained", squeeze=False)
    for ax, (name, row) in zip(axes[0], rows.items(), strict=True):
        beat_NL = beats.beat_BNCL[row, beats.mask_BN[row], LEADS.index(lead)].numpy()
        phase = np.linspace(-1 / 3, 2 / 3, beat_NL.shape[1])
        ax.plot(phase, beat_NL.T, color=COLOURS[0], alpha=0.35, lw=0.8)
        ax.plot(phase, beat_NL.mean(0), color="0.1", lw=1.6)
        ax.axvline(0, color=COLOURS[3], lw=0.8, ls="--")
        ax.set(title=f"{name}\n{len(beat_NL)} beats", xlabel="cardiac phase")
    axes[0, 0].set_ylabel(f"lead {lead} (mV)")
    plt.close(fig)
    return fig


def rr_agreement(label_ms: np.ndarray, detected_ms: np.ndarray) -> Figure:
    """Mean RR interval by the detector against the label, and how the difference is distributed."""
    style()
    known = np.isfinite(label_ms) & np.isfinite(detected_ms)
    label_ms, error = label_ms[known], (detected_ms - label_ms)[known]
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.0), layout="constrained")
    left.scatter(label_ms, label_ms + error, s=6, alpha=0.4, color=COLOURS[0], linewidths=0)
    left.axline((800, 800), slope=1, color="0.3", lw=0.8)
    left.set(xlabel="label: mean RR interval (ms)", ylabel="R-peak detector (ms)", aspect="equal")
    shares = np.arange(1, len(error) + 1) / len(error)
    right.plot(np.sort(np.abs(error)), shares, color=COLOURS[0])
    printed = paper.TABLE_2["ECG-MoE"]["rr"].mean
    right.axvline(printed, color=COLOURS[3], ls="--", lw=1)
    right.text(
        0.92 * paper.TABLE_2["ECG-MoE"]["rr"].mean,
        0.1,
        "MAE of ECG-MoE\nin the paper",
        color=COLOURS[3],
        ha="right",
        fontsize=8,
    )
    right.set(xscale="symlog", xlabel="absolute error (ms)", ylabel="share of records", ylim=(0, 1.02), xlim=(0, None))
    plt.close(fig)
    return fig


def poincare(peaks: Sequence[np.ndarray], fs: float, rhythm: pd.Series, shown: Sequence[str]) -> Figure:
    """Each RR interval against the one before it, for a few rhythms: a point cloud a rhythm."""
    style()
    fig, axes = plt.subplots(
        1, len(shown), figsize=(8.6, 2.6), sharex=True, sharey=True, layout="constrained", squeeze=False
    )
    for ax, name in zip(axes[0], shown, strict=True):
        intervals = [np.diff(p) / fs * 1000 for p, r in zip(peaks, rhythm, strict=True) if r == name and len(p) > 2]
        pairs = np.concatenate([np.stack([rr[:-1], rr[1:]], 1) for rr in intervals]) if intervals else np.empty((0, 2))
        ax.scatter(*pairs.T, s=3, alpha=0.25, color=COLOURS[2], linewidths=0)
        ax.axline((800, 800), slope=1, color="0.5", lw=0.6)
        ax.set(title=f"{name}\n{len(intervals)} records", xlabel="RR (ms)", xlim=(200, 1800), ylim=(200, 1800))
        ax.set_aspect("equal")
    axes[0, 0].set_ylabel("next RR (ms)")
    plt.close(fig)
    return fig
