"""Time and memory of mutual kNN of every pair of layers, compared with the usual per-pair code.

    python benchmarks/neighbours.py            # two grids, the null and memory; a few minutes
    python benchmarks/neighbours.py --small    # a tenth of that

Everything runs on one thread, in float32, on independent Gaussian features. The Gram products
alone are timed as well. The competitors take turns within each round, and the fastest round of each
counts, in CPU seconds because other processes may use the machine. The per-pair code is timed on a
few pairs and scaled to all of them, because it does the same work for each. The times are specific
to this machine; quote the ratios.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from structure_reg import layer_similarity, tile_budget
from structure_reg.similarity.nearest import nearest
from structure_reg.similarity.neighbours import mutual_grid

PAIRS_TIMED = 2


def per_pair(x: Tensor, y: Tensor, k: int) -> Tensor:
    """Compute mutual kNN as usually written: both matrices are sorted in full for each pair."""
    masks = []
    for features in (x, y):
        unit = torch.nn.functional.normalize(features, dim=-1)
        similarity = (unit @ unit.T).fill_diagonal_(-1e8)
        near = similarity.argsort(dim=1, descending=True)[:, :k]
        masks.append(torch.zeros_like(similarity).scatter_(1, near, 1.0))
    return (masks[0] * masks[1]).sum(1).div(k).mean()


def fastest(rounds: int, **competitors: Callable[[], object]) -> dict[str, float]:
    """CPU seconds of the best round of each competitor; every round runs all of them in turn."""
    best = dict.fromkeys(competitors, float("inf"))
    for _ in range(rounds):
        for name, run in competitors.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    return best


def grid(LA: int, LB: int, n: int, d: int, k: int, rounds: int, bar: float) -> None:
    xs, ys = ([torch.randn(n, d) for _ in range(layers)] for layers in (LA, LB))
    seconds = fastest(
        rounds,
        ours=lambda: layer_similarity(xs, ys, k=k),
        grams=lambda: [x @ x.T for x in (*xs, *ys)],
        pairs=lambda: [per_pair(xs[p], ys[p], k) for p in range(PAIRS_TIMED)],
    )
    L, P = LA + LB, LA * LB
    rate = 2 * L * n * n * d / seconds["grams"]  # multiplications and additions a second
    floor = L * n * n * d / rate  # half of the Gram matrices, which are symmetric
    whole = seconds["pairs"] * P / PAIRS_TIMED
    print(
        f"{LA} x {LB} layers, n = {n}, d = {d}, k = {k}\n"
        f"  one pass               {seconds['ours']:8.2f} s\n"
        f"  per pair, argsort      {whole:8.1f} s = {whole / seconds['ours']:.0f} x"
        f"   (bar {bar:g}; {PAIRS_TIMED} of {P} pairs timed)\n"
        f"  Gram products alone    {seconds['grams']:8.2f} s, "
        f"ours {seconds['ours'] / seconds['grams']:.2f} x   (bar 2)\n"
        f"  floor                  {floor:8.2f} s, ours {seconds['ours'] / floor:.2f} x: "
        f"{L * n * n * d / 1e9:.0f} GFLOP above the diagonals at this machine's "
        f"{rate / 1e9:.0f} GFLOP/s;\n"
        f"  {'':22} then {L * n * n / 1e6:.0f} M similarities ranked, {LA * n * k / 1e6:.1f} M "
        f"look-ups of {4 * LB} bytes"
    )


def null(LA: int, LB: int, n: int, d: int, k: int, permutations: int, rounds: int) -> None:
    xs, ys = ([torch.randn(n, d) for _ in range(layers)] for layers in (LA, LB))
    shuffles = torch.stack([torch.randperm(n) for _ in range(permutations)])
    x_near, y_near = ([nearest(x, k) for x in side] for side in (xs, ys))
    seconds = fastest(
        rounds,
        grid=lambda: layer_similarity(xs, ys, k=k),
        null=lambda: mutual_grid(x_near, y_near, shuffles),
    )
    lookups = LA * n * k * permutations
    print(
        f"null of {LA} x {LB} layers, n = {n}, k = {k}, {permutations} permutations\n"
        f"  null                   {seconds['null']:8.2f} s = "
        f"{seconds['null'] / seconds['grid']:.2f} x the grid of {seconds['grid']:.2f} s   (bar 3)\n"
        f"  floor                  {lookups / 1e6:.1f} M look-ups of {4 * LB} bytes in a table of "
        f"{4 * n * n * LB / 2**20:.0f} MiB: {seconds['null'] / lookups * 1e9:.0f} ns each"
    )


def memory(n: int, d: int, budget: float) -> None:
    """Print the peak memory beyond the features, with each case in a process of its own."""
    print(f"memory beyond the features, n = {n}, d = {d}, k by Rice, tile_budget({budget:g})")
    for LA, LB in ((2, 2), (6, 6), (12, 12), (2, 22)):
        command = [sys.executable, __file__, "--peak", *map(str, (LA, LB, n, d, budget))]
        peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"  {LA:2} x {LB:2} layers, {LA * LB:3} pairs {float(peak):8.0f} MiB")


def peak(LA: int, LB: int, n: int, d: int, budget: float) -> float:
    xs, ys = ([torch.randn(n, d) for _ in range(layers)] for layers in (LA, LB))
    layer_similarity([xs[0][:64]], [ys[0][:64]])  # load everything that the first call loads
    before = high_water()
    with tile_budget(budget):
        layer_similarity(xs, ys)
    return high_water() - before


def high_water() -> float:
    """Peak MiB of this process, on Linux; getrusage would include the parent's peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a quick check, not for quoting")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if options.peak:
        *sizes, budget = options.peak
        print(peak(*map(int, sizes), float(budget)))
        return
    if options.small:
        grid(4, 4, 1000, 256, 10, options.rounds, bar=40)
        null(4, 4, 512, 256, 10, 50, options.rounds)
        return
    grid(12, 12, 2000, 768, 10, options.rounds, bar=40)
    grid(24, 12, 5000, 768, 10, options.rounds, bar=80)
    null(12, 12, 1024, 768, 10, 200, options.rounds)
    memory(4096, 256, budget=16)
    memory(4096, 256, budget=64)


if __name__ == "__main__":
    main()
