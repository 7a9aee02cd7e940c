"""Where the tokens, the samples and the pads are: known, or refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from contract import normal
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from structure_reg import FeatureStore, ReferenceTap, extract_features, freeze

IDS = torch.randint(1, 20, (4, 6), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1] * 6, [1] * 3 + [0] * 3, [1] + [0] * 5, [1] * 2 + [0] * 4])
EMBED = nn.Embedding(20, 8, _weight=normal(20, 8, seed=0)).requires_grad_(requires_grad=False)
MEAN = (EMBED(IDS) * MASK[..., None]).sum(1) / MASK.sum(1, keepdim=True)


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = EMBED

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.embed(input_ids)


class TakesOther(Text):
    """The mask under another name, and at another position."""

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        types: Any = None,  # noqa: ARG002
        src_key_padding_mask: Any = None,  # noqa: ARG002
    ) -> Any:
        return self.embed(input_ids)


class TakesMask(Text):
    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG002
        return self.embed(input_ids)


class TakesFeatures(Text):
    def forward(self, features: Any) -> Any:  # type: ignore[override]
        features = features.get("text", features)
        return {"token_embeddings": self.embed(features["input_ids"])}


class Pair(NamedTuple):
    input_ids: Tensor
    attention_mask: Tensor


FOUND: dict[str, tuple[nn.Module, Any]] = {
    "by keyword": (Text(), {"input_ids": IDS, "attention_mask": MASK}),
    "tuple": (Text(), (IDS, MASK)),
    "list": (Text(), [IDS, MASK]),
    "namedtuple": (Text(), Pair(IDS, MASK)),
    "TensorDataset": (Text(), next(iter(DataLoader(TensorDataset(IDS, MASK), 4)))),
    "list with a dict": (TakesFeatures(), [{"input_ids": IDS, "attention_mask": MASK}]),
    "nested dict": (
        TakesFeatures(),
        {"features": {"text": {"input_ids": IDS, "attention_mask": MASK}}},
    ),
    "third, and inverted": (TakesOther(), (IDS, None, MASK == 0)),
    "inverted and added": (
        TakesOther(),
        {"input_ids": IDS, "src_key_padding_mask": torch.zeros(4, 6).masked_fill(MASK == 0, -1e9)},
    ),
}


@pytest.mark.parametrize(("model", "batch"), FOUND.values(), ids=FOUND)
def test_masks_are_found_wherever_they_are(model: nn.Module, batch: Any) -> None:
    features = extract_features(model, [batch], layers=["embed"], pool="mean")
    torch.testing.assert_close(features["embed"], MEAN)
    with ReferenceTap(model, "embed", pool="mean") as tap:
        _ = model(**batch) if isinstance(batch, dict) else model(*batch)
    torch.testing.assert_close(tap.rows, MEAN)


@pytest.mark.parametrize(
    ("model", "batch", "message"),
    [
        (Text(), IDS, r"a mask for pool='mean' of token ids, which may be padded, got none;"),
        (Text(), {"input_ids": IDS}, r"a mask for pool='mean' of token ids"),
        (TakesMask(), (IDS, MASK), r"a mask named 'attention_mask' .*, got 'mask', which may mean"),
        (TakesMask(), (IDS, MASK == 0), r"a mask named 'attention_mask' .*, got 'mask', which"),
    ],
)
def test_what_cannot_be_known_is_refused(model: nn.Module, batch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^extract_features: expected {message}"):
        extract_features(model, [batch], layers=["embed"], pool="mean")
    # The first token is the first of the text, unless the caller pads on the left.
    extract_features(model, [batch], layers=["embed"], pool="cls")
    whole = extract_features(
        model, [batch], layers=["embed"], pool="mean", mask=lambda _batch: None
    )
    torch.testing.assert_close(whole["embed"], EMBED(IDS).mean(1))


def test_masks_that_differ_or_are_added_are_refused() -> None:
    class Both(Text):
        def forward(self, input_ids: Any, attention_mask: Any, decoder_attention_mask: Any) -> Any:  # noqa: ARG002
            return self.embed(input_ids)

    features = extract_features(Both(), [(IDS, MASK, MASK + 0)], layers=["embed"], pool="mean")
    torch.testing.assert_close(features["embed"], MEAN)
    with pytest.raises(ValueError, match=r"expected one mask for tokens .*, got 2 that differ"):
        extract_features(Both(), [(IDS, MASK, 1 - MASK)], layers=["embed"], pool="mean")
    added = torch.zeros(4, 6).masked_fill(MASK == 0, -torch.inf)
    with pytest.raises(ValueError, match=r"zeros at padding and ones at tokens, got entries below"):
        extract_features(Text(), [(IDS, added)], layers=["embed"], pool="mean")


def test_a_pool_function_takes_any_output() -> None:
    batch = [{"input_ids": IDS, "attention_mask": MASK}]

    def pool(output: Any, mask: Any) -> Tensor:
        tokens = output["token_embeddings"]
        return (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    features = extract_features(TakesFeatures(), [batch], layers=[""], pool=pool)
    torch.testing.assert_close(features[""], MEAN)


class Convolves(nn.Module):
    """A convolution over time, then tokens of the same width."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Sequential(nn.Conv1d(3, width, 1), nn.ReLU(), nn.MaxPool1d(2))
        self.drop, self.tokens, self.linear = nn.Dropout(), nn.Identity(), nn.Linear(width, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.conv(x))  # (B, C, T)
        return self.linear(self.tokens(x.mT))


