"""Exact CKA of samples that arrive in batches: :class:`CKA`."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_count, check_flag, check_paired, check_width
from structure_reg._gram import square_norms
from structure_reg._precision import full_precision, result_dtype
from structure_reg.similarity.cka import least_rows


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
    sums differences to the first row in float64. No gradient.

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
    origin: tuple[Tensor, Tensor]  # first row of x and of y, subtracted from all rows
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
        for name, z, origin in zip("xy", (x, y), self.origin, strict=True):
            check_width("CKA.update", name, z, len(origin), "of the batches before")
        self.dtype = torch.promote_types(self.dtype, result_dtype(x, y))
        with full_precision(x.device):
            sides = [z.double() - origin for z, origin in zip((x, y), self.origin, strict=True)]
            norms = torch.stack([square_norms(z) for z in sides])  # (2, m)
            self.samples += len(x)
            self.norms += norms.sum(1)
            self.norm_products += norms @ norms.mT
            for s, z in enumerate(sides):
                self.sums[s] += z.sum(0)
                self.norms_times[s] += norms @ z
            for s, t in self.products:
                self.products[s, t] += sides[s].mT @ sides[t]

    @torch.no_grad()
    def compute(self) -> Tensor:
        """Return :func:`cka` of all samples so far, a tensor of shape ().

        Raises
        ------
        ValueError
            If there have been fewer than 4 samples, or 2 for the biased form.
        """
        check_count("CKA.compute", "samples", self.samples, least=least_rows(self.debiased))
        h = {pair: self._hsic(*pair) for pair in self.products}
        value = h[0, 1] / (h[0, 0].sqrt() * h[1, 1].sqrt())
        return value.to(self.dtype)

    def _start(self, x: Tensor, y: Tensor) -> None:
        widths = x.shape[1], y.shape[1]
        zeros = partial(x.new_zeros, dtype=torch.float64)
        self.dtype = result_dtype(x, y)
        self.origin = x[0].double().clone(), y[0].double().clone()
        self.sums = [zeros(d) for d in widths]
        self.norms, self.norm_products = zeros(2), zeros(2, 2)
        self.norms_times = [zeros(2, d) for d in widths]
        self.products = {(s, t): zeros(widths[s], widths[t]) for s, t in ((0, 0), (0, 1), (1, 1))}

    def _hsic(self, s: int, t: int) -> Tensor:
        """The estimator between side s and side t, up to a factor that depends on n."""
        n = self.samples
        m, v = self.sums[s] / n, self.sums[t] / n
        M, V = m @ m, v @ v
        C = self.products[s, t]
        covariance = C - n * torch.outer(m, v)  # X^T Y of centred rows
        D = covariance.square().sum()
        if not self.debiased:
            return D
        trace_K, trace_L = self.norms[s] - n * M, self.norms[t] - n * V
        # Sum of |x_i - m|^2 |y_i - v|^2, expanded.
        diagonals = (
            self.norm_products[s, t]
            - 2 * (v @ self.norms_times[t][s] + m @ self.norms_times[s][t])
            + 4 * (m @ C @ v)
            + V * self.norms[s]
            + M * self.norms[t]
            - 3 * n * M * V
        )
        h: Tensor = D - n / (n - 2) * diagonals + trace_K * trace_L / ((n - 1) * (n - 2))
        return h

    def __repr__(self) -> str:
        return f"CKA(debiased={self.debiased}, samples={self.samples})"
