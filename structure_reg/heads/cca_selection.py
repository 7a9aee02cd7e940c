"""Choosing the ridges and the power of a canonical correlation analysis on held-out pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_count, check_flag, check_paired
from structure_reg._gram import unit_rows
from structure_reg._ids import Ids, as_ids
from structure_reg._precision import needs_float64
from structure_reg._progress import progress_step
from structure_reg.heads.columns import scaled_moments
from structure_reg.heads.folds import folds
from structure_reg.heads.moments import PairMoments, PairRows, moments_of_rows
from structure_reg.heads.spectra import (
    PairSpectra,
    inverse,
    spectra_of_few_rows,
    spectra_of_moments,
    whitening,
)

RIDGES = (1.0, 3.0, 10.0, 30.0, 100.0)
POWERS = (0.5, 1.0, 2.0)
SCALES = (5.0, 10.0, 20.0, 40.0, 80.0)  # each twice the one before
RELEVANT = 1e-3
MANY = 1000  # pairs
STEPS = 24  # about as many as a progress bar sees: each fold once, then with each ridge


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


@needs_float64
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
    check_paired(name, x=x, y=y)
    ids = None if ids is None else as_ids(name, x.device, ids=ids)[0]
    standardise = check_flag(name, "standardise", standardise)
    max_samples = check_count(name, "max_samples", max_samples, least=8)
    generator = generator or torch.Generator().manual_seed(0)
    return chosen_cca(x, y, ids, standardise, max_samples, generator)


@needs_float64
@torch.no_grad()
def chosen_cca(
    x: Any,
    y: Any,
    ids: Tensor | None,
    standardise: bool,
    max_samples: int,
    generator: torch.Generator,
) -> CcaSelection:
    """The choice for tensors, or for what has their length and device and gives rows by index."""
    name = "select_cca"
    rows, fold = folds(name, x, ids, 4, max_samples, generator)
    group = torch.arange(len(rows), device=x.device) if ids is None else ids[rows]
    parts = [
        Fold(spectra, x[rows[fold == k]], y[rows[fold == k]], group[fold == k])
        for k, spectra in enumerate(fold_spectra(name, x[rows], y[rows], fold, standardise))
    ]
    # Half of the folds are enough to compare ridges on many pairs.
    ridge = search_ridges(parts if len(rows) < MANY else parts[::2])
    losses = torch.stack([part.losses(ridge, torch.float64) for part in parts]).mean(0)
    power, scale = divmod(int(losses.argmin()), len(SCALES))
    # The penalty on the sum over the pairs is what carries over, not that on their mean.
    share = math.fsum(part.spectra.n for part in parts) / len(parts) / len(x)
    return CcaSelection(
        (share * ridge[0], share * ridge[1]), POWERS[power], SCALES[scale], losses.min().item()
    )


def fold_spectra(
    function: str, x: Tensor, y: Tensor, fold: Tensor, standardise: bool
) -> Iterator[PairSpectra]:
    """Spectra of the pairs outside each fold, of many pairs from the moments of the other folds."""
    numbers = range(int(fold.max()) + 1)
    if len(x) - int((fold == 0).sum()) <= max(x.shape[1], y.shape[1]):
        for k in numbers:
            yield spectra_of_few_rows(function, x[fold != k], y[fold != k], standardise)
        return
    fitted = [PairMoments() for _ in numbers]
    for k in numbers:
        of_fold = moments_of_rows(function, PairRows(x[fold == k], y[fold == k]))
        for other in numbers:
            if other != k:
                fitted[other].merge(of_fold)
    while fitted:  # those that are done with are let go
        yield spectra_of_moments(scaled_moments(fitted.pop(0), standardise))


def search_ridges(parts: list[Fold]) -> tuple[float, float]:
    """Return the best ridges: of both sides at once, then of each side."""

    @cache
    def loss(ridge: tuple[float, float]) -> float:
        losses = [part.losses(ridge, torch.float32) for part in parts]
        return torch.stack(losses).mean(0).min().item()

    ridge = descend(lambda common: loss((common, common)), RIDGES[len(RIDGES) // 2])
    ridge_x = descend(lambda ridge_x: loss((ridge_x, ridge)), ridge)
    return ridge_x, descend(lambda ridge_y: loss((ridge_x, ridge_y)), ridge)


def descend(loss: Callable[[float], float], start: float) -> float:
    """Walk along the grid of ridges from `start` while the loss falls."""
    i = RIDGES.index(start)
    while True:
        near = range(max(0, i - 1), min(len(RIDGES), i + 2))
        best = min(near, key=lambda j: loss(RIDGES[j]))
        if best == i:
            return RIDGES[i]
        i = best


class Fold:
    """One fold: the spectra that all ridges share, and the loss of each on the held-out pairs."""

    def __init__(self, spectra: PairSpectra, x: Tensor, y: Tensor, group: Tensor) -> None:
        self.spectra = spectra
        self.x = spectra.x.scaling(x) @ spectra.x.V  # (m, r_x) held-out rows in the basis of V
        self.y = spectra.y.scaling(y) @ spectra.y.V  # (m, r_y)
        self.positives = (group[:, None] == group).nonzero(as_tuple=True)  # two of (pairs,)
        progress_step()

    def losses(self, ridge: tuple[float, float], dtype: torch.dtype) -> Tensor:
        """Return the held-out loss of every power and scale, (powers, scales).

        In float32 directions that the ridge leaves next to nothing of are left out: enough to
        compare ridges, in a fraction of the time.
        """
        p = self.spectra
        h_x, h_y = whitening(p.x, ridge[0]), whitening(p.y, ridge[1])
        i, j = is_relevant(h_x * p.x.s, dtype), is_relevant(h_y * p.y.s, dtype)
        K = (h_x * p.x.s)[i, None] * p.UU[i][:, j] * (h_y * p.y.s)[j]
        A, rho, B = correlated_directions(K.to(dtype))
        a = (self.x[:, i] * h_x[i]).to(dtype) @ A  # (m, r)
        b = (self.y[:, j] * h_y[j]).to(dtype) @ B
        rows = []
        for power in POWERS:
            weight = rho.pow(power / 2)
            cosines = unit_rows(a * weight) @ unit_rows(b * weight).mT  # (m, m)
            rows.append(contrast(cosines.double(), self.positives))
        progress_step()
        return torch.stack(rows)


def is_relevant(a: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of K that matter; row i is no longer than a_i. All of them if a fold is constant."""
    share = RELEVANT if dtype == torch.float32 else 0.0
    largest = a.square().amax()
    return (a.square() > share * largest) | (largest == 0)


def correlated_directions(K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors and values of K, from the symmetric eigenproblem of its smaller side."""
    if K.shape[0] < K.shape[1]:
        B, rho, A = correlated_directions(K.mT)
        return A, rho, B
    squares, B = torch.linalg.eigh(K.mT @ K)
    squares = torch.where(squares > torch.finfo(K.dtype).eps * squares[-1], squares, 0)
    rho = squares.sqrt()
    return K @ B * inverse(rho), rho.clamp(max=1), B


def contrast(cosines: Tensor, positives: tuple[Tensor, ...]) -> Tensor:
    """-log of the positives' share of the softmax at each scale, averaged over rows and columns."""
    E = (SCALES[0] * (cosines - 1)).exp_()  # float64 holds the smallest, e^-160
    zero = E.new_zeros(len(E))
    losses = []
    for _ in SCALES:
        P = E[positives]
        of_rows, of_columns = (zero.index_add(0, index, P) for index in positives)
        share = E.sum(1).log() - of_rows.log(), E.sum(0).log() - of_columns.log()
        losses.append(torch.stack(share).mean())
        E.square_()  # of twice the scale
    return torch.stack(losses)
