"""Write the page and the figures of the study from the lines of its runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

DOCS = Path(__file__).parents[1] / "docs"
DEFAULT = "linear + STRUCTURE + noise"
Line = dict[str, Any]
Key = tuple[str, str, str | int]  # set, encoder, n
What = tuple[str, str, str]  # layers, method, moment
Gain = tuple[str, What, What]
LAST, SELECTED = "last", "selected"
NAMES = {"image_dino": "ViT-S/14", "image_effnet": "EfficientNet-Lite0"}
CLOSED = ("ridge", "cca", "csa", "procrustes", "asif")


class Results:
    """Mean recall by layers, method, moment, cell and seed."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.of: dict[What, dict[Key, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
        self.lines = list(lines)
        for line in self.lines:
            for moment in ("start", "end", "early"):
                if moment in line:
                    key = line["set"], line["encoder"], line["n"]
                    cell = self.of[line["layers"], line["method"], moment][key]
                    cell[line["seed"]] = line[moment]
        self.keys = list(self.of["selected", DEFAULT, "end"])
        self.seeds = sorted({line["seed"] for line in self.lines})
        # With all pairs a seed does not choose pairs, so the mean of two or more replaces the rest.
        for cells in self.of.values():
            for (_, _, n), cell in cells.items():
                if n == "all" and len(cell) >= 2:
                    mean = float(np.mean(list(cell.values())))
                    cell.update({s: mean for s in self.seeds if s not in cell})

    def complete(self, whats: tuple[What, ...], keys: list[Key]) -> list[int]:
        """Seeds for which all of these methods ran in every cell."""
        cells = [self.of[what].get(key, {}) for what in whats for key in keys]
        return [s for s in self.seeds if all(s in cell for cell in cells)]

    def mean(self, what: What, keep: Callable[[Key], bool]) -> tuple[float, float]:
        """Mean over cells and seeds, in percent, with the standard error over seeds."""
        keys = [key for key in self.keys if keep(key)]
        seeds = self.complete((what,), keys)
        per_seed = [100 * np.mean([self.of[what][key][s] for key in keys]) for s in seeds]
        return float(np.mean(per_seed)), error(per_seed)

    def gain(self, a: What, b: What, keep: Callable[[Key], bool]) -> tuple[float, float]:
        """Mean relative gain of a over b over cells, in percent, with its error over seeds."""
        keys = [key for key in self.keys if keep(key)]
        per_seed = [
            100 * np.mean([self.of[a][key][s] / self.of[b][key][s] - 1 for key in keys])
            for s in self.complete((a, b), keys)
        ]
        return float(np.mean(per_seed)), error(per_seed)


def error(values: list[Any]) -> float:
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def cell_filter(data: str | None = None, encoder: str | None = None, n: Any = None) -> Any:
    wanted = data, encoder, n
    return lambda key: all(w is None or w == k for w, k in zip(wanted, key, strict=True))


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def cells_table(r: Results, *, others: bool) -> str:
    """Table of every method that ran in all cells: its mean for each set and encoder."""
    columns = [(d, e) for d in dict.fromkeys(k[0] for k in r.keys) for e in NAMES]
    rows = []
    for what in sorted(r.of, key=order):
        layers, method, moment = what
        if not r.complete((what,), r.keys):
            continue
        if others and method in COMMON and (layers, method) not in BESIDE:
            continue
        if moment == "start" and method != "linear":
            continue
        name = {"end": method, "early": f"{method}, early stopping", "start": "start of linear"}
        cells = [f"{r.mean(what, cell_filter(d, e))[0]:.1f}" for d, e in columns]
        mean, se = r.mean(what, cell_filter())
        rows.append([layers, name[moment], *cells, f"{mean:.2f} ± {se:.2f}"])
    head = ["Layers", "Heads", *(f"{d}, {NAMES[e]}" for d, e in columns), "All"]
    return table(head, rows)


# For each head: without STRUCTURE, with STRUCTURE as released, with the setting of this library.
GRID = {
    "linear, random start": (
        "linear, random start",
        "linear, random start + STRUCTURE as released",
        "linear, random start + STRUCTURE",
    ),
    "linear": ("linear", "linear + STRUCTURE as released", DEFAULT),
    "residual": (
        "residual",
        "residual + STRUCTURE as released",
        "residual + STRUCTURE + noise",
    ),
    "MLP": ("MLP", "MLP + STRUCTURE as released", "MLP + STRUCTURE + noise"),
}
COMMON = (
    *CLOSED,
    *(method for methods in GRID.values() for method in methods),
    "linear + STRUCTURE",
    "linear + noise",
)
BESIDE = {("selected", "linear"), ("selected", DEFAULT)}


