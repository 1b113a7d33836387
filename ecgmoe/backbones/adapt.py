"""Steps that the backbones share: resampling, length and scale of the input, pooling of the output.

Shape legend: B records, C leads, T samples before, N samples after.
"""

from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

#: Lobes of the windowed sinc on either side, and its cut-off as a fraction of the lower Nyquist frequency.
_LOBES, _CUTOFF = 12, 0.9


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # what is kept must serve training too
def _filters(up: int, down: int) -> tuple[Tensor, int]:
    """Design the filter bank (up, 1, taps) that resamples by ``up / down``, and the samples it reaches to the left.

    Each filter is a Hann-windowed sinc (cut-off below the Nyquist frequency of either rate) shifted by the phase of its
    output sample, and sums to one, so that a constant stays the same constant.
    """
    scale = _CUTOFF * min(1.0, up / down)  # cut-off in units of the input's Nyquist frequency
    reach = int(_LOBES / scale) + 1
    phase_U1 = torch.arange(up, dtype=torch.float64)[:, None] * down / up
    time_UT = scale * (torch.arange(-reach, reach + down, dtype=torch.float64) - phase_U1)
    window_UT = torch.cos(torch.pi * time_UT / (2 * _LOBES)).square() * (time_UT.abs() < _LOBES)
    filters_UT = torch.sinc(time_UT) * window_UT
    return (filters_UT / filters_UT.sum(1, keepdim=True)).float()[:, None], reach


def resample(x_BCT: Tensor, fs: float, fs_new: float) -> Tensor:
    """Resample without aliasing, by polyphase filters; sample 0 stays at time 0, edge values are held beyond.

    Parameters
    ----------
    x_BCT : Tensor of shape (B, C, T)
    fs, fs_new : float
        Rate before and after, Hz.

    Returns
    -------
    Tensor of shape (B, C, N)
        N is ``T * fs_new / fs``, rounded up.
    """
    ratio = Fraction(fs_new / fs).limit_denominator(2000)
    up, down = ratio.numerator, ratio.denominator
    if up == down:
        return x_BCT
    n_leads, n_samples = x_BCT.shape[1:]
    filters_U1T, reach = _filters(up, down)
    n_steps = -(-n_samples // down)
    right = n_steps * down - n_samples + reach
    padded = F.pad(x_BCT, (reach, right), mode="replicate").flatten(0, 1)[:, None]
    phases = F.conv1d(padded, filters_U1T.to(x_BCT.device), stride=down)  # (B * C, up, n_steps)
    resampled = phases.transpose(1, 2).flatten(1).unflatten(0, (-1, n_leads))
    return resampled[..., : -(-n_samples * up // down)]


def fit_length(x_BCT: Tensor, n_samples: int) -> Tensor:
    """Keep the first ``n_samples`` samples of a longer record; put zeros in front of a shorter one."""
    x_BCT = x_BCT[..., :n_samples]
    return F.pad(x_BCT, (n_samples - x_BCT.shape[-1], 0))


def z_score(x_BCT: Tensor, dims: tuple[int, ...] = (-1,)) -> Tensor:
    """Scale to zero mean and unit variance over ``dims``, record by record; what is constant there becomes zero."""
    mean = x_BCT.mean(dims, keepdim=True)
    variance = (x_BCT - mean).square().mean(dims, keepdim=True)
    return (x_BCT - mean) / torch.where(variance > 1e-12, variance, torch.inf).sqrt()


def pooled(x: Tensor, dim: int) -> Tensor:
    """Mean and standard deviation over one of two dimensions side by side, (B, 2 D)."""
    return torch.cat([x.mean(dim), (x.var(dim, correction=0) + 1e-8).sqrt()], dim=-1)
