"""torch.func and forward-mode differentiation: every op runs in plain torch there, also where kernels can run."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from benchmarks.op import Op
from fastgan_kernels import backend, backend_of, bias_act, use_backend
from tests.kernels.harness import DEVICE, DIFFERENTIABLE, prepare, random

every_op = pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)


@pytest.fixture(autouse=True)
def kernels_by_default(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a supported GPU: "auto" takes the kernels."""
    monkeypatch.setattr(backend, "_why_not_triton", lambda *_, **__: None)
    for cached in (backend._choose, backend._decide_once):
        cached.cache_clear()
    with use_backend("auto"):
        assert backend_of("bias_act", torch.empty(1, device=DEVICE)).backend == "triton"
        yield
    for cached in (backend._choose, backend._decide_once):
        cached.cache_clear()


@every_op
def test_reverse_mode_batches_and_forward_mode(op: Op):
    prepared = prepare(op, (2, 2, 3, 2))
    inputs = prepared.inputs
    tangents = [random(t.shape, 10 + i) for i, t in enumerate(inputs)]
    weight = random(prepared.reference(*inputs).shape, 20)

    def total(*tensors: Tensor) -> Tensor:
        return (prepared.op(*tensors) * weight).sum()

    leaves = [t.clone().requires_grad_() for t in inputs]
    expected = torch.autograd.grad((prepared.op(*leaves) * weight).sum(), leaves, create_graph=True)
    along = sum((g * t).sum() for g, t in zip(expected, tangents, strict=True))
    everything = tuple(range(len(inputs)))
    found = torch.func.grad(total, everything)(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)

    _, moved = torch.func.jvp(total, tuple(inputs), tuple(tangents))
    torch.testing.assert_close(moved, along, rtol=1e-10, atol=1e-10)
    with forward_ad.dual_level():
        dual = total(*(forward_ad.make_dual(*pair) for pair in zip(inputs, tangents, strict=True)))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, along, rtol=1e-10, atol=1e-10)

    other = [t.flip(0) for t in inputs]
    batch = [torch.stack(pair) for pair in zip(inputs, other, strict=True)]
    for_each = torch.func.vmap(torch.func.grad(total, everything))(*batch)
    assert all(torch.allclose(g[0], e, rtol=1e-10, atol=1e-10) for g, e in zip(for_each, expected, strict=True))

    if op.highest_order != 2:
        return
    # Forward over reverse: the second order.
    _, second = torch.func.jvp(torch.func.grad(total, everything), tuple(inputs), tuple(tangents))
    by_hand = torch.autograd.grad(along, leaves, materialize_grads=True)
    torch.testing.assert_close(second, by_hand, rtol=1e-10, atol=1e-10)


def test_a_compiled_transform():
    x = random((3, 2, 4), 0)
    gradient = torch.func.grad(lambda x: bias_act(x).square().sum())
    compiled = torch.compile(gradient, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), gradient(x))
    # The same ops outside of the transform are kernels again.
    assert backend_of("bias_act", x).backend == "triton"
    assert bias_act(x.requires_grad_()).grad_fn.name() == "bias_actBackward"


def test_what_is_said():
    x = random((3, 2), 0)
    reason = "torch.func and forward-mode differentiation cannot pass a kernel"
    with forward_ad.dual_level():
        assert backend_of("bias_act", x) == ("reference", reason)
        with (
            use_backend("triton"),
            pytest.raises(RuntimeError, match=f"use_backend\\('triton'\\) cannot run.*{reason}"),
        ):
            bias_act(x)


@every_op
def test_a_backward_pass_of_kernels_in_a_transform_is_refused(op: Op):
    prepared = prepare(op, (2, 2, 3, 2))
    inputs = [t.requires_grad_() for t in prepared.inputs]
    y = prepared.op(*inputs)
    gradients = torch.ones(2, *y.shape, dtype=y.dtype, device=y.device)
    refused = pytest.raises(RuntimeError, match=r"^\w+: torch.func, forward-mode differentiation and batched")
    with refused:
        torch.autograd.grad(y, inputs, gradients, is_grads_batched=True, retain_graph=True)
    with refused:
        torch.func.vmap(lambda g: torch.autograd.grad(y, inputs, g, retain_graph=True))(gradients)
