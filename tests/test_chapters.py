"""The runner, on small notebooks of its own; and real chapters with other parameters."""

import json
import os
import sys
from functools import partial
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ecgmoe import __main__ as command_line
from ecgmoe import chapters, datasets, store
from ecgmoe.datasets import simulated

ROOT = Path(__file__).resolve().parents[1]

PARAMETERS = """data_root: str = "simulated"  # "simulated", or the folder of PTB-XL as downloaded
preset: str = "compact"  # size of the backbones: compact or published
n: int = 3  # how many
rate: float = 0.5  # a rate
fast: bool = False  # whether to hurry
sizes: list = [1, 2]  # several"""

WITNESS = """import json, os, sys
from pathlib import Path
seen = {"python": sys.executable, "cwd": Path.cwd().name, "threads": os.environ["OMP_NUM_THREADS"], "n": n * 2}
(Path(os.environ["ECGMOE_RUN_DIR"]) / "01_first.json").write_text(json.dumps(seen))
n * 2"""


def write_notebook(root, name, *sources, parameters=PARAMETERS):
    cells = [new_markdown_cell(f"# {name}"), *map(new_code_cell, sources)]
    if parameters:
        cells.insert(1, new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (root / "notebooks").mkdir(exist_ok=True)
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=metadata), root / "notebooks" / f"{name}.ipynb")


@pytest.fixture
def checkout(tmp_path):
    """A checkout in small: two chapters, a library and data to digest."""
    (tmp_path / "ecgmoe").mkdir()
    for path in ("ecgmoe/toy.py", "constraints.txt", "README.md"):
        (tmp_path / path).write_text("# first\n", encoding="utf-8")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sample.dat").write_bytes(b"\0\1")
    write_notebook(tmp_path, "01_first", WITNESS)
    write_notebook(tmp_path, "02_second", "'no parameters here'", parameters=None)
    return tmp_path


def outputs(path):
    """Texts that the cells of an executed notebook returned."""
    notebook = nbformat.read(path, as_version=4)
    return [output["data"]["text/plain"] for cell in notebook.cells for output in cell.get("outputs", [])]


def test_chapters_are_found_in_the_order_of_the_book(checkout):
    assert chapters.names(checkout) == ["01_first", "02_second"]
    with pytest.raises(FileNotFoundError, match="checkout"):
        chapters.names(checkout / "data")


@pytest.mark.parametrize("path", ["ecgmoe/toy.py", "ecgmoe/deeper/new.py", "constraints.txt", "data/sample.dat"])
def test_what_a_chapter_depends_on_changes_its_digest(checkout, path):
    before = chapters.digest("01_first", checkout)
    assert chapters.digest("01_first", checkout) == before
    (checkout / path).parent.mkdir(exist_ok=True)
    (checkout / path).write_text("# second\n", encoding="utf-8")
    assert chapters.digest("01_first", checkout) != before


