"""KLOT: the transport plan between unpaired rows, held to that of a fixed teacher.

:func:`klot_loss` is the formula, :class:`KlotLoss` the module with the same options.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from structure_reg._checks import check_count, check_group, check_number
from structure_reg._distributed import gather_rows, mean_over_processes, processes
from structure_reg._gram import unit_rows
from structure_reg._kernels.klot_tiles import klot_sum
from structure_reg._kernels.sinkhorn import PLAN_ROWS, column_potentials
from structure_reg._kernels.transforms import transformed
from structure_reg._precision import full_precision, promote, scalar_tensor
from structure_reg._tiles import tile_rows
from structure_reg.losses._checks import check_unpaired


class Regularisation(NamedTuple):
    """How the two plans are computed: the options of :func:`klot_loss` but the group."""

    epsilon: float  # ε of P
    teacher_epsilon: float  # ε* of P*
    iterations: int  # of Sinkhorn, for each plan


def klot_loss(
    x: Tensor,
    y: Tensor,
    teacher_x: Tensor,
    teacher_y: Tensor,
    *,
    epsilon: float = 0.05,
    teacher_epsilon: float = 0.05,
    iterations: int = 50,
    group: Any = None,
) -> Tensor:
    r"""Compute the divergence between the entropic transport plans of a teacher and of `x` and `y`.

    .. math::
        P &= \operatorname{diag}(e^u) \, e^{\hat X \hat Y^\top / \epsilon} \operatorname{diag}(e^v),
             \qquad P 1 = 1 / n, \quad P^\top 1 = 1 / m \\
        L &= \operatorname{KL}(P^* \| P)
           = \sum_{ij} P^*_{ij} \log \frac{P^*_{ij}}{P_{ij}} - P^*_{ij} + P_{ij}

    with unit rows, potentials u and v from Sinkhorn's algorithm, and the plan :math:`P^*` of the
    teacher's rows under its own regularisation. It transfers to `x` and `y` which rows of the two
    sides belong together, where no pairs are known.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Aligned features of one side, n >= 2. The loss scales rows to unit length itself.
    y : Tensor of shape (m, d)
        Aligned features of the other side, m >= 2. Its rows need not be paired with those of `x`.
    teacher_x : Tensor of shape (n, d*)
        The rows of `x` under a fixed teacher, for example :func:`fit_cca` on the pairs that exist.
        The teacher receives no gradient.
    teacher_y : Tensor of shape (m, d*)
        The rows of `y` under the teacher.
    epsilon : float
        Entropic regularisation :math:`\epsilon > 0` of the plan P, in the units of a cosine.
        Smaller values make the plan sharper, and Sinkhorn's algorithm slower to converge.
    teacher_epsilon : float
        Entropic regularisation :math:`\epsilon^* > 0` of the teacher's plan.
    iterations : int
        Sinkhorn iterations, >= 1, for each plan. One more half-step updates u, and the result is
        averaged with the previous u, so that the two marginals share the remaining error.
    group : torch.distributed.ProcessGroup, optional
        Process group whose rows together form the batch, the same number on each process. None: the
        batch is this process's rows.

    Returns
    -------
    Tensor of shape ()
        Divergence in nats, at least 0, lower is better: 0 if and only if the plans agree. float32,
        or float64 if one of the four tensors is.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes or devices of the tensors do not fit, n < 2, m < 2, or an option is out of
        range.
    NotImplementedError
        In a second backward pass. Derivatives of any order exist inside ``torch.func``.

    See Also
    --------
    structure_loss : A regulariser that compares neighbourhoods within one side.
    clip_loss : The loss for the rows whose partners are known.

    Notes
    -----
    The plans are those after a finite number of iterations. Their mass is then at most 1, and the
    terms :math:`P - P^*`, which sum to zero at convergence, keep the divergence at or above 0.

    The gradient is that of the converged plan, :math:`\partial L / \partial (\hat X \hat Y^\top) =
    (P - P^*) / \epsilon`. No derivative of Sinkhorn's algorithm enters it, so memory and time of
    the backward pass do not depend on `iterations`. It differs from the derivative of the returned
    value by the error that the iterations leave in the marginals. Inside `torch.func` and in
    forward mode, the plain formula is differentiated through all iterations.

    Affinities are recomputed in tiles that fit :func:`tile_budget`, or kept where the budget allows
    it: memory grows with (n + m) d. With a group, the conventions are those of :func:`clip_loss`;
    each iteration sends m numbers per process and plan.

    References
    ----------
    Roschmann, Krzakala et al., "SOTAlign: Semi-Supervised Alignment of Unimodal Vision and Language
    Models via Optimal Transport", ICML 2026, arXiv 2602.23353.

    Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", NeurIPS 2013, arXiv
    1306.0895.

    Examples
    --------
    A rotation of both sides keeps the teacher's plan and costs nothing. Unrelated features do not:

    >>> g = torch.Generator().manual_seed(0)
    >>> teacher_x = torch.randn(48, 16, generator=g, dtype=torch.float64)
    >>> teacher_y = torch.randn(32, 16, generator=g, dtype=torch.float64)
    >>> rotation, _ = torch.linalg.qr(torch.randn(16, 16, generator=g, dtype=torch.float64))
    >>> bool(klot_loss(teacher_x @ rotation, teacher_y @ rotation, teacher_x, teacher_y) < 1e-12)
    True
    >>> bool(klot_loss(teacher_x @ rotation, teacher_y, teacher_x, teacher_y) > 1)
    True
    """
    check_regularisation("klot_loss", epsilon, teacher_epsilon, iterations)
    options = Regularisation(float(epsilon), float(teacher_epsilon), int(iterations))
    check_unpaired("klot_loss", x, y, teacher_x, teacher_y, group)
    x, y, teacher_x, teacher_y = promote(x, y, teacher_x.detach(), teacher_y.detach())
    form = plain_loss if transformed(x) or transformed(y) else tiled_loss
    with full_precision(x.device):
        return form(x, y, teacher_x, teacher_y, options, group)


def plain_loss(
    x: Tensor,
    y: Tensor,
    teacher_x: Tensor,
    teacher_y: Tensor,
    options: Regularisation,
    group: Any,
) -> Tensor:
    """The formula as it is written, differentiable any number of times."""
    x, y, teacher_x, teacher_y = (gather_rows(z, group) for z in (x, y, teacher_x, teacher_y))
    log_P = log_plan(unit_rows(x) @ unit_rows(y).mT / options.epsilon, options.iterations)
    log_Q = log_plan(
        unit_rows(teacher_x) @ unit_rows(teacher_y).mT / options.teacher_epsilon,
        options.iterations,
    )
    P, Q = log_P.exp(), log_Q.exp()  # (n, m)
    return mean_over_processes((Q * (log_Q - log_P) - Q + P).sum(), group)


def log_plan(Z: Tensor, iterations: int) -> Tensor:
    """log P of the affinities Z over ε, by Sinkhorn's algorithm on logarithms; (n, m)."""
    log_n, log_m = map(math.log, Z.shape)
    v = Z.new_zeros(Z.shape[1])
    for _ in range(iterations):
        u = -log_n - (Z + v).logsumexp(1)  # (n,)
        v = -log_m - (Z + u[:, None]).logsumexp(0)  # (m,)
    u = (u - log_n - (Z + v).logsumexp(1)) / 2
    return Z + u[:, None] + v


