"""Averages of canonical maps against a definition in NumPy, in memory and from moments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import structure_reg as sr
from structure_reg.heads.cca_selection import CcaSelection
from structure_reg.heads.moments import PairRows, moments_of_columns, moments_of_rows
from structure_reg.training import rows
from structure_reg.training.averaging import Member, averaged_heads
from structure_reg.training.batches import Pairs
from structure_reg.training.blending import Blend, shares, union
from structure_reg.training.closed_form import fit_member

G = torch.Generator().manual_seed(3)
X = torch.randn(60, 9, generator=G)
Y = X[:, :7] @ torch.randn(7, 7, generator=G) + torch.randn(60, 7, generator=G)


def layers_of_parts(n: int, seed: int) -> tuple[list[Tensor], Tensor]:
    """Three layers of x that each show two of the six factors behind y."""
    maps = torch.Generator().manual_seed(9)
    W = [torch.randn(2, 12, generator=maps) for _ in range(3)]
    V = torch.randn(6, 15, generator=maps)
    g = torch.Generator().manual_seed(seed)
    factors = torch.randn(n, 6, generator=g)
    parts = factors.split(2, 1)
    xs = [z @ w + 0.3 * torch.randn(n, 12, generator=g) for z, w in zip(parts, W, strict=True)]
    return xs, factors @ V + 0.3 * torch.randn(n, 15, generator=g)


XS, YS = layers_of_parts(200, 0)
NEW_XS, NEW_YS = layers_of_parts(80, 1)
CCA = CcaSelection((0.5, 0.5), 1.0, 20.0, 1.0)
MEMBERS = [
    Member(torch.arange(9), torch.arange(7), CCA, 0.7),
    Member(torch.tensor([1, 2, 5]), torch.tensor([0, 6]), CCA, 0.3),
]
PAIRS = Pairs(X, Y, None)
STREAMED = PAIRS._replace(moments=moments_of_rows("test", PairRows(X, Y)))


@pytest.mark.parametrize("pairs", [PAIRS, STREAMED], ids=["rows", "moments"])
def test_products_are_the_weighted_mean_of_those_of_the_maps(pairs: Pairs) -> None:
    maps = [fit_member(pairs, member, 50) for member in MEMBERS]
    f_x, f_y = averaged_heads(MEMBERS, maps, pairs, 50)
    expected = np.zeros((60, 60))
    for (g_x, g_y), member in zip(maps, MEMBERS, strict=True):
        z_x = g_x(X[:, member.x]).detach().double().numpy()
        z_y = g_y(Y[:, member.y]).detach().double().numpy()
        lengths = np.sqrt((z_x**2).sum(1).mean() * (z_y**2).sum(1).mean())
        expected += member.weight * z_x @ z_y.T / lengths
    found = (f_x(X) @ f_y(Y).mT).detach()
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), rtol=0, atol=2e-6)
    assert f_x(X).square().sum(1).mean().item() == pytest.approx(1, abs=1e-5)


def test_fewer_dimensions_keep_the_largest_part() -> None:
    maps = [fit_member(PAIRS, member, 50) for member in MEMBERS]
    full, _ = averaged_heads(MEMBERS, maps, PAIRS, 50)
    for dim in (1, 4, 8):
        head, other = averaged_heads(MEMBERS, maps, PAIRS, dim)
        assert len(head.weight) == len(other.weight) == dim
        kept = head(X).square().sum() / full(X).square().sum()
        assert kept > dim / len(full.weight)


def test_moments_of_columns_are_those_of_fewer_columns() -> None:
    x, y = torch.tensor([0, 3, 8]), torch.tensor([2, 6])
    found = moments_of_columns(moments_of_rows("test", PairRows(X, Y)), x, y)
    expected = moments_of_rows("test", PairRows(X[:, x], Y[:, y]))
    assert len(found) == 60
    for name in ("mean_x", "mean_y", "M_xx", "M_xy", "M_yy"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-10
        )


def test_union_and_shares() -> None:
    assert union([Blend((3,), (1,)), Blend((0, 2), (1,))]) == Blend((0, 2, 3), (1,))
    assert shares([1.0, 1.0]) == [0.5, 0.5]
    assert shares([2.0, 3.0, 2.04]) == shares([20.0, 30.0, 20.4])
    assert shares([2.0, 3.0])[1] == 0
    assert shares([0.0, 0.0, 1.0]) == [0.5, 0.5, 0]


@pytest.mark.parametrize("head", ["cca", "linear"])
def test_streamed_rows_give_the_same_average(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def scores() -> torch.Tensor:
        aligner = sr.Aligner(head=head, max_steps=1, lr=1e-12, batch_size=64).fit(XS, YS)
        assert aligner.layers_ == ([0, 1, 2], 0)
        return aligner.transform_x(NEW_XS) @ aligner.transform_y(NEW_YS).mT

    held = scores()
    monkeypatch.setattr(rows, "BUDGET", 0)
    torch.testing.assert_close(scores(), held, rtol=0, atol=2e-4)


def test_the_average_sees_more_than_its_members() -> None:
    average = sr.Aligner(head="cca").fit(XS, YS)
    pair = sr.Aligner(head="cca", layers="select").fit(XS, YS)
    assert average.score(NEW_XS, NEW_YS) > 1.5 * pair.score(NEW_XS, NEW_YS)
