"""The similarities of paired features in NumPy and SciPy, float64, one definition after another."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes, subspace_angles
from scipy.spatial.distance import pdist, squareform
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

Array = NDArray[np.float64]


def array(x: Tensor) -> Array:
    return x.detach().double().numpy()


def centered(x: Tensor) -> Array:
    return array(x) - array(x).mean(0)


def kernel_matrix(x: Tensor, kernel: str) -> Array:
    """Every estimator centres for itself, but not without loss far from the origin."""
    if kernel == "linear":
        return centered(x) @ centered(x).T
    distances = pdist(array(x))
    # The nearer of the two middle ones, where np.median would take the mean of both.
    sigma = np.sort(distances)[(len(distances) - 1) // 2]
    return np.exp(-(squareform(distances) ** 2) / (2 * sigma**2))


def hsic_biased(K: Array, L: Array) -> float:
    H = np.eye(len(K)) - 1 / len(K)
    return float(np.trace(K @ H @ L @ H))


def hsic_debiased(K: Array, L: Array) -> float:
    """Song et al. 2012, equation 5, without the factor of n."""
    n, one = len(K), np.ones(len(K))
    K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
    return float(
        np.trace(K @ L)
        + (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ K @ L @ one)
    )


def hsic_by_quadruples(K: Array, L: Array) -> float:
    """What Song's sum estimates without bias: an average over all four different samples."""
    terms = [
        K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q]) for i, j, q, r in permutations(range(len(K)), 4)
    ]
    return float(np.mean(terms))


def cka(x: Tensor, y: Tensor, *, kernel: str = "linear", debiased: bool = True) -> float:
    K, L = kernel_matrix(x, kernel), kernel_matrix(y, kernel)
    h = hsic_debiased if debiased else hsic_biased
    return h(K, L) / float(np.sqrt(h(K, K) * h(L, L)))


def minibatch_cka(batches: list[tuple[Tensor, Tensor]]) -> float:
    def average(side: int, other: int) -> float:
        terms = []
        for batch in batches:
            K, L = (kernel_matrix(batch[s], "linear") for s in (side, other))
            terms.append(hsic_debiased(K, L) / (len(K) * (len(K) - 3)))
        return float(np.mean(terms))

    return average(0, 1) / float(np.sqrt(average(0, 0) * average(1, 1)))


def rv(x: Tensor, y: Tensor) -> float:
    X, Y = centered(x), centered(y)
    S_xx, S_xy, S_yy = X.T @ X, X.T @ Y, Y.T @ Y
    return float(np.trace(S_xy @ S_xy.T) / np.sqrt(np.trace(S_xx @ S_xx) * np.trace(S_yy @ S_yy)))


def cca(x: Tensor, y: Tensor) -> float:
    """Of full column rank: cosines of the angles between the column spaces."""
    return float(np.cos(subspace_angles(centered(x), centered(y))).mean())


def svcca(x: Tensor, y: Tensor, *, keep: float | int = 0.99) -> float:
    def components(x: Tensor) -> Array:
        variances, axes = np.linalg.eigh(centered(x).T @ centered(x))
        variances, axes = variances[::-1], axes[:, ::-1]
        share = np.cumsum(variances) / variances.sum()
        k = keep if isinstance(keep, int) else int(np.argmax(share >= keep - 1e-12)) + 1
        return centered(x) @ axes[:, :k]

    return float(np.cos(subspace_angles(components(x), components(y))).mean())


def pwcca(x: Tensor, y: Tensor) -> float:
    """By whitened covariances."""

    def inverse_root(S: Array) -> Array:
        values, vectors = np.linalg.eigh(S)
        return np.asarray(vectors / np.sqrt(values) @ vectors.T)

    X, Y = centered(x), centered(y)
    W_x, W_y = inverse_root(X.T @ X), inverse_root(Y.T @ Y)
    A, rho, _ = np.linalg.svd(W_x @ X.T @ Y @ W_y, full_matrices=False)
    w = np.abs((X @ W_x @ A).T @ X).sum(1)
    return float(w @ rho / w.sum())


def procrustes(x: Tensor, y: Tensor) -> float:
    X, Y = centered(x), centered(y)
    width = max(X.shape[1], Y.shape[1])
    X, Y = (np.pad(Z, ((0, 0), (0, width - Z.shape[1]))) for Z in (X, Y))
    X, Y = X / np.linalg.norm(X), Y / np.linalg.norm(Y)
    R, _ = orthogonal_procrustes(X, Y)
    return float(1 - np.linalg.norm(X @ R - Y) ** 2 / 2)


def rsa(x: Tensor, y: Tensor, *, correlation: str = "pearson") -> float:
    compare: Any = {"pearson": pearsonr, "spearman": spearmanr}[correlation]
    return float(compare(pdist(array(x)), pdist(array(y))).statistic)
