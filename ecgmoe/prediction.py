"""Predictions on anyone's ECG: a trained ECG-MoE with its backbones, its calibration, and whatever leads there are.

:func:`load` gives the model that this library ships, or one of your own. A recording of any length and rate is cut into
windows of ten seconds; leads that are not there are made of the others, and what the answers rest on is said beside
them.

Shape legend: B windows, L 12 leads, T samples, O outputs of a head, K tasks, N beats.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_model
from torch import Tensor

from ecgmoe import backbones, beats, caution, inference, results
from ecgmoe.backbones import Backbone
from ecgmoe.backbones.published import SHIPPED as SHIPPED_BACKBONES
from ecgmoe.fusion import ECGMoE, ECGMoEConfig, Ensemble
from ecgmoe.moe import EXPERT_NAMES
from ecgmoe.multitask import Output
from ecgmoe.records import LEADS, InputError, RecordError
from ecgmoe.sources import Recording
from ecgmoe.tasks import TASKS
from ecgmoe.windows import Window, cut

#: Folder of the models that come with this library.
SHIPPED = Path(__file__).resolve().parents[1] / "data" / "models"

#: Columns of every table of predictions.
COLUMNS = (
    *("record", "start_s"),
    *("rr_ms", "rr_ms_low", "rr_ms_high"),
    *("age_years", "age_years_low", "age_years_high"),
    *("sex", "sex_female_probability"),
    *("rhythm", "rhythm_probability"),
    *("warnings", "potassium_abnormal_probability"),
)

#: Column that is empty where a task has no answer, in the order of ``TASKS``.
_ANSWERS = ("rr_ms", "age_years", "sex_female_probability", "potassium_abnormal_probability", "rhythm_probability")

#: Windows that are answered together.
BATCH = 32


class ModelError(InputError):
    """A trained model cannot be used; the message says what is wrong with it and what to do."""


@dataclass(frozen=True)
class Calibration:
    """What brings the claims of a trained model closer to the truth.

    It is fitted to the answers of a model on recordings that its weights have not learnt from, though its epochs and
    settings were chosen there, and is then used by a refit that has. So there is no guarantee: the card of a model
    says what its intervals hold of recordings that neither has seen.

    Attributes
    ----------
    half_width : mapping of str to float
        Of the prediction interval of each regression, in its unit: a quantile of the absolute errors, as split
        conformal prediction takes it (Lei et al., J. Am. Stat. Assoc. 113:1094, 2018).
    scale, shift : mapping of str to float
        Of the logits of each classification, a shift for binary tasks alone: Platt scaling (Platt 1999), of several
        classes temperature scaling (Guo et al., ICML 2017).
    level : float
        Share of recordings that the intervals are to hold.
    """

    half_width: Mapping[str, float]
    scale: Mapping[str, float]
    shift: Mapping[str, float]
    level: float = 0.95

    def probability(self, name: str, logits_BO: Tensor) -> Tensor:
        """Calibrated probability of class 1 (B,), or of each class (B, O)."""
        logits_BO = logits_BO * self.scale.get(name, 1.0) + self.shift.get(name, 0.0)
        return logits_BO[:, 0].sigmoid() if TASKS[name].kind == "binary" else logits_BO.softmax(-1)


class Explained(NamedTuple):
    """One window with its answers and where the model looked."""

    window: Window
    row: pd.Series  #: its line of the table
    fs: float
    peaks: np.ndarray  #: R-peaks in samples
    attention: pd.DataFrame  #: weight of each beat a task: a row a task, a column a beat
    experts: pd.DataFrame  #: weight of each expert of the periodic network a task
    paths: pd.DataFrame  #: weights of backbones and periodic path a task


class Predictor:
    """A trained ECG-MoE that answers on recordings; made by :func:`load`.

    Attributes
    ----------
    model : ECGMoE or Ensemble
    networks : dict of str to Backbone
        Those backbones that the model does not hold itself.
    card : dict
        What the model was trained on and what it reaches; empty for a model without card.
    calibration : Calibration or None
        Without it there are no intervals, and probabilities are as the model gives them.
    lead_covariance : ndarray of shape (12, 12) or None
        Of the leads of the training part, mV squared; without it a missing lead is zero.
    """

    def __init__(
        self,
        model: ECGMoE | Ensemble,
        networks: Mapping[str, Backbone],
        card: Mapping[str, Any] | None = None,
        calibration: Calibration | None = None,
        lead_covariance: np.ndarray | None = None,
    ) -> None:
        self.model, self.networks, self.card = model.eval(), dict(networks), dict(card or {})
        self.calibration, self.lead_covariance = calibration, lead_covariance

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the model answers."""
        return self.model.tasks

    def predict(
        self,
        signal: np.ndarray | Tensor,
        fs: float,
        leads: str | Sequence[str] | None = None,
        *,
        tasks: str | Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Predict from recordings.

        Parameters
        ----------
        signal : array of shape (leads, samples) or (records, leads, samples)
            mV; NaN, or masked, where a sample is missing. Gaps of up to 50 ms are bridged, a longer one costs the lead
            its window.
        fs : float
            Sampling rate in Hz, 25 to 100,000.
        leads : str or sequence of str, optional
            Names of the leads in the order of ``signal``; by default the twelve standard leads in standard order
            (``records.LEADS``). Any selection of them will do, in any order.
        tasks : str or sequence of str, optional
            Of :attr:`tasks`; all by default.

        Returns
        -------
        DataFrame
            A row a window of ten seconds, columns :data:`COLUMNS`. ``record`` is the number of the record. What was
            not asked for, or cannot be given, is NaN or None, and ``warnings`` says why: :data:`.caution.NEEDS`
            and :data:`.caution.NEED_ALL` tell which leads an answer takes.

        Raises
        ------
        RecordError
            A recording is shorter than ten seconds, has none of the twelve leads, more or fewer names than leads, or a
            rate outside of that range.
        ValueError
            An unknown task, or a sampling rate that is not a positive number.
        """
        array = _as_array(signal)
        if array.ndim not in (2, 3):
            raise RecordError("signal", f"an array of shape {array.shape}", "give (leads, samples), or several of it")
        rate: object = fs
        if not isinstance(rate, Real):
            raise ValueError(f"a sampling rate of {fs!r}; give it as a number, in Hz")
        if not 0 < fs < float("inf"):
            raise ValueError(f"a sampling rate of {fs} Hz; it must be positive")
        given = tuple(LEADS if leads is None else [leads] if isinstance(leads, str) else leads)
        records = (
            Recording(str(i), one, float(fs), given) for i, one in enumerate(array if array.ndim == 3 else array[None])
        )
        tables: list[pd.DataFrame] = []
        for found in self.stream(records, tasks):
            if isinstance(found, RecordError):
                raise found
            tables.append(found.table)
        table = pd.concat(tables, ignore_index=True) if tables else _table([], {}, [])
        return table.assign(record=table["record"].astype(int))

    def stream(
        self,
        recordings: Iterable[Recording | RecordError],
        tasks: str | Sequence[str] | None = None,
        *,
        any_leads: bool = False,
    ) -> Iterator["Answered | RecordError"]:
        """Predict from one recording after the other, some windows at a time, whatever their number.

        Parameters
        ----------
        recordings : iterable of Recording or RecordError
            As from :func:`ecgmoe.sources.read`.
        tasks : str or sequence of str, optional
        any_leads : bool
            Also give what :data:`.caution.NEEDS` and :data:`.caution.NEED_ALL` withhold, to measure what it is worth.

        Yields
        ------
        Answered or RecordError
            Of at most :data:`BATCH` windows, in order; and each recording that cannot be used, as its error.
        """
        wanted = self._wanted(tasks)
        waiting: list[Window] = []
        for recording in recordings:
            try:
                if isinstance(recording, RecordError):
                    raise recording
                for window in cut(recording, self.model.config.fs, self.lead_covariance):
                    waiting.append(window)
                    if len(waiting) == BATCH:
                        yield self._answered(waiting, wanted, any_leads)
                        waiting = []
            except RecordError as error:
                yield error
        if waiting:
            yield self._answered(waiting, wanted, any_leads)

    def explain(self, recording: Recording) -> list[Explained]:
        """Answer every window of a recording, and give where the model looked.

        Raises
        ------
        RecordError
            As :meth:`predict`.
        """
        explained: list[Explained] = []
        for found in self.stream([recording]):
            if isinstance(found, RecordError):
                raise found
            explained += found.explained()
        return explained

    def _wanted(self, tasks: str | Sequence[str] | None) -> tuple[str, ...]:
        """Tasks of the model that are asked for; one that it does not know is refused, unless others do."""
        if tasks is None:
            return self.tasks
        tasks = (tasks,) if isinstance(tasks, str) else tasks
        if unknown := [name for name in tasks if name not in TASKS]:
            raise ValueError(f"unknown task {', '.join(unknown)}; known are {', '.join(TASKS)}")
        return tuple(name for name in self.tasks if name in tasks)

    def _answered(self, windows: Sequence[Window], tasks: Sequence[str], any_leads: bool) -> "Answered":
        signal_BLT, fs = torch.from_numpy(np.stack([window.signal_LT for window in windows])), self.model.config.fs
        peaks = beats.detect_r_peaks(signal_BLT, fs)
        warnings, alive_B = caution.looked_at(windows, signal_BLT, peaks, fs)
        inputs = inference.made_for(self.model, signal_BLT, peaks)
        output = inference.run(self.model, self.networks, inputs, tasks)[0] if tasks else Output({})
        columns = self._columns(output, tasks)
        if "rr" in tasks:
            longest = longest_rr_ms(self.model)
            for i, rr in enumerate(beats.mean_rr(peaks, fs)):
                if alive_B[i] and rr >= longest:
                    warnings[i].append("RR interval beyond what the model can say")
                    for name in ("rr_ms", "rr_ms_low", "rr_ms_high"):
                        columns[name][i] = np.nan
        for values in columns.values():
            values[~alive_B] = None if values.dtype == object else np.nan
        if not any_leads:
            for i, window in enumerate(windows):
                if alive_B[i]:
                    warnings[i] += caution.withheld(window, i, columns)
        return Answered(_table(windows, columns, warnings), tuple(windows), peaks, output, tuple(tasks), self.model)

    def _columns(self, output: Output, tasks: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns of answers for a batch."""
        calibration = self.calibration or Calibration({}, {}, {})
        columns: dict[str, np.ndarray] = {}
        values = self.model.predict(output.logits)
        for name, label in (("rr", "rr_ms"), ("age", "age_years")):
            if name in tasks:
                half = calibration.half_width.get(name, float("nan"))
                value_B = values[name].cpu().numpy().astype(float)
                columns |= {label: value_B, f"{label}_low": np.maximum(value_B - half, 0)}
                columns[f"{label}_high"] = value_B + half
        if "sex" in tasks:
            female_B = calibration.probability("sex", output.logits["sex"]).cpu().numpy().astype(float)
            columns["sex"] = np.array(TASKS["sex"].classes, dtype=object)[(female_B > 0.5).astype(int)]
            columns["sex_female_probability"] = female_B
        if "rhythm" in tasks:
            rhythm_BO = calibration.probability("rhythm", output.logits["rhythm"]).cpu().numpy().astype(float)
            columns["rhythm"] = np.array(TASKS["rhythm"].classes, dtype=object)[rhythm_BO.argmax(1)]
            columns["rhythm_probability"] = rhythm_BO.max(1)
        if "potassium" in tasks:
            abnormal_B = calibration.probability("potassium", output.logits["potassium"])
            columns["potassium_abnormal_probability"] = abnormal_B.cpu().numpy().astype(float)
        return columns


class Answered(NamedTuple):
    """Windows with their answers."""

    table: pd.DataFrame  #: a row a window, columns :data:`COLUMNS`
    windows: tuple[Window, ...]
    peaks: list[np.ndarray]  #: R-peaks a window, in samples at the model's rate
    output: Output
    tasks: tuple[str, ...]
    model: ECGMoE | Ensemble

    def predictions(self, calibration: Calibration | None = None) -> dict[str, np.ndarray]:
        """Answers as :mod:`ecgmoe.evaluation` takes them, by task; NaN where the table has none."""
        calibration, found = calibration or Calibration({}, {}, {}), {}
        columns = dict(zip(TASKS, _ANSWERS, strict=True))
        for name, values in self.model.predict(self.output.logits).items():
            is_class = TASKS[name].kind != "regression"
            answer = calibration.probability(name, self.output.logits[name]) if is_class else values
            found[name] = answer.cpu().numpy().astype(float)
            found[name][self.table[columns[name]].isna().to_numpy()] = np.nan
        return found

    def explained(self) -> list[Explained]:
        """Give for each window where the model looked."""
        periodic = self.output.periodic if self.model.config.periodic == "experts" else None
        titles = [TASKS[name].title for name in self.tasks]
        explained = []
        for i, window in enumerate(self.windows):
            n_beats = min(len(self.peaks[i]), self.model.config.max_beats)

            def table(weight_BKX: Tensor | None, columns: Sequence[object], i: int = i) -> pd.DataFrame:
                if weight_BKX is None:
                    return pd.DataFrame(index=titles)
                return pd.DataFrame(weight_BKX[i, :, : len(columns)].cpu().numpy(), titles, list(columns))

            one = Explained(
                window,
                self.table.iloc[i],
                self.model.config.fs,
                self.peaks[i],
                table(periodic.attention_BKN if periodic else None, range(n_beats)),
                table(periodic.gate_BKE if periodic else None, EXPERT_NAMES),
                table(self.output.path_gate_BK2, ("backbones", "beats")),
            )
            explained.append(one)
        return explained


def longest_rr_ms(model: ECGMoE | Ensemble) -> float:
    """Mean RR interval, ms, from which on a model sees always the same: its first characteristic is cut off there."""
    first = cast(ECGMoE, model.members[0]) if isinstance(model, Ensemble) else model
    scale = first.scale_characteristics
    return 1000 * float(scale.mean_D[0] + 10 * scale.sd_D[0])


def _as_array(signal: np.ndarray | Tensor) -> np.ndarray:
    """Float32, NaN where an array is masked."""
    if isinstance(signal, Tensor):
        signal = signal.detach().cpu().numpy()
    if isinstance(signal, np.ma.MaskedArray):
        signal = np.ma.filled(signal.astype(np.float32), np.nan)
    return np.asarray(signal, np.float32)


def _table(
    windows: Sequence[Window], columns: Mapping[str, np.ndarray], warnings: Sequence[Sequence[str]]
) -> pd.DataFrame:
    empty = {name: None if name in ("sex", "rhythm") else np.nan for name in COLUMNS}
    own = {
        "record": [window.record for window in windows],
        "start_s": [window.start_s for window in windows],
        "warnings": ["; ".join(dict.fromkeys(said)) for said in warnings],
    }
    return pd.DataFrame({**empty, **own, **columns}, index=range(len(windows)), columns=list(COLUMNS))


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_of(name: str | os.PathLike[str]) -> Path:
    """Folder of a model that this library ships, by name; else the name is a folder itself."""
    return SHIPPED / name if (SHIPPED / name / "config.json").is_file() else Path(name).expanduser()


def load(name: str | os.PathLike[str] = "compact-ptbxl") -> Predictor:
    """Load a trained ECG-MoE with all that it takes to answer.

    Parameters
    ----------
    name : str or path
        A model that this library ships (a folder of :data:`SHIPPED`), or the folder of one of your own, as ``python -m
        ecgmoe train`` leaves it in ``FOLDER/model``.

    Raises
    ------
    ModelError
        There is no such model, or one of its files, or of the backbones that it was trained with, is not what the
        card says.
    """
    folder = folder_of(name)
    if not (folder / "config.json").is_file():
        shipped = sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))
        apart = "shipped models lie in data/models of the repository: install a checkout in place (pip install -e)"
        known = f"shipped are {', '.join(shipped)}" if shipped else apart
        raise ModelError(f"there is no model {name}; {known}, or give the folder that `train` left: FOLDER/model")
    try:
        card = json.loads((folder / "card.json").read_text("utf-8")) if (folder / "card.json").is_file() else {}
        calibration = Calibration(**card["calibration"]) if "calibration" in card else None
        covariance = np.array(card["lead_covariance"], float) if "lead_covariance" in card else None
    except (ValueError, TypeError) as error:
        raise ModelError(f"{folder}: card.json cannot be read ({error}); take the folder again") from None
    again = "take the folder from the repository again"
    files = card.get("files", {"model.safetensors": None})
    for name, digest in files.items():
        _check(folder / name, digest, again)
    for backbone, digest in card.get("backbones", {}).items():
        path = SHIPPED_BACKBONES / f"{backbone}.safetensors"
        _check(path, digest, "the model was trained with other weights of this backbone")
    try:
        with redirect_stdout(io.StringIO()):  # the hub's library prints where weights come from
            model: ECGMoE | Ensemble = ECGMoE.from_pretrained(folder)
        if len(files) > 1:
            model = Ensemble([_with_weights(model.config, folder / name) for name in files])
    except Exception as error:  # of a damaged file, anything
        cure = "take its folder again; a model of another version of this library has to be trained anew"
        raise ModelError(f"{folder}: the model cannot be read ({error}); {cure}") from None
    frozen = frozen_backbones(model)
    if frozen and model.config.preset.endswith("-random") and "seed" not in card:
        reason = f"its backbones {', '.join(frozen)} are random, and no card.json says from which seed"
        raise ModelError(f"{folder}: {reason}; write the model with prediction.save, or train it anew")
    networks = {one: backbones.build(one, model.config.preset, card.get("seed", 0)) for one in frozen}
    return Predictor(model, networks, card, calibration, covariance)


