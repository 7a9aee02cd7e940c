"""One row of promises per public function; test_contract.py holds every row to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import cbrt, ceil, inf, log
from typing import Any

import oracles
import oracles_cka
import oracles_evaluation
import oracles_neighbours
import torch
from torch import Tensor, nn

import structure_reg as sr

Tensors = tuple[Tensor, ...]
Options = dict[str, Any]


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


# Inputs of n samples and a seed: always float64, the laws convert them.


def one_set(n: int, seed: int) -> Tensors:
    return (normal(n, 6, seed=seed),)


def two_widths(n: int, seed: int) -> Tensors:
    """Two related sets, as a head would make the second from the first."""
    x = normal(n, 6, seed=seed)
    head = normal(6, 4, seed=seed + 1)
    return x, x @ head + 0.3 * normal(n, 4, seed=seed + 2)


def one_width(n: int, seed: int) -> Tensors:
    x = normal(n, 5, seed=seed)
    return x, x + normal(n, 5, seed=seed + 1)


def unpaired(n: int, seed: int) -> Tensors:
    """Rows of two sides, two more on the second, and the same rows under a teacher."""
    x, y = one_width(n + 2, seed)
    teacher_x, teacher_y = normal(n, 6, seed=seed + 3), normal(n + 2, 6, seed=seed + 4)
    return x[:n], y, teacher_x, teacher_y


def square(n: int, seed: int) -> Tensors:
    return (normal(n, n, seed=seed),)


def log_rows(n: int, seed: int) -> Tensors:
    return tuple(torch.log_softmax(3 * normal(n, 7, seed=seed + i), -1) for i in range(2))


# Changes of the inputs that a function may or may not notice.


def rotation(d: int) -> Tensor:
    return torch.linalg.qr(normal(d, d, seed=99))[0]


def rotate_each(*tensors: Tensor) -> Tensors:
    return tuple(x @ rotation(x.shape[1]) for x in tensors)


def rotate_first(*tensors: Tensor) -> Tensors:
    return (tensors[0] @ rotation(tensors[0].shape[1]), *tensors[1:])


def scale(*tensors: Tensor) -> Tensors:
    return tuple(3.7 * x for x in tensors)


def scale_rows(*tensors: Tensor) -> Tensors:
    return tuple((0.1 + normal(len(x), 1, seed=98).abs()) * x for x in tensors)


def translate(*tensors: Tensor) -> Tensors:
    return tuple(x + 0.8 for x in tensors)


def swap(*tensors: Tensor) -> Tensors:
    return tensors[::-1]


def swap_sides(x: Tensor, y: Tensor, teacher_x: Tensor, teacher_y: Tensor) -> Tensors:
    return y, x, teacher_y, teacher_x


KEEPS_ANGLES = {rotate_each: True, scale: True, scale_rows: True, translate: False}
KEEPS_DISTANCES = {rotate_each: True, scale: True, scale_rows: False, translate: True}
KEEPS_PAIRS = {
    rotate_each: True,
    rotate_first: False,
    scale: True,
    scale_rows: True,
    translate: False,
    swap: True,
}


@dataclass(frozen=True)
class Promise:
    """What a public function keeps to.

    `variants` are options to go through, each with what holds for it: the invariance to each
    change (True: the value stays; False: it must not) and the range of the value.
    """

    inputs: Callable[[int, int], Tensors]
    oracle: Callable[..., Any]
    variants: tuple[Options, ...] = ({},)
    gradient: tuple[int, ...] = ()  # which inputs get one
    twice: bool = True  # the gradient has a gradient; else one is refused
    invariant: Callable[[Options], Mapping[Callable[..., Tensors], bool]] = lambda _: {}
    bounds: Callable[[Options, int], tuple[float, float]] = lambda _options, _n: (-inf, inf)
    least: int = 2  # samples
    by_sample: bool = False  # a permutation of the samples permutes the rows of reduction="none"
    twin: type[nn.Module] | None = None
    call_options: frozenset[str] = frozenset()  # options that the twin takes in its call
    bad_options: tuple[tuple[Options, type[Exception]], ...] = ()
    paired: bool = False  # inputs share their rows
    arrays: bool = True  # takes what NumPy can read; the losses take tensors only
    half_tolerance: Mapping[torch.dtype, float] = field(
        default_factory=lambda: {torch.bfloat16: 3e-2, torch.float16: 5e-2, torch.float32: 1e-4}
    )


def structure_bounds(options: Options, n: int) -> tuple[float, float]:
    levels = options.get("levels", 1)
    bound = log(2) if options.get("divergence", "js") == "js" else 13.2
    rows = n if options.get("reduction") == "sum" else 1
    return 0.0, rows * bound * sum(1 / level for level in range(1, levels + 1)) / levels


def by_centering(options: Options) -> Mapping[Callable[..., Tensors], bool]:
    return KEEPS_DISTANCES if options.get("centering") == "before" else KEEPS_ANGLES


IDS = torch.tensor([3, 1, 3, 2, 1, 3, 7, 8, 9, 9, 4, 0])


def of_neighbours(oracle: Callable[..., float]) -> Callable[..., float]:
    """An oracle of lists of k neighbours, k by Rice's rule where none is given."""
    return lambda x, y, k=None: oracle(x, y, k or ceil(round(2 * cbrt(len(x)), 9)))


