"""The command line: what it makes, what it says, and that bad input is one line and exit code 1."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from ecgmoe import __main__ as command_line
from ecgmoe import bench, datasets, training
from ecgmoe.datasets import simulated


def invoke(*words: object) -> Result:
    return CliRunner().invoke(command_line.app, [str(word) for word in words])


@pytest.fixture(scope="module", params=["ptbxl", "mimic-iv-ecg"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source") / "cohort"
    done = invoke("simulate", root, "--patients", 4, "--layout", request.param)
    assert done.exit_code == 0, done.output
    return root


def test_a_store_is_prepared_from_either_layout_and_finished_once(source: Path, tmp_path: Path) -> None:
    done = invoke("prepare", source, tmp_path / "store", "--workers", 0)
    assert done.exit_code == 0, done.output
    cohort = datasets.load(tmp_path / "store")
    assert cohort.digest == datasets.load(source).digest
    assert f"{len(cohort)} records" in done.output
    assert "0 shards made, 1 kept" in invoke("prepare", source, tmp_path / "store", "--workers", 0).output


def test_bad_input_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    for words in (
        ("prepare", tmp_path / "nowhere", tmp_path / "store"),
        ("bench", "data", "--ptbxl", tmp_path / "nowhere"),
        ("simulate", Path(__file__).parent),
    ):
        done = invoke(*words)
        assert done.exit_code == 1, words
        assert done.output.startswith("Error: ") and len(done.output.strip().splitlines()) == 1


def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecgmoe.store.making.CONNECT_S", 1)
    root = simulated.write(tmp_path / "cohort", n_patients=1)
    done = invoke("prepare", root, tmp_path / "store", "--scheduler", "tcp://127.0.0.1:9")
    assert done.exit_code == 1
    assert "tcp://127.0.0.1:9" in done.output


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> datasets.Cohort:
    root = simulated.write(tmp_path_factory.mktemp("few") / "cohort", n_patients=60)
    return datasets.load(root)


def test_train_scores_every_metric_and_prints_the_headline(
    few: datasets.Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load", lambda *_, **__: few)
    done = invoke("train", "few", "--folder", tmp_path / "run", "--preset", "compact-random", "--epochs", 1)
    assert done.exit_code == 0, done.output
    rows = pd.DataFrame(json.loads((tmp_path / "run" / "scores.json").read_text())["metrics"]["test"])
    assert {"auroc", "macro_f1", "mae"} < set(rows["metric"])
    own = rows[rows["model"] == "ECG-MoE"].set_index(["task", "metric"])["value"]
    line = next(line for line in done.output.splitlines() if "ECG-MoE" in line)
    assert f"{own['rr', 'mae']:.1f} [" in line, "the first is the RR interval, by its headline metric"


def test_what_cannot_be_scored_is_said_before_training(
    few: datasets.Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(training, "train", never)
    for fold in (8, 9):
        table = few.table.assign(age=few.table["age"].where(few.table["fold"] != fold))
        broken = replace(few, table=table)
        monkeypatch.setattr(datasets, "load", lambda *_, broken=broken, **__: broken)
        done = invoke("train", "few", "--folder", tmp_path / "run", "--preset", "compact-random")
        assert done.exit_code == 1 and done.output.startswith("Error: age: no labelled record"), done.output
    assert not (tmp_path / "run").exists()


def test_bench_data_prints_what_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = {}

    def data(**options: object) -> dict[str, object]:
        asked.update(options)
        return {"answer": 42}

    monkeypatch.setattr(bench, "data", data)
    monkeypatch.setattr(bench, "describe", lambda metrics: [f"measured {metrics['answer']}"])
    done = invoke("bench", "data", "--annotated", tmp_path, "--records", 7)
    assert done.output == "measured 42\n"
    assert asked == {"annotated_root": tmp_path, "ptbxl_root": None, "max_records": 7}
