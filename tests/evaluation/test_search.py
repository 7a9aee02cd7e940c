"""Search against a full sort in float64: exact, in any tiles, with ties by index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import oracles
import oracles_evaluation
import pytest
import torch
from contract import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from structure_reg import SearchResult, local_scaling, retrieval, search, tile_budget


def ranking(scores: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """The k largest of each row, of equal ones the first."""
    return np.argsort(-scores.round(12), 1, kind="stable")[:, :k]


def cosines(queries: Tensor, gallery: Tensor) -> NDArray[np.float64]:
    return (
        oracles.unit_rows(queries.double().numpy()) @ oracles.unit_rows(gallery.double().numpy()).T
    )


def few_directions(n: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Rows of different lengths, many of them exactly parallel and some zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-1, 2, (n, 2), generator=generator)
    return (x * 2.0 ** torch.randint(-3, 4, (n, 1), generator=generator)).to(dtype)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 60)),
    share=st.floats(0, 1),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    budget=st.sampled_from([1e-9, 64.0]),
    seed=st.integers(0, 2**20),
)
def test_is_a_sort_with_ties_by_index(
    sizes: tuple[int, int], share: float, dtype: torch.dtype, budget: float, seed: int
) -> None:
    queries, gallery = (few_directions(n, seed + i, dtype) for i, n in enumerate(sizes))
    k = 1 + round(share * (len(gallery) - 1))
    with tile_budget(budget):
        scores, indices = search(queries, gallery, k=k)
    expected = cosines(queries, gallery)
    np.testing.assert_array_equal(indices, ranking(expected, k))
    expected = np.take_along_axis(expected, indices.numpy(), 1)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 7, 500])
def test_tiles_change_no_bit(dtype: torch.dtype, k: int) -> None:
    queries, gallery = normal(40, 24, seed=0, dtype=dtype), normal(500, 24, seed=1, dtype=dtype)
    result = search(queries, gallery, k=k)
    np.testing.assert_array_equal(result.indices, ranking(cosines(queries, gallery), k))
    assert result.scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for budget in (1e-9, 0.3):
        with tile_budget(budget):
            other = search(queries, gallery, k=k)
        assert torch.equal(other.scores, result.scores)
        assert torch.equal(other.indices, result.indices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rows_are_found_in_order(dtype: torch.dtype) -> None:
    """Although a product of matrices may round the same row differently at two places."""
    rows = normal(3, 37, seed=0, dtype=dtype)
    gallery = rows[torch.arange(700) % 3]
    for budget in (0.05, 64):
        with tile_budget(budget):
            indices = search(rows, gallery, k=100).indices
        assert torch.equal(indices % 3, torch.arange(3)[:, None].expand(3, 100))
        assert torch.equal(indices, torch.arange(3)[:, None] + 3 * torch.arange(100))


@pytest.mark.parametrize("d", [3, 4096])
def test_tells_apart_what_lies_in_a_narrow_cone(d: int) -> None:
    """Cosines agree to seven digits, so float32 alone would tie or shuffle them."""
    x = normal(300, d, seed=0, dtype=torch.float32) + 1000
    queries = x[:20] + normal(20, d, seed=1, dtype=torch.float32)
    for budget in (1, 64):
        with tile_budget(budget):
            indices = search(queries, x, k=30).indices
        exact = search(queries.double(), x.double(), k=30).indices
        np.testing.assert_array_equal(indices, exact)
        order = np.argsort(-cosines(queries, x), 1, kind="stable")[:, :30]
        assert (indices.numpy() == order).mean() > 0.95  # the oracle itself rounds at 1e-16


@pytest.mark.parametrize(
    ("dtype", "lengths"),
    [(torch.float32, (1e-41, 1e-30, 1.0, 1e36)), (torch.float64, (1e-300, 1e-170, 1.0, 1e300))],
)
def test_lengths_do_not_matter(dtype: torch.dtype, lengths: tuple[float, ...]) -> None:
    queries, gallery = normal(8, 5, seed=0), normal(80, 5, seed=1)
    expected = search(queries, gallery, k=9).indices
    length = torch.tensor(lengths, dtype=torch.float64).repeat(20)[:, None]
    for k in (1, 9):
        found = search(queries.to(dtype), (gallery * length).to(dtype), k=k).indices
        agree = (found == expected[:, :k]).double().mean()
        assert agree == 1 or (dtype == torch.float32 and agree > 0.8)  # denormals have few digits


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_not_finite_comes_first_as_in_topk(value: float, dtype: torch.dtype) -> None:
    queries, gallery = normal(6, 5, seed=0, dtype=dtype), normal(90, 5, seed=1, dtype=dtype)
    gallery[[30, 70], 2] = value
    queries[4, 1] = value
    for budget in (1e-9, 64):
        with tile_budget(budget):
            scores, indices = search(queries, gallery, k=5)
        assert scores[:, :2].isnan().all()
        assert scores[4].isnan().all()
        finite = [0, 1, 2, 3, 5]
        assert indices[finite, :2].tolist() == [[30, 70]] * 5
        others = torch.cat([gallery[:30], gallery[31:70], gallery[71:]])
        rest = search(queries[finite], others, k=3)
        assert torch.equal(scores[finite, 2:], rest.scores)


def test_no_cosine_exceeds_one() -> None:
    x = normal(200, 7, seed=0)
    scores, indices = search(x, x, k=1)
    assert scores.amax() == 1
    assert torch.equal(indices[:, 0], torch.arange(200))


class Recorded:
    """An array that notes how many rows are read at a time."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self.rows, self.shape, self.dtype = rows, rows.shape, rows.dtype
        self.read: list[int] = []

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        self.read.append(len(self.rows[rows]))
        return self.rows[rows]


