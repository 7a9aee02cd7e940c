"""The residual head: a linear map plus a gated low-rank correction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from structure_reg._checks import check_count, check_number


class ResidualHead(nn.Module):
    r"""A linear map plus a gated low-rank correction.

    .. math:: f(x) = P x + \sigma(a) \, W_2 \operatorname{Dropout}(\operatorname{GELU}(W_1 x))

    P and :math:`W_1` are initialised as orthogonal matrices, :math:`W_2` and a as zero. The head
    therefore starts as P alone, with its gate half open, where the sigmoid is steepest.
    :math:`W_2` receives a gradient from the first step, and the gate from the second. The authors'
    release starts the gate at :math:`a = -\infty`, where neither ever receives a gradient, so that
    its head stays linear.

    Parameters
    ----------
    in_features, out_features : int
        Width of the frozen features, and width of the shared space.
    rank : int
        Number of rows of :math:`W_1`.
    dropout : float
        Probability in [0, 1) of dropping one of the `rank` hidden features in training.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer, or `dropout` is out of range.

    References
    ----------
    Gröger et al., "With Limited Data for Multimodal Alignment, Let the STRUCTURE Guide You",
    NeurIPS 2025, arXiv 2506.16895.

    Examples
    --------
    The head starts as an orthogonal projection:

    >>> x = torch.randn(10, 32)
    >>> z = ResidualHead(32, 32)(x)
    >>> torch.allclose(z @ z.T, x @ x.T, atol=1e-4)
    True
    """

    def __init__(
        self, in_features: int, out_features: int, *, rank: int = 64, dropout: float = 0.0
    ) -> None:
        super().__init__()
        in_features = check_count("ResidualHead", "in_features", in_features)
        out_features = check_count("ResidualHead", "out_features", out_features)
        rank = check_count("ResidualHead", "rank", rank)
        dropout = check_number("ResidualHead", "dropout", dropout, least=0.0, below=1.0)
        self.P = nn.Linear(in_features, out_features, bias=False)
        self.W1 = nn.Linear(in_features, rank, bias=False)
        self.W2 = nn.Linear(rank, out_features, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.a = nn.Parameter(torch.zeros(1))
        nn.init.orthogonal_(self.P.weight)
        nn.init.orthogonal_(self.W1.weight)
        nn.init.zeros_(self.W2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return f(x)."""
        correction: Tensor = self.W2(self.dropout(gelu(self.W1(x))))
        projection: Tensor = self.P(x)
        return projection + self.a.sigmoid() * correction

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that construct this head."""
        return {
            "in_features": self.P.in_features,
            "out_features": self.P.out_features,
            "rank": self.W1.out_features,
            "dropout": self.dropout.p,
        }
