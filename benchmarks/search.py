"""Time and memory of exact search, compared with one matrix product and topk.

    python benchmarks/search.py            # 1,000,000 rows, 2 GB in memory and 2 GB on disk
    python benchmarks/search.py --small    # a tenth of that

Everything runs on one thread, in float32, on independent Gaussian rows. The competitors take turns
within each round, and the fastest round of each counts, in CPU seconds because other processes may
use the machine. The plain code is timed with and without scaling the gallery to unit rows, which
`search` does not need. Memory is the peak of a process of its own that searches a file, without the
pages of the file that the system keeps. The times are specific to this machine; quote the ratios.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from structure_reg import search

K = 10


def fastest(rounds: int, **competitors: Callable[[], object]) -> dict[str, float]:
    """CPU seconds of the best round of each competitor; every round runs all of them in turn."""
    best = dict.fromkeys(competitors, float("inf"))
    for _ in range(rounds):
        for name, run in competitors.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    return best


def speed(queries: int, rows: int, d: int, rounds: int) -> None:
    q, gallery = normalize(torch.randn(queries, d)), normalize(torch.randn(rows, d))

    def plain(units: Tensor) -> object:
        return (q @ units.T).topk(K)

    seconds = fastest(
        rounds,
        ours=lambda: search(q, gallery, k=K),
        units=lambda: plain(gallery),
        plain=lambda: plain(normalize(gallery)),
    )
    print(
        f"{queries} queries, {rows} rows, d = {d}, k = {K}\n"
        f"  search                        {seconds['ours']:8.2f} s\n"
        f"  normalise, product and topk   {seconds['plain']:8.2f} s, "
        f"ours {seconds['ours'] / seconds['plain']:.2f} x   (bar 2)\n"
        f"  product and topk alone        {seconds['units']:8.2f} s, "
        f"ours {seconds['ours'] / seconds['units']:.2f} x"
    )


def memory(queries: int, rows: int, d: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gallery.npy"
        gallery = np.lib.format.open_memmap(path, "w+", np.float32, (rows, d))
        for start in range(0, rows, 10_000):
            gallery[start : start + 10_000] = torch.randn(10_000, d)[: rows - start].numpy()
        gallery.flush()
        command = [sys.executable, __file__, "--peak", str(path), str(queries)]
        peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(
        f"memory beyond the queries, {queries} queries, a file of {rows} rows "
        f"({4 * rows * d / 2**20:.0f} MiB)\n"
        f"  search                        {float(peak):8.0f} MiB"
    )


def peak(path: str, queries: int) -> float:
    """Peak MiB of anonymous memory, sampled by a thread: pages of the file are not counted."""
    gallery = np.load(path, mmap_mode="r")
    q = torch.randn(queries, gallery.shape[1])
    search(q, gallery[:1000])  # load everything that the first call loads
    before = resident()
    highest, stop = [before], threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            highest.append(resident())

    thread = threading.Thread(target=watch)
    thread.start()
    search(q, gallery)
    stop.set()
    thread.join()
    return max(highest) - before


def resident() -> float:
    """MiB of memory without files, on Linux."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a quick check, not for quoting")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if options.peak:
        path, queries = options.peak
        print(peak(path, int(queries)))
        return
    scale = 10 if options.small else 1
    speed(100, 1_000_000 // scale, 512, options.rounds)
    speed(1000, 100_000 // scale, 512, options.rounds)
    memory(100, 1_000_000 // scale, 512)


if __name__ == "__main__":
    main()
