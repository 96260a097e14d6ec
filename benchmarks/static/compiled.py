"""The table of compiled kernels for five targets, and the rules that compiled kernels must keep.

A few of the specializations that the ops launch are compiled, enough to cover every value of every compile-time
argument except tile sizes. The table has one row per kernel and target, with the largest figures of its
specializations; so a diff of it is short. tests/kernels/test_huge.py checks for indices that overflow 32 bits.
"""

import csv
import multiprocessing
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from math import gcd, inf, prod
from pathlib import Path
from typing import Any, TypeVar

import triton
from torch import Tensor
from triton import knobs
from triton.compiler import CompiledKernel

from benchmarks.op import BF16, F32, Call, Op, flat, is_nested
from benchmarks.ops import OPS
from benchmarks.static.launches import TARGETS, Launch, Specialization, launches_of
from benchmarks.static.machine_code import MachineCode, machine_code

Read = TypeVar("Read")

TABLE = Path(__file__).with_name("compiled.csv")
# Limits per thread. A layout conversion that explodes (thousands of shared stores, with a barrier for every few) does
# not show in registers. The sound kernels have up to 110 shared stores, 42 barriers and 4,040 instructions. ptxas puts
# two registers on the stack where one more program then fits on a multiprocessor.
MOST = {"stack_bytes": 8, "shared_stores": 128, "barriers": 64, "instructions": 4096}
MOST_SECONDS = 1.0  # of a CPU, to compile a kernel


@dataclass(frozen=True)
class Row:
    """The largest figures per thread of a kernel, over its compiled specializations for one target.

    ``accesses`` counts loads and stores of global memory. More of them for the same work means narrower ones.
    """

    kernel: str
    target: str
    specializations: int
    registers: int
    stack_bytes: int
    instructions: int
    shared_stores: int
    barriers: int
    accesses: int


@dataclass(frozen=True)
class Use:
    """A specialization, the call of an op that launches it, and the launch."""

    label: str
    elements: int  # elements of the call's first operand
    launch: Launch
    windows: bool = False

    @property
    def specialization(self) -> Specialization:
        return self.launch.specialization

    @property
    def tile(self) -> int:
        """Elements of a tile: the product of the block sizes."""
        return prod(value for name, value in self.specialization.constants_by_name.items() if name.startswith("BLOCK_"))


def calls(op: Op) -> list[Call]:
    """What an op is compiled for: the problems of real models in two types and layouts, and the op's own list."""
    layouts = ((F32, False), (BF16, True))
    models = [
        Call(p.shape, dtype, channels_last and not is_nested(p.shape) and len(p.shape) > 2)
        for p in op.problems
        for dtype, channels_last in layouts
    ]
    return [*models, *op.compiled]


def uses(ops: Iterable[Op], target: str) -> list[Use]:
    """Each specialization that the ops launch for a target, listed once."""
    found: dict[Hashable, Use] = {}
    for op in ops:
        for call in calls(op):
            operands = op.meta(call)
            x = max((t.numel() for _, t in flat(operands)), default=0)
            label = (
                f"{op.name} {call.shape} {str(call.dtype).removeprefix('torch.')}"
                + " channels_last" * call.channels_last
            )
            for launch in launches_of(lambda op=op, call=call, operands=operands: op.run(call, operands), target):
                found.setdefault(
                    (launch.specialization.kernel, launch.specialization.key), Use(label, x, launch, op.windows)
                )
    return list(found.values())


def inspect(ops: Iterable[Op], targets: Iterable[str] = tuple(TARGETS)) -> tuple[list[Row], list[str]]:
    """Compiles what the ops launch; returns the rows of the table, and one sentence per broken rule.

    Raises:
        RuntimeError: in a process where Triton is interpreted.
    """
    ops = list(ops)
    return inspect_uses([use for target in targets for use in chosen(uses(ops, target))])


def inspect_uses(chosen_uses: Sequence[Use]) -> tuple[list[Row], list[str]]:
    """Compiles the given uses; returns rows, and one sentence per broken rule that names the targets."""
    compiled = compile_all([use.specialization for use in chosen_uses], machine_code)
    results = [_figures(use, code) for use, (code, _) in zip(chosen_uses, compiled, strict=True)]
    worst: dict[tuple[str, str], list[dict[str, int]]] = defaultdict(list)
    broken: dict[str, list[str]] = defaultdict(list)
    for use, (figures, findings) in zip(chosen_uses, results, strict=True):
        of = use.specialization
        if figures:
            worst[of.kernel, of.target].append(figures)
        for finding in findings:
            broken[f"{of.kernel} at {use.label} {finding}"].append(of.target)
    rows = [
        Row(kernel, target, len(all_), **{name: max(figures[name] for figures in all_) for name in all_[0]})
        for (kernel, target), all_ in sorted(
            worst.items(), key=lambda item: (item[0][0], list(TARGETS).index(item[0][1]))
        )
    ]
    return rows, [f"{text} ({', '.join(targets)})" for text, targets in sorted(broken.items())]


