"""ASIF: a sample described by the training pairs that it resembles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from structure_reg._checks import check_count, check_number
from structure_reg._gram import unit_rows
from structure_reg.heads._checks import check_at_most, check_fit
from structure_reg.heads.columns import Columns, columns


class AsifHead(nn.Module):
    r"""One side of ASIF: cosines to the anchors, the k largest of them, to a power, as a unit row.

    .. math:: f(x)_i \propto \max(0, \cos(\tilde x, \tilde x_i))^p
              \text{ if it is among the k largest, else } 0

    with :math:`\tilde x` less the mean of the anchors' features and over their standard deviation.
    The pairs are the only thing that both sides share. A negative cosine counts as 0, so that an
    even power does not turn unlike into like.

    Parameters
    ----------
    in_features, out_features : int
        Width of the frozen features, and number of anchors, which is the width of an output.
    k : int
        How many cosines are kept, at most `out_features`.
    power : float
        Positive.

    Raises
    ------
    TypeError, ValueError
        If a size or `power` is not positive, or `k` more than `out_features`.

    See Also
    --------
    fit_asif : Where these heads come from.

    Examples
    --------
    >>> head, _ = fit_asif(torch.eye(4), torch.eye(4), k=2)
    >>> head(torch.eye(4)).shape, (head(torch.eye(4)) > 0).sum(1)
    (torch.Size([4, 4]), tensor([1, 1, 1, 1]))
    """

    anchors: Tensor
    mean: Tensor
    factor: Tensor

    def __init__(self, in_features: int, out_features: int, *, k: int, power: float = 8.0) -> None:
        super().__init__()
        check_count("AsifHead", "in_features", in_features)
        check_count("AsifHead", "out_features", out_features)
        check_count("AsifHead", "k", k)
        check_at_most("AsifHead", "k", k, out_features)
        check_number("AsifHead", "power", power, above=0.0)
        self.register_buffer("anchors", torch.zeros(out_features, in_features))
        self.register_buffer("mean", torch.zeros(in_features))
        self.register_buffer("factor", torch.ones(in_features))
        self.k = k
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        """Return the unit rows, (n, out_features), at most k entries of each above 0."""
        cosines = unit_rows((x - self.mean) * self.factor) @ self.anchors.mT  # (n, anchors)
        values, kept = cosines.topk(self.k, -1)
        f = torch.zeros_like(cosines).scatter(-1, kept, values.clamp_min(0).pow(self.power))
        return unit_rows(f)

    def arguments(self) -> dict[str, Any]:
        """Return what the head was constructed with."""
        return {
            "in_features": self.anchors.shape[1],
            "out_features": self.anchors.shape[0],
            "k": self.k,
            "power": self.power,
        }

    def extra_repr(self) -> str:
        """Return the arguments, for printing."""
        return ", ".join(f"{name}={value}" for name, value in self.arguments().items())


@torch.no_grad()
def fit_asif(
    x: Tensor, y: Tensor, *, k: int | None = None, power: float = 8.0, standardise: bool = True
) -> tuple[AsifHead, AsifHead]:
    r"""Describe a sample of either side by its cosines to the pairs of that side.

    .. math:: \operatorname{sim}(x, y) = \langle f_x(x), f_y(y) \rangle

    with the representations of :class:`AsifHead` and the pairs as anchors. Nothing is fitted but
    the means and deviations, so more pairs are more anchors, and a wider output.

    Parameters
    ----------
    x, y : Tensor of shape (n, d_x), (n, d_y)
        Paired frozen features, n >= 2.
    k : int, optional
        How many anchors a sample is described by, at most n. None: 800 as published, or n if that
        is less.
    power : float
        Positive; higher makes the nearest anchors count for more.
    standardise : bool
        Whether columns get unit variance before the cosines, beside being centred, which ASIF as
        published does not do; a column that is constant is left out either way.

    Returns
    -------
    tuple of (AsifHead, AsifHead)
        For x and for y, each from its width to n; the cosine of their outputs is the score. On the
        device of `x`; float32, or float64 if an input is.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes, rows or devices do not fit, an option is out of range, or a value is not
        finite.

    See Also
    --------
    fit_procrustes : The other form without a penalty to choose.

    References
    ----------
    Norelli et al., "ASIF: Coupled Data Turns Unimodal Models to Multimodal Without Training",
    NeurIPS 2023, arXiv 2210.01738.

    Examples
    --------
    An anchor resembles itself most, on both sides:

    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(50, 8, generator=g), torch.randn(50, 4, generator=g)
    >>> head_x, head_y = fit_asif(x, y)
    >>> retrieval(head_x(x), head_y(y)).x_to_y.recall[0]
    tensor(1.)
    """
    dtype = check_fit("fit_asif", x, y)
    k = min(800, len(x)) if k is None else k
    check_count("fit_asif", "k", k)
    check_at_most("fit_asif", "k", k, len(x))
    check_number("fit_asif", "power", power, above=0.0)
    X = columns("fit_asif", "x", x, standardise=standardise)
    Y = columns("fit_asif", "y", y, standardise=standardise)
    return asif_head(X, k, power, dtype), asif_head(Y, k, power, dtype)


def asif_head(side: Columns, k: int, power: float, dtype: torch.dtype) -> AsifHead:
    n, d = side.Z.shape
    with torch.device("meta"):
        head = AsifHead(d, n, k=k, power=power)
    head.anchors = unit_rows(side.Z).to(dtype)
    head.mean, head.factor = side.mean.to(dtype), side.factor.to(dtype)
    return head
