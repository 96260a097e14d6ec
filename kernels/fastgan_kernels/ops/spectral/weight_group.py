"""The weights of many layers as one problem: how each lies in memory, and which program takes which part of it.

A weight of any shape is a matrix with the axis ``dim`` as its rows and the others, in their order, as its columns. Its
columns are a runs of b neighbors: row r of column (a, b), whose number is a * col_a + b * col_b, lies at
a * stride_a + r * stride_row + b * stride_b.

    linear and convolution weights                  one run, of all columns
    transposed convolutions (dim 1)                 a run for each input channel, of the places in the kernel
    channels-last convolutions                      a run for each place in the kernel, of the input channels
    a transposed matrix                             one run with a stride; rows are neighbors
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels.checks import check_operand
from fastgan_kernels.launch import decided_once
from fastgan_kernels.ops.spectral import pointers
from fastgan_kernels.ops.spectral.pointers import kept_by_tensors, prepared_once, upload
from fastgan_kernels.tiling import cdiv

# Rows and columns of a tile, of 16 elements for each thread, by the kind of a layer: long runs, short runs, rows as
# neighbors in memory; of each the even kind, whose rows and runs all start at multiples of 16 bytes, and the odd. Then
# the same of float64, whose elements take two registers.
_BLOCKS = ((32, 128), (32, 128), (256, 16), (256, 16), (128, 32), (128, 32))
BLOCKS = tl.constexpr((*_BLOCKS, *((rows // 2, cols) for rows, cols in _BLOCKS)))
KINDS = tl.constexpr(len(BLOCKS.value))
NUM_WARPS = 8
_LONG_RUN = 64
_MOST_ROWS, _MOST_COLS = 2**27, 2**30


class Layer(NamedTuple):
    """A weight as a matrix in memory; ``run`` is the length of a run."""

    rows: int
    cols: int
    run: int
    stride_a: int
    stride_row: int
    stride_b: int
    col_a: int
    col_b: int
    kind: int

    @property
    def row_tiles(self) -> int:
        return cdiv(self.rows, BLOCKS.value[self.kind][0])

    @property
    def col_tiles(self) -> int:
        return self.cols // self.run * cdiv(self.run, BLOCKS.value[self.kind][1])


def matrix_shape(weight: Tensor, dim: int) -> tuple[int, int]:
    rows = weight.shape[dim]
    return rows, math.prod(weight.shape) // rows


def dense_weight(weight: Tensor, dim: int, *, like: Tensor | None = None) -> Tensor:
    """``weight`` itself if kernels read it without a copy, else a contiguous copy; with ``like``, in its strides."""
    if like is not None:
        same = weight.stride() == like.stride() or all(
            n == 1 or s == t for n, s, t in zip(like.shape, weight.stride(), like.stride(), strict=True)
        )
        return weight if same else torch.empty_like(like).copy_(weight)
    return weight if _is_readable_once(weight.shape, weight.stride(), dim) else weight.contiguous()


def empty_weight(weight: Tensor, dim: int) -> Tensor:
    """Uninitialized memory of the shape, type and strides of ``dense_weight(weight, dim)``."""
    readable = _is_readable(weight.shape, weight.stride(), dim)
    return torch.empty_like(weight, memory_format=torch.preserve_format if readable else torch.contiguous_format)


def _is_readable(shape: Sequence[int], strides: Sequence[int], dim: int) -> bool:
    return _is_dense(shape, strides) and _runs(shape, strides, dim) is not None


_is_readable_once = decided_once(_is_readable)  # not for the symbolic shapes of traced weights


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    expected = 1
    for stride, size in sorted((t, s) for s, t in zip(shape, strides, strict=True) if s != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _runs(shape: Sequence[int], strides: Sequence[int], dim: int) -> tuple[int, int, int, int, int] | None:
    """run, stride_a, stride_b, col_a and col_b; ``None`` where the columns do not lie so."""
    groups: list[tuple[int, int]] = []
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        if axis == dim or size == 1:
            continue
        if groups and groups[-1][1] == size * stride:
            groups[-1] = groups[-1][0] * size, stride
        else:
            groups.append((size, stride))
    rows_are_neighbors = strides[dim] == 1 and shape[dim] > 1
    match groups:
        case []:
            return 1, 0, 1, 0, 1
        case [(size, stride)] if stride == 1 or rows_are_neighbors:
            return size, 0, stride, 0, 1
        case [(_, outer_stride), (inner, inner_stride)] if inner_stride == 1 or rows_are_neighbors:
            return inner, outer_stride, inner_stride, inner, 1
        case [(outer, 1), (inner, inner_stride)]:
            return outer, inner_stride, 1, 1, inner
    return None


@functools.lru_cache(maxsize=4096)
def as_layer(
    shape: tuple[int, ...], strides: tuple[int, ...], dim: int, *, element_size: int, is_aligned: bool
) -> Layer:
    """Describes a dense weight; ``is_aligned``: all tensors with its strides start at multiples of 16 bytes."""
    rows = shape[dim]
    stride_row = strides[dim] if rows > 1 else 0
    run, stride_a, stride_b, col_a, col_b = _runs(shape, strides, dim)
    if stride_b != 1:
        kind, starts = 4, (rows, stride_a, stride_b)
    else:
        kind, starts = 0 if run >= _LONG_RUN else 2, (run, stride_a, stride_row)
    kind += not (is_aligned and all(n * element_size % 16 == 0 for n in starts))
    kind += 6 if element_size == 8 else 0
    return Layer(rows, math.prod(shape) // rows, run, stride_a, stride_row, stride_b, col_a, col_b, kind)


@dataclass(frozen=True)
class WeightGroup:
    """The tables of some layers on the device.

    Attributes:
        kinds: bits of the kinds of tiles that occur.
        layers: [L, fields]; the fields are named below.
        row_items: [programs, 5] for passes along rows: layer, row tile, first column tile and the one after the last,
            chunk.
        col_items: [programs, 5] for passes along columns: layer, column tile, first row tile and the one after the
            last, chunk.
        row_partials, col_partials: how many partial sums such a pass writes, one per row (column) and chunk of it.
    """

    kinds: int
    layers: Tensor
    row_items: Tensor
    col_items: Tensor
    row_partials: int
    col_partials: int


# Fields of the table of layers.
ROWS, RUN, STRIDE_A, STRIDE_ROW, STRIDE_B, COL_A, COL_B, KIND = (tl.constexpr(i) for i in range(8))
COLS, U_START, V_START, ORDINAL, FIRST_ITEM, LAST_ITEM = (tl.constexpr(i) for i in range(8, 14))
ROW_CHUNKS, ROW_PARTIALS, COL_CHUNKS, COL_PARTIALS = (tl.constexpr(i) for i in range(14, 18))
FIELDS = tl.constexpr(18)
_ITEM_FIELDS = tl.constexpr(5)


class Tables(NamedTuple):
    """What kernels need of the selected layers of dense weights, but the tensors that are new at each call.

    Attributes:
        group: the work lists.
        weights, us, vs: the pointers of the selected weights and of all u and v, if there are any.
        packed: elements of a buffer that holds u and v of every layer, v in the order of the columns in memory.
    """

    group: WeightGroup
    weights: Tensor
    us: Tensor | None
    vs: Tensor | None
    packed: int


def checked_tables(
    check: Callable[..., Any], weights: list[Tensor], us: list[Tensor], vs: list[Tensor], dims: list[int]
) -> tuple[Tables, list[Tensor], list[Tensor], list[Tensor]]:
    """The tables of all layers, and the tensors that they point to: copies of those that kernels cannot read.

    Raises:
        ValueError, TypeError: as ``check(weights, us, vs, dims)`` does, which is called where a tensor is not known.
    """
    tables = _checked_tables(weights, us, vs, check, tuple(dims))
    if tables is None:
        weights = [dense_weight(weight, dim) for weight, dim in zip(weights, dims, strict=True)]
        us, vs = [u.contiguous() for u in us], [v.contiguous() for v in vs]
        tables = _checked_tables(weights, us, vs, check, tuple(dims))
    return tables, weights, us, vs


@kept_by_tensors
def _checked_tables(
    weights: list[Tensor], us: list[Tensor], vs: list[Tensor], check: Callable[..., Any], dims: tuple[int, ...]
) -> Tables | None:
    """``None`` where a tensor must be copied."""
    check(weights, us, vs, dims)
    readable = (_is_readable(weight.shape, weight.stride(), dim) for weight, dim in zip(weights, dims, strict=True))
    if not all(readable) or not all(vector.is_contiguous() for vector in (*us, *vs)):
        return None
    return tables_of(weights, us, vs, dims, tuple(range(len(weights))), ())


@kept_by_tensors
def tables_of(
    weights: list[Tensor], us: list[Tensor], vs: list[Tensor], dims: tuple[int, ...], selected: tuple[int, ...],
    misaligned: tuple[int, ...],
) -> Tables:  # fmt: skip
    """The tables of the ``selected`` of dense ``weights``.

    ``misaligned`` are those of them along with which other tensors that do not start at 16 bytes are read or written.
    """
    layers = tuple(
        as_layer(
            weight.shape,
            weight.stride(),
            dim,
            element_size=weight.element_size(),
            is_aligned=weight.data_ptr() % 16 == 0 and i not in misaligned,
        )
        for i, (weight, dim) in enumerate(zip(weights, dims, strict=True))
    )
    u_table, v_table = (pointers.uploaded_pointers(vectors) if vectors else None for vectors in (us, vs))
    return Tables(
        _tables_of(weights[0].device, layers, selected),
        pointers.uploaded_pointers([weights[i] for i in selected]),
        u_table,
        v_table,
        sum(n for weight, dim in zip(weights, dims, strict=True) for n in matrix_shape(weight, dim)),
    )


@prepared_once
def _tables_of(device: torch.device, layers: tuple[Layer, ...], selected: tuple[int, ...]) -> WeightGroup:
    """Cuts every layer into the parts that programs take.

    A row has about 16 chunks and a column 4, so few that one wide load reads their partial sums. A chunk of a column
    has at least 128 rows, so that the partial sums stay near 1% of the weight. At most about 1,024 programs share the
    rows of a layer, since each may read the partial sums of all of them.
    """
    starts, position = [], 0
    for layer in layers:
        starts.append((position, position + layer.rows))
        position += layer.rows + layer.cols
    fields, row_items, col_items = [], [], []
    kinds = row_partials = col_partials = 0
    for i, ordinal in enumerate(selected):
        layer = layers[ordinal]
        kinds |= 1 << layer.kind
        row_step = max(cdiv(layer.col_tiles, 16), min(cdiv(layer.row_tiles * layer.col_tiles, 1024), layer.col_tiles))
        col_step = min(max(cdiv(128, BLOCKS.value[layer.kind][0]), cdiv(layer.row_tiles, 4)), 16)
        row_chunks, col_chunks = cdiv(layer.col_tiles, row_step), cdiv(layer.row_tiles, col_step)
        first_item = len(row_items)
        for row_tile in range(layer.row_tiles):
            for chunk in range(row_chunks):
                tile = chunk * row_step
                row_items.append((i, row_tile, tile, min(tile + row_step, layer.col_tiles), chunk))
        for tile in range(layer.col_tiles):
            for chunk in range(col_chunks):
                row_tile = chunk * col_step
                col_items.append((i, tile, row_tile, min(row_tile + col_step, layer.row_tiles), chunk))
        rows, cols, *geometry = layer
        chunks = row_chunks, row_partials, col_chunks, col_partials
        fields.append((rows, *geometry, cols, *starts[ordinal], ordinal, first_item, len(row_items), *chunks))
        row_partials += row_chunks * layer.rows
        col_partials += col_chunks * layer.cols
    tables = [upload(device, table) for table in (fields, row_items, col_items)]
    return WeightGroup(kinds, *tables, row_partials, col_partials)


def check_layers(
    op: str, weights: Sequence[Tensor], us: Sequence[Tensor], vs: Sequence[Tensor], dims: Sequence[int] | None
) -> list[int]:
    """The ``dims`` of the weights, from 0 on, after a check of all four lists."""
    if not weights:
        raise ValueError(f"{op}: weights is empty, expected at least one weight")
    dims = [0] * len(weights) if dims is None else list(dims)
    for name, given in (("us", us), ("vs", vs), ("dims", dims)):
        if len(given) != len(weights):
            raise ValueError(f"{op}: {name} has {len(given)} entries, expected {len(weights)}, one for each weight")
    for i, (weight, u, v) in enumerate(zip(weights, us, vs, strict=True)):
        shape = list(weight.shape)
        if weight.dim() < 2 or 0 in shape:
            raise ValueError(f"{op}: weights[{i}] has shape {shape}, expected two or more dimensions and no empty one")
        if not -weight.dim() <= dims[i] < weight.dim():
            raise ValueError(f"{op}: dims[{i}] is {dims[i]}, expected an axis of weights[{i}] of shape {shape}")
        dims[i] %= weight.dim()
        rows, cols = matrix_shape(weight, dims[i])
        if rows >= _MOST_ROWS or max(cols, max(weight.stride()) // 2) >= _MOST_COLS:
            raise ValueError(
                f"{op}: weights[{i}] of shape {shape} and strides {list(weight.stride())} has {rows} rows and {cols}"
                " columns, expected fewer than 2^27 rows, 2^30 columns and strides below 2^31"
            )
        name = f"weights[{i}]"
        check_operand(op, name, weight, weight.shape, weights[0], name_of_x="weights[0]")
        _check_type(op, name, weight, "weights[0]", weights[0])
        for vector_name, vector, size in ((f"us[{i}]", u, rows), (f"vs[{i}]", v, cols)):
            check_operand(op, vector_name, vector, (size,), weight, name_of_x=name)
            _check_type(op, vector_name, vector, "us[0]", us[0])
    return dims


def _check_type(op: str, name: str, tensor: Tensor, first_name: str, first: Tensor) -> None:
    if tensor.dtype != first.dtype:
        raise TypeError(f"{op}: {name} is {tensor.dtype} and {first_name} {first.dtype}, expected one type")


_TRITON_TYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


def triton_dtype(dtype: torch.dtype) -> tl.dtype:
    return _TRITON_TYPES[dtype]


class Item(NamedTuple):
    """In kernels, the work item of a program: a layer, the pointer to its row in the table of layers, a tile across the
    pass, the first tile along the pass and the one after the last, and the number of this chunk of tiles."""

    layer: Any
    layer_ptr: Any
    tile: Any
    start: Any
    stop: Any
    chunk: Any


@triton.jit
def load_entry(ptr, END: tl.constexpr, MULTIPLE_OF: tl.constexpr = 1):
    """An entry of a table, at least 0 and less than END: what the compiler knows of offsets that are made of it.

    What it multiplies is said here, since what is said of the result of a function is lost where that is inlined.
    """
    value = tl.multiple_of(tl.load(ptr), MULTIPLE_OF)
    tl.assume((value >= 0) & (value < END))
    return value


@triton.jit
def work_item(items_ptr, layers_ptr, OF_ROWS: tl.constexpr):
    """The work item of this program."""
    MOST_FIRST: tl.constexpr = 2**22 if OF_ROWS else 2**30
    MOST_STEPS: tl.constexpr = 2**30 if OF_ROWS else 2**22
    item_ptr = items_ptr + tl.program_id(0) * _ITEM_FIELDS
    # The host checks that rows fit 27 bits, columns 30 and strides 31; so offsets fit 64.
    layer = load_entry(item_ptr, 2**20).to(tl.int32)
    first = load_entry(item_ptr + 1, MOST_FIRST).to(tl.int32)
    start = load_entry(item_ptr + 2, MOST_STEPS).to(tl.int32)
    stop = load_entry(item_ptr + 3, MOST_STEPS).to(tl.int32)
    return Item(layer, layers_ptr + layer * FIELDS, first, start, stop, load_entry(item_ptr + 4, 2**30))


@triton.jit
def geometry_of(layer_ptr, LAYER_KIND: tl.constexpr, VECTOR: tl.constexpr):
    """Rows, and what :func:`tile_of_weight` needs of a layer; VECTOR is how many elements are 16 bytes."""
    EVEN: tl.constexpr = VECTOR if LAYER_KIND % 2 == 0 else 1
    EVEN_ROWS: tl.constexpr = EVEN if LAYER_KIND % 6 >= 4 else 1
    EVEN_RUNS: tl.constexpr = EVEN if LAYER_KIND % 6 < 4 else 1
    rows = load_entry(layer_ptr + ROWS, 2**30, EVEN_ROWS).to(tl.int32)
    run = load_entry(layer_ptr + RUN, 2**30, EVEN_RUNS).to(tl.int32)
    stride_a = load_entry(layer_ptr + STRIDE_A, 2**31, EVEN)
    stride_row = load_entry(layer_ptr + STRIDE_ROW, 2**31, EVEN_RUNS)
    stride_b = load_entry(layer_ptr + STRIDE_B, 2**31, EVEN_ROWS)
    col_a = load_entry(layer_ptr + COL_A, 2**30)
    col_b = load_entry(layer_ptr + COL_B, 2**30)
    return rows, run, stride_a, stride_row, stride_b, col_a, col_b


@triton.jit
def tile_of_weight(row, tile, geometry, LAYER_KIND: tl.constexpr):
    """Offsets of a tile and the mask of its elements; numbers of its columns, their places in memory order, and their
    mask."""
    rows, run, stride_a, stride_row, stride_b, col_a, col_b = geometry
    BLOCK_COLS: tl.constexpr = BLOCKS[LAYER_KIND][1]
    tiles_of_run = (run + BLOCK_COLS - 1) // BLOCK_COLS
    a = (tile // tiles_of_run).to(tl.int64)
    b = tile % tiles_of_run * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    if LAYER_KIND % 6 >= 4:
        offset = (a * stride_a + b * stride_b)[None, :] + row[:, None]
    else:
        offset = (a * stride_a + row * stride_row)[:, None] + b[None, :]
    return offset, (row < rows)[:, None] & (b < run)[None, :], a * col_a + b * col_b, a * run + b, b < run


@triton.jit
def column_at(place, layer_ptr):
    """The numbers of the columns at ``place`` in the order of memory."""
    run = load_entry(layer_ptr + RUN, 2**30).to(tl.int32)
    col_a = load_entry(layer_ptr + COL_A, 2**30)
    col_b = load_entry(layer_ptr + COL_B, 2**30)
    return (place // run) * col_a + (place % run) * col_b


@triton.jit
def weight_pointer(table_ptr, layer, TYPE: tl.constexpr, LAYER_KIND: tl.constexpr):
    """The pointer to the weight of a layer, or to another tensor in its strides, from a table."""
    pointer = tl.load(table_ptr + layer).to(tl.pointer_type(TYPE))
    if LAYER_KIND % 2 == 0:
        pointer = tl.multiple_of(pointer, 16)
    return pointer
