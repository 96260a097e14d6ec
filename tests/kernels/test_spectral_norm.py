"""power_iteration, and spectral_normalize on lists; of a single weight the latter is tested with every op."""

import importlib
import itertools
import math
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.library import opcheck

from benchmarks.static.traffic import count_traffic
from fastgan_kernels import power_iteration, reference, spectral_normalize, use_backend
from fastgan_kernels.ops.spectral import pointers
from tests.kernels.harness import DEVICE, DRAWN_PROBLEMS, FLOAT_TYPES, drawn, lay_out, random, tiered

# The package exports the function under the name of its module.
normalize_module = importlib.import_module("fastgan_kernels.ops.spectral.normalize")
F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
counted = pytest.mark.skipif(torch.cuda.is_available(), reason="launches are counted in the interpreter")


class Group(NamedTuple):
    """What both ops take."""

    weights: list[Tensor]
    us: list[Tensor]
    vs: list[Tensor]
    dims: list[int]

    def iterate(self, function: Callable[..., Tensor] = power_iteration, **settings) -> Tensor:
        return function(self.weights, self.us, self.vs, dims=self.dims, **settings)

    def normalize(
        self, function: Callable[..., list[Tensor]] = spectral_normalize, sigma: Tensor | None = None
    ) -> list[Tensor]:
        return function(self.weights, self.us, self.vs, sigma, dims=self.dims)

    def copy(self, change: Callable[[Tensor], Tensor] = lambda t: t) -> "Group":
        """Other memory, since power iterations change vectors in place."""
        return Group(*([change(t.detach().clone()) for t in tensors] for tensors in self[:3]), self.dims)

    def differentiable(self) -> "Group":
        return self._replace(weights=[weight.requires_grad_() for weight in self.weights])


def group_of(
    shapes: Sequence[tuple[int, ...]],
    dtype: torch.dtype = F64,
    *,
    vector_dtype: torch.dtype | None = None,
    dims: Sequence[int] | None = None,
    layouts: Sequence[str] | None = None,
) -> Group:
    """Weights of ``shapes`` with the vectors of a training that has begun: of values that every type has exactly."""
    dims = [0] * len(shapes) if dims is None else list(dims)
    weights, us, vs = [], [], []
    for i, (shape, dim) in enumerate(zip(shapes, dims, strict=True)):
        weight = random(shape, i).bfloat16().to(dtype)
        weights.append(lay_out(weight, layouts[i]) if layouts else weight)
        rows = shape[dim]
        sizes = rows, math.prod(shape) // rows
        u, v = (nn.functional.normalize(random((n,), 100 + i), dim=0).bfloat16() for n in sizes)
        us.append(u.to(vector_dtype or dtype))
        vs.append(v.to(vector_dtype or dtype))
    return Group(weights, us, vs, dims)


# A logit, one channel, long and short runs, past a tile of rows; a transposed convolution; channels-last ones; a
# transposed matrix; every second channel; a view that starts at an odd address.
SHAPES = ((1, 130), (64, 1, 3, 3), (40, 200), (300, 2, 3, 3), (6, 9, 4, 4), (7, 70, 3, 3), (6, 8, 2, 2), (10, 20),
          (5, 6, 3), (33, 64))  # fmt: skip
DIMS = (0, 0, 0, 0, 1, 0, 1, 0, 0, 0)
LAYOUTS = ("contiguous", "contiguous", "contiguous", "contiguous", "contiguous", "channels_last", "channels_last",
           "transposed", "sliced", "offset")  # fmt: skip


def all_sorts(dtype: torch.dtype = F64, vector_dtype: torch.dtype | None = None) -> Group:
    return group_of(SHAPES, dtype, vector_dtype=vector_dtype, dims=DIMS, layouts=LAYOUTS)


