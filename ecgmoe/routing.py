"""Which backbones a recording is worth: a router that looks at the raw signal and the tasks before any backbone runs.

Shape legend: B records, C leads, T samples, D features, W width, K requested tasks, M backbones, A signal
characteristics, X chosen records or joint inputs.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgmoe.backbones import Backbone
from ecgmoe.backbones.adapt import resample
from ecgmoe.features import Inputs
from ecgmoe.multitask import Load

#: Rate that the router reads recordings at, Hz: enough to see waves, a fifth of what the published backbones read.
ROUTER_HZ = 100.0
_CLIP_MV = 5.0  # no heart reaches it; what does is an artefact


class Choice(NamedTuple):
    """Which backbones run on each record, and what each then weighs."""

    chosen_BM: Tensor  #: bool, k of them True in every row
    weight_BKM: Tensor  #: weights of the chosen backbones a task, exactly 0 for the others; rows sum to 1 where k > 1
    probability_BKM: Tensor  #: what the choice was made from; rows sum to 1

    @property
    def load(self) -> Load:
        """What the balance is computed from (:func:`ecgmoe.objective.balance_of`)."""
        return Load(self.chosen_BM, self.probability_BKM.mean(1))


class Router(nn.Module):
    """Hard top-k choice of backbones a record, from its raw signal, its characteristics and the requested tasks.

    Three strided convolutions read the signal at 100 Hz, which costs about a ten-thousandth of the published backbones'
    arithmetic; with the signal characteristics and a task embedding they give a score a record, task and backbone.
    Of the softmax over backbones the mean over the requested tasks is taken, and its k largest run: so k backbones run
    a record, however many tasks are asked.

    Parameters
    ----------
    n_leads, n_characteristics, d_task, n_backbones : int
    top_k : int
        k, from 1 to ``n_backbones``.
    width : int
        Channels of the convolutions and of the hidden layer.

    Raises
    ------
    ValueError
        ``top_k`` is out of its range.

    Notes
    -----
    Trained as it is used (Shazeer et al. 2017, "Outrageously large neural networks"): while training, noise of learnt
    size is added to the scores, drawn from torch's generator; what is not chosen weighs exactly 0, the chosen ones
    weigh a softmax over their scores, and through these weights the gradient reaches the router. A softmax over one is
    constant and would teach it nothing: with k = 1 the weight is the probability, as in Switch transformers.
    That it uses all backbones is the auxiliary loss of these, :func:`ecgmoe.objective.balance_of` of ``Choice.load``.
    """

    def __init__(
        self, n_leads: int, n_characteristics: int, d_task: int, n_backbones: int, top_k: int, width: int = 32
    ):
        super().__init__()
        if not 1 <= top_k <= n_backbones:
            raise ValueError(f"top_k must be from 1 to the number of backbones, {n_backbones}, got {top_k}")
        self.top_k = top_k
        layers: list[nn.Module] = []
        for n_in, n_out, kernel, stride in (
            (n_leads, width // 2, 9, 4),
            (width // 2, width, 9, 4),
            (width, width, 5, 2),
        ):
            layers += [nn.Conv1d(n_in, n_out, kernel, stride, kernel // 2), nn.GroupNorm(1, n_out), nn.GELU()]
        self.read = nn.Sequential(*layers)
        self.hidden = nn.Linear(2 * width + n_characteristics + d_task, width)
        self.score = nn.Linear(width, n_backbones)
        self.noise = nn.Linear(width, n_backbones)

    def forward(self, inputs: Inputs, characteristics_BA: Tensor, task_KD: Tensor) -> Choice:
        """Choose for a batch of records, from their signal and their standardised characteristics."""
        B, K = len(characteristics_BA), len(task_KD)
        signal_BCT = resample(inputs.signal_BCT, inputs.fs, ROUTER_HZ)
        signal_BCT = signal_BCT - signal_BCT.mean(-1, keepdim=True)
        h_BWT = self.read(signal_BCT.nan_to_num(0.0).clamp(-_CLIP_MV, _CLIP_MV))
        record_BX = torch.cat([h_BWT.mean(-1), h_BWT.amax(-1), characteristics_BA], -1)
        joint_BKX = torch.cat([record_BX[:, None].expand(B, K, -1), task_KD[None].expand(B, K, -1)], -1)
        h_BKW = F.gelu(self.hidden(joint_BKX))
        score_BKM = self.score(h_BKW)
        if self.training:
            score_BKM = score_BKM + torch.randn_like(score_BKM) * F.softplus(self.noise(h_BKW))
        return choose(score_BKM, self.top_k)


def choose(score_BKM: Tensor, top_k: int) -> Choice:
    """The choice that scores lead to: the top k of the mean over tasks of their softmax."""
    probability_BKM = score_BKM.softmax(-1)
    mean_BM = probability_BKM.mean(1)
    chosen_BM = torch.zeros_like(mean_BM, dtype=torch.bool).scatter(1, mean_BM.topk(top_k, 1).indices, True)
    if top_k == 1:
        weight_BKM = probability_BKM * chosen_BM[:, None]
    else:
        weight_BKM = score_BKM.masked_fill(~chosen_BM[:, None], float("-inf")).softmax(-1)
    return Choice(chosen_BM, weight_BKM, probability_BKM)


def chosen_features(backbone: Backbone, signal_BCT: Tensor, fs: float, chosen_B: Tensor) -> Tensor:
    """Features (B, D) of a backbone that runs on the chosen records alone; zeros for the others."""
    rows_X = chosen_B.nonzero()[:, 0]
    feature_BD = signal_BCT.new_zeros(len(signal_BCT), backbone.d_features)
    if len(rows_X) == 0:
        return feature_BD
    return feature_BD.index_put((rows_X,), backbone.features(signal_BCT[rows_X], fs))
