"""structure_loss by hand: equal to its definition, and no worse than autograd."""

import oracles_structure as oracles
import pytest
import torch
from torch.autograd import forward_ad

from structure_reg import FrozenStructure, StructureLoss, structure_loss, tile_budget
from structure_reg._gram import centered_unit_rows
from structure_reg._kernels.options import WalkOptions
from structure_reg.losses.structure import plain_rows

DIVERGENCES = ("js", "reverse_js")
CENTERINGS = ("after", "before", "none")
# 0.05 MiB sends these sizes to the row tiles, several of them; the default takes the triangle.
BUDGETS = (0.05, 64.0)


def features(n, d0, d, *, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    frozen = torch.randn(n, d0, generator=g, dtype=torch.float64) + 0.3
    aligned = frozen @ torch.randn(d0, d, generator=g, dtype=torch.float64) / d0**0.5
    aligned = aligned + torch.randn(n, d, generator=g, dtype=torch.float64)
    return frozen.to(dtype), aligned.to(dtype).requires_grad_()


def plain(frozen, aligned, *, temperature, levels, divergence="js", centering="after"):
    X, A = (centered_unit_rows(x, centering) for x in (frozen, aligned))
    return plain_rows(X, A, WalkOptions(temperature, levels, divergence))


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
@pytest.mark.parametrize("temperature", [0.003, 0.01, 0.05, 0.5])
@pytest.mark.parametrize("budget", BUDGETS)
def test_float32_errs_no_more_than_autograd_does(levels, divergence, temperature, budget):
    options = {"temperature": temperature, "levels": levels, "divergence": divergence}
    frozen, aligned = features(200, 5, 4, dtype=torch.float32)
    double = aligned.detach().double().requires_grad_()
    exact = plain(frozen.double(), double, **options)
    naive = plain(frozen, aligned, **options)
    with tile_budget(budget):
        ours = structure_loss(frozen, aligned, reduction="none", **options)
        ours_gradient = gradient(ours, aligned)
    # Exponents of size 1/τ are rounded on either side, and not alike: the mean error of the rows
    # scatters by a fraction of that.
    tolerance = torch.finfo(torch.float32).eps * (1 + 0.02 / temperature)
    assert relative(ours, exact) <= relative(naive, exact) + tolerance
    assert relative(ours.mean(), exact.mean()) <= relative(naive.mean(), exact.mean()) + tolerance
    exact_gradient = gradient(exact, double)
    naive_error = relative(gradient(naive, aligned), exact_gradient)
    assert relative(ours_gradient, exact_gradient) <= naive_error + 5 * tolerance


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


# PyTorch's own forward mode calls it; the category depends on PyTorch's version.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
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
    with pytest.raises(
        NotImplementedError, match=r"structure_loss: expected to be differentiated once"
    ):
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


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("temperature", [0.01, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("budget", BUDGETS)
def test_prepared_is_the_same_loss(levels, temperature, dtype, budget):
    frozen, aligned = features(50, 12, 7, dtype=dtype)
    options = {"temperature": temperature, "levels": levels}
    prepared = FrozenStructure(frozen, **options)
    walks = [prepared.walks.y, *prepared.walks.powers]
    before = [walk.clone() for walk in walks]
    tolerance = {"rtol": 1e3 * torch.finfo(dtype).eps, "atol": 10 * torch.finfo(dtype).eps}
    with tile_budget(budget):
        for reduction in ("mean", "none"):
            expected = structure_loss(frozen, aligned, reduction=reduction, **options)
            found = structure_loss(prepared, aligned, reduction=reduction, **options)
            torch.testing.assert_close(found, expected, **tolerance)
            weights = torch.rand_like(found)
            torch.testing.assert_close(
                gradient(found, aligned, weights),
                gradient(expected, aligned, weights),
                **tolerance,
            )
    assert all(map(torch.equal, before, walks))
    plainly = torch.func.grad(lambda a: structure_loss(prepared, a, **options))(aligned.detach())
    expected = structure_loss(frozen, aligned, **options)
    torch.testing.assert_close(plainly, gradient(expected.expand(1), aligned), **tolerance)


def test_prepared_refuses_what_it_was_not_made_for():
    frozen, aligned = features(12, 5, 3, dtype=torch.float32)
    prepared = FrozenStructure(frozen, temperature=0.1)
    for options, message in (
        ({}, "expected temperature=0.1, as frozen was prepared, got 0.05"),
        ({"temperature": 0.1, "levels": 2}, "expected levels=1, as frozen was prepared, got 2"),
        (
            {"temperature": 0.1, "anchors": (frozen, aligned)},
            "expected anchors=None with a FrozenStructure",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            structure_loss(prepared, aligned, **options)
    with pytest.raises(ValueError, match="the same number of rows, got 12 and 11"):
        structure_loss(prepared, aligned[1:], temperature=0.1)
    with pytest.raises(TypeError, match=r"no wider than the torch\.float32 that frozen was"):
        structure_loss(prepared, aligned.double(), temperature=0.1)


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("temperature", [0.002, 0.2])
def test_anchors_are_columns_without_rows(levels, temperature):
    frozen, aligned = features(60, 12, 7)
    batch, bank = slice(0, 9), slice(9, None)
    options = {"temperature": temperature, "levels": levels, "reduction": "none"}
    whole = structure_loss(frozen, aligned, **options)[batch]
    found = structure_loss(
        frozen[batch], aligned[batch], anchors=(frozen[bank], aligned[bank]), **options
    )
    torch.testing.assert_close(found, whole, rtol=1e-11, atol=1e-13)
    weights = torch.rand_like(whole)
    expected = gradient(whole, aligned, weights)
    assert relative(gradient(found, aligned, weights), expected) < 1e-11
    assert expected[bank].any()


def test_one_row_has_neighbours_among_anchors():
    frozen, aligned = features(10, 5, 3)
    anchors = frozen[1:], aligned[1:]
    assert structure_loss(frozen[:1], aligned[:1], anchors=anchors, temperature=1.0) > 0
    with pytest.raises(ValueError, match="n >= 2 rows"):
        structure_loss(frozen[:1], aligned[:1])


def test_anchors_of_another_width_are_refused():
    frozen, aligned = features(10, 5, 3)
    with pytest.raises(
        ValueError, match=r"expected aligned and anchors\[1\] with the same columns"
    ):
        structure_loss(frozen, aligned, anchors=(frozen, frozen))
    with pytest.raises(TypeError, match=r"expected anchors to be a pair \(frozen, aligned\)"):
        structure_loss(frozen, aligned, anchors=frozen)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("weight", [1e-3, 65536.0])
def test_a_later_factor_finds_the_gradient_whole(dtype, levels, weight):
    """The operator's gradient is in float32; only what a gradient scaler has scaled is rounded."""
    frozen, aligned = (t.detach().to(dtype) for t in features(60, 8, 6))
    gradients = []
    for precision in (dtype, torch.float64):
        leaf = aligned.to(precision, copy=True).requires_grad_()
        with tile_budget(0.05):
            (weight * structure_loss(frozen.to(precision), leaf, levels=levels)).backward()
        gradients.append(leaf.grad)
    ours, exact = gradients
    assert ours.dtype == dtype
    eps, least = torch.finfo(dtype).eps, torch.finfo(dtype).smallest_normal
    torch.testing.assert_close(
        ours.double(), exact, rtol=eps, atol=max(eps * least, 1e-4 * exact.abs().max().item())
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_exponents_that_underflow(divergence):
    """At a temperature of 0.01 most probabilities are below the range of float32."""
    frozen, aligned = features(60, 8, 6)
    exact = structure_loss(frozen, aligned, temperature=0.01, divergence=divergence)
    with tile_budget(0.05):
        single = structure_loss(
            frozen.float(), aligned.float(), temperature=0.01, divergence=divergence
        )
    if divergence == "js":  # the other takes the logarithm of the least probability
        assert single.item() == pytest.approx(exact.item(), rel=1e-4)
    else:
        assert single.isfinite()
