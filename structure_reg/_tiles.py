"""How much scratch memory a computation may take: one number, read wherever a matrix is tiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from structure_reg._checks import check_number

_mebibytes = 64.0


@contextmanager
def tile_budget(mebibytes: float) -> Iterator[None]:
    """Bound the scratch memory of tiled computations inside a ``with`` block.

    Results do not depend on it beyond rounding. Outside any block it is 64 MiB.

    Parameters
    ----------
    mebibytes : float
        Positive; for the tiles alive at one time, beside inputs, results and gradients.

    Yields
    ------
    None
        For the duration of the block, in this process.

    Raises
    ------
    TypeError
        If `mebibytes` is not a number.
    ValueError
        If it is not positive and finite.

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
    """Rows of a tile that fit the budget, 16 at the least so that products stay products."""
    return max(16, int(_mebibytes * 2**20) // bytes_per_row)


def slices(n: int, size: int) -> list[slice]:
    """Rows 0 to n in blocks of `size`, the last one with what is left."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def upper_tiles(n: int, side: int) -> Iterator[tuple[slice, slice]]:
    """Blocks (a, b) of an (n, n) matrix on and above its diagonal, which is where a == b."""
    blocks = slices(n, side)
    for i, a in enumerate(blocks):
        for b in blocks[i:]:
            yield a, b


def fits(bytes_: int) -> bool:
    """Whether the budget holds as much at one time."""
    return bytes_ <= _mebibytes * 2**20
