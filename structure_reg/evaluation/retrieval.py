"""Retrieval in both directions: does a row find its partner among all rows of the other side?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_ids, check_paired
from structure_reg._ids import Ids, as_ids
from structure_reg._precision import full_precision, needs_float64, promote
from structure_reg._table import html_table, text_table
from structure_reg.evaluation._checks import check_both_ids, check_gallery, check_ks
from structure_reg.evaluation.csls import local_scalings
from structure_reg.evaluation.ranks import (
    RankedSide,
    Ranking,
    ranked_side,
    rankings,
    standing,
    tiles,
)
from structure_reg.evaluation.ties import (
    Standing,
    expected_average_precision,
    expected_hit,
    expected_rank,
    expected_reciprocal_rank,
    first_positive,
    share_of_first,
)


class RetrievalDirection(NamedTuple):
    """Retrieval in one direction, averaged over the queries with a positive in the gallery.

    Parameters
    ----------
    ks : tuple of int
        Cut-offs of `recall`, `precision` and `average_precision`.
    recall : Tensor of shape (len(ks),)
        Recall (R@k): share of the queries with at least one positive among the first k, in [0, 1].
    precision : Tensor of shape (len(ks),)
        Precision (P@k): share of positives among the first k, in [0, 1].
    average_precision : Tensor of shape (len(ks),)
        Mean average precision up to k (mAP@k): sum of the precisions at each positive among the
        first k, divided by the largest possible number of positives there, in [0, 1].
    mean_average_precision : Tensor of shape ()
        Mean average precision (mAP) over the whole gallery, in (0, 1].
    mean_reciprocal_rank : Tensor of shape ()
        Mean reciprocal rank (MRR): mean of 1 / rank of the best positive, in (0, 1].
    mean_rank, median_rank : Tensor of shape ()
        Mean and median rank of the best positive, counted from 1; lower is better.
    queries : Tensor of shape ()
        Number of queries with a positive, int64.
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
    """Retrieval in both directions, the result of :func:`retrieval`; it prints as a table.

    Parameters
    ----------
    x_to_y, y_to_x : RetrievalDirection
        Measures with the first side as queries and the second side as gallery.
    """

    x_to_y: RetrievalDirection
    y_to_x: RetrievalDirection

    @property
    def mean_recall(self) -> Tensor:
        """Recall averaged over all k and both directions, a single number to compare heads by."""
        return (self.x_to_y.recall.mean() + self.y_to_x.recall.mean()) / 2

    def __str__(self) -> str:
        """Return a table of both directions; it reads the values, so the host waits for a GPU."""
        return text_table(self._cells(), (12, 10, 10))

    def __repr__(self) -> str:
        """Return the table too: a session shows it without print."""
        return str(self)

    def _repr_html_(self) -> str:
        return html_table(self._cells())

    def _cells(self) -> list[tuple[str, str, str]]:
        a, b = self
        rows = [(f"R@{k}", x, y, ".3f") for k, x, y in zip(a.ks, a.recall, b.recall, strict=True)]
        rows += [
            ("mAP", a.mean_average_precision, b.mean_average_precision, ".3f"),
            ("MRR", a.mean_reciprocal_rank, b.mean_reciprocal_rank, ".3f"),
            ("mean rank", a.mean_rank, b.mean_rank, ".1f"),
            ("median rank", a.median_rank, b.median_rank, ".1f"),
            ("queries", a.queries, b.queries, "d"),
        ]
        cells = [(name, f"{x:{form}}", f"{y:{form}}") for name, x, y, form in rows]
        return [("", "x -> y", "y -> x"), *cells]


