"""Ranking measures under ties: expectations over all orders of the tied columns.

A head that maps all rows to one point then scores as random guessing does, neither best nor worst,
and no value depends on the order of the rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.special import digamma

# Up to this many thresholds per row, two passes per threshold are cheaper than sorting the row.
PASSES = 128


class Standing(NamedTuple):
    """Place of each positive of a query among all columns, and among the positives."""

    above: Tensor  # (b, m) number of columns that score higher
    tied: Tensor  # (b, m) number of columns with the same score, itself included
    positives_above: Tensor  # (b, m)
    positives_tied: Tensor  # (b, m)
    best: Tensor  # (b, 1) index of the positive with the highest score


def places(S: Tensor, T: Tensor, rounding: Tensor) -> tuple[Tensor, Tensor]:
    """Count the scores S of each row above each threshold T, and those equal to it."""
    above, least = T + rounding, T - rounding  # (b, m)
    if T.shape[1] > PASSES:
        ascending = S.sort(1).values.contiguous()  # (b, n)
        after = torch.searchsorted(ascending, above.contiguous(), right=True)
        return S.shape[1] - after, after - torch.searchsorted(ascending, least.contiguous())
    truth = torch.empty_like(S)
    beyond = torch.stack([count(torch.gt(S, t, out=truth)) for t in columns(above)], 1)
    reached = torch.stack([count(torch.ge(S, t, out=truth)) for t in columns(least)], 1)
    return beyond, reached - beyond


def columns(T: Tensor) -> tuple[Tensor, ...]:
    """Columns (b, 1) of T, each of them contiguous: a CPU compares others five times as slowly."""
    return T.mT.contiguous()[:, :, None].unbind(0)


def count(truth: Tensor) -> Tensor:
    """Sum 0 and 1 in the dtype of the scores: a CPU compares into bools five times as slowly."""
    return truth.sum(1).int()


def share_of_first(k: Tensor, above: Tensor, tied: Tensor) -> Tensor:
    """Return the probability of a column to be among the first k: 0 or 1 unless it ties."""
    return ((k - above) / tied).clamp(0, 1)


class FirstPositive(NamedTuple):
    """The rank of the first positive is above + 1 + J, with J tied negatives before it."""

    above: Tensor  # (b,)
    positives: Tensor  # (b,) m, tied at the best positive score
    negatives: Tensor  # (b,) t, tied with these positives


def first_positive(s: Standing) -> FirstPositive:
    above, tied, positives = (
        counts.gather(1, s.best)[:, 0].double() for counts in (s.above, s.tied, s.positives_tied)
    )
    return FirstPositive(above, positives, tied - positives)


def expected_rank(f: FirstPositive) -> Tensor:
    """E[J] = t / (m + 1), as m positives split t negatives into m + 1 runs of equal mean length."""
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

    P(J = 0) = m / (t + m). The sum has as many terms as the largest tie.
    """
    a, m, t = (counts[:, None] for counts in f)
    j = torch.arange(1 + int(t.amax().nan_to_num()), device=t.device)  # (1 + t_max,)
    ratio = ((t - j) / (t + m - 1 - j)).nan_to_num(0, 0, 0).clamp_min(0)[:, :-1]
    P = torch.cat([m / (t + m), ratio], 1).cumprod(1)
    return (P / (a + 1 + j)).sum(1)  # (b,)


def expected_average_precision(s: Standing, valid: Tensor, k: Tensor) -> Tensor:
    r"""Mean precision at the positives among the first k, after McSherry and Najork (2008).

    Consider a tie of n columns, r of them positive, after N columns with R positives. Place i of
    the tie holds a positive with probability r/n; the expected precision there is then
    (R + 1 + (i - 1) q) / (N + i) with q = (r - 1) / (n - 1). The sum over i = 1 ... L uses the
    digamma function for the harmonic sums.
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
