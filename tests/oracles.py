"""The definitions in NumPy, float64, one loop or formula at a time: slow, plain and independent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, rel_entr

Array = NDArray[np.float64]


def unit_rows(x: Array) -> Array:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, length, out=np.zeros_like(x), where=length > 0)


def cosine_kernel(x: Array, centering: str = "after") -> Array:
    if centering == "before":
        x = x - x.mean(0)
    x = unit_rows(x)
    if centering == "after":
        x = x - x.mean(0)
    return x @ x.T


def log_transition_matrix(kernel: Array, temperature: float = 0.05) -> Array:
    S = kernel / temperature
    return S - logsumexp(S, axis=1, keepdims=True)


def js_divergence(log_p: Array, log_q: Array) -> Array:
    p, q = np.exp(log_p), np.exp(log_q)
    m = (p + q) / 2
    return (rel_entr(p, m).sum(-1) + rel_entr(q, m).sum(-1)) / 2


def reverse_js_divergence(log_p: Array, log_q: Array) -> Array:
    p, q = np.exp(log_p), np.exp(log_q)
    m = (p + q) / 2
    log_m = np.log(m + 1e-12)
    from_p = (m * (log_m - np.log(p + 1e-12))).sum(-1)
    from_q = (m * (log_m - np.log(q + 1e-12))).sum(-1)
    return (from_p + from_q) / 2


def reduce(rows: Array, reduction: str) -> Array:
    return {"none": rows, "mean": np.mean(rows), "sum": np.sum(rows)}[reduction]


def structure_loss(
    frozen: Array,
    aligned: Array,
    *,
    temperature: float = 0.05,
    levels: int = 1,
    divergence: str = "js",
    centering: str = "after",
    reduction: str = "mean",
) -> Array:
    distance = {"js": js_divergence, "reverse_js": reverse_js_divergence}[divergence]
    P, Q = (
        np.exp(log_transition_matrix(cosine_kernel(x, centering), temperature))
        for x in (frozen, aligned)
    )
    rows = np.zeros(len(P))
    with np.errstate(divide="ignore"):
        for level in range(1, levels + 1):
            log_p = np.log(np.linalg.matrix_power(P, level))
            log_q = np.log(np.linalg.matrix_power(Q, level))
            rows += distance(log_p, log_q) / level
    return reduce(rows / levels, reduction)


def clip_loss(
    x: Array,
    y: Array,
    logit_scale: float = 1 / 0.07,
    *,
    ids: Array | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Array:
    Z = logit_scale * unit_rows(x) @ unit_rows(y).T
    n = len(Z)
    ids = np.arange(n) if ids is None else ids
    rows = np.zeros(n)
    for i in range(n):
        positives = ids == ids[i]
        target = (1 - label_smoothing) * positives / positives.sum() + label_smoothing / n
        for logits in (Z[i], Z[:, i]):
            rows[i] += -(target * (logits - logsumexp(logits))).sum() / 2
    return reduce(rows, reduction)


def siglip_loss(
    x: Array,
    y: Array,
    logit_scale: float = 10.0,
    logit_bias: float = -10.0,
    *,
    ids: Array | None = None,
    reduction: str = "mean",
) -> Array:
    Z = logit_scale * unit_rows(x) @ unit_rows(y).T + logit_bias
    ids = np.arange(len(Z)) if ids is None else ids
    t = np.where(ids[:, None] == ids[None, :], 1, -1)
    return reduce(np.logaddexp(0, -t * Z).sum(1), reduction)


def entropic_plan(x: Array, y: Array, epsilon: float, iterations: int) -> Array:
    """Sinkhorn by scaling: a and b multiply the rows and columns of exp(K / epsilon)."""
    K = np.exp(unit_rows(x) @ unit_rows(y).T / epsilon)
    n, m = K.shape
    b = np.ones(m)
    for _ in range(iterations):
        a = 1 / (n * (K @ b))
        b = 1 / (m * (K.T @ a))
    a = np.sqrt(a / (n * (K @ b)))
    return a[:, None] * K * b


def klot_loss(
    x: Array,
    y: Array,
    teacher_x: Array,
    teacher_y: Array,
    *,
    epsilon: float = 0.05,
    teacher_epsilon: float = 0.05,
    iterations: int = 50,
) -> float:
    P = entropic_plan(x, y, epsilon, iterations)
    Q = entropic_plan(teacher_x, teacher_y, teacher_epsilon, iterations)
    return float(rel_entr(Q, P).sum() - Q.sum() + P.sum())


def perplexity(x: Array, temperature: float, centering: str = "after") -> float:
    log_p = log_transition_matrix(cosine_kernel(x, centering), temperature)
    return float(np.exp(-(np.exp(log_p) * log_p).sum(1).mean()))


def structure_diagnostics(
    frozen: Array, aligned: Array, *, temperature: float = 0.05, centering: str = "after"
) -> tuple[float, ...]:
    self_mass = (
        np.exp(np.diag(log_transition_matrix(cosine_kernel(x, centering), temperature))).mean()
        for x in (frozen, aligned)
    )
    n = len(aligned)
    cosines = cosine_kernel(aligned, "none")
    eigenvalues = np.linalg.eigvalsh(np.cov(unit_rows(aligned), rowvar=False))
    return (
        *self_mass,
        perplexity(frozen, temperature, centering),
        perplexity(aligned, temperature, centering),
        cosines[~np.eye(n, dtype=bool)].mean(),
        eigenvalues.sum() ** 2 / (eigenvalues**2).sum(),
    )
