"""What only a chip can tell: ops inside a captured CUDA graph, and on a GPU that is not the current one."""

import pytest
import torch

from benchmarks.op import Op
from fastgan_kernels import power_iteration, spectral_normalize
from tests.kernels.harness import DIFFERENTIABLE, derivatives, prepare, random


@pytest.mark.gpu
@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_a_replayed_graph_computes_on_the_new_values(op: Op):
    prepared = prepare(op, (4, 6, 32, 32), torch.float32)
    inputs = prepared.inputs
    cotangents = [random(t.shape, i, t.dtype) for i, t in enumerate((prepared.op(*inputs), *inputs))]

    def run() -> list[torch.Tensor]:
        return derivatives(prepared.op, inputs, cotangents)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()  # compiles the kernels, which a capture must not
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    inputs[0].mul_(-0.5)
    cotangents[0].add_(1)
    graph.replay()
    assert all(torch.equal(c, e) for c, e in zip(captured, run(), strict=True))


@pytest.mark.gpu
def test_a_replayed_graph_iterates_on_the_new_weights():
    """Power iteration, normalized weights and two orders, warmed up as CUDA graphs ask for it."""
    weights = [random(shape, i, torch.float32).requires_grad_() for i, shape in enumerate(((64, 27), (70, 64, 3, 3)))]
    us, vs = ([random((n,), 9, torch.float32) for n in sizes] for sizes in ((64, 70), (27, 576)))
    before = [t.clone() for t in (*us, *vs)]

    def run() -> list[torch.Tensor]:
        sigma = power_iteration(weights, us, vs)
        ys = spectral_normalize(weights, us, vs, sigma)
        gradients = torch.autograd.grad(sum(y.pow(3).sum() for y in ys), weights, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in gradients), weights)
        return [t.detach().clone() for t in (sigma, *ys, *gradients, *second, *us, *vs)]

    def reset() -> None:
        for t, b in zip((*us, *vs), before, strict=True):
            t.copy_(b)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    with torch.no_grad():
        weights[1].mul_(-0.5)
    reset()
    graph.replay()
    replayed = [t.clone() for t in captured]
    reset()
    for found, expected in zip(replayed, run(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_tensors_on_another_gpu_than_the_current_one(op: Op):
    prepared = prepare(op, (4, 6, 32, 32), torch.float32)
    inputs = [t.to("cuda:1") for t in prepared.inputs]
    assert torch.cuda.current_device() == 0
    torch.testing.assert_close(prepared.op(*inputs), prepared.reference(*inputs))
