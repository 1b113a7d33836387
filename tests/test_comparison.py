"""Two runs held against each other: what counts as a change, what is matched with what, and the exit codes."""

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from ecgmoe import comparison, results
from ecgmoe.__main__ import app

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "data" / "reference"
PROBES = REFERENCE / "probes_ptbxl.json"


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, words)])


def content(**metrics: Any) -> dict[str, Any]:
    provenance = results.provenance(seed=0, parameters={"preset": "compact", "epochs": 20})
    return {"chapter": "99_test", "provenance": provenance, "metrics": metrics}


def scores(rr: float = 2.0, age: float = 8.0) -> pd.DataFrame:
    rows = [
        ("ECG-MoE", "rr", "mae", rr, 0.1, rr - 0.5, rr + 0.5),
        ("ECG-MoE", "age", "mae", age, 0.1, age - 1, age + 1),
    ]
    return pd.DataFrame(rows, columns=["model", "task", "metric", "value", "sd", "low", "high"])


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def written(name: str, **metrics: Any) -> Path:
        results.write_json(tmp_path / name, content(**metrics))
        return tmp_path / name

    return written


def test_a_number_is_within_the_interval_of_the_other_run_or_outside(write: Any) -> None:
    a = write("a.json", scores=scores())
    b = write("b.json", scores=scores(rr=2.4, age=9.5).iloc[::-1])
    (found,) = comparison.compare_runs(a, b).results.values()
    held = {number.where: number for number in found.numbers}
    assert set(held) == {"scores[ECG-MoE, rr, mae].value", "scores[ECG-MoE, age, mae].value"}, "by key, not by position"
    rr, age = held["scores[ECG-MoE, rr, mae].value"], held["scores[ECG-MoE, age, mae].value"]
    assert (rr.a, rr.b, rr.interval_a, rr.within) == (2.0, 2.4, (1.5, 2.5), True)
    assert (age.difference, age.within) == (1.5, False)
    assert found.n_equal == 2, "sd, of which the interval is not"
    done = invoke(a, b)
    assert done.exit_code == 1 and "1 outside their interval, 1 within their interval" in done.output
    outside = done.output.split("Numbers outside")[1].split("Numbers within")[0]
    assert re.search(r"scores\[ECG-MoE, age, mae\]\.value +8 \[7, 9\] +9\.5 \[8\.5, 10\.5\] +\+1\.5\n", outside)
    assert "rr" not in outside
    assert invoke(a, a).exit_code == 0


def test_the_interval_of_the_first_run_decides_and_that_of_the_second_where_it_has_none() -> None:
    wide, narrow, none = (
        {"x": x, "x_low": low, "x_high": high} for x, low, high in ((1, 0, 3), (2, 1.9, 2.1), (5, None, None))
    )
    for a, b, within in ((wide, narrow, True), (narrow, wide, False), (none, wide, False), (wide, none, False)):
        (number,) = comparison.compare({"metrics": a}, {"metrics": b}).numbers
        assert number.within is within
    (number,) = comparison.compare({"metrics": {"x": 1}}, {"metrics": {"x": 2}}).numbers
    assert number.within is None
    (number,) = comparison.compare({"metrics": wide}, {"metrics": wide | {"x_high": 4}}).numbers
    assert number.within is True and number.difference == 0, "the interval alone differs"


@pytest.mark.parametrize(
    ("row", "subject"),
    [
        ({"value": 1.0, "sd": 2.0, "low": 0.0, "high": 3.0}, "value"),
        ({"value": 1.0, "other": 2.0, "difference": -1.0, "low": -2.0, "high": 0.0, "p": 0.1}, "difference"),
        ({"value": 1.0, "low": 0.0, "high": 3.0, "change": 2.0, "change_low": 1.0, "change_high": 3.0}, "change"),
        ({"name": "x", "low": 0.0, "high": 3.0}, None),
        ({"rr_low": 0.0, "rr_high": 3.0}, None),
    ],
)
def test_an_interval_is_of_the_number_that_it_stands_behind(row: dict[str, Any], subject: str | None) -> None:
    moved = {key: value + 0.1 if isinstance(value, float) else value for key, value in row.items()}
    found = {number.where: number for number in comparison.compare({"metrics": row}, {"metrics": moved}).numbers}
    if subject is None:
        assert len(found) == 2 and all(number.within is None for number in found.values()), "no bounds, but numbers"
    else:
        low = "change_low" if subject == "change" else "low"
        assert found[subject].interval_a == (row[low], row[low.replace("low", "high")])
        assert not any(where.endswith(("low", "high")) for where in found)


