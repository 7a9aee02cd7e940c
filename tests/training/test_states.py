"""What the caller has set in PyTorch changes no result: autocast, gradients, dtypes, inference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from contract import normal
from torch import Tensor, nn

import structure_reg as sr

X, Y = normal(40, 6, seed=0).float(), normal(40, 5, seed=1).float()
IDS = torch.arange(40) // 2


@contextmanager
def setting(change: Callable[[Any], None], value: Any, before: Any) -> Iterator[None]:
    change(value)
    try:
        yield
    finally:
        change(before)


@contextmanager
def default_device(kind: str) -> Iterator[None]:
    with torch.device(kind):
        yield


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "float64": lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: setting(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "device": lambda: default_device("meta"),
}
FITS: dict[str, dict[str, Any]] = {
    "trained": {"epochs": 2, "dim": 4},
    "batches": {"epochs": 2, "dim": 4, "batch_size": 16, "fusemix": 0.05},
    "made": {"epochs": 2, "dim": 4, "head": nn.Linear},
    "closed": {"head": "cca", "dim": 4},
}
every_state = pytest.mark.parametrize("state", STATES)
every_fit = pytest.mark.parametrize("name", FITS)


def results(aligner: sr.Aligner, x: Tensor, y: Tensor) -> list[Any]:
    return [aligner.transform_x(x), aligner.transform_y(y), aligner.score(x, y, ids=IDS.tolist())]


def same(one: list[Any], other: list[Any]) -> None:
    for a, b in zip(one, other, strict=True):
        if isinstance(a, Tensor):
            assert b.dtype == torch.float32
            torch.testing.assert_close(a, b.clone(), rtol=0, atol=0)
        else:
            assert a == b


@every_state
@every_fit
def test_no_state_changes_a_fit(name: str, state: str) -> None:
    options = {"ids": IDS.tolist(), "validation": (X[:20], Y[:20]), "unpaired": (X[:9], Y[:5])}
    plain = sr.Aligner(**FITS[name]).fit(X, Y, **options)
    with STATES[state]():
        aligner = sr.Aligner(**FITS[name]).fit(X, Y, **options)
    same(results(plain, X, Y), results(aligner, X, Y))
    assert plain.history_.lists() == aligner.history_.lists()


@every_state
@every_fit
def test_no_state_changes_what_a_fit_gives(name: str, state: str) -> None:
    aligner = sr.Aligner(**FITS[name]).fit(X, Y)
    plain = results(aligner, X, Y)
    with STATES[state]():
        same(plain, results(aligner, X, Y))
        assert (aligner.transform_x(X.numpy()) == plain[0].numpy()).all()


@pytest.mark.parametrize("state", ["no_grad", "inference_mode"])
def test_a_rate_is_found_where_no_gradients_are(state: str) -> None:
    with STATES[state]():
        aligner = sr.Aligner(epochs=1, lr="find", head="sail").fit(X, Y)
    assert aligner.history_["contrastive"][0] > 0


@every_state
def test_the_state_is_put_back(state: str) -> None:
    def found() -> tuple[Any, ...]:
        return (
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_default_device(),
        )

    with STATES[state]():
        before = found()
        sr.Aligner(head="cca").fit(X, Y)
        assert found() == before
        with pytest.raises(ValueError, match="at least 8 pairs"):
            sr.Aligner().fit(X[:3], Y[:3])
        assert found() == before


def test_features_from_inference_mode() -> None:
    with torch.inference_mode():
        x, y = X.clone(), Y.clone()
    for standardise in (True, False):
        options = {"epochs": 2, "standardise": standardise}
        plain, aligner = sr.Aligner(**options).fit(X, Y), sr.Aligner(**options).fit(x, y)
        same(results(plain, X, Y), results(aligner, x, y))


def test_heads_of_another_dtype_are_trained_in_float32() -> None:
    heads = nn.Linear(6, 4, dtype=torch.float64), nn.Linear(5, 4, dtype=torch.bfloat16)
    aligner = sr.Aligner(head=heads, epochs=2).fit(X, Y)
    assert aligner.heads_[0].weight.dtype == aligner.transform_y(Y).dtype == torch.float32


LOSSES: dict[str, Callable[..., Tensor]] = {
    "clip": lambda x, y, s, ids: sr.clip_loss(x, y, s, ids=ids),
    "siglip": lambda x, y, s, ids: sr.siglip_loss(x, y, s, -5.0, ids=ids),
    "structure": lambda x, y, _s, _ids: sr.structure_loss(x, y),
    "levels": lambda x, y, _s, _ids: sr.structure_loss(x, y, levels=3),
    "anchors": lambda x, y, _s, _ids: sr.structure_loss(x, y, anchors=(x, y)),
    "prepared": lambda x, y, _s, _ids: sr.structure_loss(sr.FrozenStructure(x), y),
}


@pytest.mark.parametrize("n", [4, 40, 800])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("with_ids", [False, True])
def test_losses_take_tensors_of_inference_mode(name: str, n: int, with_ids: bool) -> None:
    x, y = normal(n, 6, seed=0).float(), normal(n, 6, seed=1).float()
    ids, scale = torch.arange(n) // 2, torch.tensor(5.0)
    with torch.inference_mode():
        made_x, made_ids, made_scale = x.clone(), ids.clone(), scale.clone()
    gradients = []
    for frozen, numbers, s in ((x, ids, scale), (made_x, made_ids, made_scale)):
        aligned = y.clone().requires_grad_()
        LOSSES[name](frozen, aligned, s, numbers if with_ids else None).backward()
        gradients.append(aligned.grad)
        LOSSES[name](frozen, y, s, numbers if with_ids else None)
    assert torch.equal(*gradients)
