"""EfficientNet-Lite0, with the parameter names of its published weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu6


class Stage(NamedTuple):
    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class SameConv(nn.Conv2d):
    """A convolution padded like TensorFlow: odd padding has its larger half at the end."""

    def forward(self, x: Tensor) -> Tensor:
        borders: list[int] = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            borders += [total // 2, total - total // 2]
        return super().forward(pad(x, borders))


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """A mobile inverted bottleneck without squeeze and excitation, which Lite omits."""

    def __init__(self, inputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        wide, outputs = inputs * stage.expansion, stage.channels
        if stage.expansion > 1:
            self._expand_conv = nn.Conv2d(inputs, wide, 1, bias=False)
            self._bn0 = norm(wide)
        self._depthwise_conv = SameConv(wide, wide, stage.kernel, stride, groups=wide, bias=False)
        self._bn1 = norm(wide)
        self._project_conv = nn.Conv2d(wide, outputs, 1, bias=False)
        self._bn2 = norm(outputs)
        self.expands, self.adds = stage.expansion > 1, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        h = relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        h = relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        y: Tensor = x + h if self.adds else h
        return y


class EfficientNetLite0(nn.Module):
    """Stem, 16 blocks and head, each a module whose output is a feature map; no classifier."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = norm(32)
        self.stem = nn.ReLU6()
        blocks, inputs = [], 32
        for stage in STAGES:
            for number in range(stage.blocks):
                blocks.append(Block(inputs, stage, stage.stride if number == 0 else 1))
                inputs = stage.channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(inputs, 1280, 1, bias=False)
        self._bn1 = norm(1280)
        self.head = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        y: Tensor = self.head(self._bn1(self._conv_head(x)))  # (B, 1280, H / 32, W / 32)
        return y


def load(weights: dict[str, Tensor]) -> EfficientNetLite0:
    """Load the network with the published weights, except those of its ImageNet classifier."""
    with torch.device("meta"):
        network = EfficientNetLite0()
    kept = {name: x for name, x in weights.items() if not name.startswith("_fc.")}
    network.load_state_dict(kept, assign=True)
    return network
