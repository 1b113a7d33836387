"""The book: its sources, its exercises, its machinery on a small book, and the rendered pages without a browser."""

import ast
import builtins
import csv
import json
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import ecgmoe_book as book
import first_cell
import install_here
import nbformat
import numpy as np
import pandas as pd
import print_book as printing
import pytest
import report_runs
import torch
import yaml
from bs4 import BeautifulSoup
from local_server import serve
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from synthetic import toy_cohort

import ecgmoe
from ecgmoe import (
    ablation,
    backbones,
    baselines,
    beats,
    bench_inference,
    chapters,
    enecg,
    evaluation,
    features,
    findings,
    paper,
    plots,
    prediction,
    reference,
    results,
    training,
)
from ecgmoe.__main__ import app as command_line

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TOC = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
ENTRIES = [entry for part in TOC["parts"] for entry in part["chapters"]]
PAGES = [page["file"] for entry in ENTRIES for page in (entry, *entry.get("sections", ()))]


# --- the sources


def test_every_chapter_is_in_the_contents_and_every_page_exists():
    assert [f"notebooks/{path.stem}" for path in NOTEBOOKS] == [page for page in PAGES if page.startswith("notebooks/")]
    prose = [page for page in [TOC["root"], *PAGES] if not page.startswith("notebooks/")]
    assert all((ROOT / "book" / f"{page}.md").exists() for page in prose)
    assert {path.stem for path in (ROOT / "book").glob("*.md")} == {page for page in prose if "/" not in page}


def test_every_module_is_in_the_reference_once():
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "book" / "api").glob("*.md")}
    documented = re.findall(r"automodule:: ([\w.]+)", "\n".join(pages.values()))
    found = {module.name for module in pkgutil.walk_packages(ecgmoe.__path__, "ecgmoe.")}
    # Of two packages everything is documented as it is imported, from the package.
    found = {name for name in found if not name.startswith(("ecgmoe.plots.", "ecgmoe.store."))} - {"ecgmoe.__main__"}
    assert sorted(documented) == sorted(found)
    assert {f"api/{name}" for name in pages} == {page for page in PAGES if page.startswith("api/")}


def test_a_page_tells_what_can_be_changed_and_links_figures_to_their_code(tmp_path):
    for source in NOTEBOOKS:
        parameters = chapters.declared(source.stem)
        page = nbformat.reads(book.page_of(source, parameters), as_version=4)
        at = next(i for i, cell in enumerate(page.cells) if cell.source.startswith("## Parameters"))
        assert all(f"| `{name}` |" in page.cells[at].source for name in parameters)
        assert page.cells[at + 1].source.startswith("## Exercises")
        figures = [
            cell.metadata.mystnb.figure.caption for cell in page.cells if "figure" in cell.metadata.get("mystnb", {})
        ]
        drawn = [re.search(r"Code: \{py:func\}`~ecgmoe\.plots\.(\w+)`\.$", caption) for caption in figures]
        assert drawn and all(match and match[1] in plots.__all__ for match in drawn), source.stem


def test_what_unfolds_in_the_sidebar_has_a_name():
    folded = "<li><a href='#'>The library</a><details><summary><span></span></summary></details></li>"
    context = {"generate_toctree_html": lambda **_: BeautifulSoup(folded, "html.parser")}
    book.name_what_unfolds(None, "intro", "page.html", context, None)
    assert context["generate_toctree_html"](kind="sidebar").summary["aria-label"] == "Pages of The library"


