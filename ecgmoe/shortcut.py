"""What a rival may be told beside its own features: the signal characteristics, as ECG-MoE's heads are.

Shape legend: B records, A signal characteristics, O outputs of a head.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from ecgmoe.features import Inputs
from ecgmoe.linear import Line
from ecgmoe.multitask import MultiTask, Standardise
from ecgmoe.tasks import TASKS


class Shortcut(nn.Module):
    """Standardised signal characteristics (the classical intervals among them), and what is linear in them.

    Every head gets a linear map of them that starts at zero, and a regression starts from its line of least absolute
    error (:class:`ecgmoe.linear.Line`).

    Parameters
    ----------
    n_characteristics : int
        Columns of ``Inputs.characteristics_BA``.
    tasks : tuple of str
    """

    def __init__(self, n_characteristics: int, tasks: tuple[str, ...]):
        super().__init__()
        self.scale = Standardise(n_characteristics)
        self.maps = nn.ModuleDict({name: nn.Linear(n_characteristics, TASKS[name].n_outputs) for name in tasks})
        for start in self.maps.parameters():
            nn.init.zeros_(start)
        regressions = [name for name in tasks if TASKS[name].kind == "regression"]
        self.lines = nn.ModuleDict({name: Line(n_characteristics) for name in regressions})

    @torch.no_grad()
    def fit(self, model: MultiTask, inputs: Inputs, targets: Mapping[str, Tensor]) -> None:
        """Take scales and lines from the training part, once ``model`` has the scales of its targets."""
        self.scale.fit(inputs.characteristics_BA)
        x_BA = self(inputs)
        for name, line in self.lines.items():
            standard_B = model.target_scale(name)(targets[name][:, None])[:, 0]
            cast(Line, line).fit(x_BA, standard_B, targets[name].isfinite())

    def forward(self, inputs: Inputs) -> Tensor:
        """Standardised characteristics (B, A)."""
        return self.scale(inputs.characteristics_BA)

    def added(self, x_BA: Tensor, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits (B, O) by task with what the characteristics say linearly."""
        out = {name: logits_BO + self.maps[name](x_BA) for name, logits_BO in logits.items()}
        return out | {name: line(x_BA, out[name]) for name, line in self.lines.items()}
