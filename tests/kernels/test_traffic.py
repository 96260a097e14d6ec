"""What each op moves, as a multiple of its floor: each input read once, each output written once.

Counted in sectors of 32 bytes on problems of 1 MB or more. Operands below a sixteenth of x count once however often
they are read again. What is neither input nor output (partial sums, saved statistics) counts apart, with its own bar.
"""

import pytest
import torch
from torch import Tensor

from fastgan_kernels.inspection.traffic import count_traffic
from tests.kernels.ops import OPS, TRAFFIC
from tests.kernels.opspec import Bars, OpSpec, Problem

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="traffic is counted in the interpreter")


def _x(problem: Problem) -> Tensor:
    x = torch.randn(problem.shape, generator=torch.Generator().manual_seed(0)).to(problem.dtype)
    x = x.movedim(1, -1).contiguous().movedim(-1, 1) if problem.channels_last else x
    return x.requires_grad_()


def _label(spec: OpSpec, problem: Problem, bars: Bars) -> str:
    layout = "channels_last" if problem.channels_last else "contiguous"
    per = "" if bars.per == "access" else f"-per_{bars.per}"
    return f"{spec.name}-{'x'.join(map(str, problem.shape))}-{str(problem.dtype).removeprefix('torch.')}-{layout}{per}"


@pytest.mark.parametrize(
    ("spec", "problem", "bars"),
    [
        pytest.param(spec, problem, bars, id=_label(spec, problem, bars))
        for spec in OPS
        for bars in TRAFFIC[spec.name].bars
        for problem in bars.problems
    ],
)
def test_an_op_moves_little_more_than_its_floor(spec: OpSpec, problem: Problem, bars: Bars):
    described = TRAFFIC[spec.name]
    x = _x(problem)
    assert x.nbytes >= 2**20
    operands = described.operands(x)
    with count_traffic(bars.per) as traffic:
        y = spec.op(x, *operands, **described.settings)
    forward = traffic.over_floor(x, inputs=[x, *operands], outputs=[y])
    differentiable = [t for t in (x, *operands) if t.requires_grad]
    dy = torch.ones_like(y)
    with count_traffic(bars.per) as traffic:
        gradients = torch.autograd.grad(y, differentiable, dy)
    # A gradient that is dy itself is not written.
    written = [g for g in gradients if g.data_ptr() != dy.data_ptr()]
    backward = traffic.over_floor(x, inputs=[dy, *described.read_by_backward(x, operands, y)], outputs=written)
    # At least the floor: a pass that is not counted, or not run, would be no proof.
    assert 1 <= forward.ratio <= bars.forward, forward
    assert 1 <= backward.ratio <= bars.backward, backward
    assert max(forward.apart, backward.apart) <= bars.apart, (forward, backward)
