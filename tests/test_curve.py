"""What more records bring: the same patients for all rows, scored on the validation part, drawn and read back."""

import json
from dataclasses import replace

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from synthetic import toy_cohort

from ecgmoe import configurations, curve, features, plots, reference, results
from ecgmoe.__main__ import app
from ecgmoe.records import InputError
from ecgmoe.training import FitConfig

PRESET = "compact-random"


@pytest.fixture(scope="module")
def cohort():
    return toy_cohort(96)


@pytest.fixture(scope="module")
def inputs(cohort):
    return features.make_inputs(cohort, names=("dlinear",), preset=PRESET)


@pytest.fixture(scope="module")
def rows():
    (full, resnet) = configurations.select(["ResNet"])
    return [replace(full, backbones=("dlinear",)), resnet]


@pytest.fixture(scope="module")
def found(cohort, inputs, rows):
    return curve.measure(cohort, inputs, rows, (0.5, 1.0), FitConfig(epochs=1, batch_size=16), PRESET)


def test_all_rows_learn_from_the_same_shares_and_are_scored_on_the_validation_part(cohort, found):
    n = int((cohort.split == "train").sum())
    whole, half = max(found["records"]), min(found["records"])
    assert whole == n and n / 2 <= half < n
    assert found.groupby("model")["records"].unique().map(tuple).tolist() == [(half, whole)] * 2
    assert set(found["model"]) == {"ECG-MoE", "ResNet"} and {"mae", "rmse"} <= set(found["metric"])
    labelled = np.isfinite(cohort.targets()["age"]) & (cohort.split == "validation")
    assert (found[found["task"] == "age"]["n"] == labelled.sum()).all()


def test_the_smallest_share_is_a_patient_and_what_is_no_share_is_refused(cohort, inputs, rows, monkeypatch):
    learnt = []

    def run(part, *_):
        learnt.append(int((part.split == "train").sum()))
        return {}

    scores = pd.DataFrame({"model": ["ECG-MoE"]})
    monkeypatch.setattr(curve.ablation, "run", run)
    monkeypatch.setattr(curve.evaluation, "score_table", lambda *_, **__: scores)
    found = curve.measure(cohort, inputs, rows, (1e-6, 1.0), preset=PRESET)
    of_one = cohort.table[cohort.split == "train"]["patient_id"].value_counts()
    assert learnt == found["records"].tolist() and learnt[0] in set(of_one) and learnt[1] == of_one.sum()
    for wrong in (0.0, -0.5, 1.5):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            curve.measure(cohort, inputs, rows, (wrong, 1.0), preset=PRESET)


def test_fewer_records_give_another_model(found):
    age = found[(found["task"] == "age") & (found["metric"] == "mae")]
    assert age.groupby("model")["value"].nunique().tolist() == [2, 2]


def test_the_last_doubling_is_a_gain_where_the_metric_improves():
    line = {"model": "A", "low": 0.0, "high": 1.0, "n": 9}
    table = pd.DataFrame(
        [
            {**line, "task": task, "metric": metric, "records": records, "value": value}
            for task, metric, values in (("age", "mae", (9.0, 8.0, 7.5)), ("sex", "macro_f1", (0.5, 0.7, 0.8)))
            for records, value in zip((400, 100, 200), (values[2], values[0], values[1]), strict=True)
        ]
        + [{**line, "task": "age", "metric": "rmse", "records": 100, "value": 3.0}]
    )
    gains = curve.last_doubling(table).set_index("task")
    assert gains["gain"].round(3).to_dict() == {"age": 0.5, "sex": 0.1}
    assert gains.loc["age", ["half", "whole"]].tolist() == [8.0, 7.5]


def test_a_panel_a_task_and_a_line_a_model(found):
    figure = plots.learning_curves(found)
    assert isinstance(figure, matplotlib.figure.Figure)
    assert len(figure.axes) == found["task"].nunique()
    for axes in figure.axes:
        assert [line.get_label() for line in axes.lines] == ["ECG-MoE", "ResNet"]
        assert [len(line.get_xdata()) for line in axes.lines] == [2, 2]


