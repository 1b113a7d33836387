"""The paper's tables and claims as data, and an audit that recomputes each claim from those tables.

Every number here follows from those that ECG-MoE (arXiv 2603.04589) prints, except in :func:`constant_rr`, which reads
the open machine measurements of MIMIC-IV-ECG. Claims without a number are held against what the paper shows, and four
of them (two on data sets, LoRA, periodicity) against what is known from elsewhere.

Task names are ours: ``rr``, ``age``, ``sex``, ``potassium`` and ``rhythm`` (the paper's arrhythmia detection).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats


class Cell(NamedTuple):
    """One printed figure: mean and what stands behind the plus-minus sign (None where nothing stands there)."""

    mean: float
    spread: float | None

    def __str__(self) -> str:
        """Text as the paper prints it: RR errors (all above 70 ms) have a spread of one decimal, the rest of two."""
        wide = self.mean > 70
        mean = f"{self.mean:.1f}" if wide and self.mean == round(self.mean, 1) else f"{self.mean:.2f}"
        return mean if self.spread is None else f"{mean} ± {self.spread:.{1 if wide else 2}f}"


#: A table of the paper: model, then task, to :class:`Cell`.
Table = Mapping[str, Mapping[str, Cell]]

TASKS = ("rr", "age", "sex", "potassium", "rhythm")

#: Tasks whose figure is an error, so that less is better.
LOWER_IS_BETTER = frozenset({"rr", "age"})

#: How a verdict names a task.
_SPOKEN = {"rr": "RR", "rhythm": "arrhythmia"} | {task: task for task in ("age", "sex", "potassium")}


def _table(**rows: str) -> Table:
    """Rows written as ``mean±spread`` for the five tasks; an underscore in a name stands for a space or hyphen."""
    names = {"ECG_FM": "ECG-FM", "ECG_MoE": "ECG-MoE", "Time_MoE": "Time MoE"}
    names |= {"Self_Attn": "Self-Attn", "Cross_Attn": "Cross-Attn"}

    def cell(text: str) -> Cell:
        mean, _, spread = text.partition("±")
        return Cell(float(mean), float(spread) if spread else None)

    return MappingProxyType(
        {
            names.get(name, name): MappingProxyType(dict(zip(TASKS, map(cell, row.split()), strict=True)))
            for name, row in rows.items()
        }
    )


#: Zero-shot: frozen backbones.
TABLE_1 = _table(
    TimesNet="817.0±2.5 62.28±0.36 0.60±0.00 0.06±0.00 0.06±0.01",
    DLinear="816.4±2.9 62.63±0.50 0.51±0.08 0.05±0.00 0.03±0.02",
    MOMENT="816.6±2.1 62.61±0.37 0.34±0.00 0.02±0.00 0.03±0.02",
    TEMPO="816.3±1.9 62.33±0.38 0.42±0.00 0.18±0.00 0.02±0.00",
    ECG_FM="816.3±1.9 62.27±0.38 0.33±0.00 0.35±0.00 0.07±0.00",
)

#: Fine-tuned backbones and the mixture.
TABLE_2 = _table(
    TimesNet="304.3±4.3 24.89±0.07 0.51±0.05 0.41±0.01 0.17±0.00",
    DLinear="786.0±5.4 28.46±0.74 0.57±0.01 0.43±0.01 0.48±0.02",
    MOMENT="146.9±1.3 13.41±0.45 0.69±0.02 0.49±0.00 0.66±0.03",
    TEMPO="141.5±2.1 13.52±0.31 0.54±0.01 0.50±0.00 0.54±0.14",
    ECG_FM="147.3±1.3 13.49±0.17 0.52±0.05 0.49±0.00 0.49±0.03",
    ECG_MoE="76.37±4.7 12.83±0.42 0.69±0.01 0.57±0.00 0.73±0.01",
)

#: Ablation: what stands in place of the periodic network.
TABLE_3 = _table(
    MoE="103.47±2.4 16.49±0.87 0.53±0.13 0.39±0.17 0.62±0.01",
    Time_MoE="78.64±1.4 13.04±0.14 0.61±0.10 0.50±0.10 0.74±0.00",
    Self_Attn="117.46±3.2 15.47±0.85 0.54±0.01 0.48±0.00 0.67±0.00",
    Cross_Attn="86.71±5.8 14.71±0.51 0.61±0.02 0.48±0.00 0.69±0.01",
    ECG_MoE="76.37±4.7 12.83±0.42 0.69 0.57 0.73±0.00",
)

#: Figures of the text that no table holds.
MEMORY_GB, MEMORY_REDUCTION, SAMPLES_PER_SECOND, TIMES_REAL_TIME = 8.2, 0.35, 14.7, 3.0

#: The length of the recordings of MIMIC-IV-ECG and PTB-XL, seconds.
RECORD_S = 10.0

#: Values behind each plus-minus sign. The paper does not say; the public code of the group's benchmark of the
#: same tasks (arXiv 2512.08954), the sister code from here on, averages over three disjoint cohorts, and divides by n
#: in its standard deviation.
N_COHORTS = 3

Ruling = Literal["holds", "overstated", "contradicted", "not derivable", "not shown"]


@dataclass(frozen=True)
class Finding:
    """What recomputing a claim gave: the ruling, the numbers in words, and the numbers themselves."""

    verdict: Ruling
    recomputed: str
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes
    ----------
    id : str
    claim : str
        In our words, figures as printed.
    where : str
        Place in the paper.
    fair : str
        What could be our misreading, or what speaks for the authors.
    check : callable
        Recomputes it.
    """

    id: str
    claim: str
    where: str
    fair: str
    check: Callable[[], Finding]