def test_the_front_page_tells_every_claim_and_what_holds_on_real_hearts(monkeypatch):
    said = "\n".join(book.found())
    verdicts = paper.audit()
    named = {"holds", "contradicted", "not derivable"}
    assert all((one.claim in said) == (one.verdict in named) for one in verdicts)
    assert sum(int(n) for n in re.findall(r"\*\*(\d+) ", said)) == len(verdicts)
    scores = reference.load("reference_ptbxl")["metrics"]["scores"].set_index(["model", "task", "metric"])["value"]
    for model in findings.FRONT:
        line = next(line for line in said.splitlines() if line.startswith((f"| {model} |", f"| {model},")))
        cells = [cell.strip() for cell in line.split("|")[2:6]]
        shown = (("rr", "mae", 1), ("age", "mae", 2), ("sex", "macro_f1", 3), ("rhythm", "accuracy", 3))
        for (task, metric, places), cell in zip(shown, cells, strict=True):
            value = scores.get((model, task, metric))
            assert cell == ("–" if value is None else f"{value:.{places}f}")
    monkeypatch.setattr(reference, "load", lambda _: None)
    assert "real hearts" not in "\n".join(book.found())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_is_a_clean_source(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert notebook.cells[0].source.startswith("# ")
    assert [cell for cell in code if "parameters" in cell.metadata.get("tags", [])] == code[1:2]
    assert not any(re.search(r"(?<![\w.])/(home|root|tmp|work|Users)/", cell.source) for cell in notebook.cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_has_a_caption_a_name_and_an_alternative_text(path):
    for cell in nbformat.read(path, as_version=4).cells:
        shown = cell.metadata.get("mystnb", {})
        if "figure" in shown or "image" in shown:
            assert len(shown["figure"]["caption"]) > 20, cell.source
            assert shown["figure"]["name"].startswith("fig-")
            assert len(shown["image"]["alt"]) > 20, cell.source


def test_parameters_bear_the_same_type_default_and_comment_everywhere():
    lines = {}
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        source = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
        for line in source.splitlines():
            match = re.fullmatch(r"(\w+): \w+ = .+?  # .+", line)
            assert match, f"{path.stem}: a parameter needs a type, a value and a comment: {line}"
            lines.setdefault(match.group(1), {})[line] = path.stem
    assert {name: seen for name, seen in lines.items() if len(seen) > 1} == {}


def test_equations_bear_the_numbers_of_the_paper_once_each():
    text = "\n".join(path.read_text(encoding="utf-8") for path in NOTEBOOKS)
    assert sorted(re.findall(r"\\\\tag\{(\d)\}", text)) == list("12345")
    assert sorted(re.findall(r"\(eq-(\d)\)=", text)) == list("12345")


def test_every_reference_of_the_bibliography_is_complete():
    text = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{(\w+),(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    assert len({key for key, _ in entries}) == len(entries) > 5
    for key, fields in entries:
        assert re.search(r"\byear\s*=", fields), key
        assert re.search(r"\b(doi|url)\s*=", fields), key


# --- the first cell


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_fetches_this_version_from_the_address_of_the_settings(path):
    cell = nbformat.read(path, as_version=4).cells[1]
    assert cell.source == first_cell.source(), "run `make first-cells`"
    assert cell.metadata.tags == ["remove-cell"]
    assert len(list(filter(None, cell.source.splitlines()))) < 15


def settings(folder, url):
    (folder / "_config.yml").write_text(yaml.safe_dump({"repository": {"url": url}}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("url", "written"),
    [("https://github.com/a/b.git", "https://github.com/a/b"), ("", ""), ("https://user:token@github.com/a/b", "")],
)
def test_the_first_cell_is_written_from_the_settings_once(tmp_path, url, written):
    (tmp_path / "notebooks").mkdir()
    write_chapter(tmp_path, "01_a", "1")
    path = tmp_path / "notebooks" / "01_a.ipynb"
    before = nbformat.read(path, as_version=4).cells
    for _ in range(2):
        first_cell.write(path, first_cell.source(settings(tmp_path, url)))
    now = nbformat.read(path, as_version=4).cells
    assert now[:1] + now[2:] == before
    assert f'repository, tag = "{written}", "v{ecgmoe.__version__}"' in now[1].source
    nbformat.validate(nbformat.read(path, as_version=4))


def test_the_first_cell_does_nothing_here_and_says_what_to_do_where_it_does_not_know_the_address(tmp_path, monkeypatch):
    text = first_cell.source(settings(tmp_path, ""))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules), list(sys.path), set(tmp_path.iterdir())
    exec(text, {})
    assert (set(sys.modules), sys.path, set(tmp_path.iterdir())) == before
    (tmp_path / "ecgmoe").mkdir()  # no package, whatever Python says
    done = subprocess.run([sys.executable, "-I", "-S", "-c", text], cwd=tmp_path, capture_output=True, text=True)
    assert "between the quotes above, write where the repository is" in done.stderr


PIP = """import json, os, sys
from pathlib import Path
target = Path(sys.argv[sys.argv.index("--target") + 1])
with Path(os.environ["ASKED"]).open("a", encoding="utf-8") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
installed = [path for path in json.loads(os.environ["INSTALLED"]) if "-packages" in path]
lines = [*installed, os.getcwd()]  # the last as `-e .` does it
(target / "all.pth").write_text("\\n".join(lines) + "\\n", encoding="utf-8")
"""

RUNTIME = """import json, sys
cells = json.loads(sys.stdin.read())
namespace = {}
for cell in cells:
    exec(cell, namespace)
import ecgmoe, importlib.util, torch
print(json.dumps([ecgmoe.__file__, torch.__file__, importlib.util.find_spec("of_the_machine") is None]))
print(namespace["cohort"].card.name, len(namespace["cohort"]))
"""


@pytest.mark.slow
def test_a_chapter_alone_on_another_machine_fetches_what_it_needs_into_the_running_process(tmp_path):
    """The repository is a bare clone with a tag; pip is a witness that makes this environment's packages findable."""
    source, bare, machine, work = (tmp_path / name for name in ("source", "bare.git", "machine", "a folder"))
    for folder in ("ecgmoe", "data", "book"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("notebooks", "__pycache__"))
    for name in ("pyproject.toml", "constraints.txt", "README.md", ".gitignore"):
        shutil.copy(ROOT / name, source)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false", "-C", str(source)]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"], ["tag", f"v{ecgmoe.__version__}"]):
        subprocess.run([*git, *arguments], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(source), str(bare)], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(machine)], check=True)
    (packages,) = machine.glob("lib/python*/site-packages")
    (packages / "pip").mkdir()
    (packages / "pip" / "__main__.py").write_text(PIP, encoding="utf-8")
    (packages / "of_the_machine.py").touch()
    work.mkdir()

    _, parameters, load = (cell.source for cell in cells_of(CHAPTERS[0])[1:4])
    parameters += f"\ndata_root = {str(source / 'data' / 'simulated_sample')!r}"
    cells = [first_cell.TEMPLATE.format(url=bare.as_uri(), version=ecgmoe.__version__), parameters, load]
    asked = tmp_path / "asked"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"ASKED": str(asked), "INSTALLED": json.dumps(sys.path)}
    for before in ("Installing what ecgmoe needs", "ecgmoe "):
        command = [machine / "bin" / "python", "-c", RUNTIME]
        done = subprocess.run(
            command, input=json.dumps(cells), cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        said, files, cohort = done.stdout.rsplit("\n", 3)[:3]
        assert said.startswith(before)
        clone = work / f"ecgmoe-v{ecgmoe.__version__}"
        assert f"are in {clone}" in said
        assert json.loads(files) == [str(clone / "ecgmoe" / "__init__.py"), torch.__file__, True]
        assert cohort.split()[-1] != "0"
    once = [json.loads(line) for line in asked.read_text(encoding="utf-8").splitlines()]
    assert [line[-1] for line in once] == [".[book]", "momentfm"]
    pins = clone / ".cache" / "constraints.txt"
    assert all(line[line.index("-c") + 1] == str(pins) for line in once)
    assert pins.read_text(encoding="utf-8") == (ROOT / "constraints.txt").read_text(encoding="utf-8")
    status = subprocess.run(["git", "-C", clone, "status", "--porcelain"], capture_output=True, text=True, check=True)
    assert status.stdout == ""


def test_a_compiled_package_that_is_loaded_already_keeps_its_version(monkeypatch, tmp_path):
    there = SimpleNamespace(__version__="2.0.2", __file__=str(tmp_path / "numpy" / "__init__.py"))
    monkeypatch.setattr(install_here, "PACKAGES", tmp_path / "ours")
    for name in install_here.MAYBE_LOADED:
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert install_here.loaded() == {}
    monkeypatch.setitem(sys.modules, "numpy", there)
    assert install_here.loaded() == {"numpy": "2.0.2"}
    monkeypatch.setattr(install_here, "PACKAGES", tmp_path)  # a second run of the cell finds our own
    assert install_here.loaded() == {}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert install_here.constraints({}) == pins
    changed = set(install_here.constraints({"numpy": "2.0.2"}).splitlines()) ^ set(pins.splitlines())
    assert changed == {"numpy==2.0.2", f"numpy=={np.__version__}"}


# --- the exercises

CHAPTERS = [path.stem for path in NOTEBOOKS]
EXERCISE = re.compile(r"^\*\*(\d)\. (\w+)\.\*\* (.+?)\n\n:::\{dropdown\} Answer\n(.+?)\n:::$", re.MULTILINE | re.DOTALL)


def cells_of(chapter):
    return nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4).cells


