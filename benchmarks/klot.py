"""`klot_loss` against Sinkhorn's algorithm on dense matrices under autograd: time and peak memory.

    python benchmarks/klot.py
    python benchmarks/klot.py --rows 2048 --iterations 50
    python benchmarks/klot.py --rows 8192 --only ours --rounds 1

Forward and backward, float32, one thread, as many rows on either side, d = 512, ε = .05. "unrolled"
differentiates through all iterations, "detached" through none and is the same gradient as ours.
Forms take turns in every round, and times are the least of the rounds. Peaks are of a fresh process
for each form: its highest resident size during the call less that before it, after a small call
that loads what is loaded once (Linux). Errors are |g - g₆₄| / |g₆₄| against "detached" in float64,
up to 2048 rows.
"""

from __future__ import annotations

import argparse
import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from structure_reg import klot_loss

D = 512
EPSILON = 0.05


# %% The forms: four tensors and the number of iterations


def potentials(Z: Tensor, iterations: int) -> Tensor:
    """u_i + v_j, (n, m)."""
    log_n, log_m = map(math.log, Z.shape)
    v = Z.new_zeros(Z.shape[1])
    for _ in range(iterations):
        u = -log_n - (Z + v).logsumexp(1)
        v = -log_m - (Z + u[:, None]).logsumexp(0)
    u = (u - log_n - (Z + v).logsumexp(1)) / 2
    return u[:, None] + v


def divergence(log_Q: Tensor, log_P: Tensor) -> Tensor:
    return (log_Q.exp() * (log_Q - log_P) - log_Q.exp() + log_P.exp()).sum()


def unrolled(*tensors: Tensor, iterations: int) -> Tensor:
    Z, T = affinities(*tensors)
    with torch.no_grad():
        log_Q = T + potentials(T, iterations)
    return divergence(log_Q, Z + potentials(Z, iterations))


def detached(*tensors: Tensor, iterations: int) -> Tensor:
    Z, T = affinities(*tensors)
    with torch.no_grad():
        log_Q, of_P = T + potentials(T, iterations), potentials(Z, iterations)
    return divergence(log_Q, Z + of_P)


def affinities(x: Tensor, y: Tensor, teacher_x: Tensor, teacher_y: Tensor) -> list[Tensor]:
    sides = (x, y), (teacher_x, teacher_y)
    return [normalize(a) @ normalize(b).T / EPSILON for a, b in sides]


def ours(*tensors: Tensor, iterations: int) -> Tensor:
    options = {"epsilon": EPSILON, "teacher_epsilon": EPSILON, "iterations": iterations}
    return klot_loss(*tensors, **options)


FORMS: dict[str, Callable[..., Tensor]] = {
    "unrolled": unrolled,
    "detached": detached,
    "ours": ours,
}


# %% What is measured


def inputs(n: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, n, D, generator=generator)
    # A common direction, and partners that are alike: the plans are neither flat nor one-to-one.
    y += x + 1
    x += 1
    teacher_x, teacher_y = (t + torch.randn(n, D, generator=generator) for t in (x, y))
    tensors = [t.to(dtype) for t in (x, y, teacher_x, teacher_y)]
    return [t.requires_grad_(i < 2) for i, t in enumerate(tensors)]


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def gradients(name: str, tensors: list[Tensor], iterations: int) -> tuple[Tensor, ...]:
    return torch.autograd.grad(FORMS[name](*tensors, iterations=iterations), tensors[:2])


def times(names: list[str], n: int, iterations: int, rounds: int) -> dict[str, float]:
    tensors, least = inputs(n), dict.fromkeys(names, math.inf)
    for name in names:
        gradients(name, inputs(64), 1)  # loads
    for _ in range(rounds):
        for name in names:
            taken = seconds(lambda name=name: gradients(name, tensors, iterations))
            least[name] = min(least[name], taken)
    return least


def peak(name: str, n: int, iterations: int) -> float:
    """MiB above the inputs, gradients included, measured in this process: run it in a fresh one."""
    gradients(name, inputs(64), 1)
    tensors = inputs(n)
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    before = resident("VmRSS")
    gradients(name, tensors, iterations)
    return resident("VmHWM") - before


def resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def peak_in_fresh_process(name: str, n: int, iterations: int) -> float:
    command = [sys.executable, __file__, "--peak", name, str(n), str(iterations)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def error(name: str, n: int, iterations: int) -> float:
    """The larger of both gradients'."""
    exact = gradients("detached", inputs(n, torch.float64), iterations)
    pairs = zip(gradients(name, inputs(n), iterations), exact, strict=True)
    return max(((g.double() - e).norm() / e.norm()).item() for g, e in pairs)


# %% The table


def table(names: list[str], n: int, iterations: int, rounds: int) -> Iterator[str]:
    least = times(names, n, iterations, rounds)
    yield f"| n = m = {n}, {iterations} iterations | seconds | peak MiB | gradient error |"
    yield "|---|--:|--:|--:|"
    for name in names:
        memory = peak_in_fresh_process(name, n, iterations)
        measured = f"{error(name, n, iterations):.1e}" if n <= 2048 else ""
        yield f"| {name} | {least[name]:.3g} | {memory:.0f} | {measured} |"
    yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--peak", nargs=3, metavar=("FORM", "N", "T"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        name, n, iterations = args.peak
        print(peak(name, int(n), int(iterations)))
        return
    print(f"torch {torch.__version__}, {platform.machine()}, one thread, d = {D}, float32\n")
    for n in args.rows:
        print(*table(args.only, n, args.iterations, args.rounds), sep="\n", flush=True)


if __name__ == "__main__":
    main()
