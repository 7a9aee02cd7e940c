"""The kNN metrics that count shared neighbours: mutual, Jaccard and cycle.

:func:`mutual_knn` evaluates one pair, :func:`mutual_grid` every pair of layers under every
permutation of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from structure_reg._arrays import Array, as_tensor, as_tensors
from structure_reg._checks import check_paired
from structure_reg._precision import needs_float64, promote
from structure_reg.similarity._checks import check_row_mask
from structure_reg.similarity.nearest import Neighbours, nearest, neighbourhood_size
from structure_reg.similarity.overlap import overlap_grid

Grid = Callable[[Sequence[Neighbours], Sequence[Neighbours], Tensor], Tensor]


@needs_float64
def mutual_knn(
    x: Array, y: Array, *, k: int | str | None = None, mask: Array | None = None
) -> Tensor:
    r"""Share of the k nearest neighbours of a row that both sides agree on, averaged over rows.

    .. math:: \frac1n \sum_i \frac{|N_x(i) \cap N_y(i)|}{k}

    where :math:`N(i)` holds the k rows with the largest cosine to row i, without row i itself.

    Parameters
    ----------
    x, y : Tensor or array of shape (n, dx), (n, dy)
        Paired features of n >= 2 samples; row i of `x` belongs to row i of `y`.
    k : int or {"rice", "sqrt", "sturges"}, optional
        Number of neighbours, below n, or the name of a rule that computes it from n:
        :math:`\lceil 2 \sqrt[3]{n} \rceil` for "rice" and None, :math:`\lceil \sqrt n \rceil` for
        "sqrt", :math:`\lceil \log_2 n + 1 \rceil` for "sturges".
    mask : Tensor or array of shape (n,), optional
        Bool mask of the rows to use. Other rows are dropped before neighbours are searched, and n
        does not count them. Indexing with it synchronises with the GPU.

    Returns
    -------
    Tensor of shape ()
        Value in [0, 1]; symmetric; higher is more similar. It is k / (n - 1) by chance, so values
        for different n or k are not comparable. float32, or float64 if an input is; no gradient.
        Invariant to a rotation and to a positive scale per row, but not to a translation. NaN if an
        input contains NaN, or is constant: all rows share one direction, up to rounding.

        Equally near rows are neighbours in random order, drawn for each side by itself and always
        alike for the same features. Ties thus count as chance does; a side with ties at the k-th
        neighbour (:func:`tie_fraction`) does not reach 1 even with itself.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes, numbers of rows or devices do not match, or k is not in 1 to n - 1.

    See Also
    --------
    layer_similarity : Similarity of all pairs of layers at once.

    References
    ----------
    Huh et al., "The Platonic Representation Hypothesis", ICML 2024, arXiv 2405.07987.

    Examples
    --------
    A rotation keeps every neighbour; unrelated features keep a share of k / (n - 1):

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(1000, 16, generator=g)
    >>> rotation, _ = torch.linalg.qr(torch.randn(16, 16, generator=g))
    >>> mutual_knn(x, x @ rotation)
    tensor(1.)
    >>> mutual_knn(x, torch.randn(1000, 16, generator=g)).round(decimals=2), 20 / 999
    (tensor(0.0200), 0.0200...)
    """
    return knn_pair("mutual_knn", mutual_grid, x, y, k, mask)


@needs_float64
def jaccard_knn(
    x: Array, y: Array, *, k: int | str | None = None, mask: Array | None = None
) -> Tensor:
    r"""Jaccard index between the k nearest neighbours on both sides, averaged over the rows.

    .. math:: \frac1n \sum_i \frac{|N_x(i) \cap N_y(i)|}{|N_x(i) \cup N_y(i)|}

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
        Value in [0, 1], at most :func:`mutual_knn`; symmetric; higher is more similar; about
        k / (2 (n - 1) - k) by chance. float32, or float64 if an input is; no gradient. Same
        invariances, ties and NaN as for :func:`mutual_knn`.

    Raises
    ------
    TypeError, ValueError
        For the same reasons as in :func:`mutual_knn`.

    See Also
    --------
    mutual_knn : Divides by k instead of the size of the union.

    References
    ----------
    Second-order and neighbourhood measures: Klabunde et al., "Similarity of Neural Network Models:
    A Survey of Functional and Representational Measures", arXiv 2305.06329.

    Examples
    --------
    If one of two neighbours is shared, mutual kNN is 1/2 and the Jaccard index is 1/3:

    >>> angles = torch.tensor([0.0, 40.0, 80.0, 120.0]).deg2rad()
    >>> x = torch.stack([angles.cos(), angles.sin()], 1)
    >>> y = x[[1, 3, 0, 2]]
    >>> mutual_knn(x, y, k=2), jaccard_knn(x, y, k=2)
    (tensor(0.5000), tensor(0.3333))
    """
    return knn_pair("jaccard_knn", jaccard_grid, x, y, k, mask)


@needs_float64
def cycle_knn(
    x: Array, y: Array, *, k: int | str | None = None, mask: Array | None = None
) -> Tensor:
    r"""Share of rows that a step to a neighbour in y and a step to one in x can return to.

    .. math:: \frac1n \sum_i \bigl[ \exists \, j \in N_y(i) : i \in N_x(j) \bigr]

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
        Value in [0, 1]; **not** symmetric; higher is more similar; about
        :math:`1 - (1 - k / (n-1))^k` by chance, many times the chance level of :func:`mutual_knn`.
        float32, or float64 if an input is; no gradient. Same invariances, ties and NaN as for
        :func:`mutual_knn`.

    Raises
    ------
    TypeError, ValueError
        For the same reasons as in :func:`mutual_knn`.

    See Also
    --------
    mutual_knn : Counts all k neighbours and is symmetric.

    References
    ----------
    Huh et al., "The Platonic Representation Hypothesis", ICML 2024, arXiv 2405.07987.

    Examples
    --------
    A row need not be the nearest neighbour of its own nearest neighbour:

    >>> x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    >>> cycle_knn(x, x, k=1)
    tensor(0.4700)
    """
    return knn_pair("cycle_knn", cycle_grid, x, y, k, mask)


def mutual_grid(xs: Sequence[Neighbours], ys: Sequence[Neighbours], permutations: Tensor) -> Tensor:
    k = xs[0].rows.shape[1]
    return overlap_grid(xs, ys, permutations, row_value=lambda m: m) / k


def jaccard_grid(
    xs: Sequence[Neighbours], ys: Sequence[Neighbours], permutations: Tensor
) -> Tensor:
    k = xs[0].rows.shape[1]
    return overlap_grid(xs, ys, permutations, row_value=lambda m: m.double() / (2 * k - m))


def cycle_grid(xs: Sequence[Neighbours], ys: Sequence[Neighbours], permutations: Tensor) -> Tensor:
    """Whether a neighbour of row i of y has row i of x as a neighbour, averaged over the rows."""
    return overlap_grid(
        ys, xs, permutations.argsort(-1), row_value=lambda m: m.clamp(max=1), incoming=True
    ).mT


def knn_pair(
    function: str,
    grid: Grid,
    x: Array,
    y: Array,
    k: int | str | None,
    mask: Array | None,
    *,
    rows: int = 2,
) -> Tensor:
    """Evaluate the grid for one pair of layers, with the rows paired as given."""
    x, y = as_tensors(function, x=x, y=y)
    check_paired(function, rows=rows, x=x, y=y)
    if mask is not None:
        kept = mask if isinstance(mask, Tensor) else as_tensor(function, "mask", mask).to(x.device)
        check_row_mask(function, kept, x)
        x, y = x[kept], y[kept]
    size = neighbourhood_size(function, k, len(x))
    x, y = promote(x, y)
    identity = torch.arange(len(x), device=x.device)[None]  # (1, n)
    score = grid([nearest(x, size, 0)], [nearest(y, size, 1)], identity)  # (1, 1, 1)
    return score.reshape(()).to(x.dtype)
