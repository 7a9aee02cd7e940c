"""CLIP's symmetric softmax loss; rows that share an id are positives of each other.

:func:`clip_loss` is the formula, :class:`ClipLoss` the module with the same options.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from structure_reg._checks import check_choice, check_group, check_number
from structure_reg._distributed import exchange, gather_ids, gather_rows, own_rows, processes
from structure_reg._gram import unit_rows
from structure_reg._kernels.clip_tiles import Statistics, clip_statistics
from structure_reg._kernels.logits import Tiling
from structure_reg._precision import (
    full_precision,
    promote,
    result_dtype,
    saveable,
    scalar_tensor,
)
from structure_reg._reduce import REDUCTIONS, reduce_rows
from structure_reg._tiles import TILE_ROWS, fits, tile_rows
from structure_reg.losses._checks import check_pairs, check_scalar

LOGIT_SCALE = 1 / 0.07
"""Inverse temperature at which CLIP starts."""
MAX_LOGIT_SCALE = 100.0
"""Largest inverse temperature that CLIP's training allows."""

# The plain form is faster while this many (n, n) matrices of float32 fit the tile budget: with the
# default budget, below 724 rows.
PLAIN_MATRICES = 32


def clip_loss(
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor = LOGIT_SCALE,
    *,
    ids: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    group: Any = None,
) -> Tensor:
    r"""Compute the cross-entropy of finding each row's partner among all rows, in both directions.

    .. math::
        Z &= s \, \hat X \hat Y^\top \\
        \ell_i &= \tfrac12 \Bigl[ \log \sum_j e^{Z_{ij}} - \sum_j T_{ij} Z_{ij} \Bigr]
                + \tfrac12 \Bigl[ \log \sum_j e^{Z_{ji}} - \sum_j T_{ij} Z_{ji} \Bigr]

    with unit rows :math:`\hat X`, :math:`\hat Y` and targets :math:`T = I`, or :math:`T_{ij} = 1/k`
    where rows i and j are two of the k rows that share an id.

    Parameters
    ----------
    x, y : Tensor of shape (n, d)
        Paired features, n >= 2; row i of `x` belongs to row i of `y`. The loss scales rows to unit
        length itself.
    logit_scale : float or Tensor of one element
        Inverse temperature :math:`s = 1/\tau` itself, not its logarithm, as in open_clip. A tensor
        receives a gradient.
    ids : Tensor of shape (n,), optional
        Integer ids; rows that share one are positives of each other. Without ids, several captions
        of one image are false negatives.
    label_smoothing : float
        Share of each target that is spread evenly over all n rows, in [0, 1).
    reduction : {"mean", "sum", "none"}
        Reduction over the n pairs.
    group : torch.distributed.ProcessGroup, optional
        Process group whose rows together form the batch, the same number on each process. None: the
        batch is this process's rows.

    Returns
    -------
    Tensor of shape (), or (n,) with ``reduction="none"``
        Loss in nats, at least 0, lower is better; log n if all rows look alike. float32, or float64
        if a feature tensor is.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes or devices of the tensors do not fit, n < 2, or an option is out of range.

    See Also
    --------
    siglip_loss : A loss that judges each pair alone, without a softmax over the batch.

    Notes
    -----
    Above 724 rows, the logits are computed and differentiated in tiles that fit
    :func:`tile_budget`: memory grows with n d, and four products of n² d operations replace six.
    The tiled form can be differentiated once. The plain form, used for smaller batches or under a
    larger budget, can be differentiated any number of times, and by `torch.func`.

    With a group, each process matches its own rows of `x` to all rows of `y` and calls backward on
    its own result: the mean over the rows of all processes or, with "none", the mean of its own
    rows' losses. After `DistributedDataParallel` has averaged them, all gradients, including that
    of `logit_scale`, equal those of a single process with the whole batch. If one process has a
    smaller batch, all processes raise an error; a compiled graph cannot check this and needs
    ``drop_last=True``. If "nccl" is the group's only backend, the check waits for the GPU;
    ``init_process_group()`` sets up "gloo" for the host as well.

    open_clip gathers without gradient unless it runs with ``--gather-with-grad``: its encoders
    receive 1/W of the gradient, its `logit_scale` all of it. To transfer its recipes to W
    processes, call ``x.register_hook(lambda grad: grad / W)``, and the same for `y`, before the
    loss; relative to this one, a second loss on the encoders then weighs W times as much.

    References
    ----------
    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
    ICML 2021, arXiv 2103.00020.

    Examples
    --------
    If all features are equal, the loss is log n:

    >>> x = torch.ones(8, 4)
    >>> clip_loss(x, x), torch.tensor(8.0).log()
    (tensor(2.0794), tensor(2.0794))

    Two captions of one image can be swapped if they share an id:

    >>> x, ids = torch.eye(3), torch.tensor([7, 7, 3])
    >>> swapped = x[[1, 0, 2]]
    >>> clip_loss(x, x), clip_loss(x, swapped)
    (tensor(1.1921e-06), tensor(9.5238))
    >>> clip_loss(x, x, ids=ids), clip_loss(x, swapped, ids=ids)
    (tensor(4.7619), tensor(4.7619))
    """
    check_scalar("clip_loss", "logit_scale", logit_scale)
    check_clip_options("clip_loss", label_smoothing, reduction)
    check_pairs("clip_loss", x, y, ids, group)
    with full_precision(x.device):
        s = scalar_tensor(logit_scale, result_dtype(x, y), x.device)
        if group is None and fits(PLAIN_MATRICES * 4 * len(x) ** 2):
            rows = plain_rows(x, y, s, ids, label_smoothing)
        else:
            rows = tiled_rows(x, y, s, ids, label_smoothing, group)
        return reduce_rows(rows, reduction, group)


