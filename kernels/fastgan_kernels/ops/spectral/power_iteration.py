"""Power iteration of the weights of many layers at once (Miyato et al. 2018, algorithm 1).

For every weight, as a matrix W, and its vectors u and v, n times in the order of torch's parametrization,

    u = W v / |W v|,    v = W^T u / |W^T u|,    sigma = u^T W v = |W^T u|

where a norm below eps is replaced by eps; then sigma is |W^T u|^2 / eps. Where a norm is 0, as for a weight of zeros,
the vector stays as it was: a vector of zeros would remain zero when the weight no longer is.

An iteration is four launches for any number of layers: sums over parts of W v; their norm and u; sums over parts of
W^T u; their norm, v and sigma.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.autograd import on_the_device_of_its_tensors
from fastgan_kernels.backend import runs_triton
from fastgan_kernels.checks import check_eps
from fastgan_kernels.launch import Launch, decided_once
from fastgan_kernels.ops.spectral.normalize import products_launch, sum_of_items
from fastgan_kernels.ops.spectral.weight_group import (
    BLOCKS,
    COL_CHUNKS,
    COL_PARTIALS,
    COLS,
    FIELDS,
    KIND,
    KINDS,
    NUM_WARPS,
    ROW_CHUNKS,
    ROW_PARTIALS,
    ROWS,
    U_START,
    V_START,
    check_layers,
    checked_tables,
    column_at,
    geometry_of,
    load_entry,
    tile_of_weight,
    triton_dtype,
    weight_pointer,
    work_item,
)
from fastgan_kernels.precision import compute_dtype, triton_compute_dtype


@triton.jit
def _add_columns(
    weights_ptr, v_ptr, partials_ptr, item,
    GIVEN: tl.constexpr, LAYER_KIND: tl.constexpr, WEIGHT: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """W v over the column tiles start to stop of a block of rows."""
    BLOCK_ROWS: tl.constexpr = BLOCKS[LAYER_KIND][0]
    geometry = geometry_of(item.layer_ptr, LAYER_KIND, 128 // WEIGHT.primitive_bitwidth)
    w_ptr = weight_pointer(weights_ptr, item.layer, WEIGHT, LAYER_KIND)
    row = item.tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    of_lane = tl.full([BLOCK_ROWS, BLOCKS[LAYER_KIND][1]], 0.0, COMPUTE)
    for tile in range(item.start, item.stop):
        offset, mask, col, place, exists = tile_of_weight(row, tile, geometry, LAYER_KIND)
        v = tl.load(v_ptr + (col if GIVEN else place), mask=exists, other=0.0).to(COMPUTE)
        of_lane += tl.load(w_ptr + offset, mask=mask, other=0.0).to(COMPUTE) * v[None, :]
    rows = geometry[0]
    first = load_entry(item.layer_ptr + ROW_PARTIALS, 2**60)
    tl.store(partials_ptr + (first + item.chunk * rows + row), tl.sum(of_lane, axis=1), mask=row < rows)


@triton.jit
def _times_v_kernel(
    items_ptr, layers_ptr, weights_ptr, vs_ptr, vectors_ptr, partials_ptr,
    OCCURRING: tl.constexpr, WEIGHT: tl.constexpr, STORED: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Parts of W v. v is the caller's, or, without ``vs_ptr``, that of the iteration before."""
    item = work_item(items_ptr, layers_ptr, True)
    if vs_ptr is not None:
        v_ptr = tl.load(vs_ptr + item.layer).to(tl.pointer_type(STORED))
    else:
        v_start = load_entry(item.layer_ptr + V_START, 2**60)
        v_ptr = vectors_ptr + v_start
    kind = tl.load(item.layer_ptr + KIND)
    for K in tl.static_range(KINDS):
        if OCCURRING & (1 << K):  # noqa: SIM102 - at compile time
            if kind == K:
                _add_columns(weights_ptr, v_ptr, partials_ptr, item, vs_ptr is not None, K, WEIGHT, COMPUTE)