def write(rows: Iterable[Row], path: Path = TABLE) -> None:
    """Writes the table as CSV under one line with the version of Triton that compiled it."""
    with path.open("w", newline="") as file:
        file.write(f"# triton {triton.__version__}\n")
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, rows))


def read(path: Path = TABLE) -> tuple[str, list[Row]]:
    """The version of Triton and the rows that :func:`write` wrote."""
    with path.open(newline="") as file:
        version = file.readline().removeprefix("# triton ").strip()
        numbers = {field.name for field in fields(Row) if field.type is int}
        lines = csv.DictReader(file)
        return version, [Row(**{k: int(v) if k in numbers else v for k, v in line.items()}) for line in lines]


def compare(before: Iterable[Row], now: Iterable[Row]) -> list[str]:
    """What differs, one sentence for each kernel and target."""
    old, new = ({(row.kernel, row.target): asdict(row) for row in rows} for rows in (before, now))
    said = []
    for key in sorted(old.keys() | new.keys()):
        title = f"{key[0]} for {key[1]}"
        if key not in new or key not in old:
            said.append(f"{title}: " + ("in the table, no longer launched" if key in old else "not in the table"))
        elif old[key] != new[key]:
            changes = (
                f"{name} {old[key][name]} -> {new[key][name]}" for name in new[key] if old[key][name] != new[key][name]
            )
            said.append(f"{title}: {', '.join(changes)}")
    return said


def lines(
    op_names: Sequence[str] | None, target_names: Sequence[str] | None, *, rewrite: bool = False
) -> tuple[list[str], bool]:
    """Compiles the kernels of some or all ops and targets; returns the findings as text, and whether all is right.

    Only a run over all ops and targets is compared with the table, or written.

    Raises:
        ValueError: for an unknown op or target, and for ``rewrite`` with only some of them.
    """
    refuse_unknown("op", op_names, OPS)
    refuse_unknown("target", target_names, TARGETS)
    if rewrite and (op_names or target_names):
        raise ValueError("--write writes the table of all ops and targets; leave out --op and --target")
    targets = target_names or tuple(TARGETS)
    rows, wrong = inspect([OPS[name] for name in op_names or OPS], targets)
    compiled = sum(row.specializations for row in rows)
    kernels = {row.kernel for row in rows}
    said = [f"triton {triton.__version__}: {len(kernels)} kernels at {compiled} specializations: {', '.join(targets)}"]
    if rewrite:
        write(rows)
    elif not op_names:
        version, committed = read()
        if version == triton.__version__:
            wrong += compare([row for row in committed if row.target in targets], rows)
        else:
            said.append(f"{TABLE.name} is of triton {version}: only the rules were checked")
    return [*said, *wrong, f"{len(wrong)} findings"], not wrong


def refuse_unknown(kind: str, names: Iterable[str] | None, known: Iterable[str]) -> None:
    """Raises ValueError for a name that is not known."""
    for name in names or ():
        if name not in known:
            raise ValueError(f"unknown {kind} {name!r}; choose from {', '.join(known)}")


def chosen(found: Sequence[Use]) -> list[Use]:
    """A small subset of the uses that covers every value of every compile-time argument; larger tiles are preferred."""
    left: dict[str, set[Hashable]] = defaultdict(set)
    for use in found:
        left[use.specialization.kernel] |= _traits(use)
    kept = []
    for kernel, missing in left.items():
        candidates = [use for use in found if use.specialization.kernel == kernel]
        while missing:
            best = max(candidates, key=lambda use: (len(missing & _traits(use)), use.tile))
            missing -= _traits(best)
            kept.append(best)
    return kept


def _traits(use: Use) -> set[Hashable]:
    of = use.specialization
    extents = ("BLOCK_", "SPANS")
    traits = {(name, str(value)) for name, value in of.constants_by_name.items() if not name.startswith(extents)}
    return traits | {(name, of.signature[name]) for name in of.runtime_arguments}


