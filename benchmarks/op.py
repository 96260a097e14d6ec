"""The description of an op, which the tests, the compile check and the benchmark read.

Each op has its description in ``benchmarks/ops``, in a file of the op's name.
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
"""The shape of each operand, by the name of the op's argument; a tuple of shapes where the op takes a list."""
Operands = dict[str, Tensor | list[Tensor]]
Settings = Mapping[str, Any]
Choose = Callable[[Sequence[Any]], Any]
"""Picks one of the given values."""

_MAPS = ((40, 40), (9, 20, 70), (5, 20, 9, 9), (3, 5, 4, 4, 4))


@dataclass(frozen=True)
class Problem:
    """A size that a real model has.

    Attributes:
        name: the problem's name.
        shape: the shape of the op's first operand; for an op on a list of weights, the shapes of all.
        model: the model that has this size.
        key: whether the problem is measured first and shown in the READMEs.
    """

    name: str
    shape: Any
    model: str
    key: bool = False


@dataclass(frozen=True)
class Call:
    """A call that is compiled ahead of time, or whose traffic is counted.

    Attributes:
        shape, dtype, channels_last: shape, type and layout of the first operand.
        settings: keyword arguments, added to the op's ``defaults``.
        absent: optional operands that are not passed.
        constant: operands that need no gradient; ``"dy"`` is the incoming gradient.
        order: the highest derivative that is run.
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
    """Calls, and the most bytes that they may move, in multiples of the minimum bytes.

    ``forward`` and ``backward`` limit the inputs and outputs of each pass; ``apart`` limits everything else (partial
    sums, saved statistics). ``per`` is that of ``count_traffic``.
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
    """An op, its reference, and the problems at which it is tested, compiled and measured.

    Attributes:
        name: the name of the public function.
        operands: maps the shape of x (the first operand) and the settings to the shapes of all operands.
        arrange: maps standard normal operands (and the settings) to those that the op runs on. Where the op has kinks,
            the values stay away from them and are exact in bfloat16, so that all types take the same branch.
        defaults: keyword arguments of the op that ``settings`` override.
        shaping: settings that only choose the operands' shapes; the op has no such arguments.
        op, reference: the function and its oracle in plain torch; by default the functions called ``name``.
        constants: operands without a derivative.
        data: operands that are data in models, so the benchmark does not compute their gradients.
        passes_gradient_on: whether the gradient of x is the incoming gradient itself, so no kernel writes it.
        reads: what each pass must read: ``dy``, operands, the output ``y``. Double backward also reads the cotangents
            of the first gradients.
        penalized: operands whose first gradient a penalty uses: double backward differentiates these gradients.
        second: those of the operands and ``dy`` whose second gradient is not always zero.
        passes: the passes that training runs and that have kernels.
        reduction: maps the shape of x to the length of the longest sum, which sets the tolerance.
        roundings: how many intermediate results torch's own implementations round to their type.

        problems: sizes of real models.
        toy: the shape of x for a CPU.
        torch_functions: torch's own functions that compute the same, by name; measured beside the op.
        compiled: calls that are compiled in addition to the problems, to cover every specialization of the kernels.
        traffic: limits on the bytes moved.
        allowed: findings about compiled kernels that are no fault, by a part of their text, with the reason.

        fixed: settings that the tests always try, beside drawn ones.
        choices: the values of each setting to draw from; or a function that draws the settings.
        shapes: shapes of x on both sides of every threshold of the tiling.
        drawn: the largest shapes of drawn problems; a pair in place of a size is its range.
        adapt: maps a shape [N, C, *spatial] to the nearest one that this op takes.
        empty: shapes of x without elements.
        highest_order: the highest order of gradients, beyond which the op must raise; ``None`` for every order.
        windows: whether the op reads windows of pixels; then an image is contiguous by rows, not by whole planes.
        wide_output: whether the output is at least float32; otherwise it has the type of x.
        sums_gradient_of_x: operands whose gradient is a sum of the gradient of x.
        saved: maps the operands and ``y`` to the tensors, or numbers of bytes, that forward may keep for backward under
            the first settings of ``fixed``.
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
    torch_functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    compiled: tuple[Call, ...] = ()
    traffic: tuple[Traffic, ...] = ()
    allowed: Mapping[str, str] = field(default_factory=dict)

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

    @property
    def plain(self) -> Callable[..., Any]:
        """What people would write in plain torch: its own function that computes the same, or else the reference."""
        return next(iter(self.torch_functions.values()), self.reference)

    def arguments(self, settings: Settings) -> dict[str, Any]:
        """The keyword arguments of the op for ``settings``."""
        return {name: value for name, value in {**self.defaults, **settings}.items() if name not in self.shaping}

    def make(self, shape: Any, settings: Settings, new: Callable[[Shape], Tensor]) -> Operands:
        """All operands; ``new`` makes each one from its shape."""
        shapes = self.operands(shape, **{**self.defaults, **settings})
        return {name: [*map(new, s)] if is_nested(s) else new(s) for name, s in shapes.items()}

    def draw(self, shape: Any, settings: Settings, normal: Callable[[Shape], Tensor]) -> Operands:
        """Operands with values; ``normal`` makes a standard normal tensor of a shape."""
        return self.arrange(self.make(shape, settings, normal), **{**self.defaults, **settings})

    def meta(self, call: Call) -> Operands:
        """The operands of a call on the meta device; those that need gradients require them."""

        def new(shape: Shape) -> Tensor:
            # The layout matters for x and operands with its axes; for the others any will do.
            return _empty(shape, call.dtype, channels_last=call.channels_last and len(shape) > 2)

        tensors = self.make(call.shape, call.settings, new)
        kept = {name: value for name, value in tensors.items() if name not in call.absent}
        for name, tensor in flat(kept):
            tensor.requires_grad_(name not in (*self.constants, *call.constant))
        return kept

    def run(self, call: Call, operands: Operands) -> None:
        """Runs the op and its derivatives up to ``call.order`` for the operands that need gradients."""
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
        """The fewest bytes that a pass can move: it reads each tensor that it needs, and writes each result, once."""
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
    """Calls at contiguous and channels-last shapes, in each of ``dtypes``."""
    shapes = [*((shape, False) for shape in contiguous), *((shape, True) for shape in channels_last)]
    return [Call(shape, dtype, last) for dtype in dtypes for shape, last in shapes]


def is_nested(shape: Any) -> bool:
    """Whether ``shape`` is a sequence of shapes, for a list of tensors."""
    return bool(shape) and not isinstance(shape[0], int)


def flat(operands: Operands) -> Iterator[tuple[str, Tensor]]:
    """All tensors, each with the name of its operand; lists are taken apart."""
    for name, value in operands.items():
        for tensor in tensors_of(value):
            yield name, tensor


def tensors_of(value: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """One tensor or a sequence of them, as a list."""
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
