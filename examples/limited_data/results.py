"""Write what every run leaves: its settings, package versions, and its figures as JSON."""

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


def start(folder: Path, settings: dict[str, Any]) -> None:
    """Write all settings of a run and its versions; reject a folder with another run's settings."""
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    path = folder / "settings.yaml"
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise SystemExit(f"{folder}: expected a new folder, got one with the run of other settings")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    as_json(folder / "versions.json", versions())


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


def file_name(label: str) -> str:
    """Turn a label into a path: dots and signs of settings stay, spaces and quotes are replaced."""
    return re.sub(r"[^\w./=+-]+", "-", label).strip("-")
