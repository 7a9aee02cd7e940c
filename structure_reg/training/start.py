"""The objective at the start of training: its heads, its terms, and its scale."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from structure_reg.losses.clip import LOGIT_SCALE, ClipLoss
from structure_reg.losses.structure import StructureLoss
from structure_reg.training.batches import Pairs
from structure_reg.training.closed_form import CanonicalMap, Heads, canonical_map, shared_width
from structure_reg.training.copies import different_rows
from structure_reg.training.objective import Objective, SideStructure
from structure_reg.training.options import StartOptions
from structure_reg.training.perplexity import at_perplexity, spread
from structure_reg.training.rows import Rows
from structure_reg.training.trained_heads import WITH_LINEAR_START, heads_at, random_heads
from structure_reg.training.transport import Teacher, Transport, have_plans


def starting_objective(pairs: Pairs, o: StartOptions, batch_size: int) -> Objective:
    """Fit the map that the heads start from and STRUCTURE refers to, and put the terms together."""
    x, y = pairs.x, pairs.y
    linear_start = o.start == "cca" and o.head in WITH_LINEAR_START
    shared_reference = o.structure_weight > 0 and o.keep == "shared"
    transports = o.unpaired_weight > 0 and have_plans(pairs.unpaired)
    g = None
    if linear_start or shared_reference or transports:
        g = canonical_map(pairs, shared_width(o.dim, x, y))
    if g is not None and linear_start:
        heads, logit_scale = heads_at(o.head, g.g_x, g.g_y), g.logit_scale
    else:
        heads, logit_scale = random_heads(o.head, x.shape[1], y.shape[1], o.dim), LOGIT_SCALE
    transport = None
    if g is not None and transports:
        teacher = Teacher(copy.deepcopy(heads) if linear_start else (g.g_x, g.g_y), linear_start)
        transport = Transport(teacher, o.unpaired_weight)
    objective = Objective(
        heads,
        o.contrastive or ClipLoss(),
        side_structures(pairs, o, g if shared_reference else None, batch_size),
        o.structure_weight,
        logit_scale if o.logit_scale is None else o.logit_scale,
        learn_scale=o.logit_scale is None,
        transport=transport,
    )
    return objective.to(x.device, torch.float32)


def side_structures(
    pairs: Pairs, o: StartOptions, g: CanonicalMap | None, batch_size: int
) -> tuple[SideStructure, SideStructure] | None:
    """STRUCTURE of both sides, referring to the map g or to the frozen features as they are."""
    if o.structure_weight == 0:
        return None
    references: Heads = (nn.Identity(), nn.Identity()) if g is None else (g.g_x, g.g_y)
    of_x, of_y = (
        SideStructure(o.structure or default_structure(name, z, reference, batch_size), reference)
        for name, z, reference in zip("xy", (pairs.x, pairs.y), references, strict=True)
    )
    return of_x, of_y


def default_structure(
    name: str, frozen: Tensor | Rows, reference: nn.Module, batch_size: int
) -> StructureLoss:
    rows = different_rows(frozen)
    if isinstance(frozen, Rows):
        rows = spread(rows, batch_size)  # all that is read
        return at_perplexity(name, reference(frozen[rows]), batch_size)
    return at_perplexity(name, reference(frozen)[rows], batch_size)
