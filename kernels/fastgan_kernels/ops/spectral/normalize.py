"""Weights divided by their spectral norm (Miyato et al. 2018, eq. 8), for many layers at once.

For every weight, as a matrix W, with constant vectors u and v,

    y = W / sigma,    sigma = u^T W v,

    dW = dy / sigma - <dy, W> / sigma^2 u v^T,

and for a cotangent H of dW, with h = u^T H v, the second order is

    ddy = H / sigma - h / sigma^2 W,
    dW  = (2 h <dy, W> / sigma^3 - <H, dy> / sigma^2) u v^T - h / sigma^2 dy.

Where sigma is 0, as for a weight of zeros, the weight is returned as it is: sigma counts as the constant 1, so that the
gradient dy leads training away from zero.

Two kernels do all of it: one sums the products h, <dy, W> and <H, dy>, one adds the terms. u, v and sigma are copied
for the backward pass, so that later power iterations change nothing.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.autograd import DifferentiableOp, guard_second_order, refuse_third_order
from fastgan_kernels.backend import runs_triton
from fastgan_kernels.checks import check_operand
from fastgan_kernels.launch import Launch, decided_once
from fastgan_kernels.ops.spectral import pointers
from fastgan_kernels.ops.spectral.weight_group import (
    BLOCKS,
    FIRST_ITEM,
    KIND,
    KINDS,
    LAST_ITEM,
    NUM_WARPS,
    ORDINAL,
    U_START,
    V_START,
    check_layers,
    checked_tables,
    dense_weight,
    empty_weight,
    geometry_of,
    load_entry,
    matrix_shape,
    tables_of,
    tile_of_weight,
    triton_dtype,
    weight_pointer,
    work_item,
)
from fastgan_kernels.precision import compute_dtype, triton_compute_dtype

# Rows of the partial products.
_H, _GW, _HG = (tl.constexpr(i) for i in range(3))


@triton.jit
def _copies_of(vectors_ptr, layer_ptr):
    """Pointers to the copies of u and v of a layer."""
    u_start = load_entry(layer_ptr + U_START, 2**60)
    v_start = load_entry(layer_ptr + V_START, 2**60)
    return vectors_ptr + u_start, vectors_ptr + v_start


@triton.jit
def _vectors_of(us_ptr, vs_ptr, vectors_ptr, item, STORED: tl.constexpr):
    """u and v of a layer: the caller's, or, without ``us_ptr``, the copies."""
    if us_ptr is not None:
        u_ptr = tl.load(us_ptr + item.layer).to(tl.pointer_type(STORED))
        v_ptr = tl.load(vs_ptr + item.layer).to(tl.pointer_type(STORED))
    else:
        u_ptr, v_ptr = _copies_of(vectors_ptr, item.layer_ptr)
    return u_ptr, v_ptr


