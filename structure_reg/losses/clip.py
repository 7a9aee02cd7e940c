"""CLIP's symmetric softmax loss, with rows that share an id as positives of each other.

:func:`clip_loss` is the formula, :class:`ClipLoss` its module twin.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from structure_reg._checks import (
    check_choice,
    check_ids,
    check_no_group,
    check_number,
    check_paired,
    check_same_width,
    check_scalar,
)
from structure_reg._gram import unit_rows
from structure_reg._precision import full_precision, promote, scalar_like
from structure_reg._reduce import REDUCTIONS, reduce_rows


def clip_loss(
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor = 1 / 0.07,
    *,
    ids: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    group: Any = None,
) -> Tensor:
    r"""Cross-entropy of finding each row's partner among all rows, both ways.

    .. math::
        Z &= s \, \hat X \hat Y^\top \\
        \ell_i &= \tfrac12 \Bigl[ \log \sum_j e^{Z_{ij}} - \sum_j T_{ij} Z_{ij} \Bigr]
                + \tfrac12 \Bigl[ \log \sum_j e^{Z_{ji}} - \sum_j T_{ij} Z_{ji} \Bigr]

    with unit rows :math:`\hat X`, :math:`\hat Y` and targets :math:`T = I`, or 1/k on the k rows
    that share an id.

    Parameters
    ----------
    x, y : Tensor of shape (n, d)
        Paired features, n >= 2; row i of `x` belongs to row i of `y`. Their length does not
        matter: rows are normalised here.
    logit_scale : float or Tensor of one element
        :math:`s = 1/\tau`, exponentiated already as open_clip passes it; a tensor gets a gradient.
    ids : Tensor of shape (n,), optional
        Integers; rows that share one are positives of each other. Several captions of one image
        are false negatives without it.
    label_smoothing : float
        In [0, 1): the share of each target that is spread over all n rows.
    reduction : {"mean", "sum", "none"}
        Over the n pairs.
    group : torch.distributed.ProcessGroup, optional
        None: the batch is this process's rows.

    Returns
    -------
    Tensor of shape (), or (n,) with ``reduction="none"``
        At least 0, in nats; log n when nothing is told apart; lower is better; float32, or float64
        if a feature tensor is.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes or devices of the tensors do not fit, n < 2, or an option is out of range.

    See Also
    --------
    siglip_loss : Each pair judged alone, without a softmax over the batch.

    References
    ----------
    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
    ICML 2021, arXiv 2103.00020.

    Examples
    --------
    Features that tell nothing apart cost log n:

    >>> x = torch.ones(8, 4)
    >>> clip_loss(x, x), torch.tensor(8.0).log()
    (tensor(2.0794), tensor(2.0794))

    Two captions of one image may change places when they share an id:

    >>> x, ids = torch.eye(3), torch.tensor([7, 7, 3])
    >>> swapped = x[[1, 0, 2]]
    >>> clip_loss(x, x), clip_loss(x, swapped)
    (tensor(9.5367e-07), tensor(9.5238))
    >>> clip_loss(x, x, ids=ids), clip_loss(x, swapped, ids=ids)
    (tensor(4.7619), tensor(4.7619))
    """
    check_paired("clip_loss", x=x, y=y)
    check_same_width("clip_loss", x=x, y=y)
    check_scalar("clip_loss", "logit_scale", logit_scale)
    check_ids("clip_loss", ids, x)
    check_clip_options("clip_loss", label_smoothing, reduction)
    check_no_group("clip_loss", group)
    x, y = promote(x, y)
    s = scalar_like(logit_scale, x)
    with full_precision(x.device):
        Z = s * (unit_rows(x) @ unit_rows(y).mT)  # (n, n)
        if ids is None:
            of_partners = Z.diagonal()
            x_to_y = y_to_x = of_partners
        else:
            same = (ids[:, None] == ids[None, :]).to(Z.dtype)  # (n, n)
            T = same / same.sum(1, keepdim=True)
            x_to_y, y_to_x = (T * Z).sum(1), (T * Z.mT).sum(1)
        if label_smoothing:
            x_to_y = torch.lerp(x_to_y, Z.mean(1), label_smoothing)
            y_to_x = torch.lerp(y_to_x, Z.mean(0), label_smoothing)
        rows = (Z.logsumexp(1) - x_to_y + Z.logsumexp(0) - y_to_x) / 2  # (n,)
        return reduce_rows(rows, reduction)


def check_clip_options(function: str, label_smoothing: float, reduction: str) -> None:
    check_number(function, "label_smoothing", label_smoothing, least=0.0, below=1.0)
    check_choice(function, "reduction", reduction, REDUCTIONS)


class ClipLoss(nn.Module):
    """:func:`clip_loss` as a module: the options at construction, features and scale in the call.

    Parameters
    ----------
    label_smoothing, reduction, group
        As in :func:`clip_loss`.

    Raises
    ------
    TypeError, ValueError
        As :func:`clip_loss`, for an option, at construction.

    Examples
    --------
    >>> loss = ClipLoss()
    >>> x = torch.eye(4)
    >>> loss(x, x, 100.0)
    tensor(0.)
    """

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        group: Any = None,
    ) -> None:
        super().__init__()
        check_clip_options("ClipLoss", label_smoothing, reduction)
        check_no_group("ClipLoss", group)
        self.label_smoothing = label_smoothing
        self.reduction = reduction
        self.group = group

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        logit_scale: float | Tensor = 1 / 0.07,
        *,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Return :func:`clip_loss` of the pairs at this scale."""
        return clip_loss(
            x,
            y,
            logit_scale,
            ids=ids,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
            group=self.group,
        )

    def extra_repr(self) -> str:
        """Return the options, for printing."""
        return f"label_smoothing={self.label_smoothing}, reduction={self.reduction!r}"
