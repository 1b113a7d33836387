"""Cohorts of recordings in memory: labels and folds as given, bad input refused by name, the library's page runs."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic import toy_cohort

from ecgmoe import datasets, tasks
from ecgmoe.datasets import DatasetError, arrays

PAGE = Path(__file__).parents[1] / "book" / "api" / "index.md"


@pytest.fixture(scope="module")
def toy():
    return toy_cohort(60)


@pytest.fixture
def labels(toy):
    columns = ["patient_id", "age", "sex", "rhythm"]
    return (
        toy.table[columns].set_index(pd.Index([f"record {i}" for i in range(60)])).assign(patient_id=lambda t: t.index)
    )


def test_labels_and_signals_are_those_given_and_what_is_not_given_is_no_task(toy, labels):
    given = labels.assign(fold=toy.table["fold"].to_numpy())
    found = arrays.cohort(toy.signal, toy.fs, given, name="mine")
    np.testing.assert_array_equal(found.signal, toy.signal)
    assert list(found.tasks) == ["age", "sex", "rhythm"] and found.fs == toy.fs and found.card.name == "mine"
    for name, values in found.targets().items():
        np.testing.assert_array_equal(values, toy.targets()[name])
    np.testing.assert_array_equal(found.split, toy.split)
    assert found.table["path"].tolist() == labels.index.tolist() and found.skipped.empty
    assert {task.column for task in tasks.TASKS.values()} <= set(found.table)


def test_arrays_of_any_kind_are_taken(toy, labels):
    whole = np.rint(toy.signal)  # mV
    labels.loc["record 7", "age"] = 0
    expected = arrays.cohort(whole, toy.fs, labels)
    assert expected.targets()["age"][expected.table["path"] == "record 7"] == 0
    for signal in (whole.astype(np.int16), whole.tolist(), torch.from_numpy(whole), whole.astype(object)):
        np.testing.assert_array_equal(arrays.cohort(signal, np.int64(toy.fs), labels).signal, expected.signal)


def test_folds_follow_from_the_patient_alone(toy, labels):
    numbers = labels.assign(patient_id=range(60))
    whole, real = (arrays.cohort(toy.signal, toy.fs, numbers.astype({"patient_id": kind})) for kind in (int, float))
    assert whole.table["fold"].tolist() == real.table["fold"].tolist(), "whole numbers, however they are stored"
    two_each = labels.assign(patient_id=[f"p{i // 2}" for i in range(60)])
    found = arrays.cohort(toy.signal, toy.fs, two_each)
    assert found.table.groupby("patient_id")["fold"].nunique().eq(1).all()
    backwards = arrays.cohort(toy.signal[::-1], toy.fs, two_each[::-1])
    assert backwards.table["fold"].tolist() == found.table["fold"].tolist()[::-1]
    assert set(found.split) == {"train", "validation", "test"}


def test_records_that_cannot_be_used_are_left_out_and_listed(toy, labels):
    signal = toy.signal.copy()
    signal[3, 2, 100] = np.nan
    signal[5, 0, 7] = np.inf
    signal[8, 11] = 0.25
    signal[9, 1] *= 1000  # in µV
    found = arrays.cohort(signal, toy.fs, labels.assign(fold=toy.table["fold"].to_numpy()))
    assert found.skipped.to_dict("records") == [
        {"record": "record 3", "reason": "samples are not finite"},
        {"record": "record 5", "reason": "samples are not finite"},
        {"record": "record 8", "reason": "a lead is constant"},
        {"record": "record 9", "reason": "more than 20 mV: is the unit right?"},
    ]
    rest = np.delete(np.arange(60), [3, 5, 8, 9])
    np.testing.assert_array_equal(found.signal, toy.signal[rest])
    assert len(found) == 56 and found.counts == {"listed": 60} and np.isfinite(found.signal).all()


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("sex", 2, "record 4: sex is 2; it must be 0 for male"),
        ("sex", "F", "record 4: sex is 'F'; it must be 0 for male"),
        ("age", -1.0, "record 4: age is -1.0; it must be years from 0 to 130"),
        ("age", np.inf, "record 4: age is inf; it must be years from 0 to 130"),
        ("age", 300, "record 4: age is 300; it must be years from 0 to 130"),
        ("age", "old", "record 4: age is 'old'; it must be years from 0 to 130"),
        ("rr_interval", 0.8, "record 4: rr_interval is 0.8; it must be milliseconds from 200 to 5000"),
        ("rhythm", "SR", "record 4: rhythm is 'SR'; it must be one of ecgmoe.tasks.RHYTHMS"),
        ("potassium_abnormal", 4.1, "record 4: potassium_abnormal is 4.1; it must be 0 for normal"),
        ("fold", 10, "record 4: fold is 10; it must be a whole number from 1 to 9"),
        ("patient_id", None, "labels need the column patient_id, a value a record"),
    ],
)
def test_a_value_that_cannot_be_names_its_record(toy, labels, column, value, says):
    start = {"fold": 7}.get(column, np.nan)
    changed = labels if column in labels else labels.assign(**{column: start})
    changed = changed.astype({column: object})
    changed.iloc[4, changed.columns.get_loc(column)] = value
    with pytest.raises(DatasetError, match=re.escape(says)):
        arrays.cohort(toy.signal, toy.fs, changed)


def test_what_does_not_fit_together_is_refused(toy, labels):
    with pytest.raises(DatasetError, match=r"shape \(59, 12, 1000\) and labels 60 rows; pass \(records, 12, samples\)"):
        arrays.cohort(toy.signal[1:], toy.fs, labels)
    with pytest.raises(DatasetError, match=r"shape \(60, 8, 1000\)"):
        arrays.cohort(toy.signal[:, :8], toy.fs, labels)
    for fs in (0, -100, 500, 100.0, np.nan, "100"):
        with pytest.raises(
            DatasetError, match=r"1,000 samples at fs = .*; pass recordings of 10 s, and a whole number"
        ):
            arrays.cohort(toy.signal, fs, labels)
    with pytest.raises(DatasetError, match="labels hold none of rr_interval, age, sex, potassium_abnormal, rhythm"):
        arrays.cohort(toy.signal, toy.fs, labels[["patient_id"]])
    with pytest.raises(DatasetError, match="need the column patient_id"):
        arrays.cohort(toy.signal, toy.fs, labels.drop(columns="patient_id"))
    torn = labels.assign(fold=toy.table["fold"].to_numpy(), patient_id=[0, 0, *range(1, 59)])
    with pytest.raises(DatasetError, match="record 0: patient_id is 0; it must be in one fold alone"):
        arrays.cohort(toy.signal, toy.fs, torn)
    with pytest.raises(DatasetError, match="no record is in the validation part; give more patients, or the column"):
        arrays.cohort(toy.signal, toy.fs, labels.assign(fold=1))
    flat = np.zeros_like(toy.signal)
    with pytest.raises(DatasetError, match=r"left out: 60, such as record 0 \(a lead is constant\)"):
        arrays.cohort(flat, toy.fs, labels)


def test_the_page_of_the_library_runs_as_it_stands(toy, labels, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load", lambda _: toy)  # the whole simulated cohort takes minutes
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 3
    space = {"signal": toy.signal, "fs": toy.fs, "labels": labels}
    for block in blocks:
        exec(compile(block, "page", "exec"), space)
    assert "ECG-MoE" in capsys.readouterr().out
    table, logits, intervals = space["table"], space["logits"], space["intervals"]
    assert len(table) == len(intervals) == 60 and np.isfinite(table["age_years"]).all()
    assert {name: tuple(value.shape) for name, value in logits.items()} == {"age": (60, 1), "sex": (60, 1)}
    assert set(space["fitted"].history["validation"]) and len(space["r_peaks"]) == 60
