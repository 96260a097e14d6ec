"""How an op describes itself to the tests of all ops (test_every_op.py, test_traffic.py)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from hypothesis import strategies as st
from torch import Tensor

import fastgan_kernels
from fastgan_kernels import reference
from tests.kernels.harness import DEVICE

Shape = tuple[int, ...]
Function = Callable[..., Tensor]


def _same(shape: Sequence[int]) -> Shape:
    return tuple(shape)


def sizes(largest: int) -> st.SearchStrategy[int]:
    return st.one_of(st.integers(1, largest), st.sampled_from([1, 2, 3, 4, 5, 7, 8, 13, 16]))


FEATURE_MAPS = st.one_of(
    st.tuples(sizes(40), sizes(40)),
    st.tuples(sizes(9), sizes(20), sizes(70)),
    st.tuples(sizes(5), sizes(20), sizes(9), sizes(9)),
    st.tuples(sizes(3), sizes(5), sizes(4), sizes(4), sizes(4)),
)


@dataclass(frozen=True)
class OpSpec:
    """An op, its reference, and how to make problems for it.

    Attributes:
        name: of the public function.
        inputs: from the shape of x to the float64 tensors that the op differentiates, x first. Where the op has kinks
            the values keep clear of them and are exact in every type, so that types cannot disagree about the branch.
        settings: strategy for the keyword arguments.
        fixed_settings: those of the tests that are not drawn.
        reduction: from the shape of x to the length of the longest sum.
        shapes: shapes of x that pass every threshold of the op's tiling.
        registered: the registered operators and, from the inputs, their arguments.
        drawn_shapes: strategy for the shape of x.
        adapt: from the shape [N, C, *spatial] of a test of all ops to the nearest one that this op takes.
        output_shape: from the shape of x to that of the output.
        output_dtype: from the type of x to that of the output.
        keeps_layout: whether the output has the layout of x.
        passes_gradient_on: whether the gradient of x is the incoming one itself.
        sums_gradient_of_x: inputs whose gradient is a sum of that of x.
        highest_order: of the gradients; ``None`` for every order. Beyond it the op must raise.
        empty: shapes of x without elements.
        saved: from the inputs and the output to the bytes that forward keeps for backward, by the first of
            ``fixed_settings``; no op may keep more.
        op, reference: the function under test and its oracle; by default those called ``name``.
    """

    name: str
    inputs: Callable[[Sequence[int]], list[Tensor]]
    settings: st.SearchStrategy[dict[str, Any]]
    fixed_settings: tuple[dict[str, Any], ...]
    reduction: Callable[[Sequence[int]], int]
    shapes: tuple[Shape, ...]
    registered: Callable[[list[Tensor]], list[tuple[Any, tuple[Any, ...]]]]
    saved: Callable[[list[Tensor], Tensor], int]
    drawn_shapes: st.SearchStrategy[Shape] = FEATURE_MAPS
    adapt: Callable[[Sequence[int]], Shape] = _same
    output_shape: Callable[[Sequence[int]], Shape] = _same
    output_dtype: Callable[[torch.dtype], torch.dtype] = lambda dtype: dtype
    keeps_layout: bool = True
    passes_gradient_on: bool = False
    sums_gradient_of_x: tuple[int, ...] = ()
    highest_order: int | None = None
    empty: tuple[Shape, ...] = ((0, 3), (0, 3, 4, 4), (2, 3, 0), (2, 0, 4))
    op: Function = field(default=None)
    reference: Function = field(default=None)

    def __post_init__(self) -> None:
        for attribute, module in (("op", fastgan_kernels), ("reference", reference)):
            if getattr(self, attribute) is None:
                object.__setattr__(self, attribute, getattr(module, self.name))

    def with_settings(self, settings: dict[str, Any]) -> tuple[Function, Function]:
        return (lambda *t: self.op(*t, **settings)), (lambda *t: self.reference(*t, **settings))

    def prepared(self, shape: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
        """The inputs of a test of all ops: of the adapted shape, in one type, on the device of the tests."""
        return [t.to(DEVICE, dtype) for t in self.inputs(self.adapt(shape))]


@dataclass(frozen=True)
class Problem:
    """A problem whose traffic is held: the shape of x, its type and layout."""

    shape: Shape
    dtype: torch.dtype
    channels_last: bool = False


@dataclass(frozen=True)
class Bars:
    """Problems and the most that they may move: forward and backward over the floor; and apart, over the bytes of x.

    Apart counts what is neither input nor output: partial sums, saved statistics. ``per``: as in ``count_traffic``.
    """

    forward: float
    backward: float
    problems: tuple[Problem, ...]
    apart: float = 0.03
    per: Literal["access", "program"] = "access"


@dataclass(frozen=True)
class Traffic:
    """From x to the op's other inputs; from x, those and y to what backward must read besides dy; and the bars.

    ``settings`` are keyword arguments of the op.
    """

    operands: Callable[[Tensor], list[Tensor]]
    read_by_backward: Callable[[Tensor, Sequence[Tensor], Tensor], list[Tensor]]
    bars: tuple[Bars, ...]
    settings: dict[str, Any] = field(default_factory=dict)


def pixels(shape: Sequence[int]) -> int:
    return torch.Size(shape[2:]).numel()


def nbytes(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
