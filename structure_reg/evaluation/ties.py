"""What a ranking is worth when scores tie: the mean over all orders of the tied columns.

A head that maps all rows to one point gets what guessing gets, neither the first place nor the
last, and the value does not depend on the order of the rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.special import digamma

# Up to this many thresholds a row, a pass over the row for each is cheaper than sorting it.
PASSES = 16


class Standing(NamedTuple):
    """Where each positive of a query stands among all columns, and among the positives."""

    above: Tensor  # (b, m) columns that score higher
    tied: Tensor  # (b, m) columns that score the same, itself included
    positives_above: Tensor  # (b, m)
    positives_tied: Tensor  # (b, m)
    best: Tensor  # (b, 1) the positive that scores highest


def standing(S: Tensor, columns: Tensor, valid: Tensor, rounding: Tensor) -> Standing:
    """Count what scores above each positive and what ties with it: closer than the rounding."""
    T = S.gather(1, columns).masked_fill(~valid, -torch.inf)  # (b, m)
    above, tied = places(S, T, rounding)
    positives_above, positives_tied = places(T, T, rounding)
    return Standing(above, tied, positives_above, positives_tied, T.argmax(1, keepdim=True))


def places(S: Tensor, T: Tensor, rounding: Tensor) -> tuple[Tensor, Tensor]:
    """How many scores of each row are above each of its T, and how many are equal to it."""
    above, least = (T + rounding).contiguous(), (T - rounding).contiguous()  # (b, m)
    if T.shape[1] > PASSES:
        ascending = S.sort(1).values  # (b, n)
        after = torch.searchsorted(ascending, above, right=True)
        return S.shape[1] - after, after - torch.searchsorted(ascending, least)
    beyond = torch.stack([count(torch.gt(S, t)) for t in torch.split(above, 1, 1)], 1)
    reached = torch.stack([count(torch.ge(S, t)) for t in torch.split(least, 1, 1)], 1)
    return beyond, reached - beyond


def count(mask: Tensor) -> Tensor:
    return mask.sum(1, dtype=torch.int32)  # int32 is twice as fast as the default on a CPU


def share_of_first(k: Tensor, above: Tensor, tied: Tensor) -> Tensor:
    """Probability that a column is among the first k: 1, 0, or its share of the tied places."""
    return ((k - above) / tied).clamp(0, 1)


class FirstPositive(NamedTuple):
    """The rank of the first positive is above + 1 + J: J negatives of its tie come before it."""

    above: Tensor  # (b,)
    positives: Tensor  # (b,) m, tied for it
    negatives: Tensor  # (b,) t, tied with them


def first_positive(s: Standing) -> FirstPositive:
    above, tied, positives = (
        counts.gather(1, s.best)[:, 0].double() for counts in (s.above, s.tied, s.positives_tied)
    )
    return FirstPositive(above, positives, tied - positives)


def expected_rank(f: FirstPositive) -> Tensor:
    """E[J] = t / (m + 1): m positives cut t negatives into m + 1 runs of equal mean length."""
    return f.above + 1 + f.negatives / (f.positives + 1)


def expected_hit(f: FirstPositive, k: Tensor) -> Tensor:
    """1 - P(J >= k - above), with P(J >= j) = C(t + m - j, m) / C(t + m, m)."""
    a, m, t = (counts[:, None] for counts in f)
    j = (k - a).clamp_min(0)  # (b, K)
    log_none = log_choose(t + m - j.minimum(t), m) - log_choose(t + m, m)
    return torch.where(j > t, 1, -torch.expm1(log_none))


def log_choose(n: Tensor, m: Tensor) -> Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(m + 1) - torch.lgamma(n - m + 1)


def expected_reciprocal_rank(f: FirstPositive) -> Tensor:
    """Sum of P(J = j) / (above + 1 + j), where P(J = j + 1) / P(J = j) = (t - j) / (t + m - 1 - j).

    P(J = 0) = m / (t + m); as wide as the largest tie.
    """
    a, m, t = (counts[:, None] for counts in f)
    j = torch.arange(1 + int(t.amax().nan_to_num()), device=t.device)  # (1 + t_max,)
    ratio = ((t - j) / (t + m - 1 - j)).nan_to_num(0, 0, 0).clamp_min(0)[:, :-1]
    P = torch.cat([m / (t + m), ratio], 1).cumprod(1)
    return (P / (a + 1 + j)).sum(1)  # (b,)


def expected_average_precision(s: Standing, valid: Tensor, k: Tensor) -> Tensor:
    r"""Mean precision at the positives among the first k, after McSherry and Najork (2008).

    A tie of n columns, r of them positive, after N columns with R positives: its place i holds a
    positive with probability r/n, and then the precision there is (R + 1 + (i - 1) q) / (N + i) on
    average, q = (r - 1) / (n - 1). Summed over i = 1 ... L, with the digamma function for the
    harmonic sums.
    """
    N, n, R, r = (
        torch.where(valid, counts, 1)[:, :, None].double()
        for counts in (s.above, s.tied, s.positives_above, s.positives_tied)
    )  # (b, m, 1)
    L = (k - N).clamp_min(0).minimum(n)  # (b, m, K)
    q = (r - 1) / (n - 1).clamp_min(1)
    total = q * L + (R + 1 - q * (N + 1)) * (digamma(N + L + 1) - digamma(N + 1))
    found = torch.where(valid[:, :, None], total / n, 0).sum(1)  # (b, K)
    return found / valid.sum(1, keepdim=True).minimum(k).clamp_min(1)
