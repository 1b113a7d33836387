"""What a run leaves behind: its numbers with their provenance as JSON, and tables for the book."""

import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from IPython.display import Markdown

    from ecgmoe.datasets import Cohort

#: Packages whose version can change a number.
PACKAGES = (
    "ecgmoe",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "torch",
    "accelerate",
    "transformers",
    "peft",
    "momentfm",
    "wfdb",
)

#: A number with its spread, its interval, or both, and a mark; such a cell is broken before the interval alone.
_FIGURE = re.compile(r"[-−+]?[\d.,]+( ± [\d.,]+)?( \[.*\])?( [▲▼])?")

_CHECKOUT = Path(__file__).resolve().parents[1]


def run_dir() -> Path:
    """Folder of a run's JSON: ``ECGMOE_RUN_DIR``, else ``runs/latest`` of the checkout or of the working folder."""
    if "ECGMOE_RUN_DIR" in os.environ:
        return Path(os.environ["ECGMOE_RUN_DIR"]).expanduser().resolve()
    return (_CHECKOUT if (_CHECKOUT / "pyproject.toml").exists() else Path.cwd()) / "runs" / "latest"


def git(*arguments: str) -> str | None:
    """What git says of the checkout that this package runs from; None where it fails or there is no repository."""
    command = ["git", "-C", str(_CHECKOUT), *arguments]
    here_only = os.environ | {"GIT_CEILING_DIRECTORIES": str(_CHECKOUT.parent)}  # a ZIP may lie in another repository
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=here_only)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _commit() -> str:
    """Commit of the checkout that this package runs from, ``+ changes`` where files differ from it, or ``unknown``."""
    commit = git("rev-parse", "HEAD") if (_CHECKOUT / "pyproject.toml").exists() else None
    if commit is None:
        return "unknown"
    return f"{commit} + changes" if git("status", "--porcelain") != "" else commit


