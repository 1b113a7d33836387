"""The Periodic Expert Network (eq. 3): experts on the shape of beats, experts on their rhythm, and a gate over both.

Shape legend: B records, N beats, C leads, L samples of a beat, D width, E experts, K tasks, A signal characteristics,
X beats of the whole batch.
"""

import torch
from torch import Tensor, nn

from ecgmoe.features import Inputs
from ecgmoe.multitask import PeriodicOutput

#: Kernel sizes of the three morphology experts: a notch, a wave, a segment (12 ms a sample at the default length).
KERNELS = (3, 7, 15)
#: Dilations of the two rhythm experts, in beats: neighbours, and every other beat (couplets, bigeminy).
DILATIONS = (1, 2)
#: Beats that a network without RR inputs sees: what ten seconds hold at 40 beats a minute.
BLIND_BEATS = 6
EXPERT_NAMES = tuple(f"shape, kernel {k}" for k in KERNELS) + tuple(f"rhythm, dilation {d}" for d in DILATIONS)


class TaskGate(nn.Module):
    """softmax(U [X-bar + e_t]): weights over ``n_choices`` from signal characteristics and a task embedding.

    ``X-bar`` and ``e_t`` are concatenated, as in eq. 3; one gate serves all tasks.
    """

    def __init__(self, n_characteristics: int, d_task: int, n_choices: int):
        super().__init__()
        self.linear = nn.Linear(n_characteristics + d_task, n_choices)

    def forward(self, characteristics_BA: Tensor, task_KD: Tensor) -> Tensor:
        """Weights (B, K, n_choices)."""
        B, K = len(characteristics_BA), len(task_KD)
        joint_BKX = torch.cat([characteristics_BA[:, None].expand(B, K, -1), task_KD[None].expand(B, K, -1)], dim=-1)
        return self.linear(joint_BKX).softmax(-1)


