"""The measures of evaluation by brute force: every order of what is tied, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, permutations, product

import numpy as np
from numpy.typing import NDArray
from oracles import unit_rows

Array = NDArray[np.float64]


def orders(scores: Array) -> list[list[int]]:
    """All rankings of the columns, best first, that differ in the order of equal scores only."""
    rounded = np.round(scores, 9)
    groups = [np.flatnonzero(rounded == value) for value in sorted(set(rounded), reverse=True)]
    every = product(*(permutations(group) for group in groups))
    return [[int(column) for group in order for column in group] for order in every]


def relevance_orders(scores: Array, positive: NDArray[np.bool_]) -> Iterator[list[bool]]:
    """The same, told apart by where the positives stand; each as likely as the next."""
    rounded = np.round(scores, 9)
    ties = []
    for value in sorted(set(rounded), reverse=True):
        here = positive[rounded == value]
        places = combinations(range(len(here)), int(here.sum()))
        ties.append([[i in chosen for i in range(len(here))] for chosen in places])
    for order in product(*ties):
        yield [relevant for group in order for relevant in group]


def ranking_measures(relevant: Sequence[bool], ks: Sequence[int]) -> list[float]:
    """R@k, P@k, mAP@k for each k, then mAP, reciprocal rank and rank of one ranking."""
    places = np.flatnonzero(relevant) + 1
    precisions = np.arange(1, len(places) + 1) / places
    at = [precisions[places <= k].sum() / min(k, len(places)) for k in ks]
    return [
        *(float(places[0] <= k) for k in ks),
        *((places <= k).sum() / k for k in ks),
        *at,
        precisions.mean(),
        1 / places[0],
        places[0],
    ]


def local_scaling(x: Array, bank: Array, k: int = 10) -> Array:
    """Mean cosine to the k nearest rows of the bank."""
    return np.sort(unit_rows(x) @ unit_rows(bank).T, 1)[:, -k:].mean(1)


def csls(x: Array, y: Array, x_bank: Array, y_bank: Array, k: int = 10) -> Array:
    """Conneau et al., equation 3: 2 cos(x, y) - r_Y(x) - r_X(y) of all pairs."""
    cosines = unit_rows(x) @ unit_rows(y).T
    return 2 * cosines - local_scaling(x, y_bank, k)[:, None] - local_scaling(y, x_bank, k)


def retrieval(
    x: Array, y: Array, ids: Array, y_ids: Array, ks: Sequence[int], scores: Array | None = None
) -> Array:
    """The measures of x -> y, then the median rank and the number of queries."""
    scores = unit_rows(x) @ unit_rows(y).T if scores is None else scores
    by_query = []
    for i, of_query in enumerate(scores):
        positive = y_ids == ids[i]
        if positive.any():
            all_orders = relevance_orders(of_query, positive)
            by_query.append(np.mean([ranking_measures(r, ks) for r in all_orders], 0))
    means = np.mean(by_query, 0)
    return np.array([*means, np.median([row[-1] for row in by_query]), len(by_query)])


def zero_shot(x: Array, classes: Array, labels: Array, ks: Sequence[int]) -> list[Array]:
    """Accuracies, mean accuracies per class, macro F1."""
    n_classes = len(classes)
    hits = np.zeros((len(x), len(ks)))
    confusion = np.zeros((n_classes, n_classes))
    for i, scores in enumerate(unit_rows(x) @ unit_rows(classes).T):
        rankings = orders(scores)
        for ranking in rankings:
            hits[i] += [labels[i] in ranking[:k] for k in ks]
            confusion[labels[i], ranking[0]] += 1 / len(rankings)
        hits[i] /= len(rankings)
    present = sorted(set(labels.tolist()))
    per_class = [hits[labels == c].mean(0) for c in present]
    f1 = [2 * confusion[c, c] / (confusion[c].sum() + confusion[:, c].sum()) for c in present]
    return [hits.mean(0), np.mean(per_class, 0), np.mean(f1)]


def distances(x: Array, metric: str) -> Array:
    if metric == "cosine":
        return 1 - unit_rows(x) @ unit_rows(x).T
    return np.linalg.norm(x[:, None] - x[None], axis=2)


def neighbour_orders(distance: Array) -> list[list[list[int]]]:
    """For each row all orders of the other rows, nearest first."""
    n = len(distance)
    others = [[j for j in range(n) if j != i] for i in range(n)]
    return [
        [[others[i][c] for c in order] for order in orders(-distance[i, others[i]])]
        for i in range(n)
    ]


def trustworthiness(frozen: Array, aligned: Array, k: int, metric: str = "euclidean") -> float:
    n = len(frozen)
    before, after = (neighbour_orders(distances(x, metric)) for x in (frozen, aligned))
    penalty = 0.0
    for i in range(n):
        penalties = [
            sum(max(0, b.index(j) + 1 - k) for j in a[:k]) for b in before[i] for a in after[i]
        ]
        penalty += float(np.mean(penalties))
    # The worst order there is: the k farthest become the k nearest.
    worst = sum(max(0, r - k) for r in range(n - k, n))
    return 1 - penalty / (n * worst)


def neighbourhood_overlap(
    frozen: Array, aligned: Array, k: int, metric: str = "euclidean"
) -> float:
    before, after = (neighbour_orders(distances(x, metric)) for x in (frozen, aligned))
    shares = [
        np.mean([len({*b[:k]} & {*a[:k]}) / k for b in before[i] for a in after[i]])
        for i in range(len(frozen))
    ]
    return float(np.mean(shares))


def alignment(x: Array, y: Array, alpha: float = 2.0) -> float:
    return float(np.mean(np.linalg.norm(unit_rows(x) - unit_rows(y), axis=1) ** alpha))


def uniformity(x: Array, t: float = 2.0) -> float:
    u = unit_rows(x)
    pairs = combinations(range(len(u)), 2)
    return float(np.log(np.mean([np.exp(-t * ((u[i] - u[j]) ** 2).sum()) for i, j in pairs])))


def modality_gap(x: Array, y: Array) -> float:
    return float(np.linalg.norm(unit_rows(x).mean(0) - unit_rows(y).mean(0)))
