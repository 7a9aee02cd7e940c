"""STRUCTURE: keep the neighbourhoods of a frozen encoder in the aligned space.

:func:`structure_loss` is the formula, :class:`StructureLoss` the module with the same options.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from structure_reg._checks import (
    check_choice,
    check_count,
    check_features,
    check_group,
    check_number,
    check_paired,
)
from structure_reg._distributed import check_even, gather_rows, least_rows, own_rows
from structure_reg._gram import centered_unit_rows, gram
from structure_reg._kernels.frozen import Frozen, FrozenWalks
from structure_reg._kernels.options import WalkOptions
from structure_reg._kernels.structure import structure_rows
from structure_reg._kernels.transforms import transformed
from structure_reg._precision import full_precision, promote
from structure_reg._reduce import REDUCTIONS, reduce_rows
from structure_reg.losses._checks import check_anchors, check_prepared
from structure_reg.losses.divergence import DIVERGENCES
from structure_reg.losses.frozen import FrozenStructure
from structure_reg.losses.transition import CENTERINGS, log_transition_matrix


def structure_loss(
    frozen: Tensor | FrozenStructure,
    aligned: Tensor,
    *,
    anchors: tuple[Tensor, Tensor] | None = None,
    temperature: float = 0.05,
    levels: int = 1,
    divergence: str = "js",
    centering: str = "after",
    reduction: str = "mean",
    group: Any = None,
) -> Tensor:
    r"""Measure how far the neighbourhoods of `aligned` have moved from those of `frozen`.

    .. math::
        P &= \operatorname{rowsoftmax}(\bar X \bar X^\top / \tau), \qquad
        Q = \operatorname{rowsoftmax}(\bar A \bar A^\top / \tau) \\
        R_i &= \frac1L \sum_{l=1}^{L} \frac1l \, \mathrm{JS}\bigl((P^l)_{i}, (Q^l)_{i}\bigr)

    with :math:`\bar X`, :math:`\bar A` the unit rows of `frozen` and `aligned`, centred over the
    batch, and :math:`P^l` a random walk of l steps. The gradient flows to `aligned` only.

    Parameters
    ----------
    frozen : Tensor of shape (n, d0), or FrozenStructure
        Features of the pretrained encoder, n >= 2; or a :class:`FrozenStructure`, when every step
        sees the same rows. The neighbourhood is the batch, so the value depends on its size: at 32
        rows it is far below the value at 4096.
    aligned : Tensor of shape (n, d)
        The same samples after the head that is trained. Because of the centring, the loss does not
        detect a head that has collapsed to one point: see :func:`structure_diagnostics`.
    anchors : tuple of two Tensors of shape (m, d0) and (m, d), optional
        Frozen and aligned features of further samples. The batch's rows see them as neighbours,
        but they add no rows to the loss, so a small batch gets the neighbourhood, and the scale of
        the loss, of a batch of n + m rows. The gradient also flows to the aligned anchors. With a
        `group`, every process has to pass the same anchors.
    temperature : float
        Temperature :math:`\tau > 0` of both softmaxes. The published 0.05 gives between 1 and 160
        neighbours on real features; :func:`temperature_for_perplexity` finds the value for your
        encoder.
    levels : int
        Length L >= 1 of the longest walk; level l is weighted by 1/l. One level takes O(n) memory;
        more take O(n²), and about 2¼ products of (n, n) matrices per level.
    divergence : {"js", "reverse_js"}
        :func:`js_divergence`, as in the paper, or :func:`reverse_js_divergence`, as in the authors'
        released code.
    centering : {"after", "before", "none"}
        Centre after the rows are scaled to unit length (the paper), before, or not at all. It
        decides what the loss is invariant to, see :func:`cosine_kernel`.
    reduction : {"mean", "sum", "none"}
        Reduction over the n rows.
    group : torch.distributed.ProcessGroup, optional
        Process group whose rows together form the batch. Each process compares its own rows with
        those of all processes. The mean and the sum are over the whole batch, and so is the
        gradient under DistributedDataParallel. None: the batch is this process's rows.

    Returns
    -------
    Tensor of shape (), or (n,) with ``reduction="none"``
        Loss, lower is better. Each row is in :math:`[0, \ln 2 \cdot \frac1L \sum_l \frac1l]` nats
        for "js". float32, or float64 if an input is.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes, rows or devices of the tensors do not fit, n < 2, an option is out of range,
        or an option differs from the one that `frozen` was prepared with.
    NotImplementedError
        In a second backward pass. Derivatives of any order exist inside ``torch.func``.

    See Also
    --------
    FrozenStructure : The frozen side, prepared once.
    temperature_for_perplexity : A temperature for your encoder.
    structure_diagnostics : Quantities to monitor during training.

    References
    ----------
    Gröger et al., "With Limited Data for Multimodal Alignment, Let the STRUCTURE Guide You",
    NeurIPS 2025, arXiv 2506.16895.

    Examples
    --------
    A rotation keeps every neighbourhood and costs nothing; unrelated features do not:

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(64, 16, generator=g, dtype=torch.float64)
    >>> rotation, _ = torch.linalg.qr(torch.randn(16, 16, generator=g, dtype=torch.float64))
    >>> bool(structure_loss(x, x @ rotation) < 1e-12)
    True
    >>> unrelated = torch.randn(64, 16, generator=g, dtype=torch.float64)
    >>> structure_loss(x, unrelated, temperature=0.5)
    tensor(0.0518, dtype=torch.float64)
    """
    name = "structure_loss"
    options = WalkOptions(temperature, levels, divergence)
    check_group(name, group)
    check_structure_options(name, options, centering, reduction)
    check_inputs(name, frozen, aligned, anchors, group)
    own = own_rows(len(aligned), group)
    with full_precision(aligned.device):
        # The batch of all processes, then the anchors.
        aligned = join(gather_rows(aligned, group), anchors and anchors[1])  # (N, d)
        X: Frozen
        if isinstance(frozen, FrozenStructure):
            check_prepared(name, frozen, aligned, options, centering)
            X = frozen.walks
            aligned, _ = promote(aligned, X.y)
        else:
            frozen = join(gather_rows(frozen.detach(), group), anchors and anchors[0].detach())
            frozen, aligned = promote(frozen, aligned)
            X = centered_unit_rows(frozen, centering)  # (N, d0)
        A = centered_unit_rows(aligned, centering)  # (N, d)
        if transformed(A):
            rows = plain_rows(X, A, options)[own]  # (n,)
        else:
            rows = structure_rows(X, A, own, options, uniform=reduction != "none")
        return reduce_rows(rows, reduction, group)


def plain_rows(X: Frozen, A: Tensor, options: WalkOptions) -> Tensor:
    """R_i as the formula is written, differentiable any number of times; (N,)."""
    divergence = DIVERGENCES[options.divergence]
    log_P, log_Q = (log_walks(x, options) for x in (X, A))
    R = [
        divergence(log_P_l, log_Q_l) / l
        for l, (log_P_l, log_Q_l) in enumerate(zip(log_P, log_Q, strict=True), 1)
    ]
    return torch.stack(R).mean(0)


def log_walks(X: Frozen, options: WalkOptions) -> list[Tensor]:
    """log Pˡ for l = 1, …, L, (N, N) each, from centred unit rows or prepared walks."""
    if isinstance(X, FrozenWalks):
        return [P_l.log() for P_l in X.rows(slice(None))]
    log_P = log_transition_matrix(gram(X), temperature=options.temperature)
    P = P_l = log_P.exp()
    walks = [log_P]
    for _ in range(options.levels - 1):
        P_l = P_l @ P
        # The clamp keeps the logarithm finite where a walk is too unlikely for the dtype.
        walks.append(P_l.clamp_min(torch.finfo(P_l.dtype).tiny).log())
    return walks


def join(x: Tensor, anchors: Tensor | None) -> Tensor:
    return x if anchors is None else torch.cat([x, anchors])


def check_inputs(
    function: str,
    frozen: Tensor | FrozenStructure,
    aligned: Tensor,
    anchors: tuple[Tensor, Tensor] | None,
    group: Any,
) -> None:
    rows = least_rows(group) if anchors is None else 0  # anchors are neighbours for a single row
    if isinstance(frozen, FrozenStructure):
        check_features(function, rows=rows, aligned=aligned)
        check_even(function, group, aligned=aligned)
    else:
        check_paired(function, rows=rows, frozen=frozen, aligned=aligned)
        check_even(function, group, frozen=frozen, aligned=aligned)
    check_anchors(function, anchors, frozen=frozen, aligned=aligned)


def check_structure_options(
    function: str, options: WalkOptions, centering: str, reduction: str
) -> None:
    check_number(function, "temperature", options.temperature, above=0.0)
    check_count(function, "levels", options.levels)
    check_choice(function, "divergence", options.divergence, DIVERGENCES)
    check_choice(function, "centering", centering, CENTERINGS)
    check_choice(function, "reduction", reduction, REDUCTIONS)


class StructureLoss(nn.Module):
    """:func:`structure_loss` as a module: options at construction, features in the call.

    Parameters
    ----------
    temperature, levels, divergence, centering, reduction, group
        Options of :func:`structure_loss`.

    Raises
    ------
    TypeError, ValueError
        At construction, if :func:`structure_loss` would raise it for an option.

    Examples
    --------
    >>> loss = StructureLoss(temperature=0.1, levels=2)
    >>> x = torch.eye(4)
    >>> loss(x, x)
    tensor(0.)
    >>> loss
    StructureLoss(temperature=0.1, levels=2, divergence='js', centering='after', reduction='mean')
    """

    def __init__(
        self,
        *,
        temperature: float = 0.05,
        levels: int = 1,
        divergence: str = "js",
        centering: str = "after",
        reduction: str = "mean",
        group: Any = None,
    ) -> None:
        super().__init__()
        options = WalkOptions(temperature, levels, divergence)
        check_structure_options("StructureLoss", options, centering, reduction)
        check_group("StructureLoss", group)
        self.temperature = temperature
        self.levels = levels
        self.divergence = divergence
        self.centering = centering
        self.reduction = reduction
        self.group = group

    def forward(
        self,
        frozen: Tensor | FrozenStructure,
        aligned: Tensor,
        *,
        anchors: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Return :func:`structure_loss`; the gradient flows to `aligned` and its anchors."""
        return structure_loss(
            frozen,
            aligned,
            anchors=anchors,
            temperature=self.temperature,
            levels=self.levels,
            divergence=self.divergence,
            centering=self.centering,
            reduction=self.reduction,
            group=self.group,
        )

    def extra_repr(self) -> str:
        """Return the options, for printing."""
        return (
            f"temperature={self.temperature}, levels={self.levels}, "
            f"divergence={self.divergence!r}, centering={self.centering!r}, "
            f"reduction={self.reduction!r}"
        )
