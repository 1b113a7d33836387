"""What training minimises: equation 5, a sum of task losses and a contrastive term.

Shape legend: B records, D width, O outputs of a head.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgmoe.multitask import MultiTask, Output
from ecgmoe.tasks import TASKS

#: Within this many SD of the target a regression's loss is quadratic, beyond it the absolute error that is reported.
SMOOTH_WITHIN_SD = 0.1


class Losses(NamedTuple):
    """The terms of eq. 5, each a scalar; tasks without a label in the batch contribute zero."""

    total: Tensor
    by_task: dict[str, Tensor]
    contrastive: Tensor


def objective(model: MultiTask, output: Output, targets: dict[str, Tensor], lam: float = 0.1) -> Losses:
    """Equation 5: the sum of the task losses plus ``lam`` times the contrastive term.

    Parameters
    ----------
    model : ECGMoE
        Holds the scales of the regression targets.
    output : Output
    targets : dict of str to Tensor
        (B,) by task, NaN where a label is missing: such records do not count for that task.
    lam : float
        lambda of eq. 5.

    Notes
    -----
    Regression: absolute error of standardised targets, smoothed near zero (raw milliseconds squared would swamp the
    rest; a target of shape (B,) is compared with a prediction of shape (B,), never broadcast to (B, B)). Classes:
    cross entropy, for binary tasks with both classes weighing the same in all (the headline metric is macro-F1).
    Contrastive term: symmetric InfoNCE; the two paths' embeddings of one record are the positive pair, the other
    records of the batch the negatives (the paper does not define its pairs).
    """
    by_task: dict[str, Tensor] = {}
    for name, logits_BO in output.logits.items():
        known_B = torch.isfinite(targets[name])
        if not known_B.any():
            by_task[name] = logits_BO.sum() * 0.0
            continue
        logits_BO, target_B = logits_BO[known_B], targets[name][known_B]
        kind = TASKS[name].kind
        if kind == "regression":
            standard_B = model.target_scale(name)(target_B[:, None])[:, 0]
            by_task[name] = F.smooth_l1_loss(logits_BO[:, 0], standard_B, beta=SMOOTH_WITHIN_SD)
        elif kind == "binary":
            weight = model.positive_weight_K[model.tasks.index(name)]
            by_task[name] = F.binary_cross_entropy_with_logits(logits_BO[:, 0], target_B, pos_weight=weight)
        else:
            by_task[name] = F.cross_entropy(logits_BO, target_B.long())
    total = torch.stack(list(by_task.values())).sum()
    contrastive = total.new_zeros(())
    if output.contrast is not None and len(output.contrast[0]) > 1:
        a_BD, b_BD = (F.normalize(side_BD, dim=-1) for side_BD in output.contrast)
        similarity_BB = a_BD @ b_BD.T * model.temperature.exp().clamp(max=100)
        own_B = torch.arange(len(a_BD), device=a_BD.device)
        contrastive = (F.cross_entropy(similarity_BB, own_B) + F.cross_entropy(similarity_BB.T, own_B)) / 2
        total = total + lam * contrastive
    return Losses(total, by_task, contrastive)
