"""The training of the authors' released code, with each difference named."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from structure_reg._checks import check_choice, check_count, check_number
from structure_reg.heads.linear import LinearHead
from structure_reg.losses.structure import StructureLoss
from structure_reg.training._checks import check_layer_choice, check_seed
from structure_reg.training.aligner import Aligner

BATCH = 4096
EPOCHS = 1000
RAMP = 1000  # optimiser steps
PERIOD = 50  # epochs from the top of the cosine to its bottom
HEADS = ("linear", "mlp")


def released_aligner(
    pairs: int,
    *,
    head: str = "linear",
    layers: Any = "select",
    structure_weight: float = 10.0,
    levels: int = 1,
    temperature: float = 0.05,
    epochs: int = EPOCHS,
    seed: int = 42,
) -> Aligner:
    r"""Return an :class:`Aligner` that trains as the authors' released code does.

    It is meant for comparisons. It differs from the paper and from the defaults of this library in
    these points:

    - *Divergence*: :func:`reverse_js_divergence`, which is unbounded, in place of the paper's.
    - *Weight*: applied to the mean of both sides; the paper's formula has the sum.
    - *Temperature*: STRUCTURE shares the temperature of the contrastive loss, fixed at 0.05.
    - *Neighbourhoods*: those of the frozen features as they are, as in the paper.
    - *Warm-up*: over 1000 optimiser steps, however long training is. With 4096 pairs or fewer a
      step is an epoch, so the full weight is reached only when training ends.
    - *Learning rate*: found by a range test at full weight; the cosine does not stop at its
      minimum but rises again after 50 epochs, and so on.
    - *Heads*: random initial weights, width 512. "mlp" is the released low-rank head, whose gate
      never opens: a linear map without bias, orthogonal at the start.
    - *Features*: used as they are, neither standardised nor with noise.
    - *Validation*: on the objective with STRUCTURE at the weight of the step, which makes early
      steps look better than they are; training stops after 200 of 1000 epochs without a better one.

    Not reproduced: the order of the batches, the last batch that is not full, and gradient clipping
    per tensor.

    Parameters
    ----------
    pairs : int
        Number of training pairs, at least 2; the warm-up depends on it.
    head : {"linear", "mlp"}
        Kind of the heads, see above.
    layers
        As in :class:`Aligner`.
    structure_weight : float
        Weight of STRUCTURE, 10 in the release; 0 trains without it.
    levels : int
        Levels of STRUCTURE.
    temperature : float
        Temperature of both losses.
    epochs : int
        Passes over the pairs, 1000 in the release.
    seed : int
        Seed; the default is the first one of the release.

    Returns
    -------
    Aligner
        Not fitted.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of range.

    See Also
    --------
    Aligner : The defaults here, and why.

    References
    ----------
    Gröger et al., NeurIPS 2025, arXiv 2506.16895, and the code that its authors released.

    Examples
    --------
    With 300 pairs an epoch is one step, so full weight is reached when training ends:

    >>> released_aligner(300).warmup
    1.0
    """
    name = "released_aligner"
    check_count(name, "pairs", pairs, least=2)
    check_count(name, "epochs", epochs)
    check_number(name, "temperature", temperature, above=0.0)
    check_choice(name, "head", head, HEADS)
    check_count(name, "levels", levels)
    check_number(name, "structure_weight", structure_weight, least=0.0)
    check_seed(name, seed)
    check_layer_choice(layers)
    steps = epochs * max(1, pairs // BATCH)
    make: Callable[[int, int], nn.Module] = LinearHead if head == "linear" else orthogonal_head
    return Aligner(
        head=make,
        layers=layers,
        dim=512,
        structure_weight=structure_weight,
        unpaired_weight=0.0,
        keep="frozen",
        structure=StructureLoss(temperature=temperature, levels=levels, divergence="reverse_js"),
        start="random",
        standardise=False,
        epochs=epochs,
        max_steps=steps,
        batch_size=BATCH,
        lr="find",
        lr_schedule=partial(climbing_cosine, steps=steps, half=PERIOD * max(pairs // BATCH, 1)),
        weight_decay=1e-4,
        warmup=RAMP / steps,
        logit_scale=1 / temperature,
        noise=0.0,
        monitor="objective",
        patience=0.2,
        seed=seed,
    )


def climbing_cosine(done: float, *, steps: int, half: int) -> float:
    """Cosine from 1 to 0 over `half` steps, back to 1 over as many, and so on."""
    return (1 + math.cos(math.pi * done * steps / half)) / 2


def orthogonal_head(in_features: int, out_features: int) -> nn.Module:
    head = LinearHead(in_features, out_features, bias=False)
    torch.nn.init.orthogonal_(head.weight)
    return head
