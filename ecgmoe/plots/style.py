"""The look of all figures: colours with one meaning each, opaque faces, words for metrics."""

import seaborn as sns

from ecgmoe.evaluation import METRIC_LABELS
from ecgmoe.tasks import Task

#: One colour per meaning, of seaborn's palette for colour-blind readers.
COLOURS = sns.color_palette("colorblind")
SPLIT_COLOURS = {"train": COLOURS[0], "validation": COLOURS[1], "test": COLOURS[2]}
INK = "#1a1a1a"

_STYLE = {
    "figure.facecolor": "white",  # opaque, so that figures are legible on a dark page
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 110,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def style() -> None:
    """Set the look of all figures; every function here calls it."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind", rc=_STYLE)


def metric_axis(task: Task) -> str:
    """Words for an axis that shows a task's headline metric, such as ``MAE (ms)``."""
    return METRIC_LABELS[task.metric] + (f" ({task.unit})" if task.unit else "")
