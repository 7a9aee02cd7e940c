"""Options may be scalars of NumPy, and a flag is nothing but a boolean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract import normal
from torch import Tensor, nn

import structure_reg as sr

X = normal(24, 6, seed=0, dtype=torch.float32)
Y = X @ normal(6, 5, seed=1).float() + 0.3 * normal(24, 5, seed=2).float()
LABELS = torch.arange(24) % 4


def rows_of(heads: tuple[nn.Module, ...]) -> Tensor:
    return torch.cat([heads[0](X).flatten(), heads[1](Y).flatten()]).detach()


# Calls whose options pass through a conversion of integers, i, and one of numbers, f.
Scalar = Callable[[Any], Any]
CALLS: dict[str, Callable[[Scalar, Scalar], Any]] = {
    "svcca, count": lambda i, _: sr.svcca(X, Y, keep=i(3)),
    "svcca, share": lambda _, f: sr.svcca(X, Y, keep=f(0.75)),
    "cknna": lambda i, _: sr.cknna(X, Y, k=i(5)),
    "tie_fraction": lambda i, _: sr.tie_fraction(X, k=i(5)),
    "continuity": lambda i, _: sr.continuity(X, Y, k=i(3)),
    "trustworthiness": lambda i, _: sr.trustworthiness(X, Y, k=i(3)),
    "neighbourhood_overlap": lambda i, _: sr.neighbourhood_overlap(X, Y, k=i(3)),
    "retrieval": lambda i, _: sr.retrieval(X, X, ks=(i(1), i(2))).x_to_y.recall,
    "zero_shot": lambda i, _: sr.zero_shot(X, X[:4], LABELS, ks=[i(1), i(2)]).accuracy,
    "layer_similarity": lambda i, _: sr.layer_similarity([X], [Y], k=i(5)),
    "select_layers": lambda i, _: (
        sr.select_layers([X], [Y], k=i(5), permutations=i(7), max_samples=i(20)).p_values
    ),
    "select_cca": lambda i, _: torch.tensor(sr.select_cca(X, Y, max_samples=i(20))[1:]),
    "fit_asif": lambda i, f: rows_of(sr.fit_asif(X, Y, k=i(5), power=f(2.5))),
    "fit_cca": lambda i, f: rows_of(sr.fit_cca(X, Y, dim=i(3), ridge=f(2.5), power=f(0.5))),
    "fit_cca, two ridges": lambda _, f: rows_of(sr.fit_cca(X, Y, ridge=(f(0.5), f(2.5)))),
    "fit_csa": lambda i, f: rows_of(sr.fit_csa(X, Y, dim=i(3), ridge=f(2.5), power=f(0.5))),
    "fit_procrustes": lambda i, _: rows_of(sr.fit_procrustes(X, Y, dim=i(3))),
    "fit_ridge": lambda _, f: rows_of(sr.fit_ridge(X, Y, ridge=f(2.5))),
    "temperature_for_perplexity": lambda i, f: torch.tensor(
        [sr.temperature_for_perplexity(X, value) for value in (i(5), f(4.5))]
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_scalars_of_numpy_count_as_python_numbers(name: str) -> None:
    expected = CALLS[name](int, float)
    for i, f in ((np.int64, np.float64), (np.int32, np.float32), (np.uint8, np.float16)):
        assert torch.equal(CALLS[name](i, f), expected)


def test_cut_offs_are_an_array_too() -> None:
    expected = sr.retrieval(X, X, ks=(1, 5))
    for ks in (np.array([1, 5]), torch.tensor([1, 5]), range(1, 6, 4)):
        found = sr.retrieval(X, X, ks=ks)
        assert found.x_to_y.ks == (1, 5)
        assert str(found) == str(expected)


HEADS: dict[str, Callable[[Scalar, Scalar], nn.Module]] = {
    "AsifHead": lambda i, f: sr.AsifHead(i(6), i(9), k=i(4), power=f(2.5)),
    "CsaHead": lambda i, _: sr.CsaHead(i(6), i(3), side="x"),
    "GatedHead": lambda i, _: sr.GatedHead(i(6), i(3), expansion=i(2)),
    "LinearHead": lambda i, _: sr.LinearHead(i(6), i(3), bias=np.bool_(True)),
    "MlpHead": lambda i, f: sr.MlpHead(i(6), i(3), hidden_features=i(4), dropout=f(0.5)),
    "ResidualHead": lambda i, f: sr.ResidualHead(i(6), i(3), rank=i(2), dropout=f(0.5)),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_of_numpy_sizes_are_saved_and_loaded(name: str, tmp_path: Path) -> None:
    head = HEADS[name](np.int64, np.float32)
    assert head.arguments() == HEADS[name](int, float).arguments()
    assert repr(head) == repr(HEADS[name](int, float))
    sr.save_heads(tmp_path / "head", head)
    (loaded,) = sr.load_heads(tmp_path / "head")
    assert loaded.arguments() == head.arguments()


FLAGS: dict[str, Callable[[Any], Any]] = {
    "cka: expected debiased": lambda flag: sr.cka(X, Y, debiased=flag),
    "cka_chance: expected debiased": lambda flag: sr.cka_chance([X], [Y], debiased=flag),
    "CKA: expected debiased": lambda flag: sr.CKA(debiased=flag),
    "LinearHead: expected bias": lambda flag: sr.LinearHead(6, 3, bias=flag),
    "select_cca: expected standardise": lambda flag: sr.select_cca(X, Y, standardise=flag),
    **{
        f"{fit.__name__}: expected standardise": lambda flag, fit=fit: fit(X, Y, standardise=flag)
        for fit in (sr.fit_asif, sr.fit_cca, sr.fit_csa, sr.fit_procrustes, sr.fit_ridge)
    },
}


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_is_a_boolean(name: str) -> None:
    for flag in (True, False, np.True_, np.False_):
        FLAGS[name](flag)
    for bad, got in (("False", "str"), (0, "int"), (None, "NoneType"), (torch.tensor(True), "Te")):
        with pytest.raises(TypeError, match=f"^{name} to be a bool, got {got}"):
            FLAGS[name](bad)


class TestLayersOfAnAligner:
    def test_positions_of_numpy(self) -> None:
        scores = np.array([[0.1, 0.9], [0.3, 0.2]])
        best = np.unravel_index(scores.argmax(), scores.shape)
        aligner = sr.Aligner(head="ridge", layers=best).fit([X, -X], {"a": Y, "b": -Y})
        assert aligner.layers_ == (0, 1)
        assert [type(layer) for layer in aligner.layers_] == [int, int]
        expected = sr.Aligner(head="ridge", layers=(0, 1)).fit([X, -X], [Y, -Y])
        assert torch.equal(aligner.transform_x([X, -X]), expected.transform_x(X))

    def test_positions_are_saved(self, tmp_path: Path) -> None:
        aligner = sr.Aligner(head="ridge", layers=(np.int64(1), np.str_("a")))
        aligner.fit([-X, X], {"a": Y}).save(tmp_path / "a")
        loaded = sr.Aligner.load(tmp_path / "a")
        assert loaded.layers_ == (1, "a")
        assert torch.equal(loaded.transform_x([-X, X]), aligner.transform_x(X))

    def test_one_array_is_layer_zero(self) -> None:
        for layers in ((0, -1), (-1, 0), (np.int64(0), 0)):
            sr.Aligner(head="ridge", layers=layers).fit(X, Y.numpy())
        for layers, got in (((2, 0), "2"), (("late", 0), "'late'"), ((-2, 0), "-2")):
            with pytest.raises(ValueError, match=f"expected a layer of x, which has 0, got {got}"):
                sr.Aligner(head="ridge", layers=layers).fit(X, Y)
        with pytest.raises(ValueError, match="expected a layer of y, which has 'a', got 'late'"):
            sr.Aligner(head="ridge", layers=(0, "late")).fit(X, {"a": Y})

    def test_one_array_is_the_fitted_layer_later(self) -> None:
        aligner = sr.Aligner(head="ridge", layers=("late", 1)).fit({"late": X}, [Y, Y])
        assert torch.equal(aligner.transform_x(X), aligner.transform_x({"late": X}))