def order(what: What) -> tuple[Any, ...]:
    layers, method, moment = what
    return layers, method not in CLOSED, method, moment


def against(label: str, a: str, b: str, moment: str = "end", of_b: str = SELECTED) -> Gain:
    """A row of gains: a method on the selected layers, compared with another one."""
    return label, (SELECTED, a, moment), (of_b, b, moment)


GAINS = (
    against(
        "default vs. plain training, last layers, random start",
        DEFAULT,
        "linear, random start",
        of_b=LAST,
    ),
    against("default vs. plain training, last layers, CCA start", DEFAULT, "linear", of_b=LAST),
    against("default vs. plain training", DEFAULT, "linear"),
    against("default vs. plain training, early stopping", DEFAULT, "linear", "early"),
    against("STRUCTURE only vs. plain training", "linear + STRUCTURE", "linear"),
    against(
        "STRUCTURE only vs. plain training, early stopping",
        "linear + STRUCTURE",
        "linear",
        "early",
    ),
    against("noise only vs. plain training", "linear + noise", "linear"),
    against("default vs. noise only", DEFAULT, "linear + noise"),
    against("default vs. STRUCTURE only", DEFAULT, "linear + STRUCTURE"),
    against("residual head, STRUCTURE and noise vs. plain training", *GRID["residual"][::-2]),
    against("MLP head, STRUCTURE and noise vs. plain training", *GRID["MLP"][::-2]),
    against("random start, STRUCTURE vs. plain training", *GRID["linear, random start"][::-2]),
    against("STRUCTURE as released vs. plain training", *GRID["linear"][1::-1]),
)
OTHER_GAINS = (
    against("STRUCTURE of all frozen neighbourhoods", "linear + STRUCTURE of all", "linear"),
    against("STRUCTURE of the shared neighbourhoods", "linear + STRUCTURE", "linear"),
    against("full released training", "released + STRUCTURE", "released"),
    (
        "full released training, last layers",
        (LAST, "released + STRUCTURE", "end"),
        (LAST, "released", "end"),
    ),
)


def grid_table(r: Results) -> str:
    """Table of layers, heads and terms: mean recall at the end, and with early stopping."""
    rows = []
    for layers in (LAST, SELECTED):
        for head, methods in GRID.items():
            cells = []
            for method in methods:
                end, early = (
                    r.mean((layers, method, moment), cell_filter()) for moment in ("end", "early")
                )
                cells.append(f"{end[0]:.2f} ± {end[1]:.2f} ({early[0]:.2f})")
            rows.append([layers, head, *cells])
    return table(["Layers", "Head", "Plain", "STRUCTURE as released", "STRUCTURE, ours"], rows)


def gains_table(r: Results, *, others: bool) -> str:
    """Table of the gains from selected layers, STRUCTURE and noise, for each set and encoder."""
    rows = []
    for label, a, b in OTHER_GAINS if others else GAINS:
        if not r.complete((a, b), r.keys):
            continue
        cells = []
        for d in dict.fromkeys(k[0] for k in r.keys):
            for e in NAMES:
                mean, se = r.gain(a, b, cell_filter(d, e))
                cells.append(f"{mean:+.0f} ± {se:.0f}")
        rows.append([label, *cells])
    columns = [f"{d}, {NAMES[e]}" for d in dict.fromkeys(k[0] for k in r.keys) for e in NAMES]
    return table(["Gain, %", *columns], rows)


def advantage_table(r: Results) -> str:
    """Table of the default compared with each closed form on the same layers."""
    default = SELECTED, DEFAULT, "end"
    sizes = list(dict.fromkeys(k[2] for k in r.keys))
    sides = list(dict.fromkeys(k[:2] for k in r.keys))
    rows = []
    for method in CLOSED:
        other = SELECTED, method, "end"
        of_size = [f"{r.gain(default, other, cell_filter(n=n))[0]:+.0f}" for n in sizes]
        of_side = [r.gain(default, other, cell_filter(*side))[0] for side in sides]
        mean, se = r.gain(default, other, cell_filter())
        points = [
            100 * np.mean([r.of[default][k][s] - r.of[other][k][s] for k in r.keys])
            for s in r.seeds
        ]
        won = sum(
            np.mean(list(r.of[default][k].values())) > np.mean(list(r.of[other][k].values()))
            for k in r.keys
        )
        rows.append(
            [
                method,
                *of_size,
                f"{mean:+.1f} ± {se:.1f}",
                f"{min(of_side):+.0f} to {max(of_side):+.0f}",
                f"{np.mean(points):+.2f} ± {error(points):.2f}",
                f"{won} of {len(r.keys)}",
            ]
        )
    head = ["Gain over", *(f"n = {n}, %" for n in sizes), "Mean, %", "Sets and encoders, %"]
    return table([*head, "Points", "Cells won"], rows)


