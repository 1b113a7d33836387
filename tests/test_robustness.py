import numpy as np
import pytest
from synthetic import toy_cohort

from ecgmoe import baselines, evaluation, features, records, robustness, training

#: Floors that read the signal.
READ = {evaluation.PEAKS, evaluation.INTERVALS, evaluation.CHARACTERISTICS}
WEAK_STRONG = {"noise": (0.05, 0.2), "wander": (0.3, 1.0), "leads": (2, 6), "rate": (50, 25)}


@pytest.fixture(scope="module")
def cohort():
    return toy_cohort()


@pytest.mark.parametrize("kind", robustness.KINDS)
def test_strength_nought_leaves_every_bit(cohort, kind):
    ids = cohort.table.index
    same = robustness.disturb(cohort.signal, cohort.fs, ids, kind, robustness.clean(kind, cohort.fs))
    assert np.array_equal(same, cohort.signal) and same is not cohort.signal


@pytest.mark.parametrize("kind", robustness.KINDS)
def test_a_disturbance_depends_on_seed_and_record_alone(cohort, kind):
    signal, ids, fs = cohort.signal[:6], np.arange(1, 7), cohort.fs
    before = signal.copy()
    all_six = robustness.disturb(signal, fs, ids, kind, WEAK_STRONG[kind][0], seed=1)
    assert np.array_equal(signal, before), "the cohort's own recordings stay as they are"
    assert all_six.dtype == np.float32 and not np.array_equal(all_six, signal)
    for part in ([4, 2], [0]):
        assert np.array_equal(
            robustness.disturb(signal[part], fs, ids[part], kind, WEAK_STRONG[kind][0], 1), all_six[part]
        )
    if kind != "rate":
        other_seed = robustness.disturb(signal, fs, ids, kind, WEAK_STRONG[kind][0], seed=2)
        other_record = robustness.disturb(signal, fs, ids + 10, kind, WEAK_STRONG[kind][0], seed=1)
        assert not np.array_equal(other_seed, all_six) and not np.array_equal(other_record, all_six)


def added(cohort, kind, strength, fs=None):
    signal = cohort.signal[:20].astype(np.float32)
    return robustness.disturb(signal, fs or cohort.fs, np.arange(20), kind, strength, seed=3).astype(float) - signal


def test_noise_is_as_strong_as_asked_and_lies_where_it_should(cohort):
    noise = added(cohort, "noise", 0.1)
    # A limb lead is the difference of two electrodes, a chest lead one of them against the mean of three.
    assert noise[:, 0].std() == pytest.approx(0.1 * np.sqrt(2), rel=0.02)
    assert noise[:, 6:].std() == pytest.approx(0.1 * np.sqrt(1 + 1 / 3), rel=0.02)
    assert noise[:, 3].std() == pytest.approx(0.1 * np.sqrt(1.5), rel=0.02)
    spectrum = np.abs(np.fft.rfft(noise, axis=2)) ** 2
    hz = np.fft.rfftfreq(noise.shape[2], 1 / cohort.fs)
    assert spectrum[..., hz < 12].sum() < 1e-9 * spectrum.sum()
    assert added(cohort, "noise", 0.2) == pytest.approx(2 * noise, abs=1e-6), "the same draw, twice as strong"


@pytest.mark.parametrize("kind", ["noise", "wander"])
def test_leads_still_follow_from_each_other(cohort, kind):
    lead = dict(zip(records.LEADS, added(cohort, kind, 0.5).swapaxes(0, 1), strict=True))
    assert lead["I"] + lead["III"] == pytest.approx(lead["II"], abs=1e-6)
    assert lead["aVR"] == pytest.approx(-(lead["I"] + lead["II"]) / 2, abs=1e-6)
    assert lead["aVL"] == pytest.approx(lead["I"] - lead["II"] / 2, abs=1e-6)
    assert lead["aVF"] == pytest.approx(lead["II"] - lead["I"] / 2, abs=1e-6)


def test_wander_is_one_slow_sine_a_record(cohort):
    wander = added(cohort, "wander", 0.5)
    peak = np.abs(np.fft.rfft(wander * np.hanning(wander.shape[2]), axis=2)).argmax(2) * cohort.fs / wander.shape[2]
    assert ((peak >= 0.1) & (peak <= 0.3)).all()
    # V1 is the potential of one electrode less the mean of three.
    assert 0.15 < np.abs(wander[:, 6]).max(1).mean() < 1.0
    assert np.abs(wander[:, 0]).max() <= 2 * 0.5 + 1e-6


