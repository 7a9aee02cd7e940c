"""Canonical similarity analysis: a cosine of canonical variates weighted by correlation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from structure_reg._arrays import Array
from structure_reg._checks import check_choice, check_count, check_flag, check_number
from structure_reg._gram import unit_rows
from structure_reg._precision import needs_float64
from structure_reg.heads._checks import check_ridge
from structure_reg.heads.cca import canonical_directions, shrinkage
from structure_reg.heads.linear import LinearHead, linear_head
from structure_reg.heads.moments import PairMoments, as_pairs

SIDES = ("x", "y")


class CsaHead(nn.Module):
    r"""One side of CSA: its inner product with the other side's head is CSA's similarity.

    .. math:: \operatorname{sim}(a, b) = \frac{\sum_i w_i a_i b_i}{\| a \| \, \| b \|}

    where :math:`a`, :math:`b` are the canonical variates and :math:`w_i` lies in [0, 1]. The norms
    are unweighted, so weighting the directions alone does not turn this into a cosine, but two
    extra coordinates do. With :math:`\hat a = a / \| a \|`, the outputs are
    :math:`(\sqrt{w} \hat a, r_a, 0)` and :math:`(\sqrt{w} \hat b, 0, r_b)`, where
    :math:`r_a^2 = \sum_i (1 - w_i) \hat a_i^2` completes them to unit length.

    Parameters
    ----------
    in_features, out_features : int
        Width of the frozen features, and number of directions. The output has two more columns.
    side : {"x", "y"}
        Side of the pair, which decides which of the two extra coordinates holds the remainder.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer, or `side` is neither "x" nor "y".

    See Also
    --------
    fit_csa : Fit a pair of these heads.

    Examples
    --------
    Outputs have unit length for any weights:

    >>> head = CsaHead(16, 8, side="x")
    >>> head.weights = torch.rand(8)
    >>> torch.allclose(head(torch.randn(3, 16)).square().sum(1), torch.ones(3))
    True
    """

    weights: Tensor

    def __init__(self, in_features: int, out_features: int, *, side: str) -> None:
        super().__init__()
        in_features = check_count("CsaHead", "in_features", in_features)
        out_features = check_count("CsaHead", "out_features", out_features)
        check_choice("CsaHead", "side", side, SIDES)
        self.linear = LinearHead(in_features, out_features)
        self.register_buffer("weights", torch.ones(out_features))
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """Return unit rows of shape (n, out_features + 2)."""
        a = unit_rows(self.linear(x))  # (n, s)
        w = self.weights
        r = ((1 - w) * a.square()).sum(-1, keepdim=True).sqrt()  # (n, 1)
        zero = torch.zeros_like(r)
        remainder = (r, zero) if self.side == "x" else (zero, r)
        return torch.cat([w.sqrt() * a, *remainder], -1)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that construct this head."""
        return {
            "in_features": self.linear.in_features,
            "out_features": self.linear.out_features,
            "side": self.side,
        }

    def extra_repr(self) -> str:
        """Return the side, for printing."""
        return f"side={self.side!r}"


@needs_float64
@torch.no_grad()
def fit_csa(
    x: Array | PairMoments,
    y: Array | None = None,
    *,
    dim: int | None = None,
    ridge: float | tuple[float, float] | None = None,
    power: float = 1.0,
    standardise: bool = True,
) -> tuple[CsaHead, CsaHead]:
    r"""Fit canonical directions, and weight them by their correlation in the similarity.

    .. math:: \operatorname{sim}(x, y) = \frac{\sum_i \rho_i^p \, a_i b_i}{\| a \| \, \| b \|}

    where a and b are the canonical variates of x and y, as in :func:`fit_cca`, and :math:`\rho`
    are their correlations.

    Parameters
    ----------
    x, y, dim, ridge
        As in :func:`fit_cca`.
    power : float
        Exponent p >= 0 of the correlations: 1 is CSA, and 0 is the cosine of :func:`fit_cca`.
    standardise
        As in :func:`fit_cca`.

    Returns
    -------
    tuple of (CsaHead, CsaHead)
        Heads for x and for y with dim + 2 outputs, whose cosine is the similarity. Fitted in
        float64 on the device of `x`, and returned in float32, or float64 if an input is.

    Raises
    ------
    TypeError, ValueError
        As for :func:`fit_cca`.

    See Also
    --------
    fit_cca : Its `power` weights the features, and thereby their norms too.

    References
    ----------
    Li, Chinchali and Topcu, "CSA: Data-efficient Mapping of Unimodal Features to Multimodal
    Features", ICLR 2025, arXiv 2410.07610.

    Examples
    --------
    Directions that correlate by chance weigh less than the shared direction:

    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(500, 8, generator=g), torch.randn(500, 8, generator=g)
    >>> y[:, 0] = x[:, 0]
    >>> fit_csa(x, y, dim=3, ridge=1.0)[0].weights
    tensor([0.5016, 0.1295, 0.0794])
    """
    pairs = as_pairs("fit_csa", x, y)
    standardise = check_flag("fit_csa", "standardise", standardise)
    check_ridge("fit_csa", ridge)
    power = check_number("fit_csa", "power", power, least=0.0)
    chosen = shrinkage("fit_csa", pairs, ridge, standardise)
    c = canonical_directions("fit_csa", pairs, dim, chosen.ridge, standardise)
    weights = c.rho.pow(power).to(pairs.dtype)
    head_x = csa_head("x", linear_head(c.W_x, *c.x, pairs.dtype), weights)
    return head_x, csa_head("y", linear_head(c.W_y, *c.y, pairs.dtype), weights)


def csa_head(side: str, linear: LinearHead, weights: Tensor) -> CsaHead:
    with torch.device("meta"):  # draws no random numbers
        head = CsaHead(linear.in_features, linear.out_features, side=side)
    head.linear, head.weights = linear, weights.clone()  # every head owns its weights
    return head