class BeatPooling(nn.Module):
    """Multi-head attention of one query a task over the beats of a record.

    An empty beat, learnt and always present, takes the weight where a record has no beat at all.
    """

    def __init__(self, width: int, d_task: int, n_heads: int = 4):
        super().__init__()
        self.query = nn.Linear(d_task, width)
        self.empty_D = nn.Parameter(torch.zeros(width))
        self.attention = nn.MultiheadAttention(width, n_heads, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, h_BKND: Tensor, task_KD: Tensor, mask_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features (B, K, D) and beat weights (B, K, N)."""
        B, K, N, D = h_BKND.shape
        key_XND = torch.cat([h_BKND, self.empty_D.expand(B, K, 1, D)], 2).flatten(0, 1)
        hidden_XN = torch.cat([~mask_BN, mask_BN.new_zeros(B, 1)], 1).repeat_interleave(K, 0)
        query_X1D = self.query(task_KD).expand(B, K, D).flatten(0, 1)[:, None]
        out_X1D, weight_X1N = self.attention(query_X1D, key_XND, key_XND, key_padding_mask=hidden_XN)
        feature_BKD = self.norm((query_X1D + out_X1D).unflatten(0, (B, K))[:, :, 0])
        return feature_BKD, weight_X1N.unflatten(0, (B, K))[:, :, 0, :N]


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, width // 16), width)  # no statistics over the batch: a record's output is its own


class MorphologyExpert(nn.Module):
    """A CNN over the samples of a beat, (beats, C, L) to (beats, D)."""

    def __init__(self, n_leads: int, width: int, kernel: int):
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in ((n_leads, width // 2), (width // 2, width // 2), (width // 2, width)):
            layers += [nn.Conv1d(n_in, n_out, kernel, stride=2, padding=kernel // 2), _norm(n_out), nn.GELU()]
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(2 * width, width)

    def forward(self, beat_XCL: Tensor) -> Tensor:
        """Embedding of each beat from mean and maximum over time."""
        h_XDL = self.layers(beat_XCL)
        return self.out(torch.cat([h_XDL.mean(-1), h_XDL.amax(-1)], -1))


class RhythmExpert(nn.Module):
    """A dilated CNN over the sequence of beats and RR intervals, (B, N, D + 4) to (B, N, D).

    Where there is no beat, every layer sees and gives zeros: how far a record is padded changes nothing.
    """

    def __init__(self, n_inputs: int, width: int, dilation: int):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv1d(n_in, width, 3, padding=dilation, dilation=dilation) for n_in in (n_inputs, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.convolutions)

    def forward(self, sequence_BNX: Tensor, mask_BN1: Tensor) -> Tensor:
        """One embedding a beat that knows its neighbours."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            h_BND = convolution((sequence_BNX * mask_BN1).transpose(1, 2)).transpose(1, 2)
            sequence_BNX = nn.functional.gelu(norm(h_BND))
        return sequence_BNX * mask_BN1


def rr_sequence(rr_BN2: Tensor) -> Tensor:
    """What the rhythm experts see of each beat's intervals, (B, N, 4).

    Interval to the previous and to the next beat, each relative to the record's mean interval (a premature beat is
    short before and long after, at any heart rate), and each in seconds around 0.8 s. Missing intervals are 0. Both are
    scaled to what they vary by: a tenth of the mean, and a fifth of a second.
    """
    known_BN2 = rr_BN2 > 0
    count_B = known_BN2.sum((1, 2)).clamp_min(1)
    mean_B11 = (rr_BN2.sum((1, 2)) / count_B).clamp_min(0.1)[:, None, None]
    return torch.cat([10 * (rr_BN2 / mean_B11 - 1) * known_BN2, 5 * (rr_BN2 - 0.8) * known_BN2], -1)


class PeriodicExperts(nn.Module):
    """Periodic Expert Network: three morphology and two rhythm experts, gated by task and signal (eq. 3).

    Parameters
    ----------
    n_leads, n_characteristics, d_task : int
    width : int
        D, width of every expert's output.
    rr_inputs : bool
        False hides RR intervals from the rhythm experts (the ablation "without RR inputs"), and all beats but the
        first :data:`BLIND_BEATS`, because the number of beats in ten seconds is the rate.

    Notes
    -----
    The paper leaves open the span of the softmax: here it runs over all five experts, so shape and rhythm compete for
    a task. Each expert gives one vector a beat; the gate mixes them, and attention with one query a task pools beats.
    """

    def __init__(
        self,
        n_leads: int,
        n_characteristics: int,
        d_task: int,
        width: int = 64,
        n_heads: int = 4,
        rr_inputs: bool = True,
    ):
        super().__init__()
        self.rr_inputs = rr_inputs
        self.morphology = nn.ModuleList(MorphologyExpert(n_leads, width, kernel) for kernel in KERNELS)
        self.rhythm = nn.ModuleList(RhythmExpert(width + 4, width, dilation) for dilation in DILATIONS)
        self.norm = nn.LayerNorm(width)
        self.gate = TaskGate(n_characteristics, d_task, len(EXPERT_NAMES))
        self.pooling = BeatPooling(width, d_task, n_heads)

    def forward(self, inputs: Inputs, characteristics_BA: Tensor, task_KD: Tensor) -> PeriodicOutput:
        """F_periodic a task from the beats of a batch of records, and their standardised characteristics."""
        beats = inputs.beats
        if not self.rr_inputs:
            first_N = torch.arange(beats.mask_BN.shape[1], device=beats.mask_BN.device) < BLIND_BEATS
            beats = beats._replace(mask_BN=beats.mask_BN & first_N)
        mask_BN1 = beats.mask_BN[..., None]
        beat_XCL = beats.beat_BNCL[beats.mask_BN]  # the beats that are there, of all records in one row
        shape_BND = []
        for expert in self.morphology:
            shape_XD = expert(beat_XCL)
            empty_BND = shape_XD.new_zeros(*beats.mask_BN.shape, shape_XD.shape[-1])
            shape_BND.append(empty_BND.masked_scatter(mask_BN1, shape_XD))
        rr_BN4 = rr_sequence(beats.rr_BN2) if self.rr_inputs else beats.rr_BN2.new_zeros(*beats.rr_BN2.shape[:2], 4)
        sequence_BNX = torch.cat([torch.stack(shape_BND).mean(0), rr_BN4], -1)
        rhythm_BND = [expert(sequence_BNX, mask_BN1) for expert in self.rhythm]
        expert_BNED = self.norm(torch.stack(shape_BND + rhythm_BND, 2))
        gate_BKE = self.gate(characteristics_BA, task_KD)
        h_BKND = torch.einsum("bke,bned->bknd", gate_BKE, expert_BNED)
        feature_BKD, attention_BKN = self.pooling(h_BKND, task_KD, beats.mask_BN)
        return PeriodicOutput(feature_BKD, gate_BKE, attention_BKN)
