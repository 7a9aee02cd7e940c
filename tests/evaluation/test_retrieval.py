"""Retrieval against every order of ties, and its invariances."""

from __future__ import annotations

import numpy as np
import oracles_evaluation
import pytest
import torch
from contract import normal, rotation
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from structure_reg import Retrieval, RetrievalDirection, retrieval, tile_budget
from structure_reg.evaluation import ties

KS = (1, 2, 4, 10)


def flat(r: RetrievalDirection) -> Tensor:
    """Concatenate the measures in the order of the oracle."""
    means = (r.mean_average_precision, r.mean_reciprocal_rank, r.mean_rank, r.median_rank)
    parts = (r.recall, r.precision, r.average_precision, torch.stack(means), r.queries[None])
    return torch.cat([part.double() for part in parts])


def assert_same(a: Retrieval, b: Retrieval) -> None:
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(flat(one), flat(other), rtol=1e-12, atol=1e-12)


def few_directions(n: int, seed: int) -> Tensor:
    """Rows of different lengths, many of them parallel and some zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-1, 2, (n, 2), generator=generator).double()
    return x * (1 + torch.rand(n, 1, generator=generator, dtype=torch.float64))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    kinds=st.integers(1, 5),
    seed=st.integers(0, 2**20),
    passes=st.sampled_from([0, 16]),
)
def test_is_the_mean_over_all_orders(
    sizes: tuple[int, int], kinds: int, seed: int, passes: int
) -> None:
    x, y = few_directions(sizes[0], seed), few_directions(sizes[1], seed + 1)
    generator = torch.Generator().manual_seed(seed)
    ids, y_ids = (torch.randint(kinds, (n,), generator=generator) for n in sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ties, "PASSES", passes)  # both ways of counting
        result = retrieval(x, y, ids=ids, y_ids=y_ids, ks=KS)
    arrays = x.numpy(), y.numpy(), ids.numpy(), y_ids.numpy()
    if np.isin(arrays[2], arrays[3]).any():
        x_to_y = oracles_evaluation.retrieval(*arrays, KS)
        y_to_x = oracles_evaluation.retrieval(*arrays[1::-1], *arrays[:1:-1], KS)
        np.testing.assert_allclose(flat(result.x_to_y), x_to_y, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(flat(result.y_to_x), y_to_x, rtol=1e-9, atol=1e-9)
    else:
        assert flat(result.x_to_y)[:-1].isnan().all()
        assert result.x_to_y.queries == 0


@settings(max_examples=30, deadline=None)
@given(sizes=st.tuples(st.integers(2, 8), st.integers(2, 8)), seed=st.integers(0, 2**20))
def test_csls_is_the_mean_over_all_orders(sizes: tuple[int, int], seed: int) -> None:
    """With tied rows, which have tied scores too."""
    x, y = few_directions(sizes[0], seed), few_directions(sizes[1], seed + 1)
    x_bank, y_bank = normal(12, 2, seed=seed + 2), few_directions(15, seed + 3)
    ids, y_ids = torch.arange(sizes[0]) % 3, torch.arange(sizes[1]) % 3
    arrays = x.numpy(), y.numpy(), ids.numpy(), y_ids.numpy()
    banks = x_bank.numpy(), y_bank.numpy()
    for budget in (1e-9, 64):
        with tile_budget(budget):
            result = retrieval(x, y, ids=ids, y_ids=y_ids, ks=KS, csls=(x_bank, y_bank))
        x_to_y = oracles_evaluation.csls(*arrays[:2], *banks)
        y_to_x = oracles_evaluation.csls(*arrays[1::-1], *banks[::-1])
        np.testing.assert_allclose(x_to_y, y_to_x.T, atol=1e-12)
        expected = oracles_evaluation.retrieval(*arrays, KS, x_to_y)
        np.testing.assert_allclose(flat(result.x_to_y), expected, rtol=1e-9, atol=1e-9)
        expected = oracles_evaluation.retrieval(*arrays[1::-1], *arrays[:1:-1], KS, y_to_x)
        np.testing.assert_allclose(flat(result.y_to_x), expected, rtol=1e-9, atol=1e-9)


def test_csls_of_a_collapsed_head_scores_chance() -> None:
    point = normal(1, 50, seed=0).float().expand(60, -1)
    result = retrieval(normal(60, 50, seed=1).float(), point, csls=(point, point), ks=(1, 5))
    assert result.x_to_y.recall.tolist() == pytest.approx([1 / 60, 5 / 60], rel=1e-6)


def test_a_bank_that_is_not_finite_gives_nan() -> None:
    x, y, bank = (normal(12, 4, seed=seed) for seed in range(3))
    bank[3, 1] = torch.nan
    result = retrieval(x, y, csls=(bank, x))
    assert flat(result.x_to_y)[:-1].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("positives", [1, 3])
def test_a_collapsed_head_scores_chance(dtype: torch.dtype, positives: int) -> None:
    """Even if rows are parallel only up to rounding in their dtype."""
    n = 60
    ids = torch.arange(n) // positives
    point = normal(1, 50, seed=0, dtype=dtype).expand(n, -1)
    for y in (point, point * 2.0 ** torch.arange(-3, 3, dtype=dtype).repeat(n // 6)[:, None]):
        result = retrieval(normal(n, 50, seed=1, dtype=dtype), y, ids=ids, ks=(1, 5))
        for way in result:
            assert way.recall[0].item() == pytest.approx(positives / n, rel=1e-6)
            assert way.precision.tolist() == pytest.approx([positives / n] * 2, rel=1e-6)
        chance = (n + 1) / (positives + 1)
        assert result.x_to_y.mean_rank.item() == pytest.approx(chance, rel=1e-6)


def test_on_real_scores_it_is_the_usual_count() -> None:
    """Without ties, a rank is one plus the number of higher scores."""
    x, y = normal(200, 16, seed=0), normal(200, 16, seed=0) + normal(200, 16, seed=1)
    cosines = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(y).T
    rank = 1 + (cosines > cosines.diagonal()[:, None]).sum(1)
    way = retrieval(x, y).x_to_y
    assert way.recall.tolist() == pytest.approx(
        [(rank <= k).double().mean().item() for k in way.ks]
    )
    assert way.mean_rank.item() == pytest.approx(rank.double().mean().item())
    assert way.mean_average_precision.item() == pytest.approx((1 / rank).mean().item())
    assert way.median_rank.item() == pytest.approx(rank.double().quantile(0.5).item())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_what_does_not_matter(seed: int) -> None:
    n = 24
    x, y = few_directions(n, seed), few_directions(n, seed + 1)
    ids = torch.arange(n) // 2
    result = retrieval(x, y, ids=ids)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    turn = rotation(2)
    assert_same(retrieval(x[order], y[order], ids=ids[order]), result)
    assert_same(retrieval(x, y[order], ids=ids, y_ids=ids[order]), result)
    assert_same(retrieval(3 * x, y, ids=ids), result)
    assert_same(retrieval(x @ turn, y @ turn, ids=ids), result)
    assert_same(retrieval(y, x, ids=ids), Retrieval(result.y_to_x, result.x_to_y))
    assert_same(retrieval(x, y, ids=7 - ids.int()), result)
    with tile_budget(1e-9):
        assert_same(retrieval(x, y, ids=ids), result)


@pytest.mark.parametrize("budget", [1e-9, 0.01])  # each direction by itself, and both at once
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_of_the_product_do_not_matter(budget: float, dtype: torch.dtype) -> None:
    """Neither do ids that lie apart, nor copies of rows in other blocks, which tie."""
    generator = torch.Generator().manual_seed(0)
    x, y = normal(75, 8, seed=0, dtype=dtype), normal(50, 8, seed=1, dtype=dtype)
    x, y = torch.cat([x, x[:20]]), torch.cat([y, 2 * y[30:]])
    ids, y_ids = (torch.randint(30, (len(z),), generator=generator) for z in (x, y))
    with tile_budget(budget):
        result = retrieval(x, y, ids=ids, y_ids=y_ids, csls=(x[:40], y[:40]))
    whole = retrieval(x, y, ids=ids, y_ids=y_ids, csls=(x[:40], y[:40]))
    assert_same(result, whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_copies_in_other_blocks_tie(dtype: torch.dtype) -> None:
    x = normal(64, 300, seed=0, dtype=dtype)
    y = x + normal(64, 300, seed=1, dtype=dtype) / 4
    with tile_budget(0.01):
        result = retrieval(x, torch.cat([y] * 3), ids=torch.arange(64), y_ids=torch.arange(192))
    assert result.x_to_y.recall[0].item() == pytest.approx(1 / 3, rel=1e-6)
    assert result.x_to_y.mean_rank == 2


def test_distractors_are_ranked_and_do_not_ask() -> None:
    x = torch.eye(4)
    y = torch.cat([x, x[:2]])  # two rows without a query that score as high as the right ones
    result = retrieval(x, y, ids=torch.arange(4), y_ids=torch.tensor([0, 1, 2, 3, 8, 9]))
    assert result.x_to_y.recall[0] == 0.75
    assert result.x_to_y.mean_rank == 1.25
    assert (result.x_to_y.queries, result.y_to_x.queries) == (4, 4)
    assert result.y_to_x.recall[0] == 1


def test_tells_apart_what_lies_in_a_narrow_cone() -> None:
    """Cosines agree to seven digits, so float32 alone would tie or shuffle them."""
    x = normal(300, 32, seed=0, dtype=torch.float32) + 1000
    assert retrieval(x, x).mean_recall == 1
    assert (x.double() @ x.double().T).float().unique().numel() < 300 * 299 / 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_gives_nan(value: float) -> None:
    for position in range(2):
        tensors = [normal(12, 4, seed=0), normal(12, 4, seed=1)]
        tensors[position][3, 1] = value
        result = retrieval(*tensors)
        assert flat(result.x_to_y)[:-1].isnan().all()
        assert flat(result.y_to_x)[:-1].isnan().all()


def test_dtypes_autocast_and_gradients() -> None:
    x, y = (normal(30, 8, seed=s, dtype=torch.float32).requires_grad_() for s in (0, 1))
    result = retrieval(x, y)
    assert result.mean_recall.dtype == torch.float32
    assert not result.mean_recall.requires_grad
    assert retrieval(x.bfloat16(), y.double()).mean_recall.dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(retrieval(x, y), result)


def test_prints_as_a_table() -> None:
    lines = str(retrieval(torch.eye(4), torch.eye(4), ks=(1,))).splitlines()
    assert lines[0].split() == ["x", "->", "y", "y", "->", "x"]
    assert lines[1].split() == ["R@1", "1.000", "1.000"]
    assert {len(line) for line in lines} == {32}


X = torch.ones(4, 3)
IDS = torch.arange(4)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((None, X), {}, TypeError, "x to be an array or a tensor, got NoneType"),
        ((X, X.long()), {}, TypeError, "y in float16, .*, got torch.int64"),
        ((X, X[0]), {}, ValueError, r"y of shape \(n, d\), got \(3,\)"),
        ((X, X[:, :2]), {}, ValueError, "x and y with the same columns, got 3 and 2"),
        ((X, X[:3]), {}, ValueError, "x and y with the same number of rows, got 4 and 3"),
        ((X, X.to("meta")), {}, ValueError, "x and y on one device, got cpu and meta"),
        ((X, X), {"ids": IDS[:3]}, ValueError, r"ids of shape \(4,\), got \(3,\)"),
        ((X, X), {"ids": 3}, TypeError, "ids to be a list, an array or a tensor, got int"),
        ((X, X), {"y_ids": IDS}, ValueError, "ids together with y_ids, got None"),
        ((X, X), {"ids": IDS, "y_ids": X[:, 0]}, TypeError, "y_ids of an integer dtype, got"),
        ((X, X), {"ks": 5}, TypeError, "ks to be a list of integers, got 5"),
        ((X, X), {"ks": ()}, ValueError, "at least one cut-off in ks, got none"),
        ((X, X), {"ks": (0,)}, ValueError, "ks >= 1, got 0"),
        ((X, X), {"ks": (1.5,)}, TypeError, "ks to be an integer, got float"),
        ((X, X), {"csls": X}, TypeError, r"csls to be \(x_bank, y_bank\), got Tensor"),
        ((X, X), {"csls": (X, X[:, :2])}, ValueError, "y_bank with 3 columns, got 2"),
    ],
)
def test_refuses(
    arguments: tuple[Tensor, Tensor],
    options: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=f"^retrieval: expected {message}"):
        retrieval(*arguments, **options)
