"""Cases, each one pass of an op at a problem, type and layout; and the calls that run them."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
import torch._functorch.config
import torch._inductor.config
from torch import Tensor
from torch.utils._pytree import tree_map

from benchmarks.op import BF16, F16, F32, Op, Operands, Pass, Problem, flat, is_nested, tensors_of
from benchmarks.ops import OPS

DTYPES = {"float32": F32, "bfloat16": BF16, "float16": F16}
LAYOUTS = ("contiguous", "channels_last")

# The types and layouts in which most networks are trained.
_COMMON = {("float32", "contiguous"), ("bfloat16", "contiguous"), ("bfloat16", "channels_last")}
_TOY = (("float32", "contiguous"), ("bfloat16", "channels_last"))
_FIRST = ("adain", "upfirdn2d", "noise_injection")  # those whose speed is least certain

Call = Callable[[], list[Tensor]]
Implementation = Callable[["Given"], Call]


@dataclass(frozen=True)
class Case:
    """Everything that identifies a row of results, except the implementation."""

    op: Op
    problem: Problem
    dtype_name: str
    layout: str
    pass_: Pass

    @property
    def subject(self) -> dict[str, object]:
        return {
            "op": self.op.name,
            "problem": self.problem.name,
            "shape": shape_text(self.problem.shape),
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

    @cached_property
    def bytes(self) -> int:
        return self.op.minimum_bytes(self.problem.shape, self.dtype, self.pass_)

    @property
    def rank(self) -> int:
        """0 is measured first: key problems, then the others, then the rarer types and layouts."""
        if (self.dtype_name, self.layout) not in _COMMON:
            return 2
        return 0 if self.problem.key else 1


def cases(*, toy: bool = False) -> list[Case]:
    """All cases, most important first. The ops take turns, so a run that is cut off has measured something of each."""
    turns = []
    for op in sorted(OPS.values(), key=lambda op: (op.name not in _FIRST, op.name)):
        problems = (Problem("toy", op.toy, "none: a size for a CPU", key=True),) if toy else op.problems
        kinds = _TOY if toy else itertools.product(DTYPES, LAYOUTS)
        listed = [Case(op, p, *kind, pass_) for p, kind, pass_ in itertools.product(problems, list(kinds), op.passes)]
        for rank in range(3):
            of_rank = (case for case in listed if case.rank == rank)
            turns += [(rank, i // len(op.passes), case) for i, case in enumerate(of_rank)]
    return [case for *_, case in sorted(turns, key=lambda item: item[:2])]


def key_of(subject: Any) -> str:
    """The name of a case, from the columns of a result."""
    return "/".join(str(subject[column]) for column in ("op", "problem", "dtype", "layout", "pass"))


def shape_text(shape: Any) -> str:
    return "+".join(map(shape_text, shape)) if is_nested(shape) else "x".join(map(str, shape))


class Given(NamedTuple):
    """The inputs of a pass: operands, incoming gradients ``dys``, and cotangents ``hs`` of the first gradients."""

    operands: Operands
    dys: list[Tensor]
    hs: list[Tensor]

    def to(self, dtype: torch.dtype) -> "Given":
        """A copy in ``dtype``; always a copy, since an op may work in place."""
        return Given(*tree_map(lambda t: t.detach().to(dtype, copy=True).requires_grad_(t.requires_grad), tuple(self)))


def draw(case: Case, device: torch.device) -> Given:
    """Draws operands from normal values: zeros would hide unwritten outputs, and the chip would draw less power."""
    op = case.op

    def arranged(t: Tensor) -> Tensor:
        last = case.layout == "channels_last" and t.dim() == 4
        return t.to(case.dtype, memory_format=torch.channels_last if last else torch.contiguous_format)

    with torch.no_grad():
        drawn = op.draw(case.problem.shape, {}, lambda shape: torch.randn(shape, device=device))
        operands: Operands = tree_map(arranged, drawn)
        ys = tensors_of(op.reference(**tree_map(torch.clone, operands), **op.arguments({})))
        dys = [] if case.pass_ == "forward" else [torch.randn_like(y) for y in ys]
        twice = case.pass_ == "double_backward"
        hs = [torch.randn_like(t) for name, t in flat(operands) if twice and name in op.penalized]
    for name, t in flat(operands):
        t.requires_grad_(name not in (*op.constants, *op.data))
    return Given(operands, [dy.requires_grad_(twice) for dy in dys], hs)


def bind(function: Callable[..., Any], case: Case, given: Given) -> Call:
    """A call that runs only the case's pass of ``function``; everything before the pass runs here, once.

    A forward pass records its autograd graph, as in training; backward passes reuse a graph that is built here.
    """
    op, (operands, dys, hs) = case.op, given

    arguments = {**operands, **op.arguments({})}

    def forward() -> list[Tensor]:
        return tensors_of(function(**arguments))

    if case.pass_ == "forward":
        return forward
    ys = forward()
    if case.pass_ == "backward":
        variables = [t for _, t in flat(operands) if t.requires_grad]
        return lambda: list(torch.autograd.grad(ys, variables, dys, retain_graph=True))
    named = [*flat(operands), *(("dy", dy) for dy in dys)]
    first = torch.autograd.grad(ys, [t for name, t in named if name in op.penalized], dys, create_graph=True)
    targets = [t for name, t in named if name in op.second]
    return lambda: list(torch.autograd.grad(first, targets, hs, retain_graph=True))


def implementations(case: Case, *, compile_backend: str | None = None) -> dict[str, Implementation]:
    """Implementations by name: the fused op, its reference in plain torch, and torch functions that compute the same.

    With ``compile_backend`` also the compiled reference, except for double backward: torch cannot differentiate a
    compiled function twice from outside.
    """
    op = case.op
    functions = {"fused": op.op, "eager": op.reference, **op.torch_functions}
    if compile_backend is not None:
        if case.pass_ == "double_backward":
            return {}
        # Otherwise a compiled backward pass may write its outputs into saved buffers; here it runs many times.
        torch._functorch.config.donated_buffer = False
        compiled = torch.compile(op.reference, backend=compile_backend, fullgraph=True, dynamic=False)
        functions = {"fused": op.op, "compile": compiled}
    return {name: partial(bind, function, case) for name, function in functions.items()}
