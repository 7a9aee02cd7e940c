"""Retrieval both ways: does a row find its partner among all rows of the other side?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._gram import unit_rows
from structure_reg._precision import full_precision, promote
from structure_reg.evaluation._checks import check_gallery, check_ks
from structure_reg.evaluation.ranks import nan_of, score_rounding, tiles, unit_deviations
from structure_reg.evaluation.ties import (
    Standing,
    expected_average_precision,
    expected_hit,
    expected_rank,
    expected_reciprocal_rank,
    first_positive,
    share_of_first,
    standing,
)


class RetrievalDirection(NamedTuple):
    """Retrieval one way, averaged over the queries that have a positive in the gallery.

    Parameters
    ----------
    ks : tuple of int
        The cut-offs of the next three.
    recall : Tensor of shape (len(ks),)
        R@k: share of the queries with a positive, whichever, among the first k. In [0, 1].
    precision : Tensor of shape (len(ks),)
        Positives among the first k, over k. In [0, 1].
    average_precision : Tensor of shape (len(ks),)
        Up to k, mAP@k: precision at each positive among the first k, summed, over the number of
        positives that could be there. In [0, 1].
    mean_average_precision : Tensor of shape ()
        Over the whole gallery, mAP. In (0, 1].
    mean_reciprocal_rank : Tensor of shape ()
        MRR: mean of 1 / rank of the best positive. In (0, 1].
    mean_rank, median_rank : Tensor of shape ()
        Of the best positive, counted from 1; lower is better.
    queries : Tensor of shape ()
        How many queries had a positive, int64.
    """

    ks: tuple[int, ...]
    recall: Tensor
    precision: Tensor
    average_precision: Tensor
    mean_average_precision: Tensor
    mean_reciprocal_rank: Tensor
    mean_rank: Tensor
    median_rank: Tensor
    queries: Tensor


class Retrieval(NamedTuple):
    """Retrieval both ways, as :func:`retrieval` returns it; printed as a short table.

    Parameters
    ----------
    x_to_y, y_to_x : RetrievalDirection
        Rows of the first as queries, rows of the second as gallery.
    """

    x_to_y: RetrievalDirection
    y_to_x: RetrievalDirection

    @property
    def mean_recall(self) -> Tensor:
        """Mean of the recalls at every k, both ways: one figure to compare heads by."""
        return (self.x_to_y.recall.mean() + self.y_to_x.recall.mean()) / 2

    def __str__(self) -> str:
        """Return a table of both directions."""
        a, b = self
        rows = [(f"R@{k}", x, y, ".3f") for k, x, y in zip(a.ks, a.recall, b.recall, strict=True)]
        rows += [
            ("mAP", a.mean_average_precision, b.mean_average_precision, ".3f"),
            ("MRR", a.mean_reciprocal_rank, b.mean_reciprocal_rank, ".3f"),
            ("mean rank", a.mean_rank, b.mean_rank, ".1f"),
            ("median rank", a.median_rank, b.median_rank, ".1f"),
            ("queries", a.queries, b.queries, "d"),
        ]
        lines = [f"{name:12}{x:10{form}}{y:10{form}}" for name, x, y, form in rows]
        return "\n".join([f"{'':12}{'x -> y':>10}{'y -> x':>10}", *lines])


@torch.no_grad()
def retrieval(
    x: Tensor,
    y: Tensor,
    *,
    ids: Tensor | None = None,
    y_ids: Tensor | None = None,
    ks: Sequence[int] = (1, 5, 10),
) -> Retrieval:
    r"""Rank all rows of one side by their cosine to each row of the other, both ways.

    Equal scores share their places: every measure is its mean over all orders of the tied rows,
    each as likely as the next. With a rows above the best positive and, at its score, m positives
    and t negatives, J of which come first,

    .. math::
        P(J \ge j) = \binom{t + m - j}{m} \Big/ \binom{t + m}{m}, \qquad
        E[\text{rank}] = a + 1 + \frac{t}{m + 1}

    so a head that maps all rows to one point scores chance. mAP is averaged over the orders in the
    same way.

    Parameters
    ----------
    x : Tensor of shape (n_x, d)
        Rows of one side, after its head; their length does not matter.
    y : Tensor of shape (n_y, d)
        Rows of the other; as many as of `x`, row by row its partners, unless `y_ids` says
        otherwise.
    ids : Tensor of shape (n_x,), optional
        Integers; rows that share one are positives of each other. None: row i of `x` belongs to
        row i of `y` alone.
    y_ids : Tensor of shape (n_y,), optional
        Those of `y`, where it is a gallery of its own: images beside their five captions each, the
        different texts only, distractors that nobody looks for. None: `ids`.
    ks : sequence of int
        Cut-offs of R@k, P@k and mAP@k.

    Returns
    -------
    Retrieval
        `x_to_y` and `y_to_x`, a :class:`RetrievalDirection` each, and their `mean_recall`; 0-d
        tensors, float32, or float64 if an input is, without gradient. A query without a positive
        is left out, and NaN stands where all are. NaN if an input holds one, or an infinity.
        Cosines that differ by their rounding only are equal. Scratch memory is that of
        :func:`tile_budget`; the function reads how many positives a row has, so on a GPU it waits.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes or devices do not fit, `y_ids` comes without `ids`, or a k is not positive.

    See Also
    --------
    zero_shot : Classes instead of partners.

    References
    ----------
    McSherry and Najork, "Computing Information Retrieval Performance Measures Efficiently in the
    Presence of Tied Scores", ECIR 2008.

    Examples
    --------
    A head that has collapsed finds what guessing finds:

    >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    >>> print(retrieval(x, torch.ones(100, 8)))
                    x -> y    y -> x
    R@1              0.010     0.010
    R@5              0.050     0.050
    R@10             0.100     0.100
    mAP              0.052     0.052
    MRR              0.052     0.052
    mean rank         50.5      50.5
    median rank       50.5      50.5
    queries            100       100
    """
    check_gallery("retrieval", x, y, ids, y_ids)
    check_ks("retrieval", ks)
    x, y = promote(x, y)
    if ids is None:
        ids = torch.arange(len(x), device=x.device)
    if y_ids is None:
        y_ids = ids
    with full_precision(x.device):
        return Retrieval(
            direction(x, y, ids, y_ids, tuple(ks)), direction(y, x, y_ids, ids, tuple(ks))
        )


def direction(
    queries: Tensor, gallery: Tensor, ids: Tensor, gallery_ids: Tensor, ks: tuple[int, ...]
) -> RetrievalDirection:
    k = torch.tensor([*ks, len(gallery)], device=queries.device)  # the last: no cut-off
    W = unit_deviations(gallery)
    rounding = score_rounding(W)
    sorted_ids, order = gallery_ids.sort()
    first = torch.searchsorted(sorted_ids, ids)  # (n,) where a query's positives start in order
    positives = torch.searchsorted(sorted_ids, ids, right=True) - first  # (n,)
    parts = []
    for rows in tiles(len(queries), 40 * len(W)):
        S = unit_rows(queries[rows]) @ W.mT  # (b, n)
        j = torch.arange(max(1, int(positives[rows].amax())), device=S.device)  # (m,)
        valid = j < positives[rows, None]  # (b, m)
        columns = order[(first[rows, None] + j).clamp(max=len(order) - 1)]  # (b, m)
        parts.append(per_query(standing(S, columns, valid, rounding), valid, k))
    values = torch.cat(parts)[positives > 0] + nan_of(queries, gallery)  # (n, 3 K + 2)
    recall, precision, average = values[:, :-2].mean(0).to(W).reshape(3, len(k))
    inverse, rank = values[:, -2:].unbind(1)
    return RetrievalDirection(
        ks,
        recall[:-1],
        precision[:-1],
        average[:-1],
        average[-1],
        inverse.mean().to(W),
        rank.mean().to(W),
        (rank.quantile(0.5) if len(rank) else rank.mean()).to(W),
        (positives > 0).sum(),
    )


def per_query(s: Standing, valid: Tensor, k: Tensor) -> Tensor:
    """All measures of each query, side by side, float64."""
    f = first_positive(s)
    among_first = share_of_first(k, s.above[:, :, None].double(), s.tied[:, :, None])  # (b, m, K)
    return torch.cat(
        [
            expected_hit(f, k),
            torch.where(valid[:, :, None], among_first, 0).sum(1) / k,
            expected_average_precision(s, valid, k),
            expected_reciprocal_rank(f)[:, None],
            expected_rank(f)[:, None],
        ],
        1,
    )
