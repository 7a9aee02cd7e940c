"""Representational similarity analysis: whether the same pairs of samples lie far apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pdist

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_choice, check_paired
from structure_reg._precision import full_precision, needs_float64, promote

CORRELATIONS = ("pearson", "spearman")


@needs_float64
def rsa(x: Array, y: Array, *, correlation: str = "pearson") -> Tensor:
    r"""Correlation between the Euclidean distances of all pairs of rows in x and in y.

    .. math:: \operatorname{corr}_{i < j} \bigl( |x_i - x_j|,\; |y_i - y_j| \bigr)

    Parameters
    ----------
    x, y : Tensor or array of shape (n, dx) and (n, dy)
        Features of the same n >= 3 samples.
    correlation : {"pearson", "spearman"}
        Correlation of the distances, or of their ranks; equal distances share their mean rank.

    Returns
    -------
    Tensor of shape ()
        Value in [-1, 1], with 1 for a rotation, a scale and a shift; symmetric; higher is more
        similar. float32, or float64 if an input is. The mean over all re-pairings of the rows is 0.
        NaN if all distances of a tensor are equal, as in a constant one.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the numbers of rows or the devices differ, n < 3, or `correlation` is not one of the
        two.

    See Also
    --------
    cka : Compares inner products instead of distances.

    Notes
    -----
    Differentiable for "pearson", with zero gradient for the distance between equal rows. Ranks have
    no gradient. Scratch memory is n (n - 1) / 2 distances per tensor in float64, and a few times as
    much for ranks.

    References
    ----------
    Kriegeskorte et al., "Representational similarity analysis - connecting the branches of systems
    neuroscience", Frontiers in Systems Neuroscience 2, 2008.

    Examples
    --------
    Ranks are invariant to any increasing map of the distances:

    >>> x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    >>> y = torch.tensor([[0.0], [1.0], [9.0], [81.0]])
    >>> rsa(x, y), rsa(x, y, correlation="spearman")
    (tensor(0.9117), tensor(1.))
    """
    x, y = as_tensors("rsa", x=x, y=y)
    check_paired("rsa", rows=3, x=x, y=y)
    check_choice("rsa", "correlation", correlation, CORRELATIONS)
    x, y = promote(x, y)
    with full_precision(x.device):
        # Unscaled rows in float64: rescaling could make equal distances differ in the last digit.
        u, v = pdist(x.double()), pdist(y.double())  # (n (n - 1) / 2,)
        if correlation == "spearman":
            u, v = mean_ranks(u), mean_ranks(v)
        return pearson(u, v).to(x.dtype)


def pearson(u: Tensor, v: Tensor) -> Tensor:
    # Subtracting the first entry turns equal values into exact zeros; the mean alone would leave
    # rounding errors.
    u, v = (w - w[0].detach() for w in (u, v))
    u, v = u - u.mean(), v - v.mean()
    r: Tensor = (u @ v) / ((u @ u).sqrt() * (v @ v).sqrt())
    return r.clamp(-1, 1)  # rounding alone exceeds it


def mean_ranks(u: Tensor) -> Tensor:
    """Twice the rank of each entry, from 0; equal entries share their mean rank.

    An infinite distance has no rank: it is what is left of an infinite or a too large entry.
    """
    u = u.detach()
    ordered = u.sort().values
    first, last = torch.searchsorted(ordered, u), torch.searchsorted(ordered, u, right=True)
    return torch.where(u.isfinite(), (first + last).double(), torch.nan)
