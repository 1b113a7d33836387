"""Weights in files of others: read without running anything, and matched with a network key by key.

A checkpoint is read into a :class:`Checkpoint`. The adapter of a network, a module of this package, says in an
:class:`Adapted` which configuration it is of, and which of our weights is which of the file's; :func:`assemble` makes
the network of the two, or refuses with a :class:`WeightsError` that lists what does not fit in the file's own spelling.
:mod:`ecgmoe.backbones.published.dlinear` is the shortest example.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ecgmoe.backbones import Backbone
from ecgmoe.records import InputError

#: Extensions of checkpoints.
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")

#: Configuration files that are looked at beside a checkpoint, the first one first; then any ``*.yaml`` and ``*.yml``.
SIDECARS = ("config.json", "model_cfg.json", "hub_config.json", "meta.json")


class _Dtype:
    """What stands for a ``numpy.dtype`` of a pickle, which could say that bytes are addresses of objects."""

    def __init__(self, code: str = "", *_: object) -> None:
        self.code, self.order = code, ""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Array:
    """What stands for an array of a pickle: nothing, as weights are tensors."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _number(dtype: _Dtype, value: bytes) -> Any:
    """Number of NumPy in a pickle, as Python's own; None for text, times and the like."""
    kind = dtype.order + dtype.code
    return np.frombuffer(value, np.dtype(kind), 1)[0].item() if re.fullmatch(r"[<>=|]?[biufc]\d+", kind) else None


def _defaultdict(*_: object) -> dict[Any, Any]:
    return {}


#: What trainers put beside weights, and what is made of it: no code of theirs runs, and none of NumPy on their bytes.
_HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    int,
    float,
    list,
    dict,
    (_defaultdict, "collections.defaultdict"),
    (_Dtype, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    *((_Array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]

#: In the words of PyTorch: something is asked for that is not on the list.
_FOREIGN = re.compile("unsupported global|is blocked|must be imported|torchscript", re.IGNORECASE)

_LISTED = 10  # keys that a message lists before it counts
_GIT_LFS = b"version https://git-lfs"
_AGAIN = "download it again"


class WeightsError(InputError):
    """A checkpoint cannot be used, or there is none.

    Attributes
    ----------
    path : Path or str
        The file, or the name of what was to be loaded.
    reason : str
        What is wrong with it.
    cure : str
        What to do about it.
    missing, left_over, misshapen, broken : tuple of str
        Keys that are not there, not used, of another shape or type, or not finite, in the spelling of the file.
    """

    def __init__(
        self,
        path: Path | str,
        reason: str,
        cure: str,
        *,
        missing: Iterable[str] = (),
        left_over: Iterable[str] = (),
        misshapen: Iterable[str] = (),
        broken: Iterable[str] = (),
    ) -> None:
        super().__init__(path, reason, cure)
        self.path, self.reason, self.cure = path, reason, cure
        self.missing, self.left_over = tuple(missing), tuple(left_over)
        self.misshapen, self.broken = tuple(misshapen), tuple(broken)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}; {self.cure}"


@dataclass
class Checkpoint:
    """What a file of weights holds.

    Attributes
    ----------
    path : Path
        The file.
    weights : dict of str to Tensor
        By the names of the file, less ``prefix``.
    configs : dict of str to dict
        What is known of the network beside its weights: first what the file itself holds (``cfg``, ``args``), then
        configuration files beside it by their names.
    prefix : str
        What all names of the file begin with: ``module.`` of ``DataParallel``, or nothing.
    """

    path: Path
    weights: dict[str, Tensor]
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    prefix: str = ""
    _disputed: list[str] = field(default_factory=list, repr=False)

    def setting(self, *path: str, default: Any = None) -> Any:
        """Value under nested keys in the first configuration that has it, at its top or under its ``config``."""
        for config in self.configs.values():
            for top in (config, config.get("config")):
                value: Any = top
                for key in path:
                    value = value.get(key) if isinstance(value, dict) else None
                if value is not None:
                    return value
        return default

    def number(self, *path: str, default: int, least: int = 1) -> int:
        """As :meth:`setting`, a whole number of at least ``least``; ``default`` may be any.

        Raises
        ------
        WeightsError
            The setting is something else.
        """
        value = self.setting(*path)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            reason = f"its configuration says {path[-1]}: {value!r}"
            raise WeightsError(self.path, reason, f"a whole number above {least - 1} is needed")
        return value

    def size(self, *witnesses: tuple[str, int], of: str, setting: str = "") -> int:
        """Size of a dimension, on which several weights agree.

        Parameters
        ----------
        *witnesses : tuple of (str, int)
            A key and the axis of that weight which has the size. Those that the file lacks are passed over; where
            the others do not agree, most of them decide, and :func:`assemble` refuses all.
        of : str
            What the size is of, for the message.
        setting : str
            Name of the size in a configuration, which has to agree where it says something.

        Raises
        ------
        WeightsError
            The file has none of the keys.
        """
        sizes = {
            key: self.weights[key].shape[axis]
            for key, axis in witnesses
            if key in self.weights and -self.weights[key].ndim <= axis < self.weights[key].ndim
        }
        if not sizes:
            keys = [self.spelled(key) for key, _ in witnesses]
            absent = [key for key, (name, _) in zip(keys, witnesses, strict=True) if name not in self.weights]
            reason = f"without {_listed(keys)} in proper shape, nothing says what the {of} is"
            raise WeightsError(self.path, reason, _fits_not(self), missing=absent)
        votes = Counter(sizes.values())
        if setting and self.setting(setting) is not None:
            votes[self.number(setting, default=1)] += 1
        if len(votes) > 1:
            said = {
                n: [self.spelled(key) for key in sizes if sizes[key] == n] or [f"configuration: {setting}"]
                for n in votes
            }
            texts = (f"{n} by {_listed(keys)}" for n, keys in said.items())
            self._disputed.append(f"the {of} is {' but '.join(texts)}")
        return votes.most_common(1)[0][0]

    def count(self, before: str, after: str = "") -> int:
        """How many numbers ``{before}0{after}``, ``{before}1{after}``, ... there are: one more than the largest."""
        numbers = [-1]
        for key in self.weights:
            number, _, rest = key.removeprefix(before).partition(".")
            if key.startswith(before) and number.isdecimal() and f".{rest}".startswith(after):
                numbers.append(int(number))
        return max(numbers) + 1

    def spelled(self, key: str) -> str:
        """Name of a weight as the file has it."""
        return self.prefix + key


@dataclass(frozen=True)
class Made:
    """A weight that is made of several of the file."""

    keys: tuple[str, ...]
    make: Callable[..., Tensor]


@dataclass(frozen=True)
class Adapted:
    """How a checkpoint becomes one of our networks: what a module of this package returns from ``adapt(checkpoint)``.

    ``adapt`` takes every size from the checkpoint, and writes down the names of all weights that a network of that
    size has, whether or not the file has them: :func:`assemble` finds out.

    Attributes
    ----------
    config : dataclass
        Configuration of the network.
    wanted : dict of str to (str or Made)
        Key of the file, or how to make the weight of several, by our own key.
    unused : dict of str to str
        Why a weight of the file is not used, by its key.
    idle : dict of str to (tuple of int or None)
        Shapes of those of them that the file must have all the same, by their key; None where any will do.
    """

    config: Any
    wanted: Mapping[str, str | Made]
    unused: Mapping[str, str] = field(default_factory=dict)
    idle: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict)


