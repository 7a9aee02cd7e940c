"""What the kNN metrics score on average when the rows are re-paired at random: closed forms.

Of the n - 1 other rows, N_y(i) is then k drawn without replacement, whatever N_x(i) is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from structure_reg.similarity.nearest import Neighbours


def mutual_chance(xs: Sequence[Neighbours], ys: Sequence[Neighbours]) -> Tensor:
    """k / (n - 1) for every pair."""
    n, k = xs[0].rows.shape
    return constant(k / (n - 1), xs, ys)


def jaccard_chance(xs: Sequence[Neighbours], ys: Sequence[Neighbours]) -> Tensor:
    """Average m / (2k - m) over m of the hypergeometric distribution."""
    n, k = xs[0].rows.shape
    mean = sum(
        m / (2 * k - m) * math.exp(log_choose(k, m) + log_choose(n - 1 - k, k - m))
        for m in range(max(0, 2 * k - n + 1), k + 1)
    ) * math.exp(-log_choose(n - 1, k))
    return constant(mean, xs, ys)


def cycle_chance(xs: Sequence[Neighbours], ys: Sequence[Neighbours]) -> Tensor:
    """Average the probability that k draws meet one of the rows that have row i for a neighbour."""
    n, k = xs[0].rows.shape
    missed = torch.tensor(  # by how often a row is a neighbour
        [
            math.exp(log_choose(n - 1 - d, k) - log_choose(n - 1, k)) if n - 1 - d >= k else 0.0
            for d in range(n)
        ],
        dtype=torch.float64,
    ).to(xs[0].rows.device)
    degrees = [torch.bincount(x.rows.flatten(), minlength=n) for x in xs]
    mean = torch.stack([1 - missed[degree].mean() for degree in degrees])  # (LA,)
    return mean[:, None].expand(-1, len(ys))


def constant(value: float, xs: Sequence[Neighbours], ys: Sequence[Neighbours]) -> Tensor:
    return xs[0].nan.new_full((len(xs), len(ys)), value, dtype=torch.float64)


def log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