def test_rows_numbers_and_results_of_one_run_only_are_missing(write: Any, tmp_path: Path) -> None:
    more = pd.concat([scores(), scores().assign(model="ResNet")])
    a, b = write("a/x.json", scores=more, records=3), write("b/x.json", scores=scores(), records=None)
    done = invoke(a, b)
    assert done.exit_code == 1
    assert "In A only (3)\n  scores[ResNet, rr, mae]\n  scores[ResNet, age, mae]\n  records\n" in done.output
    assert "In B only (3)" in invoke(b, a).output
    write("a/y.json", scores=scores())
    found = comparison.compare_runs(tmp_path / "a", tmp_path / "b")
    assert (list(found.results), found.only_a, found.only_b) == (["x.json"], ["y.json"], [])
    assert "Results in A only (1)\n  y.json" in invoke(tmp_path / "a", tmp_path / "b").output
    shutil.copy(a, b)
    assert invoke(a, b).exit_code == 0
    assert invoke(tmp_path / "a", tmp_path / "b").exit_code == 1, "y.json is missing"


def test_parameters_and_environment_are_told_and_are_no_change_of_a_number() -> None:
    a = content(x=1.0)
    b = copy.deepcopy(a)
    b["provenance"] |= {"seed": 1, "commit": "else", "time": "later", "data": {"name": "x", "digest": "d"}}
    b["provenance"]["parameters"] = {"preset": "published", "epochs": 20, "lora": "none"}
    b["provenance"]["versions"]["torch"] = "9.9"
    found = comparison.compare(a, b)
    assert {(c.where, c.a, c.b) for c in found.parameters} == {
        ("preset", "compact", "published"),
        ("lora", None, "none"),
    }
    assert {change.where for change in found.environment} == {"seed", "commit", "data", "versions.torch"}
    assert found.times[1] == "later" and (found.n_equal, found.numbers, found.texts) == (1, [], [])
    kept = [json.loads((REFERENCE / "reference_ptbxl" / f"ecg-moe-seed{i}.json").read_text("utf-8")) for i in (0, 1)]
    found = comparison.compare(*kept)
    assert found.parameters == [comparison.Change("seed", 0, 1)] and not found.numbers


def test_texts_are_told_and_are_no_change_of_a_number(write: Any) -> None:
    a = write("a.json", pairs=[{"task": "rr", "p": 0.1, "better": "neither"}], names=["a"], ok=True)
    b = write("b.json", pairs=[{"task": "rr", "p": 0.1, "better": "model"}], names=["a", "b"], ok=False)
    (found,) = comparison.compare_runs(a, b).results.values()
    assert [change.where for change in found.texts] == ["pairs[rr].better", "names", "ok"]
    assert (found.n_equal, found.numbers) == (1, [])
    assert invoke(a, b).exit_code == 0


def test_time_rates_and_memory_stand_apart(write: Any) -> None:
    a = write("a.json", costs=[{"run": "x", "ms_per_record": 1.0, "parameters": 7}], peak_mb={"1": 5, "10": 6})
    b = write(
        "b.json", costs=[{"run": "x", "ms_per_record": 2.0, "parameters": 7}], peak_mb={"1": 9}, more={"cached_s": 1}
    )
    (found,) = comparison.compare_runs(a, b).results.values()
    assert [change.where for change in found.timings] == ["costs[x].ms_per_record", "peak_mb.1", "peak_mb.10"]
    assert (found.n_equal, found.numbers, found.only_a) == (1, [], [])
    done = invoke(a, b)
    assert done.exit_code == 0 and "which always differ: A, B (3)" in done.output


def test_what_is_time_and_what_is_a_result_in_the_reference_runs() -> None:
    """Names that the library uses; a new one of either kind is told here where it belongs."""
    time = "seconds hours cpu_hours start_s in_loop_s cached_s eager_ms cpu_ms pass_ms ms_per_record records_per_s"
    time += " gflop_per_s bound_records_per_s ratio ratio_to_sleepecg bfloat16_ratio_to_float32 memory_ratio relative"
    time += " relative_most expected_relative peak_mb peak_mib before_mb own_share_of_peak matmul_gflops"
    for name in time.split():
        assert comparison.TIMING.fullmatch(name), name
    result = (
        "rr_ms rr_ms_low rr_mae_ms rr_median_ms distance_ms offset_ms tolerance_ms gflop_per_record value difference"
    )
    for name in [*result.split(), "disk_mb_s", "records", "read_kb", "parameters"]:
        assert not comparison.TIMING.fullmatch(name), name


def rows_of(value: Any, where: str) -> Any:
    """Tables of a result, each with where it is."""
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        yield where, value
    for key, item in value.items() if isinstance(value, dict) else ():
        yield from rows_of(item, f"{where}.{key}")


@pytest.mark.parametrize(
    "path", [*REFERENCE.glob("*.json"), *ROOT.glob("data/models/*/card.json")], ids=lambda p: p.stem
)
def test_the_rows_of_every_table_that_comes_with_the_library_have_names_of_their_own(path: Path) -> None:
    """Else add the column that tells them apart to ``KEYS`` or ``SETTINGS``."""
    for where, rows in rows_of(json.loads(path.read_text("utf-8")), path.stem):
        keys = comparison._key_columns(rows)
        assert len({tuple(row[key] for key in keys) for row in rows}) == len(rows), (where, keys)


