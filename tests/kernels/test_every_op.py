"""The tests that every op passes: DESIGN's rules, held for each description in benchmarks/ops."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import note
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_map_only
from torch.utils.checkpoint import checkpoint

from benchmarks.op import F32, Call, Op, Settings, flat
from benchmarks.ops import OPS
from fastgan_kernels import autograd, use_backend
from fastgan_kernels.autograd import DifferentiableOp
from tests.kernels.harness import (
    DIFFERENTIABLE,
    DRAWN_PROBLEMS,
    FLOAT_TYPES,
    LAYOUTS,
    Function,
    Prepared,
    check_against_float64,
    derivatives,
    drawn,
    lay_out,
    prepare,
    random,
    saved_bytes,
    tiered,
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


@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_what_is_no_tensor_is_refused_in_one_sentence(op: Op):
    operands = op.draw(op.toy, {}, lambda shape: torch.randn(shape))
    for name in (name for name, value in operands.items() if isinstance(value, torch.Tensor)):
        for wrong, kind in ((0.5, "float"), ([0.5], "list")):
            with pytest.raises(TypeError, match=rf"^{op.name}: {name} is a {kind}, expected a tensor$"):
                op.op(**operands | {name: wrong}, **op.arguments({}))


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


def types_and_layouts() -> Iterator[Any]:
    """Every type of x in every layout. Plain pytest has each of these, and each layout of dy, once."""
    for op in DIFFERENTIABLE:
        for (i, layout), (j, dtype) in itertools.product(enumerate(LAYOUTS), enumerate(FLOAT_TYPES)):
            shift = (j - i) % len(FLOAT_TYPES)
            gradient_layout = LAYOUTS[(i + shift + 1) % len(LAYOUTS)]
            for k, fixed in enumerate(op.fixed):
                plain = shift == 0 and k == i % len(op.fixed)
                id = f"{op.name}-{dtype}-{layout}-{gradient_layout}-{k}"
                yield tiered(op, dtype, layout, gradient_layout, fixed, plain=plain, id=id)


@pytest.mark.parametrize(("op", "dtype", "layout", "gradient_layout", "fixed"), list(types_and_layouts()))
def test_types_and_layouts(op: Op, dtype: torch.dtype, layout: str, gradient_layout: str, fixed: Settings):
    prepared = prepare(op, (3, 5, 6, 7), dtype, fixed)
    x, *operands = prepared.inputs
    check(op, prepared, [lay_out(x, layout), *operands], gradient_layout)


def thresholds() -> Iterator[Any]:
    """Plain pytest has each shape in one type and layout, each of which has several shapes."""
    kinds = list(itertools.product((torch.float32, torch.bfloat16, torch.float64), LAYOUTS[:2]))
    for op in DIFFERENTIABLE:
        for (i, shape), (j, (dtype, layout)) in itertools.product(enumerate(op.shapes), enumerate(kinds)):
            id = f"{op.name}-{'x'.join(map(str, shape))}-{dtype}-{layout}"
            yield tiered(op, shape, dtype, layout, plain=j == i % len(kinds), id=id)


@pytest.mark.parametrize(("op", "shape", "dtype", "layout"), list(thresholds()))
def test_sizes_past_every_threshold(op: Op, shape: tuple[int, ...], dtype: torch.dtype, layout: str):
    prepared = prepare(op, shape, dtype)
    x, *operands = prepared.inputs
    check(op, prepared, [lay_out(x, layout), *operands])


def sizes(most: int | tuple[int, int]) -> st.SearchStrategy[int]:
    if isinstance(most, tuple):
        return st.integers(*most)
    return st.one_of(st.integers(1, most), st.sampled_from([1, 2, 3, 4, 5, 7, 8, 13, 16]))


def check_a_drawn_problem(op: Op, data: st.DataObject) -> None:
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
@pytest.mark.parametrize("count", DRAWN_PROBLEMS)
def test_drawn_problems(op: Op, count: int):
    @drawn(count, data=st.data())
    def check_drawn(data: st.DataObject) -> None:
        check_a_drawn_problem(op, data)

    check_drawn()


@pytest.mark.parametrize(
    ("op", "fixed", "layout"),
    [
        tiered(op, fixed, layout, plain=i == j == 0, id=f"{op.name}-{layout}-{i}")
        for op in DIFFERENTIABLE
        for i, fixed in enumerate(op.fixed)
        for j, layout in enumerate(LAYOUTS[:2])
    ],
)
def test_gradcheck(op: Op, fixed: Settings, layout: str):
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
    # Kinds of arguments do not change with the length of a filter, and long ones take the interpreter minutes.
    short = [call for call in described if max(call.settings.get("taps", (0,))) <= 4]
    small = [replace(call, shape=op.adapt((2, 4, 4, 4)), dtype=F32) for call in short]
    return list({repr(call): call for call in small}.values())


def kind_of(value: Any) -> Any:
    """What of an argument chooses the way through an operator; not its size, nor what a setting is."""
    if isinstance(value, torch.Tensor):
        return value.dim(), value.requires_grad, value.is_contiguous()
    return value if value is None or isinstance(value, bool) else type(value)


@every_op
@pytest.mark.parametrize("every_form", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_registered_operators_pass_opcheck(op: Op, every_form: bool, monkeypatch: pytest.MonkeyPatch):
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
    for call in forms(op)[: None if every_form else 1]:
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


@pytest.mark.parametrize(
    ("op", "backend"),
    [
        tiered(op, backend, plain=backend == "aot_eager" or op.name == "bias_act", id=f"{op.name}-{backend}")
        for op in DIFFERENTIABLE
        for backend in ("aot_eager", "inductor")
    ],
)
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


@pytest.mark.parametrize(
    ("op", "compiler", "backend"),
    [
        tiered(
            *(op, compiler, backend),
            plain=(compiler, backend) in ((None, "triton"), ("aot_eager", "triton")),
            id=f"{op.name}-{compiler or 'eager'}-{backend}",
        )
        for op in DIFFERENTIABLE
        for compiler in (None, "aot_eager", "inductor")
        for backend in ("triton", "reference")
    ],
)
def test_a_step_with_a_penalty_on_gradients(op: Op, compiler: str | None, backend: str):
    """In eager mode, and as one graph."""
    prepared = prepare(op, (2, 3, 4, 3))
    inputs = [t.requires_grad_() for t in prepared.inputs]

    def step(f: Function, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        gradients = torch.autograd.grad(f(*inputs).pow(3).sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), inputs)

    expected = step(prepared.reference, *inputs)
    with use_backend(backend), torch._dynamo.config.patch(trace_autograd_ops=True):
        found = (torch.compile(step, fullgraph=True, backend=compiler) if compiler else step)(prepared.op, *inputs)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-9, atol=1e-9 * e.abs().max().item())


@every_op
def test_a_compiled_reference_is_guarded_against_a_lost_second_order(op: Op, monkeypatch: pytest.MonkeyPatch):
    """The gradient of the guard is what refuses, in test_bias_act.py."""
    prepared = prepare(op, (2, 3, 4), torch.float32)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    guarded = []
    monkeypatch.setattr(autograd, "_guarded", lambda t: guarded.append(t) or t)
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


class Computed:
    """The shapes of what operators return and somebody may read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: Counter[torch.Size] = Counter()
        call = DifferentiableOp.__call__

        def noting(op: DifferentiableOp, *args: Any) -> Any:
            results = call(op, *args)
            self.shapes.update(t.shape for t in tree_leaves(results) if t is not None and t.numel())
            return results

        monkeypatch.setattr(DifferentiableOp, "__call__", noting)

    def beside(self, wanted: Sequence[torch.Tensor]) -> Counter[torch.Size]:
        """What was computed since the last time and is none of the gradients of ``wanted``."""
        rest = self.shapes - Counter(t.shape for t in wanted)
        self.shapes.clear()
        return rest


