"""ASIF: a sample is represented by its similarities to the training pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_count, check_flag, check_number, check_paired
from structure_reg._gram import unit_rows
from structure_reg._precision import needs_float64, result_dtype
from structure_reg.heads._checks import check_at_most
from structure_reg.heads.columns import Scaling, column_scaling


class AsifHead(nn.Module):
    r"""One side of ASIF: the k largest cosines to the anchors, raised to a power and normalised.

    .. math:: f(x)_i \propto \max(0, \cos(\tilde x, \tilde x_i))^p
              \text{ if the cosine is among the k largest, else } 0

    where :math:`\tilde x_i` is anchor i, and the tilde subtracts the anchors' mean and divides by
    their standard deviation. The anchors of both sides are the same pairs, which makes their
    outputs comparable. Negative cosines count as 0, so that an even power does not make dissimilar
    samples similar.

    Parameters
    ----------
    in_features, out_features : int
        Width of the frozen features, and number of anchors, which is the width of the output.
    k : int
        Number of cosines to keep, at most `out_features`.
    power : float
        Exponent of the cosines, positive.

    Raises
    ------
    TypeError, ValueError
        If a size or `power` is not positive, or `k` exceeds `out_features`.

    See Also
    --------
    fit_asif : Create a pair of these heads.

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
        in_features = check_count("AsifHead", "in_features", in_features)
        out_features = check_count("AsifHead", "out_features", out_features)
        k = check_count("AsifHead", "k", k)
        check_at_most("AsifHead", "k", k, out_features)
        power = check_number("AsifHead", "power", power, above=0.0)
        self.register_buffer("anchors", torch.zeros(out_features, in_features))
        self.register_buffer("mean", torch.zeros(in_features))
        self.register_buffer("factor", torch.ones(in_features))
        self.k = k
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        """Return unit rows of shape (n, out_features) with at most k positive entries each."""
        cosines = unit_rows((x - self.mean) * self.factor) @ self.anchors.mT  # (n, anchors)
        values, kept = cosines.topk(self.k, -1)
        f = torch.zeros_like(cosines).scatter(-1, kept, values.clamp_min(0).pow(self.power))
        return unit_rows(f)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that construct this head."""
        return {
            "in_features": self.anchors.shape[1],
            "out_features": self.anchors.shape[0],
            "k": self.k,
            "power": self.power,
        }

    def extra_repr(self) -> str:
        """Return the arguments, for printing."""
        return ", ".join(f"{name}={value}" for name, value in self.arguments().items())


@needs_float64
@torch.no_grad()
def fit_asif(
    x: Array, y: Array, *, k: int | None = None, power: float = 8.0, standardise: bool = True
) -> tuple[AsifHead, AsifHead]:
    r"""Represent each sample by its cosines to the training pairs of its own side.

    .. math:: \operatorname{sim}(x, y) = \langle f_x(x), f_y(y) \rangle

    where :math:`f_x`, :math:`f_y` are :class:`AsifHead` with the pairs as anchors. Only means and
    standard deviations are fitted. Every further pair adds an anchor, and a column to the output.

    Parameters
    ----------
    x, y : Tensor or array of shape (n, d_x), (n, d_y)
        Paired frozen features, n >= 2.
    k : int, optional
        Number of anchors that represent a sample, at most n. By default min(800, n); 800 is the
        published value.
    power : float
        Exponent of the cosines, positive. Larger values give the nearest anchors more weight.
    standardise : bool
        Whether to scale columns to unit variance. Columns are centred in any case, and constant
        columns are ignored; ASIF as published does neither.

    Returns
    -------
    tuple of (AsifHead, AsifHead)
        Heads for x and for y with n outputs. The score of a pair is the cosine of the two outputs.
        On the device of `x`, in float32, or float64 if an input is.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If shapes, numbers of rows or devices do not match, if an option is out of range, or if a
        feature is not finite.

    See Also
    --------
    fit_procrustes : Another closed form without a penalty to choose.

    References
    ----------
    Norelli et al., "ASIF: Coupled Data Turns Unimodal Models to Multimodal Without Training",
    NeurIPS 2023, arXiv 2210.01738.

    Examples
    --------
    On both sides, an anchor is most similar to itself:

    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(50, 8, generator=g), torch.randn(50, 4, generator=g)
    >>> head_x, head_y = fit_asif(x, y)
    >>> retrieval(head_x(x), head_y(y)).x_to_y.recall[0]
    tensor(1.)
    """
    x, y = as_tensors("fit_asif", x=x, y=y)
    check_paired("fit_asif", x=x, y=y)
    standardise = check_flag("fit_asif", "standardise", standardise)
    dtype = result_dtype(x, y)
    k = min(800, len(x)) if k is None else k
    k = check_count("fit_asif", "k", k)
    check_at_most("fit_asif", "k", k, len(x))
    power = check_number("fit_asif", "power", power, above=0.0)
    of_x = column_scaling("fit_asif", "x", x, standardise=standardise)
    of_y = column_scaling("fit_asif", "y", y, standardise=standardise)
    return (
        asif_head(unit_rows(of_x(x)), of_x, k, power, dtype),
        asif_head(unit_rows(of_y(y)), of_y, k, power, dtype),
    )


def asif_head(
    anchors: Tensor, scaling: Scaling, k: int, power: float, dtype: torch.dtype
) -> AsifHead:
    n, d = anchors.shape
    with torch.device("meta"):
        head = AsifHead(d, n, k=k, power=power)
    head.anchors = anchors.to(dtype)
    head.mean, head.factor = scaling.mean.to(dtype), scaling.factor.to(dtype)
    return head
