"""The command line: what it makes, what it says, and that bad input is one line and exit code 1."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ecgmoe import __main__ as command_line
from ecgmoe import bench, datasets
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
