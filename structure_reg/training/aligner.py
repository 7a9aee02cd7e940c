"""Two frozen encoders in, an aligned model out."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from structure_reg._checks import check_choice, check_count, check_number
from structure_reg._gram import unit_rows
from structure_reg.evaluation.retrieval import retrieval
from structure_reg.layers.report import LayerSelection
from structure_reg.training._checks import (
    check_finite,
    check_head,
    check_layer_choice,
    check_lr,
    check_module,
    check_number_or_none,
    check_pairs,
    check_unpaired,
    check_validation,
    no_fit,
)
from structure_reg.training.choice import choose_layers
from structure_reg.training.file import read_aligner, write_aligner
from structure_reg.training.loop import Pairs, train
from structure_reg.training.scaling import scaled, scaling
from structure_reg.training.sides import Features, as_ids, as_tensor, layer_of, like
from structure_reg.training.start import CLOSED, TRAINED, Heads, shared_width, starting_objective
from structure_reg.training.validation import validator

FEWEST = 8  # pairs, as select_layers and select_cca need them


class Aligner:
    r"""Heads that bring the features of two frozen encoders into one space.

    .. math:: \min \; L(z_x, z_y; s)
              + \lambda \, \tfrac12 \bigl( R(g_x(x), z_x) + R(g_y(y), z_y) \bigr),
              \qquad z_x = f_x(x), \; z_y = f_y(y)

    with a contrastive loss L of the pairs and STRUCTURE R of either side. By default the pair of
    layers is selected; a canonical correlation analysis g, whose ridges are chosen on held-out
    pairs, finds the directions that the two sides share; the heads f start from it, and STRUCTURE
    keeps the neighbourhoods of the frozen features in these directions. Noise on x and y shows both
    terms rows that are not among the pairs.

    Parameters
    ----------
    head : str, pair of nn.Module, or callable
        Trained: "linear", "residual", "mlp", "sail"; in closed form: "ridge", "cca", "csa",
        "procrustes", "asif". Two modules of your own are trained in place; a callable makes a head
        from its two widths, as ``functools.partial(MlpHead, dropout=0.1)`` does.
    layers : {"select", "last"} or pair
        Of sides with several layers: the pair that :func:`select_layers` finds on the training
        pairs, the last of both, or a name or position for each.
    dim : int
        Width of the shared space of trained heads; of a closed form or a start from one no more
        than the pairs and widths have. ASIF and ridge have their own.
    structure_weight : float
        :math:`\lambda \ge 0`, on the mean of both sides as in the authors' release; the paper's
        formula has the sum, and half the weight. 0 is plain contrastive training, without noise.
    keep : {"shared", "frozen"}
        Whose neighbourhoods STRUCTURE keeps: of the frozen features in the directions that both
        sides share, or of all of them as in the paper, where g is the identity. The study in the
        documentation compares the two.
    structure : nn.Module, optional
        Called as ``structure(frozen, aligned)``, and with ``anchors=`` if there are unpaired rows.
        None: :class:`StructureLoss` at the temperature of either side that gives a perplexity of
        40, or of a third of the rows of a batch if that is less.
    contrastive : nn.Module, optional
        Called as ``contrastive(z_x, z_y, logit_scale, ids=ids)``; :class:`SigLipLoss` gets its bias
        too. None: :class:`ClipLoss`.
    start : {"cca", "random"}
        Where "linear", "residual" and "mlp" start: at the map of :func:`fit_cca` with what
        :func:`select_cca` finds, or at random.
    standardise : bool
        Whether the columns of the training pairs get mean 0 and variance 1, for the heads and for
        STRUCTURE. A constant column becomes 0.
    epochs : int
        Passes over the pairs; with no more pairs than `batch_size`, one step each.
    batch_size : int
        At least 2. A last batch that is not full is left out.
    lr : float or "find"
        Of AdamW, before `lr_schedule`; "find" is a range test.
    lr_schedule : callable, optional
        From the share of training that is done, in [0, 1], to a factor of `lr`. None: half a
        cosine from 1 to 0.
    weight_decay : float
        Of AdamW.
    warmup : float
        Share of training over which the weight of STRUCTURE grows from 0. Above 1 it never gets
        there.
    logit_scale : float, optional
        A fixed scale of the cosines. None: learned, from the one that :func:`select_cca` finds, or
        from 1 / 0.07 at a random start.
    noise : float, optional
        Standard deviation, in those of the columns, of the Gaussian noise that x and y get anew in
        every batch, for both terms. None: 1 beside STRUCTURE, and none where its weight is 0, which
        is plain contrastive training.
    fusemix : float, optional
        :math:`\alpha > 0` of FuseMix, which mixes the pairs of every batch. None: no mixing.
    monitor : {"recall", "objective"}
        What validation looks at: :meth:`score`, or the loss with STRUCTURE at its weight of the
        step, as the release does.
    patience : float
        Share of training without a better validation after which it stops.
    seed : int
        Of the weights, batches, noise and mixing; the same seed gives the same heads.
    device : str or torch.device, optional
        Where to train. None: where the features are.
    progress : bool
        A bar on stderr; needs tqdm.

    Attributes
    ----------
    heads_ : tuple of nn.Module
        For standardised rows of x and of y, in eval mode.
    layers_ : tuple
        Names or positions of the layers that are aligned.
    selection_ : LayerSelection or None
        What was found, with ``layers="select"`` and several layers.
    history_ : dict of lists
        For every step "contrastive", "structure" (without its weight), "logit_scale" and "weight",
        and for every validation its "validation_step" and "validation". Empty for closed forms.

    Raises
    ------
    TypeError, ValueError
        If an option is of the wrong kind or out of range.

    See Also
    --------
    select_layers, select_cca, structure_loss : The parts.
    released_aligner : The published training, for comparison.

    References
    ----------
    Gröger et al., "With Limited Data for Multimodal Alignment, Let the STRUCTURE Guide You",
    NeurIPS 2025, arXiv 2506.16895.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> shared = torch.randn(300, 8, generator=g)
    >>> x = shared @ torch.randn(8, 32, generator=g) + torch.randn(300, 32, generator=g)
    >>> y = shared @ torch.randn(8, 24, generator=g) + torch.randn(300, 24, generator=g)
    >>> aligner = Aligner(epochs=20).fit(x[:200], y[:200])
    >>> aligner.score(x[200:], y[200:]) > 0.8
    True
    """

    heads_: Heads
    layers_: tuple[Any, Any]
    selection_: LayerSelection | None
    history_: dict[str, list[float]]
    scaling_: tuple[Tensor, Tensor, Tensor, Tensor]  # mean and factor of x, of y

    def __init__(
        self,
        *,
        head: Any = "linear",
        layers: Any = "select",
        dim: int = 512,
        structure_weight: float = 50.0,
        keep: str = "shared",
        structure: nn.Module | None = None,
        contrastive: nn.Module | None = None,
        start: str = "cca",
        standardise: bool = True,
        epochs: int = 200,
        batch_size: int = 4096,
        lr: float | str = 3e-4,
        lr_schedule: Callable[[float], float] | None = None,
        weight_decay: float = 1e-4,
        warmup: float = 0.0,
        logit_scale: float | None = None,
        noise: float | None = None,
        fusemix: float | None = None,
        monitor: str = "recall",
        patience: float = 0.2,
        seed: int = 0,
        device: str | torch.device | None = None,
        progress: bool = False,
    ) -> None:
        name = "Aligner"
        check_head(head, (*TRAINED, *CLOSED))
        check_layer_choice(layers)
        check_count(name, "dim", dim)
        check_number(name, "structure_weight", structure_weight, least=0.0)
        check_choice(name, "keep", keep, ("shared", "frozen"))
        check_module("structure", structure)
        check_module("contrastive", contrastive)
        check_choice(name, "start", start, ("cca", "random"))
        check_count(name, "epochs", epochs)
        check_count(name, "batch_size", batch_size, least=2)
        check_lr(lr)
        check_number(name, "weight_decay", weight_decay, least=0.0)
        check_number(name, "warmup", warmup, least=0.0)
        check_number(name, "patience", patience, above=0.0)
        check_number_or_none("logit_scale", logit_scale, above=0.0)
        check_number_or_none("noise", noise, least=0.0)
        check_number_or_none("fusemix", fusemix, above=0.0)
        check_choice(name, "monitor", monitor, ("recall", "objective"))
        self.head, self.layers, self.dim = head, layers, dim
        self.structure_weight, self.keep, self.structure = structure_weight, keep, structure
        self.contrastive, self.start, self.standardise = contrastive, start, standardise
        self.epochs, self.batch_size, self.lr = epochs, batch_size, lr
        self.lr_schedule, self.weight_decay, self.warmup = lr_schedule, weight_decay, warmup
        self.logit_scale, self.noise, self.fusemix = logit_scale, noise, fusemix
        self.monitor, self.patience, self.seed = monitor, patience, seed
        self.device, self.progress = device, progress

    def fit(
        self,
        x: Features,
        y: Features,
        *,
        ids: Any = None,
        validation: Any = None,
        unpaired: Any = None,
    ) -> Aligner:
        """Select the layers, and fit the heads to the pairs.

        Parameters
        ----------
        x, y : array or Tensor of shape (n, d), or a sequence or mapping of them
            Frozen features of the pairs, row by row, n >= 8; several layers in order. Computed in
            float32.
        ids : sequence, optional
            A number or string for each pair; rows with the same are positives of each other. The
            selection of layers sees each once.
        validation : tuple, optional
            (x, y) or (x, y, ids) of other pairs, with the layers of the training. Training ends at
            the step that is best on them; closed forms have no use for them.
        unpaired : tuple, optional
            Rows of x and rows of y that are paired with nothing, of the layers too: STRUCTURE
            keeps their neighbourhoods beside the pairs'. Their numbers may differ.

        Returns
        -------
        Aligner
            Itself, fitted.

        Raises
        ------
        TypeError, ValueError
            If features, rows or ids are of the wrong kind, do not fit together, or hold a value
            that is not finite.
        """
        name = "Aligner.fit"
        self.layers_, self.selection_ = choose_layers(self.layers, x, y, ids, self.device)
        X, Y = self._rows(name, x, y)
        check_pairs(name, X, Y, FEWEST)
        ids = as_ids(name, ids, X)
        self.scaling_ = (*scaling(X, self.standardise), *scaling(Y, self.standardise))
        X, Y = self._scaled(name, X, Y)
        self.history_ = {}
        if isinstance(self.head, str) and self.head in CLOSED:
            self.heads_ = CLOSED[self.head](X, Y, shared_width(self.dim, X, Y))
            return self
        if unpaired is not None:
            check_unpaired(unpaired)
            unpaired = self._scaled(name, *self._rows(name, *unpaired))
        # The global generator makes the weights of modules; it is left as it was found.
        with torch.random.fork_rng([X.device] if X.device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            pairs = Pairs(X, Y, ids, unpaired)
            objective = starting_objective(self, pairs)
            self.heads_ = objective.head_x, objective.head_y
            validate = None
            if validation is not None:
                check_validation(validation)
                validate = validator(objective, *self._labelled(*validation), self.monitor)
            self.history_ = train(objective, pairs, self, validate)
        return self

    def transform_x(self, x: Features) -> Any:
        """Bring rows of x into the shared space.

        Parameters
        ----------
        x : array or Tensor of shape (n, d), or a sequence or mapping of them
            Of the layer that is aligned, or all layers as in :meth:`fit`.

        Returns
        -------
        array or Tensor of shape (n, dim)
            Unit rows in float32, so that a product with the other side's is the cosine; an array
            for an array. On the device of the heads.

        Raises
        ------
        RuntimeError
            Before :meth:`fit`.
        TypeError, ValueError
            If `x` is of the wrong kind or width, or lacks the layer.
        """
        return self._transformed("Aligner.transform_x", 0, x)

    def transform_y(self, y: Features) -> Any:
        """Bring rows of y into the shared space, as :meth:`transform_x` does those of x.

        Parameters
        ----------
        y : array or Tensor of shape (n, d), or a sequence or mapping of them
            Of the layer that is aligned, or all layers as in :meth:`fit`.

        Returns
        -------
        array or Tensor of shape (n, dim)
            Unit rows in float32; an array for an array.

        Raises
        ------
        RuntimeError
            Before :meth:`fit`.
        TypeError, ValueError
            If `y` is of the wrong kind or width, or lacks the layer.
        """
        return self._transformed("Aligner.transform_y", 1, y)

    def score(self, x: Features, y: Features, ids: Any = None) -> float:
        """Return the mean of R@1, R@5 and R@10, from x to y and from y to x.

        Parameters
        ----------
        x, y : array or Tensor of shape (n, d), or a sequence or mapping of them
            Pairs, row by row, each side the gallery of the other.
        ids : sequence, optional
            As in :meth:`fit`: rows with the same are right answers for each other.

        Returns
        -------
        float
            In [0, 1], higher is better; :func:`retrieval` of the transformed rows tells more.

        Raises
        ------
        RuntimeError
            Before :meth:`fit`.
        TypeError, ValueError
            As :meth:`fit`.
        """
        name = "Aligner.score"
        self._check_fitted(name)
        z_x, z_y = self.transform_x(x), self.transform_y(y)
        z_x, z_y = torch.as_tensor(z_x), torch.as_tensor(z_y)
        check_pairs(name, z_x, z_y, 1)
        return float(retrieval(z_x, z_y, ids=as_ids(name, ids, z_x)).mean_recall)

    def save(self, path: str | PathLike[str]) -> None:
        """Write heads, scaling, layers, options and history to one safetensors file.

        Parameters
        ----------
        path : str or os.PathLike
            Where; a file there is replaced.

        Raises
        ------
        ImportError
            Without the package safetensors.
        RuntimeError
            Before :meth:`fit`.
        TypeError
            If the heads are modules of your own.
        """
        self._check_fitted("Aligner.save")
        write_aligner(path, self)

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str | torch.device = "cpu") -> Aligner:
        """Read what :meth:`save` wrote; nothing in the file is run.

        Parameters
        ----------
        path : str or os.PathLike
            The file.
        device : str or torch.device
            Where the tensors go.

        Returns
        -------
        Aligner
            Fitted. Loss modules, schedules and `selection_` are not in the file: to train on with
            your own, give them to a new one.

        Raises
        ------
        ImportError
            Without the package safetensors.
        FileNotFoundError
            If there is no file.
        ValueError
            If :meth:`save` did not write it.
        """
        aligner = cls()
        aligner.selection_ = None
        read_aligner(path, aligner, device)
        return aligner

    def _rows(self, function: str, x: Features, y: Features) -> tuple[Tensor, Tensor]:
        return tuple(  # type: ignore[return-value]
            self._side(function, side, features) for side, features in enumerate((x, y))
        )

    def _side(self, function: str, side: int, features: Features) -> Tensor:
        """The rows of the aligned layer, where the heads are or are to be."""
        name = "xy"[side]
        layer = layer_of(function, name, features, self.layers_[side])
        rows = as_tensor(function, name, layer, self.device)
        check_finite(function, name, rows)
        return rows

    def _scaled(self, function: str, *rows: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(  # type: ignore[return-value]
            scaled(function, "xy"[side], z, self.scaling_[2 * side : 2 * side + 2])
            for side, z in enumerate(rows)
        )

    def _labelled(
        self, x: Features, y: Features, ids: Any = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Other pairs, scaled as the training ones."""
        name = "Aligner.fit: validation"
        X, Y = self._rows(name, x, y)
        check_pairs(name, X, Y, 2)
        return *self._scaled(name, X, Y), as_ids(name, ids, X)

    @torch.no_grad()
    def _transformed(self, function: str, side: int, features: Features) -> Any:
        self._check_fitted(function)
        layer = layer_of(function, "xy"[side], features, self.layers_[side])
        rows = self._side(function, side, layer)
        of_side = self.scaling_[2 * side : 2 * side + 2]
        z = scaled(function, "xy"[side], rows, of_side)
        return like(unit_rows(self.heads_[side](z)), layer)

    def _check_fitted(self, function: str) -> None:
        if not hasattr(self, "heads_"):
            raise no_fit(function)