@dataclass(frozen=True)
class Verdict(Finding):
    """A claim with its :class:`Finding`: what the chapter prints and what a machine reads."""

    id: str = ""
    claim: str = ""
    where: str = ""
    fair: str = ""


# --- arithmetic -----------------------------------------------------------------------------------------------------


def relative_reduction(old: float, new: float) -> float:
    """Fraction by which ``new`` lies below ``old``."""
    return (old - new) / old


def best(table: Table, task: str, without: str = "ECG-MoE") -> str:
    """Row with the best mean of a task, ``without`` one row (the first of equals)."""
    sign = 1 if task in LOWER_IS_BETTER else -1
    return min((name for name in table if name != without), key=lambda name: sign * table[name][task].mean)


def welch(a: Cell, b: Cell, n: int = N_COHORTS, ddof: Literal[0, 1] = 0) -> float:
    """Two-sided p of Welch's test from two printed figures.

    Parameters
    ----------
    a, b : Cell
    n : int
        Values behind each figure.
    ddof : {0, 1}
        How the printed spread was computed: 0 divides by n (the sister code), 1 is the sample SD, which is kinder.
        A spread printed as 0.00 counts as 0.005, the most it can be.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If a figure comes without a spread.
    """
    if a.spread is None or b.spread is None:
        raise ValueError("a Welch test needs the spread of both figures")
    scale = np.sqrt(n / (n - 1)) if ddof == 0 else 1.0
    return float(
        stats.ttest_ind_from_stats(
            a.mean, scale * max(a.spread, 0.005), n, b.mean, scale * max(b.spread, 0.005), n, equal_var=False
        ).pvalue
    )


def majority_macro_f1(prevalence: float) -> float:
    """Macro-F1 of a binary classifier that never names a class of this prevalence."""
    return (1 - prevalence) / (2 - prevalence)


def implied_sd(constant_mae: float) -> float:
    """SD of a normal population whose constant-mean predictor has this mean absolute error."""
    return constant_mae * float(np.sqrt(np.pi / 2))


