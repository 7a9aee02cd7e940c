"""SigLIP's sigmoid loss, with rows that share an id as positives of each other.

:func:`siglip_loss` is the formula, :class:`SigLipLoss` its module twin.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from structure_reg._checks import (
    check_choice,
    check_ids,
    check_no_group,
    check_paired,
    check_same_width,
    check_scalar,
)
from structure_reg._gram import unit_rows
from structure_reg._precision import full_precision, promote, scalar_like
from structure_reg._reduce import REDUCTIONS, reduce_rows


def siglip_loss(
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor = 10.0,
    logit_bias: float | Tensor = -10.0,
    *,
    ids: Tensor | None = None,
    reduction: str = "mean",
    group: Any = None,
) -> Tensor:
    r"""Judge every pair of the batch alone: whether its two rows belong together.

    .. math:: \ell_i = \sum_j \log \bigl( 1 + e^{-t_{ij} (s \hat x_i \cdot \hat y_j + b)} \bigr),
              \qquad t_{ij} = \pm 1

    with unit rows; t is +1 where i = j or the rows share an id. The mean divides by n, not n².

    Parameters
    ----------
    x, y : Tensor of shape (n, d)
        Paired features, n >= 2; row i of `x` belongs to row i of `y`. Their length does not
        matter: rows are normalised here.
    logit_scale : float or Tensor of one element
        The slope s, exponentiated already as open_clip passes it; a tensor gets a gradient.
    logit_bias : float or Tensor of one element
        The offset b; starts near -10 because nearly all pairs of a batch are negatives.
    ids : Tensor of shape (n,), optional
        Integers; rows that share one are positives of each other.
    reduction : {"mean", "sum", "none"}
        Over the n rows of `x`, each summed over all rows of `y`.
    group : torch.distributed.ProcessGroup, optional
        None: the batch is this process's rows.

    Returns
    -------
    Tensor of shape (), or (n,) with ``reduction="none"``
        At least 0, in nats; lower is better; float32, or float64 if a feature tensor is.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes or devices of the tensors do not fit, n < 2, or an option is out of range.

    See Also
    --------
    clip_loss : A softmax over the batch instead.

    References
    ----------
    Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, arXiv 2303.15343.

    Examples
    --------
    With scale and bias at zero each of the n² pairs costs ln 2, n of them a row:

    >>> x = torch.eye(8)
    >>> siglip_loss(x, x, 0.0, 0.0), 8 * torch.tensor(2.0).log()
    (tensor(5.5452), tensor(5.5452))
    """
    check_paired("siglip_loss", x=x, y=y)
    check_same_width("siglip_loss", x=x, y=y)
    check_scalar("siglip_loss", "logit_scale", logit_scale)
    check_scalar("siglip_loss", "logit_bias", logit_bias)
    check_ids("siglip_loss", ids, x)
    check_choice("siglip_loss", "reduction", reduction, REDUCTIONS)
    check_no_group("siglip_loss", group)
    x, y = promote(x, y)
    s, b = scalar_like(logit_scale, x), scalar_like(logit_bias, x)
    with full_precision(x.device):
        Z = s * (unit_rows(x) @ unit_rows(y).mT) + b  # (n, n)
        if ids is None:
            ids = torch.arange(len(x), device=x.device)
        same = ids[:, None] == ids[None, :]  # (n, n)
        rows = softplus(torch.where(same, -Z, Z)).sum(1)  # (n,)
        return reduce_rows(rows, reduction)


class SigLipLoss(nn.Module):
    """:func:`siglip_loss` as a module: the options at construction, the rest in the call.

    Parameters
    ----------
    reduction, group
        As in :func:`siglip_loss`.

    Raises
    ------
    TypeError, ValueError
        As :func:`siglip_loss`, for an option, at construction.

    Examples
    --------
    >>> loss = SigLipLoss()
    >>> x = torch.eye(4)
    >>> bool(loss(x, x, 100.0, -50.0) < 1e-12)
    True
    """

    def __init__(self, *, reduction: str = "mean", group: Any = None) -> None:
        super().__init__()
        check_choice("SigLipLoss", "reduction", reduction, REDUCTIONS)
        check_no_group("SigLipLoss", group)
        self.reduction = reduction
        self.group = group

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        logit_scale: float | Tensor = 10.0,
        logit_bias: float | Tensor = -10.0,
        *,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Return :func:`siglip_loss` of the pairs at this scale and bias."""
        return siglip_loss(
            x, y, logit_scale, logit_bias, ids=ids, reduction=self.reduction, group=self.group
        )

    def extra_repr(self) -> str:
        """Return the options, for printing."""
        return f"reduction={self.reduction!r}"
