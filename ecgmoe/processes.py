"""Several processes that train together: who they are, and what they tell each other.

``accelerate launch --multi_gpu --num_processes 2 ...`` starts them, on CPUs too (its ``--cpu`` starts a single one,
whatever ``--num_processes`` says), and so does ``torchrun``. Gradients are added up once a step and by hand: which
parameters a batch uses may differ between processes (a router's choice, a task without labels), and each process
already divides its losses by the counts of the whole step, so that the sum is what one process would have found.

Shape legend: X rows of this process, Y rows of all processes, D width.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor


def started() -> PartialState:
    """The processes of this run, or just this one.

    Each computes on a GPU where there are any and the environment does not say ``ACCELERATE_USE_CPU=true``.
    """
    use_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return PartialState(cpu=use_cpu or not torch.cuda.is_available())


def share(tensors: Iterable[Tensor]) -> None:
    """Give all processes the tensors of the main one, in place."""
    if started().num_processes > 1:
        for tensor in tensors:
            torch.distributed.broadcast(tensor, 0)


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their sums over the processes, in place; they must have the same shapes in all."""
    if started().num_processes > 1:
        flat = reduce(torch.cat([tensor.flatten() for tensor in tensors]), "sum")
        torch.nn.utils.vector_to_parameters(flat, tensors)


class _Gather(torch.autograd.Function):
    """Rows of all processes, however many each has; the gradient of a row is summed over the processes."""

    @staticmethod
    def forward(ctx: Any, own_XD: Tensor, first: int, total: int) -> Tensor:
        ctx.own = slice(first, first + len(own_XD))
        all_YD = own_XD.new_zeros(total, *own_XD.shape[1:])
        all_YD[ctx.own] = own_XD
        return reduce(all_YD, "sum")

    @staticmethod
    def backward(ctx: Any, gradient_YD: Tensor) -> tuple[Tensor, None, None]:
        return reduce(gradient_YD, "sum")[ctx.own], None, None


def gatherer(n_records: Sequence[int]) -> Callable[[Tensor], tuple[Tensor, int]]:
    """How :class:`ecgmoe.objective.Step` gathers rows, where each process has so many records.

    The same number of rows belongs to each record.
    """
    rank = started().process_index

    def gather(own_XD: Tensor) -> tuple[Tensor, int]:
        if len(n_records) == 1:
            return own_XD, 0
        per_record = len(own_XD) // n_records[rank]
        first = per_record * sum(n_records[:rank])
        return _Gather.apply(own_XD, first, per_record * sum(n_records)), first

    return gather
