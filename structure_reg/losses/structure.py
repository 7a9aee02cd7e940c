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
    check_no_group,
    check_number,
    check_paired,
)
from structure_reg._gram import centered_unit_rows, gram
from structure_reg._kernels.structure import structure_rows
from structure_reg._kernels.transforms import transformed
from structure_reg._precision import full_precision, promote
from structure_reg._reduce import REDUCTIONS, reduce_rows
from structure_reg.losses.divergence import DIVERGENCES
from structure_reg.losses.transition import CENTERINGS, log_transition_matrix


def structure_loss(
    frozen: Tensor,
    aligned: Tensor,
    *,
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
    frozen : Tensor of shape (n, d0)
        Features of the pretrained encoder, n >= 2. The batch is the neighbourhood: the value at 32
        rows is far below the value at 4096.
    aligned : Tensor of shape (n, d)
        The same samples after the head that is trained. Centring makes the loss blind to a head
        that has collapsed to one point: see :func:`structure_diagnostics`.
    temperature : float
        :math:`\tau > 0` of both softmaxes. The published 0.05 gives between 1 and 160 neighbours on
        real features; :func:`temperature_for_perplexity` finds the one for your encoder.
    levels : int
        L >= 1: the longest walk, weighted 1/l. Costs two products of (n, n) matrices a level.
    divergence : {"js", "reverse_js"}
        :func:`js_divergence` as in the paper, or :func:`reverse_js_divergence` as in its release.
    centering : {"after", "before", "none"}
        Centre after the rows have unit length (the paper), before, or not: what the loss is
        invariant to follows from it, see :func:`cosine_kernel`.
    reduction : {"mean", "sum", "none"}
        Over the n rows.
    group : torch.distributed.ProcessGroup, optional
        None: the batch is this process's rows.

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
        If the shapes, rows or devices of the tensors do not fit, n < 2, or an option is out of
        range.

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
    check_paired("structure_loss", frozen=frozen, aligned=aligned)
    check_structure_options("structure_loss", temperature, levels, divergence, centering, reduction)
    check_no_group("structure_loss", group)
    frozen, aligned = promote(frozen.detach(), aligned)
    with full_precision(aligned.device):
        X, A = centered_unit_rows(frozen, centering), centered_unit_rows(aligned, centering)
        if transformed(aligned):
            R = plain_rows(X, A, temperature, levels, divergence)
        else:
            uniform = reduction != "none"
            gradient = uniform and A.requires_grad and torch.is_grad_enabled()
            R, _ = structure_rows(X, A, temperature, levels, divergence, None, uniform, gradient)
        return reduce_rows(R, reduction)


def plain_rows(X: Tensor, A: Tensor, temperature: float, levels: int, divergence: str) -> Tensor:
    """The formula as it is written, for torch.func and as the measure of the kernels."""
    distance = DIVERGENCES[divergence]
    log_P = log_transition_matrix(gram(X), temperature=temperature)  # (n, n)
    log_Q = log_transition_matrix(gram(A), temperature=temperature)  # (n, n)
    R = distance(log_P, log_Q)  # (n,)
    if levels > 1:
        P, Q = log_P.exp(), log_Q.exp()
        P_l, Q_l = P, Q
        for l in range(2, levels + 1):
            P_l, Q_l = P_l @ P, Q_l @ Q
            R = R + distance(log_probabilities(P_l), log_probabilities(Q_l)) / l
    return R / levels


def log_probabilities(P: Tensor) -> Tensor:
    """The logarithm, finite where a walk is too unlikely for the dtype."""
    return P.clamp_min(torch.finfo(P.dtype).tiny).log()


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
        check_no_group("StructureLoss", group)
        self.temperature = temperature
        self.levels = levels
        self.divergence = divergence
        self.centering = centering
        self.reduction = reduction
        self.group = group

    def forward(self, frozen: Tensor, aligned: Tensor) -> Tensor:
        """Return :func:`structure_loss` of the two, gradient to `aligned`."""
        return structure_loss(
            frozen,
            aligned,
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
