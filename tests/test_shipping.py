"""Models for others: calibration on what was not learnt, figures that the command prints again, and the shipped one."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from synthetic import toy_cohort

from ecgmoe import caution, datasets, features, prediction, results, shipping, training
from ecgmoe.__main__ import app
from ecgmoe.fusion import ECGMoE, ECGMoEConfig
from ecgmoe.records import InputError
from ecgmoe.tasks import TASKS
from ecgmoe.training import FitConfig

CONFIG = FitConfig(epochs=3, batch_size=16)


@pytest.fixture(scope="module")
def cohort():
    return toy_cohort(80)


@pytest.fixture(scope="module")
def shipped(cohort, tmp_path_factory):
    """A model without backbones, shipped from the toy cohort."""
    folder = tmp_path_factory.mktemp("models") / "toy"
    make_inputs = features.make_inputs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "make_inputs", lambda cohort: make_inputs(cohort, ()))
        card = shipping.ship(cohort, folder, config=CONFIG, members=2, runs=folder.parent / "runs")
    return folder, card


def model_and_logits(n: int, seed: int = 0):
    """A model of the four tasks, and logits whose claims are wrong by a known factor."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(0)
    model = ECGMoE(ECGMoEConfig({}, tasks=("age", "sex", "rhythm")))
    true_sex, true_rhythm = rng.normal(0, 2, n), rng.normal(0, 2, (n, 15))
    sex = (rng.random(n) < 1 / (1 + np.exp(-true_sex))).astype(float)
    share = np.exp(true_rhythm) / np.exp(true_rhythm).sum(1, keepdims=True)
    rhythm = (share.cumsum(1) > rng.random((n, 1))).argmax(1).astype(float)
    age = rng.normal(0, 1, n)
    logits = {
        "age": torch.zeros(n, 1),
        "sex": torch.tensor(3 * true_sex + 1)[:, None],
        "rhythm": torch.tensor(4 * true_rhythm),
    }
    return model, logits, {"age": age, "sex": sex, "rhythm": rhythm}


def test_calibration_finds_what_makes_claims_come_true():
    model, logits, targets = model_and_logits(20_000)
    found = shipping.calibrate(model, logits, targets)
    assert found.scale["sex"] == pytest.approx(1 / 3, rel=0.05)
    assert found.shift["sex"] == pytest.approx(-1 / 3, abs=0.06)
    assert found.scale["rhythm"] == pytest.approx(1 / 4, rel=0.05) and "rhythm" not in found.shift
    assert found.half_width == {"age": pytest.approx(1.96, abs=0.04)}
    probability = found.probability("rhythm", logits["rhythm"])
    assert probability.shape == (20_000, 15) and float(probability.sum(1).sub(1).abs().max()) < 1e-6


def test_intervals_hold_their_share_of_what_was_not_looked_at():
    held = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        model, logits, targets = model_and_logits(39, seed)
        half = shipping.calibrate(model, logits, targets).half_width["age"]
        held.append(np.mean(np.abs(rng.normal(0, 1, 1000)) <= half))
    assert np.mean(held) == pytest.approx(0.95, abs=0.01), "whatever the records it was fitted to, on average"


def test_missing_labels_are_left_out_of_calibration():
    model, logits, targets = model_and_logits(500)
    targets["sex"][:250] = np.nan
    found = shipping.calibrate(model, logits, targets)
    half = {name: values[250:] for name, values in logits.items()}
    alone = shipping.calibrate(model, half, {name: values[250:] for name, values in targets.items()})
    assert found.scale["sex"] == pytest.approx(alone.scale["sex"], rel=1e-3)


def test_the_folder_holds_all_that_a_user_needs(shipped, cohort):
    folder, card = shipped
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "card.json",
        "config.json",
        "model-1.safetensors",
        "model.safetensors",
    ]
    assert card["files"] == {path.name: prediction.sha256(path) for path in folder.glob("*.safetensors")}
    assert card["data"]["folds"] == [7, 8] and card["data"]["records"] == int((cohort.split != "test").sum())
    assert [recipe["seed"] for recipe in card["recipes"]] == [CONFIG.seed, CONFIG.seed + 1]
    assert all(recipe["refit"] and recipe["epochs"] <= CONFIG.epochs for recipe in card["recipes"])
    assert set(card["calibration"]["half_width"]) == {"rr", "age"}
    text = (folder / "README.md").read_text("utf-8")
    assert "Not a medical device" in text and "predict RECORD --model toy" in text
    for row in card["test"]["scores"]:
        assert shipping._figure(row) in text