def save(model: ECGMoE, folder: Path, seed: int = 0) -> None:
    """Write a trained model so that :func:`load` builds the backbones that it was trained with.

    Parameters
    ----------
    model : ECGMoE
    folder : Path
        Gets weights, ``config.json`` and a ``card.json`` with what :func:`backbones_of` says.
    seed : int
        That of the features: what random backbones were built from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").unlink(missing_ok=True)  # of other weights
    model.save_pretrained(folder)
    card = {"files": {"model.safetensors": sha256(folder / "model.safetensors")}, **backbones_of(model, seed)}
    results.write_json(folder / "card.json", card)


def frozen_backbones(model: ECGMoE | Ensemble) -> list[str]:
    """Names of the backbones that a model takes features of and does not hold itself."""
    return [name for name in model.config.d_features if name not in model.networks]


def backbones_of(model: ECGMoE | Ensemble, seed: int = 0) -> dict[str, Any]:
    """What a card says of the backbones that a model does not hold: their digests, or the seed of random ones."""
    frozen, preset = frozen_backbones(model), model.config.preset
    digests = shipped_digests(frozen if preset == "compact" else ())
    return {"backbones": digests} | ({"seed": seed} if frozen and preset.endswith("-random") else {})


def shipped_digests(names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the weights of compact backbones that come with the repository, by name."""
    return {name: sha256(SHIPPED_BACKBONES / f"{name}.safetensors") for name in names}


def _with_weights(config: ECGMoEConfig, path: Path) -> ECGMoE:
    model = ECGMoE(config)
    load_model(model, path)
    return model


def _check(path: Path, digest: str | None, cure: str) -> None:
    """Refuse a file that is not there, or not the one that a card names."""
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file; {cure}")
    if digest is not None and sha256(path) != digest:
        raise ModelError(f"{path}: its SHA-256 is not the one of the card; {cure}")


def answered(table: pd.DataFrame) -> int:
    """Count the rows that have any answer."""
    return int(table[list(_ANSWERS)].notna().any(axis=1).sum())


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of predictions with as many decimals as mean anything, for files."""
    places = {name: 3 if "probability" in name else 1 for name in table.columns if table[name].dtype.kind == "f"}
    return table.round(places)
