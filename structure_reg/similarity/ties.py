"""Share of the rows whose neighbours are a random choice among ties."""

from __future__ import annotations

from torch import Tensor

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_features
from structure_reg._precision import needs_float64, result_dtype
from structure_reg.similarity.nearest import nearest, neighbourhood_size


@needs_float64
def tie_fraction(x: Array, *, k: int | str | None = None) -> Tensor:
    r"""Share of the rows whose k-th neighbour is no nearer than the next one.

    The neighbours of such a row are a random choice among ties, which brings every kNN score that
    uses them closer to chance. Causes are duplicates, one-hot features and collapsed layers.

    Parameters
    ----------
    x : Tensor or array of shape (n, d)
        Features of n >= 2 samples.
    k : int or {"rice", "sqrt", "sturges"}, optional
        Number of neighbours, as in :func:`mutual_knn`.

    Returns
    -------
    Tensor of shape ()
        Value in [0, 1]; 0 is best; float32, or float64 if the input is. Cosines that differ by no
        more than rounding count as equal.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shape is not (n, d), or k is not in 1 to n - 1.

    See Also
    --------
    select_layers : Warns if this share is high.

    References
    ----------
    Ties in nearest neighbours: Devroye, Györfi and Lugosi, "A Probabilistic Theory of Pattern
    Recognition", Springer 1996, section 11.2.

    Examples
    --------
    With ten copies of each row, the choice of 4 among 9 equal neighbours is random; that of all 9
    is not:

    >>> x = torch.eye(20).repeat_interleave(10, 0)
    >>> tie_fraction(x, k=4), tie_fraction(x, k=9)
    (tensor(1.), tensor(0.))
    """
    (x,) = as_tensors("tie_fraction", x=x)
    check_features("tie_fraction", x=x)
    size = neighbourhood_size("tie_fraction", k, len(x))
    return nearest(x, size).tied.to(result_dtype(x)).mean()