def exercises_of(chapter):
    """Source of the section."""
    return cells_of(chapter)[-2].source


def blocks(chapter, language):
    return re.findall(rf"^```{language}\n(.+?)^```$", exercises_of(chapter), re.MULTILINE | re.DOTALL)


def code_of(chapter):
    """The statements of a chapter."""
    return [node for cell in cells_of(chapter) if cell.cell_type == "code" for node in ast.parse(cell.source).body]


class Bound(ast.NodeVisitor):
    """Names that statements leave behind in a module."""

    def __init__(self, nodes):
        self.names = set()
        for node in nodes:
            self.visit(node)

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Store):
            self.names.add(node.id)

    def visit_alias(self, node):
        self.names.add((node.asname or node.name).partition(".")[0])

    def visit_FunctionDef(self, node):
        self.names.add(node.name)

    def inner(self, node):
        """Its names stay inside."""

    visit_Lambda = visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = inner


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_ends_with_three_exercises_and_their_folded_answers(chapter):
    *_, section, last = cells_of(chapter)
    assert section.cell_type == "markdown" and section.id.startswith("exercises-")
    assert section.source.startswith("## Exercises\n")
    assert last.cell_type == "code" and last.source.startswith("results.save(")
    found = EXERCISE.findall(section.source)
    assert [(number, kind) for number, kind, *_ in found] == [("1", "Think"), ("2", "Run"), ("3", "Write")]
    assert section.source.count(":::") == 6
    (_, _, thought, thoughts), (_, _, run, _), (_, _, _, written) = found
    assert "```" not in thought + thoughts
    assert "```bash\n" in run and "```python\n" in written
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert "colon_fence" in config["parse"]["myst_enable_extensions"], "without it a dropdown is plain text"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_what_an_exercise_runs_are_commands_and_parameters_that_there_are(chapter, monkeypatch):
    monkeypatch.setattr(Path, "is_dir", lambda _: True)  # folders are made by the command before, or are the reader's
    lines = [shlex.split(line) for block in blocks(chapter, "bash") for line in block.splitlines()]
    assert all(line[:3] == [".venv/bin/python", "-m", "ecgmoe"] for line in lines)
    assert {line[3] for line in lines} <= set(command_line.commands)
    (of_chapters,) = (line[4:] for line in lines if line[3] == "chapters")
    name, options = of_chapters[0], of_chapters[1:]
    assert options[::3] == ["-p"] * (len(options) // 3) != []
    given = dict(zip(options[1::3], options[2::3], strict=True))
    planned = chapters.plan([name], given)
    assert list(planned) == [chapter] and set(planned[chapter]) == set(given)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_what_exercises_refer_to_is_in_the_chapter(chapter):
    cells = cells_of(chapter)
    rest = "".join(json.dumps(cell) for cell in cells if cell != cells[-2])
    wanted = re.findall(r"\{numref\}`([^`]+)`", exercises_of(chapter))
    wanted += re.findall(r"\{glue:text\}`(\w+)", exercises_of(chapter))
    assert wanted and [name for name in wanted if f'"{name}"' not in rest.replace('\\"', '"')] == []


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_python_of_exercises_uses_what_the_chapter_has_defined(chapter):
    known = Bound(code_of(chapter)).names | set(dir(builtins))
    for source in blocks(chapter, "python"):
        nodes = ast.walk(ast.parse(source))
        names = [node for node in nodes if isinstance(node, ast.Name)]
        stored = {node.id for node in names if isinstance(node.ctx, ast.Store)} | Bound(ast.parse(source).body).names
        assert {node.id for node in names} - stored - known == set()
        assert max(map(len, source.splitlines())) <= 120


@pytest.fixture(scope="module")
def toy():
    """A cohort with what chapters make of it: features of backbones, and networks after an epoch."""
    cohort = toy_cohort(60)
    rng, config = np.random.default_rng(0), training.FitConfig(epochs=1)
    inputs = features.from_signal(cohort.signal, cohort.fs)
    drawn = {name: rng.normal(size=(len(cohort), 4)).astype(np.float32) for name in backbones.NAMES}
    inputs = inputs._replace(features={name: torch.from_numpy(values) for name, values in drawn.items()})
    return SimpleNamespace(
        cohort=cohort,
        inputs=inputs,
        frozen={backbones.TITLES[name]: values for name, values in drawn.items()},
        fitted=training.train(cohort, inputs, names=(), config=config),
        mended=enecg.train_mended(cohort, inputs, config),
    )


def made_by(chapter, toy, model):
    """What the Python of a chapter's exercise takes from the chapter, in small."""
    cohort, test = toy.cohort, toy.cohort.split == "test"
    runs = {"ECG-MoE": toy.fitted.predictions, "Time MoE": baselines.floors(cohort)[evaluation.CHARACTERISTICS]}
    parts = [bench_inference.ONE_PASS, bench_inference.BEATS, *backbones.TITLES.values(), bench_inference.FUSION]
    made = {
        "02_periodicity": lambda: {"peaks": beats.detect_r_peaks(cohort.signal, cohort.fs)},
        "03_zero_shot": lambda: {"frozen": toy.frozen},
        "04_periodic_moe": lambda: {
            "fitted": toy.fitted,
            "inputs": toy.inputs,
            "titles": [task.title for task in cohort.tasks.values()],
        },
        "05_lora_fusion": lambda: {"full": toy.fitted, "undone": {"sex": odds_halved(toy.fitted.predictions["sex"])}},
        "06_efficiency": lambda: {"parts": pd.DataFrame({"ms_per_record": [9.0, 2.0, *range(1, 7)]}, index=parts)},
        "07_ablation": lambda: {
            "scores": evaluation.score_table(runs, cohort, n_boot=50),
            "pairs": ablation.compare(runs, cohort),
        },
        "09_enecg": lambda: {"mended": {"none": toy.mended}, "inputs": toy.inputs},
        "10_your_ecg": lambda: {"test": np.flatnonzero(test), "predictor": prediction.load(model)},
    }
    return {"cohort": cohort, "test": test, "seed": 0} | made.get(chapter, dict)()


def odds_halved(claimed):
    return claimed / (claimed + 2 * (1 - claimed))


def executed(source, namespace):
    """Value of the last expression, as a notebook shows it; None after any other statement."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "exercise", "exec"), namespace)
    return last and eval(compile(ast.Expression(last.value), "exercise", "eval"), namespace)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_python_of_exercises_runs_and_shows_what_the_answer_says(
    chapter, toy, model, one_thread, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path))
    namespace = {}
    imports = [node for node in code_of(chapter) if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), chapter, "exec"), namespace)
    namespace |= made_by(chapter, toy, model)
    shown = [executed(source, namespace) for source in blocks(chapter, "python")][-1]
    said = capsys.readouterr().out
    assert said.strip() or shown is not None
    match chapter[:2]:
        case "01":
            classes = [line.split(" → ")[1] for line in said.splitlines()]
            assert ["block" in name for name in classes] == [True, *[False] * 4] and classes[-1] == "None"
            assert classes[3] == "sinus rhythm with pvc(s)", "a flutter, which is no sinus rhythm"
        case "02":
            none, *_, twentieth = (float(number) for number in re.findall(r"mean (\S+) ms", said))
            assert twentieth > 3 * none
        case "03":
            assert said.count("TimesNet") == 3
        case "04":
            assert float(said.split()[-1]) > 0.01
        case "05":
            of = shown.set_index("Metric")
            assert of.loc["AUROC", "as trained"] == of.loc["AUROC", "weights undone"]
        case "06":
            assert said.splitlines()[-1] == f"at most: {(2 + sum(range(1, 7))) / (2 + 6):.1f}"
        case "07":
            assert "difference" in said
        case "08":
            p = [float(number) for number in re.findall(r"p = (\S+)", said)]
            assert p == sorted(p, reverse=True) and p[0] > 0.05 > p[-1]
        case "09":
            assert len(shown) == len(toy.cohort.tasks)
        case "10":
            assert (tmp_path / "mine.npy").exists()
            assert shown.shape[1] == 2 and shown.loc["rr_ms", 0] == pytest.approx(shown.loc["rr_ms", 1], abs=5)


# --- the machinery


@pytest.mark.parametrize(
    ("setting", "address"),
    [
        ("https://github.com/someone/ecgmoe", "https://github.com/someone/ecgmoe"),
        ("https://github.com/someone/ecg.moe.git", "https://github.com/someone/ecg.moe"),
        ("https://gitlab.com/someone/ecgmoe/", "https://gitlab.com/someone/ecgmoe"),
        ("https://user:token@github.com/someone/ecgmoe", ""),
        ("git@github.com:someone/ecgmoe.git", ""),
        ("https://forge.internal/someone/ecgmoe", ""),
        ("/srv/git/ecgmoe.git", ""),
    ],
)
def test_only_a_public_address_makes_links(setting, address):
    assert book.repository_url(setting) == address


def test_without_a_setting_the_remote_origin_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "_CHECKOUT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert book.repository_url("") == ""
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "remote", "add", "origin", "https://github.com/someone/ecgmoe.git"], check=True)
    assert book.repository_url("") == "https://github.com/someone/ecgmoe"
    (tmp_path / "unpacked").mkdir()  # a ZIP, in another repository
    monkeypatch.setattr(results, "_CHECKOUT", tmp_path / "unpacked")
    assert book.repository_url("") == ""
    monkeypatch.setattr(results, "_CHECKOUT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert book.repository_url("") == ""


def test_links_point_at_the_sources_and_not_at_the_copies():
    links = [
        {"url": "https://github.com/a/b/blob/main/book/notebooks/01_data.ipynb", "buttons": ["book/intro.md"]},
        "https://mybinder.org/v2/gh/a/b/main?urlpath=lab%2Ftree%2Fbook%2Fnotebooks%2F01_data.ipynb",
        True,
    ]
    assert book.at_sources(links) == [
        {"url": "https://github.com/a/b/blob/main/notebooks/01_data.ipynb", "buttons": ["book/intro.md"]},
        "https://mybinder.org/v2/gh/a/b/main?urlpath=lab%2Ftree%2Fnotebooks%2F01_data.ipynb",
        True,
    ]


def test_the_citation_has_the_address_only_where_it_is_known():
    assert "url" not in book.citation("")
    assert "url     = {https://github.com/a/b}" in book.citation("https://github.com/a/b")
    assert "{The ecgmoe developers}" in book.citation("")


@pytest.mark.parametrize(
    ("setting", "buttons"),
    [
        ("https://github.com/a/b", {"binderhub_url", "colab_url"}),
        ("https://gitlab.com/a/b", {"binderhub_url"}),  # Colab opens GitHub only
        ("", {"binderhub_url"}),  # the remote origin makes links; the first cell of a chapter does not know it
    ],
)
def test_colab_is_offered_where_it_can_open_the_chapter_and_the_chapter_can_fetch_the_library(
    setting, buttons, tmp_path, monkeypatch
):
    monkeypatch.setattr(book, "BOOK", tmp_path)
    address = book.repository_url
    monkeypatch.setattr(book, "repository_url", lambda setting: address(setting or "https://github.com/a/origin"))
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    theme = {"repository_url": setting, "launch_buttons": config["launch_buttons"]}
    book.configure({"html_theme_options": theme, "html_static_path": []}, "")
    assert {key for key in theme["launch_buttons"] if key.endswith("_url")} == buttons


SHOWN = "shown = 6 * 7\nshown"


def write_chapter(checkout, name, source):
    cells = [
        new_markdown_cell(f"# Chapter {name}\n\n$$ a = b $$ (eq-{name})"),
        new_code_cell("seed: int = 0  # random seed", metadata={"tags": ["parameters"]}),
        new_code_cell(source),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=metadata), checkout / "notebooks" / f"{name}.ipynb")


@pytest.fixture
def checkout(tmp_path):
    """A checkout in small, with this book's machinery and two chapters of its own, where a path may well lead."""
    tmp_path = tmp_path / "Meine Bücher"
    tmp_path.mkdir()
    config = (ROOT / "_config.yml").read_text(encoding="utf-8")
    (tmp_path / "_config.yml").write_text(re.sub(r'(?m)^  url: ".*"$', '  url: ""', config), encoding="utf-8")
    for folder in ("book", "notebooks", "ecgmoe"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("CITATION.cff", "constraints.txt", *(f"book/{page}" for page in ("ecgmoe_book.py", "references.bib"))):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("runs", "citing", "bibliography"):
        shutil.copy(ROOT / "book" / f"{name}.md", tmp_path / "book")
    shutil.copytree(ROOT / "book" / "_static", tmp_path / "book" / "_static")
    for name in ("__init__.py", "chapters.py"):
        shutil.copy(ROOT / "ecgmoe" / name, tmp_path / "ecgmoe")
    (tmp_path / "book" / "intro.md").write_text("# Small book\n", encoding="utf-8")
    (tmp_path / "book" / "rerun.md").write_text("# Run it yourself\n", encoding="utf-8")
    pages = [{"file": page} for page in ("notebooks/01_a", "notebooks/02_b", "runs", "citing", "bibliography", "rerun")]
    toc = {"format": "jb-book", "root": "intro", "parts": [{"caption": "All", "chapters": pages}]}
    (tmp_path / "book" / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf-8")
    write_chapter(tmp_path, "01_a", SHOWN)
    write_chapter(tmp_path, "02_b", "'second chapter'")
    return tmp_path


def build(checkout, *options):
    """Build the small book from its root by the command that the README's `make book` calls."""
    return subprocess.run(
        [Path(sys.executable).with_name("jupyter-book"), "build", "book", *(options or ("-W", "-n", "--keep-going"))],
        cwd=checkout,
        env=os.environ
        | {"PYTHONPATH": str(checkout), "NO_COLOR": "1", "GIT_CEILING_DIRECTORIES": str(checkout.parent)},
        capture_output=True,
        text=True,
        check=False,
    )


def outputs_of(notebook):
    """Source and outputs of all code."""
    return [(cell.source, cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]


def test_the_book_shows_the_runs_repeats_nothing_and_turns_red_on_a_failure(checkout):
    first_cell.write(checkout / "notebooks" / "01_a.ipynb", first_cell.source())
    first = build(checkout)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "2 executed, 0 unchanged, 0 failed" in first.stdout
    page = checkout / "_build" / "html" / "notebooks" / "01_a.html"
    assert "find_spec" not in page.read_text(encoding="utf-8")
    assert ">42\n" in page.read_text(encoding="utf-8")
    run = nbformat.read(checkout / "runs" / "book" / "01_a.ipynb", as_version=4)
    copy = nbformat.read(checkout / "book" / "notebooks" / "01_a.ipynb", as_version=4)
    assert outputs_of(copy) == outputs_of(run)
    assert "papermill" in run.metadata
    assert "papermill" not in json.dumps(copy)
    times = (checkout / "_build" / "html" / "runs.html").read_text(encoding="utf-8")
    assert "02_b" in times
    assert "transformers" in times
    assert (checkout / "_build" / "html" / "_static" / "tex-svg-full.js").exists()

    start = time.perf_counter()
    second = build(checkout)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "0 executed, 2 unchanged, 0 failed" in second.stdout
    assert "0 added, 0 changed, 0 removed" in second.stdout
    assert time.perf_counter() - start < 60

    write_chapter(checkout, "01_a", SHOWN.replace("7", "8"))
    write_chapter(checkout, "02_b", "raise KeyError('lead')")
    third = build(checkout)
    assert third.returncode != 0
    assert "02_b, cell 3 (raise KeyError('lead')): KeyError: 'lead'" in third.stdout + third.stderr
    assert ">48\n" in page.read_text(encoding="utf-8")
    assert "KeyError" in (checkout / "_build" / "html" / "notebooks" / "02_b.html").read_text(encoding="utf-8")

    write_chapter(checkout, "02_b", "'second chapter'")
    with (checkout / "ecgmoe" / "__init__.py").open("a", encoding="utf-8") as file:
        file.write("# an edit of the library\n")
    fourth = build(checkout)
    assert fourth.returncode == 0, fourth.stdout + fourth.stderr
    assert "2 executed, 0 unchanged, 0 failed" in fourth.stdout
    assert "colab" not in page.read_text(encoding="utf-8") and "mybinder" not in page.read_text(encoding="utf-8")

    config = (checkout / "_config.yml").read_text(encoding="utf-8")
    published = config.replace('url: ""', 'url: "https://github.com/a/b"')
    (checkout / "_config.yml").write_text(published, encoding="utf-8")
    fifth = build(checkout)
    assert fifth.returncode == 0, fifth.stdout + fifth.stderr
    hrefs = re.findall(r'href="(https://[^"]*01_a\.ipynb)"', page.read_text(encoding="utf-8"))
    assert {link for link in hrefs if "edit" not in link} == {
        "https://mybinder.org/v2/gh/a/b/main?urlpath=lab/tree/notebooks/01_a.ipynb",
        "https://colab.research.google.com/github/a/b/blob/main/notebooks/01_a.ipynb",
    }


@pytest.mark.slow
def test_a_repository_puts_links_to_its_notebooks_on_the_pages_of_chapters(checkout):
    """Whatever the address of this checkout: launch and edit links as they are written, and none to the copies."""
    config = yaml.safe_load((checkout / "_config.yml").read_text(encoding="utf-8"))
    config["repository"]["url"] = "https://github.com/someone/ecgmoe"
    (checkout / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    done = build(checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {name: (checkout / "_build" / "html" / f"{name}.html").read_text() for name in ("notebooks/01_a", "intro")}
    launch = "https://mybinder.org/v2/gh/someone/ecgmoe/main?urlpath=lab/tree/notebooks/01_a.ipynb"
    assert [launch in page for page in pages.values()] == [True, False]
    assert "https://github.com/someone/ecgmoe/edit/main/notebooks/01_a.ipynb" in pages["notebooks/01_a"]
    assert "https://github.com/someone/ecgmoe/edit/main/book/intro.md" in pages["intro"]
    assert not any("book/notebooks" in page for page in pages.values())
    assert "url     = {https://github.com/someone/ecgmoe}" in (checkout / "book/_generated/citation.md").read_text()


@pytest.fixture
def site(tmp_path):
    """Address of a web server on this machine that has one page, ``there.html``."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "there.html").write_text("here I am", encoding="utf-8")
    with serve(tmp_path / "site") as address:
        yield address


def test_the_link_check_turns_red_on_a_dead_link_only(checkout, site):
    """The book of this test has an address of its own in it; the real one's addresses need the network."""
    toc = {"format": "jb-book", "root": "intro", "parts": [{"caption": "All", "chapters": [{"file": "runs"}]}]}
    (checkout / "book" / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    options = re.search(r"jupyter-book build book (--builder custom .*)", makefile).group(1).split()
    for page, code in (("there", 0), ("gone", 1)):
        text = f"# Small book\n\n[a page]({site}/{page}.html)\n"
        (checkout / "book" / "intro.md").write_text(text, encoding="utf-8")
        done = build(checkout, *options)
        assert done.returncode == code, done.stdout + done.stderr
        found = (checkout / "_build" / "linkcheck" / "output.txt").read_text(encoding="utf-8")
        assert (f"intro.md:3: [broken] {site}/gone.html" in found) == bool(code)


def test_a_doi_is_asked_of_the_register():
    asked = book.ask_the_register(None, "https://doi.org/10.1109/TBME.1985.325532")
    assert asked == "https://doi.org/api/handles/10.1109/TBME.1985.325532"
    assert book.ask_the_register(None, "https://arxiv.org/abs/2603.04589") is None


@pytest.mark.slow
def test_the_whole_book_is_printed_with_its_links(checkout, browser):
    """Chapters on pages of their own, links between them within the PDF, and no path of this machine in it."""
    with (checkout / "book" / "intro.md").open("a", encoding="utf-8") as file:
        file.write("\n{doc}`notebooks/02_b` and [elsewhere](https://example.org/there)\n")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (options,) = re.findall(r"jupyter-book build book (--builder singlehtml .*)", makefile)
    (page, pdf), *_ = re.findall(r"print_book\.py (\S+) (\S+)", makefile)
    done = build(checkout, *options.split())
    assert done.returncode == 0, done.stdout + done.stderr
    printing.print_pdf(checkout / page, checkout / pdf)
    content = (checkout / pdf).read_bytes()
    assert len(re.findall(rb"/Type /Page\b(?!s)", content)) >= 6
    assert b"(https://example.org/there)" in content
    assert b"/Dest" in content and b"/Outlines" in content
    assert b"file:" not in content and str(checkout.parent).encode() not in content
    assert not list((checkout / pdf).parent.glob(".*.partial"))


def test_what_cannot_be_printed_is_said(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no page .*none.html"):
        printing.print_pdf(tmp_path / "none.html", tmp_path / "none.pdf")
    page = tmp_path / "page.html"
    page.write_text("<p>text</p>", encoding="utf-8")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="install one of chromium"):
        printing.print_pdf(page, tmp_path / "page.pdf")
    (tmp_path / "chromium").write_text("#!/bin/sh\necho no display >&2\n", encoding="utf-8")
    (tmp_path / "chromium").chmod(0o755)
    with pytest.raises(RuntimeError, match="printed nothing of .*page.html:\nno display"):
        printing.print_pdf(page, tmp_path / "page.pdf")
    assert not (tmp_path / "page.pdf").exists()


# --- the report


@pytest.fixture
def runs(checkout):
    """A function that writes the numbers of a run of the small book."""
    (checkout / "runs" / "book").mkdir(parents=True)

    def write(name, metrics, failed=False):
        stem = f"{name}.failed" if failed else name
        cells = [new_code_cell("1", metadata={"papermill": {"duration": 1.5}})]
        metadata = {
            "papermill": {"start_time": "2026-01-02T03:04:05", "duration": 2.0},
            "ecgmoe": {"machine": "a machine", "python": "3.11.0"},
        }
        folder = checkout / "runs" / "book"
        nbformat.write(new_notebook(cells=cells, metadata=metadata), folder / f"{stem}.ipynb")
        if not failed:
            content = {"chapter": name, "provenance": {"time": time.time()}, "metrics": metrics}
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")

    return write


def test_the_report_says_what_changed_since_the_last_one(checkout, runs):
    runs("01_a", {"scores": [{"model": "ECG-MoE", "mae": 2.0}, {"model": "Zero", "mae": None}], "n": 3})
    runs("02_b", {"share": 0.5, "seconds": 3.0})
    folder = report_runs.report(checkout)
    first = (folder / "report.md").read_text(encoding="utf-8")
    assert "| `01_a` | 2026-01-02 03:04 | 2 | 2 | a machine | 3.11.0 |" in first
    assert "| `01_a` | not reported before |" in first

    runs("01_a", {"scores": [{"model": "ECG-MoE", "mae": 2.5}, {"model": "Zero", "mae": 4.0}], "n": 3, "new": True})
    runs("02_b", {"share": 0.5 + 1e-9, "seconds": 4.0})
    report_runs.report(checkout)
    second = (folder / "report.md").read_text(encoding="utf-8")
    assert "| `01_a` | 3 | 0 |" in second and "| `02_b` | 0 | 1 |" in second
    with (folder / "changed.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["chapter", "where", "before", "now"],
            ["01_a", "scores[ECG-MoE].mae", "2.0", "2.5"],
            ["01_a", "new", "", "True"],
            ["01_a", "scores[Zero].mae", "", "there"],
        ]
    assert {path.name for path in folder.glob("*.ipynb")} == {"01_a.ipynb"}

    runs("02_b", {}, failed=True)
    (checkout / "runs" / "book" / "02_b.json").unlink()
    report_runs.report(checkout)
    third = (folder / "report.md").read_text(encoding="utf-8")
    assert "| `02_b` | failed |" in third and "| `01_a` | 0 | 0 |" in third
    assert {path.name for path in folder.glob("*.ipynb")} == {"02_b.failed.ipynb"}


# --- the rendered pages


class Page(HTMLParser):
    """What a rendered page refers to and shows."""

    def __init__(self, path):
        super().__init__()
        self.assets, self.images, self.classes = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.classes.update((attributes.get("class") or "").split())
        if tag == "img":
            self.images.append(attributes)
        if tag in ("script", "img", "iframe", "source", "video", "audio") and attributes.get("src"):
            self.assets.append(attributes["src"])
        if tag == "link" and {"stylesheet", "preload", "icon"} & set((attributes.get("rel") or "").split()):
            self.assets.append(attributes["href"])


@pytest.fixture(scope="module")
def pages():
    if not (HTML / "index.html").exists():
        pytest.skip("needs the built book: make book")
    return {page: Page(HTML / f"{page}.html") for page in [TOC["root"], *PAGES]}


def test_pages_need_nothing_from_the_network(pages):
    remote = {name: [asset for asset in page.assets if "//" in asset.split("?")[0]] for name, page in pages.items()}
    assert {name: assets for name, assets in remote.items() if assets} == {}
    for name, page in pages.items():
        for asset in page.assets:
            assert (HTML / name).parent.joinpath(asset.split("?")[0]).exists(), f"{name}: {asset}"
    for style in (HTML / "_static").rglob("*.css"):
        assert not re.search(r"""(@import|url\()\s*["']?(https?:)?//""", style.read_text(encoding="utf-8")), style


def test_every_image_has_an_alternative_text(pages):
    shown = {name: [image for image in page.images if not image.get("alt")] for name, page in pages.items()}
    assert {name: images for name, images in shown.items() if images} == {}


def test_every_chapter_shows_a_figure_and_no_stray_output(pages):
    for path in NOTEBOOKS:
        page = pages[f"notebooks/{path.stem}"]
        assert page.images, f"{path.stem} has no figure"
        assert not {"stderr", "traceback", "problematic"} & page.classes, path.stem


def test_the_book_shows_what_papermill_executed(pages):
    for path in NOTEBOOKS:
        run = nbformat.read(ROOT / "runs" / "book" / path.name, as_version=4)
        copy = nbformat.read(ROOT / "book" / "notebooks" / path.name, as_version=4)
        assert run.metadata.papermill.exception is None
        assert run.metadata.papermill.parameters == {}
        assert outputs_of(copy) == outputs_of(run)
