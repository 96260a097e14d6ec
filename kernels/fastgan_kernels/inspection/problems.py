"""The problems at which every op is inspected: one list an op, run on torch's meta device.

Not a cross product, which would take an hour to compile. Each op meets: both layouts in float32 and bfloat16 at
every length of row that its tiling treats differently, aligned and not; the other two types once in each layout; each
optional operand and setting once; and more than 2^31 elements.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

import fastgan_kernels

MORE_THAN_INT32 = 2**31


@dataclass(frozen=True)
class Problem:
    """One call of an op, with its derivatives: x [N, C, *spatial] and what else the op's function below takes."""

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
        n, c, *spatial = self.shape
        if self.channels_last:
            x = torch.empty(n, *spatial, c, dtype=self.dtype, device="meta").movedim(-1, 1)
        else:
            x = torch.empty(n, c, *spatial, dtype=self.dtype, device="meta")
        _OPS[self.op](x, **self.settings)


def _differentiate_twice(y: Tensor, inputs: Sequence[Tensor]) -> None:
    dy = torch.empty_like(y).requires_grad_()
    first = torch.autograd.grad(y, inputs, dy, create_graph=True)
    differentiable = [g for g in first if g.requires_grad]
    if differentiable:
        incoming = [torch.empty_like(g) for g in differentiable]
        torch.autograd.grad(differentiable, [dy, *inputs], incoming, allow_unused=True)


def _bias_act(x: Tensor, *, bias: bool = True, constant: str = "", **settings: Any) -> None:
    operands = {"x": x}
    if bias:
        operands["bias"] = x.new_empty(x.shape[1])
    inputs = [operand.requires_grad_() for name, operand in operands.items() if name != constant]
    y = fastgan_kernels.bias_act(x, operands.get("bias"), **settings)
    _differentiate_twice(y, inputs)


def _adain(x: Tensor, *, constant: str = "") -> None:
    # As a layer of styles gives them: two halves of one matrix.
    scale, shift = x.new_empty(x.shape[0], 2 * x.shape[1]).chunk(2, dim=1)
    operands = {"x": x, "scale": scale, "shift": shift}
    inputs = [operand.requires_grad_() for name, operand in operands.items() if name not in constant.split("+")]
    _differentiate_twice(fastgan_kernels.adain(x, scale, shift), inputs)


_OPS: dict[str, Callable[..., None]] = {"bias_act": _bias_act, "adain": _adain}

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64


def _bias_act_problems() -> list[Problem]:
    def problem(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool = False, **settings: Any) -> Problem:
        return Problem("bias_act", shape, dtype, channels_last, settings)

    problems = []
    for dtype in (F32, BF16):
        # Rows of pixels: DCGAN's and StyleGAN's maps, and 14 x 14 and 7 x 7 whose rows start at odd addresses.
        for shape in (
            (64, 512, 4, 4),
            (64, 64, 7, 7),
            (64, 64, 14, 14),
            (64, 128, 28, 28),
            (16, 256, 32, 32),
            (4, 128, 128, 128),
            (1, 16, 1024, 1024),
            (1, 1, 2, 2),
        ):
            problems.append(problem(shape, dtype))
        # Rows of channels.
        for shape in ((64, 1, 28, 28), (16, 3, 64, 64), (16, 64, 32, 32), (16, 513, 8, 8), (64, 512, 4, 4), (64, 512)):
            problems.append(problem(shape, dtype, channels_last=True))
        problems += [
            problem((2, 16, 8192, 8200), dtype),
            problem((2, 16, 8192, 8200), dtype, channels_last=True),
            problem((2**20, 2056), dtype),
        ]
    for dtype in (F16, F64):
        problems += [problem((16, 256, 32, 32), dtype), problem((16, 64, 32, 32), dtype, channels_last=True)]
    for channels_last in (False, True):
        for settings in (
            {"act": "linear"},
            {"act": "relu"},
            {"act": "linear", "clamp": 256.0},
            {"act": "lrelu", "gain": 2.0**0.5, "clamp": 256.0},
            {"bias": False},
            {"constant": "x"},
            {"constant": "bias"},
        ):
            problems.append(problem((16, 64, 32, 32), F32, channels_last, **settings))
    return problems


def _adain_problems() -> list[Problem]:
    def problem(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool = False, **settings: Any) -> Problem:
        return Problem("adain", shape, dtype, channels_last, settings)

    problems = []
    for dtype in (F32, BF16):
        for shape in (
            (64, 512, 4, 4),
            (64, 512, 8, 8),
            (64, 64, 7, 7),
            (64, 64, 14, 14),
            (64, 128, 28, 28),
            (16, 256, 32, 32),
            (16, 128, 64, 64),
            (8, 64, 128, 128),
            (8, 64, 101, 103),
            (8, 32, 256, 256),
            (8, 32, 255, 257),
            (2, 16, 1024, 1024),
            (1, 1, 2, 2),
        ):
            problems.append(problem(shape, dtype))
        for shape in (
            (64, 512, 4, 4),
            (16, 513, 8, 8),
            (16, 256, 32, 32),
            (16, 3, 64, 64),
            (8, 64, 128, 128),
            (2, 16, 1024, 1024),
        ):
            problems.append(problem(shape, dtype, channels_last=True))
        problems += [
            problem((2, 16, 8192, 8200), dtype),
            problem((2, 16, 8192, 8200), dtype, channels_last=True),
            problem((2**11, 2**10, 32, 33), dtype),
            problem((2**11, 2**10, 32, 33), dtype, channels_last=True),
            problem((2**17, 2**15, 1, 1), dtype),
        ]
    for dtype in (F16, F64):
        for shape in ((16, 256, 32, 32), (8, 64, 128, 128)):
            problems += [problem(shape, dtype), problem(shape, dtype, channels_last=True)]
    for shape in ((16, 256, 32, 32), (8, 32, 256, 256), (2, 16, 1024, 1024)):
        for channels_last in (False, True):
            for constant in ("x", "scale+shift", "scale"):
                problems.append(problem(shape, F32, channels_last, constant=constant))
    return problems


PROBLEMS: list[Problem] = [*_bias_act_problems(), *_adain_problems()]
