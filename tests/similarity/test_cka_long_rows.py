"""Rows that are far longer than the others, such as fill values, cost no digits on any route."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from structure_reg import CKA, MinibatchCKA, cka, cka_chance, layer_similarity, rv
from structure_reg.similarity.features import features_are_cheaper
from structure_reg.similarity.grams import Layer
from structure_reg.similarity.null import cka_null

Wide = np.longdouble  # the mean of rows of length 1 and 10^6 costs float64 too many digits


def pair(n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, 4, generator=g)
    x, y = (
        shared @ torch.randn(4, d, generator=g) + torch.randn(n, d, generator=g) for _ in range(2)
    )
    return x + 2, y - 1


def exact_cka(x: Tensor, y: Tensor, kernel: str = "linear", debiased: bool = True) -> float:
    def kernel_matrix(z: Tensor) -> np.ndarray:
        rows = z.double().numpy().astype(Wide)
        rows = rows - np.median(rows, 0)
        if kernel == "linear":
            return rows @ rows.T
        squares = np.stack([((rows - row) ** 2).sum(1) for row in rows])
        distances = np.sort(squares[np.triu_indices(len(rows), 1)])
        return np.exp(-squares / (2 * distances[(len(distances) - 1) // 2])) - np.exp(Wide(-0.5))

    def h(K: np.ndarray, L: np.ndarray) -> Wide:
        n = Wide(len(K))
        if debiased:
            K, L = (M - np.diag(np.diag(M)) for M in (K, L))
            through_rows, through_all = 2 / (n - 2), 1 / ((n - 1) * (n - 2))
        else:
            through_rows, through_all = 2 / n, 1 / n**2
        return (K * L).sum() - through_rows * K.sum(1) @ L.sum(1) + through_all * K.sum() * L.sum()

    K, L = kernel_matrix(x), kernel_matrix(y)
    return float(h(K, L) / np.sqrt(h(K, K) * h(L, L)))


def stretched(n: int, d: int, rows: list[int], change: str) -> tuple[Tensor, Tensor]:
    x, y = pair(n, d)
    for z in (x, y):
        z[rows] = z[rows] * 1e6 if change == "long" else float(change)
    return x, y


def streamed(stream: CKA | MinibatchCKA, x: Tensor, y: Tensor, size: int) -> float:
    for x_batch, y_batch in zip(x.split(size), y.split(size), strict=True):
        stream.update(x_batch, y_batch)
    return stream.compute().item()


every_change = pytest.mark.parametrize("change", ["long", "-9999", "65504", "1e8"])
every_place = pytest.mark.parametrize("rows", [[3], [0], [0, 1, 5], list(range(0, 60, 3))], ids=str)
SHAPES = {"samples": (60, 40), "features": (60, 3)}


@every_change
@every_place
@pytest.mark.parametrize("route", SHAPES)
def test_every_route_of_the_linear_kernel(route: str, rows: list[int], change: str) -> None:
    n, d = SHAPES[route]
    x, y = stretched(n, d, rows, change)
    layers = [Layer(x, None), Layer(y, None)]
    assert features_are_cheaper(layers, [(0, 0), (0, 1), (1, 1)]) == (route == "features")
    expected = exact_cka(x, y)
    for value in (
        cka(x, y).item(),
        layer_similarity([x], [y], metric="cka").item(),
        streamed(CKA(), x, y, 60),
        streamed(CKA(), x, y, 7),
        streamed(MinibatchCKA(), x, y, 60),
    ):
        assert value == pytest.approx(expected, abs=2e-6)
    assert cka_null([x], [y], torch.arange(n)[None]).item() == pytest.approx(expected, abs=1e-4)
    assert cka(x, y.double()).item() == pytest.approx(expected, abs=1e-10)
    assert rv(x, y).item() == pytest.approx(exact_cka(x, y, debiased=False), abs=2e-6)


@every_change
@every_place
def test_the_radial_kernel(rows: list[int], change: str) -> None:
    x, y = stretched(60, 40, rows, change)
    expected = exact_cka(x, y, "rbf")
    assert cka(x, y, kernel="rbf").item() == pytest.approx(expected, abs=4e-6)
    assert layer_similarity([x], [y], metric="rbf_cka").item() == pytest.approx(expected, abs=4e-6)


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.floats(0, 6), min_size=1, max_size=12),
    d=st.sampled_from([2, 40]),
    seed=st.integers(0, 99),
)
def test_rows_of_any_lengths(lengths: list[float], d: int, seed: int) -> None:
    x, y = pair(50, d, seed)
    factors = 10.0 ** torch.tensor(lengths)[:, None]
    x[: len(lengths)] *= factors
    y[10 : 10 + len(lengths)] *= factors
    expected = exact_cka(x, y)
    assert cka(x, y).item() == pytest.approx(expected, abs=1e-5)
    assert streamed(CKA(), x, y, 9) == pytest.approx(expected, abs=1e-6)


def test_the_gradient() -> None:
    """One row of 10^6 used to hide the others from the gradient of both routes."""
    for d in SHAPES.values():
        x, y = stretched(*d, [3], "long")
        gradients = []
        for dtype in (torch.float64, torch.float32):
            leaf = x.to(dtype).requires_grad_()
            cka(leaf, y.to(dtype)).backward()
            gradients.append(leaf.grad.double())
        exact, single = gradients
        error = (single - exact).abs().amax(1) / exact.abs().amax(1)
        assert error[3] < 1e-2  # next to nothing: moving a far row changes little
        error[3] = 0
        assert error.max() < 1e-4


def test_chance_with_one_long_row_on_each_side() -> None:
    x, y = stretched(6, 3, [2], "-9999")
    every = torch.cartesian_prod(*6 * [torch.arange(6)])
    every = every[(every.sort(1).values == torch.arange(6)).all(1)]
    for kernel in ("linear", "rbf"):
        draws = cka_null([x.double()], [y.double()], every, kernel=kernel, debiased=False)
        mean, sd = cka_chance([x], [y], kernel=kernel, debiased=False)
        torch.testing.assert_close(mean.double(), draws.mean(0), rtol=1e-5, atol=0)
        torch.testing.assert_close(sd.double(), draws.std(0, correction=0), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_mixed_dtypes_have_the_accuracy_of_their_result(kernel: str) -> None:
    x, y = pair(40, 30)
    expected = exact_cka(x, y, kernel)
    for x2, y2 in ((x, y.double()), (x.double(), y)):
        value = cka(x2, y2, kernel=kernel)
        assert value.dtype == torch.float64
        assert value.item() == pytest.approx(expected, abs=1e-12)


EQUIDISTANT = {
    "axes": torch.eye(30),
    "rotated axes": torch.linalg.qr(
        torch.randn(30, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )[0],
    "shifted axes": 3 * torch.eye(30) + 7,
    "one row apart": torch.zeros(30, 5).index_fill(0, torch.tensor([4]), 2.5),
    "orthogonal rows and zeros": torch.cat([torch.eye(3), torch.zeros(27, 3)]),
}


@pytest.mark.parametrize("rows", EQUIDISTANT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_value_where_the_off_diagonals_vanish(rows: str, dtype: torch.dtype) -> None:
    """The norm is 0 up to rounding, and the quotient was anything."""
    x, y = EQUIDISTANT[rows].to(dtype), pair(30, 5)[0].to(dtype)
    assert cka(x, y).isnan()
    assert cka(x, x).isnan()
    assert math.isnan(streamed(CKA(), x, y, 8))
    assert cka_null([x], [y], torch.arange(30)[None]).isnan()
    if "axes" in rows:
        assert cka(x, y, kernel="rbf").isnan()


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(4, 12),
    d=st.integers(1, 12),
    levels=st.integers(1, 3),
    seed=st.integers(0, 10**6),
    kernel=st.sampled_from(["linear", "rbf"]),
    debiased=st.booleans(),
)
def test_in_range_or_nan(
    n: int, d: int, levels: int, seed: int, kernel: str, debiased: bool
) -> None:
    """Rows of few integers meet every degenerate case: equal, opposite, and equidistant rows."""
    g = torch.Generator().manual_seed(seed)
    x, y = (torch.randint(-levels, levels + 1, (n, d), generator=g).float() for _ in range(2))
    streams = CKA(debiased=debiased), MinibatchCKA()
    for value in (
        cka(x, y, kernel=kernel, debiased=debiased).item(),
        cka(x, x.clone(), kernel=kernel, debiased=debiased).item(),
        *(streamed(stream, x, y, n) for stream in streams),
    ):
        assert math.isnan(value) or -1 <= value <= 1
