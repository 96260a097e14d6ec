"""What each op moves, as a multiple of its floor: each input read once, each output written once.

Counted in sectors of 32 bytes on problems of 1 MB or more. Operands below a sixteenth of x count once however often
they are read again. What is neither input nor output (partial sums, saved statistics) counts apart, with its own bar.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import fastgan_kernels
from fastgan_kernels.inspection.traffic import count_traffic

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="traffic is counted in the interpreter")


@dataclass(frozen=True)
class Case:
    """A problem, and the bars: forward, backward, and apart from both."""

    op: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool
    forward: float
    backward: float
    apart: float = 0.03

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        return f"{self.op}-{'x'.join(map(str, self.shape))}-{str(self.dtype).removeprefix('torch.')}-{layout}"

    def x(self) -> Tensor:
        x = torch.randn(self.shape, generator=torch.Generator().manual_seed(0)).to(self.dtype)
        x = x.movedim(1, -1).contiguous().movedim(-1, 1) if self.channels_last else x
        return x.requires_grad_()


@dataclass(frozen=True)
class Op:
    """From x to the other inputs; and from x, those and y to what the backward pass must read besides dy."""

    operands: Callable[[Tensor], list[Tensor]]
    read_by_backward: Callable[[Tensor, Sequence[Tensor], Tensor], list[Tensor]]


def _per_channel(x: Tensor) -> list[Tensor]:
    return [torch.ones(x.shape[1], dtype=x.dtype, requires_grad=True)]


def _per_plane(x: Tensor) -> list[Tensor]:
    return [torch.ones(x.shape[:2], dtype=x.dtype, requires_grad=True) for _ in range(2)]


OPS = {
    "bias_act": Op(_per_channel, lambda x, operands, y: [y]),
    "adain": Op(_per_plane, lambda x, operands, y: [x, operands[0]]),
}

F32, BF16 = torch.float32, torch.bfloat16


def _cases(op: str, problems: Sequence[tuple], forward: float, backward: float, **bars: float) -> list[Case]:
    return [Case(op, *problem, forward, backward, **bars) for problem in problems]


CASES = [
    # Rows of pixels, aligned and not (an odd row of 10,403 elements costs a sector more for each of its tiles).
    *_cases(
        "bias_act",
        [
            ((1, 2, 512, 512), F32, False),
            ((64, 64, 14, 14), BF16, False),
            ((3, 13, 101, 103), F32, False),
            ((6, 13, 101, 103), BF16, False),
            ((8, 3, 128, 128), F32, True),
            ((16, 3, 128, 128), BF16, True),
        ],
        forward=1.02,
        backward=1.02,
    ),
    # Small problems are cut fine, and every program leaves a partial sum of each channel.
    *_cases(
        "bias_act",
        [((4, 64, 32, 32), F32, True), ((8, 64, 32, 32), BF16, True), ((512, 1024), F32, False)],
        forward=1.02,
        backward=1.02,
        apart=0.04,
    ),
    # Planes that stay in registers.
    *_cases(
        "adain",
        [
            ((16, 256, 8, 8), F32, False),
            ((4, 64, 64, 64), BF16, False),
            ((2, 16, 128, 128), F32, False),
            ((2, 17, 101, 103), F32, False),
            ((4, 17, 101, 103), BF16, False),
            ((4, 64, 32, 32), F32, True),
        ],
        forward=1.02,
        backward=1.25,
    ),
    # Longer ones are read twice: cut in spans, or whole.
    *_cases(
        "adain",
        [((1, 4, 256, 256), F32, False), ((1, 4, 512, 512), BF16, False), ((1, 128, 129, 128), F32, False)],
        forward=1.5,
        backward=1.75,
    ),
    # Odd rows: a sector more for each tile that does not start at one.
    *_cases("adain", [((1, 5, 257, 255), F32, False), ((1, 9, 257, 255), BF16, False)], forward=1.51, backward=1.75),
    # In channels-last the registers hold fewer pixels of a plane, since a program takes several planes.
    *_cases("adain", [((8, 64, 32, 32), BF16, True)], forward=1.5, backward=1.75),
    # Few planes are cut into many spans, and each reads the partials of all.
    *_cases(
        "adain", [((1, 32, 96, 96), F32, True), ((1, 3, 300, 300), F32, True)], forward=1.5, backward=1.75, apart=0.08
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_op_moves_little_more_than_its_floor(case: Case):
    op = OPS[case.op]
    x = case.x()
    assert x.nbytes >= 2**20
    operands = op.operands(x)
    with count_traffic() as traffic:
        y = getattr(fastgan_kernels, case.op)(x, *operands)
    forward = traffic.over_floor(x, inputs=[x, *operands], outputs=[y])
    dy = torch.ones_like(y)
    with count_traffic() as traffic:
        gradients = torch.autograd.grad(y, [x, *operands], dy)
    backward = traffic.over_floor(x, inputs=[dy, *op.read_by_backward(x, operands, y)], outputs=gradients)
    # At least the floor: a pass that is not counted, or not run, would be no proof.
    assert 1 <= forward.ratio <= case.forward, forward
    assert 1 <= backward.ratio <= case.backward, backward
    assert max(forward.apart, backward.apart) <= case.apart, (forward, backward)


def test_every_op_is_held():
    assert OPS.keys() == {case.op for case in CASES}
    assert OPS.keys() >= set(fastgan_kernels.__all__) - {"backend_of", "use_backend"}
