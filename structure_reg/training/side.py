"""One side of an aligned model: from the rows of one encoder to the shared space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from structure_reg._checks import check_width
from structure_reg._gram import unit_rows
from structure_reg._precision import double, needs_float64
from structure_reg.heads.columns import column_scaling
from structure_reg.training._checks import check_not_constant, no_blend, no_matrix
from structure_reg.training.inputs import Features, has_layers, joined
from structure_reg.training.rows import (
    Rows,
    check_finite_rows,
    finite_block,
    finite_layers,
    rows_of,
)
from structure_reg.training.together import together

FIT = "Aligner.fit"


class Side(nn.Module):
    r"""One side of a fitted :class:`Aligner`: scaling, head and unit rows in one module.

    .. math:: z_i = \frac{u_i}{|u_i|}, \qquad u_i = f\bigl( (x_i - \mu) \circ \phi \bigr)

    Its forward pass returns the rows of :meth:`Aligner.transform_x`, so that it can be served
    without this library: through `torch.export`, as ONNX, or as the matrix of a linear head.
    :attr:`Aligner.modules_` returns the pair of a fitted Aligner.

    Parameters
    ----------
    name : {"x", "y"}
        Name of the side in error messages.
    layer
        Name or position of the encoder's layer; a list of them for a blend.
    mean, factor : Tensor of shape (d,)
        Mean :math:`\mu` of the columns over the training pairs, and 1 over their standard deviation
        :math:`\phi`, or 0 for a constant column. Without standardising, 0 and 1. In a blend, the
        columns of each layer are also divided by the mean length of the layer's rows, so that no
        layer outweighs another.
    head : nn.Module, optional
        Head f, from (n, d) to (n, dim). The identity by default.

    See Also
    --------
    Aligner : Fits both sides.

    Examples
    --------
    The exported program takes any number of rows:

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(50, 8, generator=g)
    >>> aligner = Aligner(head="cca").fit(x, x @ torch.randn(8, 6, generator=g))
    >>> side_x, _ = aligner.modules_
    >>> rows = {0: torch.export.Dim("rows")}
    >>> program = torch.export.export(side_x, (x[:2],), dynamic_shapes=(rows,))
    >>> torch.allclose(program.module()(x), aligner.transform_x(x))
    True

    A linear head is one matrix:

    >>> W, b = side_x.matrix()
    >>> z = torch.nn.functional.normalize(x.double() @ W.mT + b)
    >>> torch.allclose(z.float(), aligner.transform_x(x), atol=1e-5)
    True
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
        """Map rows of the layer to rows of unit length, (n, d) -> (n, dim).

        Parameters
        ----------
        x : Tensor of shape (n, d)
            Rows of the layer, or of the layers of a blend side by side, in the order of `layer`.

        Returns
        -------
        Tensor of shape (n, dim)
            Rows of unit length.
        """
        return unit_rows(self.head(self.scaled(x)))

    def scaled(self, x: Tensor) -> Tensor:
        """Scale rows of the layer to what the head expects, (n, d) -> (n, d)."""
        return (x.to(self.mean.dtype) - self.mean) * self.factor

    @torch.no_grad()
    def matrix(self) -> tuple[Tensor, Tensor]:
        r"""Return the matrix and the bias of a linear head, with the scaling folded in.

        .. math:: z_i = \frac{W x_i + b}{|W x_i + b|}

        Returns
        -------
        tuple of (Tensor, Tensor)
            W of shape (dim, d) and b of shape (dim,), in float64. Cast them to float32 only if no
            column has a mean much larger than its standard deviation: in float32, the difference of
            :math:`W x_i` and :math:`-b` would lose digits.

        Raises
        ------
        TypeError
            If the head is not linear: "linear", "ridge", "cca" and "procrustes" are.
        """
        if not isinstance(self.head, nn.Linear):
            raise no_matrix(self.head)
        W = double(self.head.weight) * double(self.factor)  # (dim, d)
        b = -W @ double(self.mean)  # (dim,)
        return W, b if self.head.bias is None else b + double(self.head.bias)


def side_rows(function: str, side: Side, features: Features) -> Rows:
    """Rows of the side's layers out of what the user passed; not read, and not scaled."""
    if isinstance(side.layer, list) and not has_layers(features):
        raise no_blend(function, side.name, side.layer)
    rows = rows_of(function, side.name, features, side.layer, side.mean.device)
    check_width(function, side.name, rows[:0], len(side.mean), "it was fitted on")
    return rows


def scaled_rows(function: str, side: Side, features: Features) -> Tensor | Rows:
    """Rows as the head expects them, held in memory if they fit the budget."""
    rows = side_rows(function, side, features)
    if rows.fit_in_memory():
        return side.scaled(joined(finite_layers(function, side.name, rows)))
    together(lambda: check_finite_rows(function, side.name, rows.own), rows.group)
    return replace(rows, scaled=side.scaled)


def mapped_rows(function: str, side: Side, features: Features) -> Tensor:
    """The side's forward pass of all rows, read in blocks if they do not fit the budget."""
    rows = side_rows(function, side, features)
    if rows.fit_in_memory():
        z: Tensor = side(joined(finite_layers(function, side.name, rows)))
        return z
    z = rows[:0].new_empty(0)
    for block in rows.blocks():
        of_block = side(finite_block(function, side.name, rows, block))
        z = of_block.new_empty(len(rows), of_block.shape[1]) if not len(z) else z
        z[block] = of_block
    return z


def fitted_side(name: str, rows: Rows, layer: Any, standardise: bool) -> tuple[Side, Tensor]:
    """A side that scales the training rows, without a head as yet, and those rows."""
    layers = finite_layers(FIT, name, rows)
    x = joined(layers)
    check_not_constant(FIT, name, x)
    return Side(name, layer, *scaling_of(layers, standardise)), x


@needs_float64
def scaling_of(layers: Sequence[Tensor], standardise: bool) -> tuple[Tensor, Tensor]:
    """Mean and factor of the columns of one layer, or of the layers of a blend."""
    if len(layers) == 1:
        return scaling(layers[0], standardise)
    means, factors = [], []
    for x in layers:
        of_columns = column_scaling(FIT, "features", x, standardise=standardise)
        mean, factor = (z.to(x.dtype) for z in of_columns)
        means.append(mean)
        factors.append(factor / mean_length((x - mean) * factor))
    return torch.cat(means), torch.cat(factors)


def scaling(x: Tensor, standardise: bool) -> tuple[Tensor, Tensor]:
    """Mean of each column and 1 over its standard deviation, or 0 and 1."""
    if not standardise:
        return torch.zeros_like(x[0]), torch.ones_like(x[0])
    mean, factor = column_scaling(FIT, "features", x, standardise=True)
    return mean.to(x.dtype), factor.to(x.dtype)


def mean_length(x: Tensor) -> Tensor:
    """Mean length of the rows; 1 where all are 0."""
    length = torch.linalg.vector_norm(x, dim=1).mean()
    return torch.where(length == 0, 1, length)
