"""Means and second moments of pairs in float64: all that closed forms need to know of the rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_group, check_paired, check_width
from structure_reg._distributed import sum_over_processes, widths_over_processes
from structure_reg._precision import needs_float64, result_dtype
from structure_reg._tiles import slices, tile_rows
from structure_reg.heads._checks import check_moments, no_finite_features, no_pairs


class PairMoments:
    r"""Number, means and second moments of paired features, accumulated in float64.

    .. math:: n, \qquad \mu = \frac1n \sum_i z_i, \qquad
              M = \sum_i (z_i - \mu)(z_i - \mu)^\top, \qquad z_i = (x_i, y_i)

    The pairs may come in any number of batches, from a stream, from files that do not fit in
    memory, or on several processes. The moments take :math:`8 (d_x + d_y)^2` bytes whatever n is.
    :func:`fit_ridge`, :func:`fit_cca`, :func:`fit_csa` and :func:`fit_procrustes` accept them in
    place of the pairs.

    Attributes
    ----------
    n : int
        Number of pairs so far.
    mean_x, mean_y : Tensor of shape (d_x,), (d_y,)
        Means of the columns, float64.
    M_xx, M_xy, M_yy : Tensor of shape (d_x, d_x), (d_x, d_y), (d_y, d_y)
        Sums of products of centred columns, float64. Divided by n they are covariances.

    See Also
    --------
    fit_ridge, fit_cca, fit_csa, fit_procrustes : Closed forms that accept moments.

    References
    ----------
    Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", The American
    Statistician 1983: the update, which does not cancel digits as sums of squares do.

    Examples
    --------
    Batches of a stream give the heads of all pairs at once:

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(1000, 8, generator=g, dtype=torch.float64)
    >>> y = x[:, :6] + torch.randn(1000, 6, generator=g, dtype=torch.float64)
    >>> moments = PairMoments()
    >>> for rows in range(0, 1000, 100):
    ...     moments = moments.update(x[rows : rows + 100], y[rows : rows + 100])
    >>> head, _ = fit_cca(moments, ridge=0.1)
    >>> head_of_all, _ = fit_cca(x, y, ridge=0.1)
    >>> torch.allclose(head(x).abs(), head_of_all(x).abs())
    True
    """

    def __init__(self) -> None:
        self.n = 0
        self.dtype = torch.float32  # of heads that are fitted to the moments
        self._mean: Tensor | None = None  # (d_x + d_y,)
        self._M: Tensor | None = None  # (d_x + d_y, d_x + d_y), upper triangle
        self._d_x = 0

    @needs_float64
    def update(self, x: Array, y: Array) -> PairMoments:
        """Add pairs.

        Parameters
        ----------
        x, y : Tensor or array of shape (n, d_x), (n, d_y)
            Paired features, n >= 1, in any floating dtype; row i of `x` belongs to row i of `y`.
            They are read in blocks that fit :func:`tile_budget`.

        Returns
        -------
        PairMoments
            Itself.

        Raises
        ------
        TypeError, ValueError
            If the pairs are of the wrong kind, shape or width, or not finite. Nothing is added
            then.
        """
        x, y = as_tensors("PairMoments.update", x=x, y=y)
        check_paired("PairMoments.update", rows=1, x=x, y=y)
        self._add("PairMoments.update", x, y, x.shape[1] + y.shape[1])
        return self

    def _add(self, function: str, x: Tensor, y: Tensor, columns: int) -> None:
        mean, M = self._state(function, x, y)
        check_finite_pairs(function, PairRows(x, y))
        D = len(mean)
        blocks = slices(len(x), tile_rows(2 * 8 * D))
        scratch = mean.new_empty(blocks[0].stop + 1, D)
        for rows in blocks:
            Z = scratch[: rows.stop - rows.start + 1]
            Z[:-1, : self._d_x], Z[:-1, self._d_x :] = x[rows].detach(), y[rows].detach()
            self.n += add_block(self.n, mean, M, Z, columns)
        self.dtype = result_dtype(x, y, torch.empty(0, dtype=self.dtype))

    def merge(self, other: PairMoments) -> PairMoments:
        """Add the pairs of other moments.

        Parameters
        ----------
        other : PairMoments
            Moments of the same widths, of other pairs; left as they are.

        Returns
        -------
        PairMoments
            Itself.

        Raises
        ------
        ValueError
            If the widths differ.
        """
        if other._mean is None or other._M is None:
            return self
        d_x = other._d_x
        mean, M = self._state("PairMoments.merge", other._mean[None, :d_x], other._mean[None, d_x:])
        n, m = self.n, other.n
        delta = other._mean.to(mean.device) - mean
        M.add_(other._M.to(M.device)).addr_(delta, delta, alpha=n * m / (n + m))
        mean.add_(delta, alpha=m / (n + m))
        self.n = n + m
        self.dtype = torch.promote_types(self.dtype, other.dtype)
        return self

    def all_reduce(self, group: Any = None) -> PairMoments:
        """Merge the moments of all processes of a group, on each of them.

        Parameters
        ----------
        group : torch.distributed.ProcessGroup, optional
            Processes, each with its own pairs, any number of them, none included. None: only this
            process, which changes nothing.

        Returns
        -------
        PairMoments
            Itself; equal on every process.

        Raises
        ------
        TypeError, ValueError
            If `group` is of the wrong kind, or the widths differ between processes.
        """
        name = "PairMoments.all_reduce"
        check_group(name, group)
        if group is None:
            return self
        d_x, d_y = 0, 0
        if self._mean is not None:
            d_x, d_y = self._d_x, len(self._mean) - self._d_x
        d_x, d_y = widths_over_processes(name, (d_x, d_y), group)
        empty = torch.empty(1, d_x + d_y, dtype=torch.float64)
        mean, M = self._state(name, empty[:, :d_x], empty[:, d_x:])
        own = mean.new_tensor([self.n, self.dtype == torch.float64])
        n, wide = sum_over_processes(own, group)
        common = sum_over_processes(self.n * mean, group) / n
        delta = mean - common
        M.addr_(delta, delta, alpha=self.n)
        self._M = sum_over_processes(M, group)
        self._mean = common
        self.n = int(n)
        self.dtype = torch.float64 if wide else torch.float32
        return self

    @property
    def mean_x(self) -> Tensor:
        """Means of the columns of x."""
        return self._known()[0][: self._d_x]

    @property
    def mean_y(self) -> Tensor:
        """Means of the columns of y."""
        return self._known()[0][self._d_x :]

    @property
    def M_xx(self) -> Tensor:  # noqa: N802 - as in the formula
        """Sums of products of the centred columns of x."""
        return symmetric(self._known()[1][: self._d_x, : self._d_x])

    @property
    def M_xy(self) -> Tensor:  # noqa: N802 - as in the formula
        """Sums of products of the centred columns of x and y."""
        return self._known()[1][: self._d_x, self._d_x :]

    @property
    def M_yy(self) -> Tensor:  # noqa: N802 - as in the formula
        """Sums of products of the centred columns of y."""
        return symmetric(self._known()[1][self._d_x :, self._d_x :])

    def __len__(self) -> int:
        """Return the number of pairs."""
        return self.n

    def __repr__(self) -> str:
        """Return the number of pairs and the widths."""
        d_y = 0 if self._mean is None else len(self._mean) - self._d_x
        return f"PairMoments(n={self.n}, d_x={self._d_x}, d_y={d_y})"

    def _known(self) -> tuple[Tensor, Tensor]:
        if self._mean is None or self._M is None:
            raise no_pairs("PairMoments")
        return self._mean, self._M

    def _state(self, function: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Means and moments to add to; zeros, on the device of x, before the first pairs."""
        d_x, d_y = x.shape[1], y.shape[1]
        if self._mean is None or self._M is None:
            self._d_x = d_x
            self._mean = torch.zeros(d_x + d_y, dtype=torch.float64, device=x.device)
            self._M = self._mean.new_zeros(d_x + d_y, d_x + d_y)
        check_width(function, "x", x, self._d_x, "of the pairs before")
        check_width(function, "y", y, len(self._mean) - self._d_x, "of the pairs before")
        return self._mean, self._M


