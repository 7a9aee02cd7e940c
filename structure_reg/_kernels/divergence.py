"""Divergences of tiles of probabilities and their slopes: the last step of every STRUCTURE kernel.

Given tiles p and q of row-stochastic matrices and a tile to write into, each function returns the
divergence of every row and leaves q ∘ ∂D/∂q in the tile. That product is finite where ∂D/∂q, a
logarithm of q, is not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The authors' release adds this inside every logarithm; without it the divergence is unbounded.
RELEASE_EPSILON = 1e-12


# Least probability, in smallest normal numbers: 1e-26 in float32. It is far below all rounding, and
# its products with weights and slopes are still normal. Processors are up to 100 times slower with
# the subnormal numbers that would take its place. And log1p of more than 1e307 is infinite in
# PyTorch 2.6.
LEAST = 2.0**40


def least_probability(dtype: torch.dtype) -> float:
    return LEAST * torch.finfo(dtype).tiny


def js_tile(p: Tensor, q: Tensor, q_slope: Tensor) -> Tensor:
    """JS of each row, ½ Σ_j [p log(p/m) + q log(q/m)]; its slope by q is ½ log(q/m)."""
    # log(p/m) = log 2 - log(1 + q/p) keeps all digits when p and q are close. The quotient is
    # finite, since the callers keep p and q away from zero. A small quotient vanishes beside log 2,
    # and its log1p is slow.
    least = torch.finfo(p.dtype).eps / 64
    torch.div(q, p, out=q_slope).clamp_min_(least).log1p_().neg_().add_(math.log(2)).mul_(p)
    rows = q_slope.sum(-1)
    torch.div(p, q, out=q_slope).clamp_min_(least).log1p_().neg_().add_(math.log(2)).mul_(q).mul_(
        0.5
    )
    return rows / 2 + q_slope.sum(-1)


def reverse_js_tile(p: Tensor, q: Tensor, q_slope: Tensor) -> Tensor:
    """Σ_j m [log(m+ε) - ½ log(p+ε) - ½ log(q+ε)] of each row, as in the authors' release."""
    m = torch.add(p, q).mul_(0.5)
    torch.add(p, RELEASE_EPSILON, out=q_slope)
    log_ratio = torch.add(q, RELEASE_EPSILON).mul_(q_slope).sqrt_()
    torch.add(m, RELEASE_EPSILON, out=q_slope)
    # One logarithm instead of three; the geometric mean of numbers above 1e-12 does not underflow.
    torch.div(q_slope, log_ratio, out=log_ratio).log_()
    rows = torch.mul(m, log_ratio, out=q_slope).sum(-1)
    # ∂/∂q = ½ log_ratio + ½ m [1/(m+ε) - 1/(q+ε)], and the bracket is (q-m) / ((m+ε)(q+ε)).
    torch.sub(q, m, out=q_slope).mul_(m)
    q_slope.div_(m.add_(RELEASE_EPSILON)).div_(torch.add(q, RELEASE_EPSILON, out=m))
    q_slope.add_(log_ratio).mul_(q).mul_(0.5)
    return rows


DIVERGENCE_TILES = {"js": js_tile, "reverse_js": reverse_js_tile}

# Tiles that each function allocates in addition to its three arguments.
EXTRA_TILES = {"js": 0, "reverse_js": 2}
