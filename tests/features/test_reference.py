"""A tap returns the rows of a layer in the last forward pass, and nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from structure_reg import ReferenceTap, extract_features, freeze, structure_loss


class Tokens(nn.Module):
    """An embedding of tokens, dropout, and a projection of their masked mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.drop(self.embed(input_ids))
        if attention_mask is None:
            return self.head(x.mean(1))
        weights = attention_mask[..., None] / attention_mask.sum(1)[:, None, None]
        return self.head((weights * x).sum(1))


@pytest.fixture
def model() -> Tokens:
    torch.manual_seed(0)
    return Tokens()


def no_padding(*_args: object, **_kwargs: object) -> None:
    """Say that the token ids are not padded."""


IDS = torch.arange(24).reshape(6, 4) % 20
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 1], [1, 0, 0, 0], [1] * 4])


@pytest.mark.parametrize("pool", ["cls", "mean", "last"])
@pytest.mark.parametrize("how", ["keyword", "mapping", "position"])
def test_rows_are_those_of_extract_features(model: Tokens, pool: str, how: str) -> None:
    freeze(model)
    batch = {"input_ids": IDS, "attention_mask": MASK}
    (expected,) = extract_features(model, [batch], layers=["drop"], pool=pool).values()
    if how == "mapping":
        model.forward = lambda features: Tokens.forward(model, **features)
    mask = (lambda _ids, mask: mask) if how == "position" else None
    with ReferenceTap(model, "drop", pool=pool, mask=mask) as tap:
        if how == "keyword":
            model(**batch)
        elif how == "mapping":
            model(batch)
        else:
            model(IDS, MASK)
    assert torch.equal(tap.rows, expected)


def test_pads_do_not_reach_the_rows(model: Tokens) -> None:
    freeze(model)
    other = torch.where(MASK == 1, IDS, 19)
    with ReferenceTap(model, "embed", pool="mean") as tap:
        model(input_ids=IDS, attention_mask=MASK)
        before = tap.rows
        model(input_ids=other, attention_mask=MASK)
        assert torch.equal(tap.rows, before)
    with ReferenceTap(model, "embed", pool="mean", mask=no_padding) as tap:
        model(input_ids=other)
        assert not torch.equal(tap.rows, before)


def test_the_gradient_is_that_of_features_given_by_hand(model: Tokens) -> None:
    freeze(model.embed)
    freeze(model.drop)
    with ReferenceTap(model, "embed", pool="mean", mask=no_padding) as tap:
        aligned = model(IDS, MASK)
        structure_loss(tap.rows, aligned).backward()
    by_hand = model.head.weight.grad.clone()
    model.zero_grad()
    structure_loss(model.embed(IDS).mean(1), model(IDS, MASK)).backward()
    assert torch.equal(model.head.weight.grad, by_hand)
    assert not tap.rows.requires_grad


def test_a_pass_overwrites_and_a_pass_without_the_layer_clears(model: Tokens) -> None:
    freeze(model)
    tap = ReferenceTap(model, "embed", pool="mean", mask=no_padding)
    message = "ReferenceTap: expected rows of 'embed' from a forward pass of the model, got none"
    with pytest.raises(ValueError, match=message):
        _ = tap.rows
    for rows in (6, 3, 2):
        model(IDS[:rows])
        assert torch.equal(tap.rows, model.embed(IDS[:rows]).mean(1).detach())
    model.forward = lambda ids: model.head(torch.ones(len(ids), 8))
    model(IDS)
    with pytest.raises(ValueError, match=message):
        _ = tap.rows


def test_a_layer_that_runs_twice_leaves_its_last() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.inner(x))

    freeze(model := Twice())
    with ReferenceTap(model, "inner", pool="mean") as tap:
        assert torch.equal(model(torch.randn(3, 4)), tap.rows)


def test_only_calls_of_the_model_count(model: Tokens) -> None:
    freeze(model)
    tap = ReferenceTap(model, "embed", pool="mean", mask=no_padding)
    model(IDS)
    before = tap.rows
    model.embed(IDS[:2])
    assert tap.rows is before
    with pytest.raises(RuntimeError):
        model(IDS.float(), MASK)
    model.embed(IDS[:2])
    with pytest.raises(ValueError, match="got none"):
        _ = tap.rows


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_leaves_the_rows_alone(reentrant: bool) -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).requires_grad_(requires_grad=False)

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x, use_reentrant=reentrant, preserve_rng_state=False)

    model = Checkpointed()
    tap = ReferenceTap(model, "inner.1", pool="mean")
    runs = []
    inner[0].register_forward_hook(lambda *_: runs.append(1))
    x = torch.randn(8, 4, requires_grad=True)
    out = model(x)
    before = tap.rows
    out.sum().backward()
    assert len(runs) == 2
    assert tap.rows is before


