"""The problems at which every op is inspected: one list an op, run on torch's meta device.

PROBLEMS makes the table. Each op meets: both layouts in float32 and bfloat16 at every length of row that its tiling
treats differently, aligned and not; the other two types; each optional operand and setting; more than 2^31 elements.
SWEEP, for a slow test of the rules alone, is the cross product of the shapes with both layouts and all types.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

import fastgan_kernels


@dataclass(frozen=True)
class Problem:
    """One call of an op, with its derivatives: x [N, C, *spatial] and the settings of the op's function in OPS."""

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
        OPS[self.op](x, **self.settings)


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


OPS: dict[str, Callable[..., None]] = {"bias_act": _bias_act, "adain": _adain}

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64


def _in_layouts(
    op: str, contiguous: Sequence[tuple[int, ...]], channels_last: Sequence[tuple[int, ...]], *dtypes: torch.dtype
) -> list[Problem]:
    return [
        Problem(op, shape, dtype, in_channels_last)
        for dtype in dtypes
        for in_channels_last, shapes in ((False, contiguous), (True, channels_last))
        for shape in shapes
    ]


def _bias_act_problems() -> list[Problem]:
    shape = (16, 64, 32, 32)
    return [
        # Rows of pixels, the odd ones of 7 x 7 and 14 x 14 too; rows of channels.
        *_in_layouts(
            "bias_act",
            [(64, 512, 4, 4), (64, 64, 7, 7), (64, 64, 14, 14), (64, 128, 28, 28), (1, 1, 2, 2)],
            [(16, 3, 64, 64), (64, 16, 64, 64), shape, (16, 513, 8, 8), (64, 512)],
            F32,
            BF16,
        ),
        *_in_layouts("bias_act", [(2, 16, 8192, 8200)], [(2, 16, 8192, 8200)], F32),
        Problem("bias_act", (2**20, 2056), BF16),
        *_in_layouts("bias_act", [shape], [shape], F16, F64),
        *(
            Problem("bias_act", shape, F32, settings=settings)
            for settings in (
                {"act": "linear"},
                {"act": "relu"},
                {"act": "linear", "clamp": 256.0},
                {"act": "lrelu", "gain": 2.0**0.5, "clamp": 256.0},
            )
        ),
        *(
            Problem("bias_act", shape, F32, channels_last, settings)
            for channels_last in (False, True)
            for settings in ({"bias": False}, {"constant": "x"}, {"constant": "bias"})
        ),
    ]


def _adain_problems() -> list[Problem]:
    return [
        # Planes that share a block, that fill one, that stay in registers, that are read twice, that are cut in spans.
        *_in_layouts(
            "adain",
            [
                (64, 512, 4, 4),
                (64, 64, 7, 7),
                (64, 128, 28, 28),
                (16, 128, 64, 64),
                (8, 64, 101, 103),
                (8, 64, 128, 128),
                (8, 32, 256, 256),
                (2, 16, 1024, 1024),
            ],
            [(64, 512, 4, 4), (16, 513, 8, 8), (16, 256, 32, 32), (16, 3, 64, 64), (8, 64, 128, 128)],
            F32,
            BF16,
        ),
        *_in_layouts("adain", [(2, 16, 8192, 8200)], [(2, 16, 8192, 8200)], F32),
        Problem("adain", (2**11, 2**10, 32, 33), BF16),
        Problem("adain", (2**17, 2**15, 1, 1), BF16),
        *_in_layouts("adain", [(16, 256, 32, 32)], [(16, 256, 32, 32)], F16, F64),
        Problem("adain", (8, 64, 128, 128), F64),
        *(
            Problem("adain", shape, F32, settings={"constant": constant})
            for shape in ((16, 128, 64, 64), (2, 16, 1024, 1024))
            for constant in ("x", "scale", "scale+shift")
        ),
    ]


PROBLEMS: list[Problem] = [*_bias_act_problems(), *_adain_problems()]

SWEEP: list[Problem] = [
    Problem(op, shape, dtype, channels_last)
    for op, shape in dict.fromkeys((problem.op, problem.shape) for problem in PROBLEMS)
    for dtype in (F16, BF16, F32, F64)
    for channels_last in (False, True)
]
