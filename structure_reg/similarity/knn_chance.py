"""Mean of the kNN metrics over random re-pairings of the rows, in closed form.

After re-pairing, N_y(i) is a random draw of k of the n - 1 other rows, whatever N_x(i) is.
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
    return constant_grid(k / (n - 1), xs, ys)


def jaccard_chance(xs: Sequence[Neighbours], ys: Sequence[Neighbours]) -> Tensor:
    """Mean of m / (2k - m), where m is hypergeometric."""
    n, k = xs[0].rows.shape
    mean = sum(
        m / (2 * k - m) * math.exp(log_choose(k, m) + log_choose(n - 1 - k, k - m))
        for m in range(max(0, 2 * k - n + 1), k + 1)
    ) * math.exp(-log_choose(n - 1, k))
    return constant_grid(mean, xs, ys)


def cycle_chance(xs: Sequence[Neighbours], ys: Sequence[Neighbours]) -> Tensor:
    """Mean probability that one of k random rows has row i as a neighbour."""
    n, k = xs[0].rows.shape
    miss_probability = torch.tensor(  # of a row that is the neighbour of d others, for all d
        [
            math.exp(log_choose(n - 1 - d, k) - log_choose(n - 1, k)) if n - 1 - d >= k else 0.0
            for d in range(n)
        ],
        dtype=torch.float64,
    ).to(xs[0].rows.device)
    degrees = [torch.bincount(x.rows.flatten(), minlength=n) for x in xs]
    mean = torch.stack([1 - miss_probability[degree].mean() for degree in degrees])  # (LA,)
    return mean[:, None].expand(-1, len(ys))


def constant_grid(value: float, xs: Sequence[Neighbours], ys: Sequence[Neighbours]) -> Tensor:
    return xs[0].nan.new_full((len(xs), len(ys)), value, dtype=torch.float64)


def log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
