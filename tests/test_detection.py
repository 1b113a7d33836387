"""Detectors against annotated beats: the matching is the best there is, and figures move as they must."""

from collections.abc import Callable
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching
from synthetic import ecg

from ecgmoe import detection
from ecgmoe.datasets import Card, annotated
from ecgmoe.datasets.annotated import BeatSet
from ecgmoe.plots import detectors as figures

FS = 500


def beat_set(n: int = 6, leads: int = 1) -> BeatSet:
    """Windows of clean ECGs; the last one is to be reported apart."""
    pairs = [ecg([0.7 + 0.03 * i, 0.9] * 6, FS, leads=leads) for i in range(n)]
    return BeatSet(
        "toy",
        "Toy",
        Card("toy", "made up", "none", "", ()),
        np.concatenate([signal for signal, _ in pairs]).astype(np.float32),
        FS,
        [np.rint(at) for _, at in pairs],
        [np.full(len(at), "N") for _, at in pairs],
        np.tile([100.0, 4900.0], (n, 1)),
        np.array([f"{i:02d}" for i in range(n)]),
        np.arange(n),
        np.arange(n) == n - 1,
    )


def says(found: list[np.ndarray]) -> detection.Detector:
    return lambda signal, fs: found


positions = st.lists(st.integers(0, 60), max_size=5).map(lambda values: np.array(sorted(values), float))


def best_by_trying_all(
    truth: np.ndarray, found: np.ndarray, tolerance: float, scored: tuple[float, float]
) -> tuple[int, int, float]:
    """Errors, pairs (negative) and distance of the best matching."""

    def judged(values: np.ndarray) -> int:
        return int(((values >= scored[0]) & (values <= scored[1])).sum())

    outcomes = []
    for size in range(min(len(truth), len(found)) + 1):
        for chosen in combinations(range(len(truth)), size):
            for partner in permutations(range(len(found)), size):
                distance = np.abs(truth[list(chosen)] - found[list(partner)])
                if (distance <= tolerance).all():
                    left = judged(np.delete(truth, chosen)) + judged(np.delete(found, partner))
                    outcomes.append((left, -size, float(distance.sum())))
    return min(outcomes)


@settings(max_examples=150, deadline=None)
@given(positions, positions, st.integers(0, 25), st.integers(0, 30), st.integers(30, 60))
def test_matching_is_the_best_of_all(
    truth: np.ndarray, found: np.ndarray, tolerance: int, first: int, last: int
) -> None:
    scored = (float(first), float(last))
    match = detection.match(truth, found, tolerance, scored)
    assert len(set(match.beat)) == len(match.beat) and len(set(match.detection)) == len(match.detection)
    distance = np.abs(truth[match.beat] - found[match.detection])
    assert (distance <= tolerance).all()
    errors, pairs, total = best_by_trying_all(truth, found, tolerance, scored)
    assert (match.missed + match.false, -len(match.beat)) == (errors, pairs)
    assert distance.sum() == pytest.approx(total)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(0, 5000), max_size=30).map(sorted),
    st.lists(st.floats(0, 5000), max_size=30).map(sorted),
    st.floats(0, 300),
)
def test_without_free_ends_as_many_pairs_as_possible_and_symmetric(
    truth: list[float], found: list[float], tolerance: float
) -> None:
    there, back = detection.match(truth, found, tolerance), detection.match(found, truth, tolerance)
    allowed = np.abs(np.subtract.outer(truth, found)) <= tolerance + 1e-9
    most = (maximum_bipartite_matching(csr_matrix(allowed)) >= 0).sum() if allowed.size else 0
    assert len(there.beat) == most == len(back.beat)
    assert (there.missed, there.false) == (back.false, back.missed) == (len(truth) - most, len(found) - most)


def test_two_detections_of_one_beat_are_a_hit_and_a_false_alarm() -> None:
    match = detection.match(np.array([1000.0]), np.array([990.0, 1003.0]), 25)
    assert (match.beat.tolist(), match.detection.tolist(), match.missed, match.false) == ([0], [1], 0, 1)


def test_free_ends_neither_miss_nor_alarm_but_may_match() -> None:
    scored = (100.0, 900.0)
    assert detection.match(np.array([50.0]), np.empty(0), 20, scored)[2:] == (0, 0)
    assert detection.match(np.empty(0), np.array([950.0]), 20, scored)[2:] == (0, 0)
    absorbed = detection.match(np.array([95.0]), np.array([105.0]), 20, scored)
    assert len(absorbed.beat) == 1 and absorbed[2:] == (0, 0)
    assert detection.match(np.array([105.0]), np.array([95.0]), 20, scored)[2:] == (0, 0)
    assert detection.match(np.array([150.0]), np.array([950.0]), 20, scored)[2:] == (1, 0)


