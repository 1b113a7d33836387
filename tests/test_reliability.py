import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from test_evaluation import make_cohort, noisy

from ecgmoe import evaluation, reliability
from ecgmoe.tasks import RHYTHMS, TASKS


@pytest.fixture(scope="module")
def cohort():
    return make_cohort()[0]


def labelled(cohort, name):
    """Labels of the test records that have one, and the mask of these records."""
    known = (cohort.split == "test") & np.isfinite(cohort.targets()[name])
    return cohort.targets()[name][known], known


# --- calibration


def test_the_error_is_the_one_worked_out_by_hand():
    # Two bins of two records: claimed 0.15 and 0.7, true 0.5 and 0.5, so 0.35 and 0.2 off.
    claims = reliability.Claims.of(TASKS["sex"], np.array([0.0, 1, 1, 0]), np.array([0.1, 0.2, 0.6, 0.8]), 2)
    assert claims.bin_N.tolist() == [0, 0, 1, 1]
    assert claims.error(np.ones((1, 4))) == pytest.approx([(0.35 + 0.2) / 2])
    # The last record left out, the third twice: bins weigh the same, and the upper one is 0.4 off.
    assert claims.error(np.array([[1.0, 1, 2, 0]])) == pytest.approx([(0.35 + 0.4) / 2])
    assert claims.squared_N == pytest.approx([0.01, 0.64, 0.16, 0.64])


def test_calibration_equals_scikit_learn(cohort):
    predictions = noisy(cohort)
    found = reliability.calibration({"m": predictions}, cohort, n_boot=50).set_index(["task", "metric"])
    curves = reliability.reliability_curve(predictions, cohort, n_boot=50)
    assert set(found.index.get_level_values("task")) == set(curves["task"]) == {"sex", "potassium", "rhythm"}
    for name in ("sex", "potassium", "rhythm"):
        y, known = labelled(cohort, name)
        p = predictions[name][known]
        labels = range(len(RHYTHMS)) if name == "rhythm" else None
        assert found.loc[(name, "brier"), "value"] == pytest.approx(brier_score_loss(y, p, labels=labels), rel=1e-6)
        if name == "rhythm":
            y, p = p.argmax(1) == y, p.max(1)
        observed, claimed = calibration_curve(y, p, n_bins=10, strategy="quantile")
        curve = curves[curves["task"] == name]
        assert curve["observed"].to_numpy() == pytest.approx(observed)
        assert curve["claimed"].to_numpy() == pytest.approx(claimed)
        assert curve["n"].sum() == known.sum() == found.loc[(name, "ece"), "n"]
        ece = (curve["n"] * np.abs(observed - claimed)).sum() / known.sum()
        assert found.loc[(name, "ece"), "value"] == pytest.approx(ece)
        assert ((curve["low"] <= curve["observed"]) & (curve["observed"] <= curve["high"])).all()


def drawn(claimed, seed=1, records=1):
    """A cohort whose sexes are drawn with the probabilities ``claimed``, each patient so many times over."""
    cohort = make_cohort(len(claimed) * records)[0]
    sex = np.random.default_rng(seed).random(len(claimed)) < claimed
    cohort.table["sex"] = np.repeat(sex, records).astype(float)
    cohort.table["fold"] = 9
    cohort.table["patient_id"] = np.repeat(np.arange(len(claimed)), records)
    return cohort


def test_what_is_calibrated_is_told_from_what_is_not():
    claimed = np.random.default_rng(1).beta(1, 1, 600)
    cohort = drawn(claimed)
    bold = 1 / (1 + ((1 - claimed) / claimed) ** 3)
    found = reliability.calibration({"honest": {"sex": claimed}, "bold": {"sex": bold}}, cohort)
    found = found[found["metric"] == "ece"].set_index("model")
    assert found.loc["honest", "p"] > 0.05 and found.loc["bold", "p"] < 0.005
    assert found.loc["honest", "if_calibrated"] == pytest.approx(found.loc["honest", "value"], abs=0.02)
    truly = np.abs(bold - claimed).mean()
    assert found.loc["bold", "low"] < truly < found.loc["bold", "high"]
    assert found.loc["honest", "low"] < 0.01


def test_intervals_of_calibration_are_over_patients():
    claimed = np.random.default_rng(1).beta(1, 1, 200)
    one = reliability.calibration({"m": {"sex": claimed}}, drawn(claimed))
    five = reliability.calibration({"m": {"sex": np.repeat(claimed, 5)}}, drawn(claimed, records=5))
    for column in ("value", "low", "high", "if_calibrated", "p"):
        assert five[column].to_numpy() == pytest.approx(one[column].to_numpy(), nan_ok=True)


