"""The grid of scores, its significance, and the report."""

import json
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import structure_reg as sr
from structure_reg.layers.grid import KNN_METRICS, METRICS, Comparison, measure
from structure_reg.layers.significance import discovery_rates, significance
from structure_reg.layers.stability import stability


def noise(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def layers(count, n=60, d=6, seed=0):
    return [noise(n, d + l, seed + l) for l in range(count)]


def one_hot(n, classes, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.eye(classes)[torch.randint(classes, (n,), generator=g)]


def planted(n=200, gap=2, seed=0):
    """Two encoders of three and four layers whose pair (1, gap) is related."""
    xs, ys = layers(3, n, seed=seed), layers(4, n, seed=seed + 50)
    ys[gap] = xs[1] + 0.7 * noise(n, xs[1].shape[1], seed + 99)
    return xs, ys


# ---------------------------------------------------------------- the grid


@pytest.mark.parametrize("metric", METRICS)
def test_grid_is_the_metric_of_every_pair(metric):
    xs, ys = layers(2), layers(3, seed=9)
    ys[1] = xs[0] + noise(60, 6, 77)
    pair = {
        "rbf_cka": lambda x, y: sr.cka(x, y, kernel="rbf"),
        "rv": lambda x, y: sr.cka(x, y, debiased=False),
    }.get(metric) or getattr(sr, metric)
    grid = sr.layer_similarity(xs, ys, metric=metric)
    assert grid.shape == (2, 3)
    expected = [[pair(x, y).item() for y in ys] for x in xs]
    np.testing.assert_allclose(grid.numpy(), expected, atol=2e-6)


def test_grid_takes_mappings_any_width_and_any_function():
    xs, ys = layers(2), layers(3, seed=9)
    named = {"a": ys[0], "b": ys[1], "c": ys[2]}
    assert torch.equal(sr.layer_similarity(xs, named), sr.layer_similarity(xs, ys))
    grid = sr.layer_similarity(xs, ys, metric=lambda x, y: x.shape[1] + y.shape[1] / 10)
    torch.testing.assert_close(
        grid, torch.tensor([[6.6, 6.7, 6.8], [7.6, 7.7, 7.8]], dtype=torch.float64)
    )


@pytest.mark.parametrize("metric", [*KNN_METRICS, "cka"])
def test_a_constant_or_nan_layer_spoils_its_own_pairs_alone(metric):
    xs, ys = layers(3), layers(2, seed=9)
    xs[1][4, 0] = math.nan
    undefined = sr.layer_similarity(xs, ys, metric=metric).isnan()
    assert undefined.tolist() == [[False, False], [True, True], [False, False]]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"xs": []}, ValueError, "expected xs with at least one layer, got none"),
        ({"xs": noise(9, 2, 0)}, TypeError, "expected xs to be a list of tensors or a mapping"),
        ({"ys": [noise(9, 2, 0), 3]}, TypeError, r"ys\[1\] to be an array or a tensor, got int"),
        ({"ys": {"late": noise(9, 2, 0)[0]}}, ValueError, r"ys\['late'\] of shape \(n, d\)"),
        ({"ys": [noise(8, 2, 0)]}, ValueError, "all layers with the same number of rows"),
        ({"metric": "mutual"}, ValueError, "expected metric to be one of 'mutual_knn'"),
        ({"metric": 3}, TypeError, "expected metric to be a string"),
        ({"metric": "cka", "k": 3}, ValueError, "expected k=None with the metric 'cka', got 3"),
        ({"k": 9}, ValueError, "expected k < n.*got k = 9, n = 9"),
        ({"metric": torch.add}, ValueError, r"metric to return a scalar, got shape \(9, 2\)"),
        ({"metric": zip}, TypeError, "metric to return a scalar, got zip"),
    ],
)  # fmt: skip
def test_refusals(change, error, match):
    arguments = {"xs": [noise(9, 2, 0)], "ys": [noise(9, 2, 1)]} | change
    with pytest.raises(error, match=f"layer_similarity: .*{match}"):
        sr.layer_similarity(**arguments)


