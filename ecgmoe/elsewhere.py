"""How a model does in other hospitals, on recordings whose headers tell age, sex and rhythm, as PhysioNet has them.

A recording gets one answer, that of its first ten seconds. Headers name no patient, so that each recording counts as a
patient of its own; intervals are over recordings. A figure of fewer than :data:`ecgmoe.scoring.MIN_CLASS_RECORDS`
recordings is a matter of chance and is not given.

LUDB is measured twice. Its headers give every lead a gain of its own that makes it span 1 mV, so that lead II is not
the sum of I and III. Its bare steps obey that law, so all leads have one gain. The headers do not say which; at 1,000
steps per mV amplitudes are like those of other sources.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from ecgmoe import caution, detection, evaluation, prediction, results, sources, tasks, warned
from ecgmoe.datasets import annotated
from ecgmoe.prediction import Predictor
from ecgmoe.records import RecordError, read_record
from ecgmoe.scoring import MIN_CLASS_RECORDS, interval, patient_weights, ratio
from ecgmoe.sources import Recording
from ecgmoe.windows import WINDOW_S

#: Name of the result that lies in the repository.
NAME = "elsewhere"

#: Ages that are scored, years: younger hearts are no adults', and older ages PTB-XL publishes as one value.
AGES = (18, tasks.AGE_CENSORED_ABOVE)

#: Detector that the RR interval is held against; the model reads another.
DETECTOR = "xqrs (wfdb)"

#: Rhythms that are scored, by their SNOMED CT code.
RHYTHMS = {
    "426783006": "sinus rhythm",
    "426177001": "sinus bradycardia",
    "427084000": "sinus tachycardia",
    "164889003": "atrial fibrillation",
}

_COLUMNS = ["task", "metric", "value", "low", "high", "n"]
_SEXES = {"m": 0.0, "male": 0.0, "f": 1.0, "female": 1.0}
_AGE, _SEX, _CODES, _RHYTHM = (
    re.compile(pattern, re.IGNORECASE)
    for pattern in (r"\bage>?:\s*(\S+)", r"\bsex>?:\s*(\S+)", r"\bdx:([\d, ]+)", r"\brhythm:\s*([a-z ]+)")
)


class Source(NamedTuple):
    """Where recordings come from."""

    title: str
    licence: str
    doi: str
    gain: float | None = None  #: steps per mV of all leads, where the headers' own are wrong


_LUDB = annotated.card("ludb")
_CHALLENGE = ("CC BY 4.0", "10.13026/34va-7q14")

#: What is measured of a folder, by its name: LUDB, and the sources of the PhysioNet/CinC Challenge 2021.
SOURCES = {
    "ludb": (
        Source("LUDB, gains of its headers", _LUDB.licence, _LUDB.doi),
        Source("LUDB, one gain", _LUDB.licence, _LUDB.doi, 1000.0),
    ),
    "georgia": (Source("Georgia", *_CHALLENGE),),
    "chapman_shaoxing_ningbo": (Source("Chapman-Shaoxing and Ningbo", *_CHALLENGE),),
    "cpsc_2018": (Source("CPSC 2018", *_CHALLENGE),),
    "cpsc_2018_extra": (Source("CPSC 2018, extra", *_CHALLENGE),),
    "ptb": (Source("PTB", *_CHALLENGE),),
}


class Labels(NamedTuple):
    """What a header tells of a patient."""

    age: float  #: years; NaN where there is no number
    sex: float  #: 1 for female, 0 for male, NaN for anything else
    rhythm: str | None  #: of :data:`RHYTHMS`; None where it is none of them, or several


def labels(header: str) -> Labels:
    r"""Read age, sex and rhythm from the comments of a WFDB header.

    Parameters
    ----------
    header : str
        Text of the file, with lines such as ``# Age: 57``, ``# Sex: Male`` and ``# Dx: 426783006`` (PhysioNet/CinC
        Challenge), or ``# <age>: 51 <sex>: F`` and ``# Rhythm: Sinus rhythm.`` (LUDB).

    Returns
    -------
    Labels

    Examples
    --------
    >>> from ecgmoe.elsewhere import labels
    >>> labels("x 12 500 5000\n#Age: 57\n#Sex: Female\n#Dx: 426177001,55930002")
    Labels(age=57.0, sex=1.0, rhythm='sinus bradycardia')
    """
    comments = "\n".join(line for line in header.splitlines() if line.startswith("#"))
    age, sex, codes, rhythm = (
        found[1].strip() if (found := pattern.search(comments)) else "" for pattern in (_AGE, _SEX, _CODES, _RHYTHM)
    )
    named = {RHYTHMS[code] for code in re.findall(r"\d+", codes) if code in RHYTHMS}
    named |= {rhythm.lower()} & set(RHYTHMS.values())
    return Labels(
        float(pd.to_numeric(age, errors="coerce")),
        _SEXES.get(sex.lower(), math.nan),
        named.pop() if len(named) == 1 else None,
    )


def answers(predictor: Predictor, folder: Path, gain: float | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Answer every recording of a folder, beside what its header tells.

    Parameters
    ----------
    predictor : Predictor
    folder : Path
        Of WFDB records, as :func:`ecgmoe.sources.read` takes it.
    gain : float, optional
        Steps per mV of all leads, instead of those of the headers.

    Returns
    -------
    answers : DataFrame
        A row a recording: the columns of :data:`ecgmoe.prediction.COLUMNS`; ``told_age``, ``told_sex`` and
        ``told_rhythm`` as in :class:`Labels`; ``told_rr`` by :data:`DETECTOR`, ms; ``misfit``, the SD of what lead II
        lacks to the sum of I and III, by that of lead II.
    skipped : DataFrame
        Columns ``record, reason``. Recordings of PTB-XL are among them: the model learnt there.
    """
    told: dict[str, tuple[Any, ...]] = {}

    def recordings() -> Iterator[Recording | RecordError]:
        files = list(dict.fromkeys(sources.named([folder])))
        for name, path in tqdm(files, desc=folder.name, unit="recording", disable=None):
            try:
                if any(part.lower().startswith(("ptb-xl", "ptbxl")) for part in Path(folder.name, name).parts):
                    raise RecordError(name, "it is of PTB-XL, from which the model learnt", "take another source")
                record = read_record(path, checksum="warn", missing="keep")
                first = record.signal[:, : math.ceil(WINDOW_S * record.fs)]
                if gain is not None:
                    first = (first * (record.gain / gain)[:, None]).astype(np.float32)
                leads_LT = sources.rows_of(first, record.leads, name)
                peaks = detection.detectors()[DETECTOR](leads_LT[None], round(record.fs))[0]
                misfit = caution.limb_misfit(leads_LT)["III"]
                header = labels(path.read_text("utf-8", "replace"))
                told[name] = (*header, tasks.mean_rr_interval(peaks, record.fs), misfit)
                yield Recording(name, first, record.fs, record.leads, record.warnings)
            except RecordError as error:
                yield RecordError(name, error.reason, error.cure)

    tables, skipped = [], []
    for found in predictor.stream(recordings()):
        if isinstance(found, RecordError):
            skipped.append((found.record, found.reason))
        else:
            tables.append(found.table)
    columns = ["told_age", "told_sex", "told_rhythm", "told_rr", "misfit"]
    own = pd.DataFrame.from_dict(told, orient="index", columns=columns)
    answered = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(prediction.COLUMNS))
    return answered.join(own, on="record"), pd.DataFrame(skipped, columns=["record", "reason"])