class PairRows(NamedTuple):
    """Pairs in memory."""

    x: Tensor  # (n, d_x)
    y: Tensor  # (n, d_y)

    @property
    def dtype(self) -> torch.dtype:
        return result_dtype(self.x, self.y)


def check_finite_pairs(function: str, pairs: PairRows) -> None:
    for side, z in zip("xy", pairs, strict=True):
        if not is_finite(z):
            raise no_finite_features(function, side)


def moments_of_rows(function: str, pairs: PairRows) -> PairMoments:
    moments = PairMoments()
    moments._add(function, *pairs, pairs.x.shape[1] + pairs.y.shape[1])
    return moments


def moments_of_regression(function: str, pairs: PairRows) -> PairMoments:
    """Moments without the products of different columns of y, which a regression on x spares."""
    moments = PairMoments()
    moments._add(function, *pairs, pairs.x.shape[1])
    return moments


def rescale(moments: PairMoments, mean: Tensor, factor: Tensor) -> None:
    """Make moments of z those of (z - mean) * factor, in place."""
    mu, M = moments._known()
    mu.sub_(mean).mul_(factor)
    M.mul_(factor).mul_(factor[:, None])


def moments_of_columns(moments: PairMoments, x: Tensor, y: Tensor) -> PairMoments:
    """Moments of some columns of each side; their positions ascend."""
    mean, M = moments._known()
    columns = torch.cat([x, moments._d_x + y])
    part = PairMoments()
    part.n, part.dtype, part._d_x = moments.n, moments.dtype, len(x)
    part._mean, part._M = mean[columns], M[columns][:, columns]
    return part


def as_pairs(function: str, x: Array | PairMoments, y: Array | None) -> PairRows | PairMoments:
    """What a closed form is fitted to, checked."""
    if isinstance(x, PairMoments):
        check_moments(function, x.n, y)
        return x
    x, y = as_tensors(function, x=x, y=y)
    check_paired(function, x=x, y=y)
    return PairRows(x, y)


STRIP = 256  # columns: triangles waste little of a strip, and products stay large


def add_block(n: int, mean: Tensor, M: Tensor, Z: Tensor, columns: int) -> int:
    """Add the rows of Z but for the last, which is scratch; return their number.

    With m rows of mean a: M += Σ (z - a)(z - a)ᵀ + nm/(n + m) (a - μ)(a - μ)ᵀ, in one product. Only
    the first `columns` are multiplied with all others; of the rest, the squares are added.
    """
    m = len(Z) - 1
    a = Z[:-1].mean(0)
    Z[:-1] -= a
    Z[-1] = (a - mean) * (n * m / (n + m)) ** 0.5
    for I in slices(columns, STRIP):
        M[I, I.start :].addmm_(Z[:, I].mT, Z[:, I.start :])
    M.diagonal()[columns:] += Z[:, columns:].square().sum(0)
    mean += (a - mean) * (m / (n + m))
    return m


def is_finite(z: Tensor) -> bool:
    """Whether all entries are finite, told from their sum: large ones overflow only in float32."""
    return any(bool(z.detach().sum(dtype=t).isfinite()) for t in (torch.float32, torch.float64))


def symmetric(M: Tensor) -> Tensor:
    """The symmetric matrix with this upper triangle, in memory of its own."""
    return M.triu().add_(M.triu(1).mT)
