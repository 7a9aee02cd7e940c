"""Time and memory of CKA of a 12 x 12 grid of layers, compared with per-pair code and pytorch-cka.

    pip install pytorch-cka    # optional, adds its rows
    python benchmarks/cka_grid.py [time] [memory] [null]

Everything runs on one CPU thread. The competitors take turns within a round, and a ratio is the
median over the rounds, so other load on the machine slows both sides of it. Memory is the peak of
a fresh process minus its memory after the inputs were created.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from structure_reg.similarity.cka import cka_grid
from structure_reg.similarity.null import cka_null

LAYERS = 12
PEER = importlib.util.find_spec("cka") is not None
Grid = tuple[list[Tensor], list[Tensor]]


def grid(n: int, d: int) -> Grid:
    g = torch.Generator().manual_seed(0)
    xs, ys = ([torch.randn(n, d, generator=g) for _ in range(LAYERS)] for _ in range(2))
    return xs, ys


def by_pair(x: Tensor, y: Tensor) -> Tensor:
    """Compute CKA as usually written: two Gram matrices and three products of them per pair."""
    K, L = x @ x.T, y @ y.T
    return ratio(K, L, lambda A, B: (A @ B).trace())


def by_pair_elementwise(x: Tensor, y: Tensor) -> Tensor:
    """Compute CKA with elementwise products, which the usual code could use but does not."""
    K, L = x @ x.T, y @ y.T
    return ratio(K, L, lambda A, B: (A * B).sum())


def ratio(K: Tensor, L: Tensor, inner: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    n = len(K)
    K, L = K.fill_diagonal_(0), L.fill_diagonal_(0)

    def hsic(A: Tensor, B: Tensor) -> Tensor:
        through_all = A.sum() * B.sum() / ((n - 1) * (n - 2))
        return inner(A, B) + through_all - 2 / (n - 2) * (A.sum(0) @ B.sum(1))

    return hsic(K, L) / (hsic(K, K) * hsic(L, L)).sqrt()


def by_pytorch_cka(xs: list[Tensor], ys: list[Tensor]) -> Tensor:
    from cka import cka_from_features

    return cka_from_features(xs, ys)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(title: str, times: dict[str, list[float]], notes: dict[str, str]) -> None:
    """Print the least time of each row and its median ratio to the first row."""
    ours = next(iter(times.values()))
    print(f"\n{title}")
    for name, taken in times.items():
        by_round = median(t / o for t, o in zip(taken, ours, strict=True))
        print(f"  {name:44} {min(taken):9.3f} s {by_round:8.2f} x  {notes.get(name, '')}")


def compare_time(n: int = 2000, d: int = 768, rounds: int = 5) -> None:
    xs, ys = grid(n, d)
    pairs = LAYERS**2
    side = xs[0]
    products: dict[str, Callable[[], object]] = {
        "floor: x x^T of half the tiles, every layer": lambda: [
            torch.mm(x[: n // 2], x.T) for x in (*xs, *ys)
        ],
    }
    peers = {"pytorch-cka": lambda: by_pytorch_cka(xs, ys)} if PEER else {}
    times: dict[str, list[float]] = {}
    cka_grid(xs, ys)
    for _ in range(rounds):
        for name, work in {"cka_grid": lambda: cka_grid(xs, ys), **peers, **products}.items():
            times.setdefault(name, []).append(seconds(work))
        for name, form in (("per pair", by_pair), ("per pair, elementwise", by_pair_elementwise)):
            one = seconds(lambda form=form: form(side, ys[0]))
            times.setdefault(f"{name}: one pair x {pairs}", []).append(one * pairs)
    operations = 2 * LAYERS * n * n * d
    moved = 2 * LAYERS * n * d * 4
    floor = f"{operations / 1e9:.0f} G operations, {moved / 1e6:.0f} MB of input"
    report(
        f"debiased CKA, {LAYERS} x {LAYERS} layers, n={n}, d={d}",
        times,
        {next(iter(products)): floor},
    )


def compare_null(n: int = 1024, d: int = 768, permutations: int = 200, rounds: int = 3) -> None:
    xs, ys = grid(n, d)
    g = torch.Generator().manual_seed(1)
    P = torch.stack([torch.randperm(n, generator=g) for _ in range(permutations)])
    times: dict[str, list[float]] = {}
    cka_grid(xs, ys)
    cka_null(xs, ys, P[:1])
    for _ in range(rounds):
        times.setdefault("cka_grid", []).append(seconds(lambda: cka_grid(xs, ys)))
        times.setdefault("cka_null", []).append(seconds(lambda: cka_null(xs, ys, P)))
    entries = permutations * n * n // 2
    operations = 2 * entries * LAYERS**2
    look_ups = f"{entries / 1e6:.0f} M look-ups of {4 * LAYERS} B"
    floor = f"floor: {operations / 1e9:.0f} G operations, {look_ups}"
    report(
        f"null of {permutations} permutations, {LAYERS} x {LAYERS} layers, n={n}, d={d}",
        times,
        {"cka_null": floor},
    )


MEMORY = {
    "cka_grid": cka_grid,
    "pytorch-cka": by_pytorch_cka,
    "per pair": lambda xs, ys: by_pair(xs[0], ys[0]),
}


def resident(what: str) -> float:
    """MB of this process now ("VmRSS") or its peak so far ("VmHWM"), as reported by Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    return float("nan")


def peak(name: str, n: int, d: int) -> float:
    """Peak MB above the memory held before; to be run in a fresh process."""
    small = grid(64, 8)
    MEMORY[name](*small)  # loads libraries and allocates the buffers of the products
    xs, ys = grid(n, d)
    before = resident("VmRSS")
    MEMORY[name](xs, ys)
    return resident("VmHWM") - before


def compare_memory(n: int = 4096, d: int = 256) -> None:
    print(f"\npeak memory beyond the inputs, {LAYERS} x {LAYERS} layers, n={n}, d={d}")
    peaks = {}
    for name in MEMORY:
        if name == "pytorch-cka" and not PEER:
            continue
        command = [sys.executable, __file__, "peak", name, str(n), str(d)]
        peaks[name] = float(
            subprocess.run(command, capture_output=True, text=True, check=True).stdout
        )
    for name, megabytes in peaks.items():
        print(f"  {name:44} {megabytes:9.0f} MB {megabytes / peaks['cka_grid']:7.2f} x")
    copies, gram = 2 * LAYERS * n * d * 4 / 2**20, n * n * 4 / 2**20
    print(
        f"  floor: {copies:.0f} MB for a centred copy of every layer (a Gram matrix: {gram:.0f} MB)"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    arguments = sys.argv[1:]
    if arguments[:1] == ["peak"]:
        print(peak(arguments[1], int(arguments[2]), int(arguments[3])))
    else:
        print(f"torch {torch.__version__}, one thread, pytorch-cka {'found' if PEER else 'absent'}")
        parts = {"time": compare_time, "memory": compare_memory, "null": compare_null}
        for part in arguments or parts:
            parts[part]()
