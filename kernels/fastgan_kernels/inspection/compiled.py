"""The table: every kernel at the specialisations in use, compiled for four targets, and the rules that it must hold.

What a thread costs comes from the machine code (machine_code.py). The width of a global access comes from LLVM IR,
where it is known through which argument it goes, and is compared with the widths in the assembly (PTX, amdgcn).
"""

import csv
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from math import gcd, prod
from pathlib import Path
from typing import NamedTuple

import triton
from torch import Tensor
from triton.compiler import CompiledKernel

from fastgan_kernels.inspection.launches import TARGETS, Launch, Specialization, launches_of
from fastgan_kernels.inspection.llir import GlobalAccess, global_accesses
from fastgan_kernels.inspection.machine_code import MachineCode, machine_code
from fastgan_kernels.inspection.problems import Problem
from fastgan_kernels.inspection.ttir import TritonIR

MAX_THREADS = 1024
INT32_MAX = 2**31 - 1
# Of one thread. A layout conversion that explodes (thousands of shared stores, a barrier for a handful) does not show
# in registers. The largest sound kernel has 70 shared stores, 30 barriers and 3,400 instructions.
MAX_SHARED_STORES = 128
MAX_BARRIERS = 40
MAX_INSTRUCTIONS = 4096


@dataclass(frozen=True)
class Row:
    """One line of the table: a kernel at one specialisation for one target.

    ``loads`` and ``stores`` give for each argument the bytes of one thread's access, narrowest and widest where they
    differ.
    """

    ops: str
    kernel: str
    problem: str
    arguments: str
    constants: str
    target: str
    num_warps: int
    registers: int
    spilled_registers: int
    stack_bytes: int
    shared_bytes: int
    loads: str
    stores: str


@dataclass(frozen=True)
class _Use:
    """A specialisation and the launches, each with its problem, that ask for it."""

    specialization: Specialization
    launches: Sequence[tuple[Problem, Launch]]


class _Finding(NamedTuple):
    """A broken rule: of which specialisation, at which problem, and how."""

    specialization: Specialization
    problem: str
    text: str


def inspect_compiled(
    problems: Iterable[Problem], targets: Iterable[str] = tuple(TARGETS)
) -> tuple[list[Row], list[str]]:
    """Compiles what ``problems`` launch and returns the table and, one sentence each, the rules that are broken.

    Raises:
        RuntimeError: in a process where Triton is interpreted.
    """
    uses = _uses(list(problems), targets)
    # Triton's passes and ptxas run outside Python's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        inspected = list(pool.map(_inspect, uses))
    rows = sorted((row for row, _ in inspected if row), key=_order)
    return rows, _by_target(finding for _, findings in inspected for finding in findings)


def write_table(rows: Iterable[Row], path: Path) -> None:
    """Writes the table as CSV under one line with the version of Triton that compiled it."""
    with path.open("w", newline="") as file:
        file.write(f"# triton {triton.__version__}\n")
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read_table(path: Path) -> tuple[str, list[Row]]:
    """The version of Triton and the rows that :func:`write_table` wrote."""
    with path.open(newline="") as file:
        version = file.readline().removeprefix("# triton ").strip()
        numbers = {field.name for field in fields(Row) if field.type is int}
        return version, [
            Row(**{k: int(v) if k in numbers else v for k, v in line.items()}) for line in csv.DictReader(file)
        ]


def compare_tables(committed: Iterable[Row], compiled: Iterable[Row]) -> list[str]:
    """What differs, one sentence for each row."""
    before, now = ({_key(row): row for row in rows} for rows in (committed, compiled))
    problems = {key: row.problem for key, row in (before | now).items()}
    differences = _only_in_one(before.keys(), now.keys(), problems)
    for key in sorted(before.keys() & now.keys()):
        differences += [
            f"{_title(key, problems)}: {column} is {value} now, {getattr(before[key], column)} in the table"
            for column, value in asdict(now[key]).items()
            if value != getattr(before[key], column)
        ]
    return differences