# ---------------------------------------------------------------- the null


def p_of_best(metric, seed, permutations=19):
    xs, ys = layers(2, 20, seed=1000 * seed), layers(3, 20, seed=1000 * seed + 500)
    g = torch.Generator().manual_seed(seed)
    shuffles = [torch.randperm(20, generator=g) for _ in range(permutations)]
    k = 4 if metric in KNN_METRICS else None
    found = measure(Comparison("test", metric, k), xs, ys, torch.stack(shuffles))
    result = significance(found.scores[0], found.scores[1:], found.chance)
    return result.p_values.flatten()[result.excess.argmax()].item()


@pytest.mark.parametrize("metric", ["cka", "rv"])
def test_p_value_of_the_maximum_is_uniform_under_independence(metric):
    """Kolmogorov-Smirnov test at the 1 % level, on the 20 values that p can take."""
    draws = 200
    p = np.array([p_of_best(metric, seed) for seed in range(draws)])
    at = np.arange(1, 21) / 20
    distance = np.abs((p[:, None] <= at + 1e-9).mean(0) - at).max()
    assert distance < 1.63 / math.sqrt(draws)


def test_p_value_of_counts_is_never_too_small():
    """Ties between counts count against the observed pairing."""
    p = np.array([p_of_best("mutual_knn", seed) for seed in range(200)])
    at = np.arange(1, 21) / 20
    excess = (p[:, None] <= at + 1e-9).mean(0) - at
    assert excess.max() < 1.22 / math.sqrt(200)  # one-sided, 5 %
    assert excess.min() > -0.25


def groups(n, count, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=g)[torch.randint(count, (n,), generator=g)]


@pytest.mark.parametrize("rows", [one_hot, groups])
def test_p_values_of_tied_rows_are_uniform_under_independence(rows):
    """Kolmogorov-Smirnov test at the 1 % level, on the 20 values that p can take."""
    p = []
    for seed in range(40):
        xs, ys = ([torch.ones(48, 2), rows(48, 3, 2 * seed + side)] for side in (0, 1))
        shuffles = [
            torch.randperm(48, generator=torch.Generator().manual_seed(s)) for s in range(19)
        ]
        found = measure(Comparison("test", "mutual_knn", 6), xs, ys, torch.stack(shuffles))
        result = significance(found.scores[0], found.scores[1:], found.chance)
        assert result.scores.isnan().tolist() == [[True, True], [True, False]]
        p.append(result.p_values[1, 1].item())
    at = np.arange(1, 21) / 20
    distance = np.abs((np.array(p)[:, None] <= at + 1e-9).mean(0) - at).max()
    assert distance < 1.63 / math.sqrt(len(p))


def test_p_values_from_their_definition():
    scores = torch.tensor([[0.5, 0.1], [0.2, math.nan]], dtype=torch.float64)
    null = torch.tensor(
        [
            [[0.1, 0.3], [0.0, math.nan]],
            [[0.0, 0.0], [0.2, math.nan]],
            [[0.4, 0.0], [0.1, math.nan]],
        ],
        dtype=torch.float64,
    )  # fmt: skip
    found = significance(scores, null, torch.zeros(2, 2, dtype=torch.float64))
    # The largest scores of the three re-pairings are 0.3, 0.2 and 0.4.
    expected = [[1 / 4, 1.0], [1.0, math.nan]]
    np.testing.assert_allclose(found.p_values, expected)
    # The 0.95 order statistic of four values is the largest: the score itself or 0.4.
    np.testing.assert_allclose(found.calibrated, [[0, 0], [0, math.nan]])


