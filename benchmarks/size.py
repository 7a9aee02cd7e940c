"""Time and memory of fits and of retrieval by size, relative to the work that none can avoid.

    python benchmarks/size.py            # the table
    python benchmarks/size.py --curves   # time and memory by rows and by width
    python benchmarks/size.py --small    # a tenth of the rows, for a quick check

Everything runs on one thread. Features are of low rank plus noise, made on the fly in float32. In
the table, each function and its floor take turns within each round; the times are medians, the
ratio is the median of the rounds' ratios, and all are in CPU seconds because other processes may
use the machine. Each point of a curve is one call in a process of its own. Memory is the peak
resident size during the call minus that before it (Linux). It counts the pages of files that are
mapped, which the system can take back, and is also given without them: "anonymous". Packages with
shrinkage of their own are left out, with a line that says so, where they are not installed.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from structure_reg import Aligner, fit_cca, fit_ridge, retrieval, select_cca
from structure_reg.training.batches import Pairs
from structure_reg.training.estimator import options_of
from structure_reg.training.options import checked_options
from structure_reg.training.start import starting_objective

Call = Callable[[], object]
Map = Callable[[Tensor], Tensor]
RANK = 64
ROWS = (1_000, 3_000, 10_000, 30_000, 100_000)
WIDTHS = (384, 768, 1536, 4096)
MOST_RANKED = 30_000
SHRINKAGE = np.logspace(-3, 0, 4)  # of cca-zoo, 0 to 1


def features(n: int, d_x: int, d_y: int) -> tuple[Tensor, Tensor]:
    """Two sides with 64 directions in common, and noise."""
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(n, RANK, generator=g)
    return tuple(
        torch.randn(n, d, generator=g).addmm_(shared, torch.randn(RANK, d, generator=g), alpha=0.1)
        for d in (d_x, d_y)
    )


# %% What is timed, and the floor of each: functions of both sides


def start(x: Tensor, y: Tensor) -> object:
    """What `Aligner.fit` does between reading the features and its first step."""
    options, _ = checked_options(options_of(Aligner()))
    return starting_objective(Pairs(x, y, None), options, batch_size=4096)


def moments(x: Tensor, y: Tensor) -> object:
    """X'X and X'Y in float64."""
    x = x.double()
    return x.T @ x, x.T @ y.double()


def singular_values(x: Tensor, y: Tensor) -> object:
    return torch.linalg.svd(torch.randn(x.shape[1], y.shape[1], dtype=torch.float64))


def product(x: Tensor, y: Tensor) -> object:
    return x @ y.T


def product_in_blocks(x: Tensor, y: Tensor) -> object:
    """One product of all rows where its n² results do not fit into memory."""
    for block in x.split(1000):
        block @ y.T


TIMED = {
    "fit_ridge": (fit_ridge, moments),
    "fit_cca": (lambda x, y: fit_cca(x, y, ridge=1.0), moments),
    "select_cca": (select_cca, singular_values),
    "Aligner's start": (start, singular_values),
    "retrieval": (retrieval, product_in_blocks),
    "retrieval, ids of five": (
        lambda x, y: retrieval(x, y, ids=torch.arange(len(x)) // 5),
        product_in_blocks,
    ),
}


def cpu_seconds(call: Call) -> float:
    before = time.process_time()
    call()
    return time.process_time() - before


def row(name: str, n: int, widths: tuple[int, int], bar: float, rounds: int, floor: Call) -> None:
    x, y = features(n, *widths)
    ours, _ = TIMED[name]
    few = slice(0, 64)
    ours(x[few], y[few])  # load everything that the first call loads
    times = [
        (cpu_seconds(lambda: ours(x, y)), cpu_seconds(lambda: floor(x, y))) for _ in range(rounds)
    ]
    a, b = (median(column) for column in zip(*times, strict=True))
    ratio = median(a / b for a, b in times)
    print(
        f"| {name} | {n:,} x {widths} | {a:.2f} s | {floor.__name__.replace('_', ' ')} "
        f"| {b:.2f} s | {ratio:.2f} | {bar:g} |",
        flush=True,
    )


def table(scale: int, rounds: int) -> None:
    print("| function | pairs | time | floor | its time | ratio | bar |")
    print("|---|---|--:|---|--:|--:|--:|")
    n, small = 20_000 // scale, (1024, 768)
    row("fit_ridge", n, small, 1.6, rounds, moments)
    row("fit_cca", n, small, 2.2, rounds, moments)
    row("select_cca", n, small, 15, rounds, singular_values)
    row("Aligner's start", max(300, 3_000 // scale), (1536, 768), 25, rounds, singular_values)
    row("retrieval", n, (512, 512), 2, rounds, product)
    row("retrieval, ids of five", n, (512, 512), 2, rounds, product)


# %% Memory


def highest(call: Call) -> float:
    """Peak MiB during the call minus that before it, in this process: run it in a fresh one."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def fresh(*arguments: object) -> str:
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def highest_anonymous(call: Call) -> tuple[float, float]:
    """The same without pages of files, looked at every 2 ms, and with them."""
    before, seen, done = resident("RssAnon"), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(resident("RssAnon") - before)

    thread = threading.Thread(target=watch)
    thread.start()
    added = highest(call)
    done.set()
    thread.join()
    return max(seen), added


