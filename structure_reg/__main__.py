"""``python -m structure_reg``: versions, devices, and a self-test of about a second per device."""

from __future__ import annotations

import argparse
import math
import platform
import sys
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from structure_reg import (
    __version__,
    cka,
    clip_loss,
    cosine_kernel,
    fit_cca,
    js_divergence,
    log_transition_matrix,
    mutual_knn,
    retrieval,
    structure_loss,
    tile_budget,
)

TEMPERATURE = 0.2
TOLERANCE = 1e-4  # relative, for float32


def devices() -> Iterator[torch.device]:
    """Yield the CPU and all other devices that this build of PyTorch can use."""
    yield torch.device("cpu")
    yield from (torch.device("cuda", i) for i in range(torch.cuda.device_count()))
    if torch.backends.mps.is_available():
        yield torch.device("mps")


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def plain_structure(frozen: Tensor, aligned: Tensor) -> Tensor:
    """Compute STRUCTURE from its public pieces, which autograd differentiates without kernels."""
    log_p, log_q = (
        log_transition_matrix(cosine_kernel(x), temperature=TEMPERATURE) for x in (frozen, aligned)
    )
    return js_divergence(log_p, log_q).mean()


def closed_form_structure(n: int) -> float:
    """Return STRUCTURE of n orthogonal and n equal rows: Q is uniform, and P has two values."""
    own = math.exp(1 / TEMPERATURE) / (math.exp(1 / TEMPERATURE) + n - 1)
    other, q = (1 - own) / (n - 1), 1 / n
    return sum(
        count * (p * math.log(2 * p / (p + q)) + q * math.log(2 * q / (p + q))) / 2
        for count, p in ((1, own), (n - 1, other))
    )


def structure_value(device: torch.device) -> tuple[Tensor, float]:
    n = 64
    x, z = torch.eye(n, device=device), torch.ones(n, 8, device=device)
    return structure_loss(x, z, temperature=TEMPERATURE), closed_form_structure(n)


def clip_value(device: torch.device) -> tuple[Tensor, float]:
    n = 64
    x = torch.ones(n, 8, device=device)
    return clip_loss(x, x.clone()), math.log(n)


def structure_gradient(device: torch.device) -> tuple[Tensor, Tensor]:
    x, z = random_pairs()
    exact_z, our_z = z.clone().requires_grad_(), z.to(device, torch.float32).requires_grad_()
    our_loss = structure_loss(x.to(device, torch.float32), our_z, temperature=TEMPERATURE)
    return gradient(our_loss, our_z), gradient(plain_structure(x, exact_z), exact_z)


def clip_gradient(device: torch.device) -> tuple[Tensor, Tensor]:
    x, z = random_pairs()
    y = x[:, :16].flip(0)
    exact_z, our_z = z.clone().requires_grad_(), z.to(device, torch.float32).requires_grad_()
    exact = gradient(clip_loss(exact_z, y), exact_z)  # below 724 rows there are no tiles
    with tile_budget(0.01):
        return gradient(clip_loss(our_z, y.to(device, torch.float32)), our_z), exact


def metric_values(device: torch.device) -> tuple[Tensor, Tensor]:
    x, y = (z.float() for z in random_pairs())
    on_device, exact = (
        torch.stack([cka(x, y), cka(x, y, kernel="rbf"), mutual_knn(x, y)])
        for x, y in ((x.to(device), y.to(device)), (x.double(), y.double()))
    )
    return on_device, exact


def fitted_features(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what the heads of a CCA make of y and of x, which are a linear map apart."""
    x = random_pairs()[1].to(device, torch.float32)
    y = x.flip(1) + x
    y = torch.cat([y[:, :8], x[:, :8]], 1)
    head_x, head_y = fit_cca(x, y, dim=4, ridge=0.0)
    return head_x(x), head_y(y)


def retrieval_value(device: torch.device) -> tuple[Tensor, float]:
    """Return the recalls of 64 directions, of which each has one equal in the other set."""
    x = torch.eye(64, device=device)
    return retrieval(x, 2 * x).mean_recall, 1.0


def random_pairs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 48, generator=generator, dtype=torch.float64)
    return x, torch.randn(64, 16, generator=generator, dtype=torch.float64)


def gradient(loss: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(loss, x)[0]


# Each returns a value on the device, and what it should be.
COMPARISONS: dict[str, Callable[[torch.device], tuple[Tensor, Tensor | float]]] = {
    "structure_loss and its closed form": structure_value,
    "clip_loss and its closed form": clip_value,
    "the gradients of structure_loss in float32 and float64": structure_gradient,
    "the gradients of clip_loss with and without tiles": clip_gradient,
    "cka and mutual_knn in float32 and float64": metric_values,
    "the two sides of an exact fit_cca": fitted_features,
    "retrieval and its closed form": retrieval_value,
}


def relative_error(ours: Tensor, exact: Tensor | float) -> float:
    truth = torch.as_tensor(exact).detach().cpu().double()
    return float((ours.detach().cpu().double() - truth).norm() / truth.norm())


def count_failures(device: torch.device) -> int:
    """Print a line per comparison, and return the number of failures."""
    failures = 0
    try:
        for what, compare in COMPARISONS.items():
            error = relative_error(*compare(device))
            good = error <= TOLERANCE  # false for NaN
            failures += not good
            print(f"  {'ok    ' if good else 'FAILED'} {what} differ by {error:.0e}")
    except (RuntimeError, TypeError) as error:  # of the device or its driver
        failures += 1
        print(f"  FAILED with {type(error).__name__}: {error}")
    return failures


def parse(arguments: Sequence[str]) -> None:
    """Answer --help and --version, which end the program, and refuse everything else."""
    parser = argparse.ArgumentParser(
        prog="python -m structure_reg",
        description="Print versions and devices, and test losses, metrics, a fit and retrieval on "
        "each device, which takes about a second per device.",
        epilog="The exit status is 0 if every device is accurate, and 1 otherwise.",
    )
    parser.add_argument("--version", action="version", version=f"structure-reg {__version__}")
    parser.parse_args(arguments)


def main(arguments: Sequence[str] = ()) -> int:
    """Print the report; return 0 if every device is accurate, otherwise 1."""
    parse(arguments)
    print(f"structure-reg {__version__}")
    print(f"torch {torch.__version__}")
    print(f"python {platform.python_version()} on {platform.platform()}")
    failures = 0
    for device in devices():
        print(f"\n{device_name(device)}")
        failures += count_failures(device)
    if failures:
        print(
            f"\nstructure_reg: expected relative errors of at most {TOLERANCE:g}, got {failures} "
            "failures; do not train on a device marked FAILED, and report the lines above",
            file=sys.stderr,
        )
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
