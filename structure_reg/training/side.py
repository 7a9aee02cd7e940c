"""One side of an aligned model: from the rows of one encoder to the shared space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from structure_reg._checks import check_width
from structure_reg._gram import unit_rows
from structure_reg.heads.columns import column_scaling
from structure_reg.training.inputs import Features, finite_rows


class Side(nn.Module):
    r"""Scale the columns, apply the head, and normalise the rows.

    .. math:: z_i = \frac{u_i}{|u_i|}, \qquad u_i = f\bigl( (x_i - \mu) \circ \phi \bigr)

    Parameters
    ----------
    name : {"x", "y"}
        Name of the side in error messages.
    layer
        Name or position of the encoder's layer.
    mean, factor : Tensor of shape (d,)
        :math:`\mu` and :math:`\phi`, see :func:`scaling`.
    head : nn.Module, optional
        f; the identity until one is fitted.
    """

    mean: Tensor
    factor: Tensor

    def __init__(
        self, name: str, layer: Any, mean: Tensor, factor: Tensor, head: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.name = name
        self.layer = layer
        self.register_buffer("mean", mean)
        self.register_buffer("factor", factor)
        self.head = head or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map rows of the layer to rows of unit length, (n, d) -> (n, dim)."""
        return unit_rows(self.head(self.scaled(x)))

    def scaled(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.factor  # (n, d)

    def rows(self, function: str, features: Features, device: Any) -> Tensor:
        """Rows of this side's layer out of what the user passed, checked but not scaled."""
        x = finite_rows(function, self.name, features, self.layer, device)
        check_width(function, self.name, x, len(self.mean), "it was fitted on")
        return x.to(self.mean.device)


def scaling(x: Tensor, standardise: bool) -> tuple[Tensor, Tensor]:
    """Mean of each column and 1 over its standard deviation, or 0 and 1."""
    if not standardise:
        return torch.zeros_like(x[0]), torch.ones_like(x[0])
    mean, factor = column_scaling("Aligner.fit", "features", x, standardise=True)
    return mean.to(x.dtype), factor.to(x.dtype)
