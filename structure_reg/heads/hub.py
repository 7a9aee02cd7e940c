"""Heads in a folder or on the Hugging Face Hub, with a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import nn

from structure_reg._card import About, Model, model_card
from structure_reg._checks import check_about, check_names
from structure_reg._hub import Saved, Source, Target, push_folder, save_folder, tensors_of
from structure_reg.heads._checks import check_heads
from structure_reg.heads.file import KINDS, load_heads, save_heads


def save_pretrained_heads(
    folder: str | PathLike[str],
    *heads: nn.Module,
    encoders: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    data: str | None = None,
    scores: Mapping[str, float] | None = None,
    license: str | None = None,  # noqa: A002
) -> None:
    """Write heads to a folder, as `model.safetensors` with a model card `README.md`.

    The card states the classes and widths of the heads by itself. It can be edited afterwards;
    saving to the folder again replaces both files.

    Parameters
    ----------
    folder : str or os.PathLike
        Folder to write to, created if it does not exist.
    *heads : LinearHead, ResidualHead, MlpHead, GatedHead, CsaHead or AsifHead
        Heads to save, at least one, on any device.
    encoders : sequence of str, optional
        Name of the encoder of each head. A name of the form "owner/name" is also listed as a base
        model of the repository.
    layers : sequence of str, optional
        Layer of its encoder that each head expects.
    data : str, optional
        Description of the training data. One of the form "owner/name" is also listed as a data set
        of the repository.
    scores : dict, optional
        Numbers by name.
    license : str, optional
        Identifier of the licence on the Hub, such as "mit" or "apache-2.0".

    Returns
    -------
    None
        The folder holds what :func:`save_heads` writes, and the card.

    Raises
    ------
    ImportError
        If the package safetensors is not installed.
    FileExistsError
        If the folder has a README.md that is not a model card of this library.
    TypeError, ValueError
        If a head is not an instance of one of these classes, or if the card cannot hold an
        argument.

    See Also
    --------
    load_pretrained_heads : Read the folder.
    Aligner.save_pretrained : The same for a fitted Aligner.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp()) / "pair"
    >>> save_pretrained_heads(folder, LinearHead(384, 256), ResidualHead(768, 256), license="mit")
    >>> sorted(path.name for path in folder.iterdir())
    ['README.md', 'model.safetensors']
    >>> head_x, head_y = load_pretrained_heads(folder)
    >>> head_x
    LinearHead(in_features=384, out_features=256, bias=True)
    """
    name = "save_pretrained_heads"
    about = About(encoders, data, scores, license)
    save_folder(name, folder, saved(name, heads, layers, about))


def load_pretrained_heads(
    folder_or_repo: str | PathLike[str],
    *,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | PathLike[str] | None = None,
) -> tuple[nn.Module, ...]:
    """Read the heads of a folder or of a repository of the Hugging Face Hub.

    Parameters
    ----------
    folder_or_repo : str or os.PathLike
        Folder that :func:`save_pretrained_heads` wrote, or, if there is no such folder, repository
        as "owner/name". Nothing in it is executed.
    device : str or torch.device
        Device of the tensors.
    revision : str, optional
        Branch, tag or commit of the repository. None: its main branch. A commit never changes.
    token : str or bool, optional
        Access token, for a private repository. None: the one stored by ``hf auth login``.
    cache_dir : str or os.PathLike, optional
        Folder in which downloads are kept. None: that of huggingface_hub.

    Returns
    -------
    tuple of torch.nn.Module
        The heads in the order in which they were saved, as from :func:`load_heads`.

    Raises
    ------
    ImportError
        If the package safetensors, or huggingface_hub for a repository, is not installed.
    FileNotFoundError
        If there is no such folder or repository, or no ``model.safetensors`` in it.
    ValueError
        If the file does not hold heads that :func:`save_heads` can write.
    OSError
        If the Hub cannot be reached: an error of huggingface_hub.

    See Also
    --------
    save_pretrained_heads : Write the folder; its example shows both.

    Examples
    --------
    >>> load_pretrained_heads("missing")
    Traceback (most recent call last):
    FileNotFoundError: load_pretrained_heads: expected a folder, or a repository ...
    """
    source = Source(revision, token, cache_dir)
    return load_heads(tensors_of("load_pretrained_heads", folder_or_repo, source), device=device)


def push_heads_to_hub(
    repo_id: str,
    *heads: nn.Module,
    encoders: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    data: str | None = None,
    scores: Mapping[str, float] | None = None,
    license: str | None = None,  # noqa: A002
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Add heads",
) -> str:
    """Upload what :func:`save_pretrained_heads` writes to a repository of the Hugging Face Hub.

    Parameters
    ----------
    repo_id : str
        Repository as "owner/name", or as "name" for one of your own. Created if it does not
        exist.
    *heads : LinearHead, ResidualHead, MlpHead, GatedHead, CsaHead or AsifHead
        Heads to upload, at least one.
    encoders, layers, data, scores, license
        Entries of the model card, as in :func:`save_pretrained_heads`. The card replaces the one
        that the repository has.
    private : bool, optional
        Whether a new repository is private. None: the default of its owner.
    token : str or bool, optional
        Access token. None: the one stored by ``hf auth login``.
    commit_message : str
        Message of the commit.

    Returns
    -------
    str
        Address of the commit.

    Raises
    ------
    ImportError
        If the package huggingface_hub or safetensors is not installed.
    TypeError, ValueError
        As :func:`save_pretrained_heads`.
    OSError
        If the Hub refuses the upload or cannot be reached: an error of huggingface_hub.

    See Also
    --------
    load_pretrained_heads : Read the repository.

    Examples
    --------
    The heads are checked before anything is uploaded:

    >>> push_heads_to_hub("you/heads", torch.nn.Linear(384, 256))
    Traceback (most recent call last):
    TypeError: push_heads_to_hub: expected heads that are one of ...
    """
    name = "push_heads_to_hub"
    target = Target(repo_id, private, token, commit_message)
    about = About(encoders, data, scores, license)
    return push_folder(name, target, saved(name, heads, layers, about))


def saved(
    function: str, heads: Sequence[nn.Module], layers: Sequence[str] | None, about: About
) -> Saved:
    check_heads(function, heads, KINDS)
    check_about(function, len(heads), *about)
    check_names(function, "layers", layers, len(heads))
    return Saved(
        lambda path: save_heads(path, *heads),
        lambda name: model_card(described(heads, layers, name), about),
    )


def described(heads: Sequence[nn.Module], layers: Sequence[str] | None, name: str) -> Model:
    """What the card says about the heads."""
    sides = ["x", "y"] if len(heads) == 2 else [str(i) for i in range(len(heads))]
    arguments: list[dict[str, Any]] = [head.arguments() for head in heads]  # type: ignore[operator]
    rows = {
        "Columns": [str(of["in_features"]) for of in arguments],
        "Outputs": [str(of["out_features"]) for of in arguments],
        "Head": [type(head).__name__ for head in heads],
    }
    return Model(
        "Heads for the frozen features of encoders, saved with structure-reg.",
        sides,
        ({} if layers is None else {"Layers": layers}) | rows,
        {},
        {},
        "",
        usage(name, arguments),
    )


def usage(name: str, arguments: Sequence[Mapping[str, Any]]) -> str:
    loaded = f"load_pretrained_heads({name!r})"
    lines = [f"heads = {loaded}", "z = [head(x) for head, x in zip(heads, features, strict=True)]"]
    if len(arguments) == 2:
        widths = [of["in_features"] for of in arguments]
        lines = [
            f"head_x, head_y = {loaded}",
            f"z_x = head_x(x)  # x of shape (n, {widths[0]})",
            f"z_y = head_y(y)  # y of shape (n, {widths[1]})",
        ]
    return "\n".join(["from structure_reg import load_pretrained_heads", "", *lines])
