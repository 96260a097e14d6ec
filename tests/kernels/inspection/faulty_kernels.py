"""Kernels that each break one rule, and one that breaks none: what ``inspect_compiled`` finds in them, as JSON.

A script, not a test: kernels are compiled in a process without the interpreter.
"""

import json
import re
import subprocess
from dataclasses import asdict

import torch
import triton
import triton.language as tl
from triton import knobs

from fastgan_kernels import pointers
from fastgan_kernels.inspection.compiled import inspect_compiled
from fastgan_kernels.inspection.launches import launches_of
from fastgan_kernels.inspection.problems import Problem


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
    offset = tl.program_id(0).to(tl.int64) * cols + tl.arange(0, BLOCK)
    mask = tl.arange(0, BLOCK) < cols
    tl.store(y_ptr + offset, tl.load(x_ptr + offset, mask=mask, other=0.0), mask=mask)


@triton.jit
def narrow_offset_kernel(x_ptr, y_ptr, elements, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offset < elements
    tl.store(y_ptr + offset, tl.load(x_ptr + offset, mask=mask, other=0.0), mask=mask)


@triton.jit
def late_widening_kernel(x_ptr, y_ptr, elements, BLOCK: tl.constexpr):
    # The product has overflowed before it is widened.
    offset = (tl.program_id(0) * BLOCK).to(tl.int64) + tl.arange(0, BLOCK)
    mask = offset < elements
    tl.store(y_ptr + offset, tl.load(x_ptr + offset, mask=mask, other=0.0), mask=mask)


@triton.jit
def loop_kernel(x_ptr, y_ptr, rows, cols, BLOCK: tl.constexpr):
    # 32 bits hold rows and cols, but not the last offset of the loop.
    for row in range(0, rows):
        offset = row * cols + tl.arange(0, BLOCK)
        tl.store(y_ptr + offset.to(tl.int64), tl.load(x_ptr + offset.to(tl.int64)))


@triton.jit
def atomic_kernel(x_ptr, y_ptr, BLOCK: tl.constexpr):
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(y_ptr + offset, tl.load(x_ptr + offset))


@triton.jit
def table_kernel(pointers_ptr, sizes_ptr, ALIGNED: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    # Copies the first tensor of a table to the second.
    source = tl.load(pointers_ptr).to(tl.pointer_type(tl.float32))
    target = tl.load(pointers_ptr + 1).to(tl.pointer_type(tl.float32))
    blocks = tl.load(sizes_ptr)
    tl.assume((blocks > 0) & (blocks < 2**22))
    if ALIGNED:
        source, target = tl.multiple_of(source, 16), tl.multiple_of(target, 16)
    block = tl.program_id(0) % blocks.to(tl.int32)
    offset = (block.to(tl.int64) if WIDE else block) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + offset, tl.load(source + offset))


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
    scalar_kernel[(x.shape[0] * x.shape[1],)](x, torch.empty_like(x), x[0, 0].numel(), BLOCK=BLOCK, num_warps=4)


def loop(x):
    loop_kernel[(1,)](x, torch.empty_like(x), x.shape[0] * x.shape[1], x[0, 0].numel(), BLOCK=BLOCK, num_warps=4)


def table(*, aligned=True, wide=True):
    def op(x):
        sizes = torch.empty(1, dtype=torch.int64, device=x.device)
        table_kernel[(triton.cdiv(x.numel(), BLOCK),)](
            pointers.written_pointers([x, torch.empty_like(x)]), sizes, ALIGNED=aligned, WIDE=wide, BLOCK=BLOCK
        )

    return op


SMALL, HUGE = (4, 4, 32, 32), (3, 1024, 1024, 1024)
NVIDIA, AMD = ("sm_80", "sm_90", "sm_100"), ("gfx942",)
CASES = {
    "sound": (per_block(sound_kernel), SMALL),
    "sound and huge": (per_block(sound_kernel), HUGE),
    # Four times the registers of a thread, and once those of AMD.
    "spilling": (spilling, (1, 16, 32, 32), NVIDIA),
    "spilling on AMD": (spilling, (1, 32, 32, 32), AMD),
    "transposing": (transposing, (64, 1, 64, 64)),
    "scalar": (scalar, SMALL),
    "narrow offset": (per_block(narrow_offset_kernel), HUGE),
    "narrow offset, small": (per_block(narrow_offset_kernel), SMALL),
    "late widening": (per_block(late_widening_kernel), HUGE),
    "late widening, small": (per_block(late_widening_kernel), SMALL),
    "loop": (loop, HUGE),
    "loop, small": (loop, SMALL),
    "32 warps": (per_block(sound_kernel, num_warps=32), (4, 64, 32, 32)),
    "atomic": (per_block(atomic_kernel, elements=False), SMALL),
    "table": (table(), SMALL),
    "table, huge": (table(), HUGE),
    "table, narrow offset": (table(wide=False), HUGE),
    "table, narrow access": (table(aligned=False), SMALL),
    "broken": (per_block(broken_kernel, elements=False), SMALL),
}


class FaultyProblem(Problem):
    """One of the cases, which are no ops of the package."""

    def __call__(self):
        CASES[self.op][0](torch.empty(self.shape, dtype=self.dtype, device="meta"))


def sass_accesses(problem):
    """Names of the global loads and stores in the machine code for sm_90."""
    (launch,) = launches_of(problem, "sm_90")
    paths = launch.specialization.compile().metadata_group
    (cubin,) = (path for name, path in paths.items() if name.endswith(".cubin"))
    sass = subprocess.run([knobs.nvidia.cuobjdump.path, "-sass", cubin], check=True, capture_output=True, text=True)
    return sorted(set(re.findall(r"\b(?:LDG|STG)[.\w]*", sass.stdout)))


if __name__ == "__main__":
    found = {}
    for name, (_, shape, *targets) in CASES.items():
        problem = FaultyProblem(name, shape, torch.float32)
        rows, findings = inspect_compiled([problem], *targets)
        found[name] = {"findings": findings, "rows": [asdict(row) for row in rows]}
        if name in ("sound", "scalar"):
            found[name]["sass"] = sass_accesses(problem)
    print(json.dumps(found))
