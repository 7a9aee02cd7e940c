"""Align two frozen encoders with few pairs, and keep the geometry they were pretrained with."""

from importlib.metadata import version

from structure_reg._tiles import tile_budget
from structure_reg.evaluation.hypersphere import alignment, modality_gap, uniformity
from structure_reg.evaluation.neighbourhood import (
    continuity,
    neighbourhood_overlap,
    trustworthiness,
)
from structure_reg.evaluation.retrieval import Retrieval, RetrievalDirection, retrieval
from structure_reg.evaluation.zero_shot import ZeroShot, class_embeddings, zero_shot
from structure_reg.heads.asif import AsifHead, fit_asif
from structure_reg.heads.cca import fit_cca
from structure_reg.heads.csa import CsaHead, fit_csa
from structure_reg.heads.file import load_heads, save_heads
from structure_reg.heads.gated import GatedHead
from structure_reg.heads.linear import LinearHead
from structure_reg.heads.mlp import MlpHead
from structure_reg.heads.procrustes import fit_procrustes
from structure_reg.heads.residual import ResidualHead
from structure_reg.heads.ridge import fit_ridge
from structure_reg.losses.clip import ClipLoss, clip_loss
from structure_reg.losses.diagnostics import StructureDiagnostics, structure_diagnostics
from structure_reg.losses.divergence import js_divergence, reverse_js_divergence
from structure_reg.losses.siglip import SigLipLoss, siglip_loss
from structure_reg.losses.structure import StructureLoss, structure_loss
from structure_reg.losses.temperature import temperature_for_perplexity
from structure_reg.losses.transition import cosine_kernel, log_transition_matrix

__version__ = version("structure-reg")

__all__ = [
    "AsifHead",
    "ClipLoss",
    "CsaHead",
    "GatedHead",
    "LinearHead",
    "MlpHead",
    "ResidualHead",
    "Retrieval",
    "RetrievalDirection",
    "SigLipLoss",
    "StructureDiagnostics",
    "StructureLoss",
    "ZeroShot",
    "alignment",
    "class_embeddings",
    "clip_loss",
    "continuity",
    "cosine_kernel",
    "fit_asif",
    "fit_cca",
    "fit_csa",
    "fit_procrustes",
    "fit_ridge",
    "js_divergence",
    "load_heads",
    "log_transition_matrix",
    "modality_gap",
    "neighbourhood_overlap",
    "retrieval",
    "reverse_js_divergence",
    "save_heads",
    "siglip_loss",
    "structure_diagnostics",
    "structure_loss",
    "temperature_for_perplexity",
    "tile_budget",
    "trustworthiness",
    "uniformity",
    "zero_shot",
]
