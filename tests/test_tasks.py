"""The five tasks, and the two labels that need a definition."""

import ast
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ecgmoe import tasks
from ecgmoe.datasets import _effects

NAN = float("nan")


def test_the_paper_has_five_tasks_and_fifteen_rhythms() -> None:
    assert list(tasks.TASKS) == ["rr", "age", "sex", "potassium", "rhythm"]
    assert len(set(tasks.RHYTHMS)) == 15
    assert [task.n_outputs for task in tasks.TASKS.values()] == [1, 1, 1, 1, 15]


def test_every_code_leads_to_a_class() -> None:
    assert {rhythm for _, rhythm in tasks.SCP_TO_RHYTHM} <= set(tasks.RHYTHMS)
    assert tasks.SCP_RHYTHM_CODES <= {code for code, _ in tasks.SCP_TO_RHYTHM}


@pytest.mark.parametrize(
    ("codes", "rate", "rhythm"),
    [
        ({"SR", "NORM"}, NAN, "sinus rhythm"),
        ({"SR", "PVC"}, NAN, "sinus rhythm with pvc(s)"),
        ({"SR", "PVC", "PAC"}, NAN, "sinus rhythm with pvc(s)"),
        ({"PACE", "AFIB"}, NAN, "ventricular pacing"),
        ({"AFIB", "PVC"}, 80.0, "atrial fibrillation"),
        ({"AFIB"}, 100.0, "atrial fibrillation"),
        ({"AFIB"}, 100.1, "atrial fibrillation with rapid ventricular response"),
        ({"AFIB"}, NAN, None),
        ({"SBRAD", "1AVB", "LPR"}, NAN, "sinus rhythm with 1st degree a-v block"),
        ({"AFLT"}, NAN, "other"),
        ({"PVC", "NORM"}, NAN, None),
        (set(), NAN, None),
    ],
)
def test_first_match_decides_the_rhythm(codes: set[str], rate: float, rhythm: str | None) -> None:
    assert tasks.rhythm_from_scp(codes, rate) == rhythm


@pytest.mark.parametrize(
    ("lines", "rhythm"),
    [
        *(([name], name) for name in tasks.RHYTHMS[:-1]),
        *(([f"*** {name.upper()} ***", "Abnormal ECG"], name) for name in tasks.RHYTHMS[:-1]),
        *(([f"--- {name.capitalize()}. ---"], name) for name in tasks.RHYTHMS[:-1]),
        (["Normal sinus rhythm"], "sinus rhythm"),
        (["Sinus  rhythm.", "with 1st degree AV block"], "sinus rhythm with 1st degree a-v block"),
        (["Sinus rhythm", "- first degree A-V block"], "sinus rhythm with 1st degree a-v block"),
        (["Sinus rhythm", "Prolonged PR interval"], "sinus rhythm"),
        (["Sinus rhythm with frequent PVCs"], "sinus rhythm with pvc(s)"),
        (["Sinus tachycardia", "with premature ventricular complexes"], "sinus rhythm with pvc(s)"),
        (["Sinus rhythm with PAC(s) and PVC(s)"], "sinus rhythm with pvc(s)"),
        (["Sinus rhythm with bigeminal PVCs"], "other"),
        (["Sinus rhythm with 2nd degree A-V block"], "other"),
        (["Sinus rhythm", "with complete heart block"], "other"),
        (["Marked sinus bradycardia"], "sinus bradycardia"),
        (["Atrial fibrillation with slow ventricular response"], "atrial fibrillation"),
        (["Atrial fibrillation", "with rapid V-rate"], "atrial fibrillation with rapid ventricular response"),
        (["Atrial fibrillation with PVC(s)"], "atrial fibrillation"),
        (["Atrial fibrillation with a competing junctional pacemaker"], "atrial fibrillation"),
        (["Probable atrial fibrillation"], "other"),
        (["Atrial flutter/fibrillation"], "other"),
        (["Afib/flutter and ventricular-paced rhythm"], "ventricular pacing"),
        (["Demand pacing", "Pacemaker rhythm - no further analysis"], "ventricular pacing"),
        (["A-V dual-paced rhythm"], "ventricular pacing"),
        (["Atrial pacing"], "other"),
        (["Wandering atrial pacemaker"], "other"),
        (["Possible ectopic atrial bradycardia"], "other"),
        (["Sinus or ectopic atrial rhythm"], "other"),
        (["Supraventricular tachycardia"], "other"),
        (["Junctional rhythm"], "other"),
        (["Age not entered, assumed to be 50 years old", "Sinus bradycardia"], "sinus bradycardia"),
        (["PACER DETECTION SUSPENDED DUE TO EXTERNAL NOISE", "Sinus rhythm"], "sinus rhythm"),
        (["*** Consider acute ST elevation MI ***", "Sinus tachycardia"], "consider acute st elevation mi"),
        (["Sinus rhythm", "*** Consider acute ST elevation MI ***"], "sinus rhythm"),
        (["Normal ECG"], None),
        (["Prolonged PR interval", "ST junctional depression is nonspecific"], None),
        (["If rhythm is confirmed, the following report may not be valid"], None),
        (["Atrial fibrillation has replaced sinus rhythm"], None),
        (["", "  "], None),
        ([], None),
    ],
)
def test_the_first_statement_of_a_report_decides(lines: list[str], rhythm: str | None) -> None:
    assert tasks.rhythm_from_report(lines) == rhythm
    assert tasks.rhythm_from_report([line.upper() + " " for line in lines]) == rhythm
    assert tasks.rhythm_from_report(["Normal ECG", *lines, "Abnormal ECG"]) == rhythm


