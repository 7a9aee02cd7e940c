"""SigLIP's sigmoid loss; rows that share an id are positives of each other.

:func:`siglip_loss` is the formula, :class:`SigLipLoss` the module with the same options.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from structure_reg._checks import check_choice, check_group
from structure_reg._distributed import (
    gather_ids,
    gather_rows,
    mean_over_processes,
    own_rows,
    processes,
)
from structure_reg._gram import unit_rows
from structure_reg._kernels.logits import Tiling
from structure_reg._kernels.siglip_tiles import siglip_rows, siglip_sum
from structure_reg._precision import full_precision, promote, result_dtype, scalar_tensor
from structure_reg._reduce import REDUCTIONS, reduce_rows
from structure_reg._tiles import TILE_ROWS, fits, tile_rows
from structure_reg.losses._checks import check_pairs, check_scalar

LOGIT_SCALE = 10.0
"""Slope at which SigLIP starts."""
LOGIT_BIAS = -10.0
"""Offset at which SigLIP starts: nearly all pairs of a batch are negatives."""

# The plain form is faster while this many (n, n) matrices of float32 fit the tile budget: with the
# default budget, below 362 rows.
PLAIN_MATRICES = 128


def siglip_loss(
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor = LOGIT_SCALE,
    logit_bias: float | Tensor = LOGIT_BIAS,
    *,
    ids: Tensor | None = None,
    reduction: str = "mean",
    group: Any = None,
) -> Tensor:
    r"""Classify every pair of the batch on its own, as belonging together or not.

    .. math:: \ell_i = \sum_j \log \bigl( 1 + e^{-t_{ij} (s \hat x_i \cdot \hat y_j + b)} \bigr),
              \qquad t_{ij} = \pm 1

    with unit rows; t is +1 where i = j or the rows share an id, and -1 elsewhere. The mean divides
    by n, not by n².

    Parameters
    ----------
    x, y : Tensor of shape (n, d)
        Paired features, n >= 2; row i of `x` belongs to row i of `y`. The loss scales rows to unit
        length itself.
    logit_scale : float or Tensor of one element
        Slope s itself, not its logarithm, as in open_clip. A tensor receives a gradient.
    logit_bias : float or Tensor of one element
        Offset b. It starts at -10 because nearly all pairs of a batch are negatives.
    ids : Tensor of shape (n,), optional
        Integer ids; rows that share one are positives of each other.
    reduction : {"mean", "sum", "none"}
        Reduction over the n rows of `x`, each of which is a sum over all rows of `y`.
    group : torch.distributed.ProcessGroup, optional
        Process group whose rows together form the batch, the same number on each process. None: the
        batch is this process's rows.

    Returns
    -------
    Tensor of shape (), or (n,) with ``reduction="none"``
        Loss in nats, at least 0, lower is better; float32, or float64 if a feature tensor is.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes or devices of the tensors do not fit, n < 2, or an option is out of range.

    See Also
    --------
    clip_loss : The loss with a softmax over the batch.

    Notes
    -----
    Above 362 rows, the logits are computed in tiles that fit :func:`tile_budget`, and with "mean"
    and "sum" the gradient is computed along with the value: memory grows with n d. The tiled form
    can be differentiated once. The plain form, used for smaller batches or under a larger budget,
    can be differentiated any number of times, and by `torch.func`. With a group, the conventions
    are those of :func:`clip_loss`.

    References
    ----------
    Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, arXiv 2303.15343.

    Examples
    --------
    With scale and bias at zero, each of the n pairs in a row costs ln 2:

    >>> x = torch.eye(8)
    >>> siglip_loss(x, x, 0.0, 0.0), 8 * torch.tensor(2.0).log()
    (tensor(5.5452), tensor(5.5452))
    """
    check_scalar("siglip_loss", "logit_scale", logit_scale)
    check_scalar("siglip_loss", "logit_bias", logit_bias)
    check_choice("siglip_loss", "reduction", reduction, REDUCTIONS)
    check_pairs("siglip_loss", x, y, ids, group)
    with full_precision(x.device):
        dtype = result_dtype(x, y)
        s, b = (scalar_tensor(value, dtype, x.device) for value in (logit_scale, logit_bias))
        if group is None and fits(PLAIN_MATRICES * 4 * len(x) ** 2):
            return reduce_rows(plain_rows(x, y, s, b, ids), reduction)
        return tiled_loss(x, y, torch.stack([s, b]), ids, reduction, group)


def plain_rows(x: Tensor, y: Tensor, s: Tensor, b: Tensor, ids: Tensor | None) -> Tensor:
    """ℓ_i as the formula is written, differentiable any number of times; (n,)."""
    x, y = promote(x, y)
    Z = s * (unit_rows(x) @ unit_rows(y).mT) + b  # (n, n)
    if ids is None:
        ids = torch.arange(len(x), device=x.device)
    same = ids[:, None] == ids  # (n, n)
    # Above its threshold softplus is the identity; the default of 20 is visible in float64.
    return softplus(torch.where(same, -Z, Z), threshold=40).sum(1)


def tiled_loss(
    x: Tensor, y: Tensor, scale_and_bias: Tensor, ids: Tensor | None, reduction: str, group: Any
) -> Tensor:
    """The reduced loss from tiles of Z, this process's x against the y of all processes."""
    n = len(x)
    y, ids = gather_rows(y, group), gather_ids(ids, group)  # (N, d), (N,)
    tiles = 2 if ids is None else 3
    height = min(TILE_ROWS, tile_rows(tiles * len(y) * scale_and_bias.dtype.itemsize))
    tiling = list(Tiling(own_rows(n, group).start, height))
    inputs = x, y, scale_and_bias
    needs_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    if reduction == "none" or not needs_gradient:
        return reduce_rows(siglip_rows(*inputs, ids, tiling), reduction, group)
    u = scale_and_bias.new_full((n,), 1 / n if reduction == "mean" else processes(group))
    total, *_ = siglip_sum(u, *inputs, ids, tiling, [x.requires_grad, y.requires_grad])
    return mean_over_processes(total, group)


class SigLipLoss(nn.Module):
    """:func:`siglip_loss` as a module: options at construction, everything else in the call.

    Parameters
    ----------
    reduction, group
        Options of :func:`siglip_loss`.

    Raises
    ------
    TypeError, ValueError
        At construction, if :func:`siglip_loss` would raise it for an option.

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
        logit_scale: float | Tensor = LOGIT_SCALE,
        logit_bias: float | Tensor = LOGIT_BIAS,
        *,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Return :func:`siglip_loss` of the pairs with this scale and bias."""
        return siglip_loss(
            x, y, logit_scale, logit_bias, ids=ids, reduction=self.reduction, group=self.group
        )

    def extra_repr(self) -> str:
        """Return the options, for printing."""
        return f"reduction={self.reduction!r}"
