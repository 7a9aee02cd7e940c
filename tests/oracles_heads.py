"""The closed forms from their definitions: covariances and inverse roots, one pair at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from oracles import unit_rows

Array = NDArray[np.float64]


def prepared(train: Array, test: Array, standardise: bool) -> tuple[Array, Array]:
    varies = ~np.isclose(train, train[0]).all(0)
    scale = train.std(0) if standardise else np.ones(train.shape[1])
    scale = np.where(varies, scale, np.inf)
    return (train - train.mean(0)) / scale, (test - train.mean(0)) / scale


def penalised(x: Array, ridge: float) -> Array:
    covariance = x.T @ x / len(x)
    return covariance + ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))


def cosines(a: Array, b: Array) -> Array:
    return unit_rows(a) @ unit_rows(b).T


def ridge_scores(x: Array, y: Array, x_test: Array, y_test: Array, *, ridge: float) -> Array:
    B = np.linalg.solve(penalised(x, ridge), x.T @ y / len(x))
    return cosines(x_test @ B, y_test)


def inverse_root(C: Array) -> Array:
    values, vectors = np.linalg.eigh(C)
    return (vectors / np.sqrt(values)) @ vectors.T


def canonical(x: Array, y: Array, *, ridge: float, dim: int) -> tuple[Array, Array, Array]:
    root_x, root_y = inverse_root(penalised(x, ridge)), inverse_root(penalised(y, ridge))
    A, rho, Bt = np.linalg.svd(root_x @ (x.T @ y / len(x)) @ root_y)
    return root_x @ A[:, :dim], root_y @ Bt[:dim].T, rho[:dim]


def cca_scores(
    x: Array, y: Array, x_test: Array, y_test: Array, *, ridge: float, dim: int, power: float
) -> Array:
    W_x, W_y, rho = canonical(x, y, ridge=ridge, dim=dim)
    weight = rho ** (power / 2)
    return cosines(x_test @ W_x * weight, y_test @ W_y * weight)


def csa_scores(
    x: Array, y: Array, x_test: Array, y_test: Array, *, ridge: float, dim: int, power: float
) -> Array:
    W_x, W_y, rho = canonical(x, y, ridge=ridge, dim=dim)
    a, b = x_test @ W_x, y_test @ W_y
    scores = np.zeros((len(a), len(b)))
    for i in range(len(a)):
        for j in range(len(b)):
            weighted = sum(r**power * p * q for r, p, q in zip(rho, a[i], b[j], strict=True))
            scores[i, j] = weighted / (np.linalg.norm(a[i]) * np.linalg.norm(b[j]))
    return scores


def procrustes_scores(x: Array, y: Array, x_test: Array, y_test: Array, *, dim: int) -> Array:
    U, _, Vt = np.linalg.svd(unit_rows(x).T @ unit_rows(y))
    return cosines(x_test @ U[:, :dim], y_test @ Vt[:dim].T)


def asif_scores(x: Array, y: Array, x_test: Array, y_test: Array, *, k: int, power: float) -> Array:
    def relative(test: Array, anchors: Array) -> Array:
        rows = []
        for row in cosines(test, anchors):
            kept = [value if value in sorted(row)[-k:] and value > 0 else 0.0 for value in row]
            rows.append(np.array(kept) ** power)
        return np.array(rows)

    return cosines(relative(x_test, x), relative(y_test, y))