def test_a_constant_delay_costs_only_the_tolerances_below_it() -> None:
    beats = beat_set()
    late = [truth + 0.030 * FS for truth in beats.truth]
    evaluation = detection.evaluate(beats, {"exact": says(beats.truth), "late": says(late)}, (20, 50, 150))
    f1 = detection.accuracy(evaluation).query("part == 'all'").set_index(["detector", "tolerance_ms"])["f1"]
    assert f1["exact"].tolist() == [1, 1, 1]
    assert f1["late"][[50, 150]].tolist() == [1, 1]
    assert f1["late"][20] == 0
    times = detection.timing(evaluation).query("part == 'all'").set_index("detector")
    assert times.loc["late", ["offset_ms", "distance_ms", "rr_mae_ms"]].tolist() == pytest.approx([30, 30, 0], abs=1e-9)


def test_scores_are_pooled_over_the_right_recordings() -> None:
    beats = beat_set()
    found = [truth if number % 2 else np.empty(0) for truth, number in zip(beats.truth, beats.number, strict=True)]
    table = detection.accuracy(detection.evaluate(beats, {"half": says(found)}, (50,))).set_index("part")
    assert table.index.tolist() == ["all", "even", "odd", "apart"]
    assert table.loc["odd", ["sensitivity", "precision", "f1"]].tolist() == [1, 1, 1]
    assert table.loc["even", "f1"] == 0 and np.isnan(table.loc["even", "precision"])
    assert table.loc["all", "hits"] + table.loc["apart", "hits"] == sum(map(len, beats.truth[1::2]))
    judged = sum(((truth >= 100) & (truth <= 4900)).sum() for truth in beats.truth[:5:2])
    assert table.loc["all", "missed"] == judged


def test_a_detector_that_raises_or_finds_nothing_is_counted_without_beats() -> None:
    def picky(lead: np.ndarray, fs: float) -> np.ndarray:
        if lead.max() > 0.1:
            raise IndexError("no peak")
        return np.array([np.nan, 700.0, 300.0])

    beats = beat_set(4)
    beats.signal[::2] *= 0.01
    found = detection.by_record(picky)(beats.signal, FS)
    assert [peaks.tolist() for peaks in found] == [[300, 700], [], [300, 700], []]
    times = detection.timing(detection.evaluate(beats, {"picky": says(found)})).set_index("part")
    assert times["no_beats"].to_dict() == {"all": 1, "even": 0, "odd": 1, "apart": 1}
    assert times.loc["odd", "no_rr"] == 1 and np.isnan(times.loc["odd", "rr_mae_ms"])


def test_rr_error_ignores_detections_outside_the_annotation() -> None:
    beats = beat_set(2)
    cut = [truth[2:-2] for truth in beats.truth]
    annotated_less = BeatSet(**{**vars(beats), "truth": cut})
    evaluation = detection.evaluate(annotated_less, {"all beats": says(beats.truth)})
    assert evaluation.windows["rr_error_ms"].tolist() == pytest.approx([0, 0], abs=1e-9)
    alone = BeatSet(**{**vars(beats), "truth": [cut[0][:1], np.empty(0)]})
    windows = detection.evaluate(alone, {"all beats": says(beats.truth)}).windows
    assert windows["rr_error_ms"].isna().all() and not windows["rr_known"].any()


def test_an_empty_window_with_nothing_found_is_perfect() -> None:
    assert detection.f1(np.array([0, 3]), np.array([0, 1]), np.array([0, 1])).tolist() == [1, 0.75]


def test_comparison_counts_wins_and_bounds_the_difference() -> None:
    beats = beat_set(8)
    one_less = [np.delete(truth, 3) for truth in beats.truth]
    evaluation = detection.evaluate(
        beats, {"ecgmoe": says(beats.truth), "twin": says(beats.truth), "worse": says(one_less)}, (50,)
    )
    table = detection.compare(evaluation, tolerances_ms=(50,)).set_index(["other", "measure"])
    assert table.loc[("worse", "f1"), ["recordings", "wins", "ties", "losses"]].tolist() == [7, 7, 0, 0]
    worse = table.loc[("worse", "f1")]
    assert 0 < worse["low"] <= worse["difference"] <= worse["high"] < 0.2 and worse["p"] == pytest.approx(2 / 2**7)
    assert worse["median_difference"] > 0 > table.loc[("worse", "rr_error"), "median_difference"]
    assert table.loc[("worse", "rr_error"), "wins"] == 7
    twin = table.loc[("twin", "f1")]
    assert (twin["ties"], twin["difference"], twin["low"], twin["high"], twin["p"]) == (7, 0, 0, 0, 1)
    turned = detection.compare(evaluation, ours="worse", tolerances_ms=(50,)).set_index(["other", "measure"])
    assert turned.loc[("twin", "f1"), ["wins", "losses"]].tolist() == [0, 7]
    assert turned.loc[("twin", "f1"), "difference"] == pytest.approx(-worse["difference"])


