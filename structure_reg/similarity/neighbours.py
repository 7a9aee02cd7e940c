"""The kNN metrics that count shared neighbours: mutual, Jaccard and cycle.

:func:`mutual_knn` is the pair, :func:`mutual_grid` every pair of layers under every permutation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from structure_reg._checks import check_paired
from structure_reg._precision import result_dtype
from structure_reg.similarity._checks import check_row_mask
from structure_reg.similarity.nearest import Neighbours, nearest, neighbourhood_size
from structure_reg.similarity.overlap import overlap_grid

Grid = Callable[[Sequence[Neighbours], Sequence[Neighbours], Tensor], Tensor]


def mutual_knn(
    x: Tensor, y: Tensor, *, k: int | str | None = None, mask: Tensor | None = None
) -> Tensor:
    r"""Share of each row's k nearest neighbours that both sides agree on, averaged over the rows.

    .. math:: \frac1n \sum_i \frac{|N_x(i) \cap N_y(i)|}{k}

    with :math:`N(i)` the k rows of largest cosine to row i, itself excluded.

    Parameters
    ----------
    x, y : Tensor of shape (n, dx), (n, dy)
        Paired features, n >= 2; row i of `x` belongs to row i of `y`.
    k : int or {"rice", "sqrt", "sturges"}, optional
        Size of a neighbourhood, below n. A rule makes it of n: None and "rice" are
        :math:`\lceil 2 \sqrt[3]{n} \rceil`, "sqrt" :math:`\lceil \sqrt n \rceil`, "sturges"
        :math:`\lceil \log_2 n + 1 \rceil`.
    mask : Tensor of shape (n,), optional
        Of bool: rows where it is False are no rows, nor neighbours of any, and n counts the others.
        Reading it waits for a GPU.

    Returns
    -------
    Tensor of shape ()
        In [0, 1]; symmetric; higher is more alike; k / (n - 1) by chance, so values of different n
        or k do not compare; float32, or float64 if an input is; without gradient. Unchanged by a
        rotation and by a positive scale per row, not by a translation. NaN if an input holds one.
        Where rows are equal their order is arbitrary: see :func:`tie_fraction`.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes, rows or devices do not fit, or k is not in 1 to n - 1.

    See Also
    --------
    layer_similarity : All pairs of layers at once.

    References
    ----------
    Huh et al., "The Platonic Representation Hypothesis", ICML 2024, arXiv 2405.07987.

    Examples
    --------
    A rotation keeps every neighbour, unrelated features keep k / (n - 1) of them:

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(1000, 16, generator=g)
    >>> rotation, _ = torch.linalg.qr(torch.randn(16, 16, generator=g))
    >>> mutual_knn(x, x @ rotation)
    tensor(1.)
    >>> mutual_knn(x, torch.randn(1000, 16, generator=g)).round(decimals=2), 20 / 999
    (tensor(0.0200), 0.0200...)
    """
    return knn_pair("mutual_knn", mutual_grid, x, y, k, mask)


def jaccard_knn(
    x: Tensor, y: Tensor, *, k: int | str | None = None, mask: Tensor | None = None
) -> Tensor:
    r"""Jaccard index of both sides' k nearest neighbours, averaged over the rows.

    .. math:: \frac1n \sum_i \frac{|N_x(i) \cap N_y(i)|}{|N_x(i) \cup N_y(i)|}

    Parameters
    ----------
    x, y : Tensor of shape (n, dx), (n, dy)
        Paired features, as in :func:`mutual_knn`.
    k : int or {"rice", "sqrt", "sturges"}, optional
        Size of a neighbourhood, as in :func:`mutual_knn`.
    mask : Tensor of shape (n,), optional
        Of bool: which rows take part.

    Returns
    -------
    Tensor of shape ()
        In [0, 1], at most :func:`mutual_knn`; symmetric; higher is more alike; about
        k / (2 (n - 1) - k) by chance; float32 or float64, without gradient. Invariant as
        :func:`mutual_knn`. NaN if an input holds one.

    Raises
    ------
    TypeError, ValueError
        As :func:`mutual_knn`.

    See Also
    --------
    mutual_knn : Over k instead of the union.

    References
    ----------
    Second-order and neighbourhood measures: Klabunde et al., "Similarity of Neural Network Models:
    A Survey of Functional and Representational Measures", arXiv 2305.06329.

    Examples
    --------
    Of two neighbours each, one shared: 1 of 2 is mutual, 1 of 3 is the Jaccard index.

    >>> angles = torch.tensor([0.0, 40.0, 80.0, 120.0]).deg2rad()
    >>> x = torch.stack([angles.cos(), angles.sin()], 1)
    >>> y = x[[1, 3, 0, 2]]
    >>> mutual_knn(x, y, k=2), jaccard_knn(x, y, k=2)
    (tensor(0.5000), tensor(0.3333))
    """
    return knn_pair("jaccard_knn", jaccard_grid, x, y, k, mask)


def cycle_knn(
    x: Tensor, y: Tensor, *, k: int | str | None = None, mask: Tensor | None = None
) -> Tensor:
    r"""Share of the rows from which a step to a neighbour in y and one in x can lead back.

    .. math:: \frac1n \sum_i \bigl[ \exists \, j \in N_y(i) : i \in N_x(j) \bigr]

    Parameters
    ----------
    x, y : Tensor of shape (n, dx), (n, dy)
        Paired features, as in :func:`mutual_knn`.
    k : int or {"rice", "sqrt", "sturges"}, optional
        Size of a neighbourhood, as in :func:`mutual_knn`.
    mask : Tensor of shape (n,), optional
        Of bool: which rows take part.

    Returns
    -------
    Tensor of shape ()
        In [0, 1]; **not** symmetric; higher is more alike; about :math:`1 - (1 - k / (n-1))^k` by
        chance, many times that of :func:`mutual_knn`; float32 or float64, without gradient.
        Invariant as :func:`mutual_knn`. NaN if an input holds one.

    Raises
    ------
    TypeError, ValueError
        As :func:`mutual_knn`.

    See Also
    --------
    mutual_knn : All k neighbours counted, and symmetric.

    References
    ----------
    Huh et al., "The Platonic Representation Hypothesis", ICML 2024, arXiv 2405.07987.

    Examples
    --------
    The nearest neighbour of a row need not have that row for its own:

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
    """Look up the neighbours of each y among the rows of x that have it for a neighbour."""
    return overlap_grid(
        ys, xs, permutations.argsort(-1), row_value=lambda m: m.clamp(max=1), incoming=True
    ).mT


def knn_pair(
    function: str,
    grid: Grid,
    x: Tensor,
    y: Tensor,
    k: int | str | None,
    mask: Tensor | None,
    *,
    rows: int = 2,
) -> Tensor:
    """Evaluate the grid of one layer beside one other, the rows paired as they come."""
    check_paired(function, rows=rows, x=x, y=y)
    check_row_mask(function, mask, x)
    if mask is not None:
        x, y = x[mask], y[mask]
    size = neighbourhood_size(function, k, len(x))
    as_paired = torch.arange(len(x), device=x.device)[None]  # (1, n)
    score = grid([nearest(x, size)], [nearest(y, size)], as_paired)  # (1, 1, 1)
    return score.reshape(()).to(result_dtype(x, y))
