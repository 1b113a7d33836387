"""What a model looks at: how much it loses when one part of the cardiac cycle is made usual.

Every intervention of :mod:`ecgmoe.interventions` changes the recording itself, and everything that a model sees is
computed anew from it, so that backbones, experts and signal characteristics meet the same change. On a simulated cohort
the true cause of a label is known, and what a model is found to look at can be checked.

Shape legend: B records, E experts, K tasks, N beats, D width, P phases, R resamples.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ecgmoe import backbones, beats, features, interventions, moe, training
from ecgmoe.datasets import Cohort
from ecgmoe.features import Inputs
from ecgmoe.multitask import MultiTask
from ecgmoe.scoring import interval, patient_weights
from ecgmoe.tasks import RHYTHMS, TASKS

#: Name of a recording that nothing was changed in.
AS_RECORDED = "as recorded"
#: Smallest probability that counts: certainty in a wrong answer must not outweigh all other records.
LEAST_PROBABILITY = 1e-4


class Cause(NamedTuple):
    """A group of records whose label has a known cause."""

    task: str
    column: str  #: of the cohort's table
    values: tuple[object, ...]  #: of that column
    phases: tuple[str, ...]  #: the cause, as many parts of the cycle as are to be named


#: Pairs of a finding and the part of the cycle that carries it, by how the simulated cohort is made and by every
#: textbook. Fibrillation has two signs, and both are to be named.
KNOWN_CAUSES = {
    "abnormal potassium": Cause("potassium", "potassium_abnormal", (1.0,), ("T",)),
    "atrial fibrillation": Cause("rhythm", "rhythm", (RHYTHMS[3], RHYTHMS[6]), ("P", "RR")),
    "slow or fast sinus rate": Cause("rhythm", "rhythm", (RHYTHMS[1], RHYTHMS[2]), ("RR",)),
    "first-degree block": Cause("rhythm", "rhythm", (RHYTHMS[5],), ("PR",)),
}


class Occluded(NamedTuple):
    """Some records of a cohort, as recorded and under each intervention."""

    rows: np.ndarray  #: of the cohort, (B,)
    inputs: dict[str, Inputs]  #: by :data:`AS_RECORDED` and the names of ``interventions.PHASES``


def occlude(
    cohort: Cohort,
    rows: np.ndarray,
    usual: interventions.Usual,
    names: Sequence[str] = (),
    preset: str = "compact",
    seed: int = 0,
) -> Occluded:
    """Inputs of some records of a cohort, as recorded and with each part of the cycle made usual.

    Parameters
    ----------
    cohort : Cohort
    rows : ndarray of shape (B,)
        Records, by their place in the cohort.
    usual : Usual
        From :func:`ecgmoe.interventions.usual` of the cohort.
    names, preset, seed
        Backbones that the model wants, as for :func:`ecgmoe.features.make_inputs`: they read all seven versions.
    """
    signal = cohort.signal[rows]
    peaks = beats.detect_r_peaks(signal, cohort.fs)
    versions = {AS_RECORDED: (signal, peaks), **interventions.make_usual(signal, cohort.fs, peaks, usual)}
    built = {name: backbones.build(name, preset=preset, seed=seed) for name in names}
    inputs = {}
    for version, (changed, at) in versions.items():
        feature = {}
        with torch.inference_mode():
            for name, backbone in built.items():
                parts = torch.from_numpy(changed).split(features.BATCH)
                feature[name] = torch.cat([backbone.features(part, cohort.fs) for part in parts])
        inputs[version] = features.from_signal(changed, cohort.fs, feature, at)
    return Occluded(np.asarray(rows), inputs)


def losses(model: MultiTask, occluded: Occluded, cohort: Cohort) -> dict[str, pd.DataFrame]:
    """Loss of each record by task: a column a version, NaN where there is no label.

    For classes the surprise, minus the logarithm of the true class's probability (of at least
    :data:`LEAST_PROBABILITY`), in nats; for values the absolute error in SDs of the labels of the training part.
    """
    targets = {name: values[occluded.rows] for name, values in cohort.targets().items() if name in model.tasks}
    out = {name: pd.DataFrame(index=pd.Index(occluded.rows, name="row")) for name in targets}
    for version, inputs in occluded.inputs.items():
        predicted = training.predict(model, inputs)
        for name, target_B in targets.items():
            p, known_B = predicted[name].astype(float), np.isfinite(target_B)
            if TASKS[name].kind == "regression":
                loss_B = np.abs(p - target_B) / float(model.target_scale(name).sd_D)
            else:
                class_B = np.where(known_B, target_B, 0).astype(int)
                p_BC = np.stack([1 - p, p], 1) if TASKS[name].kind == "binary" else p
                loss_B = -np.log(np.maximum(p_BC[np.arange(len(p_BC)), class_B], LEAST_PROBABILITY))
            out[name][version] = np.where(known_B, loss_B, np.nan)
    return out


def attribution(
    lost: Mapping[str, pd.DataFrame],
    cohort: Cohort,
    groups: Mapping[str, tuple[str, np.ndarray]],
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean rise of the loss by group and phase, with a 95 % interval over patients.

    Parameters
    ----------
    lost : mapping of str to DataFrame
        From :func:`losses`.
    cohort : Cohort
    groups : mapping of str to (task, mask)
        The task that is looked at, and which records of the cohort, (len(cohort),) bool. Records without a label and
        those that were not occluded are left out; a group without any has no row.
    n_boot, seed
        Resamples of patients.

    Returns
    -------
    DataFrame
        Columns ``group, task, phase, value, low, high, n``.
    """
    patients = cohort.table["patient_id"].to_numpy()
    rows = []
    for group, (task, mask) in groups.items():
        loss = lost[task][mask[lost[task].index]].dropna()
        if loss.empty:
            continue
        weight_RB = patient_weights(patients[loss.index], n_boot, seed)
        for phase in interventions.PHASES:
            rise_B = (loss[phase] - loss[AS_RECORDED]).to_numpy()
            value_R = weight_RB @ rise_B / weight_RB.sum(1)
            rows.append((group, task, phase, float(value_R[0]), *interval(value_R), len(loss)))
    return pd.DataFrame(rows, columns=["group", "task", "phase", "value", "low", "high", "n"])


