"""``python -m structure_reg``: versions, devices, and a self-test of a second on each of them."""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from structure_reg import (
    __version__,
    clip_loss,
    cosine_kernel,
    js_divergence,
    log_transition_matrix,
    structure_loss,
    tile_budget,
)

TEMPERATURE = 0.2
TOLERANCE = 1e-4  # relative, for float32


def devices() -> Iterator[torch.device]:
    """The processor, and whatever else this build of PyTorch can reach."""
    yield torch.device("cpu")
    yield from (torch.device("cuda", i) for i in range(torch.cuda.device_count()))
    if torch.backends.mps.is_available():
        yield torch.device("mps")


def named(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def plain_structure(frozen: Tensor, aligned: Tensor) -> Tensor:
    """STRUCTURE from its public pieces, which autograd differentiates: no kernel of ours."""
    log_p, log_q = (
        log_transition_matrix(cosine_kernel(x), temperature=TEMPERATURE) for x in (frozen, aligned)
    )
    return js_divergence(log_p, log_q).mean()


def structure_of_orthogonal_and_equal(n: int) -> float:
    """STRUCTURE of n orthogonal rows and n equal ones, on paper: Q is uniform, P nearly so."""
    own = math.exp(1 / TEMPERATURE) / (math.exp(1 / TEMPERATURE) + n - 1)
    other, q = (1 - own) / (n - 1), 1 / n
    return sum(
        count * (p * math.log(2 * p / (p + q)) + q * math.log(2 * q / (p + q))) / 2
        for count, p in ((1, own), (n - 1, other))
    )


def errors(device: torch.device) -> Iterator[tuple[str, float]]:
    """What is compared on a device, and how far apart the two are, relative to the second."""

    def apart(ours: Tensor, exact: Tensor | float) -> float:
        truth = torch.as_tensor(exact, dtype=torch.float64)
        return float((ours.detach().cpu().double() - truth).norm() / truth.norm())

    n = 64
    value = structure_loss(
        torch.eye(n, device=device), torch.ones(n, 8, device=device), temperature=TEMPERATURE
    )
    yield "structure_loss and its closed form", apart(value, structure_of_orthogonal_and_equal(n))
    value = clip_loss(torch.ones(n, 8, device=device), torch.ones(n, 8, device=device))
    yield "clip_loss and its closed form", apart(value, math.log(n))

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 48, generator=generator, dtype=torch.float64)
    z = torch.randn(n, 16, generator=generator, dtype=torch.float64)
    exact = z.clone().requires_grad_()
    ours = z.to(device, torch.float32).requires_grad_()
    (exact_gradient,) = torch.autograd.grad(plain_structure(x, exact), exact)
    loss = structure_loss(x.to(device, torch.float32), ours, temperature=TEMPERATURE)
    (gradient,) = torch.autograd.grad(loss, ours)
    yield "the gradient of structure_loss and float64's", apart(gradient, exact_gradient)

    y = x[:, :16].flip(0)
    partner = y.to(device, torch.float32)
    (exact_gradient,) = torch.autograd.grad(clip_loss(exact, y), exact)  # below 724 rows: plain
    with tile_budget(0.01):
        (gradient,) = torch.autograd.grad(clip_loss(ours, partner), ours)
    yield "the tiles of clip_loss and its plain form", apart(gradient, exact_gradient)


def main() -> int:
    """Print the report; 0 if every device agrees with paper and with float64, otherwise 1."""
    print(f"structure-reg {__version__}")
    print(f"torch {torch.__version__}")
    print(f"python {platform.python_version()} on {platform.platform()}")
    failed = 0
    for device in devices():
        print(f"\n{named(device)}")
        try:
            for what, error in errors(device):
                good = error <= TOLERANCE  # false for NaN
                failed += not good
                print(f"  {'ok    ' if good else 'FAILED'} {what} are {error:.0e} apart")
        except (RuntimeError, NotImplementedError) as error:  # of the device or of its driver
            failed += 1
            print(f"  FAILED with {type(error).__name__}: {error}")
    if failed:
        print(
            f"\nstructure_reg: expected all within {TOLERANCE:g}, got {failed} above or broken; do "
            "not train on what is marked FAILED, and report the lines above",
            file=sys.stderr,
        )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
