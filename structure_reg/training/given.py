"""What :meth:`Aligner.fit` is given, on this process or on all processes of a group."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, NamedTuple

from structure_reg._ids import id_values
from structure_reg.training._checks import (
    check_id_count,
    check_pairs,
    check_shard_rows,
    check_unpaired,
    check_validation,
)
from structure_reg.training.inputs import Features
from structure_reg.training.options import plain, without_address
from structure_reg.training.pairs import FEWEST
from structure_reg.training.shards import Shard, ShardedLayers, sharded
from structure_reg.training.side import FIT
from structure_reg.training.together import agree, gathered, rank_in, together

OF_ONE_PROCESS = ("device", "progress")  # options that may differ: cuda:0 and cuda:1, for instance


class Given(NamedTuple):
    """The arguments of fit."""

    x: Features
    y: Features
    ids: Any = None
    validation: Any = None
    unpaired: Any = None


def of_all_processes(given: Given, options: Mapping[str, Any], group: Any) -> Given:
    """The rows and ids of all processes in rank order, which every process can read."""
    if group is None:
        return given
    together(lambda: check_others(given), group)
    agree(FIT, comparable(options) | presence(given), group)
    device = options["device"]
    x, y = shards(FIT, (given.x, given.y), device, group)
    check_shard_rows(FIT, "x and y", x.counts, y.counts)
    check_pairs(FIT, range(sum(x.counts)), range(sum(y.counts)), FEWEST)
    ids = ids_of_all(FIT, "ids", given.ids, x.counts, group)
    validation, unpaired = given.validation, given.unpaired
    if validation is not None:
        validation = validation_of_all(validation, device, group)
    if unpaired is not None:
        unpaired = shards(f"{FIT}: unpaired", unpaired, device, group)
    return Given(x, y, ids, validation, unpaired)


def check_others(given: Given) -> None:
    if given.validation is not None:
        check_validation(given.validation)
    if given.unpaired is not None:
        check_unpaired(given.unpaired)


def presence(given: Given) -> dict[str, str]:
    """Which arguments there are: the processes have to take the same turns."""
    ids, y_ids = (*(given.validation or (None, None)), None, None)[2:4]
    named = given._asdict() | {"ids of validation": ids, "y_ids of validation": y_ids}
    return {name: "none" if value is None else "some" for name, value in named.items()}


def comparable(options: Mapping[str, Any]) -> dict[str, str]:
    """Options as texts that other processes have too."""
    return {
        name: without_address(repr(plain(value)))
        for name, value in options.items()
        if name not in OF_ONE_PROCESS
    }


def shards(
    function: str, sides: tuple[Features, Features], device: Any, group: Any
) -> tuple[Shard | ShardedLayers, Shard | ShardedLayers]:
    x, y = (
        sharded(function, name, features, device, group)
        for name, features in zip("xy", sides, strict=True)
    )
    return x, y


def validation_of_all(validation: Any, device: Any, group: Any) -> tuple[Any, ...]:
    function = f"{FIT}: validation"
    x, y, ids, y_ids = (*validation, None, None)[:4]
    x, y = shards(function, (x, y), device, group)
    if y_ids is None:
        check_shard_rows(function, "x and y", x.counts, y.counts)
    return (
        x,
        y,
        ids_of_all(function, "ids", ids, x.counts, group),
        ids_of_all(function, "y_ids", y_ids, y.counts, group),
    )


def ids_of_all(
    function: str, name: str, ids: Any, counts: tuple[int, ...], group: Any
) -> list[Any] | None:
    if ids is None:
        return None

    def local() -> list[Any]:
        values = id_values(function, name, ids)
        check_id_count(function, values, range(counts[rank_in(group)]))
        return values

    return list(chain.from_iterable(gathered(together(local, group), group)))