def test_epochs_and_calibration_come_from_a_model_that_has_not_seen_the_validation_part(shipped, cohort):
    _, card = shipped
    inputs = features.make_inputs(cohort, ())
    first = [training.train(cohort, inputs, config=replace(CONFIG, seed=seed)) for seed in (0, 1)]
    assert [recipe["epochs"] for recipe in card["recipes"]] == [training.best_epoch(one) for one in first]
    held_out = torch.from_numpy(np.flatnonzero(cohort.split == "validation"))
    logits = [training.route(one.model, inputs.take(held_out)).logits for one in first]
    logits = {name: (logits[0][name] + logits[1][name]) / 2 for name in logits[0]}
    targets = {name: values[held_out.numpy()] for name, values in cohort.targets().items()}
    calibration = shipping.calibrate(first[0].model, logits, targets)
    assert card["calibration"]["half_width"] == pytest.approx(calibration.half_width)
    assert card["calibration"]["scale"] == pytest.approx(calibration.scale)


def test_the_figures_of_the_card_are_those_of_its_answers(shipped, cohort):
    folder, card = shipped
    again = results.as_json(shipping.judged(prediction.load(folder), cohort))
    for name in ("scores", "coverage", "subgroups", "rhythms", "leads"):
        pd.testing.assert_frame_equal(pd.DataFrame(again[name]), pd.DataFrame(card["test"][name]), rtol=1e-4)
    test = np.flatnonzero(cohort.split == "test")
    table = prediction.load(folder).predict(cohort.signal[test], cohort.fs)
    age = cohort.targets()["age"][test]
    inside = ((table["age_years_low"] <= age) & (age <= table["age_years_high"]))[np.isfinite(age)].mean()
    coverage = pd.DataFrame(card["test"]["coverage"]).set_index(["task", "group"])
    assert coverage.loc[("age", "all"), "share"] == pytest.approx(inside)
    scores = pd.DataFrame(card["test"]["scores"]).set_index(["task", "metric"])["value"]
    assert scores["age", "mae"] == pytest.approx(np.nanmean(np.abs(table["age_years"] - age)), rel=1e-4)


def test_sensitivity_and_precision_of_a_rhythm_are_shares_of_its_recordings(cohort):
    rng = np.random.default_rng(3)
    probability_BO = rng.dirichlet(np.ones(len(TASKS["rhythm"].classes)), len(cohort))
    probability_BO[::2, 0] = 1.0
    found = shipping.by_rhythm(probability_BO, cohort, n_boot=200)
    test = (cohort.split == "test") & np.isfinite(cohort.targets()["rhythm"])
    label, named = cohort.targets()["rhythm"][test], probability_BO[test].argmax(1)
    assert set(found["rhythm"]) == {TASKS["rhythm"].classes[int(k)] for k in label}
    for row in found.itertuples():
        k = TASKS["rhythm"].classes.index(row.rhythm)
        true, said = label == k, named == k
        assert (row.n, row.named) == (true.sum(), said.sum())
        of = true if row.measure == "sensitivity" else said
        if of.any():
            assert row.value == pytest.approx((true & said).sum() / of.sum()) and row.low <= row.value <= row.high
        else:
            assert np.isnan([row.value, row.low, row.high]).all()


def test_a_backbone_that_was_trained_travels_with_the_model(cohort, tmp_path, monkeypatch):
    make_inputs = features.make_inputs
    monkeypatch.setattr(features, "make_inputs", lambda cohort: make_inputs(cohort, ("dlinear",), "compact-random"))
    shape = {"lora": "full", "tuned": ("dlinear",), "preset": "compact-random"}
    card = shipping.ship(cohort, tmp_path / "toy", config=replace(CONFIG, epochs=1), members=1, **shape)
    predictor = prediction.load(tmp_path / "toy")
    assert not card["backbones"] and list(predictor.model.networks) == ["dlinear"] and not predictor.networks
    assert card["parameters"] == predictor.model.n_parameters() > 80_000, "those of the backbone are among them"
    test = np.flatnonzero(cohort.split == "test")
    error = np.abs(predictor.predict(cohort.signal[test], cohort.fs)["age_years"] - cohort.targets()["age"][test])
    scores = pd.DataFrame(card["test"]["scores"]).set_index(["task", "metric"])["value"]
    assert scores["age", "mae"] == pytest.approx(error.mean(), rel=1e-4)


@pytest.mark.parametrize("row", ["nothing", "ResNet", "router: 1 of 5", "beats by phase"])
def test_only_what_can_be_shipped_is_trained(row, tmp_path):
    done = CliRunner().invoke(app, ["ship", "simulated", str(tmp_path / "x"), "--row", row])
    assert done.exit_code == 2 and f"no ECG-MoE {row}; known are ECG-MoE, " in " ".join(done.output.split())


