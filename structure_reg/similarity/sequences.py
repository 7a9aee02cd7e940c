"""The kNN metrics that compare the order of neighbours: common subsequence and edit distance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from structure_reg._arrays import Array
from structure_reg._precision import needs_float64
from structure_reg._tiles import tile_rows
from structure_reg.similarity.nearest import Neighbours
from structure_reg.similarity.neighbours import knn_pair
from structure_reg.similarity.overlap import nan_grid


@needs_float64
def lcs_knn(x: Array, y: Array, *, k: int | str | None = None, mask: Array | None = None) -> Tensor:
    r"""Longest common subsequence of the neighbour lists divided by k, averaged over the rows.

    .. math:: \frac1{nk} \sum_i \mathrm{LCS} \bigl( N_x(i), N_y(i) \bigr)

    where :math:`N(i)` lists the k rows with the largest cosine to row i, nearest first. Shared
    neighbours count only if they are in the same order on both sides.

    Parameters
    ----------
    x, y : Tensor or array of shape (n, dx), (n, dy)
        Paired features, as in :func:`mutual_knn`.
    k : int or {"rice", "sqrt", "sturges"}, optional
        Number of neighbours, as in :func:`mutual_knn`.
    mask : Tensor or array of shape (n,), optional
        Bool mask of the rows to use, as in :func:`mutual_knn`.

    Returns
    -------
    Tensor of shape ()
        Value in [0, 1], at most :func:`mutual_knn`; symmetric; higher is more similar. float32, or
        float64 if an input is; no gradient. Same invariances, ties and NaN as for
        :func:`mutual_knn`.

    Raises
    ------
    TypeError, ValueError
        For the same reasons as in :func:`mutual_knn`.

    See Also
    --------
    edit_knn : Also accounts for the neighbours that are not in the common subsequence.

    References
    ----------
    Huh et al., "The Platonic Representation Hypothesis", ICML 2024, arXiv 2405.07987. Their code
    does not divide by k.

    Examples
    --------
    >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    >>> lcs_knn(x, x)
    tensor(1.)
    >>> bool(lcs_knn(x, x[:, :6]) < mutual_knn(x, x[:, :6]))
    True
    """
    return knn_pair("lcs_knn", lcs_grid, x, y, k, mask)


@needs_float64
def edit_knn(
    x: Array, y: Array, *, k: int | str | None = None, mask: Array | None = None
) -> Tensor:
    r"""One minus the edit distance of the neighbour lists over k, averaged over the rows.

    .. math:: \frac1n \sum_i \Bigl( 1 - \frac{d(N_x(i), N_y(i))}{k} \Bigr)

    where d is Levenshtein's distance, the smallest number of insertions, deletions and replacements
    that turn one list into the other.

    Parameters
    ----------
    x, y : Tensor or array of shape (n, dx), (n, dy)
        Paired features, as in :func:`mutual_knn`.
    k : int or {"rice", "sqrt", "sturges"}, optional
        Number of neighbours, as in :func:`mutual_knn`.
    mask : Tensor or array of shape (n,), optional
        Bool mask of the rows to use, as in :func:`mutual_knn`.

    Returns
    -------
    Tensor of shape ()
        Value in [0, 1], at most :func:`lcs_knn`; symmetric; higher is more similar. float32, or
        float64 if an input is; no gradient. Same invariances, ties and NaN as for
        :func:`mutual_knn`.

    Raises
    ------
    TypeError, ValueError
        For the same reasons as in :func:`mutual_knn`.

    See Also
    --------
    lcs_knn : Length of the longest common subsequence.

    References
    ----------
    Huh et al., "The Platonic Representation Hypothesis", ICML 2024, arXiv 2405.07987.

    Examples
    --------
    >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    >>> edit_knn(x, x)
    tensor(1.)
    >>> bool(edit_knn(x, x[:, :6]) < lcs_knn(x, x[:, :6]))
    True
    """
    return knn_pair("edit_knn", edit_grid, x, y, k, mask)


def common_length(a: Tensor, b: Tensor) -> Tensor:
    """Length of the longest common subsequence along the first axis: (k, ...) -> (...)."""
    zero = torch.zeros_like(a[0] + b[0], dtype=torch.int16)
    above = [zero] * (len(b) + 1)
    for a_s in a:
        row = [zero]
        for t, b_t in enumerate(b):
            row.append(torch.maximum(torch.maximum(above[t + 1], row[t]), above[t] + (a_s == b_t)))
        above = row
    return above[-1]


def edit_distance(a: Tensor, b: Tensor) -> Tensor:
    """Levenshtein's distance along the first axis: (k, ...) -> (...)."""
    zero = torch.zeros_like(a[0] + b[0], dtype=torch.int16)
    above = [zero + t for t in range(len(b) + 1)]
    for s, a_s in enumerate(a):
        row = [zero + s + 1]
        for t, b_t in enumerate(b):
            row.append(
                torch.minimum(torch.minimum(above[t + 1], row[t]) + 1, above[t] + (a_s != b_t))
            )
        above = row
    return above[-1]


def lcs_grid(xs: Sequence[Neighbours], ys: Sequence[Neighbours], permutations: Tensor) -> Tensor:
    return list_grid(xs, ys, permutations, common_length)


def edit_grid(xs: Sequence[Neighbours], ys: Sequence[Neighbours], permutations: Tensor) -> Tensor:
    k = xs[0].rows.shape[1]
    return list_grid(xs, ys, permutations, lambda a, b: k - edit_distance(a, b))


@torch.no_grad()
def list_grid(
    xs: Sequence[Neighbours],
    ys: Sequence[Neighbours],
    permutations: Tensor,
    length: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Mean of ``length(N_x(i), N_y(i)) / k`` over the rows: (B, LA, LB), float64.

    Each pair of layers takes n k² steps per permutation.
    """
    X, Y = (torch.stack([layer.rows for layer in side]) for side in (xs, ys))  # (L, n, k)
    n, k = X.shape[1:]
    total = X.new_zeros(len(permutations), len(xs), len(ys), dtype=torch.float64)
    block = tile_rows(2 * (2 * k + 6) * len(xs) * len(ys))
    partner = permutations.argsort(-1).int()  # (B, n), the row of x paired with each row of y
    for b, p in enumerate(permutations):
        for start in range(0, n, block):
            rows = slice(start, start + block)
            a = X[:, None, rows].movedim(-1, 0).contiguous()  # (k, LA, 1, t)
            c = partner[b][Y[:, p[rows]]].movedim(-1, 0)[:, None].contiguous()  # (k, 1, LB, t)
            total[b] += length(a, c).sum(-1, dtype=torch.float64)
    return total / (n * k) + nan_grid(xs, ys)
