"""A problem at which an op is inspected, and what the lists of problems are made with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from math import prod
from typing import Any

import torch
from torch import Tensor

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64


@dataclass(frozen=True)
class Problem:
    """One call of an op, with its derivatives, by ``run`` of the op's module in this package.

    ``shape``, ``dtype`` and layout are those of x, ``settings`` the keyword arguments of ``run``.
    """

    op: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def label(self) -> str:
        words = [
            "x".join(map(str, self.shape)),
            str(self.dtype).removeprefix("torch."),
            "channels_last" if self.channels_last else "contiguous",
            *(f"{name}={value}" for name, value in self.settings.items()),
        ]
        return " ".join(words)

    def __call__(self) -> None:
        if self.channels_last:
            n, c, *spatial = self.shape
            x = torch.empty(n, *spatial, c, dtype=self.dtype, device="meta").movedim(-1, 1)
        else:
            x = torch.empty(self.shape, dtype=self.dtype, device="meta")
        import_module(f"{__package__}.{self.op}").run(x, **self.settings)


def differentiate_twice(y: Tensor, inputs: Sequence[Tensor]) -> None:
    dy = torch.empty_like(y).requires_grad_()
    first = torch.autograd.grad(y, inputs, dy, create_graph=True)
    differentiable = [g for g in first if g.requires_grad]
    if differentiable:
        incoming = [torch.empty_like(g) for g in differentiable]
        torch.autograd.grad(differentiable, [dy, *inputs], incoming, allow_unused=True)


def in_layouts(
    op: str, contiguous: Sequence[tuple[int, ...]], channels_last: Sequence[tuple[int, ...]], *dtypes: torch.dtype
) -> list[Problem]:
    return [
        Problem(op, shape, dtype, in_channels_last)
        for dtype in dtypes
        for in_channels_last, shapes in ((False, contiguous), (True, channels_last))
        for shape in shapes
    ]
