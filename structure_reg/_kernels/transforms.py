"""Whether a function transform is active: hand-written backward passes are opaque to transforms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def transformed(x: Tensor) -> bool:
    """Whether torch.func (vmap, grad, jvp, hessian, ...) is active, or x is a forward-mode dual."""
    if torch._C._are_functorch_transforms_active():
        return True
    if torch.compiler.is_compiling():
        return False
    _, tangent = forward_ad.unpack_dual(x)  # type: ignore[no-untyped-call]
    return tangent is not None
