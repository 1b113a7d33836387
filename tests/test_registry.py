"""Whoever adds a backbone, a task, a data set or a chapter is told here what belongs to it."""

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

from ecgmoe import (
    backbones,
    chapters,
    configurations,
    datasets,
    evaluation,
    paper,
    probing,
    results,
    scaling,
    tasks,
    variants,
)
from ecgmoe.datasets import annotated, ptbxl

ROOT = Path(__file__).resolve().parents[1]
TESTS = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py")}
BOOK = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md"))


@pytest.mark.parametrize("name", backbones.NAMES)
def test_a_backbone_has_a_column_of_the_paper_a_chapter_and_a_parity_case(name):
    assert backbones.TITLES[name] in paper.TABLE_1
    assert backbones.TITLES[name] in paper.TABLE_2
    assert backbones.TITLES[name] in (ROOT / "notebooks" / "03_zero_shot.ipynb").read_text(encoding="utf-8")
    assert name.replace("-", "") in TESTS["test_parity"].lower().replace("-", "")


@pytest.mark.parametrize("name", tasks.TASKS)
def test_a_task_has_figures_of_the_paper_a_metric_and_a_label_column(name):
    task = tasks.TASKS[name]
    for table in (paper.TABLE_1, paper.TABLE_2, paper.TABLE_3):
        assert all(name in row for row in table.values())
    assert task.title in evaluation.task_label(task)
    assert (task.kind == "regression") == (not task.classes) == (task.metric == "mae")
    assert task.column in TESTS["test_ptbxl"] + TESTS["test_tasks"]


@pytest.mark.parametrize("card", datasets.cards(), ids=lambda card: card.name)
def test_a_data_set_has_a_complete_card(card):
    assert card.about and card.licence and card.references and card.notes
    assert card.doi or card is ptbxl.SIMULATED_CARD, "where it can be had"


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_a_data_set_offers_what_the_door_asks_of_it_and_is_tested_and_explained(name):
    module = import_module(f"ecgmoe.datasets.{name}")
    assert all(callable(getattr(module, part)) for part in ("find_root", "listing", "select", "cohort"))
    assert module.CARD in datasets.cards()
    assert f"## On {module.CARD.name}" in BOOK
    assert any(f"import {name}" in text or f", {name}" in text for text in TESTS.values())


@pytest.mark.parametrize("name", annotated.NAMES)
def test_a_set_of_annotated_beats_has_a_card_and_a_test(name):
    assert annotated.card(name) in datasets.cards()
    assert f'"{name}"' in TESTS["test_annotated"]


@pytest.mark.parametrize("name", chapters.names(ROOT))
def test_a_chapter_is_named_on_the_front_page(name):
    assert f"notebooks/{name}" in BOOK


def test_the_order_of_execution_names_chapters_that_exist():
    assert set(chapters.SLOWEST) <= set(chapters.names(ROOT))


def test_every_rival_has_its_name_in_table_3():
    assert {variants.PAPER_NAMES[name] for name in (*variants.RIVALS, "experts")} == set(paper.TABLE_3)


def test_the_reference_run_is_of_the_shipped_weights_and_the_front_page_tells_it():
    found, content = probing.reference()
    assert content["metrics"]["sha256 of the weights"] == {name: c["sha256"] for name, c in probing.cards().items()}
    assert content["provenance"]["parameters"]["max_records"] == 0
    better = probing.summary(found)["better than its twin"]
    told = "MOMENT and ECG-FM clearly better than their random twins on all four tasks, and TimesNet, DLinear and TEMPO"
    assert f"{told} on one at most" in " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert (better[["MOMENT", "ECG-FM"]] == 4).all()
    assert (better[["TimesNet", "DLinear", "TEMPO"]] <= 1).all()


