"""Representational similarity analysis: do the same pairs of samples lie far apart?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pdist

from structure_reg._checks import check_choice, check_paired
from structure_reg._precision import full_precision, promote

CORRELATIONS = ("pearson", "spearman")


def rsa(x: Tensor, y: Tensor, *, correlation: str = "pearson") -> Tensor:
    r"""Correlation of the Euclidean distances of all pairs of rows.

    .. math:: \operatorname{corr}_{i < j} \bigl( |x_i - x_j|,\; |y_i - y_j| \bigr)

    Parameters
    ----------
    x, y : Tensor of shape (n, dx) and (n, dy)
        Features of the same n >= 3 samples.
    correlation : {"pearson", "spearman"}
        Of the distances or of their ranks, where equal distances share their mean rank.

    Returns
    -------
    Tensor of shape ()
        In [-1, 1], 1 for a rotation, a scale and a shift; symmetric; higher is more alike; float32,
        or float64 if an input is. Unrelated features score 0 on average over re-pairings. NaN if
        all distances of a tensor are equal, as in a constant one.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the rows or devices do not fit, n < 3, or `correlation` is not one of the two.

    See Also
    --------
    cka : Compares inner products instead of distances.

    Notes
    -----
    Differentiable for "pearson", with a zero gradient where two rows are equal; ranks have none.
    Takes the memory of n (n - 1) / 2 distances of each tensor in float64, and a few times that for
    ranks.

    References
    ----------
    Kriegeskorte et al., "Representational similarity analysis - connecting the branches of systems
    neuroscience", Frontiers in Systems Neuroscience 2, 2008.

    Examples
    --------
    Ranks forgive any growing map of the distances:

    >>> x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    >>> y = torch.tensor([[0.0], [1.0], [9.0], [81.0]])
    >>> rsa(x, y), rsa(x, y, correlation="spearman")
    (tensor(0.9117), tensor(1.))
    """
    check_paired("rsa", rows=3, x=x, y=y)
    check_choice("rsa", "correlation", correlation, CORRELATIONS)
    x, y = promote(x, y)
    with full_precision(x.device):
        # Of the rows as they are, in float64: neither a shift nor a scale may part equal distances.
        u, v = pdist(x.double()), pdist(y.double())  # (n (n - 1) / 2,)
        if correlation == "spearman":
            u, v = mean_ranks(u), mean_ranks(v)
        return pearson(u, v).to(x.dtype)


def pearson(u: Tensor, v: Tensor) -> Tensor:
    # The first entry, because equal values leave nothing then, and rounding something.
    u, v = (w - w[0].detach() for w in (u, v))
    u, v = u - u.mean(), v - v.mean()
    return (u @ v) / ((u @ u).sqrt() * (v @ v).sqrt())


def mean_ranks(u: Tensor) -> Tensor:
    """Twice the rank of each entry, from 0; equal entries share their mean, NaN stays NaN."""
    u = u.detach()
    ordered = u.sort().values
    below, upto = torch.searchsorted(ordered, u), torch.searchsorted(ordered, u, right=True)
    return torch.where(u.isnan(), torch.nan, (below + upto).double())
