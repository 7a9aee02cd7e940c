"""`python -m structure_reg`, and the modules that importing the package loads."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import structure_reg
from structure_reg import __main__ as program


def test_prints_versions_devices_and_what_it_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main() == 0
    printed = capsys.readouterr()
    for line in (f"structure-reg {structure_reg.__version__}", f"torch {torch.__version__}"):
        assert line in printed.out.splitlines()
    assert "\ncpu\n" in printed.out
    assert "FAILED" not in printed.out
    assert not printed.err


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_a_wrong_value_fails(
    factor: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip_loss = program.clip_loss
    monkeypatch.setattr(program, "clip_loss", lambda *args: clip_loss(*args) * factor)
    assert program.main() == 1
    printed = capsys.readouterr()
    assert "FAILED clip_loss and its closed form" in printed.out
    assert "ok     structure_loss and its closed form" in printed.out
    assert printed.err.strip().startswith(
        "structure_reg: expected relative errors of at most 0.0001, got "
    )


def test_a_device_that_cannot_compute_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "devices", lambda: [torch.device("meta")])
    assert program.main() == 1
    assert "FAILED with NotImplementedError" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cka", "fit_cca", "retrieval"])
def test_metrics_fits_and_retrieval_are_tested_too(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a device that cannot hold float64, where PyTorch raises a TypeError."""

    def without_float64(*_: object, **__: object) -> None:
        raise TypeError("the device does not support float64")

    monkeypatch.setattr(program, name, without_float64)
    assert program.main() == 1
    assert "FAILED with TypeError: the device does not support float64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--version", f"structure-reg {structure_reg.__version__}\n"),
        ("--help", "usage: python -m structure_reg [-h] [--version]\n"),
    ],
)
def test_help_and_version_test_nothing(
    option: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main([option])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(said)
    assert "ok" not in printed.split()


def test_refuses_other_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(["cuda"])
    assert ended.value.code == 2
    assert "unrecognized arguments: cuda" in capsys.readouterr().err


def in_a_new_process(*command: str) -> str:
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_runs_as_a_module() -> None:
    assert "structure-reg" in in_a_new_process("-m", "structure_reg")


def test_importing_adds_only_einops_and_the_standard_library_to_torch() -> None:
    """Start-up imports no compiler, no NumPy and no framework that torch does not import itself."""
    new = in_a_new_process(
        "-c",
        "import sys, torch; before = set(sys.modules); import structure_reg;"
        "print(*sorted(set(sys.modules) - before))",
    )
    ours = {"structure_reg", "einops", *sys.stdlib_module_names}
    assert {name for name in new.split() if name.split(".")[0] not in ours} == set()