def test_calibrated_probabilities_of_patients_with_many_records_pass():
    """The right probability, told anew with each record, must not look worse for it: p below 0.05 in 5 % of cohorts."""
    p = []
    for seed in range(40):
        claimed = np.random.default_rng(seed).beta(2, 2, 80)
        told = {"m": {"sex": np.repeat(claimed, 6)}}
        found = reliability.calibration(told, drawn(claimed, seed + 100, records=6), n_boot=100)
        p.append(found.loc[found["metric"] == "ece", "p"].item())
    assert np.mean(np.array(p) < 0.05) <= 0.15 and np.median(p) > 0.2


def test_a_constant_probability_is_off_by_its_distance_from_the_share(cohort):
    y, known = labelled(cohort, "sex")
    found = reliability.calibration({"m": {"sex": np.full(len(cohort), 0.9)}}, cohort, n_boot=20)
    assert found["value"][0] == pytest.approx(0.9 - y.mean())
    with pytest.raises(ValueError, match="two bins"):
        reliability.calibration({"m": {"sex": np.full(len(cohort), 0.9)}}, cohort, n_bins=1)


def test_a_run_given_twice_is_as_calibrated_as_once(cohort):
    run = noisy(cohort)
    once, twice = (reliability.calibration({"m": given}, cohort, n_boot=50) for given in (run, [run, run]))
    pd.testing.assert_frame_equal(once, twice)


def test_calibration_of_seeds_is_the_mean(cohort):
    a, b = noisy(cohort), noisy(cohort, seed=2)
    each = [reliability.calibration({"m": run}, cohort, n_boot=20)["value"].to_numpy() for run in (a, b)]
    both = reliability.calibration({"m": [a, b]}, cohort, n_boot=20)
    assert both["value"].to_numpy() == pytest.approx(np.mean(each, 0))
    assert len(reliability.reliability_curve([a, b], cohort, n_boot=0)) == 2 * len(
        reliability.reliability_curve(a, cohort, n_boot=0)
    )


# --- subgroups


def test_groups_are_cut_where_they_say():
    cohort = make_cohort(8)[0]
    cohort.table["age"] = [20, 39.9, 40, 59, 60, 75, 90, np.nan]
    cohort.table["sex"] = [0, 1, 0, 1, 0, 1, np.nan, 0]
    (_, sexes), (bands, ages) = reliability.groupings(cohort).values()
    assert ages.tolist() == ["<40", "<40", "40–59", "40–59", "60–74", "≥75", "≥75", "unknown"]
    assert sexes.tolist() == ["male", "female", "male", "female", "male", "female", "unknown", "male"]
    assert bands == reliability.AGE_BANDS


def test_subgroups_equal_the_evaluation_of_the_subset(cohort):
    cohort = make_cohort(1800)[0]
    cohort.table.iloc[::7, cohort.table.columns.get_loc("age")] = np.nan
    predictions = noisy(cohort)
    found = reliability.subgroups({"m": predictions}, cohort, n_boot=100, seed=3)
    keys = found.set_index(["by", "group", "task"])
    assert ("sex", "male", "sex") not in keys.index and ("age", "<40", "sex") in keys.index
    test, age = cohort.split == "test", cohort.table["age"].to_numpy()
    subsets = {
        ("sex", "female"): test & (cohort.table["sex"].to_numpy() == 1),
        ("age", "<40"): test & (age < 40),
        ("age", "60–74"): test & (age >= 60) & (age < 75),
    }
    for (by, group), rows in subsets.items():
        direct = evaluation.evaluate(
            {name: values[rows] for name, values in predictions.items()},
            {name: values[rows] for name, values in cohort.targets().items()},
            cohort.table["patient_id"].to_numpy()[rows],
            n_boot=100,
            seed=3,
        ).set_index(["task", "metric"])
        compared = 0
        for name, task in TASKS.items():
            if (by, group, name) in keys.index and np.isfinite(keys.loc[(by, group, name), "value"]):
                columns = ["value", "low", "high", "n"]
                assert (
                    keys.loc[(by, group, name), columns].tolist() == direct.loc[(name, task.metric), columns].tolist()
                )
                compared += 1
        assert compared >= 3
    unknown = keys.loc[("age", "unknown", "rr")]
    assert np.isnan(unknown["value"])
    assert unknown["n"] == (test & np.isnan(age) & np.isfinite(cohort.targets()["rr"])).sum()
    counted = found[(found["by"] == "age") & (found["task"] == "rr")]["n"].sum()
    assert counted == (test & np.isfinite(cohort.targets()["rr"])).sum()


def test_small_groups_and_groups_of_one_class_have_no_value(cohort):
    cohort = make_cohort(400)[0]
    cohort.table["fold"] = 9
    cohort.table["age"] = np.where(np.arange(400) < 9, 30, np.where(np.arange(400) < 200, 50, 70)).astype(float)
    cohort.table.iloc[:200, cohort.table.columns.get_loc("potassium_abnormal")] = 0.0
    found = reliability.subgroups({"m": noisy(cohort)}, cohort, n_boot=10).set_index(["by", "group", "task"])["value"]
    assert np.isnan(found["age", "<40", "age"]) and np.isfinite(found["age", "40–59", "age"])
    assert np.isnan(found["age", "40–59", "potassium"]) and np.isfinite(found["age", "60–74", "potassium"])
    gaps = reliability.gaps({"m": noisy(cohort)}, cohort, n_boot=10)
    assert set(gaps[(gaps["by"] == "age") & (gaps["task"] == "age")][["best", "worst"]].iloc[0]) == {"40–59", "60–74"}
    assert gaps[(gaps["by"] == "age") & (gaps["task"] == "potassium")].empty


