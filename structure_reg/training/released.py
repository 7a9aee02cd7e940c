"""The training that the authors released, difference by difference."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from structure_reg._checks import check_count, check_number
from structure_reg.heads.linear import LinearHead
from structure_reg.losses.structure import StructureLoss
from structure_reg.training._checks import check_head
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
    r"""Make the :class:`Aligner` that trains as the authors' released code does.

    For comparison, not for use. Its differences from the paper and from the defaults here:

    - *Divergence*: :func:`reverse_js_divergence`, which is not bounded, in place of the paper's.
    - *Weight*: on the mean of both sides; the paper's formula has the sum.
    - *Temperature*: STRUCTURE's is that of the contrastive loss, fixed at 0.05.
    - *Neighbourhoods*: of the frozen features as they are, as in the paper.
    - *Warm-up*: over 1000 optimiser steps, whatever the length of training. With 4096 pairs or
      fewer a step is an epoch, and the whole weight comes when training ends.
    - *Learning rate*: from a range test at the whole weight; a cosine that is not held at its
      bottom, so that it climbs again after 50 epochs, and so on.
    - *Heads*: random weights, 512 wide. "mlp" is the released low-rank head, whose gate never
      opens: a linear map without bias, orthogonal at the start.
    - *Features*: as they are, not standardised, without noise.
    - *Validation*: the objective with the weight of the step, so that early steps look better than
      they are; it stops after 200 of 1000 epochs without a better one.

    Not here: the order of its batches, its last batch that is not full, and clipping per tensor.

    Parameters
    ----------
    pairs : int
        How many there will be to train on, at least 2: the warm-up is given in steps.
    head : {"linear", "mlp"}
        Which head; see above.
    layers
        As in :class:`Aligner`.
    structure_weight : float
        10 as released; 0 is without.
    levels : int
        Of STRUCTURE.
    temperature : float
        Of both losses.
    epochs : int
        1000 as released.
    seed : int
        The first of the seeds that were released.

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
    With 300 pairs an epoch is a step, and the weight is whole when training ends:

    >>> released_aligner(300).warmup
    1.0
    """
    name = "released_aligner"
    check_count(name, "pairs", pairs, least=2)
    check_count(name, "epochs", epochs)
    check_number(name, "temperature", temperature, above=0.0)
    check_head(head, HEADS)
    steps = epochs * max(1, pairs // BATCH)
    make: Callable[[int, int], nn.Module] = LinearHead if head == "linear" else orthogonal_head
    return Aligner(
        head=make,
        layers=layers,
        dim=512,
        structure_weight=structure_weight,
        keep="frozen",
        structure=StructureLoss(temperature=temperature, levels=levels, divergence="reverse_js"),
        start="random",
        standardise=False,
        epochs=epochs,
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
    """From 1 to 0 in `half` steps, back to 1 in as many, and so on."""
    return (1 + math.cos(math.pi * done * steps / half)) / 2


def orthogonal_head(in_features: int, out_features: int) -> nn.Module:
    head = LinearHead(in_features, out_features, bias=False)
    torch.nn.init.orthogonal_(head.weight)
    return head
