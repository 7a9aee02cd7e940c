r"""The Hilbert-Schmidt independence criterion, from sums over two kernel matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg.similarity.grams import Margins


def hsic(inner: Tensor, x: Margins, y: Margins, *, debiased: bool) -> Tensor:
    r"""HSIC of every kernel of `x` with every kernel of `y`, up to a factor that depends on n.

    Let :math:`r` be the row sums and :math:`s` the sum of a kernel matrix: without the diagonal in
    the debiased form h [1]_, with it in the biased form D.

    .. math::
        h = \sum_{i \ne j} K_{ij} L_{ij} - \tfrac{2}{n-2} r_K \cdot r_L
            + \tfrac{s_K s_L}{(n-1)(n-2)},
        \qquad
        D = \sum_{ij} K_{ij} L_{ij} - \tfrac2n r_K \cdot r_L + \tfrac{s_K s_L}{n^2}

    Parameters
    ----------
    inner : Tensor of shape (..., LA, LB)
        Inner products of the kernels without their diagonals.
    x, y : Margins
        Row sums and diagonals of the kernels, (..., LA, n) and (..., LB, n), rows in the same
        order.
    debiased : bool
        Form of the criterion: h if true, D otherwise.

    References
    ----------
    .. [1] Song et al., "Feature Selection via Dependence Maximization", JMLR 2012.
    """
    n = x.rows.shape[-1]
    if debiased:
        r_K, r_L = x.rows, y.rows
        row_factor, total_factor = 2 / (n - 2), 1 / ((n - 1) * (n - 2))
    else:
        r_K, r_L = x.rows + x.diagonal, y.rows + y.diagonal
        row_factor, total_factor = 2 / n, 1 / n**2
        inner = inner + x.diagonal @ y.diagonal.mT
    s_K, s_L = r_K.sum(-1), r_L.sum(-1)
    h: Tensor = inner - row_factor * (r_K @ r_L.mT)
    return h + total_factor * s_K[..., :, None] * s_L[..., None, :]  # (..., LA, LB)


def norms(inner: Tensor, x: Margins, *, debiased: bool, eps: float) -> Tensor:
    """Square root of h(K, K), or D(K, K), of every kernel, (L,); `eps` is that of their dtype."""
    h = hsic(inner, x, x, debiased=debiased).diagonal()
    if not debiased:
        return h.sqrt()
    others = x.diagonal.sum(-1).square() - x.diagonal.square().sum(-1)  # sum of K_ii K_jj, i != j
    return root_above_rounding(h, x.rows.shape[-1] * (eps * inner.diagonal() + eps**2 * others))


def root_above_rounding(h: Tensor, rounding: Tensor) -> Tensor:
    """Square root of h, or NaN if h is no more than the rounding of its terms.

    The terms cancel where the entries off the diagonal follow from their rows and columns, as in
    rows that are all equally far apart.
    """
    return torch.where(h > rounding, h, torch.nan).sqrt()


def cosine(h: Tensor, x_norms: Tensor, y_norms: Tensor, *, debiased: bool) -> Tensor:
    """h(K, L) over both norms, (..., LA, LB), within the range that only rounding exceeds."""
    return (h / torch.outer(x_norms, y_norms)).clamp(-1.0 if debiased else 0.0, 1.0)


def centered_diagonal(x: Margins) -> Tensor:
    """Diagonal of H K H, (..., L, n)."""
    r = x.rows + x.diagonal
    return x.diagonal - 2 * r / r.shape[-1] + r.mean(-1, keepdim=True) / r.shape[-1]
