"""The linear head: trained, or fitted by ridge regression, CCA or Procrustes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from structure_reg._checks import check_count, check_flag


class LinearHead(nn.Linear):
    r"""A linear map with a bias, the most common head on frozen encoders.

    .. math:: f(x) = W x + b

    It is a `torch.nn.Linear`, with the same initialisation, that :func:`save_heads` can store.

    Parameters
    ----------
    in_features, out_features : int
        Width of the frozen features, and width of the shared space.
    bias : bool
        Whether to add the bias b.

    Raises
    ------
    TypeError, ValueError
        If a width is not a positive integer.

    See Also
    --------
    fit_cca, fit_ridge, fit_procrustes : Fit this head in closed form.

    Examples
    --------
    >>> LinearHead(384, 256)(torch.randn(10, 384)).shape
    torch.Size([10, 256])
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        in_features = check_count("LinearHead", "in_features", in_features)
        out_features = check_count("LinearHead", "out_features", out_features)
        bias = check_flag("LinearHead", "bias", bias)
        super().__init__(in_features, out_features, bias=bias)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that construct this head."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias is not None,
        }


def linear_head(W: Tensor, mean: Tensor, factor: Tensor, dtype: torch.dtype) -> LinearHead:
    """Return the head that maps x to ((x - mean) * factor) W."""  # W: (d, s)
    with torch.device("meta"):  # draws no random numbers
        head = LinearHead(*W.shape)
    W = factor[:, None] * W
    head.weight = nn.Parameter(W.mT.to(dtype).contiguous())
    head.bias = nn.Parameter(-(mean @ W).to(dtype))
    return head