@pytest.mark.parametrize(
    "layer", ["conv.0", "conv.1", "conv", "conv.2", "drop", "tokens", "linear"]
)
@pytest.mark.parametrize("pool", ["mean", "cls", "last"])
def test_steps_of_a_convolution_are_tokens(layer: str, pool: str) -> None:
    model, x = Convolves().eval(), normal(4, 3, 12, seed=0, dtype=torch.float32)
    outputs: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _m, _i, out, name=name: outputs.update({name: out}))
    with torch.no_grad():
        model(x)
    tokens = outputs[layer] if layer in ("tokens", "linear") else outputs[layer].mT
    expected = {"mean": tokens.mean(1), "cls": tokens[:, 0], "last": tokens[:, -1]}[pool]
    rows = extract_features(model, [x, x], layers=[layer], pool=pool)[layer]
    torch.testing.assert_close(rows, expected.detach().repeat(2, 1))
    freeze(model)
    with ReferenceTap(model.train(), layer, pool=pool) as tap:
        model(x)
    torch.testing.assert_close(tap.rows, expected)


def test_as_many_channels_as_steps_are_refused_but_of_the_convolution_itself() -> None:
    model, x = Convolves(width=6), normal(4, 3, 12, seed=0, dtype=torch.float32)
    extract_features(model, [x], layers=["conv.2", "linear"], pool="mean")
    with pytest.raises(ValueError, match=r"'drop' to return tokens .*got shape \(4, 6, 6\) aft"):
        extract_features(model, [x], layers=["drop"], pool="mean")


def test_channels_last_maps_are_found_after_a_convolution() -> None:
    class Swin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.block = (
                nn.Conv2d(3, 8, 2, 2),
                nn.Sequential(nn.Linear(8, 8), nn.GELU()),
            )
            self.merge = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.merge(self.block(self.patch(x).permute(0, 2, 3, 1)))

    model, x = Swin().eval(), normal(2, 3, 8, 12, seed=0, dtype=torch.float32)
    features = extract_features(model, [x], layers=["patch", "block", "merge", ""], pool="mean")
    torch.testing.assert_close(features["patch"], model.patch(x).mean((2, 3)).detach())
    for layer in ("block", "merge", ""):
        torch.testing.assert_close(features[layer], model(x).mean((1, 2)).detach())


class SequenceFirst(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.inner = layer, nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x.transpose(0, 1))
        return self.inner(x[0] if isinstance(x, tuple) else x).transpose(0, 1)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "encoder layer": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "encoder": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False
    ),
    "lstm": lambda: nn.LSTM(8, 8),
    "gru": lambda: nn.GRU(8, 8),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("length", [3, 5])  # as many tokens as samples, or more
def test_sequence_first_modules_of_torch_are_known(
    make: Callable[[], nn.Module], length: int
) -> None:
    torch.manual_seed(0)
    model, x = SequenceFirst(make()).eval(), normal(3, length, 8, seed=0, dtype=torch.float32)
    with torch.no_grad():
        output = model.layer(x.transpose(0, 1))
    expected = (output[0] if isinstance(output, tuple) else output).mean(0)
    rows = extract_features(model, [x, x], layers=["layer"], pool="mean")["layer"]
    torch.testing.assert_close(rows, expected.repeat(2, 1))
    whole = extract_features(model, [x], layers=[""], pool="mean")[""]
    torch.testing.assert_close(whole, model(x).mean(1).detach())