@triton.jit
def _add_rows(
    weights_ptr, u_ptr, partials_ptr, item,
    LAYER_KIND: tl.constexpr, WEIGHT: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """W^T u over the row tiles start to stop of a tile of columns."""
    BLOCK_ROWS: tl.constexpr = BLOCKS[LAYER_KIND][0]
    geometry = geometry_of(item.layer_ptr, LAYER_KIND, 128 // WEIGHT.primitive_bitwidth)
    w_ptr = weight_pointer(weights_ptr, item.layer, WEIGHT, LAYER_KIND)
    of_lane = tl.full([BLOCK_ROWS, BLOCKS[LAYER_KIND][1]], 0.0, COMPUTE)
    for row_tile in range(item.start, item.stop):
        row = row_tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        offset, mask, _, _, _ = tile_of_weight(row, item.tile, geometry, LAYER_KIND)
        u = tl.load(u_ptr + row, mask=row < geometry[0], other=0.0)
        of_lane += tl.load(w_ptr + offset, mask=mask, other=0.0).to(COMPUTE) * u[:, None]
    _, _, _, place, exists = tile_of_weight(tl.arange(0, BLOCK_ROWS), item.tile, geometry, LAYER_KIND)
    first = load_entry(item.layer_ptr + COL_PARTIALS, 2**60)
    cols = load_entry(item.layer_ptr + COLS, 2**30)
    tl.store(partials_ptr + (first + item.chunk * cols + place), tl.sum(of_lane, axis=0), mask=exists)


@triton.jit
def _times_u_kernel(
    items_ptr, layers_ptr, weights_ptr, vectors_ptr, partials_ptr,
    OCCURRING: tl.constexpr, WEIGHT: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Parts of W^T u."""
    item = work_item(items_ptr, layers_ptr, False)
    u_start = load_entry(item.layer_ptr + U_START, 2**60)
    kind = tl.load(item.layer_ptr + KIND)
    for K in tl.static_range(KINDS):
        if OCCURRING & (1 << K):  # noqa: SIM102 - at compile time
            if kind == K:
                _add_rows(weights_ptr, vectors_ptr + u_start, partials_ptr, item, K, WEIGHT, COMPUTE)


@triton.jit
def _sum_of_chunks(
    partials_ptr, element, size, chunks, COMPUTE: tl.constexpr, BLOCK_CHUNKS: tl.constexpr, BLOCK: tl.constexpr
):
    total = tl.full([BLOCK_CHUNKS, BLOCK], 0.0, COMPUTE)
    for start in range(0, chunks, BLOCK_CHUNKS):
        chunk = start + tl.arange(0, BLOCK_CHUNKS)
        mask = (chunk < chunks)[:, None] & (element < size)[None, :]
        total += tl.load(partials_ptr + (chunk.to(tl.int64)[:, None] * size + element[None, :]), mask=mask, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _normalize_kernel(
    layers_ptr, partials_ptr, vectors_ptr, stored_ptr, sigma_ptr,
    EPS: tl.constexpr, SIZE: tl.constexpr, CHUNKS: tl.constexpr, PARTIALS: tl.constexpr, START: tl.constexpr,
    STORED: tl.constexpr, COMPUTE: tl.constexpr, BLOCK_CHUNKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The vector u or v of a layer from its parts; for v, with ``sigma_ptr``, sigma from its norm.

    SIZE, CHUNKS, PARTIALS and START are the fields of the table of layers with the length of the vector, the number and
    first of its partial sums, and where it begins in ``vectors_ptr``.
    """
    layer = tl.program_id(0)
    layer_ptr = layers_ptr + layer * FIELDS
    size = load_entry(layer_ptr + SIZE, 2**30)
    chunks = load_entry(layer_ptr + CHUNKS, 2**30)
    first = load_entry(layer_ptr + PARTIALS, 2**60)
    position = load_entry(layer_ptr + START, 2**60)
    size, chunks = size.to(tl.int32), chunks.to(tl.int32)
    squares = tl.full([BLOCK], 0.0, COMPUTE)
    for start in range(0, size, BLOCK):
        element = start + tl.arange(0, BLOCK)
        x = _sum_of_chunks(partials_ptr + first, element, size, chunks, COMPUTE, BLOCK_CHUNKS, BLOCK)
        squares += x * x
    norm = tl.sqrt(tl.sum(squares, axis=0))
    eps = tl.full((), EPS, COMPUTE)
    # Compared this way round so that NaN passes.
    divisor = tl.where(norm < eps, eps, norm)
    if sigma_ptr is not None:
        tl.store(sigma_ptr + layer, tl.where(norm == 0, norm, norm / divisor * norm))
    target_ptr = tl.load(stored_ptr + layer).to(tl.pointer_type(STORED))
    # Summed again, not read back: a thread may not yet see what another has stored.
    for start in range(0, size, BLOCK):
        element = start + tl.arange(0, BLOCK)
        x = _sum_of_chunks(partials_ptr + first, element, size, chunks, COMPUTE, BLOCK_CHUNKS, BLOCK) / divisor
        # v is in the order of the columns in memory.
        place = element if sigma_ptr is None else column_at(element, layer_ptr)
        before = tl.load(target_ptr + place, mask=element < tl.where(norm == 0, size, 0), other=0.0).to(COMPUTE)
        x = tl.where(norm == 0, before, x)
        tl.store(vectors_ptr + (position + element), x, mask=element < size)
        tl.store(target_ptr + place, x.to(STORED), mask=element < size)


@triton.jit
def _sigma_kernel(layers_ptr, products_ptr, sigma_ptr, COMPUTE: tl.constexpr):
    layer = tl.program_id(0)
    tl.store(sigma_ptr + layer, sum_of_items(products_ptr, layers_ptr + layer * FIELDS, COMPUTE))


# A program normalizes a whole vector, so its loads are wide, and cover as many chunks as a layer usually has.
_OF_U = {
    "SIZE": ROWS, "CHUNKS": ROW_CHUNKS, "PARTIALS": ROW_PARTIALS, "START": U_START, "BLOCK_CHUNKS": 16, "BLOCK": 512,
}  # fmt: skip
_OF_V = {
    "SIZE": COLS, "CHUNKS": COL_CHUNKS, "PARTIALS": COL_PARTIALS, "START": V_START, "BLOCK_CHUNKS": 4, "BLOCK": 1024,
}  # fmt: skip


@decided_once
def _launches(
    row_programs: int, col_programs: int, layers: int, kinds: int, weight: torch.dtype, vector: torch.dtype, eps: float
) -> tuple[Launch, Launch, Launch, Launch]:
    """The four launches of an iteration."""
    compute, stored = triton_compute_dtype(weight), triton_dtype(vector)
    of_weights = {"OCCURRING": kinds, "WEIGHT": triton_dtype(weight), "COMPUTE": compute, "num_warps": NUM_WARPS}
    of_vectors = {"EPS": eps, "STORED": stored, "COMPUTE": compute, "num_warps": 16}
    return (
        Launch(_times_v_kernel, (row_programs,), STORED=stored, **of_weights),
        Launch(_normalize_kernel, (layers,), **_OF_U, **of_vectors),
        Launch(_times_u_kernel, (col_programs,), **of_weights),
        Launch(_normalize_kernel, (layers,), **_OF_V, **of_vectors),
    )


@decided_once
def _sigma_launch(layers: int, weight: torch.dtype) -> Launch:
    return Launch(_sigma_kernel, (layers,), COMPUTE=triton_compute_dtype(weight))


def _launch(
    weights: list[Tensor], us: list[Tensor], vs: list[Tensor], dims: list[int], n_iterations: int, eps: float
) -> Tensor:
    # The weights are kept until the launches, for which they may have been copied.
    tables, weights, us, vs = checked_tables(_check, weights, us, vs, dims)
    group, first = tables.group, weights[0]
    sigma = first.new_empty(len(weights), dtype=compute_dtype(first.dtype))
    if n_iterations == 0:
        products = sigma.new_empty(3, group.row_items.shape[0])
        products_launch(group.row_items.shape[0], group.kinds, first.dtype, us[0].dtype, copy=False)(
            group.row_items, group.layers, tables.weights, None, None, tables.us, tables.vs, None, products
        )
        _sigma_launch(len(weights), first.dtype)(group.layers, products, sigma)
        return sigma
    times_v, normalize_u, times_u, normalize_v = _launches(
        group.row_items.shape[0], group.col_items.shape[0], len(weights), group.kinds, first.dtype, us[0].dtype, eps
    )
    row_partials, col_partials = sigma.new_empty(group.row_partials), sigma.new_empty(group.col_partials)
    vectors = sigma.new_empty(tables.packed)
    for i in range(n_iterations):
        times_v(group.row_items, group.layers, tables.weights, tables.vs if i == 0 else None, vectors, row_partials)
        normalize_u(group.layers, row_partials, vectors, tables.us, None)
        times_u(group.col_items, group.layers, tables.weights, vectors, col_partials)
        normalize_v(group.layers, col_partials, vectors, tables.vs, sigma)
    return sigma


def _fake(
    weights: list[Tensor], us: list[Tensor], vs: list[Tensor], dims: list[int], n_iterations: int, eps: float
) -> Tensor:
    return weights[0].new_empty(len(weights), dtype=compute_dtype(weights[0].dtype))


_launch_there = on_the_device_of_its_tensors(_launch, operands=3)
_registered = torch.library.custom_op(
    "fastgan::power_iteration",
    _launch_there,
    mutates_args=("us", "vs"),
    schema="(Tensor[] weights, Tensor(a!)[] us, Tensor(b!)[] vs, int[] dims, int n_iterations, float eps) -> Tensor",
)
_registered.register_fake(_fake)


def power_iteration(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    *,
    n_iterations: int = 1,
    eps: float = 1e-12,
    dims: Sequence[int] | None = None,
) -> Tensor:
    """Improves the estimates u and v of the first singular vectors of every weight, in place; no autograd.

    The work lists and pointers of a set of weights are prepared once and used as long as addresses, shapes and strides
    are the same, which is checked on the host. Before a CUDA graph is captured, run once with the same shapes.

    Args:
        weights: tensors of two or more dimensions, of one floating-point type and on one device. Contiguous weights,
            channels-last ones and transposed matrices are read as they are; others are copied at every call.
        us, vs: for each weight u [rows] and v [columns], contiguous, all of one floating-point type; changed in place.
        n_iterations: at least 0. Four launches each, for any number of weights; 0 only computes sigma, in two.
        eps: replaces a norm that is below it; finite, at least 0. A vector whose norm would be 0 stays as it was.
        dims: for each weight the axis that is the rows of its matrix; 0 by default. The columns are the other axes in
            their order.

    Returns:
        sigma = u^T W v for every weight, with the new u and v: [L] in float32 (float64 for float64 weights).

    Raises:
        ValueError: for a length, shape, device, axis or value other than those above.
        TypeError: for integer or complex tensors, or several types in a list.
        RuntimeError: while a CUDA graph is captured, for shapes that were never used before.
    """
    if n_iterations < 0:
        raise ValueError(f"power_iteration: n_iterations is {n_iterations}, expected at least 0")
    check_eps("power_iteration", eps)
    weights, us, vs = list(weights), list(us), list(vs)
    compiling = torch.compiler.is_compiling()
    kernels = len(weights) > 0 and runs_triton(weights[0])
    if compiling or not kernels or (dims is not None and min(dims, default=0) < 0):
        dims = _check(weights, us, vs, dims)
    elif dims is None:
        dims = [0] * len(weights)
    if not kernels:
        return reference.power_iteration(weights, us, vs, n_iterations=n_iterations, eps=eps, dims=dims)
    if compiling:
        with torch.no_grad():
            return _registered(weights, us, vs, dims, n_iterations, float(eps))
    sigma = _launch_there(weights, us, vs, dims, n_iterations, float(eps))
    if n_iterations:
        torch.autograd.graph.increment_version([*us, *vs])
    return sigma


def _check(weights: list[Tensor], us: list[Tensor], vs: list[Tensor], dims: Sequence[int] | None) -> list[int]:
    dims = check_layers("power_iteration", weights, us, vs, dims)
    for name, vectors in (("us", us), ("vs", vs)):
        for i, vector in enumerate(vectors):
            if not vector.is_contiguous():
                raise ValueError(f"power_iteration: {name}[{i}] has stride {vector.stride(0)}, expected contiguous")
            same = next((j for j in range(i) if vectors[j] is vector), None)
            if same is not None:
                raise ValueError(f"power_iteration: {name}[{i}] is {name}[{same}], expected one for each weight")
    return dims
