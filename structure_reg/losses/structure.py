"""STRUCTURE: keep a frozen encoder's neighbourhoods in the aligned space.

:func:`structure_loss` is the formula, :class:`StructureLoss` its module twin.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from structure_reg._checks import (
    check_choice,
    check_count,
    check_features,
    check_number,
    check_paired,
)
from structure_reg._distributed import check_even, gather_rows, own_rows
from structure_reg._gram import centered_unit_rows
from structure_reg._kernels.structure import structure_rows
from structure_reg._kernels.transforms import transformed
from structure_reg._precision import full_precision, promote
from structure_reg._reduce import REDUCTIONS, reduce_rows
from structure_reg.losses._checks import check_anchors, check_group, check_prepared
from structure_reg.losses.divergence import DIVERGENCES
from structure_reg.losses.frozen import FrozenStructure, log_walks
from structure_reg.losses.transition import CENTERINGS


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
    r"""How far the neighbourhoods of `aligned` have moved from those of `frozen`.

    .. math::
        P &= \operatorname{rowsoftmax}(\bar X \bar X^\top / \tau), \qquad
        Q = \operatorname{rowsoftmax}(\bar A \bar A^\top / \tau) \\
        R_i &= \frac1L \sum_{l=1}^{L} \frac1l \, \mathrm{JS}\bigl((P^l)_{i}, (Q^l)_{i}\bigr)

    with :math:`\bar X`, :math:`\bar A` the unit rows of `frozen` and `aligned`, centred over the
    batch, and :math:`P^l` a walk of l steps. The gradient flows to `aligned` alone.

    Parameters
    ----------
    frozen : Tensor of shape (n, d0), or FrozenStructure
        Features of the pretrained encoder, n >= 2; or what was prepared of them, where the same
        rows come back at every step. The batch is the neighbourhood: the value at 32 rows is far
        below the value at 4096.
    aligned : Tensor of shape (n, d)
        The same samples after the head that is trained. Centring makes the loss blind to a head
        that has collapsed to one point: see :func:`structure_diagnostics`.
    anchors : tuple of two Tensors of shape (m, d0) and (m, d), optional
        Frozen and aligned features of samples beside the batch, paired with nothing. They are
        neighbours of the batch's rows but no rows of their own, so that a small batch has the
        neighbourhood, and the same scale of loss, as one of n + m rows. Gradient flows to the
        aligned ones too. The same on every process of a `group`.
    temperature : float
        :math:`\tau > 0` of both softmaxes. The published 0.05 gives between 1 and 160 neighbours on
        real features; :func:`temperature_for_perplexity` finds the one for your encoder.
    levels : int
        L >= 1: the longest walk, weighted 1/l. One level takes memory O(n), more than one O(n²)
        and about 2¼ products of (n, n) matrices a level.
    divergence : {"js", "reverse_js"}
        :func:`js_divergence` as in the paper, or :func:`reverse_js_divergence` as in its release.
    centering : {"after", "before", "none"}
        Centre after the rows have unit length (the paper), before, or not: what the loss is
        invariant to follows from it, see :func:`cosine_kernel`.
    reduction : {"mean", "sum", "none"}
        Over the n rows.
    group : torch.distributed.ProcessGroup, optional
        The batch is the rows of all its processes, each of which computes its own against all. The
        mean and the sum are those of the whole batch, and under DistributedDataParallel so is the
        gradient. None: the batch is this process's rows.

    Returns
    -------
    Tensor of shape (), or (n,) with ``reduction="none"``
        Each row in :math:`[0, \ln 2 \cdot \frac1L \sum_l \frac1l]` nats for "js"; lower is better;
        float32, or float64 if an input is.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes, rows or devices of the tensors do not fit, n < 2, an option is out of range
        or not the one that `frozen` was prepared with.
    NotImplementedError
        In a second backward pass; inside ``torch.func`` there are derivatives of any order.

    See Also
    --------
    FrozenStructure : The frozen side prepared once.
    temperature_for_perplexity : A temperature for your encoder.
    structure_diagnostics : What to watch beside the value.

    References
    ----------
    Gröger et al., "With Limited Data for Multimodal Alignment, Let the STRUCTURE Guide You",
    NeurIPS 2025, arXiv 2506.16895.

    Examples
    --------
    A rotation keeps every neighbourhood, so it costs nothing; new features cost something:

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
    check_group(name, group)
    check_structure_options(name, temperature, levels, divergence, centering, reduction)
    check_inputs(name, frozen, aligned, anchors, group)
    own = own_rows(len(aligned), group)
    with full_precision(aligned.device):
        # The batch of all processes, then the anchors.
        aligned = join(gather_rows(aligned, group), anchors and anchors[1])  # (N, d)
        if isinstance(frozen, FrozenStructure):
            check_prepared(name, frozen, aligned, temperature, levels, centering)
            P = frozen.walks
            (aligned,) = promote(aligned, P[0])[:1]
        else:
            frozen = join(gather_rows(frozen.detach(), group), anchors and anchors[0].detach())
            frozen, aligned = promote(frozen, aligned)
            P = [centered_unit_rows(frozen, centering)]
        A = centered_unit_rows(aligned, centering)  # (N, d)
        rows = own_structure_rows(P, A, own, temperature, levels, divergence, reduction)  # (n,)
        return reduce_rows(rows, reduction, group)


