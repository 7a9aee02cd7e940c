"""What is fitted rather than trained: closed-form heads, and the map that training starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from structure_reg.heads.asif import fit_asif
from structure_reg.heads.cca import fit_cca
from structure_reg.heads.cca_selection import CcaSelection, select_cca
from structure_reg.heads.csa import fit_csa
from structure_reg.heads.linear import LinearHead
from structure_reg.heads.procrustes import fit_procrustes
from structure_reg.heads.ridge import fit_ridge

Heads = tuple[nn.Module, nn.Module]
FEWEST_IDS = 8  # that select_cca can divide into folds
SAMPLE = 1500  # pairs that are enough to choose ridges

CLOSED_FORMS: dict[str, Callable[[Tensor, Tensor, int, bool], Heads]] = {
    "ridge": lambda x, y, _, standardise: fit_ridge(x, y, standardise=standardise),
    "cca": lambda x, y, dim, standardise: fit_cca(x, y, dim=dim, standardise=standardise),
    "csa": lambda x, y, dim, standardise: fit_csa(x, y, dim=dim, standardise=standardise),
    "procrustes": lambda x, y, dim, standardise: fit_procrustes(
        x, y, dim=dim, standardise=standardise
    ),
    "asif": lambda x, y, _, standardise: fit_asif(x, y, standardise=standardise),
}


class CanonicalMap(NamedTuple):
    """A cross-validated canonical correlation analysis of the pairs."""

    g_x: LinearHead
    g_y: LinearHead
    logit_scale: float  # at which held-out cosines separate best


def canonical_map(x: Tensor, y: Tensor, ids: Tensor | None, dim: int) -> CanonicalMap:
    """Choose ridges and power on held-out pairs, and fit `dim` directions to all of them."""
    cca = held_out_cca(x, y, ids)
    g_x, g_y = fit_cca(x, y, dim=dim, ridge=cca.ridge, power=cca.power, standardise=False)
    return CanonicalMap(g_x, g_y, cca.logit_scale)


def held_out_cca(x: Tensor, y: Tensor, ids: Tensor | None) -> CcaSelection:
    """Ridges, power and scale with the smallest loss on held-out pairs, and that loss."""
    if ids is not None and are_classes(ids):
        # Held-out classes would be too few to compare ridges, and their rows come back anyway: each
        # class is in every fold. That its pairs are negatives of one another adds nearly the same
        # to the loss of every ridge.
        ids = None
    return select_cca(x, y, ids=ids, standardise=False, max_samples=SAMPLE)


def are_classes(ids: Tensor) -> bool:
    """Whether few ids have many pairs each, unlike images with a few captions each."""
    distinct = len(torch.unique(ids))
    return distinct < FEWEST_IDS or distinct**2 < 2 * len(ids)


def shared_width(dim: int, x: Tensor, y: Tensor) -> int:
    """`dim`, or as many directions as the pairs and widths have."""
    return min(dim, len(x) - 1, x.shape[1], y.shape[1])
