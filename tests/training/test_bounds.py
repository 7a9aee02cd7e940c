"""Options at their least and greatest values, and of the wrong kind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract import normal
from scipy.stats import beta as beta_of
from scipy.stats import kstest

import structure_reg as sr
from structure_reg.training.augmentation import beta

X, Y = normal(24, 6, seed=0).float(), normal(24, 5, seed=1).float()
BOUNDS: tuple[dict[str, Any], ...] = (
    {"batch_size": 2},
    {"batch_size": 3},
    {"batch_size": 4},
    {"batch_size": 10**12},
    {"batch_size": 2, "contrastive": sr.SigLipLoss()},
    {"dim": 1},
    {"dim": 1, "keep": "frozen"},
    {"dim": 1, "start": "random"},
    {"dim": 10**6},
    {"epochs": 1},
    {"warmup": 1e300},
    {"warmup": 1e-300},
    {"patience": 1e300},
    {"patience": 1e-300},
    {"noise": 0.0},
    {"noise": 1e6},
    {"fusemix": 1e-300},
    {"fusemix": 1e-3},
    {"fusemix": 1e300},
    {"structure_weight": 1e-300},
    {"structure_weight": 1e6},
    {"logit_scale": 1e-30},
    {"logit_scale": 1e6},
    {"lr": 1e-300},
    {"weight_decay": 0.0},
    {"seed": -(2**63)},
    {"seed": 2**64 - 1},
)


@pytest.mark.parametrize("options", BOUNDS, ids=str)
def test_every_option_works_at_its_bounds(options: dict[str, Any]) -> None:
    """With 8 pairs, the fewest, and with more; with validation and unpaired rows."""
    for n in (8, 24):
        aligner = sr.Aligner(**{"epochs": 2, **options})
        aligner.fit(X[:n], Y[:n], validation=(X[:2], Y[:2]), unpaired=(X[:1], Y))
        assert aligner.transform_x(X).isfinite().all()
        assert all(map(math.isfinite, aligner.history_["contrastive"]))


@pytest.mark.parametrize("head", ["linear", "mlp", "sail", "ridge", "cca", "csa", "procrustes"])
@pytest.mark.parametrize("widths", [(1, 1), (1, 5), (6, 1)])
def test_sides_of_one_column(head: str, widths: tuple[int, int]) -> None:
    x, y = X[:8, : widths[0]], Y[:8, : widths[1]]
    aligner = sr.Aligner(head=head, epochs=1, dim=4).fit(x, y)
    assert aligner.transform_y(y).isfinite().all()


@pytest.mark.parametrize(
    "options", [{"lr": 1e30}, {"weight_decay": 1e30}, {"structure_weight": 1e60}]
)
def test_heads_that_are_not_finite_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^Aligner.fit: expected training to stay finite"):
        sr.Aligner(epochs=8, **options).fit(X, Y)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"standardise": "False"}, TypeError, "standardise to be a bool, got str"),
        ({"standardise": 0}, TypeError, "standardise to be a bool, got int"),
        ({"progress": None}, TypeError, "progress to be a bool, got NoneType"),
        ({"seed": 1.0}, TypeError, "seed to be an integer, got float"),
        ({"seed": True}, TypeError, "seed to be an integer, got bool"),
        ({"seed": 2**64}, ValueError, "seed < 2"),
        ({"seed": -(2**63) - 1}, ValueError, "seed >= -9223372036854775808"),
        ({"dim": 0}, ValueError, "dim >= 1, got 0"),
        ({"device": "gpu"}, ValueError, "device to be a device of PyTorch, got 'gpu'"),
        ({"patience": 0.0}, ValueError, "patience > 0, got 0.0"),
        ({"logit_scale": 0.0}, ValueError, "logit_scale > 0, got 0.0"),
        ({"weight_decay": -1e-9}, ValueError, "weight_decay >= 0"),
        ({"warmup": -1e-9}, ValueError, "warmup >= 0"),
        ({"contrastive": "clip"}, TypeError, "contrastive to be a module, got str"),
    ],
)
def test_values_beyond_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^Aligner: expected {message}"):
        sr.Aligner(**options).fit(X, Y)


def test_a_fixed_scale_is_the_one_given() -> None:
    x, y = X[:, :5], Y
    history = sr.Aligner(logit_scale=300.0, epochs=1, dim=4).fit(x, y).history_
    assert history["logit_scale"] == pytest.approx([300.0])


def test_numpy_scalars_are_numbers(tmp_path: Path) -> None:
    options = {
        "dim": np.int64(4),
        "epochs": np.int32(2),
        "batch_size": np.uint8(20),
        "lr": np.float32(1e-3),
        "structure_weight": np.float16(5),
        "noise": np.float32(0.5),
        "seed": np.int64(3),
        "standardise": np.bool_(True),
        "head": np.str_("linear"),
        "layers": (np.int64(1), np.int64(0)),
    }
    aligner = sr.Aligner(**options).fit([Y, X], [Y])
    aligner.save(tmp_path / "aligner")
    loaded = sr.Aligner.load(tmp_path / "aligner")
    assert torch.equal(loaded.transform_x([Y, X]), aligner.transform_x([Y, X]))
    for name, value in options.items():
        found = getattr(loaded, name)
        assert found == value
        assert type(found) in (int, float, bool, str, tuple)
    plain = {name: getattr(loaded, name) for name in options}
    again = sr.Aligner(**plain).fit([Y, X], [Y])
    assert torch.equal(again.transform_x([Y, X]), aligner.transform_x([Y, X]))


@pytest.mark.parametrize("head", ["ridge", "cca", "csa", "procrustes", "asif"])
def test_closed_forms_are_standardised_only_if_asked(head: str) -> None:
    x = X * torch.tensor([0.1, 1, 1, 1, 1, 10])
    fits = {
        "ridge": sr.fit_ridge,
        "cca": lambda *z, **o: sr.fit_cca(*z, dim=5, **o),
        "csa": lambda *z, **o: sr.fit_csa(*z, dim=5, **o),
        "procrustes": lambda *z, **o: sr.fit_procrustes(*z, dim=5, **o),
        "asif": sr.fit_asif,
    }
    rows = []
    for standardise in (True, False):
        aligner = sr.Aligner(head=head, standardise=standardise).fit(x, Y)
        a, b = ((z - z.mean(0)) / z.std(0, correction=0) if standardise else z for z in (x, Y))
        f, _ = fits[head](a, b, standardise=False)
        by_hand = torch.nn.functional.normalize(f(a))
        torch.testing.assert_close(aligner.transform_x(x), by_hand, rtol=0, atol=1e-4)
        rows.append(by_hand)
    assert not torch.allclose(*rows, atol=1e-2)


@pytest.mark.parametrize("alpha", [1e-3, 0.01, 0.05, 0.1, 2.0])
def test_mixing_weights_are_beta(alpha: float) -> None:
    omega = beta(alpha, 4000, torch.Generator().manual_seed(0)).double().numpy()
    # Where float32 rounds to the ends, the exact distribution is compared a little inside.
    inside = np.linspace(0.01, 0.99, 50)
    share = (omega[:, None] <= inside).mean(0)
    np.testing.assert_allclose(share, beta_of(alpha, alpha).cdf(inside), atol=0.03)
    if alpha >= 1:
        assert kstest(omega, beta_of(alpha, alpha).cdf).pvalue > 0.01


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pairs": 1}, ValueError, "pairs >= 2"),
        ({"levels": 0}, ValueError, "levels >= 1"),
        ({"levels": True}, TypeError, "levels to be an integer"),
        ({"structure_weight": -1.0}, ValueError, "structure_weight >= 0"),
        ({"temperature": 0.0}, ValueError, "temperature > 0"),
        ({"epochs": 0}, ValueError, "epochs >= 1"),
        ({"seed": 0.5}, TypeError, "seed to be an integer"),
        ({"head": torch.nn.Linear}, TypeError, "head to be a string"),
    ],
)
def test_released_options_are_refused_in_its_name(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^released_aligner: expected {message}"):
        sr.released_aligner(**{"pairs": 24, **options})


@pytest.mark.parametrize(
    "options",
    [
        {"pairs": 2, "epochs": 1},
        {"structure_weight": 0.0},
        {"levels": 5},
        {"temperature": 1e-3},
        {"temperature": 1e6},
        {"head": "mlp", "seed": 2**64 - 1},
        {"layers": (0, 0)},
    ],
    ids=str,
)
def test_released_options_work_at_their_bounds(options: dict[str, Any]) -> None:
    aligner = sr.released_aligner(**{"pairs": 24, "epochs": 2, **options}).fit(X, Y)
    assert aligner.transform_x(X).isfinite().all()
