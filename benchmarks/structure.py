"""structure_loss against the authors' release and the plain formula: time, memory, error, floor.

    python benchmarks/structure.py

Everything is printed as ratios of one run, float32, forward and backward, on one thread. Times are
CPU seconds, the least of interleaved rounds. Memory is how far the resident set rises above what it
is with the inputs made and every library called once, in a process of its own per case; Linux alone
tells it. The release's memory beyond 4096 rows is extrapolated from its 14 (n, n) matrices.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from structure_reg import FrozenStructure, structure_loss
from structure_reg._gram import centered_unit_rows
from structure_reg._kernels.options import WalkOptions
from structure_reg.losses.structure import plain_rows

TEMPERATURE = 0.05
D0, D = 768, 512
MIB = 2**20


def features(n: int) -> tuple[Tensor, Tensor]:
    """Frozen rows in clusters that neighbour one another, and a noisy linear head of them."""
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(64, 8, generator=g) @ torch.randn(8, D0, generator=g) / math.sqrt(8)
    clusters = torch.randint(64, (n,), generator=g)
    frozen = centres[clusters] + 0.4 * torch.randn(n, D0, generator=g)
    noise = 0.4 * torch.randn(n, D, generator=g)
    aligned = frozen @ torch.randn(D0, D, generator=g) / math.sqrt(D0) + noise
    return frozen, aligned.requires_grad_()


def release(frozen: Tensor, aligned: Tensor, levels: int) -> Tensor:
    """What the authors' release computes, written from its description.

    Both centred Gram matrices, a softmax each, every level's matrix power from scratch, and the
    divergence of the mixture from either side with 1e-12 inside the logarithms.
    """
    walks = []
    for x in (frozen, aligned):
        unit = normalize(x, dim=-1)
        centred = unit - unit.mean(0, keepdim=True)
        walks.append(torch.softmax(centred @ centred.mT / TEMPERATURE, -1))
    value = aligned.new_zeros(())
    for l in range(1, levels + 1):
        p, q = (torch.linalg.matrix_power(walk, l) for walk in walks)
        m = (p + q) / 2
        log_p, log_q, log_m = ((r + 1e-12).log() for r in (p, q, m))
        rows = (m * (log_m - log_p)).sum(-1) / 2 + (m * (log_m - log_q)).sum(-1) / 2
        value = value + rows.mean() / l
    return value / levels


def naive(frozen: Tensor, aligned: Tensor, levels: int) -> Tensor:
    X, A = (centered_unit_rows(x, "after") for x in (frozen, aligned))
    return plain_rows(X, A, WalkOptions(TEMPERATURE, levels, "js")).mean()


def ours(frozen: Tensor | FrozenStructure, aligned: Tensor, levels: int) -> Tensor:
    return structure_loss(frozen, aligned, temperature=TEMPERATURE, levels=levels)


def prepared(frozen: Tensor, levels: int) -> FrozenStructure:
    return FrozenStructure(frozen, temperature=TEMPERATURE, levels=levels)


FORMS: dict[str, Callable[..., Tensor]] = {"release": release, "naive": naive, "ours": ours}


def value_and_gradient(form: Callable[..., Tensor], *arguments: object) -> tuple[Tensor, Tensor]:
    frozen, aligned, levels = arguments
    value = form(frozen, aligned, levels)
    assert isinstance(aligned, Tensor)
    (gradient,) = torch.autograd.grad(value, aligned)
    return value.detach(), gradient


def times(n: int, levels: int, rounds: int) -> dict[str, float]:
    frozen, aligned = features(n)
    forms = {name: (form, frozen) for name, form in FORMS.items()}
    forms["prepared"] = ours, prepared(frozen, levels)
    least = dict.fromkeys(forms, math.inf)
    for _ in range(rounds):
        for name, (form, x) in forms.items():
            start = time.process_time()
            value_and_gradient(form, x, aligned, levels)
            least[name] = min(least[name], time.process_time() - start)
    return least


def errors(n: int, levels: int) -> dict[str, tuple[float, float]]:
    """Relative error of value and gradient against the same formula in float64."""
    frozen, aligned = features(n)
    double = frozen.double(), aligned.detach().double().requires_grad_()
    exact = {
        "release": value_and_gradient(release, *double, levels),
        "naive": value_and_gradient(naive, *double, levels),
    }
    exact["ours"] = exact["naive"]
    found = {
        name: value_and_gradient(form, frozen, aligned, levels) for name, form in FORMS.items()
    }
    return {
        name: tuple(
            ((x - y).norm() / y.norm()).item()
            for x, y in zip(found[name], exact[name], strict=True)
        )
        for name in FORMS
    }


def floor(n: int, levels: int) -> float:
    """Seconds that the fewest products known take at this machine's rate, plus one copy of all.

    A pair of rows multiplied once on either side; once and twice for its gradient; two products of
    symmetric matrices and one general one a level, of (n, n).
    """
    operations = n * n * (D0 + 3 * D) + (levels - 1) * 2 * n**3 * (1 / 2 + 1 / 2 + 1)
    x = torch.randn(2048, 2048)
    product = min(timed(lambda: x @ x) for _ in range(5))
    copy = min(timed(x.clone) for _ in range(5))
    moved = n * (D0 + 2 * D)
    return operations * product / (2 * 2048**3) + moved * copy / x.numel()


def timed(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def peak(form: str, n: int, levels: int) -> float:
    """MiB above the inputs, in a process of its own."""
    command = [sys.executable, __file__, "--peak", form, str(n), str(levels)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(form: str, n: int, levels: int) -> None:
    small = features(64)
    value_and_gradient(FORMS[form], *small, levels)
    arguments = features(n)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = resident("VmRSS")
    value_and_gradient(FORMS[form], *arguments, levels)
    print(resident("VmHWM") - before)


def resident(which: str) -> float:
    """MiB of this process, now or at most."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(which + ":")[2].split()[0]) / 1024