def test_labels_without_an_answer_are_counted_and_not_scored(shipped, cohort):
    predictor = prediction.load(shipped[0])
    test = np.flatnonzero(cohort.split == "test")
    silent = cohort.signal.copy()
    silent[test[:3]] = 0.0
    found = shipping.judge(predictor, replace(cohort, signal=silent), n_boot=0)
    assert found.left_out["rr"] == 3 and found.left_out["sex"] == 3
    n = found.scores.set_index(["task", "metric"])["n"]
    assert n["rr", "mae"] == len(test) - 3


def test_a_kill_while_the_folder_is_written_leaves_nothing_that_loads(shipped, tmp_path, monkeypatch):
    folder, card = shipped
    (model,) = [prediction.load(folder).model]
    replace_file = Path.replace

    def killed(path, target):
        if path.name == "model.safetensors":
            raise KeyboardInterrupt
        return replace_file(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        shipping._write(tmp_path / "toy", list(model.members), card)
    with pytest.raises(prediction.ModelError, match="no such file"):
        prediction.load(tmp_path / "toy")
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_a_model_without_intervals_has_a_readme(shipped):
    _, card = shipped
    text = shipping.readme({**card, "test": {**card["test"], "coverage": []}})
    assert "## Prediction intervals" not in text and "## By group" in text


def test_fewer_leads_are_judged_too(shipped):
    leads = pd.DataFrame(shipped[1]["test"]["leads"])
    assert list(leads["leads"].unique()) == list(shipping.SELECTIONS)
    assert (leads.groupby("leads")["task"].nunique() == len(shipped[1]["calibration"]["half_width"]) + 2).all()


def shipped_models() -> list:
    return sorted(prediction.SHIPPED.glob("*/card.json"))


@pytest.mark.parametrize("path", shipped_models(), ids=lambda path: path.parent.name)
def test_a_model_that_comes_with_the_library_is_what_its_card_says(path):
    card = json.loads(path.read_text("utf-8"))
    predictor = prediction.load(path.parent.name)
    assert sum(file.stat().st_size for file in path.parent.glob("*.safetensors")) <= 8 * 2**20
    assert predictor.model.n_parameters() == card["parameters"]
    assert card["limits"] == [*shipping.LIMITS, *shipping.LIMITS_OF[card["data"]["name"].split()[0]]]
    assert (path.parent / "README.md").read_text("utf-8") == shipping.readme(card)
    assert max(card["data"]["folds"]) < 9, "judged on fold 9"
    assert set(predictor.tasks) <= set(TASKS) and not card["provenance"]["commit"].endswith("changes")


def test_a_model_is_judged_again_and_its_card_written_anew(shipped, cohort, tmp_path, monkeypatch):
    """As after a change of what is withheld; weights, calibration and where they come from stay."""
    folder = shutil.copytree(shipped[0], tmp_path / "toy")
    before, weights = json.loads((folder / "card.json").read_text("utf-8")), (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr(caution, "LONGEST_PAUSE_S", 1.1)
    found = shipping.judge_again(prediction.load(folder), folder, cohort)
    after = json.loads((folder / "card.json").read_text("utf-8"))
    assert found["without an answer"]["age"] > before["test"]["without an answer"]["age"]
    assert after["test"] == results.as_json(found) and after["judged"]["data"]["digest"] == cohort.digest
    assert {key for key in after if after[key] != before.get(key)} == {"test", "judged"}
    readme = (folder / "README.md").read_text("utf-8")
    assert readme == shipping.readme(after) and "for the figures" in readme
    assert (folder / "model.safetensors").read_bytes() == weights
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy"], "nothing is left beside it"
    with pytest.raises(InputError, match="is of other recordings"):
        shipping.judge_again(prediction.load(folder), folder, toy_cohort(40))
    (folder / "card.json").unlink()
    with pytest.raises(InputError, match="has no card with figures"):
        shipping.judge_again(prediction.load(folder), folder, cohort)


@pytest.mark.slow
def test_the_shipped_model_reaches_on_fold_9_what_its_card_says(recordings):
    card = json.loads((prediction.SHIPPED / "compact-ptbxl" / "card.json").read_text("utf-8"))
    cohort = datasets.load(recordings / "ptbxl", max_records=0)
    found = results.as_json(asdict(shipping.judge(prediction.load("compact-ptbxl"), cohort)))
    assert found["left_out"] == card["test"]["without an answer"]
    for name in ("scores", "coverage", "calibration", "subgroups", "rhythms"):
        pd.testing.assert_frame_equal(pd.DataFrame(found[name]), pd.DataFrame(card["test"][name]), rtol=2e-3, atol=2e-3)
