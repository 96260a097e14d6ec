"""The tests that every op passes: DESIGN's rules, held for each entry of tests/kernels/ops.py."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

import fastgan_kernels
from fastgan_kernels import use_backend
from fastgan_kernels.inspection.problems import PROBLEMS
from tests.kernels.harness import FLOAT_TYPES, LAYOUTS, check_against_float64, derivatives, lay_out, random
from tests.kernels.ops import OPS, OpSpec, prepared

every_op = pytest.mark.parametrize("spec", OPS, ids=lambda spec: spec.name)


def test_no_op_is_left_out():
    ops = set(fastgan_kernels.__all__) - {"backend_of", "use_backend"}
    assert {spec.name for spec in OPS} == ops, "tests/kernels/ops.py"
    assert {problem.op for problem in PROBLEMS} == ops, "fastgan_kernels/inspection/problems.py"


@every_op
@pytest.mark.parametrize("dtype", FLOAT_TYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_types_and_layouts(spec: OpSpec, dtype: torch.dtype, layout: str):
    shape = (3, 5, 6, 7)
    x, *operands = prepared(spec, shape, dtype)
    for fixed in spec.fixed_settings:
        op, reference = spec.with_settings(fixed)
        check_against_float64(op, reference, [lay_out(x, layout), *operands], reduction=spec.reduction(shape))


@every_op
@pytest.mark.parametrize(("layout", "gradient_layout"), list(itertools.product(LAYOUTS[:2], LAYOUTS[1:])))
def test_layouts_of_the_incoming_gradient(spec: OpSpec, layout: str, gradient_layout: str):
    shape = (3, 5, 6, 7)
    x, *operands = prepared(spec, shape, torch.float32)
    op, reference = spec.with_settings(spec.fixed_settings[0])
    check_against_float64(
        op,
        reference,
        [lay_out(x, layout), *operands],
        reduction=spec.reduction(shape),
        gradient_layout=gradient_layout,
    )


@every_op
def test_sizes_past_every_threshold(spec: OpSpec):
    op, reference = spec.with_settings(spec.fixed_settings[0])
    for shape, layout in itertools.product(spec.shapes, ("contiguous", "channels_last")):
        for dtype in (torch.bfloat16, torch.float32, torch.float64):
            x, *operands = prepared(spec, shape, dtype)
            check_against_float64(op, reference, [lay_out(x, layout), *operands], reduction=spec.reduction(shape))


def sizes(largest: int) -> st.SearchStrategy[int]:
    return st.one_of(st.integers(1, largest), st.sampled_from([1, 2, 3, 4, 5, 7, 8, 13, 16]))


SHAPES = st.one_of(
    st.tuples(sizes(40), sizes(40)),
    st.tuples(sizes(9), sizes(20), sizes(70)),
    st.tuples(sizes(5), sizes(20), sizes(9), sizes(9)),
    st.tuples(sizes(3), sizes(5), sizes(4), sizes(4), sizes(4)),
)


def check_drawn(spec: OpSpec, data: st.DataObject) -> None:
    shape = data.draw(SHAPES, "shape")
    types = data.draw(st.lists(st.sampled_from(FLOAT_TYPES), min_size=3, max_size=3), "types")
    chosen = data.draw(spec.settings, "settings")
    layout, gradient_layout = data.draw(st.sampled_from(LAYOUTS)), data.draw(st.sampled_from(LAYOUTS))
    x, *operands = spec.inputs(shape)
    inputs = [lay_out(x.to(types[0]), layout), *(t.to(d) for t, d in zip(operands, types[1:], strict=False))]
    op, reference = spec.with_settings(chosen)
    check_against_float64(op, reference, inputs, reduction=spec.reduction(shape), gradient_layout=gradient_layout)


@every_op
@settings(max_examples=100)
@given(data=st.data())
def test_drawn_problems(spec: OpSpec, data: st.DataObject):
    check_drawn(spec, data)


@pytest.mark.slow
@every_op
@settings(max_examples=2000, derandomize=False)
@given(data=st.data())
def test_many_drawn_problems(spec: OpSpec, data: st.DataObject):
    check_drawn(spec, data)


@every_op
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradcheck(spec: OpSpec, layout: str):
    x, *operands = prepared(spec, (2, 2, 3, 1), torch.float64)
    inputs = [t.requires_grad_() for t in (lay_out(x, layout), *operands)]
    for fixed in spec.fixed_settings:
        op, _ = spec.with_settings(fixed)
        assert gradcheck(op, inputs)
        assert gradgradcheck(op, inputs)


@every_op
def test_third_order(spec: OpSpec):
    """The docstrings promise any order, and the third is where a saved statistic would show as a constant."""
    op, reference = spec.with_settings(spec.fixed_settings[0])
    inputs = [t.requires_grad_() for t in prepared(spec, (2, 2, 5), torch.float64)]

    def third(f):
        total = f(*inputs).pow(3).sum()
        for _ in range(3):
            gradients = torch.autograd.grad(total, inputs, create_graph=True)
            total = sum((g * random(g.shape, 9)).sum() for g in gradients)
        return gradients

    for found, expected in zip(third(op), third(reference), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * expected.abs().max().item())


@every_op
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4), (2, 3, 0), (2, 0, 4)])
def test_empty(spec: OpSpec, shape: tuple[int, ...]):
    inputs = [t.requires_grad_() for t in prepared(spec, shape, torch.float32)]
    found = spec.op(*inputs)
    assert found.shape == shape
    for gradient, t in zip(torch.autograd.grad(found.sum(), inputs, create_graph=True), inputs, strict=True):
        assert gradient.shape == t.shape
        assert not gradient.any()


@every_op
@pytest.mark.parametrize("value", [0.0, 3.0, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("everywhere", [True, False], ids=["everywhere", "once"])
def test_special_values_pass_as_in_the_reference(spec: OpSpec, value: float, everywhere: bool):
    x, *operands = prepared(spec, (2, 3, 4, 4), torch.float64)
    if everywhere:
        x.fill_(value)
    else:
        x[1, 1, 2, 2] = value
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
    inputs = [t.requires_grad_() for t in prepared(spec, (2, 3, 4, 4), torch.float32)]
    for operator, arguments in spec.registered(inputs):
        opcheck(operator, arguments)
    inputs = [lay_out(inputs[0].detach(), "channels_last").requires_grad_(), *inputs[1:]]
    for operator, arguments in spec.registered(inputs):
        opcheck(operator, arguments)


@every_op
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_whole(spec: OpSpec, backend: str):
    inputs = [t.requires_grad_() for t in prepared(spec, (2, 3, 4, 5), torch.float32)]
    op, _ = spec.with_settings(spec.fixed_settings[0])

    def twice(*tensors):
        return op(op(*tensors) * 2, *tensors[1:]).square()

    compiled = torch.compile(twice, fullgraph=True, backend=backend)
    for f in (compiled, twice):
        y = f(*inputs)
        results = [y, *torch.autograd.grad(y.sum(), inputs)]
        if f is compiled:
            first = results
    for found, expected in zip(first, results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@every_op
def test_same_bits_every_time(spec: OpSpec):
    x, *operands = prepared(spec, (4, 6, 33, 5), torch.float32)
    op, _ = spec.with_settings(spec.fixed_settings[0])
    cotangents = [random(t.shape, i, t.dtype) for i, t in enumerate((x, x, *operands))]
    once, again = (derivatives(op, (x, *operands), cotangents) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@every_op
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_autocast_does_not_change_the_type(spec: OpSpec, backend: str):
    x, *operands = prepared(spec, (2, 3, 4), torch.bfloat16)
    operands = [t.float() for t in operands]
    with use_backend(backend), torch.autocast(x.device.type, dtype=torch.bfloat16):
        y = spec.op(x, *operands)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, spec.op(x, *operands)) or backend == "reference"


@every_op
def test_output_keeps_the_layout(spec: OpSpec):
    x, *operands = prepared(spec, (2, 3, 4, 5), torch.float32)
    for layout in ("contiguous", "channels_last"):
        laid_out = lay_out(x, layout)
        assert spec.op(laid_out, *operands).stride() == laid_out.stride()


@every_op
def test_a_gradient_that_nobody_asked_for_is_not_computed(spec: OpSpec):
    """Whatever subset of the inputs requires gradients, those that do get theirs, and unused ones cost nothing."""
    tensors = prepared(spec, (2, 3, 4, 4), torch.float64)
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
