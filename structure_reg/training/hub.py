"""A fitted Aligner in a folder or on the Hugging Face Hub: methods of :class:`Aligner`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from structure_reg._card import About, Model, model_card
from structure_reg._checks import check_about
from structure_reg._hub import Saved, Source, Target, push_folder, save_folder, tensors_of
from structure_reg.training.estimator import changed_options
from structure_reg.training.file import AlignerFile, in_features, out_features
from structure_reg.training.given import OF_ONE_PROCESS
from structure_reg.training.history import History
from structure_reg.training.inputs import layers_of_blend
from structure_reg.training.options import without_address
from structure_reg.training.side import Side


def save_pretrained(
    self: Any,
    folder: str | PathLike[str],
    *,
    encoders: Sequence[str] | None = None,
    data: str | None = None,
    scores: Mapping[str, float] | None = None,
    license: str | None = None,  # noqa: A002
) -> None:
    """Write `model.safetensors` and a model card `README.md` to a folder.

    The card states the layers, widths, heads, options, number of pairs and best validation by
    itself. It can be edited afterwards; saving to the folder again replaces both files.

    Parameters
    ----------
    folder : str or os.PathLike
        Folder to write to, created if it does not exist.
    encoders : pair of str, optional
        Names of the encoders of x and y. A name of the form "owner/name" is also listed as a base
        model of the repository.
    data : str, optional
        Description of the training pairs. One of the form "owner/name" is also listed as a data set
        of the repository.
    scores : dict, optional
        Numbers by name, for instance ``{"mean recall, test": aligner.score(x, y)}``.
    license : str, optional
        Identifier of the licence on the Hub, such as "mit" or "apache-2.0".

    Raises
    ------
    ImportError
        If the package safetensors is not installed.
    FileExistsError
        If the folder has a README.md that is not a model card of this library.
    RuntimeError
        Before :meth:`fit`.
    TypeError, ValueError
        If the heads are modules of your own, or if the card cannot hold an argument.

    See Also
    --------
    from_pretrained : Reads the folder.
    push_to_hub : Uploads the same files.
    """
    name = "Aligner.save_pretrained"
    save_folder(name, folder, saved(name, self, About(encoders, data, scores, license)))


def push_to_hub(
    self: Any,
    repo_id: str,
    *,
    encoders: Sequence[str] | None = None,
    data: str | None = None,
    scores: Mapping[str, float] | None = None,
    license: str | None = None,  # noqa: A002
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Add an Aligner",
) -> str:
    """Upload what :meth:`save_pretrained` writes to a repository of the Hugging Face Hub.

    Parameters
    ----------
    repo_id : str
        Repository as "owner/name", or as "name" for one of your own. Created if it does not
        exist.
    encoders, data, scores, license
        Entries of the model card, as in :meth:`save_pretrained`. The card replaces the one that the
        repository has.
    private : bool, optional
        Whether a new repository is private. None: the default of its owner.
    token : str or bool, optional
        Access token. None: the one stored by ``hf auth login``.
    commit_message : str
        Message of the commit.

    Returns
    -------
    str
        Address of the commit.

    Raises
    ------
    ImportError
        If the package huggingface_hub or safetensors is not installed.
    RuntimeError
        Before :meth:`fit`.
    TypeError, ValueError
        As :meth:`save_pretrained`.
    OSError
        If the Hub refuses the upload or cannot be reached: an error of huggingface_hub.
    """
    name = "Aligner.push_to_hub"
    target = Target(repo_id, private, token, commit_message)
    return push_folder(name, target, saved(name, self, About(encoders, data, scores, license)))


def tensors_in(
    folder_or_repo: str | PathLike[str],
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | PathLike[str] | None,
) -> Path:
    """Path of the file that :meth:`Aligner.from_pretrained` loads."""
    source = Source(revision, token, cache_dir)
    return tensors_of("Aligner.from_pretrained", folder_or_repo, source)


def saved(function: str, aligner: Any, about: About) -> Saved:
    check_about(function, 2, *about)
    content = aligner._content(function)
    call = without_address(changed_options(aligner, but=OF_ONE_PROCESS))
    return Saved(aligner.save, lambda name: model_card(described(content, call, name), about))


def described(content: AlignerFile, call: str, name: str) -> Model:
    """What the card says about the content of a file."""
    x, y = content.sides
    width = out_features(x.head)
    n_pairs, stopped = content.n_pairs, content.history.stopped
    facts = {} if n_pairs is None else {"Training pairs": f"{n_pairs:,}"}
    facts |= {} if stopped is None else {"Training stopped": stopped}
    return Model(
        "Two heads, fitted with structure-reg, that map the frozen features of two encoders into "
        f"one space of {width} dimensions. Its rows have unit length, so products of rows of x "
        "with rows of y are cosines.",
        ("x", "y"),
        {
            "Layers": [", ".join(map(str, layers_of_blend(side.layer))) for side in (x, y)],
            "Columns": [str(in_features(side.head)) for side in (x, y)],
            "Head": [type(side.head).__name__ for side in (x, y)],
        },
        facts,
        best_validation(content.history, content.options),
        call,
        usage(name, x, y),
    )


def best_validation(history: History, options: Mapping[str, Any]) -> dict[str, float]:
    """The score of the step whose weights the heads have."""
    scores = history.get("validation")
    if not scores:
        return {}
    best = max(scores)
    step = history["validation_step"][scores.index(best)]
    kind = "mean recall" if options["monitor"] == "recall" else "negative objective"
    return {f"{kind} on the validation pairs, best of {len(scores)} (step {step:g})": best}


def usage(name: str, x: Side, y: Side) -> str:
    return "\n".join(
        [
            "from structure_reg import Aligner",
            "",
            f"aligner = Aligner.from_pretrained({name!r})",
            f"z_x = aligner.transform_x(x)  # {expected(x)}",
            f"z_y = aligner.transform_y(y)  # {expected(y)}",
        ]
    )


def expected(side: Side) -> str:
    """What features a side takes, as a comment."""
    if isinstance(side.layer, list):
        return f"a list or dict with the layers {', '.join(map(repr, side.layer))}"
    return f"layer {side.layer!r}, of shape (n, {in_features(side.head)})"
