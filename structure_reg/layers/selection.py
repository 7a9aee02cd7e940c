"""Which pair of layers to align, and whether the choice is more than chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from structure_reg._checks import check_count
from structure_reg.layers._checks import check_any_score
from structure_reg.layers.concerns import concerns
from structure_reg.layers.grid import (
    Layers,
    Metric,
    as_layers,
    has_neighbours,
    measure,
)
from structure_reg.layers.report import LayerSelection
from structure_reg.layers.significance import significance
from structure_reg.layers.stability import HALVINGS, stability
from structure_reg.similarity.nearest import neighbourhood_size


def select_layers(
    xs: Layers,
    ys: Layers,
    *,
    metric: Metric = "mutual_knn",
    k: int | str | None = None,
    permutations: int = 200,
    max_samples: int = 5000,
    generator: torch.Generator | None = None,
) -> LayerSelection:
    r"""Choose the pair of layers that is most alike, and say how much that choice means.

    The score of every pair is set beside the scores of the same layers with their rows re-paired at
    random, the same permutations for all pairs, so that the largest of many scores is compared with
    the largest of many chance scores. Random halves of the samples, drawn without replacement, tell
    whether the same pair wins again and by how much it beats the two last layers.

    Parameters
    ----------
    xs, ys : sequence or mapping of Tensor of shape (n, d)
        The layers of either side for the same n samples, from first to last; a mapping gives them
        names.
    metric : str or callable
        As in :func:`layer_similarity`.
    k : int or {"rice", "sqrt", "sturges"}, optional
        As in :func:`mutual_knn`. In a half of the samples it is halved.
    permutations : int
        How many, at least 1. The smallest p-value is 1 / (permutations + 1).
    max_samples : int
        With more samples than that, a random choice of so many, at least 8.
    generator : torch.Generator, optional
        For the permutations and the halves. None: one seeded with 0, so that a report can be
        printed again.

    Returns
    -------
    LayerSelection
        The pair of highest score above its chance, with the grids behind it; prints as a table.
        Reading it waits for a GPU.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the layers do not have the same 8 rows or more on the same device, or an option is out of
        range, as in :func:`layer_similarity`, or no pair has a score that is a number.

    See Also
    --------
    layer_similarity : The scores alone.

    References
    ----------
    Selection by mutual kNN: Gröger et al., NeurIPS 2025, arXiv 2506.16895. Calibration: Gröger et
    al., "Revisiting the Platonic Representation Hypothesis: An Aristotelian View", arXiv
    2602.14486. The largest of many scores: Westfall and Young, "Resampling-Based Multiple Testing",
    Wiley 1993.

    Examples
    --------
    One pair of six is related, and the last two are not:

    >>> g = torch.Generator().manual_seed(0)
    >>> xs = {name: torch.randn(300, 16, generator=g) for name in ("early", "middle", "late")}
    >>> ys = [xs["middle"] + torch.randn(300, 16, generator=g), torch.randn(300, 16, generator=g)]
    >>> selection = select_layers(xs, ys)
    >>> selection.x_name, selection.y_layer, round(selection.p_value, 3)
    ('middle', 0, 0.005)
    """
    name = "select_layers"
    x_layers, y_layers = as_layers(name, xs, ys, metric, k, rows=8)
    check_count(name, "permutations", permutations)
    check_count(name, "max_samples", max_samples, least=8)
    generator = generator or torch.Generator().manual_seed(0)
    n, device = len(x_layers[0]), x_layers[0].device
    if n > max_samples:
        sample = shuffled(n, generator)[:max_samples].to(device)
        n, x_layers, y_layers = max_samples, taken(x_layers, sample), taken(y_layers, sample)
    size = neighbourhood_size(name, k, n) if has_neighbours(metric) else None

    pairings = torch.stack([shuffled(n, generator) for _ in range(permutations)]).to(device)
    measured = measure(name, x_layers, y_layers, pairings, metric=metric, k=size)
    scores, null = measured.scores[0].cpu(), measured.scores[1:].cpu()
    chance = None if measured.chance is None else measured.chance.cpu()
    found = significance(scores, null, chance)
    check_any_score(name, bool(found.excess.isfinite().any()))
    best = int(found.excess.nan_to_num(-math.inf).argmax())
    halves = half_scores(name, x_layers, y_layers, metric, size, generator)
    repeat = stability(halves, found.chance, best)

    i, j = divmod(best, len(y_layers))
    best_score, last_score = scores[i, j].item(), scores[-1, -1].item()
    selection = LayerSelection(
        x_layer=i,
        y_layer=j,
        x_names=names(xs),
        y_names=names(ys),
        scores=scores,
        chance=found.chance,
        p_value=found.p_values[i, j].item(),
        p_values=found.p_values,
        q_values=found.q_values,
        calibrated=found.calibrated,
        best_score=best_score,
        last_score=last_score,
        gain=best_score - last_score,
        gain_error=repeat.gain_error,
        held_out_gain=repeat.held_out_gain,
        stability=repeat.share,
        x_stability=repeat.x_share,
        y_stability=repeat.y_share,
        warnings=(),
        metric=metric if isinstance(metric, str) else getattr(metric, "__name__", repr(metric)),
        k=size,
        samples=n,
        permutations=permutations,
    )
    return replace(
        selection, warnings=tuple(concerns(selection, measured.tied, x_layers[-1], y_layers[-1]))
    )


def half_scores(
    function: str,
    xs: list[Tensor],
    ys: list[Tensor],
    metric: Metric,
    k: int | None,
    generator: torch.Generator,
) -> Tensor:
    """Compare all pairs of layers on both halves of random splits: (HALVINGS, 2, LA, LB)."""
    n, device = len(xs[0]), xs[0].device
    half = n // 2
    if k is not None:  # a neighbourhood of the same share of the rows
        k = min(max(1, round(k * half / n)), half - 1)
    scores = [
        measure(function, taken(xs, sample), taken(ys, sample), None, metric=metric, k=k).scores[0]
        for _ in range(HALVINGS)
        for sample in shuffled(n, generator)[: 2 * half].view(2, half).to(device)
    ]
    return torch.stack(scores).view(HALVINGS, 2, len(xs), len(ys)).cpu()


def shuffled(n: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=generator, device=generator.device).cpu()


def taken(layers: list[Tensor], rows: Tensor) -> list[Tensor]:
    return [layer[rows] for layer in layers]


def names(layers: Layers) -> tuple[str, ...]:
    return tuple(map(str, layers if isinstance(layers, Mapping) else range(len(layers))))
