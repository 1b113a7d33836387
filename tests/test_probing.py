"""Probes of frozen features: twins, floors, what is fitted where, the cache, and the command."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from synthetic import toy_cohort

from ecgmoe import backbones, baselines, evaluation, features, pretraining, probing, results
from ecgmoe.__main__ import app
from ecgmoe.backbones import published
from ecgmoe.backbones.published.containers import WeightsError

TASKS = {"rr", "age", "sex", "rhythm"}  # the toy cohort has no potassium


@pytest.fixture(scope="module")
def cohort():
    return toy_cohort()


@pytest.fixture(scope="module")
def pair():
    """Two of the five backbones, the cheapest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "NAMES", ("timesnet", "dlinear"))
        yield


@pytest.fixture(scope="module")
def probes(cohort, pair):
    return probing.probe(cohort, "compact-random", seed=3, n_boot=40)


@pytest.fixture(scope="module")
def shipped(cohort, tmp_path_factory):
    """A folder with pretrained weights of one backbone, made in a moment."""
    folder = tmp_path_factory.mktemp("weights")
    recipe = pretraining.Recipe(epochs=1, batch_size=16)
    pretraining.pretrain("dlinear", cohort, folder, recipe=recipe, seed=5)
    return folder


def test_every_backbone_has_a_twin_and_every_task_its_floors(probes):
    rows = probes.scores.groupby("kind")["model"].unique()
    assert list(rows["backbone"]) == list(rows["twin"]) == ["TimesNet", "DLinear"]
    assert set(rows["floor"]) == set(evaluation.FLOORS)
    assert set(probes.scores["task"]) == TASKS
    assert (probes.scores["low"] <= probes.scores["high"]).all()
    for table in (probes.twins, probes.floors):
        assert len(table) == 2 * len(TASKS) and set(table["better"]) <= {"model", "other", "neither"}


def test_scores_are_those_of_linear_probes_of_the_deepest_features(cohort, probes):
    read = {"DLinear": features.backbone_features(cohort, ("dlinear",), "compact-random", seed=3)["dlinear"]}
    expected = evaluation.score_table(baselines.linear_probes(read, cohort), cohort, n_boot=0).set_index("task")
    found = probes.scores.query("model == 'DLinear' and kind == 'backbone'").set_index("task")
    pd.testing.assert_series_equal(found["value"], expected["value"])
    twin = probes.scores.query("model == 'DLinear' and kind == 'twin'").set_index("task")
    assert not np.allclose(found["value"], twin["value"]), "the twin of random weights is another draw"


def test_the_comparison_is_the_difference_of_the_scores(cohort, probes):
    score = probes.scores.set_index(["kind", "model", "task"])["value"]
    for row in probes.twins.itertuples():
        assert row.difference == pytest.approx(
            score["backbone", row.model, row.task] - score["twin", row.model, row.task]
        )
    best = probes.floors.set_index(["model", "task"])["other"]
    floor = evaluation.best_on_validation(baselines.floors(cohort), cohort)["rr"]
    assert best["DLinear", "rr"] == best["TimesNet", "rr"] == pytest.approx(score["floor", floor, "rr"])
    assert score["floor", floor, "rr"] < 0.5 < score["floor", evaluation.MEAN, "rr"]


def test_depths_are_scored_on_the_validation_part(cohort, probes):
    assert set(probes.depths["task"]) == {"rr", "age", "sex"}
    assert probes.depths.groupby("model")["depth"].max().to_dict() == {
        "DLinear": backbones.build("dlinear", "compact-random").n_depths - 1,
        "TimesNet": backbones.build("timesnet", "compact-random").n_depths - 1,
    }
    read = {"x": features.features_by_depth(cohort, "timesnet", "compact-random", 3)[1]}
    run = baselines.linear_probes(read, cohort, ["rr"])["x"]
    assert set(run) == {"rr"}
    expected = evaluation.score_table({"x": run}, cohort, n_boot=0, split="validation")["value"].item()
    found = probes.depths.query("model == 'TimesNet' and kind == 'backbone' and depth == 1 and task == 'rr'")
    assert found["value"].item() == pytest.approx(expected)


def test_a_clear_difference_is_seen_and_chance_is_not(cohort):
    truth, rng = cohort.targets(), np.random.default_rng(0)
    exact = {"rr": truth["rr"], "age": np.nan_to_num(truth["age"], nan=60.0)}
    near = {name: values + rng.normal(0, 1e-3, len(values)) for name, values in exact.items()}
    far = {name: values + rng.normal(0, 40, len(values)) for name, values in exact.items()}
    table = probing.compare({"good": near, "same": far, "bad": far}, {"good": far, "same": far, "bad": near}, cohort)
    assert table.groupby("model")["better"].unique().explode().to_dict() == {
        "good": "model",
        "same": "neither",
        "bad": "other",
    }
    np.testing.assert_allclose(table["p_holm"], evaluation.holm(table["p"].to_numpy()))


def test_probes_are_cached_one_by_one_and_interrupted_work_goes_on(cohort, monkeypatch):
    monkeypatch.setattr(backbones, "NAMES", ("timesnet",))
    monkeypatch.setattr(baselines, "floors", baselines.floors_from)
    calls, linear_probes = [], baselines.linear_probes

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return linear_probes(*arguments)

    monkeypatch.setattr(baselines, "linear_probes", dies)
    with pytest.raises(KeyboardInterrupt):
        probing.probe(cohort, "compact-random", seed=11, n_boot=10)
    first = probing.probe(cohort, "compact-random", seed=11, n_boot=10)
    n_probes = 2 * backbones.build("timesnet", "compact-random").n_depths
    assert len(calls) == n_probes + 1, "what was done before is not done again"
    again = probing.probe(cohort, "compact-random", seed=11, n_boot=10)
    assert len(calls) == n_probes + 1
    pd.testing.assert_frame_equal(first.scores, again.scores)
    table = cohort.table.assign(age=cohort.table["age"] + 1)
    probing.probe(replace(cohort, table=table), "compact-random", seed=11, n_boot=10)
    assert len(calls) > n_probes + 1, "other labels, other probes"


