"""What a reference run found, for pages and the terminal: its tables, and sentences with its figures.

:mod:`ecgmoe.reference` makes and loads the runs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ecgmoe import ablation, configurations, evaluation, reference, results, tasks


def since(metrics: Mapping[str, Any]) -> str:
    """The end of a caption: nothing, or that the model has changed since the reference run was made."""
    if not reference.is_older(metrics):
        return ""
    return (
        " The model and the training of its rivals have changed since this run was made, so it is not comparable with "
        "tables of today's code row by row."
    )


def summary(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """A line a row of the table and floor: number of seeds, and headline metrics with intervals.

    Returns
    -------
    DataFrame
        Text columns for :func:`ecgmoe.results.table`, ECG-MoE first and floors last.
    """
    sizes = metrics["sizes"].set_index("row")
    lines = []
    for name in dict.fromkeys(metrics["scores"]["model"]):
        line = {"row": name}
        if name in sizes.index:
            line["seeds"] = f"{sizes['seeds'][name]}"
        lines.append(line | ablation.score_cells(metrics["scores"], name))
    return pd.DataFrame(lines).fillna("–")


def costs(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """A line a row of the table: its parameters, and epochs and processor seconds of a seed."""
    sizes = metrics["sizes"]
    return pd.DataFrame(
        {
            "row": sizes["row"],
            "parameters trained": [f"{n:,}" for n in sizes["trained"]],
            "in all": [f"{n:,}" for n in sizes["total"]],
            "epochs": sizes["epochs"].round().astype(int),
            "seconds": sizes["seconds"].round().astype(int),
        }
    )


def shown(name: str, wanted: Iterable[str], label: str, about: str) -> Any:
    """Table of some rows and floors of a reference run for a page, or the sentence that it was not made.

    Parameters
    ----------
    name : str
        A key of :data:`ecgmoe.reference.RUNS`.
    wanted : iterable of str
        Rows and floors, those that the run has.
    label : str
        Of the table.
    about : str
        Begins its caption.
    """
    found = reference.load(name)
    if found is None:
        return _not_run(name)
    rows, records, refit = summary(found["metrics"]), found["metrics"]["records"], found["metrics"].get("refit")
    learnt = records["train"] + (records["validation"] if refit else 0)
    wanted = [*wanted]
    absent = [row.name for row in configurations.TABLE if row.name in wanted and row.name not in set(rows["row"])]
    how = " (folds 1-8, for the number of epochs that fold 8 chose)" if refit else ""
    caption = (
        f"{about} Reference run on {reference.RUNS[name][0]}: trained on {learnt:,} recordings{how}, tested on "
        f"{records['test']:,}. Number of seeds, and headline metrics: mean ± standard deviation over seeds and "
        "95 % interval over patients; the spread over seeds is not in the interval. Floors come last."
        f"{f' Not run: {evaluation.words(absent)}.' if absent else ''}{since(found['metrics'])}"
    )
    return results.table(rows[rows["row"].isin(wanted)], caption, label)


def shown_costs(name: str, wanted: Iterable[str], label: str) -> Any:
    """Table of what rows of a reference run took, as :func:`shown`."""
    found = reference.load(name)
    if found is None:
        return _not_run(name)
    rows = costs(found["metrics"])
    caption = (
        f"What the rows took. Reference run on {reference.RUNS[name][0]}: parameters that were trained and in all, and "
        "epochs and processor seconds of a seed, without the features of frozen backbones, which are computed before. "
        "Of a row that goes on from another: its own epochs, the seconds of both; of one with a model a task: sums "
        f"over the models.{since(found['metrics'])}"
    )
    return results.table(rows[rows["row"].isin([*wanted])], caption, label)


def _not_run(name: str) -> Any:
    from IPython.display import Markdown

    of, needs, options = reference.RUNS[name]
    said = reference.command({**options, "folder": "data/reference"})
    return Markdown(f"**Not run yet**: the reference run on {of} needs {needs}; `{said}` makes it.")


def against(comparisons: pd.DataFrame) -> pd.DataFrame:
    """ECG-MoE minus each row, task by task, as text with its interval, and a mark where it is clear.

    Parameters
    ----------
    comparisons : DataFrame
        From :func:`ecgmoe.ablation.compare`.
    """
    pairs = ablation.levelled(comparisons)
    marks = pairs["better"].map({"model": " ▲", "baseline": " ▼", "neither": ""})
    cells = [
        "level" if row["low"] == row["high"] == 0 else evaluation.difference_text(row, sign="+")
        for row in pairs.to_dict("records")
    ]
    wide = pairs.assign(cell=pd.Series(cells, index=pairs.index) + marks)
    wide = wide.pivot(index="baseline", columns="task", values="cell").loc[list(dict.fromkeys(pairs["baseline"]))]
    names = [name for name in tasks.TASKS if name in wide]
    titles = [evaluation.task_label(tasks.TASKS[name]) for name in names]
    return wide[names].set_axis(titles, axis=1).fillna("–").rename_axis("row").reset_index()


#: Floors and models of the front page's table, and what they are.
FRONT = {
    evaluation.MEAN: "",
    evaluation.PEAKS: "",
    evaluation.CHARACTERISTICS: ", linear",
    "EnECG mended + characteristics": "",
    configurations.ALONE: "",
    "Time MoE": ", Table 3",
    "ResNet": "",
    "ResNet + characteristics": "",
    configurations.FULL: ", frozen backbones",
    configurations.TRAINED: "",
}


def front_table(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Lines of Markdown: headline scores of the rows of :data:`FRONT` that a run has, and their seeds."""
    scores = metrics["scores"].set_index(["model", "task", "metric"])["value"]
    seeds = metrics["sizes"].set_index("row")["seeds"]
    asked = [tasks.TASKS[name] for name in ("rr", "age", "sex", "rhythm")]
    yield "| | " + " | ".join(evaluation.task_label(task) for task in asked) + " | seeds |"
    yield "|---|" + "---:|" * (len(asked) + 1)
    for model, about in FRONT.items():
        if model not in scores:
            continue
        values = [scores.get((model, task.name, task.metric), float("nan")) for task in asked]
        places = [evaluation.places(task.name) for task in asked]
        cells = ["–" if value != value else f"{value:.{n}f}" for value, n in zip(values, places, strict=True)]
        yield f"| {model}{about} | " + " | ".join(cells) + f" | {seeds.get(model, '–')} |"