def test_a_digest_does_not_depend_on_other_chapters_or_prose(checkout):
    before = chapters.digest("01_first", checkout)
    (checkout / "README.md").write_text("# second\n", encoding="utf-8")
    write_notebook(checkout, "02_second", "'other'")
    assert chapters.digest("01_first", checkout) == before
    assert chapters.digest("02_second", checkout) != before


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("n", "-7", -7),
        ("rate", "1e-3", 1e-3),
        ("fast", "true", True),
        ("fast", "False", False),
        ("sizes", "[3]", [3]),
        ("preset", "published", "published"),
        ("data_root", "simulated", "simulated"),
    ],
)
def test_values_are_cast_to_the_declared_type(checkout, name, text, value):
    result = chapters.cast(text, chapters.declared("01_first", checkout)[name])
    assert (result, type(result)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text"), [("n", "3.5"), ("n", "many"), ("rate", "x"), ("fast", "yes"), ("sizes", "3"), ("sizes", "[")]
)
def test_values_of_another_type_are_refused(checkout, name, text):
    with pytest.raises(chapters.ParameterError, match=f"{name}.*is no"):
        chapters.cast(text, chapters.declared("01_first", checkout)[name])


def test_a_value_that_is_none_of_the_named_ones_is_refused():
    help_text = "backbones: compact, compact-random, published or published-random"
    parameter = {"name": "preset", "inferred_type_name": "str", "default": '"compact"', "help": help_text}
    for value in ("compact", "compact-random", "published", "published-random"):
        assert chapters.cast(value, parameter) == value
    with pytest.raises(chapters.ParameterError, match="'large' is none of compact, compact-random, published, publ"):
        chapters.cast("large", parameter)
    assert chapters.cast("any", parameter | {"help": "a name, such as this or that"}) == "any"


def test_paths_are_made_absolute_from_where_the_command_was_given(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("HOME", str(checkout))
    declared = chapters.declared("01_first", checkout)
    assert chapters.cast("data", declared["data_root"]) == str(checkout / "data")
    assert chapters.cast("~/data", declared["data_root"]) == str(checkout / "data")
    assert chapters.cast("published", declared["preset"]) == "published"


def test_a_folder_of_data_that_is_not_there_is_refused_before_a_kernel_starts(checkout, monkeypatch):
    monkeypatch.setenv("HOME", str(checkout))
    with pytest.raises(
        chapters.ParameterError, match="data_root: there is no folder ~/nowhere; give one, or simulated"
    ):
        chapters.plan(["01"], {"data_root": "~/nowhere"}, checkout)
    (checkout / "here").mkdir()
    for given in ("~/here", "simulated"):
        assert chapters.plan(["01"], {"data_root": given}, checkout)


def test_chapters_are_selected_by_beginning_and_get_only_what_they_declare(checkout):
    assert chapters.plan(["02", "01_f"], {"n": "5"}, checkout) == {"01_first": {"n": 5}, "02_second": {}}
    assert chapters.plan(["02"], {}, checkout) == {"02_second": {}}


def test_what_nobody_declares_is_refused_with_what_is_declared(checkout):
    with pytest.raises(chapters.ParameterError, match="'sede'.*declared are data_root, fast, n"):
        chapters.plan([], {"sede": "1"}, checkout)
    with pytest.raises(chapters.ParameterError, match="no selected chapter declares 'n'; declared are none"):
        chapters.plan(["02"], {"n": "1"}, checkout)
    for name in ("09", "0"):
        with pytest.raises(chapters.ParameterError, match="01_first, 02_second"):
            chapters.plan([name], {}, checkout)


def test_the_books_runs_are_repeated_only_when_something_changed(checkout):
    first = chapters.run(root=checkout)
    assert (first.executed, first.kept, first.failures) == (("01_first", "02_second"), (), {})
    assert first.folder == checkout / "runs" / "book"
    seen = json.loads((first.folder / "01_first.json").read_text(encoding="utf-8"))
    assert seen == {"python": sys.executable, "cwd": "notebooks", "threads": "1", "n": 6}
    assert outputs(first.folder / "01_first.ipynb") == ["6"]

    assert chapters.run(root=checkout).kept == ("01_first", "02_second")

    write_notebook(checkout, "02_second", "1 / 0", "'never'", parameters=None)
    failing = chapters.run(root=checkout)
    assert (failing.executed, failing.kept) == ((), ("01_first",))
    assert failing.failures == {"02_second": "cell 2 (1 / 0): ZeroDivisionError: division by zero"}
    assert not (failing.folder / "02_second.ipynb").exists()
    assert (failing.folder / "02_second.failed.ipynb").exists()
    assert list(chapters.describe(failing))[-1].startswith("FAILED 02_second, cell 2")

    write_notebook(checkout, "02_second", "'mended'", parameters=None)
    mended = chapters.run(root=checkout)
    assert (mended.executed, mended.kept, mended.failures) == (("02_second",), ("01_first",), {})
    assert not (mended.folder / "02_second.failed.ipynb").exists()


def test_a_run_with_other_parameters_has_other_results_and_leaves_the_book_alone(checkout):
    report = chapters.run(["01"], {"n": "20", "data_root": str(checkout)}, root=checkout)
    assert report.executed == ("01_first",)
    assert report.folder.parent == checkout / "runs"
    assert outputs(report.folder / "01_first.ipynb") == ["40"]
    assert json.loads((report.folder / "01_first.json").read_text(encoding="utf-8"))["n"] == 40
    parameters = json.loads((report.folder / "parameters.json").read_text(encoding="utf-8"))
    assert parameters == {"01_first": {"n": 20, "data_root": str(checkout)}}
    assert not (checkout / "runs" / "book").exists()


@pytest.mark.filterwarnings("default")
def test_one_chapter_in_this_process(checkout, monkeypatch):
    """What a worker process does, where coverage sees it."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(chapters, "_cells_done", None)
    counter = chapters.multiprocessing.get_context("spawn").Value("i", 0)
    chapters._start_worker(counter, chapters.KERNEL_ENVIRONMENT | {"ECGMOE_RUN_DIR": str(checkout)})
    target = checkout / "01_first.ipynb"
    assert chapters._execute(chapters._source(checkout, "01_first"), target, {"n": 4}, "abc") > 0
    assert counter.value == 4  # a title, the parameters, the injected ones, the witness
    assert chapters.run_digest(checkout, "01_first") == "abc"
    assert outputs(target) == ["8"]
    write_notebook(checkout, "01_first", "n = n + 0\nraise KeyError(n)")
    with pytest.raises(chapters.ChapterError, match=r"^cell 3 \(n = n \+ 0\): KeyError: 4$"):
        chapters._execute(chapters._source(checkout, "01_first"), target, {"n": 4}, "abc")
    assert chapters.run_digest(checkout, "01_first") is None


def test_the_command_line_runs_reports_and_refuses(checkout, monkeypatch):
    monkeypatch.setattr(chapters, "run", partial(chapters.run, root=checkout))
    write_notebook(checkout, "02_second", "raise ValueError('no such record')")
    invoke = CliRunner().invoke
    refused = invoke(command_line.app, ["chapters", "-p", "sede", "1"])
    assert refused.exit_code == 2
    assert "declared are data_root" in refused.output
    failed = invoke(command_line.app, ["chapters", "02", "-p", "n", "-1", "--jobs", "1"])
    assert failed.exit_code == 1
    assert "FAILED 02_second, cell 3 (raise ValueError('no such record')): ValueError: no such record" in failed.output
    listed = invoke(command_line.app, ["--help"])
    assert {"chapters", "simulate"} <= set(listed.output.split())


def test_the_command_line_writes_a_simulated_cohort(tmp_path):
    done = CliRunner().invoke(command_line.app, ["simulate", str(tmp_path / "cohort"), "--patients", "2"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "cohort" / "ptbxl_database.csv").exists()


def copy_of_chapters(folder, *names):
    for part in ("ecgmoe", "data", "constraints.txt", "pyproject.toml"):
        (folder / part).symlink_to(ROOT / part)
    (folder / "notebooks").mkdir()
    for name in names:
        (folder / "notebooks" / f"{name}.ipynb").write_bytes((ROOT / "notebooks" / f"{name}.ipynb").read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["source", "store"])
def test_the_first_chapters_take_the_other_layout_and_a_store(tmp_path, kind):
    root = simulated.write(tmp_path / "mimic", n_patients=60, layout="mimic-iv-ecg")
    if kind == "store":
        store.prepare(datasets.listing(root), tmp_path / "store", workers=0)
        root = tmp_path / "store"
    names = ("01_data", "02_periodicity")
    copy_of_chapters(tmp_path, *names)
    report = chapters.run(names, {"data_root": str(root)}, root=tmp_path)
    assert report.failures == {}
    saved = json.loads((report.folder / "01_data.json").read_text("utf-8"))
    assert saved["provenance"]["data"]["records"] == len(datasets.load(root))


@pytest.mark.slow
def test_a_real_chapter_with_other_parameters_has_other_results(tmp_path):
    name = "04_periodic_moe"
    copy_of_chapters(tmp_path, name)
    reports = [chapters.run([name], {"epochs": epochs, "seed": "3"}, root=tmp_path) for epochs in ("1", "2")]
    assert [report.failures for report in reports] == [{}, {}]
    scores = [
        json.loads((report.folder / f"{name}.json").read_text("utf-8"))["metrics"]["scores"] for report in reports
    ]
    values = [{(row["model"], row["task"]): row["value"] for row in rows} for rows in scores]
    own = [key for key in values[0] if key[0] == "Periodic experts alone"]
    assert len(own) == 5 and all(values[0][key] != values[1][key] for key in own)
    floors = [key for key in values[0] if key not in own]
    assert floors and all(values[0][key] == values[1][key] for key in floors), "the same cohort, the same floors"
