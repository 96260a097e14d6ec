"""The tests that every op passes: DESIGN's rules, held for each entry of tests/kernels/ops.py."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck
from torch.utils.checkpoint import checkpoint

from fastgan_kernels import differentiable, use_backend
from fastgan_kernels.backend import op_names
from fastgan_kernels.inspection.problems import PROBLEMS
from tests.kernels.harness import FLOAT_TYPES, LAYOUTS, check_against_float64, derivatives, lay_out, random, saved_bytes
from tests.kernels.ops import OPS, TESTED_APART, TRAFFIC
from tests.kernels.opspec import OpSpec

every_op = pytest.mark.parametrize("spec", OPS, ids=lambda spec: spec.name)


def test_no_op_is_left_out():
    assert {spec.name for spec in OPS} | TESTED_APART.keys() == set(op_names()), "tests/kernels/specs"
    assert all(TRAFFIC[spec.name].bars for spec in OPS)
    assert {problem.op for problem in PROBLEMS} == set(op_names()), "fastgan_kernels/inspection/problems"


def check_spec(spec: OpSpec, chosen: dict, inputs: list[torch.Tensor], gradient_layout: str = "contiguous") -> None:
    op, reference = spec.with_settings(chosen)
    x = inputs[0]
    check_against_float64(
        op,
        reference,
        inputs,
        reduction=spec.reduction(x.shape),
        gradient_layout=gradient_layout,
        output_dtype=spec.output_dtype(x.dtype),
        passes_gradient_on=spec.passes_gradient_on,
        sums_gradient_of_x=spec.sums_gradient_of_x,
    )


@every_op
@pytest.mark.parametrize("dtype", FLOAT_TYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_types_and_layouts(spec: OpSpec, dtype: torch.dtype, layout: str):
    x, *operands = spec.prepared((3, 5, 6, 7), dtype)
    for fixed in spec.fixed_settings:
        check_spec(spec, fixed, [lay_out(x, layout), *operands])


@every_op
@pytest.mark.parametrize(("layout", "gradient_layout"), list(itertools.product(LAYOUTS[:2], LAYOUTS[1:])))
def test_layouts_of_the_incoming_gradient(spec: OpSpec, layout: str, gradient_layout: str):
    x, *operands = spec.prepared((3, 5, 6, 7), torch.float32)
    check_spec(spec, spec.fixed_settings[0], [lay_out(x, layout), *operands], gradient_layout)


@every_op
def test_sizes_past_every_threshold(spec: OpSpec):
    for shape, layout in itertools.product(spec.shapes, ("contiguous", "channels_last")):
        for dtype in (torch.bfloat16, torch.float32, torch.float64):
            x, *operands = spec.prepared(shape, dtype)
            check_spec(spec, spec.fixed_settings[0], [lay_out(x, layout), *operands])


def check_drawn(spec: OpSpec, data: st.DataObject) -> None:
    shape = data.draw(spec.drawn_shapes, "shape")
    types = data.draw(st.lists(st.sampled_from(FLOAT_TYPES), min_size=8, max_size=8), "types")
    chosen = data.draw(spec.settings, "settings")
    layout, gradient_layout = data.draw(st.sampled_from(LAYOUTS)), data.draw(st.sampled_from(LAYOUTS))
    x, *operands = spec.inputs(shape)
    inputs = [lay_out(x.to(types[0]), layout), *(t.to(d) for t, d in zip(operands, types[1:], strict=False))]
    check_spec(spec, chosen, inputs, gradient_layout)


@every_op
@settings(max_examples=170)
@given(data=st.data())
def test_drawn_problems(spec: OpSpec, data: st.DataObject):
    check_drawn(spec, data)


@pytest.mark.judged
@every_op
@settings(max_examples=2000, derandomize=False)
@given(data=st.data())
def test_many_drawn_problems(spec: OpSpec, data: st.DataObject):
    check_drawn(spec, data)


@every_op
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradcheck(spec: OpSpec, layout: str):
    x, *operands = spec.prepared((2, 2, 3, 1), torch.float64)
    inputs = [t.requires_grad_() for t in (lay_out(x, layout), *operands)]
    for fixed in spec.fixed_settings:
        op, _ = spec.with_settings(fixed)
        assert gradcheck(op, inputs)
        assert gradgradcheck(op, inputs)


@every_op
def test_third_order(spec: OpSpec):
    """The docstring states the highest order. The third is where a saved statistic would show as a constant."""
    op, reference = spec.with_settings(spec.fixed_settings[0])
    inputs = [t.requires_grad_() for t in spec.prepared((2, 2, 5), torch.float64)]

    def third(f):
        total = f(*inputs).pow(3).sum()
        for _ in range(3):
            gradients = torch.autograd.grad(total, inputs, create_graph=True)
            total = sum((g * random(g.shape, 9)).sum() for g in gradients)
        return gradients

    if spec.highest_order == 2:
        with pytest.raises(RuntimeError, match=f"{spec.name}.*second order"):
            third(op)
        return
    for found, expected in zip(third(op), third(reference), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * expected.abs().max().item())


@every_op
def test_empty(spec: OpSpec):
    """As the reference: values where there are any (a mean over nothing is NaN in both), and the shapes."""
    for shape in spec.empty:
        results = []
        for f in spec.with_settings(spec.fixed_settings[0]):
            inputs = [t.requires_grad_() for t in spec.prepared(shape, torch.float32)]
            y = f(*inputs)
            assert y.shape == spec.output_shape(shape)
            gradients = torch.autograd.grad(y.sum(), inputs, create_graph=True)
            assert [g.shape for g in gradients] == [t.shape for t in inputs]
            results.append([y, *gradients])
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, equal_nan=True)


@every_op
@pytest.mark.parametrize("value", [0.0, 3.0, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("everywhere", [True, False], ids=["everywhere", "once"])
def test_special_values_pass_as_in_the_reference(spec: OpSpec, value: float, everywhere: bool):
    x, *operands = spec.prepared((2, 3, 4, 4), torch.float64)
    if everywhere:
        x.fill_(value)
    else:
        x.view(-1)[x.numel() * 2 // 3] = value
    for fixed in spec.fixed_settings:
        results = []
        for f in spec.with_settings(fixed):
            inputs = [t.clone().requires_grad_() for t in (x, *operands)]
            y = f(*inputs)
            results.append([y, *torch.autograd.grad(y, inputs, torch.ones_like(y))])
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-12, atol=1e-12)


@every_op
def test_registered_operators_pass_opcheck(spec: OpSpec):
    inputs = [t.requires_grad_() for t in spec.prepared((2, 3, 4, 4), torch.float32)]
    for operator, arguments in spec.registered(inputs):
        opcheck(operator, arguments)
    inputs = [lay_out(inputs[0].detach(), "channels_last").requires_grad_(), *inputs[1:]]
    for operator, arguments in spec.registered(inputs):
        opcheck(operator, arguments)


@every_op
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_whole(spec: OpSpec, backend: str):
    inputs = [t.requires_grad_() for t in spec.prepared((2, 3, 4, 5), torch.float32)]
    op, _ = spec.with_settings(spec.fixed_settings[0])

    def twice(x, *operands):
        return (op(x * 2, *operands) * op(x, *operands)).square()

    compiled = torch.compile(twice, fullgraph=True, backend=backend)
    for f in (compiled, twice):
        y = f(*inputs)
        results = [y, *torch.autograd.grad(y.sum(), inputs)]
        if f is compiled:
            first = results
    for found, expected in zip(first, results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@every_op
def test_a_compiled_reference_is_guarded_against_a_lost_second_order(spec: OpSpec, monkeypatch: pytest.MonkeyPatch):
    """The gradient of the guard is what refuses, in test_bias_act.py."""
    x, *operands = spec.prepared((2, 3, 4), torch.float32)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    guarded = []
    monkeypatch.setattr(differentiable, "_guarded", lambda t: guarded.append(t) or t)
    with use_backend("reference"):
        spec.op(x, *operands)
    assert [t is x for t in guarded] == [True]


@every_op
def test_same_bits_every_time(spec: OpSpec):
    x, *operands = spec.prepared((4, 6, 33, 5), torch.float32)
    op, _ = spec.with_settings(spec.fixed_settings[0])
    cotangents = [random(t.shape, i, t.dtype) for i, t in enumerate((op(x, *operands), x, *operands))]
    once, again = (derivatives(op, (x, *operands), cotangents) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@every_op
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_autocast_does_not_change_the_type(spec: OpSpec, backend: str):
    x, *operands = spec.prepared((2, 3, 4), torch.bfloat16)
    operands = [t.float() for t in operands]
    with use_backend(backend), torch.autocast(x.device.type, dtype=torch.bfloat16):
        y = spec.op(x, *operands)
    assert y.dtype == spec.output_dtype(torch.bfloat16)
    assert torch.equal(y, spec.op(x, *operands)) or backend == "reference"


@every_op
def test_output_keeps_the_layout(spec: OpSpec):
    if not spec.keeps_layout:
        pytest.skip("the output is not a feature map")
    x, *operands = spec.prepared((2, 3, 4, 5), torch.float32)
    for layout in ("contiguous", "channels_last"):
        laid_out = lay_out(x, layout)
        y = spec.op(laid_out, *operands)
        assert y.stride() == lay_out(torch.empty(y.shape), layout).stride()


@every_op
def test_a_gradient_that_nobody_asked_for_is_not_computed(spec: OpSpec):
    """Whatever subset of the inputs requires gradients, those that do get theirs, and unused ones cost nothing."""
    tensors = spec.prepared((2, 3, 4, 4), torch.float64)
    op, reference = spec.with_settings(spec.fixed_settings[0])
    for needs in itertools.product([False, True], repeat=len(tensors)):
        if not any(needs):
            continue
        inputs = [t.clone().requires_grad_(need) for t, need in zip(tensors, needs, strict=True)]
        wanted = [t for t in inputs if t.requires_grad]
        for found, expected in zip(
            *(torch.autograd.grad(f(*inputs).pow(2).sum(), wanted) for f in (op, reference)), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@every_op
def test_memory_kept_for_backward(spec: OpSpec):
    inputs = [t.requires_grad_() for t in spec.prepared((4, 6, 8, 8), torch.bfloat16)]
    op, _ = spec.with_settings(spec.fixed_settings[0])
    y = op(*inputs)
    assert saved_bytes(lambda: op(*inputs)) == spec.saved(inputs, y)


@every_op
def test_through_a_checkpoint(spec: OpSpec):
    """Recomputation hands out what is saved a single time."""
    inputs = [t.requires_grad_() for t in spec.prepared((4, 3, 4, 4), torch.float64)]
    op, _ = spec.with_settings(spec.fixed_settings[0])

    def gradients(f):
        first = torch.autograd.grad(f(*inputs).square().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        return *first, *second

    checkpointed = gradients(lambda *tensors: checkpoint(op, *tensors, use_reentrant=False))
    for found, expected in zip(checkpointed, gradients(op), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
