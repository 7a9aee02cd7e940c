"""The gated head of SAIL."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import relu6

from structure_reg._checks import check_count


class GatedHead(nn.Module):
    r"""A layer norm, a gated linear unit with a ReLU6 gate, and a linear projection.

    .. math:: f(x) = W_3 \bigl( \operatorname{ReLU6}(W_1 h + b_1) \odot (W_2 h + b_2) \bigr) + b_3,
              \qquad h = \operatorname{LayerNorm}(x)

    Parameters
    ----------
    in_features, out_features : int
        Width of the frozen features, and width of the shared space.
    expansion : int
        Number of rows of :math:`W_1` and of :math:`W_2`, in multiples of `in_features`.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer.

    References
    ----------
    Zhang et al., "Assessing and Learning Alignment of Unimodal Vision and Language Models" (SAIL),
    CVPR 2025, arXiv 2412.04616.

    Examples
    --------
    The layer norm makes the head invariant to the scale of the features:

    >>> head, x = GatedHead(16, 8), torch.randn(10, 16)
    >>> torch.allclose(head(x), head(5 * x), atol=1e-4)
    True
    """

    def __init__(self, in_features: int, out_features: int, *, expansion: int = 8) -> None:
        super().__init__()
        in_features = check_count("GatedHead", "in_features", in_features)
        out_features = check_count("GatedHead", "out_features", out_features)
        expansion = check_count("GatedHead", "expansion", expansion)
        self.norm = nn.LayerNorm(in_features)
        self.W1 = nn.Linear(in_features, expansion * in_features)
        self.W2 = nn.Linear(in_features, expansion * in_features)
        self.W3 = nn.Linear(expansion * in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Return f(x)."""
        h = self.norm(x)
        z: Tensor = self.W3(relu6(self.W1(h)) * self.W2(h))
        return z

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that construct this head."""
        return {
            "in_features": self.W1.in_features,
            "out_features": self.W3.out_features,
            "expansion": self.W1.out_features // self.W1.in_features,
        }
