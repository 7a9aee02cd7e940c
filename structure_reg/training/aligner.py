"""Two frozen encoders in, an aligned model out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from os import PathLike
from typing import Any

import torch
from torch import nn

from structure_reg.evaluation.retrieval import retrieval
from structure_reg.layers.report import LayerSelection
from structure_reg.training import estimator, file, hub
from structure_reg.training._checks import no_fit
from structure_reg.training.aligning import aligned
from structure_reg.training.closed_form import Heads
from structure_reg.training.data import held_out
from structure_reg.training.given import Given
from structure_reg.training.history import History
from structure_reg.training.inputs import Features, as_given, layer_of, layers_of_blend
from structure_reg.training.options import default_epochs
from structure_reg.training.side import Side, mapped_rows
from structure_reg.training.state import own_state
from structure_reg.training.together import group_of, is_first

LOGGER = logging.getLogger("structure_reg")


class Aligner:
    r"""Heads that bring the features of two frozen encoders into one space.

    .. math:: \min \; L(z_x, z_y; s)
              + \lambda \, \tfrac12 \bigl( R(g_x(x), z_x) + R(g_y(y), z_y) \bigr)
              + \alpha \, T(z_u, z_v; h_x(u), h_y(v)),
              \qquad z_x = f_x(x), \; z_y = f_y(y)

    with a contrastive loss L of the pairs and STRUCTURE R of each side. A canonical correlation
    analysis g, whose ridges are chosen on held-out pairs, finds the directions that both sides
    share; by default it is an average over the best pair of layers, the best five layers of each
    side, and the last pair, weighed by how well each predicts held-out pairs. The linear heads f
    start from it. ``Aligner()`` stops there: training gains nothing over this start unless there
    are validation pairs or unpaired rows. In training, STRUCTURE preserves the neighbourhoods of
    the frozen features in the shared directions, and Gaussian noise on x and y shows both terms
    rows around the training pairs. Unpaired rows u and v, where there are any, add the transport
    term T, which is :func:`klot_loss`: the heads learn to match the rows of u with those of v as a
    teacher h does, with more confidence. The teacher is a moving average of the heads, from their
    start.

    The constructor only stores its arguments; :meth:`fit` checks them. An Aligner is an estimator
    of scikit-learn, although it does not import it: ``clone``, ``cross_val_score`` and
    ``GridSearchCV`` take it, with one array for each side. Gradients are on, autocast is off and
    float32 is the default in all of its methods, whatever the caller has set.

    Parameters
    ----------
    head : str, pair of nn.Module, or callable
        Kind of the heads. Trained: "linear", "residual", "mlp", "sail"; in closed form: "ridge",
        "cca", "csa", "procrustes", "asif". A pair of modules is trained in place. A callable is
        called as ``head(d, dim)`` for each side, for instance
        ``functools.partial(MlpHead, dropout=0.1)``. Both are converted to float32.
    layers : {"blend", "select", "last", "all"}, int, or pair
        Layers to align when a side has several. A blend is several layers side by side, each
        scaled to the same mean length of its rows. "blend": the average described above, of those
        blends whose share is at least a tenth; heads without a CCA take the blend with the largest
        share. An int: the blend of so many layers of each side, those that are most similar to a
        layer of the other side. "all": all layers that are not constant. "select": the best pair of
        single layers by :func:`select_layers`. "last": the last layer of both sides. A pair: for
        each side a name or position, or a list of them.
    dim : int
        Width of the shared space. Closed forms and CCA starts cap it at min(n - 1, d_x, d_y), for
        each blend of an average; ridge and ASIF set their own.
    structure_weight : float
        Weight :math:`\lambda \ge 0` of STRUCTURE, on the mean of both sides as in the authors'
        release; the paper's formula has the sum, and so half the weight. With 0, training is
        purely contrastive, without noise.
    unpaired_weight : float
        Weight :math:`\alpha \ge 0` of :func:`klot_loss` on the unpaired rows of :meth:`fit`, with
        `epsilon` 0.1 and `teacher_epsilon` 0.05. Its teacher is a moving average of the heads from
        their CCA start, or a fixed CCA of the pairs for heads with random initial weights. Each
        step sees at most 1024 unpaired rows of each side, and no more than `batch_size`. With 0, or
        if one side has a single row, the unpaired rows join the neighbourhoods that STRUCTURE
        preserves instead, as in the paper.
    keep : {"shared", "frozen"}
        Neighbourhoods that STRUCTURE preserves: those of the frozen features in the directions that
        both sides share, or those of the frozen features as they are, as in the paper (g is then
        the identity). The study in the documentation compares the two.
    structure : nn.Module, optional
        Replacement for STRUCTURE, called as ``structure(frozen, aligned)``, and with ``anchors=``
        when unpaired rows join its neighbourhoods. None: :class:`StructureLoss`, at the temperature
        that gives each side a perplexity of 40, or of a third of the rows of a batch if that is
        less, but at least 1.5 if a batch has 3 rows or more. Copies of a row count once.
    contrastive : nn.Module, optional
        Contrastive loss, called as ``contrastive(z_x, z_y, logit_scale, ids=ids)``;
        :class:`SigLipLoss` also receives its bias. None: :class:`ClipLoss`.
    start : {"cca", "random"}
        Initial weights of "linear", "residual" and "mlp" heads: the map of :func:`fit_cca` with the
        ridges and power of :func:`select_cca`, or random weights.
    standardise : bool
        Whether columns are scaled to mean 0 and variance 1 over the training pairs, for the heads
        and for STRUCTURE. Constant columns become 0.
    epochs : int, optional
        Passes over the pairs. With no more pairs than `batch_size`, an epoch is one step. With 0,
        the heads stay at their start. None: 50 if :meth:`fit` receives unpaired rows; 200 if it
        receives validation pairs, or if any other option of the objective or of training is given;
        otherwise 0, since training gained nothing over the CCA start in the study of the
        documentation.
    max_steps : int, optional
        Largest number of steps, whatever `epochs` says; schedules then span that many steps. None:
        no limit if one batch holds all pairs; otherwise 32 steps of 4096 pairs, or as many steps of
        a smaller batch as take the same time. More steps gained nothing on 12,000 pairs.
    batch_size : int
        Pairs in a batch, at least 2. A last batch that is not full is left out.
    lr : float or "find"
        Learning rate of AdamW, before `lr_schedule`; "find" runs a range test.
    lr_schedule : callable, optional
        Factor of `lr` as a function of the share of training that is done, in [0, 1]. None: half a
        cosine from 1 to 0.
    weight_decay : float
        Weight decay of AdamW.
    warmup : float
        Share of training over which the weight of STRUCTURE grows linearly from 0. Above 1, full
        weight is never reached.
    logit_scale : float, optional
        Fixed scale of the cosines. None: the scale is learned, starting from the one that
        :func:`select_cca` finds, or from 1 / 0.07 with random heads, and is at most 100.
    noise : float, optional
        Standard deviation of the Gaussian noise added to each batch, relative to the standard
        deviation of each column. Both terms see the noisy features. None: 1 when training with
        STRUCTURE, and 0 when `structure_weight` is 0.
    fusemix : float, optional
        Parameter :math:`\alpha > 0` of FuseMix, which mixes the pairs of each batch. None: no
        mixing.
    monitor : {"recall", "objective"}
        Quantity that validation maximises: :meth:`score`, or the negative objective with STRUCTURE
        at the weight of the step, as in the authors' release.
    patience : float
        Share of training without a better validation after which training stops.
    seed : int
        Seed of the weights, batches, noise and mixing, of at most 64 bits. The same seed gives the
        same heads.
    device : str or torch.device, optional
        Device to train on. None: the device of the features.
    progress : bool
        Whether to show one progress bar on stderr over the stages of the fit: layers, shrinkage,
        training. The remaining time is that of all their steps at the rate of the latest ones, so
        it is rough until training begins. Needs tqdm.

    Attributes
    ----------
    heads_ : tuple of two nn.Module
        The fitted heads of x and y in eval mode. They expect scaled columns; :meth:`transform_x`
        scales them.
    modules_ : tuple of two Side
        The modules of x and y in eval mode: scaling, head and unit rows, as in
        :meth:`transform_x`. Export these, not `heads_`. They hold the tensors of this Aligner:
        take a deep copy to change their dtype or device.
    layers_ : tuple
        Name or position of the aligned layer of each side, or the list of those of a blend.
    selection_ : LayerSelection or None
        Report of the layer selection, unless the layers were given or there was one a side.
    history_ : dict of lists
        For each step "contrastive", "structure" and "transport" (without their weights),
        "logit_scale" and "weight".
        The lists have the same length, so ``pandas.DataFrame(aligner.history_)`` is a table. Empty
        for closed forms.
    validation_history_ : dict of lists
        For each validation "validation_step" and "validation", the score there. ``history_`` finds
        both names too. Empty for closed forms.
    n_pairs_ : int or None
        Number of training pairs over all processes. None after loading a file of 0.1.0.
    stopped_ : str or None
        When or why training stopped: "after 200 steps", or "no better validation since step 40".
        ``history_["stopped"]`` is the same, and the logger "structure_reg" says so at level INFO.
        None for closed forms, and for files that versions up to 0.1.0 wrote.

    See Also
    --------
    select_layers, select_cca, structure_loss : The parts.
    released_aligner : The published training, for comparison.

    Notes
    -----
    Up to 128 MiB a side in float32, the rows of the aligned layers are held in memory. Beyond, they
    are read in blocks where they lie: arrays, `numpy.memmap`, the layers of a
    :class:`FeatureStore`, or data sets of h5py, in any floating dtype. Scaling and closed forms
    then come from :class:`PairMoments`, and each batch reads its own rows, so the data set may be
    larger than the memory. "asif", whose heads are the pairs, and a `batch_size` that holds all
    pairs need all rows in memory. Layers are chosen on at most 5000 pairs, and a mapping is asked
    only for the layers that are needed.

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

    selection_: LayerSelection | None
    history_: History
    n_pairs_: int | None = None  # in pickles of 0.1.0 too

    def __init__(
        self,
        *,
        head: Any = "linear",
        layers: Any = "blend",
        dim: int = 512,
        structure_weight: float = 50.0,
        unpaired_weight: float = 0.3,
        keep: str = "shared",
        structure: nn.Module | None = None,
        contrastive: nn.Module | None = None,
        start: str = "cca",
        standardise: bool = True,
        epochs: int | None = None,
        max_steps: int | None = None,
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
        self.head, self.layers, self.dim = head, layers, dim
        self.structure_weight, self.keep, self.structure = structure_weight, keep, structure
        self.unpaired_weight = unpaired_weight
        self.contrastive, self.start, self.standardise = contrastive, start, standardise
        self.epochs, self.max_steps, self.batch_size, self.lr = epochs, max_steps, batch_size, lr
        self.lr_schedule, self.weight_decay, self.warmup = lr_schedule, weight_decay, warmup
        self.logit_scale, self.noise, self.fusemix = logit_scale, noise, fusemix
        self.monitor, self.patience, self.seed = monitor, patience, seed
        self.device, self.progress = device, progress

    def __repr__(self) -> str:
        """Return the call that makes this Aligner, without options that have their default."""
        return estimator.changed_options(self)

    def __sklearn_tags__(self) -> Any:
        """Return the tags by which scikit-learn knows an estimator."""
        return estimator.tags()

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002
        """Return the options by name, as scikit-learn asks for them.

        Parameters
        ----------
        deep : bool
            No effect: no option is an estimator with options of its own.

        Returns
        -------
        dict
            Every option of the constructor.
        """
        return estimator.options_of(self)

    def set_params(self, **params: Any) -> Aligner:
        """Set options by name; the next :meth:`fit` checks their values.

        Parameters
        ----------
        **params
            Options of the constructor.

        Returns
        -------
        Aligner
            Itself.

        Raises
        ------
        ValueError
            If there is no such option.
        """
        estimator.set_options(self, params)
        return self

    @property
    def validation_history_(self) -> dict[str, list[float]]:
        """Steps "validation_step" and scores "validation" of the validations."""
        return self.history_.validation

    @property
    def stopped_(self) -> str | None:
        """When or why training stopped."""
        return self.history_.stopped

    @property
    def heads_(self) -> Heads:
        """Fitted heads in eval mode, for scaled columns; `modules_` is what to export."""
        side_x, side_y = self._sides
        return side_x.head, side_y.head

    @property
    def layers_(self) -> tuple[Any, Any]:
        """Name or position of the aligned layer of each side, or the list of those of a blend."""
        side_x, side_y = self._sides
        return side_x.layer, side_y.layer

    @property
    def modules_(self) -> tuple[Side, Side]:
        """Scaling, head and unit rows of each side as one module, to export or to serve."""
        return self._sides

    @own_state()
    def fit(
        self,
        x: Features,
        y: Features,
        *,
        ids: Any = None,
        validation: Any = None,
        unpaired: Any = None,
        group: Any = "world",
        callback: Callable[[int, dict[str, float]], Any] | None = None,
    ) -> Aligner:
        """Select the layers, and fit the heads to the pairs.

        If `torch.distributed` is initialised, every process of the group has to call this method,
        each with its own share of the pairs. Each ends with the heads that a single process would
        fit to the pairs of all processes, joined in rank order. The other methods involve only the
        process that calls them.

        Parameters
        ----------
        x, y : array or Tensor of shape (n, d), or a sequence or mapping of them
            Frozen features of the pairs, n >= 8; row i of `x` belongs to row i of `y`. A sequence
            or mapping holds several layers, from first to last. Computed in float32. Neither side
            may be a single row repeated.
        ids : sequence, optional
            Number or string of each pair. Pairs that share an id are positives of each other, and
            the selection of layers uses the first of them only. By default, pairs whose rows are
            equal on one side share an id, since nothing tells them apart, such as a class name that
            is the caption of all images of its class. If both sides have equal rows, the side with
            fewer different rows decides.
        validation : tuple, optional
            Other pairs as (x, y) or (x, y, ids), or other rows as (x, y, ids, y_ids), see
            :meth:`score`; with the same layers. Training ends with the weights of the step that is
            best on them. Closed forms ignore them.
        unpaired : tuple, optional
            Rows of x and rows of y without a partner, with the same layers; their numbers may
            differ, and the two sides may be of different items. `unpaired_weight` says how they
            are used. Closed forms ignore them.
        group : {"world"}, torch.distributed.ProcessGroup or None
            Processes that fit together. "world": all processes if `torch.distributed` is
            initialised, otherwise this one alone. A group has to contain this process. Every
            process passes the same options, and its own pairs, ids, validation and unpaired rows,
            any number of each, possibly none; n >= 8 counts the pairs of all processes. They divide
            the work of each batch if the heads (without dropout) and losses are those of this
            library and the batch size is divisible by the number of processes; otherwise, each
            computes the whole batch. None: this process alone, for a fit on one process only or for
            the same pairs on each.
        callback : callable, optional
            Function called as ``callback(step, values)`` after each step and each validation, for
            instance to log. `values` is a dict of floats: after a step, its entry of each list in
            `history_`; after a validation, "validation". Steps count from 0. Step i is validated
            before it is taken, and the last validation follows all steps. With a callback, the host
            waits for the device at each step. Return values are ignored, and an error ends the fit.
            In a group, only the callback of the first process is called. Without training, as in
            closed forms, there are no calls.

        Returns
        -------
        Aligner
            Itself, fitted.

        Raises
        ------
        TypeError, ValueError
            If an option is of the wrong kind or out of range, if features, rows or ids are of the
            wrong kind, do not fit together, or hold a value that is not finite, or if training ends
            with heads that are not finite. All processes of a group raise what one of them raises.
        RuntimeError
            If another error occurs while a process of a group opens its features, or in its
            callback.
        """
        group = group_of("Aligner.fit", group)
        given = Given(x, y, ids, validation, unpaired)
        options = estimator.options_of(self)
        if self.epochs is None:
            changed = estimator.changed_names(self)
            options["epochs"] = default_epochs(changed, validation, unpaired)
        found = aligned(given, options, group, callback)
        self.selection_, self.n_pairs_ = found.selection, found.n_pairs
        self.history_ = History(found.trained.history, found.trained.stopped)
        if is_first(group):
            LOGGER.info("Aligner.fit: stopped: %s", self.stopped_ or "closed form")
        self._sides = found.sides
        return self

    def transform_x(self, x: Features) -> Any:
        """Map rows of x into the shared space.

        Parameters
        ----------
        x : array or Tensor of shape (n, d), or a sequence or mapping of them
            Features of the aligned layer, or a sequence or mapping with the layers of the
            blend, or with all layers as in :meth:`fit`.

        Returns
        -------
        array or Tensor of shape (n, dim)
            Rows of unit length in float32, so that products with the other side's rows are cosines.
            An array for an array; a tensor is on the device of the heads.

        Raises
        ------
        RuntimeError
            Before :meth:`fit`.
        TypeError, ValueError
            If `x` is of the wrong kind or width, or lacks the layer.
        """
        return self._transformed("Aligner.transform_x", 0, x)

    def transform_y(self, y: Features) -> Any:
        """Map rows of y into the shared space, as :meth:`transform_x` does for x.

        Parameters
        ----------
        y : array or Tensor of shape (n, d), or a sequence or mapping of them
            Features of the aligned layer, or a sequence or mapping with the layers of the
            blend, or with all layers as in :meth:`fit`.

        Returns
        -------
        array or Tensor of shape (n, dim)
            Rows of unit length in float32; an array for an array.

        Raises
        ------
        RuntimeError
            Before :meth:`fit`.
        TypeError, ValueError
            If `y` is of the wrong kind or width, or lacks the layer.
        """
        return self._transformed("Aligner.transform_y", 1, y)

    @own_state()
    def score(self, x: Features, y: Features, ids: Any = None, y_ids: Any = None) -> float:
        """Return the mean of the recalls at 1, 5 and 10, from x to y and from y to x.

        Parameters
        ----------
        x, y : array or Tensor of shape (n, d), or a sequence or mapping of them
            Pairs, row by row. Each side is the gallery of the other.
        ids : sequence, optional
            Number or string of each pair; rows that share one are correct answers for each other.
        y_ids : sequence, optional
            Numbers or strings of the rows of `y`, if they are not those of x; the numbers of rows
            may then differ. With five captions for each image, pass each image once, its id in
            `ids`, and that id for each of its captions in `y_ids`: repeated images would fill the
            first ranks of the gallery with copies. By default `ids`.

        Returns
        -------
        float
            Mean recall in [0, 1]; higher is better. :func:`retrieval` of the transformed rows
            reports more.

        Raises
        ------
        RuntimeError
            Before :meth:`fit`.
        TypeError, ValueError
            As :meth:`fit`.
        """
        name = "Aligner.score"
        self._check_fitted(name)
        z_x, z_y = torch.as_tensor(self.transform_x(x)), torch.as_tensor(self.transform_y(y))
        rows = held_out(name, z_x, z_y, ids, y_ids, least=1)
        return float(retrieval(z_x, z_y, ids=rows.ids, y_ids=rows.y_ids).mean_recall)

    def save(self, path: str | PathLike[str]) -> None:
        """Write heads, scaling, layers, options and history to one safetensors file.

        Parameters
        ----------
        path : str or os.PathLike
            File to write; an existing one is replaced.

        Raises
        ------
        ImportError
            If the package safetensors is not installed.
        RuntimeError
            Before :meth:`fit`.
        TypeError
            If the heads are modules of your own.
        """
        file.write_aligner(path, self._content("Aligner.save"))

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str | torch.device = "cpu") -> Aligner:
        """Read a file that :meth:`save` wrote; nothing in it is executed.

        Parameters
        ----------
        path : str or os.PathLike
            File to read.
        device : str or torch.device
            Device of the tensors.

        Returns
        -------
        Aligner
            Fitted. Loss modules, schedules and `selection_` are not stored: to train again with
            your own, pass them to a new Aligner.

        Raises
        ------
        ImportError
            If the package safetensors is not installed.
        FileNotFoundError
            If there is no file.
        ValueError
            If :meth:`save` did not write it.
        """
        stored = file.read_aligner(path, device)
        aligner = file.with_options(cls, path, stored.options)
        aligner._sides, aligner.selection_ = stored.sides, None
        aligner.history_, aligner.n_pairs_ = stored.history, stored.n_pairs
        aligner.layers = aligner.layers_
        return aligner

    save_pretrained, push_to_hub = hub.save_pretrained, hub.push_to_hub

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | PathLike[str],
        *,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | PathLike[str] | None = None,
    ) -> Aligner:
        """Read a folder that :meth:`save_pretrained` wrote, or a repository of the Hub.

        Nothing in it is executed. The package huggingface_hub is needed for a repository only.

        Parameters
        ----------
        folder_or_repo : str or os.PathLike
            Folder, or, if there is no such folder, repository as "owner/name".
        device : str or torch.device
            Device of the tensors.
        revision : str, optional
            Branch, tag or commit of the repository. None: its main branch. A commit never changes.
        token : str or bool, optional
            Access token, for a private repository. None: the one stored by ``hf auth login``.
        cache_dir : str or os.PathLike, optional
            Folder in which downloads are kept. None: that of huggingface_hub.

        Returns
        -------
        Aligner
            Fitted, as from :meth:`load`.

        Raises
        ------
        ImportError
            If the package safetensors, or huggingface_hub for a repository, is not installed.
        FileNotFoundError
            If there is no such folder or repository, or no ``model.safetensors`` in it.
        ValueError
            If :meth:`save_pretrained` did not write the file.
        OSError
            If the Hub cannot be reached: an error of huggingface_hub.
        """
        path = hub.tensors_in(folder_or_repo, revision, token, cache_dir)
        return cls.load(path, device=device)

    def _content(self, function: str) -> file.AlignerFile:
        self._check_fitted(function)
        return file.AlignerFile(
            self._sides, file.stored_options(self), self.history_, self.n_pairs_
        )

    @own_state()
    @torch.no_grad()
    def _transformed(self, function: str, index: int, features: Features) -> Any:
        self._check_fitted(function)
        side = self._sides[index]
        one = layer_of(function, side.name, features, layers_of_blend(side.layer)[0])
        return as_given(mapped_rows(function, side, features), one)

    def _check_fitted(self, function: str) -> None:
        if not hasattr(self, "_sides"):
            raise no_fit(function)