SIZES = {"small": (2, 3, 4, 4), "in spans": (2, 3, 1, 4200)}


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        # The products of filtered_lrelu take the interpreter 20 seconds in spans.
        tiered(op, shape, plain=size == "small" or op.name != "filtered_lrelu", id=f"{size}-{op.name}")
        for size, shape in SIZES.items()
        for op in DIFFERENTIABLE
    ],
)
def test_no_memory_is_spent_on_a_gradient_that_nobody_asked_for(
    op: Op, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
):
    """Each operand alone, and no second gradient of a constant dy: beside what is wanted are at most statistics."""
    prepared = prepare(op, shape, torch.float32)
    computed = Computed(monkeypatch)
    count = len(prepared.inputs)
    everything = [True] * (count + 1)
    allowed = []
    for needs in (everything, *([i == j for j in range(count)] + [False] for i in range(count))):
        inputs = [t.clone().requires_grad_(need) for t, need in zip(prepared.inputs, needs, strict=False)]
        y = prepared.op(*inputs)
        dy = torch.ones_like(y).requires_grad_(needs[-1])
        wanted = [t for t in inputs if t.requires_grad]
        computed.shapes.clear()
        first = torch.autograd.grad(y, wanted, dy, create_graph=True)
        rest = [computed.beside(wanted)]
        differentiable = [g for g in first if g.requires_grad]
        if differentiable:
            wanted = [t for t in (*wanted, dy) if t.requires_grad]
            torch.autograd.grad(differentiable, wanted, [torch.ones_like(g) for g in differentiable], allow_unused=True)
            rest.append(computed.beside(wanted))
        allowed = allowed or rest
        for found, most in zip(rest, allowed, strict=False):
            assert not found - most


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
