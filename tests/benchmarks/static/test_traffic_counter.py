"""The traffic counter sees what it is there to see: waste, second reads, copies by torch; and counts no more."""

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder

from benchmarks.static.traffic import OverMinimum, count_traffic
from fastgan_kernels.ops.spectral import pointers

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the counter works in the interpreter")


@triton.jit
def _copy(x_ptr, y_ptr, elements, first, BLOCK: tl.constexpr):
    offset = first + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offset < elements
    tl.store(y_ptr + offset, tl.load(x_ptr + offset, mask=mask, other=0.0), mask=mask)


@triton.jit
def _copy_strips(x_ptr, y_ptr, rows, cols, WIDTH: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    row = tl.arange(0, BLOCK_ROWS)[:, None]
    offset = row * cols + tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(y_ptr + offset, tl.load(x_ptr + offset, mask=row < rows, other=0.0), mask=row < rows)


@triton.jit
def _copy_two_passes(x_ptr, y_ptr, elements, BLOCK: tl.constexpr):
    offset = tl.arange(0, BLOCK)
    total = tl.sum(tl.load(x_ptr + offset))
    tl.store(y_ptr + offset, tl.load(x_ptr + offset) + total)


@triton.jit
def _add_bias(x_ptr, bias_ptr, y_ptr, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    bias = tl.load(bias_ptr + tl.arange(0, BLOCK))
    tl.store(y_ptr + offset, tl.load(x_ptr + offset) + bias)


@triton.jit
def _accumulate(x_ptr, y_ptr):
    tl.atomic_add(y_ptr, tl.load(x_ptr))


@triton.jit
def _copy_by_table(sources_ptr, targets_ptr, BLOCK: tl.constexpr):
    source = tl.load(sources_ptr + tl.program_id(0)).to(tl.pointer_type(tl.float32))
    target = tl.load(targets_ptr + tl.program_id(0)).to(tl.pointer_type(tl.float32))
    tl.store(target + tl.arange(0, BLOCK), tl.load(source + tl.arange(0, BLOCK)))


def copied(x, *, elements=None, first=0, block=256):
    y = torch.zeros_like(x)
    elements = x.numel() if elements is None else elements
    with count_traffic() as traffic:
        _copy[(triton.cdiv(elements - first, block),)](x, y, elements, first, BLOCK=block)
    return y, traffic


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_copy_moves_each_byte_once(dtype):
    x = torch.randn(4096).to(dtype)
    y, traffic = copied(x)
    assert torch.equal(x, y)
    (launch,) = traffic.launches
    assert launch.kernel == "_copy"
    assert launch.programs == 16
    assert launch.tensors["x_ptr"].loaded == launch.tensors["y_ptr"].stored == x.nbytes
    assert launch.tensors["x_ptr"].stored == launch.tensors["y_ptr"].loaded == 0
    assert traffic.over_minimum(x, inputs=[x], outputs=[y]) == OverMinimum(1.0, 0.0)


def test_sectors_are_those_of_the_tensor_wherever_it_lies_and_masked_lanes_move_nothing():
    x = torch.randn(4096 + 8)
    for first in range(8):  # one of eight views is 32-byte aligned
        _, traffic = copied(x[first : first + 4096])
        assert traffic.loaded == 4 * 4096
    _, traffic = copied(x[:4096], elements=100)
    assert (traffic.loaded, traffic.stored) == (416, 416)  # 400 bytes are 13 sectors
    # Elements 1 to 256, of 4 bytes: sectors 0 to 32.
    _, traffic = copied(x[:4096], elements=257, first=1)
    assert traffic.loaded == 33 * 32


@pytest.mark.parametrize(("width", "waste"), [(1, 8), (2, 4), (4, 2), (8, 1), (16, 1)])
def test_narrow_strips_cost_whole_sectors(width, waste):
    x = torch.randn(64, 32)
    y = torch.empty_like(x)
    with count_traffic() as traffic:
        _copy_strips[(32 // width,)](x, y, 64, 32, WIDTH=width, BLOCK_ROWS=64)
    assert torch.equal(x, y)
    assert traffic.loaded == traffic.stored == waste * x.nbytes
    assert traffic.over_minimum(x, inputs=[x], outputs=[y]).ratio == waste


@pytest.mark.parametrize(("per", "loads", "ratio"), [("access", 2, 1.5), ("program", 1, 1)])
def test_a_second_read_is_counted_but_one_by_the_same_program_can_be_left_out(per, loads, ratio):
    x = torch.randn(1024)
    y = torch.empty_like(x)
    with count_traffic(per) as traffic:
        _copy_two_passes[(1,)](x, y, 1024, BLOCK=1024)
    assert (traffic.loaded, traffic.stored) == (loads * x.nbytes, x.nbytes)
    assert traffic.over_minimum(x, inputs=[x], outputs=[y]).ratio == ratio


def test_what_another_program_has_read_counts_again():
    x, bias = torch.randn(4, 256), torch.randn(256)
    y = torch.empty_like(x)
    with count_traffic("program") as traffic:
        for _ in range(2):
            _add_bias[(4,)](x, bias, y, BLOCK=256)
    assert [launch.tensors["bias_ptr"].loaded for launch in traffic.launches] == [4 * bias.nbytes] * 2
    assert (traffic.loaded, traffic.stored) == (2 * (x.nbytes + 4 * bias.nbytes), 2 * x.nbytes)


@pytest.mark.parametrize(("rows", "ratio"), [(16, (16 + 16 + 16) / (16 + 16 + 1)), (17, 1.0)])
def test_an_operand_below_a_sixteenth_counts_once(rows, ratio):
    x, bias = torch.randn(rows, 256), torch.randn(256)
    y = torch.empty_like(x)
    with count_traffic() as traffic:
        _add_bias[(rows,)](x, bias, y, BLOCK=256)
    assert traffic.launches[0].tensors["bias_ptr"].loaded == rows * bias.nbytes
    assert traffic.over_minimum(x, inputs=[x, bias], outputs=[y]) == OverMinimum(ratio, 0.0)


def test_what_is_neither_input_nor_output_counts_apart():
    x = torch.randn(1024)
    with count_traffic() as traffic:
        hidden, y = torch.empty_like(x), torch.empty_like(x)
        _copy[(4,)](x, hidden, 1024, 0, BLOCK=256)
        _copy[(4,)](hidden, y, 1024, 0, BLOCK=256)
    assert [launch.kernel for launch in traffic.launches] == ["_copy", "_copy"]
    assert traffic.over_minimum(x, inputs=[x], outputs=[y]) == OverMinimum(1.0, 1.0)


@pytest.mark.parametrize(
    ("work", "launches", "loaded", "stored"),
    [
        (lambda x: x.t().reshape(32, 64).contiguous(), ["aten.clone.default"], 1, 1),
        (lambda x: torch.empty_like(x).view(-1)[:10].unsqueeze(0), [], 0, 0),
        (lambda x: x.zero_().add_(1), ["aten.zero_.default", "aten.add_.Tensor"], 1, 2),
        (lambda x: (torch.zeros_like(x), x.new_zeros(0)), ["aten.zeros_like.default"], 0, 1),
        (lambda x: x.new_full(x.shape, 1.0), ["aten.new_full.default"], 0, 1),
    ],
)
def test_what_torch_copies_and_writes_is_counted_but_not_views_and_allocations(work, launches, loaded, stored):
    x = torch.randn(64, 32)
    with count_traffic() as traffic:
        work(x)
    assert [launch.kernel for launch in traffic.launches] == launches
    assert (traffic.loaded, traffic.stored) == (loaded * x.nbytes, stored * x.nbytes)


def test_atomics_are_refused():
    x = torch.ones(1)
    with pytest.raises(Exception, match="atomics"), count_traffic():
        _accumulate[(1,)](x, torch.zeros(1))


def test_an_access_outside_the_tensors_is_refused():
    x = torch.randn(2048)[:1024]
    with pytest.raises(Exception, match="outside any one of its tensors"), count_traffic():
        _copy[(8,)](x, torch.empty(2048), 2048, 0, BLOCK=256)


def test_the_interpreter_is_left_as_it_was():
    before = InterpretedFunction.run, InterpreterBuilder.create_masked_load, InterpreterBuilder.create_atomic_rmw
    with pytest.raises(KeyError), count_traffic():
        raise KeyError
    assert before == (
        InterpretedFunction.run,
        InterpreterBuilder.create_masked_load,
        InterpreterBuilder.create_atomic_rmw,
    )


def test_what_a_table_points_to_is_counted():
    """The second call is given the tables of the first, and parts of a written table know their share of it."""
    sources, targets = (torch.randn(3, 256).unbind() for _ in range(2))
    for _ in range(2):
        with count_traffic() as traffic:
            kept, written = pointers.uploaded_pointers(sources), pointers.written_pointers([*targets, *sources])
            _copy_by_table[(3,)](kept, written[:3], BLOCK=256)
        launch = traffic.launches[-1]
        assert launch.tensors["sources_ptr"].loaded == launch.tensors["targets_ptr"].loaded == 3 * 32
        for i in range(3):
            assert launch.tensors[f"*sources_ptr[{i}]"].loaded == 1024
            assert launch.tensors[f"*targets_ptr[{i}]"].stored == 1024
            assert torch.equal(sources[i], targets[i])
        assert launch.tensors.keys() == {
            "sources_ptr", "targets_ptr", *(f"*{name}_ptr[{i}]" for name in ("sources", "targets") for i in range(3))
        }  # fmt: skip
        assert traffic.over_minimum(torch.empty(1), inputs=sources, outputs=targets).ratio == 1.0


def test_a_pointer_outside_of_the_tables_is_refused():
    x, y = torch.randn(256), torch.empty(256)
    tables = [torch.tensor([t.data_ptr()]) for t in (x, y)]
    with pytest.raises(Exception, match="outside any one of its tensors"), count_traffic():
        _copy_by_table[(1,)](*tables, BLOCK=256)
