"""What each op moves, as a multiple of its minimum bytes: each input read once, each output written once.

Counted in sectors of 32 bytes on problems of 1 MB or more. Operands below a sixteenth of x count once however often
they are read again. What is neither input nor output (partial sums, saved statistics) counts apart, with its own bar.
"""

import pytest
import torch

from benchmarks.op import Call, Op, Traffic, flat, tensors_of
from benchmarks.static.traffic import count_traffic
from tests.kernels.harness import DIFFERENTIABLE, lay_out

pytestmark = [
    # Problems of 1 MB cost the interpreter seconds each.
    pytest.mark.exhaustive,
    pytest.mark.skipif(torch.cuda.is_available(), reason="traffic is counted in the interpreter"),
]


def _label(op: Op, call: Call, bars: Traffic) -> str:
    layout = "channels_last" if call.channels_last else "contiguous"
    per = "" if bars.per == "access" else f"-per_{bars.per}"
    return f"{op.name}-{'x'.join(map(str, call.shape))}-{str(call.dtype).removeprefix('torch.')}-{layout}{per}"


@pytest.mark.parametrize(
    ("op", "call", "bars"),
    [
        pytest.param(op, call, bars, id=_label(op, call, bars))
        for op in DIFFERENTIABLE
        for bars in op.traffic
        for call in bars.calls
    ],
)
def test_an_op_moves_little_more_than_its_minimum(op: Op, call: Call, bars: Traffic):
    generator = torch.Generator().manual_seed(0)
    drawn = op.draw(call.shape, call.settings, lambda shape: torch.randn(shape, generator=generator))

    def prepared(t: torch.Tensor) -> torch.Tensor:
        return lay_out(t.to(call.dtype), "channels_last") if call.channels_last and t.dim() > 2 else t.to(call.dtype)

    operands = {name: [prepared(t) for t in v] if isinstance(v, list) else prepared(v) for name, v in drawn.items()}
    for name, t in flat(operands):
        t.requires_grad_(name not in (*op.constants, *op.data))
    tensors = list(flat(operands))
    (x, *_) = (t for _, t in tensors)
    assert x.nbytes >= 2**20
    with count_traffic(bars.per) as traffic:
        (y,) = tensors_of(op.op(**operands, **op.arguments(call.settings)))
    forward = traffic.over_minimum(x, inputs=[t for _, t in tensors], outputs=[y])
    dy = torch.ones_like(y)
    with count_traffic(bars.per) as traffic:
        gradients = torch.autograd.grad(y, [t for _, t in tensors if t.requires_grad], dy)
    # A gradient that is dy itself is not written.
    written = [g for g in gradients if g.data_ptr() != dy.data_ptr()]
    read = [t for name, t in [*tensors, ("y", y), ("dy", dy)] if name in op.reads["backward"]]
    backward = traffic.over_minimum(x, inputs=read, outputs=written)
    # At least the minimum: a pass that is not counted, or not run, would be no proof.
    assert 1 <= forward.ratio <= bars.forward, forward
    assert 1 <= backward.ratio <= bars.backward, backward
    assert max(forward.apart, backward.apart) <= bars.apart, (forward, backward)
