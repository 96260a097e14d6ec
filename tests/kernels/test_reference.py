"""What the references promise besides their values, which the tests of the ops hold."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels.ops import OPS
from tests.kernels.opspec import OpSpec

# On a GPU their factors are rounded to TF32 where a flag of the process says so; that of convolutions is on by default.
ROUNDED = {"convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm"}


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("spec", OPS, ids=lambda spec: spec.name)
def test_no_order_of_a_reference_is_rounded_to_tf32(spec: OpSpec):
    _, reference = spec.with_settings(spec.fixed_settings[0])
    inputs = [t.requires_grad_() for t in spec.prepared((2, 4, 6, 6), torch.float32)]
    with Operators() as ran:
        y = reference(*inputs)
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