def of_tensors(oracle: Callable[..., float]) -> Callable[..., float]:
    return lambda x, y, **options: oracle(torch.from_numpy(x), torch.from_numpy(y), **options)


BAD_K = (
    ({"k": 0}, ValueError),
    ({"k": len(IDS)}, ValueError),
    ({"k": 2.0}, TypeError),
    ({"k": "half"}, ValueError),
)


def shares_neighbours(
    oracle: Callable[..., float], *, k: int = 3, symmetric: bool = True
) -> Promise:
    return Promise(
        inputs=two_widths,
        oracle=of_neighbours(oracle),
        variants=({"k": k},),
        least=k + 1,
        invariant=lambda _: {**KEEPS_ANGLES, swap: symmetric},
        bounds=lambda _options, _n: (0.0, 1.0),
        bad_options=BAD_K,
        paired=True,
    )


def keeps_shape(oracle: Callable[..., float], least: int, low: float, **changes: Any) -> Promise:
    """A similarity that sees distances alone."""
    return Promise(
        inputs=two_widths,
        oracle=of_tensors(oracle),
        least=least,
        invariant=lambda _: {**KEEPS_DISTANCES, swap: True},
        bounds=lambda _options, _n: (low, 1.0),
        paired=True,
        **changes,
    )


STRUCTURE = Promise(
    inputs=two_widths,
    oracle=oracles.structure_loss,
    variants=(
        {},
        {"temperature": 0.5, "levels": 3},
        {"temperature": 0.2, "levels": 2, "divergence": "reverse_js"},
        {"temperature": 0.3, "divergence": "reverse_js", "centering": "none"},
        {"temperature": 0.3, "levels": 5, "centering": "before"},
        {"temperature": 1.0, "levels": 2, "reduction": "sum"},
        {"temperature": 0.2, "reduction": "none"},
    ),
    gradient=(1,),
    twice=False,
    invariant=by_centering,
    bounds=structure_bounds,
    by_sample=True,
    twin=sr.StructureLoss,
    bad_options=(
        ({"temperature": 0.0}, ValueError),
        ({"temperature": float("nan")}, ValueError),
        ({"temperature": "cold"}, TypeError),
        ({"levels": 0}, ValueError),
        ({"levels": 1.5}, TypeError),
        ({"levels": True}, TypeError),
        ({"divergence": "kl"}, ValueError),
        ({"centering": "mean"}, ValueError),
        ({"reduction": "median"}, ValueError),
        ({"reduction": None}, TypeError),
    ),
    paired=True,
    arrays=False,
)

CLIP = Promise(
    inputs=one_width,
    oracle=oracles.clip_loss,
    variants=(
        {},
        {"logit_scale": 3.0, "label_smoothing": 0.2, "reduction": "none"},
        {"logit_scale": 8.0, "ids": IDS},
        {"logit_scale": 8.0, "ids": IDS, "label_smoothing": 0.1, "reduction": "sum"},
    ),
    gradient=(0, 1),
    invariant=lambda _: KEEPS_PAIRS,
    bounds=lambda _options, _n: (0.0, inf),
    by_sample=True,
    twin=sr.ClipLoss,
    call_options=frozenset({"ids", "logit_scale"}),
    bad_options=(
        ({"logit_scale": "large"}, TypeError),
        ({"logit_scale": float("inf")}, ValueError),
        ({"logit_scale": torch.ones(2)}, ValueError),
        ({"logit_scale": torch.tensor(1)}, TypeError),
        ({"label_smoothing": 1.0}, ValueError),
        ({"label_smoothing": -0.1}, ValueError),
        ({"reduction": "median"}, ValueError),
        ({"ids": [1, 2]}, TypeError),
        ({"ids": torch.zeros(12)}, TypeError),
        ({"ids": torch.zeros(3, dtype=torch.long)}, ValueError),
    ),
    paired=True,
    arrays=False,
)