def against_rivals(metrics: Mapping[str, Any], rival: str = "ResNet") -> str:
    """Which rivals ECG-MoE beats in a run, and which beat it, in words; differences below 1 ms are none."""
    told = f"{rival} + characteristics"

    def answers(among: "pd.Series[bool]") -> str:
        names = [evaluation.spoken(tasks.TASKS[str(name)]) for name in among.index[among]]
        return evaluation.words(names) if names else "nothing"

    def verdict(comparisons: pd.DataFrame, groups: Mapping[str, Sequence[str]]) -> str:
        pairs, better, worse = ablation.levelled(comparisons), [], pd.Series(dtype=bool)
        for words, names in groups.items():
            own = pairs[pairs["baseline"].isin(names)]
            if len(own):
                than_all = (own["better"] == "model").groupby(own["task"], sort=False).all()
                better.append(f"than {words} in {answers(than_all)}")
                worse = pd.concat([worse, (own["better"] == "baseline").groupby(own["task"], sort=False).any()])
        behind = answers(worse.groupby(level=0, sort=False).any())
        return f"clearly better {', '.join(better)}; clearly worse than any of these in {behind}"

    rivals = configurations.groups()["Table 3"]
    plain = {f"a plain {rival}": [rival], f"a {rival} that is told the signal characteristics": [told]}
    said = (
        f"{configurations.FULL} over frozen backbones is "
        f"{verdict(metrics['comparisons'], {**plain, f'all {len(rivals)} rivals of Table 3': rivals})}."
    )
    if "trained_comparisons" in metrics:
        as_much = {"ECG-FM trained alone in the same way and told as much": [configurations.ALONE]}
        said += (
            f" With ECG-FM, one of its backbones, trained with it, it is "
            f"{verdict(metrics['trained_comparisons'], plain | as_much)}."
        )
    return said


def of_tuning(metrics: Mapping[str, Any]) -> str:
    """How often a backbone that learns too is worse than the frozen head it goes on from, by the mean over seeds."""
    values = metrics["scores"].set_index(["model", "task", "metric"])["value"]
    seeds = metrics["sizes"].set_index("row")["seeds"]
    pairs = [(row.name, str(row.after)) for row in configurations.TABLE if row.group == "tuned backbones" and row.after]
    pairs = [(name, head) for name, head in pairs if name in seeds and head in seeds]
    if not pairs:
        return "No backbone that learns was run together with its frozen head."
    n, n_worse, which = 0, 0, []
    for name, head in pairs:
        lost = []
        for task in tasks.TASKS.values():
            tuned, frozen = (values.get((row, task.name, task.metric), np.nan) for row in (name, head))
            gain = tuned - frozen if task.higher_is_better else frozen - tuned
            n += int(np.isfinite(gain))
            if gain < 0 and -gain >= ablation.LEAST.get(task.name, 0.0):
                lost.append(evaluation.spoken(task))
        n_worse += len(lost)
        if lost:
            which.append(f"{name} ({evaluation.words(lost)})")
    tuned_seeds, head_seeds = (
        " or ".join(of_seeds(n) for n in sorted(set(seeds[list(names)]))) for names in zip(*pairs, strict=True)
    )
    return (
        f"By the mean over seeds it is worse in {n_worse} of {n} comparisons{': ' if which else ''}{'; '.join(which)}. "
        f"That is no more than a hint: these rows have {tuned_seeds}, the heads {head_seeds}, and no difference was "
        "tested."
    )


