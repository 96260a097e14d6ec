"""What the references promise besides their values, which the tests of the ops hold."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.op import Op
from tests.kernels.harness import DIFFERENTIABLE, prepare

# On a GPU their factors are rounded to TF32 where a flag of the process says so; that of convolutions is on by default.
ROUNDED = {"convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm"}


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_no_order_of_a_reference_is_rounded_to_tf32(op: Op):
    prepared = prepare(op, (2, 4, 6, 6), torch.float32)
    inputs = [t.requires_grad_() for t in prepared.inputs]
    with Operators() as ran:
        y = prepared.reference(*inputs)
        dy = torch.ones_like(y, requires_grad=True)
        first = torch.autograd.grad(y, inputs, dy, create_graph=True)
        differentiable = [g for g in first if g.requires_grad]
        second = [torch.ones_like(g) for g in differentiable]
        torch.autograd.grad(differentiable, [dy, *inputs], second, allow_unused=True)
    assert ran.names
    assert not ran.names & ROUNDED


def test_the_tests_of_kernels_run_without_tf32():
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
