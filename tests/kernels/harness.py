"""How an op is compared with its float64 reference: values and two orders of gradients, within derived tolerances."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import SearchStrategy
from torch import Tensor
from torch.utils._pytree import tree_map

from benchmarks.op import Op, Operands, Settings, flat, tensors_of
from benchmarks.ops import OPS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLOAT_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "expanded", "offset")

Function = Callable[..., Tensor]

DIFFERENTIABLE = tuple(op for op in OPS.values() if op.differentiable)
"""Those that pass the tests of every op; power_iteration has tests of its own."""

DRAWN_PROBLEMS = (
    25,
    pytest.param(500, marks=pytest.mark.exhaustive),
    pytest.param(2000, marks=pytest.mark.judged),
)
"""How many drawn problems an op has, by tier."""


def drawn(count: int, **strategies: SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Calls a function with ``count`` drawn arguments: always the same, but for judged runs."""

    def decorate(check: Callable[..., None]) -> Callable[[], None]:
        return settings(max_examples=count, derandomize=count < 2000)(given(**strategies)(check))

    return decorate


def tiered(*values: Any, plain: bool, id: str | None = None) -> Any:
    """A case of a parametrized test: of plain pytest, or of the exhaustive tier."""
    return pytest.param(*values, id=id, marks=() if plain else pytest.mark.exhaustive)


def lay_out(x: Tensor, layout: str) -> Tensor:
    """``x`` [N, C, *spatial] with other strides; "expanded" repeats the first sample, the others keep the values.

    A vector or a number is laid out with a stride of two or 0, or contiguously.
    """
    if x.dim() < 2:
        if layout == "expanded" or x.dim() == 0:
            return x.flatten()[:1].expand(x.shape) if x.dim() else x
        return x if layout == "contiguous" else x.repeat_interleave(2)[::2]
    if layout == "contiguous":
        return x.contiguous()
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "sliced":
        wide = x.new_full((x.shape[0], 2 * x.shape[1], *x.shape[2:]), math.nan)
        wide[:, ::2] = x
        return wide[:, ::2]
    if layout == "transposed":
        return x.transpose(1, -1).contiguous().transpose(1, -1)
    if layout == "expanded":
        return x[:1].expand(x.shape)
    if layout == "offset":
        # A contiguous view whose first element is not 16-byte aligned.
        flat = x.new_full((x.numel() + 1,), math.nan)
        flat[1:] = x.flatten()
        return flat[1:].view(x.shape)
    raise ValueError(layout)


def random(shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)


class Prepared:
    """An op at a problem: its tensors and, as functions of those that it differentiates, itself and its reference.

    Values are those of bfloat16, so that every type gets the same problem. Operands without a derivative follow the
    type of the first tensor that the functions get.

    Attributes:
        inputs: the tensors that the op differentiates, x first.
        names: of their operands.
    """

    def __init__(self, op: Op, shape: Sequence[int], dtype: torch.dtype, settings: Settings) -> None:
        seeds = iter(range(1, 100))
        drawn = op.draw(op.adapt(tuple(shape)), settings, lambda s: random(s, next(seeds)))
        self._described, self._settings = op, settings
        self._operands = {name: tree_map(Tensor.bfloat16, value) for name, value in drawn.items()}
        differentiable = [(name, t) for name, t in flat(self._operands) if name not in op.constants]
        self.names = [name for name, _ in differentiable]
        self.inputs = [t.to(dtype) for _, t in differentiable]

    def operands(self, *inputs: Tensor) -> Operands:
        """All operands, by name, those of the op's derivative being ``inputs``."""
        given = iter(inputs)
        constants = self._described.constants
        return {
            name: tree_map(lambda t, name=name: t.to(inputs[0].dtype) if name in constants else next(given), value)
            for name, value in self._operands.items()
        }

    def op(self, *inputs: Tensor) -> Tensor:
        return self._call(self._described.op, inputs)

    def reference(self, *inputs: Tensor) -> Tensor:
        return self._call(self._described.reference, inputs)

    def _call(self, function: Callable[..., Any], inputs: Sequence[Tensor]) -> Tensor:
        (y,) = tensors_of(function(**self.operands(*inputs), **self._described.arguments(self._settings)))
        return y


def prepare(
    op: Op, shape: Sequence[int], dtype: torch.dtype = torch.float64, settings: Settings | None = None
) -> Prepared:
    """``op`` at the shape nearest to ``shape`` that it takes, by default at the first of its fixed settings."""
    return Prepared(op, shape, dtype, op.fixed[0] if settings is None else settings)


def derivatives(op: Function, inputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor]:
    """The output, its gradients for the first cotangent, and the gradients of those for the other cotangents."""
    dy, *cotangents_of_gradients = cotangents
    inputs = [t.detach().requires_grad_() for t in inputs]
    dy = dy.detach().requires_grad_()
    y = op(*inputs)
    first = torch.autograd.grad(y, inputs, dy, create_graph=True)
    second = torch.autograd.grad(first, [*inputs, dy], cotangents_of_gradients, allow_unused=True)
    zeros = (torch.zeros_like(t) if g is None else g for g, t in zip(second, [*inputs, dy], strict=True))
    return [t.detach() for t in (y, *first, *zeros)]