def draw_sizes(r: Results, path: Path) -> None:
    sets = list(dict.fromkeys(k[0] for k in r.keys))
    sizes = list(dict.fromkeys(k[2] for k in r.keys))
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.6), layout="constrained")
    shown = (
        (("selected", DEFAULT, "end"), "selected + STRUCTURE and noise", "tab:orange", "-"),
        (("selected", "linear", "end"), "selected, plain", "tab:blue", "-"),
        (("last", "linear, random start", "end"), "last, plain", "tab:gray", "-"),
        (("selected", "ridge", "end"), "ridge", "tab:green", ":"),
        (("selected", "csa", "end"), "CSA", "tab:purple", ":"),
    )
    for ax, (d, e) in zip(axes, [(d, e) for d in sets for e in NAMES], strict=True):
        for what, label, color, style in shown:
            points = [r.mean(what, cell_filter(d, e, n)) for n in sizes]
            ax.errorbar(
                range(len(sizes)),
                [p[0] for p in points],
                [p[1] for p in points],
                label=label,
                color=color,
                linestyle=style,
                capsize=2,
            )
        ax.set_xticks(range(len(sizes)), sizes)
        ax.set(title=f"{d}, {NAMES[e]}", xlabel="pairs")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("mean recall on test, %")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_curves(r: Results, path: Path) -> None:
    sets = list(dict.fromkeys(k[0] for k in r.keys))
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.2), layout="constrained", sharey=True)
    for ax, (d, e) in zip(axes, [(d, e) for d in sets for e in NAMES], strict=True):
        for method, label, color in (
            (DEFAULT, "STRUCTURE and noise", "tab:orange"),
            ("linear + STRUCTURE", "STRUCTURE", "tab:green"),
            ("linear", "neither", "tab:blue"),
        ):
            curves = [
                np.array(line["curve"]) / line["curve"][0]
                for line in r.lines
                if (line["set"], line["encoder"], line["layers"], line["method"])
                == (d, e, "selected", method)
            ]
            ax.plot(np.linspace(0, 1, len(curves[0])), np.mean(curves, 0), color=color, label=label)
        ax.axhline(1, color="tab:gray", linewidth=0.8)
        ax.set(title=f"{d}, {NAMES[e]}", xlabel="share of training")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("mean recall on test / at the start")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def of_all_methods(lines: list[Line]) -> list[Line]:
    """Keep the lines of those numbers of pairs and seeds for which every method ran."""
    ran: dict[tuple[Any, Any], set[tuple[str, ...]]] = defaultdict(set)
    for line in lines:
        what = line["set"], line["encoder"], line["layers"], line["method"]
        ran[line["n"], line["seed"]].add(what)
    most = max(map(len, ran.values()))
    return [line for line in lines if len(ran[line["n"], line["seed"]]) == most]


def write_page(lines: list[Line]) -> None:
    some = Results(of_all_methods(lines))
    r = Results([line for line in lines if line["method"] in COMMON])
    draw_sizes(r, DOCS / "study_sizes.png")
    draw_curves(r, DOCS / "study_curves.png")
    page = (Path(__file__).parent / "study_tables.md").read_text()
    for name, text in (
        ("SEEDS", str(len(r.seeds))),
        ("GAINS", gains_table(r, others=False)),
        ("ADVANTAGE", advantage_table(r)),
        ("GRID", grid_table(r)),
        ("CELLS", cells_table(r, others=False)),
        ("SOME", ", ".join(str(n) for n in dict.fromkeys(key[2] for key in some.keys))),
        ("SOME_SEEDS", str(len(some.seeds))),
        ("OTHER_GAINS", gains_table(some, others=True)),
        ("OTHERS", cells_table(some, others=True)),
    ):
        page = page.replace(f"@{name}@", text)
    (DOCS / "study_tables.md").write_text(page)
