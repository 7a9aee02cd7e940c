"""The RV coefficient: a squared correlation of two sets of variables."""

from __future__ import annotations

from torch import Tensor

from structure_reg._checks import check_paired
from structure_reg.similarity.cka import aligned


def rv(x: Tensor, y: Tensor) -> Tensor:
    r"""RV coefficient of Escoufier, the same number as biased linear CKA.

    .. math:: \mathrm{RV} = \frac{|X^\top Y|^2}{|X^\top X|\, |Y^\top Y|}

    with the columns of X and Y centred. For one column each it is their squared correlation.

    Parameters
    ----------
    x, y : Tensor of shape (n, dx) and (n, dy)
        Features of the same n >= 2 samples.

    Returns
    -------
    Tensor of shape ()
        In [0, 1], 1 for a rotation, a scale and a shift; symmetric; higher is more alike; float32,
        or float64 if an input is. NaN if a tensor is constant.

        Unrelated features do not score 0: ``cka_chance([x], [y], debiased=False)`` is their mean
        and spread, .89 for 64 samples of 512 features.

    Raises
    ------
    TypeError, ValueError
        As :func:`cka`.

    See Also
    --------
    cka : Without the bias.

    References
    ----------
    Robert and Escoufier, "A Unifying Tool for Linear Multivariate Statistical Methods: The
    RV-Coefficient", Applied Statistics 25, 1976.

    Examples
    --------
    >>> x = torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    >>> y = torch.tensor([[0.0], [3.0], [3.0], [5.0]])
    >>> rv(x, y), torch.corrcoef(torch.cat([x, y], 1).T)[0, 1] ** 2
    (tensor(0.7654), tensor(0.7654))
    """
    check_paired("rv", x=x, y=y)
    return aligned([x], [y], "linear", False)[0, 0]
