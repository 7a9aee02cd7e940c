"""SigLIP's sigmoid loss, with rows that share an id as positives of each other.

:func:`siglip_loss` is the formula, :class:`SigLipLoss` its module twin.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from structure_reg._checks import check_choice, check_ids, check_paired, check_same_width
from structure_reg._distributed import (
    check_even,
    gather_ids,
    gather_rows,
    mean_over_processes,
    own_rows,
    processes,
)
from structure_reg._gram import unit_rows
from structure_reg._kernels.siglip_tiles import siglip_rows, siglip_sum
from structure_reg._precision import (
    full_precision,
    promote,
    result_dtype,
    scalar_like,
    scalar_tensor,
)
from structure_reg._reduce import REDUCTIONS, reduce_rows
from structure_reg._tiles import fits, tile_rows
from structure_reg.losses._checks import check_group, check_scalar

# In matrices of n² float32: with the default budget, below 362 rows the plain form is the faster.
PLAIN = 128
# Taller tiles are no faster, and leave the cache of a CPU.
TILE_ROWS = 512


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
        None: the batch is this process's rows. Otherwise it is the rows of all processes in the
        group, the same number on each.

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

    Notes
    -----
    Above 362 rows the logits are made in tiles that fit :func:`tile_budget`, and "mean" and "sum"
    make the gradient along with the value: memory grows with n d. That form is differentiated
    once; the plain form of small batches, or of a larger budget, any number of times, and by
    `torch.func`. With a group the conventions are those of :func:`clip_loss`.

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
    check_group("siglip_loss", group)
    # An empty last batch has to reach check_even, where the other processes wait for it.
    check_paired("siglip_loss", rows=2 if group is None else 0, x=x, y=y)
    check_same_width("siglip_loss", x=x, y=y)
    check_scalar("siglip_loss", "logit_scale", logit_scale)
    check_scalar("siglip_loss", "logit_bias", logit_bias)
    check_ids("siglip_loss", ids, x)
    check_choice("siglip_loss", "reduction", reduction, REDUCTIONS)
    check_even("siglip_loss", group, x=x, y=y, ids=ids)
    with full_precision(x.device):
        if group is None and fits(PLAIN * 4 * len(x) ** 2):
            rows = plain_rows(x, y, logit_scale, logit_bias, ids)
            return reduce_rows(rows, reduction)
        return tiled_loss(x, y, logit_scale, logit_bias, ids, reduction, group)


def plain_rows(
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    ids: Tensor | None,
) -> Tensor:
    """The formula as it stands, differentiable any number of times; (n,)."""
    x, y = promote(x, y)
    s, b = scalar_like(logit_scale, x), scalar_like(logit_bias, x)
    Z = s * (unit_rows(x) @ unit_rows(y).mT) + b  # (n, n)
    if ids is None:
        ids = torch.arange(len(x), device=x.device)
    same = ids[:, None] == ids  # (n, n)
    # Beyond the threshold softplus is the identity: at its default, 20, that shows in float64.
    return softplus(torch.where(same, -Z, Z), threshold=40).sum(1)


def tiled_loss(
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    ids: Tensor | None,
    reduction: str,
    group: Any,
) -> Tensor:
    """The same from tiles: this process's x against the y of all."""
    n = len(x)
    y, ids = gather_rows(y, group), gather_ids(ids, group)  # (N, d), (N,)
    dtype = result_dtype(x, y)
    s, b = (scalar_tensor(value, dtype, x.device) for value in (logit_scale, logit_bias))
    tiles = 2 if ids is None else 3
    rows = min(TILE_ROWS, tile_rows(tiles * len(y) * dtype.itemsize))
    first = own_rows(n, group).start
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (x, y, s, b))
    if reduction == "none" or not wanted:
        return reduce_rows(siglip_rows(x, y, s, b, ids, first, rows), reduction, group)
    u = s.new_full((n,), 1 / n if reduction == "mean" else processes(group))
    needs = [x.requires_grad, y.requires_grad]
    total, *_ = siglip_sum(u, x, y, s, b, ids, first, rows, needs)
    return mean_over_processes(total, group)


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
        check_group("SigLipLoss", group)
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
