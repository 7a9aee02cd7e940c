"""What is fitted rather than trained: closed-form heads, and the map that training starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from structure_reg._distributed import sum_over_processes
from structure_reg.heads.asif import fit_asif
from structure_reg.heads.cca import fit_cca
from structure_reg.heads.cca_selection import CcaSelection, chosen_cca
from structure_reg.heads.columns import scaled_moments
from structure_reg.heads.csa import fit_csa
from structure_reg.heads.linear import LinearHead, linear_head
from structure_reg.heads.moments import moments_of_columns
from structure_reg.heads.procrustes import fit_procrustes, product_of_unit_rows
from structure_reg.heads.ridge import fit_ridge, regression, regression_heads
from structure_reg.heads.ridge_selection import leave_one_out_ridge
from structure_reg.heads.spectra import paired_directions
from structure_reg.training.averaging import Member, averaged_heads
from structure_reg.training.batches import Pairs
from structure_reg.training.rows import Rows

Heads = tuple[nn.Module, nn.Module]
FEWEST_IDS = 8  # that select_cca can divide into folds
SAMPLE = 1500  # pairs that are enough to choose ridges

# The columns are scaled already: those of a blend would lose the weights of their layers.
CLOSED_FORMS: dict[str, Callable[[Pairs, int], Heads]] = {
    "ridge": lambda pairs, _: ridge_heads(pairs),
    "cca": lambda pairs, dim: canonical_map(pairs, dim)[:2],
    "csa": lambda pairs, dim: csa_heads(pairs, dim),
    "procrustes": lambda pairs, dim: procrustes_heads(pairs, dim),
    "asif": lambda pairs, _: fit_asif(*in_memory(pairs), standardise=False),
}


def closed_form_heads(pairs: Pairs, head: str, dim: int) -> Heads:
    """Fit the heads to the rows, or to their moments where the rows are not held in memory."""
    return CLOSED_FORMS[head](pairs, shared_width(dim, pairs.x, pairs.y))


def ridge_heads(pairs: Pairs) -> Heads:
    """Ridge regression with leave-one-out rows, which moments do not hold."""
    if pairs.moments is None:
        return fit_ridge(*in_memory(pairs), standardise=False)
    r = regression("fit_ridge", pairs.moments, 1.0, standardise=False)
    rows: Any = pairs
    ridge = leave_one_out_ridge(r.S, r.VXY, r.y, rows)
    return regression_heads(r._replace(ridge=ridge), pairs.moments.dtype)


def csa_heads(pairs: Pairs, dim: int) -> Heads:
    """CSA with the ridges that a CCA chooses on held-out pairs."""
    ridge = held_out_cca(pairs.x, pairs.y, pairs.ids).ridge
    return fit_csa(*rows_or_moments(pairs), dim=dim, ridge=ridge, standardise=False)


def procrustes_heads(pairs: Pairs, dim: int) -> Heads:
    """:func:`fit_procrustes` brings rows to unit length, which moments do not tell."""
    if pairs.moments is None:
        return fit_procrustes(*in_memory(pairs), dim=dim, standardise=False)
    C = scaled_moments(pairs.moments, standardise=False)
    x: Any = pairs.x
    y: Any = pairs.y
    XY = sum_over_processes(product_of_unit_rows(x.own, y.own, C.x, C.y), x.group)
    U, _, V = paired_directions(XY, dim)
    return linear_head(U, *C.x, pairs.moments.dtype), linear_head(V, *C.y, pairs.moments.dtype)


def in_memory(pairs: Pairs) -> tuple[Any, Any]:
    return pairs.x, pairs.y


def rows_or_moments(pairs: Pairs) -> tuple[Any, Any]:
    """What closed forms are fitted to."""
    return in_memory(pairs) if pairs.moments is None else (pairs.moments, None)


class CanonicalMap(NamedTuple):
    """A cross-validated canonical correlation analysis of the pairs, or an average of several."""

    g_x: LinearHead
    g_y: LinearHead
    logit_scale: float  # at which held-out cosines separate best


def canonical_map(pairs: Pairs, dim: int) -> CanonicalMap:
    """Choose ridges and power on held-out pairs, and fit `dim` directions to all of them."""
    if pairs.members is not None:
        return averaged_map(pairs, pairs.members, dim)
    cca = held_out_cca(pairs.x, pairs.y, pairs.ids)
    of_pairs = rows_or_moments(pairs)
    g_x, g_y = fit_cca(*of_pairs, dim=dim, ridge=cca.ridge, power=cca.power, standardise=False)
    return CanonicalMap(g_x, g_y, cca.logit_scale)


def averaged_map(pairs: Pairs, members: list[Member], dim: int) -> CanonicalMap:
    """The average of the maps of several blends, with the scale of the one of largest weight."""
    maps = [fit_member(pairs, member, dim) for member in members]
    of_x = averaged_heads(members, maps, pairs, dim)
    best = max(members, key=lambda member: member.weight)
    return CanonicalMap(*of_x, best.cca.logit_scale)


def fit_member(pairs: Pairs, member: Member, dim: int) -> tuple[LinearHead, LinearHead]:
    """The canonical map of the columns of one blend."""
    x, y, cca, _ = member
    of_columns: tuple[Any, Any]
    if pairs.moments is None:
        of_columns = pairs.x[:][:, x], pairs.y[:][:, y]
    else:
        of_columns = moments_of_columns(pairs.moments, x, y), None
    dim = min(dim, len(pairs.x) - 1, len(x), len(y))
    return fit_cca(*of_columns, dim=dim, ridge=cca.ridge, power=cca.power, standardise=False)


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