def test_lines_of_many_models_and_ticks_of_few_records_can_be_told_apart(found):
    one = found[found["model"] == "ResNet"].assign(records=lambda rows: rows["records"] // 8)
    figure = plots.learning_curves(pd.concat([one.assign(model=f"row {i}") for i in range(6)]))
    assert len({line.get_color() for line in figure.axes[0].lines}) == 6
    ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert len(set(ticks)) == 2 and all(float(tick) > 0 for tick in ticks)


@pytest.fixture
def small(cohort, inputs, rows, monkeypatch):
    """The command on the toy cohort; rows that are not asked for by name are of the table all the same."""
    rows = list(rows)
    monkeypatch.setattr(reference, "cohort_of", lambda _: cohort)
    monkeypatch.setattr(reference, "recipe", lambda _: FitConfig(epochs=1, batch_size=16))
    monkeypatch.setattr(features, "make_inputs", lambda _: inputs)
    monkeypatch.setattr(reference, "rows_of", lambda _, names=(), costly=False: rows if names or costly else rows[:1])
    monkeypatch.setattr(curve.measure, "__defaults__", ((1.0, 0.5), FitConfig(), PRESET))
    return rows


def test_rows_that_a_file_has_stay_and_others_are_added(small, tmp_path, monkeypatch):
    first, path = curve.make("somewhere", tmp_path, [])
    assert set(first["metrics"]["curve"]["model"]) == set(first["metrics"]["rows"]) == {"ECG-MoE"}
    own, trained = curve.measure, []
    monkeypatch.setattr(curve, "measure", lambda *a, **k: trained.extend(row.name for row in a[2]) or own(*a, **k))
    both, _ = curve.make("somewhere", tmp_path, ["ResNet"])
    assert trained == ["ResNet"]
    made = {row: own["provenance"]["parameters"]["rows"] for row, own in both["metrics"]["rows"].items()}
    assert made == {"ECG-MoE": [], "ResNet": ["ResNet"]}
    lines = both["metrics"]["curve"]
    kept = lines[lines["model"] == "ECG-MoE"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, first["metrics"]["curve"], check_dtype=False)
    again, _ = curve.make("somewhere", tmp_path, ["ResNet"])
    assert trained == ["ResNet"] and again["metrics"]["rows"] == both["metrics"]["rows"]
    content = path.read_bytes()
    again, _ = curve.make("somewhere", tmp_path, [])
    assert again["provenance"] == both["provenance"] and path.read_bytes() == content, "nothing was trained"
    small[1] = replace(small[1], fit={**small[1].fit, "lr": 0.5})  # of other settings: trained anew
    with pytest.raises(InputError, match=r"curve_toy\.json has ResNet of other .*; name these rows too, or move"):
        curve.make("somewhere", tmp_path, [])
    assert path.read_bytes() == content
    commit = {"commit": "later"}
    monkeypatch.setattr(results, "provenance", lambda *_: commit)
    third, _ = curve.make("somewhere", tmp_path, ["ResNet"])
    assert trained == ["ResNet", "ResNet"] and len(third["metrics"]["curve"]) == len(lines)
    assert third["provenance"] == third["metrics"]["rows"]["ResNet"]["provenance"] == commit
    assert third["metrics"]["rows"]["ECG-MoE"] == first["metrics"]["rows"]["ECG-MoE"]
    monkeypatch.setattr(configurations, "code", lambda: "other")
    fourth, _ = curve.make("somewhere", tmp_path, ["ResNet"])
    assert trained[2:] == ["ECG-MoE", "ResNet"] and len(fourth["metrics"]["curve"]) == len(lines)


@pytest.mark.usefixtures("small")
def test_the_command_writes_what_the_book_reads(cohort, tmp_path, monkeypatch):
    done = CliRunner().invoke(app, ["curve", "somewhere", "--folder", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0 and "gain" in done.output
    written = json.loads((tmp_path / "curve_toy.json").read_text("utf-8"))  # other data have another name
    assert reference.name_of("curve", replace(cohort, card=replace(cohort.card, name="PTB-XL 1.0.3"))) == curve.NAME
    assert written["provenance"]["parameters"]["rows"] == ["ResNet", configurations.TRAINED]
    assert written["metrics"]["asked"]["code"] == configurations.code()
    monkeypatch.setattr(results, "reference", lambda _: written)
    assert len(curve.load()) == len(written["metrics"]["curve"])

    def absent(_):
        raise FileNotFoundError

    monkeypatch.setattr(results, "reference", absent)
    assert curve.load() is None
