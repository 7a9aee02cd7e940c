"""Do neighbours remain neighbours? Measures by rank that average over equal distances."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_choice, check_paired
from structure_reg._precision import needs_float64, result_dtype
from structure_reg.evaluation._checks import check_neighbours
from structure_reg.evaluation.distances import METRICS, Distances, distance_tiles, memberships
from structure_reg.evaluation.ranks import nan_of
from structure_reg.evaluation.ties import places


@needs_float64
@torch.no_grad()
def trustworthiness(
    frozen: Array, aligned: Array, *, k: int = 10, metric: str = "euclidean"
) -> Tensor:
    r"""Measure how few false neighbours appear: 1 if all aligned neighbours were neighbours before.

    .. math:: T = 1 - \frac{2}{n Z} \sum_i \sum_{j \in N_a(i)} \max(0, r_f(i, j) - k), \qquad
              Z = \begin{cases} k (2n - 3k - 1) & k < n / 2 \\ (n - k)(n - k - 1) & \text{else}
              \end{cases}

    where :math:`N_a(i)` are the k rows nearest to row i in the aligned features, and
    :math:`r_f(i, j)` is the rank of j among the frozen neighbours of i, with rank 1 the nearest.
    For equal distances, the measure is averaged over all orders of the tied rows, so a head that
    maps all rows to one point scores as a random order does.

    Parameters
    ----------
    frozen : Tensor or array of shape (n, d0)
        Features before the head, n >= 3.
    aligned : Tensor or array of shape (n, d)
        Features of the same samples after the head.
    k : int
        Size of a neighbourhood, from 1 to n - 2.
    metric : {"euclidean", "cosine"}
        Distance on both sides.

    Returns
    -------
    Tensor of shape ()
        The trustworthiness in [0, 1], computed in float64 and returned in float32, or float64 if an
        input is, without gradient. Higher is better. NaN if an input is not finite. It equals that
        of scikit-learn for k < n / 2, where the latter is defined. Time is O(n² d). Memory is a
        float64 copy of both inputs, and scratch space bounded by :func:`tile_budget`.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If shapes, numbers of rows or devices do not match, or if an option is out of range.

    See Also
    --------
    continuity : The counterpart: how few neighbours are lost.

    References
    ----------
    Venna and Kaski, "Neighborhood Preservation in Nonlinear Projection Methods: An Experimental
    Study", ICANN 2001. The second case of Z is from Venna's thesis, 2007.

    Examples
    --------
    Dropping a coordinate creates false neighbours, but loses few true ones:

    >>> x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    >>> trustworthiness(x, x[:, :2]), continuity(x, x[:, :2])
    (tensor(0.8286), tensor(0.9727))
    """
    frozen, aligned, k = check_neighbourhoods("trustworthiness", frozen, aligned, k, metric)
    return share_of_true_neighbours(frozen, aligned, k, metric)


@needs_float64
@torch.no_grad()
def continuity(frozen: Array, aligned: Array, *, k: int = 10, metric: str = "euclidean") -> Tensor:
    r"""Measure how few neighbours are lost: 1 if all frozen neighbours remain neighbours.

    .. math:: C(\text{frozen}, \text{aligned}) = T(\text{aligned}, \text{frozen})

    Parameters
    ----------
    frozen, aligned, k, metric
        As in :func:`trustworthiness`.

    Returns
    -------
    Tensor of shape ()
        The continuity, in the range and dtype of :func:`trustworthiness`.

    Raises
    ------
    TypeError, ValueError
        As for :func:`trustworthiness`.

    See Also
    --------
    trustworthiness : The counterpart: how few false neighbours appear.

    References
    ----------
    Venna and Kaski, "Neighborhood Preservation in Nonlinear Projection Methods: An Experimental
    Study", ICANN 2001.

    Examples
    --------
    A head that maps all rows to one point scores as a random order does, about a half:

    >>> x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    >>> continuity(x, torch.ones(500, 1))
    tensor(0.5045)
    """
    frozen, aligned, k = check_neighbourhoods("continuity", frozen, aligned, k, metric)
    return share_of_true_neighbours(aligned, frozen, k, metric)


@needs_float64
@torch.no_grad()
def neighbourhood_overlap(
    frozen: Array, aligned: Array, *, k: int = 10, metric: str = "euclidean"
) -> Tensor:
    r"""Share of each row's k nearest rows that stay the same after the head.

    .. math:: \frac{1}{n k} \sum_i | N_f(i) \cap N_a(i) |

    Parameters
    ----------
    frozen, aligned, k, metric
        As in :func:`trustworthiness`.

    Returns
    -------
    Tensor of shape ()
        The overlap in [0, 1]. Higher is better. Symmetric. Chance level, also for a head that maps
        all rows to one point, is k / (n - 1), so values for different n or k are not comparable.
        Dtype and NaN are as for :func:`trustworthiness`.

    Raises
    ------
    TypeError, ValueError
        As for :func:`trustworthiness`.

    See Also
    --------
    trustworthiness, continuity : Measures by rank, where a near miss costs less than a far one.

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
    frozen, aligned, k = check_neighbourhoods("neighbourhood_overlap", frozen, aligned, k, metric)
    n = len(frozen)
    shared = torch.stack(
        [
            (memberships(D_f, k) * memberships(D_a, k)).sum()
            for D_f, D_a in distance_tiles(frozen, aligned, metric)
        ]
    ).sum()
    return in_input_dtype(shared / (n * k), frozen, aligned)


def check_neighbourhoods(
    function: str, frozen: Array, aligned: Array, k: int, metric: str
) -> tuple[Tensor, Tensor, int]:
    frozen, aligned = as_tensors(function, frozen=frozen, aligned=aligned)
    check_paired(function, rows=3, frozen=frozen, aligned=aligned)
    k = check_neighbours(function, k, len(frozen))
    check_choice(function, "metric", metric, METRICS)
    return frozen, aligned, k


def share_of_true_neighbours(before: Tensor, after: Tensor, k: int, metric: str) -> Tensor:
    """Compute T with neighbourhoods N from `after` and ranks r from `before`."""
    n = len(before)
    Z = k * (2 * n - 3 * k - 1) if 2 * k < n else (n - k) * (n - k - 1)
    beyond = torch.stack(
        [
            ranks_beyond_k(D_b, memberships(D_a, k), k)
            for D_b, D_a in distance_tiles(before, after, metric)
        ]
    ).sum()
    return in_input_dtype(1 - 2 * beyond / (n * Z), before, after)


def ranks_beyond_k(distances: Distances, P: Tensor, k: int) -> Tensor:
    """Sum P · E[max(0, r - k)], where r is uniform on the places of a tie: a + 1 to a + t."""
    members = max(k, int((P > 0).sum(1).amax()))  # more than k if the k-th place is tied
    weight, columns = P.topk(members, 1)  # (b, m)
    D = distances.D.gather(1, columns)
    a, t = places(-distances.D, -D, distances.rounding(D))  # (b, m)
    lower, upper = (a - k).clamp_min(0).double(), (a + t - k).clamp_min(0).double()
    beyond = (upper * (upper + 1) - lower * (lower + 1)) / 2  # (b, m)
    return (weight * beyond / t).sum()


def in_input_dtype(value: Tensor, frozen: Tensor, aligned: Tensor) -> Tensor:
    """Return the value in at least float32, or NaN if an input is not finite."""
    return (value + nan_of(frozen, aligned)).to(result_dtype(frozen, aligned))