def score(answered: pd.DataFrame, mean_age: float, n_boot: int = 1000) -> pd.DataFrame:
    """Score what :func:`answers` gave against what headers tell.

    Parameters
    ----------
    answered : DataFrame
    mean_age : float
        Mean age of the training part, years: the floor is to give it to everybody.
    n_boot : int
        Resamples of recordings.

    Returns
    -------
    DataFrame
        Columns ``task, metric, value, low, high, n``, where ``n`` counts recordings with label and answer. Beside the
        metrics of :func:`ecgmoe.evaluation.evaluate`: ``called_female`` and ``is_female``, shares of these recordings;
        ``mae_of_mean_age``, the floor; ``inside``, the share of ages in their prediction interval; and for rhythm the
        sensitivity for each of :data:`RHYTHMS`, where sinus rhythm or atrial fibrillation with something counts as
        found.
    """
    answered = answered.assign(told_age=answered["told_age"].where(answered["told_age"].between(*AGES)))
    parts: list[pd.DataFrame] = []

    def metrics(task: str, told: pd.Series, answer: pd.Series, words: Mapping[str, str] | None = None) -> None:
        found = evaluation.evaluate(
            {task: answer.to_numpy(float)}, {task: told.to_numpy(float)}, np.arange(len(told)), n_boot=n_boot
        )
        parts.append(found if words is None else found[found["metric"].isin(words)].replace({"metric": words}))

    def share(task: str, metric: str, holds: pd.Series) -> None:
        w_KN = patient_weights(np.arange(len(holds)), n_boot, 0)
        share_K = ratio(w_KN @ holds.to_numpy(float), w_KN.sum(1))
        line = (task, metric, float(share_K[0]), *interval(share_K), len(holds))
        parts.append(pd.DataFrame([line], columns=_COLUMNS))

    enough = MIN_CLASS_RECORDS
    if len(sex := answered.dropna(subset=["told_sex", "sex_female_probability"])) >= enough:
        metrics("sex", sex["told_sex"], sex["sex_female_probability"])
        share("sex", "called_female", sex["sex_female_probability"] > 0.5)
        share("sex", "is_female", sex["told_sex"] == 1)
    if len(age := answered.dropna(subset=["told_age", "age_years"])) >= enough:
        metrics("age", age["told_age"], age["age_years"])
        metrics("age", age["told_age"], age["told_age"] * 0 + mean_age, {"mae": "mae_of_mean_age"})
        if len(known := age.dropna(subset=["age_years_low"])):
            share("age", "inside", known["told_age"].between(known["age_years_low"], known["age_years_high"]))
    if len(rr := answered.dropna(subset=["told_rr", "rr_ms"])) >= enough:
        metrics("rr", rr["told_rr"], rr["rr_ms"])
    for name in RHYTHMS.values():
        rhythm = answered[answered["told_rhythm"] == name].dropna(subset=["rhythm"])
        if len(rhythm) >= enough:
            share("rhythm", name, rhythm["rhythm"].str.startswith(name))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=_COLUMNS)


