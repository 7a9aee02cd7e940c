"""What is fitted rather than trained: closed-form heads, and the map that training starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from structure_reg.heads.asif import fit_asif
from structure_reg.heads.cca import fit_cca
from structure_reg.heads.cca_selection import CcaSelection, chosen_cca
from structure_reg.heads.columns import scaled_moments
from structure_reg.heads.csa import fit_csa
from structure_reg.heads.linear import LinearHead, linear_head
from structure_reg.heads.moments import PairMoments
from structure_reg.heads.procrustes import fit_procrustes, product_of_unit_rows
from structure_reg.heads.ridge import fit_ridge
from structure_reg.heads.spectra import paired_directions
from structure_reg.training.batches import Pairs
from structure_reg.training.rows import Rows

Heads = tuple[nn.Module, nn.Module]
FEWEST_IDS = 8  # that select_cca can divide into folds
SAMPLE = 1500  # pairs that are enough to choose ridges

CLOSED_FORMS: dict[str, Callable[[Any, Any, int, bool], Heads]] = {
    "ridge": lambda x, y, _, standardise: fit_ridge(x, y, standardise=standardise),
    "cca": lambda x, y, dim, standardise: fit_cca(x, y, dim=dim, standardise=standardise),
    "csa": lambda x, y, dim, standardise: fit_csa(x, y, dim=dim, standardise=standardise),
    "procrustes": lambda x, y, dim, standardise: fit_procrustes(
        x, y, dim=dim, standardise=standardise
    ),
    "asif": lambda x, y, _, standardise: fit_asif(x, y, standardise=standardise),
}


def closed_form_heads(pairs: Pairs, head: str, dim: int, standardise: bool) -> Heads:
    """Fit the heads to the rows, or to their moments where the rows are not held in memory."""
    dim = shared_width(dim, pairs.x, pairs.y)
    if pairs.moments is not None and head == "procrustes":
        return procrustes_of_blocks(pairs, pairs.moments, dim, standardise)
    return CLOSED_FORMS[head](*rows_or_moments(pairs), dim, standardise)


def rows_or_moments(pairs: Pairs) -> tuple[Any, Any]:
    """What closed forms are fitted to."""
    return (pairs.x, pairs.y) if pairs.moments is None else (pairs.moments, None)


def procrustes_of_blocks(
    pairs: Pairs, moments: PairMoments, dim: int, standardise: bool
) -> tuple[LinearHead, LinearHead]:
    """:func:`fit_procrustes` brings rows to unit length, which moments do not tell."""
    C = scaled_moments(moments, standardise)
    XY = product_of_unit_rows(pairs.x, pairs.y, C.x, C.y)
    U, _, V = paired_directions(XY, dim)
    return linear_head(U, *C.x, moments.dtype), linear_head(V, *C.y, moments.dtype)


class CanonicalMap(NamedTuple):
    """A cross-validated canonical correlation analysis of the pairs."""

    g_x: LinearHead
    g_y: LinearHead
    logit_scale: float  # at which held-out cosines separate best


def canonical_map(pairs: Pairs, dim: int) -> CanonicalMap:
    """Choose ridges and power on held-out pairs, and fit `dim` directions to all of them."""
    cca = held_out_cca(pairs.x, pairs.y, pairs.ids)
    of_pairs = rows_or_moments(pairs)
    g_x, g_y = fit_cca(*of_pairs, dim=dim, ridge=cca.ridge, power=cca.power, standardise=False)
    return CanonicalMap(g_x, g_y, cca.logit_scale)


def held_out_cca(x: Tensor | Rows, y: Tensor | Rows, ids: Tensor | None) -> CcaSelection:
    """Ridges, power and scale with the smallest loss on held-out pairs, and that loss."""
    if ids is not None and are_classes(ids):
        # Held-out classes would be too few to compare ridges, and their rows come back anyway: each
        # class is in every fold. That its pairs are negatives of one another adds nearly the same
        # to the loss of every ridge.
        ids = None
    generator = torch.Generator().manual_seed(0)
    return chosen_cca(x, y, ids, False, SAMPLE, generator)


def are_classes(ids: Tensor) -> bool:
    """Whether few ids have many pairs each, unlike images with a few captions each."""
    distinct = len(torch.unique(ids))
    return distinct < FEWEST_IDS or distinct**2 < 2 * len(ids)


def shared_width(dim: int, x: Tensor | Rows, y: Tensor | Rows) -> int:
    """`dim`, or as many directions as the pairs and widths have."""
    return min(dim, len(x) - 1, x.shape[1], y.shape[1])
