"""Zero-shot classification: each class is a text, and a sample belongs to the nearest one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from einops import rearrange, reduce
from torch import Tensor

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_paired
from structure_reg._gram import unit_deviations, unit_rows
from structure_reg._ids import Ids, id_values
from structure_reg._precision import full_precision, needs_float64, promote
from structure_reg._table import html_table, text_table
from structure_reg.evaluation._checks import (
    check_callable,
    check_classes,
    check_ks,
    check_labels,
    check_prompts,
)
from structure_reg.evaluation.ranks import nan_of, score_rounding, tiles
from structure_reg.evaluation.ties import places, share_of_first


@torch.no_grad()
def class_embeddings(prompts: Array, *, head: Callable[[Tensor], Array] | None = None) -> Tensor:
    r"""Average the prompts of each class after the head, as unit vectors.

    .. math:: c = \operatorname{rownorm}
              \Bigl( \frac1t \sum_{j=1}^{t} \operatorname{rownorm}(f(p_j)) \Bigr)

    Parameters
    ----------
    prompts : Tensor or array of shape (c, t, d0)
        Frozen text features of t templates filled with each of c class names. For classes with
        different numbers of prompts, call once per class and concatenate.
    head : callable, optional
        Text head f from (n, d0) to (n, d); a module with dropout has to be in eval mode. By
        default, `prompts` are features after the head already.

    Returns
    -------
    Tensor of shape (c, d)
        Class embeddings of unit length, or zero if the prompts of a class cancel out; float32, or
        float64 if the features are, without gradient.

    Raises
    ------
    TypeError
        If `prompts` is not of a floating dtype, or `head` not callable.
    ValueError
        If `prompts` is not of shape (c, t, d0), or if the head changes the number of rows.

    See Also
    --------
    zero_shot : Classify samples by these embeddings.

    References
    ----------
    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
    ICML 2021, arXiv 2103.00020, section 3.1.4 (prompt ensembles).

    Examples
    --------
    Every prompt counts equally, whatever the norm of its features:

    >>> class_embeddings(torch.tensor([[[9.0, 0.0], [0.0, 1.0]]]))
    tensor([[0.7071, 0.7071]])
    """
    (prompts,) = as_tensors("class_embeddings", prompts=prompts)
    check_prompts("class_embeddings", prompts)
    z = texts = rearrange(prompts, "c t d0 -> (c t) d0")
    if head is not None:
        check_callable("class_embeddings", "head", head)
        (z,) = as_tensors("class_embeddings", **{"head(prompts)": head(texts)})  # (c t, d)
        check_paired("class_embeddings", rows=1, prompts=texts, **{"head(prompts)": z})
    (z,) = promote(z)
    with full_precision(z.device):
        return unit_rows(reduce(unit_rows(z), "(c t) d -> c d", "mean", c=len(prompts)))


class ZeroShot(NamedTuple):
    """The result of :func:`zero_shot`; it prints as a table.

    Parameters
    ----------
    ks : tuple of int
        Cut-offs of `accuracy` and `mean_per_class`.
    accuracy : Tensor of shape (len(ks),)
        Top-k accuracy over all samples, in [0, 1].
    mean_per_class : Tensor of shape (len(ks),)
        Top-k accuracy of each class with samples, averaged over these classes, in [0, 1].
    macro_f1 : Tensor of shape ()
        F1 score of each class with samples, averaged over these classes, in [0, 1].
    """

    ks: tuple[int, ...]
    accuracy: Tensor
    mean_per_class: Tensor
    macro_f1: Tensor

    def __str__(self) -> str:
        """Return a table of all cut-offs; it reads the values, so the host waits for a GPU."""
        return text_table(self._cells(), (10, 10, 16))

    def __repr__(self) -> str:
        """Return the table too: a session shows it without print."""
        return str(self)

    def _repr_html_(self) -> str:
        return html_table(self._cells())

    def _cells(self) -> list[tuple[str, str, str]]:
        rows = [
            (f"top-{k}", f"{a:.3f}", f"{m:.3f}")
            for k, a, m in zip(self.ks, self.accuracy, self.mean_per_class, strict=True)
        ]
        header = ("", "accuracy", "mean per class")
        return [header, *rows, ("macro F1", f"{self.macro_f1:.3f}", "")]


@needs_float64
@torch.no_grad()
def zero_shot(x: Array, classes: Array, labels: Ids, *, ks: Sequence[int] = (1, 5)) -> ZeroShot:
    r"""Classify each sample by the class with the highest cosine, and measure the accuracy.

    Ties count by their expectation, as in :func:`retrieval`: if the right class is one of r classes
    tied after a others, it is among the first k with probability :math:`(k - a) / r`, clamped to
    [0, 1]. A head that maps everything to one point has accuracy k over the number of classes.

    Parameters
    ----------
    x : Tensor or array of shape (n, d)
        Features of the samples after their head, at any scale.
    classes : Tensor or array of shape (c, d)
        Embeddings of the classes, as from :func:`class_embeddings`.
    labels : Tensor or array of shape (n,)
        Index of the right class of each sample, an integer in [0, c); also as a list.
    ks : sequence of int
        Cut-offs of the top-k accuracies.

    Returns
    -------
    ZeroShot
        Accuracy and mean accuracy per class for each k, and macro F1 of the expected confusion
        matrix, in float32, or float64 if an input is, without gradient. NaN if `x` or `classes` is
        not finite.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If shapes or devices do not match, if a label is not in [0, c), or if a k is not positive.

    See Also
    --------
    retrieval : Retrieval with partners in place of classes.

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
    x, classes = as_tensors("zero_shot", x=x, classes=classes)
    check_classes("zero_shot", x, classes)
    indices = id_values("zero_shot", "labels", labels)
    check_labels("zero_shot", indices, len(x), len(classes))
    cut_offs = check_ks("zero_shot", ks)
    x, classes = promote(x, classes)
    k = torch.tensor([*cut_offs, 1], device=x.device)  # the last one is for F1
    labels = torch.tensor(indices, device=x.device)
    hits, predicted = classify(x, classes, labels, k)
    hits = hits + nan_of(x, classes)
    samples = predicted.new_zeros(len(classes)).index_add(0, labels, hits.new_ones(len(x)))  # (c,)
    by_class = hits.new_zeros(len(classes), len(k)).index_add(0, labels, hits)  # (c, K + 1)
    present = samples > 0
    recall, f1 = by_class / samples[:, None], 2 * by_class[:, -1] / (samples + predicted)
    return ZeroShot(
        cut_offs,
        hits[:, :-1].mean(0).to(classes),
        recall[present, :-1].mean(0).to(classes),
        f1[present].mean().to(classes),
    )


def classify(x: Tensor, classes: Tensor, labels: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Return top-k hits, (n, K + 1), and expected predictions of each class, (c,), in float64."""
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
    return torch.cat(hits), predicted