def check_power_iteration(group: Group, n_iterations: int, eps: float = 1e-12) -> None:
    """As harness.check_against_float64: the yardstick is plain torch in the type of the arithmetic, one epsilon off."""
    arithmetic = F64 if group.weights[0].dtype == F64 else F32
    machine = torch.finfo(arithmetic).eps

    def run(problem: Group, function: Callable[..., Tensor]) -> list[Tensor]:
        sigma = problem.iterate(function, n_iterations=n_iterations, eps=eps)
        return [*sigma.unbind(), *problem.us, *problem.vs]

    expected = run(group.copy(Tensor.double), reference.power_iteration)
    moved = [0.0] * len(expected)
    seeds = itertools.count(1000)
    for _ in range(3):
        perturbed = group.copy(
            lambda t: (t.double() * (1 + machine * random(t.shape, next(seeds)).sign())).to(arithmetic)
        )
        results = run(perturbed, reference.power_iteration)
        moved = [max(m, (r - e).abs().max().item()) for m, r, e in zip(moved, results, expected, strict=True)]
    for i, (found, e, m) in enumerate(zip(run(group, power_iteration), expected, moved, strict=True)):
        layer = i % len(group.weights)
        depth = 4 + 2 * math.log2(group.weights[layer].numel()) * max(1, n_iterations)
        stored = torch.finfo(found.dtype)
        tolerance = stored.eps * e.abs() + stored.smallest_normal + depth * (m + machine * e.abs().max())
        excess = (found.double() - e).abs() - tolerance
        assert (excess <= 0).all(), f"{i}: weight {layer} is {excess.max():.3g} beyond the tolerance"


@pytest.mark.parametrize(
    ("dtype", "n_iterations"),
    [
        tiered(dtype, n_iterations, plain=(dtype, n_iterations) in ((F64, 0), (F32, 1), (BF16, 3), (F16, 1)))
        for dtype in FLOAT_TYPES
        for n_iterations in (0, 1, 3)
    ],
    ids=str,
)
def test_power_iteration(dtype: torch.dtype, n_iterations: int):
    check_power_iteration(all_sorts(dtype), n_iterations)


# Past 16 chunks of a row, 4 chunks of a column, the 512 rows and 2,048 columns that are normalized at once; and 16 row
# tiles a program.
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        tiered(shape, dtype, plain=(shape[0] == 700) == (dtype == BF16))
        for shape in ((5, 2300), (700, 3), (2100, 64))
        for dtype in (F64, BF16)
    ],
    ids=str,
)
def test_power_iteration_past_every_threshold(shape: tuple[int, ...], dtype: torch.dtype):
    check_power_iteration(group_of([shape], dtype), 1)
    check_power_iteration(group_of([shape[::-1]], dtype, dims=[1]), 1)


LAYER = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 5), st.integers(60, 140)),
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4)),
)
DRAWN = {
    "shapes": st.lists(LAYER, min_size=1, max_size=3),
    "dtype": st.sampled_from(FLOAT_TYPES),
    "vector_dtype": st.sampled_from(FLOAT_TYPES),
    "data": st.data(),
}


def drawn_group(data, shapes, dtype, vector_dtype) -> Group:
    dims = [data.draw(st.integers(0, 1)) for _ in shapes]
    layouts = [
        data.draw(st.sampled_from(["contiguous", "channels_last", "transposed", "sliced", "offset"])) for _ in shapes
    ]
    return group_of(shapes, dtype, vector_dtype=vector_dtype, dims=dims, layouts=layouts)


@pytest.mark.parametrize("count", DRAWN_PROBLEMS)
def test_drawn_power_iterations(count: int):
    @drawn(count, n_iterations=st.integers(0, 2), **DRAWN)
    def check(data, n_iterations, shapes, dtype, vector_dtype):
        # Triton's interpreter cannot cast float64 to bfloat16.
        assume(torch.cuda.is_available() or (dtype, vector_dtype) != (F64, BF16))
        check_power_iteration(drawn_group(data, shapes, dtype, vector_dtype), n_iterations)

    check()


