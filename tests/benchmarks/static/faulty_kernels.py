"""Kernels that each break one rule, and two that break none: what is found in them, as JSON.

A script, not a test: kernels are compiled in a process without the interpreter.
"""

import json
from dataclasses import asdict

import torch
import triton
import triton.language as tl

from benchmarks.static.compiled import Use, inspect_uses
from benchmarks.static.launches import launches_of


@triton.jit
def sound_kernel(x_ptr, y_ptr, elements, BLOCK: tl.constexpr):
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offset < elements
    tl.store(y_ptr + offset, 2 * tl.load(x_ptr + offset, mask=mask, other=0.0), mask=mask)


@triton.jit
def spilling_kernel(x_ptr, y_ptr, BLOCK: tl.constexpr):
    offset = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offset)
    tl.store(y_ptr + offset, x / tl.sum(x))


@triton.jit
def transposing_kernel(x_ptr, y_ptr, IMAGES: tl.constexpr, SIDE: tl.constexpr):
    # Read along rows and written along columns: every image goes through shared memory.
    row, col = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :]
    for image in tl.static_range(IMAGES):
        start = image * SIDE * SIDE
        tl.store(y_ptr + start + col * SIDE + row, tl.load(x_ptr + start + row * SIDE + col))


@triton.jit(do_not_specialize=["cols"])
def scalar_kernel(x_ptr, y_ptr, cols, BLOCK: tl.constexpr):
    # Nothing says that the rows start at multiples of 16 bytes.
    row = tl.program_id(0).to(tl.int64) * 2 + tl.arange(0, 2)[:, None]
    col = tl.arange(0, BLOCK)[None, :]
    offset = row * cols + col
    mask = col < cols
    tl.store(y_ptr + offset, tl.load(x_ptr + offset, mask=mask, other=0.0), mask=mask)


@triton.jit
def filtering_kernel(x_ptr, taps_ptr, y_ptr, SIDE: tl.constexpr):
    # Sound: the largest tile is of taps, each loaded by itself; that of the image allows a thread no wide access.
    row, col = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :]
    taps = tl.load(taps_ptr + (row + col) % 7)
    place = tl.program_id(0) * 4 * SIDE + tl.arange(0, 4)[:, None] * SIDE + col
    y = tl.load(x_ptr + place) * tl.sum(tl.sum(taps, axis=1), axis=0)
    tl.store(y_ptr + place, y.to(tl.bfloat16))


@triton.jit
def atomic_kernel(x_ptr, y_ptr, BLOCK: tl.constexpr):
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(y_ptr + offset, tl.load(x_ptr + offset))


@triton.jit
def broken_kernel(x_ptr, y_ptr, BLOCK: tl.constexpr):
    tl.static_assert(BLOCK == 0)


BLOCK = 1024


def per_block(kernel, *, num_warps=4, elements=True):
    def op(x):
        arguments = (x, torch.empty_like(x), *([x.numel()] if elements else []))
        kernel[(triton.cdiv(x.numel(), BLOCK),)](*arguments, BLOCK=BLOCK, num_warps=num_warps)

    return op


def spilling(x):
    spilling_kernel[(1,)](x, torch.empty_like(x), BLOCK=x.numel(), num_warps=1)


def transposing(x):
    transposing_kernel[(1,)](x, torch.empty_like(x), IMAGES=x.shape[0], SIDE=x.shape[-1], num_warps=4)


def scalar(x):
    scalar_kernel[(x.shape[0] * x.shape[1] // 2,)](x, torch.empty_like(x), x[0, 0].numel(), BLOCK=BLOCK, num_warps=4)


def filtering(x):
    x = x.bfloat16()
    taps = torch.empty(7, device="meta", dtype=x.dtype)
    filtering_kernel[(x.numel() // 128,)](x, taps, torch.empty_like(x), SIDE=32, num_warps=1)


SMALL = (4, 4, 32, 32)
CASES = {
    "sound": (per_block(sound_kernel), SMALL),
    # Four times the registers of a thread on NVIDIA, twice those of AMD.
    "spilling": (spilling, (1, 32, 32, 32)),
    "transposing": (transposing, (64, 1, 64, 64)),
    "scalar": (scalar, SMALL),
    "filtering": (filtering, SMALL),
    "32 warps": (per_block(sound_kernel, num_warps=32), (4, 64, 32, 32)),
    "atomic": (per_block(atomic_kernel, elements=False), SMALL),
    "broken": (per_block(broken_kernel, elements=False), SMALL),
}


def inspected(op, shape):
    x = torch.empty(shape, device="meta")
    launches = [launch for target in ("sm_90", "gfx942") for launch in launches_of(lambda: op(x), target)]
    rows, findings = inspect_uses([Use("a call", x.numel(), launch) for launch in launches])
    return {"rows": [asdict(row) for row in rows], "findings": findings}


if __name__ == "__main__":
    print(json.dumps({name: inspected(*case) for name, case in CASES.items()}))
