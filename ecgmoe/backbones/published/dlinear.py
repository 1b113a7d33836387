"""Checkpoints of DLinear, as LTSF-Linear and Time-Series-Library save them."""

from ecgmoe.backbones import N_LEADS
from ecgmoe.backbones.dlinear import DLinearConfig
from ecgmoe.backbones.published.containers import Adapted, Checkpoint


def adapt(checkpoint: Checkpoint) -> Adapted:
    """Take sizes from shapes; the moving average and the number of leads from a configuration beside the file.

    Notes
    -----
    The moving average is no weight: where no configuration says ``moving_avg``, it is 25 samples, as in both
    libraries. Nor is the number of leads where all share one map: it is ``enc_in``, or 12. Nothing says the sampling
    rate: the input is taken to last 10 s.
    """
    number, task = checkpoint.number, checkpoint.setting("task_name")
    enc_in = number("enc_in", default=0)
    n_maps = max(checkpoint.count("Linear_Seasonal."), checkpoint.count("Linear_Trend."))
    n_maps = max(n_maps, enc_in) if n_maps else 0
    numbers = [f".{n}" for n in range(n_maps)] or [""]
    maps = [f"Linear_{part}{number}" for part in ("Seasonal", "Trend") for number in numbers]
    wanted = [f"{one}.{kind}" for one in maps for kind in ("weight", "bias")]

    seq_len = checkpoint.size(*((f"{one}.weight", 1) for one in maps), of="length of the input", setting="seq_len")
    ends = [(key, 0) for key in wanted]
    head = ["projection.weight", "projection.bias"]
    classifies = task == "classification" or any(key in checkpoint.weights for key in head)
    same = task in ("classification", "imputation", "anomaly_detection")  # where no setting says the length
    setting = "seq_len" if same else "pred_len" if not classifies else ""
    pred_len = checkpoint.size(*ends, of="length of the output", setting=setting)
    n_leads, num_class = n_maps or enc_in or N_LEADS, 0
    if classifies:
        wanted += head
        ends = [(key, 0) for key in head]
        num_class = number("num_class", default=0, least=0)
        num_class = num_class or max(1, checkpoint.size(*ends, of="number of classes"))
        if not n_maps and not enc_in and head[0] in checkpoint.weights:
            inputs = checkpoint.size(("projection.weight", 1), of="number of leads")
            n_leads = max(1, inputs // max(1, pred_len))
    config = DLinearConfig(
        seq_len=seq_len,
        pred_len=pred_len,
        moving_avg=number("moving_avg", default=25),
        individual=bool(n_maps),
        num_class=num_class,
        enc_in=n_leads,
        fs=seq_len / 10,
    )
    return Adapted(config, {key: key for key in wanted})
