"""Divergences of two rows of probabilities: the paper's, and that of the authors' released code."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import logsigmoid

from structure_reg._kernels.divergence import RELEASE_EPSILON
from structure_reg._precision import full_precision, promote
from structure_reg.losses._checks import check_same_shape


def js_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Compute the Jensen-Shannon divergence of each row, in nats.

    .. math:: \mathrm{JS}(p, q) = \tfrac12 \sum_j p_j \log \frac{p_j}{m_j}
              + \tfrac12 \sum_j q_j \log \frac{q_j}{m_j}, \qquad m = \tfrac12 (p + q)

    The mixture is computed on logarithms, so value and gradient stay finite for probabilities that
    underflow their dtype.

    Parameters
    ----------
    log_p, log_q : Tensor of shape (..., n)
        Finite log-probabilities, as :func:`log_transition_matrix` returns them.

    Returns
    -------
    Tensor of shape (...)
        Divergence in [0, ln 2], symmetric, lower is nearer: 0 for equal rows, ln 2 for disjoint
        ones. float32 or float64.

    Raises
    ------
    TypeError
        If an argument is not a floating tensor.
    ValueError
        If the shapes or devices differ.

    See Also
    --------
    reverse_js_divergence : The divergence in the authors' released code.

    References
    ----------
    Lin, "Divergence measures based on the Shannon entropy", IEEE Trans. Inf. Theory 1991.

    Examples
    --------
    Disjoint rows are ln 2 apart, and equal rows 0:

    >>> log_p = torch.tensor([[0.0, -200.0], [0.0, -200.0]])
    >>> log_q = torch.tensor([[-200.0, 0.0], [0.0, -200.0]])
    >>> js_divergence(log_p, log_q)
    tensor([0.6931, 0.0000])
    """
    check_same_shape("js_divergence", log_p=log_p, log_q=log_q)
    log_p, log_q = promote(log_p, log_q)
    with full_precision(log_p.device):
        # log(p / m) = log 2 + log(p / (p + q)), and the quotient is a sigmoid of log p - log q. It
        # keeps all digits when p and q are close, or too small for their dtype.
        log_p_over_m = math.log(2) + logsigmoid(log_p - log_q)
        log_q_over_m = math.log(2) + logsigmoid(log_q - log_p)
        return (log_p.exp() * log_p_over_m + log_q.exp() * log_q_over_m).sum(-1) / 2


def reverse_js_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Compute the mean KL divergence of the mixture from each side, as the authors' code does.

    .. math:: \tfrac12 \mathrm{KL}(m \| p) + \tfrac12 \mathrm{KL}(m \| q)
              = \sum_j m_j \bigl[ \log(m_j + \epsilon) - \tfrac12 \log(p_j + \epsilon)
              - \tfrac12 \log(q_j + \epsilon) \bigr], \qquad m = \tfrac12 (p + q)

    in nats, with :math:`\epsilon = 10^{-12}`. Only :math:`\epsilon` bounds it: disjoint rows are
    13.1 apart. Near zero it agrees with :func:`js_divergence`; farther away it emphasises the pairs
    that one side alone separates. It is not the divergence of the paper.

    Parameters
    ----------
    log_p, log_q : Tensor of shape (..., n)
        Log-probabilities, as :func:`log_transition_matrix` returns them.

    Returns
    -------
    Tensor of shape (...)
        Divergence in [0, 13.2], symmetric, lower is nearer; float32 or float64.

    Raises
    ------
    TypeError
        If an argument is not a floating tensor.
    ValueError
        If the shapes or devices differ.

    See Also
    --------
    js_divergence : The divergence of the paper.

    References
    ----------
    Released code of Gröger et al., NeurIPS 2025, arXiv 2506.16895.

    Examples
    --------
    >>> log_p = torch.tensor([[0.0, -200.0], [0.0, -200.0]])
    >>> log_q = torch.tensor([[-200.0, 0.0], [0.0, -200.0]])
    >>> reverse_js_divergence(log_p, log_q)
    tensor([13.1224,  0.0000])
    """
    check_same_shape("reverse_js_divergence", log_p=log_p, log_q=log_q)
    log_p, log_q = promote(log_p, log_q)
    with full_precision(log_p.device):
        p, q = log_p.exp(), log_q.exp()
        m = (p + q) / 2
        log_p, log_q, log_m = ((r + RELEASE_EPSILON).log() for r in (p, q, m))
        return (m * (log_m - (log_p + log_q) / 2)).sum(-1)


DIVERGENCES = {"js": js_divergence, "reverse_js": reverse_js_divergence}
