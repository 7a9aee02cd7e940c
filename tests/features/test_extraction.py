"""Extraction by hooks returns the right tensors and leaves the model as it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from contract import normal
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from structure_reg import extract_features


def encoder() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(5, 4), nn.BatchNorm1d(4)
    )


def batches(count: int = 3, rows: int = 4, width: int = 6) -> list[Tensor]:
    return [normal(rows, width, seed=seed, dtype=torch.float32) for seed in range(count)]


def state(model: nn.Module) -> Any:
    """Everything that an extraction could change in a model."""
    return [
        (
            name,
            part.training,
            len(part._forward_hooks),
            len(part._forward_pre_hooks),
            vars(part).keys(),
        )
        for name, part in model.named_modules()
    ] + [(k, v.clone().tolist()) for k, v in model.state_dict().items()]


def test_is_what_each_layer_returned() -> None:
    model, x = encoder(), torch.cat(batches())
    features = extract_features(model, batches(), layers=["4", "0", "2"], pool="mean")
    model.eval()
    with torch.no_grad():
        expected = {"4": model(x), "0": model[0](x), "2": model[0](x).relu()}
    assert list(features) == ["4", "0", "2"]
    for name, value in features.items():
        # Without a copy, "0" would equal "1": the ReLU works in place.
        torch.testing.assert_close(value, expected[name])
        assert not value.requires_grad
        assert not value.is_inference()


def test_the_output_of_the_model_itself() -> None:
    model = encoder().eval()
    whole = extract_features(model, batches(), layers=[""], pool="cls")[""]
    torch.testing.assert_close(whole, model(torch.cat(batches())).detach())


def test_leaves_the_model_as_it_was_found() -> None:
    model = encoder()
    model[2].eval()
    model[0].weight.requires_grad_(False)
    before = state(model)
    extract_features(model, batches(), layers=["1", "3"], pool="mean")
    assert state(model) == before
    assert model.training
    assert not model[2].training
    assert torch.is_grad_enabled()


class Breaks(nn.Module):
    def forward(self, _x: Tensor) -> Tensor:
        raise ZeroDivisionError


@pytest.mark.parametrize("where", ["model", "pool", "batches"])
def test_leaves_it_so_after_an_error(where: str) -> None:
    model = nn.Sequential(encoder(), Breaks()) if where == "model" else nn.Sequential(encoder())
    before = state(model)

    def broken_batches() -> Iterator[Tensor]:
        yield from batches()
        raise ZeroDivisionError

    def broken_pool(_x: Tensor, _mask: Tensor | None) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        extract_features(
            model,
            broken_batches() if where == "batches" else [torch.ones(4, 6)] * 2,
            layers=["0.0"],
            pool=broken_pool if where == "pool" else "mean",
        )
    assert state(model) == before
    assert torch.is_grad_enabled()


class MergesInEval(nn.Linear):
    """Like loralib's layers, whose train() moves the adapters in and out of the weight."""

    def train(self, mode: bool = True) -> MergesInEval:
        if mode != self.training:
            self.weight.data += 1 if not mode else -1
        return super().train(mode)


def test_modules_with_a_train_of_their_own_are_put_back_by_it() -> None:
    model = nn.Sequential(MergesInEval(6, 4))
    before = model[0].weight.detach().clone()
    features = extract_features(model, batches(), layers=["0"], pool="mean")["0"]
    torch.testing.assert_close(model[0].weight.detach(), before)
    expected = nn.functional.linear(torch.cat(batches()), before + 1, model[0].bias)
    torch.testing.assert_close(features, expected.detach())


class Recomputes(nn.Module):
    """Blocks under checkpointing, and one that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.twice = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.block, x, use_reentrant=False)
        return self.twice(self.twice(x))


def test_a_module_that_runs_again_overwrites() -> None:
    model = Recomputes()
    features = extract_features(model, batches(), layers=["block", "twice"], pool="mean")
    x = torch.cat(batches())
    torch.testing.assert_close(features["block"], model.block(x).detach())
    torch.testing.assert_close(features["twice"], model(x).detach())


class Wraps(nn.Module):
    """Outputs and calls as in libraries: tuples, keywords, shared modules and unused ones."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.same = self.lstm
        self.attention = nn.MultiheadAttention(5, 1, batch_first=True)
        self.sequence_first = nn.Linear(5, 5)
        self.unused = nn.Linear(2, 2)
        self.count = nn.Module()

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        x = self.lstm(scale * x)[0]
        self.sequence_first(x.transpose(0, 1))
        return self.attention(x, x, x)[0]


def test_takes_the_first_of_a_tuple_and_a_module_by_any_of_its_names() -> None:
    model, x = Wraps().eval(), normal(2, 3, 6, seed=0, dtype=torch.float32)
    layers = ["lstm", "same", "attention"]
    features = extract_features(model, [x], layers=layers, pool="last")
    torch.testing.assert_close(features["lstm"], model.lstm(x)[0][:, -1].detach())
    torch.testing.assert_close(features["same"], features["lstm"])
    torch.testing.assert_close(features["attention"], model(x)[:, -1].detach())


def test_passes_batches_as_they_are() -> None:
    model, x = Wraps(), normal(2, 3, 6, seed=0, dtype=torch.float32)
    options: Any = {"layers": ["attention"], "pool": "mean"}
    doubled = extract_features(model, [2 * x], **options)["attention"]
    for batch in ((x, 2.0), [x, 2.0], {"x": x, "scale": 2.0}):
        assert torch.equal(extract_features(model, [batch], **options)["attention"], doubled)


