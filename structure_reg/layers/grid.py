"""One similarity for every pair of layers, with the work per layer done once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from structure_reg._arrays import Array, layer_tensors
from structure_reg._checks import check_layers
from structure_reg._precision import needs_float64, promote
from structure_reg.layers._checks import check_metric, check_no_k, check_score
from structure_reg.similarity.cca import cca, pwcca, svcca
from structure_reg.similarity.chance import cka_chance
from structure_reg.similarity.cka import cka_grid
from structure_reg.similarity.cknna import cknna_grid
from structure_reg.similarity.knn_chance import cycle_chance, jaccard_chance, mutual_chance
from structure_reg.similarity.nearest import CONSTANT, nearest, neighbourhood_size
from structure_reg.similarity.neighbours import cycle_grid, jaccard_grid, mutual_grid
from structure_reg.similarity.null import cka_null
from structure_reg.similarity.procrustes import procrustes
from structure_reg.similarity.rsa import rsa
from structure_reg.similarity.sequences import edit_grid, lcs_grid

Layers = Mapping[str, Array] | Sequence[Array]
Metric = str | Callable[[Tensor, Tensor], Tensor]

# Metrics that search neighbours once per layer and then look them up: the grid, and its mean over
# re-paired rows where a formula is known.
KNN_METRICS = {
    "mutual_knn": (mutual_grid, mutual_chance),
    "cycle_knn": (cycle_grid, cycle_chance),
    "lcs_knn": (lcs_grid, None),
    "edit_knn": (edit_grid, None),
    "jaccard_knn": (jaccard_grid, jaccard_chance),
    "cknna": (cknna_grid, None),
}
# Metrics that compute Gram matrices once per layer, as options of :func:`cka_grid`.
CKA_METRICS: dict[str, dict[str, Any]] = {
    "cka": {"kernel": "linear", "debiased": True},
    "rbf_cka": {"kernel": "rbf", "debiased": True},
    "rv": {"kernel": "linear", "debiased": False},
}
# Metrics that are evaluated pair by pair.
PAIR_METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cca": cca,
    "svcca": svcca,
    "pwcca": pwcca,
    "procrustes": procrustes,
    "rsa": rsa,
}
METRICS = (*KNN_METRICS, *CKA_METRICS, *PAIR_METRICS)


@needs_float64
def layer_similarity(
    xs: Layers, ys: Layers, *, metric: Metric = "mutual_knn", k: int | str | None = None
) -> Tensor:
    r"""Measure the similarity of every layer of one encoder to every layer of another.

    Parameters
    ----------
    xs, ys : list or mapping of Tensor or array, of shape (n, d)
        Layers of the two encoders for the same n >= 2 samples; widths may differ.
    metric : str or callable
        Name of a similarity of this package: "mutual_knn", "cycle_knn", "lcs_knn", "edit_knn",
        "jaccard_knn", "cknna", "cka", "rbf_cka", "rv", "cca", "svcca", "pwcca", "procrustes" or
        "rsa". Or a function of two tensors, (n, dx) and (n, dy), that returns a scalar.
    k : int or {"rice", "sqrt", "sturges"}, optional
        Number of neighbours, as in :func:`mutual_knn`; only for the kNN metrics.

    Returns
    -------
    Tensor of shape (len(xs), len(ys))
        Value of `metric` for each pair; float64, on the device of the layers; no gradient. It is
        NaN for a constant layer, in which all rows are equal up to rounding or, for the kNN
        metrics, share one direction; a function is not called for such a layer.

        For the kNN metrics, scratch memory is the :func:`tile_budget`, one layer in at least
        float32, and 12 n k bytes per layer; it does not grow with the number of pairs. "cka",
        "rbf_cka" and "rv" need a copy of every layer. The other metrics are evaluated pair by pair.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the numbers of rows or the devices of the layers differ, `metric` is an unknown name, k
        is not in 1 to n - 1, or k is set for a metric without neighbours.

    See Also
    --------
    select_layers : Chooses the best pair and tests it against chance.

    References
    ----------
    Layer pairs by mutual kNN: Gröger et al., "With Limited Data for Multimodal Alignment, Let the
    STRUCTURE Guide You", NeurIPS 2025, arXiv 2506.16895.

    Examples
    --------
    The second layer of the first encoder and the first layer of the second one differ by a
    rotation:

    >>> g = torch.Generator().manual_seed(0)
    >>> layers = [torch.randn(200, 8, generator=g) for _ in range(3)]
    >>> rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=g))
    >>> layer_similarity(layers[:2], [layers[1] @ rotation, layers[2]], k=10).round(decimals=2)
    tensor([[0.0500, 0.0500],
            [1.0000, 0.0500]], dtype=torch.float64)
    """
    x_layers, y_layers = as_layers("layer_similarity", xs, ys, metric, k)
    comparison = Comparison("layer_similarity", metric, k)
    return measure(comparison, x_layers, y_layers).scores[0]


def as_layers(
    function: str, xs: Layers, ys: Layers, metric: Metric, k: int | str | None, *, rows: int = 2
) -> tuple[list[Tensor], list[Tensor]]:
    """Check the layers, the metric and k, and return the layers of both sides without names."""
    check_metric(function, metric, METRICS)
    if not has_neighbours(metric):
        check_no_k(function, k, metric)
    x_layers, y_layers = layer_tensors(function, "xs", xs), layer_tensors(function, "ys", ys)
    check_layers(function, rows=rows, xs=x_layers, ys=y_layers)
    return list(x_layers.values()), list(y_layers.values())


def has_neighbours(metric: Metric) -> TypeGuard[str]:
    return isinstance(metric, str) and metric in KNN_METRICS


class Comparison(NamedTuple):
    """What is measured between two layers, and for which public function."""

    function: str  # for error messages
    metric: Metric
    k: int | str | None


class Measurement(NamedTuple):
    """Grids of scores, and what the kNN and CKA metrics know about them."""

    scores: Tensor  # (1 + B, LA, LB) float64: with the given pairing, then with each permutation
    constant: Tensor  # (LA + LB,) bool: layers without a score, because all their rows are equal
    chance: Tensor | None = None  # (LA, LB) exact mean over re-paired rows, where it is known
    tied: Tensor | None = None  # (LA + LB,) share of rows with neighbours chosen among ties


@torch.no_grad()
def measure(
    comparison: Comparison, xs: list[Tensor], ys: list[Tensor], permutations: Tensor | None = None
) -> Measurement:
    """Compare every pair of layers, with the rows paired as given and as each permutation says.

    Permutations, (B, n), are shared by all pairs of layers: row p[i] of y is paired with row i of
    x.
    """
    metric = comparison.metric
    if isinstance(metric, str) and metric in CKA_METRICS:
        return measure_cka(xs, ys, permutations, CKA_METRICS[metric])
    pairings = torch.arange(len(xs[0]), device=xs[0].device)[None]
    if permutations is not None:
        pairings = torch.cat([pairings, permutations])  # (1 + B, n)
    if has_neighbours(metric):
        size = neighbourhood_size(comparison.function, comparison.k, len(xs[0]))
        return measure_knn(xs, ys, pairings, metric, size)
    similarity = PAIR_METRICS[metric] if isinstance(metric, str) else metric
    constant = constant_layers(xs, ys)
    pairs = (~constant[: len(xs), None] & ~constant[len(xs) :]).nonzero().tolist()
    grids = [
        measure_pairs(comparison.function, similarity, xs, [y[p] for y in ys], pairs)
        for p in pairings
    ]
    return Measurement(torch.stack(grids), constant)


def measure_knn(
    xs: list[Tensor], ys: list[Tensor], pairings: Tensor, metric: str, k: int
) -> Measurement:
    grid, chance = KNN_METRICS[metric]
    x_near, y_near = (
        [nearest(layer, k, side) for layer in layers] for side, layers in enumerate((xs, ys))
    )
    near = [*x_near, *y_near]
    return Measurement(
        grid(x_near, y_near, pairings),
        torch.stack([layer.constant for layer in near]),
        None if chance is None else chance(x_near, y_near),
        torch.stack([layer.tied.double().mean() for layer in near]),
    )


def measure_cka(
    xs: list[Tensor], ys: list[Tensor], permutations: Tensor | None, options: dict[str, Any]
) -> Measurement:
    constant = constant_layers(xs, ys)
    undefined = constant[: len(xs), None] | constant[len(xs) :]
    scores = cka_grid(xs, ys, **options)[None].double()
    chance = None
    if permutations is not None:
        scores = torch.cat([scores, cka_null(xs, ys, permutations, **options).double()])
        chance = cka_chance(xs, ys, **options).mean.double()
    return Measurement(scores.masked_fill(undefined, math.nan), constant, chance)


def measure_pairs(
    function: str,
    similarity: Callable[[Tensor, Tensor], Tensor],
    xs: list[Tensor],
    ys: list[Tensor],
    pairs: list[list[int]],
) -> Tensor:
    scores = xs[0].new_full((len(xs), len(ys)), math.nan, dtype=torch.float64)
    for i, j in pairs:
        score = similarity(xs[i], ys[j])
        check_score(function, score)
        scores[i, j] = score
    return scores


def constant_layers(xs: list[Tensor], ys: list[Tensor]) -> Tensor:
    return torch.stack([is_constant(layer) for layer in (*xs, *ys)])


def is_constant(x: Tensor) -> Tensor:
    """Whether all rows are equal, up to rounding in each column."""
    (x,) = promote(x)
    bound = CONSTANT * torch.finfo(x.dtype).eps * x.abs().amax(0)
    return ((x - x[0]).abs() <= bound).all()
