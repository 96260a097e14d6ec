"""What is measured: an op on a problem, in a type and a layout, one pass at a time.

An op describes itself once (:class:`Op`); the cases follow. Bytes and operations belong to the problem, so every
provider is held to the same floor, however often it reads its input.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from benchmarks.accuracy import SEPARATE_OPS
from benchmarks.results import Row

Pass = Literal["forward", "backward", "double_backward"]
Layout = Literal["contiguous", "channels_last"]
Shape = tuple[int, ...]
Function = Callable[..., Tensor | Sequence[Tensor]]

PASSES: tuple[Pass, ...] = ("forward", "backward", "double_backward")
LAYOUTS: tuple[Layout, ...] = ("contiguous", "channels_last")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# What discriminators and generators are trained in most: these types and layouts come first, and torch.compile is
# measured on them (a compilation costs seconds, a measurement less than one).
_COMMON = {("float32", "contiguous"), ("bfloat16", "contiguous"), ("bfloat16", "channels_last")}
# At toy size, of key problems and of the others: Triton's interpreter is slow.
_TOY = {True: ("float32", "contiguous"), False: ("bfloat16", "channels_last")}


@dataclass(frozen=True)
class Problem:
    """A size that a real model has: ``shape`` is that of the op's first operand, ``model`` says whose it is.

    Where the op takes a list of tensors, or a whole network is measured, its module says what ``shape`` lists.
    """

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
    """An op, its problems and its providers. Every callable takes the op's operands, positionally, and returns a tensor
    or several.

    Args:
        name: as in ``fastgan_kernels``.
        problems, toy_problems: sizes of real models; sizes for a CPU and Triton's interpreter.
        operand_shapes: from a problem's shape to the shapes of all operands; the layout applies to those of four axes.
        reference: plain torch, differentiable twice: the oracle (in float64), the eager baseline, what is compiled.
        fused: the op under test.
        vendors: what torch has that computes the same, by name.
        vendor_roundings: how often they round to their type on the way, if more often than ``accuracy`` takes for
            granted; all others are held to that.
        edges: shapes for a memory checker, the smallest first: less than a tile; odd rows over several tiles; rows of
            more than 64K elements.
        work: from a problem's shape and a pass to its :class:`Work`.
        passes: those that training runs, and that the op has kernels for.
        penalised: operands whose first gradient a penalty uses; double backward differentiates these gradients.
        second_order: which of (*operands, *dys) get a gradient from it that is not zero by mathematics.
        constants: operands that get no gradient.
        arrange: from standard normal operands to those that the op is run on; on them alone every type agrees about
            the branch at a kink, or an input is what the op says of it.
    """

    name: str
    problems: tuple[Problem, ...]
    toy_problems: tuple[Problem, ...]
    operand_shapes: Callable[[Shape], tuple[Shape, ...]]
    reference: Function
    fused: Function
    work: Callable[[Shape, Pass], Work]
    penalised: tuple[int, ...] = ()
    second_order: tuple[int, ...] = ()
    passes: tuple[Pass, ...] = PASSES
    constants: tuple[int, ...] = ()
    arrange: Callable[[tuple[Tensor, ...]], Sequence[Tensor]] = lambda operands: operands
    vendors: Mapping[str, Function] = field(default_factory=dict)
    vendor_roundings: int = SEPARATE_OPS
    edges: tuple[Shape, ...] = ((3, 5, 3, 3), (2, 3, 65, 67), (1, 2, 259, 257))


@dataclass(frozen=True)
class Case:
    """One line of the report: everything but the provider."""

    op: Op
    problem: Problem
    dtype_name: str
    layout: Layout
    pass_: Pass

    @property
    def subject(self) -> Row:
        """The columns of a result that tell what was measured, but the provider."""
        return {
            "op": self.op.name,
            "problem": self.problem.name,
            "shape": "x".join(map(str, self.problem.shape)),
            "dtype": self.dtype_name,
            "layout": self.layout,
            "pass": self.pass_,
        }

    @property
    def key(self) -> str:
        return key_of(self.subject)

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

    At toy size a problem comes in one type and layout.
    """
    listed = []
    for op in ops:
        problems = op.toy_problems if toy else op.problems
        in_turn = [
            Case(op, problem, dtype, layout, pass_)
            for problem in problems
            for dtype in DTYPES
            for layout in LAYOUTS
            for pass_ in op.passes
        ]
        if toy:
            in_turn = [case for case in in_turn if (case.dtype_name, case.layout) == _TOY[case.problem.key]]
        # Turns are counted in each rank: ops need not have equally many problems in it.
        for rank in sorted({case.rank for case in in_turn}):
            of_rank = (case for case in in_turn if case.rank == rank)
            listed += [(rank, turn // len(op.passes), case) for turn, case in enumerate(of_rank)]
    return [case for *_, case in sorted(listed, key=lambda item: item[:2])]


def key_of(subject: Row) -> str:
    """The name of a case, from the columns of a result."""
    return "/".join(str(subject[column]) for column in ("op", "problem", "dtype", "layout", "pass"))


def elements(shape: Shape) -> int:
    return math.prod(shape)
