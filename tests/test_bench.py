"""The measurements of reading, preparing and detecting: they run, ratios are ratios, and nothing private is written."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ecgmoe import bench, detection, results
from ecgmoe.datasets import DatasetError, simulated


@pytest.fixture(scope="module")
def root() -> Path:
    return simulated.ensure(8)


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], dict[str, object]]:
    """What is returned, and what is written."""
    folder = tmp_path_factory.mktemp("run")
    everyone = detection.detectors
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECGMOE_RUN_DIR", str(folder))
        patch.setattr(
            detection, "detectors", lambda leads: {k: d for k, d in everyone(leads).items() if "wfdb" not in k}
        )
        measured = bench.data(quick=True)
        return measured, results.load("bench_data")


def test_quick_measurement_covers_everything_and_writes_it(metrics: tuple[dict, dict]) -> None:
    measured, written = metrics
    assert set(written["metrics"]) == set(measured) >= {"reader", "store", "prepare", "memory", "detectors", "accuracy"}
    reader = measured["reader"]
    assert reader["fs"].tolist() == [100, 100, 500, 500] and (reader["equal"] == reader["records"]).all()
    for table in ("reader", "store", "prepare", "detectors"):
        assert measured[table]["ratio"].iloc[0] == 1 and (measured[table]["records_per_s"] > 0).all()
    assert measured["memory"]["records"].tolist() == [8]
    assert (measured["memory"]["peak_mb"] > measured["memory"]["before_mb"]).all()
    assert set(measured["accuracy"]["set"]) == {"simulated"}
    assert measured["data"]["versions"]["wfdb"] == results.version_of("wfdb")


def test_no_path_is_written(metrics: tuple[dict, dict], root: Path) -> None:
    text = json.dumps(metrics[1])
    for place in (root, root.parent, Path.home(), Path.cwd()):
        assert str(place) not in text


def test_description_names_every_table(metrics: tuple[dict, dict]) -> None:
    text = "\n".join(bench.describe(metrics[0]))
    for word in ("wfdb.rdrecord", "Store.read", "store.prepare", "800,035", "peak_mb", "ecgmoe, 12 leads", "F1 150 ms"):
        assert word in text
    assert text.index("F1 150 ms") < text.index("F1 50 ms") and "wins" in text


def test_ratios_take_the_number_of_records_into_account() -> None:
    def work(times: int) -> None:
        for _ in range(times):
            np.sort(np.random.default_rng(0).normal(size=20_000))

    table = bench.race({"slow": (1, lambda: work(8)), "fast": (4, lambda: work(8))}, rounds=7)
    assert table["run"].tolist() == ["slow", "fast"] and table["ratio"].iloc[0] == 1
    assert table["ratio"].iloc[1] == pytest.approx(4, rel=0.5)


def test_projection_is_arithmetic_and_names_the_limit() -> None:
    table = bench.projection(0.001, 120_000, 130_000).set_index(["cores", "disk_mb_s"])
    slow_disk = table.loc[(64, 200)]
    assert slow_disk["limit"] == "disk" and slow_disk["hours"] == pytest.approx(800_035 * 0.25e6 / 200e6 / 3600)
    few_cores = table.loc[(2, 1000)]
    assert few_cores["limit"] == "processor" and few_cores["hours"] == pytest.approx(800_035 * 0.001 / 2 / 3600)
    assert table["cpu_ms"].eq(1).all() and table["read_kb"].eq(120).all()


def test_records_are_spread_evenly_and_absent_ones_left_out(root: Path, tmp_path: Path) -> None:
    everything = bench._listing(root, 500, 0).table
    some = bench._listing(root, 500, 3).table
    assert some.index.tolist() == everything.index[[0, (len(everything) - 1) // 2, len(everything) - 1]].tolist()
    empty = tmp_path / "part"
    empty.mkdir()
    for name in ("ptbxl_database.csv", "scp_statements.csv"):
        (empty / name).write_bytes((root / name).read_bytes())
    with pytest.raises(DatasetError, match="no record of 500 Hz; download records500"):
        bench._listing(empty, 500, 0)


def test_memory_probe_reports_before_and_peak(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench._memory_probe(str(root), 100, 4, 3)
    said = json.loads(capsys.readouterr().out)
    assert said["records"] == 12 and said["peak_mb"] >= said["before_mb"] > 50


def test_memory_without_proc_falls_back_to_the_peak_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    known = bench._resident_mb("VmHWM")
    monkeypatch.setattr(bench.Path, "is_file", lambda self: False)
    assert bench._resident_mb("VmHWM") >= 0.5 * known


def test_a_failing_process_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match="prepare failed in a process of its own"):
        bench.memory(tmp_path / "absent", 100, 2, (1,))


def test_sets_that_are_absent_are_passed_over(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ours = {"ecgmoe": detection.detectors()["ecgmoe"], "ecgmoe, one lead": detection.detectors()["ecgmoe, one lead"]}
    monkeypatch.setattr(detection, "detectors", lambda leads: ours)
    tables = bench.accuracy(root, ("mitdb", "simulated"))
    assert set(tables["accuracy"]["set"]) == {"simulated"} and isinstance(tables["paired"], pd.DataFrame)
    with pytest.raises(DatasetError, match="does not hold MIT-BIH"):
        bench.accuracy(tmp_path)


@pytest.mark.slow
def test_real_recordings_are_measured(recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECGMOE_RUN_DIR", str(tmp_path))
    measured = bench.data(recordings / "cpsc2019", recordings / "ptbxl", max_records=64, rounds=1)
    assert set(measured["accuracy"]["set"]) == {"cpsc2019"}
    assert measured["data"]["records"] == "PTB-XL" and os.listdir(tmp_path) == ["bench_data.json"]
    ratio = measured["reader"].set_index(["run", "fs"])["ratio"]
    assert ratio[("ecgmoe.records.read_record", 100)] > 2