def orders(group: Group, sigma: Tensor | None = None, function: Callable[..., list[Tensor]] = spectral_normalize):
    """The normalized weights, their gradients and the second order, by weight: [[y, dW, ddy, ddW], ...]."""
    group = group._replace(weights=[weight.detach() for weight in group.weights]).differentiable()
    ys = group.normalize(function, sigma)
    dys, hs = ([random(y.shape, 200 + s, y.dtype).requires_grad_(s == 0) for y in ys] for s in (0, 1))
    dws = torch.autograd.grad(ys, group.weights, dys, create_graph=True)
    second = torch.autograd.grad(dws, [*dys, *group.weights], hs)
    return list(zip(ys, dws, second[: len(ys)], second[len(ys) :], strict=True))


def assert_same(found, expected, *, tolerance: float | None = None) -> None:
    for of_weight, expected_of_weight in zip(found, expected, strict=True):
        for f, e in zip(of_weight, expected_of_weight, strict=True):
            if tolerance is None:
                assert torch.equal(f, e)
            else:
                torch.testing.assert_close(f, e, rtol=tolerance, atol=tolerance * e.abs().max().item())


@pytest.mark.parametrize("given_sigma", [False, True])
def test_normalized_weights_to_the_second_order(given_sigma: bool):
    group = all_sorts()
    sigma = group.iterate() if given_sigma else None
    found = orders(group, sigma)
    assert_same(found, orders(group, sigma, reference.spectral_normalize), tolerance=1e-12)
    for weight, layout, results in zip(group.weights, LAYOUTS, found, strict=True):
        expected = weight.contiguous() if layout == "sliced" else weight
        assert [t.stride() for t in results] == [expected.stride()] * 4


@settings(max_examples=10)
@given(**DRAWN)
def test_a_group_is_its_weights_one_by_one(data, shapes, dtype, vector_dtype):
    group = drawn_group(data, shapes, dtype, vector_dtype)
    one_by_one = []
    for weight, u, v, dim in zip(*group, strict=True):
        # Values of u and v count, not their type.
        one_by_one += orders(Group([weight], [u.double()], [v.double()], [dim]))
    assert_same(orders(group), one_by_one)


def assert_is_identity(weight: Tensor, results: list[Tensor]) -> None:
    """Of what ``orders`` returns for the first weight: y is W, dW is dy, ddy is H, and ddW is 0."""
    y, dw, ddy, ddw = results
    assert torch.equal(y, weight)
    assert torch.equal(dw, random(y.shape, 200, y.dtype))
    assert torch.equal(ddy, random(y.shape, 201, y.dtype))
    assert not ddw.any()


