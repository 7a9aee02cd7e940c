"""What scikit-learn, pickles and data frames ask of an Aligner."""

from __future__ import annotations

import copy
import pickle
import re
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from contract import normal
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from torch import nn

import structure_reg as sr

SHARED = normal(60, 4, seed=0)
X, Y = (
    (SHARED @ normal(4, d, seed=d) + 0.5 * normal(60, d, seed=d + 1)).float().numpy()
    for d in (9, 7)
)
IDS = np.arange(60) // 2


def test_options_by_name() -> None:
    aligner = sr.Aligner(dim=4)
    options = aligner.get_params()
    assert (options["dim"], options["head"], options["lr"]) == (4, "linear", 3e-4)
    assert options == aligner.get_params(deep=False)
    assert sr.Aligner(**options).get_params() == options
    assert aligner.set_params(dim=8, head="cca") is aligner
    assert (aligner.dim, aligner.head) == (8, "cca")
    with pytest.raises(ValueError, match=r"^Aligner.set_params: expected options of .*, got dims$"):
        aligner.set_params(dim=3, dims=4)
    assert aligner.dim == 8


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "Aligner()"),
        ({"head": "cca", "dim": 4}, "Aligner(head='cca', dim=4)"),
        ({"lr": 3e-4, "seed": 0, "patience": 1.0}, "Aligner(patience=1.0)"),
        ({"layers": ("a", -1), "fusemix": 1.0}, "Aligner(layers=('a', -1), fusemix=1.0)"),
        ({"standardise": False}, "Aligner(standardise=False)"),
    ],
)
def test_prints_what_differs_from_the_defaults(options: dict[str, Any], text: str) -> None:
    assert repr(sr.Aligner(**options)) == text


def test_a_clone_has_the_options_and_no_fit() -> None:
    own = {"structure": sr.StructureLoss(levels=2), "head": (nn.Linear(9, 4), nn.Linear(7, 4))}
    for options in ({"dim": 4}, own, {"lr_schedule": partial(max, 0.5), "layers": (0, 0)}):
        aligner = sr.Aligner(**options, epochs=1)
        again = clone(aligner.fit(X, Y))
        assert repr(again) == repr(aligner)
        with pytest.raises(RuntimeError, match="expected a fitted Aligner"):
            again.score(X, Y)


def test_cross_validation_is_by_hand() -> None:
    aligner = sr.Aligner(head="cca", dim=4)
    scores = cross_val_score(aligner, X, Y, cv=KFold(3))
    by_hand = [
        sr.Aligner(head="cca", dim=4).fit(X[a], Y[a]).score(X[b], Y[b])
        for a, b in KFold(3).split(X)
    ]
    assert scores.tolist() == by_hand
    assert len(cross_val_score(aligner, torch.tensor(X), torch.tensor(Y), cv=2)) == 2