def main() -> None:
    global TEMPERATURE
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peak", nargs=3, metavar=("form", "n", "levels"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=TEMPERATURE)
    arguments = parser.parse_args()
    TEMPERATURE = arguments.temperature
    torch.set_num_threads(1)
    if arguments.peak:
        form, n, levels = arguments.peak
        print_peak(form, int(n), int(levels))
        return
    print(f"torch {torch.__version__}, {platform.machine()}, one thread, float32")
    print(f"d0 = {D0}, d = {D}, temperature {TEMPERATURE}; forward and backward\n")
    print("| n | levels | form | time / release | time / floor | peak MiB | value err | grad err |")
    print("|--:|--:|---|--:|--:|--:|--:|--:|")
    for n, levels in ((1024, 1), (3072, 1), (1024, 3), (3072, 3)):
        seconds, wrong = times(n, levels, arguments.rounds), errors(n, levels)
        least = floor(n, levels)
        for name, second in seconds.items():
            row = f"| {n} | {levels} | {name} | {second / seconds['release']:.2f} "
            row += f"| {second / least:.1f} "
            if name in FORMS:
                value, gradient = wrong[name]
                row += f"| {peak(name, n, levels):.0f} | {value:.0e} | {gradient:.0e} |"
            print(row if name in FORMS else row + "| | | |", flush=True)
    print("\n| n | levels | peak MiB of ours | of the release |\n|--:|--:|--:|--:|")
    for n, levels in ((4096, 1), (12288, 1), (32768, 1), (4096, 3)):
        theirs = (
            f"{peak('release', n, levels):.0f}" if n <= 4096 else f"~{14 * n * n * 4 / MIB:.0f}"
        )
        print(f"| {n} | {levels} | {peak('ours', n, levels):.0f} | {theirs} |", flush=True)


if __name__ == "__main__":
    main()
