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
    n_maps = max(checkpoint.count("Linear_Seasonal."), checkpoint.count("Linear_Trend."))
    numbers = [f".{n}" for n in range(n_maps)] or [""]
    maps = [f"Linear_{part}{number}" for part in ("Seasonal", "Trend") for number in numbers]
    wanted = [f"{one}.{kind}" for one in maps for kind in ("weight", "bias")]

    seq_len = checkpoint.size(*((f"{one}.weight", 1) for one in maps), of="length of the input", setting="seq_len")
    ends = ((key, 0) for key in wanted)
    pred_len = checkpoint.size(*ends, of="length of the output")
    n_leads, num_class = n_maps or checkpoint.number("enc_in", default=N_LEADS), 0
    head = ["projection.weight", "projection.bias"]
    if any(key in checkpoint.weights for key in head):
        wanted += head
        num_class = checkpoint.size(*((key, 0) for key in head), of="number of classes")
        if not n_maps:
            n_leads = max(1, checkpoint.size(("projection.weight", 1), of="number of leads") // pred_len)
    config = DLinearConfig(
        seq_len=seq_len,
        pred_len=pred_len,
        moving_avg=checkpoint.number("moving_avg", default=25),
        individual=bool(n_maps),
        num_class=num_class,
        enc_in=n_leads,
        fs=seq_len / 10,
    )
    return Adapted(config, {key: key for key in wanted})
