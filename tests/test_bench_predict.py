"""What is measured of the command line's predictions, and that memory does not grow."""

import json
from pathlib import Path

import pytest

from ecgmoe import bench_predict
from ecgmoe.prediction import ModelError


def test_figures_follow_from_the_costs(model, tmp_path, monkeypatch):
    asked = []

    def run(words):
        n = len(list(Path(words[0]).glob("*.hea"))) or 1
        asked.append(n)
        return bench_predict.Cost(2.0 + n / 50, 100.0 + n / 10)

    monkeypatch.setattr(bench_predict, "run", run)
    found = bench_predict.measure(10, str(model), tmp_path / "x.json")
    assert asked == [1, 1, 10, 100]
    assert found["records_per_s"] == pytest.approx(50) and found["start_s"] == pytest.approx(2.02)
    assert found["memory_ratio"] == pytest.approx(110 / 101)
    written = json.loads((tmp_path / "x.json").read_text("utf-8"))
    assert written["metrics"]["records"] == 10 and written["provenance"]["commit"]
    assert len(list(bench_predict.describe(found))) == 5


def test_a_run_that_fails_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="status 1"):
        bench_predict.run([tmp_path / "nowhere", "--model", tmp_path])


def test_a_model_that_is_not_there_is_said_before_recordings_are_written(monkeypatch):
    monkeypatch.setattr(bench_predict, "write", lambda *_: pytest.fail("written"))
    with pytest.raises(ModelError, match="there is no model foo"):
        bench_predict.measure(10, "foo")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_recordings(model, tmp_path):
    some = bench_predict.write(tmp_path / "some", 300)
    many = bench_predict.write(tmp_path / "many", 3000)
    costs = [bench_predict.run([folder, "--model", model]) for folder in (some, many)]
    assert costs[1].peak_mb < 1.05 * costs[0].peak_mb, costs