def speed_readings() -> dict[str, float]:
    """Seconds of signal read per second at 14.7 samples/s, by what a sample may be and what has to be run for it."""
    readings = {}
    for seconds in (RECORD_S, 5.0):
        for part, leads in (("", 1), (", one of twelve leads", 12)):
            for purpose, tasks in (("", 1), (", for one of five tasks", 5)):
                readings[f"{seconds:.0f} s{part}{purpose}"] = SAMPLES_PER_SECOND * seconds / (leads * tasks)
    readings["a heart beat at 73 per minute"] = SAMPLES_PER_SECOND * 60 / 73
    readings["a value at 500 Hz"] = SAMPLES_PER_SECOND / 500
    return readings


@dataclass(frozen=True)
class ConstantRR:
    """What a constant gives on the RR intervals of MIMIC-IV-ECG, ms, with 95 % bootstrap intervals over subjects."""

    n_subjects: int
    n_dropped: int
    mean: float
    mean_interval: tuple[float, float]
    mae: float
    mae_interval: tuple[float, float]


#: :func:`constant_rr` of a part of MIMIC-IV-ECG 1.0 (ODbL 1.0, doi 10.13026/4nqg-sb35), for readers without the file.
MIMIC_CONSTANT = ConstantRR(4108, 8, 816.95, (811.28, 822.86), 149.29, (145.89, 152.81))


def mimic_rr_measured(rr_ms: np.ndarray) -> np.ndarray:
    """Where ``rr_interval`` of MIMIC-IV-ECG is a measurement: 0 and less, 29999 and above stand for a missing one."""
    return (rr_ms > 0) & (rr_ms < 29999)


def constant_rr(path: str | PathLike[str], n_boot: int = 2000, seed: int = 0) -> ConstantRR:
    """Mean RR interval and mean absolute error of predicting it, on the first ECG of every subject.

    Parameters
    ----------
    path : path
        ``machine_measurements.csv`` of MIMIC-IV-ECG, or a part of it.
    n_boot : int
    seed : int

    Returns
    -------
    ConstantRR
        First is first in the file. An ECG whose interval is 29999 or not above 0 is dropped and counted.

    Raises
    ------
    FileNotFoundError
    ValueError
        If the file has other columns, or no valid row.
    """
    import pandas as pd

    columns = ["subject_id", "rr_interval"]
    try:
        table = pd.read_csv(path, usecols=columns)
    except ValueError as error:
        raise ValueError(f"{path}: not machine_measurements.csv of MIMIC-IV-ECG, columns {columns} wanted") from error
    first = table.drop_duplicates("subject_id")["rr_interval"].to_numpy(float)
    rr = first[mimic_rr_measured(first)]
    if not len(rr):
        raise ValueError(f"{path}: no valid RR interval")
    rng = np.random.default_rng(seed)
    means, maes = np.array(
        [(s.mean(), np.abs(s - s.mean()).mean()) for s in (rng.choice(rr, len(rr)) for _ in range(n_boot))]
    ).T

    def interval(values: np.ndarray) -> tuple[float, float]:
        low, high = np.quantile(values, [0.025, 0.975])
        return float(low), float(high)

    mean = float(rr.mean())
    mae = float(np.abs(rr - mean).mean())
    return ConstantRR(len(rr), len(first) - len(rr), mean, interval(means), mae, interval(maes))


# --- checks ---------------------------------------------------------------------------------------------------------


def _agrees(recomputed: float, printed: float, decimals: int) -> bool:
    return round(recomputed, decimals) == printed


def _rr_reduction() -> Finding:
    rival = best(TABLE_2, "rr")
    value = 100 * relative_reduction(TABLE_2[rival]["rr"].mean, TABLE_2["ECG-MoE"]["rr"].mean)
    return Finding(
        "holds" if _agrees(value, 46.0, 1) else "contradicted",
        f"{value:.2f} % below {rival}, the best backbone",
        {"reduction_percent": value},
    )


