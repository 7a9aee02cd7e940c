"""Whatever NumPy can read counts as the tensor of its numbers, at every public door."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import torch
from array_kinds import BY_COLUMN, KINDS, WIDENING, read_only
from contract import PROMISES, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import structure_reg as sr
from structure_reg._arrays import as_tensor

Kind = Callable[[Tensor], Any]
every_kind = pytest.mark.parametrize("kind", KINDS)

X = normal(24, 6, seed=0, dtype=torch.float32)
Y = X @ normal(6, 5, seed=1).float() + 0.3 * normal(24, 5, seed=2).float()
Z = X + 0.3 * normal(24, 6, seed=3).float()
PROMPTS = normal(4, 3, 6, seed=4, dtype=torch.float32)
LABELS = torch.arange(24) % 4


def heads_of(fit: Callable[..., Any], x: Any, y: Any, **options: Any) -> Tensor:
    head_x, head_y = fit(x, y, **options)
    dtype = next(iter(head_x.state_dict().values())).dtype
    return torch.cat([head_x(X.to(dtype)).flatten(), head_y(Y.to(dtype)).flatten()]).detach()


def streamed(measure: Any, x: Any, y: Any) -> Tensor:
    measure.update(x, y)
    measure.update(x, y)
    return measure.compute()


def aligned(x: Any, y: Any, layers: Any = "last") -> Tensor:
    aligner = sr.Aligner(head="ridge", layers=layers).fit(x, y)
    return torch.tensor([*aligner.transform_x(X[:3]).flatten(), aligner.score(x, y)])


def stored(path: Path, x: Any, y: Any) -> Tensor:
    store = sr.FeatureStore.create(path, range(24), model="none")
    store.append({"x": x, "y": y})
    return torch.cat([store["x"], store["y"]], 1)


# Every public function of features that has no row in the table of promises. Each call is made with
# the conversion that is to change nothing.
CALLS: dict[str, Callable[[Kind], Any]] = {
    "Aligner": lambda of: aligned(of(X), of(Y)),
    "Aligner, layers": lambda of: aligned([of(Z), of(X)], {"a": of(Y)}, "select"),
    "CKA": lambda of: streamed(sr.CKA(), of(X), of(Y)),
    "MinibatchCKA": lambda of: streamed(sr.MinibatchCKA(), of(X), of(Y)),
    "PairMoments": lambda of: sr.PairMoments().update(of(X), of(Y)).M_xy,
    "cca": lambda of: sr.cca(of(X), of(Y)),
    "svcca": lambda of: sr.svcca(of(X), of(Y)),
    "pwcca": lambda of: sr.pwcca(of(X), of(Y)),
    "cka_chance": lambda of: torch.stack(sr.cka_chance([of(X)], {"y": of(Y)}, debiased=False)),
    "cknna": lambda of: sr.cknna(of(X), of(Y)),
    "continuity": lambda of: sr.continuity(of(X), of(Y), k=3),
    "trustworthiness": lambda of: sr.trustworthiness(of(X), of(Y), k=3),
    "neighbourhood_overlap": lambda of: sr.neighbourhood_overlap(of(X), of(Y), k=3),
    "fit_asif": lambda of: heads_of(sr.fit_asif, of(X), of(Y)),
    "fit_cca": lambda of: heads_of(sr.fit_cca, of(X), of(Y)),
    "fit_csa": lambda of: heads_of(sr.fit_csa, of(X), of(Y)),
    "fit_procrustes": lambda of: heads_of(sr.fit_procrustes, of(X), of(Y)),
    "fit_ridge": lambda of: heads_of(sr.fit_ridge, of(X), of(Y)),
    "select_cca": lambda of: torch.tensor(sr.select_cca(of(X), of(Y))[1:]),
    "layer_similarity": lambda of: sr.layer_similarity([of(X), of(Z)], {"y": of(Y)}),
    "select_layers": lambda of: sr.select_layers([of(X), of(Z)], [of(Y)], permutations=5).scores,
    "retrieval": lambda of: sr.retrieval(of(X), of(Z)).x_to_y.mean_average_precision,
    "search": lambda of: sr.search(of(X), of(Z), k=3).scores,
    "local_scaling": lambda of: sr.local_scaling(of(X), of(Z), k=3),
    "zero_shot": lambda of: sr.zero_shot(of(X), of(Z[:4]), LABELS).accuracy,
    "temperature_for_perplexity": lambda of: torch.tensor(sr.temperature_for_perplexity(of(X), 5)),
    "tie_fraction": lambda of: sr.tie_fraction(of(X)),
}
# Public names that take no features or tensors only, and those that have a test of their own.
NOT_HERE = {
    *("AsifHead", "CsaHead", "GatedHead", "LinearHead", "MlpHead", "ResidualHead"),
    *("ClipLoss", "FrozenStructure", "SigLipLoss", "StructureLoss", "ReferenceTap"),
    "KlotLoss",
    *("CcaSelection", "LayerSelection", "Retrieval", "RetrievalDirection", "ZeroShot"),
    *("StructureDiagnostics", "extract_features", "freeze", "merge_stores", "tile_budget"),
    *("save_pretrained_heads", "load_pretrained_heads", "push_heads_to_hub"),
    *("load_heads", "save_heads", "released_aligner", "FeatureStore", "class_embeddings"),
    *("Side", "SearchResult"),
}


def test_every_public_name_is_here_or_in_the_table() -> None:
    assert {*CALLS, *NOT_HERE, *PROMISES} - {"Aligner, layers"} == set(sr.__all__)


@every_kind
@pytest.mark.parametrize("name", CALLS)
def test_an_array_counts_as_the_tensor_of_its_numbers(name: str, kind: str) -> None:
    expected, found = CALLS[name](lambda x: x), CALLS[name](KINDS[kind])
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-4, atol=1e-5)
    if kind not in WIDENING | BY_COLUMN:
        assert torch.equal(found, expected)


@every_kind
def test_a_store_takes_arrays_of_its_dtype(kind: str, tmp_path: Path) -> None:
    x, y = (X.double(), Y.double()) if kind in WIDENING else (X, Y)
    assert torch.equal(stored(tmp_path, KINDS[kind](x), KINDS[kind](y)), torch.cat([x, y], 1))


def test_prompts_are_an_array_of_three_axes() -> None:
    expected = sr.class_embeddings(PROMPTS)
    for prompts in (PROMPTS.numpy(), PROMPTS.tolist(), list(PROMPTS), list(PROMPTS.numpy())):
        torch.testing.assert_close(sr.class_embeddings(prompts).float(), expected)
    for head in (lambda z: z * 2, lambda z: z.numpy() * 2):
        torch.testing.assert_close(sr.class_embeddings(PROMPTS, head=head), expected)


def test_a_mask_is_an_array_too() -> None:
    mask = torch.arange(24) % 3 > 0
    expected = sr.mutual_knn(X, Y, k=3, mask=mask)
    for kind in (mask.numpy(), mask.tolist(), pd.Series(mask.numpy()), pl.Series(mask.numpy())):
        assert sr.mutual_knn(X, Y, k=3, mask=kind) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    x = X.to(dtype)
    as_numpy = {torch.bfloat16: ml_dtypes.bfloat16}
    a = X.numpy().astype(as_numpy.get(dtype) or str(dtype).removeprefix("torch."))
    for array in (a, a[::-1].copy()[::-1], a[:, :]):
        assert torch.equal(as_tensor("f", "x", array), x)
    assert torch.equal(as_tensor("f", "x", list(x)), x)
    assert sr.cka(a, Y) == sr.cka(x, Y)


def test_a_dtype_that_pytorch_has_only_partly_is_widened() -> None:
    a = X.numpy().astype(ml_dtypes.float8_e4m3fn)
    assert torch.equal(as_tensor("f", "x", a), torch.from_numpy(a.astype(np.float32)))


def test_a_tensor_is_returned_itself() -> None:
    for x in (X, X.to("meta"), X.long(), torch.nn.Parameter(X)):
        assert as_tensor("f", "x", x) is x


def test_memory_is_shared_without_a_warning(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.numpy())
    arrays = [X.numpy(), read_only(X), np.load(tmp_path / "x.npy", mmap_mode="r")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for a in (*arrays, *(a.T for a in arrays)):
            x = as_tensor("f", "x", a)
            assert x.data_ptr() == a.ctypes.data
            assert np.array_equal(x.numpy(), a)


def test_memory_lives_as_long_as_the_tensor() -> None:
    x = as_tensor("f", "x", read_only(X))
    rubbish = [np.zeros(X.shape, np.float32) for _ in range(100)]
    assert torch.equal(x, X)
    assert len(rubbish) == 100


def test_no_function_writes_into_an_array() -> None:
    before = X.numpy().copy()
    for call in CALLS.values():
        call(read_only)  # a write into memory without permission ends the process
        call(lambda x: x.numpy())
    assert np.array_equal(X.numpy(), before)


def test_a_buffer_may_be_filled_again_between_batches() -> None:
    x, y = normal(48, 6, seed=7), normal(48, 5, seed=8)
    cka, buffer_x, buffer_y = sr.CKA(), np.empty((24, 6)), np.empty((24, 5))
    for rows in (slice(24), slice(24, 48)):
        buffer_x[:], buffer_y[:] = x[rows], y[rows]
        cka.update(buffer_x, buffer_y)
    torch.testing.assert_close(cka.compute(), sr.cka(x, y))


def test_many_threads_at_once() -> None:
    found: list[Tensor] = []
    threads = [
        threading.Thread(target=lambda: found.append(sr.cka(read_only(X), read_only(Y))))
        for _ in range(8)
    ]
    filters = list(warnings.filters)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [sr.cka(X, Y)] * 8
    assert warnings.filters == filters


FRAME = pd.DataFrame(X.numpy(), columns=[f"f{i}" for i in range(6)])


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (FRAME.assign(site="A"), TypeError, "hold numbers only, got other values in 'site'"),
        (FRAME.assign(a="1", b="2"), TypeError, "hold numbers only, got other values in 'a', 'b'"),
        (FRAME.assign(day=pd.Timestamp(0)), TypeError, "numbers only, got other values in 'day'"),
        (pl.DataFrame(FRAME).with_columns(s=pl.lit("A")), TypeError, "got other values in 's'"),
        (FRAME.astype(str), TypeError, "got other values in 'f0', 'f1', 'f2', 'f3', 'f4', 'f5'"),
        (FRAME["f0"], ValueError, r"x of shape \(n, d\), got \(24,\)"),
        (X.numpy().astype(int), TypeError, r"x in float16, .* got torch.int64"),
        (X.numpy() > 0, TypeError, r"x in float16, .* got torch.bool"),
        (X.numpy() + 0j, TypeError, r"x in float16, .* got torch.complex64"),
        (X.numpy().astype(np.clongdouble), TypeError, r"x in float16, .* got torch.complex128"),
        (X.numpy().astype(np.uint16), TypeError, r"x in float16, .* got torch.uint16"),
        (X.numpy().astype("U8"), TypeError, "hold numbers only, got dtype <U8"),
        (X.numpy().astype("S8"), TypeError, r"hold numbers only, got dtype \|S8"),
        (X.numpy().astype(object).astype("U8").astype(object), TypeError, "only, got dtype object"),
        (np.zeros((24, 6), "M8[s]"), TypeError, "hold numbers only, got dtype datetime64"),
        (np.zeros(24, [("a", float), ("b", float)]), TypeError, "hold numbers only, got dtype "),
        (np.float64(3.0), ValueError, r"x of shape \(n, d\), got \(\)"),
        ([[1.0, 2.0], [3.0]], ValueError, "x to be one array to NumPy, got: .*inhomogeneous"),
        ([X[0], X[1, :3]], ValueError, "x with rows of one length, dtype and device, got several"),
        ([object(), object()], TypeError, "hold numbers only, got dtype object"),
        (scipy.sparse.csr_matrix(X), TypeError, r"be dense, got csr_matrix; pass x.toarray\(\)"),
        (X.to_sparse(), TypeError, r"be dense, got torch.sparse_coo; pass x.to_dense\(\)"),
        (np.ma.masked_less(X.numpy(), 0), ValueError, r"without masked entries, got \d+"),
        ([np.ma.masked_less(row, 0) for row in X.numpy()], ValueError, "without masked entries"),
        (3.0, TypeError, "x to be an array or a tensor, got float"),
        (None, TypeError, "x to be an array or a tensor, got NoneType"),
        ({1.0, 2.0}, TypeError, "x to be an array or a tensor, got set"),
        ((row for row in X), TypeError, "x to be an array or a tensor, got generator"),
        (pl.LazyFrame(X.numpy()), TypeError, "x to be an array or a tensor, got LazyFrame"),
    ],
    ids=str,
)
def test_what_is_no_array_of_numbers_is_refused_by_name(
    x: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=rf"^cka: expected .*{message}[^\n]*$"):
        sr.cka(x, Y)


def test_missing_numbers_are_nan() -> None:
    holes = pd.DataFrame(X.numpy()).mask(X.numpy() > 2)
    assert holes.isna().any(axis=None)
    for frame in (holes, holes.astype("Float32"), pl.DataFrame(holes.to_numpy(), nan_to_null=True)):
        assert sr.cka(frame, Y).isnan()
        with pytest.raises(ValueError, match=r"^Aligner\.fit: expected x without NaN"):
            sr.Aligner(head="ridge").fit(frame, Y)


def test_flags_among_numbers_count_as_numbers() -> None:
    """One-hot columns of pandas are boolean."""
    frame = FRAME.assign(male=X[:, 0].numpy() > 0)
    found = sr.cka(frame, Y)
    torch.testing.assert_close(found, sr.cka(torch.cat([X, X[:, :1] > 0], 1).double(), Y))


def test_lists_of_rows_are_one_array_and_lists_of_arrays_are_layers() -> None:
    layers = [X, Z]
    expected = sr.Aligner(head="ridge", layers=(0, 0)).fit(X, Y).transform_x(X)
    for rows in (X.tolist(), list(X), list(X.numpy()), tuple(X)):
        aligner = sr.Aligner(head="ridge").fit(rows, Y)
        assert aligner.layers_ == (0, 0)
        torch.testing.assert_close(aligner.transform_x(X), expected, rtol=1e-4, atol=1e-5)
    for sides in (layers, [x.numpy() for x in layers], [x.tolist() for x in layers]):
        assert sr.Aligner(head="ridge", layers=(1, 0)).fit(sides, Y).layers_ == (1, 0)
        assert sr.select_layers(sides, [Y], permutations=3).x_names == ("0", "1")
    for one in (X.numpy(), X, FRAME):
        with pytest.raises(TypeError, match=r"^select_layers: expected xs to be a list of t"):
            sr.select_layers(one, [Y])


def test_a_file_of_layers_is_a_mapping(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "layers.h5", "w") as file:
        file["x"], file["z"] = X.numpy(), Z.numpy()
        np.savez(tmp_path / "layers.npz", x=X.numpy(), z=Z.numpy())
        expected = sr.layer_similarity({"x": X, "z": Z}, [Y])
        for layers in (file, np.load(tmp_path / "layers.npz")):
            assert torch.equal(sr.layer_similarity(layers, [Y]), expected)
            assert sr.select_layers(layers, [Y], permutations=3).x_names == ("x", "z")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 2**20),
)
def test_any_shape_of_any_kind(kind: str, dtype: torch.dtype, n: int, d: int, seed: int) -> None:
    x = normal(n, d, seed=seed, dtype=dtype)
    found = as_tensor("f", "x", KINDS[kind](x))
    # Whether NumPy widens a table of one column is up to the package.
    assert found.dtype in ({dtype, torch.float64} if kind in WIDENING else {dtype})
    assert torch.equal(found.to(dtype), x)
