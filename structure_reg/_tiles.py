"""The scratch memory that a tiled computation may take: one number for the whole library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from structure_reg._checks import check_number

_mebibytes = 64.0

# Taller tiles of a matrix product are no faster, and no longer fit a CPU's cache.
TILE_ROWS = 512


@contextmanager
def tile_budget(mebibytes: float) -> Iterator[None]:
    """Bound the scratch memory of tiled computations inside a ``with`` block.

    Results depend on the budget only through rounding. Outside any block it is 64 MiB.

    Parameters
    ----------
    mebibytes : float
        Memory of the tiles that exist at one time, > 0, not counting inputs, results and gradients.

    Yields
    ------
    None
        The budget holds inside the block, in this process.

    Raises
    ------
    TypeError
        If `mebibytes` is not a number.
    ValueError
        If `mebibytes` is not positive and finite.

    Examples
    --------
    >>> x = torch.randn(512, 64, generator=torch.Generator().manual_seed(0))
    >>> with tile_budget(1):
    ...     small = clip_loss(x, x)
    >>> torch.allclose(small, clip_loss(x, x))
    True
    """
    global _mebibytes
    check_number("tile_budget", "mebibytes", mebibytes, above=0.0)
    before, _mebibytes = _mebibytes, float(mebibytes)
    try:
        yield
    finally:
        _mebibytes = before


def tile_rows(bytes_per_row: int) -> int:
    """Rows of a tile within the budget, but at least 16: thinner matrix products are slow."""
    return max(16, int(_mebibytes * 2**20) // bytes_per_row)


def slices(n: int, size: int) -> list[slice]:
    """Rows 0 to n in blocks of `size`; the last block may be smaller."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def upper_tiles(n: int, side: int) -> Iterator[tuple[slice, slice]]:
    """Blocks (a, b) of an (n, n) matrix on and above its diagonal, which is where a == b."""
    blocks = slices(n, side)
    for i, a in enumerate(blocks):
        for b in blocks[i:]:
            yield a, b


def fits(bytes_: int) -> bool:
    """Whether the budget holds that many bytes at one time."""
    return bytes_ <= _mebibytes * 2**20
