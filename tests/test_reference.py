"""The reference run: its cohort, what it writes, what is read and said of it, and the command."""

import json
import math
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from synthetic import toy_cohort

from ecgmoe import (
    ablation,
    baselines,
    configurations,
    datasets,
    evaluation,
    features,
    findings,
    plots,
    reference,
    results,
)
from ecgmoe.__main__ import app
from ecgmoe.datasets import simulated
from ecgmoe.records import InputError
from ecgmoe.tasks import TASKS
from ecgmoe.training import FitConfig

ROWS = ["ECG-MoE", "without backbones", "DLinear: head"]


@pytest.fixture(scope="module")
def cohort():
    return toy_cohort()


@contextmanager
def small_world(cohort):
    """Everything on the toy cohort, with features of one backbone and a few rows."""
    make_inputs = features.make_inputs
    rows = [
        replace(row, backbones=tuple(name for name in row.backbones if name == "dlinear"))
        for row in configurations.select(ROWS)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "make_inputs", lambda cohort, preset: make_inputs(cohort, ("dlinear",), preset))
        patch.setattr(configurations, "select", lambda names=(), costly=False: rows)
        patch.setattr(reference, "cohort_of", lambda *_: cohort)
        patch.setattr(baselines, "floors", baselines.floors_from)
        yield


@pytest.fixture
def small(cohort):
    with small_world(cohort):
        yield


