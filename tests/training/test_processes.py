"""A fit over processes, each with its own share of the pairs, is the fit of all pairs in one."""

from __future__ import annotations

import contextlib
import io
import logging
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from contract import normal
from processes import Processes
from torch import Tensor, nn

import structure_reg as sr
from structure_reg.training import learning_rate, rows
from structure_reg.training.shards import Shard

N = 88
SHARED = normal(N, 5, seed=0)
X = (SHARED @ normal(5, 9, seed=1) + 0.5 * normal(N, 9, seed=2) + 3).float()
Y = (SHARED @ normal(5, 7, seed=3) + 0.5 * normal(N, 7, seed=4) - 5).float()
OTHER = (SHARED @ normal(5, 4, seed=5) + normal(N, 4, seed=6)).float()
UNRELATED = normal(N, 4, seed=7).float()
TEXTS = [f"text {i % 40}" for i in range(N)]

WORLDS = ((0,), (1, 3), (0, 1, 2, 3))
SHARES = {1: (0, 1), 2: (0, 0.7, 1), 4: (0, 0.2, 0.2, 0.75, 1)}  # uneven; one of four is empty
TRAINED = {"dim": 4, "epochs": 2, "batch_size": 32, "lr": 1e-2}  # 4 steps
ROUNDING = {"rtol": 0.0, "atol": 2e-5}


class Case(NamedTuple):
    """A fit, with its pairs in memory or streamed."""

    options: dict[str, Any]
    x: Any = X
    y: Any = Y
    ids: Any = None
    validation: Any = None
    unpaired: Any = None
    streamed: bool = False


class Fit(NamedTuple):
    """What a fit ends with."""

    z_x: Tensor
    z_y: Tensor
    layers: Any
    history: dict[str, list[float]]
    stopped: str | None


def share(given: Any, group: Any) -> Any:
    """This process's rows of what all rows are given as; of several arrays, of each."""
    if isinstance(given, dict):
        return {name: share(part, group) for name, part in given.items()}
    if isinstance(given, list | tuple) and not isinstance(given[0], str):
        return type(given)(share(part, group) for part in given)
    if given is None:
        return None
    bounds = [int(len(given) * part) for part in SHARES[group.size()]]
    return given[bounds[group.rank()] : bounds[group.rank() + 1]]


def fit(group: Any, case: Case) -> Fit:
    """Fit to this process's share, or without a group to all rows."""
    before = rows.BUDGET, learning_rate.STEPS
    rows.BUDGET, learning_rate.STEPS = 0 if case.streamed else rows.BUDGET, 10
    given = [part if group is None else share(part, group) for part in case[1:6]]
    try:
        aligner = sr.Aligner(**case.options).fit(
            *given[:2], ids=given[2], validation=given[3], unpaired=given[4], group=group
        )
        z_x, z_y = aligner.transform_x(case.x), aligner.transform_y(case.y)
    finally:
        rows.BUDGET, learning_rate.STEPS = before
    return Fit(z_x, z_y, aligner.layers_, aligner.history_.lists(), aligner.stopped_)


