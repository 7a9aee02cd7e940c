"""The Hub's two calls of an upload, without a network: what would be uploaded goes to a folder.

The calls are bound to the signatures of the installed huggingface_hub, so that it would take them.
What the server makes of them is not tested.
"""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub

REAL = huggingface_hub.HfApi


class FakeApi:
    """In place of `huggingface_hub.HfApi`: `create_repo` and `upload_folder`, nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, dict[str, dict[str, Any]]()

    def __call__(self, *args: Any, **kwargs: Any) -> FakeApi:
        self.calls["HfApi"] = inspect.signature(REAL).bind(*args, **kwargs).arguments
        return self

    def create_repo(self, *args: Any, **kwargs: Any) -> Any:
        call = inspect.signature(REAL.create_repo).bind(self, *args, **kwargs).arguments
        self.calls["create_repo"] = call
        name = call["repo_id"]
        full = name if "/" in name else f"you/{name}"
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{full}")

    def upload_folder(self, *args: Any, **kwargs: Any) -> Any:
        call = inspect.signature(REAL.upload_folder).bind(self, *args, **kwargs).arguments
        self.calls["upload_folder"] = call
        shutil.copytree(call["folder_path"], self.folder)
        return SimpleNamespace(commit_url="https://huggingface.co/you/pair/commit/0")


def cached(tensors: Path, cache: Path, repo: str, revision: str) -> None:
    """Lay a file where huggingface_hub keeps it after a download."""
    folder, commit = cache / f"models--{repo.replace('/', '--')}", "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / revision).write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    shutil.copy(tensors, folder / "snapshots" / commit / tensors.name)
