"""Seeded fuzz of the public functions against the float64 definitions of tests/oracles*.py.

    python tests/fuzz.py --cases 10000 --seed 0

Every case follows from its seed and its number alone: ``--first 4711 --cases 1`` repeats one.

A value passes if it is that of inputs that differ from the given ones by a few roundings. With
u the unit roundoff of the dtype that the function computes in, the oracle is evaluated at the
inputs f(x), and at a few inputs x + u s ξ, with ξ normal and s the size of what a row or a column
is compared with (`SIZES`). The tolerance is

    FACTOR * (max |f(x + u s ξ) - f(x)| + u (1 + max |f(x)|)),

which is the conditioning of the case and never depends on the value found. Where it exceeds LOOSE
times the value, the case is ill-posed: then only the range is checked, and a NaN is allowed.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any

import numpy as np
import oracles
import oracles_cka
import oracles_evaluation
import oracles_heads
import oracles_neighbours
import torch
from array_kinds import KINDS
from contract import PROMISES, log_rows, one_set, square, two_widths, unpaired
from numpy.typing import NDArray
from torch import Tensor

import structure_reg as sr
from structure_reg.heads.spectra import SMALLEST_VARIANCE

Array = NDArray[np.float64]
Rng = np.random.Generator

FACTOR = 64
LOOSE = 0.1
PERTURBATIONS = 4
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ARRAY_KINDS = ("array", "backwards", "big-endian", "lists", "fortran", "list of tensors")


# Features


def normal(rng: Rng, n: int, d: int) -> Array:
    return rng.standard_normal((n, d))


def low_rank(rng: Rng, n: int, d: int) -> Array:
    r = int(rng.integers(1, max(2, min(n, d))))
    return normal(rng, n, r) @ normal(rng, r, d)


def scaled(rng: Rng, n: int, d: int) -> Array:
    return normal(rng, n, d) * 10.0 ** rng.integers(-6, 7)


def offset(rng: Rng, n: int, d: int) -> Array:
    return normal(rng, n, d) + 10.0 ** rng.integers(0, 5) * normal(rng, 1, d)


def units(rng: Rng, n: int, d: int) -> Array:
    return normal(rng, n, d) * 10.0 ** rng.uniform(-4, 4, d)


def one_hot(rng: Rng, n: int, d: int) -> Array:
    return np.eye(d)[rng.integers(0, d, n)]


def duplicates(rng: Rng, n: int, d: int) -> Array:
    return normal(rng, n, d)[rng.integers(0, max(1, n // 2), n)]


def constant_column(rng: Rng, n: int, d: int) -> Array:
    x = normal(rng, n, d)
    x[:, 0] = rng.choice([0.0, 0.1, 1000.3])
    return x


def collapsed(rng: Rng, n: int, d: int) -> Array:
    return np.repeat(normal(rng, 1, d), n, 0)


def zero_rows(rng: Rng, n: int, d: int) -> Array:
    x = normal(rng, n, d)
    x[rng.random(n) < 0.3] = 0
    return x


def huge_row(rng: Rng, n: int, d: int) -> Array:
    x = normal(rng, n, d)
    x[rng.integers(n)] *= 10.0 ** rng.integers(2, 5)
    return x


def heavy_tails(rng: Rng, n: int, d: int) -> Array:
    return rng.standard_t(1.2, (n, d))


DATA = (
    normal,
    normal,
    low_rank,
    scaled,
    offset,
    units,
    one_hot,
    duplicates,
    constant_column,
    collapsed,
    zero_rows,
    huge_row,
    heavy_tails,
)


def rounded(x: Array, dtype: torch.dtype) -> Tensor:
    largest = torch.finfo(dtype).max / 4
    return torch.from_numpy(np.clip(x, -largest, largest)).to(dtype)


def table(rng: Rng, n: int, d: int, dtype: torch.dtype) -> Tensor:
    return rounded(DATA[rng.integers(len(DATA))](rng, n, d), dtype)


def related(rng: Rng, x: Tensor, d: int, dtype: torch.dtype) -> Tensor:
    """Half of the time a noisy linear map of x, as the other side of a pair is."""
    if rng.random() < 0.5:
        return table(rng, len(x), d, dtype)
    a = x.double().numpy() / (x.double().abs().max().item() or 1)
    return rounded(a @ normal(rng, a.shape[1], d) + 0.1 * normal(rng, len(a), d), dtype)


# What an entry is compared with, which its rounding is relative to.


def of_row(x: Array) -> Array:
    return np.abs(x).max(1, keepdims=True)


def of_column(x: Array) -> Array:
    return np.abs(x).max(0, keepdims=True)


def around_median(x: Array) -> Array:
    return np.abs(x - np.median(x, 0)).max(1, keepdims=True)


def of_all(x: Array) -> Array:
    return np.abs(x).max(keepdims=True)


Size = Callable[[Array], Array]


@dataclass(frozen=True)
class Case:
    """One call and what it has to return.

    `call` takes arrays of any kind, `oracle` the same numbers in float64; both return arrays.
    """

    function: str
    call: Callable[..., Any]
    tensors: tuple[Tensor, ...]
    oracle: Callable[..., Any] | None = None  # None: the range alone
    options: str = ""
    size: Size = of_row
    low: float = -inf
    high: float = inf
    arrays: bool = True
    refuses: type[Exception] | None = None  # has to raise it
    may_refuse: bool = False
    nan: bool = False  # has to be NaN
    spreads_nan: bool = False  # holds a NaN, which has to show
    may_be_nan: bool = False
    gradient: tuple[int, ...] = ()
    unit: float = 1.0  # absolute size of a rounding, where the value itself is small


Draw = Callable[[Rng], Case]


class Failure(AssertionError):  # noqa: N818 - it is a finding, not an error
    """What a case got in place of what was promised."""


# Drawing options and shapes


def draw_shape(rng: Rng, least: int = 2, most: int = 60) -> tuple[int, int, int]:
    n = int(rng.integers(least, most + 1)) if rng.random() < 0.7 else int(rng.integers(least, 9))
    widths = rng.integers(1, 31, 2) if rng.random() < 0.7 else rng.integers(1, 4, 2)
    return n, int(widths[0]), int(widths[1])


def draw_dtypes(rng: Rng, count: int) -> list[torch.dtype]:
    if rng.random() < 0.15:
        return [DTYPES[i] for i in rng.integers(0, 4, count)]
    return [DTYPES[rng.integers(4)]] * count


def log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def some(rng: Rng, options: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Each option half of the time; else its default."""
    return {name: draw() for name, draw in options.items() if rng.random() < 0.5}


