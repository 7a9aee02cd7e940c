"""`clip_loss` and `siglip_loss` against the forms in use: time, peak memory, error, and the floor.

    python benchmarks/contrastive.py
    python benchmarks/contrastive.py --rows 16384 --loss clip --rounds 3
    python benchmarks/contrastive.py --rows 2048 --loss clip --scale 100

All in one run, forward and backward, float32, one thread, d = 512, as a table a loss. Forms take
turns in every round, and times are the least of the rounds, as a multiple of the two-logits form
(for SigLIP, open_clip's one matrix with an explicit matrix of signs). Peaks are of a fresh process
for each form: its highest resident size during the call less that before it, after a small call
that loads what is loaded once (Linux). Errors are |g - g₆₄| / |g₆₄| against float64, up to 4096
rows. The floor is what no form can go below: three products at the measured rate of one of the
size of a tile, or features read and gradients written at the speed of a measured copy, whichever
is slower.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid, normalize

from structure_reg import clip_loss, siglip_loss

D = 512
Form = Callable[..., Tensor]


# %% The forms: x and y of shape (n, d), the scale, and for SigLIP the bias


def two_logits(x: Tensor, y: Tensor, s: Tensor) -> Tensor:
    x, y = normalize(x), normalize(y)
    own = torch.arange(len(x))
    return (cross_entropy(s * x @ y.T, own) + cross_entropy(s * y @ x.T, own)) / 2


def one_matrix(x: Tensor, y: Tensor, s: Tensor) -> Tensor:
    Z = s * normalize(x) @ normalize(y).T
    own = torch.arange(len(x))
    return (cross_entropy(Z, own) + cross_entropy(Z.T, own)) / 2


def signs(x: Tensor, y: Tensor, s: Tensor, b: Tensor) -> Tensor:
    t = 2 * torch.eye(len(x), dtype=x.dtype) - torch.ones(len(x), len(x), dtype=x.dtype)
    return -logsigmoid(t * (s * normalize(x) @ normalize(y).T + b)).sum() / len(x)


def metric_learning(x: Tensor, y: Tensor, s: Tensor) -> Tensor:
    """NT-Xent of the pairs among all 2n rows: another loss of the same inputs, O(n³) memory."""
    from pytorch_metric_learning.losses import NTXentLoss

    own = torch.arange(len(x)).repeat(2)
    return NTXentLoss(temperature=1 / s.item())(torch.cat([x, y]), own)


def forms(loss: str, n: int, *, compiled: bool) -> dict[str, Form]:
    """The baseline comes first."""
    if loss == "clip":
        chosen: dict[str, Form] = {"two logits": two_logits, "one matrix": one_matrix}
        ours: Form = clip_loss
    else:
        chosen, ours = {"signs": signs}, siglip_loss
    if compiled and n <= 4096:
        chosen[f"compiled {list(chosen)[-1]}"] = torch.compile(list(chosen.values())[-1])
    if loss == "clip" and n <= 512 and installed("pytorch_metric_learning"):
        chosen["metric-learning"] = metric_learning
    chosen["ours"] = ours
    if compiled and n <= 4096:
        chosen["compiled ours"] = torch.compile(ours, fullgraph=True)
    return chosen


def installed(package: str) -> bool:
    try:
        __import__(package)
    except ImportError:
        return False
    return True


# %% What is measured


def inputs(
    loss: str, n: int, dtype: torch.dtype = torch.float32, scale: float = 14.3
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, n, D, generator=generator)
    scalars = [torch.tensor(scale)] + [torch.tensor(-10.0)] * (loss == "siglip")
    # At a trained scale most partners are found, and most exponents underflow.
    noise = 4.0 if scale < 50 else 0.3
    return [t.to(dtype).requires_grad_() for t in (x, x + noise * y, *scalars)]


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def times(candidates: dict[str, Form], tensors: list[Tensor], rounds: int) -> dict[str, float]:
    def step(form: Form) -> None:
        # The scale gets no gradient from metric-learning.
        torch.autograd.grad(form(*tensors), tensors, allow_unused=True)

    for form in candidates.values():
        step(form)  # compiles, and loads
    least = dict.fromkeys(candidates, float("inf"))
    for _ in range(rounds):
        for name, form in candidates.items():
            least[name] = min(least[name], seconds(lambda form=form: step(form)))
    return least


def peak(loss: str, name: str, n: int, compiled: bool) -> float:
    """MiB above the inputs, gradients included, measured in this process: run it in a fresh one."""
    form = forms(loss, n, compiled=compiled)[name]
    for warm in (64, 1024) if name.endswith("ours") else (64,):
        form(*inputs(loss, warm)).backward()
    tensors = inputs(loss, n)
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    before = resident("VmRSS")
    form(*tensors).backward()
    return resident("VmHWM") - before


def resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def peak_in_fresh_process(loss: str, name: str, n: int) -> float:
    command = [sys.executable, __file__, "--peak", loss, name, str(n)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def errors(loss: str, form: Form, n: int) -> tuple[float, float]:
    """Of the value, and the largest of the gradients'."""
    exact_form = two_logits if loss == "clip" else signs
    results = []
    for of, dtype in ((form, torch.float32), (exact_form, torch.float64)):
        tensors = inputs(loss, n, dtype)
        value = of(*tensors)
        results.append([t.double() for t in (value.detach(), *torch.autograd.grad(value, tensors))])
    value, *gradients = (
        ((ours - exact).norm() / exact.norm()).item() for ours, exact in zip(*results, strict=True)
    )
    return value, max(gradients)


