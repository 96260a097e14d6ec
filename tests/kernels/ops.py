"""The ops under test. An op that is added here gets every generic test of test_every_op.py."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import fastgan_kernels
from fastgan_kernels import reference
from tests.kernels.harness import DEVICE, random


@dataclass(frozen=True)
class OpSpec:
    """An op, its reference, and how to make problems for it.

    Attributes:
        name: of the public function.
        inputs: from the shape of x to float64 tensors, x first. Where the op has kinks the values keep clear of them
            and are exact in every type, so that types cannot disagree about the branch.
        settings: strategy for the keyword arguments.
        fixed_settings: those of the tests that are not drawn.
        reduction: from the shape of x to the length of the longest sum.
        shapes: shapes of x that pass every threshold of the op's tiling.
        registered: the registered operators and, from the inputs, their arguments.
    """

    name: str
    inputs: Callable[[Sequence[int]], list[Tensor]]
    settings: st.SearchStrategy[dict[str, Any]]
    fixed_settings: tuple[dict[str, Any], ...]
    reduction: Callable[[Sequence[int]], int]
    shapes: tuple[tuple[int, ...], ...]
    registered: Callable[[list[Tensor]], list[tuple[Any, tuple[Any, ...]]]]

    @property
    def op(self) -> Callable[..., Tensor]:
        return getattr(fastgan_kernels, self.name)

    @property
    def reference(self) -> Callable[..., Tensor]:
        return getattr(reference, self.name)

    def with_settings(self, settings: dict[str, Any]) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        return (lambda *t: self.op(*t, **settings)), (lambda *t: self.reference(*t, **settings))


def pixels(shape: Sequence[int]) -> int:
    return torch.Size(shape[2:]).numel()


def _bias_act_inputs(shape: Sequence[int]) -> list[Tensor]:
    # Odd sixteenths plus eighths: never 0, exact in bfloat16.
    x = (random(shape, 1) * 4).round().clamp(-20, 20) / 8 + 1 / 16
    bias = (random(shape[1:2], 2) * 4).round().clamp(-20, 20) / 8
    return [x, bias]


def _bias_act_registered(inputs: list[Tensor]) -> list[tuple[Any, tuple[Any, ...]]]:
    x, bias = inputs
    settings = ("lrelu", 0.2, 1.5, 1.25)
    y = reference.bias_act(x, bias, gain=1.5, clamp=1.25).detach()
    g = random(x.shape, 3, x.dtype).requires_grad_()
    ops = torch.ops.fastgan
    return [
        (ops.bias_act.default, (x, bias, *settings)),
        (ops.bias_act.default, (x, None, "linear", 0.2, 1.5, None)),
        (ops.bias_act_derivative.default, (g, bias, y, *settings, True, True)),
        (ops.bias_act_derivative.default, (g, None, y, *settings, True, False)),
        (ops.bias_act_derivative.default, (None, bias, y, *settings, False, True)),
    ]


def _adain_inputs(shape: Sequence[int]) -> list[Tensor]:
    # bfloat16 values: every type gets the same problem.
    values = random(shape, 1), random(shape[:2], 2), random(shape[:2], 3)
    return [t.bfloat16().double() for t in values]


def _adain_registered(inputs: list[Tensor]) -> list[tuple[Any, tuple[Any, ...]]]:
    x, scale, shift = inputs
    ops = torch.ops.fastgan
    _, mean, rstd = ops.adain.default(x.detach(), scale.detach(), shift.detach(), 1e-5)
    g = random(x.shape, 4, x.dtype).requires_grad_()
    return [
        (ops.adain.default, (x, scale, shift, 1e-5)),
        (ops.adain_backward.default, (g, x, scale, mean, rstd, 1e-5, True, True, True)),
        (ops.adain_backward.default, (g, x, scale, mean, rstd, 1e-5, True, False, False)),
        (ops.adain_backward.default, (g, x, scale, mean, rstd, 1e-5, False, True, True)),
    ]


OPS = (
    OpSpec(
        name="bias_act",
        inputs=_bias_act_inputs,
        settings=st.fixed_dictionaries(
            {
                "act": st.sampled_from(["linear", "relu", "lrelu"]),
                "negative_slope": st.sampled_from([0.0, 0.2, 1.0, 1.7]),
                "gain": st.sampled_from([1.0, 1.5, 0.5]),
                # Far from every value that the grid of inputs can give, in every type.
                "clamp": st.sampled_from([None, 1.234, 1e4]),
            }
        ),
        fixed_settings=(
            {"act": "lrelu", "gain": 1.5, "clamp": 1.234},
            {"act": "relu"},
            {"act": "linear", "gain": 0.5},
        ),
        reduction=lambda shape: shape[0] * pixels(shape),
        # One row, one column, a tile and one more; more columns than a tile has; more rows than one pass of a program.
        shapes=((1, 1), (2, 3, 1, 1), (1, 1025), (3, 2, 1023), (1, 2, 4099), (700, 5), (520, 3, 2, 3), (2, 37, 13, 11)),
        registered=_bias_act_registered,
    ),
    OpSpec(
        name="adain",
        inputs=_adain_inputs,
        settings=st.fixed_dictionaries({"eps": st.sampled_from([1e-5, 1e-8, 0.1])}),
        fixed_settings=({}, {"eps": 1e-2}),
        reduction=pixels,
        # A pixel, two, several planes a block, a plane a block, the end of the registers, spans of every length; and,
        # channels-last in bfloat16 and float64, planes beyond the registers that one span holds.
        shapes=(
            (1, 1, 1),
            (2, 3, 2),
            (300, 3, 2, 3),
            (2, 5, 13, 11),
            (1, 2, 4096),
            (1, 2, 4097),
            (1, 1, 16385),
            (1, 3, 40001),
            (1, 33, 31, 37),
            (2, 17, 23, 41),
        ),
        registered=_adain_registered,
    ),
)


def prepared(spec: OpSpec, shape: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
    return [t.to(DEVICE, dtype) for t in spec.inputs(shape)]
