"""What a model looks at: found where it is known by construction, and on the simulated cohort."""

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic import ecg, toy_cohort
from torch import nn

from ecgmoe import attribution, beats, datasets, features, interventions, moe, training
from ecgmoe.attribution import AS_RECORDED
from ecgmoe.datasets import Card, Cohort
from ecgmoe.interventions import PHASES
from ecgmoe.multitask import MultiTask, Output
from ecgmoe.tasks import RHYTHMS

RR_MEAN, RR_RELATIVE_RMSSD, T_HEIGHT = 0, 4, 18  # columns of ecgmoe.beats.characteristics


class Reader(MultiTask):
    """A model that looks at three things: the mean RR interval, its irregularity, and the height of T."""

    def __init__(self):
        super().__init__(("rr", "sex", "rhythm"))
        self.unused = nn.Linear(1, 1)

    def forward(self, inputs):
        x_BA = inputs.characteristics_BA
        mean = self.target_scale("rr")
        irregular = 40 * (x_BA[:, RR_RELATIVE_RMSSD] - 0.1)
        rhythm = torch.full((len(x_BA), len(RHYTHMS)), -9.0)
        rhythm[:, 0], rhythm[:, 3] = -irregular, irregular
        return Output(
            {
                "rr": (1000 * x_BA[:, [RR_MEAN]] - mean.mean_D) / mean.sd_D,
                "sex": 60 * (x_BA[:, [T_HEIGHT]] - 0.36),
                "rhythm": rhythm,
            }
        )


@pytest.fixture(scope="module")
def cohort():
    """The toy cohort, in which sex scales the T wave alone."""
    toy = toy_cohort(60)
    rng = np.random.default_rng(0)
    signals, rr = [], []
    for sex, rhythm in zip(toy.table["sex"], toy.table["rhythm"], strict=True):
        spread = 0.25 if rhythm == "atrial fibrillation" else 0.01
        signal, at = ecg(list(rng.uniform(0.75, 1.0) * rng.uniform(1 - spread, 1 + spread, 30)), toy.fs)
        seconds = np.arange(signal.shape[-1]) / toy.fs
        t_wave = sum(0.3 * np.exp(-0.5 * ((seconds - r / toy.fs - 0.25) / 0.05) ** 2) for r in at)
        signals.append(signal[0] + sex * np.linspace(0.4, 1.2, 12)[:, None] * t_wave)
        rr.append(np.diff(at).mean() / toy.fs * 1000)
    table = toy.table.assign(rr_interval=rr)
    return Cohort(Card("toy", "made up", "none", "none", ()), table, np.stack(signals).astype(np.float32), toy.fs,
                  toy.skipped)  # fmt: skip


@pytest.fixture(scope="module")
def model(cohort):
    model = Reader()
    model.fit_scales(None, {name: torch.from_numpy(t) for name, t in cohort.targets().items() if name in model.tasks})
    return model.eval()


@pytest.fixture(scope="module")
def occluded(cohort):
    return attribution.occlude(cohort, np.arange(len(cohort)), interventions.usual(cohort))


@pytest.fixture(scope="module")
def lost(model, occluded, cohort):
    return attribution.losses(model, occluded, cohort)


@pytest.fixture(scope="module")
def found(lost, cohort, model):
    groups = {name: (name, np.ones(len(cohort), bool)) for name in model.tasks}
    return attribution.attribution(lost, cohort, groups, n_boot=200)


def test_what_is_recorded_is_what_the_model_sees_elsewhere(cohort, occluded):
    whole = features.make_inputs(cohort, names=())
    torch.testing.assert_close(occluded.inputs[AS_RECORDED].characteristics_BA, whole.characteristics_BA)
    torch.testing.assert_close(occluded.inputs[AS_RECORDED].beats.beat_BNCL, whole.beats.beat_BNCL)
    assert list(occluded.inputs) == [AS_RECORDED, *PHASES]


@pytest.mark.parametrize(("task", "looked_at"), [("rr", "RR"), ("sex", "T"), ("rhythm", "RR")])
def test_the_part_that_a_model_looks_at_is_found(found, task, looked_at):
    value = found[found["group"] == task].set_index("phase")
    assert value["value"].idxmax() == looked_at
    assert value.loc[looked_at, "low"] > 0
    others = value.drop(index=looked_at)
    assert (others["value"].abs() < 0.2 * value.loc[looked_at, "value"]).all()
    assert (value["low"] <= value["value"]).all() and (value["value"] <= value["high"]).all()


def test_losses_are_in_standard_deviations_and_nats(model, occluded, lost, cohort):
    predicted = training.predict(model, occluded.inputs[AS_RECORDED])
    targets = cohort.targets()
    sd = targets["rr"][np.isfinite(targets["rr"])].std()
    expected = np.abs(predicted["rr"] - targets["rr"]) / sd
    np.testing.assert_allclose(lost["rr"][AS_RECORDED], expected, rtol=1e-3, atol=1e-4)
    first = int(np.flatnonzero(targets["sex"] == 1)[0])
    np.testing.assert_allclose(lost["sex"][AS_RECORDED][first], -np.log(predicted["sex"][first]), rtol=1e-4)
    assert lost["rhythm"][AS_RECORDED].isna().sum() == 5, "records without a label have no loss"
    assert lost["sex"].max().max() <= -np.log(attribution.LEAST_PROBABILITY) + 1e-9


def test_groups_hold_only_labelled_records_that_were_occluded(cohort, model):
    few = np.flatnonzero(cohort.split == "test")[:6]
    occluded = attribution.occlude(cohort, few, interventions.usual(cohort))
    lost = attribution.losses(model, occluded, cohort)
    nobody = {"all": ("rr", np.ones(len(cohort), bool)), "nobody": ("rr", np.zeros(len(cohort), bool))}
    found = attribution.attribution(lost, cohort, nobody, n_boot=10)
    assert set(found["group"]) == {"all"} and set(found["n"]) == {6}


