"""What answers to all tasks cost: every way answers, what is counted is exact, what is compared is what it says."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from synthetic import toy_cohort

from ecgmoe import backbones, bench_inference, efficiency, results, scaling
from ecgmoe.__main__ import app
from ecgmoe.bench_inference import ONE_PASS, WAYS, Bench
from ecgmoe.tasks import TASKS

FULL, ENECG, SHARED = list(WAYS)[1:]


@pytest.fixture(scope="module")
def cohort():
    return toy_cohort(20)


@pytest.fixture(scope="module")
def bench(cohort):
    return Bench("compact-random", cohort.signal[:5], cohort.fs)


@pytest.fixture(scope="module")
def compared(bench):
    with efficiency.one_thread():
        return bench_inference.ways(bench, rounds=1)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_answers_all_tasks(bench, way):
    with torch.no_grad():
        found = WAYS[way](bench)
    assert list(found) == list(TASKS)
    assert all(len(values) == 5 and np.isfinite(np.asarray(values)).all() for values in found.values())


def test_work_memory_and_parameters_are_counted(bench, compared):
    gflop, of_set = compared["gflop_per_record"], sum(map(backbones.n_parameters, bench.networks(0).values()))
    parts = efficiency.measure(bench.parts(), 5, rounds=1)
    names = [backbones.TITLES[name] for name in backbones.NAMES]
    assert gflop[ONE_PASS] == pytest.approx(
        parts.loc[[*names, bench_inference.FUSION], "gflop_per_record"].sum(), rel=0.02
    )
    assert gflop[FULL] == pytest.approx(5 * gflop[ONE_PASS], rel=0.1)
    assert gflop[ENECG] > 4.5 * gflop[SHARED] > 4 * parts.loc[names, "gflop_per_record"].sum()
    assert compared.loc[ONE_PASS, "parameters"] == of_set + bench.own.n_parameters()
    assert compared.loc[FULL, "parameters"] > 5 * of_set > compared.loc[SHARED, "parameters"]
    assert compared.loc[ENECG, "parameters"] - compared.loc[SHARED, "parameters"] == 4 * of_set
    assert (compared["trained"] < compared["parameters"]).all() and (compared["trained"] > 0).all()
    assert compared.loc[ONE_PASS, ["relative", "own_share_of_peak"]].tolist() == [1, 1]
    assert compared.loc[FULL, "peak_mib"] > compared.loc[ONE_PASS, "peak_mib"] > 100
    assert (compared["bound_records_per_s"] > compared["records_per_s"]).all()


def test_separate_sets_of_backbones_are_separate_memory(bench):
    first, second = bench.networks(0), bench.networks(1)
    for name in backbones.NAMES:
        a, b = next(first[name].parameters()), next(second[name].parameters())
        assert torch.equal(a, b) and a.data_ptr() != b.data_ptr()


def test_shared_features_give_the_same_answers(bench):
    with torch.no_grad():
        own, shared = bench.enecg_a_task(), bench.enecg_shared()
    assert all(torch.equal(own[name], shared[name]) for name in TASKS)


def test_the_rival_holds_no_model_of_ours(cohort):
    alone = Bench("compact-random", cohort.signal[:2], cohort.fs)
    with torch.no_grad():
        alone.enecg_shared()
    assert {"own", "of_a_task"}.isdisjoint(vars(alone)) and len(alone.sets) == 1


def test_an_epoch_on_cached_features_ends_with_the_same_answers(bench, cohort):
    state = torch.random.get_rng_state()
    found = bench_inference.epochs(bench, cohort, records=20)
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator is left alone"
    assert found["difference"] <= 1e-4 and found["moved"] > 1e-2
    assert found["in_loop_s"] > found["cached_s"] and found["records"] == 20


@pytest.fixture(scope="module")
def metrics(tmp_path_factory, compared):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECGMOE_RUN_DIR", str(folder))
        patch.setattr(bench_inference, "ways", lambda _bench, _rounds: compared)
        patch.setattr(bench_inference, "peak_mib", lambda _bench, way, records: 100.0 + records)
        patch.setattr(scaling, "measure", partial(scaling.measure, batches=(1, 2), seconds=(10, 20)))
        file = folder / "copy.json"
        return bench_inference.measure("compact-random", records=1, rounds=1, seeds=0, json_file=file) | {
            "folder": folder
        }


def test_everything_is_measured_and_written(metrics, monkeypatch):
    monkeypatch.setenv("ECGMOE_RUN_DIR", str(metrics["folder"]))
    written = results.load("efficiency_published")
    assert set(written["metrics"]) == {"run", "ways", "parts", "scaling", "epoch"}
    grown = pd.DataFrame(written["metrics"]["scaling"])
    assert grown["axis"].unique().tolist() == list(scaling.AXES)
    assert scaling.of(grown, scaling.BATCH)["peak_mib"].to_dict() == {1: 101, 2: 102}, "a process a batch"
    assert scaling.of(grown, scaling.BACKBONES).index.tolist() == [5, 4, 3, 2, 1]
    assert written["provenance"]["parameters"]["preset"] == "compact-random"
    assert (metrics["folder"] / "copy.json").read_bytes() == (
        metrics["folder"] / "efficiency_published.json"
    ).read_bytes()
    assert str(metrics["folder"]) not in json.dumps(written)
    assert bench_inference.describe(written["metrics"]) == bench_inference.describe(metrics)


def test_the_headline_is_the_smallest_ratio(metrics):
    table = pd.DataFrame({"way": [ONE_PASS, "b", "c"], "relative": [1.0, 5.0, 0.9]})
    assert bench_inference.smallest(table) == ("c", 0.9)
    way, ratio = bench_inference.smallest(metrics["ways"])
    assert way == SHARED and ratio < 3
    text = "\n".join(bench_inference.describe(metrics))
    for word in (
        *WAYS,
        "even load",
        *scaling.AXES,
        "GFLOP/s",
        f"cheapest of the others ({SHARED})",
        "answers differ by at most",
    ):
        assert word in text


def test_a_gpu_is_not_said_to_be_a_thread(metrics):
    run = metrics["run"] | {"processor": "a chip"}
    first = {
        device: bench_inference.describe({**metrics, "run": run | {"device": device}})[0] for device in ("cpu", "cuda")
    }
    assert ", 1 thread of a chip, median" in first["cpu"] and " a pass, a chip, median" in first["cuda"]


def test_the_curve_is_measured_where_it_is_asked_for(metrics, cohort, tmp_path, monkeypatch):
    load = pd.DataFrame({"seed": 0, "k": [0, 1]} | {name: [1.0, 0.2] for name in backbones.NAMES})
    scores = pd.DataFrame({"seed": 0, "k": [0, 1], "task": "sex", "lost": [0.0, 1.5]})
    passes = pd.DataFrame({"k": [0, 1], "relative": [1.0, 0.4]})
    curve = {"scores": scores, "load": load, "passes": passes}
    monkeypatch.setenv("ECGMOE_RUN_DIR", str(tmp_path))
    monkeypatch.setattr(bench_inference.reference, "cohort_of", lambda: cohort)
    monkeypatch.setattr(bench_inference.tradeoff, "curve", lambda *_args: curve)
    monkeypatch.setattr(bench_inference, "ways", lambda *_args: metrics["ways"].set_index("way"))
    monkeypatch.setattr(scaling, "measure", lambda *_args: metrics["scaling"].drop(columns="peak_mib"))
    monkeypatch.setattr(bench_inference, "peak_mib", lambda *_args: 100.0)
    monkeypatch.setattr(bench_inference, "epochs", lambda *_args: metrics["epoch"])
    found = bench_inference.measure("compact-random", records=1, rounds=1, seeds=1)
    expected = found["curve"]["passes"]["expected_relative"]
    assert expected[0] == 1 and 0.2 < expected[1] < 1
    assert ["1", "1.5", "0.4"] in [line.split()[:3] for line in bench_inference.describe(found)]


def test_command(monkeypatch, tmp_path: Path, metrics):
    def measure(*arguments):
        assert arguments == ("compact-random", 3, 1, 0, "cpu", tmp_path / "x.json")
        return metrics

    monkeypatch.setattr(bench_inference, "measure", measure)
    options = ["--preset", "compact-random", "--records", "3", "--rounds", "1", "--seeds", "0"]
    done = CliRunner().invoke(app, ["bench", "inference", *options, "--json", str(tmp_path / "x.json")])
    assert done.exit_code == 0 and ENECG in done.output


@pytest.mark.slow
def test_one_pass_at_published_sizes_beats_five_enecg(cohort):
    at_500_hz = replace(cohort, signal=np.repeat(cohort.signal[:1], 5, -1), fs=500)
    for _ in range(3):  # another process may be in the way
        with efficiency.one_thread():
            table = bench_inference.ways(Bench("published-random", at_500_hz.signal, 500), rounds=1)
        if table.loc[[ENECG, FULL], "relative"].min() >= 4:
            break
    assert table.loc[ENECG, "relative"] >= 4 and table.loc[FULL, "relative"] >= 4
    assert table.loc[ENECG, "own_share_of_peak"] <= 0.65
    assert 0.5 < table.loc[SHARED, "relative"] < 2, "the saving is that of running each backbone once"
