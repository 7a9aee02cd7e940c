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
    check_number,
    check_paired,
    check_same_width,
)
from structure_reg._distributed import (
    check_even,
    exchange,
    gather_ids,
    gather_rows,
    own_rows,
    processes,
)
from structure_reg._gram import unit_rows
from structure_reg._kernels.clip_tiles import Statistics, clip_statistics
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

# In matrices of n² float32: with the default budget, below 724 rows the plain form is the faster.
PLAIN = 32
# Taller tiles are no faster, and leave the cache of a CPU.
TILE_ROWS = 512


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
        None: the batch is this process's rows. Otherwise it is the rows of all processes in the
        group, the same number on each.

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

    Notes
    -----
    Above 724 rows the matrix of logits is made and differentiated in tiles that fit
    :func:`tile_budget`: memory grows with n d, and four products of n² d suffice instead of six.
    That form is differentiated once; the plain form of small batches, or of a larger budget, any
    number of times, and by `torch.func`.

    With a group, each process matches its own rows of `x` to all rows of `y`, and calls backward
    on the value it gets: the mean over the rows of all processes, or with "none" the losses of its
    own rows, of which it takes the mean. After the mean of `DistributedDataParallel` every
    gradient, that of `logit_scale` included, is the one of a single process with the whole batch.
    A batch that is smaller on one process raises on all; only a compiled graph, which cannot look,
    needs ``drop_last=True``. Where "nccl" is the group's only backend, looking costs a wait for the
    GPU; ``init_process_group()`` brings "gloo" for the host along.

    open_clip gathers without gradient unless told ``--gather-with-grad``: its encoders get one
    W-th of the gradient, its `logit_scale` all of it. Its recipes carry over to W processes with
    ``x.register_hook(lambda grad: grad / W)``, and the same for `y`, before the call; a second loss
    on the encoders is then W times as strong beside this one.

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
    (tensor(1.1921e-06), tensor(9.5238))
    >>> clip_loss(x, x, ids=ids), clip_loss(x, swapped, ids=ids)
    (tensor(4.7619), tensor(4.7619))
    """
    check_group("clip_loss", group)
    # An empty last batch has to reach check_even, where the other processes wait for it.
    check_paired("clip_loss", rows=2 if group is None else 0, x=x, y=y)
    check_same_width("clip_loss", x=x, y=y)
    check_scalar("clip_loss", "logit_scale", logit_scale)
    check_ids("clip_loss", ids, x)
    check_clip_options("clip_loss", label_smoothing, reduction)
    check_even("clip_loss", group, x=x, y=y, ids=ids)
    with full_precision(x.device):
        if group is None and fits(PLAIN * 4 * len(x) ** 2):
            rows = plain_rows(x, y, logit_scale, ids, label_smoothing)
        else:
            rows = tiled_rows(x, y, logit_scale, ids, label_smoothing, group)
        return reduce_rows(rows, reduction, group)


def plain_rows(
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor,
    ids: Tensor | None,
    label_smoothing: float,
) -> Tensor:
    """The formula as it stands, differentiable any number of times; (n,)."""
    x, y = promote(x, y)
    Z = scalar_like(logit_scale, x) * (unit_rows(x) @ unit_rows(y).mT)  # (n, n)
    log_p, log_q = Z.log_softmax(1), Z.mT.log_softmax(1)  # of x to y, and of y to x
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
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor,
    ids: Tensor | None,
    label_smoothing: float,
    group: Any,
) -> Tensor:
    """The same rows from tiles of Z: this process's x against the y of all, one matrix for both.

    A column's softmax is spread over processes, each holding the part of its own rows: the parts
    of a process's own columns are sent to it, 3 n numbers in place of all of x.
    """
    n, W = len(x), processes(group)
    y, ids = gather_rows(y, group), gather_ids(ids, group)  # (N, d), (N,)
    dtype = result_dtype(x, y)
    s = scalar_tensor(logit_scale, dtype, x.device)
    row = len(y) * dtype.itemsize  # bytes of a row of Z
    tiles = 2 if ids is None else 4
    rows = min(n, TILE_ROWS, tile_rows(tiles * row))
    keep = min(n, max(0, tile_rows(row) - tiles * rows) // rows * rows)
    first = own_rows(n, group).start
    out = Statistics(*clip_statistics(x, y, s, ids, first, float(label_smoothing), rows, keep))
    columns = torch.stack([out.column_shift, out.column_log, out.column_target])  # (3, N)
    of_own = exchange(columns.reshape(3, W, n).movedim(1, 0), group)  # (W, 3, n)
    shift, log, target = of_own.unbind(1)  # (W, n)
    top = shift.amax(0)
    column_loss = (log + (shift - top)).logsumexp(0) + (top - target.sum(0))  # (n,)
    return (out.row_loss + column_loss) / 2


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
        check_group("ClipLoss", group)
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
