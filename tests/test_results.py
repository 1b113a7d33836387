import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from ecgmoe import results
from ecgmoe.datasets import Card, Cohort


@pytest.fixture
def cohort():
    table = pd.DataFrame(
        {"patient_id": [1, 2], "fold": [1, 9], "path": "x", "rr_interval": [800.0, 900.0], "age": 50.0, "sex": 0.0}
        | {"potassium": np.nan, "potassium_abnormal": np.nan, "rhythm": None},
        index=pd.Index([1, 2], name="ecg_id"),
    )
    signal = np.zeros((2, 12, 100), np.float32)
    return Cohort(Card("tiny", "", "", "", ()), table, signal, 100, pd.DataFrame(columns=["record", "reason"]))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGMOE_RUN_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


def test_save_and_load(cohort, folder):
    frame = pd.DataFrame({"model": ["a", "b"], "value": [1.5, np.nan]})
    metrics = {"x": np.float32(0.5), "n": np.int64(3), "array": np.arange(2), "frame": frame, "inf": float("inf")}
    metrics |= {"named": frame.set_index("model"), "path": folder, "set": {1}, "series": frame["value"]}
    shown = results.save("99_test", metrics, cohort=cohort, seed=7, parameters={"preset": "compact"})
    found = results.load("99_test")
    assert found == json.loads((folder / "99_test.json").read_text())
    rows = [{"model": "a", "value": 1.5}, {"model": "b", "value": None}]
    assert found["metrics"]["frame"] == found["metrics"]["named"] == rows
    assert found["metrics"]["inf"] is None and found["metrics"]["x"] == 0.5 and found["metrics"]["array"] == [0, 1]
    origin = found["provenance"]
    assert (origin["seed"], origin["parameters"]) == (7, {"preset": "compact"})
    assert origin["data"] == {"name": "tiny", "records": 2, "fs": 100, "digest": cohort.digest}
    assert origin["versions"]["numpy"] == np.__version__ and origin["time"].endswith("+00:00")
    assert cohort.digest in shown.data and "compact" in shown.data and ":name: tab-99-test-provenance" in shown.data
    assert not list(folder.glob(".*"))


def test_a_failed_save_keeps_the_old_file(folder):
    results.save("99_test", {"x": 1})
    with pytest.raises(TypeError):
        results.save("99_test", {"x": object()})
    assert results.load("99_test")["metrics"] == {"x": 1}
    assert [path.name for path in folder.iterdir()] == ["99_test.json"]


def test_the_device_is_the_processor_and_the_gpu_beside_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    processor = results.provenance()["device"]
    assert processor.startswith("CPU, ") and processor.endswith(" cores")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    assert results.provenance()["device"] == f"{processor}; NVIDIA H100"


def test_run_dir(tmp_path, monkeypatch):
    monkeypatch.delenv("ECGMOE_RUN_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results, "_CHECKOUT", tmp_path / "none")
    assert results.run_dir() == tmp_path / "runs" / "latest"
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "pyproject.toml").touch()
    monkeypatch.setattr(results, "_CHECKOUT", tmp_path / "checkout")
    assert results.run_dir() == tmp_path / "checkout" / "runs" / "latest"


def test_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "_CHECKOUT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert results.provenance()["commit"] == "unknown"
    (tmp_path / "pyproject.toml").touch()
    assert results.provenance()["commit"] == "unknown"

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    unpacked = tmp_path / "a ZIP, unpacked in another repository"
    unpacked.mkdir()
    (unpacked / "pyproject.toml").touch()
    monkeypatch.setattr(results, "_CHECKOUT", unpacked)
    assert results.provenance()["commit"] == "unknown"
    shutil.rmtree(unpacked)
    monkeypatch.setattr(results, "_CHECKOUT", tmp_path)
    clean = results.provenance()["commit"]
    assert len(clean) == 40
    (tmp_path / "pyproject.toml").write_text("changed")
    assert results.provenance()["commit"] == clean + " + changes"
    monkeypatch.setenv("ECGMOE_RUN_DIR", str(tmp_path / "run"))
    assert f"`{clean[:12]}` with changes" in results.save("x", {}).data


def test_table():
    frame = pd.DataFrame(
        {
            "name": ["a|b", "two\nlines"],
            "rr": [76.37, -817.0],
            "f1": [0.333333, np.nan],
            "count": [12345, 2],
            "flag": [True, False],
            "mixed": [None, float("inf")],
        }
    )
    text = results.table(frame, "A caption\nof two lines.", "tab-x", decimals={"rr": 2}).data
    assert text.splitlines() == [
        "```{table} A caption of two lines.",
        ":name: tab-x",
        "",
        "| name | rr | f1 | count | flag | mixed |",
        "| :-- | --: | --: | --: | :-- | --: |",
        "| a\\|b | 76.37 | 0.333 | 12,345 | yes | – |",
        "| two lines | −817.00 | – | 2 | no | ∞ |",
        "```",
    ]


def test_a_cell_breaks_before_its_interval_alone():
    cells = ["7.41 ± 0.05 [7.1, 7.7]", "−0.15 [−0.31, 0.01] ▲", "2.2 ± 0.1", "no figure [at all]"]
    text = results.table(pd.DataFrame({"x": cells}), "c", "n").data
    shown = [line.strip("| ") for line in text.splitlines()[5:-1]]
    assert [cell.split(" ") for cell in shown] == [
        ["7.41\xa0±\xa00.05", "[7.1,\xa07.7]"],
        ["−0.15", "[−0.31,\xa00.01]\xa0▲"],
        ["2.2\xa0±\xa00.1"],
        ["no", "figure", "[at", "all]"],
    ]


def test_table_shows_a_named_index_only():
    frame = pd.DataFrame({"x": [1.0, 2.0]}, index=pd.Index(["p", "q"], name="row"))
    assert "| row | x |" in results.table(frame, "c", "n").data
    assert "| x |" in results.table(frame.rename_axis(None), "c", "n").data
    assert "| x |" in results.table(pd.DataFrame({"x": []}), "c", "n").data


def test_import_is_light():
    code = "import sys, ecgmoe.results; assert not {'torch', 'pandas', 'IPython'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
