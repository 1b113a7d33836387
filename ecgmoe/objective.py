"""What training minimises: equation 5, a sum of task losses and a contrastive term.

Every term is divided by the counts of a whole step of the optimiser, never by those of what happens to be at hand:
the shares of several processes and micro-batches add up to what one batch would give.

Two terms compare records and so are no sums over them: the contrastive one and the balance of a router. Both look at
the records of all processes; of several micro-batches each compares its own records, and what enters is the mean over
micro-batches, weighed by their records.

Shape legend: B records, D width, O outputs of a head, K tasks, M backbones, X rows at hand, Y rows of all processes.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgmoe.multitask import Load, MultiTask, Output
from ecgmoe.tasks import TASKS

#: Within this many SD of the target a regression's loss is quadratic, beyond it the absolute error that is reported.
SMOOTH_WITHIN_SD = 0.003


class Losses(NamedTuple):
    """The terms of eq. 5, each a scalar; tasks without a label in the batch contribute zero."""

    total: Tensor
    by_task: dict[str, Tensor]  #: before weighting
    contrastive: Tensor


class Step(NamedTuple):
    """The whole step of the optimiser of which a batch is a share."""

    n_labelled: Mapping[str, int]  #: records with a label, by task
    n_records: int
    #: Rows (X, ...) of this process to the rows (Y, ...) of all processes, and the place of its first row among them.
    gather: Callable[[Tensor], tuple[Tensor, int]] = lambda x_XD: (x_XD, 0)


def objective(
    model: MultiTask,
    output: Output,
    targets: Mapping[str, Tensor],
    lam: float = 0.1,
    *,
    weighting: Literal["fixed", "uncertainty"] = "fixed",
    balance: float = 0.0,
    group_B: Tensor | None = None,
    step: Step | None = None,
) -> Losses:
    """Equation 5: the sum of the task losses plus ``lam`` times the contrastive term.

    Parameters
    ----------
    model : MultiTask
        Holds the scales of the regression targets, the temperature and the variances of the tasks.
    output : Output
    targets : mapping of str to Tensor
        (B,) by task, NaN where a label is missing: such records do not count for that task.
    lam : float
        lambda of eq. 5; 0 leaves the contrastive term out.
    weighting : {"fixed", "uncertainty"}
        Fixed: all tasks weigh the same. Uncertainty: each by its learnt variance (Kendall et al. 2018, eq. 10).
    balance : float
        Weight of :func:`balance_of`, where a router gives a load.
    group_B : Tensor of int, optional
        Records with the same number are positives of each other in the contrastive term, such as those of one patient.
        By default each record is on its own.
    step : Step, optional
        What the whole step holds; by default this batch is all of it.

    Notes
    -----
    Regression: absolute error of standardised targets, smoothed near zero (raw milliseconds squared would swamp the
    rest; a target of shape (B,) is compared with a prediction of shape (B,), never broadcast to (B, B)). Classes:
    cross entropy, for binary tasks with both classes weighing the same in all (the headline metric is macro-F1).
    Contrastive term: :func:`supervised_contrast` over the embeddings of both paths; the two of one record are always
    positives (the paper does not define its pairs).
    """
    B = len(next(iter(output.logits.values())))
    if step is None:
        step = Step({name: int(torch.isfinite(targets[name]).sum()) for name in output.logits}, B)
    by_task: dict[str, Tensor] = {}
    terms: list[Tensor] = []
    for name, logits_BO in output.logits.items():
        known_B = torch.isfinite(targets[name])
        n_labelled = max(1, step.n_labelled[name])
        k, kind = model.tasks.index(name), TASKS[name].kind
        by_task[name] = _summed_loss(model, name, logits_BO.float()[known_B], targets[name][known_B]) / n_labelled
        if weighting == "uncertainty":
            factor = 0.5 if kind == "regression" else 1.0
            share = known_B.sum() / n_labelled
            log_variance = model.log_variance_K[k]
            terms.append(factor * (-log_variance).exp() * by_task[name] + 0.5 * log_variance * share)
        else:
            terms.append(by_task[name])
    total = torch.stack(terms).sum()
    contrastive = total.new_zeros(())
    if output.contrast is not None and lam > 0:
        group_B = torch.arange(B, device=total.device) if group_B is None else group_B
        summed = supervised_contrast(*output.contrast, group_B, model.temperature.exp().clamp(max=100), step.gather)
        contrastive = summed / (2 * step.n_records)
        total = total + lam * contrastive
    if output.load is not None:
        total = total + balance * balance_of(output.load, step.gather) * (B / step.n_records)
    return Losses(total, by_task, contrastive)


def _summed_loss(model: MultiTask, name: str, logits_BO: Tensor, target_B: Tensor) -> Tensor:
    """Loss of a task, summed over its labelled records; 0 if there are none."""
    kind = TASKS[name].kind
    if kind == "regression":
        standard_B = model.target_scale(name)(target_B[:, None])[:, 0]
        return F.smooth_l1_loss(logits_BO[:, 0], standard_B, beta=SMOOTH_WITHIN_SD, reduction="sum")
    if kind == "binary":
        weight = model.positive_weight_K[model.tasks.index(name)]
        return F.binary_cross_entropy_with_logits(logits_BO[:, 0], target_B, pos_weight=weight, reduction="sum")
    return F.cross_entropy(logits_BO, target_B.long(), reduction="sum")


def balance_of(load: Load, gather: Callable[[Tensor], tuple[Tensor, int]] = Step._field_defaults["gather"]) -> Tensor:
    """How unevenly a router uses the backbones, over the records of all processes (Fedus et al. 2022, eq. 4).

    M times the sum over backbones of the share of the choices times the mean probability: 1 where the load is even, M
    at most where one backbone takes all. A product of means: that of a part says nothing of that of the whole.

    Parameters
    ----------
    load : Load
    gather : callable
        As of :class:`Step`, with gradient.
    """
    M = load.chosen_BM.shape[1]
    all_YX, _ = gather(torch.cat([load.chosen_BM.float(), load.probability_BM.float()], 1))
    chosen_YM, probability_YM = all_YX.split(M, 1)
    return M * (chosen_YM.sum(0) / chosen_YM.sum() * probability_YM.mean(0)).sum()


def supervised_contrast(
    a_BD: Tensor,
    b_BD: Tensor,
    group_B: Tensor,
    scale: Tensor | float,
    gather: Callable[[Tensor], tuple[Tensor, int]] = Step._field_defaults["gather"],
) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, eq. 2) of two embeddings a record, summed over the 2 B of them.

    Each embedding is to be closer to its positives than to all others: its record's other embedding, and both of every
    record with the same number in ``group_B``.

    Parameters
    ----------
    a_BD, b_BD : Tensor
        The two embeddings; only their directions count.
    group_B : Tensor of int
    scale : float or Tensor
        One over the temperature.
    gather : callable
        As of :class:`Step`: positives and negatives come from all processes, with gradient.
    """
    own_XD = F.normalize(torch.cat([a_BD, b_BD]).float(), dim=-1)
    group_X = torch.cat([group_B, group_B])
    all_YD, first = gather(own_XD)
    group_Y, _ = gather(group_X)
    own_X, all_Y = (torch.arange(len(x), device=own_XD.device) for x in (own_XD, all_YD))
    itself_XY = (own_X + first)[:, None] == all_Y
    positive_XY = (group_X[:, None] == group_Y) & ~itself_XY
    similarity_XY = own_XD @ all_YD.T * scale
    among_all_X = similarity_XY.masked_fill(itself_XY, float("-inf")).logsumexp(1)
    return (among_all_X - (similarity_XY * positive_XY).sum(1) / positive_XY.sum(1)).sum()