def test_one_recording_gives_no_interval_and_an_unknown_rr_no_row() -> None:
    beats = beat_set(2)
    evaluation = detection.evaluate(beats, {"ecgmoe": says(beats.truth), "blind": says([np.empty(0)] * 2)}, (50,))
    table = detection.compare(evaluation, tolerances_ms=(50,))
    assert table["measure"].tolist() == ["f1"] and table["low"].tolist() == table["high"].tolist() == [1.0]


def test_one_lead_is_lead_ii_of_twelve() -> None:
    signal = np.random.default_rng(0).normal(size=(2, 12, 50))
    np.testing.assert_array_equal(detection.one_lead(signal)[:, 0], signal[:, 1])
    np.testing.assert_array_equal(detection.one_lead(signal[:, 4:6])[:, 0], signal[:, 4])


@pytest.fixture(scope="module")
def evaluation() -> detection.Evaluation:
    return detection.evaluate(beat_set(2, leads=12))


def test_every_detector_finds_the_beats_of_a_clean_recording(evaluation: detection.Evaluation) -> None:
    table = detection.accuracy(evaluation).query("part == 'all' and tolerance_ms == 150")
    assert set(table["detector"]) >= {"ecgmoe", "ecgmoe, one lead", "neurokit2", "sleepecg", "xqrs (wfdb)"}
    f1 = table.set_index("detector")["f1"]
    assert f1.pop("Pan-Tompkins (neurokit2)") > 0.5  # its marks lie far beside the peaks
    assert f1.min() > 0.9


def test_a_missing_package_leaves_its_detectors_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "find_spec", lambda name: None if name == "sleepecg" else True)
    assert "sleepecg" not in detection.detectors() and "neurokit2" in detection.detectors()
    assert list(detection.detectors(1))[:2] == ["ecgmoe", "neurokit2"]


def test_f1_figure_has_a_panel_a_set_and_a_line_a_detector(evaluation: detection.Evaluation) -> None:
    table = detection.accuracy(evaluation)
    figure = figures.f1_against_tolerance(pd.concat([table, table.assign(set="ludb")]))
    assert [ax.get_title() for ax in figure.axes] == ["toy", "LUDB"]
    assert all(len(ax.lines) == table["detector"].nunique() for ax in figure.axes)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:2] == ["ecgmoe", "ecgmoe, one lead"] and len(names) == table["detector"].nunique()
    line = figure.axes[0].lines[0]
    assert line.get_xdata().tolist() == sorted(detection.CURVE_MS)
    figure.draw_without_rendering()
    labels = dict(
        zip(figure.axes[0].get_yticks(), [t.get_text() for t in figure.axes[0].get_yticklabels()], strict=True)
    )
    assert labels[0.01] == "0.99"


def test_speed_figure_orders_bars_by_rate() -> None:
    names = ["neurokit2", "ecgmoe, 12 leads", "sleepecg"]
    table = pd.DataFrame({"run": names, "records_per_s": [700.0, 30000.0, 4000.0], "ratio": [1, 43, 5.7]})
    figure = figures.detector_speed(table)
    (ax,) = figure.axes
    assert [bar.get_width() for bar in ax.patches] == [700, 4000, 30000] and ax.get_xscale() == "log"
    assert [text.get_text().split() for text in ax.texts] == [
        ["700", "×", "1"],
        ["4,000", "×", "5.7"],
        ["30,000", "×", "43"],
    ]


def test_peers_score_on_real_recordings_as_published_here(recordings: Path) -> None:
    peers = {name: detection.detectors()[name] for name in ("neurokit2", "sleepecg")}
    check: Callable[..., None] = np.testing.assert_allclose
    for name, expected in (
        ("ludb", {"neurokit2": (0.9873, 0.9830, 0.9830), "sleepecg": (0.9975, 0.9953, 0.9931)}),
        ("cpsc2019", {"neurokit2": (0.9326, 0.9169, 0.8184), "sleepecg": (0.9239, 0.8945, 0.8550)}),
    ):
        table = detection.accuracy(detection.evaluate(annotated.load(name, recordings), peers, (150, 75, 50)))
        f1 = table[table["part"] == "all"].pivot(index="detector", columns="tolerance_ms", values="f1")
        for detector, values in expected.items():
            check(f1.loc[detector, [150, 75, 50]], values, atol=1e-3)