def test_pretrained_weights_have_the_twin_that_they_started_from(cohort, shipped, monkeypatch):
    assert probing.twin_of("dlinear", "compact-random", 2) == ("compact-random", 3)
    assert probing.twin_of("dlinear", "published", 2) == ("published-random", 2)
    monkeypatch.setattr(published, "SHIPPED", shipped / "none")
    assert probing.cards() == {} and probing.twin_of("dlinear", "compact", 2) == ("compact-random", 2)
    monkeypatch.setattr(backbones, "NAMES", ("dlinear",))
    with pytest.raises(WeightsError, match="python -m ecgmoe pretrain"):
        probing.probe(cohort)
    monkeypatch.setattr(published, "SHIPPED", shipped)
    assert list(probing.cards()) == ["dlinear"]
    assert probing.twin_of("dlinear", "compact", 2) == ("compact-random", 5)
    found = probing.probe(cohort, n_boot=10)
    read = features.backbone_features(cohort, ("dlinear",), "compact-random", seed=5)
    expected = evaluation.score_table(baselines.linear_probes(read, cohort), cohort, n_boot=0)["value"]
    np.testing.assert_allclose(found.scores.query("kind == 'twin'")["value"], expected)


def test_weights_in_words(shipped, monkeypatch):
    monkeypatch.setattr(published, "SHIPPED", shipped)
    assert probing.weights_in_words("compact-random") == probing.weights_in_words("published-random") == "random"
    assert probing.weights_in_words("published") == "those that their authors published"
    said = probing.weights_in_words("compact")
    assert said == "pretrained without labels on 60 recordings of toy (folds 1-8)"
    with pytest.raises(ValueError, match="unknown preset 'large'; known are compact"):
        probing.weights_in_words("large")


def test_the_caveat_tells_real_from_simulated(cohort, shipped, monkeypatch):
    monkeypatch.setattr(published, "SHIPPED", shipped)
    simulated = replace(cohort, table=cohort.table.assign(cause=""))
    assert probing.caveat("compact-random", cohort).startswith("Nobody has trained them")
    assert probing.caveat("compact", cohort).endswith("are real too.")
    assert "trained on real data, and the recordings of this page are simulated" in probing.caveat("compact", simulated)
    card = json.loads((shipped / "dlinear.json").read_text("utf-8"))
    card["data"]["name"] = "Simulated cohort"
    monkeypatch.setattr(probing, "cards", lambda: {"dlinear": card})
    assert probing.caveat("compact", simulated).endswith("are simulated too.")
    assert probing.caveat("published", cohort).endswith("are real too.")


def test_tables_have_a_row_a_backbone_and_floor(probes):
    table = probing.table(probes, "here", "there")
    assert list(table) == ["Task", "Read from", "here", "there", "difference", "clearly better"]
    assert table["Task"].ne("").sum() == len(TASKS)
    assert {"TimesNet", "DLinear", f"*{evaluation.PEAKS}*"} <= set(table["Read from"])
    assert set(table["clearly better"].dropna()) <= {"yes", "worse", "no"}
    counted = probing.summary(probes)
    assert counted.loc["DLinear", "tasks"] == len(TASKS)
    assert (counted.iloc[:, 1:3].sum(axis=1) <= counted["tasks"]).all()
    text = "\n".join(probing.describe(probes))
    assert "TimesNet" in text and "better than the best floor" in text


def test_what_is_written_is_read_again(cohort, probes, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "_CHECKOUT", tmp_path)
    assert probing.reference() is None
    real = replace(cohort, card=replace(cohort.card, name="PTB-XL 1.0.3"))
    path = probing.write(probes, real, "compact-random", 3, 0, tmp_path / "data" / "reference")
    assert path.name == f"{probing.REFERENCE}.json"
    found, content = probing.reference()
    for field in probing.Probes._fields:
        pd.testing.assert_frame_equal(getattr(found, field), getattr(probes, field), check_dtype=False)
    assert content["metrics"]["records"] == {"train": 40, "validation": 20, "test": 20}
    assert content["metrics"]["command"].endswith("DATA_ROOT --preset compact-random --seed 3 --records 0")
    assert content["provenance"]["parameters"] == {"preset": "compact-random", "seed": 3, "max_records": 0}
    assert str(tmp_path) not in path.read_text("utf-8")


def test_command_line(cohort, pair, tmp_path, monkeypatch):
    monkeypatch.setattr("ecgmoe.datasets.load", lambda *_, **__: cohort)
    words = ["probe", "simulated", "--preset", "compact-random", "--seed", "3", "--folder", str(tmp_path)]
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 0, run.output
    assert "better than its twin" in run.output and "wrote" in run.output
    written = json.loads((tmp_path / "probes_toy.json").read_text("utf-8"))
    assert {row["kind"] for row in written["metrics"]["scores"]} == {"backbone", "twin", "floor"}
    monkeypatch.setattr(published, "SHIPPED", tmp_path)
    run = CliRunner().invoke(app, ["probe", "simulated", "--folder", str(tmp_path)])
    assert run.exit_code == 1 and run.output.count("\n") == 1
    assert "there are no pretrained weights; make them by `python -m ecgmoe pretrain`" in run.output
    assert CliRunner().invoke(app, ["probe", "simulated", "--preset", "large"]).exit_code == 2