def measure(
    folders: Sequence[Path],
    model: str = "compact-ptbxl",
    json_file: Path | None = None,
    beats: Path | None = None,
    n_boot: int = 1000,
) -> dict[str, Any]:
    """Measure how a model does on folders of WFDB records, each a source of its own.

    Parameters
    ----------
    folders : sequence of Path
        Measured as :data:`SOURCES` has it; others under the name of the folder.
    model : str
        As for :func:`ecgmoe.prediction.load`.
    json_file : Path, optional
        Gets the result with its provenance.
    beats : Path, optional
        MIT-BIH as downloaded, for what warnings are worth.
    n_boot : int
        Resamples of recordings.

    Returns
    -------
    dict
        ``files`` of the model with their digests; ``mean_age`` of its training part; ``sources``, a row each with what
        was read and left out; ``skipped`` recordings with their reason; ``scores`` as of :func:`score` by ``source``;
        with ``beats`` also ``warned``, as of :func:`ecgmoe.warned.measure`.
    """
    predictor = prediction.load(model)
    mean_age = float(predictor.model.target_scale("age").mean_D) if "age" in predictor.tasks else math.nan
    counts: list[dict[str, Any]] = []
    skipped: list[dict[Any, Any]] = []
    scores: list[dict[Any, Any]] = []
    for folder in map(Path.resolve, folders):
        for source in SOURCES.get(folder.name.lower(), (Source(folder.name, "unknown", "unknown"),)):
            answered, left_out = answers(predictor, folder, source.gain)
            age = answered["told_age"].astype(float)
            counts.append(
                {
                    "source": source.title,
                    "licence": source.licence,
                    "doi": source.doi,
                    "recordings": len(answered),
                    "skipped": len(left_out),
                    "without an answer": len(answered) - prediction.answered(answered),
                    "age missing": int(age.isna().sum()),
                    "age outside of 18-89": int((~age.between(*AGES) & age.notna()).sum()),
                    "sex missing": int(answered["told_sex"].isna().sum()),
                    "no RR interval by the other detector": int(answered["told_rr"].isna().sum()),
                    "lead II is not I + III": int((answered["misfit"].astype(float) > caution.MISFIT).sum()),
                }
            )
            skipped += left_out.assign(source=source.title).to_dict("records")
            scores += score(answered, mean_age, n_boot).assign(source=source.title).to_dict("records")
    metrics = {
        "files": predictor.card.get("files", {}),
        "mean_age": mean_age,
        "detector": DETECTOR,
        "sources": pd.DataFrame(counts),
        "skipped": pd.DataFrame(skipped, columns=["source", "record", "reason"]),
        "scores": pd.DataFrame(scores, columns=["source", *_COLUMNS]),
    }
    if beats is not None:
        metrics["warned"] = warned.measure(predictor, beats, n_boot)
    if json_file is not None:
        parameters = {"model": predictor.card.get("name", "own"), "sources": [row["source"] for row in counts]}
        origin = results.provenance(None, 0, parameters | ({} if beats is None else {"beats": beats.resolve().name}))
        results.write_json(json_file, {"chapter": json_file.stem, "provenance": origin, "metrics": metrics})
    return metrics


