"""Zero-shot classification: classes are texts, a sample takes the nearest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._checks import check_paired
from structure_reg._gram import unit_rows
from structure_reg._precision import full_precision, promote
from structure_reg.evaluation._checks import check_callable, check_classes, check_ks, check_prompts
from structure_reg.evaluation.ranks import nan_of, score_rounding, tiles, unit_deviations
from structure_reg.evaluation.ties import places, share_of_first


@torch.no_grad()
def class_embeddings(prompts: Tensor, *, head: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    r"""Average the prompts of each class where they are compared: after the head, as directions.

    .. math:: c = \operatorname{rownorm}
              \Bigl( \frac1t \sum_{j=1}^{t} \operatorname{rownorm}(f(p_j)) \Bigr)

    Parameters
    ----------
    prompts : Tensor of shape (c, t, d0)
        Frozen text features, t templates filled with each of c class names. Classes of different
        numbers of prompts: one call each, and `torch.cat`.
    head : callable, optional
        The head f of the texts, from (n, d0) to (n, d), in eval mode if it is a module with
        dropout. None: `prompts` went through it already.

    Returns
    -------
    Tensor of shape (c, d)
        Unit rows, or zero where the prompts of a class cancel; float32 or float64, without
        gradient.

    Raises
    ------
    TypeError
        If `prompts` is not a floating tensor, or `head` not callable.
    ValueError
        If a shape does not fit.

    See Also
    --------
    zero_shot : What to do with them.

    References
    ----------
    Prompt ensembles: Radford et al., "Learning Transferable Visual Models From Natural Language
    Supervision", ICML 2021, arXiv 2103.00020, section 3.1.4.

    Examples
    --------
    A long prompt counts as much as a short one:

    >>> class_embeddings(torch.tensor([[[9.0, 0.0], [0.0, 1.0]]]))
    tensor([[0.7071, 0.7071]])
    """
    check_prompts("class_embeddings", prompts)
    z = prompts.flatten(0, 1)  # (c t, d0)
    if head is not None:
        check_callable("class_embeddings", "head", head)
        z = head(z)  # (c t, d)
        check_paired(
            "class_embeddings", rows=1, prompts=prompts.flatten(0, 1), **{"head(prompts)": z}
        )
    (z,) = promote(z)
    with full_precision(z.device):
        return unit_rows(unit_rows(z).reshape(*prompts.shape[:2], -1).mean(1))  # (c, d)


class ZeroShot(NamedTuple):
    """What :func:`zero_shot` returns, printed as a short table.

    Parameters
    ----------
    ks : tuple of int
        The cut-offs of the next two.
    accuracy : Tensor of shape (len(ks),)
        Top-k accuracy over the samples, in [0, 1].
    mean_per_class : Tensor of shape (len(ks),)
        Top-k accuracy within each class that has samples, averaged over these classes, in [0, 1].
    macro_f1 : Tensor of shape ()
        F1 of each class that has samples, averaged over these classes, in [0, 1].
    """

    ks: tuple[int, ...]
    accuracy: Tensor
    mean_per_class: Tensor
    macro_f1: Tensor

    def __str__(self) -> str:
        """Return a table of all cut-offs."""
        rows = [
            f"{f'top-{k}':10}{a:10.3f}{m:16.3f}"
            for k, a, m in zip(self.ks, self.accuracy, self.mean_per_class, strict=True)
        ]
        head = f"{'':10}{'accuracy':>10}{'mean per class':>16}"
        return "\n".join([head, *rows, f"{'macro F1':10}{self.macro_f1:10.3f}"])


@torch.no_grad()
def zero_shot(
    x: Tensor, classes: Tensor, labels: Tensor, *, ks: Sequence[int] = (1, 5)
) -> ZeroShot:
    r"""Classify each sample by its nearest class in cosine, and count how often that is right.

    Equal scores share their places, as in :func:`retrieval`: of r classes tied after a others, the
    right one is among the first k with probability :math:`(k - a) / r`, at least 0 and at most 1.
    A head that maps everything to one point scores k over the number of classes.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Samples after their head; their length does not matter.
    classes : Tensor of shape (c, d)
        One row a class: :func:`class_embeddings`.
    labels : Tensor of shape (n,)
        Integers in [0, c): the row of the right class.
    ks : sequence of int
        Cut-offs of the accuracies.

    Returns
    -------
    ZeroShot
        Accuracy and mean accuracy per class for each k, and macro F1 of the tie-averaged confusion
        matrix; float32, or float64 if an input is, without gradient. NaN if `x` or `classes` holds
        one, or an infinity.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes or devices do not fit, or a k is not positive.

    See Also
    --------
    retrieval : Partners instead of classes.

    References
    ----------
    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
    ICML 2021, arXiv 2103.00020.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.1], [0.9, 0.2], [0.8, 0.7], [0.1, 1.0]])
    >>> print(zero_shot(x, torch.eye(2), torch.tensor([0, 0, 1, 1]), ks=(1,)))
                accuracy  mean per class
    top-1          0.750           0.750
    macro F1       0.733
    """
    check_classes("zero_shot", x, classes, labels)
    check_ks("zero_shot", ks)
    x, classes = promote(x, classes)
    k = torch.tensor([*ks, 1], device=x.device)  # the last: what F1 counts
    labels = labels.long()
    W = unit_deviations(classes)
    rounding = score_rounding(W)
    hits, predicted = [], x.new_zeros(len(W), dtype=torch.float64)
    with full_precision(x.device):
        for rows in tiles(len(x), 24 * len(W)):
            S = unit_rows(x[rows]) @ W.mT  # (b, c)
            s = S.gather(1, labels[rows, None])  # (b, 1)
            above, tied = places(S, s, rounding)
            hits.append(share_of_first(k, above.double(), tied))  # (b, K + 1)
            highest = torch.ge(S, S.amax(1, keepdim=True) - rounding).double()
            predicted += (highest / highest.sum(1, keepdim=True)).sum(0)  # (c,)
    right = torch.cat(hits) + nan_of(x, classes)  # (n, K + 1)
    samples = predicted.new_zeros(len(W)).index_add(0, labels, right.new_ones(len(x)))  # (c,)
    by_class = right.new_zeros(len(W), len(k)).index_add(0, labels, right)  # (c, K + 1)
    present = samples > 0
    recall, f1 = by_class / samples[:, None], 2 * by_class[:, -1] / (samples + predicted)
    return ZeroShot(
        tuple(ks),
        right[:, :-1].mean(0).to(W),
        recall[present, :-1].mean(0).to(W),
        f1[present].mean().to(W),
    )