def read(path: Path) -> Checkpoint:
    """Read a file of weights, and the configuration files beside it, without running code of theirs.

    Parameters
    ----------
    path : Path
        safetensors, or what ``torch.save`` makes, now or before version 1.6, of a state dict, or of a dict that holds
        one as ``model`` (trainer of fairseq) or ``state_dict``.

    Returns
    -------
    Checkpoint

    Raises
    ------
    WeightsError
        No such file, no weights in it, cut short, damaged, or a pickle that wants to run code.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise WeightsError(path, f"cannot be opened ({error.strerror})", "check path and permissions") from None
    if head.startswith(_GIT_LFS):
        raise WeightsError(path, "is a pointer of Git LFS and not the file itself", "fetch the file by `git lfs pull`")
    if head[:4] == b"PK\3\4" or head[:1] == b"\x80":
        content, configs = _unpickled(path)
    elif path.suffix == ".safetensors" or head[8:9] == b"{":
        content, configs = _safetensors(path)
    else:
        raise WeightsError(path, "is no checkpoint of PyTorch or safetensors", "check that it is the right file")
    prefix = "module." if all(key.startswith("module.") for key in content) else ""
    weights = {key.removeprefix(prefix): weight for key, weight in content.items()}
    return Checkpoint(path, weights, configs | _sidecars(path.parent), prefix)


def assemble(kind: type[Backbone], checkpoint: Checkpoint, adapted: Adapted) -> Backbone:
    """Make a network with the weights of a checkpoint, in evaluation mode; all of them fit, or nothing is made.

    Raises
    ------
    WeightsError
        Keys of the file that are missing, left over, of another shape or type, or not finite; or sizes of which no
        such network can be.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            network = kind(adapted.config).eval()
    except Exception as error:  # of sizes that cannot be, anything
        reason = f"is of no {kind.__name__}: {' '.join(str(error).split())}"
        raise WeightsError(checkpoint.path, reason, _fits_not(checkpoint)) from None
    ours, file, spelled = network.state_dict(), checkpoint.weights, checkpoint.spelled
    if ours.keys() != adapted.wanted.keys():
        raise AssertionError(f"adapter of {kind.name}: {sorted(ours.keys() ^ adapted.wanted.keys())}")
    made = {key: how if isinstance(how, Made) else Made((how,), _same) for key, how in adapted.wanted.items()}
    used = {part for how in made.values() for part in how.keys}  # noqa: SIM118
    missing = [spelled(key) for key in sorted((used | adapted.idle.keys()) - file.keys())]
    left_over = [spelled(key) for key in sorted(file.keys() - used - adapted.unused.keys())]
    misshapen: dict[str, str] = {}
    broken: list[str] = []
    weights = {}
    for key, how in made.items():
        parts = {part: file[part] for part in how.keys if part in file}  # noqa: SIM118
        if len(parts) < len(how.keys):
            continue
        weight = _made(how, list(parts.values()))
        if weight is not None and weight.shape == ours[key].shape:
            weights[key] = weight
            broken += [spelled(part) for part, w in parts.items() if not w.isfinite().all()]
        else:
            needed = f"; needed is float {tuple(ours[key].shape)}" if len(parts) == 1 else ""
            misshapen |= {spelled(part): f"{_form(weight)}{needed}" for part, weight in parts.items()}
    for key, shape in adapted.idle.items():
        if key in file:
            weight = _made(Made((key,), _same), [file[key]])
            if weight is None or (shape is not None and weight.shape != shape):
                needed = f"; needed is float {shape}" if shape is not None else ""
                misshapen[spelled(key)] = f"{_form(file[key])}{needed}"
            elif not weight.isfinite().all():
                broken.append(spelled(key))
    said = {
        "lacks": missing,
        "has left over": left_over,
        "has in another shape or type": [f"{key} ({text})" for key, text in misshapen.items()],
        "contradicts itself:": checkpoint._disputed,
        "has NaN or infinity in": sorted(set(broken)),
    }
    if any(said.values()):
        reason = "; ".join(f"{what} {_listed(keys)}" for what, keys in said.items() if keys)
        cure = (
            _AGAIN
            if [what for what, keys in said.items() if keys] == ["has NaN or infinity in"]
            else _fits_not(checkpoint)
        )
        raise WeightsError(
            checkpoint.path, reason, cure, missing=missing, left_over=left_over, misshapen=misshapen, broken=broken
        )
    network.load_state_dict(weights, strict=True)
    return network


