"""Checkpoints of TimesNet, as Time-Series-Library saves them."""

from ecgmoe.backbones.published.containers import Adapted, Checkpoint, WeightsError
from ecgmoe.backbones.timesnet import TimesNetConfig

_VALUES = "enc_embedding.value_embedding.tokenConv.weight"
_POSITIONS = "enc_embedding.position_embedding.pe"
_CALENDAR = "enc_embedding.temporal_embedding."
_TIMES = f"{_CALENDAR}embed.weight"
_TABLES = {
    f"{_CALENDAR}{unit}_embed.{kind}"
    for unit in ("minute", "hour", "weekday", "day", "month")
    for kind in ("weight", "emb.weight")
}

#: Features of the calendar by the upstream setting ``freq``.
_TIME_FEATURES = {"h": 4, "t": 5, "s": 6, "m": 1, "a": 1, "w": 2, "d": 3, "b": 3}

#: Whether a network forecasts, by the upstream setting ``task_name``.
_TASKS = {
    **dict.fromkeys(("long_term_forecast", "short_term_forecast", "zero_shot_forecast"), True),
    **dict.fromkeys(("classification", "imputation", "anomaly_detection"), False),
}


def adapt(checkpoint: Checkpoint) -> Adapted:
    """Take sizes from shapes, and the number of periods from a configuration beside the file.

    Notes
    -----
    ``top_k`` is no weight: where no configuration says it, it is 5, as in Time-Series-Library. Nothing says the
    sampling rate: the input is taken to last 10 s. Periods of features are picked record by record, those of
    ``upstream()`` by the batch (see ``TimesNetConfig.per_sample_periods``).
    """
    size, number = checkpoint.size, checkpoint.number
    blocks = range(max(1, checkpoint.count("model."), number("e_layers", default=0)))
    places = [f"model.{i}.conv.{j}.kernels." for i in blocks for j in (0, 2)]
    kernels = range(max(1, *map(checkpoint.count, places), number("num_kernels", default=0)))
    convs = [f"{place}{k}" for place in places for k in kernels]
    first, second = ([conv for conv in convs if f".conv.{j}." in conv] for j in (0, 2))

    norm, head = (_both(f"{name}") for name in ("layer_norm", "projection"))
    wanted = [_VALUES, _POSITIONS, *norm, *(key for conv in convs for key in _both(conv))]
    ends = [(key, 0) for key in (_VALUES, *norm, *(key for conv in second for key in _both(conv)))]
    d_model = size(*ends, of="width of the model", setting="d_model")
    ends = [*((key, 0) for conv in first for key in _both(conv)), *((f"{conv}.weight", 1) for conv in second)]
    d_ff = size(*ends, of="width between convolutions", setting="d_ff")

    unused: dict[str, str] = {}
    tables = [key for key in checkpoint.weights if key in _TABLES]
    time_features = _TIME_FEATURES.get(str(checkpoint.setting("freq")), 0)
    if _TIMES in checkpoint.weights or not tables:
        wanted.append(_TIMES)
        if not time_features and _TIMES in checkpoint.weights:
            time_features = size((_TIMES, 1), of="number of features of the calendar")
        time_features = time_features or _TIME_FEATURES["h"]
    else:
        unused = dict.fromkeys(tables, "tables of months, days and hours, which an ECG does not have")
        time_features = 0

    task = str(checkpoint.setting("task_name"))
    said = {name: number(name, default=0, least=0) for name in ("pred_len", "num_class")}
    seq_len, pred_len, num_class, reconstructs = number("seq_len", default=0), 0, 0, False
    c_out = enc_in = size((_VALUES, 1), of="number of leads", setting="enc_in")
    ahead = _both("predict_linear")
    forecasts = any(key in checkpoint.weights for key in ahead)
    if task in _TASKS:
        forecasts = _TASKS[task]
    elif said["pred_len"] and not said["num_class"]:  # unless there is a head of classes instead
        forecasts |= head[0] not in checkpoint.weights or checkpoint.weights[head[0]].shape[1:] == (d_model,)
    if forecasts:
        wanted += ahead
        seq_len = seq_len or size((ahead[0], 1), of="length of the input")
        ends = [(key, 0) for key in ahead]
        pred_len = said["pred_len"] or size(*ends, of="length of the output") - seq_len
        if pred_len <= 0:
            reason = (
                f"{checkpoint.spelled(ahead[0])} makes no forecast: it maps {seq_len} samples to {seq_len + pred_len}"
            )
            raise WeightsError(checkpoint.path, reason, "take a checkpoint that forecasts", misshapen=ahead[:1])
    if forecasts or task in _TASKS or said["num_class"] or any(key in checkpoint.weights for key in head):
        wanted += head
        ends = [(key, 0) for key in head]
        classifies = task == "classification"
        if not forecasts and task not in _TASKS:
            classifies = size((head[0], 1), of="number of classes") != d_model
        if classifies:
            num_class = said["num_class"] or max(1, size(*ends, of="number of classes"))
            seq_len = seq_len or max(1, size((head[0], 1), of="length of the input") // max(1, d_model))
        else:
            c_out = number("c_out", default=0) or size(*ends, of="width of the output")
            reconstructs = not forecasts
    seq_len = seq_len or 96
    config = TimesNetConfig(
        seq_len=seq_len,
        pred_len=pred_len,
        num_class=num_class,
        reconstructs=reconstructs,
        enc_in=enc_in,
        c_out=c_out,
        time_features=time_features,
        max_len=max(seq_len + pred_len, size((_POSITIONS, 1), of="number of positions")),
        d_model=d_model,
        d_ff=d_ff,
        num_kernels=len(kernels),
        top_k=number("top_k", default=5),
        e_layers=len(blocks),
        fs=seq_len / 10,
    )
    return Adapted(config, {key: key for key in wanted}, unused)


def _both(layer: str) -> list[str]:
    return [f"{layer}.weight", f"{layer}.bias"]