def pick(rng: Rng, *values: Any) -> Any:
    return values[rng.integers(len(values))]


def draw_options(rng: Rng, name: str, n: int) -> dict[str, Any]:
    """Options of a function of the table, over their documented ranges."""
    temperature = {"temperature": lambda: log_uniform(rng, 3e-3, 100)}
    centering = {"centering": lambda: pick(rng, "after", "before", "none")}
    reduction = {"reduction": lambda: pick(rng, "mean", "sum", "none")}
    ids = {"ids": lambda: torch.from_numpy(rng.integers(0, max(1, n // 2) + 1, n))}
    scale = {"logit_scale": lambda: log_uniform(rng, 1e-2, 100)}
    epsilon = partial(log_uniform, rng, 0.03, 3)
    k = {"k": lambda: int(rng.integers(1, min(n - 1, 5) + 1))}
    ranges: dict[str, dict[str, Callable[[], Any]]] = {
        "structure_loss": {
            **temperature,
            **centering,
            **reduction,
            "levels": lambda: int(rng.integers(1, 6)),
            "divergence": lambda: pick(rng, "js", "reverse_js"),
        },
        "clip_loss": {
            **scale,
            **ids,
            **reduction,
            "label_smoothing": lambda: pick(rng, 0.0, 0.1, float(rng.uniform(0, 1)), 0.999),
        },
        "siglip_loss": {
            **scale,
            **ids,
            **reduction,
            "logit_bias": lambda: float(rng.uniform(-20, 20)),
        },
        "klot_loss": {
            "epsilon": epsilon,
            "teacher_epsilon": epsilon,
            "iterations": lambda: int(rng.integers(1, 60)),
        },
        "cosine_kernel": centering,
        "log_transition_matrix": temperature,
        "cka": {
            "kernel": lambda: pick(rng, "linear", "rbf"),
            "debiased": lambda: bool(rng.random() < 0.5),
        },
        "rsa": {"correlation": lambda: pick(rng, "pearson", "spearman")},
        "structure_diagnostics": {**temperature, **centering},
        "alignment": {"alpha": lambda: log_uniform(rng, 0.1, 8)},
        "uniformity": {"t": lambda: log_uniform(rng, 1e-2, 20)},
    }
    ranges |= {f"{rule}_knn": k for rule in ("mutual", "jaccard", "cycle", "lcs", "edit")}
    options = some(rng, ranges.get(name, {}))
    if name.endswith("_knn"):
        options.setdefault("k", min(n - 1, 4))  # the oracles try all lists: short ones only
    return options


# The table of promises


def draw_inputs(rng: Rng, name: str, n: int, d: int, e: int) -> tuple[Tensor, ...]:
    inputs = PROMISES[name].inputs
    dtypes = draw_dtypes(rng, 4)
    if inputs is square:
        return (rounded(10.0 ** rng.integers(-3, 2) * normal(rng, n, n), dtypes[0]),)
    if inputs is log_rows:
        spread = 10.0 ** rng.integers(-2, 2)
        rows = (torch.from_numpy(spread * normal(rng, n, d)).log_softmax(-1) for _ in range(2))
        dtype = torch.promote_types(dtypes[0], torch.float32)
        return tuple(row.to(dtype) for row in rows)
    x = table(rng, n, d, dtypes[0])
    if inputs is one_set:
        return (x,)
    if inputs is unpaired:
        m = int(rng.integers(2, 30))
        y = table(rng, m, d, dtypes[1])
        return x, y, table(rng, n, e, dtypes[2]), table(rng, m, e, dtypes[3])
    return x, related(rng, x, e if inputs is two_widths else d, dtypes[1])


DISTANCES = ("cka", "rv", "procrustes", "rsa")


def least_rows(name: str, options: dict[str, Any]) -> int:
    if name == "cka":
        return 4 if options.get("debiased", True) else 2
    known = {"rsa": 3, "cosine_kernel": 1, "log_transition_matrix": 1, "alignment": 1}
    known |= {"modality_gap": 1, "js_divergence": 1, "reverse_js_divergence": 1}
    return known.get(name, 2)


def of_promise(name: str, rng: Rng) -> Case:
    promise = PROMISES[name]
    n, d, e = draw_shape(rng)
    options = draw_options(rng, name, n)
    tensors = draw_inputs(rng, name, n, d, e)
    call = partial(getattr(sr, name), **options)
    common: dict[str, Any] = {
        "function": name,
        "call": call,
        "tensors": tensors,
        "options": str(options),
        "arrays": promise.arrays,
    }
    if promise.bad_options and rng.random() < 0.03:
        bad, error = promise.bad_options[rng.integers(len(promise.bad_options))]
        if not (set(bad) & {"k", "ids"}):  # whose bounds depend on n
            call = partial(getattr(sr, name), **{**options, **bad})
            return Case(**{**common, "call": call, "options": str(bad), "refuses": error})
    if n < least_rows(name, options):
        return Case(**common, refuses=ValueError)
    low, high = promise.bounds(options, n)
    if name == "cka" and not options.get("debiased", True):
        low = 0.0
    if name == "cosine_kernel" and options.get("centering", "after") == "after":
        low, high = -4.0, 4.0
    constant = any(bool((x == x[0]).all()) for x in tensors)
    if promise.inputs in (log_rows, square):
        size: Size = of_all if promise.inputs is square else np.ones_like
    else:
        size = around_median if name in DISTANCES else of_row
    if name.endswith("_knn"):
        oracle = lists_oracle(promise.oracle, tensors, options["k"], ordered=name[0] in "le")
        shared = any(shares_direction(x) for x in tensors)
        return Case(**common, oracle=oracle, low=low, high=high, may_be_nan=shared, size=size)
    plain = {k: v.numpy() if isinstance(v, Tensor) else v for k, v in options.items()}
    few_widths = promise.gradient and name not in (*DISTANCES, "klot_loss")
    return Case(
        **common,
        oracle=partial(promise.oracle, **plain),
        size=size,
        low=low,
        high=high,
        nan=name in DISTANCES and constant,
        may_be_nan=name == "structure_diagnostics" and constant,
        gradient=promise.gradient if few_widths and rng.random() < 0.2 else (),
    )


# Lists of neighbours are determined where what is next to one another differs by more than rounding


def precision(tensors: Sequence[Tensor]) -> float:
    """Machine epsilon of the dtype that a function of the tensors computes in."""
    dtype = torch.float32
    for x in tensors:
        dtype = torch.promote_types(dtype, x.dtype)
    return torch.finfo(dtype).eps


def shares_direction(x: Tensor) -> bool:
    u = oracles.unit_rows(x.double().numpy())
    return bool(np.abs(u - u[0]).max() <= 64 * torch.finfo(torch.float32).eps)


def lists_are_clear(scores: Array, k: int, eps: float, *, ordered: bool) -> bool:
    """Whether no rounding changes the k largest entries of a row, or their order."""
    ranked = -np.sort(-scores, 1)[:, : k + 1]
    gaps = -np.diff(ranked, axis=1)
    gaps = gaps if ordered else gaps[:, k - 1 : k]
    return bool((gaps > FACTOR * eps).all())


def lists_oracle(
    oracle: Callable[..., Any], tensors: Sequence[Tensor], k: int, *, ordered: bool
) -> Callable[..., Any] | None:
    eps = precision(tensors)
    for x in tensors:
        cosines = oracles_neighbours.cosines(x.double().numpy())
        others = cosines[~np.eye(len(cosines), dtype=bool)].reshape(len(cosines), -1)
        if not lists_are_clear(others, k, eps, ordered=ordered):
            return None
    return partial(oracle, k=k)


# Similarities without a row in the table


def draw_pair(rng: Rng, least: int = 2, most: int = 60) -> tuple[Tensor, Tensor]:
    n, d, e = draw_shape(rng, least, most)
    dtypes = draw_dtypes(rng, 2)
    x = table(rng, n, d, dtypes[0])
    return x, related(rng, x, e, dtypes[1])


def torch_oracle(oracle: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return lambda *arrays: oracle(*map(torch.from_numpy, arrays), **options)


def is_full_rank(x: Tensor, eps: float) -> bool:
    """Whether the directions of columns of unit length are all far above rounding."""
    z = x.double().numpy()
    length = np.linalg.norm(z, axis=0)
    z = (z - z.mean(0)) / np.where(length == 0, 1, length)
    s = np.linalg.svd(z, compute_uv=False)
    return len(s) == z.shape[1] < len(z) and bool(s[-1] > 1e4 * eps)


def canonical(name: str, rng: Rng) -> Case:
    x, y = draw_pair(rng)
    keep = int(rng.integers(1, 6)) if rng.random() < 0.5 else float(rng.uniform(0.3, 1))
    options = {"keep": keep} if name == "svcca" else {}
    clear = all(is_full_rank(z, precision((x, y))) for z in (x, y))
    constant = any(bool((z == z[0]).all()) for z in (x, y))
    return Case(
        name,
        partial(getattr(sr, name), **options),
        (x, y),
        torch_oracle(getattr(oracles_cka, name), **options) if clear else None,
        str(options),
        size=of_column,
        low=0.0,
        high=1.0,
        nan=constant,
        may_be_nan=constant,
    )


def cknna(rng: Rng) -> Case:
    x, y = draw_pair(rng, least=4)
    k = int(rng.integers(1, min(len(x) - 1, 9) + 1))
    close = k > len(x) // 2  # then the denominator may vanish, as documented
    return Case(
        "cknna",
        partial(sr.cknna, k=k),
        (x, y),
        lists_oracle(oracles_neighbours.cknna, (x, y), k, ordered=False),
        f"k={k}",
        may_be_nan=close or any(map(shares_direction, (x, y))),
    )


def tie_fraction(rng: Rng) -> Case:
    x, _ = draw_pair(rng, least=3)
    k = int(rng.integers(1, len(x) - 1))
    cosines = oracles_neighbours.cosines(x.double().numpy())
    others = cosines[~np.eye(len(x), dtype=bool)].reshape(len(x), -1)
    ranked = -np.sort(-others, 1)
    gaps = ranked[:, k - 1] - ranked[:, k]
    clear = ((gaps < 1e-15) | (gaps > FACTOR * precision((x,)))).all()
    share = float((gaps < 1e-15).mean())
    oracle = (lambda _: share) if clear else None
    return Case("tie_fraction", partial(sr.tie_fraction, k=k), (x,), oracle, f"{k=}", high=1, low=0)


def streaming(name: str, rng: Rng) -> Case:
    x, y = draw_pair(rng, least=8)
    cut = int(rng.integers(4, len(x) - 3))
    whole = name == "CKA"

    def call(x: Any, y: Any) -> Tensor:
        metric = getattr(sr, name)()
        metric.update(x[:cut], y[:cut])
        metric.update(x[cut:], y[cut:])
        result: Tensor = metric.compute()
        return result

    def oracle(x: Array, y: Array) -> float:
        a, b = torch.from_numpy(x), torch.from_numpy(y)
        if whole:
            return oracles_cka.cka(a, b)
        return oracles_cka.minibatch_cka([(a[:cut], b[:cut]), (a[cut:], b[cut:])])

    constant = any(bool((z[rows] == z[0]).all()) for z in (x, y) for rows in (slice(cut), slice(0)))
    return Case(
        name, call, (x, y), oracle, f"{cut=}", size=around_median, may_be_nan=constant, arrays=False
    )


# Evaluation


def is_clear(scores: Array, eps: float) -> bool:
    """Whether scores are either equal, or further apart than rounding."""
    gaps = np.diff(np.sort(scores, 1), axis=1)
    return bool(((gaps < 1e-13) | (gaps > max(FACTOR * eps, 1e-8))).all())


def few_orders(scores: Array, most: int = 4) -> bool:
    """Whether the oracles can try every order of what is tied."""
    return all(
        np.unique(row.round(9), return_counts=True)[1].max() <= most for row in scores
    ) and bool(max((np.unique(r.round(9), return_counts=True)[1] > 1).sum() for r in scores) <= 3)


def draw_ks(rng: Rng, most: int) -> tuple[int, ...]:
    return tuple(sorted({int(k) for k in rng.integers(1, most + 1, 3)}))


def flat(direction: Any) -> Tensor:
    head, tail = direction[1:4], direction[4:]
    return torch.cat([*(z.double() for z in head), *(z.double()[None] for z in tail)])


def retrieval(rng: Rng) -> Case:
    n, d, _ = draw_shape(rng, 1, 24)
    dtypes = draw_dtypes(rng, 2)
    x = table(rng, n, d, dtypes[0])
    y = related(rng, x, d, dtypes[1])
    ids = rng.integers(0, n, n) if rng.random() < 0.5 else np.arange(n)
    ks = draw_ks(rng, n + 3)
    scores = oracles.unit_rows(x.double().numpy()) @ oracles.unit_rows(y.double().numpy()).T
    eps = precision((x, y))
    clear = all(is_clear(s, eps) and few_orders(s) for s in (scores, scores.T))

    def oracle(x: Array, y: Array) -> Array:
        sides = ((x, y), (y, x))
        return np.concatenate([oracles_evaluation.retrieval(*s, ids, ids, ks) for s in sides])

    def call(x: Any, y: Any) -> Tensor:
        return torch.cat([flat(d) for d in sr.retrieval(x, y, ids=ids, ks=ks)])

    return Case("retrieval", call, (x, y), oracle if clear else None, f"{ks=} {ids=}", low=0)


def zero_shot(rng: Rng) -> Case:
    n, d, c = draw_shape(rng, 1, 24)
    dtypes = draw_dtypes(rng, 2)
    x, classes = table(rng, n, d, dtypes[0]), table(rng, c, d, dtypes[1])
    labels = rng.integers(0, c, n)
    ks = draw_ks(rng, c)
    u, w = (oracles.unit_rows(z.double().numpy()) for z in (x, classes))
    scores = u @ w.T
    clear = is_clear(scores, precision((x, classes))) and few_orders(scores)

    def oracle(x: Array, classes: Array) -> Array:
        return np.concatenate(
            [np.ravel(v) for v in oracles_evaluation.zero_shot(x, classes, labels, ks)]
        )

    def call(x: Any, classes: Any) -> Tensor:
        found = sr.zero_shot(x, classes, labels, ks=ks)
        return torch.cat([found.accuracy, found.mean_per_class, found.macro_f1[None]])

    return Case(
        "zero_shot",
        call,
        (x, classes),
        oracle if clear else None,
        f"{ks=} {labels=}",
        low=0,
        high=1,
    )


def swapped(oracle: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, y: oracle(y, x)


def neighbourhood(name: str, rng: Rng) -> Case:
    x, y = draw_pair(rng, 3, 16)
    k, metric = int(rng.integers(1, len(x) - 1)), pick(rng, "euclidean", "cosine")
    clear = True
    for z in (x, y):
        distance = oracles_evaluation.distances(z.double().numpy(), metric)
        others = -distance[~np.eye(len(x), dtype=bool)].reshape(len(x), -1)
        largest = np.abs(z.double().numpy()).max() if metric == "euclidean" else 1
        gaps = np.diff(np.sort(others, 1), axis=1)
        clear &= bool((gaps > 1e-7 * max(largest, 1e-300)).all())
    oracle = partial(oracles_evaluation.trustworthiness, k=k, metric=metric)
    if name == "continuity":
        oracle = swapped(oracle)
    if name == "neighbourhood_overlap":
        oracle = partial(oracles_evaluation.neighbourhood_overlap, k=k, metric=metric)
    call = partial(getattr(sr, name), k=k, metric=metric)
    return Case(
        name, call, (x, y), oracle if clear else None, f"{k=} {metric=}", low=0, high=1, size=of_all
    )


def search(rng: Rng) -> Case:
    n, d, m = draw_shape(rng, 1)
    dtypes = draw_dtypes(rng, 2)
    queries, gallery = table(rng, n, d, dtypes[0]), table(rng, m, d, dtypes[1])
    k = int(rng.integers(1, m + 1))
    u, w = (oracles.unit_rows(z.double().numpy()) for z in (queries, gallery))

    def oracle(queries: Array, gallery: Array) -> Array:
        cosines = oracles.unit_rows(queries) @ oracles.unit_rows(gallery).T
        best = -np.sort(-cosines, 1)[:, :k]
        return np.stack([best, best])

    def call(queries: Any, gallery: Any) -> Tensor:
        scores, indices = sr.search(queries, gallery, k=k)
        if any(len(set(row)) < k for row in indices.tolist()):
            raise Failure("a gallery row was found twice")
        cosines = torch.from_numpy(u @ w.T).gather(1, indices)
        return torch.stack([scores, cosines.to(scores)])

    return Case("search", call, (queries, gallery), oracle, f"{k=}", low=-1, high=1)


def local_scaling(rng: Rng) -> Case:
    n, d, m = draw_shape(rng, 1)
    dtypes = draw_dtypes(rng, 2)
    k = int(rng.integers(1, m + 1))
    tensors = table(rng, n, d, dtypes[0]), table(rng, m, d, dtypes[1])
    oracle = partial(oracles_evaluation.local_scaling, k=k)
    call = partial(sr.local_scaling, k=k)
    return Case("local_scaling", call, tensors, oracle, f"{k=}", low=-1, high=1)


def class_embeddings(rng: Rng) -> Case:
    c, d, t = draw_shape(rng, 1, 12)
    prompts = table(rng, c * t, d, draw_dtypes(rng, 1)[0])

    def oracle(prompts: Array) -> Array:
        return oracles.unit_rows(oracles.unit_rows(prompts).reshape(c, t, d).mean(1))

    def call(prompts: Tensor) -> Tensor:
        return sr.class_embeddings(prompts.reshape(c, t, d))

    return Case("class_embeddings", call, (prompts,), oracle, f"{t=}", low=-1, high=1, arrays=False)


def temperature_for_perplexity(rng: Rng) -> Case:
    n, d, _ = draw_shape(rng)
    x = table(rng, n, d, draw_dtypes(rng, 1)[0])
    perplexity = float(rng.uniform(1.001, n - 1e-3 * n))
    centering = pick(rng, "after", "before", "none")

    def call(x: Any) -> Tensor:
        temperature = sr.temperature_for_perplexity(x, perplexity, centering=centering)
        if not 0 < temperature < inf:
            raise Failure(f"temperature {temperature}")
        numbers = np.asarray(torch.as_tensor(x_numbers), np.float64)
        reached = oracles.perplexity(numbers, temperature, centering)
        return torch.tensor(reached / perplexity, dtype=torch.float64)

    x_numbers = x.double()
    distinct = len(np.unique(x_numbers.numpy(), axis=0)) == n
    return Case(
        "temperature_for_perplexity",
        call,
        (x,),
        (lambda _: 1.0) if distinct else None,
        f"{perplexity=} {centering=}",
        may_refuse=True,
        unit=1e-3 / (FACTOR * precision((x,)) / 2),  # found to a thousandth, or refused
        arrays=False,
    )


# Heads

Scores = Callable[..., Array]
# Closed forms may start from moments, whose squares lose digits down to this conditioning.
MOMENTS = 1 / SMALLEST_VARIANCE


def varying(train: Array, test: Array, standardise: bool) -> tuple[Array, Array]:
    """Centred columns, of those that vary; penalties are relative to these alone."""
    varies = (train != train[0]).any(0)
    train, test = train[:, varies], test[:, varies]
    scale = train.std(0) if standardise else 1.0
    return (train - train.mean(0)) / scale, (test - train.mean(0)) / scale


def head_scores(name: str, options: dict[str, Any], standardise: bool) -> Scores:
    definition = getattr(oracles_heads, f"{name.removeprefix('fit_')}_scores")

    def scores(x: Array, y: Array, x_test: Array, y_test: Array) -> Array:
        x, x_test = varying(x, x_test, standardise)
        y, y_test = varying(y, y_test, standardise)
        if not (x.size and y.size):
            return np.zeros((len(x_test), len(y_test)))
        return np.asarray(definition(x, y, x_test, y_test, **options))

    return scores


def anchors_are_clear(x: Tensor, test: Tensor, k: int, standardise: bool) -> bool:
    """Whether rounding decides nowhere which k anchors represent a row."""
    anchors, rows = varying(x.double().numpy(), test.double().numpy(), standardise)
    cosines = np.maximum(0, oracles_heads.cosines(rows, anchors))  # those below count as 0
    ranked = -np.sort(-cosines, 1)
    kth, following = ranked[:, k - 1], ranked[:, k] if k < len(x) else np.zeros(len(rows))
    return bool(((following == 0) | (kth - following > 1e-4)).all())


def closed_form(name: str, rng: Rng) -> Case:
    x, y = draw_pair(rng)
    n, most = len(x), min(len(x) - 1, x.shape[1], y.shape[1])
    varied = [int((z != z[0]).any(0).sum()) for z in (x, y)]
    test_rows = [table(rng, 5, z.shape[1], z.dtype) * 0.5 + z[:1] for z in (x, y)]
    test_rows = [t.clamp(-6e4, 6e4) for t in test_rows]
    standardise = bool(rng.random() < 0.5)
    dim = int(rng.integers(1, most + 1))
    ridge = pick(rng, 0.01, 1.0, log_uniform(rng, 1e-3, 100))
    power = pick(rng, 0.5, 1.0, 2.0)
    options: dict[str, Any] = {
        "fit_ridge": {"ridge": ridge},
        "fit_cca": {"ridge": ridge, "dim": dim, "power": power},
        "fit_csa": {"ridge": ridge, "dim": dim, "power": power},
        "fit_procrustes": {"dim": dim},
        "fit_asif": {"k": int(rng.integers(1, n + 1)), "power": power},
    }[name]
    moments = name in ("fit_ridge", "fit_cca", "fit_csa") and rng.random() < 0.3

    def call(x: Any, y: Any, x_test: Any, y_test: Any) -> Tensor:
        fit = getattr(sr, name)
        pairs = (sr.PairMoments().update(x, y),) if moments else (x, y)
        f, g = fit(*pairs, standardise=standardise, **options)
        dtype = next(iter(f.state_dict().values())).dtype
        x_test, y_test = (torch.as_tensor(z).to(dtype) for z in (x_test, y_test))
        with torch.no_grad():
            a, b = f(x_test).double(), g(y_test).double()
        u, v = (oracles.unit_rows(z.numpy()) for z in (a, b))
        if not (a.isfinite().all() and b.isfinite().all()):
            raise Failure("outputs are not finite")
        return torch.from_numpy(u @ v.T).to(dtype)

    clear = dim < min(*varied, n - 1) or name in ("fit_ridge", "fit_asif")
    if name == "fit_asif":
        clear = all(
            anchors_are_clear(z, t, options["k"], standardise)
            for z, t in zip((x, y), test_rows, strict=True)
        )
    return Case(
        name,
        call,
        (x, y, *test_rows),
        head_scores(name, options, standardise) if clear and all(varied) else None,
        f"{options} {standardise=} {moments=}",
        size=of_column,
        low=-1,
        high=1,
        arrays=False,
        unit=max(1.0, MOMENTS * torch.finfo(torch.float64).eps / precision((x, y))),
    )


def pair_moments(rng: Rng) -> Case:
    x, y = draw_pair(rng)
    cut = int(rng.integers(1, len(x)))

    def call(x: Any, y: Any) -> Tensor:
        m = sr.PairMoments().update(x[:cut], y[:cut])
        m = m.merge(sr.PairMoments().update(x[cut:], y[cut:]))
        return torch.cat([v.flatten() for v in (m.mean_x, m.mean_y, m.M_xx, m.M_xy, m.M_yy)])

    def oracle(x: Array, y: Array) -> Array:
        X, Y = x - x.mean(0), y - y.mean(0)
        parts = (x.mean(0), y.mean(0), X.T @ X, X.T @ Y, Y.T @ Y)
        return np.concatenate([np.ravel(part) for part in parts])

    tensors = (x.double(), y.double())
    return Case(
        "PairMoments", call, tensors, oracle, f"{cut=}", size=of_all, unit=0.0, arrays=False
    )


# Layers and the aligner


def layer_similarity(rng: Rng) -> Case:
    x, y = draw_pair(rng)
    k = int(rng.integers(1, min(len(x) - 1, 9) + 1))
    name = pick(rng, "mutual_knn", "jaccard_knn", "cycle_knn")

    def call(x: Any, y: Any) -> Tensor:
        return sr.layer_similarity([x, y], {"last": y, "first": x}, metric=name, k=k)[0, 0]

    oracle = lists_oracle(getattr(oracles_neighbours, name), (x, y), k, ordered=False)
    shared = any(map(shares_direction, (x, y)))
    return Case(
        "layer_similarity", call, (x, y), oracle, f"{name} {k=}", low=0, high=1, may_be_nan=shared
    )


def select_layers(rng: Rng) -> Case:
    x, y = draw_pair(rng, least=8)
    permutations = int(rng.integers(1, 12))
    metric = pick(rng, "mutual_knn", "cka", "rv", "cycle_knn", "procrustes")

    def call(x: Any, y: Any) -> Tensor:
        found = sr.select_layers([x], [y], metric=metric, permutations=permutations)
        if not 1 / (permutations + 1) - 1e-9 <= found.p_value <= 1:
            raise Failure(f"p_value {found.p_value}")
        return found.scores[0, 0]

    low = -1 if metric == "cka" else 0
    return Case(
        "select_layers",
        call,
        (x, y),
        None,
        f"{metric} {permutations=}",
        low=low,
        high=1,
        may_refuse=True,
    )


def select_cca(rng: Rng) -> Case:
    x, y = draw_pair(rng, least=2, most=30)

    def call(x: Any, y: Any) -> Tensor:
        found = sr.select_cca(x, y)
        return torch.tensor([*found.ridge, found.power, found.loss], dtype=torch.float64)

    return Case("select_cca", call, (x, y), None, low=0, may_refuse=True, arrays=False)


def aligner(rng: Rng) -> Case:
    x, y = draw_pair(rng, least=4, most=40)
    head = pick(rng, "cca", "ridge", "procrustes", "csa", "asif", "linear")

    def call(x: Any, y: Any) -> Tensor:
        fitted = sr.Aligner(head=head, epochs=2, dim=4).fit(x, y)
        a, b = (torch.as_tensor(z) for z in (fitted.transform_x(x), fitted.transform_y(y)))
        if not (a.isfinite().all() and b.isfinite().all()):
            raise Failure("outputs are not finite")
        return torch.tensor(fitted.score(x, y), dtype=torch.float64)

    return Case("Aligner", call, (x, y), None, f"{head=}", low=0, high=1, may_refuse=True)


def anchored(rng: Rng) -> Case:
    """structure_loss of a prepared side, and with anchors, against the rows of the joined batch."""
    x, y = draw_pair(rng, least=4)
    cut = int(rng.integers(2, len(x) - 1))
    prepared = bool(rng.random() < 0.5)
    temperature, levels = log_uniform(rng, 0.02, 10), int(rng.integers(1, 4))

    def call(x: Tensor, y: Tensor) -> Tensor:
        options = {"temperature": temperature, "levels": levels}
        if prepared:
            return sr.structure_loss(sr.FrozenStructure(x, **options), y, **options)
        return sr.structure_loss(x[:cut], y[:cut], anchors=(x[cut:], y[cut:]), **options)

    def oracle(x: Array, y: Array) -> Array:
        options = {"temperature": temperature, "levels": levels, "reduction": "none"}
        rows = oracles.structure_loss(x, y, **options)
        return np.mean(rows if prepared else rows[:cut])

    name = "structure_loss"
    detail = f"{cut=} {prepared=} {temperature=} {levels=}"
    wider = prepared and y.dtype == torch.float64 != x.dtype
    refuses = TypeError if wider else None
    return Case(name, call, (x, y), oracle, detail, low=0, arrays=False, refuses=refuses)


DRAWS: tuple[tuple[float, Draw], ...] = (
    *((3.0, partial(of_promise, name)) for name in PROMISES),
    (2.0, anchored),
    *((2.0, partial(canonical, name)) for name in ("cca", "svcca", "pwcca")),
    (2.0, cknna),
    (1.0, tie_fraction),
    *((1.0, partial(streaming, name)) for name in ("CKA", "MinibatchCKA")),
    (2.0, retrieval),
    (2.0, zero_shot),
    *(
        (1.0, partial(neighbourhood, name))
        for name in ("trustworthiness", "continuity", "neighbourhood_overlap")
    ),
    (2.0, search),
    (1.0, local_scaling),
    (1.0, class_embeddings),
    (1.0, temperature_for_perplexity),
    *(
        (2.0, partial(closed_form, name))
        for name in ("fit_ridge", "fit_cca", "fit_csa", "fit_procrustes", "fit_asif")
    ),
    (1.0, pair_moments),
    (1.0, layer_similarity),
    (0.5, select_layers),
    (0.3, select_cca),
    (0.3, aligner),
)
SPREADS_NAN = {
    *PROMISES,
    *("cca", "svcca", "pwcca", "cknna", "retrieval", "zero_shot", "local_scaling", "fit_ridge"),
    *("trustworthiness", "continuity", "neighbourhood_overlap", "class_embeddings", "fit_cca"),
    *("layer_similarity", "fit_csa", "fit_procrustes", "fit_asif"),
}
WEIGHTS = np.array([weight for weight, _ in DRAWS])


def draw_case(seed: int, number: int) -> tuple[Case, Rng]:
    rng = np.random.default_rng([seed, number])
    with np.errstate(all="ignore"):
        case = DRAWS[rng.choice(len(DRAWS), p=WEIGHTS / WEIGHTS.sum())][1](rng)
    if case.function in SPREADS_NAN and case.refuses is None and rng.random() < 0.03:
        case = with_nan(rng, case)
    return case, rng


def with_nan(rng: Rng, case: Case) -> Case:
    """The case with one NaN among its features: NaN comes back, or a ValueError."""
    tensors = [x.clone() for x in case.tensors]
    x = tensors[rng.integers(min(2, len(tensors)))]
    x[rng.integers(len(x)), rng.integers(x.shape[1])] = torch.nan
    return replace(case, tensors=tuple(tensors), oracle=None, spreads_nan=True, may_refuse=True)


# The check


def as_kind(rng: Rng, x: Tensor) -> tuple[Any, Tensor]:
    """The tensor as an array of some kind, and as a tensor of the dtype that this counts as."""
    if x.dtype == torch.bfloat16 or rng.random() < 0.5:
        return x, x
    kind = pick(rng, *ARRAY_KINDS)
    return KINDS[kind](x), x.double() if kind == "lists" else x


def values(result: Any) -> Array:
    parts = result if isinstance(result, tuple) else (result,)
    return np.concatenate([np.ravel(torch.as_tensor(p).detach().double().numpy()) for p in parts])


def evaluate(oracle: Callable[..., Any], arrays: Sequence[Array]) -> Array:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SciPy, on constant input
        try:
            result = oracle(*arrays)
        except (ArithmeticError, np.linalg.LinAlgError, ValueError, IndexError):
            return np.array([np.nan])
        parts = result if isinstance(result, tuple) else (result,)
        return np.concatenate([np.ravel(np.asarray(p, np.float64)) for p in parts])


def moved(rng: Rng, x: Array, size: Size, u: float) -> Array:
    return x + u * size(x) * rng.standard_normal(x.shape)


def expectation(case: Case, rng: Rng, eps: float) -> tuple[Array, float] | None:
    """The value and its tolerance, or None where the case is ill-posed."""
    assert case.oracle is not None
    arrays = [x.double().numpy() for x in case.tensors]
    expected = evaluate(case.oracle, arrays)
    near = [
        evaluate(case.oracle, [moved(rng, x, case.size, eps / 2) for x in arrays])
        for _ in range(PERTURBATIONS)
    ]
    if not all(z.shape == expected.shape and np.isfinite(z).all() for z in (expected, *near)):
        return None
    swing = max(float(np.abs(z - expected).max()) for z in near)
    largest = float(np.abs(expected).max())
    tolerance = FACTOR * (swing + eps / 2 * (case.unit + largest))
    return None if tolerance > LOOSE * (1 + largest) else (expected, tolerance)


def check_gradient(case: Case, rng: Rng) -> None:
    """Along one direction, against central differences of the oracle with two steps."""
    eps = precision(case.tensors)
    leaves = [x.clone().requires_grad_(i in case.gradient) for i, x in enumerate(case.tensors)]
    value = case.call(*leaves)
    weight = rng.standard_normal(tuple(value.shape))
    (value.double() * torch.from_numpy(np.asarray(weight))).sum().backward()
    arrays = [x.double().numpy() for x in case.tensors]
    steps = [
        case.size(x) * rng.standard_normal(x.shape) if i in case.gradient else 0 * x
        for i, x in enumerate(arrays)
    ]
    pairs = [(leaves[i].grad, steps[i]) for i in case.gradient]
    terms = [g.double().numpy() * s for g, s in pairs if g is not None]
    found, absolute = (sum(float(z.sum()) for z in zs) for zs in (terms, map(np.abs, terms)))

    def derivative(at: Sequence[Array], h: float) -> float:
        ahead, behind = (
            evaluate(case.oracle, [x + sign * h * s for x, s in zip(at, steps, strict=True)])
            for sign in (1, -1)
        )
        return float(((ahead - behind) * np.ravel(weight)).sum() / (2 * h))

    coarse, fine = derivative(arrays, 1e-4), derivative(arrays, 5e-5)
    nearby = derivative([moved(rng, x, case.size, eps / 2) for x in arrays], 5e-5)
    size = float(np.abs(evaluate(case.oracle, arrays)).sum() * np.abs(weight).max())
    slack = 4 * abs(fine - coarse) + 1e-10 * (1 + size)
    slack += FACTOR * (abs(nearby - fine) + eps * (absolute + 1 + size))
    if not np.isfinite(found) and np.isfinite(fine):
        raise Failure(f"gradient {found} where the differences are {fine}")
    if slack < LOOSE * (1 + abs(fine)) and abs(found - fine) > slack:
        raise Failure(f"gradient along a step {found}, differences {fine} ± {slack:.1e}")


def speakers(case: Case) -> tuple[str, ...]:
    """Names that an error may begin with: the method's, where one is called."""
    of_moments = ("PairMoments.update",) if "moments=True" in case.options else ()
    return (case.function, f"{case.function}.fit", *of_moments)


def check(case: Case, rng: Rng) -> str:
    """Return what was checked, or raise Failure."""
    given = [as_kind(rng, x) if case.arrays else (x, x) for x in case.tensors]
    eps = precision([x for _, x in given])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = case.call(*(array for array, _ in given))
    except (TypeError, ValueError) as error:
        named = any(str(error).startswith(f"{name}: expected") for name in speakers(case))
        if not named or not (case.may_refuse or isinstance(error, case.refuses or ())):
            raise Failure(f"{type(error).__name__}: {error}") from error
        return "refused"
    except Failure:
        raise
    except Exception as error:
        raise Failure(f"{type(error).__name__}: {error}") from error
    if case.refuses:
        raise Failure(f"was not refused with {case.refuses.__name__}")
    found = values(result)
    if case.spreads_nan:
        if not np.isnan(found).any():
            raise Failure(f"got {found[:4]} from a NaN")
        return "NaN"
    wanted = None if case.oracle is None else expectation(case, rng, eps)
    if case.nan:
        if not np.isnan(found).all():
            raise Failure(f"got {found[:4]} where NaN is documented")
        return "NaN"
    if wanted is None:
        check_range(case, found, eps)
        return "range"
    expected, tolerance = wanted
    if np.isnan(found).any():
        if case.may_be_nan:
            return "NaN"
        raise Failure(f"NaN for {expected[:4]} ± {tolerance:.1e}")
    check_range(case, found, eps)
    if found.shape != expected.shape:
        raise Failure(f"{found.shape} values for {expected.shape}")
    error = float(np.abs(found - expected).max())
    if error > tolerance:
        at = int(np.abs(found - expected).argmax())
        raise Failure(f"got {found[at]} for {expected[at]} ± {tolerance:.1e}")
    if case.gradient and all(x.dtype in (torch.float32, torch.float64) for x in case.tensors):
        check_gradient(case, rng)
        return "value and gradient"
    return "value"


def check_range(case: Case, found: Array, eps: float) -> None:
    kept = found[~np.isnan(found)]
    if np.isinf(kept).any() and not np.isinf([case.low, case.high]).any():
        raise Failure("infinite")
    if len(kept) and not case.low - 8 * eps <= kept.min() <= kept.max() <= case.high + 8 * eps:
        raise Failure(f"{kept.min()} to {kept.max()}, outside [{case.low}, {case.high}]")


def run(seed: int, numbers: range) -> Iterator[tuple[int, Case, str, str]]:
    """Number, case, outcome and message of every case; the outcome of a failure is "failed"."""
    for number in numbers:
        case, rng = draw_case(seed, number)
        try:
            yield number, case, check(case, rng), ""
        except Failure as failure:
            shapes = " ".join(f"{tuple(x.shape)}:{x.dtype}"[:60] for x in case.tensors)
            yield number, case, "failed", f"{failure} [{shapes}; {case.options}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    numbers = range(arguments.first, arguments.first + arguments.cases)
    outcomes: Counter[str] = Counter()
    for number, case, outcome, message in run(arguments.seed, numbers):
        outcomes[outcome] += 1
        if message:
            sys.stdout.write(f"{number} {case.function}: {message}\n")
    sys.stdout.write(f"{dict(outcomes)}\n")
    return int(outcomes["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