def _made(how: Made, parts: list[Tensor]) -> Tensor | None:
    """Make a weight of parts of the file, where they are numbers and go together."""
    if not all(w.is_floating_point() and w.layout == torch.strided and w.device.type == "cpu" for w in parts):
        return None
    try:
        return how.make(*(part.float() for part in parts))
    except (IndexError, RuntimeError):
        return None


def _same(weight: Tensor) -> Tensor:
    return weight


def _form(weight: Tensor) -> str:
    return f"{str(weight.dtype).removeprefix('torch.')} {tuple(weight.shape)}"


def _listed(keys: Iterable[str]) -> str:
    keys = list(keys)
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more


def _fits_not(checkpoint: Checkpoint) -> str:
    beside = [name for name in checkpoint.configs if name in SIDECARS or name.endswith((".yaml", ".yml"))]
    return f"check that it is a checkpoint of this network{f' and that {_listed(beside)} belongs to it' * bool(beside)}"


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    try:
        with safe_open(path, framework="pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError):
        raise WeightsError(path, "is cut short or damaged, or no file of safetensors", _AGAIN) from None
    if not weights:
        raise WeightsError(path, "holds no weights", "check that it is the right file")
    if "config" not in metadata:
        return weights, {}
    return weights, {"metadata": _mapping(path, metadata["config"], json.loads)}


def _unpickled(path: Path) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged pickle, anything
        if _FOREIGN.search(str(error)):
            reason = "asks for code to be run when it is read, which weights do not need"
            raise WeightsError(path, reason, "take it from its authors, as safetensors or a plain state dict") from None
        raise WeightsError(path, "is cut short or damaged", _AGAIN) from None
    configs = {}
    if isinstance(content, Mapping):
        for key in ("cfg", "args"):
            said = _opened(content.get(key))
            if isinstance(said, dict):
                configs[key] = said
        for key in ("model", "state_dict"):
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(path, "holds no weights", "check that it is the right file")
    if odd := [key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]:
        raise WeightsError(
            path, f"is no state dict: {_listed(map(str, odd))} is no tensor", "save `state_dict()` alone"
        )
    return dict(content), configs


def _opened(value: Any) -> Any:
    """Make dicts of the Namespaces in a configuration, in place, however deep and even where it holds itself."""
    top = [value]
    waiting: list[Any] = [top]
    seen = set()
    while waiting:
        level = waiting.pop()
        if id(level) in seen:
            continue
        seen.add(id(level))
        for key, inner in enumerate(level) if isinstance(level, list) else level.items():
            if isinstance(inner, argparse.Namespace):
                level[key] = inner = vars(inner)
            if isinstance(inner, (dict, list)):
                waiting.append(inner)
    return top[0]


def _sidecars(folder: Path) -> dict[str, dict[str, Any]]:
    configs = {}
    for path in (*(folder / name for name in SIDECARS), *sorted(folder.glob("*.yaml")), *sorted(folder.glob("*.yml"))):
        if path.is_file():
            parse = json.loads if path.suffix == ".json" else yaml.safe_load
            configs[path.name] = _mapping(path, path.read_bytes(), parse)
    return configs


def _mapping(path: Path, text: str | bytes, parse: Callable[[Any], Any]) -> dict[str, Any]:
    try:
        content = parse(text)
    except (ValueError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict):
        raise WeightsError(path, "cannot be read as a configuration", f"{_AGAIN}, or take it out of the folder")
    return content
