"""The look of all figures: colours with one meaning each, opaque faces."""

import seaborn as sns

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
