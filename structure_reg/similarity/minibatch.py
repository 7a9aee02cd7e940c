"""Minibatch CKA, which averages the terms of CKA over batches: :class:`MinibatchCKA`."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_count, check_paired
from structure_reg._precision import full_precision, needs_float64, result_dtype
from structure_reg.similarity.grams import Layer, gram_sums
from structure_reg.similarity.hsic import hsic
from structure_reg.similarity.origin import around_typical_row


class MinibatchCKA:
    r"""Linear CKA as a ratio of averages over batches; differs from :func:`cka` of all samples.

    .. math:: \frac{\sum_b h(K_b, L_b)}{\sqrt{\sum_b h(K_b, K_b)}\, \sqrt{\sum_b h(L_b, L_b)}}

    where h is the debiased estimator on one batch of m rows, divided by m (m - 3). Each of the
    three sums is unbiased for any batch size, but noisy: samples from different batches are never
    compared. For the exact value use :class:`CKA`, whose memory grows with the squared widths.

    See Also
    --------
    CKA : Exact value of :func:`cka` for samples that arrive in batches.

    Notes
    -----
    The state is four numbers, summed in float64. No gradient.

    References
    ----------
    Nguyen, Raghu and Kornblith, "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021,
    arXiv 2010.15327.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(60, 8, generator=g)
    >>> y = x @ torch.randn(8, 8, generator=g)
    >>> stream = MinibatchCKA()
    >>> for batch in torch.arange(60).split(10):
    ...     stream.update(x[batch], y[batch])
    >>> stream.compute(), cka(x, y)
    (tensor(0.6957), tensor(0.6841))
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Discard all batches."""
        self.batches = 0

    @needs_float64
    @torch.no_grad()
    def update(self, x: Array, y: Array) -> None:
        """Add the terms of one batch.

        Parameters
        ----------
        x, y : Tensor or array of shape (m, dx) and (m, dy)
            Features of the same m >= 4 samples. Skip a last batch with fewer rows: it has no
            estimate.

        Raises
        ------
        TypeError
            If an argument is not of a floating dtype.
        ValueError
            If the numbers of rows or the devices differ, or m < 4.
        """
        x, y = as_tensors("MinibatchCKA.update", x=x, y=y)
        check_paired("MinibatchCKA.update", rows=4, x=x, y=y)
        if self.batches == 0:
            self.dtype = result_dtype(x, y)
            self.terms = x.new_zeros(2, 2, dtype=torch.float64)
        m = x.shape[0]
        with full_precision(x.device):
            # No scaling as in cka(): batches must stay comparable, and float64 has the range.
            layers = [Layer(around_typical_row(z.double()), None) for z in (x, y)]
            inner, margins = gram_sums(layers)
            self.terms += hsic(inner, margins, margins, debiased=True) / (m * (m - 3))
        self.batches += 1

    @torch.no_grad()
    def compute(self) -> Tensor:
        """Return the ratio over all batches so far, a tensor of shape ().

        Raises
        ------
        ValueError
            If there has been no batch.
        """
        check_count("MinibatchCKA.compute", "batches", self.batches)
        h = self.terms
        return (h[0, 1] / (h[0, 0].sqrt() * h[1, 1].sqrt())).to(self.dtype)

    def __repr__(self) -> str:
        return f"MinibatchCKA(batches={self.batches})"