def compare_launches(committed: Iterable[Row], problems: Iterable[Problem], targets: Iterable[str]) -> list[str]:
    """Which specialisations for ``targets`` only the table has, or only the problems launch. Compiles nothing."""
    targets = tuple(targets)
    before = {_key(row): row.problem for row in committed if row.target in targets}
    now = {}
    for use in _uses(list(problems), targets):
        of = use.specialization
        now[of.kernel, _arguments(of), _constants(of), of.target, of.num_warps] = use.launches[0][0].label
    return _only_in_one(before.keys(), now.keys(), before | now)


_Key = tuple[str, str, str, str, int]


def _key(row: Row) -> _Key:
    return row.kernel, row.arguments, row.constants, row.target, row.num_warps


def _title(key: _Key, problems: Mapping[_Key, str]) -> str:
    kernel, *_, target, _ = key
    return f"{kernel} ({problems[key]}) for {target}"


def _only_in_one(before: Set[_Key], now: Set[_Key], problems: Mapping[_Key, str]) -> list[str]:
    return [
        f"{_title(key, problems)}: "
        + ("in the table but no longer launched" if key in before else "launched but not in the table")
        for key in sorted(before ^ now)
    ]


def _uses(problems: Sequence[Problem], targets: Iterable[str]) -> list[_Use]:
    launches: dict[tuple[str, str, str], list[tuple[Problem, Launch]]] = defaultdict(list)
    for target in targets:
        for problem in problems:
            for launch in launches_of(problem, target):
                launches[launch.specialization.identity].append((problem, launch))
    return [_Use(users[0][1].specialization, users) for users in launches.values()]


def _inspect(use: _Use) -> tuple[Row | None, list[_Finding]]:
    specialization = use.specialization
    problem = use.launches[0][0].label
    try:
        kernel = specialization.compile()
    except Exception as error:  # of whatever pass of the compiler: the other kernels are inspected all the same
        message = "".join(str(error).strip().splitlines()[:1])
        return None, [_Finding(specialization, problem, f"does not compile: {type(error).__name__}: {message}")]
    code = machine_code(kernel)
    accesses = _accesses_by_argument(specialization, kernel)
    row = Row(
        ops="+".join(sorted({problem.op for problem, _ in use.launches})),
        kernel=specialization.kernel,
        problem=problem,
        arguments=_arguments(specialization),
        constants=_constants(specialization),
        target=specialization.target,
        num_warps=specialization.num_warps,
        registers=code.registers,
        spilled_registers=code.spilled_registers,
        stack_bytes=code.stack_bytes,
        shared_bytes=kernel.metadata.shared,
        loads=_widths(accesses, "load"),
        stores=_widths(accesses, "store"),
    )
    findings = [_Finding(specialization, problem, text) for text in _resource_findings(row, code)]
    findings += _width_findings(use, kernel, accesses)
    findings += _index_findings(use, kernel)
    return row, findings


def _by_target(findings: Iterable[_Finding]) -> list[str]:
    """One sentence for each kernel, problem and broken rule, with the targets where it is broken."""
    targets: dict[str, set[str]] = defaultdict(set)
    for finding in findings:
        targets[f"{finding.specialization.kernel} at {finding.problem} {finding.text}"].add(
            finding.specialization.target
        )
    return [f"{text} ({', '.join(t for t in TARGETS if t in targets[text])})" for text in sorted(targets)]


def _order(row: Row) -> tuple[object, ...]:
    return row.kernel, row.arguments, row.constants, row.num_warps, list(TARGETS).index(row.target)


def _arguments(specialization: Specialization) -> str:
    """Types of the run-time arguments; ``/16`` marks a promised multiple of 16, ``/2GB`` a tensor below 2 GB."""
    marks = {("tt.divisibility", 16): "/16", ("tt.pointer_range", 32): "/2GB"}
    return " ".join(
        f"{name}:{_type(specialization.signature[name])}"
        + "".join(mark for promise, mark in marks.items() if promise in specialization.attributes_of(name))
        for name in specialization.runtime_arguments
    )


