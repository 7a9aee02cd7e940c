"""The hand-written passes of structure_loss: equal to the definition, and no worse than autograd."""

import oracles_structure as oracles
import pytest
import torch
from torch.autograd import forward_ad

from structure_reg import StructureLoss, structure_loss, tile_budget
from structure_reg._gram import centered_unit_rows
from structure_reg.losses.structure import plain_rows

DIVERGENCES = ("js", "reverse_js")
CENTERINGS = ("after", "before", "none")
# 1 MiB sends these sizes to the row tiles, several of them; the default takes the triangle.
BUDGETS = (0.05, 64.0)


def features(n, d0, d, *, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    frozen = torch.randn(n, d0, generator=g, dtype=torch.float64) + 0.3
    aligned = frozen @ torch.randn(d0, d, generator=g, dtype=torch.float64) / d0**0.5
    aligned = aligned + torch.randn(n, d, generator=g, dtype=torch.float64)
    return frozen.to(dtype), aligned.to(dtype).requires_grad_()


def plain(frozen, aligned, *, temperature, levels, divergence="js", centering="after"):
    X, A = (centered_unit_rows(x, centering) for x in (frozen, aligned))
    return plain_rows(X, A, temperature, levels, divergence)


def gradient(rows, aligned, weights=None):
    weights = torch.full_like(rows, 1 / len(rows)) if weights is None else weights
    return torch.autograd.grad(rows, aligned, weights)[0]


def relative(x, y):
    return ((x - y).norm() / y.norm()).item()


@pytest.mark.parametrize("levels", [1, 2, 3, 5])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("centering", CENTERINGS)
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("temperature", [0.02, 0.3])
def test_rows_follow_the_definition(levels, divergence, centering, budget, temperature):
    frozen, aligned = features(90, 12, 7)
    options = {
        "temperature": temperature,
        "levels": levels,
        "divergence": divergence,
        "centering": centering,
    }
    with tile_budget(budget):
        rows = structure_loss(frozen, aligned, reduction="none", **options)
    expected = oracles.structure_rows(frozen, aligned.detach(), **options)
    torch.testing.assert_close(rows.detach(), torch.from_numpy(expected), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("temperature", [0.002, 0.3])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradient_is_that_of_the_plain_form(levels, divergence, budget, temperature, reduction):
    frozen, aligned = features(70, 12, 7)
    options = {"temperature": temperature, "levels": levels, "divergence": divergence}
    weights = None
    expected = plain(frozen, aligned, **options)
    if reduction == "none":
        weights = torch.linspace(-1, 2, len(frozen), dtype=torch.float64)
    else:
        expected = expected.mean().expand(1)
    with tile_budget(budget):
        rows = structure_loss(frozen, aligned, reduction=reduction, **options)
        rows = rows if reduction == "none" else rows.expand(1)
        found = gradient(rows, aligned, weights)
    assert relative(found, gradient(expected, aligned, weights)) < 1e-11


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("budget", BUDGETS)
def test_gradcheck(levels, divergence, budget):
    frozen, aligned = features(20, 5, 4)

    def loss(a, reduction):
        with tile_budget(budget):
            return structure_loss(
                frozen,
                a,
                temperature=0.1,
                levels=levels,
                divergence=divergence,
                reduction=reduction,
            )

    for reduction in ("sum", "none"):
        assert torch.autograd.gradcheck(loss, (aligned, reduction), fast_mode=True)


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("temperature", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("budget", BUDGETS)
def test_float32_errs_no_more_than_autograd_does(levels, divergence, temperature, budget):
    options = {"temperature": temperature, "levels": levels, "divergence": divergence}
    frozen, aligned = features(200, 24, 16)
    exact = plain(frozen, aligned, **options)
    exact_gradient = gradient(exact, aligned)
    frozen, aligned = frozen.float(), aligned.detach().float().requires_grad_()
    # Both get the inputs as rounded to float32.
    exact = plain(frozen.double(), aligned.double(), **options)
    exact_gradient = gradient(exact, aligned).double()
    naive = plain(frozen, aligned, **options)
    with tile_budget(budget):
        ours = structure_loss(frozen, aligned, reduction="none", **options)
        ours_gradient = gradient(ours, aligned)
    value_error = (naive.mean() - exact.mean()).abs()
    assert (ours.mean() - exact.mean()).abs() <= value_error + 2e-7 * exact.mean()
    naive_error = relative(gradient(naive, aligned), exact_gradient)
    assert relative(ours_gradient, exact_gradient) <= 1.5 * naive_error + 1e-6


@pytest.mark.parametrize("levels", [1, 2, 5])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1e-3, 1e-2, 0.05, 10.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_finite_where_rows_degenerate(levels, divergence, temperature, dtype):
    frozen, aligned = features(40, 12, 7, dtype=dtype)
    zero = aligned.detach().clone()
    zero[:3] = 0
    equal = aligned.detach().clone()
    equal[:5] = equal[0]
    collapsed = torch.ones_like(aligned)
    for rows in (aligned.detach(), zero, equal, collapsed, -collapsed * 1e-3):
        rows.requires_grad_()
        for x in (frozen, rows.detach()[:, :1]):
            for centering in CENTERINGS:
                value = structure_loss(
                    x,
                    rows,
                    temperature=temperature,
                    levels=levels,
                    divergence=divergence,
                    centering=centering,
                )
                (found,) = torch.autograd.grad(value, rows)
                assert value.isfinite()
                assert found.isfinite().all()


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("temperature", [0.01, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("budget", BUDGETS)
def test_equal_sides_cost_exactly_nothing(levels, temperature, dtype, budget):
    frozen, _ = features(50, 12, 7, dtype=dtype)
    aligned = frozen.clone().requires_grad_()
    with tile_budget(budget):
        value = structure_loss(frozen, aligned, temperature=temperature, levels=levels)
        value.backward()
    assert value == 0
    assert not aligned.grad.any()


@pytest.mark.parametrize("levels", [1, 2])
def test_nan_comes_through(levels):
    frozen, aligned = features(40, 12, 7)
    with torch.no_grad():
        aligned[3, 2] = torch.nan
    value = structure_loss(frozen, aligned, levels=levels)
    value.backward()
    assert value.isnan()
    assert aligned.grad.isnan().any()


@pytest.mark.parametrize("levels", [1, 3])
def test_one_graph_under_compile(levels):
    frozen, aligned = features(60, 12, 7)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(a, reduction):
        return structure_loss(frozen, a, levels=levels, reduction=reduction)

    for reduction in ("mean", "none"):
        rows = structure_loss(frozen, aligned, levels=levels, reduction=reduction)
        traced = compiled(aligned, reduction)
        assert torch.equal(rows, traced)
        weights = torch.rand_like(rows)
        assert torch.equal(gradient(rows, aligned, weights), gradient(traced, aligned, weights))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_transforms_take_the_plain_form():
    frozen, aligned = features(12, 5, 3)
    direction = torch.randn_like(aligned)
    aligned = aligned.detach()

    def loss(a):
        return structure_loss(frozen, a, temperature=0.3)

    found = torch.func.grad(loss)(aligned)
    leaf = aligned.clone().requires_grad_()
    torch.testing.assert_close(found, torch.autograd.grad(loss(leaf), leaf)[0])
    _, slope = torch.func.jvp(loss, (aligned,), (direction,))
    torch.testing.assert_close(slope, (found * direction).sum())
    with forward_ad.dual_level():
        dual = loss(forward_ad.make_dual(aligned, direction))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, slope)
    assert torch.func.hessian(loss)(aligned).isfinite().all()
    both = torch.stack([aligned, direction])
    torch.testing.assert_close(torch.vmap(loss)(both), torch.stack([loss(a) for a in both]))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_second_derivative_is_refused_in_words(reduction):
    frozen, aligned = features(12, 5, 3)
    rows = structure_loss(frozen, aligned, reduction=reduction)
    (first,) = torch.autograd.grad(rows.sum() ** 2, aligned, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"structure_loss: expected one backward pass"):
        first.sum().backward()


def test_no_gradient_no_gradient_work():
    frozen, aligned = features(12, 5, 3)
    assert not structure_loss(frozen, aligned.detach()).requires_grad
    with torch.no_grad():
        assert not structure_loss(frozen, aligned).requires_grad
    value = structure_loss(frozen.requires_grad_(), aligned)
    assert torch.autograd.grad(value, frozen, allow_unused=True) == (None,)


def test_meta_tensors_have_the_shapes():
    frozen, aligned = torch.empty(8, 4, device="meta"), torch.empty(8, 3, device="meta")
    assert StructureLoss(levels=3)(frozen, aligned.requires_grad_()).shape == ()
    assert structure_loss(frozen, aligned, reduction="none").shape == (8,)


def test_autocast_changes_nothing():
    frozen, aligned = features(40, 12, 7, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = structure_loss(frozen, aligned, levels=2)
        inside_gradient = gradient(inside.expand(1), aligned)
    outside = structure_loss(frozen, aligned, levels=2)
    assert torch.equal(inside, outside)
    assert torch.equal(inside_gradient, gradient(outside.expand(1), aligned))