def by_task(cohort: Cohort, tasks: Sequence[str]) -> dict[str, tuple[str, np.ndarray]]:
    """Groups for :func:`attribution`: all test records, a task at a time."""
    return {TASKS[name].title: (name, cohort.split == "test") for name in tasks}


def by_cause(cohort: Cohort, tasks: Sequence[str], max_records: int = 0) -> dict[str, tuple[str, np.ndarray]]:
    """Groups for :func:`attribution`: the first ``max_records`` (0: all) test records of each known cause."""
    test = cohort.split == "test"
    masks = {}
    for name, cause in KNOWN_CAUSES.items():
        if cause.task in tasks:
            mask = test & cohort.table[cause.column].isin(cause.values).to_numpy()
            masks[name] = (cause.task, mask & (mask.cumsum() <= (max_records or len(mask))))
    return masks


def rows_of(groups: Mapping[str, tuple[str, np.ndarray]], max_records: int = 0) -> np.ndarray:
    """Records that the groups need, ascending: of each group the first ``max_records``, 0 for all."""
    wanted = [np.flatnonzero(mask)[: max_records or None] for _, mask in groups.values()]
    return np.unique(np.concatenate(wanted)) if wanted else np.zeros(0, int)


def named_causes(found: pd.DataFrame) -> pd.DataFrame:
    """Compare the phases that a model is found to look at with the known causes.

    Parameters
    ----------
    found : DataFrame
        From :func:`attribution` of the groups :func:`by_cause`.

    Returns
    -------
    DataFrame
        A row a pair of :data:`KNOWN_CAUSES` that was found: ``group, task, n, true, named, hit``, then the attribution
        of each phase. ``named`` are the phases with the largest attribution, as many as the cause has, in the order
        of ``PHASES``; a phase whose interval reaches down to 0 is not named. ``hit``: they are the cause.
    """
    rows = []
    for group, part in found.groupby("group", sort=False):
        cause = KNOWN_CAUSES[str(group)]
        by_phase = part.set_index("phase")
        value = by_phase["value"]
        largest = value[by_phase["low"] > 0].nlargest(len(cause.phases)).index
        named = [phase for phase in interventions.PHASES if phase in largest]
        row = {"group": group, "task": cause.task, "n": int(part["n"].iloc[0]), "true": " and ".join(cause.phases)}
        row |= {"named": " and ".join(named) or "none", "hit": named == list(cause.phases)}
        rows.append(row | value.to_dict())
    return pd.DataFrame(rows, columns=["group", "task", "n", "true", "named", "hit", *interventions.PHASES])


def expert_dependence(model: MultiTask, occluded: Occluded) -> pd.DataFrame:
    """How much of what each periodic expert says depends on each phase: experts in rows, phases in columns.

    An expert's contribution to a task is what the gate and the attention over beats let through of it, the vector
    sum over beats of attention times gate times the expert's output. Shown is the length of that vector's change under
    an intervention relative to its length as recorded, both averaged over records and tasks.

    Raises
    ------
    ValueError
        The model has no periodic experts.
    """
    if not isinstance(getattr(model, "periodic", None), moe.PeriodicExperts):
        raise ValueError("the model has no periodic experts; fit one with periodic='experts'")
    said = {}
    for version, inputs in occluded.inputs.items():
        with backbones.traced(model, expert="periodic.norm") as seen:
            routed = training.route(model, inputs).periodic
        assert routed is not None
        said[version] = torch.einsum("bkn,bke,bned->bked", routed.attention_BKN, routed.gate_BKE, seen["expert"][0])
    before_BKED = said[AS_RECORDED]
    size_E = before_BKED.norm(dim=-1).mean((0, 1))
    rows = {
        phase: ((said[phase] - before_BKED).norm(dim=-1).mean((0, 1)) / size_E).numpy()
        for phase in interventions.PHASES
    }
    return pd.DataFrame(rows, index=list(moe.EXPERT_NAMES))