@pytest.mark.parametrize("length", [3, 5])
def test_other_sequence_first_layers_are_refused(length: int) -> None:
    """With as many tokens as samples, the shape does not tell; one sample less does."""
    model, x = SequenceFirst(nn.Identity()), normal(3, length, 8, seed=0, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"one row of 'inner' for each of the \d samples"):
        extract_features(model, [x, x], layers=["inner"], pool="mean")


@pytest.mark.parametrize("stored", [False, True])
def test_widths_that_vary_between_batches_are_refused(tmp_path: Any, stored: bool) -> None:
    batches = [normal(2, 3, 5, seed=0), normal(2, 3, 6, seed=0)]
    store = FeatureStore.create(tmp_path, range(4), model="tiny") if stored else None
    with pytest.raises(ValueError, match=r"layers and widths {'0': 5}"):
        extract_features(nn.Sequential(nn.Tanh()), batches, layers=["0"], pool="mean", store=store)


CONTEXTS: dict[str, Callable[[], Any]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
}


def attends() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
def test_the_callers_context_changes_nothing(tmp_path: Any, context: Callable[[], Any]) -> None:
    batches = normal(6, 3, 6, seed=0, dtype=torch.float32).split(2)
    expected = extract_features(attends(), batches, layers=["0", "1"], pool="mean")
    with context():
        store = FeatureStore.create(tmp_path, range(6), model="tiny")
        for given in (None, store):
            rows = extract_features(attends(), batches, layers=["0", "1"], pool="mean", store=given)
            for layer, x in expected.items():
                assert x.dtype == torch.float32
                assert torch.equal(rows[layer], x)
    weight = torch.ones(8, requires_grad=True)
    (rows["1"] * weight).sum().backward()  # a tensor of inference mode could not be trained on


def test_default_dtype_and_deterministic_mode_change_nothing(tmp_path: Any) -> None:
    batches = normal(6, 3, 6, seed=0, dtype=torch.float32).split(2)
    model = attends()
    expected = extract_features(model, batches, layers=["0", "1"], pool="mean")
    default = torch.get_default_dtype()
    other = torch.float32 if default == torch.float64 else torch.float64
    torch.set_default_dtype(other)
    torch.use_deterministic_algorithms(mode=True)
    try:
        store = FeatureStore.create(tmp_path, range(6), model="tiny")
        rows = extract_features(model, batches, layers=["0", "1"], pool="mean", store=store)
    finally:
        torch.set_default_dtype(default)
        torch.use_deterministic_algorithms(mode=False)
    assert all(torch.equal(rows[layer], x) for layer, x in expected.items())


def tower() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 2))


TRAINS = r"^ReferenceTap: expected the reference '1' to be frozen, got parameters that train"


def test_a_tap_warns_once_if_its_reference_trains() -> None:
    model = tower()
    with ReferenceTap(model, "1", pool="mean"):
        with pytest.warns(UserWarning, match=TRAINS):
            model(torch.ones(2, 4))
        model(torch.ones(2, 4))  # warnings are errors here


def frozen_before(model: nn.Sequential) -> None:
    freeze(model[:2])


FROZEN: dict[str, Callable[[nn.Sequential], Any]] = {
    "before the tap": frozen_before,
    "whole": freeze,
    "no requires_grad": lambda model: model.requires_grad_(requires_grad=False),
    "in eval mode": lambda model: model.eval(),
}


@pytest.mark.parametrize("prepare", FROZEN.values(), ids=FROZEN)
@pytest.mark.parametrize("inputs_train", [False, True])
def test_a_tap_does_not_warn_of_what_is_frozen(
    prepare: Callable[[nn.Sequential], Any], inputs_train: bool
) -> None:
    prepare(model := tower())
    with ReferenceTap(model, "1", pool="mean") as tap:
        model(torch.ones(2, 4, requires_grad=inputs_train))
    assert tap.rows.shape == (2, 4)


def test_a_partly_frozen_tower_warns_of_what_trains_before_the_tap() -> None:
    model = tower()
    freeze(model[1:3])
    with (
        ReferenceTap(model, "2", pool="mean"),
        pytest.warns(UserWarning, match="the reference '2' to be frozen"),
    ):
        model(torch.ones(2, 4))


def test_under_compile_the_tap_warns_of_its_own_parameters() -> None:
    model = tower()
    tap = ReferenceTap(model, "0", pool="mean")
    torch.compile(model, backend="aot_eager", fullgraph=True)(torch.ones(2, 4))
    with pytest.warns(UserWarning, match="the reference '0' to be frozen"):
        _ = tap.rows
