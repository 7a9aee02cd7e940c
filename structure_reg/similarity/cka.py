"""Centred kernel alignment of two feature sets, and of every pair of layers from two lists.

:func:`cka` evaluates one pair, :func:`cka_grid` all pairs in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_choice, check_flag, check_layers, check_paired
from structure_reg._precision import full_precision, needs_float64, result_dtype
from structure_reg.similarity.features import feature_sums, features_are_cheaper
from structure_reg.similarity.grams import KERNELS, Layer, Margins, gram_sums, prepare
from structure_reg.similarity.hsic import cosine, hsic, norms


@needs_float64
def cka(x: Array, y: Array, *, kernel: str = "linear", debiased: bool = True) -> Tensor:
    r"""Cosine of two centred kernel matrices over the same samples.

    .. math::
        \mathrm{CKA} = \frac{h(K, L)}{\sqrt{h(K, K)\, h(L, L)}}, \qquad
        h(K, L) = \sum_{i \ne j} K_{ij} L_{ij} - \frac{2\, r_K \cdot r_L}{n - 2}
                + \frac{s_K s_L}{(n - 1)(n - 2)}

    where :math:`r` holds the row sums and :math:`s` is the sum of a kernel matrix, both without its
    diagonal [1]_. The biased form is :math:`h = \langle H K H, H L H \rangle` with the centring
    matrix :math:`H` [2]_.

    Parameters
    ----------
    x, y : Tensor or array of shape (n, dx) and (n, dy)
        Features of the same n >= 4 samples, or n >= 2 for the biased form. Row i of `x` and row i
        of `y` belong to the same sample. To exclude samples, drop their rows.
    kernel : {"linear", "rbf"}
        Kernel of the rows: :math:`K_{ij} = x_i \cdot x_j`, or
        :math:`\exp(-|x_i - x_j|^2 / 2 \sigma^2)`, where :math:`\sigma` is the median distance
        between two different rows of the same tensor.
    debiased : bool
        Choice of the estimator. The debiased form (default) is 0 on average for unrelated features,
        whatever n and d. The biased form is CKA as first published: for unrelated features it
        approaches 1 as d grows beyond n. With the linear kernel it equals the :func:`rv`
        coefficient.

    Returns
    -------
    Tensor of shape ()
        Value in [-1, 1], or in [0, 1] for the biased form, with 1 for a rotation, a scale and a
        shift; values of the debiased form below 0 occur by chance. Symmetric; higher is more
        similar; float32, or float64 if an input is. NaN if a tensor is constant, or if its median
        distance is 0 with "rbf". The debiased form compares the kernels off their diagonals and is
        also NaN if a :math:`h(K, K)` is 0 up to rounding: all rows of a tensor are equally far
        apart, or all but one are equal.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the numbers of rows or the devices differ, there are too few rows, or `kernel` is not one
        of the two.

    See Also
    --------
    cka_chance : Mean and standard deviation of this value for unrelated features.
    CKA : Exact value for samples that arrive in batches.

    Notes
    -----
    Differentiable, including the median distance. Apart from one centred copy of each tensor,
    scratch memory is bounded by :func:`tile_budget`, also for the gradient. Products use float32,
    or float64 if an input is; they are summed in float64. Rows that are much longer than the others
    cost no digits.

    References
    ----------
    .. [1] Song et al., "Feature Selection via Dependence Maximization", JMLR 2012.
    .. [2] Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019,
       arXiv 1905.00414.

    Examples
    --------
    Unrelated features with more dimensions than samples:

    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(64, 512, generator=g), torch.randn(64, 512, generator=g)
    >>> cka(x, y), cka(x, y, debiased=False)
    (tensor(-0.0301), tensor(0.8854))

    A shift and a scale do not change the value:

    >>> cka(x, 1e4 * x + 1000)
    tensor(1.)
    """
    x, y = as_tensors("cka", x=x, y=y)
    debiased = check_flag("cka", "debiased", debiased)
    check_paired("cka", rows=least_rows(debiased), x=x, y=y)
    check_choice("cka", "kernel", kernel, KERNELS)
    return cka_matrix([x], [y], kernel, debiased)[0, 0]


def cka_grid(
    xs: Sequence[Tensor],
    ys: Sequence[Tensor],
    *,
    kernel: str = "linear",
    debiased: bool = True,
) -> Tensor:
    """:func:`cka` of every layer of one encoder with every layer of another, in one pass.

    The kernel matrices of all layers are computed once, tile by tile. With many more samples than
    features, the linear kernel uses products of features instead.

    Parameters
    ----------
    xs, ys : sequence of Tensor of shape (n, d)
        Layers for the same samples; widths and dtypes may differ. A layer that occurs twice, as in
        ``cka_grid(xs, xs)``, is processed once.
    kernel, debiased
        Form of CKA, as in :func:`cka`.

    Returns
    -------
    Tensor of shape (len(xs), len(ys))
        Value of :func:`cka` for each pair. A constant layer turns only its own row or column into
        NaN.

    Raises
    ------
    TypeError, ValueError
        For the same reasons as in :func:`cka`, or if a list is empty.

    See Also
    --------
    cka_null : Grids of the same layers with randomly re-paired rows.
    """
    debiased = check_flag("cka_grid", "debiased", debiased)
    check_layers("cka_grid", rows=least_rows(debiased), xs=xs, ys=ys)
    check_choice("cka_grid", "kernel", kernel, KERNELS)
    return cka_matrix(xs, ys, kernel, debiased)


def cka_matrix(xs: Sequence[Tensor], ys: Sequence[Tensor], kernel: str, debiased: bool) -> Tensor:
    """:func:`cka_grid` without the checks."""
    unique = {id(x): x for x in (*xs, *ys)}
    index = {key: l for l, key in enumerate(unique)}
    rows, columns = ([index[id(x)] for x in side] for side in (xs, ys))
    dtype = result_dtype(*xs, *ys)
    with full_precision(xs[0].device):
        layers = [prepare(x.to(dtype), kernel) for x in unique.values()]
        inner, margins = kernel_sums(layers, rows, columns)
        H = hsic(inner, margins, margins, debiased=debiased)
        roots = norms(inner, margins, debiased=debiased, eps=torch.finfo(dtype).eps)
        pairs = take(take(H, rows).mT, columns).mT
        C = cosine(pairs, take(roots, rows), take(roots, columns), debiased=debiased)
        return C.to(dtype)  # (LA, LB)


def take(x: Tensor, index: Sequence[int]) -> Tensor:
    """x[index], without the wait for a GPU that copying a list of indices to it takes."""
    return torch.stack([x[i] for i in index])


def kernel_sums(
    layers: Sequence[Layer], rows: Sequence[int], columns: Sequence[int]
) -> tuple[Tensor, Margins]:
    """Inner products of the kernels, from samples or from features, whichever are fewer."""
    itself = {(l, l) for l in range(len(layers))}
    pairs = itself | {(min(l, m), max(l, m)) for l in rows for m in columns}
    if features_are_cheaper(layers, pairs):
        return feature_sums(layers, pairs)
    return gram_sums(layers)


def least_rows(debiased: bool) -> int:
    """Fewest rows of the estimator: the debiased one divides by n (n - 3)."""
    return 4 if debiased else 2
