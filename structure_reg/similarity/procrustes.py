"""Similarity of two feature sets after the best rotation of one onto the other."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_paired
from structure_reg._gram import center_and_scale, finite_or_zero, square_norms
from structure_reg._precision import full_precision, promote


def procrustes(x: Array, y: Array) -> Tensor:
    r"""Cosine of two feature sets after the best rotation of one onto the other.

    .. math:: s = \max_{R^\top R = I} \frac{\langle X R, Y \rangle}{|X|\,|Y|}
                = \frac{\lVert X^\top Y \rVert_*}{|X|\,|Y|}

    where the columns are centred and the narrower tensor is padded with zero columns. The distance
    :math:`\sqrt{2 - 2 s}` and the angle :math:`\arccos s` of shape analysis follow from it; both
    are metrics.

    Parameters
    ----------
    x, y : Tensor or array of shape (n, dx) and (n, dy)
        Features of the same n >= 2 samples.

    Returns
    -------
    Tensor of shape ()
        Value in [0, 1], with 1 for a rotation, a scale and a shift; symmetric; higher is more
        similar. float32, or float64 if an input is. NaN if a tensor is constant.

        Unrelated features score far above 0 once d is close to n: for 64 samples about 0.3 with 8
        features, 0.76 with 64 and 0.97 with 512.

    Raises
    ------
    TypeError
        If an argument is not of a floating dtype.
    ValueError
        If the numbers of rows or the devices differ, or n < 2.

    See Also
    --------
    cka : Sums the squares of the same singular values, so that large ones weigh more.

    Notes
    -----
    Differentiable. The cost is one singular value decomposition of a (dx, dy) matrix.

    References
    ----------
    Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 31,
    1966. Williams et al., "Generalized Shape Metrics on Neural Representations", NeurIPS 2021,
    arXiv 2110.14739.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(64, 8, generator=g, dtype=torch.float64)
    >>> rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=g, dtype=torch.float64))
    >>> unrelated = torch.randn(64, 8, generator=g, dtype=torch.float64)
    >>> torch.allclose(procrustes(x, 3 * x @ rotation + 5), torch.tensor(1.0).double())
    True
    >>> procrustes(x, unrelated)
    tensor(0.2628, dtype=torch.float64)
    """
    x, y = as_tensors("procrustes", x=x, y=y)
    check_paired("procrustes", x=x, y=y)
    x, y = promote(x, y)
    with full_precision(x.device):
        x, y = (finite_or_zero(center_and_scale(z)) for z in (x, y))
        nuclear: Tensor = torch.linalg.svdvals(x.mT @ y).sum()
        cosine = nuclear / (square_norms(x).sum().sqrt() * square_norms(y).sum().sqrt())
        return cosine.clamp_max(1)  # rounding alone exceeds it