def test_a_planted_gap_is_found_and_chance_is_not():
    cohort = make_cohort(1500)[0]
    predictions = noisy(cohort)
    women = cohort.table["sex"].to_numpy() == 1
    planted = predictions | {"rr": predictions["rr"] + np.where(women, 40, 0)}
    found = reliability.gaps({"fair": predictions, "unfair": planted}, cohort, n_boot=400)
    found = found.set_index(["model", "by", "task"]).sort_index()
    row = found.loc[("unfair", "sex", "rr")]
    assert (row["best"], row["worst"]) == ("male", "female") and row["p_holm"] < 0.05
    assert 0 < row["low"] < row["gap"] < row["high"] and row["by_chance"] < row["gap"] / 3
    scores = reliability.subgroups({"m": planted}, cohort, n_boot=0).set_index(["by", "group", "task"])["value"]
    assert row["gap"] == pytest.approx(scores["sex", "female", "rr"] - scores["sex", "male", "rr"])
    assert found.loc["fair", "p_holm"].min() > 0.05
    assert (found["gap"] >= 0).all() and (found["p"] <= found["p_holm"]).all()


def test_shuffling_keeps_patients_together():
    """Each record twice under one patient must not make a gap look less like chance."""
    cohort, wide = make_cohort(400)[0], make_cohort(800)[0]
    cohort.table["fold"], cohort.table["patient_id"] = 9, np.arange(400)
    for column in wide.table.columns:
        wide.table[column] = np.repeat(cohort.table[column].to_numpy(), 2)
    predictions = noisy(cohort)
    repeated = {name: np.repeat(values, 2, axis=0) for name, values in predictions.items()}
    one = reliability.gaps({"m": predictions}, cohort, n_boot=100)
    twice = reliability.gaps({"m": repeated}, wide, n_boot=100)
    both = one.merge(twice, on=["by", "task"])
    assert len(both) >= 7
    assert both["p_x"].to_numpy() == pytest.approx(both["p_y"].to_numpy())


# --- several seeds


def test_one_seed_equals_evaluate(cohort):
    predictions = noisy(cohort)
    direct = evaluation.evaluate_cohort(predictions, cohort, n_boot=100)
    for run in (predictions, [predictions]):
        table = reliability.seed_table({"m": run}, cohort, headline=False, n_boot=100)
        pd.testing.assert_frame_equal(table[list(direct.columns)], direct)
        assert table["sd"].isna().all() and (table["seeds"] == 1).all()
    assert len(reliability.seed_table({"m": predictions}, cohort, n_boot=0)) == len(TASKS)


def test_seeds_are_averaged_on_the_same_patients(cohort):
    seeds = [noisy(cohort, seed) for seed in (1, 2, 3)]
    table = reliability.seed_table({"m": seeds, "one": seeds[0]}, cohort, n_boot=200).set_index(["model", "task"])
    each = np.stack([evaluation.score_table({"m": one}, cohort, n_boot=0)["value"] for one in seeds])
    assert table.loc["m", "value"].to_numpy() == pytest.approx(each.mean(0))
    assert table.loc["m", "sd"].to_numpy() == pytest.approx(each.std(0, ddof=1))
    assert table.loc["m", "seeds"].eq(3).all() and table.loc["one", "seeds"].eq(1).all()
    # A seed twice over says no more than once.
    twice = evaluation.evaluate_cohort([seeds[0], seeds[0]], cohort, n_boot=200)
    pd.testing.assert_frame_equal(twice, evaluation.evaluate_cohort(seeds[0], cohort, n_boot=200))
    # Independent errors of the seeds average out, so the mean is known better than one of them.
    width = table["high"] - table["low"]
    assert width["m", "age"] < width["one", "age"]


def test_comparisons_of_the_book_take_seeds(cohort):
    a, b = [noisy(cohort, seed) for seed in (1, 2)], noisy(cohort, 3)
    worse = b | {"rr": b["rr"] + 60}
    best = evaluation.against_best({"a": a, "b": b, "worse": worse}, "a", cohort, n_boot=200)
    assert list(best["task"]) == list(TASKS)
    pair = evaluation.compare({"a": a, "worse": worse}, "a", cohort, n_boot=1000).set_index("task")
    assert pair.loc["rr", "better"] == "model"
    assert evaluation.best_on_validation({"a": a, "worse": worse}, cohort)["rr"] == "a"
