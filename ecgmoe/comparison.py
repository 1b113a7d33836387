"""What differs between two runs: parameters, environment, and every number, held against its 95 % interval."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from textwrap import shorten
from typing import Any

from ecgmoe.records import InputError

#: Names of figures that differ each time: time, rates, memory, and ratios of these; so does what lies below such a
#: name. Other figures in seconds or milliseconds, such as ``rr_mae_ms``, are results.
TIMING = re.compile(
    r"seconds|(\w+_)?hours|(start|in_loop|cached)_s|(eager|float32|bfloat16|cpu|pass)_ms|ms_per_\w+|\w+_per_s|\w+_gflops"
    r"|(\w+_)?ratio(_to_\w+)?|(expected_)?relative(_\w+)?|\w+_mi?b|own_share_of_peak"
)
#: Columns that say which row of a table it is: those of text (``Backbone`` as well as ``backbone``), and those of
#: numbers that are settings and no results.
KEYS = (
    *("model", "row", "way", "run", "backbone", "detector", "baseline", "other", "set", "source", "part", "leads"),
    *("by", "kind", "group", "phase", "label", "class", "rhythm", "task", "metric", "measure", "axis", "setting"),
)
SETTINGS = (
    *("seed", "k", "depth", "strength", "tolerance_ms", "fs", "cores", "disk_mb_s", "times", "record", "records"),
    "start_s",
)
#: Entries beside the provenance that are parameters too, in the rows that ``reference`` keeps.
PARAMETERS = ("seed", "settings", "asked")
_NAME_ONE = "name a result file or the folder of a run, such as runs/book"
#: How numbers lie to their intervals, as it is said and as ``Number.within`` has it.
_HELD = {"outside their interval": False, "within their interval": True, "without interval": None}
_Row = Mapping[str, Any]
_Interval = tuple[float, float]


@dataclass(frozen=True)
class Change:
    """Something that is not the same in both; None where a run does not have it."""

    where: str
    a: Any
    b: Any

    def _cells(self) -> list[str]:
        return [shorten(_shown(value), 60, placeholder=" …") for value in (self.a, self.b)]


@dataclass(frozen=True)
class Number(Change):
    """A number that is not the same in both, or whose 95 % interval is not."""

    difference: float  #: B minus A
    interval_a: _Interval | None
    interval_b: _Interval | None
    within: bool | None  #: B is within the interval of A or, where B alone has one, A in that of B

    def _cells(self) -> list[str]:
        ends = (f" [{_shown(of[0])}, {_shown(of[1])}]" if of else "" for of in (self.interval_a, self.interval_b))
        return [*map(str.__add__, super()._cells(), ends), f"{self.difference:+.3g}"]


@dataclass
class Comparison:
    """What differs between two results."""

    times: tuple[str, ...] = ()  #: when they were made
    parameters: list[Change] = field(default_factory=list)
    environment: list[Change] = field(default_factory=list)
    n_equal: int = 0  #: numbers that are the same in both
    numbers: list[Number] = field(default_factory=list)
    only_a: list[str] = field(default_factory=list)  #: numbers, rows and tables that A alone has
    only_b: list[str] = field(default_factory=list)
    texts: list[Change] = field(default_factory=list)  #: all that is no number, such as verdicts and names
    timings: list[Change] = field(default_factory=list)


@dataclass
class Runs:
    """Comparisons by the name of the result, and names of those that one run alone has."""

    results: dict[str, Comparison]
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)

    def count(self) -> dict[str, int]:
        """How many numbers are equal, outside or within their interval, or have none, and how much is missing."""
        each = self.results.values()
        within = [number.within for found in each for number in found.numbers]
        missing = len(self.only_a + self.only_b) + sum(len(found.only_a + found.only_b) for found in each)
        counts = {"equal": sum(found.n_equal for found in each)}
        return counts | {name: within.count(which) for name, which in _HELD.items()} | {"missing": missing}


def compare_runs(a: Path, b: Path) -> Runs:
    """Compare two results, or two folders of results by name; InputError where there are none."""
    if missing := [str(path) for path in (a, b) if not path.exists()]:
        raise InputError(f"there is no {' and no '.join(missing)}; {_NAME_ONE}")
    if a.is_dir() != b.is_dir():
        raise InputError(f"of {a} and {b} one is a folder and one a file; name two files or two folders")
    if not a.is_dir():
        return Runs({a.name if a.name == b.name else f"{a.name} and {b.name}": compare(read(a), read(b))})
    of_a, of_b = _results(a), _results(b)
    both = {name: compare(of_a[name], of_b[name]) for name in of_a if name in of_b}
    return Runs(both, [name for name in of_a if name not in of_b], [name for name in of_b if name not in of_a])


def read(path: Path) -> dict[str, Any]:
    """Read a result; InputError where it is none."""
    try:
        content = json.loads(path.read_text("utf-8"), parse_constant=lambda _: None)  # NaN is null, as when written
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path} ({getattr(error, 'strerror', None) or error}); {_NAME_ONE}") from None
    if not isinstance(content, dict) or not isinstance(content.get("provenance", {}), dict):
        raise InputError(f"{path} holds no result (a JSON object with a provenance); {_NAME_ONE}")
    return content


def _results(folder: Path) -> dict[str, dict[str, Any]]:
    """Results of a run by name. Other JSON of its folder, such as the parameters of chapters, has no provenance."""
    found = {path.name: content for path in sorted(folder.glob("*.json")) if "provenance" in (content := read(path))}
    if not found:
        raise InputError(f"{folder} holds no result (a JSON object with a provenance); {_NAME_ONE}")
    return found


def compare(a: _Row, b: _Row) -> Comparison:
    """Compare two results: mappings by key, tables by the columns that name their rows, other lists by position."""
    (time_a, given_a, origin_a, rest_a), (time_b, given_b, origin_b, rest_b) = _parts(a), _parts(b)
    found = Comparison((time_a, time_b), _changes(given_a, given_b), _changes(origin_a, origin_b))
    _walk(rest_a, rest_b, "", False, found)
    return found


def _parts(content: _Row) -> tuple[str, _Row, _Row, _Row]:
    """Time, parameters, environment and findings of a result."""
    origin = dict(content.get("provenance", {}))
    given = (origin.pop("parameters", None) or {}) | {key: content[key] for key in PARAMETERS if key in content}
    rest = {key: value for key, value in content.items() if key not in ("provenance", *PARAMETERS)}
    return origin.pop("time", "unknown time"), given, origin, rest


def _changes(a: Any, b: Any, where: str = "") -> list[Change]:
    """Entries of nested mappings that are not the same in both."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [one for key in {**a, **b} for one in _changes(a.get(key), b.get(key), f"{where}.{key}".lstrip("."))]
    return [] if a == b else [Change(where, a, b)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _has_numbers(value: Any) -> bool:
    """Whether a value holds a number other than time, rates and memory."""
    if isinstance(value, dict):
        return any(_has_numbers(item) for key, item in value.items() if not TIMING.fullmatch(key))
    return any(map(_has_numbers, value)) if isinstance(value, list) else _is_number(value)


def _walk(a: Any, b: Any, where: str, timing: bool, found: Comparison, *intervals: _Interval | None) -> None:
    """Add to ``found`` what differs between two values, or in what they hold; numbers come with their intervals."""
    lists = isinstance(a, list) and isinstance(b, list)
    if isinstance(a, dict) and isinstance(b, dict):
        (of_a, bounds_a), (of_b, bounds_b) = _intervals(a), _intervals(b)
        for key in {**a, **b}:
            if key not in bounds_a | bounds_b:
                place = f"{where}.{key}".removeprefix(".").removeprefix("metrics.")
                apart = timing or bool(TIMING.fullmatch(key))
                _walk(a.get(key), b.get(key), place, apart, found, of_a.get(key), of_b.get(key))
    elif lists and a + b and all(isinstance(row, dict) for row in a + b):
        keys = _key_columns(a + b)
        rows_a, rows_b = _by_name(a, keys), _by_name(b, keys)
        for name in {**rows_a, **rows_b}:
            _walk(rows_a.get(name), rows_b.get(name), f"{where}[{name}]", timing, found)
    elif lists and _has_numbers(a) and _has_numbers(b):
        for i, (item_a, item_b) in enumerate(zip_longest(a, b)):
            _walk(item_a, item_b, f"{where}[{i}]", timing, found)
    elif timing:
        found.timings += _changes(a, b, where)
    elif _is_number(a) and _is_number(b):
        interval_a, interval_b = intervals or (None, None)
        interval, other = (interval_a, b) if interval_a else (interval_b, a)
        if a == b and interval_a == interval_b:
            found.n_equal += 1
        else:
            within = None if interval is None else a == b or interval[0] <= other <= interval[1]
            found.numbers.append(Number(where, a, b, b - a, interval_a, interval_b, within))
    elif _has_numbers(a) or _has_numbers(b):
        found.only_a += [where] * _has_numbers(a)
        found.only_b += [where] * _has_numbers(b)
    else:
        found.texts += _changes(a, b, where)


def _intervals(row: _Row) -> tuple[dict[str, _Interval], set[str]]:
    """Intervals in a row by what they are of, and their bounds: ``x_low`` is of ``x``, ``low`` of the number before."""
    found, bounds, before = dict[str, _Interval](), set[str](), ""
    for key in row:
        if named := re.fullmatch(r"((.+)_)?low", key):
            high, subject = (named[1] or "") + "high", named[2] or before
            values = [row.get(name, "") for name in (key, high, subject)]
            if all(value is None or _is_number(value) for value in values):
                bounds |= {key, high}
                found |= {subject: (values[0], values[1])} if None not in values else {}
        elif key != "sd":  # a spread may stand between a value and its interval
            before = key
    return found, bounds


def _key_columns(rows: Sequence[_Row]) -> list[str]:
    """Columns that name rows of A and, behind them, of B: the known ones that both have, else their first of text."""
    columns = [key for key in rows[0] if key in rows[-1]]
    text = [key for key in columns if {type(row.get(key)) for row in rows} in ({str}, {str, type(None)})]
    return [key for key in columns if (key.lower() in KEYS and key in text) or key in SETTINGS] or text[:1]


def _by_name(rows: Sequence[_Row], keys: Sequence[str]) -> dict[str, _Row]:
    """Rows by what those columns hold, and without them; further rows of the same name are numbered."""
    names = [", ".join(_shown(row.get(key)) for key in keys) or "row" for row in rows]
    names = [f"{name} #{n + 1}" if (n := names[:i].count(name)) else name for i, name in enumerate(names)]
    return {name: {key: row[key] for key in row if key not in keys} for name, row in zip(names, rows, strict=True)}


def describe(runs: Runs) -> Iterator[str]:
    """Lines for the terminal."""
    for name, found in runs.results.items():
        yield f"\n{name}: A of {found.times[0]}, B of {found.times[1]}"
        yield from _section("Parameters: A, B", found.parameters)
        yield from _section("Environment: A, B", found.environment)
        for title, within in _HELD.items():
            yield from _section(f"Numbers {title}: A, B, B - A", [one for one in found.numbers if one.within is within])
        yield from _section("In A only", found.only_a)
        yield from _section("In B only", found.only_b)
        yield from _section("Texts: A, B", found.texts)
        yield from _section("Time, rates and memory, which always differ: A, B", found.timings)
    yield from _section("Results in A only", runs.only_a)
    yield from _section("Results in B only", runs.only_b)
    yield "\nNumbers: " + ", ".join(f"{count} {name}" for name, count in runs.count().items())


def _section(title: str, entries: Sequence[Change] | Sequence[str]) -> Iterator[str]:
    """A heading and a line an entry, in columns; nothing without any."""
    if entries:
        yield f"\n{title} ({len(entries)})"
        rows = [[entry] if isinstance(entry, str) else [entry.where, *entry._cells()] for entry in entries]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        yield from ("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _shown(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else "–" if value is None else str(value)
