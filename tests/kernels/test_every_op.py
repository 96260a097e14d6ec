"""The tests that every op passes: DESIGN's rules, held for each description in benchmarks/ops."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only
from torch.utils.checkpoint import checkpoint

from benchmarks.op import F32, Call, Op, flat
from benchmarks.ops import OPS
from fastgan_kernels import differentiable, use_backend
from fastgan_kernels.differentiable import DifferentiableOp
from tests.kernels.harness import (
    DIFFERENTIABLE,
    FLOAT_TYPES,
    LAYOUTS,
    Prepared,
    check_against_float64,
    derivatives,
    lay_out,
    prepare,
    random,
    saved_bytes,
)

every_op = pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)


def test_every_description_is_whole():
    """What a description leaves out is not tested, not compiled or not counted."""
    for op in DIFFERENTIABLE:
        assert op.shapes, op.name
        assert op.traffic, op.name
    for op in OPS.values():
        assert op.compiled, op.name
        assert any(problem.key for problem in op.problems), op.name


def wide(op: Op, dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32) if op.wide_output else dtype


def check(op: Op, prepared: Prepared, inputs: list[torch.Tensor], gradient_layout: str = "contiguous") -> None:
    x = inputs[0]
    check_against_float64(
        prepared.op,
        prepared.reference,
        inputs,
        reduction=op.reduction(x.shape),
        gradient_layout=gradient_layout,
        output_dtype=wide(op, x.dtype),
        passes_gradient_on=op.passes_gradient_on,
        sums_gradient_of_x=[prepared.names.index(name) for name in op.sums_gradient_of_x],
    )


@every_op
@pytest.mark.parametrize("dtype", FLOAT_TYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_types_and_layouts(op: Op, dtype: torch.dtype, layout: str):
    for fixed in op.fixed:
        prepared = prepare(op, (3, 5, 6, 7), dtype, fixed)
        x, *operands = prepared.inputs
        check(op, prepared, [lay_out(x, layout), *operands])


@every_op
@pytest.mark.parametrize(("layout", "gradient_layout"), list(itertools.product(LAYOUTS[:2], LAYOUTS[1:])))
def test_layouts_of_the_incoming_gradient(op: Op, layout: str, gradient_layout: str):
    prepared = prepare(op, (3, 5, 6, 7), torch.float32)
    x, *operands = prepared.inputs
    check(op, prepared, [lay_out(x, layout), *operands], gradient_layout)


@every_op
def test_sizes_past_every_threshold(op: Op):
    for shape, layout in itertools.product(op.shapes, ("contiguous", "channels_last")):
        for dtype in (torch.bfloat16, torch.float32, torch.float64):
            prepared = prepare(op, shape, dtype)
            x, *operands = prepared.inputs
            check(op, prepared, [lay_out(x, layout), *operands])


def sizes(most: int | tuple[int, int]) -> st.SearchStrategy[int]:
    if isinstance(most, tuple):
        return st.integers(*most)
    return st.one_of(st.integers(1, most), st.sampled_from([1, 2, 3, 4, 5, 7, 8, 13, 16]))


def check_drawn(op: Op, data: st.DataObject) -> None:
    def choose(values: Sequence[Any]) -> Any:
        return data.draw(st.sampled_from(values))

    shape = op.adapt(data.draw(st.one_of(st.tuples(*map(sizes, axes)) for axes in op.drawn), "shape"))
    types = data.draw(st.lists(st.sampled_from(FLOAT_TYPES), min_size=8, max_size=8), "types")
    chosen = op.choices(choose) if callable(op.choices) else {name: choose(of) for name, of in op.choices.items()}
    layout, gradient_layout = choose(LAYOUTS), choose(LAYOUTS)
    note(f"{chosen}, {layout}, gradient {gradient_layout}")
    prepared = prepare(op, shape, torch.float64, chosen)
    x, *operands = prepared.inputs
    inputs = [lay_out(x.to(types[0]), layout), *(t.to(d) for t, d in zip(operands, types[1:], strict=False))]
    check(op, prepared, inputs, gradient_layout)


@every_op
@settings(max_examples=170)
@given(data=st.data())
def test_drawn_problems(op: Op, data: st.DataObject):
    check_drawn(op, data)


@pytest.mark.judged
@every_op
@settings(max_examples=2000, derandomize=False)
@given(data=st.data())
def test_many_drawn_problems(op: Op, data: st.DataObject):
    check_drawn(op, data)


@every_op
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradcheck(op: Op, layout: str):
    for fixed in op.fixed:
        prepared = prepare(op, (2, 2, 3, 1), torch.float64, fixed)
        x, *operands = prepared.inputs
        inputs = [t.requires_grad_() for t in (lay_out(x, layout), *operands)]
        assert gradcheck(prepared.op, inputs)
        assert gradgradcheck(prepared.op, inputs)


@every_op
def test_third_order(op: Op):
    """The docstring states the highest order. The third is where a saved statistic would show as a constant."""
    prepared = prepare(op, (2, 2, 5))
    inputs = [t.requires_grad_() for t in prepared.inputs]

    def third(f):
        total = f(*inputs).pow(3).sum()
        for _ in range(3):
            gradients = torch.autograd.grad(total, inputs, create_graph=True)
            total = sum((g * random(g.shape, 9)).sum() for g in gradients)
        return gradients

    if op.highest_order == 2:
        with pytest.raises(RuntimeError, match=f"{op.name}.*second order"):
            third(prepared.op)
        return
    for found, expected in zip(third(prepared.op), third(prepared.reference), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * expected.abs().max().item())


@every_op
def test_empty(op: Op):
    """As the reference: values where there are any (a mean over nothing is NaN in both), and the shapes."""
    for shape in op.empty:
        results = []
        prepared = prepare(op, shape, torch.float32)
        for f in (prepared.op, prepared.reference):
            inputs = [t.clone().requires_grad_() for t in prepared.inputs]
            y = f(*inputs)
            gradients = torch.autograd.grad(y.sum(), inputs, create_graph=True)
            assert [g.shape for g in gradients] == [t.shape for t in inputs]
            results.append([y, *gradients])
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, equal_nan=True)


@every_op
@pytest.mark.parametrize("value", [0.0, 3.0, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("everywhere", [True, False], ids=["everywhere", "once"])
def test_special_values_pass_as_in_the_reference(op: Op, value: float, everywhere: bool):
    for fixed in op.fixed:
        prepared = prepare(op, (2, 3, 4, 4), torch.float64, fixed)
        x, *operands = prepared.inputs
        if everywhere:
            x.fill_(value)
        else:
            x.view(-1)[x.numel() * 2 // 3] = value
        results = []
        for f in (prepared.op, prepared.reference):
            inputs = [t.clone().requires_grad_() for t in (x, *operands)]
            y = f(*inputs)
            results.append([y, *torch.autograd.grad(y, inputs, torch.ones_like(y))])
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-12, atol=1e-12)


def forms(op: Op) -> list[Call]:
    """Small calls with every setting, absent and constant operand of the description, in both layouts."""
    described = [*(Call((), F32, settings=fixed) for fixed in op.fixed), *op.compiled]
    small = [replace(call, shape=op.adapt((2, 4, 4, 4)), dtype=F32) for call in described]
    return list({repr(call): call for call in small}.values())


def kind_of(value: Any) -> Any:
    """What of an argument chooses the way through an operator; not its size, nor what a setting is."""
    if isinstance(value, torch.Tensor):
        return value.dim(), value.requires_grad, value.is_contiguous()
    return value if value is None or isinstance(value, bool) else type(value)


@every_op
def test_registered_operators_pass_opcheck(op: Op, monkeypatch: pytest.MonkeyPatch):
    """Those behind the op and its derivatives, each with arguments of every kind that it gets."""
    calls: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}
    eager = DifferentiableOp.__call__

    def leaf(t: torch.Tensor) -> torch.Tensor:
        return t.detach().clone().requires_grad_(t.requires_grad and torch.is_grad_enabled())

    def noting(self: DifferentiableOp, *args: Any) -> Any:
        leaves = tree_map_only(torch.Tensor, leaf, args)
        calls.setdefault((self, *tree_flatten(tree_map(kind_of, leaves))[0]), (self._registered, leaves))
        return eager(self, *args)

    monkeypatch.setattr(DifferentiableOp, "__call__", noting)
    for call in forms(op):
        prepared = prepare(op, call.shape, call.dtype, call.settings)
        x, *others = prepared.inputs
        x = lay_out(x, "channels_last") if call.channels_last else x
        kept = {name: t for name, t in prepared.operands(x, *others).items() if name not in call.absent}
        for name, tensor in flat(kept):
            tensor.requires_grad_(name not in (*op.constants, *call.constant))
        op.run(call, kept)
    monkeypatch.undo()
    for operator, arguments in calls.values():
        opcheck(operator, arguments)


@every_op
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_whole(op: Op, backend: str):
    prepared = prepare(op, (2, 3, 4, 5), torch.float32)
    inputs = [t.requires_grad_() for t in prepared.inputs]

    def twice(x, *operands):
        return (prepared.op(x * 2, *operands) * prepared.op(x, *operands)).square()

    compiled = torch.compile(twice, fullgraph=True, backend=backend)
    for f in (compiled, twice):
        y = f(*inputs)
        results = [y, *torch.autograd.grad(y.sum(), inputs)]
        if f is compiled:
            first = results
    for found, expected in zip(first, results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@every_op
def test_a_compiled_reference_is_guarded_against_a_lost_second_order(op: Op, monkeypatch: pytest.MonkeyPatch):
    """The gradient of the guard is what refuses, in test_bias_act.py."""
    prepared = prepare(op, (2, 3, 4), torch.float32)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    guarded = []
    monkeypatch.setattr(differentiable, "_guarded", lambda t: guarded.append(t) or t)
    with use_backend("reference"):
        prepared.op(*prepared.inputs)
    assert [t is prepared.inputs[0] for t in guarded] == [True]


@every_op
def test_same_bits_every_time(op: Op):
    prepared = prepare(op, (4, 6, 33, 5), torch.float32)
    cotangents = [random(t.shape, i, t.dtype) for i, t in enumerate((prepared.op(*prepared.inputs), *prepared.inputs))]
    once, again = (derivatives(prepared.op, prepared.inputs, cotangents) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@every_op
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_autocast_does_not_change_the_type(op: Op, backend: str):
    prepared = prepare(op, (2, 3, 4), torch.bfloat16)
    x, *operands = prepared.inputs
    operands = [t.float() for t in operands]
    with use_backend(backend), torch.autocast(x.device.type, dtype=torch.bfloat16):
        y = prepared.op(x, *operands)
    assert y.dtype == wide(op, torch.bfloat16)
    assert torch.equal(y, prepared.op(x, *operands)) or backend == "reference"


@every_op
def test_output_keeps_the_layout(op: Op):
    prepared = prepare(op, (2, 3, 4, 5), torch.float32)
    x, *operands = prepared.inputs
    for layout in ("contiguous", "channels_last"):
        y = prepared.op(lay_out(x, layout), *operands)
        # What has fewer axes than x is no feature map, and contiguous.
        same = layout if y.dim() == x.dim() else "contiguous"
        assert y.stride() == lay_out(torch.empty(y.shape), same).stride()


@every_op
def test_a_gradient_that_nobody_asked_for_is_not_computed(op: Op):
    """Whatever subset of the inputs requires gradients, those that do get theirs, and unused ones cost nothing."""
    prepared = prepare(op, (2, 3, 4, 4))
    for needs in itertools.product([False, True], repeat=len(prepared.inputs)):
        if not any(needs):
            continue
        inputs = [t.clone().requires_grad_(need) for t, need in zip(prepared.inputs, needs, strict=True)]
        wanted = [t for t in inputs if t.requires_grad]
        for found, expected in zip(
            *(torch.autograd.grad(f(*inputs).pow(2).sum(), wanted) for f in (prepared.op, prepared.reference)),
            strict=True,
        ):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@every_op
def test_memory_kept_for_backward(op: Op):
    prepared = prepare(op, (4, 6, 8, 8), torch.bfloat16)
    inputs = [t.requires_grad_() for t in prepared.inputs]
    y = prepared.op(*inputs)
    saved = op.saved({**prepared.operands(*inputs), "y": y})
    assert saved_bytes(lambda: prepared.op(*inputs)) == sum(s if isinstance(s, int) else s.nbytes for s in saved)


@every_op
def test_through_a_checkpoint(op: Op):
    """Recomputation hands out what is saved a single time."""
    prepared = prepare(op, (4, 3, 4, 4))
    inputs = [t.requires_grad_() for t in prepared.inputs]

    def gradients(f):
        first = torch.autograd.grad(f(*inputs).square().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        return *first, *second

    checkpointed = gradients(lambda *tensors: checkpoint(prepared.op, *tensors, use_reentrant=False))
    for found, expected in zip(checkpointed, gradients(prepared.op), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
