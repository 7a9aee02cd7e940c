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
from structure_reg.features.files import opened, size_of, write_bytes, write_file

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


def file_size(dtype: str, n: int, d: int) -> int:
    return len(encode_header(dtype, n, d)) + n * d * DTYPES[dtype][1].itemsize


def create(path: Path, dtype: str, n: int, d: int) -> None:
    """Write a file of zeros. A crash leaves the whole file or none."""
    write_file(path, encode_header(dtype, n, d), file_size(dtype, n, d))


def check(path: Path, dtype: str, n: int, d: int) -> None:
    """Refuse a file that is missing, a link, or of another dtype, shape or size."""
    check_size(path, size_of(path), file_size(dtype, n, d))
    header = encode_header(dtype, n, d)
    with opened(path) as descriptor:
        if (start := os.read(descriptor, len(header))) != header:
            raise no_store(path.parent, f"{path.name} to begin with {header!r}", repr(start))


def check_size(path: Path, found: int, size: int) -> None:
    if found != size:
        raise no_store(path.parent, f"{path.name} of {size} bytes", found)


def write_rows(path: Path, dtype: str, n: int, start: int, rows: Tensor, crc: int) -> int:
    """Write rows from `start`, and return the checksum updated from that of all rows before."""
    m, d = rows.shape
    torch_dtype = DTYPES[dtype][1]
    data = bytearray(m * d * torch_dtype.itemsize)
    torch.frombuffer(data, dtype=torch_dtype).view(m, d).copy_(rows)
    with opened(path, os.O_RDWR) as descriptor:
        offset = len(encode_header(dtype, n, d)) + start * d * torch_dtype.itemsize
        os.lseek(descriptor, offset, os.SEEK_SET)
        write_bytes(descriptor, data)
    return zlib.crc32(data, crc)


def map_file(path: Path, access: int, size: int) -> mmap.mmap:
    """Map a file of a known size; it may have been cut since it was opened."""
    check_size(path, size_of(path), size)
    with opened(path) as descriptor:
        check_size(path, os.fstat(descriptor).st_size, size)
        return mmap.mmap(descriptor, size, access=access)


def map_tensor(path: Path, dtype: str, n: int, d: int) -> Tensor:
    """Map the tensor into memory, copy on write: changes never reach the disk."""
    memory = map_file(path, mmap.ACCESS_COPY, file_size(dtype, n, d))
    offset = len(encode_header(dtype, n, d))
    with torch.inference_mode(mode=False):  # else it could not be trained on
        return torch.frombuffer(memory, dtype=DTYPES[dtype][1], offset=offset).view(n, d)


def checksum(path: Path, dtype: str, n: int, d: int, rows: int) -> int:
    """Return the CRC-32 of the first rows."""
    start = len(encode_header(dtype, n, d))
    stop = start + rows * d * DTYPES[dtype][1].itemsize
    with (
        map_file(path, mmap.ACCESS_READ, file_size(dtype, n, d)) as memory,
        memoryview(memory) as view,
        view[start:stop] as data,
    ):
        return zlib.crc32(data)
