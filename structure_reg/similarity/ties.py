"""How much of a kNN score is an arbitrary choice among equal neighbours."""

from __future__ import annotations

from torch import Tensor

from structure_reg._checks import check_features
from structure_reg._precision import result_dtype
from structure_reg.similarity.nearest import nearest, neighbourhood_size


def tie_fraction(x: Tensor, *, k: int | str | None = None) -> Tensor:
    r"""Share of the rows whose k-th neighbour is no nearer than the next.

    The neighbours of such a row are an arbitrary choice, and so is every kNN score built on them.
    Duplicates and collapsed layers cause it.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Features, n >= 2.
    k : int or {"rice", "sqrt", "sturges"}, optional
        As in :func:`mutual_knn`.

    Returns
    -------
    Tensor of shape ()
        In [0, 1]; 0 is best; float32 or float64. Equal means equal up to the rounding of a cosine.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shape does not fit, or k is not in 1 to n - 1.

    See Also
    --------
    select_layers : Warns where it is high.

    References
    ----------
    Ties in nearest neighbours: Devroye, Györfi and Lugosi, "A Probabilistic Theory of Pattern
    Recognition", Springer 1996, section 11.2.

    Examples
    --------
    Ten rows of each kind: four of the nine equal ones are picked at will, or all nine.

    >>> x = torch.eye(20).repeat_interleave(10, 0)
    >>> tie_fraction(x, k=4), tie_fraction(x, k=9)
    (tensor(1.), tensor(0.))
    """
    check_features("tie_fraction", x=x)
    size = neighbourhood_size("tie_fraction", k, len(x))
    return nearest(x, size).tied.to(result_dtype(x)).mean()