def test_a_later_module_in_place_does_not_reach_the_rows() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    tap = ReferenceTap(model, "0", pool="mean")
    with torch.no_grad():
        x = torch.randn(8, 4)
        model(x)
        assert torch.equal(tap.rows, model[0](x))


def test_the_model_itself_can_be_tapped(model: Tokens) -> None:
    with ReferenceTap(model, "", pool="mean", mask=no_padding) as tap:
        assert torch.equal(model.eval()(IDS), tap.rows)


def test_a_function_may_pick_from_any_output() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
            return {"rows": x * attention_mask}

    with ReferenceTap(model := Named(), "", pool=lambda output, mask: output["rows"] + mask) as tap:
        model(torch.ones(3, 2), attention_mask=torch.ones(3, 2))
    assert torch.equal(tap.rows, 2 * torch.ones(3, 2))


def test_closing_leaves_no_hook(model: Tokens) -> None:
    freeze(model)

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    first, second = (
        ReferenceTap(model, name, pool="mean", mask=no_padding) for name in ("embed", "drop")
    )
    model(IDS)
    first.close()
    assert second.rows.shape == first.rows.shape == (6, 8)
    second.close()
    assert hooks() == 0
    with (
        pytest.raises(ZeroDivisionError),
        ReferenceTap(model, "embed", pool="mean", mask=no_padding),
    ):
        _ = 1 / 0
    assert hooks() == 0


@pytest.mark.parametrize("after", [True, False])
def test_wrappers_and_compiled_models(model: Tokens, after: bool) -> None:
    freeze(model)
    with torch.no_grad():
        expected = model.embed(IDS).mean(1)
    wrap = {"backend": "aot_eager", "fullgraph": True}
    if after:
        tap = ReferenceTap(torch.compile(model, **wrap), "embed", pool="mean", mask=no_padding)
        model(IDS)
    else:
        tap = ReferenceTap(model, "embed", pool="mean", mask=no_padding)
        compiled = torch.compile(model, **wrap)
        compiled(IDS)
        assert torch.equal(tap.rows, expected)
        compiled(IDS.flip(0))
        expected = expected.flip(0)
    assert torch.equal(tap.rows, expected)


def test_a_copy_of_the_model_does_not_write_into_the_tap(model: Tokens) -> None:
    freeze(model)
    tap = ReferenceTap(model, "embed", pool="mean", mask=no_padding)
    model(IDS)
    before = tap.rows.clone()
    copy.deepcopy(model)(IDS[:3])
    assert torch.equal(tap.rows, before)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": 1}, TypeError, "expected model to be an nn.Module, got int"),
        ({"layer": 3}, TypeError, "expected layer to name a module, got int"),
        (
            {"layer": "embd"},
            ValueError,
            "expected the name .*, got 'embd'; the closest names are 'em",
        ),
        ({"pool": "max"}, ValueError, "expected pool to be one of"),
    ],
)
def test_refuses(model: Tokens, change: dict, error: type, message: str) -> None:
    arguments = {"model": model, "layer": "embed", "pool": "mean"} | change
    with pytest.raises(error, match=f"ReferenceTap: {message}"):
        ReferenceTap(arguments.pop("model"), arguments.pop("layer"), **arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mask": lambda ids: ids[:, :2]}, ValueError, r"expected a mask of shape \(6, 4\)"),
        ({"mask": lambda _ids: 1}, TypeError, "expected the mask to be a tensor, got int"),
        ({"pool": lambda x, _mask: x}, ValueError, "expected pool to return floats of shape"),
    ],
)
def test_refuses_in_the_forward_pass(
    model: Tokens, options: dict, error: type, message: str
) -> None:
    ReferenceTap(model, "embed", **({"pool": "mean"} | options))
    with pytest.raises(error, match=f"ReferenceTap: {message}"):
        model(IDS)