def launches(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    with count_traffic() as traffic:
        result = call()
    return result, [launch.kernel for launch in traffic.launches]


FORWARD = ["_write_pointers_kernel", "_products_kernel", "_terms_kernel"]


@counted
@pytest.mark.parametrize("layers", [1, 60])
def test_the_number_of_launches_does_not_grow(layers: int):
    group = group_of([(2, 3)] * layers, F32).differentiable()
    group.iterate()
    sigma, kernels = launches(lambda: group.iterate(n_iterations=0))
    assert kernels == ["_products_kernel", "_sigma_kernel"]
    _, kernels = launches(group.iterate)
    assert kernels == ["_times_v_kernel", "_normalize_kernel", "_times_u_kernel", "_normalize_kernel"]
    _, kernels = launches(group.normalize)
    assert kernels == FORWARD
    ys, kernels = launches(lambda: group.normalize(sigma=sigma))
    assert kernels == [FORWARD[0], FORWARD[2]]
    dys = [torch.ones_like(y, requires_grad=True) for y in ys]
    dws, kernels = launches(lambda: torch.autograd.grad(ys, group.weights, dys, create_graph=True))
    assert kernels == FORWARD
    _, kernels = launches(lambda: torch.autograd.grad(dws, [*dys, *group.weights], dws))
    assert kernels == [*FORWARD, "_terms_kernel"]


def test_the_same_weight_twice():
    group = group_of([(5, 7), (5, 7), (3, 4)])
    group = group._replace(weights=[group.weights[0], group.weights[0], group.weights[2]])
    check_power_iteration(group, 2)
    group = group.differentiable()
    found, expected = (
        torch.autograd.grad([y.square().sum() for y in group.normalize(f)], group.weights[::2])
        for f in (spectral_normalize, reference.spectral_normalize)
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_least_recently_used_tables_make_room(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pointers, "_MOST_KEPT", 3)
    monkeypatch.setattr(pointers, "_kept", {})
    made = []

    @pointers.kept_by_tensors
    def table(tensors: list[Tensor], name: str) -> Tensor:
        made.append(name)
        return pointers.uploaded_pointers(tensors)

    tensors = [torch.empty(2, device=DEVICE) for _ in range(4)]
    for i in (0, 1, 2, 0, 3, 0, 1):
        assert table([tensors[i]], str(i)).tolist() == [tensors[i].data_ptr()]
    assert made == ["0", "1", "2", "3", "1"]


def test_tables_are_kept_by_all_that_kernels_depend_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pointers, "_kept", {})
    table = pointers.kept_by_tensors(lambda *args: object())
    x = torch.empty(6, 4, device=DEVICE)
    others = x.view(4, 6), x.as_strided((6, 4), (1, 6)), x.view(torch.int32), x[1:], x.clone()
    assert len({table([t], []) for t in (x, *others)}) == 1 + len(others)
    assert table([x], []) is table([x.view(6, 4)], [])
    # Nor by tensors in another list, nor by other values.
    assert len({table([x, x], []), table([x], [x]), table([x], [x], 1)}) == 3


def test_tables_stay_out_of_memory_that_torch_captures(monkeypatch: pytest.MonkeyPatch):
    """Memory pools are entered by thread: a table that a warm-up leaves in one makes "reduce-overhead" raise."""
    threads = []
    new = torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda *args, **kwargs: threads.append(get_ident()) or new(*args, **kwargs))
    pointers.upload(torch.device(DEVICE), [1, 2])
    assert threads
    assert get_ident() not in threads


@pytest.mark.parametrize("count", [1, 16, 17, 256, 300])
def test_pointers_are_written_by_a_kernel(count: int):
    tensors = [torch.empty(1, device=DEVICE) for _ in range(count)]
    assert pointers.written_pointers(tensors)[:count].tolist() == [t.data_ptr() for t in tensors]


def test_a_capture_needs_shapes_used_before_and_keeps_what_the_graph_reads(monkeypatch: pytest.MonkeyPatch):
    """As on a GPU: nothing may be uploaded while a CUDA graph is captured."""
    monkeypatch.setattr(pointers, "_kept_for_graphs", [])
    capturing = False
    monkeypatch.setattr(pointers, "_captures", lambda device: capturing)
    group = group_of([(11, 13), (3, 4)])
    capturing = True
    with pytest.raises(RuntimeError, match="run the same ops on weights of the same shapes once before the capture"):
        group.iterate()
    capturing = False
    group.iterate()
    capturing = True
    check_power_iteration(group, 1)
    # The tables of these weights, u and v; those of new addresses are written within the graph.
    assert len(pointers._kept_for_graphs) == 1
    assert_same(orders(group.copy()), orders(group.copy(), function=reference.spectral_normalize), tolerance=1e-12)


