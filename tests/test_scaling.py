"""How a pass grows: what is counted is in proportion to what is done, and each axis starts at 1."""

import dataclasses

import pandas as pd
import pytest
import torch
from synthetic import toy_cohort

from ecgmoe import backbones, efficiency, features, plots, scaling
from ecgmoe.bench_inference import Bench

M = len(backbones.NAMES)


@pytest.fixture(scope="module")
def bench():
    cohort = toy_cohort(20)
    return Bench("compact-random", cohort.signal[:3], cohort.fs)


@pytest.fixture(scope="module")
def table(bench):
    state = torch.random.get_rng_state()
    with efficiency.one_thread():
        found = scaling.measure(bench.own, bench.networks(0), bench.signal_BCT, 2, batches=(1, 4), seconds=(10, 30))
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator is left alone"
    return found


def test_every_axis_has_its_settings_and_starts_at_one(table):
    settings = {axis: scaling.of(table, axis).index.tolist() for axis in scaling.AXES}
    assert settings == {
        scaling.BATCH: [1, 4],
        scaling.PRECISION: ["float32", "bfloat16"],
        scaling.BACKBONES: [5, 4, 3, 2, 1],
        scaling.TASKS: [1, 2, 3, 4, 5],
        scaling.WINDOWS: [10, 30],
        scaling.UNCUT: [10, 30],
    }
    firsts = table.groupby("axis").first()
    assert (firsts[["relative", "relative_least", "relative_most"]] == 1).all(axis=None)
    assert (table["relative_least"] <= table["relative"]).all() and (table["relative"] <= table["relative_most"]).all()


def test_a_pass_takes_as_long_as_its_records(table):
    assert table["pass_ms"].tolist() == pytest.approx((table["ms_per_record"] * table["records"]).tolist())
    assert scaling.of(table, scaling.BATCH)["records"].tolist() == [1, 4]
    assert set(scaling.of(table, scaling.TASKS)["records"]) == {M}
    assert set(scaling.of(table, scaling.WINDOWS)["records"]) == {1}


def test_operations_grow_with_what_is_done(table):
    gflop = {axis: scaling.of(table, axis)["gflop_per_record"] for axis in scaling.AXES}
    per_batch, cut, uncut = (gflop[axis] for axis in (scaling.BATCH, scaling.WINDOWS, scaling.UNCUT))
    assert per_batch[4] == pytest.approx(per_batch[1], rel=0.1), "a record is a record in any batch"
    assert cut[30] == pytest.approx(3 * cut[10], rel=0.1)
    assert cut[10] == uncut[10] < uncut[30] < 0.7 * cut[30], "most backbones look at no more than ten seconds"
    shares = gflop[scaling.BACKBONES] / gflop[scaling.BACKBONES][M]
    assert shares.tolist() == pytest.approx([1, 4 / 5, 3 / 5, 2 / 5, 1 / 5], abs=0.05)
    asked = gflop[scaling.TASKS]
    assert asked.is_monotonic_increasing and asked[1] < asked[5] < 1.05 * asked[1], "the backbones are shared"


def test_the_bound_is_that_of_the_counted_operations(table):
    rest = table[table["setting"] != "bfloat16"]
    peak = rest["bound_records_per_s"] * rest["gflop_per_record"]
    assert peak.tolist() == pytest.approx([peak.iloc[0]] * len(rest))
    half = scaling.of(table, scaling.PRECISION).loc["bfloat16"]
    assert half["bound_records_per_s"] * half["gflop_per_record"] >= 0.999 * peak.iloc[0]


def test_bfloat16_is_counted_in_full_and_has_an_error(table):
    found = scaling.of(table, scaling.PRECISION)
    ratio = found.loc["bfloat16", "gflop_per_record"] / found.loc["float32", "gflop_per_record"]
    assert 0.7 < ratio < 1.3, "its linear maps count too"
    assert found.loc["float32", "error"] == 0 < found.loc["bfloat16", "error"] < 0.1
    assert table[table["axis"] != scaling.PRECISION]["error"].isna().all()


def test_an_even_load_is_even(bench):
    model = scaling.evenly_routed(bench.own, 2)
    signal = bench.signal_BCT[torch.arange(M) % 3]
    choice = model.choose(features.from_signal(signal, bench.fs))
    assert choice.chosen_BM.sum(0).tolist() == choice.chosen_BM.sum(1).tolist() == [2] * M
    assert dataclasses.replace(model.config, top_k=0) == bench.own.config


def test_an_uncut_recording_is_read_to_its_end_by_ecg_fm_alone(bench):
    """TimesNet and DLinear standardise by the whole recording, and then cut it as MOMENT and TEMPO do."""
    long = torch.cat(list(bench.signal_BCT), -1)[None]
    other = long.clone()
    other[..., -round(10 * bench.fs) :] = long[..., -round(10 * bench.fs) :].flip(-1)  # mean and deviation stay
    with torch.no_grad():
        same = {
            name: torch.allclose(network.features(long, bench.fs), network.features(other, bench.fs), atol=1e-4)
            for name, network in bench.networks(0).items()
        }
    assert same == {name: name != "ecg-fm" for name in backbones.NAMES}


def test_the_figure_shows_every_axis_of_every_run_beside_its_bound(table):
    fig = plots.scaling({"this page": table, "published": table.assign(relative=2 * table["relative"])})
    assert [ax.get_xlabel() for ax in fig.axes] == list(scaling.AXES)
    for ax, axis in zip(fig.axes, scaling.AXES, strict=True):
        rows = scaling.of(table, axis)
        assert [tick.get_text() for tick in ax.get_xticklabels()] == [str(setting) for setting in rows.index]
        own, bound, other, _ = (line.get_ydata().tolist() for line in ax.lines)
        assert own == pytest.approx((100 * rows["relative"]).tolist()) and own[0] == 100
        assert other == pytest.approx([2 * value for value in own])
        reached = 100 * rows["records_per_s"] / rows["bound_records_per_s"]
        assert bound[0] == pytest.approx(reached.iloc[0]), "what of the bound is reached"
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["this page", "published", "bound by arithmetic"]


def test_runs_of_other_settings_share_an_axis(table):
    """The book proposes other batches: each point stands where its own setting is written."""
    batch = table[table["axis"] == scaling.BATCH]
    other = batch.assign(setting=["4", "32"], records=[4, 32])
    fig = plots.scaling({"other": pd.concat([other, table[table["axis"] != scaling.BATCH]]), "own": table})
    ax = fig.axes[list(scaling.AXES).index(scaling.BATCH)]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "4", "32"] and ax.get_xticks().tolist() == [
        0,
        1,
        2,
    ]
    assert [line.get_xdata().tolist() for line in ax.lines[::2]] == [[1, 2], [0, 1]]
    ax = fig.axes[list(scaling.AXES).index(scaling.BACKBONES)]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["5", "4", "3", "2", "1"]
