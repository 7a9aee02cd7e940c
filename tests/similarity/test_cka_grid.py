"""CKA of all pairs of layers in one pass, and with re-paired rows."""

from __future__ import annotations

import oracles_cka as oracles
import pytest
import torch
from torch import Tensor

from structure_reg import cka, tile_budget
from structure_reg.similarity import grams
from structure_reg.similarity import null as nulls
from structure_reg.similarity.cka import cka_grid
from structure_reg.similarity.null import cka_null

FORMS = [
    {"kernel": kernel, "debiased": debiased}
    for kernel in ("linear", "rbf")
    for debiased in (True, False)
]
every_form = pytest.mark.parametrize("form", FORMS, ids=lambda f: f"{f['kernel']}-{f['debiased']}")


def layers(n: int, widths: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    """Layers that build on one another, with growing noise and different scales."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, widths[0], generator=g, dtype=torch.float64)
    stack = [x]
    for d in widths[1:]:
        mixed = x @ torch.randn(x.shape[1], d, generator=g, dtype=torch.float64)
        x = mixed + 2 * torch.randn(n, d, generator=g, dtype=torch.float64)
        stack.append(10 ** (len(stack) - 2) * x + 3)
    return stack


def per_pair(xs: list[Tensor], ys: list[Tensor], form: dict[str, object]) -> Tensor:
    return torch.tensor([[oracles.cka(x, y, **form) for y in ys] for x in xs]).double()


@every_form
@pytest.mark.parametrize("n", [23, 90])
@pytest.mark.parametrize("mebibytes", [64, 0.01])
def test_the_grid_is_each_pair(form: dict[str, object], n: int, mebibytes: float) -> None:
    xs, ys = layers(n, (5, 60, 4)), layers(n, (7, 3), seed=1)
    ys[0] = ys[0] + xs[2][:, :1]
    with tile_budget(mebibytes):
        torch.testing.assert_close(cka_grid(xs, ys, **form), per_pair(xs, ys, form))


@every_form
def test_a_model_against_itself(form: dict[str, object]) -> None:
    xs = layers(40, (5, 60, 4))
    grid = cka_grid(xs, xs, **form)
    torch.testing.assert_close(grid, per_pair(xs, xs, form))
    torch.testing.assert_close(grid, grid.mT)


def test_a_layer_that_occurs_twice_is_worked_on_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import structure_reg.similarity.cka as module

    prepared = []
    monkeypatch.setattr(
        module, "prepare", lambda x, kernel: prepared.append(x) or grams.prepare(x, kernel)
    )
    xs = layers(40, (5, 6, 4))
    grid = cka_grid([*xs, xs[0]], xs[1:])
    assert len(prepared) == 3
    assert torch.equal(grid[3], grid[0])


def test_mixed_dtypes_are_promoted() -> None:
    xs, ys = layers(40, (5, 6)), [y.float() for y in layers(40, (4, 3), seed=1)]
    grid = cka_grid(xs, [ys[0], ys[1].bfloat16()])
    assert grid.dtype == torch.float64
    expected = per_pair(xs, [ys[0], ys[1].bfloat16()], {})
    torch.testing.assert_close(grid, expected, rtol=1e-6, atol=1e-6)
    assert cka_grid(ys, ys).dtype == torch.float32


def test_a_constant_layer_spoils_only_its_own_row() -> None:
    xs, ys = layers(40, (5, 6, 4)), layers(40, (4, 3), seed=1)
    broken: list[Tensor] = [xs[0], torch.full((40, 7), 0.1).double(), xs[2]]
    grid = cka_grid(broken, ys)
    assert grid[1].isnan().all()
    torch.testing.assert_close(grid[[0, 2]], cka_grid(xs, ys)[[0, 2]])


def test_the_grid_has_the_gradient_of_each_pair() -> None:
    xs, ys = layers(12, (5, 3)), layers(12, (4, 2), seed=1)
    leaf = xs[1].clone().requires_grad_()
    (by_grid,) = torch.autograd.grad(cka_grid([xs[0], leaf], ys).sum(), leaf)
    (by_pair,) = torch.autograd.grad(cka(leaf, ys[0]) + cka(leaf, ys[1]), leaf)
    torch.testing.assert_close(by_grid, by_pair)


def permutations(count: int, n: int) -> Tensor:
    g = torch.Generator().manual_seed(5)
    return torch.stack([torch.arange(n), *(torch.randperm(n, generator=g) for _ in range(count))])


@every_form
@pytest.mark.parametrize("mebibytes", [64, 0.001])
def test_the_null_is_the_grid_of_permuted_rows(form: dict[str, object], mebibytes: float) -> None:
    xs, ys = layers(37, (5, 60, 4)), layers(37, (7, 3), seed=1)
    P = permutations(6, 37)
    expected = torch.stack([per_pair(xs, [y[p] for y in ys], form) for p in P])
    with tile_budget(mebibytes):
        torch.testing.assert_close(cka_null(xs, ys, P, **form), expected)


def test_the_null_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    xs, ys = layers(37, (5, 60, 4)), layers(37, (7, 3), seed=1)
    P = permutations(3, 37)
    whole = cka_null(xs, ys, P)
    monkeypatch.setattr(nulls, "FLOATS_IN_CACHE", 300)
    torch.testing.assert_close(cka_null(xs, ys, P), whole)


def test_the_null_in_float32() -> None:
    xs, ys = layers(37, (5, 60, 4)), layers(37, (7, 3), seed=1)
    P = permutations(6, 37)
    single = cka_null([x.float() for x in xs], [y.float() for y in ys], P)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), cka_null(xs, ys, P), rtol=0, atol=2e-6)


def test_the_null_of_mixed_dtypes() -> None:
    xs, ys = layers(37, (5, 60, 4)), [y.float() for y in layers(37, (7, 3), seed=1)]
    P = permutations(3, 37)
    for first, second in ((xs, ys), (ys, xs)):
        draws = cka_null(first, second, P)
        expected = torch.stack([per_pair(first, [y[p] for y in second], {}) for p in P])
        assert draws.dtype == torch.float64
        torch.testing.assert_close(draws, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("xs", "ys", "error", "message"),
    [
        ([], [torch.ones(9, 2)], ValueError, "expected xs with at least one layer"),
        (torch.ones(9, 2), [torch.ones(9, 2)], TypeError, "got Tensor"),
        ([torch.ones(9, 2), torch.ones(8, 2)], [torch.ones(9, 2)], ValueError, "got 8 and 9"),
        ([torch.ones(9, 2), torch.ones(9)], [torch.ones(9, 2)], ValueError, r"xs\[1\] of shape"),
        ([torch.ones(3, 2)], [torch.ones(3, 2)], ValueError, "n >= 4"),
    ],
)
def test_refuses(xs: object, ys: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cka_grid(xs, ys)
