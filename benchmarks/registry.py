"""What is measured: an op on a problem, in a type and a layout, one pass at a time.

An op describes itself once (:class:`Op`); the cases follow. Bytes and operations belong to the problem, so every
provider is held to the same floor, however often it reads its input.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Pass = Literal["forward", "backward", "double_backward"]
Layout = Literal["contiguous", "channels_last"]
Shape = tuple[int, ...]

PASSES: tuple[Pass, ...] = ("forward", "backward", "double_backward")
LAYOUTS: tuple[Layout, ...] = ("contiguous", "channels_last")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# What discriminators and generators are trained in most: these types and layouts come first, and torch.compile is
# measured on them (a compilation costs seconds, a measurement less than one).
_COMMON = {("float32", "contiguous"), ("bfloat16", "contiguous"), ("bfloat16", "channels_last")}


@dataclass(frozen=True)
class Problem:
    """A size that a real model has: ``shape`` is that of the op's first operand, ``model`` says whose it is."""

    name: str
    shape: Shape
    model: str
    key: bool = False


@dataclass(frozen=True)
class Work:
    """What a pass must do at least: elements read and written once each, operations, terms of its longest sum."""

    reads: int
    writes: int
    operations: int
    reduction: int = 1

    def bytes(self, dtype: torch.dtype) -> int:
        return (self.reads + self.writes) * dtype.itemsize


@dataclass(frozen=True)
class Op:
    """An op, its problems and its providers. Every callable takes the op's operands, positionally.

    Args:
        name: as in ``fastgan_kernels``.
        problems, toy_problems: sizes of real models; sizes for a CPU and Triton's interpreter.
        operand_shapes: from a problem's shape to the shapes of all operands; the layout applies to those of four axes.
        reference: plain torch, differentiable twice: the oracle (in float64), the eager baseline, what is compiled.
        fused: the op under test.
        vendors: what torch has that computes the same, by name.
        work: from a problem's shape and a pass to its :class:`Work`.
        penalised: operands whose first gradient a penalty uses; double backward differentiates these gradients.
        second_order: which of (*operands, dy) get a gradient from it that is not zero by mathematics.
    """

    name: str
    problems: tuple[Problem, ...]
    toy_problems: tuple[Problem, ...]
    operand_shapes: Callable[[Shape], tuple[Shape, ...]]
    reference: Callable[..., Tensor]
    fused: Callable[..., Tensor]
    work: Callable[[Shape, Pass], Work]
    penalised: tuple[int, ...]
    second_order: tuple[int, ...]
    vendors: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One line of the report: everything but the provider."""

    op: Op
    problem: Problem
    dtype_name: str
    layout: Layout
    pass_: Pass

    @property
    def key(self) -> str:
        return "/".join((self.op.name, self.problem.name, self.dtype_name, self.layout, self.pass_))

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.dtype_name]

    @property
    def work(self) -> Work:
        return self.op.work(self.problem.shape, self.pass_)

    @property
    def bytes(self) -> int:
        return self.work.bytes(self.dtype)

    @property
    def rank(self) -> int:
        """0 is measured first: key problems, then the others, then the rarer types and layouts."""
        if (self.dtype_name, self.layout) not in _COMMON:
            return 2
        return 0 if self.problem.key else 1

    @property
    def compiled(self) -> bool:
        """Whether torch.compile is among the providers."""
        return self.rank == 0


def cases(ops: Iterable[Op], *, toy: bool = False) -> list[Case]:
    """All cases, those first whose loss would hurt most; the ops take turns, so that a cut spares none of them.

    At toy size the rarer types and layouts are left out: Triton's interpreter is slow.
    """
    listed = []
    for op in ops:
        problems = op.toy_problems if toy else op.problems
        in_turn = [
            Case(op, problem, dtype, layout, pass_)
            for problem in problems
            for dtype in DTYPES
            for layout in LAYOUTS
            for pass_ in PASSES
        ]
        if toy:
            in_turn = [case for case in in_turn if case.rank < 2]
        # Turns are counted in each rank: ops need not have equally many problems in it.
        for rank in sorted({case.rank for case in in_turn}):
            of_rank = (case for case in in_turn if case.rank == rank)
            listed += [(rank, turn // len(PASSES), case) for turn, case in enumerate(of_rank)]
    return [case for *_, case in sorted(listed, key=lambda item: item[:2])]


def elements(shape: Shape) -> int:
    return math.prod(shape)
