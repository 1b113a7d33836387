"""The rivals of Table 3: what the paper puts in place of the Periodic Expert Network.

None of them knows where a beat is: they see the recording cut into equal windows, as many and as long as the beats
(:func:`equal_windows`), and about as many parameters. All return a :class:`~ecgmoe.multitask.PeriodicOutput`.

Shape legend: B records, N windows, C leads, L samples of a window, D width, E experts, K tasks, A characteristics.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ecgmoe.backbones.adapt import resample
from ecgmoe.features import Inputs
from ecgmoe.moe import BeatPooling
from ecgmoe.multitask import PeriodicOutput

N_EXPERTS = 5
#: Windows that a recording is cut into, about as many as there are beats.
N_WINDOWS = 16
#: Highest rate that windows are cut at, Hz; sixteen of 64 samples in ten seconds are about as many.
WINDOWS_HZ = 100.0


def equal_windows(signal_BCT: Tensor, fs: float, n_windows: int = N_WINDOWS, length: int = 64) -> Tensor:
    """The recording cut into ``n_windows`` neighbouring windows of ``length`` samples, (B, N, C, L).

    Above 100 Hz it is filtered and brought to 100 Hz first: the interpolation itself would fold what is faster.
    """
    if fs > WINDOWS_HZ:
        signal_BCT = resample(signal_BCT, fs, WINDOWS_HZ)
    x_BCX = nn.functional.interpolate(signal_BCT, n_windows * length, mode="linear")
    return x_BCX.unflatten(2, (n_windows, length)).transpose(1, 2)


class WindowNetwork(nn.Module, ABC):
    """Windows are embedded linearly with their position, mixed by :meth:`mix`, and pooled by one query a task."""

    def __init__(self, n_leads: int, length: int, n_windows: int, d_task: int, *, width: int = 64):
        super().__init__()
        self.embed = nn.Linear(n_leads * length, width)
        self.position_ND = nn.Parameter(0.02 * torch.randn(n_windows, width))
        self.pooling = BeatPooling(width, d_task)

    @abstractmethod
    def mix(self, h_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed windows (B, N, D), or what was read from them, and the weights of the experts that did it (B, E)."""

    def forward(self, inputs: Inputs, characteristics_BA: Tensor, task_KD: Tensor) -> PeriodicOutput:
        """Features a task from equal windows; the signal characteristics are not used here."""
        n_windows, length = len(self.position_ND), self.embed.in_features // inputs.signal_BCT.shape[1]
        window_BNCL = equal_windows(inputs.signal_BCT, inputs.fs, n_windows, length)
        h_BND = self.embed(window_BNCL.flatten(2)) + self.position_ND
        h_BND, gate_BE = self.mix(h_BND)
        K = len(task_KD)
        all_BN = h_BND.new_ones(h_BND.shape[:2], dtype=torch.bool)
        feature_BKD, attention_BKN = self.pooling(h_BND[:, None].expand(-1, K, -1, -1), task_KD, all_BN)
        return PeriodicOutput(feature_BKD, gate_BE[:, None].expand(-1, K, -1), attention_BKN)


def _mlp(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class PlainMoE(WindowNetwork):
    """Dense mixture of five MLPs a window, gated by the window itself (Shazeer et al. 2017, without sparsity)."""

    def __init__(self, *args: int, width: int = 64):
        super().__init__(*args, width=width)
        self.experts = nn.ModuleList(_mlp(width, 2 * width) for _ in range(N_EXPERTS))
        self.gate = nn.Linear(width, N_EXPERTS)
        self.norm = nn.LayerNorm(width)

    def mix(self, h_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Add the experts' answers, weighted by the gate of the window."""
        gate_BNE = self.gate(h_BND).softmax(-1)
        out_BNED = torch.stack([expert(h_BND) for expert in self.experts], 2)
        return self.norm(h_BND + torch.einsum("bne,bned->bnd", gate_BNE, out_BNED)), gate_BNE.mean(1)


class TimeMoE(WindowNetwork):
    """A transformer block whose feed-forward part is the two best of five experts plus a shared one (Time-MoE 2024)."""

    def __init__(self, *args: int, width: int = 64, k: int = 2):
        super().__init__(*args, width=width)
        self.k = k
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.experts = nn.ModuleList(_mlp(width, width) for _ in range(N_EXPERTS))
        self.shared = _mlp(width, width)
        self.gate = nn.Linear(width, N_EXPERTS)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def mix(self, h_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Attend over the windows, then let the chosen experts and the shared one answer."""
        x_BND = self.norms[0](h_BND)
        h_BND = h_BND + self.attention(x_BND, x_BND, x_BND, need_weights=False)[0]
        x_BND = self.norms[1](h_BND)
        logits_BNE = self.gate(x_BND)
        kth_BN1 = logits_BNE.topk(self.k, -1).values[..., -1:]
        gate_BNE = logits_BNE.masked_fill(logits_BNE < kth_BN1, float("-inf")).softmax(-1)
        out_BNED = torch.stack([expert(x_BND) for expert in self.experts], 2)
        h_BND = h_BND + self.shared(x_BND) + torch.einsum("bne,bned->bnd", gate_BNE, out_BNED)
        return self.norms[2](h_BND), gate_BNE.mean(1)


class SelfAttention(WindowNetwork):
    """Two ordinary pre-norm transformer blocks over the windows."""

    def __init__(self, *args: int, width: int = 64):
        super().__init__(*args, width=width)
        block = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, nn.LayerNorm(width), enable_nested_tensor=False)

    def mix(self, h_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Two transformer blocks; there is one expert."""
        return self.blocks(h_BND), h_BND.new_ones(len(h_BND), 1)


class CrossAttention(WindowNetwork):
    """Eight learnt queries read the windows by cross-attention, twice; the windows themselves are not mixed."""

    N_QUERIES = 8

    def __init__(self, *args: int, width: int = 64):
        super().__init__(*args, width=width)
        self.query_QD = nn.Parameter(0.02 * torch.randn(self.N_QUERIES, width))
        self.attention = nn.ModuleList(nn.MultiheadAttention(width, 4, batch_first=True) for _ in range(2))
        self.forward_part = nn.ModuleList(_mlp(width, 2 * width) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))

    def mix(self, h_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Return the queries after reading; there is one expert."""
        query_BQD = self.query_QD.expand(len(h_BND), -1, -1)
        for i in range(2):
            x_BQD = self.norms[2 * i](query_BQD)
            query_BQD = query_BQD + self.attention[i](x_BQD, h_BND, h_BND, need_weights=False)[0]
            query_BQD = query_BQD + self.forward_part[i](self.norms[2 * i + 1](query_BQD))
        return query_BQD, h_BND.new_ones(len(h_BND), 1)


#: Table 3's rivals by the name used in configurations, with the paper's name for each.
RIVALS: dict[str, type[WindowNetwork]] = {
    "moe": PlainMoE,
    "time_moe": TimeMoE,
    "self_attention": SelfAttention,
    "cross_attention": CrossAttention,
}
PAPER_NAMES = {
    "moe": "MoE",
    "time_moe": "Time MoE",
    "self_attention": "Self-Attn",
    "cross_attention": "Cross-Attn",
    "experts": "ECG-MoE",
}
