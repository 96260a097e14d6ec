"""The description of an op: the one that the tests, the compile check and the benchmark read.

Each op has one in ``benchmarks/ops``, named after it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

import fastgan_kernels
from fastgan_kernels import reference

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64

Pass = Literal["forward", "backward", "double_backward"]
PASSES: tuple[Pass, ...] = ("forward", "backward", "double_backward")

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape | tuple[Shape, ...]]
"""The shapes of operands, by the name of the op's argument; those of a list where the op takes one."""
Operands = dict[str, Tensor | list[Tensor]]
Settings = Mapping[str, Any]
Choose = Callable[[Sequence[Any]], Any]
"""Chooses one of some values."""

_MAPS = ((40, 40), (9, 20, 70), (5, 20, 9, 9), (3, 5, 4, 4, 4))


@dataclass(frozen=True)
class Problem:
    """A size that a real model has.

    Attributes:
        name: of the problem.
        shape: of the op's first operand; of an op on a list of weights, their shapes.
        model: whose size it is.
        key: whether it is among the problems that are measured first and shown in the READMEs.
    """

    name: str
    shape: Any
    model: str
    key: bool = False


@dataclass(frozen=True)
class Call:
    """A call that is compiled ahead of time, or whose traffic is counted.

    Attributes:
        shape, dtype, channels_last: of the first operand.
        settings: keyword arguments, beside the op's ``defaults``.
        absent: optional operands that are not passed.
        constant: operands that need no gradient, ``"dy"`` for the incoming one.
        order: of the derivatives that are run.
    """

    shape: Any
    dtype: torch.dtype
    channels_last: bool = False
    settings: Settings = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    constant: tuple[str, ...] = ()
    order: int = 2


@dataclass(frozen=True)
class Traffic:
    """Calls, and the most that they may move: forward and backward over the minimum bytes; and apart, over the same.

    Apart counts what is neither input nor output: partial sums, saved statistics. ``per``: as in ``count_traffic``.
    """

    forward: float
    backward: float
    calls: Sequence[Call]
    apart: float = 0.03
    per: Literal["access", "program"] = "access"


def _given(operands: Operands, **settings: Any) -> Operands:
    return operands