SIGLIP = Promise(
    inputs=one_width,
    oracle=oracles.siglip_loss,
    variants=(
        {},
        {"logit_scale": 3.0, "logit_bias": -1.0, "reduction": "none"},
        {"logit_scale": 8.0, "ids": IDS},
        {"logit_scale": 8.0, "ids": IDS, "reduction": "sum"},
    ),
    gradient=(0, 1),
    invariant=lambda options: {
        **KEEPS_PAIRS,
        swap: options.get("reduction") != "none",  # it sums over the rows of y
    },
    bounds=lambda _options, _n: (0.0, inf),
    by_sample=True,
    twin=sr.SigLipLoss,
    call_options=frozenset({"ids", "logit_scale", "logit_bias"}),
    bad_options=(
        ({"logit_scale": None}, TypeError),
        ({"logit_bias": torch.ones(1, 2)}, ValueError),
        ({"logit_bias": float("nan")}, ValueError),
        ({"reduction": ""}, ValueError),
        ({"ids": torch.zeros(12, dtype=torch.bool)}, TypeError),
    ),
    paired=True,
    arrays=False,
)

KLOT = Promise(
    inputs=unpaired,
    oracle=oracles.klot_loss,
    # The gradient is the derivative, and the sides are alike, once Sinkhorn has converged.
    variants=(
        {"epsilon": 0.5, "teacher_epsilon": 0.4, "iterations": 60},
        {"epsilon": 0.4, "teacher_epsilon": 0.2, "iterations": 100},
    ),
    gradient=(0, 1),
    twice=False,
    invariant=lambda _: {
        **KEEPS_ANGLES,
        rotate_first: False,
        swap: False,  # the student and the teacher
        swap_sides: True,
    },
    bounds=lambda _options, _n: (0.0, inf),
    twin=sr.KlotLoss,
    bad_options=(
        ({"epsilon": 0.0}, ValueError),
        ({"epsilon": "sharp"}, TypeError),
        ({"teacher_epsilon": -1.0}, ValueError),
        ({"teacher_epsilon": float("inf")}, ValueError),
        ({"iterations": 0}, ValueError),
        ({"iterations": 1.5}, TypeError),
    ),
    arrays=False,
)

PROMISES: dict[str, Promise] = {
    "structure_loss": STRUCTURE,
    "clip_loss": CLIP,
    "siglip_loss": SIGLIP,
    "klot_loss": KLOT,
    "cosine_kernel": Promise(
        inputs=one_set,
        oracle=oracles.cosine_kernel,
        variants=({}, {"centering": "before"}, {"centering": "none"}),
        gradient=(0,),
        invariant=by_centering,
        bounds=lambda options, _n: (-4.0, 4.0) if not options else (-1.0, 1.0),
        bad_options=(({"centering": "mean"}, ValueError), ({"centering": 1}, TypeError)),
        arrays=False,
    ),
    "log_transition_matrix": Promise(
        inputs=square,
        oracle=oracles.log_transition_matrix,
        variants=({}, {"temperature": 2.0}),
        gradient=(0,),
        invariant=lambda _: {translate: True, scale: False},
        bounds=lambda _options, _n: (-inf, 0.0),
        bad_options=(({"temperature": -1.0}, ValueError), ({"temperature": True}, TypeError)),
        arrays=False,
    ),
    "js_divergence": Promise(
        inputs=log_rows,
        oracle=oracles.js_divergence,
        gradient=(0, 1),
        invariant=lambda _: {swap: True},
        bounds=lambda _options, _n: (0.0, log(2)),
        paired=True,
        arrays=False,
    ),
    "reverse_js_divergence": Promise(
        inputs=log_rows,
        oracle=oracles.reverse_js_divergence,
        gradient=(0, 1),
        invariant=lambda _: {swap: True},
        bounds=lambda _options, _n: (0.0, 13.2),
        paired=True,
        arrays=False,
    ),
    "mutual_knn": shares_neighbours(oracles_neighbours.mutual_knn),
    "jaccard_knn": shares_neighbours(oracles_neighbours.jaccard_knn),
    "cycle_knn": shares_neighbours(oracles_neighbours.cycle_knn, k=4, symmetric=False),
    "lcs_knn": shares_neighbours(oracles_neighbours.lcs_knn),
    "edit_knn": shares_neighbours(oracles_neighbours.edit_knn),
    "cka": keeps_shape(
        oracles_cka.cka,
        5,
        -1.0,
        variants=({}, {"debiased": False}, {"kernel": "rbf"}, {"kernel": "rbf", "debiased": False}),
        gradient=(0, 1),
        bad_options=(({"kernel": "cosine"}, ValueError),),
    ),
    "rv": keeps_shape(oracles_cka.rv, 2, 0.0, gradient=(0, 1)),
    "procrustes": keeps_shape(oracles_cka.procrustes, 3, 0.0, gradient=(0, 1)),
    "rsa": keeps_shape(
        oracles_cka.rsa,
        4,
        -1.0,
        variants=({}, {"correlation": "spearman"}),
        bad_options=(({"correlation": "kendall"}, ValueError),),
    ),
    "structure_diagnostics": Promise(
        inputs=two_widths,
        oracle=oracles.structure_diagnostics,
        variants=({}, {"temperature": 0.5, "centering": "none"}),
        bad_options=(({"temperature": 0}, ValueError), ({"centering": "mean"}, ValueError)),
        paired=True,
    ),
    "alignment": Promise(
        inputs=one_width,
        oracle=oracles_evaluation.alignment,
        variants=({}, {"alpha": 1.0}),
        invariant=lambda _: KEEPS_PAIRS,
        bounds=lambda options, _n: (0.0, 2.0 ** options.get("alpha", 2.0)),
        bad_options=(({"alpha": 0.0}, ValueError), ({"alpha": "2"}, TypeError)),
        paired=True,
    ),
    "uniformity": Promise(
        inputs=one_set,
        oracle=oracles_evaluation.uniformity,
        variants=({}, {"t": 0.5}),
        invariant=lambda _: KEEPS_ANGLES,
        bounds=lambda options, _n: (-4 * options.get("t", 2.0), 0.0),
        bad_options=(({"t": -1.0}, ValueError), ({"t": None}, TypeError)),
    ),
    "modality_gap": Promise(
        inputs=one_width,
        oracle=oracles_evaluation.modality_gap,
        invariant=lambda _: KEEPS_PAIRS,
        bounds=lambda _options, _n: (0.0, 2.0),
    ),
}

