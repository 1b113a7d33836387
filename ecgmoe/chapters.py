"""Executes the chapters of the book with papermill, in processes of their own, and keeps what was executed.

A run without parameters is the book's: it lives in ``runs/book/`` under a digest of everything it depends on, and is
not repeated until that changes. A run with other parameters goes to ``runs/<digest>/`` and never into the book.
"""

import ast
import hashlib
import json
import multiprocessing
import os
import platform
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]

#: Chapters that take longest: started first, so that no process idles at the end.
SLOWEST = ("07_ablation", "05_lora_fusion", "09_enecg", "04_periodic_moe", "06_efficiency", "03_zero_shot")

#: Words in the comment of a parameter that make its value a path, resolved from where the command was given.
PATH_WORDS = re.compile(r"\b(folder|file|path)\b", re.IGNORECASE)

#: End of a comment that names all values of a parameter: ``...: this, that or another``.
CHOICES = re.compile(r": ([\w-]+(?:, [\w-]+)* or [\w-]+)$")

#: What every chapter's kernel gets: one thread (two chapters run at a time), and in a page neither progress bars nor
#: tqdm's complaint that it cannot draw them.
KERNEL_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "ignore:IProgress not found",
    "JUPYTER_PREFER_ENV_PATH": "1",
}

_cells_done: Any = None  # in a worker process: the counter of executed cells that it shares with its parent


class ParameterError(ValueError):
    """An unknown chapter, an unknown parameter, or a value that is not of the declared type."""


class ChapterError(RuntimeError):
    """A chapter raised; the message names the cell and the error."""


@dataclass(frozen=True)
class Report:
    """What a call of :func:`run` did.

    Attributes
    ----------
    folder : Path
        Where the executed notebooks and the chapters' numbers are.
    executed : tuple of str
        Chapters that were executed now and succeeded.
    kept : tuple of str
        Chapters whose earlier run still holds.
    failures : dict of str to str
        Cell and error of every chapter that failed.
    """

    folder: Path
    executed: tuple[str, ...]
    kept: tuple[str, ...]
    failures: dict[str, str]


def names(root: Path = ROOT) -> list[str]:
    """Names of all chapters, in the order of the book."""
    found = sorted(path.stem for path in (root / "notebooks").glob("*.ipynb"))
    if not found:
        raise FileNotFoundError(f"no notebooks in {root / 'notebooks'}: chapters are run from a checkout of ecgmoe")
    return found


def digest(chapter: str, root: Path = ROOT) -> str:
    """Digest of what a chapter's outcome depends on: library, chapter, small data, pinned versions and Python."""
    sha = hashlib.sha256(platform.python_version().encode())
    data = (path for path in (root / "data").rglob("*") if path.is_file())
    for path in sorted(
        [*(root / "ecgmoe").rglob("*.py"), *data, root / "constraints.txt", root / "notebooks" / f"{chapter}.ipynb"]
    ):
        content = path.read_bytes() if path.exists() else b""
        sha.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return sha.hexdigest()[:16]


def declared(chapter: str, root: Path = ROOT) -> dict[str, Any]:
    """Parameters that a chapter declares, by name: papermill's ``inferred_type_name``, ``default`` and ``help``."""
    import papermill

    return papermill.inspect_notebook(str(root / "notebooks" / f"{chapter}.ipynb"))


def cast(text: str, parameter: Mapping[str, Any]) -> object:
    """Value of ``text`` in the type that the chapter declares for the parameter.

    Parameters
    ----------
    text : str
        As typed.
    parameter : mapping
        One entry of :func:`declared`. A text whose comment speaks of a folder, a file or a path is made absolute,
        unless it is the declared default (such as ``"simulated"``); one whose comment ends in ``: this, that or
        another`` has to be one of these.

    Returns
    -------
    object
        bool, int, float, str, or whatever Python literal the default is.

    Raises
    ------
    ParameterError
        When the text is no value of that type, none of the named ones, or the empty name of a file or folder.
    """
    default = ast.literal_eval(parameter["default"])
    kind = type(default).__name__ if parameter["inferred_type_name"] == "None" else parameter["inferred_type_name"]
    if kind == "str":
        named = CHOICES.search(parameter["help"] or "")
        choices = re.split(", | or ", named[1]) if named else [text]
        if text not in choices:
            raise ParameterError(f"parameter {parameter['name']}: {text!r} is none of {', '.join(choices)}")
        is_path = PATH_WORDS.search(parameter["help"] or "") and text != default
        if is_path and not text:
            raise ParameterError(f"parameter {parameter['name']}: an empty name; the current folder is .")
        return str(Path(text).expanduser().resolve()) if is_path else text
    try:
        if kind == "bool":
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind in ("int", "float"):
            return {"int": int, "float": float}[kind](text)
        value = ast.literal_eval(text)
    except (KeyError, ValueError, SyntaxError):
        raise ParameterError(f"parameter {parameter['name']}: {text!r} is no {kind}") from None
    if not isinstance(value, type(default)):
        raise ParameterError(f"parameter {parameter['name']}: {text!r} is no {kind}")
    return value


