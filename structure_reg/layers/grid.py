"""One similarity for every pair of layers, each layer visited once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from structure_reg._checks import check_k_unused, check_layers, check_metric
from structure_reg.similarity.nearest import nearest, neighbourhood_size
from structure_reg.similarity.neighbours import Grid, mutual_grid

Layers = Mapping[str, Tensor] | Sequence[Tensor]
Metric = str | Callable[[Tensor, Tensor], Tensor]

# Neighbours once per layer, then look-ups.
NEIGHBOUR_GRIDS: dict[str, Grid] = {"mutual_knn": mutual_grid}
# One value a pair.
PAIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
METRICS = (*NEIGHBOUR_GRIDS, *PAIRS)


def layer_similarity(
    xs: Layers, ys: Layers, *, metric: Metric = "mutual_knn", k: int | str | None = None
) -> Tensor:
    r"""Measure the similarity of every layer of one encoder to every layer of another.

    Parameters
    ----------
    xs, ys : sequence or mapping of Tensor of shape (n, d)
        The layers of either side for the same n samples, n >= 2; every layer has its own width.
    metric : str or callable
        "mutual_knn", or the name of another similarity of this package, or a function of two
        tensors, (n, dx) and (n, dy), that returns a scalar.
    k : int or {"rice", "sqrt", "sturges"}, optional
        Size of a neighbourhood, as in :func:`mutual_knn`; for the kNN metrics alone.

    Returns
    -------
    Tensor of shape (len(xs), len(ys))
        What `metric` gives for each pair; float64, on the device of the layers; without gradient.
        Scratch memory follows :func:`tile_budget` and does not grow with the number of pairs,
        unless `metric` is a function or a similarity of pairs, such as CCA.

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
    xs, ys = as_layers("layer_similarity", xs, ys, metric, k)
    n = len(xs[0])
    as_paired = torch.arange(n, device=xs[0].device)[None]  # (1, n)
    return permuted_similarity("layer_similarity", xs, ys, as_paired, metric=metric, k=k)[0]


def as_layers(
    function: str, xs: Layers, ys: Layers, metric: Metric, k: int | str | None, *, rows: int = 2
) -> tuple[list[Tensor], list[Tensor]]:
    """Refuse what is not two sets of layers and a metric, and forget the names of the layers."""
    check_metric(function, metric, METRICS)
    if metric not in NEIGHBOUR_GRIDS:
        check_k_unused(function, k, metric)
    check_layers(function, rows=rows, xs=xs, ys=ys)
    x_layers, y_layers = (
        list(layers.values() if isinstance(layers, Mapping) else layers) for layers in (xs, ys)
    )
    return x_layers, y_layers


@torch.no_grad()
def permuted_similarity(
    function: str,
    xs: list[Tensor],
    ys: list[Tensor],
    permutations: Tensor,
    *,
    metric: Metric,
    k: int | str | None,
) -> Tensor:
    """Compare every pair of layers with row p[i] of y as the partner of row i of x: (B, LA, LB)."""
    if metric in NEIGHBOUR_GRIDS:
        size = neighbourhood_size(function, k, len(xs[0]))
        x_neighbours, y_neighbours = ([nearest(layer, size) for layer in side] for side in (xs, ys))
        return NEIGHBOUR_GRIDS[metric](x_neighbours, y_neighbours, permutations)
    similarity = PAIRS[metric] if isinstance(metric, str) else metric
    return torch.stack(
        [
            torch.stack([torch.stack([similarity(x, y[p]).double() for y in ys]) for x in xs])
            for p in permutations
        ]
    )