def _rhythm_gain() -> Finding:
    rival = best(TABLE_2, "rhythm")
    old, new = TABLE_2[rival]["rhythm"].mean, TABLE_2["ECG-MoE"]["rhythm"].mean
    gain = 100 * (new / old - 1)
    points = 100 * (new - old)
    return Finding(
        "holds" if _agrees(gain, 10.6, 1) else "contradicted",
        f"{gain:.2f} % relative to {rival}: {points:.0f} percentage points",
        {"relative_percent": gain, "points": points},
    )


def outcome(a: Cell, b: Cell, task: str) -> str:
    """``"win"``, ``"tie"``, ``"noise"`` or ``"loss"`` of figure ``a`` against ``b``.

    A win is a better mean with p < 0.05 by :func:`welch`, on the kinder reading of the spread; a better mean without
    that is within noise. A worse mean is a loss whatever its p: it contradicts "best", though it may be chance.
    """
    if a.mean == b.mean:
        return "tie"
    if (a.mean < b.mean) != (task in LOWER_IS_BETTER):
        return "loss"
    return "win" if welch(a, b, ddof=1) < 0.05 else "noise"


class Comparison(NamedTuple):
    """The full model against the best other row of a table on one task; p by :func:`welch` with ddof 1 and 0."""

    task: str
    ours: Cell
    rival: str
    theirs: Cell
    outcome: str
    p_sample_sd: float
    p: float


def comparisons(table: Table) -> list[Comparison]:
    """Compare ECG-MoE with the best other row of ``table``, task by task."""
    found = []
    for task in TASKS:
        rival = best(table, task)
        ours, theirs = table["ECG-MoE"][task], table[rival][task]
        if ours.spread is None:  # Table 3 has none for sex and potassium; Table 2 shows the same means with one
            ours = TABLE_2["ECG-MoE"][task]
        p = [welch(ours, theirs, ddof=1), welch(ours, theirs, ddof=0)]
        found.append(Comparison(task, ours, rival, theirs, outcome(ours, theirs, task), *p))
    return found


def _state_of_the_art() -> Finding:
    by_task = {c.task: c for c in comparisons(TABLE_2)}
    outcomes = [c.outcome for c in by_task.values()]
    tally = {kind: outcomes.count(kind) for kind in ("win", "tie", "noise", "loss")}
    verdict: Ruling = "contradicted" if tally["loss"] else "holds" if tally["win"] == len(TASKS) else "overstated"
    rhythm = by_task["rhythm"]
    border = f" (arrhythmia at the border, p = {rhythm.p_sample_sd:.2f} to {rhythm.p:.2f})"
    told = [f"{tally['win']} of {len(TASKS)} better with p < 0.05 on the kinder reading{border}"]
    for c in by_task.values():
        if c.outcome == "tie":
            told.append(f"{_SPOKEN[c.task]} level with {c.rival}")
        elif c.outcome in ("noise", "loss"):
            told.append(
                f"{_SPOKEN[c.task]} {c.ours.mean} against {c.theirs.mean}, p = {c.p_sample_sd:.2f} to {c.p:.2f}"
            )
    numbers = {f"p_{c.task}": c.p for c in by_task.values()}
    numbers |= {f"p_{c.task}_sample_sd": c.p_sample_sd for c in by_task.values()}
    return Finding(verdict, "; ".join(told), numbers | {kind: float(count) for kind, count in tally.items()})


def _ablation() -> Finding:
    found = comparisons(TABLE_3)
    lost = [c for c in found if c.outcome == "loss"]
    unclear = [c for c in found if c.outcome in ("noise", "tie")]

    def p_values(c: Comparison) -> str:
        return f"p = {c.p_sample_sd:.2f} to {c.p:.2f}"

    told = [f"{_SPOKEN[c.task]}: {c.rival} has the better mean, {c.theirs.mean} ({p_values(c)})" for c in lost]
    if unclear:
        told.append("not separable: " + ", ".join(f"{_SPOKEN[c.task]} from {c.rival} ({p_values(c)})" for c in unclear))
    numbers = {f"p_{c.task}": c.p for c in found} | {"lost": float(len(lost)), "not_separable": float(len(unclear))}
    return Finding("overstated" if lost or unclear else "holds", "; ".join(told), numbers)


