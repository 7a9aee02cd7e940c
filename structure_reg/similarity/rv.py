"""The RV coefficient: the squared correlation of two sets of variables."""

from __future__ import annotations

from torch import Tensor

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_paired
from structure_reg._precision import needs_float64
from structure_reg.similarity.cka import cka_matrix


@needs_float64
def rv(x: Array, y: Array) -> Tensor:
    r"""RV coefficient, which equals biased linear CKA.

    .. math:: \mathrm{RV} = \frac{|X^\top Y|^2}{|X^\top X|\, |Y^\top Y|}

    where the columns of X and Y are centred. For one column each, it is their squared correlation.

    Parameters
    ----------
    x, y : Tensor or array of shape (n, dx) and (n, dy)
        Features of the same n >= 2 samples.

    Returns
    -------
    Tensor of shape ()
        Value in [0, 1], with 1 for a rotation, a scale and a shift; symmetric; higher is more
        similar. float32, or float64 if an input is. NaN if a tensor is constant.

        Unrelated features do not score 0: ``cka_chance([x], [y], debiased=False)`` returns the mean
        and standard deviation of their score. The mean is 0.89 for 64 samples of 512 features.

    Raises
    ------
    TypeError, ValueError
        For the same reasons as in :func:`cka`.

    See Also
    --------
    cka : The debiased form is 0 on average for unrelated features.

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
    x, y = as_tensors("rv", x=x, y=y)
    check_paired("rv", x=x, y=y)
    return cka_matrix([x], [y], "linear", False)[0, 0]
