"""CKA of what two sides agree is near: its kernels are masked to the shared neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from structure_reg.similarity.nearest import Neighbours
from structure_reg.similarity.neighbours import knn_pair
from structure_reg.similarity.overlap import edges, undefined


def cknna(
    x: Tensor, y: Tensor, *, k: int | str | None = None, mask: Tensor | None = None
) -> Tensor:
    r"""Centred kernel nearest-neighbour alignment: debiased CKA of cosines between neighbours.

    .. math::
        \frac{h(M \circ K, M \circ L)}{\sqrt{h(M_x \circ K, M_x \circ K)\,
        h(M_y \circ L, M_y \circ L)}}, \qquad M = M_x \circ M_y

    with K and L the cosines of the rows of either side, :math:`(M_x)_{ij}` 1 where j is one of the
    k nearest rows to i and 0 elsewhere, and the debiased criterion

    .. math::
        h(A, B) = \langle A, B \rangle - \tfrac{2}{n-2} \, A 1 \cdot B 1
                + \tfrac{1^\top A 1 \; 1^\top B 1}{(n-1)(n-2)}.

    Parameters
    ----------
    x, y : Tensor of shape (n, dx), (n, dy)
        Paired features, as in :func:`mutual_knn`, n >= 4.
    k : int or {"rice", "sqrt", "sturges"}, optional
        Size of a neighbourhood, as in :func:`mutual_knn`.
    mask : Tensor of shape (n,), optional
        Of bool: which rows take part.

    Returns
    -------
    Tensor of shape ()
        1 for equal sides and for a rotation, about k / (n - 1) by chance; not bounded by 1;
        symmetric; higher is more alike; float32 or float64, without gradient. Invariant as
        :func:`mutual_knn`. NaN if an input holds one, or if k is so near to n that the denominator
        is not positive.

    Raises
    ------
    TypeError, ValueError
        As :func:`mutual_knn`, or if n < 4.

    See Also
    --------
    cka : Near and far pairs alike.
    mutual_knn : The shared neighbours counted, each the same.

    References
    ----------
    Huh et al., "The Platonic Representation Hypothesis", ICML 2024, arXiv 2405.07987. A neighbour
    relation is not symmetric, and their code pairs :math:`A_{ij}` with :math:`B_{ji}`; here it is
    :math:`B_{ij}`, as in the definition.

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
    K = torch.stack([layer.cosine for layer in xs]).float()  # (LA, n, k)
    L = [layer.cosine.float() for layer in ys]
    shape = len(permutations), LA, LB
    inner, rows, K_sum, L_sum = (K.new_zeros(shape, dtype=torch.float64) for _ in range(4))
    for found in edges(xs, ys, permutations, [*[1.0] * LB, *L]):
        b = found.permutation
        K_rows = K[:, found.rows].view_as(found.places)
        weighted = embedding_bag(
            found.places, found.table, mode="sum", per_sample_weights=K_rows
        ).view(LA, -1, 2, LB)
        r_L = embedding_bag(found.places, found.table[:, LB:], mode="sum").view(LA, -1, LB)
        r_K, K_L = weighted.double().unbind(2)  # (LA, t, LB)
        inner[b] += K_L.sum(1)
        rows[b] += (r_K * r_L).sum(1)
        K_sum[b] += r_K.sum(1)
        L_sum[b] += r_L.sum(1, dtype=torch.float64)
    h = criterion(inner, rows, K_sum, L_sum, n)
    x_self, y_self = (torch.stack([self_criterion(layer) for layer in side]) for side in (xs, ys))
    return h / (x_self[:, None] * y_self).sqrt() + undefined(xs, ys)


def self_criterion(layer: Neighbours) -> Tensor:
    """h of one side with itself, masked to its own neighbours."""
    K = layer.cosine.double()  # (n, k)
    r_K = K.sum(1)
    return criterion(K.square().sum(), r_K.square().sum(), r_K.sum(), r_K.sum(), len(K))


def criterion(inner: Tensor, rows: Tensor, K_sum: Tensor, L_sum: Tensor, n: int) -> Tensor:
    return inner - 2 / (n - 2) * rows + K_sum * L_sum / ((n - 1) * (n - 2))