def of_seeds(n: int) -> str:
    """Number of seeds in words for a sentence."""
    return "one seed" if n == 1 else f"{n} seeds"


def in_figures(comparisons: pd.DataFrame) -> dict[str, str | int]:
    """What the comparisons say of ECG-MoE, as numbers and lists of names for sentences; tiny differences are level.

    Parameters
    ----------
    comparisons : DataFrame
        From :func:`ecgmoe.ablation.compare`.

    Returns
    -------
    dict
        ``compared, ahead, behind, open``: comparisons, and how many of them are clear (p < 0.05, adjusted for all) or
        not; ``level``: rows that are not clearly apart on any task; ``better_rows``: rows that are clearly better on
        some, with these; ``backbones_ahead``: rows of one backbone whose mean is better on some, with these; then of
        each of ``single`` (frozen backbones alone), ``told`` (the same with the characteristics), ``tuned`` (backbones
        that are trained) and ``floor``: how many there are (``_n``), against how many ECG-MoE is better by the mean or
        level on all tasks that they answer (``_all``), the least number of tasks on which the interval leaves out 0 in
        its favour (``_least``), and on which one that is (``_hardest``).
    """
    comparisons = ablation.levelled(comparisons)
    counted = ablation.counts(comparisons).set_index("row")
    apart = counted["holm_better"] + counted["holm_worse"]
    titles = {name: task.title for name, task in tasks.TASKS.items()}
    ours = counted.index[~counted.index.isin(evaluation.FLOORS)]
    up = comparisons["task"].map({name: 1 if task.higher_is_better else -1 for name, task in tasks.TASKS.items()})

    def where(rows: Iterable[str], holds: pd.Series) -> str:
        """Rows for which something holds, each with the tasks on which it does."""
        on = {row: comparisons["task"][holds & (comparisons["baseline"] == row)].astype(str) for row in rows}
        said = [f"{row} ({evaluation.words(part.map(titles))})" for row, part in on.items() if len(part)]
        return "; ".join(said) or "none"

    by_group = configurations.groups()
    alone, tuned = by_group["single backbones"], by_group["tuned backbones"]
    found: dict[str, str | int] = {
        "compared": len(comparisons),
        "ahead": int(counted["holm_better"].sum()),
        "behind": int(counted["holm_worse"].sum()),
        "open": len(comparisons) - int(apart.sum()),
        "level": evaluation.words(row for row in ours if apart[row] == 0),
        "better_rows": where(ours, comparisons["better"] == "baseline"),
        "backbones_ahead": where([*alone, *tuned], up * comparisons["difference"] < 0),
    }
    kinds = {
        "single": [row for row in alone if row.endswith(": head")],
        "told": [row for row in alone if not row.endswith(": head")],
        "tuned": tuned,
        "floor": list(evaluation.FLOORS),
    }
    for kind, rows in kinds.items():
        part = counted[counted.index.isin(rows)]
        found[f"{kind}_n"] = len(part)
        found[f"{kind}_all"] = int((part["worse"] == 0).sum())
        found[f"{kind}_least"] = int(part["clearly_better"].min()) if len(part) else 0
        found[f"{kind}_hardest"] = str(part["clearly_better"].idxmin()) if len(part) else "none"
    return found


def describe(content: Mapping[str, Any]) -> Iterator[str]:
    """Lines for the terminal: every row with its cost and scores, and on how many tasks ECG-MoE beats it."""
    metrics = content["metrics"]
    yield f"{metrics['records']}, {content['provenance']['device']}"
    yield from summary(metrics).to_string(index=False).splitlines()
    yield ""
    yield from costs(metrics).to_string(index=False).splitlines()
    yield ""
    yield from ablation.counts(metrics["comparisons"]).to_string(index=False).splitlines()
    if "causes" in metrics:
        yield ""
        yield from metrics["causes"].to_string(index=False).splitlines()
    yield ""
    yield from (f"{key}: {value}" for key, value in in_figures(metrics["comparisons"]).items())
