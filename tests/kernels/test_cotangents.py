"""Incoming gradients of kinds that are not plain tensors in memory: kernels take them as the reference does, or as it
takes the same numbers in a dense tensor where torch's own operations refuse sparse ones."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from benchmarks.op import Op
from tests.kernels.harness import DIFFERENTIABLE, prepare, random

every_op = pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)


class Subclass(Tensor):
    pass


def _lazily_negated(t: Tensor) -> Tensor:
    """Its memory has the values of ``-t``, with a stride of two."""
    return torch.complex(torch.zeros_like(t), -t).conj().imag


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": lambda t: t.to_sparse(),
    "partly sparse": lambda t: t.to_sparse(1) if t.dim() else t.to_sparse(),
    "expanded": lambda t: t.flatten()[:1].reshape((1,) * t.dim()).expand(t.shape),
    "lazily negated": _lazily_negated,
    "of another type": lambda t: t.float(),
    "a subclass": lambda t: t.as_subclass(Subclass),
    "a parameter": nn.Parameter,
}


class Hand(torch.autograd.Function):
    """Passes a gradient on as another kind of tensor, or ``None``."""

    @staticmethod
    def forward(ctx, x: Tensor, kind: Callable[[Tensor], Tensor | None]) -> Tensor:
        ctx.kind = kind
        return x.clone()

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, None]:
        return ctx.kind(g), None


@pytest.mark.parametrize("kind", KINDS)
@every_op
def test_both_orders_agree_with_the_reference(op: Op, kind: str):
    hand = KINDS[kind]
    results = []
    prepared = prepare(op, (2, 2, 3, 2))
    for f in (prepared.op, prepared.reference):
        inputs = [t.clone().requires_grad_() for t in prepared.inputs]
        y = f(*inputs)
        weights = [random(t.shape, i).requires_grad_() for i, t in enumerate((y, *inputs))]
        first = torch.autograd.grad((Hand.apply(y, hand) * weights[0]).sum(), inputs, create_graph=True)
        handed = [Hand.apply(g, hand) for g in first]
        total = sum((g * w).sum() for g, w in zip(handed, weights[1:], strict=True))
        # A parameter is a new leaf: it has the values of the gradient, and no history.
        wanted = inputs if kind == "a parameter" else [*inputs, weights[0]]
        second = torch.autograd.grad(total, wanted, materialize_grads=True)
        results.append([*first, *second])
        if "sparse" in kind:
            hand = torch.clone
    for found, expected in zip(*results, strict=True):
        assert found.layout == torch.strided
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@every_op
def test_an_absent_gradient_of_a_gradient_stays_absent(op: Op):
    """Nothing, or zeros: never what memory held."""
    prepared = prepare(op, (2, 2, 3, 2))
    inputs = [t.requires_grad_() for t in prepared.inputs]
    y = Hand.apply(prepared.op(*inputs), lambda g: None)
    assert torch.autograd.grad(y.sum(), inputs, allow_unused=True) == (None,) * len(inputs)
    first = torch.autograd.grad(prepared.op(*inputs).square().sum(), inputs, create_graph=True)
    handed = sum(Hand.apply(g, lambda g: None).sum() for g in first)
    assert not any(g.any() for g in torch.autograd.grad(handed, inputs, materialize_grads=True))


@every_op
def test_lazily_negated_inputs(op: Op):
    results = []
    prepared = prepare(op, (2, 2, 3, 2))
    for f in (prepared.op, prepared.reference):
        inputs = [_lazily_negated(t).requires_grad_() for t in prepared.inputs]
        y = f(*inputs)
        results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
