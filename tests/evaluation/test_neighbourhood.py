"""Neighbourhood measures against every order of ties, and against scikit-learn if defined there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import oracles_evaluation
import pytest
import torch
from contract import normal, rotation
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from structure_reg import continuity, neighbourhood_overlap, tile_budget, trustworthiness

MEASURES = (trustworthiness, continuity, neighbourhood_overlap)
every_measure = pytest.mark.parametrize("measure", MEASURES)
Measure = Callable[..., Tensor]


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(3, 6),
    share=st.floats(0, 1),
    metric=st.sampled_from(["euclidean", "cosine"]),
    seed=st.integers(0, 2**20),
)
def test_is_the_mean_over_all_orders(n: int, share: float, metric: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randint(-1, 2, (n, 2), generator=generator).double() for _ in range(2))
    k = 1 + round(share * (n - 3))
    arrays = x.numpy(), y.numpy()
    expected = (
        oracles_evaluation.trustworthiness(*arrays, k, metric),
        oracles_evaluation.trustworthiness(*arrays[::-1], k, metric),
        oracles_evaluation.neighbourhood_overlap(*arrays, k, metric),
    )
    found = [measure(x, y, k=k, metric=metric) for measure in MEASURES]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("k", [1, 5, 40, 149])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_agrees_with_scikit_learn(k: int, metric: str) -> None:
    reference = pytest.importorskip("sklearn.manifold").trustworthiness
    x, y = normal(300, 12, seed=0), normal(300, 5, seed=1) + normal(300, 12, seed=0)[:, :5]
    found = trustworthiness(x, y, k=k, metric=metric)
    lost = continuity(x, y, k=k, metric=metric)
    if metric == "cosine":  # the reference measures its second argument by Euclid alone
        y = torch.nn.functional.normalize(y)
        x = torch.nn.functional.normalize(x)
    assert found.item() == pytest.approx(reference(x, y, n_neighbors=k), rel=1e-12)
    assert lost.item() == pytest.approx(reference(y, x, n_neighbors=k), rel=1e-12)


@every_measure
@pytest.mark.parametrize("k", [1, 10, 30, 58])
def test_what_is_kept_and_what_is_chance(measure: Measure, k: int) -> None:
    x = normal(60, 8, seed=0)
    for same in (3 * x @ rotation(8), x + 5):
        assert measure(x, same, k=k).item() == pytest.approx(1, abs=1e-12)
    collapsed = measure(x, torch.ones(60, 3), k=k)
    at_random = torch.stack([measure(x, normal(60, 8, seed=s), k=k) for s in range(1, 40)])
    assert collapsed.item() == pytest.approx(at_random.mean().item(), abs=0.02)
    assert at_random.min() >= 0
    assert at_random.max() <= 1


@every_measure
def test_order_of_rows_and_tiles_do_not_matter(measure: Measure) -> None:
    x, y = normal(80, 6, seed=0).round(), normal(80, 2, seed=1).round()  # with ties
    value = measure(x, y, k=20).item()
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    assert measure(x[order], y[order], k=20).item() == pytest.approx(value, rel=1e-12)
    with tile_budget(1e-9):
        assert measure(x, y, k=20).item() == pytest.approx(value, rel=1e-12)


@every_measure
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "d", "k"), [(56, 13, 34), (13, 37, 2), (21, 36, 11), (40, 5, 10)])
def test_rows_of_one_direction_are_ties(
    measure: Measure, n: int, d: int, k: int, dtype: torch.dtype
) -> None:
    """As equal rows are, whatever their lengths, in one direction or a few, in any order."""
    x = normal(n, 9, seed=0).to(dtype).double()
    few = torch.arange(n) % 5
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    lengths = normal(n, 1, seed=1).exp().to(dtype)
    for directions in (few * 0, few):
        equal = torch.eye(5, dtype=torch.float64)[directions]
        rows = (equal if directions.any() else normal(1, d, seed=2)).to(dtype) * lengths
        for sides, reference in (((rows, x), (equal, x)), ((rows, rows), (equal, equal))):
            expected = pytest.approx(measure(*reference, k=k, metric="cosine").item(), abs=2e-6)
            assert measure(*sides, k=k, metric="cosine").item() == expected
            moved = [side[order] for side in sides]
            assert measure(*moved, k=k, metric="cosine").item() == expected
            assert measure(*reference[::-1], k=k, metric="cosine").item() == pytest.approx(
                measure(*sides[::-1], k=k, metric="cosine").item(), abs=2e-6
            )


@every_measure
def test_low_precision_autocast_and_nan(measure: Measure) -> None:
    x, y = normal(50, 8, seed=0, dtype=torch.float32), normal(50, 4, seed=1, dtype=torch.float32)
    value = measure(x, y)
    assert value.dtype == torch.float32
    assert measure(x.half(), y.half()).item() == pytest.approx(value.item(), abs=0.02)
    assert measure(x.double(), y).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert measure(x, y) == value
    for tensor in (x, y):
        kept = tensor[2, 1].item()
        tensor[2, 1] = torch.nan
        assert measure(x, y).isnan()
        tensor[2, 1] = kept


@every_measure
def test_a_common_offset_costs_no_digits(measure: Measure) -> None:
    x, y = normal(60, 8, seed=0), normal(60, 4, seed=1)
    torch.testing.assert_close(measure(x + 1e5, y), measure(x, y), rtol=0, atol=1e-9)


@every_measure
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ValueError, "k >= 1, got 0"),
        ({"k": 3}, ValueError, "k <= n - 2, got k = 3, n = 4"),
        ({"k": 1.0}, TypeError, "k to be an integer, got float"),
        ({"k": 1, "metric": "manhattan"}, ValueError, "metric to be one of"),
        ({"k": 1, "metric": None}, TypeError, "metric to be a string"),
    ],
)
def test_refuses(
    measure: Measure, options: dict[str, object], error: type[Exception], message: str
) -> None:
    x = torch.ones(4, 2)
    with pytest.raises(error, match=f"^{measure.__name__}: expected {message}"):
        measure(x, x, **options)
    with pytest.raises(ValueError, match=f"^{measure.__name__}: expected frozen and aligned with"):
        measure(x, x[:3])