def test_autograd_notices_that_u_and_v_change():
    group = group_of([(5, 7)])
    weight, u = group.weights[0].requires_grad_(), group.us[0]
    versions = u._version, group.vs[0]._version
    product = (weight.sum(1) * u).sum()
    group.iterate(n_iterations=0)
    assert (u._version, group.vs[0]._version) == versions
    group.iterate()
    assert (u._version, group.vs[0]._version) > versions
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_gradients_of_a_part_of_the_group(monkeypatch: pytest.MonkeyPatch):
    """Some weights are constant, some outputs unused; what is asked for is right, and what is not costs nothing."""
    group = group_of([(3, 4), (2, 5), (4, 2), (2, 2)])
    asked = []
    inner = normalize_module._spectral_normalize_backward

    def results(function):
        weights = [w.clone().requires_grad_(i != 1) for i, w in enumerate(group.weights)]
        ys = group._replace(weights=weights).normalize(function)
        wanted = [weights[0], weights[2], weights[3]]
        first = torch.autograd.grad(
            sum(ys[i].pow(3).sum() for i in (0, 1, 3)), wanted, create_graph=True, allow_unused=True
        )
        assert first[1] is None
        second = torch.autograd.grad(first[2].square().sum(), wanted, allow_unused=True)
        assert second[0] is None
        return [first[0], first[2], second[2]]

    monkeypatch.setattr(
        normalize_module, "_spectral_normalize_backward", lambda *args: asked.append(args[-2]) or inner(*args)
    )
    found = results(spectral_normalize)
    assert asked == [[0, 3], [3]]  # the second for dy, which depends on the weight too
    torch.testing.assert_close(found, results(reference.spectral_normalize), rtol=1e-12, atol=1e-12)