def check(processes: Processes, case: Case, worlds: Any = WORLDS, **tolerance: float) -> None:
    """Groups of processes end as one process does, and each process as the others."""
    one = fit(None, case)
    for ranks in worlds:
        for several in processes.run(ranks, fit, case):
            assert isinstance(several, Fit), several
            assert several.layers == one.layers
            assert several.stopped == one.stopped
            torch.testing.assert_close(several.z_x, one.z_x, **tolerance)
            torch.testing.assert_close(several.z_y, one.z_y, **tolerance)
            assert several.history.keys() == one.history.keys()
            for name, values in one.history.items():
                np.testing.assert_allclose(several.history[name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["ridge", "cca", "csa", "procrustes", "asif"])
class TestClosedForms:
    def test_in_memory_they_are_equal(self, processes: Processes, head: str) -> None:
        check(processes, Case({"head": head, "dim": 4}), rtol=0.0, atol=0.0)

    def test_streamed_they_are_equal_to_rounding(self, processes: Processes, head: str) -> None:
        check(processes, Case({"head": head, "dim": 4}, streamed=True), **ROUNDING)


@pytest.mark.parametrize("streamed", [False, True])
def test_training_takes_the_same_course(processes: Processes, streamed: bool) -> None:
    check(processes, Case(TRAINED, streamed=streamed), **ROUNDING)


@pytest.mark.parametrize(
    ("streamed", "ranks"), [(False, (0, 1)), (True, (0, 1, 2, 3))], ids=["in memory", "streamed"]
)
@pytest.mark.parametrize(
    "case",
    [
        Case(TRAINED | {"batch_size": 33}),
        Case(TRAINED | {"batch_size": 200, "noise": 0.0}),  # prepared neighbourhoods
        Case(TRAINED | {"fusemix": 1.0, "keep": "frozen"}),
        Case(TRAINED | {"head": "mlp", "contrastive": sr.SigLipLoss()}),
        Case(TRAINED | {"head": partial(sr.MlpHead, dropout=0.3), "structure_weight": 0.0}),
        Case(TRAINED | {"structure": sr.StructureLoss(levels=2), "head": "sail"}),
        Case(TRAINED | {"lr": "find"}),
        Case(TRAINED, ids=TEXTS),
        Case(TRAINED, unpaired=(X[:30], Y[:50])),
        Case(TRAINED, validation=(X[:21], Y[:21])),
        Case(TRAINED | {"monitor": "objective"}, validation=(X[:21], Y[:21], TEXTS[:21])),
        Case(TRAINED, validation=(X[:20], Y[:40], TEXTS[:20], TEXTS[:40])),
        Case(TRAINED | {"layers": ([0, 1], 0)}, [X, OTHER], Y),
        Case(TRAINED, X, Y[torch.arange(N) % 12]),  # copies
    ],
    ids=range(14),
)
def test_other_options_and_rows_do_too(
    processes: Processes, case: Case, streamed: bool, ranks: tuple[int, ...]
) -> None:
    check(processes, case._replace(streamed=streamed), [ranks], **ROUNDING)


@pytest.mark.parametrize("layers", ["blend", "select", "last", "all", 2, (["middle", 2], 1)])
def test_layers_are_chosen_on_the_pairs_of_all(processes: Processes, layers: Any) -> None:
    x, y = {"noise": UNRELATED, "middle": X, "last": OTHER}, [UNRELATED, Y]
    case = Case({"layers": layers, "head": "cca", "dim": 4}, x, y, streamed=True)
    check(processes, case, WORLDS[-1:], **ROUNDING)


def heights(group: Any, options: dict[str, Any]) -> set[int]:
    """Numbers of rows that a head is called with."""
    seen = set[int]()

    def note(module: nn.Module, arguments: tuple[Tensor]) -> None:
        if isinstance(module, sr.MlpHead):
            seen.add(len(arguments[0]))

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    sr.Aligner(**TRAINED | options).fit(share(X, group), share(Y, group), group=group)
    handle.remove()
    return seen


@pytest.mark.parametrize(
    ("options", "rows_of_a_batch"),
    [
        ({"head": "mlp"}, 8),
        ({"head": sr.MlpHead}, 8),
        ({"head": partial(sr.MlpHead, dropout=0.1)}, 32),
        ({"head": "mlp", "contrastive": sr.ClipLoss(reduction="sum")}, 32),
        ({"head": "mlp", "batch_size": 30}, 30),
    ],
)
def test_processes_share_a_batch_where_that_is_exact(
    processes: Processes, options: dict[str, Any], rows_of_a_batch: int
) -> None:
    assert processes.run(WORLDS[-1], heights, options) == 4 * [{rows_of_a_batch}]


def moments_and_heads(group: Any) -> list[Tensor]:
    moments = sr.PairMoments()
    x, y = share(X.double(), group), share(Y.double(), group)
    if len(x):
        moments.update(x, y)
    moments.all_reduce(group)
    heads = *sr.fit_ridge(moments), *sr.fit_cca(moments, dim=4, ridge=0.1)
    return [head.weight.detach() for head in heads]


def test_closed_forms_of_reduced_moments_are_equal_in_float64(processes: Processes) -> None:
    moments = sr.PairMoments().update(X.double(), Y.double())
    expected = *sr.fit_ridge(moments), *sr.fit_cca(moments, dim=4, ridge=0.1)
    for ranks in WORLDS:
        for found in processes.run(ranks, moments_and_heads):
            for weight, head in zip(found, expected, strict=True):
                torch.testing.assert_close(weight, head.weight.detach(), rtol=0, atol=1e-8)


def rows_read(group: Any, cuts: list[int], index: Tensor) -> list[Tensor]:
    own = X[cuts[group.rank()] : cuts[group.rank() + 1]]
    shard = Shard(own.numpy(), tuple(np.diff(cuts).tolist()), torch.device("cpu"), group)
    everything = rows.Rows([shard], torch.device("cpu"))
    a, b = sorted(index[:2].tolist())
    return [everything[:], everything[:0], everything[a:b], everything[index]]


@pytest.mark.parametrize("seed", range(8))
def test_any_process_reads_any_rows(processes: Processes, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for ranks in WORLDS[1:]:
        cuts = [0, *np.sort(generator.integers(0, N + 1, len(ranks) - 1)).tolist(), N]
        index = torch.from_numpy(generator.permutation(N)[: generator.integers(2, N)])
        a, b = sorted(index[:2].tolist())
        for found in processes.run(ranks, rows_read, cuts, index):
            for z, expected in zip(found, (X, X[:0], X[a:b], X[index]), strict=True):
                assert torch.equal(z, expected)


def fit_alone(group: Any) -> Tensor | None:
    if group.rank() == 1:
        return None
    return sr.Aligner(head="cca", dim=4).fit(X, Y, group=None).transform_x(X)


def test_without_a_group_a_process_fits_alone(processes: Processes) -> None:
    first, second = processes.run((0, 1), fit_alone)
    assert second is None
    assert torch.equal(first, sr.Aligner(head="cca", dim=4).fit(X, Y).transform_x(X))


def fit_in_world(group: Any) -> Tensor:
    return sr.Aligner(head="cca", dim=4).fit(share(X, group), share(Y, group)).transform_x(X)


def test_the_group_is_the_world_by_default(processes: Processes) -> None:
    expected = sr.Aligner(head="cca", dim=4).fit(X, Y).transform_x(X)
    for z in processes.run(WORLDS[-1], fit_in_world):
        assert torch.equal(z, expected)


def own_heads(group: Any) -> list[Tensor]:
    """Modules with other weights on each process, and what they are trained to."""
    generator = torch.Generator().manual_seed(0 if group is None else group.rank())
    heads = sr.LinearHead(9, 4), sr.LinearHead(7, 4)
    for head in heads:
        nn.init.normal_(head.weight, generator=generator)
        nn.init.zeros_(head.bias)
    given = (X, Y) if group is None else (share(X, group), share(Y, group))
    sr.Aligner(**TRAINED | {"head": heads}).fit(*given, group=group)
    return [head.weight.detach() for head in heads]


def test_weights_are_those_of_the_first_process(processes: Processes) -> None:
    expected = own_heads(None)
    for found in processes.run(WORLDS[-1], own_heads):
        torch.testing.assert_close(found, expected, **ROUNDING)


def what_is_shown(group: Any) -> tuple[int, int]:
    """Lines of the log and of the progress bar."""
    lines: list[logging.LogRecord] = []
    handler, err = logging.Handler(), io.StringIO()
    handler.emit = lines.append  # type: ignore[method-assign]
    logger = logging.getLogger("structure_reg")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    with contextlib.redirect_stderr(err):
        aligner = sr.Aligner(progress=True, head="cca", dim=4)
        aligner.fit(share(X, group), share(Y, group), group=group)
    logger.removeHandler(handler)
    return len(lines), err.getvalue().count("\n")


def test_the_first_process_alone_shows_how_far_it_is(processes: Processes) -> None:
    pytest.importorskip("tqdm")
    assert processes.run((0, 1), what_is_shown) == [(1, 1), (0, 0)]


def refused(group: Any, kind: str) -> None:
    """A fit of which process 1 passes something else."""
    x, y, options, more = share(X, group), share(Y, group), dict[str, Any](TRAINED), {}
    if group.rank() == 1:
        if kind in ("nan", "nan streamed"):
            x = x.index_fill(0, torch.tensor(2), float("nan"))
        elif kind == "width":
            x = x[:, :-1]
        elif kind == "integers":
            y = y.long()
        elif kind == "rows":
            y = y[:-1]
        elif kind == "ids":
            more["ids"] = TEXTS[: len(x)]
        elif kind == "option":
            options["dim"] = 3
        elif kind == "bad option":
            options["dim"] = 0
        elif kind == "layers":
            x = {"last": x}
        elif kind == "validation":
            more["validation"] = (x, y[:-1])
        elif kind == "unpaired":
            more["unpaired"] = x
        elif kind == "disk":
            x = Broken(last=x)
        elif kind == "device":
            options["device"] = "meta"
    if kind in ("few", "disk"):
        x, y = (x[:2], y[:2]) if kind == "few" else (x if group.rank() == 1 else {"last": x}, y)
    if kind == "more ids":
        more["ids"] = TEXTS[: len(x) + (1 if group.rank() else -1)]
    if kind == "validation" and group.rank() == 0:
        more["validation"] = (x, y)
    if kind == "backend":
        options["device"] = "meta"
    rows.BUDGET = 0 if kind == "nan streamed" else 128 * 2**20
    try:
        sr.Aligner(**options).fit(x, y, group=group, **more)
    finally:
        rows.BUDGET = 128 * 2**20


class Broken(dict[str, Tensor]):
    """Layers that cannot be read."""

    def __getitem__(self, name: str) -> Tensor:
        raise OSError(f"no {name} here")


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("nan", ValueError, "Aligner.fit: expected x without NaN and infinity, got some"),
        ("nan streamed", ValueError, "expected x without NaN and infinity, got some, on process 1"),
        ("width", ValueError, "the same width of x on every process, got 9 and 8"),
        ("integers", ValueError, "expected y of shape (n, d) and a floating dtype, got (27, 7)"),
        ("rows", ValueError, "same number of rows on each process, got (61, 27) and (61, 26)"),
        ("ids", ValueError, "expected the same ids on every process, got none and some"),
        ("more ids", ValueError, "expected 61 ids, one for each pair, got 60, on process 0"),
        ("option", ValueError, "expected the same dim on every process, got 4 and 3"),
        ("bad option", ValueError, "Aligner: expected dim >= 1, got 0, on process 1"),
        ("layers", ValueError, "the same layers of x on every process, got one array and ['last']"),
        ("few", ValueError, "expected at least 8 pairs, got 4"),
        ("validation", ValueError, "validation: expected x and y with the same number of rows on"),
        ("unpaired", TypeError, "expected unpaired to be two sets of rows"),
        ("device", ValueError, "the same kind of device on every process, got cpu and meta"),
        ("backend", ValueError, "expected a group with a backend for meta, where the rows are"),
        ("disk", RuntimeError, "got OSError on process 1: no last here"),
    ],
)
def test_what_one_process_meets_all_of_them_raise(
    processes: Processes, kind: str, error: type[Exception], message: str
) -> None:
    for raised in processes.run((0, 1), refused, kind):
        assert type(raised) is error
        assert str(raised).startswith("Aligner")
        assert message in str(raised)


@pytest.mark.parametrize("group", ["all", 3])
def test_what_is_no_group_is_refused(group: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^Aligner.fit: expected group"):
        sr.Aligner(head="cca").fit(X, Y, group=group)
