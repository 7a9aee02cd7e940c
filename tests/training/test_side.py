"""One module per side: what leaves the library maps rows as the Aligner does."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from contract import normal
from torch import Tensor, nn

from structure_reg import Aligner, Side
from structure_reg.training.closed_form import CLOSED_FORMS
from structure_reg.training.trained_heads import TRAINED

HEADS = (*TRAINED, *CLOSED_FORMS)
LINEAR = ("linear", "ridge", "cca", "procrustes")
EXACT = {"rtol": 0.0, "atol": 1e-5}


def pairs(n: int = 40) -> tuple[Tensor, Tensor]:
    """Columns with a mean and a scale of their own, one of them constant."""
    shared = normal(n, 5, seed=0)
    x = shared @ normal(5, 9, seed=1) + 0.1 * normal(n, 9, seed=2) + 3
    x *= 10.0 ** torch.arange(-4, 5)
    x[:, 4] = 8
    y = shared @ normal(5, 7, seed=3) + 0.1 * normal(n, 7, seed=4) - 5
    return x.float(), y.float()


X, Y = pairs()
ROWS = {0: torch.export.Dim("rows")}


@cache
def fitted(head: str) -> Aligner:
    return Aligner(head=head, dim=4, epochs=2).fit(X, Y)


def exported(side: Side, x: Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(side, (x[:2],), dynamic_shapes=(ROWS,))


@pytest.mark.parametrize("head", HEADS)
def test_its_forward_pass_is_transform(head: str) -> None:
    aligner = fitted(head)
    side_x, side_y = aligner.modules_
    assert not any(module.training for side in (side_x, side_y) for module in side.modules())
    assert torch.equal(side_x(X), aligner.transform_x(X))
    assert torch.equal(side_y(Y), aligner.transform_y(Y))
    assert (side_x.head, side_y.head) == aligner.heads_


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("index", [0, 1])
def test_an_exported_program_is_transform(head: str, index: int) -> None:
    """With any number of rows, and with a row at the mean, which has no direction to a CCA."""
    aligner, x = fitted(head), (X, Y)[index]
    side = aligner.modules_[index]
    program = exported(side, x).module()
    z = (aligner.transform_x, aligner.transform_y)[index](x)
    torch.testing.assert_close(program(x), z, **EXACT)
    torch.testing.assert_close(program(x[5:6]), z[5:6], **EXACT)
    torch.testing.assert_close(program(side.mean[None]), side(side.mean[None]), **EXACT)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of torch to itself
def test_onnx_is_transform(head: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    aligner = fitted(head)
    program = torch.onnx.export(
        aligner.modules_[0], (X[:2],), dynamic_shapes=(ROWS,), dynamo=True, verbose=False
    )
    program.save(tmp_path / "side.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "side.onnx")
    (argument,) = session.get_inputs()
    for x in (X, X[5:6]):
        (z,) = session.run(None, {argument.name: x.numpy()})
        np.testing.assert_allclose(z, aligner.transform_x(x), **EXACT)


@pytest.mark.parametrize("head", LINEAR)
def test_a_linear_head_is_a_matrix(head: str) -> None:
    """Also where columns differ in scale by eight orders of magnitude."""
    aligner = fitted(head)
    W, b = aligner.modules_[0].matrix()
    z = aligner.transform_x(X)
    assert (W.dtype, W.shape, b.shape) == (torch.float64, (z.shape[1], 9), z.shape[1:])
    assert not W.requires_grad
    expected = oracles.unit_rows(X.double().numpy() @ W.numpy().T + b.numpy())
    np.testing.assert_allclose(z, expected, **EXACT)
    in_float32 = oracles.unit_rows(X.numpy() @ W.float().numpy().T + b.float().numpy())
    np.testing.assert_allclose(z, in_float32, **EXACT)


@pytest.mark.parametrize("standardise", [True, False])
def test_a_matrix_without_bias(standardise: bool) -> None:
    heads = nn.Linear(9, 4, bias=False), nn.Linear(7, 4, bias=False)
    aligner = Aligner(head=heads, standardise=standardise, epochs=2, structure_weight=0)
    W, b = aligner.fit(X, Y).modules_[1].matrix()
    expected = oracles.unit_rows(Y.double().numpy() @ W.numpy().T + b.numpy())
    np.testing.assert_allclose(aligner.transform_y(Y), expected, **EXACT)


@pytest.mark.parametrize("head", sorted({*HEADS} - {*LINEAR}))
def test_no_other_head_is_a_matrix(head: str) -> None:
    with pytest.raises(TypeError, match=r"^Side.matrix: expected a linear head, got \w+Head$"):
        fitted(head).modules_[0].matrix()


def test_heads_alone_are_not_the_model() -> None:
    """They expect scaled columns: this is why the modules exist."""
    aligner = fitted("cca")
    z = nn.functional.normalize(aligner.heads_[0](X))
    assert (z - aligner.transform_x(X)).abs().max() > 0.1


def test_rows_of_another_dtype_are_cast() -> None:
    side, _ = fitted("mlp").modules_
    assert torch.equal(side(X.double()), side(X))
    assert side(X[:, :].bfloat16()).dtype == torch.float32


def test_a_loaded_aligner_has_the_modules(tmp_path: Path) -> None:
    aligner = fitted("residual")
    aligner.save(tmp_path / "aligner.safetensors")
    side, _ = Aligner.load(tmp_path / "aligner.safetensors").modules_
    assert not side.training
    torch.testing.assert_close(exported(side, X).module()(X), aligner.transform_x(X), **EXACT)
