"""Do neighbours remain neighbours? Counted by rank, with equal distances sharing their places."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._checks import check_choice, check_paired
from structure_reg._precision import result_dtype
from structure_reg.evaluation._checks import check_kept_neighbours
from structure_reg.evaluation.distances import METRICS, distance_tiles, memberships
from structure_reg.evaluation.ranks import nan_of
from structure_reg.evaluation.ties import places


@torch.no_grad()
def trustworthiness(
    frozen: Tensor, aligned: Tensor, *, k: int = 10, metric: str = "euclidean"
) -> Tensor:
    r"""Measure how few strangers become neighbours: 1 when every aligned neighbour was one before.

    .. math:: T = 1 - \frac{2}{n Z} \sum_i \sum_{j \in N_a(i)} \max(0, r_f(i, j) - k), \qquad
              Z = \begin{cases} k (2n - 3k - 1) & k < n / 2 \\ (n - k)(n - k - 1) & \text{else}
              \end{cases}

    with :math:`N_a(i)` the k nearest aligned rows of row i and :math:`r_f(i, j)` the rank of j
    among the frozen neighbours of i, the nearest 1. Where distances are equal, both are their means
    over all orders of the rows tied, so a head that maps all rows to one point scores what a random
    order does.

    Parameters
    ----------
    frozen : Tensor of shape (n, d0)
        Features before the head, n >= 3.
    aligned : Tensor of shape (n, d)
        The same samples after it.
    k : int
        Size of a neighbourhood, 1 to n - 2.
    metric : {"euclidean", "cosine"}
        How near is measured, on both sides.

    Returns
    -------
    Tensor of shape ()
        In [0, 1]; higher is better; computed in float64, returned in float32, or float64 if an
        input is; without gradient. NaN if an input holds one, or an infinity. The same for
        k < n / 2 as scikit-learn's, which is defined there. Time O(n² d); beside a
        float64 copy of both inputs, scratch memory is that of :func:`tile_budget`.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes, rows or devices do not fit, or an option is out of range.

    See Also
    --------
    continuity : The other way: how few neighbours get lost.

    References
    ----------
    Venna and Kaski, "Neighborhood Preservation in Nonlinear Projection Methods: An Experimental
    Study", ICANN 2001; the second case of Z from Venna's thesis, 2007.

    Examples
    --------
    Dropping a coordinate invents neighbours; it loses fewer of the old ones:

    >>> x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    >>> trustworthiness(x, x[:, :2]), continuity(x, x[:, :2])
    (tensor(0.8286), tensor(0.9727))
    """
    check_neighbourhoods("trustworthiness", frozen, aligned, k, metric)
    return share_without_strangers(frozen, aligned, k, metric)


@torch.no_grad()
def continuity(
    frozen: Tensor, aligned: Tensor, *, k: int = 10, metric: str = "euclidean"
) -> Tensor:
    r"""Measure how few neighbours get lost: 1 when every frozen neighbour remains one.

    .. math:: C(\text{frozen}, \text{aligned}) = T(\text{aligned}, \text{frozen})

    Parameters
    ----------
    frozen, aligned, k, metric
        As in :func:`trustworthiness`.

    Returns
    -------
    Tensor of shape ()
        As of :func:`trustworthiness`.

    Raises
    ------
    TypeError, ValueError
        As :func:`trustworthiness`.

    See Also
    --------
    trustworthiness : The other way: how few strangers become neighbours.

    References
    ----------
    Venna and Kaski, "Neighborhood Preservation in Nonlinear Projection Methods: An Experimental
    Study", ICANN 2001.

    Examples
    --------
    One point keeps what a random order keeps, about a half:

    >>> x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    >>> continuity(x, torch.ones(500, 1))
    tensor(0.5045)
    """
    check_neighbourhoods("continuity", frozen, aligned, k, metric)
    return share_without_strangers(aligned, frozen, k, metric)


@torch.no_grad()
def neighbourhood_overlap(
    frozen: Tensor, aligned: Tensor, *, k: int = 10, metric: str = "euclidean"
) -> Tensor:
    r"""Share of each row's k nearest rows that are the same before and after.

    .. math:: \frac{1}{n k} \sum_i | N_f(i) \cap N_a(i) |

    Parameters
    ----------
    frozen, aligned, k, metric
        As in :func:`trustworthiness`.

    Returns
    -------
    Tensor of shape ()
        In [0, 1]; symmetric; higher is better; k / (n - 1) by chance and for a head that maps all
        rows to one point, so values of different n or k do not compare; dtype and NaN as of
        :func:`trustworthiness`.

    Raises
    ------
    TypeError, ValueError
        As :func:`trustworthiness`.

    See Also
    --------
    trustworthiness, continuity : By rank, so that a near miss counts for more than a far one.

    References
    ----------
    Lee and Verleysen, "Quality assessment of dimensionality reduction: Rank-based criteria",
    Neurocomputing 2009.

    Examples
    --------
    >>> x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    >>> neighbourhood_overlap(x, x[:, :2]), neighbourhood_overlap(x, torch.ones(500, 1))
    (tensor(0.3338), tensor(0.0200))
    """
    check_neighbourhoods("neighbourhood_overlap", frozen, aligned, k, metric)
    n = len(frozen)
    shared = torch.stack(
        [
            (memberships(D_f, k, rounding_f) * memberships(D_a, k, rounding_a)).sum()
            for (D_f, rounding_f), (D_a, rounding_a) in distance_tiles(frozen, aligned, metric)
        ]
    ).sum()
    return finish(shared / (n * k), frozen, aligned)


def check_neighbourhoods(
    function: str, frozen: Tensor, aligned: Tensor, k: int, metric: str
) -> None:
    check_paired(function, rows=3, frozen=frozen, aligned=aligned)
    check_kept_neighbours(function, k, len(frozen))
    check_choice(function, "metric", metric, METRICS)


def share_without_strangers(before: Tensor, after: Tensor, k: int, metric: str) -> Tensor:
    """Compute T with N from `after` and r from `before`."""
    n = len(before)
    Z = k * (2 * n - 3 * k - 1) if 2 * k < n else (n - k) * (n - k - 1)
    beyond = torch.stack(
        [
            ranks_beyond_k(D_b, rounding_b, memberships(D_a, k, rounding_a), k)
            for (D_b, rounding_b), (D_a, rounding_a) in distance_tiles(before, after, metric)
        ]
    ).sum()
    return finish(1 - 2 * beyond / (n * Z), before, after)


def ranks_beyond_k(D: Tensor, rounding: Tensor, P: Tensor, k: int) -> Tensor:
    """Sum of P · E[max(0, r - k)], r uniform on the places of a tie: a + 1 to a + t."""
    members = max(k, int((P > 0).sum(1).amax()))  # more than k where the k-th is tied
    weight, columns = P.topk(members, 1)  # (b, m)
    nearness = -D.gather(1, columns)
    a, t = places(-D, nearness, rounding)  # (b, m)
    lower, upper = (a - k).clamp_min(0).double(), (a + t - k).clamp_min(0).double()
    beyond = (upper * (upper + 1) - lower * (lower + 1)) / 2  # (b, m)
    return (weight * beyond / t).sum()


def finish(value: Tensor, frozen: Tensor, aligned: Tensor) -> Tensor:
    """The value in the dtype of the inputs, float32 at the least; NaN where they hold one."""
    return (value + nan_of(frozen, aligned)).to(result_dtype(frozen, aligned))