def _rr_53() -> Finding:
    ours = TABLE_3["ECG-MoE"]["rr"].mean
    errors = {name: row["rr"].mean for table in (TABLE_2, TABLE_3) for name, row in table.items() if name != "ECG-MoE"}
    reductions = {name: 100 * relative_reduction(error, ours) for name, error in errors.items()}
    nearest = min(reductions, key=lambda name: abs(reductions[name] - 53.5))
    increase = 100 * (errors["Self-Attn"] / ours - 1)
    ablated = ", ".join(f"{name} {reductions[name]:.1f} %" for name in TABLE_3 if name != "ECG-MoE")
    return Finding(
        "holds" if any(_agrees(value, 53.5, 1) for value in reductions.values()) else "contradicted",
        f"{ablated}; nearest in any table: {nearest} {reductions[nearest]:.1f} %. "
        f"Without the periodic network, Self-Attn's error is {increase:.1f} % larger",
        {f"reduction_{name}": value for name, value in reductions.items()} | {"self_attn_increase": increase},
    )


def _same_model() -> Finding:
    two, three = TABLE_2["ECG-MoE"], TABLE_3["ECG-MoE"]
    differ = [t for t in TASKS if two[t].mean != three[t].mean]
    spreads = [t for t in TASKS if three[t].spread is not None and two[t].spread != three[t].spread]
    return Finding(
        "contradicted" if differ else "not derivable" if spreads else "holds",
        "; ".join(
            [f"{len(TASKS) - len(differ)} of {len(TASKS)} means agree"]
            + [f"{_SPOKEN[t]} is {two[t]} in one and {three[t]} in the other" for t in sorted({*differ, *spreads})]
        ),
        {"means_that_differ": float(len(differ)), "spreads_that_differ": float(len(spreads))},
    )


def _real_time() -> Finding:
    readings = speed_readings()
    nearest = min(readings, key=lambda name: abs(np.log(readings[name] / TIMES_REAL_TIME)))
    return Finding(
        "holds" if any(_agrees(value, TIMES_REAL_TIME, 0) for value in readings.values()) else "contradicted",
        f"{readings['10 s']:.0f} × real time if a sample is 10 s of ECG, {readings['5 s']:.1f} × if it is 5 s; "
        f"nearest of {len(readings)} readings: {readings[nearest]:.2f} × ({nearest}). A sample would have to last "
        f"{TIMES_REAL_TIME / SAMPLES_PER_SECOND:.2f} s",
        readings,
    )


def _memory() -> Finding:
    baseline = MEMORY_GB / (1 - MEMORY_REDUCTION)
    return Finding(
        "not derivable",
        f"implies a baseline of {baseline:.1f} GB that is not named; LoRA by itself saves no memory at inference",
        {"implied_baseline_gb": baseline},
    )


def _faster() -> Finding:
    low, high = SAMPLES_PER_SECOND * 0.6, SAMPLES_PER_SECOND / 1.4
    return Finding(
        "not derivable",
        f"no table of times and no baseline named (it would run at {low:.1f} or {high:.1f} samples/s); "
        "as eq. 2 stands, all five backbones run for every recording",
        {"implied_baseline_low": low, "implied_baseline_high": high},
    )


