"""Search: the rows of a gallery that are most similar to each query."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from structure_reg._precision import needs_float64, result_dtype
from structure_reg.evaluation._checks import check_at_most_rows, check_rows
from structure_reg.evaluation.csls import local_scalings
from structure_reg.evaluation.top_rows import as_rows, read_rows, top_rows


class SearchResult(NamedTuple):
    """The nearest gallery rows of each query, the result of :func:`search`.

    Parameters
    ----------
    scores : Tensor of shape (n, k)
        Cosines, or CSLS scores, in decreasing order.
    indices : Tensor of shape (n, k)
        Their rows in the gallery, int64; of equal scores, the lower index comes first.
    """

    scores: Tensor
    indices: Tensor


@needs_float64
@torch.no_grad()
def search(queries: Any, gallery: Any, *, k: int = 10, csls: Any = None) -> SearchResult:
    r"""Find the k gallery rows with the largest cosine to each query.

    The search is exact. With `csls`, scores are relative to the neighbourhoods of both rows, which
    keeps hubs, rows of the gallery that are near everything, from winning most queries:

    .. math:: \operatorname{csls}(q, g) = 2 \cos(q, g) - r_y(q) - r_x(g)

    where :math:`r_y(q)` is the mean cosine of q to its 10 nearest rows of `y_bank`, and
    :math:`r_x(g)` that of g to its 10 nearest rows of `x_bank`.

    Parameters
    ----------
    queries : Tensor or array of shape (n, d)
        Rows of one side after its head, at any scale.
    gallery : Tensor or array of shape (m, d)
        Rows of the other side. It is read in blocks, which are moved to the device of the queries,
        and may thus lie in a file (`numpy.memmap`, `h5py.Dataset`) or on another device.
    k : int
        Number of rows to find, at most m.
    csls : tuple, optional
        Banks (x_bank, y_bank) of rows after their heads, usually the training rows: `x_bank` of the
        side of the queries, `y_bank` of the side of the gallery, at least 10 rows each. In place of
        `x_bank`, ``local_scaling(gallery, x_bank)`` may be passed, and in place of `y_bank`,
        ``local_scaling(queries, y_bank)``: for a gallery that is searched more than once, or for
        another number of neighbours.

    Returns
    -------
    SearchResult
        `scores` and `indices` of shape (n, k), on the device of the queries. Scores are computed in
        float64, whatever the tiles, and returned in float32, or float64 if an input is. The order
        is that of the float64 scores; of equal ones, as those of equal rows are, the lower index
        comes first. A score of NaN counts as the largest, as in `torch.topk`, so that a broken row
        of the gallery shows. Scratch memory is bounded by :func:`tile_budget`; the host waits for a
        GPU in each block.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes do not match, or k is not in 1 to m.

    See Also
    --------
    retrieval : Measures how often the right row is found.

    References
    ----------
    CSLS: Conneau et al., "Word Translation Without Parallel Data", ICLR 2018, arXiv 1710.04087.

    Examples
    --------
    >>> gallery = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 1.0], [3.0, 4.0]])
    >>> scores, indices = search(torch.tensor([[0.0, 2.0]]), gallery, k=3)
    >>> scores, indices
    (tensor([[1.0000, 0.8000, 0.8000]]), tensor([[2, 1, 3]]))
    """
    name = "search"
    queries, gallery = as_rows(name, "queries", queries), as_rows(name, "gallery", gallery)
    check_rows(name, "queries", queries)
    check_rows(name, "gallery", gallery, queries.shape[1])
    check_at_most_rows(name, k, "gallery", gallery)
    device = queries.device if isinstance(queries, Tensor) else torch.device("cpu")
    queries = read_rows(queries, slice(None), device)
    dtype = result_dtype(queries, read_rows(gallery, slice(0, 1), device))
    if csls is None:
        none = torch.zeros(1, dtype=torch.float64, device=device).expand(gallery.shape[0])
        scores, indices = top_rows(queries.to(dtype), gallery, k, none, dtype)
        return SearchResult(scores.to(dtype), indices)
    r_q, r_g = local_scalings(name, csls, queries, gallery, device)
    scores, indices = top_rows(queries.to(dtype), gallery, k, -r_g / 2, dtype)  # half of csls
    return SearchResult((2 * scores - r_q[:, None]).to(dtype), indices)
