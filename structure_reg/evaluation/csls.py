"""Cross-domain similarity local scaling (CSLS): cosines relative to those of the neighbourhood."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structure_reg._precision import needs_float64, result_dtype
from structure_reg._tiles import slices, tile_rows
from structure_reg.evaluation._checks import (
    check_at_most_rows,
    check_csls,
    check_rows,
    check_scaling,
)
from structure_reg.evaluation.top_rows import as_rows, read_rows, top_rows


@needs_float64
@torch.no_grad()
def local_scaling(x: Any, bank: Any, *, k: int = 10) -> Tensor:
    r"""Mean cosine of each row to the k nearest rows of a bank of the other side.

    .. math:: r(x_i) = \frac1k \sum_{j \in N(i)} \cos(x_i, b_j)

    where :math:`N(i)` holds the k rows of the bank with the largest cosine to row i. A row in a
    dense region, a hub, has a large mean; CSLS subtracts it. Compute it once for a gallery that is
    searched many times, and pass it to :func:`search` in place of the bank.

    Parameters
    ----------
    x : Tensor or array of shape (n, d)
        Rows after their head, at any scale. An array may lie in a file: it is read in blocks.
    bank : Tensor or array of shape (m, d)
        Rows of the other side after its head, usually the training rows.
    k : int
        Number of neighbours, at most m; 10 as published.

    Returns
    -------
    Tensor of shape (n,)
        Means in [-1, 1], in float64, on the device of `bank`.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes do not match, or k is not in 1 to m.

    See Also
    --------
    search, retrieval : Take the banks, or this, as `csls`.

    References
    ----------
    Conneau et al., "Word Translation Without Parallel Data", ICLR 2018, arXiv 1710.04087.

    Examples
    --------
    A row amid the bank is near all of it:

    >>> bank = torch.eye(4)
    >>> local_scaling(torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]]), bank, k=4)
    tensor([0.5000, 0.2500], dtype=torch.float64)
    """
    x, bank = as_rows("local_scaling", "x", x), as_rows("local_scaling", "bank", bank)
    check_rows("local_scaling", "bank", bank)
    check_rows("local_scaling", "x", x, bank.shape[1])
    check_at_most_rows("local_scaling", k, "bank", bank)
    device = bank.device if isinstance(bank, Tensor) else torch.device("cpu")
    n, d = x.shape
    none = torch.zeros(1, dtype=torch.float64, device=device).expand(bank.shape[0])
    means = []
    for rows in slices(n, tile_rows(8 * d)):
        block = read_rows(x, rows, device)
        dtype = result_dtype(block, read_rows(bank, slice(0, 1), device))
        means.append(top_rows(block.to(dtype), bank, k, none, dtype).scores.mean(1))
    return torch.cat(means)


def local_scalings(function: str, csls: Any, x: Any, y: Any, device: torch.device) -> Any:
    """r of the rows of x and of those of y, each relative to the bank of the other side."""
    check_csls(function, csls)
    x_bank, y_bank = csls
    return (
        scaling(function, "y_bank", x, y_bank, device),
        scaling(function, "x_bank", y, x_bank, device),
    )


def scaling(function: str, name: str, rows: Any, bank: Any, device: torch.device) -> Tensor:
    """Local scaling computed from a bank, or given as it is, (n,)."""
    bank = as_rows(function, name, bank)
    if len(bank.shape) == 1:
        check_scaling(function, name, bank, len(rows))
        return read_rows(bank, slice(None), device).double()
    check_rows(function, name, bank, rows.shape[1])
    return local_scaling(rows, read_rows(bank, slice(None), device))