@dataclass(frozen=True, kw_only=True)
class Op:
    """An op, its reference, and the problems that it is tested, compiled and measured at.

    Attributes:
        name: of the public function.
        operands: from the shape of x (the first operand) and the settings to the shapes of all operands.
        arrange: from standard normal operands (and the settings) to those that the op is run on. Where the op has kinks
            the values keep clear of them and are exact in bfloat16, so that types cannot disagree about the branch.
        defaults: keyword arguments, where no others are given.
        shaping: settings that choose the operands' shapes and are no arguments of the op.
        op, reference: the function and its oracle in plain torch, by default those called ``name``.
        constants: operands without a derivative.
        data: operands that are data where models use the op, so that the benchmark computes no gradient of theirs.
        passes_gradient_on: whether the gradient of x is the incoming one itself, which nobody writes.
        reads: what the passes must read: ``dy``, operands, the output ``y``. Double backward reads the cotangents of
            the first gradients besides.
        penalized: operands whose first gradient a penalty uses: double backward differentiates these gradients.
        second: which of the operands and ``dy`` get a gradient from it that is not zero by mathematics.
        passes: those that training runs, and that the op has kernels for.
        reduction: from the shape of x to the length of the longest sum, which the tolerance follows.
        roundings: how often torch's own implementations round to their type on the way.

        problems: sizes of real models.
        toy: the shape of x for a CPU.
        vendors: what torch has that computes the same, by name.
        compiled: calls that are compiled, beside the problems, so that the kernels meet every specialization.
        traffic: what may be moved.

        fixed: settings of the tests that are not drawn.
        choices: values of each setting that drawn problems take; or a function that draws the settings.
        shapes: shapes of x that pass every threshold of the tiling.
        drawn: largest shapes that drawn problems have; a pair is the range of a size.
        adapt: from a shape [N, C, *spatial] to the nearest one that this op takes.
        empty: shapes of x without elements.
        highest_order: of the gradients; ``None`` for every order. Beyond it the op must raise.
        windows: whether pixels are read by windows, so that rows of an image, not whole planes, are what is contiguous.
        wide_output: whether the output is at least float32; otherwise it has the type of x.
        sums_gradient_of_x: operands whose gradient is a sum of that of x.
        saved: from the operands and ``y`` to the tensors, or the numbers of bytes, that forward keeps for backward by
            the first of ``fixed``; no op may keep more.
    """

    name: str
    operands: Callable[..., Shapes]
    arrange: Callable[..., Operands] = _given
    defaults: Settings = field(default_factory=dict)
    shaping: tuple[str, ...] = ()
    op: Callable[..., Any] = field(default=None)
    reference: Callable[..., Any] = field(default=None)
    constants: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    passes_gradient_on: bool = False
    reads: Mapping[Pass, tuple[str, ...]] = field(default_factory=dict)
    penalized: tuple[str, ...] = ()
    second: tuple[str, ...] = ()
    passes: tuple[Pass, ...] = PASSES
    reduction: Callable[[Any], int]
    roundings: int = 4

    problems: tuple[Problem, ...]
    toy: Any = (4, 4, 4, 4)
    vendors: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    compiled: tuple[Call, ...] = ()
    traffic: tuple[Traffic, ...] = ()

    fixed: tuple[Settings, ...] = ({},)
    choices: Mapping[str, Sequence[Any]] | Callable[[Choose], Settings] = field(default_factory=dict)
    shapes: tuple[Shape, ...] = ()
    drawn: tuple[tuple[Any, ...], ...] = _MAPS
    adapt: Callable[[Shape], Shape] = tuple
    empty: tuple[Shape, ...] = ((0, 3), (0, 3, 4, 4), (2, 3, 0), (2, 0, 4))
    highest_order: int | None = None
    windows: bool = False
    wide_output: bool = False
    sums_gradient_of_x: tuple[str, ...] = ()
    saved: Callable[[Operands], Sequence[Tensor | int]] = lambda t: []

    def __post_init__(self) -> None:
        for attribute, module in (("op", fastgan_kernels), ("reference", reference)):
            if getattr(self, attribute) is None:
                object.__setattr__(self, attribute, getattr(module, self.name))

    @cached_property
    def differentiable(self) -> bool:
        return "backward" in self.passes

    def arguments(self, settings: Settings) -> dict[str, Any]:
        """The keyword arguments of the op for ``settings``."""
        return {name: value for name, value in {**self.defaults, **settings}.items() if name not in self.shaping}

    def make(self, shape: Any, settings: Settings, new: Callable[[Shape], Tensor]) -> Operands:
        """All operands, made by ``new`` from their shapes."""
        shapes = self.operands(shape, **{**self.defaults, **settings})
        return {name: [*map(new, s)] if is_nested(s) else new(s) for name, s in shapes.items()}

    def draw(self, shape: Any, settings: Settings, normal: Callable[[Shape], Tensor]) -> Operands:
        """Operands with values, from standard normal ones that ``normal`` makes."""
        return self.arrange(self.make(shape, settings, normal), **{**self.defaults, **settings})

    def meta(self, call: Call) -> Operands:
        """The operands of a call on the meta device, with gradients where it needs them."""

        def new(shape: Shape) -> Tensor:
            # x and what has its axes; of the others one layout is as good as another.
            return _empty(shape, call.dtype, channels_last=call.channels_last and len(shape) > 2)

        tensors = self.make(call.shape, call.settings, new)
        kept = {name: value for name, value in tensors.items() if name not in call.absent}
        for name, tensor in flat(kept):
            tensor.requires_grad_(name not in (*self.constants, *call.constant))
        return kept

    def run(self, call: Call, operands: Operands) -> None:
        """Runs the op and its derivatives up to ``call.order``, in the operands that need gradients."""
        inputs = [tensor for _, tensor in flat(operands) if tensor.requires_grad]
        ys = tensors_of(self.op(**operands, **self.arguments(call.settings)))
        if call.order < 1 or not inputs:
            return
        dys = [_incoming(y).requires_grad_("dy" not in call.constant) for y in ys]
        first = torch.autograd.grad(ys, inputs, dys, create_graph=call.order > 1)
        differentiable = [g for g in first if g.requires_grad]
        if call.order > 1 and differentiable:
            targets = [t for t in (*dys, *inputs) if t.requires_grad]
            torch.autograd.grad(differentiable, targets, list(map(_incoming, differentiable)), allow_unused=True)

    def minimum_bytes(self, shape: Any, dtype: torch.dtype, pass_: Pass = "forward") -> int:
        """What a pass moves at least: each tensor that it needs read once, each that it computes written once."""
        operands = self.make(shape, {}, lambda s: torch.empty(s, dtype=dtype, device="meta"))
        ys = tensors_of(self.reference(**operands, **self.arguments({})))
        sizes = {name: sum(t.nbytes for n, t in flat(operands) if n == name) for name in operands}
        sizes["y"] = sizes["dy"] = sum(y.numel() * dtype.itemsize for y in ys)
        if pass_ == "forward":
            return sum(sizes[name] for name in (*operands, "y"))
        read = sum(sizes[name] for name in self.reads[pass_])
        if pass_ == "double_backward":
            return read + sum(sizes[name] for name in (*self.penalized, *self.second))
        x = next(iter(operands))
        unwritten = {*self.constants, *self.data, *((x,) if self.passes_gradient_on else ())}
        return read + sum(sizes[name] for name in operands if name not in unwritten)


def in_layouts(contiguous: Sequence[Shape], channels_last: Sequence[Shape], *dtypes: torch.dtype) -> list[Call]:
    """Calls at shapes of both layouts in some types."""
    shapes = [*((shape, False) for shape in contiguous), *((shape, True) for shape in channels_last)]
    return [Call(shape, dtype, last) for dtype in dtypes for shape, last in shapes]


def is_nested(shape: Any) -> bool:
    """Whether these are the shapes of a list of tensors."""
    return bool(shape) and not isinstance(shape[0], int)


def flat(operands: Operands) -> Iterator[tuple[str, Tensor]]:
    """Each tensor with the name of its operand."""
    for name, value in operands.items():
        for tensor in tensors_of(value):
            yield name, tensor


def tensors_of(value: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """A tensor or several, as a list."""
    return [value] if isinstance(value, Tensor) else list(value)


def pixels(shape: Shape) -> int:
    return math.prod(shape[2:])


def _incoming(t: Tensor) -> Tensor:
    return torch.empty_like(t) if t.is_meta else torch.randn_like(t)


def _empty(shape: Shape, dtype: torch.dtype, *, channels_last: bool) -> Tensor:
    if not channels_last:
        return torch.empty(shape, dtype=dtype, device="meta")
    n, c, *spatial = shape
    return torch.empty(n, *spatial, c, dtype=dtype, device="meta").movedim(-1, 1)
