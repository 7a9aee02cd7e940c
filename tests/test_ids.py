"""Ids compare by value, whatever they are, and by the same rule at every public door."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from contract import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from id_kinds import GROUPS, KINDS
from torch import Tensor

import structure_reg as sr
from structure_reg._ids import as_ids
from structure_reg.training.inputs import as_ids as numbered

every_kind = pytest.mark.parametrize("kind", KINDS)

IDS = [5, 1, 0, 5, 3, 1, 2, 4, 5, 6, 7, 0, 8, 9, 9, 3, 10, 11, 12, 11, 2, 6, 13, 14]
X = normal(24, 6, seed=0, dtype=torch.float32)
Y = X + 0.5 * normal(24, 6, seed=1).float()


def aligned(ids: Any) -> float:
    aligner = sr.Aligner(dim=3, epochs=1, structure_weight=0).fit(X, Y, ids=ids)
    return aligner.history_["contrastive"][-1]


def scored(ids: Any) -> float:
    return sr.Aligner(head="ridge").fit(X, Y).score(X, Y, ids=ids)


# Every door that takes ids, and the value that depends on which of them are equal.
DOORS: dict[str, Callable[[Any], Any]] = {
    "retrieval": lambda ids: sr.retrieval(X, Y, ids=ids).x_to_y.mean_average_precision.item(),
    "Aligner.fit": aligned,
    "Aligner.score": scored,
}
every_door = pytest.mark.parametrize("door", DOORS)


@every_kind
def test_ids_of_any_kind_count_as_the_integers(kind: str) -> None:
    expected = sr.retrieval(X, Y, ids=torch.tensor(IDS)).mean_recall
    assert sr.retrieval(X, Y, ids=KINDS[kind](IDS)).mean_recall == expected
    assert numbered("f", KINDS[kind](IDS), X).tolist() == first_appearances(IDS)


@every_door
def test_every_door_has_this_rule(door: str) -> None:
    expected = DOORS[door](torch.tensor(IDS))
    for kinds in GROUPS.values():
        assert DOORS[door](next(iter(kinds.values()))(IDS)) == expected
    assert DOORS[door](list(torch.tensor(IDS))) == expected != DOORS[door](None)


@pytest.mark.parametrize("kind", GROUPS["integers"])
def test_integers_fold_as_their_tensor(kind: str) -> None:
    """The folds of select_cca follow the order of integers, so other kinds may fold otherwise."""
    expected = sr.select_cca(X, Y, ids=torch.tensor(IDS))
    found = sr.select_cca(X, Y, ids=GROUPS["integers"][kind](IDS))
    if kind != "array of float64":
        assert found == expected


@every_kind
def test_pairs_of_one_id_stay_in_one_fold(kind: str) -> None:
    numbered = sr.select_cca(X, Y, ids=torch.tensor(first_appearances(IDS)))
    if not kind.startswith("integers"):
        assert sr.select_cca(X, Y, ids=KINDS[kind](IDS)) == numbered
    with pytest.raises(ValueError, match=r"^select_cca: .* 8 pairs with different ids .* got 7"):
        sr.select_cca(X, Y, ids=KINDS[kind]([i % 7 for i in range(24)]))


def first_appearances(values: list[Any]) -> list[int]:
    return [list(dict.fromkeys(values)).index(value) for value in values]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_ids_match_y_ids_of_other_kinds(data: st.DataObject) -> None:
    """Kinds of one group hold the same values; those of others match nowhere."""
    group, other = (data.draw(st.sampled_from(sorted(GROUPS))) for _ in range(2))
    kind, y_kind = (data.draw(st.sampled_from(sorted(GROUPS[g]))) for g in (group, other))
    ids, y_ids = (data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=9)) for _ in range(2))
    a, b = as_ids(
        "f", torch.device("cpu"), ids=GROUPS[group][kind](ids), y_ids=GROUPS[other][y_kind](y_ids)
    )
    assert (a.dtype, b.dtype) == (torch.int64, torch.int64)
    matches = np.equal.outer(ids, y_ids) & (group == other)
    assert np.array_equal((a[:, None] == b).numpy(), matches)
    assert np.array_equal((a[:, None] == a).numpy(), np.equal.outer(ids, ids))


def test_retrieval_matches_ids_and_y_ids_by_value() -> None:
    gallery = [f"case {i}" for i in range(15)]
    z = normal(15, 6, seed=4, dtype=torch.float32)
    expected = sr.retrieval(X, z, ids=torch.tensor(IDS), y_ids=torch.arange(15))
    found = sr.retrieval(X, z, ids=pd.Series(f"case {i}" for i in IDS), y_ids=np.array(gallery))
    assert found.mean_recall == expected.mean_recall
    assert found.x_to_y.queries == 24


MISSING = {
    "None": [None, "a"],
    "NaN": [float("nan"), 1.0],
    "NaN of NumPy": [np.float32("nan"), 1],
    "NaT": [pd.NaT, pd.Timestamp(0)],
    "NaT of NumPy": [np.datetime64("NaT"), np.datetime64("2020-01-01")],
    "NA": [pd.NA, 1],
    "part of a tuple": [("a", None), ("a", 1)],
}


@every_door
@pytest.mark.parametrize("missing", MISSING)
def test_missing_ids_are_refused_everywhere(door: str, missing: str) -> None:
    none, one = MISSING[missing]
    ids = [one, one, none, one, none, *[one] * 19]
    message = rf"^{door}: expected ids without missing values, got 2, the first in row 2$"
    kinds = [ids]
    if not isinstance(one, tuple):
        kinds += [pd.Series(ids), pd.Categorical([None if i is none else i for i in ids])]
    for kind in kinds:
        with pytest.raises(ValueError, match=message):
            DOORS[door](kind)


def test_missing_ids_of_other_kinds() -> None:
    values = [1, 2, 3] * 8
    masked = np.ma.masked_equal(values, 3)
    nullable = pd.Series(values, dtype="Int64").replace(3, pd.NA)
    message = r"^retrieval: expected y_ids without missing values, got 8, the first in row 2$"
    for y_ids in (masked, nullable, pd.Series(values).where(lambda i: i < 3)):
        with pytest.raises(ValueError, match=message):
            sr.retrieval(X, Y, ids=torch.arange(24), y_ids=y_ids)


@every_door
@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (X[:, 0], TypeError, "ids of an integer dtype, got torch.float32"),
        (X[:, 0] > 0, TypeError, "ids of an integer dtype, got torch.bool"),
        ("abc", TypeError, "ids to be a list, an array or a tensor, got str"),
        ({"a": 1}, TypeError, "ids to be a list, an array or a tensor, got dict"),
        ({1, 2}, TypeError, "ids to be a list, an array or a tensor, got set"),
        (3, TypeError, "ids to be a list, an array or a tensor, got int"),
        ([[1, 2]] * 24, TypeError, "integers, strings or other hashable values, got list"),
        ([torch.ones(2)] * 24, TypeError, "integers, strings or other hashable values, got Tensor"),
        (np.zeros((24, 2), int), ValueError, r"ids of shape \(n,\), got \(24, 2\)"),
        (pd.DataFrame({"a": IDS, "b": IDS}), ValueError, r"ids of shape \(n,\), got \(24, 2\)"),
        (IDS[:-1], ValueError, r"ids.* got .*23"),
    ],
    ids=str,
)
def test_what_is_no_list_of_ids_is_refused(
    door: str, ids: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=rf"^{door}: expected .*{message}"):
        DOORS[door](ids)


@pytest.mark.parametrize("loss", [sr.clip_loss, sr.siglip_loss])
def test_losses_take_tensors_of_signed_integers(loss: Callable[..., Tensor]) -> None:
    expected = loss(X, Y, ids=torch.tensor(IDS))
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        torch.testing.assert_close(loss(X, Y, ids=torch.tensor(IDS, dtype=dtype)), expected)
    name = loss.__name__
    for dtype in (torch.uint16, torch.uint32, torch.uint64):
        with pytest.raises(TypeError, match=rf"^{name}: expected ids in .*{dtype}; pass ids.long"):
            loss(X, Y, ids=torch.tensor(IDS).to(dtype))
    with pytest.raises(ValueError, match=rf"^{name}: expected ids of shape \(24,\), got \(24, 1\)"):
        loss(X, Y, ids=torch.tensor(IDS)[:, None])
    with pytest.raises(TypeError, match=f"^{name}: expected ids of an integer dtype, got torch.b"):
        loss(X, Y, ids=torch.tensor(IDS) > 3)


class TestLabels:
    CLASSES = normal(4, 6, seed=5, dtype=torch.float32)
    LABELS = tuple(i % 4 for i in range(24))

    @pytest.mark.parametrize(
        "kind", [kind for kind in GROUPS["integers"] if kind != "array of float64"]
    )
    def test_labels_of_any_kind(self, kind: str) -> None:
        expected = sr.zero_shot(X, self.CLASSES, torch.tensor(self.LABELS))
        found = sr.zero_shot(X, self.CLASSES, GROUPS["integers"][kind](list(self.LABELS)))
        assert torch.equal(found.accuracy, expected.accuracy)

    @pytest.mark.parametrize(
        ("label", "error", "message"),
        [
            (-1, ValueError, r"labels in \[0, 4\), got -1 in row 3"),
            (4, ValueError, r"labels in \[0, 4\), got 4 in row 3"),
            (2**70, ValueError, r"labels in \[0, 4\), got 1180591620717411303424 in row 3"),
            (1.5, TypeError, r"labels to be indices of classes, got 1\.5 in row 3"),
            (1.0, TypeError, r"labels to be indices of classes, got 1\.0 in row 3"),
            (True, TypeError, "labels to be indices of classes, got True in row 3"),
            ("cat", TypeError, "labels to be indices of classes, got 'cat' in row 3"),
            (None, ValueError, "labels without missing values, got 1, the first in row 3"),
        ],
    )
    def test_labels_that_are_no_class(
        self, label: Any, error: type[Exception], message: str
    ) -> None:
        labels = [*self.LABELS[:3], label, *self.LABELS[4:]]
        kinds = [labels, np.array(labels, dtype=object)]
        if isinstance(label, int) and label in (-1, 4):
            kinds += [torch.tensor(labels), pd.Series(labels)]
        for kind in kinds:
            with pytest.raises(error, match=f"^zero_shot: expected {message}$"):
                sr.zero_shot(X, self.CLASSES, kind)


class TestStores:
    @pytest.mark.parametrize("group", ["integers", "strings", "large integers"])
    def test_ids_are_kept_as_json_has_them(self, group: str, tmp_path: Path) -> None:
        kinds = {kind: make for kind, make in GROUPS[group].items() if kind != "array of float64"}
        expected = GROUPS[group]["list"](IDS)
        for number, make in enumerate(kinds.values()):
            sr.FeatureStore.create(tmp_path / str(number), make(IDS), model="none")
            ids = sr.FeatureStore(tmp_path / str(number)).ids
            assert ids == expected
            assert {type(i) for i in ids} == {type(expected[0])}

    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            ([datetime(2020, 1, 1)], "strings or integers, got datetime"),
            ([b"a"], "strings or integers, got bytes"),
            (np.array([True]), "strings or integers, got bool"),
            (["a", None], "ids without missing values, got 1, the first in row 1"),
        ],
    )
    def test_other_ids_are_refused(self, ids: Any, message: str, tmp_path: Path) -> None:
        with pytest.raises((TypeError, ValueError), match=f"^FeatureStore.create: .*{message}"):
            sr.FeatureStore.create(tmp_path, ids, model="none")
