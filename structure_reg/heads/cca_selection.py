"""How much to shrink a canonical correlation analysis, from pairs that it was not fitted on."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._checks import check_count
from structure_reg._gram import unit_rows
from structure_reg.heads._checks import check_fit
from structure_reg.heads.cca import whitened_directions
from structure_reg.heads.columns import columns, spectrum
from structure_reg.heads.folds import folds

RIDGES = (1.0, 3.0, 10.0, 30.0, 100.0)
POWERS = (0.5, 1.0, 2.0)
SCALES = (5.0, 10.0, 20.0, 40.0, 80.0)


class CcaSelection(NamedTuple):
    """What :func:`select_cca` found.

    Parameters
    ----------
    ridge : tuple of two floats
        For x and for y, scaled to the number of pairs that were given.
    power : float
        The exponent of the correlations.
    logit_scale : float
        The scale of the cosines at which the held-out loss is least.
    loss : float
        That loss: the mean of both ways' negative log-likelihoods of a positive among the held-out
        rows, in nats.
    """

    ridge: tuple[float, float]
    power: float
    logit_scale: float
    loss: float


@torch.no_grad()
def select_cca(
    x: Tensor,
    y: Tensor,
    *,
    ids: Tensor | None = None,
    standardise: bool = True,
    max_samples: int = 2000,
    generator: torch.Generator | None = None,
) -> CcaSelection:
    r"""Choose ridges, power and scale for :func:`fit_cca` by four-fold cross-validation.

    .. math:: \ell = -\tfrac12 \operatorname{mean}_i \bigl[
              \log \operatorname{rowsoftmax}(s \, \hat z_x \hat z_y^\top)_{ii} +
              \log \operatorname{rowsoftmax}(s \, \hat z_y \hat z_x^\top)_{ii} \bigr]

    over the pairs that were left out, at the best of a few scales s. The best ridge for both sides
    comes first, then that of each side alone, every one with every power. How much to shrink
    differs tenfold between encoders and between 100 and 1000 pairs, and recall on few pairs is too
    coarse to tell.

    Parameters
    ----------
    x, y : Tensor of shape (n, d_x), (n, d_y)
        Paired frozen features, n >= 8.
    ids : Tensor of shape (n,), optional
        Integers, one for each pair; rows with the same are positives of each other and stay in one
        fold. None: every pair is its own.
    standardise
        As in :func:`fit_cca`.
    max_samples : int
        With more pairs than that, a random choice of so many, at least 8. What is penalised is then
        the same in all: the ridges shrink as the pairs grow.
    generator : torch.Generator, optional
        For the folds. None: one seeded with 0.

    Returns
    -------
    CcaSelection
        With `ridge` and `power` for :func:`fit_cca`.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes, rows or devices do not fit, there are fewer than 8 different ids, or a value
        is not finite.

    See Also
    --------
    select_layers : The choice that comes before.

    Examples
    --------
    Five hundred pairs need less shrinking than fifty:

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(500, 40, generator=g)
    >>> y = x @ torch.randn(40, 30, generator=g) + 4 * torch.randn(500, 30, generator=g)
    >>> few, many = select_cca(x[:50], y[:50]), select_cca(x, y)
    >>> max(few.ridge) > max(many.ridge)
    True
    >>> head_x, head_y = fit_cca(x, y, ridge=many.ridge, power=many.power)
    """
    name = "select_cca"
    check_fit(name, x, y)
    check_count(name, "max_samples", max_samples, least=8)
    generator = generator or torch.Generator().manual_seed(0)
    parts = [
        HeldOut(name, x, y, ids, kept, left_out, standardise)
        for kept, left_out in folds(name, x, ids, 4, max_samples, generator)
    ]

    losses: dict[tuple[float, float], Tensor] = {}  # ridges: (powers, scales)

    def best(tried: list[tuple[float, float]]) -> tuple[float, float]:
        for ridge in tried:
            if ridge not in losses:
                losses[ridge] = torch.stack([part.losses(*ridge) for part in parts]).mean(0)
        return min(tried, key=lambda ridge: losses[ridge].min().item())

    ridge = best([(both, both) for both in RIDGES])
    ridge = best([(of_x, ridge[1]) for of_x in RIDGES])
    ridge = best([(ridge[0], of_y) for of_y in RIDGES])
    of_best = losses[ridge]
    power, scale = divmod(int(of_best.argmin()), len(SCALES))
    # What counts is the penalty on the sum over the pairs, not on their mean.
    share = math.fsum(part.pairs for part in parts) / len(parts) / len(x)
    return CcaSelection(
        (share * ridge[0], share * ridge[1]), POWERS[power], SCALES[scale], of_best.min().item()
    )


class HeldOut:
    """One fold: what every ridge shares, and the loss of each on the pairs left out."""

    def __init__(
        self,
        function: str,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None,
        kept: Tensor,
        left_out: Tensor,
        standardise: bool,
    ) -> None:
        X = columns(function, "x", x[kept], standardise=standardise)
        Y = columns(function, "y", y[kept], standardise=standardise)
        self.S, self.T = spectrum(X), spectrum(Y)
        self.UU = self.S.U.mT @ self.T.U
        self.x, self.y = ((z[left_out] - Z.mean) * Z.factor for z, Z in ((x, X), (y, Y)))
        own = torch.arange(len(left_out), device=x.device) if ids is None else ids[left_out]
        self.negative = own[:, None] != own  # (m, m)
        self.pairs = len(kept)

    def losses(self, ridge_x: float, ridge_y: float) -> Tensor:
        """For every power and scale: (powers, scales)."""
        dim = min(len(self.S.s), len(self.T.s))
        W_x, W_y, rho = whitened_directions(self.S, self.T, self.UU, ridge_x, ridge_y, dim)
        a, b = self.x @ W_x, self.y @ W_y  # (m, dim)
        rows = []
        for power in POWERS:
            weight = rho.pow(power / 2)
            cosines = unit_rows(a * weight) @ unit_rows(b * weight).mT  # (m, m)
            rows.append(torch.stack([contrast(s * cosines, self.negative) for s in SCALES]))
        return torch.stack(rows)


def contrast(Z: Tensor, negative: Tensor) -> Tensor:
    """Mean over rows and columns of -log of the positives' share."""
    positive = Z.masked_fill(negative, -math.inf)
    both = [Z.logsumexp(axis) - positive.logsumexp(axis) for axis in (1, 0)]
    return torch.stack(both).mean()
