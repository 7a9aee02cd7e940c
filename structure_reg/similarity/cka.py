"""Centred kernel alignment of two sets of features, and of every pair from two lists.

:func:`cka` is the formula for one pair, :func:`cka_grid` the same for all of them in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from structure_reg._checks import check_choice, check_layers, check_paired
from structure_reg._precision import full_precision, result_dtype
from structure_reg.similarity.features import feature_sums, features_are_cheaper
from structure_reg.similarity.grams import KERNELS, Layer, Margins, gram_sums, prepare
from structure_reg.similarity.hsic import hsic


def cka(x: Tensor, y: Tensor, *, kernel: str = "linear", debiased: bool = True) -> Tensor:
    r"""Cosine of two centred kernel matrices over the same samples.

    .. math::
        \mathrm{CKA} = \frac{h(K, L)}{\sqrt{h(K, K)\, h(L, L)}}, \qquad
        h(K, L) = \sum_{i \ne j} K_{ij} L_{ij} - \frac{2\, r_K \cdot r_L}{n - 2}
                + \frac{s_K s_L}{(n - 1)(n - 2)}

    with :math:`r` the row sums and :math:`s` the sum of a kernel matrix off its diagonal [1]_. The
    biased form has :math:`h = \langle H K H, H L H \rangle`, with :math:`H` the centring matrix
    [2]_.

    Parameters
    ----------
    x, y : Tensor of shape (n, dx) and (n, dy)
        Features of the same n >= 4 samples, or n >= 2 if biased; row i of `x` and of `y` are one
        sample. To leave samples out, leave out their rows.
    kernel : {"linear", "rbf"}
        :math:`K_{ij} = x_i \cdot x_j`, or :math:`\exp(-|x_i - x_j|^2 / 2 \sigma^2)` with
        :math:`\sigma` the median distance of two different rows, of each tensor for itself.
    debiased : bool
        True, the default: 0 on average for unrelated features, whatever n and d. False: the
        published CKA, which goes to 1 for unrelated features as d grows beyond n; it is the
        :func:`rv` coefficient for the linear kernel.

    Returns
    -------
    Tensor of shape ()
        At most 1, which a rotation, a scale and a shift reach; at least -1 debiased, where values
        below 0 are chance and are not clamped, and at least 0 biased. Symmetric; higher is more
        alike; float32, or float64 if an input is. NaN if a layer is constant, because 0 / 0 has no
        value, or its median distance is 0 for "rbf". Rows that are all equally far apart leave
        nothing to the debiased form but rounding.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the rows or devices of the tensors do not fit, there are too few, or `kernel` is not one
        of the two.

    See Also
    --------
    cka_chance : The mean and spread of this value for unrelated features.
    CKA : The same, exactly, for samples that come in batches.

    Notes
    -----
    Differentiable, through the median distance too. Scratch beside one centred copy of each tensor
    is bounded by :func:`tile_budget`, in the gradient as well. Products are float32 for inputs
    below float64, sums over them float64.

    References
    ----------
    .. [1] Song et al., "Feature Selection via Dependence Maximization", JMLR 2012.
    .. [2] Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019,
       arXiv 1905.00414.

    Examples
    --------
    Features that have nothing to do with each other, in more dimensions than there are samples:

    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(64, 512, generator=g), torch.randn(64, 512, generator=g)
    >>> cka(x, y), cka(x, y, debiased=False)
    (tensor(-0.0301), tensor(0.8854))

    A shift and a scale cost nothing:

    >>> cka(x, 1e4 * x + 1000)
    tensor(1.)
    """
    check_paired("cka", rows=least_rows(debiased), x=x, y=y)
    check_choice("cka", "kernel", kernel, KERNELS)
    return aligned([x], [y], kernel, debiased)[0, 0]


def cka_grid(
    xs: Sequence[Tensor],
    ys: Sequence[Tensor],
    *,
    kernel: str = "linear",
    debiased: bool = True,
) -> Tensor:
    """:func:`cka` of every layer of one encoder with every layer of another, in one pass.

    The kernel matrices of all layers are made once, a tile at a time; for many more samples than
    features the linear kernel multiplies the features instead.

    Parameters
    ----------
    xs, ys : sequence of Tensor of shape (n, d)
        Layers over the same samples; widths and dtypes may differ. A layer that occurs twice,
        as in ``cka_grid(xs, xs)``, is worked on once.
    kernel, debiased
        As in :func:`cka`.

    Returns
    -------
    Tensor of shape (len(xs), len(ys))
        Each as :func:`cka` of the pair; a constant layer makes its own row or column NaN.

    Raises
    ------
    TypeError, ValueError
        As :func:`cka`; and if a list is empty.

    See Also
    --------
    cka_null : The same grid when samples are re-paired at random.
    """
    check_layers("cka_grid", rows=least_rows(debiased), xs=xs, ys=ys)
    check_choice("cka_grid", "kernel", kernel, KERNELS)
    return aligned(xs, ys, kernel, debiased)


def aligned(xs: Sequence[Tensor], ys: Sequence[Tensor], kernel: str, debiased: bool) -> Tensor:
    """:func:`cka_grid` of layers and options that are checked."""
    unique = {id(x): x for x in (*xs, *ys)}
    index = {key: l for l, key in enumerate(unique)}
    rows, columns = ([index[id(x)] for x in side] for side in (xs, ys))
    with full_precision(xs[0].device):
        layers = [prepare(x, kernel) for x in unique.values()]
        inner, margins = kernel_sums(layers, rows, columns)
        H = hsic(inner, margins, margins, debiased=debiased)
        norms = H.diagonal().sqrt()
        C = H[rows][:, columns] / torch.outer(norms[rows], norms[columns])
        return C.to(result_dtype(*xs, *ys))  # (LA, LB)


def kernel_sums(
    layers: Sequence[Layer], rows: Sequence[int], columns: Sequence[int]
) -> tuple[Tensor, Margins]:
    """Inner products of the kernels, by whichever of samples and features there are fewer."""
    itself = {(l, l) for l in range(len(layers))}
    pairs = itself | {(min(l, m), max(l, m)) for l in rows for m in columns}
    if features_are_cheaper(layers, pairs):
        return feature_sums(layers, pairs)
    return gram_sums(layers)


def least_rows(debiased: bool) -> int:
    """Rows that the estimator needs: its n - 3 is a factor of a denominator."""
    return 4 if debiased else 2
