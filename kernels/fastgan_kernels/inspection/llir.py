"""Which kernel argument each global access goes through and how wide it is, read from a kernel's LLVM IR.

LLVM IR is the last form in which an address can be followed back to its argument; the registers of machine code are
reused. What the assembler made of it is checked apart, by width, in :mod:`fastgan_kernels.inspection.compiled`.
"""

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class GlobalAccess:
    """One access of one thread: through which argument (its position among the run-time arguments), how many bytes.

    ``from_table``: not through the argument itself but through a pointer that was loaded through it.
    """

    kind: Literal["load", "store", "atomic"]
    argument: int
    bytes: int
    from_table: bool = False


_NAME = r"%[\w.$-]+"
_DEFINITION = re.compile(rf"^\s*({_NAME}) = (.*)$")
_POINTER_OPERAND = re.compile(rf"ptr addrspace\([18]\)[^,()%]*({_NAME})")
# Triton writes NVIDIA's accesses as inline assembly: ld.global.L1::evict_last.v4.b32, atom.global.gpu.acq_rel.add.f32.
_ASM_ACCESS = re.compile(r"(?<![a-z])(ld|st|atom|red)\.(?:[\w:]+\.)*?global((?:\.[\w:]+)*)")
_TYPE = r"(<[^>]*>|\w+)"
_LLVM_ACCESS = (
    # What moves, in the group.
    ("load", re.compile(rf"^(?:tail )?call {_TYPE} @llvm\.(?:amdgcn\.raw\.ptr\.buffer|masked)\.load\b")),
    ("store", re.compile(rf"^(?:tail )?call void @llvm\.(?:amdgcn\.raw\.ptr\.buffer|masked)\.store\.[\w.]+\({_TYPE} ")),
    ("load", re.compile(rf"^load (?:volatile )?{_TYPE}, ptr addrspace\(1\)")),
    ("store", re.compile(rf"^store (?:volatile )?{_TYPE} ")),
    ("atomic", re.compile(rf"^(?:tail )?call {_TYPE} @llvm\.amdgcn\.raw\.ptr\.buffer\.atomic\b")),
    ("atomic", re.compile(rf"^atomicrmw .*, {_TYPE} ")),
)
_ADDRESS_ARITHMETIC = re.compile(
    r"^(getelementptr|phi|select|freeze|bitcast|addrspacecast|ptrtoint|inttoptr|icmp|extractvalue|insertvalue"
    r"|(?:tail )?call .*@llvm\.amdgcn\.(?:make\.buffer\.rsrc|readfirstlane)\b)"
)
_SCALAR_BITS = {"half": 16, "bfloat": 16, "float": 32, "double": 64, "ptr": 64}


def global_accesses(llir: str) -> list[GlobalAccess]:
    """The global accesses of the kernel in ``llir``, in the order of the text.

    Raises:
        ValueError: for an instruction that touches global memory in a way unknown here. Nothing is passed over.
    """
    lines = llir.splitlines()
    start = next(i for i, line in enumerate(lines) if re.match(r"define .*(ptx|amdgpu)_kernel", line))
    end = next(i for i in range(start, len(lines)) if lines[i] == "}")
    arguments = re.findall(rf"({_NAME})(?=[,)])", lines[start])
    comes_from: dict[str, list[str]] = {}
    accesses: list[tuple[str, str, int]] = []
    loaded: dict[str, str] = {}  # from what was loaded to its address
    made_pointers: set[str] = set()
    for line in lines[start + 1 : end]:
        text = line.split(", !dbg")[0].strip()
        definition = _DEFINITION.match(text)
        name, instruction = definition.groups() if definition else (None, text)
        access = _access(instruction)
        if access is not None:
            accesses.append(access)
            if name is not None:
                loaded[name] = access[1]
        elif _POINTER_OPERAND.search(instruction) and not _ADDRESS_ARITHMETIC.match(instruction):
            raise ValueError(f"unknown access to global memory: {instruction}")
        elif name is not None:
            comes_from[name] = re.findall(_NAME, instruction)
            if instruction.startswith("inttoptr"):
                made_pointers.add(name)
    pointers = {
        name: i
        for i, name in enumerate(arguments)
        if re.search(rf"ptr addrspace\(1\)[^,%]*{re.escape(name)}[,)]", lines[start])
    }
    found = []
    for kind, pointer, size in accesses:
        arguments_of, tables_of = _origins(pointer, comes_from, loaded, made_pointers)
        origins = [(pointers[name], False) for name in arguments_of & pointers.keys()]
        origins += [(pointers[name], True) for name in tables_of & pointers.keys()]
        if len(origins) != 1:
            raise ValueError(f"the address {pointer} comes from the arguments {sorted(origins)}, expected one")
        found.append(GlobalAccess(kind, origins[0][0], size, origins[0][1]))
    return found


def _access(instruction: str) -> tuple[str, str, int] | None:
    """Kind, address and bytes of a global access; ``None`` for anything else."""
    if " asm " in instruction:
        access = _ASM_ACCESS.search(instruction)
        if access is None:
            return None
        operation, modifiers = access.groups()
        bits = re.findall(r"\.(?:bf|[bfus])(\d+)(?:x2)?(?=\.|$)", modifiers)
        vector = re.findall(r"\.v(\d)(?=\.|$)", modifiers)
        kind = {"ld": "load", "st": "store"}.get(operation, "atomic")
        return kind, _address(instruction), int(bits[-1]) // 8 * int(vector[0] if vector else 1)
    for kind, pattern in _LLVM_ACCESS:
        access = pattern.match(instruction)
        if access and _POINTER_OPERAND.search(instruction):
            return kind, _address(instruction), _bits(access.group(1)) // 8
    return None


def _address(instruction: str) -> str:
    # A stored value could be a pointer too: the address comes after it.
    return _POINTER_OPERAND.findall(instruction)[-1]


def _bits(llvm_type: str) -> int:
    vector = re.fullmatch(r"<(\d+) x (\w+)>", llvm_type)
    count, scalar = (int(vector[1]), vector[2]) if vector else (1, llvm_type)
    return count * (_SCALAR_BITS.get(scalar) or int(scalar.removeprefix("i")))


def _origins(
    name: str, comes_from: dict[str, list[str]], loaded: dict[str, str], made_pointers: set[str]
) -> tuple[set[str], set[str]]:
    """The names without a definition from which ``name`` is computed; and those of tables that it was loaded from.

    What was loaded from memory counts as none, unless it was made a pointer.
    """
    origins, tables = set(), set()
    open_names, seen = [(name, False)], set()
    while open_names:
        current, is_pointer = open_names.pop()
        if (current, is_pointer) in seen:
            continue
        seen.add((current, is_pointer))
        if current in comes_from:
            open_names += [(source, is_pointer or current in made_pointers) for source in comes_from[current]]
        elif current in loaded and is_pointer:
            tables |= _origins(loaded[current], comes_from, loaded, made_pointers)[0]
        elif current not in loaded:
            origins.add(current)
    return origins, tables
