"""One (n, d) tensor in a file: written row by row and memory-mapped, without pickle.

The file has the safetensors format, so any safetensors reader can open it: the length of the
header, the header in JSON, then the numbers. It is written by hand because the safetensors package
only writes whole tensors.
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from pathlib import Path

import torch
from torch import Tensor

from structure_reg.features._checks import no_store

DTYPES = {
    "float16": ("F16", torch.float16),
    "bfloat16": ("BF16", torch.bfloat16),
    "float32": ("F32", torch.float32),
    "float64": ("F64", torch.float64),
}
KEY = "features"
ALIGNMENT = 64


def encode_header(dtype: str, n: int, d: int) -> bytes:
    code, torch_dtype = DTYPES[dtype]
    size = n * d * torch_dtype.itemsize
    entry = {"dtype": code, "shape": [n, d], "data_offsets": [0, size]}
    text = json.dumps({KEY: entry}, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def create(path: Path, dtype: str, n: int, d: int) -> None:
    """Write a file of zeros. A crash leaves the whole file or none."""
    header = encode_header(dtype, n, d)
    size = len(header) + n * d * DTYPES[dtype][1].itemsize
    draft = path.with_name(f"{path.name}.tmp")
    with draft.open("wb") as file:
        file.write(header)
        file.truncate(size)
    replace(draft, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file. A kill or a power cut leaves the old version or the new one."""
    draft = path.with_name(f"{path.name}.tmp")
    draft.write_text(text, encoding="utf-8")
    replace(draft, path)


def replace(draft: Path, path: Path) -> None:
    sync(draft)
    draft.replace(path)
    if os.name == "posix":  # the new name is stored in the directory
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the list of names in a directory, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check(path: Path, dtype: str, n: int, d: int) -> None:
    """Refuse a file that is missing, or has another dtype, shape or size."""
    if not path.is_file():
        raise no_store(path.parent, f"the file {path.name}", "none")
    header = encode_header(dtype, n, d)
    size = len(header) + n * d * DTYPES[dtype][1].itemsize
    if (found := path.stat().st_size) != size:
        raise no_store(path.parent, f"{path.name} of {size} bytes", found)
    with path.open("rb") as file:
        if (start := file.read(len(header))) != header:
            raise no_store(path.parent, f"{path.name} to begin with {header!r}", repr(start))


def write_rows(path: Path, dtype: str, n: int, start: int, rows: Tensor, crc: int) -> int:
    """Write rows from `start`, and return the checksum updated from that of all rows before."""
    m, d = rows.shape
    torch_dtype = DTYPES[dtype][1]
    data = bytearray(m * d * torch_dtype.itemsize)
    torch.frombuffer(data, dtype=torch_dtype).view(m, d).copy_(rows)
    with path.open("r+b") as file:
        file.seek(len(encode_header(dtype, n, d)) + start * d * torch_dtype.itemsize)
        file.write(data)
    return zlib.crc32(data, crc)


def map_tensor(path: Path, dtype: str, n: int, d: int) -> Tensor:
    """Map the tensor into memory, copy on write: changes never reach the disk."""
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    offset = len(encode_header(dtype, n, d))
    return torch.frombuffer(memory, dtype=DTYPES[dtype][1], offset=offset).view(n, d)


def checksum(path: Path, dtype: str, n: int, d: int, rows: int) -> int:
    """Return the CRC-32 of the first rows."""
    start = len(encode_header(dtype, n, d))
    stop = start + rows * d * DTYPES[dtype][1].itemsize
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory,
        memoryview(memory) as view,
        view[start:stop] as data,
    ):
        return zlib.crc32(data)