def _backbone_strengths() -> Finding:
    numbers: dict[str, float] = {}
    for task in ("rr", "age"):
        means = [row[task].mean for row in TABLE_1.values()]
        spreads = [row[task].spread or 0.0 for row in TABLE_1.values()]
        numbers |= {f"{task}_range": max(means) - min(means), f"{task}_spread": float(np.mean(spreads))}
    constant = all(numbers[f"{task}_range"] <= 1.2 * numbers[f"{task}_spread"] for task in ("rr", "age"))
    top = max(row["rhythm"].mean for row in TABLE_1.values())
    return Finding(
        "not derivable" if constant else "holds",
        f"the backbones differ by {numbers['rr_range']:.1f} ms and {numbers['age_range']:.2f} years where the cohorts "
        f"differ by {numbers['rr_spread']:.1f} and {numbers['age_spread']:.2f}; the best rhythm accuracy is {top:.2f}, "
        f"chance over 15 classes {1 / 15:.2f}",
        numbers | {"best_rhythm_accuracy": top, "chance": 1 / 15},
    )


def _baselines_quoted() -> Finding:
    quoted = {"rr": 147.3, "age": 13.49, "rhythm": 0.49}
    is_ecg_fm = all(TABLE_2["ECG-FM"][task].mean == value for task, value in quoted.items())
    is_best = all(TABLE_2[best(TABLE_2, task)][task].mean == value for task, value in quoted.items())
    figures = ", ".join(f"{_SPOKEN[task]} {TABLE_2[best(TABLE_2, task)][task].mean}" for task in quoted)
    return Finding(
        "holds" if is_best else "overstated" if is_ecg_fm else "contradicted",
        f"these are ECG-FM's; the best baselines have {figures}",
    )


def _ruled(verdict: Ruling, recomputed: str) -> Callable[[], Finding]:
    """Check of a claim that has no number to recompute: what the paper lacks is said in words."""
    return lambda: Finding(verdict, recomputed)


