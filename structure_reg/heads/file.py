"""Heads in a file: tensors and JSON in the safetensors format, nothing that could run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
    write_heads("save_heads", FORMAT, path, heads, {}, {})


def write_heads(
    function: str,
    form: str,
    path: str | PathLike[str],
    heads: Sequence[nn.Module],
    beside: Mapping[str, Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Write heads, with tensors and texts of other names beside them."""
    check_heads(function, heads, KINDS)
    described = [{"kind": type(head).__name__, "arguments": head.arguments()} for head in heads]  # type: ignore[operator]
    tensors = {
        f"{i}.{name}": tensor
        for i, head in enumerate(heads)
        for name, tensor in head.state_dict().items()
    }
    own = {  # no two share memory in a file
        name: tensor.detach().clone().contiguous() for name, tensor in {**tensors, **beside}.items()
    }
    texts = {"format": form, "heads": json.dumps(described), **metadata}
    safetensors(function).torch.save_file(own, path, texts)


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
    heads, _, _ = read_heads("load_heads", FORMAT, path, device, ())
    return heads


def read_heads(
    function: str,
    form: str,
    path: str | PathLike[str],
    device: str | torch.device,
    beside: Sequence[str],
) -> tuple[tuple[nn.Module, ...], dict[str, Tensor], dict[str, str]]:
    """Read heads, the tensors of these other names, and all texts."""
    package = safetensors(function)
    try:
        with package.safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except package.SafetensorError as error:
        raise no_heads_file(function, path, f"no safetensors file ({error})") from error
    if metadata.get("format") != form:
        got = f"the format {metadata.get('format')!r} for {form!r}"
        raise no_heads_file(function, path, got)
    try:
        described = [(of["kind"], dict(of["arguments"])) for of in json.loads(metadata["heads"])]
    except (KeyError, TypeError, ValueError) as error:
        raise no_heads_file(function, path, "a list of heads that cannot be read") from error
    heads = tuple(rebuilt(function, path, kind, arguments) for kind, arguments in described)
    others = {name: tensors.pop(name) for name in beside if name in tensors}
    fill(function, path, heads, tensors)
    return heads, others, metadata


def fill(
    function: str,
    path: str | PathLike[str],
    heads: Sequence[nn.Module],
    tensors: Mapping[str, Tensor],
) -> None:
    """Give the heads their tensors, if they are exactly those that they have."""
    expected = {
        f"{i}.{name}": tensor.shape
        for i, head in enumerate(heads)
        for name, tensor in head.state_dict().items()
    }
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise no_heads_file(function, path, f"no tensor {name}")
        if name not in expected:
            raise no_heads_file(function, path, f"a tensor {name} that its heads do not have")
        if tensors[name].shape != expected[name] or tensors[name].dtype not in FLOATS:
            raise no_heads_file(
                function,
                path,
                f"{name} of shape {tuple(tensors[name].shape)} and {tensors[name].dtype} "
                f"for a floating {tuple(expected[name])}",
            )
    for i, head in enumerate(heads):
        own = {name: tensors[f"{i}.{name}"] for name in head.state_dict()}
        head.load_state_dict(own, assign=True)
        head.eval()


def rebuilt(
    function: str, path: str | PathLike[str], kind: str, arguments: dict[str, Any]
) -> nn.Module:
    """Construct a head without its tensors: a wrong size in the file costs no memory."""
    if kind not in KINDS:
        raise no_heads_file(function, path, f"a {kind}, which is none of {', '.join(KINDS)}")
    try:
        with torch.device("meta"):
            return KINDS[kind](**arguments)
    except (TypeError, ValueError) as error:
        raise no_heads_file(function, path, f"a {kind} that cannot be ({error})") from error


def safetensors(function: str) -> ModuleType:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise no_package(function, "safetensors") from error
    return safetensors