def _type(signature: str | tuple[str, ...]) -> str:
    """The type of an argument; of a tuple, how many entries it has and their types."""
    if isinstance(signature, str):
        return signature
    return f"{len(signature)}x{'|'.join(dict.fromkeys(signature))}"


def _constants(specialization: Specialization) -> str:
    names = [name for name in specialization.signature if name not in specialization.runtime_arguments]
    return " ".join(f"{name}={specialization.constant(name)}" for name in names)


def _accesses_by_argument(specialization: Specialization, kernel: CompiledKernel) -> dict[str, list[GlobalAccess]]:
    runtime: list[str] = []
    for name in specialization.runtime_arguments:
        signature = specialization.signature[name]
        # A tuple is as many arguments as it has entries.
        runtime += [name] * (len(signature) if isinstance(signature, tuple) else 1)
    accesses: dict[str, list[GlobalAccess]] = defaultdict(list)
    for access in global_accesses(kernel.asm["llir"]):
        accesses["*" * access.from_table + runtime[access.argument]].append(access)
    names = [stars + name for name in dict.fromkeys(runtime) for stars in ("", "*")]
    return {name: accesses[name] for name in names if name in accesses}


def _widths(accesses: Mapping[str, Sequence[GlobalAccess]], kind: str) -> str:
    words = []
    for name, of_argument in accesses.items():
        widths = {access.bytes for access in of_argument if access.kind == kind}
        if widths:
            words.append(f"{name}:" + "-".join(map(str, sorted({min(widths), max(widths)}))))
    return " ".join(words)


def _resource_findings(row: Row, code: MachineCode) -> Iterator[str]:
    if code.shared_stores > MAX_SHARED_STORES:
        yield f"stores to shared memory {code.shared_stores} times a thread, {MAX_SHARED_STORES} at most are expected"
    if code.barriers > MAX_BARRIERS:
        yield f"has {code.barriers} barriers, {MAX_BARRIERS} at most are expected"
    if code.instructions > MAX_INSTRUCTIONS:
        yield f"has {code.instructions} instructions, {MAX_INSTRUCTIONS} at most are expected"
    if row.spilled_registers or row.stack_bytes:
        yield f"spills {row.spilled_registers} registers and keeps {row.stack_bytes} bytes of a thread in local memory"
    threads = row.num_warps * TARGETS[row.target].warp_size
    if threads > MAX_THREADS:
        yield f"has {threads} threads in a program, {MAX_THREADS} at most are possible"