#: Every claim of the paper that is checked.
#:
#: :meta hide-value:
CLAIMS: tuple[Claim, ...] = (
    Claim("rr_reduction", "RR error reduced by 46.0 %", "RQ2",
          "The arithmetic is right, and against the best backbone, as it should be. "
          "What that backbone had learnt is another question.", _rr_reduction),
    Claim("rhythm_gain", "arrhythmia accuracy improved by 10.6 %", "RQ2",
          "Relative percentages of a percentage are common; 7 points would have been clearer.", _rhythm_gain),
    Claim("state_of_the_art", "state of the art on the five tasks", "abstract, introduction, RQ2, Table 2",
          "The mean is nowhere worse. All rows may share their three cohorts; a paired test could then separate more "
          "than Welch's, but the tables do not allow one. That n is 3 is taken from the sister code.",
          _state_of_the_art),
    Claim("ablation", "the rhythm-aware gate notably outperforms generic mixtures of experts", "RQ4, Table 3",
          "The plain mixture is clearly behind in RR, age and arrhythmia; the sentence may mean that row only. "
          "The paper does not mark its own rhythm figure as best.", _ablation),
    Claim("rr_53", "hybrid attention improves RR accuracy by 53.5 %", "RQ4",
          "Close to the growth of the error when Self-Attn takes its place (a ratio over the other base); "
          "a figure of an earlier run may have stayed in the text.", _rr_53),
    Claim("same_model", "Tables 2 and 3 show one and the same model", "Tables 2, 3",
          "A spread near 0.005 rounds to either; it shows at most that the rows were computed twice.", _same_model),
    Claim("faster", "40 % faster inference than multi-task baselines", "abstract, introduction",
          "May well be true of an ensemble a task; the measurement is just not in the paper.", _faster),
    Claim("memory", "8.2 GB of GPU memory, 35 % less", "RQ3",
          "One model for five tasks does need less than five models; batch size and baseline are missing.", _memory),
    Claim("real_time", "14.7 samples per second is three times faster than real time", "RQ3",
          "If so it sells the model short. 14.7 / 5 = 2.9 answers of five tasks per second is the one quotient near 3 "
          "that we found, but a second is not the real time of a 10 s recording.", _real_time),
    Claim("lora", "LoRA makes the fusion efficient in parameters and in inference", "abstract, introduction, section 3",
          "LoRA does train fewer weights than training the same layers in full, and the introduction says no more.",
          _ruled("overstated", "what LoRA saves is trained weights, of which no number is printed; a pass costs as "
                               "much as without it where the changes are merged, and more where they are not")),
    Claim("costs", "existing foundation models incur high computational costs", "introduction",
          "Their published checkpoints are large.",
          _ruled("not shown", "no cost of any backbone is printed, and by eq. 2 ECG-MoE runs all five of them")),
    Claim("balance", "an optimal balance of efficiency and accuracy, on limited hardware too", "RQ3",
          "Table 2 gives the accuracy, RQ3 the cost, of what may be the same model.",
          _ruled("not shown", "one model at one cost: no other point to weigh it against, no run on small hardware")),
    Claim("robustness", "improved robustness", "introduction",
          "The spreads over cohorts are small; that is stability, not robustness to disturbed signals.",
          _ruled("not shown", "no experiment with noise, missing leads or another population")),
    Claim("heatmaps", "routing heatmaps show physiologically plausible experts", "RQ4",
          "A page limit may have taken the figure away.",
          _ruled("not shown", "no heatmap, no table of routing weights")),
    Claim("periodicity", "existing foundation models often overlook the periodicity of the ECG; none is built on it",
          "abstract, introduction, section 2",
          "TimesNet's periods are those of any series; it knows nothing of heart beats.",
          _ruled("overstated", "TimesNet, one of the paper's five, folds a series by the periods that it finds in it; "
                               "no experiment asks what the other four know of the rhythm")),
    Claim("complementary", "five backbones together capture complementary features", "introduction, section 3, RQ1",
          "Table 2 has the single backbones and the whole; the periodic network is in the whole too.",
          _ruled("not shown", "no row leaves a backbone out, and none has all five and nothing in place of the "
                              "periodic network")),
    Claim("multitask", "multi-task learning significantly enhances performance", "RQ4",
          "Single-task runs may have been made and left out. Section 2 itself warns that tasks which share a backbone "
          "disturb each other.",
          _ruled("not shown", "every row is multi-task or unlabelled: no single-task row to compare with")),
    Claim("public_tasks", "five public clinical tasks, on MIMIC-IV-ECG and PTB-XL", "abstract, section 4.1",
          "Credentialed access is open to researchers after training, so public in a wide sense.",
          _ruled("overstated", "potassium needs the credentialed MIMIC-IV hosp module; PTB-XL has neither potassium "
                               "nor an RR label, and no table shows a PTB-XL result")),
    Claim("largest", "MIMIC-IV-ECG is the largest public repository of ECGs", "section 4.1",
          "It is the largest we know of that opens without credentials.",
          _ruled("overstated", "the Harvard-Emory ECG Database, more than ten times as large, has been open to "
                               "credentialed researchers since 2023, as the potassium labels of MIMIC-IV are")),
    Claim("backbone_strengths", "each backbone's strengths justify the ensemble", "RQ1, Table 1",
          "F1 does differ between columns; but an untrained head on the same features also gives such differences, "
          "by which class it happens to name.", _backbone_strengths),
    Claim("baselines_quoted", "best baselines: RR 147.3, age 13.49, arrhythmia 0.49", "summaries by others",
          "Not the authors' words: their 46.0 % is against the best backbone.", _baselines_quoted),
)  # fmt: skip


def audit() -> list[Verdict]:
    """Recompute every claim of :data:`CLAIMS`, in their order."""
    verdicts = []
    for claim in CLAIMS:
        finding = claim.check()
        verdicts.append(
            Verdict(
                finding.verdict, finding.recomputed, finding.numbers, claim.id, claim.claim, claim.where, claim.fair
            )
        )
    return verdicts
