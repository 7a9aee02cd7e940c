"""Devices without float64, as Apple's MPS: everything public still computes on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import isfunction
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import structure_reg as sr
from structure_reg import __main__ as program
from structure_reg import _precision

HERE = torch.device("meta")  # the only type, next to the CPU's, that every build can differentiate


class OnDevice(Tensor):
    """A tensor that says it is on the device and hides its values, which lie on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> OnDevice:
        if values.dtype == torch.float64:
            raise TypeError("the device does not support float64")
        tensor: OnDevice = torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            dtype=values.dtype,
            device=HERE,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
        )
        tensor.values = values
        return tensor

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({self.values})"

    @classmethod
    def __torch_dispatch__(
        cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(operator, args, kwargs or {})


class Device(TorchDispatchMode):
    """Where tensors created on the device get values."""

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        return run(operator, args, kwargs) if "device" in kwargs else operator(*args, **kwargs)


def run(operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operator on the CPU, and refuse what a device refuses."""
    inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    stays = any(isinstance(leaf, OnDevice) for leaf in inputs)
    target = kwargs.get("device")
    if stays and kwargs.get("dtype") == torch.float64:
        raise TypeError("the device does not support float64, not even on the way to the CPU")
    moves = target is not None or "copy_" in str(operator)  # the one operator of two devices
    if stays and not moves and any(not isinstance(x, OnDevice) and x.ndim for x in inputs):
        raise RuntimeError(f"{operator}: expected all tensors to be on one device")
    if target is not None:
        stays = torch.device(target) == HERE
        kwargs = kwargs | {"device": "cpu"}
    elif inputs:
        stays = isinstance(inputs[0], OnDevice) if moves else stays
    args, kwargs = tree_map_only(OnDevice, lambda x: x.values, (args, kwargs))
    result = operator(*args, **kwargs)
    return tree_map_only(Tensor, OnDevice, result) if stays else result


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setattr(_precision, "WITHOUT_FLOAT64", frozenset({HERE.type}))
    return Device()


def rows(n: int = 60, d: int = 12, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def features() -> tuple[Tensor, Tensor]:
    x = rows()
    return x, x @ rows(12, 12, 1) + 0.5 * rows(seed=2)


LABELS = torch.arange(60) % 5


def streamed(metric: Any) -> Callable[[Tensor, Tensor], Any]:
    def compute(x: Tensor, y: Tensor) -> Any:
        metric.reset()
        metric.update(x[:30], y[:30])
        metric.update(x[30:], y[30:])
        return metric.compute().double()  # which lies on the CPU, with the sums

    return compute


def moments(x: Tensor, y: Tensor) -> list[Tensor]:
    m = sr.PairMoments().update(x[:20], y[:20]).update(x[20:], y[20:])
    return [m.mean_x, m.mean_y, m.M_xx, m.M_xy, m.M_yy]


def layers(x: Tensor, y: Tensor) -> list[Any]:
    s = sr.select_layers({"a": x, "b": x.abs()}, [y], permutations=9)
    return [s.scores, s.chance, s.p_value, s.stability]


def with_gradient(loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], list[Tensor]]:
    def compute(x: Tensor, y: Tensor) -> list[Tensor]:
        y = y.clone().requires_grad_()
        value = loss(x, y)
        return [value.detach(), *torch.autograd.grad(value, y)]

    return compute


def applied(fit: Callable[..., tuple[nn.Module, nn.Module]]) -> Callable[[Tensor, Tensor], Any]:
    def compute(x: Tensor, y: Tensor) -> Any:
        head_x, head_y = fit(x, y)
        return [head_x(x).detach(), head_y(y).detach()]

    return compute


CALLS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "structure_loss": with_gradient(sr.structure_loss),
    "clip_loss": with_gradient(sr.clip_loss),
    "siglip_loss": with_gradient(sr.siglip_loss),
    "klot_loss": with_gradient(lambda x, y: sr.klot_loss(x, y, x, x)),
    "cosine_kernel": lambda x, _: sr.cosine_kernel(x),
    "log_transition_matrix": lambda x, _: sr.log_transition_matrix(x @ x.mT),
    "js_divergence": lambda x, y: sr.js_divergence(x.log_softmax(1), y.log_softmax(1)),
    "reverse_js_divergence": lambda x, y: sr.reverse_js_divergence(
        x.log_softmax(1), y.log_softmax(1)
    ),
    "structure_diagnostics": sr.structure_diagnostics,
    "temperature_for_perplexity": lambda x, _: sr.temperature_for_perplexity(x, 9.0),
    "procrustes": with_gradient(sr.procrustes),
    "mutual_knn": sr.mutual_knn,
    "mutual_knn of a mask": lambda x, y: sr.mutual_knn(x, y, mask=x[:, 0] > -1),
    "cycle_knn": sr.cycle_knn,
    "lcs_knn": sr.lcs_knn,
    "edit_knn": sr.edit_knn,
    "jaccard_knn": sr.jaccard_knn,
    "cknna": sr.cknna,
    "tie_fraction": lambda x, _: sr.tie_fraction(x.round()),
    "cka": with_gradient(sr.cka),
    "rbf cka": with_gradient(lambda x, y: sr.cka(x, y, kernel="rbf")),
    "cka_chance": lambda x, y: sr.cka_chance([x], {"y": y}, debiased=False),
    "rv": with_gradient(sr.rv),
    "CKA": streamed(sr.CKA()),
    "MinibatchCKA": streamed(sr.MinibatchCKA()),
    "cca": sr.cca,
    "svcca": sr.svcca,
    "pwcca": sr.pwcca,
    "rsa": with_gradient(sr.rsa),
    "spearman rsa": lambda x, y: sr.rsa(x, y, correlation="spearman"),
    "select_layers": layers,
    "layer_similarity": lambda x, y: sr.layer_similarity([x, x.abs()], [y]),
    "layer_similarity of a function": lambda x, y: sr.layer_similarity([x], [y], metric=sr.cka),
    "PairMoments": moments,
    "fit_ridge": applied(sr.fit_ridge),
    "fit_cca": applied(partial(sr.fit_cca, ridge=0.1)),
    "fit_csa": applied(partial(sr.fit_csa, ridge=0.1)),
    "fit_procrustes": applied(sr.fit_procrustes),
    "fit_asif": applied(sr.fit_asif),
    "select_cca": sr.select_cca,
    "retrieval": sr.retrieval,
    "retrieval with ids": lambda x, y: sr.retrieval(x, y, ids=(x[:, 0] > 0).long()),
    "retrieval with csls": lambda x, y: sr.retrieval(x, y, csls=(x[:40], y[:40])),
    "search": sr.search,
    "local_scaling": sr.local_scaling,
    "zero_shot": lambda x, y: sr.zero_shot(x, y[:5], LABELS),
    "class_embeddings": lambda x, _: sr.class_embeddings(x.reshape(5, 12, 12)),
    "modality_gap": sr.modality_gap,
    "alignment": sr.alignment,
    "uniformity": lambda x, _: sr.uniformity(x),
    "trustworthiness": sr.trustworthiness,
    "continuity": lambda x, y: sr.continuity(x, y, metric="cosine"),
    "neighbourhood_overlap": sr.neighbourhood_overlap,
}


WITHOUT_ARITHMETIC = {
    *("extract_features", "merge_stores", "save_heads", "load_heads", "freeze", "tile_budget"),
    *("save_pretrained_heads", "load_pretrained_heads", "push_heads_to_hub"),
    "released_aligner",
}


def test_no_public_function_is_forgotten() -> None:
    functions = {name for name in sr.__all__ if isfunction(getattr(sr, name))}
    assert functions - WITHOUT_ARITHMETIC == {name for name in CALLS if name in functions}


@pytest.mark.parametrize("name", CALLS)
def test_computes_on_a_device_without_float64(name: str, device: Device) -> None:
    x, y = features()
    expected = CALLS[name](x, y)
    with device:
        result = CALLS[name](OnDevice(x), OnDevice(y))
    assert_same(result, expected)


def assert_same(result: Any, expected: Any) -> None:
    """The same numbers; those in float64 on the CPU, all other tensors on the device."""
    for ours, theirs in zip(tree_leaves(result), tree_leaves(expected), strict=True):
        if isinstance(ours, Tensor):
            assert isinstance(ours, OnDevice) == (ours.dtype != torch.float64)
            ours = ours.values if isinstance(ours, OnDevice) else ours
            torch.testing.assert_close(ours, theirs)
        else:
            assert ours == pytest.approx(theirs)


OPTIONS: dict[str, dict[str, Any]] = {
    "linear": {},
    "mlp": {"head": "mlp", "start": "random", "structure_weight": 0.0},
    "noise": {"start": "random", "structure_weight": 0.0, "noise": 0.1, "fusemix": 0.05},
    "ridge": {"head": "ridge"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_aligner_trains_on_a_device_without_float64(
    name: str, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = features()
    expected = aligned(x, y, OPTIONS[name])
    # Of what PyTorch has no simulation for: generators, and tensors made of lists of tensors.
    Generator, as_tensor = torch.Generator, torch.as_tensor
    monkeypatch.setattr(torch, "Generator", lambda *_: Generator())
    monkeypatch.setattr(
        torch,
        "as_tensor",
        lambda z: as_tensor([float(v) for v in z] if isinstance(z, list) else z),
    )
    with device:
        result = aligned(OnDevice(x), OnDevice(y), OPTIONS[name])
    assert_same(result, expected)


def aligned(x: Tensor, y: Tensor, options: dict[str, Any]) -> list[Any]:
    """Features in the shared space and their score, from a blend of two layers and one layer."""
    both = [x, x.abs()]
    aligner = sr.Aligner(
        layers=([0, 1], 0), epochs=1, batch_size=32, dim=4, lr=1e-3, progress=False, **options
    )
    aligner.fit(both, [y], validation=(both, [y]))
    return [aligner.transform_x(both), aligner.transform_y([y]), aligner.score(both, [y])]


def test_a_map_in_float64_comes_back_on_the_cpu(device: Device) -> None:
    x, y = features()
    side = sr.Aligner(head="ridge", epochs=1).fit(x, y).modules_[0]
    with device:
        ours = sr.Side("x", 0, OnDevice(side.mean), OnDevice(side.factor), side.head.to(HERE))
        assert_same(ours.matrix(), side.matrix())


def test_the_self_test_passes_on_a_device_without_float64(
    device: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "devices", lambda: [HERE])
    with device:
        assert program.main() == 0
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("  ok") for line in printed) == len(program.COMPARISONS)


def test_the_simulated_device_has_no_float64_and_mixes_with_no_other(device: Device) -> None:
    x = OnDevice(rows())
    with device:
        with pytest.raises(TypeError, match="float64"):
            x.double()
        with pytest.raises(TypeError, match="float64"):
            x.to("cpu", torch.float64)
        with pytest.raises(TypeError, match="float64"):
            torch.zeros(2, dtype=torch.float64, device=HERE)
        with pytest.raises(RuntimeError, match="one device"):
            x + rows()
        assert isinstance(x.cpu().double() + rows(), Tensor)
