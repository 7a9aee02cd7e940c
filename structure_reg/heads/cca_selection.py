"""Choosing the ridges and the power of a canonical correlation analysis on held-out pairs."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_count, check_flag
from structure_reg._gram import unit_rows
from structure_reg._ids import Ids, as_ids
from structure_reg.heads._checks import check_fit
from structure_reg.heads.cca import whitened_directions
from structure_reg.heads.columns import columns, spectrum
from structure_reg.heads.folds import folds

RIDGES = (1.0, 3.0, 10.0, 30.0, 100.0)
POWERS = (0.5, 1.0, 2.0)
SCALES = (5.0, 10.0, 20.0, 40.0, 80.0)


class CcaSelection(NamedTuple):
    """The choice of :func:`select_cca`.

    Parameters
    ----------
    ridge : tuple of two floats
        Ridges for x and for y, scaled to the number of pairs passed in.
    power : float
        Exponent of the correlations.
    logit_scale : float
        Scale of the cosines that minimises the held-out loss.
    loss : float
        The held-out loss in nats: the negative log-likelihood of the positives among the held-out
        rows, averaged over both directions.
    """

    ridge: tuple[float, float]
    power: float
    logit_scale: float
    loss: float


@torch.no_grad()
def select_cca(
    x: Array,
    y: Array,
    *,
    ids: Ids | None = None,
    standardise: bool = True,
    max_samples: int = 2000,
    generator: torch.Generator | None = None,
) -> CcaSelection:
    r"""Choose ridges, power and scale for :func:`fit_cca` by four-fold cross-validation.

    .. math:: \ell = -\tfrac12 \operatorname{mean}_i \bigl[
              \log \operatorname{rowsoftmax}(s \, \hat z_x \hat z_y^\top)_{ii} +
              \log \operatorname{rowsoftmax}(s \, \hat z_y \hat z_x^\top)_{ii} \bigr]

    averaged over the held-out pairs, at the best of a few scales s. The search first finds the best
    common ridge for both sides, and then the best ridge of each side, all with every power. The
    best ridge varies tenfold between encoders, and between 100 and 1000 pairs; the loss can tell
    ridges apart on few pairs, where recall is too coarse.

    Parameters
    ----------
    x, y : Tensor or array of shape (n, d_x), (n, d_y)
        Paired frozen features, n >= 8.
    ids : Tensor or array of shape (n,), optional
        Id of each pair, also as a list, and of any kind, as in :func:`retrieval`. Pairs with equal
        ids are positives of each other and stay in one fold. By default, all pairs are distinct.
    standardise : bool
        Whether to scale columns to unit variance first, as in :func:`fit_cca`.
    max_samples : int
        Maximum number of pairs to use, at least 8. From more pairs, a random subset is drawn; the
        ridges are then rescaled so that the total penalty fits all pairs.
    generator : torch.Generator, optional
        Generator of the folds and the subset. By default, one seeded with 0.

    Returns
    -------
    CcaSelection
        The best `ridge` and `power` for :func:`fit_cca`, with their scale and loss.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If shapes, numbers of rows or devices do not match, if there are fewer than 8 distinct ids,
        or if a feature is not finite.

    See Also
    --------
    select_layers : Choose the layers to align first.

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
    x, y = as_tensors(name, x=x, y=y)
    check_fit(name, x, y)
    group = None if ids is None else as_ids(name, x.device, ids=ids)[0]
    standardise = check_flag(name, "standardise", standardise)
    max_samples = check_count(name, "max_samples", max_samples, least=8)
    generator = generator or torch.Generator().manual_seed(0)
    parts = [
        Fold(name, x, y, group, fitted, held_out, standardise)
        for fitted, held_out in folds(name, x, group, 4, max_samples, generator)
    ]
    ridge, losses = search_ridges(parts)
    power, scale = divmod(int(losses.argmin()), len(SCALES))
    # The penalty on the sum over the pairs is what carries over, not that on their mean.
    share = math.fsum(part.pairs for part in parts) / len(parts) / len(x)
    return CcaSelection(
        (share * ridge[0], share * ridge[1]), POWERS[power], SCALES[scale], losses.min().item()
    )


def search_ridges(parts: list[Fold]) -> tuple[tuple[float, float], Tensor]:
    """Return the best ridges and their losses (powers, scales): both at once, then side by side."""
    losses: dict[tuple[float, float], Tensor] = {}  # ridges: (powers, scales)

    def best(candidates: list[tuple[float, float]]) -> tuple[float, float]:
        for ridge in candidates:
            if ridge not in losses:
                losses[ridge] = torch.stack([part.losses(*ridge) for part in parts]).mean(0)
        return min(candidates, key=lambda ridge: losses[ridge].min().item())

    ridge = best([(common, common) for common in RIDGES])
    ridge = best([(ridge_x, ridge[1]) for ridge_x in RIDGES])
    ridge = best([(ridge[0], ridge_y) for ridge_y in RIDGES])
    return ridge, losses[ridge]


class Fold:
    """One fold: the spectra that all ridges share, and the loss of each on the held-out pairs."""

    def __init__(
        self,
        function: str,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None,
        fitted: Tensor,
        held_out: Tensor,
        standardise: bool,
    ) -> None:
        X = columns(function, "x", x[fitted], standardise=standardise)
        Y = columns(function, "y", y[fitted], standardise=standardise)
        self.S, self.T = spectrum(X), spectrum(Y)
        self.UU = self.S.U.mT @ self.T.U
        self.x, self.y = ((z[held_out] - Z.mean) * Z.factor for z, Z in ((x, X), (y, Y)))
        group = torch.arange(len(held_out), device=x.device) if ids is None else ids[held_out]
        self.negative = group[:, None] != group  # (m, m)
        self.pairs = len(fitted)

    def losses(self, ridge_x: float, ridge_y: float) -> Tensor:
        """Return the held-out loss of every power and scale, (powers, scales)."""
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
    """Return -log of the positives' share of the softmax, averaged over rows and columns."""
    positive = Z.masked_fill(negative, -math.inf)
    both = [Z.logsumexp(axis) - positive.logsumexp(axis) for axis in (1, 0)]
    return torch.stack(both).mean()
