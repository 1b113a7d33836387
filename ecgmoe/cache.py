"""A content-addressed cache of arrays: computed on a miss, written atomically under a lock, shared by all processes."""

import ast
import hashlib
import io
import json
import os
import tokenize
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from platformdirs import user_cache_path
from safetensors.numpy import load_file, save_file


def cache_dir() -> Path:
    """Folder of everything that can be made again.

    ``ECGMOE_CACHE`` where it is set, ``.cache/`` of the checkout when the package runs from one, else the user's
    cache folder.
    """
    if "ECGMOE_CACHE" in os.environ:
        return Path(os.environ["ECGMOE_CACHE"]).expanduser().resolve()
    checkout = Path(__file__).resolve().parents[1]
    return checkout / ".cache" if (checkout / "pyproject.toml").exists() else user_cache_path("ecgmoe")


def digest(*parts: object) -> str:
    """Sixteen hexadecimal digits of SHA-256 over arrays (dtype, shape, bytes), bytes and JSON-able values."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(f"{part.dtype}{part.shape}".encode())
            sha.update(np.ascontiguousarray(part).data)
        elif isinstance(part, bytes):
            sha.update(part)
        else:
            sha.update(json.dumps(part, sort_keys=True).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:16]


def source_digest(*files: str | None) -> str:
    """Digest of the code in source files (``__file__`` of modules), for keys of what it decides; words are left out."""
    return digest(*(code_of(Path(str(file)).read_text("utf-8")) for file in files))


def code_of(source: str) -> str:
    """Python source without comments, docstrings and empty lines: what is left decides on results.

    Empty lines and spaces at the end of a line go from within other strings too, which decide on no result.
    """
    lines = source.split("\n")  # as Python counts lines; str.splitlines knows other ends
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            text = node.body[0]
            first, last = text.lineno - 1, (text.end_lineno or text.lineno) - 1
            before = lines[first].encode()[: text.col_offset]  # columns are those of UTF-8
            after = lines[last].encode()[text.end_col_offset :]
            lines[first : last + 1] = [(before + after).decode(), *[""] * (last - first)]
    return "\n".join(line.rstrip() for line in lines if line.strip())


#: Modules whose code decides on the inputs of a training, which are in the key of a result themselves, or on nothing.
_OF_INPUTS = ("beats", "cache", "datasets", "features", "records", "results", "rpeaks", "backbones.precision")


def training_sources(*modules: str) -> dict[str, str]:
    """Files of modules of this package and of all that they import, by name; what decides on inputs alone is left out.

    Imports are read in the sources, so that the answer does not depend on what has been imported already. A package
    stands for all of its modules. Relative imports are not followed; a test holds the package to absolute ones.

    Parameters
    ----------
    *modules : str
        Such as ``"ecgmoe.training"``.
    """
    found: dict[str, str] = {}
    waiting: list[str] = list(modules)
    while waiting:
        name = waiting.pop()
        package, _, own = name.partition(".")
        left_out = any(f"{own}.".startswith(f"{other}.") for other in _OF_INPUTS)
        if name in found or package != "ecgmoe" or not own or left_out:
            continue
        path = Path(__file__).parent.joinpath(*own.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not file.is_file():  # what is imported is no module
            continue
        found[name] = str(file)
        waiting += [f"{name}.{inner.stem}" for inner in path.glob("*") if inner.stem != "__init__"]
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                waiting += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return dict(sorted(found.items()))


def _path(kind: str, key: Mapping[str, object]) -> Path:
    return cache_dir() / kind / f"{digest(dict(key))}.safetensors"


def busy(kind: str, key: Mapping[str, object]) -> bool:
    """Whether another process is computing what belongs under ``key``."""
    path = _path(kind, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_suffix(".lock"), timeout=0):
            return False
    except Timeout:
        return True


def cached(
    kind: str, key: Mapping[str, object], compute: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Arrays under ``key``: read where they are cached, else computed once and kept.

    Parameters
    ----------
    kind : str
        Sub-folder, such as ``features``.
    key : mapping
        Everything the result depends on, JSON-able.
    compute : callable
        Returns the arrays by name. Runs at most once at a time for one key, whichever process asks first.

    Returns
    -------
    dict of str to ndarray
    """
    path = _path(kind, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            arrays = {name: np.ascontiguousarray(array) for name, array in compute().items()}
            partial = path.with_suffix(f".{os.getpid()}.partial")
            try:
                save_file(arrays, partial, metadata={"key": json.dumps(dict(key), sort_keys=True)})
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
        return load_file(path)