@triton.jit
def _add_products(
    hs_ptr, gs_ptr, weights_ptr, u_ptr, v_ptr, copies_ptr, products_ptr, programs, item,
    GIVEN: tl.constexpr, LAYER_KIND: tl.constexpr, WEIGHT: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """The products over the column tiles start to stop of a block of rows."""
    BLOCK_ROWS: tl.constexpr = BLOCKS[LAYER_KIND][0]
    geometry = geometry_of(item.layer_ptr, LAYER_KIND, 128 // WEIGHT.primitive_bitwidth)
    row = item.tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    if hs_ptr is not None:
        h_ptr = weight_pointer(hs_ptr, item.layer, WEIGHT, LAYER_KIND)
        hv = tl.full([BLOCK_ROWS, BLOCKS[LAYER_KIND][1]], 0.0, COMPUTE)
    if copies_ptr is not None:
        u_copy_ptr, v_copy_ptr = _copies_of(copies_ptr, item.layer_ptr)
    if gs_ptr is not None:
        g_ptr = weight_pointer(gs_ptr, item.layer, WEIGHT, LAYER_KIND)
        w_ptr = weight_pointer(weights_ptr, item.layer, WEIGHT, LAYER_KIND)
        gw = tl.full([BLOCK_ROWS, BLOCKS[LAYER_KIND][1]], 0.0, COMPUTE)
        hg = tl.full([BLOCK_ROWS, BLOCKS[LAYER_KIND][1]], 0.0, COMPUTE)
    for tile in range(item.start, item.stop):
        offset, mask, col, place, exists = tile_of_weight(row, tile, geometry, LAYER_KIND)
        if hs_ptr is not None:
            h = tl.load(h_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
            v = tl.load(v_ptr + (col if GIVEN else place), mask=exists, other=0.0).to(COMPUTE)
            hv += h * v[None, :]
            if copies_ptr is not None:
                tl.store(v_copy_ptr + place, v, mask=exists & (item.tile == 0))
        if gs_ptr is not None:
            g = tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
            gw += g * tl.load(w_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
            if hs_ptr is not None:
                hg += h * g
    product_ptr = products_ptr + tl.program_id(0)
    if hs_ptr is not None:
        u = tl.load(u_ptr + row, mask=row < geometry[0], other=0.0).to(COMPUTE)
        if copies_ptr is not None:
            tl.store(u_copy_ptr + row, u, mask=(row < geometry[0]) & (item.start == 0))
        tl.store(product_ptr + _H * programs, tl.sum(hv * u[:, None]))
    if gs_ptr is not None:
        tl.store(product_ptr + _GW * programs, tl.sum(gw))
        if hs_ptr is not None:
            tl.store(product_ptr + _HG * programs, tl.sum(hg))


@triton.jit(do_not_specialize=["programs"], do_not_specialize_on_alignment=["hs_ptr", "gs_ptr"])
def _products_kernel(
    items_ptr, layers_ptr, hs_ptr, gs_ptr, weights_ptr, us_ptr, vs_ptr, vectors_ptr, products_ptr, programs,
    COPY: tl.constexpr, OCCURRING: tl.constexpr,
    WEIGHT: tl.constexpr, STORED: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Parts of h = u^T H v, <G, W> and <H, G>, as far as there are ``hs_ptr`` and ``gs_ptr``: [3, programs].

    u and v are the caller's, which COPY copies to ``vectors_ptr``, or, without ``us_ptr``, the copies.
    """
    item = work_item(items_ptr, layers_ptr, True)
    u_ptr, v_ptr = _vectors_of(us_ptr, vs_ptr, vectors_ptr, item, STORED)
    kind = tl.load(item.layer_ptr + KIND)
    for K in tl.static_range(KINDS):
        if OCCURRING & (1 << K):  # noqa: SIM102 - at compile time
            if kind == K:
                _add_products(
                    hs_ptr, gs_ptr, weights_ptr, u_ptr, v_ptr, vectors_ptr if COPY else None, products_ptr, programs,
                    item, us_ptr is not None, K, WEIGHT, COMPUTE,
                )  # fmt: skip


@triton.jit
def sum_of_items(products_ptr, layer_ptr, COMPUTE: tl.constexpr):
    """The sum of the values that the programs of a layer wrote."""
    first = load_entry(layer_ptr + FIRST_ITEM, 2**30)
    last = load_entry(layer_ptr + LAST_ITEM, 2**30)
    total = tl.full([256], 0.0, COMPUTE)
    for start in range(first.to(tl.int32), last.to(tl.int32), 256):
        item = start + tl.arange(0, 256)
        total += tl.load(products_ptr + item, mask=item < last, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _add_terms(
    as_ptr, bs_ptr, outs_ptr, u_ptr, v_ptr, copies_ptr, alpha, beta, gamma, item,
    OUTER: tl.constexpr, GIVEN: tl.constexpr, LAYER_KIND: tl.constexpr, WEIGHT: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """alpha A + beta B + gamma u v^T over the column tiles start to stop of a block of rows."""
    BLOCK_ROWS: tl.constexpr = BLOCKS[LAYER_KIND][0]
    geometry = geometry_of(item.layer_ptr, LAYER_KIND, 128 // WEIGHT.primitive_bitwidth)
    row = item.tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    if OUTER or copies_ptr is not None:
        u = tl.load(u_ptr + row, mask=row < geometry[0], other=0.0).to(COMPUTE)
    if copies_ptr is not None:
        u_copy_ptr, v_copy_ptr = _copies_of(copies_ptr, item.layer_ptr)
        tl.store(u_copy_ptr + row, u, mask=(row < geometry[0]) & (item.start == 0))
    a_ptr = weight_pointer(as_ptr, item.layer, WEIGHT, LAYER_KIND)
    out_ptr = weight_pointer(outs_ptr, item.layer, WEIGHT, LAYER_KIND)
    if bs_ptr is not None:
        b_ptr = weight_pointer(bs_ptr, item.layer, WEIGHT, LAYER_KIND)
    for tile in range(item.start, item.stop):
        offset, mask, col, place, exists = tile_of_weight(row, tile, geometry, LAYER_KIND)
        y = alpha * tl.load(a_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        if bs_ptr is not None:
            y += beta * tl.load(b_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        if OUTER or copies_ptr is not None:
            v = tl.load(v_ptr + (col if GIVEN else place), mask=exists, other=0.0).to(COMPUTE)
            if copies_ptr is not None:
                tl.store(v_copy_ptr + place, v, mask=exists & (item.tile == 0))
            if OUTER:
                y += (gamma * u)[:, None] * v[None, :]
        tl.store(out_ptr + offset, y.to(WEIGHT), mask=mask)


@triton.jit(do_not_specialize=["programs"], do_not_specialize_on_alignment=["as_ptr", "bs_ptr", "outs_ptr"])
def _terms_kernel(
    items_ptr, layers_ptr, as_ptr, bs_ptr, outs_ptr, us_ptr, vs_ptr, vectors_ptr, products_ptr, given_ptr, sigma_ptr,
    programs,
    RESULT: tl.constexpr, OCCURRING: tl.constexpr,
    WEIGHT: tl.constexpr, STORED: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """One of the results at the head of this file: "y", "dw" and, of the second order, "ddy" and "ddw".

    For y, sigma is given or the sum of the products, and kept in ``sigma_ptr``. Where it is given, u and v are copied.
    """
    item = work_item(items_ptr, layers_ptr, True)
    layer_ptr = item.layer_ptr
    ordinal = load_entry(layer_ptr + ORDINAL, 2**20)
    if RESULT == "y":
        if given_ptr is not None:
            sigma = tl.load(given_ptr + ordinal)
        else:
            sigma = sum_of_items(products_ptr + _H * programs, layer_ptr, COMPUTE)
        tl.store(sigma_ptr + ordinal, sigma, mask=tl.program_id(0) == tl.load(layer_ptr + FIRST_ITEM))
    else:
        sigma = tl.load(sigma_ptr + ordinal)
    # One division, early: in float64 a division is a call, which puts live values on the stack.
    one, zero = tl.full((), 1.0, COMPUTE), tl.full((), 0.0, COMPUTE)
    alpha, beta, gamma = one / tl.where(sigma == 0, one, sigma), zero, zero
    if RESULT == "dw":
        gamma = -sum_of_items(products_ptr + _GW * programs, layer_ptr, COMPUTE) * alpha * alpha
    if RESULT == "ddy":
        beta = -sum_of_items(products_ptr + _H * programs, layer_ptr, COMPUTE) * alpha * alpha
    if RESULT == "ddw":
        inverse = alpha
        alpha = -sum_of_items(products_ptr + _H * programs, layer_ptr, COMPUTE) * inverse * inverse
        gw = sum_of_items(products_ptr + _GW * programs, layer_ptr, COMPUTE) * inverse
        hg = sum_of_items(products_ptr + _HG * programs, layer_ptr, COMPUTE) * inverse
        gamma = -(gw * alpha + gw * alpha + hg * inverse)
        alpha = tl.where(sigma == 0, zero, alpha)
    beta, gamma = tl.where(sigma == 0, zero, beta), tl.where(sigma == 0, zero, gamma)
    u_ptr, v_ptr = _vectors_of(us_ptr, vs_ptr, vectors_ptr, item, STORED)
    kind = tl.load(layer_ptr + KIND)
    for K in tl.static_range(KINDS):
        if OCCURRING & (1 << K):  # noqa: SIM102 - at compile time
            if kind == K:
                _add_terms(
                    as_ptr, bs_ptr, outs_ptr, u_ptr, v_ptr, vectors_ptr if given_ptr is not None else None,
                    alpha, beta, gamma, item,
                    RESULT == "dw" or RESULT == "ddw", us_ptr is not None, K, WEIGHT, COMPUTE,
                )  # fmt: skip


@decided_once
def products_launch(
    programs: int, kinds: int, weight: torch.dtype, vector: torch.dtype | None, *, copy: bool
) -> Launch:
    """Parts of h, <G, W> and <H, G>; u and v are of type ``vector``, or, where it is ``None``, the copies."""
    return Launch(_products_kernel, (programs,), (programs,), COPY=copy, **_constants(kinds, weight, vector))


@decided_once
def _terms_launch(result: str, programs: int, kinds: int, weight: torch.dtype, vector: torch.dtype | None) -> Launch:
    return Launch(_terms_kernel, (programs,), (programs,), RESULT=result, **_constants(kinds, weight, vector))


def _constants(kinds: int, weight: torch.dtype, vector: torch.dtype | None) -> dict[str, Any]:
    return {
        "OCCURRING": kinds,
        "WEIGHT": triton_dtype(weight),
        "STORED": None if vector is None else triton_dtype(vector),
        "COMPUTE": triton_compute_dtype(weight),
        "num_warps": NUM_WARPS,
    }


class _Launches:
    """The launches of a backward pass on the ``selected`` layers, whose tensors of this call are the lists ``tensors``.

    ``tables`` are the pointers of these lists. u and v are what ``vectors`` holds.
    """

    def __init__(
        self, weights: list[Tensor], dims: list[int], selected: list[int], vectors: Tensor, sigma: Tensor,
        tensors: list[list[Tensor]],
    ) -> None:  # fmt: skip
        misaligned = {i for ts in tensors for i, t in zip(selected, ts, strict=True) if t.data_ptr() % 16}
        of_weights = tables_of(weights, [], [], tuple(dims), tuple(selected), tuple(sorted(misaligned)))
        self._group, self.weights, _, _, _ = of_weights
        self._dtype, self._vectors, self._sigma = weights[0].dtype, vectors, sigma
        table, n = pointers.written_pointers([t for of_layers in tensors for t in of_layers]), len(selected)
        self.tables = [table[i * n : (i + 1) * n] for i in range(len(tensors))]
        self._products = sigma.new_empty(3, self._group.row_items.shape[0])

    def products(self, hs: Tensor | None, gs: Tensor | None) -> None:
        """Those with an absent H or G are not written."""
        group = self._group
        products_launch(group.row_items.shape[0], group.kinds, self._dtype, None, copy=False)(
            group.row_items, group.layers, hs, gs, None if gs is None else self.weights, None, None, self._vectors,
            self._products,
        )  # fmt: skip

    def terms(self, result: str, a: Tensor, b: Tensor | None, out: Tensor) -> None:
        group = self._group
        _terms_launch(result, group.row_items.shape[0], group.kinds, self._dtype, None)(
            group.row_items, group.layers, a, b, out, None, None, self._vectors, self._products, None, self._sigma
        )


def _launch_forward(
    weights: list[Tensor], us: list[Tensor], vs: list[Tensor], given: Tensor | None, dims: list[int]
) -> tuple[list[Tensor], Tensor, Tensor]:
    # The weights, u and v are kept until the launches, for which they may have been copied.
    tables, weights, us, vs = checked_tables(_check, weights, us, vs, dims)
    group, first = tables.group, weights[0]
    outputs = [torch.empty_like(weight) for weight in weights]
    sigma = first.new_empty(len(weights), dtype=compute_dtype(first.dtype))
    vectors = sigma.new_empty(tables.packed)
    table = pointers.written_pointers(outputs)
    programs, kinds, vector = group.row_items.shape[0], group.kinds, us[0].dtype
    products, of_u, of_v = None, tables.us, tables.vs
    if given is None:
        products = sigma.new_empty(3, programs)
        products_launch(programs, kinds, first.dtype, vector, copy=True)(
            group.row_items, group.layers, tables.weights, None, None, of_u, of_v, vectors, products
        )
        of_u = of_v = vector = None  # the products have copied u and v
    _terms_launch("y", programs, kinds, first.dtype, vector)(
        group.row_items, group.layers, tables.weights, None, table, of_u, of_v, vectors, products, given, sigma
    )
    return outputs, vectors, sigma


def _new_outputs(
    weights: list[Tensor], us: list[Tensor], vs: list[Tensor], sigma: Tensor | None, dims: list[int]
) -> tuple[list[Tensor], Tensor, Tensor]:
    first = weights[0]
    dtype = compute_dtype(first.dtype)
    packed = sum(n for weight, dim in zip(weights, dims, strict=True) for n in matrix_shape(weight, dim))
    outputs = _new_gradients(weights, list(range(len(weights))), dims)
    return outputs, first.new_empty(packed, dtype=dtype), first.new_empty(len(weights), dtype=dtype)


def _launch_backward(
    gs: list[Tensor], weights: list[Tensor], vectors: Tensor, sigma: Tensor, layers: list[int], dims: list[int]
) -> list[Tensor]:
    weights = [dense_weight(weight, dim) for weight, dim in zip(weights, dims, strict=True)]
    gs = [dense_weight(g, dims[i], like=weights[i]) for g, i in zip(gs, layers, strict=True)]
    dws = [torch.empty_like(weights[i]) for i in layers]
    launches = _Launches(weights, dims, layers, vectors, sigma, [gs, dws])
    g_table, dw_table = launches.tables
    launches.products(None, g_table)
    launches.terms("dw", g_table, None, dw_table)
    return dws


def _launch_double_backward(
    hs: list[Tensor], gs: list[Tensor], weights: list[Tensor], vectors: Tensor, sigma: Tensor, layers: list[int],
    dims: list[int], needs: list[bool],
) -> tuple[list[Tensor] | None, list[Tensor] | None]:  # fmt: skip
    weights = [dense_weight(weight, dim) for weight, dim in zip(weights, dims, strict=True)]
    hs, gs = ([dense_weight(t, dims[i], like=weights[i]) for t, i in zip(ts, layers, strict=True)] for ts in (hs, gs))
    ddys, ddws = ([torch.empty_like(weights[i]) for i in layers] if need else None for need in needs)
    tensors = [tensors for tensors in (hs, gs, ddys, ddws) if tensors]
    launches = _Launches(weights, dims, layers, vectors, sigma, tensors)
    h_table, g_table, *tables = launches.tables
    launches.products(h_table, g_table if ddws else None)
    if ddys:
        launches.terms("ddy", h_table, launches.weights, tables[0])
    if ddws:
        launches.terms("ddw", g_table, None, tables[-1])
    return ddys, ddws


def _new_gradients(weights: list[Tensor], layers: list[int], dims: list[int]) -> list[Tensor]:
    return [empty_weight(weights[i], dims[i]) for i in layers]


def _at(layers: Sequence[int], gradients: Sequence[Tensor] | None, count: int) -> list[Tensor | None]:
    """One gradient per layer, for ``count`` layers; ``None`` for those not in ``layers``."""
    of_all: list[Tensor | None] = [None] * count
    if gradients is not None:
        for i, gradient in zip(layers, gradients, strict=True):
            of_all[i] = gradient
    return of_all


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[list[Tensor], Tensor, Tensor]) -> None:
    weights, _, _, _, ctx.dims = inputs
    _, vectors, sigma = output
    ctx.save_for_backward(*weights, vectors, sigma)


def _backward(ctx: Any, gs: list[Tensor | None]) -> list[Tensor | None]:
    *weights, vectors, sigma = ctx.saved_tensors
    layers = [i for i, g in enumerate(gs) if g is not None and ctx.needs_input_grad[0][i]]
    given = [gs[i] for i in layers]
    dws = _spectral_normalize_backward(given, weights, vectors, sigma, layers, ctx.dims) if layers else []
    return _at(layers, dws, len(weights))


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    gs, weights, vectors, sigma, ctx.layers, ctx.dims = inputs
    ctx.save_for_backward(*gs, *weights, vectors, sigma)


def _double_backward(ctx: Any, hs: list[Tensor | None]) -> tuple[list[Tensor | None], list[Tensor | None]]:
    *tensors, vectors, sigma = ctx.saved_tensors
    gs, weights = tensors[: len(hs)], tensors[len(hs) :]
    needs = [any(ctx.needs_input_grad[0]), any(ctx.needs_input_grad[1])]
    given = [j for j, h in enumerate(hs) if h is not None]
    layers = [ctx.layers[j] for j in given]
    ddys, ddws = _spectral_normalize_double_backward(
        [hs[j] for j in given], [gs[j] for j in given], weights, vectors, sigma, layers, ctx.dims, needs
    )
    return _at(given, ddys, len(hs)), _at(layers, ddws, len(weights))


_spectral_normalize_double_backward = DifferentiableOp(
    "spectral_normalize_double_backward(Tensor[] hs, Tensor[] gs, Tensor[] weights, Tensor vectors, Tensor sigma,"
    " int[] layers, int[] dims, bool[] needs) -> (Tensor[], Tensor[])",
    launch=_launch_double_backward,
    fake=lambda hs, gs, weights, vectors, sigma, layers, dims, needs: [
        _new_gradients(weights, layers, dims) for _ in needs
    ],
    backward=refuse_third_order("spectral_normalize"),
    is_gradient=True,
)

_spectral_normalize_backward = DifferentiableOp(
    "spectral_normalize_backward(Tensor[] gs, Tensor[] weights, Tensor vectors, Tensor sigma, int[] layers,"
    " int[] dims) -> Tensor[]",
    launch=_launch_backward,
    fake=lambda gs, weights, vectors, sigma, layers, dims: _new_gradients(weights, layers, dims),
    setup_context=_save_for_double_backward,
    backward=_double_backward,
    is_gradient=True,
)

_spectral_normalize = DifferentiableOp(
    "spectral_normalize(Tensor[] weights, Tensor[] us, Tensor[] vs, Tensor? sigma, int[] dims)"
    " -> (Tensor[], Tensor, Tensor)",
    returns_first=True,
    launch=_launch_forward,
    fake=_new_outputs,
    setup_context=_save_for_backward,
    backward=_backward,
)


def spectral_normalize(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    sigma: Tensor | None = None,
    *,
    dims: Sequence[int] | None = None,
) -> list[Tensor]:
    """Divides every weight by sigma = u^T W v; up to 256 weights need the same number of launches as one.

    Args:
        weights: tensors of two or more dimensions, of one floating-point type and on one device. They are read without
            a copy where :func:`fastgan_kernels.power_iteration` needs none.
        us, vs: for each weight u [rows] and v [columns], all of one floating-point type. They are constants, and may
            be changed before the backward pass.
        sigma: [L], the values of u^T W v if they are known, as ``power_iteration`` returns them; then weights are read
            only once. The gradient is still that of u^T W v.
        dims: for each weight the axis that is the rows of its matrix; 0 by default.

    Returns:
        W / sigma for every weight, in its shape, type and strides; W itself, with the gradient of W, where sigma is 0.
        Differentiable twice in ``weights``. Saves the weights and a copy of u, v and sigma.

    Raises:
        ValueError: for a length, shape, device or axis other than those above.
        TypeError: for integer or complex tensors, or several types in a list.
        RuntimeError: for a third gradient; or while a CUDA graph is captured, for shapes that were never used before.
    """
    weights, us, vs = list(weights), list(us), list(vs)
    kernels = len(weights) > 0 and runs_triton(weights[0])
    if torch.compiler.is_compiling() or not kernels or (dims is not None and min(dims, default=0) < 0):
        dims = _check(weights, us, vs, dims)
    elif dims is None:
        dims = [0] * len(weights)
    first = weights[0]
    if sigma is not None:
        if list(sigma.shape) != [len(weights)]:
            raise ValueError(
                f"spectral_normalize: sigma has shape {list(sigma.shape)}, expected [{len(weights)}] for {len(weights)}"
                " weights"
            )
        check_operand("spectral_normalize", "sigma", sigma, sigma.shape, first, name_of_x="weights[0]")
        sigma = sigma.detach().to(compute_dtype(first.dtype))
    if not kernels:
        weights = [guard_second_order(weight) for weight in weights]
        return reference.spectral_normalize(weights, us, vs, sigma, dims=dims)
    us, vs = ([t.detach() if t.requires_grad else t for t in vectors] for vectors in (us, vs))
    return _spectral_normalize(weights, us, vs, sigma, list(dims))


def _check(weights: list[Tensor], us: list[Tensor], vs: list[Tensor], dims: Sequence[int] | None) -> list[int]:
    return check_layers("spectral_normalize", weights, us, vs, dims)
