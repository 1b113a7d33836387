"""What a user would pick instead: a plain supervised 1-D ResNet on the raw twelve leads, end to end on all tasks.

In the style of xresnet1d, the best network of the PTB-XL benchmark (Strodthoff et al. 2021): a stem of three
convolutions, residual blocks of two, mean and maximum over time, one hidden layer.

It was tuned by the loss on the validation part of a simulated cohort (sum over tasks), first in seven trainings on a
thousand recordings (kernels of 5 and 9, dropout of 0.1 to 0.5, rates of 0.003 to 0.010, batches of 16 to 64, four and
five blocks), then from the best of them in eighteen on two thousand, twenty epochs each, kernel 9 and batches of 32.
What is kept is the default of :class:`ResNetConfig` and :data:`FIT`:

=====  =======  ======  ============  =====  ===============================
width  dropout  rate    weight decay  loss   else
=====  =======  ======  ============  =====  ===============================
32     0.3      0.0100  0.02          2.239  kept of the first seven
48     0.3      0.0100  0.02          2.235
32     0.3      0.0100  0.02          2.273  kernel 15
32     0.3      0.0060  0.02          2.236
32     0.3      0.0100  0.10          2.202
32     0.5      0.0100  0.02          2.465
32     0.1      0.0100  0.02          2.149
32     0.1      0.0100  0.02          2.207  two blocks a stage
32     0.1      0.0100  0.10          2.024
48     0.1      0.0060  0.02          1.920
32     0.0      0.0100  0.10          1.877
32     0.0      0.0060  0.10          1.846
48     0.0      0.0060  0.10          1.949
64     0.0      0.0060  0.10          1.911
32     0.0      0.0030  0.10          1.829
48     0.0      0.0030  0.10          1.778  kept
48     0.1      0.0030  0.10          1.791
48     0.0      0.0015  0.10          1.788
=====  =======  ======  ============  =====  ===============================

Shape legend: B records, C leads, T samples, D width, A signal characteristics, H hidden width, O outputs of a head.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import gcd
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ecgmoe.backbones.adapt import resample
from ecgmoe.features import Inputs
from ecgmoe.multitask import MultiTask, Output, Standardise
from ecgmoe.shortcut import Shortcut
from ecgmoe.tasks import TASKS
from ecgmoe.training import FitConfig


@dataclass(frozen=True)
class ResNetConfig:
    """Shape of a :class:`ResNet`."""

    tasks: tuple[str, ...] = tuple(TASKS)
    n_leads: int = 12
    n_characteristics: int = 43
    # "all" gives head and outputs the signal characteristics, among them the classical intervals, as ECG-MoE's heads
    characteristics: Literal["all", "none"] = "none"
    width: int = 48  # channels of every block
    blocks: tuple[int, ...] = (1, 1, 1, 1)  # residual blocks by stage; each stage but the first halves the rate
    kernel: int = 9
    dropout: float = 0.0
    fs: float = 100.0  # rate that recordings are brought to, Hz

    def __post_init__(self) -> None:
        if self.characteristics not in ("all", "none"):
            raise ValueError(f"characteristics = {self.characteristics!r}; known are all, none")
        if self.width < 4 or not self.blocks or min(self.blocks) < 1:
            raise ValueError(f"width must be at least 4 and every stage have a block: {self}")

    @classmethod
    def of_size(cls, n_parameters: int, **shape: Any) -> "ResNetConfig":
        """Choose the width that gives about a wanted number of parameters; other fields as in ``shape``.

        Raises
        ------
        ValueError
            No width of this depth comes within 5 % (fewer than some thousands of parameters).
        """
        low, high = 4, 8
        while _count(cls(width=high, **shape)) < n_parameters:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _count(cls(width=middle, **shape)) < n_parameters else (low, middle)
        width = min(low, high, key=lambda w: abs(_count(cls(width=w, **shape)) - n_parameters))
        config = cls(width=width, **shape)
        if abs(_count(config) - n_parameters) > 0.05 * n_parameters:
            raise ValueError(f"no width gives about {n_parameters:,} parameters; ask for more, or for fewer blocks")
        return config


def _count(config: ResNetConfig) -> int:
    with torch.device("meta"):
        return ResNet(config).n_parameters()


def _conv(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nn.Conv1d:
    conv = nn.Conv1d(n_in, n_out, kernel, stride, kernel // 2)
    nn.init.kaiming_normal_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class _Block(nn.Module):
    """x + f(x), f of norm, ReLU, convolution, twice; what skips f is averaged where the rate is halved."""

    def __init__(self, width: int, kernel: int, stride: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(gcd(width, 8), width) for _ in range(2))
        self.convs = nn.ModuleList([_conv(width, width, kernel, stride), _conv(width, width, kernel)])
        nn.init.zeros_(self.convs[1].weight)  # type: ignore[arg-type]  # a block starts as the identity
        self.skip = nn.AvgPool1d(stride, ceil_mode=True) if stride > 1 else nn.Identity()

    def forward(self, x_BDT: Tensor) -> Tensor:
        h_BDT = x_BDT
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h_BDT = conv(norm(h_BDT).relu())
        return self.skip(x_BDT) + h_BDT


class ResNet(MultiTask):
    """xresnet1d on recordings at 100 Hz, one head a task over one hidden layer.

    Differences from xresnet1d18 of Strodthoff et al. (2021), https://doi.org/10.1109/JBHI.2020.3022989:

    - GroupNorm for BatchNorm: no statistics over the batch, so that a record's answer is its own, and training on
      several processes the same as on one.
    - Norm and ReLU before a convolution, so that what skips the blocks is never normalised: a norm within a record
      would take away how tall its waves are, which BatchNorm leaves.
    - Width and number of blocks are parameters; the default is small, for a cohort of a thousand records.
    """

    sees_signal = True

    def __init__(self, config: ResNetConfig):
        super().__init__(config.tasks)
        self.config = c = config
        D = c.width
        self.scale_leads = Standardise(c.n_leads)
        self.shortcut = Shortcut(c.n_characteristics, c.tasks) if c.characteristics == "all" else None
        half = D // 2
        stem = [_conv(c.n_leads, half, c.kernel, 2), nn.ReLU(), _conv(half, half, c.kernel), nn.ReLU()]
        self.stem = nn.Sequential(*stem, _conv(half, D, c.kernel), nn.MaxPool1d(3, 2, 1))
        self.blocks = nn.Sequential(
            *(
                _Block(D, c.kernel, 2 if stage and not i else 1)
                for stage, count in enumerate(c.blocks)
                for i in range(count)
            )
        )
        n_told = c.n_characteristics if self.shortcut else 0
        self.hidden = nn.Sequential(nn.Linear(2 * D + n_told, 2 * D), nn.ReLU(), nn.Dropout(c.dropout))
        self.heads = nn.ModuleDict({name: nn.Linear(2 * D, TASKS[name].n_outputs) for name in c.tasks})

    @torch.no_grad()
    def fit_scales(self, inputs: Inputs, targets: Mapping[str, Tensor]) -> None:
        """Take the scale of every lead, of targets and of characteristics from the training part."""
        super().fit_scales(inputs, targets)
        self.scale_leads.fit(inputs.signal_BCT.transpose(1, 2).flatten(0, 1))
        if self.shortcut is not None:
            self.shortcut.fit(self, inputs, targets)

    def forward(self, inputs: Inputs) -> Output:
        """Predict every task from the recordings; logits, and standardised values for regressions."""
        x_BCT = resample(inputs.signal_BCT, inputs.fs, self.config.fs)
        x_BCT = self.scale_leads(x_BCT.transpose(1, 2)).transpose(1, 2)
        h_BDT = self.blocks(self.stem(x_BCT)).relu()
        h_BX = torch.cat([h_BDT.mean(-1), h_BDT.amax(-1)], 1)
        if self.shortcut is None:
            return Output(self._heads(h_BX))
        told_BA = self.shortcut(inputs)
        return Output(self.shortcut.added(told_BA, self._heads(torch.cat([h_BX, told_BA], 1))))

    def _heads(self, h_BX: Tensor) -> dict[str, Tensor]:
        h_BH = self.hidden(h_BX)
        return {name: head(h_BH) for name, head in self.heads.items()}


#: How the ResNet is trained; what it was chosen from is in the module's head.
FIT = FitConfig(lr=3e-3, weight_decay=0.1, batch_size=32)


def build(inputs: Inputs, tasks: tuple[str, ...], seed: int = 0, **shape: Any) -> ResNet:
    """Build a ResNet for the inputs of a cohort, its weights drawn from ``seed``; ``shape`` as in ResNetConfig."""
    config = replace(
        ResNetConfig(n_leads=inputs.signal_BCT.shape[1], n_characteristics=inputs.characteristics_BA.shape[1]),
        tasks=tasks,
        **shape,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet(config)