@needs_float64
@torch.no_grad()
def retrieval(
    x: Array,
    y: Array,
    *,
    ids: Ids | None = None,
    y_ids: Ids | None = None,
    ks: Sequence[int] = (1, 5, 10),
    csls: Any = None,
) -> Retrieval:
    r"""Rank all rows of one side by their cosine to each row of the other, in both directions.

    If scores are equal, every measure is its expectation over a uniformly random order of the tied
    rows. With a rows above the best positive, and with m positives and t negatives tied at its
    score, the number J of negatives that come before the first positive satisfies

    .. math::
        P(J \ge j) = \binom{t + m - j}{m} \Big/ \binom{t + m}{m}, \qquad
        E[\text{rank}] = a + 1 + \frac{t}{m + 1}

    so a head that maps all rows to one point scores chance. mAP is averaged over the orders of tied
    rows in the same way.

    Parameters
    ----------
    x : Tensor or array of shape (n_x, d)
        Features of one side after its head, at any scale.
    y : Tensor or array of shape (n_y, d)
        Features of the other side. Without `y_ids`, row i of `y` is the partner of row i of `x`,
        and n_y = n_x.
    ids : Tensor or array of shape (n_x,), optional
        Ids of the rows, also as a list: integers, strings, dates, tuples or other hashable values.
        Rows with equal ids are positives of each other. By default, row i of `x` has row i of `y`
        as its only positive.
    y_ids : Tensor or array of shape (n_y,), optional
        Ids of the rows of `y` if they are not those of `x`: for images with five captions each, for
        a gallery of distinct texts, or for distractors without a query. `ids` by default.
    ks : sequence of int
        Cut-offs of R@k, P@k and mAP@k.
    csls : tuple, optional
        Banks (x_bank, y_bank) of rows after their heads, at least 10 each and usually the training
        rows, never the rows that are evaluated. Rows are then ranked by their CSLS score in place
        of the cosine, as in :func:`search` with `x` as queries and `y` as gallery.

    Returns
    -------
    Retrieval
        A :class:`RetrievalDirection` for `x_to_y` and one for `y_to_x`, and their `mean_recall`.
        The measures are float32, or float64 if an input is, without gradient. Queries without a
        positive are left out; if none is left, the measures are NaN. They are also NaN if an input
        is not finite. Cosines that differ only by rounding count as equal. Scratch memory is
        bounded by :func:`tile_budget`. The function reads the number of positives per row, so the
        host waits for a GPU.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If shapes or devices do not match, if `y_ids` is passed without `ids`, if an id is missing
        (None or NaN), or if a k is not positive.

    See Also
    --------
    zero_shot : Classification with classes in place of partners.

    References
    ----------
    McSherry and Najork, "Computing Information Retrieval Performance Measures Efficiently in the
    Presence of Tied Scores", ECIR 2008.

    Examples
    --------
    A collapsed head scores as random guessing does:

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
    name = "retrieval"
    x, y = as_tensors(name, x=x, y=y)
    check_gallery(name, x, y)
    x_numbers, y_numbers = pairing(name, x, y, ids, y_ids)
    cut_offs = check_ks(name, ks)
    x, y = promote(x, y)
    o_x, o_y = x.new_zeros(1), y.new_zeros(1)
    if csls is not None:
        r_x, r_y = local_scalings(name, csls, x, y, x.device)
        o_x, o_y = csls_offset(r_x).to(x), csls_offset(r_y).to(y)
    with full_precision(x.device):
        X, Y = ranked_side(x, x_numbers, o_x), ranked_side(y, y_numbers, o_y)
        x_to_y, y_to_x = rankings(X, Y)
        return Retrieval(retrieve(x_to_y, Y, cut_offs), retrieve(y_to_x, X, cut_offs))


def pairing(
    function: str, x: Tensor, y: Tensor, ids: Ids | None, y_ids: Ids | None
) -> tuple[Tensor, Tensor]:
    """Return integer ids of the rows of x and of y, by default their positions."""
    if y_ids is None:
        check_paired(function, rows=1, x=x, y=y)
        if ids is None:
            ids = torch.arange(len(x), device=x.device)
        (x_numbers,) = as_ids(function, x.device, ids=ids)
        check_ids(function, x_numbers, x)
        return x_numbers, x_numbers
    check_both_ids(function, ids)
    x_numbers, y_numbers = as_ids(function, x.device, ids=ids, y_ids=y_ids)
    check_ids(function, x_numbers, x)
    check_ids(function, y_numbers, y, name="y_ids")
    return x_numbers, y_numbers


def csls_offset(r: Tensor) -> Tensor:
    """-r / 2: added to the cosine, it ranks the gallery as CSLS does, up to a constant."""
    # Without their mean, which changes no rank, the digits of float32 go to the differences.
    return (r.mean() - r) / 2


def retrieve(
    rankings: Iterable[Ranking], gallery: RankedSide, ks: tuple[int, ...]
) -> RetrievalDirection:
    n, like = len(gallery.rows), gallery.rows
    k = torch.tensor([*ks, n], device=like.device)  # the last one is no cut-off
    values = torch.cat([measure_queries(x, k) for x in rankings])  # (n, 3 K + 2)
    recall, precision, average_precision = rearrange(
        values[:, :-2].mean(0).to(like), "(measure k) -> measure k", measure=3
    )
    reciprocal_rank, rank = values[:, -2:].unbind(1)
    return RetrievalDirection(
        ks,
        recall[:-1],
        precision[:-1],
        average_precision[:-1],
        average_precision[-1],
        reciprocal_rank.mean().to(like),
        rank.mean().to(like),
        (rank.quantile(0.5) if len(rank) else rank.mean()).to(like),
        torch.tensor(len(rank), device=like.device),
    )


def measure_queries(x: Ranking, k: Tensor) -> Tensor:
    """Return all measures of each query with a positive, (n, 3 K + 2)."""
    largest_tie, m = int(x.tied.amax()), x.T.shape[1]
    parts = []
    for rows in tiles(len(x.T), 40 * largest_tie + 64 * m * len(k)):
        s, valid = standing(x, rows)
        parts.append(expected_measures(s, valid, k))
    return torch.cat(parts)[x.way.positives[x.rows] > 0] + x.way.nan


def expected_measures(s: Standing, valid: Tensor, k: Tensor) -> Tensor:
    """Concatenate the measures of each query, (b, 3 K + 2), in float64."""
    f = first_positive(s)
    above, tied, valid_k = (rearrange(z, "b m -> b m 1") for z in (s.above, s.tied, valid))
    among_first = share_of_first(k, above.double(), tied)  # (b, m, K)
    return torch.cat(
        [
            expected_hit(f, k),
            torch.where(valid_k, among_first, 0).sum(1) / k,
            expected_average_precision(s, valid, k),
            expected_reciprocal_rank(f)[:, None],
            expected_rank(f)[:, None],
        ],
        1,
    )
