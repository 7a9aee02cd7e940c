"""One model in a folder or in a repository of the Hugging Face Hub: its tensors and its card."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, NamedTuple

from structure_reg._card import LIBRARY, is_repo
from structure_reg._checks import check_card, no_folder, no_hub, no_model

TENSORS, CARD = "model.safetensors", "README.md"


class Saved(NamedTuple):
    """How a model is written."""

    tensors: Callable[[Path], None]  # to a file
    card: Callable[[str], str]  # text, for the name that the model is loaded by


class Source(NamedTuple):
    """Where the Hub has a model, and where a download of it is kept."""

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | PathLike[str] | None = None


class Target(NamedTuple):
    """Where the Hub is to keep a model."""

    repo_id: str
    private: bool | None
    token: str | bool | None
    commit_message: str


def save_folder(function: str, folder: str | PathLike[str], saved: Saved) -> None:
    """Write tensors and card, over those that were there, but over no README of anything else."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    card = folder / CARD
    if card.exists():
        check_card(function, card, LIBRARY)
    saved.tensors(folder / TENSORS)
    card.write_text(saved.card(folder.resolve().name), encoding="utf-8")


def push_folder(function: str, target: Target, saved: Saved) -> str:
    """Upload tensors and card in one commit, and return its address."""
    api = hub(function, target.repo_id).HfApi(token=target.token, **us())
    with TemporaryDirectory() as folder:
        saved.tensors(Path(folder) / TENSORS)
        repo = api.create_repo(target.repo_id, private=target.private, exist_ok=True)
        (Path(folder) / CARD).write_text(saved.card(repo.repo_id), encoding="utf-8")
        commit = api.upload_folder(
            repo_id=repo.repo_id, folder_path=folder, commit_message=target.commit_message
        )
    return str(commit.commit_url)


def tensors_of(function: str, name: str | PathLike[str], source: Source) -> Path:
    """Path of the tensors in a folder, or else of those downloaded from a repository."""
    if Path(name).is_dir():
        path = Path(name) / TENSORS
        if not path.is_file():
            raise no_model(function, path)
        return path
    if not isinstance(name, str) or not is_repo(name):
        raise no_folder(function, name)
    download = hub(function, name).hf_hub_download
    return Path(download(name, TENSORS, **source._asdict(), **us()))


def us() -> dict[str, Any]:
    """How the Hub counts requests of this library."""
    return {"library_name": LIBRARY, "library_version": version(LIBRARY)}


def hub(function: str, repo: str) -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise no_hub(function, repo) from error
    return huggingface_hub
