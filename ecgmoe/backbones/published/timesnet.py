"""Checkpoints of TimesNet, as Time-Series-Library saves them."""

from ecgmoe.backbones.published.containers import Adapted, Checkpoint, WeightsError
from ecgmoe.backbones.timesnet import TimesNetConfig

_VALUES = "enc_embedding.value_embedding.tokenConv.weight"
_POSITIONS = "enc_embedding.position_embedding.pe"
_CALENDAR = "enc_embedding.temporal_embedding."
_TIMES = f"{_CALENDAR}embed.weight"

#: Features of the calendar by the upstream setting ``freq``.
_TIME_FEATURES = {"h": 4, "t": 5, "s": 6, "m": 1, "a": 1, "w": 2, "d": 3, "b": 3}


def adapt(checkpoint: Checkpoint) -> Adapted:
    """Take sizes from shapes, and the number of periods from a configuration beside the file.

    Notes
    -----
    ``top_k`` is no weight: where no configuration says it, it is 5, as in Time-Series-Library. Nothing says the
    sampling rate: the input is taken to last 10 s. Periods of features are picked record by record, those of
    ``upstream()`` by the batch (see ``TimesNetConfig.per_sample_periods``).
    """
    size, number = checkpoint.size, checkpoint.number
    blocks = range(max(1, checkpoint.count("model.")))
    places = [f"model.{i}.conv.{j}.kernels." for i in blocks for j in (0, 2)]
    kernels = range(max(1, *map(checkpoint.count, places)))
    convs = [f"{place}{k}" for place in places for k in kernels]
    first, second = ([conv for conv in convs if f".conv.{j}." in conv] for j in (0, 2))

    norm, head = (_both(f"{name}") for name in ("layer_norm", "projection"))
    wanted = [_VALUES, _POSITIONS, *norm, *(key for conv in convs for key in _both(conv))]
    ends = [(key, 0) for key in (_VALUES, *norm, *(key for conv in second for key in _both(conv)))]
    d_model = size(*ends, of="width of the model", setting="d_model")
    ends = [*((key, 0) for conv in first for key in _both(conv)), *((f"{conv}.weight", 1) for conv in second)]
    d_ff = size(*ends, of="width between convolutions", setting="d_ff")

    unused: dict[str, str] = {}
    tables = [key for key in checkpoint.weights if key.startswith(_CALENDAR) and key != _TIMES]
    time_features = _TIME_FEATURES.get(checkpoint.setting("freq"), 0)
    if _TIMES in checkpoint.weights or not tables:
        wanted.append(_TIMES)
        time_features = time_features or size((_TIMES, 1), of="number of features of the calendar")
    else:
        unused = dict.fromkeys(tables, "tables of months, days and hours, which an ECG does not have")
        time_features = 0

    seq_len, pred_len, num_class, reconstructs = number("seq_len", default=96), 0, 0, False
    c_out = enc_in = size((_VALUES, 1), of="number of leads", setting="enc_in")
    ahead = _both("predict_linear")
    if forecasts := any(key in checkpoint.weights for key in ahead):
        wanted += ahead
        seq_len = size((ahead[0], 1), of="length of the input", setting="seq_len")
        pred_len = size(*((key, 0) for key in ahead), of="length of the output") - seq_len
        if pred_len <= 0:
            reason = (
                f"{checkpoint.spelled(ahead[0])} makes no forecast: it maps {seq_len} samples to {seq_len + pred_len}"
            )
            raise WeightsError(checkpoint.path, reason, "take a checkpoint that forecasts", misshapen=ahead[:1])
    if forecasts or any(key in checkpoint.weights for key in head):
        wanted += head
        n_out = size(*((key, 0) for key in head), of="width of the output")
        per_class = size((head[0], 1), of="number of classes") if not forecasts else d_model
        reconstructs = not forecasts and per_class == d_model
        if forecasts or reconstructs:
            c_out = n_out
        else:
            seq_len, num_class = max(1, per_class // d_model), n_out
    config = TimesNetConfig(
        seq_len=seq_len,
        pred_len=pred_len,
        num_class=num_class,
        reconstructs=reconstructs,
        enc_in=enc_in,
        c_out=c_out,
        time_features=time_features,
        max_len=size((_POSITIONS, 1), of="number of positions"),
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
