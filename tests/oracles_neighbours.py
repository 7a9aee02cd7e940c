"""The kNN metrics in NumPy and float64, row by row, from their definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np


def cosines(x):
    """Of every two rows; a zero row has cosine 0 with any other."""
    x = np.asarray(x, np.float64)
    length = np.sqrt((x * x).sum(1))
    u = np.divide(x, length[:, None], out=np.zeros_like(x), where=length[:, None] > 0)
    return u @ u.T


def neighbour_lists(x, k, rng=None):
    """The k rows of largest cosine to each row, nearest first, itself left out.

    With a random generator, equal cosines are in random order, drawn anew for every row and call.
    """
    c = cosines(x)
    n = len(c)
    lot = np.zeros((n, n)) if rng is None else rng.random((n, n))
    c = c if rng is None else c.round(9)
    others = [[j for j in range(n) if j != i] for i in range(n)]
    return [sorted(others[i], key=lambda j, i=i: (-c[i, j], lot[i, j]))[:k] for i in range(n)]


def mean_over_ties(metric, x, y, k, draws=200):
    """The mean of a metric over independent random orders of the ties of both sides."""
    rng = np.random.default_rng(0)
    return np.mean([metric(x, y, k, rng) for _ in range(draws)])


def mutual_knn(x, y, k, rng=None):
    pairs = zip(neighbour_lists(x, k, rng), neighbour_lists(y, k, rng), strict=True)
    return np.mean([len(set(a) & set(b)) / k for a, b in pairs])


def jaccard_knn(x, y, k, rng=None):
    pairs = zip(neighbour_lists(x, k, rng), neighbour_lists(y, k, rng), strict=True)
    return np.mean([len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in pairs])


def cycle_knn(x, y, k, rng=None):
    of_x, of_y = neighbour_lists(x, k, rng), neighbour_lists(y, k, rng)
    return np.mean([any(i in of_x[j] for j in of_y[i]) for i in range(len(of_x))])


def lcs(a, b):
    """By trying every choice of positions of a, longest first: short lists only."""
    for length in range(len(a), 0, -1):
        for chosen in itertools.combinations(a, length):
            rest = iter(b)
            if all(item in rest for item in chosen):
                return length
    return 0


def lcs_knn(x, y, k, rng=None):
    pairs = zip(neighbour_lists(x, k, rng), neighbour_lists(y, k, rng), strict=True)
    return np.mean([lcs(a, b) / k for a, b in pairs])


def levenshtein(a, b):
    if not a or not b:
        return len(a) + len(b)
    return min(
        levenshtein(a[1:], b) + 1,
        levenshtein(a, b[1:]) + 1,
        levenshtein(a[1:], b[1:]) + (a[0] != b[0]),
    )


def edit_knn(x, y, k, rng=None):
    pairs = zip(neighbour_lists(x, k, rng), neighbour_lists(y, k, rng), strict=True)
    return np.mean([1 - levenshtein(a, b) / k for a, b in pairs])


def masks(x, k, rng=None):
    M = np.zeros((len(x), len(x)))
    for i, near in enumerate(neighbour_lists(x, k, rng)):
        M[i, near] = 1
    return M


def debiased(A, B):
    """Song's estimator, whose sums run over rows that differ: written as sums over tuples."""
    n = len(A)
    same_pair = np.einsum("ij,ij->", A, B)
    same_row = np.einsum("ij,il->", A, B)
    no_row = A.sum() * B.sum()
    return same_pair - 2 * same_row / (n - 2) + no_row / ((n - 1) * (n - 2))


def cknna(x, y, k, rng=None):
    K, L, M_x, M_y = cosines(x), cosines(y), masks(x, k, rng), masks(y, k, rng)
    shared = debiased(K * M_x * M_y, L * M_x * M_y)
    of_x, of_y = debiased(K * M_x, K * M_x), debiased(L * M_y, L * M_y)
    return shared / math.sqrt(of_x * of_y) if of_x * of_y > 0 else math.nan