def own_structure_rows(
    P: list[Tensor],
    A: Tensor,
    own: slice,
    temperature: float,
    levels: int,
    divergence: str,
    reduction: str,
) -> Tensor:
    """Rows of the term, by hand, or as the formula is written where a transform looks on."""
    if transformed(A):
        log_P, log_Q = (log_walks(x, temperature, levels) for x in (P, [A]))
        return plain_rows(log_P, log_Q, divergence)[own]
    uniform = reduction != "none"
    gradient = uniform and A.requires_grad and torch.is_grad_enabled()
    options = temperature, levels, divergence, None, uniform, gradient
    rows: Tensor = structure_rows(P, A, own.start, own.stop - own.start, *options)[0]
    return rows


def plain_rows(log_P: list[Tensor], log_Q: list[Tensor], divergence: str) -> Tensor:
    """R_i from the logarithms of Pˡ and Qˡ, (n, n) each: the measure of what is done by hand."""
    distance = DIVERGENCES[divergence]
    levels = enumerate(zip(log_P, log_Q, strict=True), 1)
    return torch.stack([distance(*of_l) / l for l, of_l in levels]).mean(0)


def join(x: Tensor, anchors: Tensor | None) -> Tensor:
    return x if anchors is None else torch.cat([x, anchors])


def check_inputs(
    function: str,
    frozen: Tensor | FrozenStructure,
    aligned: Tensor,
    anchors: tuple[Tensor, Tensor] | None,
    group: Any,
) -> None:
    # With anchors one row has neighbours, and an empty last batch has to reach check_even, where
    # the other processes wait for it.
    least = 2 if group is None and anchors is None else 0
    if isinstance(frozen, FrozenStructure):
        check_features(function, rows=least, aligned=aligned)
        check_even(function, group, aligned=aligned)
    else:
        check_paired(function, rows=least, frozen=frozen, aligned=aligned)
        check_even(function, group, frozen=frozen, aligned=aligned)
    check_anchors(function, anchors, frozen=frozen, aligned=aligned)


def check_structure_options(
    function: str,
    temperature: float,
    levels: int,
    divergence: str,
    centering: str,
    reduction: str,
) -> None:
    check_number(function, "temperature", temperature, above=0.0)
    check_count(function, "levels", levels)
    check_choice(function, "divergence", divergence, DIVERGENCES)
    check_choice(function, "centering", centering, CENTERINGS)
    check_choice(function, "reduction", reduction, REDUCTIONS)


class StructureLoss(nn.Module):
    """:func:`structure_loss` as a module: the options at construction, the features in the call.

    Parameters
    ----------
    temperature, levels, divergence, centering, reduction, group
        As in :func:`structure_loss`.

    Raises
    ------
    TypeError, ValueError
        As :func:`structure_loss`, for an option, at construction.

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
        check_structure_options(
            "StructureLoss", temperature, levels, divergence, centering, reduction
        )
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
        """Return :func:`structure_loss` of the two, gradient to `aligned` and its anchors."""
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