def plain_rows(
    x: Tensor, y: Tensor, s: Tensor, ids: Tensor | None, label_smoothing: float
) -> Tensor:
    """ℓ_i as the formula is written, differentiable any number of times; (n,)."""
    x, y = promote(x, y)
    Z = s * (unit_rows(x) @ unit_rows(y).mT)  # (n, n)
    log_p, log_q = Z.log_softmax(1), Z.mT.log_softmax(1)  # from x to y, and from y to x
    if ids is None:
        x_to_y, y_to_x = log_p.diagonal(), log_q.diagonal()
    else:
        same = (ids[:, None] == ids).to(Z.dtype)
        T = same / same.sum(1, keepdim=True)  # (n, n)
        x_to_y, y_to_x = (T * log_p).sum(1), (T * log_q).sum(1)
    if label_smoothing:
        x_to_y = torch.lerp(x_to_y, log_p.mean(1), label_smoothing)
        y_to_x = torch.lerp(y_to_x, log_q.mean(1), label_smoothing)
    return -(x_to_y + y_to_x) / 2


def tiled_rows(
    x: Tensor, y: Tensor, s: Tensor, ids: Tensor | None, label_smoothing: float, group: Any
) -> Tensor:
    """ℓ_i from tiles of Z, this process's x against the y of all processes; (n,)."""
    n = len(x)
    y, ids = gather_rows(y, group), gather_ids(ids, group)  # (N, d), (N,)
    x, y = saveable(x), saveable(y)
    ids = None if ids is None else saveable(ids)
    tiling = list(tiling_of(n, len(y) * s.dtype.itemsize, 2 if ids is None else 4, group))
    out = Statistics(*clip_statistics(x, y, s, ids, float(label_smoothing), tiling))
    return (out.row_loss + column_loss(out, n, group)) / 2


def tiling_of(n: int, row_bytes: int, tiles: int, group: Any) -> Tiling:
    """Tiles of Z, of which `tiles` exist at one time; the rest of the budget keeps rows of Z."""
    height = min(n, TILE_ROWS, tile_rows(tiles * row_bytes))
    spare = max(0, tile_rows(row_bytes) - tiles * height)
    return Tiling(own_rows(n, group).start, height, min(n, spare // height * height))


def column_loss(out: Statistics, n: int, group: Any) -> Tensor:
    """log Σ_j exp Z_ji - Σ_j T_ij Z_ji of this process's n columns i; (n,).

    The rows of a column are spread over the processes. Each sends its sums over them to the process
    that owns the column: 3 n numbers instead of all of x.
    """
    W = processes(group)
    columns = torch.cat([out.column_shift[None], out.columns])  # (3, N)
    own_columns = exchange(columns.reshape(3, W, n).movedim(1, 0), group)  # (W, 3, n)
    shift, log, target = own_columns.unbind(1)  # (W, n)
    top = shift.amax(0)
    return (log + (shift - top)).logsumexp(0) + (top - target.sum(0))


def check_clip_options(function: str, label_smoothing: float, reduction: str) -> None:
    check_number(function, "label_smoothing", label_smoothing, least=0.0, below=1.0)
    check_choice(function, "reduction", reduction, REDUCTIONS)


class ClipLoss(nn.Module):
    """:func:`clip_loss` as a module: options at construction, features and scale in the call.

    Parameters
    ----------
    label_smoothing, reduction, group
        Options of :func:`clip_loss`.

    Raises
    ------
    TypeError, ValueError
        At construction, if :func:`clip_loss` would raise it for an option.

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
        check_group("ClipLoss", group)
        self.label_smoothing = label_smoothing
        self.reduction = reduction
        self.group = group

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        logit_scale: float | Tensor = LOGIT_SCALE,
        *,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Return :func:`clip_loss` of the pairs with this scale."""
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
