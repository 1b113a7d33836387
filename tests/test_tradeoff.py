"""Fewer backbones a record: signs and points of what is lost, loads, times."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from synthetic import toy_cohort

from ecgmoe import backbones, evaluation, features, tradeoff
from ecgmoe.training import FitConfig

NAMES = ("timesnet", "dlinear")
CONFIG = FitConfig(epochs=2, batch_size=16)


@pytest.fixture(scope="module")
def cohort():
    return toy_cohort()


@pytest.fixture(scope="module")
def inputs(cohort):
    return features.make_inputs(cohort, NAMES, "compact-random")


@pytest.fixture(scope="module")
def trained(cohort, inputs):
    return tradeoff.train(cohort, inputs, ks=(1,), seeds=(0, 3), config=CONFIG)


def test_all_backbones_lose_nothing_to_themselves(trained):
    scores = trained[0].scores
    assert set(scores["k"]) == {0, 1} and set(scores["seed"]) == {0, 3}
    dense = scores[scores["k"] == 0]
    assert (dense[["lost", "low", "high"]] == 0).all().all()
    np.testing.assert_allclose(dense["alone"], dense["value"], rtol=1e-4, atol=1e-4)
    assert (scores["low"] <= scores["high"]).all()


def test_what_is_lost_is_positive_where_a_metric_is_worse(cohort, trained):
    scores = trained[0].scores.set_index(["seed", "k", "task"])
    for seed in (0, 3):
        for name, task in cohort.tasks.items():
            row, dense = scores.loc[(seed, 1, name)], scores.loc[(seed, 0, name)]
            worse = (dense["value"] - row["value"]) if task.higher_is_better else (row["value"] - dense["value"])
            assert row["lost"] == pytest.approx(worse * (1 if task.kind == "regression" else 100))
    assert (scores.xs(1, level="k")["lost"] != 0).any()


def test_values_are_those_of_the_validation_part(cohort, inputs, trained):
    from ecgmoe import training

    scores, models = trained[0].scores, trained[1]
    found = evaluation.score_table({"k": training.predict(models[1], inputs)}, cohort, split="validation", n_boot=0)
    own = scores[(scores["k"] == 1) & (scores["seed"] == 3)]
    np.testing.assert_allclose(own.set_index("task")["value"], found.set_index("task")["value"], rtol=1e-5)


def test_loads_sum_to_k(trained):
    load = trained[0].load
    assert list(load.columns) == ["seed", "k", *NAMES]
    assert load[list(NAMES)].sum(axis=1).tolist() == pytest.approx([2, 1, 2, 1])


def test_times_are_of_the_trained_routers(cohort, trained):
    networks = {name: backbones.build(name, "compact-random") for name in NAMES}
    table = tradeoff.passes(trained[1], networks, cohort, rounds=1)
    assert table.index.tolist() == [0, 1] and table.loc[0, "relative"] == 1
    assert table.loc[1, "gflop_per_record"] < table.loc[0, "gflop_per_record"]


def test_the_expected_time_is_that_of_the_load():
    load = pd.DataFrame(
        {"seed": [0, 0, 1, 1], "k": [0, 1, 0, 1], "dear": [1, 0.25, 1, 0.5], "cheap": [1, 0.75, 1, 0.5]}
    )
    found = tradeoff.expected(load, np.array([8.0, 1.0]), own=1.0)
    assert found.to_dict() == pytest.approx({0: 1, 1: ((1 + 2 + 0.75) + (1 + 4 + 0.5)) / 2 / 10})


def test_the_curve_is_whole(cohort, monkeypatch):
    monkeypatch.setattr(backbones, "NAMES", NAMES)
    monkeypatch.setattr(features.make_inputs, "__defaults__", (NAMES, "compact-random", 0))
    monkeypatch.setattr(tradeoff, "train", partial(tradeoff.train, ks=(1,)))
    found = tradeoff.curve(cohort, "compact-random", seeds=1, rounds=1, config=CONFIG)
    assert list(found) == ["scores", "load", "passes"] and found["passes"]["k"].tolist() == [0, 1]
