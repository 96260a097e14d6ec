"""Costs per thread of a compiled kernel, read from its machine code."""

import re
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from math import prod
from typing import Literal

from triton import knobs
from triton.compiler import CompiledKernel

from benchmarks.static.bodies import AMD_ACCESS, Body, amd_width, bodies

# Bytes of the element types of pointers in Triton IR.
_SIZES = {"i1": 1, "i8": 1, "f16": 2, "bf16": 2, "i32": 4, "f32": 4, "i64": 8, "f64": 8}


@dataclass(frozen=True)
class MachineCode:
    """Counts per thread. Instructions, shared-memory stores and barriers are counted in the code: a loop counts once.

    Attributes:
        stack_bytes: spilled registers and local arrays.
        loads, stores: the width in bytes of each access to global memory.
        atomics: whether the kernel has atomic operations.
        shared_bytes: shared memory of a program.
        accessed: for loads and for stores, the kernel's arguments through which it accesses memory; ``*argument`` is
            memory behind a table of pointers.
        largest_tile: for loads and for stores, maps each pointer to the elements of the largest tile that a program
            accesses at once, and the bytes per element. Only matrices count, since feature maps are accessed by rows
            and columns. A pointer has the name of the kernel's argument, unless it is from a table or moved by a loop.
    """

    registers: int
    stack_bytes: int
    instructions: int
    shared_stores: int
    barriers: int
    loads: tuple[int, ...]
    stores: tuple[int, ...]
    atomics: bool
    shared_bytes: int
    accessed: dict[Literal["load", "store"], set[str]]
    largest_tile: dict[Literal["load", "store"], dict[str, tuple[int, int]]]


def machine_code(kernel: CompiledKernel) -> MachineCode:
    """Reads the counts of a kernel.

    For NVIDIA from the cubin and the PTX (ptxas keeps its shared stores, barriers and accesses); for AMD from assembly.
    """
    kinds = ("load", "store")
    tiles, accessed = ({kind: of(kernel.asm["ttir"], kind) for kind in kinds} for of in (_largest_tile, _accessed))
    counts = _nvidia(kernel.asm) if "cubin" in kernel.asm else _amd(kernel.asm["amdgcn"])
    return MachineCode(**counts, shared_bytes=kernel.metadata.shared, accessed=accessed, largest_tile=tiles)


def bodies_of(kernel: CompiledKernel) -> tuple[Body, list[Body]]:
    """The code outside of a kernel's innermost loops, and these loops; NVIDIA's disassembler takes 0.4 CPU seconds."""
    if "amdgcn" in kernel.asm:
        return bodies(kernel.asm["amdgcn"], amd=True)
    return bodies(_read_cubin(kernel.asm["cubin"], "-sass"))


def _accessed(ttir: str, kind: str) -> set[str]:
    before = dict(re.findall(r"%([\w#]+) = (?:tt|arith)\.\w+ %([\w#]+)", ttir))
    for carried in re.findall(r"iter_args\((.*?)\) ->", ttir):
        before |= dict(re.findall(r"%(\w+) = %([\w#]+)", carried))
    through_tables = set(re.findall(r"%(\w+) = tt\.int_to_ptr", ttir))
    found = set()
    for pointer in re.findall(rf"\btt\.{kind} %([\w#]+)", ttir):
        stars = 0
        while pointer in before:
            stars += pointer in through_tables
            pointer = before[pointer]
        found.add("*" * stars + pointer)
    return found


def _largest_tile(ttir: str, kind: str) -> dict[str, tuple[int, int]]:
    before = dict(re.findall(r"%(\w+) = tt\.(?:addptr|splat|broadcast|expand_dims) %(\w+)", ttir))
    largest: dict[str, tuple[int, int]] = {}
    for pointer, shape, type_ in re.findall(rf"\btt\.{kind} %(\w+).*tensor<(\d+x[\dx]+)x!tt\.ptr<(\w+)>>", ttir):
        while pointer in before:
            pointer = before[pointer]
        tile = prod(map(int, shape.split("x"))), _SIZES[type_]
        largest[pointer] = max(tile, largest.get(pointer, tile))
    return largest


def _read_cubin(cubin: bytes, what: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, what, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _nvidia(asm: dict[str, str | bytes]) -> dict[str, object]:
    report = _read_cubin(asm["cubin"], "-res-usage")
    used = {name: int(re.search(rf"\b{name}:(\d+)", report)[1]) for name in ("REG", "STACK", "LOCAL")}
    accesses = re.findall(r"\b(ld|st)\.global(?:\.[\w:]+)*?(?:\.v(\d))?\.[bfus](\d+)\b", asm["ptx"])
    widths = [(kind, int(vector or 1) * int(bits) // 8) for kind, vector, bits in accesses]
    return {
        "registers": used["REG"],
        "stack_bytes": used["STACK"] + used["LOCAL"],
        "instructions": _code_bytes(asm["cubin"]) // 16,  # each has 16 bytes since Volta
        "shared_stores": len(re.findall(r"\bst\.shared\b", asm["ptx"])),
        "barriers": len(re.findall(r"\bbar\.sync\b", asm["ptx"])),
        "loads": tuple(width for kind, width in widths if kind == "ld"),
        "stores": tuple(width for kind, width in widths if kind == "st"),
        "atomics": bool(re.search(r"\b(?:atom|red)\.(?:\w+\.)*global\b", asm["ptx"])),
    }


def _code_bytes(elf: bytes) -> int:
    """Bytes of all code sections of an ELF file."""
    (table,) = struct.unpack_from("<Q", elf, 40)
    size, count = struct.unpack_from("<HH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + i * size) for i in range(count)]
    executable = 4
    return sum(length for _, _, flags, _, _, length in headers if flags & executable)


def _amd(assembly: str) -> dict[str, object]:
    used = {
        name: int(re.search(rf"^\s+\.{name}:\s+(\d+)$", assembly, re.MULTILINE)[1])
        for name in ("vgpr_count", "vgpr_spill_count", "private_segment_fixed_size")
    }
    names = re.findall(r"^\t([a-z]\w+)", assembly, re.MULTILINE)
    widths = [(a[1], amd_width(a[2], a[3])) for a in map(AMD_ACCESS.match, names) if a]
    return {
        "registers": used["vgpr_count"],
        # Scalar registers spill to lanes of vector registers, and to the stack only where those run out.
        "stack_bytes": max(used["private_segment_fixed_size"], 4 * used["vgpr_spill_count"]),
        "instructions": len(names),
        "shared_stores": sum(name.startswith("ds_write") for name in names),
        "barriers": names.count("s_barrier"),
        "loads": tuple(width for kind, width in widths if kind == "load"),
        "stores": tuple(width for kind, width in widths if kind == "store"),
        "atomics": any(re.match(r"(?:buffer|global|flat)_atomic", name) for name in names),
    }