def write_maps(folder: Path, n: int, widths: tuple[int, int]) -> None:
    """Features as float16 files, in blocks; the sides share nothing, which changes no memory."""
    for name, d in zip("xy", widths, strict=True):
        file = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, (n, d))
        for first in range(0, n, 10_000):
            block = file[first : first + 10_000]
            block[:] = features(len(block), d, 1)[0].half().numpy()
        file.flush()


def fit_of_files(folder: str, head: str, batch_size: int) -> str:
    x, y = (np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in "xy")
    options = {"head": head, "layers": (0, 0), "max_steps": 2}
    small = features(64, 32, 16)
    Aligner(**options, batch_size=32).fit([small[0]], [small[1]])  # load everything
    fit = Aligner(**options, batch_size=batch_size).fit
    return "{:.0f} | {:.0f}".format(*highest_anonymous(lambda: fit([x], [y])))


def memory(scale: int) -> None:
    fits = [
        (60_000, (1024, 768), [("ridge", 4096), ("cca", 4096)]),
        *(
            (n, (1024, 1024), [("cca", 4096), ("linear", 2048), ("linear", 4096)])
            for n in (25_000, 50_000, 100_000)
        ),
    ]
    print('\nWhat `Aligner.fit` adds on float16 files; "linear" is the default, of 2 steps.\n')
    print("| head | pairs | batch | size of the files | anonymous MiB | all MiB |")
    print("|---|---|--:|--:|--:|--:|")
    for n, widths, heads in fits:
        n //= scale
        with tempfile.TemporaryDirectory() as folder:
            write_maps(Path(folder), n, widths)
            for head, batch_size in heads:
                added = fresh("--memory", folder, head, batch_size // scale)
                size = f"{n * sum(widths) * 2 / 2**20:.0f} MiB"
                batch = "" if head != "linear" else f"{batch_size // scale:,}"
                print(f"| {head} | {n:,} x {widths} | {batch} | {size} | {added} |", flush=True)


# %% Packages that choose their own shrinkage


def ours_with_choice(x: Tensor, y: Tensor) -> tuple[Map, Map]:
    chosen = select_cca(x, y)
    return fit_cca(x, y, dim=RANK, ridge=chosen.ridge, power=chosen.power)


def ridge_of_scikit_learn(x: Tensor, y: Tensor) -> tuple[Map, Map]:
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(np.logspace(-1, 6, 8)).fit(x.numpy(), y.numpy())
    mean = y.mean(0)
    return lambda x: torch.as_tensor(model.predict(x.numpy())) - mean, lambda y: y - mean


def cca_of_scikit_learn(x: Tensor, y: Tensor) -> tuple[Map, Map]:
    """It has no shrinkage to choose."""
    from sklearn.cross_decomposition import CCA

    model = CCA(RANK, max_iter=2000).fit(x.numpy(), y.numpy())
    some_x = x.numpy()[:1]
    return (
        lambda x: torch.as_tensor(model.transform(x.numpy())),
        lambda y: torch.as_tensor(model.transform(some_x.repeat(len(y), 0), y.numpy())[1]),
    )


def cca_of_cca_zoo(x: Tensor, y: Tensor) -> tuple[Map, Map]:
    from cca_zoo.linear import RidgeCCA
    from cca_zoo.model_selection import GridSearchCV

    shrinkage = [[a, b] for a in SHRINKAGE for b in SHRINKAGE]
    search = GridSearchCV(RidgeCCA(RANK), {"shrinkage": shrinkage}, cv=4)
    model = search.fit([x.numpy(), y.numpy()]).best_estimator_
    some_x, some_y = x.numpy()[:1], y.numpy()[:1]

    def side(i: int, x: np.ndarray, y: np.ndarray) -> Tensor:
        return torch.as_tensor(model.transform([x, y])[i])

    return (
        lambda x: side(0, x.numpy(), some_y.repeat(len(x), 0)),
        lambda y: side(1, some_x.repeat(len(y), 0), y.numpy()),
    )


PEERS = {
    "fit_ridge": ("structure_reg", fit_ridge),
    "scikit-learn's RidgeCV": ("sklearn", ridge_of_scikit_learn),
    "select_cca and fit_cca": ("structure_reg", ours_with_choice),
    "scikit-learn's CCA": ("sklearn", cca_of_scikit_learn),
    "cca-zoo's RidgeCCA in a grid": ("cca_zoo", cca_of_cca_zoo),
}


def peers(n: int, widths: tuple[int, int]) -> None:
    """Each is timed once, on the same pairs; recall is that on half as many others."""
    x, y = features(n + n // 2, *widths)
    print(f"\n| {n:,} x {widths}, {RANK} dimensions of CCA | time | mean recall |\n|---|--:|--:|")
    for name, (package, fit) in PEERS.items():
        if find_spec(package) is None:
            print(f"| {name} | not installed | |", flush=True)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NIPALS, that it has not converged
            before = time.process_time()
            f_x, f_y = fit(x[:n], y[:n])
            seconds = time.process_time() - before
            with torch.no_grad():
                found = retrieval(f_x(x[n:]), f_y(y[n:])).mean_recall
        print(f"| {name} | {seconds:.2f} s | {found:.3f} |", flush=True)


# %% Curves


def point(name: str, n: int, d: int) -> str:
    """Seconds, those of the floor, and MiB of one call, in this process: run it in a fresh one."""
    ours, floor = TIMED[name]
    ours(*features(64, 32, 32))  # load everything that the first call loads
    x, y = features(n, d, d)
    seconds = []
    added = highest(lambda: seconds.append(cpu_seconds(lambda: ours(x, y))))
    return f"{seconds[0]:.2f} s | {cpu_seconds(lambda: floor(x, y)):.2f} s | {added:.0f}"


def curves(rows: tuple[int, ...], widths: tuple[int, ...], n: int, d: int) -> None:
    print("| function | pairs | width | time | floor | MiB |\n|---|--:|--:|--:|--:|--:|")
    sizes = [(m, d) for m in rows] + [(n, w) for w in widths if w != d]
    for name in [*TIMED][:-1]:  # not with ids
        for m, w in sizes:
            if name == "retrieval" and m > MOST_RANKED:
                continue  # minutes: it grows with the square
            print(f"| {name} | {m:,} | {w} | {fresh('--point', name, m, w)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a quick check, not for quoting")
    parser.add_argument("--curves", action="store_true", help="by rows and by width instead")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.memory:
        folder, head, batch_size = options.memory
        print(fit_of_files(folder, head, int(batch_size)))
    elif options.point:
        name, n, d = options.point
        print(point(name, int(n), int(d)))
    elif options.curves:
        rows, widths = ((500, 1000), (96, 192)) if options.small else (ROWS, WIDTHS)
        curves(rows, widths, rows[len(rows) // 2], widths[1])
    else:
        scale = 10 if options.small else 1
        table(scale, options.rounds)
        memory(scale)
        peers(2_000 // scale, (256, 192) if scale == 1 else (96, 80))


if __name__ == "__main__":
    main()