def plan(chapters: Sequence[str], given: Mapping[str, str], root: Path = ROOT) -> dict[str, dict[str, object]]:
    """Parameters of every selected chapter: those of the given ones that it declares.

    Parameters
    ----------
    chapters : sequence of str
        Names or unique beginnings of names (``05``); empty selects all.
    given : mapping of str to str
        Parameters as typed.
    root : Path

    Returns
    -------
    dict of str to dict
        By chapter, in the order of the book.

    Raises
    ------
    ParameterError
        For a chapter that does not exist, for a parameter that no selected chapter declares, and for a ``data_root``
        that is neither ``simulated`` nor a folder.
    """
    known = names(root)
    selected = set() if chapters else set(known)
    for chapter in chapters:
        matches = [name for name in known if name == chapter] or [name for name in known if name.startswith(chapter)]
        if len(matches) != 1:
            raise ParameterError(f"no chapter {chapter!r}; the chapters are {', '.join(known)}")
        selected.update(matches)
    if not given:
        return {name: {} for name in known if name in selected}
    declarations = {name: declared(name, root) for name in known if name in selected}
    every = {parameter for declaration in declarations.values() for parameter in declaration}
    unknown = [name for name in given if name not in every]
    if unknown:
        raise ParameterError(
            f"no selected chapter declares {', '.join(map(repr, unknown))}; "
            f"declared are {', '.join(sorted(every)) or 'none'}"
        )
    data = given.get("data_root", "simulated")
    if data != "simulated" and not Path(data).expanduser().is_dir():
        raise ParameterError(f"parameter data_root: there is no folder {data}; give one, or simulated")
    return {
        name: {key: cast(text, declaration[key]) for key, text in given.items() if key in declaration}
        for name, declaration in declarations.items()
    }


def run(
    chapters: Sequence[str] = (), given: Mapping[str, str] | None = None, jobs: int = 2, root: Path = ROOT
) -> Report:
    """Execute chapters, each in a fresh kernel of this very Python, in the folder of the notebooks.

    Parameters
    ----------
    chapters : sequence of str
        Names or unique beginnings; empty runs all.
    given : mapping of str to str, optional
        Parameters as typed. Without any, the run is the book's and a chapter whose digest holds is not repeated.
    jobs : int
        Chapters at a time, each in a process of its own.
    root : Path
        The checkout.

    Returns
    -------
    Report
        Failures are in it, not raised: one failing chapter stops no other.
    """
    parameters = plan(chapters, given or {}, root)
    digests = {name: digest(name, root) for name in parameters}
    if given:
        key = json.dumps([parameters, digests], sort_keys=True)
        folder = root / "runs" / hashlib.sha256(key.encode()).hexdigest()[:12]
    else:
        folder = root / "runs" / "book"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if given:
            (folder / "parameters.json").write_text(json.dumps(parameters, indent=2, sort_keys=True) + "\n")
        kept = tuple(name for name in parameters if not given and run_digest(folder, name) == digests[name])
        todo = {name: value for name, value in parameters.items() if name not in kept}
        failures = _execute_all(todo, digests, folder, jobs, root) if todo else {}
    return Report(folder, tuple(name for name in todo if name not in failures), kept, failures)


def run_metadata(folder: Path, chapter: str) -> dict[str, Any]:
    """Metadata of an executed chapter: ``ecgmoe`` (digest, machine) and ``papermill`` (times); empty without one."""
    path = folder / f"{chapter}.ipynb"
    return json.loads(path.read_text(encoding="utf-8"))["metadata"] if path.exists() else {}