def test_a_gallery_is_read_once_and_in_blocks() -> None:
    queries, rows = normal(5, 16, seed=0).float(), normal(5000, 16, seed=1).float()
    gallery = Recorded(rows.numpy())
    with tile_budget(0.25):
        result = search(queries, gallery, k=4)
    assert max(gallery.read) * 16 * 4 <= 0.25 * 2**20
    assert sum(gallery.read) == 5000 + 1  # and a first row for the dtype
    assert torch.equal(result.indices, search(queries, rows, k=4).indices)


def test_arrays_and_files(tmp_path: Path) -> None:
    queries, gallery = normal(5, 6, seed=0).float(), normal(90, 6, seed=1).float()
    expected = search(queries, gallery)
    np.save(tmp_path / "gallery.npy", gallery.numpy())
    with h5py.File(tmp_path / "gallery.h5", "w") as file:
        galleries: list[Any] = [
            gallery.numpy(),
            np.load(tmp_path / "gallery.npy", mmap_mode="r"),
            file.create_dataset("gallery", data=gallery.numpy()),
        ]
        for rows in galleries:
            for asked in (queries, queries.numpy()):
                result = search(asked, rows)
                assert torch.equal(result.scores, expected.scores)
                assert torch.equal(result.indices, expected.indices)
            scaling = local_scaling(rows, queries, k=3)
            assert torch.equal(scaling, local_scaling(gallery, queries, k=3))


def test_dtypes_autocast_and_gradients() -> None:
    queries, gallery = (normal(12, 4, seed=s).float().requires_grad_() for s in (0, 1))
    result = search(queries, gallery)
    assert isinstance(result, SearchResult)
    assert not result.scores.requires_grad
    assert result.indices.dtype == torch.int64
    assert search(queries.bfloat16(), gallery.double()).scores.dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(search(queries, gallery).scores, result.scores)