def load(card: Mapping[str, Any], name: str = NAME) -> dict[str, Any] | None:
    """Give what comes with the repository; None where there is none, or where it was measured of another model.

    Parameters
    ----------
    card : mapping
        Of the model.
    name : str
    """
    try:
        metrics = results.reference(name)["metrics"]
    except FileNotFoundError:
        return None
    return dict(metrics) if metrics["files"] == card.get("files") else None


#: What stands where there is no figure.
UNKNOWN = "not measured"


def figure(metrics: Mapping[str, Any] | None, source: str, task: str, metric: str) -> str:
    """One figure of :func:`load` with its interval for a sentence; :data:`UNKNOWN` where there is none."""
    for row in pd.DataFrame(metrics["scores"]).to_dict("records") if metrics else ():
        if (row["source"], row["task"], row["metric"]) == (source, task, metric):
            return _cell(row, 2)
    return UNKNOWN


#: Lines of the table: task, metric, words, decimals.
_LINES = (
    ("sex", "macro_f1", "Sex: macro-F1", 2),
    ("sex", "accuracy", "Sex: accuracy", 2),
    ("sex", "auroc", "Sex: AUROC", 2),
    ("sex", "called_female", "Share called female", 2),
    ("sex", "is_female", "Share that is female", 2),
    ("age", "mae", "Age: MAE, years", 1),
    ("age", "mae_of_mean_age", "The same of one age for all", 1),
    ("age", "inside", "Share of ages inside the interval", 2),
    ("rr", "mae", "RR interval: MAE, ms", 1),
    *(("rhythm", name, f"Sensitivity: {name}", 2) for name in RHYTHMS.values()),
)


def table(metrics: Mapping[str, Any] | None, card: Mapping[str, Any], at_least: int = 1) -> pd.DataFrame:
    """Put what :func:`measure` found beside the card of the model, as text for :func:`ecgmoe.results.table`.

    Parameters
    ----------
    metrics : mapping or None
        From :func:`measure` or :func:`load`.
    card : mapping
        Of the model; empty for one without.
    at_least : int
        Recordings that a source must have to be shown.

    Returns
    -------
    DataFrame
        A line a measure, a column a source with any figure; a dash where there is none. Without metrics it says that
        nothing was measured.
    """
    if metrics is None:
        return pd.DataFrame({"Measure": [UNKNOWN]})
    counts = pd.DataFrame(metrics["sources"]).set_index("source")["recordings"].to_dict()
    cells: dict[str, dict[tuple[str, str], Mapping[Any, Any]]] = {}
    for row in pd.DataFrame(metrics["scores"]).to_dict("records"):
        if counts[row["source"]] >= at_least:
            cells.setdefault(row["source"], {})[row["task"], row["metric"]] = row
    if "test" in card:  # of one that was only trained, nothing is known
        inside = [
            {**row, "metric": "inside", "value": row["share"]}
            for row in card["test"]["coverage"]
            if row["group"] == "all"
        ]
        shown = [row for row in card["test"]["scores"] if row["task"] != "rhythm"] + inside
        title = f"{card['data']['name'].split()[0]}, fold 9"
        cells[title] = {(row["task"], row["metric"]): row for row in shown}
        silent = card["test"].get("without an answer", {})
        counts[title] = max(row["n"] + silent.get(row["task"], 0) for row in shown)
    lines = [["Recordings", *(f"{counts[source]:,}" for source in cells)]]
    lines += [
        [words, *(_cell(own.get((task, metric)), places) for own in cells.values())]
        for task, metric, words, places in _LINES
        if any((task, metric) in own for own in cells.values())
    ]
    return pd.DataFrame(lines, columns=["Measure", *cells])


def _cell(row: Mapping[Any, Any] | None, places: int) -> str:
    if row is None or pd.isna(row["value"]):
        return "–"
    return f"{row['value']:.{places}f} [{row['low']:.{places}f}, {row['high']:.{places}f}]"


def describe(metrics: Mapping[str, Any], card: Mapping[str, Any]) -> Iterator[str]:
    """Lines for the terminal."""
    yield table(metrics, card).to_string(index=False)
    yield pd.DataFrame(metrics["sources"]).drop(columns=["licence", "doi"]).to_string(index=False)
    for reason, n in Counter(pd.DataFrame(metrics["skipped"])["reason"]).most_common():
        yield f"{n} skipped: {reason}"
    if "warned" in metrics:
        yield warned.table(metrics["warned"]).to_string(index=False)
        yield f"ventricular flutter: {metrics['warned']['flutter']}"
