"""What is fitted rather than trained: closed-form heads, and the map that training starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from structure_reg.heads.asif import fit_asif
from structure_reg.heads.cca import fit_cca
from structure_reg.heads.cca_selection import select_cca
from structure_reg.heads.csa import fit_csa
from structure_reg.heads.linear import LinearHead
from structure_reg.heads.procrustes import fit_procrustes
from structure_reg.heads.ridge import fit_ridge

Heads = tuple[nn.Module, nn.Module]

CLOSED_FORMS: dict[str, Callable[[Tensor, Tensor, int], Heads]] = {
    "ridge": lambda x, y, _: fit_ridge(x, y),
    "cca": lambda x, y, dim: fit_cca(x, y, dim=dim),
    "csa": lambda x, y, dim: fit_csa(x, y, dim=dim),
    "procrustes": lambda x, y, dim: fit_procrustes(x, y, dim=dim),
    "asif": lambda x, y, _: fit_asif(x, y),
}


class CanonicalMap(NamedTuple):
    """A cross-validated canonical correlation analysis of the pairs."""

    g_x: LinearHead
    g_y: LinearHead
    logit_scale: float  # at which held-out cosines separate best


def canonical_map(x: Tensor, y: Tensor, ids: Tensor | None, dim: int) -> CanonicalMap:
    """Choose ridges and power on held-out pairs, and fit `dim` directions to all of them."""
    cca = select_cca(x, y, ids=ids, standardise=False)
    g_x, g_y = fit_cca(x, y, dim=dim, ridge=cca.ridge, power=cca.power, standardise=False)
    return CanonicalMap(g_x, g_y, cca.logit_scale)


def shared_width(dim: int, x: Tensor, y: Tensor) -> int:
    """`dim`, or as many directions as the pairs and widths have."""
    return min(dim, len(x) - 1, x.shape[1], y.shape[1])
