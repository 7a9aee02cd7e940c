"""Exact CKA of samples that arrive in batches: :class:`CKA`."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_count, check_flag, check_paired, check_width
from structure_reg._gram import square_norms
from structure_reg._precision import full_precision, needs_float64, result_dtype
from structure_reg.similarity.cka import least_rows
from structure_reg.similarity.features import off_diagonal_product
from structure_reg.similarity.grams import longest_rows, product_with_others
from structure_reg.similarity.hsic import cosine, root_above_rounding
from structure_reg.similarity.origin import typical_row

EPS = torch.finfo(torch.float64).eps


class CKA:
    r"""Linear :func:`cka` of data that does not fit in memory, computed exactly batch by batch.

    For centred rows, the estimator can be written as

    .. math:: h = |X^\top Y|^2 - \frac{n}{n - 2} \sum_i |x_i|^2 |y_i|^2
                  + \frac{|X|^2\, |Y|^2}{(n - 1)(n - 2)}

    Every term is a sum over samples of products of at most four entries, so the mean can be
    subtracted afterwards. Other kernels than the linear one have no such sums.

    Parameters
    ----------
    debiased : bool
        Choice of the estimator, as in :func:`cka`.

    See Also
    --------
    MinibatchCKA : Average over batches; a different value that needs less memory.

    Notes
    -----
    The state takes :math:`8 (d_x^2 + d_x d_y + d_y^2)` bytes, whatever the number of samples. It
    sums differences to a typical row of the first samples in float64. The few longest rows stay out
    of the sums, where they would cancel out with most digits of the others. No gradient.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(100, 8, generator=g), torch.randn(100, 4, generator=g)
    >>> stream = CKA()
    >>> for batch in torch.arange(100).split(32):
    ...     stream.update(x[batch], y[batch])
    >>> torch.allclose(stream.compute(), cka(x, y), atol=1e-6)
    True
    """

    samples: int
    dtype: torch.dtype
    origin: list[Tensor]  # a typical row of x and of y, subtracted from all rows
    longest: list[Tensor]  # rows of x and of y in float64 that are in none of the sums
    sums: list[Tensor]  # sums of x, (d_x,), and of y, (d_y,)
    norms: Tensor  # (2,) sums of |x|^2 and of |y|^2
    norm_products: Tensor  # (2, 2) sums of products of these two
    norms_times: list[Tensor]  # sums of both times x, (2, d_x), and times y, (2, d_y)
    products: dict[tuple[int, int], Tensor]  # sums of x x^T, x y^T and y y^T

    def __init__(self, *, debiased: bool = True) -> None:
        self.debiased = check_flag("CKA", "debiased", debiased)
        self.reset()

    def reset(self) -> None:
        """Discard all samples."""
        self.samples = 0

    @needs_float64
    @torch.no_grad()
    def update(self, x: Array, y: Array) -> None:
        """Add the samples of one batch.

        Parameters
        ----------
        x, y : Tensor or array of shape (m, dx) and (m, dy)
            Features of the same m >= 1 samples, as wide as in the first batch.

        Raises
        ------
        TypeError
            If an argument is not of a floating dtype.
        ValueError
            If the numbers of rows or the devices differ, or a width has changed.
        """
        x, y = as_tensors("CKA.update", x=x, y=y)
        check_paired("CKA.update", rows=1, x=x, y=y)
        if self.samples == 0:
            self._start(x, y)
        for name, z, longest in zip("xy", (x, y), self.longest, strict=True):
            check_width("CKA.update", name, z, longest.shape[1], "of the batches before")
        self.dtype = torch.promote_types(self.dtype, result_dtype(x, y))
        with full_precision(x.device):
            rows = [torch.cat([l, z.double()]) for l, z in zip(self.longest, (x, y), strict=True)]
            if self.samples == len(self.longest[0]):  # nothing is in the sums yet
                self.origin = [typical_row(z) for z in rows]
            sides = [z - origin for z, origin in zip(rows, self.origin, strict=True)]
            longest = longest_rows(torch.stack([square_norms(z) for z in sides]))
            self.longest = [z[longest] for z in rows]
            self._add([z.index_fill(0, longest, 0) for z in sides])
            self.samples += len(x)

    @torch.no_grad()
    def compute(self) -> Tensor:
        """Return :func:`cka` of all samples so far, a tensor of shape ().

        Raises
        ------
        ValueError
            If there have been fewer than 4 samples, or 2 for the biased form.
        """
        check_count("CKA.compute", "samples", self.samples, least=least_rows(self.debiased))
        h, roots = {}, {}
        for pair in self.products:
            h[pair], rounding = self._hsic(*pair)
            roots[pair] = root_above_rounding(h[pair], rounding)[None]
        value = cosine(h[0, 1], roots[0, 0], roots[1, 1], debiased=self.debiased)
        return value.reshape(()).to(self.dtype)

    def _start(self, x: Tensor, y: Tensor) -> None:
        widths = x.shape[1], y.shape[1]
        zeros = partial(x.new_zeros, dtype=torch.float64)
        self.dtype = result_dtype(x, y)
        self.longest = [zeros(0, d) for d in widths]
        self.sums = [zeros(d) for d in widths]
        self.norms, self.norm_products = zeros(2), zeros(2, 2)
        self.norms_times = [zeros(2, d) for d in widths]
        self.products = {(s, t): zeros(widths[s], widths[t]) for s, t in ((0, 0), (0, 1), (1, 1))}

    def _add(self, sides: list[Tensor]) -> None:
        norms = torch.stack([square_norms(z) for z in sides])  # (2, m)
        self.norms += norms.sum(1)
        self.norm_products += norms @ norms.mT
        for s, z in enumerate(sides):
            self.sums[s] += z.sum(0)
            self.norms_times[s] += norms @ z
        for s, t in self.products:
            self.products[s, t] += sides[s].mT @ sides[t]

    def _hsic(self, s: int, t: int) -> tuple[Tensor, Tensor]:
        """The estimator between sides s and t up to a factor that depends on n, and its rounding.

        Row i of both sides is x_i and y_i around the means m and v of the rows in the sums; X and Y
        are the rows that are not in the sums.
        """
        n = self.samples
        summed = max(1, n - len(self.longest[0]))
        m, v = self.sums[s] / summed, self.sums[t] / summed
        X, Y = (self.longest[i] - self.origin[i] - c for i, c in ((s, m), (t, v)))
        X_sum, Y_sum = X.sum(0), Y.sum(0)
        C = self.products[s, t] - summed * torch.outer(m, v)  # sum of x_i y_i^T
        if not self.debiased:
            D = (C + X.mT @ Y - torch.outer(X_sum, Y_sum) / n).square().sum()
            return D, torch.zeros_like(D)
        M, V = m @ m, v @ v
        norms_x, norms_y = self.norms[s], self.norms[t]
        norms_times_x, norms_times_y = self.norms_times[s][t], self.norms_times[t][s]
        trace_K, trace_L = norms_x - summed * M, norms_y - summed * V  # sums of |x_i|^2, |y_i|^2
        x_norms = norms_times_x - norms_y * m - 2 * C @ v  # sum of x_i |y_i|^2
        y_norms = norms_times_y - norms_x * v - 2 * m @ C  # sum of y_i |x_i|^2
        diagonals = (  # sum of |x_i|^2 |y_i|^2
            self.norm_products[s, t]
            - 2 * (v @ norms_times_y + m @ norms_times_x)
            + 4 * (m @ self.products[s, t] @ v)
            + V * norms_x
            + M * norms_y
            - 3 * summed * M * V
        )
        r_K, r_L = product_with_others(X, X_sum), product_with_others(Y, Y_sum)
        square = C.square().sum()
        inner = square - diagonals + 2 * (X @ C * Y).sum() + off_diagonal_product(X, Y)
        rows = X_sum @ C @ Y_sum - X_sum @ x_norms - Y_sum @ y_norms + diagonals + r_K @ r_L
        totals = (r_K.sum() - trace_K) * (r_L.sum() - trace_L)
        h: Tensor = inner - 2 / (n - 2) * rows + totals / ((n - 1) * (n - 2))
        far_x, far_y = square_norms(X), square_norms(Y)
        others = (trace_K + far_x.sum()) * (trace_L + far_y.sum()) - diagonals - far_x @ far_y
        rounding = EPS * (square + diagonals) + torch.finfo(self.dtype).eps ** 2 * others
        return h, n * rounding

    def __repr__(self) -> str:
        return f"CKA(debiased={self.debiased}, samples={self.samples})"