def test_calibrated_is_positive_where_p_is_small_and_one_at_one():
    scores = torch.tensor([[1.0, 0.6, 0.2]], dtype=torch.float64)
    null = torch.linspace(0, 0.3, 99, dtype=torch.float64)[:, None, None].expand(99, 1, 3)
    found = significance(scores, null, torch.full((1, 3), 0.15, dtype=torch.float64))
    tau = null[95 - 1 + 0, 0, 0].item()  # the 95th of 100 values, of which the score is the last
    np.testing.assert_allclose(found.calibrated[0], [1, (0.6 - tau) / (1 - tau), 0], atol=1e-12)
    assert (found.calibrated[0] > 0).tolist() == (found.p_values[0] <= 0.05).tolist()


def test_discovery_rates_are_scipys():
    from scipy.stats import false_discovery_control

    p = torch.rand(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 2
    expected = false_discovery_control(p.numpy().ravel()).reshape(4, 5)
    np.testing.assert_allclose(discovery_rates(p), expected)
    p[1, 2] = math.nan
    rates = discovery_rates(p)
    assert rates.isnan().nonzero().tolist() == [[1, 2]]
    kept = ~p.isnan()
    np.testing.assert_allclose(rates[kept], false_discovery_control(p[kept].numpy()))


def test_halves_from_their_definition():
    """Two splits of two pairs; the second pair is the last."""
    halves = torch.tensor([[[[0.5, 0.2]], [[0.1, 0.2]]], [[[0.6, 0.1]], [[0.5, 0.4]]]])
    found = stability(halves, torch.zeros(1, 2), best=0)
    assert found.share == pytest.approx(3 / 4)
    assert (found.x_share, found.y_share) == (1, pytest.approx(3 / 4))
    gains = [(0.3, -0.1), (0.5, 0.1)]
    assert found.gain_error == pytest.approx(
        math.sqrt(np.mean([(a - b) ** 2 for a, b in gains])) / 2
    )
    # The pairs chosen on one half and scored on the other are 0, the last, 0 and 0.
    assert found.held_out_gain == pytest.approx(np.mean([-0.1, 0.0, 0.1, 0.5]))


# ---------------------------------------------------------------- the report


@pytest.mark.parametrize("metric", ["mutual_knn", "jaccard_knn", "cka", "rv"])
def test_the_planted_pair_is_found(metric):
    xs, ys = planted()
    report = sr.select_layers(xs, ys, metric=metric)
    assert isinstance(report, sr.LayerSelection)
    assert (report.x_layer, report.y_layer) == (1, 2)
    assert report.p_value == pytest.approx(1 / 201)
    assert report.stability == 1
    assert report.gain > 2 * report.gain_error
    assert report.held_out_gain == pytest.approx(report.gain, abs=4 * report.gain_error + 0.05)
    assert report.calibrated[1, 2] > 0.1
    assert (report.q_values < 0.1).nonzero().tolist() == [[1, 2]]
    assert report.warnings == ()
    scores = sr.layer_similarity(xs, ys, metric=metric)
    torch.testing.assert_close(report.scores, scores, rtol=0, atol=2e-6)


def test_any_function_is_judged_by_its_own_chance():
    """Biased CKA of wide layers is high by chance; the score above chance decides."""
    xs, ys = planted()
    xs.append(noise(200, 900, 5))
    ys.append(noise(200, 900, 6))

    def wide_bias(x, y):
        return sr.cka(x, y, debiased=False)

    assert int(sr.layer_similarity(xs, ys, metric=wide_bias).argmax()) == 4 * 5 - 1
    report = sr.select_layers(xs, ys, metric=wide_bias, permutations=30)
    assert (report.x_layer, report.y_layer, report.metric) == (1, 2, "wide_bias")
    assert report.p_value == pytest.approx(1 / 31)


def test_it_can_say_that_the_last_pair_is_as_good():
    xs, ys = layers(3, 150), layers(2, 150, seed=50)
    signal = noise(150, 6, 99)
    xs[0], xs[2] = signal + 0.8 * xs[0], signal + 0.8 * noise(150, 6, 98)
    ys[1] = signal + 0.8 * noise(150, 6, 97)
    report = sr.select_layers(xs, ys, permutations=40)
    if (report.x_layer, report.y_layer) == (2, 1):
        assert "the last pair is the best" in str(report)
    else:
        assert any("the last pair is as good" in warning for warning in report.warnings)


def test_the_last_pair_may_be_the_best():
    xs, ys = planted(gap=3)
    report = sr.select_layers(xs[:2], ys, permutations=40)
    assert (report.gain, report.gain_error, report.held_out_gain) == (0, 0, 0)
    assert "the last pair is the best\nof 20 half-samples the same pair wins 100%" in str(report)


def test_chance_is_called_chance():
    report = sr.select_layers(layers(3, 100), layers(3, 100, seed=50), permutations=99)
    assert report.p_value > 0.05
    assert any(w.startswith("the best pair is no better than chance") for w in report.warnings)
    torch.testing.assert_close(
        report.chance, torch.full((3, 3), report.k / 99, dtype=torch.float64)
    )


@pytest.mark.parametrize(
    ("xs", "ys", "options", "words"),
    [
        (layers(2, 12), layers(2, 12, seed=5), {"k": 11}, "k = 11 takes all other rows"),
        (layers(2, 12), layers(2, 12, seed=5), {"k": 5}, "too few samples for k"),
        (layers(2), layers(2, seed=5), {"permutations": 10}, "cannot show p <= 0.05; use 200"),
        ([one_hot(60, 2, 0), noise(60, 3, 1)], layers(2, seed=5), {}, r"100% of the rows \(0\)"),
        ([torch.ones(60, 3), noise(60, 3, 1)], layers(2, seed=5), {}, "^0 is constant in x: all"),
        (
            [x.repeat(2, 1) for x in layers(2)],
            layers(2, 120, seed=5),
            {},
            "duplicates: 50% of the rows of x repeat another",
        ),
        (
            [torch.ones(60, 3), noise(60, 3, 1)],
            layers(2, seed=5),
            {"metric": "cka"},
            "2 of 4 pairs have no score",
        ),
    ],
)  # fmt: skip
def test_warnings(xs, ys, options, words):
    report = sr.select_layers(xs, ys, **{"permutations": 20} | options)
    assert any(re.search(words, warning) for warning in report.warnings), report.warnings


def first_entries(x, y):
    assert (x != x[0]).any()
    assert (y != y[0]).any()
    return (x[:, 0] * y[:, 0]).mean()


@pytest.mark.parametrize("metric", ["mutual_knn", "cknna", "cka", "rv", "rsa", first_entries])
def test_a_constant_layer_is_never_chosen(metric):
    """Scores, chance and calibration of the other layers are those without it."""
    xs, ys = planted(80)
    constant = noise(1, 6, 3).expand(80, 6)
    options = {"metric": metric, "permutations": 20}
    alone = sr.select_layers(xs, ys, **options)
    for place in (0, 3):
        more = {f"hidden_states.{l}": x for l, x in enumerate([*xs[:place], constant, *xs[place:]])}
        kept = [row for row in range(4) if row != place]
        report = sr.select_layers(more, [constant, *ys], **options)
        assert (report.x_layer in kept, report.y_layer > 0) == (True, True)
        words = (f"hidden_states.{place} is constant in x", "0 is constant in y")
        assert all(any(w.startswith(word) for w in report.warnings) for word in words)
        for grid in ("scores", "chance", "p_values", "q_values", "calibrated"):
            found, expected = getattr(report, grid), getattr(alone, grid)
            torch.testing.assert_close(found[kept][:, 1:], expected, rtol=0, atol=2e-6)
            assert found[place].isnan().all()
            assert found[:, 0].isnan().all()
        if place == 3:
            assert math.isnan(report.last_score)
            assert math.isnan(report.gain)
            assert "the last pair has no score" in str(report)
            assert not any("nan" in warning for warning in report.warnings)
        else:
            assert report.gain_error == pytest.approx(alone.gain_error, abs=1e-6)


def test_a_layer_that_rounding_alone_varies_is_constant():
    wobble = torch.ones(60, 4) * (1 + 1e-7 * noise(60, 1, 0).sign())
    for metric in METRICS:
        assert sr.layer_similarity([wobble], layers(1), metric=metric).isnan().all()


def test_no_score_at_all_is_refused():
    xs = [torch.ones(60, 3)]
    with pytest.raises(ValueError, match="select_layers: expected a finite score for one pair"):
        sr.select_layers(xs, layers(2), metric="cka", permutations=5)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"permutations": 0}, ValueError, "expected permutations >= 1, got 0"),
        ({"max_samples": 7}, ValueError, "expected max_samples >= 8, got 7"),
        ({"max_samples": None}, TypeError, "expected max_samples to be an integer"),
        ({"xs": [noise(7, 2, 0)]}, ValueError, "n >= 8 rows"),
    ],
)
def test_selection_refusals(change, error, match):
    with pytest.raises(error, match=f"select_layers: .*{match}"):
        sr.select_layers(**{"xs": layers(1), "ys": layers(1)} | change)