def test_where_samples_are_not_the_first_axis() -> None:
    model, x = Wraps(), normal(2, 3, 6, seed=0, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"one row of 'sequence_first' for each of the 2 samples"):
        extract_features(model, [x], layers=["sequence_first"], pool="mean")
    by_function = extract_features(
        model, [x], layers=["sequence_first"], pool=lambda x, _mask: x.mean(0)
    )
    assert by_function["sequence_first"].shape == (2, 5)
    with pytest.raises(ValueError, match=r"one row of 'lstm' for each of the 3 samples .*got 2;"):
        extract_features(
            model, [x], layers=["sequence_first", "lstm"], pool=lambda x, _mask: x[:, 0]
        )


def wrappers() -> dict[str, Any]:
    def partly(model: nn.Sequential) -> nn.Module:
        model[0] = torch.compile(model[0], backend="eager")
        return model

    def in_place(model: nn.Sequential) -> nn.Module:
        model.compile(backend="eager")
        model[3].compile(backend="eager")
        return model

    return {
        "DataParallel": nn.DataParallel,
        "compile": lambda model: torch.compile(model, backend="eager"),
        "compile after use": in_place,
        "a compiled part": partly,
    }


@pytest.mark.parametrize("wrap", wrappers().values(), ids=wrappers())
def test_wrapped_models_give_the_same_and_keep_working(wrap: Any) -> None:
    expected = extract_features(encoder(), batches(), layers=["3"], pool="mean")
    model = wrap(encoder()).eval()
    output = model(batches()[0])
    for _ in range(2):
        features = extract_features(model, batches(), layers=["3"], pool="mean")
        torch.testing.assert_close(features, expected)
    torch.testing.assert_close(model(batches()[0]), output)


def test_moves_batches_to_the_model() -> None:
    model = encoder().to(torch.float32)
    inside: list[torch.device] = []
    model[0].register_forward_pre_hook(lambda _m, inputs: inside.append(inputs[0].device))
    extract_features(model, batches(), layers=["0"], pool="mean")
    assert set(inside) == {torch.device("cpu")}
    # A model without tensors leaves batches on their device.
    free = extract_features(nn.Sequential(nn.Tanh()), batches(), layers=["0"], pool="mean")
    torch.testing.assert_close(free["0"], torch.cat(batches()).tanh())


def test_a_bar_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    extract_features(encoder(), batches(), layers=["0"], pool="mean", progress=True)
    printed = capsys.readouterr()
    assert not printed.out
    assert "3/3" in printed.err


def test_says_that_the_bar_needs_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ModuleNotFoundError, match=r"^extract_features: expected tqdm to be"):
        extract_features(encoder(), batches(), layers=["0"], pool="mean", progress=True)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        (
            ["00"],
            ValueError,
            r"the name of a module in Sequential, got '00'; the closest names are '0'$",
        ),
        (["blocks.3"], ValueError, r"got 'blocks.3'; its modules are '0', '1', '2', '3', '4'$"),
        ("all", ValueError, r"list of module names, .*got 'all'; its modules are '0', '1', '2'"),
        (
            [3],
            ValueError,
            r"list of module names, .*got 3; its modules are '0', '1', '2', '3', '4'$",
        ),
        ("0", ValueError, r"'all' or a list, got '0'; for one layer, pass \['0'\]$"),
        (["0", "0"], ValueError, r"each layer once, got '0' twice$"),
        ([], ValueError, r"at least one layer, got none$"),
        (None, TypeError, r"'all' or a list, got NoneType$"),
        ([0.5], TypeError, r"names and numbers, got float$"),
        ([True], TypeError, r"names and numbers, got bool$"),
    ],
)
def test_refuses_layers_that_are_not_there(
    layers: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=rf"^extract_features: expected .*{message}"):
        extract_features(encoder(), batches(), layers=layers, pool="mean")


def test_refuses_layers_that_do_not_run_or_return_no_features() -> None:
    x = normal(2, 3, 6, seed=0, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"every layer to run .*, got no output of 'unused'$"):
        extract_features(Wraps(), [x], layers=["lstm", "unused"], pool="mean")
    for result, error in (({"x": x}, "got dict$"), (x.long(), "got torch.int64$")):
        model = nn.Sequential(nn.Identity())
        model[0].forward = lambda _x, result=result: result
        with pytest.raises(TypeError, match=rf"expected a layer to return .*{error}"):
            extract_features(model, [x], layers=["0"], pool="mean")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": torch.relu}, TypeError, r"model to be an nn.Module, got builtin_function"),
        ({"pool": 3}, TypeError, r"pool to be a string, got int$"),
        ({"dtype": torch.int8}, TypeError, r"dtype to be one of float16, .*, got torch.int8$"),
        ({"batches": []}, ValueError, r"at least one batch, got none$"),
        ({"store": "here"}, TypeError, r"store to be a FeatureStore, got str$"),
    ],
)
def test_refuses_bad_options(options: Any, error: type[Exception], message: str) -> None:
    good = {"model": encoder(), "batches": batches(), "layers": ["0"], "pool": "mean"}
    with pytest.raises(error, match=rf"^extract_features: expected .*{message}"):
        extract_features(**{**good, **options})


def test_long_lists_are_cut_in_messages() -> None:
    many = nn.Sequential(*(nn.Identity() for _ in range(30)))
    with pytest.raises(ValueError, match=r"'18', '19' and 10 more$"):
        extract_features(many, batches(), layers=["block"], pool="mean")
