"""Canonical similarity analysis: canonical directions, and a cosine weighted by correlation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from structure_reg._checks import check_choice, check_count, check_number
from structure_reg._gram import unit_rows
from structure_reg.heads._checks import check_fit
from structure_reg.heads.cca import canonical_directions
from structure_reg.heads.linear import LinearHead, linear_head

SIDES = ("x", "y")


class CsaHead(nn.Module):
    r"""One side of CSA: unit rows whose inner product with the other side's is CSA's similarity.

    .. math:: \operatorname{sim}(a, b) = \frac{\sum_i w_i a_i b_i}{\| a \| \, \| b \|}

    with :math:`a`, :math:`b` the canonical variates and :math:`w_i` in [0, 1]. The lengths are
    unweighted, so no weight of the directions alone makes this a cosine. Two coordinates more do:
    with :math:`\hat a = a / \| a \|` the outputs are
    :math:`(\sqrt{w} \hat a, r_a, 0)` and :math:`(\sqrt{w} \hat b, 0, r_b)`, where
    :math:`r_a^2 = \sum_i (1 - w_i) \hat a_i^2` fills up to unit length.

    Parameters
    ----------
    in_features, out_features : int
        Width of the frozen features, and number of directions; an output is two wider.
    side : {"x", "y"}
        Which of the two coordinates is filled: the two heads of a pair differ in it.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer, or `side` not one of the two.

    See Also
    --------
    fit_csa : Where these heads come from.

    Examples
    --------
    Rows have unit length whatever the weights are:

    >>> head = CsaHead(16, 8, side="x")
    >>> head.weights = torch.rand(8)
    >>> torch.allclose(head(torch.randn(3, 16)).square().sum(1), torch.ones(3))
    True
    """

    weights: Tensor

    def __init__(self, in_features: int, out_features: int, *, side: str) -> None:
        super().__init__()
        check_count("CsaHead", "in_features", in_features)
        check_count("CsaHead", "out_features", out_features)
        check_choice("CsaHead", "side", side, SIDES)
        self.linear = LinearHead(in_features, out_features)
        self.register_buffer("weights", torch.ones(out_features))
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """Return the unit rows, (n, out_features + 2)."""
        a = unit_rows(self.linear(x))  # (n, s)
        w = self.weights
        r = ((1 - w) * a.square()).sum(-1, keepdim=True).sqrt()  # (n, 1)
        none = torch.zeros_like(r)
        return torch.cat([w.sqrt() * a, *((r, none) if self.side == "x" else (none, r))], -1)

    def arguments(self) -> dict[str, Any]:
        """Return what the head was constructed with."""
        return {
            "in_features": self.linear.in_features,
            "out_features": self.linear.out_features,
            "side": self.side,
        }

    def extra_repr(self) -> str:
        """Return the side, for printing."""
        return f"side={self.side!r}"


@torch.no_grad()
def fit_csa(
    x: Tensor,
    y: Tensor,
    *,
    dim: int | None = None,
    ridge: float | tuple[float, float] = 1.0,
    power: float = 1.0,
    standardise: bool = True,
) -> tuple[CsaHead, CsaHead]:
    r"""Fit canonical directions, and weigh them in the similarity by their correlation.

    .. math:: \operatorname{sim}(x, y) = \frac{\sum_i \rho_i^p \, a_i b_i}{\| a \| \, \| b \|}

    with the canonical variates a of x and b of y as :func:`fit_cca` finds them, and
    :math:`\rho` their correlations.

    Parameters
    ----------
    x, y, dim, ridge
        As in :func:`fit_cca`.
    power : float
        The exponent p >= 0: 1 is CSA, 0 the cosine of :func:`fit_cca`.
    standardise
        As in :func:`fit_cca`.

    Returns
    -------
    tuple of (CsaHead, CsaHead)
        For x and for y, whose cosine is the similarity; two coordinates wider than `dim`. Fitted in
        float64, on the device of `x`; float32, or float64 if an input is.

    Raises
    ------
    TypeError, ValueError
        As :func:`fit_cca`.

    See Also
    --------
    fit_cca : With ``power=``, weights in the features: their lengths are weighted too.

    References
    ----------
    Li, Chinchali and Topcu, "CSA: Data-efficient Mapping of Unimodal Features to Multimodal
    Features", ICLR 2025, arXiv 2410.07610.

    Examples
    --------
    Directions that correlate by chance weigh less than the one that is shared:

    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(500, 8, generator=g), torch.randn(500, 8, generator=g)
    >>> y[:, 0] = x[:, 0]
    >>> fit_csa(x, y, dim=3)[0].weights
    tensor([0.5016, 0.1295, 0.0794])
    """
    dtype = check_fit("fit_csa", x, y, ridge)
    check_number("fit_csa", "power", power, least=0.0)
    f = canonical_directions("fit_csa", x, y, dim, ridge, standardise)
    heads = []
    for side, W, of in (("x", f.W_x, f.X), ("y", f.W_y, f.Y)):
        with torch.device("meta"):  # draws no random numbers
            head = CsaHead(*W.shape, side=side)
        head.linear = linear_head(W, of.mean, of.factor, dtype)
        head.weights = f.rho.pow(power).to(dtype)
        heads.append(head)
    return heads[0], heads[1]