def test_same_bits_every_time():
    group = all_sorts(F32)
    once, again = group.copy(), group.copy()
    assert torch.equal(once.iterate(n_iterations=2), again.iterate(n_iterations=2))
    assert all(torch.equal(a, b) for a, b in zip((*once.us, *once.vs), (*again.us, *again.vs), strict=True))


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_small_norms(backend: str):
    """A norm below eps is replaced by eps, and sigma is still u^T W v."""
    with use_backend(backend):
        small = group_of([(3, 4), (5, 2)])
        check_power_iteration(small, 1, eps=5.0)
        sigma = small.iterate(eps=5.0)
        torch.testing.assert_close(sigma[0], small.us[0] @ small.weights[0] @ small.vs[0])


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("dtype", [F64, BF16], ids=str)
def test_a_weight_of_zeros_is_left_as_it_is_to_the_second_order(dtype: torch.dtype, backend: str):
    """Beside others; with its layout, since columns may lie in another order in memory."""
    group = group_of([(3, 4), (5, 3, 2, 2), (5, 7)], dtype, dims=[0, 1, 0], layouts=["contiguous", "channels_last"] * 2)
    others = Group(*(entries[2:] for entries in group.copy()))
    for weight in group.weights[:2]:
        weight.zero_()
    before = group.copy()
    with use_backend(backend):
        sigma = group.iterate(n_iterations=2, eps=0.0)
        assert sigma[:2].tolist() == [0, 0]
        for after, kept in ((group.us, before.us), (group.vs, before.vs)):
            assert all(torch.equal(a, b) for a, b in zip(after[:2], kept[:2], strict=True))
            assert not torch.equal(after[2], kept[2])
        for given in (None, sigma):
            results = orders(group, given)
            for weight, of_weight in zip(group.weights[:2], results[:2], strict=True):
                assert_is_identity(weight, of_weight)
            others.us[0], others.vs[0] = group.us[2], group.vs[2]
            assert_same(results[2:], orders(others), tolerance=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_where_sigma_is_zero_it_is_no_function_of_the_weight(backend: str):
    """u and v of zeros, and a weight that is none."""
    group = group_of([(3, 4)])
    group.us[0].zero_()
    with use_backend(backend):
        assert_is_identity(group.weights[0], *orders(group))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_pass_as_in_the_reference(value: float):
    group = group_of([(3, 4), (5, 2)])
    group.weights[0][1, 2] = value
    other = group.copy()
    found, expected = group.iterate(), other.iterate(reference.power_iteration)
    results = (found, *group.us, *group.vs), (expected, *other.us, *other.vs)
    for f, e in zip(*results, strict=True):
        torch.testing.assert_close(f, e, equal_nan=True)


def test_registered_power_iteration_passes_opcheck():
    group = group_of([(3, 4), (2, 3, 2, 2)], F32, dims=[0, 1])
    for n_iterations in (0, 1):
        opcheck(torch.ops.fastgan.power_iteration.default, (*group, n_iterations, 1e-12))


@pytest.mark.exhaustive
def test_registered_lists_pass_opcheck():
    group = group_of([(3, 4), (2, 3, 2, 2), (2, 2)], F32, dims=[0, 1, 0])
    _, copies, sigma = torch.ops.fastgan.spectral_normalize.default(*group[:3], None, group.dims)
    group = group.differentiable()
    gs, hs = ([random(w.shape, s + i, F32) for i, w in enumerate(group.weights)][::2] for s in (1, 9))
    opcheck(torch.ops.fastgan.spectral_normalize.default, (*group[:3], None, group.dims))
    arguments = (group.weights, copies, sigma, [0, 2], group.dims)
    opcheck(torch.ops.fastgan.spectral_normalize_backward.default, ([g.requires_grad_() for g in gs], *arguments))
    with torch.no_grad():
        second = ([h.detach() for h in hs], [g.detach() for g in gs], [w.detach() for w in group.weights])
        opcheck(torch.ops.fastgan.spectral_normalize_double_backward.default, (*second, *arguments[1:], [True, False]))


@pytest.mark.parametrize(
    ("backend", "ops"),
    [
        tiered(backend, ops, plain=(backend, ops) == ("aot_eager", "triton"))
        for backend in ("aot_eager", "inductor")
        for ops in ("triton", "reference")
    ],
)
def test_a_training_forward_compiles_whole(backend: str, ops: str):
    shapes = [(3, 4), (2, 3, 2, 2)]

    def forward(weights, us, vs):
        sigma = power_iteration(weights, us, vs, dims=[0, 1])
        first = spectral_normalize(weights, us, vs, sigma, dims=[0, 1])
        power_iteration(weights, us, vs, dims=[0, 1])
        second = spectral_normalize(weights, us, vs, dims=[0, 1])
        return sum((a * b).sin().sum() for a, b in zip(first, second, strict=True)), sigma

    results = []
    for f in (torch.compile(forward, fullgraph=True, backend=backend), forward):
        group = group_of(shapes, F64, dims=[0, 1]).differentiable()
        with use_backend(ops):
            for _ in range(2):
                loss, sigma = f(*group[:3])
            gradients = torch.autograd.grad(loss, group.weights)
        results.append([loss.detach(), sigma, *group.us, *group.vs, *gradients])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


_WIDE, _DEEP = ((256, 144, 3, 3), (128, 64, 4, 4), (32, 2048)), ((128, 64, 4, 4), (64, 128, 4, 4))


@pytest.mark.exhaustive
@counted
@pytest.mark.parametrize(
    ("shapes", "dtype", "dims", "layout"),
    [(_WIDE, F32, 0, "contiguous"), (_WIDE, BF16, 0, "contiguous"),
     (_DEEP, F32, 1, "contiguous"), (_DEEP, F32, 0, "channels_last")],
)  # fmt: skip
def test_traffic_is_little_more_than_the_floor(shapes, dtype, dims, layout):
    group = group_of(shapes, dtype, dims=[dims] * len(shapes), layouts=[layout] * len(shapes)).differentiable()
    total = torch.empty(sum(w.nbytes for w in group.weights), dtype=torch.uint8)  # what is small is so beside all
    assert total.nbytes >= 2**20

    def moved(call: Callable[[], Any], inputs: Sequence[Tensor]) -> tuple[Any, float]:
        with count_traffic() as traffic:
            result = call()
        outputs = [] if isinstance(result, Tensor) else result
        return result, traffic.over_minimum(total, inputs=inputs, outputs=outputs).ratio

    sigma, ratio = moved(group.iterate, group.weights)
    assert 2 <= ratio <= 2 * 1.02
    ys, ratio = moved(lambda: group.normalize(sigma=sigma), group.weights)
    assert 1 <= ratio <= 1.02
    assert 1 <= moved(group.normalize, group.weights)[1] <= 1.5
    dys, hs = ([torch.ones_like(y).requires_grad_() for y in ys] for _ in range(2))
    dws, ratio = moved(
        lambda: torch.autograd.grad(ys, group.weights, dys, create_graph=True), inputs=[*dys, *group.weights]
    )
    assert 1 <= ratio <= 4 / 3 * 1.02  # dy is read twice, W and dW once
    _, ratio = moved(lambda: torch.autograd.grad(dws, [*dys, *group.weights], hs), inputs=[*hs, *dys, *group.weights])
    assert 1 <= ratio <= 8 / 5 * 1.02  # H, dy and W are read twice


WEIGHT = torch.zeros(3, 4)
BAD = [
    ({"weights": []}, "weights is empty"),
    ({"us": []}, "us has 0 entries, expected 1, one for each weight"),
    ({"dims": [0, 0]}, "dims has 2 entries, expected 1"),
    ({"weights": [torch.zeros(3)]}, r"weights\[0\] has shape \[3\], expected two or more dimensions"),
    ({"dims": [2]}, r"dims\[0\] is 2, expected an axis of weights\[0\] of shape \[3, 4\]"),
    ({"dims": [1]}, r"us\[0\] has shape \[3\], expected \[4\] for weights\[0\] of shape \[3, 4\]"),
    ({"vs": [torch.zeros(4, 1)]}, r"vs\[0\] has shape \[4, 1\], expected \[4\]"),
    ({"weights": [WEIGHT.int()]}, r"weights\[0\] is torch.int32, expected float16"),
    ({"us": [torch.zeros(3, dtype=torch.complex64)]}, r"us\[0\] is torch.complex64"),
    ({"vs": [torch.zeros(4, dtype=BF16)]}, r"vs\[0\] is torch.bfloat16 and us\[0\] torch.float32, expected one type"),
    ({"us": [torch.zeros(3, device="meta")]}, r"us\[0\] is on meta and weights\[0\] on cpu, expected one device"),
    (
        {"weights": [WEIGHT, WEIGHT.half()], "us": [torch.zeros(3)] * 2, "vs": [torch.zeros(4)] * 2},
        r"weights\[1\] is torch.float16 and weights\[0\] torch.float32, expected one type",
    ),
    (
        {"weights": [torch.zeros(1, device="meta").expand(2**27, 2)], "us": [torch.zeros(2**27, device="meta")],
         "vs": [torch.zeros(2, device="meta")]},
        r"expected fewer than 2\^27 rows",
    ),
]  # fmt: skip
OF_ITERATION = [
    ({"n_iterations": -1}, "n_iterations is -1, expected at least 0"),
    ({"eps": math.nan}, "eps is nan, expected a finite number of at least 0"),
    ({"us": [torch.zeros(6)[::2]]}, r"us\[0\] has stride 2, expected contiguous"),
    ({"us": "same", "weights": [WEIGHT] * 2, "vs": [torch.zeros(4), torch.zeros(4)]}, r"us\[1\] is us\[0\]"),
]
OF_NORMALIZATION = [
    ({"sigma": torch.zeros(2)}, r"sigma has shape \[2\], expected \[1\] for 1 weights"),
    ({"sigma": torch.zeros(1).int()}, "sigma is torch.int32"),
    ({"sigma": torch.zeros(1, device="meta")}, r"sigma is on meta and weights\[0\] on cpu"),
]


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        *((power_iteration, *bad) for bad in BAD + OF_ITERATION),
        *((spectral_normalize, *bad) for bad in BAD + OF_NORMALIZATION),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_bad_input_is_refused_in_one_sentence(op, arguments: dict, message: str, backend: str):
    default = {"weights": [WEIGHT], "us": [torch.zeros(3)], "vs": [torch.zeros(4)]}
    if arguments.get("us") == "same":
        arguments = {**arguments, "us": default["us"] * 2}
    with use_backend(backend), pytest.raises((ValueError, TypeError), match=f"{op.__name__}: .*{message}"):
        op(**{**default, **arguments})
