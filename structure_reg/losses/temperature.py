"""The way past the temperature trap: ask for a number of neighbours, get the temperature."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from structure_reg._checks import check_choice, check_features, check_number
from structure_reg.losses._checks import no_temperature
from structure_reg.losses.transition import CENTERINGS, cosine_kernel

# In log-perplexity: the wanted number of neighbours is met to 0.001 %, float32 allows no less.
TOLERANCE = 1e-5
TILE_ROWS = 1024


@torch.no_grad()
def temperature_for_perplexity(
    frozen: Tensor, perplexity: float, *, centering: str = "after"
) -> float:
    r"""Find the temperature at which each frozen row sees `perplexity` rows of its batch.

    .. math:: \exp \Bigl( -\tfrac1n \sum_{ij} P_{ij} \log P_{ij} \Bigr) = \text{perplexity}, \qquad
              P = \operatorname{rowsoftmax}(\bar X \bar X^\top / \tau)

    At a fixed temperature of 0.05, real encoders lie between 1, where a row sees itself alone and
    STRUCTURE has nothing to keep, and 160. The perplexity carries over between encoders.

    Parameters
    ----------
    frozen : Tensor of shape (n, d)
        One batch of frozen features, of the size that the loss will see. Memory is O(n²).
    perplexity : float
        The effective number of rows that a row sees, itself included; in (1, n).
    centering : {"after", "before", "none"}
        As in :func:`structure_loss`.

    Returns
    -------
    float
        :math:`\tau`, for ``temperature=``. NaN if `frozen` holds a NaN. The function reads values,
        so on a GPU it waits for it: call it once, before training.

    Raises
    ------
    TypeError
        If `frozen` is not a floating tensor, or `perplexity` not a number.
    ValueError
        If `perplexity` is outside (1, n), or no temperature gives it, because too many rows are
        equal.

    See Also
    --------
    structure_diagnostics : The perplexity at a given temperature.

    References
    ----------
    Perplexity as the knob: Hinton and Roweis, "Stochastic Neighbor Embedding", NIPS 2002.

    Examples
    --------
    >>> x = torch.randn(256, 32, generator=torch.Generator().manual_seed(0))
    >>> temperature = temperature_for_perplexity(x, 20.0)
    >>> diagnostics = structure_diagnostics(x, x, temperature=temperature)
    >>> round(diagnostics.frozen_perplexity.item(), 2)
    20.0
    """
    name = "temperature_for_perplexity"
    check_features(name, frozen=frozen)
    check_number(name, "perplexity", perplexity, above=1.0, below=float(len(frozen)))
    check_choice(name, "centering", centering, CENTERINGS)
    K = cosine_kernel(frozen, centering=centering)  # (n, n)
    spread = (K.amax() - K.amin()).item()
    if math.isnan(spread):
        return math.nan
    # Entropy grows with temperature: Newton on its logarithm, bisection where Newton leaves the
    # bracket. At 1e-7 of the kernel's spread only equal rows are near, at 1e4 all are.
    log_tau = math.log(spread or 1.0)
    lower, upper = log_tau + math.log(1e-7), log_tau + math.log(1e4)
    while upper - lower > 1e-9:
        entropy, slope = entropy_and_slope(K, math.exp(log_tau))
        gap = math.log(perplexity) - entropy
        if abs(gap) < TOLERANCE:
            return math.exp(log_tau)
        lower, upper = (log_tau, upper) if gap > 0 else (lower, log_tau)
        newton = log_tau + gap / slope if slope > 0 else math.inf
        log_tau = newton if lower < newton < upper else (lower + upper) / 2
    raise no_temperature(name, perplexity, math.exp(entropy))


def entropy_and_slope(K: Tensor, temperature: float) -> tuple[float, float]:
    """Mean row entropy of rowsoftmax(K / τ); its derivative by log τ is the variance of K / τ."""
    entropy = slope = 0.0
    for start in range(0, len(K), TILE_ROWS):
        S = K[start : start + TILE_ROWS] / temperature
        log_p = torch.log_softmax(S, -1)
        p = log_p.exp()
        rows = row_entropy(log_p)
        entropy += rows.sum().item()
        slope += (p * (log_p + rows[:, None]).square()).sum().item()
    return entropy / len(K), slope / len(K)


def row_entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).sum(-1)  # (n,)