def test_records_that_the_groups_need(cohort):
    groups = attribution.by_cause(cohort, ("rr", "sex", "rhythm"))
    assert list(groups) == ["atrial fibrillation", "slow or fast sinus rate", "first-degree block"]
    fibrillation = (cohort.split == "test") & (cohort.table["rhythm"] == "atrial fibrillation").to_numpy()
    np.testing.assert_array_equal(attribution.rows_of(groups), np.flatnonzero(fibrillation))
    np.testing.assert_array_equal(attribution.rows_of(groups, 3), np.flatnonzero(fibrillation)[:3])
    assert len(attribution.rows_of({})) == 0
    limited = attribution.by_cause(cohort, ("rr", "sex", "rhythm"), 3)
    np.testing.assert_array_equal(attribution.rows_of(limited), attribution.rows_of(groups, 3))
    (title, (task, mask)), *_ = attribution.by_task(cohort, ("sex",)).items()
    assert (title, task, mask.sum()) == ("Sex", "sex", (cohort.split == "test").sum())


def table_of(**values):
    rows = [
        (group, attribution.KNOWN_CAUSES[group].task, phase, value, value, value, 7)
        for group, by_phase in values.items()
        for phase, value in zip(PHASES, by_phase, strict=True)
    ]
    return pd.DataFrame(rows, columns=["group", "task", "phase", "value", "low", "high", "n"])


def test_a_hit_needs_the_cause_and_nothing_else():
    found = attribution.named_causes(
        table_of(
            **{  #                        P    PR   QRS   ST   T    RR
                "abnormal potassium": (0.10, 0.2, 0.30, 0.1, 0.9, 0.0),
                "atrial fibrillation": (0.5, 0.1, 0.20, 0.1, 0.0, 0.4),
                "slow or fast sinus rate": (0, 0, 0.00, 0.1, 0.0, 0.05),
                "first-degree block": (-0.1, -0.2, -0.3, 0.0, -0.1, -0.5),
            }
        )
    ).set_index("group")
    assert found["hit"].to_dict() == {
        "abnormal potassium": True, "atrial fibrillation": True, "slow or fast sinus rate": False,
        "first-degree block": False,
    }  # fmt: skip
    assert found.loc["atrial fibrillation", "named"] == "P and RR"
    assert found.loc["first-degree block", "named"] == "none"
    unsure = table_of(**{"abnormal potassium": (0.0, 0.0, 0.0, 0.0, 0.9, 0.0)}).assign(low=-0.1)
    assert attribution.named_causes(unsure)["named"].tolist() == ["none"]
    one_of_two = table_of(**{"atrial fibrillation": (0.5, 0.0, 0.2, 0.0, 0.0, -0.1)})
    assert attribution.named_causes(one_of_two)["named"].tolist() == ["P and QRS"]
    assert not attribution.named_causes(one_of_two)["hit"].any()


def test_backbones_read_the_changed_recordings(cohort):
    few = np.arange(4)
    occluded = attribution.occlude(cohort, few, interventions.usual(cohort), ("dlinear",), "compact-random", 3)
    whole = features.make_inputs(cohort, ("dlinear",), "compact-random", 3)
    seen = {version: inputs.features["dlinear"] for version, inputs in occluded.inputs.items()}
    torch.testing.assert_close(seen[AS_RECORDED], whole.features["dlinear"][:4], atol=1e-4, rtol=1e-4)
    for phase in ("QRS", "T", "RR"):
        assert (seen[phase] - seen[AS_RECORDED]).abs().max() > 0.01, phase


def test_experts_depend_on_what_is_changed_for_them(cohort, occluded):
    config = training.FitConfig(epochs=1)
    fitted = training.train(cohort, features.make_inputs(cohort, names=()), names=(), config=config, width=16)
    table = attribution.expert_dependence(fitted.model, occluded)
    assert list(table.index) == list(moe.EXPERT_NAMES) and list(table.columns) == list(PHASES)
    assert (table > 0).all().all()
    same = occluded._replace(inputs=dict.fromkeys(occluded.inputs, occluded.inputs[AS_RECORDED]))
    assert (attribution.expert_dependence(fitted.model, same) == 0).all().all()
    with pytest.raises(ValueError, match="no periodic experts"):
        attribution.expert_dependence(Reader(), occluded)


@pytest.mark.slow
def test_the_periodic_experts_name_the_true_cause_of_at_least_three_pairs_of_four():
    cohort = datasets.load("simulated")
    fitted = training.train(cohort, features.make_inputs(cohort, names=()), names=())
    groups = attribution.by_cause(cohort, fitted.model.tasks)
    occluded = attribution.occlude(cohort, attribution.rows_of(groups), interventions.usual(cohort))
    found = attribution.attribution(attribution.losses(fitted.model, occluded, cohort), cohort, groups)
    named = attribution.named_causes(found)
    assert list(named["group"]) == list(attribution.KNOWN_CAUSES)
    assert named["hit"].sum() >= 3, named.to_string()


def test_the_toy_reader_reads_what_it_says(cohort):
    peaks = beats.detect_r_peaks(cohort.signal, cohort.fs)
    characteristics = beats.characteristics(cohort.signal, cohort.fs, peaks)
    classical = beats.classical_intervals(cohort.signal, cohort.fs, peaks)
    np.testing.assert_allclose(characteristics[:, T_HEIGHT], classical["t_mv"], rtol=1e-5)
    np.testing.assert_allclose(1000 * characteristics[:, RR_MEAN], classical["rr_mean_ms"], rtol=1e-5)
