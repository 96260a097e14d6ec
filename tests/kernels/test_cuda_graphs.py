"""The ops inside a captured CUDA graph; only a chip can tell."""

import pytest
import torch

from tests.kernels.harness import derivatives, random
from tests.kernels.ops import OPS, OpSpec, prepared


@pytest.mark.gpu
@pytest.mark.parametrize("spec", OPS, ids=lambda spec: spec.name)
def test_a_replayed_graph_computes_on_the_new_values(spec: OpSpec):
    x, *operands = prepared(spec, (4, 6, 32, 32), torch.float32)
    op, _ = spec.with_settings(spec.fixed_settings[0])
    cotangents = [random(t.shape, i, t.dtype) for i, t in enumerate((x, x, *operands))]

    def run() -> list[torch.Tensor]:
        return derivatives(op, (x, *operands), cotangents)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()  # compiles the kernels, which a capture must not
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    x.mul_(-0.5)
    cotangents[0].add_(1)
    graph.replay()
    assert all(torch.equal(c, e) for c, e in zip(captured, run(), strict=True))
