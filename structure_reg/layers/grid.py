"""One similarity for every pair of layers, each layer visited once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from structure_reg._checks import check_layers
from structure_reg.layers._checks import check_k_unused, check_metric, check_score
from structure_reg.similarity.cca import cca, pwcca, svcca
from structure_reg.similarity.chance import cka_chance
from structure_reg.similarity.cka import cka_grid
from structure_reg.similarity.cknna import cknna_grid
from structure_reg.similarity.knn_chance import cycle_chance, jaccard_chance, mutual_chance
from structure_reg.similarity.nearest import nearest, neighbourhood_size
from structure_reg.similarity.neighbours import cycle_grid, jaccard_grid, mutual_grid
from structure_reg.similarity.null import cka_null
from structure_reg.similarity.procrustes import procrustes
from structure_reg.similarity.rsa import rsa
from structure_reg.similarity.sequences import edit_grid, lcs_grid

Layers = Mapping[str, Tensor] | Sequence[Tensor]
Metric = str | Callable[[Tensor, Tensor], Tensor]

# Neighbours once per layer, then look-ups; with the mean of re-paired rows where it is known.
NEIGHBOURS = {
    "mutual_knn": (mutual_grid, mutual_chance),
    "cycle_knn": (cycle_grid, cycle_chance),
    "lcs_knn": (lcs_grid, None),
    "edit_knn": (edit_grid, None),
    "jaccard_knn": (jaccard_grid, jaccard_chance),
    "cknna": (cknna_grid, None),
}
# Gram matrices once per layer.
KERNELS: dict[str, dict[str, Any]] = {
    "cka": {"kernel": "linear", "debiased": True},
    "rbf_cka": {"kernel": "rbf", "debiased": True},
    "rv": {"kernel": "linear", "debiased": False},
}
# One value a pair.
PAIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cca": cca,
    "svcca": svcca,
    "pwcca": pwcca,
    "procrustes": procrustes,
    "rsa": rsa,
}
METRICS = (*NEIGHBOURS, *KERNELS, *PAIRS)


def layer_similarity(
    xs: Layers, ys: Layers, *, metric: Metric = "mutual_knn", k: int | str | None = None
) -> Tensor:
    r"""Measure the similarity of every layer of one encoder to every layer of another.

    Parameters
    ----------
    xs, ys : sequence or mapping of Tensor of shape (n, d)
        The layers of either side for the same n samples, n >= 2; every layer has its own width.
    metric : str or callable
        The name of a similarity of this package, that is "mutual_knn", "cycle_knn", "lcs_knn",
        "edit_knn", "jaccard_knn", "cknna", "cka", "rbf_cka", "rv", "cca", "svcca", "pwcca",
        "procrustes" or "rsa"; or a function of two tensors, (n, dx) and (n, dy), that returns a
        scalar.
    k : int or {"rice", "sqrt", "sturges"}, optional
        Size of a neighbourhood, as in :func:`mutual_knn`; for the kNN metrics alone.

    Returns
    -------
    Tensor of shape (len(xs), len(ys))
        What `metric` gives for each pair; float64, on the device of the layers; without gradient.
        For the kNN metrics, scratch memory is the :func:`tile_budget`, one layer in at least
        float32, and 12 n k bytes a layer: it does not grow with the number of pairs. The CKA family
        needs a copy of every layer instead; the others are evaluated pair by pair.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the layers do not have the same rows on the same device, `metric` is not the name of
        one, or k is not in 1 to n - 1 or goes with a metric without neighbours.

    See Also
    --------
    select_layers : The best pair, and whether it is more than chance.

    References
    ----------
    Layer pairs by mutual kNN: Gröger et al., "With Limited Data for Multimodal Alignment, Let the
    STRUCTURE Guide You", NeurIPS 2025, arXiv 2506.16895.

    Examples
    --------
    The second layer of the one is a rotation of the first of the other:

    >>> g = torch.Generator().manual_seed(0)
    >>> layers = [torch.randn(200, 8, generator=g) for _ in range(3)]
    >>> rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=g))
    >>> layer_similarity(layers[:2], [layers[1] @ rotation, layers[2]], k=10).round(decimals=2)
    tensor([[0.0500, 0.0500],
            [1.0000, 0.0500]], dtype=torch.float64)
    """
    x_layers, y_layers = as_layers("layer_similarity", xs, ys, metric, k)
    return measure("layer_similarity", x_layers, y_layers, None, metric=metric, k=k).scores[0]


def as_layers(
    function: str, xs: Layers, ys: Layers, metric: Metric, k: int | str | None, *, rows: int = 2
) -> tuple[list[Tensor], list[Tensor]]:
    """Refuse what is not two sets of layers and a metric, and forget the names of the layers."""
    check_metric(function, metric, METRICS)
    if not has_neighbours(metric):
        check_k_unused(function, k, metric)
    check_layers(function, rows=rows, xs=xs, ys=ys)
    x_layers, y_layers = (
        list(layers.values() if isinstance(layers, Mapping) else layers) for layers in (xs, ys)
    )
    return x_layers, y_layers


def has_neighbours(metric: Metric) -> TypeGuard[str]:
    return isinstance(metric, str) and metric in NEIGHBOURS


class Measured(NamedTuple):
    """A grid as paired and one for every permutation, and what the metric knows beside them."""

    scores: Tensor  # (1 + B, LA, LB) float64
    chance: Tensor | None = None  # (LA, LB), mean of re-paired rows, None where it is not known
    tied: Tensor | None = None  # (LA + LB,), share of the rows whose neighbours are arbitrary


@torch.no_grad()
def measure(
    function: str,
    xs: list[Tensor],
    ys: list[Tensor],
    permutations: Tensor | None,
    *,
    metric: Metric,
    k: int | str | None,
) -> Measured:
    """Compare every pair of layers, the rows paired as they come and then as each permutation says.

    Permutations are (B, n), or None for none, and shared by all pairs of layers: row p[i] of y is
    the partner of row i of x.
    """
    n = len(xs[0])
    pairings = torch.arange(n, device=xs[0].device)[None]
    if permutations is not None:
        pairings = torch.cat([pairings, permutations])  # (1 + B, n)
    if has_neighbours(metric):
        grid, chance = NEIGHBOURS[metric]
        size = neighbourhood_size(function, k, n)
        x_near, y_near = ([nearest(layer, size) for layer in side] for side in (xs, ys))
        return Measured(
            grid(x_near, y_near, pairings),
            None if chance is None else chance(x_near, y_near),
            torch.stack([layer.tied.double().mean() for layer in (*x_near, *y_near)]),
        )
    if isinstance(metric, str) and metric in KERNELS:
        options = KERNELS[metric]
        scores = cka_grid(xs, ys, **options)[None].double()
        if permutations is None:
            return Measured(scores)
        return Measured(
            torch.cat([scores, cka_null(xs, ys, permutations, **options).double()]),
            cka_chance(xs, ys, **options).mean.double(),
        )
    similarity = PAIRS[metric] if isinstance(metric, str) else metric
    return Measured(
        torch.stack([pair_by_pair(function, similarity, xs, [y[p] for y in ys]) for p in pairings])
    )


def pair_by_pair(
    function: str,
    similarity: Callable[[Tensor, Tensor], Tensor],
    xs: list[Tensor],
    ys: list[Tensor],
) -> Tensor:
    scores = xs[0].new_empty(len(xs), len(ys), dtype=torch.float64)
    for i, x in enumerate(xs):
        for j, y in enumerate(ys):
            score = similarity(x, y)
            check_score(function, score)
            scores[i, j] = score
    return scores
