"""Figures of R-peak detectors: accuracy against tolerance, and speed."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from ecgmoe.plots.style import COLOURS, INK, style

#: Colour, marker and dashes of each detector: told apart without colour, too.
_LOOK = {
    "ecgmoe": (INK, "o", "-"),
    "ecgmoe, 12 leads": (INK, "o", "-"),
    "ecgmoe, one lead": (INK, "o", "--"),
    "sleepecg": (COLOURS[0], "s", "-"),
    "neurokit2": (COLOURS[1], "^", "-"),
    "Pan-Tompkins (neurokit2)": (COLOURS[1], "v", ":"),
    "Kalidas-Tamil (neurokit2)": (COLOURS[1], "D", "--"),
    "xqrs (wfdb)": (COLOURS[2], "P", "-"),
    "gqrs (wfdb)": (COLOURS[2], "X", "--"),
}
_TITLES = {"mitdb": "MIT-BIH", "ludb": "LUDB", "cpsc2019": "CPSC2019", "simulated": "simulated"}


def f1_against_tolerance(accuracy: pd.DataFrame, part: str = "all", least_error: float = 5e-4) -> Figure:
    """F1 of each detector against the tolerance: a panel a set, a line a detector.

    Parameters
    ----------
    accuracy : DataFrame
        As from ``detection.accuracy``, one or more sets.
    part : str
        Which recordings: ``all``, ``even``, ``odd`` or ``apart``.
    least_error : float
        The vertical axis is logarithmic in 1 − F1; what lies below this is drawn there.

    Returns
    -------
    Figure
    """
    style()
    table = accuracy[accuracy["part"] == part]
    sets = list(table["set"].unique())
    fig, axes = plt.subplots(1, len(sets), figsize=(8.6, 3.6), sharey=True, squeeze=False, layout="constrained")
    lines: dict[str, Line2D] = {}
    for ax, name in zip(axes[0], sets, strict=True):
        for detector, rows in table[table["set"] == name].groupby("detector", sort=False):
            colour, marker, dashes = _LOOK[str(detector)]
            rows = rows.sort_values("tolerance_ms")
            error = np.maximum(1 - rows["f1"], least_error)
            front = 3 if colour == INK else 2
            (lines[str(detector)],) = ax.plot(
                rows["tolerance_ms"], error, dashes, color=colour, marker=marker, ms=4, lw=1.3, zorder=front
            )
        ax.set(yscale="log", xlabel="tolerance (ms)", title=_TITLES.get(name, name), xlim=(0, None))
    first = axes[0, 0]
    first.set(
        ylabel="F1", ylim=(1, 0.8 * least_error), yticks=[0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 1e-3]
    )
    first.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{1 - error:.4g}"))
    first.yaxis.set_minor_formatter(NullFormatter())
    shown = [name for name in _LOOK if name in lines]
    fig.legend([lines[name] for name in shown], shown, loc="outside lower center", ncols=4)
    plt.close(fig)
    return fig


def detector_speed(speed: pd.DataFrame) -> Figure:
    """Records a second of each detector, each with its multiple of the rate of neurokit2.

    Parameters
    ----------
    speed : DataFrame
        Columns ``run``, ``records_per_s`` and ``ratio``, as from ``bench.speed``.

    Returns
    -------
    Figure
    """
    style()
    table = speed.sort_values("records_per_s")
    fig, ax = plt.subplots(figsize=(8.6, 0.6 + 0.3 * len(table)), layout="constrained")
    bars = ax.barh(table["run"], table["records_per_s"], color=[_LOOK[str(name)][0] for name in table["run"]])
    texts = [
        f" {rate:,.0f}   × {ratio:.2g}" for rate, ratio in zip(table["records_per_s"], table["ratio"], strict=True)
    ]
    ax.bar_label(bars, texts, fontsize=8)
    ends = 10.0 ** np.floor(np.log10(table["records_per_s"].min())), 5 * table["records_per_s"].max()
    ax.set(xscale="log", xlabel="records a second, and multiple of neurokit2", xlim=ends)
    ax.tick_params(axis="y", length=0)
    plt.close(fig)
    return fig
