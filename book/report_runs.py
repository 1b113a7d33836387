"""Report of the chapters' last runs, and which of their numbers changed since the last report: ``make report``.

``_build/report/`` gets ``report.md``, ``changed.csv`` with every number that changed, and the executed notebooks of the
chapters that these belong to or that failed. The numbers are then kept in ``runs/reported/`` for the next report.
"""

import csv
import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from ecgmoe_book import ROOT, runs_table

from ecgmoe import chapters, comparison

#: Relative difference up to which two numbers count as the same: other processors round differently.
TOLERANCE = 1e-6

Row = tuple[str, str, Any, Any]  # chapter, where in its JSON, before, now


def rounded_alike(number: comparison.Number) -> bool:
    """Whether two numbers agree within :data:`TOLERANCE`, and so do the ends of their intervals."""
    before, now = (number.a, *(number.interval_a or ())), (number.b, *(number.interval_b or ()))
    if len(before) != len(now):
        return False
    return all(map(partial(math.isclose, rel_tol=TOLERANCE, abs_tol=1e-12), before, now))


def changes(chapter: str, found: comparison.Comparison) -> list[Row]:
    """What differs between two runs of a chapter but for time and memory; None stands for what one of them lacks."""
    numbers = [one for one in found.numbers if not rounded_alike(one)]
    rows: list[Row] = [(chapter, one.where, one.a, one.b) for one in (*numbers, *found.texts)]
    rows += [(chapter, where, "there", None) for where in found.only_a]
    return rows + [(chapter, where, None, "there") for where in found.only_b]


def report(root: Path = ROOT) -> Path:
    """Write the report of the runs in ``runs/book`` of a checkout; returns its folder."""
    runs, kept, folder = root / "runs" / "book", root / "runs" / "reported", root / "_build" / "report"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kept.mkdir(parents=True, exist_ok=True)
    names = chapters.names(root)
    failed = [name for name in names if (runs / f"{name}.failed.ipynb").exists()]
    lines = ["# Execution report", "", *runs_table(chapters.Report(runs, (), (), dict.fromkeys(failed, "")), root), ""]
    lines += ["## Numbers that changed since the last report", "", "| chapter | changed | time and memory |"]
    lines += ["|---|---:|---:|"]
    every: list[Row] = []
    for name in names:
        now, before = runs / f"{name}.json", kept / f"{name}.json"
        if name in failed or not now.exists():
            lines.append(f"| `{name}` | none | |")
        elif not before.exists():
            lines.append(f"| `{name}` | not reported before | |")
        else:
            found = comparison.compare(comparison.read(before), comparison.read(now))
            changed = changes(name, found)
            lines.append(f"| `{name}` | {len(changed)} | {len(found.timings)} |")
            every += changed
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
