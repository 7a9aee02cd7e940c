"""CKA with kernels masked to the neighbours that both sides share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from structure_reg._arrays import Array
from structure_reg._precision import needs_float64, result_dtype
from structure_reg.similarity.nearest import Neighbours
from structure_reg.similarity.neighbours import knn_pair
from structure_reg.similarity.overlap import edge_blocks, nan_grid


@needs_float64
def cknna(x: Array, y: Array, *, k: int | str | None = None, mask: Array | None = None) -> Tensor:
    r"""Centred kernel nearest-neighbour alignment: debiased CKA of cosines between neighbours.

    .. math::
        \frac{h(M \circ K, M \circ L)}{\sqrt{h(M_x \circ K, M_x \circ K)\,
        h(M_y \circ L, M_y \circ L)}}, \qquad M = M_x \circ M_y

    where K and L hold the cosines between the rows of each side, :math:`(M_x)_{ij}` is 1 if j is
    one of the k nearest rows to i and 0 otherwise, and h is the debiased criterion

    .. math::
        h(A, B) = \langle A, B \rangle - \tfrac{2}{n-2} \, A 1 \cdot B 1
                + \tfrac{1^\top A 1 \; 1^\top B 1}{(n-1)(n-2)}.

    Parameters
    ----------
    x, y : Tensor or array of shape (n, dx), (n, dy)
        Paired features, as in :func:`mutual_knn`, n >= 4.
    k : int or {"rice", "sqrt", "sturges"}, optional
        Number of neighbours, as in :func:`mutual_knn`.
    mask : Tensor or array of shape (n,), optional
        Bool mask of the rows to use, as in :func:`mutual_knn`.

    Returns
    -------
    Tensor of shape ()
        Value of 1 for equal sides and for a rotation, and of about k / (n - 1) by chance; not
        bounded by 1; symmetric; higher is more similar. float32, or float64 if an input is; no
        gradient. Same invariances, ties and NaN as for :func:`mutual_knn`; also NaN if k is so
        close to n that the denominator is not positive.

    Raises
    ------
    TypeError, ValueError
        For the same reasons as in :func:`mutual_knn`, or if n < 4.

    See Also
    --------
    cka : Compares all pairs of rows, near and far.
    mutual_knn : Counts the shared neighbours without weights.

    References
    ----------
    Huh et al., "The Platonic Representation Hypothesis", ICML 2024, arXiv 2405.07987. The neighbour
    relation is not symmetric. Their code pairs :math:`A_{ij}` with :math:`B_{ji}`; this function
    pairs it with :math:`B_{ij}`, as in the definition.

    Examples
    --------
    >>> x = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    >>> cknna(x, x, k=10)
    tensor(1.)
    """
    return knn_pair("cknna", cknna_grid, x, y, k, mask, rows=4)


@torch.no_grad()
def cknna_grid(xs: Sequence[Neighbours], ys: Sequence[Neighbours], permutations: Tensor) -> Tensor:
    LA, LB, n = len(xs), len(ys), permutations.shape[1]
    dtype = result_dtype(*(layer.cosine for layer in (*xs, *ys)))
    K = torch.stack([layer.cosine.to(dtype) for layer in xs])  # (LA, n, k)
    L = [layer.cosine.to(dtype) for layer in ys]
    shape = len(permutations), LA, LB
    inner, rows, K_sum, L_sum = (K.new_zeros(shape, dtype=torch.float64) for _ in range(4))
    for b, rows_x, places, table in edge_blocks(xs, ys, permutations, [*[1.0] * LB, *L]):
        K_edges = K[:, rows_x].view_as(places)
        weighted = embedding_bag(places, table, mode="sum", per_sample_weights=K_edges)
        r_L = embedding_bag(places, table[:, LB:], mode="sum").view(LA, -1, LB)
        r_K, K_L = weighted.view(LA, -1, 2, LB).double().unbind(2)  # (LA, t, LB)
        inner[b] += K_L.sum(1)
        rows[b] += (r_K * r_L).sum(1)
        K_sum[b] += r_K.sum(1)
        L_sum[b] += r_L.sum(1, dtype=torch.float64)
    h = criterion(inner, rows, K_sum, L_sum, n)
    x_self, y_self = (torch.stack([self_criterion(layer) for layer in side]) for side in (xs, ys))
    return h / (x_self[:, None] * y_self).sqrt() + nan_grid(xs, ys)


def self_criterion(layer: Neighbours) -> Tensor:
    """The criterion of one side with itself, masked to its own neighbours."""
    K = layer.cosine.double()  # (n, k)
    r_K = K.sum(1)
    return criterion(K.square().sum(), r_K.square().sum(), r_K.sum(), r_K.sum(), len(K))


def criterion(inner: Tensor, rows: Tensor, K_sum: Tensor, L_sum: Tensor, n: int) -> Tensor:
    return inner - 2 / (n - 2) * rows + K_sum * L_sum / ((n - 1) * (n - 2))