def test_tables_of_unknown_columns_and_arrays_are_matched_too() -> None:
    a = {"t": [{"who": "x", "u": 1}, {"who": "y", "u": 2}], "plain": [{"u": 1}, {"u": 2}], "array": [[1, 2], [3, 4]]}
    b = {"t": [{"who": "y", "u": 2}, {"who": "x", "u": 5}], "plain": [{"u": 1}, {"u": 3}], "array": [[1, 2], [3]]}
    found = comparison.compare({"metrics": a}, {"metrics": b})
    assert [number.where for number in found.numbers] == ["t[x].u", "plain[row #2].u"]
    assert found.only_a == ["array[1][1]"] and found.n_equal == 5
    older = {"metrics": {"t": [{"model": "x", "u": 1}]}}
    newer = {"metrics": {"t": [{"model": "x", "kind": "floor", "u": 2}]}}
    for pair in ((older, newer), (newer, older)):
        assert [number.where for number in comparison.compare(*pair).numbers] == ["t[x].u"], "by what both have"


def test_a_row_of_what_was_varied_is_matched_by_axis_and_setting() -> None:
    """As :func:`ecgmoe.scaling.measure` gives it; another run may have other settings."""
    rows = [
        {"axis": axis, "setting": setting, "records": records, "gflop_per_record": gflop, "pass_ms": ms}
        for axis, setting, records, gflop, ms in (
            *(("records in a pass", "1", 1, 2.0, 5.0), ("records in a pass", "4", 4, 2.0, 9.0)),
            *(("tasks asked", "1", 5, 1.8, 4.0), ("tasks asked", "5", 5, 2.0, 6.0)),
        )
    ]
    fewer = [row | {"pass_ms": 2 * row["pass_ms"]} for row in rows[:2] + rows[3:]]
    found = comparison.compare({"metrics": {"scaling": rows}}, {"metrics": {"scaling": fewer}})
    assert found.only_a == ["scaling[tasks asked, 1, 5]"]
    assert (found.n_equal, found.numbers, found.texts, len(found.timings)) == (3, [], [], 3)
    titled = [{"Backbone": name, "leads": "together", "width": 7} for name in ("MOMENT", "TEMPO")]
    other = [titled[1] | {"width": 8}, titled[0]]
    (number,) = comparison.compare({"metrics": {"t": titled}}, {"metrics": {"t": other}}).numbers
    assert number.where == "t[TEMPO, together].width"


def test_json_holds_what_is_printed(write: Any) -> None:
    a, b = write("a.json", scores=scores(), seconds=1.0), write("b.json", scores=scores(age=9.5), seconds=2.0)
    done = invoke(a, b, "--json")
    assert done.exit_code == 1
    printed = json.loads(done.stdout)
    (found,) = printed["results"].values()
    assert [(n["where"], n["difference"], n["interval_a"], n["within"]) for n in found["numbers"]] == [
        ("scores[ECG-MoE, age, mae].value", 1.5, [7, 9], False)
    ]
    assert found["timings"] == [{"where": "seconds", "a": 1, "b": 2}]
    assert printed["counts"]["outside their interval"] == 1 and printed["counts"]["equal"] == 3


def test_what_cannot_be_compared_is_named_with_its_cure(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"metrics": ')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "parameters.json").write_text("{}")
    for bad in ("broken.json", "list.json", "binary.json", "empty", "nowhere.json"):
        path = tmp_path / bad
        other = path if path.is_dir() else PROBES
        done = invoke(other, path)
        assert done.exit_code == 2, bad
        said = " ".join(done.stderr.split())
        assert str(path) in said and "name a result file or the folder of a run" in said, bad
    done = invoke(PROBES, tmp_path / "empty")
    assert done.exit_code == 2 and "name two files or two folders" in done.stderr
    assert invoke(PROBES).exit_code == 2


def test_the_commands_of_the_book_do_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "book" / "rerun.md").read_text("utf-8")
    commands = re.findall(r"^\.venv/bin/python -m ecgmoe compare (\S+) (\S+)$", text, re.MULTILINE)
    assert len(commands) == 2
    monkeypatch.chdir(tmp_path)
    for paths in commands:
        for path in map(Path, paths):
            file = path if path.suffix else path / PROBES.name
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROBES, file)
        assert invoke(*paths).exit_code == 0
        changed = json.loads(PROBES.read_text("utf-8"))
        changed["metrics"]["scores"][0]["value"] *= 2
        results.write_json(file, changed)
        done = invoke(*paths)
        assert done.exit_code == 1 and "1 outside their interval" in done.output
