"""Splits of pairs that have none: by group, with equal captions and equal pictures in one split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tables import Pair, joined, spelled, split_of


def with_splits(
    pairs: Sequence[Pair], *, straddle: bool = False, validation: int = 10, test: int = 35
) -> list[Pair]:
    """Fill in the groups and splits that are "", and print how many rows were moved.

    Rows with the same group, id, caption or picture, or with a chain of them, get one split. With
    `straddle`, only rows of the same group do. A missing group is what a row is joined with.
    """
    own = [pair.group or pair.id for pair in pairs]
    parts = own if straddle else joined_names(pairs, own)
    given: dict[str, str] = {}
    for pair, part in zip(pairs, parts, strict=True):
        if pair.split:
            given.setdefault(part, pair.split)
    filled, moved = [], 0
    for pair, group, part in zip(pairs, own, parts, strict=True):
        alone, together = (
            split_of(name, validation=validation, test=test) for name in (group, part)
        )
        split = pair.split or given.get(part, together)
        moved += not pair.split and split != alone
        filled.append(pair._replace(group=pair.group or part, split=split))
    if not straddle and not all(pair.split for pair in pairs):
        largest = max(Counter(parts).values())
        print(
            f"rows with equal captions or pictures share a split: moved {moved} of {len(pairs)} "
            f"(largest set of such rows: {largest}); --allow-straddling moves none"
        )
    return filled


def joined_names(pairs: Sequence[Pair], groups: Sequence[str]) -> list[str]:
    """Name of the rows that each row is joined with: the first of their groups in the alphabet."""
    captions = [spelled(pair.caption) for pair in pairs]
    pictures = [pair.path.resolve() for pair in pairs]
    numbers = joined(groups, [pair.id for pair in pairs], captions, pictures)
    names: dict[int, str] = {}
    for number, group in zip(numbers, groups, strict=True):
        names[number] = min(names.get(number, group), group)
    return [names[number] for number in numbers]