def test_both_data_sets_share_one_order_of_statements() -> None:
    codes = {code for code, _ in tasks.SCP_TO_RHYTHM}
    assert {code for code, _ in tasks.REPORT_TO_SCP} <= codes
    for report, statements in (
        ("Sinus bradycardia with 1st degree A-V block", {"SBRAD", "1AVB"}),
        ("Sinus rhythm with PAC(s) and PVC(s)", {"SR", "PAC", "PVC"}),
        ("Ventricular pacing with atrial fibrillation", {"PACE", "AFIB"}),
        ("Atrial flutter with PVC(s)", {"AFLT", "PVC"}),
    ):
        assert tasks.rhythm_from_report([report]) == tasks.rhythm_from_scp(statements, rate_bpm=70.0)


def test_potassium_is_abnormal_outside_of_its_range() -> None:
    found = tasks.potassium_abnormal(np.array([3.4, 3.5, 5.0, 5.1, NAN]))
    np.testing.assert_array_equal(found, [1, 0, 0, 1, NAN])
    assert tasks.POTASSIUM_NORMAL == _effects.POTASSIUM_NORMAL


def test_mean_rr_interval_spans_first_to_last_beat() -> None:
    assert tasks.mean_rr_interval(np.array([10.0, 110.0, 190.0]), 100.0) == pytest.approx(900.0)
    assert np.isnan(tasks.mean_rr_interval(np.array([10.0]), 100.0))
    assert np.isnan(tasks.mean_rr_interval(np.empty(0), 100.0))


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "rr_interval": [800.0, np.nan],
            "age": [60.0, 90.0],
            "sex": [0.0, 1.0],
            "potassium_abnormal": [np.nan, np.nan],
            "rhythm": ["other", None],
        }
    )


def test_targets_leave_out_censored_ages_and_missing_labels(table: pd.DataFrame) -> None:
    found = {name: task.targets(table).tolist() for name, task in tasks.TASKS.items()}
    expected = {"rr": [800, NAN], "age": [60, NAN], "sex": [0, 1], "potassium": [NAN, NAN], "rhythm": [14, NAN]}
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    assert tasks.TASKS["rhythm"].targets(table).dtype == np.float32


def test_a_task_without_labels_is_not_available(table: pd.DataFrame) -> None:
    assert list(tasks.available(table)) == ["rr", "age", "sex", "rhythm"]


@pytest.fixture(scope="module")
def published(shared: Callable[[str], Path]) -> pd.DataFrame:
    return pd.read_csv(shared("data/ptbxl/ptbxl_database.csv"))


def test_rhythms_of_ptbxl_fold_9(published: pd.DataFrame) -> None:
    codes = published.loc[published["strat_fold"] == 9, "scp_codes"].map(ast.literal_eval)
    rhythm = codes.map(lambda stated: tasks.rhythm_from_scp(stated, rate_bpm=70.0))
    counts = rhythm.value_counts()
    assert (len(rhythm), rhythm.notna().sum(), counts["sinus rhythm"], counts.min()) == (2183, 2100, 1510, 17)


def test_constant_age_error_on_ptbxl(published: pd.DataFrame) -> None:
    age = published["age"].mask(published["age"] > tasks.AGE_CENSORED_ABOVE)
    train, test = age[published["strat_fold"] <= 8].dropna(), age[published["strat_fold"] == 9].dropna()
    assert (test - train.mean()).abs().mean() == pytest.approx(13.95, abs=0.005)
    assert (test - train.median()).abs().mean() == pytest.approx(13.81, abs=0.005)
