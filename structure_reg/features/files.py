"""Files that a crash leaves whole. Links are never followed, so nothing outside is touched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG

from structure_reg.features._checks import no_plain_file, no_store

# Without O_NONBLOCK, opening a pipe would wait for its other end.
NAMES = ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK")
FLAGS = sum(getattr(os, name, 0) for name in NAMES)


def size_of(path: Path) -> int:
    """Return the size of a file, and refuse one that is missing or a link."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise no_store(path.parent, f"the file {path.name}", "none") from None
    if not S_ISREG(status.st_mode):
        raise no_plain_file(path)
    return status.st_size


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Open a file of the store, and close it at the end of the block."""
    try:
        descriptor = os.open(path, flags | FLAGS)
    except OSError:
        size_of(path)  # says what is wrong with a link
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_bytes(path: Path) -> bytes:
    size_of(path)
    with opened(path) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read()


def write_bytes(descriptor: int, data: bytes | bytearray) -> None:
    """Write all of the data; a single call may write less."""
    with memoryview(data) as view:
        written = 0
        while written < len(view):
            written += os.write(descriptor, view[written:])


def write_file(path: Path, content: bytes, size: int = 0) -> None:
    """Write a file, with zeros up to a size. A crash or an error leaves the old one or the new."""
    draft = path.with_name(f"{path.name}.tmp")
    draft.unlink(missing_ok=True)  # of a run that was killed, or a link
    try:
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | FLAGS, 0o666)
        try:
            write_bytes(descriptor, content)
            if size > len(content):
                os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(draft, path)  # noqa: PTH105  # the tests make every call of os fail in turn
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    sync_names(path.parent)


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    with opened(path, os.O_RDWR) as descriptor:
        os.fsync(descriptor)


def sync_names(directory: Path) -> None:
    """Wait until the list of names in a directory is on the disk; Windows has no such call."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
