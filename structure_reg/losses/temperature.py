"""The temperature at which a row has a given number of neighbours."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_choice, check_features, check_number
from structure_reg._tiles import TILE_ROWS, slices
from structure_reg.losses._checks import no_temperature
from structure_reg.losses.transition import CENTERINGS, cosine_kernel

# Of the log-perplexity: the number of neighbours is met to 0.001 %, the best that float32 allows.
TOLERANCE = 1e-5


@torch.no_grad()
def temperature_for_perplexity(
    frozen: Array, perplexity: float, *, centering: str = "after"
) -> float:
    r"""Find the temperature at which a frozen row has `perplexity` effective neighbours.

    .. math:: \exp \Bigl( -\tfrac1n \sum_{ij} P_{ij} \log P_{ij} \Bigr) = \text{perplexity}, \qquad
              P = \operatorname{rowsoftmax}(\bar X \bar X^\top / \tau)

    At a fixed temperature of 0.05, real encoders have a perplexity between 1, where a row sees only
    itself and STRUCTURE has nothing to preserve, and 160. A perplexity, unlike a temperature,
    transfers between encoders.

    Parameters
    ----------
    frozen : Tensor or array of shape (n, d)
        One batch of frozen features, of the batch size used in training. Memory is O(n²).
    perplexity : float
        Effective number of neighbours of a row, including itself, in (1, n).
    centering : {"after", "before", "none"}
        Option of :func:`structure_loss`.

    Returns
    -------
    float
        Temperature :math:`\tau`, to pass as ``temperature=``. NaN if `frozen` contains a NaN. The
        function reads values and therefore waits for a GPU: call it once, before training.

    Raises
    ------
    TypeError
        If `frozen` is not of a floating dtype, or `perplexity` not a number.
    ValueError
        If `perplexity` is outside (1, n), or if no temperature gives it because too many rows are
        equal.

    See Also
    --------
    structure_diagnostics : Perplexity at a given temperature.

    References
    ----------
    Perplexity as the parameter: Hinton and Roweis, "Stochastic Neighbor Embedding", NIPS 2002.

    Examples
    --------
    >>> x = torch.randn(256, 32, generator=torch.Generator().manual_seed(0))
    >>> temperature = temperature_for_perplexity(x, 20.0)
    >>> diagnostics = structure_diagnostics(x, x, temperature=temperature)
    >>> round(diagnostics.frozen_perplexity.item(), 2)
    20.0
    """
    name = "temperature_for_perplexity"
    (frozen,) = as_tensors(name, frozen=frozen)
    check_features(name, frozen=frozen)
    perplexity = check_number(name, "perplexity", perplexity, above=1.0, below=float(len(frozen)))
    check_choice(name, "centering", centering, CENTERINGS)
    K = cosine_kernel(frozen, centering=centering)  # (n, n)
    spread = (K.amax() - K.amin()).item()
    if math.isnan(spread):
        return math.nan
    # Entropy grows with temperature. Newton's method runs on the logarithm of the temperature, with
    # bisection where it leaves the bracket. Far below the last digit of the kernel's spread, only
    # equal entries are neighbours; at 1e4 of the spread, all rows are.
    log_tau = math.log(spread or 1.0)
    last_digit = torch.finfo(K.dtype).eps
    lower, upper = log_tau + math.log(last_digit / 1e3), log_tau + math.log(1e4)
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
    for I in slices(len(K), 2 * TILE_ROWS):  # no product here, so taller tiles cost nothing
        S = K[I] / temperature
        log_p = torch.log_softmax(S, -1)
        p = log_p.exp()
        rows = row_entropy(log_p)
        entropy += rows.sum().item()
        slope += (p * (log_p + rows[:, None]).square()).sum().item()
    return entropy / len(K), slope / len(K)


def row_entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).sum(-1)  # (n,)