def test_max_samples_and_generator():
    xs, ys = planted(300)
    reports = [
        sr.select_layers(xs, ys, max_samples=100, permutations=20, generator=g)
        for g in (None, None, torch.Generator().manual_seed(5))
    ]
    assert [report.samples for report in reports] == [100, 100, 100]
    assert reports[0].to_dict() == reports[1].to_dict()
    assert reports[0].to_dict() != reports[2].to_dict()
    before = torch.get_rng_state()
    sr.select_layers(xs, ys, permutations=5)
    assert torch.equal(before, torch.get_rng_state())


def test_report_in_a_notebook():
    xs, ys = planted()
    report = sr.select_layers({f"<{l}>": x for l, x in enumerate(xs)}, ys, permutations=20)
    assert repr(report) == str(report)
    assert isinstance(report.p_value, float)
    assert repr(report.p_value) == repr(1 / 21)
    page = report._repr_html_()
    assert len(page) < 2000
    ElementTree.fromstring(f"<div>{page}</div>")
    for text in ("<th>best</th><td>&lt;1&gt;</td><td>2</td>", "<p>gain over"):
        assert text in page


def test_axes_say_which_side_they_are_of():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    xs, ys = planted()
    report = sr.select_layers({f"image.{l}": x for l, x in enumerate(xs)}, ys, permutations=20)
    ax = report.plot()
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("layer of x (image)", "layer of y")
    assert not any(len(dots.get_offsets()) for dots in ax.collections)
    ax = report.plot(x_label="ViT", y_label="BERT", significant=True)
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("ViT", "BERT")
    dots = [dot for dot in ax.collections if len(dot.get_offsets()) == 1]
    assert dots[0].get_offsets()[0].round().tolist() == [2, 1]  # the planted pair
    assert "dots: p ≤ 0.05" in ax.get_title(loc="left")
    matplotlib.pyplot.close("all")


def test_report_in_text_numbers_and_colour():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    xs, ys = planted()
    report = sr.select_layers({f"image.{l}": x for l, x in enumerate(xs)}, ys, permutations=20)
    assert (report.x_name, report.y_name) == ("image.1", "2")
    lines = str(report).splitlines()
    assert lines[0].startswith("mutual_knn, k = 12, 200 samples, 3 x 4 pairs")
    assert lines[2].split()[:3] == ["best", "image.1", "2"]
    assert lines[3].split()[:3] == ["last", "image.2", "3"]
    read = json.loads(json.dumps(report.to_dict()))
    assert read["x_layer"] == 1
    assert read["scores"][1][2] == pytest.approx(report.best_score)
    ax = report.plot()
    assert [patch.get_xy()[0] for patch in ax.patches] == pytest.approx([2.5, 1.5], abs=0.1)
    figure, other = matplotlib.pyplot.subplots()
    assert report.plot(other) is other
    matplotlib.pyplot.close("all")
    assert figure is other.figure