def run_digest(folder: Path, chapter: str) -> str | None:
    """Digest under which a chapter was last executed in ``folder``; None where it was not, or failed."""
    return run_metadata(folder, chapter).get("ecgmoe", {}).get("digest")


def _execute_all(
    todo: Mapping[str, Mapping[str, object]], digests: Mapping[str, str], folder: Path, jobs: int, root: Path
) -> dict[str, str]:
    """Execute the planned chapters, ``jobs`` at a time; returns cell and error of those that failed."""
    context = multiprocessing.get_context("spawn")
    counter = context.Value("i", 0)
    total = sum(len(json.loads(_source(root, name).read_text(encoding="utf-8"))["cells"]) for name in todo)
    environment = KERNEL_ENVIRONMENT | {
        "ECGMOE_RUN_DIR": str(folder),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")])),
    }
    failures = {}
    with (
        ProcessPoolExecutor(min(jobs, len(todo)), context, _start_worker, (counter, environment)) as pool,
        tqdm(total=total, unit="cell", desc=f"{len(todo)} chapters", disable=None) as bar,
    ):
        futures = {
            pool.submit(_execute, _source(root, name), folder / f"{name}.ipynb", dict(todo[name]), digests[name]): name
            for name in sorted(todo, key=_slowest_first)
        }
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            bar.update(counter.value - bar.n)
            for future in done:
                name, error = futures[future], future.exception()
                if error:
                    failures[name] = (
                        str(error) if isinstance(error, ChapterError) else f"{type(error).__name__}: {error}"
                    )
                bar.write(f"{name}: failed" if error else f"{name}: {future.result():.0f} s", file=sys.stderr)
    return dict(sorted(failures.items()))


def _source(root: Path, chapter: str) -> Path:
    return root / "notebooks" / f"{chapter}.ipynb"


def _slowest_first(chapter: str) -> tuple[int, str]:
    return (SLOWEST.index(chapter) if chapter in SLOWEST else len(SLOWEST)), chapter


def _start_worker(counter: Any, environment: Mapping[str, str]) -> None:
    """Prepare a worker process: its kernels inherit its environment."""
    global _cells_done
    _cells_done = counter
    os.environ.update(environment)


class _Bar:
    """The part of tqdm's interface that papermill uses, counting into the counter shared with the parent."""

    n = 0

    def update(self, n: int) -> None:
        with _cells_done.get_lock():
            _cells_done.value += n

    def refresh(self) -> None:
        """Nothing to draw here: the parent draws."""

    def close(self) -> None:
        """Nothing to close either."""


def _execute(source: Path, target: Path, parameters: dict[str, object], run_digest: str) -> float:
    """Execute one chapter in this process; returns seconds. A failed one is kept as ``<chapter>.failed.ipynb``."""
    import nbformat
    import papermill
    from papermill.engines import NBClientEngine, papermill_engines

    class CountingEngine(NBClientEngine):
        """papermill's own engine with a bar that counts for the parent."""

        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **settings: Any) -> Any:
            nb_man.pbar = _Bar()
            return super().execute_managed_notebook(nb_man, kernel_name, **settings)

    papermill_engines.register("counting", CountingEngine)
    start = time.perf_counter()
    failed = target.with_suffix(".failed.ipynb")
    for earlier in (target, target.with_suffix(".json")):
        earlier.unlink(missing_ok=True)
    try:
        notebook = papermill.execute_notebook(
            source,
            failed,
            parameters,
            engine_name="counting",
            kernel_name="python3",
            progress_bar=False,
            cwd=source.parent,
            autosave_cell_every=30,
            execution_timeout=3600,
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
        )
    except papermill.PapermillExecutionError as error:
        number = error.cell_index + 1 - bool(parameters)
        first_line = error.source.strip().partition("\n")[0]
        raise ChapterError(f"cell {number} ({first_line}): {error.ename}: {error.evalue}") from None
    notebook.metadata["ecgmoe"] = {
        "digest": run_digest,
        "python": platform.python_version(),
        "torch": version("torch"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
    nbformat.write(notebook, failed)
    os.replace(failed, target)
    return time.perf_counter() - start


def describe(report: Report) -> Iterable[str]:
    """Lines for the terminal: what ran, where it lies, and every failure."""
    yield (
        f"{len(report.executed)} executed, {len(report.kept)} unchanged, {len(report.failures)} failed: {report.folder}"
    )
    for name, error in report.failures.items():
        yield f"FAILED {name}, {error}"
