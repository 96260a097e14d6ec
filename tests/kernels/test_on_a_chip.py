"""What only a chip can tell: ops inside a captured CUDA graph, and on a GPU that is not the current one."""

import pytest
import torch

from tests.kernels.harness import derivatives, random
from tests.kernels.ops import OPS
from tests.kernels.opspec import OpSpec


@pytest.mark.gpu
@pytest.mark.parametrize("spec", OPS, ids=lambda spec: spec.name)
def test_a_replayed_graph_computes_on_the_new_values(spec: OpSpec):
    x, *operands = spec.prepared((4, 6, 32, 32), torch.float32)
    op, _ = spec.with_settings(spec.fixed_settings[0])
    y = op(x, *operands)
    cotangents = [random(t.shape, i, t.dtype) for i, t in enumerate((y, x, *operands))]

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


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("spec", OPS, ids=lambda spec: spec.name)
def test_tensors_on_another_gpu_than_the_current_one(spec: OpSpec):
    op, reference = spec.with_settings(spec.fixed_settings[0])
    inputs = [t.to("cuda:1") for t in spec.prepared((4, 6, 32, 32), torch.float32)]
    assert torch.cuda.current_device() == 0
    torch.testing.assert_close(op(*inputs), reference(*inputs))
