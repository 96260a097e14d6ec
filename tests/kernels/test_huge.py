"""Every op on tensors of more than 2^31 elements, whose indices 32 bits do not hold.

Of each launch only the first and the last program run, in Triton's interpreter, on memory that is reserved and never
filled: the pages that they touch are all that it takes. They must touch elements past the 2^31st, and nothing outside
the tensors.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import zip_longest
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

from benchmarks.op import BF16, Call, Op, flat, tensors_of
from benchmarks.ops import OPS
from benchmarks.static.traffic import Traffic, count_traffic

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="single programs run in the interpreter")
MANY = 2**31


def huge_calls(op: Op) -> list[Call]:
    """The calls of an op's list whose largest operand has 2^31 to 2^32 elements, in bfloat16: 8 GiB of addresses.

    Of ops whose programs walk along planes, short planes: in the interpreter a long one takes a minute.
    """
    calls = [replace(call, dtype=BF16) for call in op.compiled]
    huge = [call for call in calls if MANY < max(t.numel() for _, t in flat(op.meta(call))) <= 2 * MANY]
    if op.name in ("adain", "norm_act", "style_epilogue"):
        huge = [replace(huge[0], shape=(2**11, 2**10, 32, 33), channels_last=last) for last in (False, True)]
    return [call for i, call in enumerate(huge) if call not in huge[:i]]


def unreached(op: Op, call: Call) -> list[str]:
    """What the first and last programs of a call and its derivatives leave out of the huge tensors.

    Raises:
        RuntimeError: for an access outside a kernel's tensors.
    """

    def reserved(t: Tensor) -> Tensor:
        return torch.empty_like(t, device="cpu").requires_grad_(t.requires_grad)

    with _OfKernels(), outermost_programs() as traffic:
        operands = {name: tree_map(reserved, value) for name, value in op.meta(call).items()}
        ys = tensors_of(op.op(**operands, **op.arguments(call.settings)))
        inputs = [t for _, t in flat(operands) if t.requires_grad]
        if inputs and op.differentiable:
            dys = [torch.empty_like(y).requires_grad_() for y in ys]
            first = torch.autograd.grad(ys, inputs, dys, create_graph=call.order > 1)
            if call.order > 1:
                cotangents = list(map(torch.empty_like, first))
                with suppress(_Composed):
                    torch.autograd.grad(first, [*dys, *inputs], cotangents, allow_unused=True)
    return [
        f"{launch.kernel} touches nothing of {name} past {entry.reach // entry.tensor.element_size()} elements"
        f" of {entry.tensor.numel()}"
        for launch in traffic.launches
        for name, entry in launch.tensors.items()
        if entry.tensor.numel() > MANY > entry.reach // entry.tensor.element_size()
    ]


class _Composed(RuntimeError):
    """A derivative that is composed of torch's operators, which have no need of this test."""


class _OfKernels(TorchDispatchMode):
    """Refuses what reads or fills huge tensors."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        passes = func.is_view or "empty" in func._schema.name
        shapes = [t.shape for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if not passes and prod(max(sizes) for sizes in zip_longest(*(s[::-1] for s in shapes), fillvalue=1)) > MANY:
            raise _Composed(f"{func} runs on a tensor of more than 2^31 elements")
        return func(*args, **(kwargs or {}))


@contextmanager
def outermost_programs() -> Iterator[Traffic]:
    """Runs only the first and the last program of each launch, and counts their traffic."""

    class Grid(tuple):
        """Has the extents of the grid, and two programs to run."""

        __slots__ = ()

        def __add__(self, more: tuple[int, ...]) -> "Grid":
            return Grid((*self, *more))

        def __getitem__(self, axis: int) -> int:
            return 1 if axis else 2

    def make(self: GridExecutor, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self.grid = Grid(self.grid)

    def set_outermost(self: InterpreterBuilder, last: int, *_: int) -> None:
        set_program(self, *((extent - 1) * last for extent in self.grid_dim))

    init, set_program = GridExecutor.__init__, InterpreterBuilder.set_grid_idx
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
        patch.setattr(GridExecutor, "__init__", make)
        patch.setattr(GridExecutor, "_restore_args_dev", lambda *_: None)  # from the CPU to the CPU
        patch.setattr(InterpreterBuilder, "set_grid_idx", set_outermost)
        with count_traffic() as traffic:
            yield traffic


CASES = [
    pytest.param(op, call, marks=pytest.mark.exhaustive if i else (), id=f"{op.name}-{call.shape}-{call.channels_last}")
    for op in OPS.values()
    for i, call in enumerate(huge_calls(op))
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the memory has no numbers
@pytest.mark.parametrize(("op", "call"), CASES)
def test_32_bits_do_not_limit_an_index(op: Op, call: Call):
    assert unreached(op, call) == []
