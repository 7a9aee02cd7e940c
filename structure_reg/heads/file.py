"""Heads in a file: tensors and JSON in the safetensors format, nothing that could run."""

from __future__ import annotations

import json
from os import PathLike
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from structure_reg._checks import FLOATS
from structure_reg.heads._checks import check_heads, no_heads_file, no_package
from structure_reg.heads.asif import AsifHead
from structure_reg.heads.csa import CsaHead
from structure_reg.heads.gated import GatedHead
from structure_reg.heads.linear import LinearHead
from structure_reg.heads.mlp import MlpHead
from structure_reg.heads.residual import ResidualHead

Head = LinearHead | ResidualHead | MlpHead | GatedHead | CsaHead | AsifHead
KINDS: dict[str, type[Head]] = {
    kind.__name__: kind
    for kind in (LinearHead, ResidualHead, MlpHead, GatedHead, CsaHead, AsifHead)
}
FORMAT = "structure-reg heads 1"


def save_heads(path: str | PathLike[str], *heads: nn.Module) -> None:
    """Write heads to a file: one, the two of a pair, or as many as belong together.

    Parameters
    ----------
    path : str or os.PathLike
        Where; a file there is replaced. The name usually ends in ``.safetensors``.
    *heads : LinearHead, ResidualHead, MlpHead, GatedHead, CsaHead or AsifHead
        One at the least, on any device.

    Returns
    -------
    None
        The file holds the tensors in their dtypes, and as JSON the kind of each head and what it
        was constructed with.

    Raises
    ------
    ImportError
        If the package safetensors is not installed.
    TypeError
        If a head is not one of these kinds.
    ValueError
        If there is none.

    See Also
    --------
    load_heads : The way back.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "heads.safetensors"
    >>> save_heads(path, LinearHead(384, 256), ResidualHead(768, 256))
    >>> head_x, head_y = load_heads(path)
    >>> head_x
    LinearHead(in_features=384, out_features=256, bias=True)
    """
    check_heads("save_heads", heads, KINDS)
    described = [{"kind": type(head).__name__, "arguments": head.arguments()} for head in heads]  # type: ignore[operator]
    tensors = {
        f"{i}.{name}": tensor.detach().clone().contiguous()  # no two share memory in a file
        for i, head in enumerate(heads)
        for name, tensor in head.state_dict().items()
    }
    metadata = {"format": FORMAT, "heads": json.dumps(described)}
    safetensors("save_heads").torch.save_file(tensors, path, metadata)


def load_heads(
    path: str | PathLike[str], *, device: str | torch.device = "cpu"
) -> tuple[nn.Module, ...]:
    """Read the heads that :func:`save_heads` wrote.

    Parameters
    ----------
    path : str or os.PathLike
        A file that :func:`save_heads` wrote. Nothing in it is run, whoever wrote it.
    device : str or torch.device
        Where the tensors go.

    Returns
    -------
    tuple of torch.nn.Module
        As many as were saved, in their order, each tensor in the dtype it was saved in; in eval
        mode, so that dropout is off. No random numbers are drawn.

    Raises
    ------
    ImportError
        If the package safetensors is not installed.
    FileNotFoundError
        If there is no file.
    ValueError
        If it is not a file that :func:`save_heads` wrote, or its tensors do not fit its heads.

    See Also
    --------
    save_heads : The way there, with an example of both.

    Examples
    --------
    >>> load_heads("missing.safetensors")
    Traceback (most recent call last):
    FileNotFoundError: ...
    """
    described, tensors = read(path, device)
    heads = tuple(rebuilt(path, kind, arguments) for kind, arguments in described)
    expected = {
        f"{i}.{name}": tensor.shape
        for i, head in enumerate(heads)
        for name, tensor in head.state_dict().items()
    }
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise no_heads_file(path, f"no tensor {name}")
        if name not in expected:
            raise no_heads_file(path, f"a tensor {name} that its heads do not have")
        if tensors[name].shape != expected[name] or tensors[name].dtype not in FLOATS:
            raise no_heads_file(
                path,
                f"{name} of shape {tuple(tensors[name].shape)} and {tensors[name].dtype} "
                f"for a floating {tuple(expected[name])}",
            )
    for i, head in enumerate(heads):
        own = {name: tensors[f"{i}.{name}"] for name in head.state_dict()}
        head.load_state_dict(own, assign=True)
        head.eval()
    return heads


def read(
    path: str | PathLike[str], device: str | torch.device
) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, Tensor]]:
    package = safetensors("load_heads")
    try:
        with package.safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except package.SafetensorError as error:
        raise no_heads_file(path, f"no safetensors file ({error})") from error
    if metadata.get("format") != FORMAT:
        raise no_heads_file(path, f"the format {metadata.get('format')!r} for {FORMAT!r}")
    try:
        heads = [(head["kind"], dict(head["arguments"])) for head in json.loads(metadata["heads"])]
    except (KeyError, TypeError, ValueError) as error:
        raise no_heads_file(path, "a list of heads that cannot be read") from error
    return heads, tensors


def rebuilt(path: str | PathLike[str], kind: str, arguments: dict[str, Any]) -> nn.Module:
    """Construct a head without its tensors: a wrong size in the file costs no memory."""
    if kind not in KINDS:
        raise no_heads_file(path, f"a {kind}, which is none of {', '.join(KINDS)}")
    try:
        with torch.device("meta"):
            return KINDS[kind](**arguments)
    except (TypeError, ValueError) as error:
        raise no_heads_file(path, f"a {kind} that cannot be ({error})") from error


def safetensors(function: str) -> ModuleType:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise no_package(function, "safetensors") from error
    return safetensors