def tiled_loss(
    x: Tensor,
    y: Tensor,
    teacher_x: Tensor,
    teacher_y: Tensor,
    options: Regularisation,
    group: Any,
) -> Tensor:
    """The loss from tiles of both plans, this process's x against the y of all processes."""
    y, teacher_y = gather_rows(y, group), gather_rows(teacher_y, group)  # (m, d), (m, d*)
    epsilon, teacher_epsilon, iterations = options
    potentials = torch.stack(
        [
            column_potentials(x, y, epsilon, iterations, group),
            column_potentials(teacher_x, teacher_y, teacher_epsilon, iterations, group),
        ]
    )
    scales = torch.stack(
        [scalar_tensor(1 / e, y.dtype, y.device) for e in (epsilon, teacher_epsilon)]
    )
    n, height = len(x) * processes(group), min(PLAN_ROWS, tile_rows(6 * len(y) * y.itemsize))
    grad = torch.is_grad_enabled()
    needs = [grad and x.requires_grad, grad and y.requires_grad]
    total, *_ = klot_sum(x, y, [teacher_x, teacher_y], potentials, scales, n, height, needs)
    return mean_over_processes(total * processes(group), group)


def check_regularisation(
    function: str, epsilon: float, teacher_epsilon: float, iterations: int
) -> None:
    check_number(function, "epsilon", epsilon, above=0.0)
    check_number(function, "teacher_epsilon", teacher_epsilon, above=0.0)
    check_count(function, "iterations", iterations)


class KlotLoss(nn.Module):
    """:func:`klot_loss` as a module: options at construction, features in the call.

    Parameters
    ----------
    epsilon, teacher_epsilon, iterations, group
        Options of :func:`klot_loss`.

    Raises
    ------
    TypeError, ValueError
        At construction, if :func:`klot_loss` would raise it for an option.

    Examples
    --------
    >>> loss = KlotLoss(epsilon=0.1)
    >>> loss
    KlotLoss(epsilon=0.1, teacher_epsilon=0.05, iterations=50)
    >>> x = torch.eye(4)
    >>> bool(loss(x, x, x, x) > 0)  # the teacher's plan is sharper
    True
    """

    def __init__(
        self,
        *,
        epsilon: float = 0.05,
        teacher_epsilon: float = 0.05,
        iterations: int = 50,
        group: Any = None,
    ) -> None:
        super().__init__()
        check_regularisation("KlotLoss", epsilon, teacher_epsilon, iterations)
        check_group("KlotLoss", group)
        self.epsilon = epsilon
        self.teacher_epsilon = teacher_epsilon
        self.iterations = iterations
        self.group = group

    def forward(self, x: Tensor, y: Tensor, teacher_x: Tensor, teacher_y: Tensor) -> Tensor:
        """Return :func:`klot_loss`; the gradient flows to `x` and `y`."""
        return klot_loss(
            x,
            y,
            teacher_x,
            teacher_y,
            epsilon=self.epsilon,
            teacher_epsilon=self.teacher_epsilon,
            iterations=self.iterations,
            group=self.group,
        )

    def extra_repr(self) -> str:
        """Return the options, for printing."""
        return (
            f"epsilon={self.epsilon}, teacher_epsilon={self.teacher_epsilon}, "
            f"iterations={self.iterations}"
        )