def compile_all(
    specializations: Iterable[Specialization], read: Callable[[CompiledKernel], Read], *, tries: int = 1
) -> list[tuple[Read | str, float]]:
    """Compiles each; returns what is read of it, or why it does not compile, and the CPU seconds that it took.

    With two ``tries`` a kernel that takes longer than it should is compiled again, since a busy machine is slower.
    """
    # Processes, which know their CPU time, the assembler's included. A function of Triton cannot be pickled, so they
    # inherit it. Nothing else can use what is compiled here, so the cache is a temporary one.
    _inherited[:] = [(read, specialization, tries) for specialization in specializations]
    with (
        tempfile.TemporaryDirectory() as folder,
        knobs.cache.scope(),
        knobs.compilation.scope(),
        # The first compilation in a process takes longer.
        ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("fork"), _compile, (0,)) as pool,
    ):
        knobs.cache.dir, knobs.compilation.always_compile = folder, True
        return list(pool.map(_compile, range(len(_inherited))))


_inherited: list[tuple[Callable[[CompiledKernel], Any], Specialization, int]] = []


def _compile(which: int) -> tuple[Any, float]:
    read, specialization, tries = _inherited[which]
    least = inf
    for _ in range(tries):
        start = os.times()
        try:
            kernel = specialization.compile()
        except Exception as error:  # any pass of the compiler may fail; the other kernels are still inspected
            return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}", 0.0
        least = min(least, sum(os.times()[:4]) - sum(start[:4]))
        if least < MOST_SECONDS:
            break
    return read(kernel), least


def _figures(use: Use, code: MachineCode | str) -> tuple[dict[str, int], list[str]]:
    """The figures of a specialization for the table, and the rules that it breaks."""
    if isinstance(code, str):
        return {}, [f"does not compile: {code}"]
    figures = {name: getattr(code, name) for name in ("registers", *MOST)}
    return {**figures, "accesses": len(code.loads) + len(code.stores)}, list(_findings(use, code))


def _findings(use: Use, code: MachineCode) -> Iterator[str]:
    of = use.specialization
    if of.threads > 1024:
        yield f"has {of.threads} threads per program, expected at most 1024"
    for name, most in MOST.items():
        if getattr(code, name) > most:
            yield f"has {getattr(code, name)} {name.replace('_', ' ')} per thread, expected at most {most}"
    if code.atomics:
        yield "uses atomics: its results would change from run to run"
    row, others = _row(use), _no_feature_maps(use)
    for kind, widths in (("load", code.loads), ("store", code.stores)):
        # Only feature maps count: the taps of a filter are loaded one by one.
        tiles = (tile for pointer, tile in code.largest_tile[kind].items() if pointer not in others)
        elements, size = max(tiles, default=(1, 1))
        possible = min(gcd(row * size, 16), elements // of.threads * size)
        if row and max(widths, default=16) < possible:
            yield f"has no {kind} wider than {max(widths)} bytes where {possible} are possible"


def _row(use: Use) -> int:
    """The row length of a launch's feature maps, the least aligned one if they differ; 0 if there are none.

    A feature map has at least as many elements as the op's first operand. Tensors behind a table of pointers may be
    aligned or not, and the kernel has code for both, so the most aligned one counts.
    """
    given, behind = ([t for n, ts in use.launch.tensors.items() if n.startswith("*") == b for t in ts] for b in (0, 1))
    maps = [t for t in given if _is_map(use, t)]
    if maps:
        return min((_row_length(t, windows=use.windows) for t in maps), key=lambda length: gcd(length, 16))
    return max((_row_length(t) for t in behind if t.dim() > 1), key=lambda length: gcd(length, 16), default=0)


def _is_map(use: Use, tensor: Tensor) -> bool:
    return tensor.dim() > 1 and tensor.numel() >= use.elements


def _no_feature_maps(use: Use) -> list[str]:
    """The tensor arguments of a launch that are not feature maps."""
    return [name for name, ts in use.launch.tensors.items() if not all(_is_map(use, t) for t in ts)]


def _row_length(tensor: Tensor, *, windows: bool = False) -> int:
    """Elements of a row of a dense [N, C, *spatial] in memory: pixels, or channels where those are innermost."""
    pixels = tensor.shape[-1] if windows and tensor.dim() > 2 else prod(tensor.shape[2:])
    return pixels if tensor.is_contiguous() and pixels > 1 else tensor.shape[1]