def test_groups_and_ids_go_through_cross_validation() -> None:
    aligner = sr.Aligner(epochs=1, dim=4)
    found = cross_validate(
        aligner,
        X,
        Y,
        cv=GroupKFold(2),
        groups=IDS,
        params={"ids": IDS},
        scoring=lambda a, x, y: a.score(x, y, ids=np.arange(len(x)) // 2),
        return_estimator=True,
        error_score="raise",
    )
    assert all(0.3 < score <= 1 for score in found["test_score"])
    assert found["estimator"][0].layers_ == (0, 0)


def test_grid_search_and_pipeline() -> None:
    search = GridSearchCV(sr.Aligner(head="cca"), {"dim": [1, 4]}, cv=2).fit(X, Y)
    assert search.best_params_ == {"dim": 4}
    assert search.score(X, Y) == search.best_estimator_.score(X, Y)
    assert "Aligner(head='cca')" in repr(search)
    piped = make_pipeline(StandardScaler(), sr.Aligner(head="cca", dim=4)).fit(X, Y)
    assert piped.score(X, Y) > 0.3
    assert piped.set_params(aligner__dim=2).get_params()["aligner__dim"] == 2


def test_is_neither_classifier_nor_regressor() -> None:
    aligner = sr.Aligner(head="cca")
    assert not is_classifier(aligner)
    assert not is_regressor(aligner)
    tags = aligner.__sklearn_tags__()
    assert tags.requires_fit
    assert tags.target_tags.required
    check_is_fitted(aligner.fit(X, Y))


def test_scikit_learn_is_not_imported() -> None:
    for file in Path(sr.__file__).parent.rglob("*.py"):
        assert not re.search(r"^ *(import|from) sklearn", file.read_text(), re.MULTILINE), file


@pytest.mark.parametrize(
    "options", [{"head": "cca"}, {"epochs": 2, "structure": sr.StructureLoss()}]
)
def test_copies_give_the_same_rows(options: dict[str, Any], tmp_path: Path) -> None:
    aligner = sr.Aligner(**options).fit(X, Y, validation=(X, Y))
    joblib.dump(aligner, tmp_path / "aligner")
    for again in (
        copy.deepcopy(aligner),
        pickle.loads(pickle.dumps(aligner)),
        joblib.load(tmp_path / "aligner"),
    ):
        np.testing.assert_array_equal(again.transform_x(X), aligner.transform_x(X))
        assert repr(again) == repr(aligner)
        assert again.history_ == aligner.history_
        assert again.validation_history_ == aligner.validation_history_


def test_histories_are_tables(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    aligner = sr.Aligner(epochs=30).fit(X, Y, validation=(X, Y))
    steps, validations = pd.DataFrame(aligner.history_), pd.DataFrame(aligner.validation_history_)
    assert list(steps) == ["contrastive", "structure", "transport", "logit_scale", "weight"]
    assert list(validations) == ["validation_step", "validation"]
    assert validations["validation"].tolist() == aligner.history_["validation"]
    assert aligner.history_.get("validation") == aligner.history_["validation"]
    assert aligner.history_.get("validations", 3) == 3
    assert len(steps) == validations["validation_step"].iloc[-1]
    aligner.save(tmp_path / "aligner")
    loaded = sr.Aligner.load(tmp_path / "aligner")
    assert loaded.history_ == aligner.history_
    assert loaded.validation_history_ == aligner.validation_history_
    assert pd.DataFrame(sr.Aligner(head="cca").fit(X, Y).history_).empty
    with pytest.raises(KeyError, match="validations"):
        aligner.history_["validations"]


class TestOneCopyOfAnImage:
    """Five captions for each image: images once, with `y_ids`."""

    images = normal(40, 8, seed=5)
    of_caption = torch.arange(40).repeat_interleave(5)
    captions = images[of_caption] @ normal(8, 6, seed=6) + 4 * normal(200, 6, seed=7)
    aligner = sr.Aligner(head="cca", dim=6).fit(images[of_caption].float(), captions.float())

    def test_score_is_retrieval(self) -> None:
        x, y = self.images.float(), self.captions.float()
        names = [f"image {i}" for i in range(40)]
        once = self.aligner.score(x, y, names, [names[i] for i in self.of_caption])
        z_x, z_y = self.aligner.transform_x(x), self.aligner.transform_y(y)
        expected = sr.retrieval(z_x, z_y, ids=torch.arange(40), y_ids=self.of_caption)
        assert once == expected.mean_recall.item()
        assert once > self.aligner.score(x[self.of_caption], y, self.of_caption)

    def test_distractors_and_another_order(self) -> None:
        x, y = self.images.float(), self.captions.float()
        order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
        ids = torch.arange(40)
        score = self.aligner.score(x, y, ids, self.of_caption)
        assert self.aligner.score(x, y[order], ids, self.of_caption[order]) == pytest.approx(score)
        assert self.aligner.score(x, y, ids[:40], self.of_caption - 1) < score

    def test_validation_has_them_too(self) -> None:
        x, y = self.images.float(), self.captions.float()
        validation = (x, y, range(40), self.of_caption)
        aligner = sr.Aligner(epochs=1, lr=1e-9, dim=6)
        aligner.fit(x[self.of_caption], y, ids=self.of_caption, validation=validation)
        score = aligner.score(x, y, range(40), self.of_caption)
        assert aligner.history_["validation"] == pytest.approx([score] * 2, abs=0.01)

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ((None, range(200)), "expected ids with y_ids, got y_ids alone"),
            ((range(40), range(3)), "expected 200 y_ids, one for each row of y, got 3"),
            ((range(4), range(200)), "expected 40 ids, one for each row of x, got 4"),
            ((range(40),), "expected x and y with the same number of rows, got 40 and 200"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, more: tuple[Any, ...], message: str) -> None:
        x, y = self.images.float(), self.captions.float()
        with pytest.raises(ValueError, match=f"^Aligner.score: {message}"):
            self.aligner.score(x, y, *more)
        aligner = sr.Aligner(epochs=1)
        with pytest.raises(ValueError, match=f"^Aligner.fit: validation: {message}"):
            aligner.fit(
                x, x, validation=(x, self.captions.float() @ normal(6, 8, seed=1).float(), *more)
            )

    def test_the_objective_needs_pairs(self) -> None:
        x, y = self.images.float(), self.captions.float()
        with pytest.raises(ValueError, match="validation of pairs for monitor='objective'"):
            sr.Aligner(monitor="objective").fit(
                x, y[::5], validation=(x, y, range(40), self.of_caption)
            )
