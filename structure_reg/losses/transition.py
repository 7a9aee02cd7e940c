"""From features to a random walk over the samples: a kernel and its row-softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._checks import check_choice, check_features, check_float_tensor, check_number
from structure_reg._gram import centered_unit_rows, gram
from structure_reg._precision import full_precision, promote
from structure_reg.losses._checks import check_square

CENTERINGS = ("after", "before", "none")


def cosine_kernel(x: Tensor, *, centering: str = "after") -> Tensor:
    r"""Compute the inner products of unit rows, centred over the batch.

    .. math:: K = \bar X \bar X^\top, \qquad \bar X = H \operatorname{rownorm}(X),
              \qquad H = I - \tfrac{1}{n} 1 1^\top

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Features, one sample per row, n >= 2.
    centering : {"after", "before", "none"}
        Subtract the mean row after the rows are scaled to unit length (as in the paper), before, or
        not at all. The kernel is invariant to a scale per row with "after" and "none", to a
        translation of `x` with "before", and always to a rotation.

    Returns
    -------
    Tensor of shape (n, n)
        Symmetric kernel, with entries in [-4, 4] for "after" and in [-1, 1] otherwise; float32 or
        float64.

    Raises
    ------
    TypeError
        If `x` is not a floating tensor.
    ValueError
        If the shape of `x` is not (n, d) with n >= 2, or `centering` is not one of the three.

    See Also
    --------
    log_transition_matrix : Row-softmax of this kernel.

    References
    ----------
    Gröger et al., "With Limited Data for Multimodal Alignment, Let the STRUCTURE Guide You",
    NeurIPS 2025, arXiv 2506.16895, section 4.

    Examples
    --------
    Scaling a row does not change the kernel:

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
    r"""Compute the logarithm of a kernel's random walk: its row-softmax, including the diagonal.

    .. math:: \log P_{ij} = K_{ij} / \tau - \log \sum_k \exp(K_{ik} / \tau)

    Parameters
    ----------
    kernel : Tensor of shape (n, n)
        Similarity of samples, higher is nearer: :func:`cosine_kernel` for STRUCTURE; ablations may
        use an RBF or a rank kernel.
    temperature : float
        Temperature :math:`\tau > 0`, in the units of the kernel.

    Returns
    -------
    Tensor of shape (n, n)
        Log-probabilities, at most 0; the exponential of each row sums to 1. float32 or float64.

    Raises
    ------
    TypeError
        If `kernel` is not a floating tensor, or `temperature` is not a number.
    ValueError
        If `kernel` is not square, or `temperature` is not positive and finite.

    See Also
    --------
    temperature_for_perplexity : Temperature for a given number of neighbours.

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
