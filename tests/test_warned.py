"""What warnings are worth: windows are sorted by what is said, and held against annotated beats."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from folders import write_mitdb
from test_elsewhere import record

from ecgmoe import elsewhere, prediction, tasks, warned
from ecgmoe.__main__ import app
from ecgmoe.records import RecordError

SAID = {
    "101": ("", "beats unlike each other: RR interval and rhythm may be wrong; poor quality: V5"),
    "102": ("poor quality: II", "no beat is like another: ventricular flutter, or noise"),
    "103": ("no heartbeat found", ""),
}


def stub(rr_of):
    """A predictor of two windows a recording, with warnings of :data:`SAID`."""
    rows = [
        {"record": name, "start_s": start, "rr_ms": rr_of(name, start), "rhythm": "other", "warnings": said}
        for name, warnings in SAID.items()
        for start, said in zip((0.0, 10.0), warnings, strict=True)
    ]
    rows[3] |= {"rr_ms": np.nan, "rhythm": None}
    return SimpleNamespace(stream=lambda _: [SimpleNamespace(table=pd.DataFrame(rows))])


@pytest.fixture
def mitdb(tmp_path):
    for name in SAID:
        at = write_mitdb(tmp_path, name, flutter_s=15.0 if name == "102" else None)
    return tmp_path, {start: annotated_rr(at / 360, start) for start in (0.0, 10.0)}


def annotated_rr(at_s, start):
    inside = np.rint(at_s * 360) / 360
    return tasks.mean_rr_interval(inside[(inside >= start) & (inside < start + 10)], 1.0)


def test_windows_are_sorted_by_what_is_said_and_wrong_by_more_than_5_percent(mitdb):
    folder, told = mitdb

    def rr_of(name, start):
        return {"101": 1.04, "102": 1.06, "103": np.nan if start == 0 else 0.94}[name] * told[start]

    every = warned.windows(stub(rr_of), folder)
    assert every["group"].tolist() == [
        warned.NONE,
        "beats unlike each other",
        "poor quality",
        warned.NO_ANSWER,
        warned.NO_ANSWER,
        warned.NONE,
    ]
    np.testing.assert_allclose(every["told_rr"], [told[start] for start in every["start_s"]], rtol=1e-9)
    assert every["flutter"].tolist() == [False, False, False, True, False, False]
    found = warned.measure(stub(rr_of), folder, n_boot=50)
    groups = found["groups"].set_index("group")
    assert groups["windows"].to_dict() == {
        warned.NO_ANSWER: 1,
        "beats unlike each other": 1,
        "poor quality": 1,
        warned.NONE: 2,
    }, "without the window of flutter"
    assert groups["wrong"].dropna().to_dict() == {
        "beats unlike each other": 0.0,
        "poor quality": 1.0,
        warned.NONE: 0.5,
    }
    assert groups.loc[warned.NONE, "mae"] == pytest.approx(np.mean([0.04 * told[0.0], 0.06 * told[10.0]]), rel=1e-6)
    assert (groups.loc[warned.NONE, "low"], groups.loc[warned.NONE, "high"]) == (0.0, 1.0), "two recordings"
    assert found["recordings"] == 3
    assert found["flutter"] == {"windows": 1, "without an answer": 1, "warned": 0, "named": {}}
    shown = warned.table(found).set_index("What the warnings say")
    assert shown.loc[warned.NONE, "RR off by > 5 %"] == "50 % [0, 100]"
    assert shown.loc[warned.NO_ANSWER].tolist() == ["1", "–", "–"]


def test_a_recording_that_cannot_be_read_is_an_error(mitdb):
    folder, _ = mitdb
    broken = SimpleNamespace(stream=lambda _: [RecordError("101", "damaged", "download it again")])
    with pytest.raises(RecordError, match="101: damaged"):
        warned.windows(broken, folder)


def test_the_command_adds_what_warnings_are_worth(model, mitdb, tmp_path_factory):
    folder, _ = mitdb
    others, path = tmp_path_factory.mktemp("others"), folder / "found.json"
    record(others, "r", "Age: 50", "Sex: F")
    words = ["elsewhere", str(others), "--model", str(model), "--json", str(path), "--beats", str(folder)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0 and "What the warnings say" in done.output and "ventricular flutter" in done.output
    found = json.loads(path.read_text("utf-8"))["metrics"]["warned"]
    assert found["recordings"] == 3 and sum(row["windows"] for row in found["groups"]) == 5


@pytest.mark.slow
def test_what_the_book_says_of_warnings_is_what_is_measured(recordings):
    predictor = prediction.load()
    kept = elsewhere.load(predictor.card)["warned"]
    found = warned.measure(predictor, recordings / "mitdb")
    assert found["flutter"] == kept["flutter"] and found["recordings"] == kept["recordings"]
    pd.testing.assert_frame_equal(found["groups"], pd.DataFrame(kept["groups"]), rtol=2e-2, atol=2e-3)