# Public names that are no function of tensors to tensors, and the file that holds them to theirs.
TESTED_IN = {
    "Aligner": "training/test_aligner.py",
    "AsifHead": "heads/test_closed_forms.py",
    "CKA": "similarity/test_streaming.py",
    "CcaSelection": "heads/test_cca_selection.py",
    "CsaHead": "heads/test_closed_forms.py",
    "FeatureStore": "features/test_store.py",
    "FrozenStructure": "losses/test_structure_kernels.py",
    "GatedHead": "heads/test_trained.py",
    "LayerSelection": "layers/test_selection.py",
    "LinearHead": "heads/test_trained.py",
    "MinibatchCKA": "similarity/test_streaming.py",
    "PairMoments": "heads/test_moments.py",
    "MlpHead": "heads/test_trained.py",
    "ReferenceTap": "features/test_reference.py",
    "ResidualHead": "heads/test_trained.py",
    "Retrieval": "evaluation/test_retrieval.py",
    "RetrievalDirection": "evaluation/test_retrieval.py",
    "SearchResult": "evaluation/test_search.py",
    "Side": "training/test_side.py",
    "StructureDiagnostics": "losses/test_temperature.py",
    "ZeroShot": "evaluation/test_zero_shot.py",
    "cca": "similarity/test_other_similarities.py",
    "cka_chance": "similarity/test_chance.py",
    "cknna": "similarity/test_neighbours.py",
    "class_embeddings": "evaluation/test_zero_shot.py",
    "continuity": "evaluation/test_neighbourhood.py",
    "extract_features": "features/test_extraction.py",
    "fit_asif": "heads/test_closed_forms.py",
    "fit_cca": "heads/test_closed_forms.py",
    "fit_csa": "heads/test_closed_forms.py",
    "fit_procrustes": "heads/test_closed_forms.py",
    "fit_ridge": "heads/test_closed_forms.py",
    "freeze": "features/test_freezing.py",
    "layer_similarity": "layers/test_selection.py",
    "load_heads": "heads/test_file.py",
    "load_pretrained_heads": "heads/test_hub.py",
    "local_scaling": "evaluation/test_search.py",
    "merge_stores": "features/test_store.py",
    "neighbourhood_overlap": "evaluation/test_neighbourhood.py",
    "push_heads_to_hub": "heads/test_hub.py",
    "pwcca": "similarity/test_other_similarities.py",
    "released_aligner": "training/test_released.py",
    "retrieval": "evaluation/test_retrieval.py",
    "save_heads": "heads/test_file.py",
    "save_pretrained_heads": "heads/test_hub.py",
    "search": "evaluation/test_search.py",
    "select_cca": "heads/test_cca_selection.py",
    "select_layers": "layers/test_selection.py",
    "svcca": "similarity/test_other_similarities.py",
    "temperature_for_perplexity": "losses/test_temperature.py",
    "tie_fraction": "similarity/test_neighbours.py",
    "tile_budget": "test_tiles.py",
    "trustworthiness": "evaluation/test_neighbourhood.py",
    "zero_shot": "evaluation/test_zero_shot.py",
}
