"""One writer at a time: a lock of the operating system, which no crash leaves behind."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from structure_reg.features._checks import no_second_writer
from structure_reg.features.files import FLAGS, size_of

if os.name == "posix":
    import fcntl

    def lock_descriptor(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
else:
    import msvcrt

    def lock_descriptor(descriptor: int) -> None:
        # Windows locks bytes against readers too, so this locks one beyond the end of the file.
        os.lseek(descriptor, 2**31 - 2, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]


class WriterLock:
    """A lock on a file that is never replaced; closed on release, with its owner, or by a kill."""

    def __init__(self) -> None:
        self._close: weakref.finalize[[int], WriterLock] | None = None

    def __reduce__(self) -> tuple[type[WriterLock], tuple[()]]:
        """Copies, and pickles for other processes, hold nothing."""
        return WriterLock, ()

    @property
    def held(self) -> bool:
        return self._close is not None

    def acquire(self, path: Path) -> None:
        size_of(path)
        descriptor = os.open(path, os.O_RDWR | FLAGS)
        try:
            lock_descriptor(descriptor)
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            raise no_second_writer(path.parent) from None
        except OSError:
            pass  # a file system without locks, as some network drives are
        except BaseException:
            os.close(descriptor)
            raise
        self._close = weakref.finalize(self, os.close, descriptor)
        HELD.add(self)

    def release(self) -> None:
        close, self._close = self._close, None
        if close is not None:
            close()


HELD: weakref.WeakSet[WriterLock] = weakref.WeakSet()


def release_copies() -> None:
    """Close what a forked process got a copy of: it would keep the lock of its parent."""
    for lock in list(HELD):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=release_copies)


@contextmanager
def starting(directory: Path) -> Iterator[None]:
    """Wait while another process starts a store in the same directory, where locks reach it."""
    if os.name != "posix":
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):  # as above
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
