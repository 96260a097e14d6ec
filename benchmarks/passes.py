"""A pass of an op as a call without arguments: everything that is not the pass itself is done beforehand."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch._functorch.config
import torch._inductor.config
from torch import Tensor

from benchmarks.registry import Case, Function, Op, Pass, Shape

Outputs = tuple[Tensor, ...]
Call = Callable[[], Outputs]
Binder = Callable[["Operands"], Call]


class Operands(NamedTuple):
    """What a pass reads: the op's inputs, the incoming gradients ``dys``, and ``hs`` towards the first gradients."""

    inputs: Outputs
    dys: Outputs
    hs: Outputs

    def to(self, dtype: torch.dtype) -> "Operands":
        """A copy in a type."""

        def convert(t: Tensor) -> Tensor:
            # An op that works in place must not touch the original.
            return t.detach().to(dtype, copy=True).requires_grad_(t.requires_grad)

        return Operands(*(tuple(map(convert, tensors)) for tensors in self))


def outputs_of(function: Function, *inputs: Tensor) -> Outputs:
    """What a function returns, a tensor or several, as a tuple."""
    y = function(*inputs)
    return (y,) if isinstance(y, Tensor) else tuple(y)


def draw(case: Case, device: torch.device) -> Operands:
    """Standard normal operands: zeros would hide unwritten outputs and draw less power than real data."""
    op = case.op

    def normal(shape: Shape) -> Tensor:
        t = torch.randn(shape, dtype=case.dtype, device=device)
        if case.layout == "channels_last" and t.dim() == 4:
            t = t.contiguous(memory_format=torch.channels_last)
        return t

    with torch.no_grad():
        inputs = tuple(op.arrange(tuple(map(normal, op.operand_shapes(case.problem.shape)))))
        dys: Outputs = ()
        if case.pass_ != "forward":
            dys = tuple(map(torch.randn_like, outputs_of(op.reference, *inputs)))
        hs = tuple(torch.randn_like(inputs[i]) for i in op.penalised)
    for i, t in enumerate(inputs):
        t.requires_grad_(i not in op.constants)
    for dy in dys:
        dy.requires_grad_(case.pass_ == "double_backward")
    return Operands(inputs, dys, hs)


def bind(function: Function, op: Op, pass_: Pass, operands: Operands) -> Call:
    """``pass_`` of ``function`` on ``operands``. Backward passes keep a graph that is built here, once.

    A forward pass records its graph, as it does in training.
    """
    inputs, dys, hs = operands
    if pass_ == "forward":
        return lambda: outputs_of(function, *inputs)
    ys = outputs_of(function, *inputs)
    if pass_ == "backward":
        variables = [t for t in inputs if t.requires_grad]
        return lambda: torch.autograd.grad(ys, variables, dys, retain_graph=True)
    first = torch.autograd.grad(ys, [inputs[i] for i in op.penalised], dys, create_graph=True)
    targets = [(*inputs, *dys)[i] for i in op.second_order]
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
        inputs, dys = (tuple(t.detach() for t in tensors) for tensors in operands[:2])
        return lambda: second(inputs, dys, operands.hs)

    return bind_second


def _second_order(op: Op) -> Callable[[Outputs, Outputs, Outputs], Outputs]:
    def first(inputs: Outputs, dys: Outputs) -> Outputs:
        def forward(*penalised: Tensor) -> Outputs:
            replaced = dict(zip(op.penalised, penalised, strict=True))
            return outputs_of(op.reference, *(replaced.get(i, t) for i, t in enumerate(inputs)))

        _, pull_back = torch.func.vjp(forward, *(inputs[i] for i in op.penalised))
        return pull_back(dys)

    def second(inputs: Outputs, dys: Outputs, hs: Outputs) -> Outputs:
        _, pull_back = torch.func.vjp(first, inputs, dys)
        gradients = pull_back(hs)
        targets = (*gradients[0], *gradients[1])
        return tuple(targets[i] for i in op.second_order)

    return second
