"""Rows beside the training pairs, as :meth:`Aligner.fit` and :meth:`Aligner.score` receive them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

from torch import Tensor

from structure_reg._ids import id_values, number
from structure_reg.training._checks import (
    check_held_out_loss,
    check_pairs,
    check_row_ids,
    check_unpaired,
    check_validation,
    check_y_ids,
)
from structure_reg.training.batches import Pairs, Unpaired
from structure_reg.training.inputs import as_ids
from structure_reg.training.rows import Rows
from structure_reg.training.side import Side, scaled_rows

Sides = tuple[Side, Side]


class HeldOut(NamedTuple):
    """Rows to validate on. With `y_ids` those of y are no partners of those of x."""

    x: Tensor | Rows
    y: Tensor | Rows
    ids: Tensor | None
    y_ids: Tensor | None = None


def with_others(
    pairs: Pairs, sides: Sides, unpaired: Any, validation: Any, monitor: str
) -> tuple[Pairs, HeldOut | None]:
    """The pairs with the unpaired rows, and the rows to validate on."""
    if unpaired is not None:
        pairs = pairs._replace(unpaired=unpaired_rows(sides, unpaired))
    return pairs, None if validation is None else validation_rows(sides, validation, monitor)


def unpaired_rows(sides: Sides, unpaired: Any) -> Unpaired:
    check_unpaired(unpaired)
    of_x, of_y = (
        scaled_rows("Aligner.fit: unpaired", side, features)
        for side, features in zip(sides, unpaired, strict=True)
    )
    return of_x, of_y


def validation_rows(sides: Sides, validation: Any, monitor: str) -> HeldOut:
    name = "Aligner.fit: validation"
    check_validation(validation)
    x, y, ids, y_ids = (*validation, None, None)[:4]
    if y_ids is not None:
        check_held_out_loss(monitor)
    of_x, of_y = (
        scaled_rows(name, side, features) for side, features in zip(sides, (x, y), strict=True)
    )
    return held_out(name, of_x, of_y, ids, y_ids, least=2)


def held_out(
    function: str, x: Tensor | Rows, y: Tensor | Rows, ids: Any, y_ids: Any, *, least: int
) -> HeldOut:
    """Number the ids of both sides together, or check that the rows are pairs."""
    if y_ids is None:
        check_pairs(function, x, y, least)
        return HeldOut(x, y, as_ids(function, ids, x))
    check_y_ids(function, ids)
    values_x, values_y = id_values(function, "ids", ids), id_values(function, "y_ids", y_ids)
    check_row_ids(function, "x", "ids", x, values_x)
    check_row_ids(function, "y", "y_ids", y, values_y)
    numbers: dict[Hashable, int] = {}
    of_x, of_y = (number(values, numbers).to(x.device) for values in (values_x, values_y))
    return HeldOut(x, y, of_x, of_y)