def four_sets(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Queries, gallery and both banks, in cones as encoders have them."""
    sizes = ((30, 0.5), (50, 1.0), (40, 0.5), (35, 1.0))
    return tuple(
        normal(n, 6, seed=seed + i, dtype=dtype) + mean for i, (n, mean) in enumerate(sizes)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_csls_is_the_formula(dtype: torch.dtype) -> None:
    x, y, x_bank, y_bank = four_sets(0, dtype)
    expected = oracles_evaluation.csls(*(t.double().numpy() for t in (x, y, x_bank, y_bank)))
    for budget in (1e-9, 64):
        with tile_budget(budget):
            scores, indices = search(x, y, k=7, csls=(x_bank, y_bank))
        np.testing.assert_array_equal(indices, ranking(expected, 7))
        taken = np.take_along_axis(expected, indices.numpy(), 1)
        np.testing.assert_allclose(scores, taken, atol=2 * torch.finfo(dtype).eps)
    assert not torch.equal(indices, search(x, y, k=7).indices)


def test_csls_from_a_prepared_scaling() -> None:
    """The same bits as from the banks, for both sides or one, in search and in retrieval."""
    x, y, x_bank, y_bank = four_sets(1, torch.float32)
    r_x, r_y = local_scaling(x, y_bank), local_scaling(y, x_bank)
    expected = search(x, y, csls=(x_bank, y_bank))
    for csls in ((r_y, r_x), (r_y, y_bank), (x_bank, r_x.numpy())):
        result = search(x, y, csls=csls)
        assert torch.equal(result.scores, expected.scores)
        assert torch.equal(result.indices, expected.indices)
    ids = torch.arange(30), torch.arange(50)
    measured, again = (
        retrieval(x, y, ids=ids[0], y_ids=ids[1], csls=csls)
        for csls in ((x_bank, y_bank), (r_y, r_x))
    )
    assert torch.equal(measured.mean_recall, again.mean_recall)


@settings(max_examples=20, deadline=None)
@given(k=st.integers(1, 35), seed=st.integers(0, 2**20))
def test_local_scaling_is_the_mean_of_the_nearest(k: int, seed: int) -> None:
    x, _, _, bank = four_sets(seed)
    expected = oracles_evaluation.local_scaling(x.numpy(), bank.numpy(), k)
    for budget in (1e-9, 64):
        with tile_budget(budget):
            np.testing.assert_allclose(local_scaling(x, bank, k=k), expected, rtol=1e-12)


def test_csls_takes_queries_back_from_a_hub() -> None:
    """A gallery row near all queries wins most of them under the cosine alone."""
    x, x_bank = normal(60, 100, seed=0) + 1, normal(60, 100, seed=1) + 1
    y, y_bank = x + 2 * normal(60, 100, seed=2), x_bank + 2 * normal(60, 100, seed=3)
    y[0] = 1  # the mean direction of x
    hits = (search(x, y, k=1).indices == 0).sum()
    assert hits > 30
    assert (search(x, y, k=1, csls=(x_bank, y_bank)).indices == 0).sum() < hits / 4
    assert retrieval(x, y, csls=(x_bank, y_bank)).mean_recall > retrieval(x, y).mean_recall


X = torch.ones(12, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("X", X), {}, TypeError, "queries to be an array or a tensor, got str"),
        ((X, "X"), {}, TypeError, "gallery to be an array or a tensor, got str"),
        ((X, X.long()), {}, TypeError, "gallery of a floating dtype, got torch.int64"),
        ((X[0], X), {}, ValueError, r"queries of shape \(n, d\) with n, d >= 1, got \(3,\)"),
        ((X, X[:0]), {}, ValueError, r"gallery of shape .*, got \(0, 3\)"),
        ((X, X[:, :2]), {}, ValueError, "gallery with 3 columns, got 2"),
        ((X, X), {"k": 0}, ValueError, "k >= 1, got 0"),
        ((X, X), {"k": 13}, ValueError, "k <= 12, the rows of gallery, got 13"),
        ((X, X), {"k": 2.0}, TypeError, "k to be an integer, got float"),
        ((X, X), {"csls": X}, TypeError, r"csls to be \(x_bank, y_bank\), got Tensor"),
        ((X, X), {"csls": (X,)}, TypeError, r"csls to be \(x_bank, y_bank\), got tuple"),
        ((X, X), {"csls": (X[:, :2], X)}, ValueError, "x_bank with 3 columns, got 2"),
        ((X, X), {"csls": (X[:3, 0], X)}, ValueError, "x_bank with the local .* 12 rows, got 3"),
        ((X, X), {"csls": (None, X)}, TypeError, "x_bank to be an array or a tensor, got NoneType"),
    ],
)
def test_refuses(
    arguments: tuple[Any, Any], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^search: expected {message}"):
        search(*arguments, **options)


def test_local_scaling_refuses() -> None:
    with pytest.raises(ValueError, match=r"^local_scaling: expected k <= 9, the rows of bank, got"):
        local_scaling(X, X[:9])
    with pytest.raises(ValueError, match=r"^local_scaling: expected x with 3 columns, got 2"):
        local_scaling(X[:, :2], X)
