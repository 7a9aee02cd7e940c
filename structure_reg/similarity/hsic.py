r"""The Hilbert-Schmidt independence criterion, from the sums of two kernel matrices."""

from __future__ import annotations

from torch import Tensor

from structure_reg.similarity.grams import Margins


def hsic(inner: Tensor, x: Margins, y: Margins, *, debiased: bool) -> Tensor:
    r"""HSIC of every kernel of `x` with every one of `y`, up to one factor of n.

    With :math:`r` the row sums and :math:`s` the sum of the kernel matrix, off the diagonal if
    debiased [1]_ and all of it if not:

    .. math::
        h = \sum_{i \ne j} K_{ij} L_{ij} - \tfrac{2}{n-2} r_K \cdot r_L
            + \tfrac{s_K s_L}{(n-1)(n-2)},
        \qquad
        D = \sum_{ij} K_{ij} L_{ij} - \tfrac2n r_K \cdot r_L + \tfrac{s_K s_L}{n^2}

    Parameters
    ----------
    inner : Tensor of shape (..., LA, LB)
        Off-diagonal inner products of the kernels as they are paired.
    x, y : Margins
        Their row sums and diagonals, (..., LA, n) and (..., LB, n), in the same order.
    debiased : bool
        h, or D.

    References
    ----------
    .. [1] Song et al., "Feature Selection via Dependence Maximization", JMLR 2012.
    """
    n = x.rows.shape[-1]
    if debiased:
        r_K, r_L = x.rows, y.rows
        through_rows, through_all = 2 / (n - 2), 1 / ((n - 1) * (n - 2))
    else:
        r_K, r_L = x.rows + x.diagonal, y.rows + y.diagonal
        through_rows, through_all = 2 / n, 1 / n**2
        inner = inner + x.diagonal @ y.diagonal.mT
    s_K, s_L = r_K.sum(-1), r_L.sum(-1)
    h: Tensor = inner - through_rows * (r_K @ r_L.mT)
    return h + through_all * s_K[..., :, None] * s_L[..., None, :]  # (..., LA, LB)


def centered_diagonal(x: Margins) -> Tensor:
    """Diagonal of H K H, (..., L, n)."""
    r = x.rows + x.diagonal
    return x.diagonal - 2 * r / r.shape[-1] + r.mean(-1, keepdim=True) / r.shape[-1]
