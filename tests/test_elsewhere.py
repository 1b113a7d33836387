"""A model in other hospitals: what headers tell, what is left out, and how it is scored."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from synthetic import FS, ecg

from ecgmoe import elsewhere, prediction, results
from ecgmoe.__main__ import app
from ecgmoe.elsewhere import Labels, labels
from ecgmoe.records import read_record, write_record


def record(folder, name, *comments, seconds=10.0):
    signal, _ = ecg([0.8] * 60, seconds=seconds)
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / name, signal[0], FS, comments=comments)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("x 12 500 5000\n#Age: 57\n#Sex: Male\n#Dx: 426783006\n#Rx: Unknown", Labels(57.0, 0.0, "sinus rhythm")),
        ("# Age: 61\n# Sex: Female\n# Dx: 164889003,59118001", Labels(61.0, 1.0, "atrial fibrillation")),
        ("# Dx: 426177001,426783006\n# Age: 5\n# Sex: F", Labels(5.0, 1.0, None)),
        ("#<age>: 51 <sex>: F <diagnoses>: \n#Rhythm: Sinus bradycardia.", Labels(51.0, 1.0, "sinus bradycardia")),
        ("#<age>: 46\n#<sex>: M\n#<diagnoses>:\n#Rhythm: Atrial flutter, typical.", Labels(46.0, 0.0, None)),
    ],
)
def test_headers_of_either_kind_are_read(header, told):
    assert labels(header) == told


@pytest.mark.parametrize("header", ["", "#Age: NaN\n#Sex: Unknown\n#Dx: ", "Age: 5\nSex: F", "#Dosage: 5\n#Sex:"])
def test_what_a_header_does_not_tell_is_missing(header):
    age, sex, rhythm = labels(header)
    assert math.isnan(age) and math.isnan(sex) and rhythm is None


def perfect(n=40):
    female, age = np.arange(n) % 2, np.linspace(18, 89, n)
    names = np.resize(list(elsewhere.RHYTHMS.values()), n)
    return pd.DataFrame(
        {
            **{"told_age": age, "told_sex": female.astype(float), "told_rhythm": names, "told_rr": 10 * age},
            **{"age_years": age, "age_years_low": age - 1, "age_years_high": age + 1, "rr_ms": 10 * age},
            **{"sex_female_probability": 0.1 + 0.8 * female, "rhythm": names},
        }
    )


def test_a_perfect_answer_scores_1_and_a_wrong_one_0():
    scores = elsewhere.score(perfect(), mean_age=60.0, n_boot=20).set_index(["task", "metric"])
    rhythms = [("rhythm", name) for name in elsewhere.RHYTHMS.values()]
    ones = [("sex", "accuracy"), ("sex", "macro_f1"), ("sex", "auroc"), ("age", "inside"), *rhythms]
    assert (scores.loc[ones, ["value", "low", "high"]] == 1).all(axis=None)
    assert (scores.loc[[("age", "mae"), ("rr", "mae")], "value"] == 0).all()
    assert scores.loc[("sex", "called_female"), "value"] == scores.loc[("sex", "is_female"), "value"] == 0.5
    floor = np.abs(perfect()["told_age"] - 60).mean()
    assert scores.loc[("age", "mae_of_mean_age"), "value"] == pytest.approx(floor, rel=1e-6)

    wrong = perfect().assign(sex_female_probability=lambda one: 1 - one["sex_female_probability"], age_years_low=200)
    scores = elsewhere.score(wrong.assign(rhythm="other"), 60.0, n_boot=20).set_index(["task", "metric"])
    assert (scores.loc[ones, "value"] == 0).all()


def test_only_ages_that_count_and_answers_that_there_are_are_scored():
    answered = perfect()
    answered.loc[0:2, "told_age"] = [17.0, 90.0, np.nan]
    answered.loc[3, ["age_years", "sex_female_probability"]] = np.nan
    scores = elsewhere.score(answered, 60.0, n_boot=20).set_index(["task", "metric"])["n"]
    assert scores["age"].unique().tolist() == [36] and scores["sex"].unique().tolist() == [39]
    assert scores["rr", "mae"] == 40
    rhythm = answered.assign(rhythm=answered["rhythm"].replace("sinus rhythm", "sinus rhythm with pvc(s)"))
    assert (elsewhere.score(rhythm, 60.0, n_boot=20).query("task == 'rhythm'")["value"] == 1).all()
    assert len(elsewhere.score(answered[:9], 60.0, n_boot=20)) == 0  # chance


def test_the_command_counts_what_it_leaves_out_and_names_no_folder(model, tmp_path):
    folder = tmp_path / "georgia"
    for i, age in enumerate(("NaN", "5", "90", "18", "89", *range(30, 42))):
        record(folder, f"g{i:02d}", f"Age: {age}", f"Sex: {'Unknown' if i == 7 else 'FM'[i % 2]}", seconds=30.0)
    record(folder, "short", "Age: 50", "Sex: F", seconds=5.0)
    record(folder / "ptb-xl", "HR1", "Age: 50", "Sex: F")
    path = tmp_path / "elsewhere.json"
    words = ["elsewhere", str(folder), "--model", str(model), "--json", str(path)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0 and "Georgia" in done.output
    assert "1 skipped: it is of PTB-XL" in done.output and "1 skipped: 5 s long" in done.output
    written = json.loads(path.read_text("utf-8"))
    assert str(tmp_path) not in path.read_text("utf-8") and written["provenance"]["commit"]
    (counts,) = written["metrics"]["sources"]
    assert (counts["recordings"], counts["skipped"], counts["sex missing"]) == (17, 2, 1)  # an answer for each
    assert (counts["age missing"], counts["age outside of 18-89"], counts["lead II is not I + III"]) == (1, 2, 17)
    n = pd.DataFrame(written["metrics"]["scores"]).set_index(["task", "metric"])["n"]
    assert n["age", "mae"] == 14 and n["sex", "accuracy"] == 16 and n["rr", "mae"] == 17


def test_gains_of_ludb_are_taken_from_its_headers_and_made_one(tmp_path):
    record(tmp_path, "r")
    right = read_record(tmp_path / "r").signal
    header = tmp_path / "r.hea"
    first, *lines = header.read_text("utf-8").splitlines()
    gains = np.arange(1, 13) * 500.0
    lines = [line.replace("1000.0(0)", f"{gain}(0)") for line, gain in zip(lines, gains, strict=True)]
    header.write_text("\n".join([first, *lines]) + "\n", "utf-8")
    seen = []
    predictor = SimpleNamespace(stream=lambda recordings: [seen.extend(recordings)][:0])
    for gain in (None, 1000.0):
        elsewhere.answers(predictor, tmp_path, gain)
    assert seen[0].signal == pytest.approx(right * (1000 / gains)[:, None], abs=1e-5)
    assert seen[1].signal == pytest.approx(right, abs=1e-5)
    assert [source.gain for source in elsewhere.SOURCES["ludb"]] == [None, 1000.0]


def test_the_book_reads_figures_of_this_model_only(monkeypatch):
    card = prediction.load().card
    scores = elsewhere.score(perfect(), 60.0, n_boot=20).assign(source="LUDB")
    metrics = {"files": card["files"], "sources": [{"source": "LUDB", "recordings": 40}], "scores": scores}
    monkeypatch.setattr(results, "reference", lambda _: {"metrics": metrics})
    found = elsewhere.load(card)
    assert elsewhere.figure(found, "LUDB", "sex", "accuracy") == "1.00 [1.00, 1.00]"
    shown = elsewhere.table(found, card).set_index("Measure")
    assert shown.columns.tolist() == ["LUDB", "PTB-XL, fold 9"]
    assert shown.loc["Recordings"].tolist() == ["40", "2,183"]
    accuracy = next(row for row in card["test"]["scores"] if row["metric"] == "accuracy" and row["task"] == "sex")
    assert shown.loc["Sex: accuracy", "PTB-XL, fold 9"].startswith(f"{accuracy['value']:.2f} [")
    assert shown.loc["Share called female", "PTB-XL, fold 9"] == "–"
    assert elsewhere.table(found, card, at_least=41).columns.tolist() == ["Measure", "PTB-XL, fold 9"]
    trained = {"files": card["files"], "backbones": {}}  # of `train`, which judges nothing
    assert elsewhere.table(found, trained).columns.tolist() == ["Measure", "LUDB"]
    assert elsewhere.load({"files": {"model.safetensors": "another"}}) is None

    def absent(_):
        raise FileNotFoundError

    monkeypatch.setattr(results, "reference", absent)
    assert elsewhere.load(card) is None
    assert elsewhere.figure(None, "LUDB", "sex", "accuracy") == elsewhere.UNKNOWN == "not measured"
    assert elsewhere.table(None, card).to_numpy().tolist() == [["not measured"]]
