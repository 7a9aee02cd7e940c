"""Align two frozen encoders with few pairs, and keep the geometry they were pretrained with."""

from importlib.metadata import version

from structure_reg._tiles import tile_budget
from structure_reg.evaluation.csls import local_scaling
from structure_reg.evaluation.hypersphere import alignment, modality_gap, uniformity
from structure_reg.evaluation.neighbourhood import (
    continuity,
    neighbourhood_overlap,
    trustworthiness,
)
from structure_reg.evaluation.retrieval import Retrieval, RetrievalDirection, retrieval
from structure_reg.evaluation.search import SearchResult, search
from structure_reg.evaluation.zero_shot import ZeroShot, class_embeddings, zero_shot
from structure_reg.features.extraction import extract_features
from structure_reg.features.freezing import freeze
from structure_reg.features.merge import merge_stores
from structure_reg.features.reference import ReferenceTap
from structure_reg.features.store import FeatureStore
from structure_reg.heads.asif import AsifHead, fit_asif
from structure_reg.heads.cca import fit_cca
from structure_reg.heads.cca_selection import CcaSelection, select_cca
from structure_reg.heads.csa import CsaHead, fit_csa
from structure_reg.heads.file import load_heads, save_heads
from structure_reg.heads.gated import GatedHead
from structure_reg.heads.hub import (
    load_pretrained_heads,
    push_heads_to_hub,
    save_pretrained_heads,
)
from structure_reg.heads.linear import LinearHead
from structure_reg.heads.mlp import MlpHead
from structure_reg.heads.moments import PairMoments
from structure_reg.heads.procrustes import fit_procrustes
from structure_reg.heads.residual import ResidualHead
from structure_reg.heads.ridge import fit_ridge
from structure_reg.layers.grid import layer_similarity
from structure_reg.layers.report import LayerSelection
from structure_reg.layers.selection import select_layers
from structure_reg.losses.clip import ClipLoss, clip_loss
from structure_reg.losses.diagnostics import StructureDiagnostics, structure_diagnostics
from structure_reg.losses.divergence import js_divergence, reverse_js_divergence
from structure_reg.losses.frozen import FrozenStructure
from structure_reg.losses.klot import KlotLoss, klot_loss
from structure_reg.losses.siglip import SigLipLoss, siglip_loss
from structure_reg.losses.structure import StructureLoss, structure_loss
from structure_reg.losses.temperature import temperature_for_perplexity
from structure_reg.losses.transition import cosine_kernel, log_transition_matrix
from structure_reg.similarity.cca import cca, pwcca, svcca
from structure_reg.similarity.chance import cka_chance
from structure_reg.similarity.cka import cka
from structure_reg.similarity.cknna import cknna
from structure_reg.similarity.minibatch import MinibatchCKA
from structure_reg.similarity.neighbours import cycle_knn, jaccard_knn, mutual_knn
from structure_reg.similarity.procrustes import procrustes
from structure_reg.similarity.rsa import rsa
from structure_reg.similarity.rv import rv
from structure_reg.similarity.sequences import edit_knn, lcs_knn
from structure_reg.similarity.streaming import CKA
from structure_reg.similarity.ties import tie_fraction
from structure_reg.training.aligner import Aligner
from structure_reg.training.released import released_aligner
from structure_reg.training.side import Side

__version__ = version("structure-reg")

__all__ = [
    "CKA",
    "Aligner",
    "AsifHead",
    "CcaSelection",
    "ClipLoss",
    "CsaHead",
    "FeatureStore",
    "FrozenStructure",
    "GatedHead",
    "KlotLoss",
    "LayerSelection",
    "LinearHead",
    "MinibatchCKA",
    "MlpHead",
    "PairMoments",
    "ReferenceTap",
    "ResidualHead",
    "Retrieval",
    "RetrievalDirection",
    "SearchResult",
    "Side",
    "SigLipLoss",
    "StructureDiagnostics",
    "StructureLoss",
    "ZeroShot",
    "alignment",
    "cca",
    "cka",
    "cka_chance",
    "cknna",
    "class_embeddings",
    "clip_loss",
    "continuity",
    "cosine_kernel",
    "cycle_knn",
    "edit_knn",
    "extract_features",
    "fit_asif",
    "fit_cca",
    "fit_csa",
    "fit_procrustes",
    "fit_ridge",
    "freeze",
    "jaccard_knn",
    "js_divergence",
    "klot_loss",
    "layer_similarity",
    "lcs_knn",
    "load_heads",
    "load_pretrained_heads",
    "local_scaling",
    "log_transition_matrix",
    "merge_stores",
    "modality_gap",
    "mutual_knn",
    "neighbourhood_overlap",
    "procrustes",
    "push_heads_to_hub",
    "pwcca",
    "released_aligner",
    "retrieval",
    "reverse_js_divergence",
    "rsa",
    "rv",
    "save_heads",
    "save_pretrained_heads",
    "search",
    "select_cca",
    "select_layers",
    "siglip_loss",
    "structure_diagnostics",
    "structure_loss",
    "svcca",
    "temperature_for_perplexity",
    "tie_fraction",
    "tile_budget",
    "trustworthiness",
    "uniformity",
    "zero_shot",
]
