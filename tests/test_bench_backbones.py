"""The measurement of the backbones: it runs, says what it should, and its baseline is the authors' computation."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from ecgmoe import backbones, bench_backbones, results
from ecgmoe.__main__ import app
from ecgmoe.backbones import precision


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECGMOE_RUN_DIR", str(folder))
        patch.setenv("ECGMOE_CACHE", str(folder / "cache"))
        return bench_backbones.measure("compact-random", batch=2, rounds=1) | {"folder": folder}


def test_everything_is_measured_and_written(metrics: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    table, together = metrics["backbones"], metrics["together"]
    assert table["backbone"].tolist() == list(backbones.TITLES.values())
    for column in ("eager_ms", "float32_ms", "bfloat16_ms", "float32_ratio", "bfloat16_ratio", "parameters"):
        assert (table[column] > 0).all()
    assert table["float32_error"].max() <= 1e-5 and table["bfloat16_error"].max() <= precision.TOLERANCE
    assert together["gflop_per_record"] == pytest.approx(table["gflop_per_record"].sum())
    assert together["eager_ms"] == pytest.approx(table["eager_ms"].sum())
    assert together["bfloat16_ratio"] == pytest.approx(together["eager_ms"] / together["bfloat16_ms"])
    assert set(table["auto"]) <= {"float32", "bfloat16"} and table["reason"].str.len().min() > 20
    monkeypatch.setenv("ECGMOE_RUN_DIR", str(metrics["folder"]))
    written = results.load("bench_backbones")
    assert written["provenance"]["parameters"] == {"preset": "compact-random", "batch": 2, "rounds": 1}
    assert set(written["metrics"]) == {"run", "backbones", "together"}
    assert str(metrics["folder"]) not in json.dumps(written)


def test_description_says_it_all(metrics: dict) -> None:
    text = "\n".join(bench_backbones.describe(metrics))
    for word in ("GFLOP/s", "together", "TimesNet with its kernels folded", "auto, DLinear: ", "eager ms"):
        assert word in text
    emulated = metrics | {"run": metrics["run"] | {"instructions": "none for bfloat16"}}
    ratio = metrics["together"]["bfloat16_ratio_to_float32"]
    assert bench_backbones.describe(emulated)[-1].startswith("bfloat16 is off")
    assert f"it is {ratio:.2f} times as fast as our float32" in bench_backbones.describe(emulated)[-1]


@pytest.mark.parametrize("name", backbones.NAMES)
def test_the_authors_way_gives_the_same(name: str) -> None:
    backbone = backbones.build(name, "compact-random")
    x = precision.trial(backbone, 3)
    with torch.no_grad():
        expected = backbone.encode(x)
        slow = bench_backbones.eager(backbone)
        assert precision.relative_error(expected, slow.encode(x)) <= 1e-5
        assert all(torch.equal(one, other) for one, other in zip(expected, backbone.encode(x), strict=True))
    kinds = {type(module).__name__ for module in slow.modules()}
    assert kinds & {"_Unfolded", "NewGELUActivation", "Wav2Vec2Model", "DLinear"} and "GELUTanh" not in kinds
    for module in slow.modules():
        if hasattr(module, "set_attn_implementation"):
            assert module.config._attn_implementation == "eager"


def test_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, metrics: dict) -> None:
    def measure(preset: str, batch: int, rounds: int, json_file: Path | None) -> dict:
        assert (preset, batch, rounds, json_file) == ("compact-random", 3, 1, tmp_path / "x.json")
        return metrics

    monkeypatch.setattr(bench_backbones, "measure", measure)
    options = ["--preset", "compact-random", "--batch", "3", "--rounds", "1", "--json", str(tmp_path / "x.json")]
    done = CliRunner().invoke(app, ["bench", "backbones", *options])
    assert done.exit_code == 0 and "together" in done.output


def test_another_place_is_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECGMOE_RUN_DIR", str(tmp_path / "run"))
    bench_backbones.measure("compact-random", 1, 1, names=("timesnet",), json_file=tmp_path / "copy.json")
    assert (tmp_path / "copy.json").read_bytes() == (tmp_path / "run" / "bench_backbones.json").read_bytes()
