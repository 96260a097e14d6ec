"""What a thread of a kernel costs: registers, stack, instructions, shared-memory stores and barriers."""

import re
import struct
import subprocess
import tempfile
from dataclasses import dataclass

from triton import knobs
from triton.compiler import CompiledKernel


@dataclass(frozen=True)
class MachineCode:
    """Counts of one thread. Instructions, shared-memory stores and barriers are those in the text, loops once.

    ``spilled_registers`` on NVIDIA is stack_bytes / 4, since ptxas counts spilled registers and local arrays together.
    """

    registers: int
    spilled_registers: int
    stack_bytes: int
    instructions: int
    shared_stores: int
    barriers: int


def machine_code(kernel: CompiledKernel) -> MachineCode:
    """Of a kernel for NVIDIA (cubin; ptxas keeps the shared stores and barriers of PTX) or AMD (assembly)."""
    return _nvidia(kernel) if "cubin" in kernel.asm else _amd(kernel.asm["amdgcn"])


def _nvidia(kernel: CompiledKernel) -> MachineCode:
    cubin, ptx = kernel.asm["cubin"], kernel.asm["ptx"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        report = subprocess.run(
            [knobs.nvidia.cuobjdump.path, "-res-usage", file.name], check=True, capture_output=True, text=True
        ).stdout
    used = {name: int(re.search(rf"\b{name}:(\d+)", report)[1]) for name in ("REG", "STACK", "LOCAL")}
    stack = used["STACK"] + used["LOCAL"]
    return MachineCode(
        registers=used["REG"],
        spilled_registers=stack // 4,
        stack_bytes=stack,
        instructions=_text_bytes(cubin) // 16,  # each has 16 bytes since Volta
        shared_stores=len(re.findall(r"\bst\.shared\b", ptx)),
        barriers=len(re.findall(r"\b(?:bar|barrier)\.(?:cta\.)?sync\b", ptx)),
    )


def _text_bytes(elf: bytes) -> int:
    """Bytes of all sections of an ELF file that hold code."""
    (table,) = struct.unpack_from("<Q", elf, 40)
    size, count = struct.unpack_from("<HH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + i * size) for i in range(count)]
    executable = 4
    return sum(length for _, _, flags, _, _, length in headers if flags & executable)


def _amd(assembly: str) -> MachineCode:
    used = {
        name: int(re.search(rf"^\s+\.{name}:\s+(\d+)$", assembly, re.MULTILINE)[1])
        for name in ("vgpr_count", "vgpr_spill_count", "sgpr_spill_count", "private_segment_fixed_size")
    }
    instructions = re.findall(r"^\t([a-z]\w+)", assembly, re.MULTILINE)
    return MachineCode(
        registers=used["vgpr_count"],
        spilled_registers=used["vgpr_spill_count"] + used["sgpr_spill_count"],
        stack_bytes=used["private_segment_fixed_size"],
        instructions=len(instructions),
        shared_stores=sum(name.startswith(("ds_write", "ds_store")) for name in instructions),
        barriers=instructions.count("s_barrier"),
    )
