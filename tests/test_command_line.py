"""The command line: what it makes, what it says, and that bad input is one line and exit code 1."""

import gc
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from synthetic import ecg

from ecgmoe import __main__ as command_line
from ecgmoe import bench, datasets, prediction, probing, training
from ecgmoe.datasets import simulated
from ecgmoe.records import LEADS, write_record


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


#: Commands that say before all else that the place which is named next cannot be written.
WRITING = (
    ("simulate",),
    ("prepare", "nowhere"),
    ("train", "nowhere", "--folder"),
    ("probe", "nowhere", "--folder"),
    ("ship", "nowhere"),
    ("evaluate", "nowhere", "--json"),
    ("predict", "nowhere", "--model", "nowhere", "--figures"),
    ("bench", "inference", "--json"),
)


def test_a_place_that_cannot_be_written_is_said_before_all_else(tmp_path: Path, monkeypatch) -> None:
    for words in WRITING:
        assert f"{Path(__file__)} is no folder" in invoke(*words, Path(__file__) / "x").output, words
    monkeypatch.setattr(command_line.os, "access", lambda path, mode: path != tmp_path)
    assert f"{tmp_path} cannot be written to" in invoke("simulate", tmp_path / "x" / "y").output
    assert not (tmp_path / "x").exists()


def test_an_error_of_the_system_is_one_line_and_a_closed_pipe_is_not_its_business(tmp_path: Path, monkeypatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(simulated, "write", fails)
    for error, said in (
        (PermissionError(13, "Permission denied", "here"), "Error: here: Permission denied; check path"),
        (OSError(28, "No space left on device"), "Error: No space left on device; check path"),
        (OSError("words"), "Error: words"),
        (BrokenPipeError(32, "Broken pipe"), ""),
    ):
        done = invoke("simulate", tmp_path / "x")
        assert done.exit_code == 1 and done.output.startswith(said) and bool(done.output) == bool(said), error


def every(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield from every(command) if isinstance(command, click.Group) else (command,)


def test_an_empty_name_is_not_the_current_folder() -> None:
    for command in every(command_line.app):
        for parameter in command.params:
            shown = parameter.make_metavar(click.Context(command))
            if shown == "DATA_ROOT" or parameter.name == "model" or isinstance(parameter.type, click.Path):
                with pytest.raises(click.BadParameter, match="an empty name"):
                    parameter.type.convert("", parameter, click.Context(command))
    done = invoke("chapters", "05", "-p", "data_root", "")
    assert done.exit_code == 2 and "data_root: an empty name" in done.output


def test_numbers_that_make_no_sense_are_wrong_usage(tmp_path: Path) -> None:
    for words in (("--patients", 0), ("--patients", -5), ("--seed", -1)):
        assert invoke("simulate", tmp_path / "x", *words).exit_code == 2, words
    for command in ("probe", "pretrain"):
        assert "--seed" in invoke(command, "simulated", "--seed", -1).stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
def test_a_full_disk_is_one_line(model: Path, records: Path) -> None:
    words = [sys.executable, "-m", "ecgmoe", "predict", str(records / "a"), "--model", str(model)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "window" not in line] == [
        "Error: No space left on device; check path, permissions and space"
    ]


def test_bad_input_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    for words in (
        ("prepare", tmp_path / "nowhere", tmp_path / "store"),
        ("bench", "data", "--ptbxl", tmp_path / "nowhere"),
        ("simulate", Path(__file__).parent),
        ("bench", "predict", "--model", "foo"),
        *((*words, Path(__file__) / "x") for words in WRITING),
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
    monkeypatch.setattr(probing, "probe", never)
    for fold in (8, 9):
        table = few.table.assign(age=few.table["age"].where(few.table["fold"] != fold))
        broken = replace(few, table=table)
        monkeypatch.setattr(datasets, "load", lambda *_, broken=broken, **__: broken)
        for words in (("train", "few", "--folder", tmp_path / "run"), ("probe", "few")):
            done = invoke(*words, "--preset", "compact-random")
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


@pytest.fixture
def records(tmp_path: Path) -> Path:
    folder = tmp_path / "records"
    folder.mkdir()
    for name, seconds in (("a", 10.0), ("b", 25.0), ("short", 4.0), ("damaged", 10.0)):
        write_record(folder / name, ecg([0.8] * 60, 250.0, seconds)[0][0], 250.0)
    (folder / "damaged.dat").write_bytes(b"x")
    return folder


@pytest.fixture
def flat(records: Path) -> None:
    write_record(records / "flat", np.zeros((12, 2500)), 250.0)


def test_predictions_go_to_standard_output_and_all_else_to_standard_error(model: Path, records: Path) -> None:
    done = invoke("predict", records, "--model", model)
    assert done.exit_code == 0
    table = pd.read_csv(io.StringIO(done.stdout))
    assert tuple(table.columns) == prediction.COLUMNS
    assert table["record"].tolist() == ["a", "b", "b"] and table["start_s"].tolist() == [0, 0, 10]
    lines = done.stderr.splitlines()
    assert any(line.startswith("skipped damaged: ") for line in lines)
    assert any(line.startswith("skipped short: 4 s long") for line in lines)
    assert lines[-1] == "3 windows predicted, 2 recordings skipped"


def test_predictions_as_json_are_the_same(model: Path, records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "BATCH", 2)  # several writings
    table = pd.read_csv(io.StringIO(invoke("predict", records, "--model", model).stdout))
    found = json.loads(invoke("predict", records, "--model", model, "--json").stdout)
    assert len(found) == len(table) == 3
    for row, expected in zip(found, table.to_dict("records"), strict=True):
        assert list(row) == list(expected)
        for column, value in expected.items():
            assert row[column] == value if isinstance(value, str) or np.isfinite(value) else row[column] in (None, "")


def test_only_the_tasks_that_are_asked_for_have_cells(model: Path, records: Path) -> None:
    done = invoke("predict", records / "a", "--model", model, "--tasks", "rr, potassium")
    table = pd.read_csv(io.StringIO(done.stdout))
    assert table["rr_ms"].notna().all() and table[["age_years", "sex", "rhythm"]].isna().all(axis=None)
    assert "not trained on potassium" in done.stderr


@pytest.mark.usefixtures("flat")
def test_exit_codes_of_predictions(model: Path, records: Path, tmp_path: Path) -> None:
    """0: something was predicted; 1: nothing; 2: wrong usage."""
    for code, words in (
        (0, (records / "damaged", records / "a")),
        (1, (records / "damaged",)),
        (1, (tmp_path / "nowhere", records / "short")),
        (2, ()),
        (2, ("",)),
        (2, (records / "a", "")),
        (2, (records / "a", "--tasks", "height")),
        (2, (records / "a", "--tasks", ",")),
        (2, (records / "a", "--leads", "I,V9")),
        (2, (records / "a", "--fs", "-1")),
        (2, (records / "a", "--fs", "inf")),
        (1, (records / "flat",)),
        (1, (records / "a", "--tasks", "potassium")),
    ):
        assert invoke("predict", *words, "--model", model).exit_code == code, words
    assert "- for a column to skip" in invoke("predict", records / "a", "--leads", "I,V9", "--model", model).stderr
    done = invoke("predict", records / "a", "--model", "no-such-model")
    assert gc.isenabled()
    assert done.exit_code == 1 and done.stderr.startswith("Error: there is no model no-such-model")
    done = invoke("predict", records / "damaged", "--model", model, "--json")
    assert done.stdout.strip() == "[]"


def test_tables_and_arrays_are_predicted_with_rate_leads_and_unit(model: Path, tmp_path: Path) -> None:
    signal = ecg([0.8] * 20, 125.0)[0][0]
    np.save(tmp_path / "x.npy", 1000 * signal[:3])
    done = invoke("predict", tmp_path / "x.npy", "--model", model, "--fs", 125, "--leads", "I,II,V2", "--unit", "uV")
    assert done.exit_code == 0, done.stderr
    table = pd.read_csv(io.StringIO(done.stdout))
    said = table["warnings"][0]
    assert "missing: III" in said and "computed from other limb leads: III, aVR, aVL, aVF" in said and "mV" not in said
    pd.DataFrame(signal.T, columns=list(LEADS)).to_csv(tmp_path / "x.csv", index=False)
    assert invoke("predict", tmp_path / "x.csv", "--model", model, "--fs", 125).exit_code == 0
    assert "--fs" in invoke("predict", tmp_path / "x.csv", "--model", model).stderr


@pytest.mark.parametrize("words", [("--fs", 125), ("--leads", "I"), ("--unit", "mV")])
def test_options_that_do_not_matter_are_said_once(model: Path, records: Path, words: tuple[object, ...]) -> None:
    said = "--fs, --leads and --unit are for CSV and npy files alone"
    assert invoke("predict", records / "a", records / "b", "--model", model, *words).stderr.count(said) == 1
    assert said not in invoke("predict", records / "a", "--model", model).stderr
    assert said not in invoke("predict", records / "a.csv", "--model", model, *words).stderr


def test_a_figure_of_every_window_is_drawn(model: Path, records: Path, tmp_path: Path) -> None:
    done = invoke("predict", records / "b", "--model", model, "--figures", tmp_path / "figures")
    assert done.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["b_0s.png", "b_10s.png"]


@pytest.mark.parametrize(
    ("device", "why"), [("tpu", "none of cpu, cuda and cuda:N"), ("cuda:1", "sees 1 CUDA devices")]
)
def test_a_device_that_is_not_there_is_refused(device: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for words in (("bench", "inference"), ("pretrain", "simulated")):
        done = invoke(*words, "--device", device)
        assert done.exit_code == 2 and why in done.output