def _width_findings(
    use: _Use, kernel: CompiledKernel, accesses: Mapping[str, Sequence[GlobalAccess]]
) -> Iterator[_Finding]:
    """The rule: a feature map, and what a table points to, is accessed as wide as the start of each of its rows allows.

    A feature map is a tensor with the dimensions of x and at least its elements. Wide is 16 bytes, or less where the
    bytes of a row are not a multiple of 16 or a tile does not hold 16 bytes for each thread. What is smaller (a value
    for each channel or plane, partial sums) may be accessed narrowly. Tensors behind a table may differ in this: the
    narrowest access must be as wide as the least aligned allows, the widest as the most aligned.
    """
    specialization = use.specialization
    problem = use.launches[0][0].label
    if any(access.kind == "atomic" for of_argument in accesses.values() for access in of_argument):
        yield _Finding(specialization, problem, "uses atomics: its results would change from run to run")
    in_ir = {
        name: min(widths)
        for name, of_argument in accesses.items()
        if (widths := [access.bytes for access in of_argument if access.kind != "atomic"])
    }
    in_assembly = min(_assembly_widths(kernel))
    if in_assembly < min(in_ir.values()):
        text = f"accesses {in_assembly} bytes where LLVM IR has {min(in_ir.values())} or more"
        yield _Finding(specialization, problem, text)
    tiles: dict[str, list[int]] = defaultdict(list)
    for tile in TritonIR(kernel.asm["ttir"]).accesses:
        tiles[tile.argument].append(tile.elements)
    # Every launch of a specialisation is accessed alike, so the first that breaks the rule is enough.
    broken: dict[str, _Finding] = {}
    for launched_for, launch in use.launches:
        for name, tensor in launch.tensors.items():
            is_feature_map = tensor.dim() == len(launched_for.shape) and tensor.numel() >= launched_for.elements
            if not is_feature_map or name not in in_ir or not specialization.is_aligned(name):
                continue
            size = tensor.element_size()
            of_thread = max(1, min(tiles[name]) // specialization.threads) * size
            possible = min(gcd(_row_length(tensor) * size, 16), 1 << (of_thread.bit_length() - 1))
            if in_ir[name] < possible:
                text = f"accesses {name} by {in_ir[name]} bytes where {possible} are possible"
                broken.setdefault(name, _Finding(specialization, launched_for.label, text))
        for name, tensors in launch.pointed_to.items():
            matrices = [t for t in tensors if t.dim() > 1]
            if not matrices or name not in in_ir:
                continue
            of_thread = max(1, min(tiles[name]) // specialization.threads) * matrices[0].element_size()
            possible = [min(gcd(_slice_length(t) * t.element_size(), 16), of_thread) for t in matrices]
            widest = max(access.bytes for access in accesses[name])
            least, most = min(possible), max(possible)
            if in_ir[name] < least or widest < most:
                text = f"accesses {name} by {in_ir[name]} to {widest} bytes where {least} to {most} are possible"
                broken.setdefault(name, _Finding(specialization, launched_for.label, text))
    yield from broken.values()


def _row_length(tensor: Tensor) -> int:
    """Elements of a row of a dense [N, C, *spatial] in memory: pixels, or channels where those are innermost."""
    pixels = prod(tensor.shape[2:])
    return pixels if tensor.is_contiguous() and pixels > 1 else tensor.shape[1]


def _slice_length(tensor: Tensor) -> int:
    """Elements from a slice of a dense tensor along its outermost axis in memory to the next; channels where those are
    innermost."""
    return max(tensor.stride()) if tensor.is_contiguous() or tensor.dim() == 2 else tensor.shape[1]


def _assembly_widths(kernel: CompiledKernel) -> set[int]:
    if "ptx" in kernel.asm:
        accesses = re.findall(r"\b(?:ld|st)\.global(?:\.[\w:]+)*?(?:\.v(\d))?\.[bfus](\d+)\b", kernel.asm["ptx"])
        return {int(vector or 1) * int(bits) // 8 for vector, bits in accesses}
    accesses = re.findall(r"\b(?:buffer|global|flat)_(?:load|store)_(\w+)", kernel.asm["amdgcn"])
    return {_amd_width(kind) for kind in accesses}


def _amd_width(kind: str) -> int:
    words = re.match(r"(dwordx?|[us]?byte|[us]?short)(\d)?", kind)
    unit = 4 if words[1].startswith("dword") else 2 if "short" in words[1] else 1
    return unit * int(words[2] or 1)


def _index_findings(use: _Use, kernel: CompiledKernel) -> Iterator[_Finding]:
    """The rule: no index of a launch leaves 32 bits where the kernel computes it in 32 bits."""
    ir = TritonIR(kernel.asm["ttir"])
    for problem, launch in use.launches:
        addressed = {name: [tensor] for name, tensor in launch.tensors.items()} | dict(launch.pointed_to)
        for name in sorted(ir.narrow_offsets & addressed.keys()):
            elements = max(tensor.numel() for tensor in addressed[name])
            if elements > INT32_MAX:
                text = f"adds 32-bit offsets to {name}, which has {elements} elements"
                yield _Finding(use.specialization, problem.label, text)
        overflows = ir.overflows(launch.integers, launch.grid)
        if overflows:
            yield _Finding(use.specialization, problem.label, f"overflows: {overflows[0]}")
