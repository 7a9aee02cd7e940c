"""From features to a random walk over the samples: kernel, then row-softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._checks import check_choice, check_features, check_float_tensor, check_number
from structure_reg._gram import centered_unit_rows, gram
from structure_reg._precision import full_precision, promote
from structure_reg.losses._checks import check_square

CENTERINGS = ("after", "before", "none")


def cosine_kernel(x: Tensor, *, centering: str = "after") -> Tensor:
    r"""Inner products of unit rows, centred over the batch.

    .. math:: K = \bar X \bar X^\top, \qquad \bar X = H \operatorname{rownorm}(X),
              \qquad H = I - \tfrac{1}{n} 1 1^\top

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Features, one sample a row, n >= 2.
    centering : {"after", "before", "none"}
        Subtract the mean row after the rows have unit length (the paper's order), before, or not
        at all. "after" is unchanged by a scale per row, "before" by a translation of `x`; both and
        "none" by a rotation.

    Returns
    -------
    Tensor of shape (n, n)
        Symmetric, entries in [-4, 4] for "after" and in [-1, 1] otherwise, float32 or float64.

    Raises
    ------
    TypeError
        If `x` is not a floating tensor.
    ValueError
        If its shape is not (n, d) with n >= 2, or `centering` is not one of the three.

    See Also
    --------
    log_transition_matrix : The next step: a row-softmax of this kernel.

    References
    ----------
    Gröger et al., "With Limited Data for Multimodal Alignment, Let the STRUCTURE Guide You",
    NeurIPS 2025, arXiv 2506.16895, section 4.

    Examples
    --------
    Scaling a row leaves the kernel alone:

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> cosine_kernel(x)
    tensor([[ 0.5000, -0.5000],
            [-0.5000,  0.5000]])
    >>> torch.equal(cosine_kernel(x), cosine_kernel(torch.tensor([[8.0, 1.0]]).T * x))
    True
    """
    check_features("cosine_kernel", x=x)
    check_choice("cosine_kernel", "centering", centering, CENTERINGS)
    (x,) = promote(x)
    with full_precision(x.device):
        return gram(centered_unit_rows(x, centering))  # (n, n)


def log_transition_matrix(kernel: Tensor, *, temperature: float = 0.05) -> Tensor:
    r"""Logarithm of the random walk that a kernel defines: its row-softmax, diagonal kept.

    .. math:: \log P_{ij} = K_{ij} / \tau - \log \sum_k \exp(K_{ik} / \tau)

    Parameters
    ----------
    kernel : Tensor of shape (n, n)
        Any similarity of samples, higher is nearer: :func:`cosine_kernel` for STRUCTURE, an RBF or
        a rank kernel for its ablations.
    temperature : float
        :math:`\tau > 0`, in units of the kernel.

    Returns
    -------
    Tensor of shape (n, n)
        Log-probabilities, at most 0; ``exp`` of each row sums to 1; float32 or float64.

    Raises
    ------
    TypeError
        If `kernel` is not a floating tensor, or `temperature` not a number.
    ValueError
        If `kernel` is not square, or `temperature` not positive and finite.

    See Also
    --------
    temperature_for_perplexity : Which temperature gives a wanted number of neighbours.

    References
    ----------
    Gröger et al., NeurIPS 2025, arXiv 2506.16895, section 4.

    Examples
    --------
    >>> log_p = log_transition_matrix(torch.eye(3), temperature=0.5)
    >>> log_p.exp()
    tensor([[0.7870, 0.1065, 0.1065],
            [0.1065, 0.7870, 0.1065],
            [0.1065, 0.1065, 0.7870]])
    """
    check_float_tensor("log_transition_matrix", "kernel", kernel)
    check_square("log_transition_matrix", "kernel", kernel)
    check_number("log_transition_matrix", "temperature", temperature, above=0.0)
    (kernel,) = promote(kernel)
    with full_precision(kernel.device):
        return torch.log_softmax(kernel / temperature, -1)  # (n, n)