def version_of(package: str) -> str:
    """Installed version of a package, or ``not installed``."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _device() -> str:
    """The processor, and the GPU where torch sees one: which of them computed what is for the parameters to say."""
    torch = sys.modules.get("torch")
    gpu = f"; {torch.cuda.get_device_name()}" if torch is not None and torch.cuda.is_available() else ""
    return f"CPU, {platform.machine()}, {os.cpu_count()} cores{gpu}"


def provenance(
    cohort: "Cohort | None" = None, seed: int | None = None, parameters: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Everything the numbers of a run depend on: data, code, seed, parameters, versions, device and time (UTC)."""
    data = None
    if cohort is not None:
        data = {"name": cohort.card.name, "records": len(cohort), "fs": cohort.fs, "digest": cohort.digest}
    return {
        "data": data,
        "commit": _commit(),
        "seed": seed,
        "parameters": dict(parameters or {}),
        "versions": {"python": platform.python_version()} | {package: version_of(package) for package in PACKAGES},
        "device": _device(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def as_json(value: Any) -> Any:
    """``value`` as JSON holds it: arrays as lists, DataFrames as rows, what is not finite as null."""
    if hasattr(value, "to_dict"):
        frame = value if not hasattr(value, "to_frame") else value.to_frame()
        named = any(name is not None for name in frame.index.names)
        return as_json((frame.reset_index() if named else frame).to_dict("records"))
    if hasattr(value, "tolist"):
        return as_json(value.tolist())
    if hasattr(value, "_asdict"):
        return as_json(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write numbers, strings, lists, arrays, mappings and DataFrames to a file, whole or not at all; NaN is null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial")
    try:
        text = json.dumps(as_json(content), indent=1, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", "utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save(
    chapter: str,
    metrics: Mapping[str, Any],
    *,
    cohort: "Cohort | None" = None,
    seed: int | None = None,
    parameters: Mapping[str, object] | None = None,
) -> "Markdown":
    """Write a chapter's numbers with their provenance to ``run_dir() / "<chapter>.json"``, whole or not at all.

    Parameters
    ----------
    chapter : str
        Name of the file, such as ``08_claims_audit``.
    metrics : mapping
        Numbers, strings, lists, arrays, mappings and DataFrames; NaN becomes null.
    cohort : Cohort, optional
    seed : int, optional
    parameters : mapping, optional
        The chapter's parameters.

    Returns
    -------
    IPython.display.Markdown
        A small table that says where the numbers come from.
    """
    origin = provenance(cohort, seed, parameters)
    write_json(run_dir() / f"{chapter}.json", {"chapter": chapter, "provenance": origin, "metrics": metrics})
    return _origin_table(origin, chapter)


def load(chapter: str, folder: Path | None = None) -> dict[str, Any]:
    """Read what :func:`save` wrote for a chapter: ``chapter``, ``provenance`` and ``metrics``."""
    return dict(json.loads(((folder or run_dir()) / f"{chapter}.json").read_text("utf-8")))


def reference(name: str) -> dict[str, Any]:
    """Read a reference run that comes with the repository: ``data/reference/<name>.json``, as from :func:`load`.

    Raises
    ------
    FileNotFoundError
        The library does not run from a checkout of its repository.
    """
    folder = _CHECKOUT / "data" / "reference"
    if not (folder / f"{name}.json").is_file():
        raise FileNotFoundError(f"no reference run {name}: it lies in data/reference of the repository's checkout")
    return load(name, folder)


def commit_in_words(origin: Mapping[str, Any]) -> str:
    """The commit of a provenance, in short, with the word that there were changes."""
    commit = origin["commit"]
    if commit == "unknown":
        return commit
    return f"commit `{commit[:12]}`{' with changes' if commit.endswith('changes') else ''}"


def _origin_table(origin: Mapping[str, Any], chapter: str) -> "Markdown":
    import pandas as pd

    data = origin["data"]
    shown = {
        "data": f"{data['name']}: {data['records']:,} records at {data['fs']} Hz, digest `{data['digest']}`"
        if data
        else "none",
        "code": commit_in_words(origin),
        "seed": "none" if origin["seed"] is None else origin["seed"],
        "parameters": ", ".join(f"{name} = `{value!r}`" for name, value in origin["parameters"].items()) or "none",
        "versions": ", ".join(f"{name} {number}" for name, number in origin["versions"].items()),
        "device": origin["device"],
        "time": origin["time"],
    }  # fmt: skip
    frame = pd.DataFrame({"What": list(shown), "This run": [str(value) for value in shown.values()]})
    return table(frame, "Where the numbers of this page come from.", f"tab-{chapter.replace('_', '-')}-provenance")


def _decimals(values: "pd.Series") -> int:
    """Decimals that show a column's middle value to three digits, at most four of them."""
    finite = values[values.abs() < math.inf].abs()
    finite = finite[finite > 0]
    if finite.empty or (finite == finite.round()).all():
        return 0
    return int(min(4, max(0, 2 - math.floor(math.log10(finite.median())))))


def table(df: "pd.DataFrame", caption: str, name: str, decimals: Mapping[str, int] | None = None) -> "Markdown":
    """Show a DataFrame as a numbered table of the book.

    Parameters
    ----------
    df : DataFrame
        Its index is shown where it has a name. Text may hold Markdown; a missing value shows as a dash.
    caption : str
    name : str
        Label for references, such as ``tab-rr``.
    decimals : mapping of str to int, optional
        Decimals of a numeric column; by default as many as show its middle value to three digits.

    Returns
    -------
    IPython.display.Markdown
        For a cell with the metadata ``{"mystnb": {"markdown_format": "myst"}}``.
    """
    import pandas as pd
    from IPython.display import Markdown

    if any(index is not None for index in df.index.names):
        df = df.reset_index()
    columns, align = [], []
    for label, values in df.items():
        numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        align.append("--:" if numeric else ":--")
        places = (decimals or {}).get(str(label))
        if places is None:
            places = _decimals(values.dropna().astype(float)) if numeric else 0
        columns.append([_text(value, places) for value in values])
    head = [_text(str(label), 0) for label in df.columns]
    rows = [head, align, *map(list, zip(*columns, strict=True))]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    title = " ".join(caption.split())
    return Markdown("\n".join([f"```{{table}} {title}", f":name: {name}", "", *lines, "```"]))


def _text(value: Any, places: int) -> str:
    import pandas as pd

    if pd.isna(value):
        return "–"
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return "yes" if value else "no"
    if isinstance(value, str):
        text = " ".join(value.replace("|", "\\|").split())
        if _FIGURE.fullmatch(text):
            text = text.replace(" ", "\N{NO-BREAK SPACE}").replace("\N{NO-BREAK SPACE}[", " [")
        return text
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:,.{places}f}".replace("-", "−")