def floor(n: int) -> float:
    a, b = torch.randn(512, D), torch.randn(D, min(n, 4096))
    product = min(seconds(lambda: a @ b) for _ in range(20)) / (2 * 512 * D * b.shape[1])
    big = torch.randn(2**24)
    copied = min(seconds(big.clone) for _ in range(5)) / (2 * big.nbytes)
    return max(3 * 2 * n * n * D * product, 4 * n * D * 4 * copied)


# %% The table


def table(loss: str, n: int, rounds: int, compiled: bool, scale: float) -> Iterator[str]:
    candidates = forms(loss, n, compiled=compiled)
    least = times(candidates, inputs(loss, n, scale=scale), rounds)
    baseline = next(iter(least.values()))
    yield f"| {loss}, n = {n} | time | peak MiB | value error | gradient error |"
    yield "|---|--:|--:|--:|--:|"
    for name, form in candidates.items():
        memory = peak_in_fresh_process(loss, name, n)
        same_loss = name != "metric-learning"
        comparable = n <= 4096 and same_loss  # it holds n² numbers in float64
        measured = [f"{e:.1e}" for e in errors(loss, form, n)] if comparable else ["", ""]
        yield (
            f"| {name} | {least[name] / baseline:.2f} | {memory:.0f} | {measured[0]} "
            f"| {measured[1]} |"
        )
    yield f"| floor | {floor(n) / baseline:.2f} | {2 * n * D * 4 / 2**20:.0f} | | |"
    yield f"\n1.00 is {baseline:.3g} s; the floor's memory is the gradients.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 1024, 4096, 16384])
    parser.add_argument("--loss", nargs="+", default=["clip", "siglip"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=14.3, help="logit scale of the times")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--peak", nargs=3, metavar=("LOSS", "FORM", "N"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        loss, name, n = args.peak
        print(peak(loss, name, int(n), compiled=name.startswith("compiled")))
        return
    print(f"torch {torch.__version__}, {platform.machine()}, one thread, d = {D}, float32\n")
    for loss in args.loss:
        for n in args.rows:
            print(
                *table(loss, n, args.rounds, not args.no_compile, args.scale), sep="\n", flush=True
            )


if __name__ == "__main__":
    main()
