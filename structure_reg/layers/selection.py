"""Choice of the pair of layers to align, with evidence that it is better than chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from structure_reg._checks import check_count
from structure_reg._precision import needs_float64
from structure_reg.layers._checks import check_finite_score
from structure_reg.layers.concerns import concerns
from structure_reg.layers.grid import (
    Comparison,
    Layers,
    Metric,
    as_layers,
    has_neighbours,
    measure,
)
from structure_reg.layers.report import LayerSelection
from structure_reg.layers.significance import Significance, significance
from structure_reg.layers.stability import HALVINGS, Stability, stability
from structure_reg.similarity.nearest import neighbourhood_size


@needs_float64
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
    r"""Choose the most similar pair of layers and report how reliable the choice is.

    Every pair of layers is scored with the given pairing of the rows and with random re-pairings,
    the same for all pairs. The largest score is thus compared with the largest of as many chance
    scores. Random halves of the samples, drawn without replacement, show whether the same pair wins
    again, and by how much it beats the two last layers. A constant layer, in which all rows are
    equal up to rounding or, for the kNN metrics, share one direction, has no score: it is never
    chosen, and a warning names it.

    Parameters
    ----------
    xs, ys : list or mapping of Tensor or array, of shape (n, d)
        Layers of the two encoders for the same n >= 8 samples, from first to last; a mapping names
        them.
    metric : str or callable
        Similarity of two layers, as in :func:`layer_similarity`.
    k : int or {"rice", "sqrt", "sturges"}, optional
        Number of neighbours, as in :func:`mutual_knn`. In half of the samples, k is halved.
    permutations : int
        Number of random re-pairings, at least 1. The smallest p-value is 1 / (permutations + 1).
    max_samples : int
        Largest number of samples to use, at least 8. If there are more, a random subset is drawn.
    generator : torch.Generator, optional
        Source of the subset, the permutations and the halves. By default a generator seeded with 0,
        so that a report is reproducible.

    Returns
    -------
    LayerSelection
        Pair with the highest score above chance, and the grids it was chosen from; prints as a
        table. Results are moved to the CPU, which synchronises with the GPU.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the numbers of rows or the devices of the layers differ, there are fewer than 8 rows, an
        option is out of range, or no pair has a finite score.

    See Also
    --------
    layer_similarity : Scores without the selection.

    References
    ----------
    Selection by mutual kNN: Gröger et al., NeurIPS 2025, arXiv 2506.16895. Calibration: Gröger et
    al., "Revisiting the Platonic Representation Hypothesis: An Aristotelian View", arXiv
    2602.14486. Comparison of maxima: Westfall and Young, "Resampling-Based Multiple Testing", Wiley
    1993.

    Examples
    --------
    One of six pairs is related; the last pair is not:

    >>> g = torch.Generator().manual_seed(0)
    >>> xs = {name: torch.randn(300, 16, generator=g) for name in ("early", "middle", "late")}
    >>> ys = [xs["middle"] + torch.randn(300, 16, generator=g), torch.randn(300, 16, generator=g)]
    >>> selection = select_layers(xs, ys)
    >>> selection.x_name, selection.y_layer, round(selection.p_value, 3)
    ('middle', 0, 0.005)
    """
    function = "select_layers"
    x_layers, y_layers = as_layers(function, xs, ys, metric, k, rows=8)
    permutations = check_count(function, "permutations", permutations)
    max_samples = check_count(function, "max_samples", max_samples, least=8)
    generator = generator or torch.Generator().manual_seed(0)
    x_layers, y_layers = subsample(x_layers, y_layers, max_samples, generator)
    n = len(x_layers[0])
    size = neighbourhood_size(function, k, n) if has_neighbours(metric) else None
    comparison = Comparison(function, metric, size)

    shuffles = torch.stack([random_order(n, generator) for _ in range(permutations)])
    measurement = measure(comparison, x_layers, y_layers, shuffles.to(x_layers[0].device))
    scores, null = measurement.scores[0].cpu(), measurement.scores[1:].cpu()
    chance = None if measurement.chance is None else measurement.chance.cpu()
    evidence = significance(scores, null, chance)
    check_finite_score(function, evidence.excess)
    best = int(evidence.excess.nan_to_num(-math.inf).argmax())
    halves = half_scores(comparison, x_layers, y_layers, generator)
    repeats = stability(halves, evidence.chance, best)

    names = layer_names(xs), layer_names(ys)
    pair = divmod(best, len(y_layers))
    label = metric if isinstance(metric, str) else getattr(metric, "__name__", repr(metric))
    selection = as_selection(pair, names, evidence, repeats, label, size, n, permutations)
    warnings = concerns(selection, measurement, x_layers, y_layers)
    return replace(selection, warnings=tuple(warnings))


def half_scores(
    comparison: Comparison, xs: list[Tensor], ys: list[Tensor], generator: torch.Generator
) -> Tensor:
    """Scores of all pairs of layers on both halves of random splits: (HALVINGS, 2, LA, LB)."""
    n, device = len(xs[0]), xs[0].device
    half = n // 2
    if isinstance(comparison.k, int):  # the same share of the rows is a neighbourhood
        k = min(max(1, round(comparison.k * half / n)), half - 1)
        comparison = comparison._replace(k=k)
    scores = [
        measure(comparison, take_rows(xs, rows), take_rows(ys, rows)).scores[0]
        for _ in range(HALVINGS)
        for rows in random_order(n, generator)[: 2 * half].view(2, half).to(device)
    ]
    return torch.stack(scores).view(HALVINGS, 2, len(xs), len(ys)).cpu()


def as_selection(
    pair: tuple[int, int],
    names: tuple[tuple[str, ...], tuple[str, ...]],
    evidence: Significance,
    repeats: Stability,
    metric: str,
    k: int | None,
    samples: int,
    permutations: int,
) -> LayerSelection:
    """The result, still without warnings."""
    best_score, last_score = evidence.scores[pair].item(), evidence.scores[-1, -1].item()
    return LayerSelection(
        # the choice
        x_layer=pair[0],
        y_layer=pair[1],
        x_names=names[0],
        y_names=names[1],
        # every pair against chance
        scores=evidence.scores,
        chance=evidence.chance,
        p_value=evidence.p_values[pair].item(),
        p_values=evidence.p_values,
        q_values=evidence.q_values,
        calibrated=evidence.calibrated,
        # the chosen pair against the last pair
        best_score=best_score,
        last_score=last_score,
        gain=best_score - last_score,
        gain_error=repeats.gain_error,
        held_out_gain=repeats.held_out_gain,
        # the choice on half of the samples
        stability=repeats.share,
        x_stability=repeats.x_share,
        y_stability=repeats.y_share,
        warnings=(),
        # the settings
        metric=metric,
        k=k,
        samples=samples,
        permutations=permutations,
    )


def subsample(
    xs: list[Tensor], ys: list[Tensor], largest: int, generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor]]:
    """All rows, or a random subset of `largest` rows if there are more."""
    n = len(xs[0])
    if n <= largest:
        return xs, ys
    rows = random_order(n, generator)[:largest].to(xs[0].device)
    return take_rows(xs, rows), take_rows(ys, rows)


def random_order(n: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=generator, device=generator.device).cpu()


def take_rows(layers: list[Tensor], rows: Tensor) -> list[Tensor]:
    return [layer[rows] for layer in layers]


def layer_names(layers: Layers) -> tuple[str, ...]:
    return tuple(map(str, layers if isinstance(layers, Mapping) else range(len(layers))))
