"""Report of the chapters' last runs, and which of their numbers changed since the last report: ``make report``.

``_build/report/`` gets ``report.md``, ``changed.csv`` with every number that changed, and the executed notebooks of the
chapters that these belong to or that failed. The numbers are then kept in ``runs/reported/`` for the next report.
"""

import csv
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ecgmoe_book import ROOT, runs_table

from ecgmoe import chapters

#: Relative difference up to which two numbers count as the same: other processors round differently.
TOLERANCE = 1e-6

Change = tuple[str, str, Any, Any]  # chapter, where in its JSON, before, now


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Give each number, text and null of a JSON value with the way to it, such as ``scores[3].value``."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from leaves(item, f"{path}[{i}]")
    else:
        yield path, value


def same(before: Any, now: Any) -> bool:
    """Whether two leaves agree, numbers within :data:`TOLERANCE`."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (before, now))
    return math.isclose(before, now, rel_tol=TOLERANCE, abs_tol=1e-12) if numbers else bool(before == now)


def changes(chapter: str, before: Path, now: Path) -> list[Change]:
    """What differs between the metrics of two JSON files of a chapter; None stands for what one of them lacks."""
    old, new = (dict(leaves(json.loads(path.read_text("utf-8"))["metrics"])) for path in (before, now))
    return [
        (chapter, where, old.get(where), new.get(where))
        for where in {**old, **new}
        if (where in old) != (where in new) or not same(old[where], new[where])
    ]


def report(root: Path = ROOT) -> Path:
    """Write the report of the runs in ``runs/book`` of a checkout; returns its folder."""
    runs, kept, folder = root / "runs" / "book", root / "runs" / "reported", root / "_build" / "report"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kept.mkdir(parents=True, exist_ok=True)
    names = chapters.names(root)
    failed = [name for name in names if (runs / f"{name}.failed.ipynb").exists()]
    lines = ["# Execution report", "", *runs_table(chapters.Report(runs, (), (), dict.fromkeys(failed, "")), root), ""]
    lines += ["## Numbers that changed since the last report", "", "| chapter | numbers and texts | changed |"]
    lines += ["|---|---:|---:|"]
    every: list[Change] = []
    for name in names:
        now, before = runs / f"{name}.json", kept / f"{name}.json"
        if name in failed or not now.exists():
            lines.append(f"| `{name}` | none | |")
            continue
        n = sum(1 for _ in leaves(json.loads(now.read_text("utf-8"))["metrics"]))
        found = changes(name, before, now) if before.exists() else []
        lines.append(f"| `{name}` | {n:,} | {len(found) if before.exists() else 'not reported before'} |")
        every += found
    lines += [
        "",
        "Times change with every run, and the numbers made of them, most of all in the chapter on efficiency.",
    ]
    (folder / "report.md").write_text("\n".join(lines) + "\n", "utf-8")
    with (folder / "changed.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("chapter", "where", "before", "now"), *every])
    for name in {change[0] for change in every}:
        shutil.copy(runs / f"{name}.ipynb", folder)
    for name in failed:
        shutil.copy(runs / f"{name}.failed.ipynb", folder)
    for path in runs.glob("*.json"):
        shutil.copy(path, kept)
    return folder


if __name__ == "__main__":
    print(f"wrote {report().relative_to(ROOT)}/report.md")