@pytest.fixture(scope="module")
def made(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    with small_world(cohort):
        return reference.make(folder, preset="compact-random", rows=ROWS, seeds=2, epochs=1, train_records=30)


def test_training_patients_are_limited_and_all_others_stay():
    cohort = toy_cohort()
    whole = reference.limit(cohort, 0)
    assert whole is cohort and reference.limit(cohort, 10_000) is cohort
    table = cohort.table.assign(patient_id=np.arange(len(cohort)) // 8)
    table["fold"] = np.where(table["patient_id"] == 0, 9, np.where(table["patient_id"] == 1, 8, 1))
    cohort = replace(cohort, table=table)
    some, others = reference.limit(cohort, 20), reference.limit(cohort, 20, seed=1)
    for part in ("test", "validation"):
        pd.testing.assert_frame_equal(some.table[some.split == part], cohort.table[cohort.split == part])
    kept = some.table[some.split == "train"]
    assert len(kept) == 24 and kept["patient_id"].nunique() == 3, "whole patients, as few as hold 20 records"
    assert set(kept["patient_id"]) != set(others.table[others.split == "train"]["patient_id"])
    np.testing.assert_array_equal(some.signal, cohort.signal[cohort.table.index.isin(some.table.index)])
    assert some.digest != cohort.digest


def test_the_simulated_cohort_is_made_in_the_asked_size():
    cohort = reference.cohort_of("simulated", patients=3)
    assert cohort.table["patient_id"].nunique() == 3
    assert cohort.digest == datasets.load(simulated.ensure(3, reference.COHORT_SEED)).digest
    share = np.mean([fold == 9 for fold in simulated.FOLD_CYCLE])
    per_patient = np.dot(simulated.RECORDS_OF_PATIENT, [1, 2, 3])
    assert reference.PATIENTS * share * per_patient >= 2000


def test_what_is_written_names_every_row_with_its_size_time_seeds_and_interval(cohort, made):
    content, path = made
    assert path.name == "reference_toy_compact_random.json"
    read = json.loads(path.read_text("utf-8"))
    metrics = read["metrics"]
    assert [line["row"] for line in metrics["sizes"]] == ROWS
    assert all(line["total"] >= line["trained"] > 0 and line["seconds"] > 0 for line in metrics["sizes"])
    assert all(line["seeds"] == 2 and line["about"] and line["group"] for line in metrics["sizes"])
    scores = pd.DataFrame(metrics["scores"])
    floors = {evaluation.ZERO, evaluation.MEAN, evaluation.MEDIAN}
    assert set(scores["model"]) - floors == set(ROWS) and floors < set(scores["model"])
    assert (scores["low"] <= scores["value"]).all() and (scores["value"] <= scores["high"]).all()
    comparisons = pd.DataFrame(metrics["comparisons"])
    assert set(comparisons["baseline"]) == set(scores["model"]) - {"ECG-MoE"}
    assert metrics["records"]["train"] == 30
    assert read["provenance"]["parameters"]["seeds"] == 2
    assert metrics["command"] == (
        'python -m ecgmoe reference --data DATA_ROOT --train-records 30 --preset compact-random --rows "ECG-MoE" '
        '--rows "without backbones" --rows "DLinear: head" --seeds 2 --epochs 1'
    ).replace("DATA_ROOT", "simulated --patients 7000")
    assert content["metrics"]["sizes"]["row"].tolist() == ROWS


def test_the_scores_are_those_of_the_trainings(cohort, made, small):
    content, _ = made
    limited = reference.limit(cohort, 30)
    inputs = features.make_inputs(limited, "compact-random")
    runs = ablation.run(limited, inputs, configurations.select(), (0, 1), FitConfig(epochs=1), "compact-random")
    single = [
        evaluation.score_table({"": run.predictions}, limited, n_boot=0).set_index("task")["value"]
        for run in runs["without backbones"]
    ]
    scores = content["metrics"]["scores"]
    assert {"auroc", "balanced_accuracy", "macro_f1", "accuracy", "mae"} <= set(scores["metric"])
    headline = scores["metric"] == scores["task"].map({name: task.metric for name, task in TASKS.items()})
    found = scores[headline & (scores["model"] == "without backbones")].set_index("task")["value"]
    for task, value in found.items():
        assert value == pytest.approx((single[0][task] + single[1][task]) / 2)


def test_a_reference_run_is_read_back_as_tables_or_is_none(made, monkeypatch):
    content, path = made
    assert reference.load("reference_of_nothing") is None
    monkeypatch.setattr(results, "reference", lambda name: results.load(name, path.parent))
    back = reference.load("reference_toy_compact_random")
    for name in ("scores", "comparisons", "sizes"):
        pd.testing.assert_frame_equal(
            back["metrics"][name], content["metrics"][name], check_dtype=False, check_column_type=False
        )
    assert list(findings.describe(back)) == list(findings.describe(content))


def test_every_row_and_floor_is_a_line_of_the_summary(made):
    metrics = made[0]["metrics"]
    table = findings.summary(metrics).set_index("row")
    assert list(table.index)[:3] == ROWS and evaluation.ZERO in table.index
    assert table.loc["ECG-MoE", "seeds"] == "2"
    assert table.loc[evaluation.ZERO, "seeds"] == "–"
    took = findings.costs(metrics).set_index("row")
    assert list(took.index) == ROWS and (took["epochs"] >= 1).all()
    assert list(took["parameters trained"]) == [f"{n:,}" for n in metrics["sizes"]["trained"]]
    age = next(column for column in table if column.startswith("Age"))
    assert "±" in table.loc["ECG-MoE", age] and "±" not in table.loc[evaluation.MEAN, age]
    said = "\n".join(findings.describe(made[0]))
    assert all(name in said for name in (*ROWS, evaluation.MEDIAN, "clearly_better", "compared: "))


def test_known_causes_are_judged_for_every_seed(small, cohort):
    """Made-up labels: the irregular records of the toy cohort pass for fibrillation."""
    inputs = features.make_inputs(cohort, "compact-random")
    found = reference.causes(cohort, inputs, (0, 1), FitConfig(epochs=1), "compact-random")
    assert found["seed"].tolist() == [0, 1]
    assert set(found["group"]) == {"atrial fibrillation"} and set(found["true"]) == {"P and RR"}
    assert found["n"].max() <= reference.CAUSE_RECORDS and found["hit"].dtype == bool


def comparison(baseline, task, difference, half, better="neither"):
    return {
        "task": task,
        "baseline": baseline,
        "difference": difference,
        "low": difference - half,
        "high": difference + half,
        "better": better,
    }


def test_findings_follow_the_numbers():
    pairs = pd.DataFrame(
        [
            comparison("MoE", "age", -1.0, 2.0),
            comparison("MoE", "sex", 0.1, 0.2),
            comparison("fusion by sum", "age", 1.0, 0.5, "baseline"),
            comparison("fusion by sum", "sex", -0.2, 0.1, "baseline"),
            comparison("DLinear: head", "age", -3.0, 1.0, "model"),
            comparison("DLinear: head", "sex", 0.1, 0.05, "neither"),
            comparison("MOMENT: head", "age", -3.0, 1.0, "model"),
            comparison("MOMENT: head", "sex", -0.1, 0.2, "neither"),
            comparison("ECG-FM: full", "age", 0.5, 1.0, "neither"),
            comparison("ECG-FM: full", "sex", 0.3, 0.1, "model"),
            comparison(evaluation.MEAN, "age", -9.0, 1.0, "model"),
            comparison(evaluation.MEAN, "sex", 0.4, 0.1, "model"),
        ]
    )
    found = findings.in_figures(pairs)
    assert (found["compared"], found["ahead"], found["behind"], found["open"]) == (12, 5, 2, 5)
    assert found["level"] == "MoE"
    assert found["better_rows"] == "fusion by sum (Age and Sex)"
    assert (found["single_n"], found["single_all"], found["single_least"]) == (2, 1, 1)
    assert found["single_hardest"] == "MOMENT: head"
    assert (found["tuned_n"], found["tuned_all"], found["tuned_least"]) == (1, 0, 1)
    assert found["backbones_ahead"] == "MOMENT: head (Sex); ECG-FM: full (Age)"
    assert (found["told_n"], found["told_all"], found["told_hardest"]) == (0, 0, "none")
    assert (found["floor_n"], found["floor_all"], found["floor_least"]) == (1, 1, 2)
    nothing = findings.in_figures(pairs[:2])
    assert (nothing["ahead"], nothing["better_rows"], nothing["floor_n"]) == (0, "none", 0)


def test_the_forest_shows_every_row_on_the_side_where_it_is_better():
    pairs = pd.DataFrame(
        [
            comparison("MoE", "age", -2.0, 1.0, "model"),
            comparison("MoE", "sex", -0.2, 0.1, "baseline"),
            comparison(evaluation.ZERO, "age", -60.0, 1.0, "model"),
        ]
    )
    figure = plots.differences(pairs, {**configurations.groups(), "floors": list(evaluation.FLOORS)})
    figure.canvas.draw()
    assert not plt.get_fignums() and figure.get_facecolor() == (1, 1, 1, 1)
    age, sex = figure.axes
    assert [label.get_text() for label in age.get_yticklabels()] == ["MoE", evaluation.ZERO]
    dots = [[line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"] for ax in (age, sex)]
    assert dots == [[-2.0], [0.2]], "MoE is worse at age, where errors count, and better at sex"
    beyond = [line for line in age.lines if line.get_marker() == "<"]
    assert len(beyond) == 1 and -60 < beyond[0].get_xdata()[0] == age.get_xlim()[0] / 1.06 < -3, "an arrow at the edge"
    intervals = [
        sorted(line.get_xdata()) for line in age.lines if line.get_marker() != "o" and len(set(line.get_xdata())) == 2
    ]
    assert intervals[0] == [-3.0, -1.0]


def test_the_command_lists_refuses_and_makes(small, tmp_path, monkeypatch):
    invoke = CliRunner().invoke
    listed = invoke(app, ["reference", "--list"])
    assert listed.exit_code == 0
    assert all(f"  {row.name}: {row.about}" in listed.output for row in configurations.TABLE)
    options = ["--preset", "compact-random", "--seeds", "1", "--epochs", "1", "--train-records", "30"]
    done = invoke(app, ["reference", *options, "--rows", "without backbones", "--folder", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert (
        f"wrote {tmp_path / 'reference_toy_compact_random.json'}" in done.output and "without backbones" in done.output
    )


def test_the_command_refuses_an_unknown_row_and_a_missing_folder(tmp_path):
    invoke = CliRunner().invoke
    refused = invoke(app, ["reference", "--rows", "LSTM"])
    assert refused.exit_code == 2 and "no row or group lstm" in refused.output
    missing = invoke(app, ["reference", "--data", str(tmp_path / "nowhere")])
    assert missing.exit_code == 1 and missing.output.startswith("Error: ")


def test_the_shipped_run_meets_what_it_is_for():
    """Three seeds of every row that is no side question, two thousand test recordings, and what the chapters tell."""
    content = reference.load()
    metrics = content["metrics"]
    assert metrics["records"]["test"] >= 2000
    main = [row.name for row in configurations.select() if not row.once]
    seeds = metrics["sizes"].set_index("row")["seeds"]
    assert (seeds[main] >= 3).all()
    assert set(evaluation.FLOORS) < set(metrics["scores"]["model"])
    assert all(math.isfinite(value) for value in metrics["scores"]["low"])
    assert not content["provenance"]["commit"].endswith("changes")
    counts = ablation.counts(metrics["comparisons"]).set_index("row")
    single = [name for name in configurations.groups()["single backbones"] if name.endswith(": head")]
    assert (counts.loc[single, "clearly_better"] >= 3).all()
    plain = [name for name in configurations.groups()["plain networks"] if name in counts.index]
    assert len(plain) == 3 and (counts.loc[plain, "holm_worse"] == 0).all()
    assert counts.loc["Large ResNet + characteristics", "clearly_better"] >= 3
    floors = list(evaluation.FLOORS)
    assert (counts.loc[floors, "worse"] == 0).all(), "at least level with every floor on every task"
    assert (counts.loc[[evaluation.INTERVALS, evaluation.CHARACTERISTICS], "clearly_better"] == 4).all()
    found = findings.in_figures(metrics["comparisons"])
    assert len(metrics["comparisons"].query("better == 'baseline' and task != 'rr'")) == found["behind"]
    older = "; a run older than the model's last change" if reference.is_older(metrics) else ""
    told = (
        f"On simulated hearts ({metrics['records']['test']:,} test recordings; ECG-MoE with three seeds, "
        f"{(seeds == 1).sum()} of {len(seeds) - 1} rows beside it with one{older}) ECG-MoE is clearly better in "
        f"{found['ahead']} of {found['compared']} comparisons with its parts, rivals and floors, clearly worse in "
        f"{found['behind']}: {found['better_rows']}. {findings.against_rivals(metrics)}"
    )
    assert "ECG-FM: full (Potassium abnormality)" in found["better_rows"]
    readme = Path(__file__).parents[1] / "README.md"
    assert told in " ".join(readme.read_text("utf-8").split())
    assert (metrics["causes"].groupby("seed")["hit"].sum() >= 3).all()


def test_the_run_on_real_hearts_that_comes_with_the_library_is_what_the_front_page_says():
    found = reference.load("reference_ptbxl")
    metrics = found["metrics"]
    readme = Path(__file__).parents[1] / "README.md"
    assert findings.against_rivals(metrics) in readme.read_text("utf-8")
    assert "\n".join(["", *findings.front_table(metrics), ""]) in readme.read_text("utf-8")
    rival = "baseline == 'ResNet'"
    pairs = metrics["trained_comparisons"].query(rival).set_index("task")
    up = pd.Series({name: 1 if TASKS[name].higher_is_better else -1 for name in pairs.index})
    assert (up * pairs["difference"] > 0).all() and list(pairs.index[pairs["better"] == "model"]) == ["rr", "age"]
    means = metrics["averaged_comparisons"].query(rival).set_index("task")["better"]
    assert 0.02 < pairs["p_holm"]["age"] < 0.05 and means["age"] == "neither", "what is called only just"
    alone = metrics["trained_comparisons"].query("baseline == @configurations.ALONE").set_index("task")
    assert len(alone) == 4 and set(alone["better"]) == {"neither"}
    assert alone["high"]["age"] < 0 < alone["low"]["sex"], "what the correction takes away"
    for page in ("README.md", "book/intro.md"):
        text = " ".join((readme.parent / page).read_text("utf-8").split())
        assert "frozen backbones the mixture does not earn its price" in text
        assert (
            "trained it is ahead of the ResNet on every task, in age only just by more than chance, and no more when "
            "the answers of three trainings are averaged. From a ResNet that is told the signal characteristics, which "
            "ECG-MoE sees too, and from ECG-FM trained alone and told as much, it cannot be told apart once all "
            "comparisons are corrected for: the gain is no proof of the mixture. The RR interval is no merit of the"
        ) in text
    as_much = metrics["trained_comparisons"].query("baseline == 'ResNet + characteristics'")
    assert len(as_much) == 4 and set(as_much["better"]) == {"neither"}
    frozen = metrics["comparisons"].query(rival).set_index("task")["better"]
    assert set(frozen[frozen == "model"].index) <= {"rr"}, "no better than a ResNet, but for what a detector gives too"
    assert metrics["refit"] and set(metrics["scores"]["task"]) == {"rr", "age", "sex", "rhythm"}
    floors = metrics["comparisons"].query(f"baseline in {list(evaluation.FLOORS)} and task != 'rr'")
    assert (floors["better"] == "model").all(), "no floor comes near, but for the R-peak detector"
    assert "changes" not in found["provenance"]["commit"]


def test_real_recordings_are_refitted_kept_and_averaged(cohort, small, tmp_path):
    """Of real data each row and seed has its file, and what is there is composed without any training."""
    options = {"data": "somewhere", "preset": "compact-random", "rows": ROWS, "seeds": 3, "epochs": 2}
    content, path = reference.make(tmp_path, **options)
    assert path.name == "reference_toy_compact_random.json"
    kept = sorted(item.name for item in (tmp_path / path.stem).iterdir())
    assert len(kept) == 3 * len(ROWS) - sum(2 for row in configurations.TABLE if row.name in ROWS and row.once)
    metrics = content["metrics"]
    assert metrics["refit"] and content["provenance"]["parameters"]["data"] == "DATA_ROOT"
    together = metrics["averaged_scores"]
    assert configurations.FULL in set(together["model"])
    assert set(metrics["averaged_comparisons"]["baseline"]) == set(together["model"]) - {configurations.FULL}
    for name in kept:
        if not name.startswith("ecg-moe-seed0"):
            (tmp_path / path.stem / name).unlink()

    def again(*_):
        pytest.fail("trained again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(configurations, "fit_row", again)
        alone, _ = reference.make(tmp_path, **options, only_kept=True)
        assert alone["provenance"]["parameters"]["only_kept"] and "only-kept" not in alone["metrics"]["command"]
        assert alone["metrics"]["sizes"]["row"].tolist() == [configurations.FULL]
        (tmp_path / path.stem / "ecg-moe-seed0.json").unlink()
        with pytest.raises(InputError, match="train it first"):
            reference.make(tmp_path, **options, only_kept=True)


def test_the_row_with_a_trained_backbone_is_compared_with_all_others(cohort, small, tmp_path, monkeypatch):
    """Its files hold every seed, though it takes long, and the sentence on real hearts tells of it too."""
    names = [configurations.FULL, configurations.TRAINED, "ResNet"]
    rows = [replace(row, backbones=("dlinear",)) for row in configurations.TABLE if row.name in names]
    rows[1] = replace(rows[1], shape={"lora": "full", "tuned": ("dlinear",)})
    monkeypatch.setattr(configurations, "select", lambda *_: rows)
    options = {"data": "somewhere", "preset": "compact-random", "rows": names, "seeds": 2, "epochs": 1}
    content, path = reference.make(tmp_path, **options)
    assert len(list((tmp_path / path.stem).glob("ecg-moe-with-ecg-fm-trained-seed*.json"))) == 2
    others = set(content["metrics"]["trained_comparisons"]["baseline"])
    assert others == set(content["metrics"]["scores"]["model"]) - {configurations.TRAINED}
    told = findings.against_rivals(content["metrics"])
    assert "trained with it, it is" in told and told.count("than a plain ResNet in ") == 2
    assert "Table 3" not in told and "alone" not in told, "which were not trained"


def test_rivals_of_table_3_are_spoken_of_together():
    metrics = dict(reference.load("reference_ptbxl")["metrics"])
    rivals = configurations.groups()["Table 3"]
    tied = metrics["comparisons"].assign(better="neither", difference=-5.0)
    pairs = [tied[tied["baseline"] == "ResNet"]]
    for i, rival in enumerate(rivals):  # better than all in age, than all but one in sex, worse than one in rhythm
        one = pairs[0].assign(baseline=rival).set_index("task")
        one.loc["age", "better"] = "model"
        one.loc["sex", "better"] = "model" if i else "neither"
        one.loc["rhythm", "better"] = "neither" if i else "baseline"
        pairs.append(one.reset_index())
    told = findings.against_rivals(metrics | {"comparisons": pd.concat(pairs)})
    assert (
        "is clearly better than a plain ResNet in nothing, than all 4 rivals of Table 3 in age; clearly worse than any "
        "of these in arrhythmia. "
    ) in told
    assert "Table 3" not in findings.against_rivals(metrics | {"comparisons": pairs[0]})


def test_it_is_told_where_a_backbone_that_learns_loses_to_its_frozen_head():
    lines = [
        ("ECG-MoE", 30.0, 7.0, 0.9, 3),
        ("everything trained", 40.0, 9.0, 0.7, 1),  # another group
        ("MOMENT: head", 30.0, 9.0, 0.8, 3),
        ("MOMENT: LoRA", 30.9, 10.0, 0.7, 1),  # less than a millisecond is level
        ("MOMENT: full", 31.1, 9.0, np.nan, 1),
        ("DLinear: full", 1.0, 1.0, 0.1, 1),  # without its head
        ("ECG-FM trained alone + characteristics", 99.0, 99.0, 0.1, 2),  # goes on from none
    ]
    table = pd.DataFrame(lines, columns=["row", "rr", "age", "sex", "seeds"])
    long = table.melt("row", ["rr", "age", "sex"], "task").rename(columns={"row": "model"})
    scores = long.assign(metric=long["task"].map({"rr": "mae", "age": "mae", "sex": "macro_f1"}))
    metrics = {"scores": scores, "sizes": table}
    assert findings.of_tuning(metrics) == (
        "By the mean over seeds it is worse in 3 of 5 comparisons: MOMENT: LoRA (age and sex); MOMENT: full "
        "(RR interval). That is no more than a hint: these rows have one seed, the heads 3 seeds, and no difference "
        "was tested."
    )
    better = metrics | {"scores": scores.assign(value=scores["value"].where(scores["task"] != "age", 8.0))}
    assert "worse in 2 of 5 comparisons: MOMENT: LoRA (sex); MOMENT: full (RR" in findings.of_tuning(better)
    none = metrics | {"sizes": table[~table["row"].str.startswith("MOMENT")]}
    assert findings.of_tuning(none) == "No backbone that learns was run together with its frozen head."


def test_the_recipe_is_that_of_the_data():
    assert reference.recipe("simulated") == FitConfig()
    assert reference.recipe("~/ptb-xl") == reference.REAL
    table = configurations.select(costly=True)
    assert reference.rows_of("simulated", costly=True) == table
    ours = {row.name: row for row in reference.rows_of("~/ptb-xl", costly=True)}
    assert list(ours) == [row.name for row in table] and set(reference.REAL_FIT) < set(ours)
    for row in table:
        assert ours[row.name].fit == {**row.fit, **reference.REAL_FIT.get(row.name, {})}
    assert ours["Time MoE"].fit != configurations.RIVAL_FIT
    tuned = [row for row in table if row.after]
    assert tuned and all(ours[row.name].settings["after"] == ours[row.after].settings for row in tuned)
    assert ours["ECG-FM: full"].settings["after"] != configurations.select(["ECG-FM: head"])[1].settings


def test_pages_say_what_was_not_run_and_show_what_was(made, monkeypatch):
    content, path = made
    runs = reference.runs().set_index("Run")["State"]
    assert runs["MIMIC-IV-ECG, published backbones"].startswith("not run: needs")
    assert all(f"reference_{name}" in reference.RUNS for name in ("simulated", "ptbxl", "mimicivecg"))
    assert "Not run yet" in findings.shown("reference_mimicivecg", ROWS, "tab-x", "Rows.").data
    assert "Not run yet" in findings.shown_costs("reference_mimicivecg", ROWS, "tab-y").data
    assert reference.column(run="reference_of_nothing") == {reference.REAL_TITLE: None}
    monkeypatch.setattr(results, "reference", lambda name: results.load(path.stem, path.parent))
    page = findings.shown("reference_ptbxl", ["ECG-MoE", evaluation.ZERO], "tab-x", "Rows.").data
    assert "| ECG-MoE |" in page and "without backbones" not in page and ":name: tab-x" in page
    page = findings.shown_costs("reference_ptbxl", ["ECG-MoE", evaluation.ZERO], "tab-y").data
    assert "| ECG-MoE |" in page and "without backbones" not in page and ":name: tab-y" in page
    (scores,) = reference.column({"ECG-MoE": "ours"}).values()
    assert "ours" in set(scores["model"]) and set(scores["metric"]) == {task.metric for task in cohort_tasks(content)}
    text = findings.against(content["metrics"]["comparisons"])
    assert list(text["row"])[0] == "without backbones" and text.shape[1] == 5
    same = content["metrics"]["comparisons"].assign(difference=0.4, low=0.1, high=0.9)
    told = findings.against(same)[evaluation.task_label(TASKS["rr"])]
    assert set(told) <= {"level", "–"} and "level" in set(told), "less than a millisecond is none"


def test_a_caption_says_when_a_run_is_older_than_the_model(made, monkeypatch):
    metrics = made[0]["metrics"]
    assert findings.since(metrics) == "" and not reference.is_older(metrics)
    monkeypatch.setattr(configurations, "code", lambda: "another")
    assert "have changed since" in findings.since(metrics) and reference.is_older(metrics)


def cohort_tasks(content):
    return [TASKS[name] for name in content["metrics"]["scores"]["task"].unique()]
