"""Several layers of a side at once: which, how they are scaled, and that they pass through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import structure_reg as sr
from structure_reg.training.blending import weighed_blends

Layers = dict[str, Tensor]


def split_signal(n: int, seed: int = 0) -> tuple[Layers, Layers]:
    """Each layer of x shows two of six factors; a constant layer and one of noise stand beside."""
    g = torch.Generator().manual_seed(99)
    maps = [torch.randn(2, 12, generator=g) for _ in range(3)]
    map_y = torch.randn(6, 15, generator=g)
    constant = torch.randn(1, 9, generator=g)
    g = torch.Generator().manual_seed(seed)
    factors = torch.randn(n, 6, generator=g)
    xs: Layers = {"constant": constant.expand(n, 9)}
    for i, W in enumerate(maps):
        shown = factors[:, 2 * i : 2 * i + 2] @ W
        xs[f"part {i}"] = 10.0**i * (shown + 0.3 * torch.randn(n, 12, generator=g))
    xs["noise"] = torch.randn(n, 20, generator=g)
    y = factors @ map_y + 0.3 * torch.randn(n, 15, generator=g)
    return xs, {"y": y}


XS, YS = split_signal(200)
NEW_XS, NEW_YS = split_signal(80, seed=1)
PARTS = ["part 0", "part 1", "part 2"]


def fitted(layers: Any = "blend", **options: Any) -> sr.Aligner:
    return sr.Aligner(layers=layers, epochs=5, **options).fit(XS, YS)


def test_a_blend_sees_what_no_single_layer_does() -> None:
    aligner = fitted()
    assert set(PARTS) <= set(aligner.layers_[0])
    assert "constant" not in aligner.layers_[0]
    assert aligner.layers_[1] == "y"
    single = fitted("select").score(NEW_XS, NEW_YS)
    assert aligner.score(NEW_XS, NEW_YS) > 1.5 * single


def test_one_layer_is_taken_where_others_add_noise() -> None:
    """Held-out pairs do not ask for noise beside the layer that shows everything."""
    g = torch.Generator().manual_seed(0)
    y = YS["y"][:60]
    seen = y @ torch.randn(15, 20, generator=g) + 3 * torch.randn(60, 20, generator=g)
    noise = [torch.randn(60, 300, generator=g) for _ in range(4)]
    assert sr.Aligner(epochs=1).fit([seen, *noise], y).layers_ == (0, 0)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (1, 1),
        (3, 3),
        (50, 4),  # all but the constant one
        ("all", 4),
    ],
)
def test_number_of_layers(layers: Any, expected: int) -> None:
    chosen = fitted(layers, head="ridge").layers_[0]
    assert (1 if isinstance(chosen, str) else len(chosen)) == expected


@pytest.mark.parametrize(
    "layers", [(PARTS, "y"), (["part 0", 2, -2], 0), [PARTS, ["y"]], (PARTS, -1)]
)
def test_lists_of_names_or_positions(layers: Any) -> None:
    z = fitted(layers, head="cca").transform_x(NEW_XS)
    assert torch.equal(z, fitted((PARTS, "y"), head="cca").transform_x(NEW_XS))


def test_layers_weigh_alike_whatever_their_scale() -> None:
    """Each layer's scaled rows have a mean length of 1."""
    side, _ = fitted((PARTS, "y"), head="cca").modules_
    scaled = side.scaled(torch.cat([XS[name] for name in PARTS], 1))
    for layer in scaled.split(12, 1):
        assert layer.norm(dim=1).mean().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("standardise", [True, False])
def test_units_of_a_layer_do_not_matter(standardise: bool) -> None:
    options = {"head": "cca", "standardise": standardise}
    other = {name: 7 * x for name, x in XS.items()}
    z = sr.Aligner(layers=(PARTS, "y"), **options).fit(other, YS)
    expected = fitted((PARTS, "y"), **options).transform_x(NEW_XS)
    found = z.transform_x({name: 7 * x for name, x in NEW_XS.items()})
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_transform_asks_for_the_layers_of_the_blend_alone() -> None:
    aligner = fitted((PARTS[:2], "y"), head="ridge")
    some = {name: NEW_XS[name] for name in PARTS[:2]}
    assert torch.equal(aligner.transform_x(some), aligner.transform_x(NEW_XS))
    side, _ = aligner.modules_
    rows = torch.cat(list(some.values()), 1)
    assert torch.equal(side(rows), aligner.transform_x(some))


@pytest.mark.parametrize("head", ["linear", "mlp", "residual", "cca", "ridge", "asif"])
def test_a_blend_comes_back_from_a_file(head: str, tmp_path: Path) -> None:
    aligner = fitted((PARTS, "y"), head=head)
    aligner.save(tmp_path / "blend")
    loaded = sr.Aligner.load(tmp_path / "blend")
    assert loaded.layers_ == (PARTS, "y")
    assert torch.equal(loaded.transform_x(NEW_XS), aligner.transform_x(NEW_XS))
    assert torch.equal(loaded.fit(XS, YS).transform_x(NEW_XS), aligner.transform_x(NEW_XS))


def test_validation_and_unpaired_rows_have_the_layers_too() -> None:
    aligner = sr.Aligner(layers=(PARTS, "y"), epochs=30).fit(
        XS, YS, validation=(NEW_XS, NEW_YS), unpaired=(NEW_XS, NEW_YS)
    )
    assert len(aligner.history_["validation"]) > 1


def test_the_report_names_the_blend() -> None:
    selection = sr.select_layers(XS, YS, permutations=20)
    x, y = selection.blend(3)
    assert [list(XS)[i] for i in x] == PARTS
    assert y == (0,)
    assert "blend of up to 5 a side: part 0, part 1, part 2, noise with y" in str(selection)
    assert selection.blend(1)[0] == (int(selection.scores.nan_to_num(-1).amax(1).argmax()),)
    with pytest.raises(ValueError, match=r"LayerSelection\.blend: expected layers >= 1"):
        selection.blend(0)


def test_the_choice_does_not_depend_on_the_order_of_pairs() -> None:
    selection = sr.select_layers(XS, YS, permutations=20)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    xs, ys = list(XS.values()), list(YS.values())
    shuffled = weighed_blends(selection, [x[order] for x in xs], [y[order] for y in ys], None, 200)
    for one, other in zip(shuffled, weighed_blends(selection, xs, ys, None, 200), strict=True):
        assert one.blend == other.blend
        assert one.weight == pytest.approx(other.weight, abs=0.2)


class TestErrors:
    def test_one_array_for_a_blend(self) -> None:
        aligner = fitted((PARTS[:2], "y"), head="ridge")
        with pytest.raises(ValueError, match="x with the layers 'part 0', 'part 1', as a list"):
            aligner.transform_x(NEW_XS["part 0"])

    def test_a_layer_that_is_missing(self) -> None:
        aligner = fitted((PARTS[:2], "y"), head="ridge")
        with pytest.raises(ValueError, match="a layer of x, which has 'part 0', got 'part 1'"):
            aligner.transform_x({"part 0": NEW_XS["part 0"]})

    def test_no_layers(self) -> None:
        with pytest.raises(ValueError, match="a blend of at least one layer of x, got none"):
            fitted(([], "y"))

    def test_layers_of_other_rows(self) -> None:
        with pytest.raises(ValueError, match="layers of x with the same number of rows, got 199"):
            sr.Aligner().fit({"a": XS["part 0"], "b": XS["part 1"][:199]}, YS)
