"""Read the weights of an ONNX file without the onnx package, by parsing the protobuf fields."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

# Field numbers of onnx.proto3, and numbers of the value kinds of protobuf.
GRAPH = 7
NODE, INITIALIZER = 1, 5
NODE_INPUT, NODE_NAME = 1, 3
DIMS, DATA_TYPE, NAME, RAW_DATA = 1, 2, 8, 9
FLOAT = 1
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """Number that starts at a byte, seven bits per byte, lowest first, and the place of its end."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Iterate over a message: the number of each field, its integer value, and its bytes."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        kind, number, start = tag & 7, 0, at
        if kind == VARINT:
            number, at = varint(data, at)
        elif kind == BYTES:
            size, start = varint(data, at)
            at = start + size
        elif kind in (FIXED32, FIXED64):
            at += 4 if kind == FIXED32 else 8
        else:
            raise SystemExit(f"onnx: expected protobuf values of kind 0, 1, 2 or 5, got {kind}")
        yield tag >> 3, number, data[start:at]


def tensor(message: memoryview) -> tuple[str, Tensor] | None:
    """Name and values of an initializer; None unless they are float32 in raw bytes."""
    shape: list[int] = []
    name, kind, raw = "", 0, None
    for field, number, data in fields(message):
        if field == DIMS:
            shape.append(number)
        elif field == DATA_TYPE:
            kind = number
        elif field == NAME:
            name = bytes(data).decode()
        elif field == RAW_DATA:
            raw = bytearray(data)
    if kind != FLOAT or raw is None:
        return None
    return name, torch.frombuffer(raw, dtype=torch.float32).view(shape)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Read every float32 initializer by name, and the inputs of every node by node name."""
    weights: dict[str, Tensor] = {}
    inputs: dict[str, list[str]] = {}
    model = memoryview(path.read_bytes())
    for graph in (data for field, _, data in fields(model) if field == GRAPH):
        for field, _, message in fields(graph):
            if field == INITIALIZER and (found := tensor(message)) is not None:
                weights[found[0]] = found[1]
            elif field == NODE:
                parts = [(part, bytes(data).decode()) for part, _, data in fields(message)
                         if part in (NODE_INPUT, NODE_NAME)]  # fmt: skip
                name = "".join(text for part, text in parts if part == NODE_NAME)
                inputs[name] = [text for part, text in parts if part == NODE_INPUT]
    return weights, inputs
