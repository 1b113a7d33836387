"""What is linear and fitted in closed form on the training part, before anything is trained by gradient descent.

Shape legend: B records, D features of a backbone, P components, O columns of targets, A signal characteristics, X those
of the records that have a label.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ecgmoe.multitask import Standardise

#: Strengths of ridge regression tried, as shares of the largest eigenvalue.
_RIDGE = tuple(10.0**-k for k in range(7))
_LEAST_SHARE, _MOST_SHARE = 0.01, 0.99


class Components(nn.Module):
    """Features standardised, turned onto their leading principal components, and scaled by what they are worth.

    Wide features with little in them drown narrow ones with much: without this, a thousand columns of one backbone
    outvote the hundred of another. Everything is fitted on the training part and kept; what is trained comes after.

    Parameters
    ----------
    d_features : int
    n_components : int
        P at most; the output has min(P, D) columns.
    """

    component_DP: Tensor
    scale: Tensor

    def __init__(self, d_features: int, n_components: int):
        super().__init__()
        self.width = min(d_features, n_components)
        self.standardise = Standardise(d_features)
        self.register_buffer("component_DP", torch.eye(d_features)[:, : self.width].clone())
        self.register_buffer("scale", torch.ones(()))

    def fit(self, x_BD: Tensor) -> None:
        """Take means, SDs and components from ``x_BD``; the first component gets SD 1."""
        self.standardise.fit(x_BD)
        z_BD = self.standardise(x_BD).double()
        _, vectors_DD = torch.linalg.eigh(z_BD.T @ z_BD)
        self.component_DP.copy_(vectors_DD.flip(1)[:, : self.width])
        self.scale.copy_(1 / (z_BD @ vectors_DD[:, -1]).std().clamp_min(1e-6))

    def forward(self, x_BD: Tensor) -> Tensor:
        """Components (B, P)."""
        return self.standardise(x_BD) @ self.component_DP * self.scale


@torch.no_grad()
def signal_to_noise(x_BP: Tensor, targets: Sequence[Tensor]) -> float:
    """Variance of targets that ridge regression on features explains by what it leaves, each record left out once.

    Parameters
    ----------
    x_BP : Tensor
    targets : sequence of Tensor of shape (B, O)
        One a task, of any number of columns; records with NaN are left out of that task, and so is a task whose
        target is constant: there is nothing to explain.

    Returns
    -------
    float
        From the mean over tasks of the explained share, between 0.01 and 0.99, with the best of seven strengths each.
    """
    shares = []
    for y_BO in targets:
        known_B = torch.isfinite(y_BO).all(1)
        x_XP, y_XO = x_BP[known_B].double(), y_BO[known_B].double()
        if len(x_XP) < 3:
            continue
        y_XO = y_XO - y_XO.mean(0)
        if y_XO.square().mean() < 1e-12:
            continue
        u_XP, s_P, _ = torch.linalg.svd(x_XP - x_XP.mean(0), full_matrices=False)
        errors = []
        for strength in _RIDGE:
            kept_P = s_P.square() / (s_P.square() + strength * s_P[0].square().clamp_min(1e-12))
            leverage_X1 = (u_XP.square() * kept_P).sum(1, keepdim=True)
            left_XO = (y_XO - u_XP @ (kept_P[:, None] * (u_XP.T @ y_XO))) / (1 - leverage_X1).clamp_min(1e-3)
            errors.append(float(left_XO.square().sum()))
        shares.append(1 - min(errors) / float(y_XO.square().sum()))
    share = min(max(sum(shares) / max(1, len(shares)), _LEAST_SHARE), _MOST_SHARE)
    return share / (1 - share)


def least_absolute(x_XA: Tensor, y_X: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (A,) and bias of the line of least absolute error, by iteratively reweighted least squares.

    Parameters
    ----------
    x_XA : Tensor
        Standardised, in double precision; a very weak ridge keeps columns that are alike apart.
    y_X : Tensor
    """
    x_XA = nn.functional.pad(x_XA, (0, 1), value=1.0)
    penalty_AA = 1e-4 * len(x_XA) * torch.eye(x_XA.shape[1], dtype=x_XA.dtype, device=x_XA.device)
    weight_X, weight_A = torch.ones_like(y_X), x_XA.new_zeros(x_XA.shape[1])
    for _ in range(50):  # unreadable records must not bend the line
        weighted_XA = weight_X[:, None] * x_XA
        weight_A = torch.linalg.solve(x_XA.T @ weighted_XA + penalty_AA, weighted_XA.T @ y_X)
        weight_X = 1 / (y_X - x_XA @ weight_A).abs().clamp_min(1e-3)
    return weight_A[:-1], weight_A[-1]


class Line(nn.Module):
    """A regression's line of least absolute error over the signal characteristics, and what the network adds to it.

    What a line can tell (above all of the RR interval, which the characteristics hold) is not left to gradient
    descent, which would blur it; the network answers in units of the error that the line leaves.
    """

    weight_A: Tensor
    bias: Tensor
    unit: Tensor

    def __init__(self, n_characteristics: int):
        super().__init__()
        self.register_buffer("weight_A", torch.zeros(n_characteristics))
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("unit", torch.ones(()))

    def fit(self, x_BA: Tensor, y_B: Tensor, known_B: Tensor) -> None:
        """Fit to the records that have a label; where none has, the line stays zero."""
        if not known_B.any():
            return
        x_XA, y_X = x_BA[known_B].double(), y_B[known_B].double()
        weight_A, bias = least_absolute(x_XA, y_X)
        self.weight_A.copy_(weight_A)
        self.bias.copy_(bias)
        self.unit.copy_((y_X - x_XA @ weight_A - bias).abs().mean().clamp_min(1e-3))

    def forward(self, x_BA: Tensor, answer_B1: Tensor) -> Tensor:
        """Standardised values (B, 1) from characteristics and the network's answer."""
        return x_BA @ self.weight_A[:, None] + self.bias + self.unit * answer_B1
