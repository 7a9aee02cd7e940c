"""No loss makes the host wait for a GPU, and no metric but those of neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from contract import PROMISES, Options
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import structure_reg as sr

# Lots are drawn for the rows that tie, and which ones do depends on values.
WAITING = {"mutual_knn", "jaccard_knn", "cycle_knn", "lcs_knn", "edit_knn"}
N = 40  # rows; the smallest tiles have 16
# Of the metrics, "rbf" synchronises if its distances exceed the budget, as its docs say.
CASES = [
    pytest.param(name, options, budget, id=f"{name}-{index}-{budget}")
    for name, promise in PROMISES.items()
    for index, options in enumerate(promise.variants)
    for budget in ((1e-9, 64.0) if promise.by_sample else (64.0,))
]


class Crossings(TorchDispatchMode):
    """Run the library's operators from the inside, and note what goes from device to device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "structure_reg":
            with self:
                return OPDEFS[func.name()]._init_fn(*args, **kwargs)
        result = func(*args, **kwargs)
        # A number on the host may go along with a kernel's arguments, as in x / torch.tensor(2.0).
        copies = "copy" in func.name()
        tensors = tensors_in((args, kwargs, result))
        if len({t.device for t in tensors if t.ndim or copies}) > 1:
            self.found.append(func.name())
        return result


def tensors_in(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def fake_gpu() -> FakeTensorMode:
    """Tensors without values, as if on a GPU; before PyTorch 2.14 they kill the process."""
    if not torch.backends.cuda.is_built() or torch.__version__ < (2, 14):
        pytest.skip("fake GPUs take PyTorch 2.14, built for CUDA")
    return FakeTensorMode()


@pytest.mark.parametrize("device", ["meta", "cuda"])
@pytest.mark.parametrize(("name", "options", "budget"), CASES)
def test_no_value_is_read_and_no_tensor_is_moved(
    name: str, options: Options, budget: float, device: str
) -> None:
    with ExitStack() as stack:
        if device == "cuda":
            stack.enter_context(fake_gpu())
        inputs = [
            torch.empty(x.shape, device=device, requires_grad=position in PROMISES[name].gradient)
            for position, x in enumerate(PROMISES[name].inputs(N, 0))
        ]
        if "ids" in options:
            options = {**options, "ids": torch.zeros(N, dtype=torch.int64, device=device)}
        stack.enter_context(sr.tile_budget(budget))
        crossings = stack.enter_context(Crossings())
        if device == "cuda" and name in WAITING:
            stack.enter_context(pytest.raises(RuntimeError, match="nonzero"))
        value = getattr(sr, name)(*inputs, **options)
        # The engine of a fake GPU asks the driver for the device.
        if device == "meta" and PROMISES[name].gradient:
            value.sum().backward()
    assert not crossings.found


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "to the host": Tensor.cpu,
    "a list as index": lambda x: x[[0, 2]],
    "an index on the host": lambda x: x[torch.empty(2, dtype=torch.int64)],
    "a number from the host": lambda x: x + torch.tensor(1.0, device=x.device),
}
READS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x[0].item(),
    "a mask as index": lambda x: x[x > 0],
    "a branch": lambda x: x if x[0] > 0 else -x,
}


@pytest.mark.parametrize("move", MOVES)
def test_a_move_is_found(move: str) -> None:
    with fake_gpu():
        x = torch.empty(3, device="cuda")
        with Crossings() as crossings:
            MOVES[move](x)
    assert crossings.found


@pytest.mark.parametrize("read", READS)
def test_a_read_raises(read: str) -> None:
    with Crossings(), pytest.raises((NotImplementedError, RuntimeError)):
        READS[read](torch.empty(3, device="meta"))