def check_against_float64(
    op: Function,
    reference: Function,
    inputs: Sequence[Tensor],
    *,
    reduction: int,
    gradient_layout: str = "contiguous",
    output_dtype: torch.dtype | None = None,
    passes_gradient_on: bool = False,
    sums_gradient_of_x: Sequence[int] = (),
) -> None:
    """Asserts that ``op`` computes what ``reference`` does in float64, up to and including the second order.

    The tolerance is derived, not chosen. What is stored may be off by one epsilon of its type (half of one where the
    store rounds; Triton's interpreter truncates to bfloat16). For what is computed the yardstick is plain torch in the
    type of the arithmetic on inputs that are one epsilon off: how far its results are from the exact ones tells how the
    problem is conditioned, and that, times a few and the depth of a sum of ``reduction`` terms, is allowed. For float64
    plain torch in float32 is a second yardstick, by the ratio of the epsilons.

    With ``passes_gradient_on`` the gradient of x is dy itself. The second gradient of dy is then the cotangent of that
    one and the op's own part, added by autograd as they are stored, each off by an epsilon of its own size.

    The gradients of the inputs ``sums_gradient_of_x`` are sums of that of x over ``reduction`` elements. What they may
    be off by follows from the sizes of the summands, even where those cancel; independent errors add up to the root of
    their number.
    """
    x = inputs[0]
    y_like = reference(*(t.detach() for t in inputs))
    cotangents = [lay_out(random(y_like.shape, 101, y_like.dtype), gradient_layout)]
    cotangents += [random(t.shape, 102 + i, t.dtype) for i, t in enumerate(inputs)]
    found = derivatives(op, inputs, cotangents)

    exact = [t.detach().double() for t in (*inputs, *cotangents)]
    expected = derivatives(reference, exact[: len(inputs)], exact[len(inputs) :])
    arithmetic = torch.float64 if x.dtype == torch.float64 else torch.float32
    eps = torch.finfo(arithmetic).eps
    moved = [0.0 for _ in expected]
    for seed in range(3):
        signs = [random(t.shape, 1000 * (seed + 1) + i).sign() for i, t in enumerate(exact)]
        perturbed = [(t * (1 + eps * s)).to(arithmetic) for t, s in zip(exact, signs, strict=True)]
        results = derivatives(reference, perturbed[: len(inputs)], perturbed[len(inputs) :])
        moved = [max(m, _largest(r - e)) for m, r, e in zip(moved, results, expected, strict=True)]
    if arithmetic == torch.float64:
        # The exact results round in the same places as the perturbed ones: what cancels there shows in float32 only.
        narrow = [t.float() for t in exact]
        results = derivatives(reference, narrow[: len(inputs)], narrow[len(inputs) :])
        finer = eps / torch.finfo(torch.float32).eps
        moved = [max(m, finer * _largest(r - e)) for m, r, e in zip(moved, results, expected, strict=True)]
    depth = 4 + 2 * math.log2(max(reduction, 1))
    names = ["output", *(f"gradient {i}" for i in range(len(inputs)))]
    names += [f"second gradient {i}" for i in range(len(inputs) + 1)]
    computed = [m + eps * _largest(e) for m, e in zip(moved, expected, strict=True)]
    for i in sums_gradient_of_x:
        for of_x in (1, 1 + len(inputs)):
            computed[of_x + i] += math.sqrt(reduction) * computed[of_x]
    for name, f, e, c in zip(names, found, expected, computed, strict=True):
        assert f.shape == e.shape, f"{name}: shape {list(f.shape)}, expected {list(e.shape)}"
        stored = torch.finfo(f.dtype)
        size = e.abs()
        if passes_gradient_on and name == names[-1]:
            passed_on = exact[len(inputs) + 1]
            size = size + passed_on.abs() + (e - passed_on).abs()
        tolerance = stored.eps * size + stored.smallest_normal + depth * c
        excess = (f.double() - e).abs() - tolerance
        assert (excess <= 0).all(), f"{name}, {f.dtype} {list(f.shape)}: {_largest(excess):.3g} beyond the tolerance"
    output_dtype = output_dtype or x.dtype
    assert found[0].dtype == output_dtype, f"the output is {found[0].dtype}, expected {output_dtype} for x of {x.dtype}"


def saved_bytes(f: Callable[[], object]) -> int:
    """Bytes of the tensors that autograd keeps while ``f`` runs."""
    total = 0

    def count(t: Tensor) -> Tensor:
        nonlocal total
        total += t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        f()
    return total


def _largest(t: Tensor) -> float:
    return t.abs().max().item() if t.numel() else 0.0
