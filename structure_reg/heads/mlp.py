"""The two-layer head: a multilayer perceptron with one hidden layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from structure_reg._checks import check_count, check_number


class MlpHead(nn.Module):
    r"""Two linear maps with a ReLU between them.

    .. math:: f(x) = W_2 \operatorname{Dropout}(\operatorname{ReLU}(W_1 x + b_1)) + b_2

    Parameters
    ----------
    in_features, out_features : int
        Width of the frozen features, and width of the shared space.
    hidden_features : int, optional
        Number of rows of :math:`W_1`; `in_features` by default.
    dropout : float
        Probability in [0, 1) of dropping a hidden feature in training.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer, or `dropout` is out of range.

    Examples
    --------
    >>> MlpHead(384, 256, hidden_features=512)(torch.randn(10, 384)).shape
    torch.Size([10, 256])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden_features: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = in_features if hidden_features is None else hidden_features
        in_features = check_count("MlpHead", "in_features", in_features)
        out_features = check_count("MlpHead", "out_features", out_features)
        hidden = check_count("MlpHead", "hidden_features", hidden)
        dropout = check_number("MlpHead", "dropout", dropout, least=0.0, below=1.0)
        self.W1 = nn.Linear(in_features, hidden)
        self.W2 = nn.Linear(hidden, out_features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return f(x)."""
        z: Tensor = self.W2(self.dropout(self.W1(x).relu()))
        return z

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that construct this head."""
        return {
            "in_features": self.W1.in_features,
            "out_features": self.W2.out_features,
            "hidden_features": self.W1.out_features,
            "dropout": self.dropout.p,
        }
