"""Four gloo processes on loopback, started once a session, that run what a test sends them.

A forkserver imports torch once, so that starting all four costs one import.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

WORLD = 4
TIMEOUT = 60.0  # seconds until a test calls it a hang; a healthy case takes milliseconds
GROUPS = ((0,), (0, 1), (1, 3), (0, 1, 2, 3))


class Processes:
    """`run` calls one function on every process of a group and returns what each returned."""

    def __init__(self) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload(["torch", "structure_reg"])
        self.folder = tempfile.TemporaryDirectory()
        store = str(Path(self.folder.name) / "store")
        self.connections, self.workers = [], []
        for rank in range(WORLD):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_serve, args=(rank, store, theirs), daemon=True)
            worker.start()
            theirs.close()
            self.connections.append(ours)
            self.workers.append(worker)

    def run(self, ranks: Sequence[int], function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return function(group, *arguments) of each rank; an exception is returned, not raised."""
        for rank in ranks:
            self.connections[rank].send((tuple(ranks), function, arguments))
        return [self._receive(rank) for rank in ranks]

    def _receive(self, rank: int) -> Any:
        if not self.connections[rank].poll(TIMEOUT):
            raise TimeoutError(f"process {rank} hangs")
        return self.connections[rank].recv()

    def close(self) -> None:
        for connection in self.connections:
            connection.send(None)
        for worker in self.workers:
            worker.join(10)
            worker.kill()
        self.folder.cleanup()


def _serve(rank: int, store: str, connection: Connection) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(store, WORLD),
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=TIMEOUT),
    )
    groups = {ranks: dist.new_group(ranks) for ranks in GROUPS}
    while (task := connection.recv()) is not None:
        ranks, function, arguments = task
        try:
            connection.send(function(groups[ranks], *arguments))
        except Exception as error:
            connection.send(error)
    dist.destroy_process_group()
