from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from ecgmoe import baselines, paper, scoring
from ecgmoe import evaluation as ev
from ecgmoe.datasets import Card, Cohort
from ecgmoe.scoring import MIN_CLASS_RECORDS, metrics, patient_weights
from ecgmoe.tasks import RHYTHMS, TASKS


def make_cohort(n=900, seed=0, drop=()):
    """A cohort whose labels follow from the latent columns ``z`` (records, 4), a few labels missing."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 4))
    common = np.digitize(z[:, 3], [-0.5, 0.7, 1.4])
    table = pd.DataFrame(
        {
            "patient_id": rng.integers(0, n // 2, n),
            "path": "x",
            "rr_interval": 820 + 150 * z[:, 0],
            "age": 60 + 15 * z[:, 1],
            "sex": (z[:, 2] > 0).astype(float),
            "potassium": 4.0,
            "potassium_abnormal": (z[:, 0] + z[:, 1] > 1.8).astype(float),
            "rhythm": [RHYTHMS[c] for c in common],
        },
        index=pd.RangeIndex(n, name="ecg_id"),
    )
    table["fold"] = table["patient_id"] % 9 + 1
    table.loc[rng.random(n) < 0.1, ["rr_interval", "sex"]] = np.nan
    table.loc[rng.random(n) < 0.05, "rhythm"] = None
    for column in drop:
        table[column] = None if column == "rhythm" else np.nan
    signal = np.zeros((n, 12, 2), np.float32)
    cohort = Cohort(Card("test", "", "", "", ()), table, signal, 100, pd.DataFrame(columns=["record", "reason"]))
    return cohort, z


@pytest.fixture(scope="module")
def data():
    return make_cohort()


def noisy(cohort, seed=1):
    """Predictions of some skill for all tasks."""
    rng = np.random.default_rng(seed)
    n, targets = len(cohort), cohort.targets()
    filled = {name: np.nan_to_num(values) for name, values in targets.items()}
    probability = 0.2 * rng.random((n, len(RHYTHMS))) + np.eye(len(RHYTHMS))[filled["rhythm"].astype(int)] * 0.15
    return {
        "rr": filled["rr"] + rng.normal(0, 30, n),
        "age": filled["age"] + rng.normal(0, 8, n),
        "sex": np.clip(filled["sex"] * 0.4 + 0.3 + rng.normal(0, 0.2, n), 0, 1),
        "potassium": np.round(np.clip(filled["potassium"] * 0.5 + rng.random(n) * 0.6, 0, 1), 1),
        "rhythm": probability / probability.sum(1, keepdims=True),
    }


def test_metrics_equal_scikit_learn(data):
    cohort, _ = data
    predictions, targets = noisy(cohort), cohort.targets()
    got = ev.evaluate(predictions, targets, cohort.table["patient_id"].to_numpy(), n_boot=0)
    value = got.set_index(["task", "metric"])["value"]
    for name in ("rr", "age"):
        known = np.isfinite(targets[name])
        y, p = targets[name][known], predictions[name][known]
        assert value[name, "mae"] == pytest.approx(sk.mean_absolute_error(y, p), rel=1e-6)
        assert value[name, "rmse"] == pytest.approx(sk.root_mean_squared_error(y, p), rel=1e-6)
    for name in ("sex", "potassium"):
        known = np.isfinite(targets[name])
        y, p = targets[name][known], predictions[name][known]
        assert value[name, "macro_f1"] == pytest.approx(sk.f1_score(y, p > 0.5, average="macro"))
        assert value[name, "accuracy"] == pytest.approx(sk.accuracy_score(y, p > 0.5))
        assert value[name, "balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, p > 0.5))
        assert value[name, "auroc"] == pytest.approx(sk.roc_auc_score(y, p))
    known = np.isfinite(targets["rhythm"])
    y, p = targets["rhythm"][known].astype(int), predictions["rhythm"][known]
    counted = [c for c in range(len(RHYTHMS)) if (y == c).sum() >= MIN_CLASS_RECORDS]
    f1 = sk.f1_score(y, p.argmax(1), labels=counted, average="macro")
    assert value["rhythm", "macro_f1"] == pytest.approx(f1)
    assert value["rhythm", "accuracy"] == pytest.approx((y == p.argmax(1)).mean())
    assert value["rhythm", "balanced_accuracy"] == pytest.approx(
        sk.recall_score(y, p.argmax(1), labels=counted, average="macro")
    )
    auroc = np.mean([sk.roc_auc_score(y == c, p[:, c]) for c in counted])
    assert value["rhythm", "auroc"] == pytest.approx(auroc)
    assert (got.groupby("task", sort=False).first()["metric"] == [TASKS[t].metric for t in TASKS]).all()
    assert got[["low", "high"]].isna().all(axis=None)


def test_resamples_are_the_same_in_blocks_of_any_size(data, monkeypatch):
    cohort, _ = data
    runs, targets = {"a": noisy(cohort), "b": noisy(cohort, 2)}, cohort.targets()
    patients = cohort.table["patient_id"].to_numpy()
    whole = ev.paired_difference(runs["a"], runs["b"], targets, patients, n_boot=50, seed=3)
    monkeypatch.setattr(scoring, "_BLOCK", 7 * len(patients))
    sizes = [len(block) for block in scoring.weight_blocks(patients, 50, seed=3)]
    assert sizes == [1, 7, 7, 7, 7, 7, 7, 7, 1]
    blocks = ev.paired_difference(runs["a"], runs["b"], targets, patients, n_boot=50, seed=3)
    pd.testing.assert_frame_equal(blocks, whole)


def test_resampled_metrics_equal_resampled_records(data):
    """A weight of w is the same as the record w times: what scikit-learn says of the repeated records."""
    cohort, _ = data
    predictions, targets = noisy(cohort), cohort.targets()
    patients = cohort.table["patient_id"].to_numpy()
    for name, task in TASKS.items():
        known = np.isfinite(targets[name])
        w = patient_weights(patients[known], 1, seed=3)
        repeated = np.repeat(np.arange(known.sum()), w[1].astype(int))
        y, p = targets[name][known], predictions[name][known]
        resampled = metrics(task, y, p, w)
        again = metrics(task, y[repeated], p[repeated], np.ones((1, len(repeated))))
        for metric, values in resampled.items():
            assert values[1] == pytest.approx(again[metric][0]), (name, metric)


def test_rare_classes_do_not_count():
    truth = np.r_[np.zeros(40), np.ones(30), np.full(3, 5)].astype(np.float32)
    named = np.eye(len(RHYTHMS))[truth.astype(int)]
    named[truth == 5] = np.eye(len(RHYTHMS))[0]
    got = ev.evaluate({"rhythm": named}, {"rhythm": truth}, np.arange(73), n_boot=0).set_index("metric")["value"]
    assert got["macro_f1"] == pytest.approx((2 * 40 / (40 + 43) + 1) / 2)
    few = ev.evaluate({"rhythm": named[-6:]}, {"rhythm": truth[-6:]}, np.arange(6), n_boot=0)
    assert few.set_index("metric")["value"]["macro_f1"] == pytest.approx(0.5)


def test_one_class_only_has_no_auroc():
    got = ev.evaluate({"sex": np.full(5, 0.9)}, {"sex": np.ones(5)}, np.arange(5), n_boot=20).set_index("metric")
    assert np.isnan(got.loc["auroc", "value"]) and np.isnan(got.loc["auroc", "low"])
    assert got.loc["macro_f1", "value"] == 0.5 and got.loc["balanced_accuracy", "value"] == 1.0


def test_intervals_are_over_patients():
    """Each record ten times over under one patient must not make the interval narrower."""
    rng = np.random.default_rng(0)
    y = rng.normal(800, 100, 200)
    p = y + rng.normal(0, 50, 200)
    one = ev.evaluate({"rr": p}, {"rr": y}, np.arange(200), n_boot=2000, seed=1)
    ten = ev.evaluate(
        {"rr": np.repeat(p, 10)}, {"rr": np.repeat(y, 10)}, np.repeat(np.arange(200), 10), n_boot=2000, seed=1
    )
    loose = ev.evaluate({"rr": np.repeat(p, 10)}, {"rr": np.repeat(y, 10)}, np.arange(2000), n_boot=2000, seed=1)
    width = [float((r["high"] - r["low"])[0]) for r in (one, ten, loose)]
    assert width[1] == pytest.approx(width[0])
    assert width[2] < 0.5 * width[0]
    # Against the textbook interval of a mean.
    error = np.abs(y - p)
    assert width[0] == pytest.approx(2 * 1.96 * error.std() / np.sqrt(200), rel=0.1)
    assert one["low"][0] < one["value"][0] < one["high"][0]


def test_wrong_predictions_are_refused(data):
    cohort, _ = data
    good = noisy(cohort)
    for name, bad, message in (
        ("rr", good["rr"][:-1], "shape"),
        ("rhythm", good["rhythm"][:, :14], "shape"),
        ("sex", np.full(len(cohort), np.nan), "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            ev.evaluate({name: bad}, cohort.targets(), cohort.table["patient_id"].to_numpy(), n_boot=1)
    with pytest.raises(ValueError, match="no labelled record"):
        ev.evaluate({"rr": np.ones(3)}, {"rr": np.full(3, np.nan)}, np.arange(3))


def test_paired_difference(data):
    cohort, _ = data
    targets, patients = cohort.targets(), cohort.table["patient_id"].to_numpy()
    good = noisy(cohort)
    worse = good | {"rr": good["rr"] + 100, "sex": 1 - good["sex"]}
    found = ev.paired_difference(good, worse, targets, patients, n_boot=300).set_index("task")
    assert found.loc["rr", "difference"] == pytest.approx(found.loc["rr", "a"] - found.loc["rr", "b"])
    assert found.loc["rr", "high"] < 0 and found.loc["rr", "better"] == "a" and found.loc["rr", "p"] < 0.01
    assert found.loc["sex", "low"] > 0 and found.loc["sex", "better"] == "a"
    assert found.loc["age", ["difference", "low", "high"]].tolist() == [0, 0, 0]
    assert found.loc["age", "p"] == 1 and found.loc["age", "better"] == "neither"
    back = ev.paired_difference(worse, good, targets, patients, n_boot=300).set_index("task")
    assert back.loc["rr", "difference"] == -found.loc["rr", "difference"] and back.loc["rr", "better"] == "b"
    assert list(ev.paired_difference({"rr": good["rr"]}, good, targets, patients, n_boot=10)["task"]) == ["rr"]


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(0)
    y, common = rng.normal(60, 15, 300), rng.normal(0, 10, 300)
    a, b = y + common, y + 1.1 * common
    both = [ev.evaluate({"age": p}, {"age": y}, np.arange(300), seed=1) for p in (a, b)]
    paired = ev.paired_difference({"age": a}, {"age": b}, {"age": y}, np.arange(300), seed=1)
    assert paired["better"][0] == "a"
    assert both[0]["high"][0] > both[1]["low"][0]  # unpaired intervals overlap


def test_holm():
    # Worked example: sorted p times 4, 3, 2, 1, made monotone.
    assert ev.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert ev.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert len(ev.holm([])) == 0


def test_compare_and_best_on_validation(data):
    cohort, _ = data
    good, other = noisy(cohort), noisy(cohort, seed=2)
    runs = {"a": good, "b": other | {"rr": other["rr"] + 200}, "c": {"rr": good["rr"] + 1}}
    found = ev.compare(runs, "a", cohort, n_boot=1000)
    assert list(found["task"].unique()) == list(TASKS)
    row = found[(found["task"] == "rr") & (found["baseline"] == "b")].iloc[0]
    assert row["better"] == "model" and row["p"] <= row["p_holm"]
    assert set(found[found["baseline"] == "c"]["task"]) == {"rr"}
    assert set(ev.compare(runs, "a", cohort, baselines=["c"], n_boot=20)["baseline"]) == {"c"}
    with pytest.raises(ValueError, match="nothing to compare"):
        ev.compare({"a": good}, "a", cohort)
    assert ev.best_on_validation({"b": runs["b"], "a": good}, cohort)["rr"] == "a"
    best = ev.against_best(runs, "a", cohort, n_boot=1000)
    assert dict(zip(best["task"], best["baseline"], strict=True)) == dict.fromkeys(TASKS, "b") | {"rr": "c"}
    shown = ev.comparison_table(found, "ours")
    assert shown["Clearly better"].tolist() == [
        {"model": "ours", "baseline": name, "neither": "neither"}[better]
        for name, better in zip(found["baseline"], found["better"], strict=True)
    ]
    flipped = good | {"sex": 1 - good["sex"]}
    assert ev.best_on_validation({"flipped": flipped, "a": good}, cohort)["sex"] == "a"


def test_score_table_and_paper_table(data):
    cohort, z = data
    runs = {"TEMPO": noisy(cohort), **baselines.floors_from(cohort, cohort.targets()["rr"])}
    scores = ev.score_table(runs, cohort, n_boot=50)
    assert list(scores.columns) == ["model", "task", "metric", "value", "low", "high", "n"]
    assert set(scores[scores["model"] == ev.ZERO]["task"]) == {"rr", "age"}
    test = cohort.split == "test"
    assert set(scores[scores["task"] == "rr"]["n"]) == {int(np.isfinite(cohort.targets()["rr"][test]).sum())}
    shown = ev.paper_table(scores, paper.TABLE_2)
    assert list(shown.columns) == ["Task", "Model", "Paper", "This run"]
    rr = shown.iloc[: shown.index[shown["Task"].ne("")][1]]
    assert rr["Task"][0] == "RR interval: MAE, ms ↓"
    assert list(rr["Model"]) == [*paper.TABLE_2, *(f"*{floor}*" for floor in (ev.ZERO, ev.MEAN, ev.MEDIAN, ev.PEAKS))]
    tempo = rr[rr["Model"] == "TEMPO"].iloc[0]
    assert tempo["Paper"] == "141.5 ± 2.1" and tempo["This run"].endswith("]")
    assert rr[rr["Model"] == "ECG-MoE"].iloc[0]["This run"] == "–"
    assert rr.iloc[-1]["Paper"] == "–" and rr.iloc[-1]["This run"].startswith("0.0 [")
    assert list(ev.paper_table(scores).columns) == ["Task", "Model", "This run"]
    assert list(ev.paper_table(scores[scores["model"] == "TEMPO"], tasks=["sex"])["Model"]) == ["TEMPO"]
    assert ev.score_table({}, cohort).empty
    no_spread = ev.paper_table(scores, paper.TABLE_3, tasks=["sex"])
    assert no_spread[no_spread["Model"] == "ECG-MoE"].iloc[0]["Paper"] == "0.69"


def test_runs_made_elsewhere_stand_between_the_papers_and_this_run(data):
    cohort, _ = data
    scores = ev.score_table(baselines.floors_from(cohort), cohort, n_boot=0)
    elsewhere = scores[scores["task"] != "potassium"].assign(value=1.25, low=1.0, high=1.5)
    table = ev.paper_table(scores, paper.TABLE_2, reference={"There": elsewhere, "Nowhere": None})
    assert list(table.columns) == ["Task", "Model", "Paper", "There", "Nowhere", "This run"]
    assert set(table["Nowhere"]) == {"not run"}
    rows = table.assign(Task=table["Task"].replace("", None).ffill())
    age = rows[rows["Task"].str.startswith("Age")].set_index("Model")["There"]
    assert age[f"*{ev.MEAN}*"] == "1.25 [1.00, 1.50]" and age["MOMENT"] == "–"
    potassium = rows[rows["Task"].str.startswith("Potassium")]["There"]
    assert set(potassium) == {"not available"}


def test_every_metric_of_every_model_is_in_one_table(data):
    cohort, _ = data
    runs = {"a": noisy(cohort), "b": [noisy(cohort, 2), noisy(cohort, 3)]}
    whole = ev.score_table(runs, cohort, n_boot=30, headline=False)
    classes = ["accuracy", "auroc", "balanced_accuracy", "macro_f1"]
    wanted = {name: ["mae", "rmse"] if TASKS[name].kind == "regression" else classes for name in TASKS}
    for _, part in whole.groupby("model"):
        assert {name: sorted(rows["metric"]) for name, rows in part.groupby("task")} == wanted
    headline = ev.score_table(runs, cohort, n_boot=30)
    of_whole = whole.groupby(["model", "task"], sort=False).head(1).reset_index(drop=True)
    pd.testing.assert_frame_equal(headline, of_whole)


def test_missing_tasks_are_said_to_be_missing():
    cohort, _ = make_cohort(drop=["potassium_abnormal"])
    predictions = noisy(make_cohort()[0])
    scores = ev.score_table({"TEMPO": predictions}, cohort, n_boot=10)
    assert "potassium" not in set(scores["task"])
    shown = ev.paper_table(scores, paper.TABLE_2, tasks=["potassium"])
    assert set(shown["This run"]) == {"not available"}
    assert all(
        "potassium" not in run for run in baselines.floors_from(cohort, intervals=np.ones((len(cohort), 2))).values()
    )
    assert "potassium" not in baselines.random_heads({"m": np.ones((len(cohort), 2))}, cohort, 0)["m"]


def test_every_metric_has_a_line_and_every_model_a_column(data):
    cohort, z = data
    runs = baselines.floors_from(cohort, intervals=z)
    scores = ev.score_table(runs, cohort, headline=False, n_boot=0)
    shown = ev.metrics_table(scores)
    assert list(shown.columns) == ["Task", "Metric", *runs]
    assert len(shown) == 2 * 2 + 3 * 4 and (shown["Task"] != "").sum() == 5
    assert list(shown["Metric"][-4:]) == ["accuracy", "macro-F1", "balanced accuracy", "AUROC"]
    value = scores.query(f"model == '{ev.INTERVALS}' and task == 'sex' and metric == 'auroc'")["value"].item()
    line = shown[(shown["Task"].replace("", None).ffill() == "Sex") & (shown["Metric"] == "AUROC")]
    assert line[ev.INTERVALS].item() == f"{value:.3f}" and line[ev.ZERO].item() == "–"


def test_floors(data):
    cohort, z = data
    targets, train = cohort.targets(), cohort.split == "train"
    peaks = np.where(np.arange(len(cohort)) % 7 == 0, np.nan, 800.0)
    found = baselines.floors_from(cohort, peaks, pd.DataFrame(z), z)
    assert list(found) == list(ev.FLOORS)
    assert np.all(found[ev.ZERO]["rr"] == 0) and set(found[ev.ZERO]) == {"rr", "age"}
    assert found[ev.MEAN]["age"][0] == pytest.approx(np.nanmean(targets["age"][train]), rel=1e-6)
    assert found[ev.MEDIAN]["rr"][0] == pytest.approx(np.nanmedian(targets["rr"][train]), rel=1e-6)
    shares = found[ev.MEAN]["rhythm"][0]
    known = targets["rhythm"][train & np.isfinite(targets["rhythm"])]
    assert shares.argmax() == np.bincount(known.astype(int)).argmax() and shares.sum() == pytest.approx(1)
    assert found[ev.PEAKS]["rr"][1] == 800 and found[ev.PEAKS]["rr"][0] == found[ev.MEDIAN]["rr"][0]
    # The intervals here determine the labels, so the regression must read them.
    scores = ev.score_table(found, cohort, n_boot=0).set_index(["task", "model"])["value"]
    assert scores["rr", ev.INTERVALS] < 5
    assert scores["sex", ev.INTERVALS] > 0.9
    assert scores["rhythm", ev.INTERVALS] > scores["rhythm", ev.MEAN] + 0.1
    assert scores["potassium", ev.INTERVALS] > 0.7
    prevalence = np.nanmean(targets["potassium"][cohort.split == "test"])
    assert scores["potassium", ev.MEAN] == pytest.approx(paper.majority_macro_f1(prevalence))


def test_a_floor_of_lines_is_not_bent_by_unreadable_records(data):
    """The RR interval is one of the intervals: where some labels are far off, the line still reads it."""
    cohort, z = data
    rr = cohort.targets()["rr"].copy()
    wrong = cohort.table.index[(cohort.split == "train") & (np.arange(len(cohort)) % 10 == 0)]
    table = cohort.table.copy()
    table.loc[wrong, "rr_interval"] += 2000.0
    spoilt = replace(cohort, table=table)
    told = np.column_stack([rr, z])
    found = baselines.floors_from(spoilt, intervals=told)[ev.INTERVALS]["rr"]
    ridge = baselines.linear_probes({"m": np.nan_to_num(told)}, spoilt, ["rr"])["m"]["rr"]
    test = (cohort.split == "test") & np.isfinite(rr)
    assert np.abs(found - rr)[test].mean() < 5 < np.abs(ridge - rr)[test].mean()


def test_nothing_is_fitted_outside_train(data, monkeypatch):
    """Test records touch no fit and no choice; validation labels choose among fits and do no more."""
    cohort, z = data
    outside = cohort.split == "test"
    table = cohort.table.copy()
    for column, value in (("rr_interval", 3000.0), ("age", 5.0), ("sex", 1.0), ("potassium_abnormal", 1.0)):
        table.loc[outside, column] = value
    table.loc[outside, "rhythm"] = RHYTHMS[9]
    changed = Cohort(cohort.card, table, cohort.signal, cohort.fs, cohort.skipped)
    moved = np.where(outside[:, None], 50.0, z)
    for refit in (False, True):
        before, after = (baselines.floors_from(c, intervals=x, refit=refit) for c, x in ((cohort, z), (changed, moved)))
        for name, run in before.items():
            for task, values in run.items():
                assert np.array_equal(values[~outside], after[name][task][~outside]), (name, task)
    known = np.isfinite(cohort.targets()["age"]) & ~outside
    assert before[ev.MEAN]["age"][0] == pytest.approx(cohort.targets()["age"][known].mean(), rel=1e-6), "a refit"
    ridges, seen = baselines._ridges, []
    monkeypatch.setattr(baselines, "_ridges", lambda *a: seen.append(ridges(*a)) or seen[-1])
    table = cohort.table.copy()
    table.loc[cohort.split == "validation", "rr_interval"] = 3000.0
    baselines.floors_from(cohort, intervals=z)
    baselines.floors_from(Cohort(cohort.card, table, cohort.signal, cohort.fs, cohort.skipped), intervals=z)
    assert np.array_equal(seen[0], seen[2])


def test_missing_intervals_are_imputed(data):
    cohort, z = data
    holes = z.copy()
    holes[::3, 1] = np.nan
    holes[5, 0] = np.inf
    holes = np.c_[holes, np.full(len(z), np.nan)]
    found = baselines.floors_from(cohort, intervals=holes)[ev.INTERVALS]
    assert all(np.isfinite(values).all() for values in found.values())
    with pytest.raises(ValueError, match="rows of features"):
        baselines.floors_from(cohort, intervals=z[:-1])


def test_a_class_that_never_occurs():
    cohort, z = make_cohort(300)
    cohort.table["sex"] = 1.0
    cohort.table["rhythm"] = RHYTHMS[2]
    found = baselines.floors_from(cohort, intervals=z)[ev.INTERVALS]
    assert np.all(found["sex"] == 1) and np.all(found["rhythm"].argmax(1) == 2)
    cohort.table.loc[cohort.split == "validation", "age"] = np.nan
    with pytest.raises(ValueError, match="age: no labelled record"):
        baselines.floors_from(cohort, intervals=z)


def test_linear_probe(data):
    cohort, z = data
    rng = np.random.default_rng(0)
    features = {
        "good": np.c_[z * [1, 10, 100, 0.1], rng.normal(size=(len(z), 60))],
        "none": rng.normal(size=(len(z), 8)),
    }
    runs = baselines.linear_probes(features, cohort)
    scores = ev.score_table(runs, cohort, n_boot=0).set_index(["model", "task"])["value"]
    assert scores["good", "rr"] < 20 and scores["good", "sex"] > 0.85
    assert scores["none", "rr"] > 90
    assert runs["good"]["rhythm"].shape == (len(cohort), len(RHYTHMS))
    assert np.allclose(runs["good"]["rhythm"].sum(1), 1, atol=1e-5)
    with pytest.raises(ValueError, match="bad: features are not finite"):
        baselines.linear_probes({"bad": np.full((len(cohort), 2), np.nan)}, cohort)


def test_random_heads_show_table_1(data):
    import torch

    cohort, z = data
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = baselines.random_heads({"a": z, "b": z}, cohort, seed=0)
    assert torch.equal(torch.rand(3), expected)  # the global generator is left alone
    again = baselines.random_heads({"b": z}, cohort, seed=0)
    other = baselines.random_heads({"b": z}, cohort, seed=1)
    assert all(np.array_equal(first["b"][t], again["b"][t]) for t in TASKS)
    assert not np.array_equal(first["b"]["rr"], other["b"]["rr"])
    scores = ev.score_table(first | baselines.floors_from(cohort), cohort, n_boot=0).set_index(["model", "task"])[
        "value"
    ]
    # An untrained head predicts about 0, so its error is the mean of the target: the zero predictor's.
    assert scores["a", "rr"] == pytest.approx(scores[ev.ZERO, "rr"], rel=0.005)
    assert scores["a", "age"] == pytest.approx(scores[ev.ZERO, "age"], rel=0.05)


@pytest.mark.parametrize(("names", "said"), [("", "none"), ("a", "a"), ("ab", "a and b"), ("abc", "a, b and c")])
def test_words(names, said):
    assert ev.words(names) == said


def test_a_difference_has_the_decimals_of_its_task_and_no_zero_below_zero():
    pair = {"task": "age", "difference": -0.001, "low": -0.25, "high": 0.1}
    assert ev.difference_text(pair) == "0.00 [−0.25, 0.10]"
    assert ev.difference_text(pair | {"task": "sex", "difference": 0.25}, sign="+") == "+0.250 [−0.250, 0.100]"


def test_headlines_are_one_metric_a_task_and_nothing_else():
    rows = [("rr", "mae"), ("rr", "rmse"), ("sex", "accuracy"), ("sex", "macro_f1"), ("rhythm", "accuracy")]
    found = ev.headlines(pd.DataFrame(rows, columns=["task", "metric"]))
    assert found.to_numpy().tolist() == [["rr", "mae"], ["sex", "macro_f1"], ["rhythm", "accuracy"]]


def test_every_metric_has_a_name_and_an_error_the_decimals_of_its_unit():
    assert {task.metric for task in TASKS.values()} <= set(ev.METRIC_LABELS)
    assert {name: ev.places(name) for name in TASKS} == {"rr": 1, "age": 2, "sex": 3, "potassium": 3, "rhythm": 3}
