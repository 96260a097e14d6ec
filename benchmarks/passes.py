"""A pass of an op as a call without arguments: everything that is not the pass itself is done beforehand."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch._functorch.config
import torch._inductor.config
from torch import Tensor

from benchmarks.registry import Case, Op, Pass

Outputs = tuple[Tensor, ...]
Call = Callable[[], Outputs]
Binder = Callable[["Operands"], Call]


class Operands(NamedTuple):
    """What a pass reads: the op's inputs, the gradient ``dy`` that comes in, and ``hs`` towards the first gradients."""

    inputs: Outputs
    dy: Tensor
    hs: Outputs

    def to(self, dtype: torch.dtype) -> "Operands":
        def convert(t: Tensor) -> Tensor:
            return t.detach().to(dtype).requires_grad_(t.requires_grad)

        return Operands(tuple(map(convert, self.inputs)), convert(self.dy), tuple(map(convert, self.hs)))


def draw(case: Case, device: torch.device) -> Operands:
    """Standard normal operands: zeros would hide unwritten outputs and draw less power than real data."""

    def leaf(shape: tuple[int, ...]) -> Tensor:
        t = torch.randn(shape, dtype=case.dtype, device=device)
        if case.layout == "channels_last" and t.dim() == 4:
            t = t.contiguous(memory_format=torch.channels_last)
        return t.requires_grad_()

    inputs = tuple(map(leaf, case.op.operand_shapes(case.problem.shape)))
    with torch.no_grad():
        dy = torch.randn_like(case.op.reference(*inputs))
    hs = tuple(torch.randn_like(inputs[i], requires_grad=False) for i in case.op.penalised)
    return Operands(inputs, dy.requires_grad_(case.pass_ == "double_backward"), hs)


def bind(function: Callable[..., Tensor], op: Op, pass_: Pass, operands: Operands) -> Call:
    """``pass_`` of ``function`` on ``operands``. Backward passes keep a graph that is built here, once.

    A forward pass records its graph, as it does in training.
    """
    inputs, dy, hs = operands
    if pass_ == "forward":
        return lambda: (function(*inputs),)
    y = function(*inputs)
    if pass_ == "backward":
        return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)
    first = torch.autograd.grad(y, [inputs[i] for i in op.penalised], dy, create_graph=True)
    targets = [(*inputs, dy)[i] for i in op.second_order]
    return lambda: torch.autograd.grad(first, targets, hs, retain_graph=True)


def configure_compilation() -> None:
    """Settings of ``torch.compile`` for the whole process, before anything is compiled."""
    # A compiled backward may otherwise reuse saved buffers for its outputs: ours runs many times on one graph.
    torch._functorch.config.donated_buffer = False
    # Inductor picks its tiles by measuring. What it measured beside the tests must not be what is benchmarked.
    torch._inductor.config.autotune_local_cache = False


def compiled_binder(op: Op, pass_: Pass, backend: str) -> Binder:
    """The same pass of the reference under ``torch.compile``.

    A compiled function cannot be differentiated twice from outside. Its double backward is therefore compiled as one
    function of the operands (torch.func inside), which may recompute what it likes and skip what is not asked for.
    """
    if pass_ != "double_backward":
        function = torch.compile(op.reference, backend=backend, fullgraph=True, dynamic=False)
        return lambda operands: bind(function, op, pass_, operands)
    second = torch.compile(_second_order(op), backend=backend, fullgraph=True, dynamic=False)

    def bind_second(operands: Operands) -> Call:
        # No third order: what is detached saves nothing for it.
        arguments = tuple(t.detach() for t in (*operands.inputs, operands.dy))
        return lambda: second(arguments, operands.hs)

    return bind_second


def _second_order(op: Op) -> Callable[[Outputs, Outputs], Outputs]:
    def first(*arguments: Tensor) -> Outputs:
        *inputs, dy = arguments
        _, pull_back = torch.func.vjp(op.reference, *inputs)
        gradients = pull_back(dy)
        return tuple(gradients[i] for i in op.penalised)

    def second(arguments: Outputs, hs: Outputs) -> Outputs:
        _, pull_back = torch.func.vjp(first, *arguments)
        gradients = pull_back(hs)
        return tuple(gradients[i] for i in op.second_order)

    return second