@pytest.mark.parametrize("name", variants.RIVALS)
def test_a_rival_is_a_row_of_the_ablation_a_word_of_its_chapter_and_has_a_test(name):
    rows = [row for row in configurations.TABLE if row.shape.get("periodic") == name]
    assert [row.name for row in rows] == [variants.PAPER_NAMES[name]]
    assert variants.PAPER_NAMES[name] in (ROOT / "notebooks" / "07_ablation.ipynb").read_text(encoding="utf-8")
    assert "variants.RIVALS" in TESTS["test_moe"]


@pytest.mark.parametrize("group", configurations.groups())
def test_a_group_of_the_ablation_is_explained_and_its_rows_are_shown_and_trained_by_name(group):
    chapter = (ROOT / "notebooks" / "07_ablation.ipynb").read_text(encoding="utf-8")
    assert group == configurations.FULL or f"**{group}**" in chapter
    assert "for row in configurations.TABLE" in chapter, "a line a row"
    assert "for name, row in ROWS.items()" in TESTS["test_ablation"], "a test a row"


def test_the_measured_cost_holds_what_it_is_for_and_the_front_page_tells_it():
    metrics = results.reference("efficiency_published")["metrics"]
    ways = {way["way"]: way for way in metrics["ways"]}
    apart, shared = ways["one EnECG a task"], ways["one EnECG a task, features shared"]
    assert metrics["run"]["curve_records"] >= 1000
    assert apart["relative"] >= 4 and apart["own_share_of_peak"] <= 0.65
    assert metrics["epoch"]["ratio"] >= 50 and metrics["epoch"]["difference"] <= 1e-4
    assert "curve" in metrics and {row["axis"] for row in metrics["scaling"]} == set(scaling.AXES)
    assert 0.9 <= shared["relative"] <= 1.1, "level"
    grown = pd.DataFrame(metrics["scaling"])
    batches, precisions = (scaling.of(grown, axis)["relative"] for axis in (scaling.BATCH, scaling.PRECISION))
    others = scaling.of(grown, scaling.TASKS)["relative"]
    assert batches.iloc[-1] >= 1 and precisions["bfloat16"] < min(batches.min(), others.min()) / 2, "chapter 6 says so"
    told = (
        f"{apart['relative']:.1f} times as fast as five EnECG models, in {apart['own_share_of_peak']:.0%} of their "
        "memory; as soon as these share their frozen features, the two are level "
        f"({shared['relative']:.2f} times as fast, in {shared['own_share_of_peak']:.0%})"
    )
    assert told.replace("%", " %") in " ".join((ROOT / "README.md").read_text("utf-8").split())


def test_the_page_on_contributing_names_what_exists():
    page = (ROOT / "book" / "contributing.md").read_text(encoding="utf-8")
    words = re.findall(r"(?<!})`([^`\n]+)`", page)
    paths = [word for word in words if re.match(r"(ecgmoe|tests|book|notebooks|data)/", word)]
    assert len(paths) > 20 and [path for path in paths if not (ROOT / path).exists()] == []
    tests = [word for word in words if word.startswith("test_")]
    assert tests and all(any(f"def {name}(" in text for text in TESTS.values()) for name in tests)
    files = [*(ROOT / "ecgmoe").rglob("*.py"), ROOT / "tests" / "conftest.py"]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    names = [word for word in words if re.fullmatch(r"_?[A-Z][A-Z_]+|_[a-z]\w+", word)]
    assert len(names) > 10 and [name for name in names if not re.search(rf"\b{name}\b", code)] == []
    targets = re.findall(r"^([a-z-]+):.* ## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z-]+)(?=`|\s+#)", page)) <= set(targets)


def test_the_page_on_contributing_has_the_layers_in_their_order():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = project["tool"]["importlinter"]["contracts"]
    place = {name: i for i, layer in enumerate(contract["layers"]) for name in layer.split(" | ")}
    page = (ROOT / "book" / "contributing.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| [a-z ]+ \| (.*`.*) \|$", page, re.MULTILINE)
    places = [place[name] for row in table for name in re.findall(r"`(\w+)`", row)]
    assert len(places) > 30 and places == sorted(places)
