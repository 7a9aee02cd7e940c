"""Write what every run leaves, and where: settings, package versions, and figures as JSON."""

from __future__ import annotations

import json
import math
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

PACKAGES = ("structure-reg", "numpy", "transformers", "timm", "pillow", "matplotlib")


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine()}
    found["torch"] = (
        torch.__version__
    )  # names the build, +cpu or +cu130, which PyPI's metadata lacks
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        found["cuda device"] = torch.cuda.get_device_name()
    return found


def finished(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a folder has the result of this run; reject one with the run of other settings."""
    path = folder / "settings.yaml"
    if path.is_file() and path.read_text(encoding="utf-8") != as_yaml(settings):
        raise SystemExit(
            f"{folder}: expected a new folder, got one with the run of other settings; "
            "choose another --output, or remove the folder"
        )
    return (folder / "result.json").is_file()


def start(folder: Path, settings: dict[str, Any]) -> None:
    """Write all settings of a run and its versions."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.yaml").write_text(as_yaml(settings), encoding="utf-8")
    as_json(folder / "versions.json", versions())


def as_yaml(settings: dict[str, Any]) -> str:
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def as_json(path: Path, content: Any) -> None:
    """Write JSON; tensors become lists, and NaN and infinity, which JSON lacks, become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(plain(content), indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): plain(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


# %% Places: they are below the folder that was asked for, from wherever a command is run
def folder_name(path: Path) -> str:
    """Name of the folder that a file or a folder is in, however its path is written."""
    return path.parent.resolve().name


def below(folder: Path, label: str) -> Path:
    """A path below the folder: its parts are those of the label, without the ones that leave it.

    Dots and signs of settings stay; spaces and quotes are replaced.
    """
    parts = (re.sub(r"[^\w.=+-]+", "-", part).strip("-") for part in label.split("/"))
    return folder.joinpath(*(part for part in parts if part.strip(".")))


def named(folder: Path, name: str) -> Path:
    """The path that an option --name names below a folder; reject a name that leads out of it."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise SystemExit(f"--name: expected a name below {folder}, got {name}")
    return folder / path
