"""STRUCTURE from its definition: NumPy, float64, one row and one level at a time."""

import numpy as np
from scipy.special import rel_entr, softmax


def structure_rows(
    frozen, aligned, *, temperature=0.05, levels=1, divergence="js", centering="after"
):
    walks = []
    for x in (frozen, aligned):
        x = np.asarray(x, np.float64)
        if centering == "before":
            x = x - x.mean(0)
        lengths = np.linalg.norm(x, axis=1, keepdims=True)
        x = x / np.where(lengths == 0, 1, lengths)
        if centering == "after":
            x = x - x.mean(0)
        walks.append(softmax(x @ x.T / temperature, axis=1))
    P, Q = walks
    rows = np.zeros(len(P))
    for l in range(1, levels + 1):
        P_l, Q_l = np.linalg.matrix_power(P, l), np.linalg.matrix_power(Q, l)
        rows += [DIVERGENCES[divergence](p, q) / l for p, q in zip(P_l, Q_l, strict=True)]
    return rows / levels


def js(p, q):
    m = (p + q) / 2
    return (rel_entr(p, m).sum() + rel_entr(q, m).sum()) / 2


def reverse_js(p, q):
    p, q, m = p + 1e-12, q + 1e-12, (p + q) / 2
    return (m * (np.log(m + 1e-12) - (np.log(p) + np.log(q)) / 2)).sum()


DIVERGENCES = {"js": js, "reverse_js": reverse_js}