def test_so_many_leads_are_missing_and_more_include_the_fewer(cohort):
    gone = []
    for n in (2, 6, 12):
        lost = (robustness.disturb(cohort.signal, cohort.fs, cohort.table.index, "leads", n) == 0).all(2)
        assert (lost.sum(1) == n).all()
        gone.append(lost)
    assert (gone[1] | ~gone[0]).all()
    assert len({tuple(row) for row in gone[0]}) > 20, "every record loses leads of its own"


def test_a_lower_rate_takes_what_lies_above_it(cohort):
    t = np.arange(1000) / 100
    tone = [np.tile(np.sin(2 * np.pi * hz * t), (1, 12, 1)).astype(np.float32) for hz in (5, 20)]
    low, high = (robustness.disturb(x, 100, [1], "rate", 25)[..., 100:-100] for x in tone)
    assert low == pytest.approx(tone[0][..., 100:-100], abs=0.03)
    assert np.abs(high).max() < 0.05
    assert robustness.disturb(cohort.signal[:1, :, :999], 100, [1], "rate", 30).shape[2] == 999


def test_what_cannot_be_is_refused(cohort):
    for kind, strength, message in (
        ("hum", 1, "unknown disturbance 'hum'; known are noise, wander, leads, rate"),
        ("noise", -0.1, "muscle noise cannot have the strength"),
        ("leads", 13, "cannot have the strength 13"),
        ("leads", 1.5, "cannot have the strength 1.5"),
        ("rate", 200, "cannot have the strength 200"),
    ):
        with pytest.raises(ValueError, match=message):
            robustness.disturb(cohort.signal[:1], 100, [1], kind, strength)
    with pytest.raises(ValueError, match="signal must be"):
        robustness.disturb(cohort.signal[:2], 100, [1], "noise", 0.1)


@pytest.fixture(scope="module")
def trained(cohort):
    inputs = features.make_inputs(cohort, ("dlinear",), "compact-random")
    return inputs, training.train(cohort, inputs, config=training.FitConfig(epochs=2)).model


@pytest.fixture(scope="module")
def found(cohort, trained):
    disturbances = {"noise": (0.3,), "leads": (12,)}
    return robustness.curves(
        {"ours": trained[1]}, cohort, disturbances, "compact-random", names=("dlinear",), n_boot=50
    )


def test_curves_begin_with_the_results_of_the_chapters(cohort, trained, found):
    inputs, model = trained
    clean = found[found["strength"] == 0].drop_duplicates(["model", "task"]).set_index(["model", "task"])
    runs = {"ours": training.predict(model, inputs)} | baselines.floors(cohort)
    direct = evaluation.score_table(runs, cohort, n_boot=50).set_index(["model", "task"])
    assert set(clean.index.get_level_values("model")) == {"ours", *READ}
    for key, row in clean.iterrows():
        assert row["value"] == pytest.approx(direct.loc[key, "value"], rel=1e-4), key
        assert row["low"] == pytest.approx(direct.loc[key, "low"], rel=1e-4)
        assert row["n"] == direct.loc[key, "n"]
        assert (row["change"], row["change_low"], row["change_high"]) == (0, 0, 0)


def test_disturbances_tell(cohort, found):
    rows = found.set_index(["model", "kind", "strength", "task"]).sort_index()
    assert len(rows) == len(found) == 2 * 2 * (1 + 3 * len(cohort.tasks))
    blind = rows.loc[("ours", "leads", 12.0)]
    # Without any lead there is nothing left to see: every record gets the same answer.
    assert blind.loc["sex", "value"] < 0.5 and blind.loc["rr", "change"] > 0
    peaks = rows.loc[(evaluation.PEAKS, "leads")]["value"].groupby("strength").first()
    assert peaks[0.0] < 10 < peaks[12.0]
    change = found["value"] - found.groupby(["model", "kind", "task"])["value"].transform("first")
    assert found["change"].to_numpy() == pytest.approx(change.to_numpy(), abs=1e-6)


def test_curves_are_the_same_again_and_from_fewer_records(cohort, trained, found):
    again = robustness.curves(
        {"ours": trained[1]}, cohort, {"leads": (12,), "noise": (0.3,)}, "compact-random", names=("dlinear",), n_boot=50
    )
    merged = found.merge(again, on=["model", "kind", "strength", "task"])
    assert len(merged) == len(found)
    assert merged["value_x"].equals(merged["value_y"])
    few = robustness.curves({}, cohort, {"noise": (0.3,)}, "compact-random", max_records=12, names=(), n_boot=5)
    assert set(few["n"]) <= {11, 12} and set(few["model"]) == READ


def test_no_test_part_is_said(cohort):
    cohort = toy_cohort(8)
    cohort.table["fold"] = 7
    with pytest.raises(ValueError, match="no test records"):
        robustness.curves({}, cohort, {}, names=())
