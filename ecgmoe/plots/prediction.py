"""The figure of one prediction: the ECG, what was predicted, and where the model looked."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ecgmoe.evaluation import percent
from ecgmoe.plots.style import INK, style
from ecgmoe.prediction import Explained
from ecgmoe.records import LEADS


def _sentence(row: Mapping[str, Any]) -> str:
    """What was predicted, as one line."""
    parts = []
    for label, title, unit in (("rr_ms", "RR", "ms"), ("age_years", "age", "years")):
        if pd.notna(row[label]):
            interval = (
                f" [{row[f'{label}_low']:.0f}, {row[f'{label}_high']:.0f}]" if pd.notna(row[f"{label}_low"]) else ""
            )
            parts.append(f"{title} {row[label]:.0f}{interval} {unit}")
    if row["sex"] is not None and pd.notna(row["sex"]):
        female = row["sex_female_probability"]
        parts.append(f"{row['sex']} ({percent(max(female, 1 - female))})")
    if row["rhythm"] is not None and pd.notna(row["rhythm"]):
        parts.append(f"{row['rhythm']} ({percent(row['rhythm_probability'])})")
    if pd.notna(row["potassium_abnormal_probability"]):
        parts.append(f"abnormal potassium ({percent(row['potassium_abnormal_probability'])})")
    return " · ".join(parts) or "nothing could be predicted"


def _leads(ax: Axes, explained: Explained, leads: tuple[str, ...]) -> None:
    """Leads one below the other, as far apart as they need, with a bar of 1 mV at the right.

    Beyond 4 mV from the next lead a trace is cut.
    """
    signal_LT = explained.window.signal_LT[[LEADS.index(lead) for lead in leads]]
    seconds_T = np.arange(signal_LT.shape[1]) / explained.fs
    trace_LT = signal_LT - np.median(signal_LT, axis=1, keepdims=True)
    apart_mv = float(np.clip(0.1 + (trace_LT[1:].max(1) - trace_LT[:-1].min(1)).max(), 0.8, 4))
    zero_L = -apart_mv * np.arange(len(leads))
    for trace_T, zero in zip(trace_LT.clip(-apart_mv, apart_mv), zero_L, strict=True):
        ax.axhline(zero, color="0.9", lw=0.6, zorder=0)
        ax.plot(seconds_T, trace_T + zero, color=INK, lw=0.6)
    ax.set_yticks(zero_L, leads)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(0, seconds_T[-1])
    ax.spines[["left", "bottom"]].set_visible(False)
    end = seconds_T[-1]
    ax.plot([1.01 * end] * 2, [0, 1], color=INK, lw=1.2, clip_on=False)
    ax.text(1.02 * end, 0.5, "1 mV", rotation=90, va="center", fontsize=6.5)


def explained(one: Explained) -> Figure:
    """Draw one window: twelve leads, the predictions, how much each task looked at each beat, and the weights of gates.

    Parameters
    ----------
    one : Explained
        From :meth:`ecgmoe.prediction.Predictor.explain`.

    Returns
    -------
    Figure
        Below the leads, lead II over one row a task: the darker a beat, the more of that task's attention it had. On
        the right, the weights of the experts of the periodic network and of the two paths by task.
    """
    style()
    attention, gates, row = (
        one.attention,
        one.experts.join(one.paths),
        {str(key): value for key, value in one.row.items()},
    )
    looks = not attention.empty
    fig = plt.figure(figsize=(9.6, 6.4 if looks else 4.4), layout="constrained")
    grid = fig.add_gridspec(2 if looks else 1, 2, height_ratios=(4.2, 0.5 + 0.3 * len(attention)) if looks else (1,))
    columns = [fig.add_subplot(grid[0, i]) for i in range(2)]
    for ax, leads in zip(columns, (LEADS[:6], LEADS[6:]), strict=True):
        _leads(ax, one, leads)
        ax.set_xlabel("time in the window, s")
    start = f"{one.window.record}, {one.window.start_s:g}–{one.window.start_s + 10:g} s"
    warnings = f"\n{row['warnings']}" if row["warnings"] else ""
    fig.suptitle(f"{start}\n{_sentence(row)}{warnings}", fontsize=9.5, x=0.01, ha="left")
    if looks:
        rows, ax = (fig.add_subplot(grid[1, i]) for i in range(2))
        peaks = one.peaks[: attention.shape[1]] / one.fs
        edges = np.concatenate([[peaks[0] - 0.3], (peaks[1:] + peaks[:-1]) / 2, [peaks[-1] + 0.5]])
        weight_KN = attention.to_numpy(float)
        share_KN = weight_KN / weight_KN.max(axis=1, keepdims=True).clip(1e-9)
        rows.pcolormesh(edges, np.arange(len(share_KN) + 1), share_KN, cmap="crest", vmin=0, vmax=1)
        for (task, beat), share in np.ndenumerate(share_KN):
            colour = "white" if share > 0.4 else INK
            text = f"{100 * weight_KN[task, beat]:.0f}"
            rows.text(float(peaks[beat]), task + 0.5, text, ha="center", va="center", fontsize=6, color=colour)
        rows.set(xlim=columns[0].get_xlim(), ylim=(len(share_KN), 0), title="attention to each beat, %")
        rows.set_yticks(np.arange(len(share_KN)) + 0.5, attention.index)
        sns.heatmap(
            100 * gates, ax=ax, annot=True, fmt=".0f", cmap="crest", vmin=0, vmax=100, cbar=False, linewidths=0.5,
            annot_kws={"fontsize": 7},
        )  # fmt: skip
        ax.set_xticks(
            ax.get_xticks(), [str(name).replace(", ", "\n") for name in gates.columns], rotation=0, fontsize=6.5
        )
        ax.tick_params(axis="both", rotation=0, length=0)
        ax.axvline(one.experts.shape[1], color="white", lw=4)
        ax.set_title("weights of experts (eq. 3) and of the two paths (eq. 4), %")
    plt.close(fig)
    return fig
