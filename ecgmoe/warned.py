"""What the warnings of a prediction are worth: RR intervals held against annotated beats, by what was warned of.

MIT-BIH has two leads, half an hour of each patient and many arrhythmias: harder than what the model learnt from. Beats
are annotated by cardiologists. Windows in which ventricular flutter is annotated have no beats and are counted apart.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecgmoe import sources, tasks
from ecgmoe.datasets import annotated
from ecgmoe.prediction import Predictor
from ecgmoe.records import RecordError
from ecgmoe.scoring import interval, patient_weights, ratio

#: What windows are sorted by: the first of these that their warnings say, else that there is none of them.
SAID = ("beats unlike each other", "poor quality")
NO_ANSWER, NONE = "nothing answered", "none of these"
#: An RR interval that differs by more than this part of the annotated one is wrong.
WRONG = 0.05


def windows(predictor: Predictor, folder: Path) -> pd.DataFrame:
    """Answer every ten seconds of MIT-BIH, beside what is annotated.

    Parameters
    ----------
    predictor : Predictor
    folder : Path
        MIT-BIH as downloaded.

    Returns
    -------
    DataFrame
        The columns of :data:`ecgmoe.prediction.COLUMNS`; ``group`` as of :data:`SAID`; ``told_rr``, the annotated RR
        interval in ms, NaN with fewer than two beats; ``flutter``, whether ventricular flutter is annotated.

    Raises
    ------
    DatasetError
        The folder is not MIT-BIH.
    RecordError
        A recording cannot be read.
    """
    beats = annotated.load("mitdb", folder)
    told = pd.DataFrame({"record": beats.recording, "flutter": beats.apart})
    told["start_s"] = annotated.WINDOW_S * told.groupby("record").cumcount()
    told["told_rr"] = [tasks.mean_rr_interval(at, beats.fs) for at in beats.truth]
    tables = []
    for found in predictor.stream(sources.read([annotated.find_root("mitdb", folder)])):
        if isinstance(found, RecordError):
            raise found
        tables.append(found.table)
    answered = pd.concat(tables, ignore_index=True)
    group = pd.Series(NONE, answered.index)
    for words in reversed(SAID):
        group[answered["warnings"].str.contains(words, regex=False)] = words
    group[answered["rr_ms"].isna()] = NO_ANSWER
    return answered.assign(group=group).merge(told, on=["record", "start_s"])


def measure(predictor: Predictor, folder: Path, n_boot: int = 1000) -> dict[str, Any]:
    """Measure how often RR intervals are wrong with each warning, and what is said in ventricular flutter.

    Parameters
    ----------
    predictor, folder
        As for :func:`windows`.
    n_boot : int
        Resamples of recordings.

    Returns
    -------
    dict
        ``groups``: columns ``group, windows, mae, wrong, low, high``, the latter three the share of RR intervals that
        are :data:`WRONG` and its 95 % interval over recordings; ``recordings``; ``flutter``: ``windows``, those
        ``without an answer``, those ``warned`` of unlike beats, and ``named``, how often which rhythm was given.
    """
    every = windows(predictor, folder)
    beating = every[~every["flutter"] & every["told_rr"].notna()]
    off = (beating["rr_ms"] - beating["told_rr"]).abs()
    wrong = off > WRONG * beating["told_rr"]
    w_KN = patient_weights(beating["record"].to_numpy(), n_boot, 0)
    rows = []
    for name in (NO_ANSWER, *SAID, NONE):
        of = (beating["group"] == name).to_numpy()
        row: dict[str, Any] = {"group": name, "windows": int(of.sum()), "mae": float(off[of].mean())}
        if of.any() and name != NO_ANSWER:
            share_K = ratio(w_KN @ (wrong.to_numpy() & of).astype(float), w_KN @ of.astype(float))
            row |= dict(zip(("wrong", "low", "high"), (float(share_K[0]), *interval(share_K)), strict=True))
        rows.append(row)
    flutter = every[every["flutter"]]
    return {
        "groups": pd.DataFrame(rows, columns=["group", "windows", "mae", "wrong", "low", "high"]),
        "recordings": int(every["record"].nunique()),
        "flutter": {
            "windows": len(flutter),
            "without an answer": int((flutter["group"] == NO_ANSWER).sum()),
            "warned": int((flutter["group"] == SAID[0]).sum()),
            "named": flutter["rhythm"].value_counts().to_dict(),
        },
    }


def table(metrics: Mapping[str, Any] | None) -> pd.DataFrame:
    """What :func:`measure` found, as text for :func:`ecgmoe.results.table`; no line where nothing was measured."""
    lines = []
    for row in pd.DataFrame(metrics["groups"]).to_dict("records") if metrics else ():
        share = "–"
        if np.isfinite(row["wrong"]):
            share = f"{100 * row['wrong']:.0f} % [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"
        mae = f"{row['mae']:.1f}" if np.isfinite(row["mae"]) else "–"
        lines.append((row["group"], f"{row['windows']:,}", share, mae))
    return pd.DataFrame(lines, columns=["What the warnings say", "windows", "RR off by > 5 %", "MAE, ms"])
