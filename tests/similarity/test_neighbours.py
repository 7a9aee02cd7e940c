"""The kNN metrics: definitions, laws, and inputs that break other implementations."""

import itertools
import math

import numpy as np
import oracles_neighbours as oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import structure_reg as sr
from structure_reg._gram import unit_deviations
from structure_reg.similarity.nearest import nearest, neighbourhood_size
from structure_reg.similarity.neighbours import cycle_grid, jaccard_grid, mutual_grid

NAMES = ["mutual_knn", "cycle_knn", "lcs_knn", "edit_knn", "jaccard_knn", "cknna"]
COUNTING = ["mutual_knn", "lcs_knn", "edit_knn", "jaccard_knn"]


def features(n, d, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None)
@given(st.integers(5, 14), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_definition(name, n, dx, dy, seed):
    k = 2 + seed % 3
    x, y = features(n, dx + 1, seed), features(n, dy + 1, seed + 100)
    y = y if seed % 2 else y + torch.nn.functional.pad(x, (0, max(0, dy - dx)))[:, : dy + 1]
    expected = getattr(oracles, name)(x.numpy(), y.numpy(), k)
    assert getattr(sr, name)(x, y, k=k).item() == pytest.approx(
        expected, rel=1e-5, abs=1e-7, nan_ok=name == "cknna"
    )


@pytest.mark.parametrize("tiles", [0.002, 64])
@pytest.mark.parametrize("n", [40, 211])
def test_neighbours_do_not_depend_on_the_tiles(tiles, n):
    x = features(n, 9)
    with sr.tile_budget(tiles):
        near = nearest(x, 7)
    assert near.rows.tolist() == oracles.neighbour_lists(x.numpy(), 7)
    expected = np.take_along_axis(oracles.cosines(x.numpy()), near.rows.long().numpy(), 1)
    np.testing.assert_allclose(near.cosine.numpy(), expected, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_counts_do_not_depend_on_the_tiles(name):
    x, y = features(90, 5), features(90, 5, 1)
    y = y + x
    whole = getattr(sr, name)(x, y, k=6)
    with sr.tile_budget(0.01):
        assert getattr(sr, name)(x, y, k=6).item() == pytest.approx(whole.item(), abs=1e-7)


# ---------------------------------------------------------------- the laws


@pytest.mark.parametrize("name", NAMES)
def test_same_geometry_scores_the_same(name):
    x, y = features(80, 6), features(80, 6, 1)
    y = y + x
    metric = getattr(sr, name)
    score = metric(x, y, k=5)
    rotation = torch.linalg.qr(features(6, 6, 2)).Q
    lengths = features(80, 1, 3).exp()
    assert metric(x @ rotation, y, k=5).item() == pytest.approx(score.item(), abs=1e-12)
    assert metric(x, lengths * y, k=5).item() == pytest.approx(score.item(), abs=1e-12)
    assert metric(x + 1.0, y, k=5) != score  # a translation changes the angles
    order = torch.randperm(80, generator=torch.Generator().manual_seed(4))
    assert metric(x[order], y[order], k=5).item() == pytest.approx(score.item(), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_side_beside_itself(name):
    x = features(60, 7)
    score = getattr(sr, name)(x, x, k=6).item()
    if name == "cycle_knn":
        assert 0.5 < score <= 1  # the relation is not symmetric
    else:
        assert score == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_symmetry(name):
    x, y = features(60, 7), features(60, 7, 1)
    x = x + y
    metric = getattr(sr, name)
    forth, back = metric(x, y, k=6).item(), metric(y, x, k=6).item()
    if name == "cycle_knn":
        assert forth != back
    else:
        assert forth == pytest.approx(back, abs=1e-7)


@given(st.integers(8, 40), st.integers(1, 7), st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_order_of_the_metrics_and_triangle(n, k, seed):
    a = features(n, 4, seed)
    b = a + features(n, 4, seed + 1) / 2
    c = b + features(n, 4, seed + 2) / 2
    edit, lcs = sr.edit_knn(a, b, k=k), sr.lcs_knn(a, b, k=k)
    mutual, jaccard = sr.mutual_knn(a, b, k=k), sr.jaccard_knn(a, b, k=k)
    assert edit <= lcs + 1e-12
    assert lcs <= mutual + 1e-12
    assert jaccard <= mutual + 1e-12
    through_b = mutual + sr.mutual_knn(b, c, k=k) - 1
    assert sr.mutual_knn(a, c, k=k) >= through_b - 1e-12


@pytest.mark.parametrize(
    ("grid", "name"), [(mutual_grid, "mutual"), (jaccard_grid, "jaccard"), (cycle_grid, "cycle")]
)
def test_chance_is_the_mean_over_all_pairings(grid, name):
    from structure_reg.similarity import knn_chance

    n, k = 6, 2
    xs = [nearest(features(n, 3, seed), k) for seed in (0, 1)]
    ys = [nearest(features(n, 3, seed), k) for seed in (2, 3, 4)]
    every = torch.tensor(list(itertools.permutations(range(n))))  # (720, 6)
    mean = grid(xs, ys, every).mean(0)
    expected = getattr(knn_chance, f"{name}_chance")(xs, ys)
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-7)
    if name == "mutual":
        torch.testing.assert_close(expected, torch.full((2, 3), k / (n - 1), dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_a_permutation_is_a_change_of_partners(name):
    """The look-ups return the value of the metric for y[p]."""
    from structure_reg.layers.grid import KNN_METRICS

    n, k = 30, 4
    xs, ys = [features(n, 4, s) for s in (0, 1)], [features(n, 4, s) for s in (2, 3, 4)]
    ys[0] = xs[0] + ys[0]
    g = torch.Generator().manual_seed(0)
    permutations = torch.stack([torch.randperm(n, generator=g) for _ in range(5)])
    grid = KNN_METRICS[name][0](
        [nearest(x, k) for x in xs], [nearest(y, k) for y in ys], permutations
    )
    metric = getattr(sr, name)
    for b, p in enumerate(permutations):
        for i, x in enumerate(xs):
            for j, y in enumerate(ys):
                assert grid[b, i, j].item() == pytest.approx(metric(x, y[p], k=k).item(), abs=1e-6)


# ---------------------------------------------------------------- inputs that break others


@pytest.mark.parametrize("mean", [100, 1000, 10_000])
def test_a_common_mean_keeps_its_digits(mean):
    """Cosines of such rows differ in the 7th digit; float32 must rank them like float64."""
    x = (features(256, 64) + mean).float()
    near = nearest(x, 10).rows.tolist()
    expected = oracles.neighbour_lists(x.double().numpy(), 10)
    same = np.mean([a == b for a, b in zip(near, expected, strict=True)])
    assert same > 0.98  # float32 cannot order two neighbours of a few rows
    half = (features(256, 64, 1) + mean).float()
    y = (x + half) / 2
    assert sr.mutual_knn(x, y, k=10).item() == pytest.approx(
        oracles.mutual_knn(x.double().numpy(), y.double().numpy(), 10), abs=2e-3
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [3, 40, 700])
def test_products_with_deviations_are_cosines_minus_a_constant_of_the_row(n, dtype):
    """Float32 keeps its digits although the cosines differ by less than 1e-5."""
    x = (features(n, 16) + 1000).to(dtype)
    deviations = unit_deviations(x)
    assert deviations.dtype == dtype
    unit = (x.double() / torch.linalg.vector_norm(x.double(), dim=1, keepdim=True)).numpy()
    products = unit @ deviations.double().numpy().T
    difference = unit @ unit.T - products
    spread = np.ptp(unit @ unit.T, axis=1).min()
    assert np.ptp(difference, axis=1).max() < 1e-3 * spread
    # The largest deviation is as small as the rows are close, so that float32 has digits left.
    assert np.abs(deviations.numpy()).max() < 0.01


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e4, 1e5, 1e30])
def test_scale(scale):
    x, y = features(128, 32, dtype=torch.float32), features(128, 32, 1, dtype=torch.float32)
    assert torch.equal(sr.mutual_knn(scale * x, y, k=8), sr.mutual_knn(x, y, k=8))


def test_a_row_is_never_its_own_neighbour():
    x = 1e5 * features(50, 8, dtype=torch.float32)
    for k in (1, 40, 49):
        near = nearest(x, k).rows
        assert not (near == torch.arange(50)[:, None]).any()
        assert all(len(set(row)) == k for row in near.tolist())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_not_computed_in(dtype):
    x, y = features(200, 48, dtype=dtype), features(200, 48, 1, dtype=dtype)
    y = y + x
    score = sr.mutual_knn(x, y, k=10)
    assert score.dtype == torch.float32
    assert torch.equal(score, sr.mutual_knn(x.float(), y.float(), k=10))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(score, sr.mutual_knn(x, y, k=10))


def test_large_half_precision_stays_finite():
    x = (8 * features(128, 768)).half()
    assert sr.mutual_knn(x, x, k=5) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_is_not_swallowed(name):
    x, y = features(40, 6), features(40, 6, 1)
    bad = x.clone()
    bad[3, 2] = math.nan
    metric = getattr(sr, name)
    assert metric(bad, y, k=4).isnan()
    assert metric(y, bad, k=4).isnan()
    bad[3, 2] = math.inf
    assert metric(bad, y, k=4).isnan()


@pytest.mark.parametrize("value", [0.0, 3.7, 1e-20])
def test_constant_layers_are_all_ties(value):
    constant = torch.full((50, 8), value)
    assert sr.tie_fraction(constant, k=5) == 1
    assert sr.tie_fraction(features(50, 8), k=5) == 0


def test_groups_of_equal_rows_are_ties():
    x = features(20, 16).repeat_interleave(10, 0)
    assert sr.tie_fraction(x, k=5) == 1
    assert sr.tie_fraction(x, k=9) == 0  # the whole group and no other row
    assert sr.mutual_knn(x, x + 0, k=9) == 1


def test_zero_rows_are_at_right_angles_to_all():
    """A zero row has cosine 0 to every other row, not the cosine of the mean direction."""
    x = features(40, 6).abs() + 1
    x[7] = 0
    c = oracles.cosines(x.numpy())
    near = nearest(x, 10).rows
    assert not (near[torch.arange(40) != 7] == 7).any()
    assert (c[7] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_all_other_rows_are_neighbours_of_any(name):
    """At k = n - 1 the sets of neighbours agree, whatever the features are."""
    x, y = features(6, 4), features(6, 4, 1)
    if name in ("mutual_knn", "jaccard_knn", "cycle_knn"):
        assert getattr(sr, name)(x, y, k=5) == 1


@pytest.mark.parametrize("name", [*NAMES, "tie_fraction"])
@pytest.mark.parametrize("k", [6, 10])
def test_too_many_neighbours_are_refused(name, k):
    x = features(6, 4)
    sides = (x,) if name == "tie_fraction" else (x, x)
    with pytest.raises(ValueError, match=rf"{name}: expected k < n.*got k = {k}, n = 6"):
        getattr(sr, name)(*sides, k=k)


@pytest.mark.parametrize(
    ("k", "error", "match"),
    [
        (0, ValueError, "expected k >= 1, got 0"),
        (2.0, TypeError, "expected k to be an integer, got float"),
        (True, TypeError, "expected k to be an integer, got bool"),
        ("cube", ValueError, "expected k to be one of 'rice', 'sqrt', 'sturges', got 'cube'"),
    ],
)
def test_k_is_a_count_or_a_rule(k, error, match):
    with pytest.raises(error, match=f"mutual_knn: {match}"):
        sr.mutual_knn(features(9, 2), features(9, 2), k=k)


@pytest.mark.parametrize(
    ("rule", "n", "k"),
    [
        (None, 1000, 20), (None, 5000, 35), ("rice", 1331, 22), ("rice", 5000, 35),
        ("sqrt", 5000, 71), ("sqrt", 4900, 70), ("sturges", 5000, 14), ("sturges", 1024, 11),
        ("rice", 27, 6), ("rice", 28, 7), ("sturges", 1025, 12), ("sqrt", 4901, 71),
        (17, 5000, 17),
    ],
)  # fmt: skip
def test_rules(rule, n, k):
    assert neighbourhood_size("mutual_knn", rule, n) == k


def test_rules_are_exact_in_integers():
    """Each k is the smallest that meets the rule, in arithmetic without rounding."""
    cubes = [m**3 + e for m in range(3, 101) for e in (-1, 0, 1)]
    for n in [*range(8, 3000), *cubes, *(m * m + 1 for m in range(55, 1000)), 2**19, 2**19 + 1]:
        rice, sqrt, sturges = (
            neighbourhood_size("mutual_knn", rule, n) for rule in ("rice", "sqrt", "sturges")
        )
        assert (rice - 1) ** 3 < 8 * n <= rice**3
        assert (sqrt - 1) ** 2 < n <= sqrt**2
        assert 2 ** (sturges - 2) < n <= 2 ** (sturges - 1)


# ---------------------------------------------------------------- ties


def one_hot(n, classes, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.eye(classes)[torch.randint(classes, (n,), generator=g)]


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("name", ["mutual_knn", "jaccard_knn", "cycle_knn", "cknna"])
def test_unrelated_classes_score_chance(name, classes):
    """The row index, which both sides share, must not decide which of the tied rows are near."""
    x, y = one_hot(120, classes, 0), one_hot(120, classes, 1)
    expected = oracles.mean_over_ties(getattr(oracles, name), x.numpy(), y.numpy(), 8, draws=15)
    assert getattr(sr, name)(x, y, k=8).item() == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_multiples_of_a_row_are_ties(dtype):
    classes, factors = one_hot(80, 4, 0).to(dtype) @ features(4, 33, 1, dtype), features(80, 1, 2)
    copies = classes * factors.exp().to(dtype)
    assert sr.tie_fraction(copies, k=6) == sr.tie_fraction(classes, k=6) == 1
    one_direction = features(1, 33, dtype=dtype) * factors.exp().to(dtype)
    assert sr.mutual_knn(one_direction, copies).isnan()
    assert sr.mutual_knn(-one_direction, copies).isnan()
    assert not sr.mutual_knn(factors.to(dtype) * one_direction, copies).isnan()  # two directions


@pytest.mark.parametrize("name", NAMES)
def test_tied_scores_are_reproducible_and_do_not_depend_on_the_tiles(name):
    x, y = one_hot(90, 3, 0), one_hot(90, 4, 1)
    state = torch.get_rng_state()
    score = getattr(sr, name)(x, y, k=6)
    with sr.tile_budget(0.01):
        assert getattr(sr, name)(x, y, k=6).item() == pytest.approx(score.item(), abs=1e-6)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_tied_row_is_as_likely_a_neighbour():
    """The counts of 2,000 draws of 5 among 39 equal rows, by their chi-squared statistic."""
    counts = torch.zeros(2, 60)
    for seed in range(50):
        g = torch.Generator().manual_seed(seed)
        equal = (torch.randperm(60, generator=g)[:40]).sort().values
        rows = torch.eye(2)[1:].repeat(60, 1)
        rows[equal] = torch.eye(2)[0]
        place = torch.full((60,), 59).scatter(0, equal, torch.arange(40))  # among the equal rows
        for side in (0, 1):
            near = place[nearest(rows, 5, side).rows[equal].long()]
            counts[side] += torch.bincount(near.flatten(), minlength=60)
    assert not counts[:, 40:].any()
    expected = 50 * 40 * 5 / 40
    statistic = ((counts[:, :40] - expected).square() / expected).sum(1)
    assert statistic.max() < 76  # p = 0.0003 with 39 degrees of freedom


def test_neighbours_without_ties_do_not_depend_on_the_side():
    x = features(300, 12, dtype=torch.float32)
    assert torch.equal(nearest(x, 9, 0).rows, nearest(x, 9, 1).rows)
    copies = one_hot(60, 3, 0)
    assert not torch.equal(nearest(copies, 9, 0).rows, nearest(copies, 9, 1).rows)


def test_rice_is_refused_where_it_asks_for_every_row():
    with pytest.raises(ValueError, match="k = 4, n = 4"):
        sr.mutual_knn(features(4, 2), features(4, 2))


@pytest.mark.parametrize("name", NAMES)
def test_unpaired_sides_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: expected x and y with the same number of rows"):
        getattr(sr, name)(features(9, 2), features(8, 2), k=3)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_left_alone(name):
    x, y = features(30, 4), features(30, 4, 1)
    before = x.clone(), y.clone()
    getattr(sr, name)(x.requires_grad_(), y, k=3)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


@pytest.mark.parametrize("name", NAMES)
def test_masked_rows_are_no_rows(name):
    x, y = features(40, 4), features(40, 4, 1)
    y = y + x
    mask = torch.arange(40) % 4 > 0
    metric = getattr(sr, name)
    score = metric(x, y, k=5, mask=mask)
    assert torch.equal(score, metric(x[mask], y[mask], k=5))
    x[~mask] = math.nan
    assert torch.equal(score, metric(x, y, k=5, mask=mask))
    with pytest.raises(ValueError, match="got k = 30, n = 30"):
        metric(x, y, k=30, mask=mask)
    with pytest.raises(ValueError, match=rf"{name}: expected mask of shape \(40,\), got \(39,\)"):
        metric(x, y, mask=mask[1:])
    with pytest.raises(TypeError, match=rf"{name}: expected mask to be a bool tensor"):
        metric(x, y, mask=mask.int())


@pytest.mark.parametrize("name", NAMES)
def test_no_value_is_read(name):
    """On the meta device, reading a value would fail."""
    x = torch.empty(40, 4, device="meta")
    assert getattr(sr, name)(x, x).shape == ()


@pytest.mark.parametrize("dtypes", [(64, 64), (64, 32), (32, 64)])
def test_cknna_keeps_the_digits_of_float64(dtypes):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=g).double()
    y = (x + torch.randn(40, 6, generator=g)).float().double()
    given = [z.to(getattr(torch, f"float{bits}")) for z, bits in zip((x, y), dtypes, strict=True)]
    found = sr.cknna(*given, k=5)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(oracles.cknna(x.numpy(), y.numpy(), 5), rel=1e-11)


def test_cknna_of_near_rows_in_low_precision():
    """With k = n - 1, the criterion subtracts all that near rows share."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 24, generator=g) + 1e-2 * torch.randn(7, 24, generator=g)
    y = torch.randn(7, 4, generator=g)
    found = sr.cknna(x, y, k=6)
    expected = oracles.cknna(x.double().numpy(), y.double().numpy(), 6)
    assert found.item() == pytest.approx(expected, abs=1e-5)
