"""Align two frozen encoders with few pairs, and keep the geometry they were pretrained with."""

from importlib.metadata import version

from structure_reg._tiles import tile_budget
from structure_reg.losses.clip import ClipLoss, clip_loss
from structure_reg.losses.diagnostics import StructureDiagnostics, structure_diagnostics
from structure_reg.losses.divergence import js_divergence, reverse_js_divergence
from structure_reg.losses.frozen import FrozenStructure
from structure_reg.losses.siglip import SigLipLoss, siglip_loss
from structure_reg.losses.structure import StructureLoss, structure_loss
from structure_reg.losses.temperature import temperature_for_perplexity
from structure_reg.losses.transition import cosine_kernel, log_transition_matrix

__version__ = version("structure-reg")

__all__ = [
    "ClipLoss",
    "FrozenStructure",
    "SigLipLoss",
    "StructureDiagnostics",
    "StructureLoss",
    "clip_loss",
    "cosine_kernel",
    "js_divergence",
    "log_transition_matrix",
    "reverse_js_divergence",
    "siglip_loss",
    "structure_diagnostics",
    "structure_loss",
    "temperature_for_perplexity",
    "tile_budget",
]
