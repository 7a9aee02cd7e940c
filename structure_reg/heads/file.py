"""Heads in a safetensors file: tensors and JSON, and nothing executable."""

from __future__ import annotations

import json
import reprlib
import zlib
from collections.abc import Mapping, Sequence
from os import PathLike
from types import ModuleType
from typing import Any

import numpy as np
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
# What text that nobody wrote raises when it is read, or makes a constructor raise.
UNREADABLE = (KeyError, TypeError, ValueError, OverflowError, RecursionError, RuntimeError)


def save_heads(path: str | PathLike[str], *heads: nn.Module) -> None:
    """Save one or more heads, such as the two of a pair, to one file.

    Parameters
    ----------
    path : str or os.PathLike
        Path of the file, usually with the suffix ``.safetensors``. An existing file is replaced.
    *heads : LinearHead, ResidualHead, MlpHead, GatedHead, CsaHead or AsifHead
        Heads to save, at least one, on any device.

    Returns
    -------
    None
        The file holds the tensors in their dtypes, and the class and arguments of each head as
        JSON.

    Raises
    ------
    ImportError
        If the package safetensors is not installed.
    TypeError
        If a head is not an instance of one of these classes.
    ValueError
        If there are no heads.

    See Also
    --------
    load_heads : Read the file again.

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
    file_format: str,
    path: str | PathLike[str],
    heads: Sequence[nn.Module],
    other_tensors: Mapping[str, Tensor],
    other_texts: Mapping[str, str],
) -> None:
    """Write heads together with other named tensors and texts."""
    check_heads(function, heads, KINDS)
    descriptions = [{"kind": type(head).__name__, "arguments": head.arguments()} for head in heads]  # type: ignore[operator]
    tensors = {
        # safetensors refuses tensors that share memory.
        name: tensor.detach().clone().contiguous()
        for name, tensor in {**state_of(heads), **other_tensors}.items()
    }
    texts = {
        "format": file_format,
        "heads": json.dumps(descriptions, default=plain_number),
        "crc32": checksum(tensors),
        **other_texts,
    }
    safetensors(function).torch.save_file(tensors, path, texts)


def plain_number(value: Any) -> Any:
    """A NumPy scalar as a Python number; JSON writes the other arguments of heads itself."""
    return value.item() if isinstance(value, np.generic) else str(value)


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of names, dtypes, shapes and values: it tells bfloat16 from float16."""
    crc = 0
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def state_of(heads: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Return the tensors of all heads, with the position of the head before each name."""
    return {
        f"{i}.{name}": tensor
        for i, head in enumerate(heads)
        for name, tensor in head.state_dict().items()
    }


def load_heads(
    path: str | PathLike[str], *, device: str | torch.device = "cpu"
) -> tuple[nn.Module, ...]:
    """Read the heads that :func:`save_heads` wrote.

    Parameters
    ----------
    path : str or os.PathLike
        Path of a file written by :func:`save_heads`. Nothing in the file is executed, so files from
        others are safe to load.
    device : str or torch.device
        Device of the tensors.

    Returns
    -------
    tuple of torch.nn.Module
        The heads in the order in which they were saved, with tensors in their saved dtypes. The
        heads are in eval mode, so dropout is off. No random numbers are drawn.

    Raises
    ------
    ImportError
        If the package safetensors is not installed.
    FileNotFoundError
        If the file does not exist.
    ValueError
        If :func:`save_heads` did not write the file, or if its tensors do not fit its heads.

    See Also
    --------
    save_heads : Write the file; its example shows both.

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
    file_format: str,
    path: str | PathLike[str],
    device: str | torch.device,
    other_names: Sequence[str],
) -> tuple[tuple[nn.Module, ...], dict[str, Tensor], dict[str, str]]:
    """Return the heads, the tensors of these other names, and all texts."""
    tensors, texts = read_file(function, path)
    if (found := texts.get("format")) != file_format:
        got = f"the format {reprlib.repr(found)} instead of {file_format!r}"
        raise no_heads_file(function, path, got)
    crc = checksum(tensors)
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    try:
        descriptions = [(of["kind"], dict(of["arguments"])) for of in json.loads(texts["heads"])]
    except UNREADABLE as error:
        raise no_heads_file(function, path, "an unreadable list of heads") from error
    heads = tuple(empty_head(function, path, *description) for description in descriptions)
    others = {name: tensors.pop(name) for name in other_names if name in tensors}
    load_tensors(function, path, heads, tensors)
    if texts.get("crc32", crc) != crc:  # 0.1.0 wrote none
        raise no_heads_file(function, path, "tensors of another checksum than it states")
    return heads, others, texts


def read_file(function: str, path: str | PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the texts of a safetensors file."""
    package = safetensors(function)
    try:
        with package.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except package.SafetensorError as error:
        raise no_heads_file(function, path, f"a file of another format ({error})") from error


def empty_head(
    function: str, path: str | PathLike[str], kind: Any, arguments: dict[str, Any]
) -> nn.Module:
    """Construct a head on meta, so that a wrong size in the file costs no memory."""
    if not isinstance(kind, str) or kind not in KINDS:
        got = f"the head {short(kind)}, which is none of {', '.join(KINDS)}"
        raise no_heads_file(function, path, got)
    try:
        with torch.device("meta"):
            return KINDS[kind](**arguments)
    except UNREADABLE as error:
        got = f"a {kind} with bad arguments ({short(error)})"
        raise no_heads_file(function, path, got) from error


def load_tensors(
    function: str,
    path: str | PathLike[str],
    heads: Sequence[nn.Module],
    tensors: Mapping[str, Tensor],
) -> None:
    """Give the heads their tensors, and refuse missing, foreign and unfitting ones."""
    expected = state_of(heads)
    for name in sorted(expected.keys() | tensors.keys()):
        if (got := mismatch(name, expected, tensors)) is not None:
            raise no_heads_file(function, path, got)
    for i, head in enumerate(heads):
        state = {name: tensors[f"{i}.{name}"] for name in head.state_dict()}
        head.load_state_dict(state, assign=True)
        head.eval()


def mismatch(
    name: str, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> str | None:
    """Describe how a tensor of the file differs from the one that a head expects."""
    if name not in tensors:
        return f"no tensor {name}"
    if name not in expected:
        return f"a tensor {short(name)} that its heads do not have"
    shape, found = tuple(expected[name].shape), tensors[name]
    if found.shape == shape and found.dtype in FLOATS:
        return None
    return f"{name} of shape {tuple(found.shape)} and {found.dtype} instead of floating {shape}"


def short(value: Any) -> str:
    """A text from a file for a message, cut to one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def safetensors(function: str) -> ModuleType:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise no_package(function, "safetensors") from error
    return safetensors
