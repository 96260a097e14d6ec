"""The table of what the kernels compile to, for five targets, and the rules that they must hold.

Of the specializations that the ops launch, so few are compiled that every value of every compile-time argument (tile
sizes apart) is among them. The table has a row for each kernel and target, of the worst of its specializations: short
enough to be read in a diff. Where 32 bits do not hold an index is seen in tests/kernels/test_huge.py.
"""

import csv
import os
import tempfile
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from math import gcd, prod
from pathlib import Path

import triton
from torch import Tensor
from triton import knobs

from benchmarks.op import BF16, F32, Call, Op, flat, is_nested
from benchmarks.ops import OPS
from benchmarks.static.launches import TARGETS, Launch, Specialization, launches_of
from benchmarks.static.machine_code import MachineCode, machine_code

TABLE = Path(__file__).with_name("compiled.csv")
# Of one thread. A layout conversion that explodes (thousands of shared stores, a barrier for a handful) does not show
# in registers. The largest sound kernel has 70 shared stores, 23 barriers and 2,336 instructions. ptxas puts two
# registers on the stack where another program then fits on a multiprocessor.
MOST = {"stack_bytes": 8, "shared_stores": 128, "barriers": 40, "instructions": 4096}


@dataclass(frozen=True)
class Row:
    """The most that a thread of a kernel has, over its compiled specializations for one target.

    ``accesses`` counts loads and stores of global memory: more of them for the same work are narrower ones.
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
    elements: int  # of the call's first operand
    launch: Launch
    windows: bool = False

    @property
    def specialization(self) -> Specialization:
        return self.launch.specialization

    @property
    def tile(self) -> int:
        """Elements of a tile, as its compile-time arguments have them."""
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
    """Every specialization that the ops launch for a target, once."""
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
    """Compiles what the ops launch; the rows of the table and, one sentence each, the rules that are broken.

    Raises:
        RuntimeError: in a process where Triton is interpreted.
    """
    ops = list(ops)
    return inspect_uses([use for target in targets for use in chosen(uses(ops, target))])


def inspect_uses(chosen_uses: Sequence[Use]) -> tuple[list[Row], list[str]]:
    """Compiles some uses: rows and broken rules, with the targets where each is broken."""
    # Triton's passes and ptxas run outside Python's lock. What is compiled here is of no use to anyone else.
    with (
        tempfile.TemporaryDirectory() as folder,
        knobs.cache.scope(),
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        knobs.cache.dir = folder
        results = list(pool.map(_compile, chosen_uses))
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
    """Compiles some or all ops for some or all targets, and says what was found; and whether nothing is wrong.

    The table is of all ops: only then it is compared, or written.

    Raises:
        ValueError: for an unknown op or target, and where a part of the table would be written.
    """
    for kind, names, known in (("op", op_names, OPS), ("target", target_names, TARGETS)):
        for name in names or ():
            if name not in known:
                raise ValueError(f"unknown {kind} {name!r}; choose from {', '.join(known)}")
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


def chosen(found: Sequence[Use]) -> list[Use]:
    """So few of the uses that they have every value of every compile-time argument; of equals, the largest tile."""
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


def _compile(use: Use) -> tuple[dict[str, int], list[str]]:
    """The figures of the table and the broken rules of one specialization."""
    of = use.specialization
    try:
        kernel = of.compile()
    except Exception as error:  # of whatever pass of the compiler: the other kernels are inspected all the same
        return {}, [f"does not compile: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"]
    code = machine_code(kernel)
    figures = {name: getattr(code, name) for name in ("registers", *MOST)}
    return {**figures, "accesses": len(code.loads) + len(code.stores)}, list(_findings(use, code))


def _findings(use: Use, code: MachineCode) -> Iterator[str]:
    of = use.specialization
    if of.threads > 1024:
        yield f"has {of.threads} threads in a program, 1024 at most are possible"
    for name, most in MOST.items():
        if getattr(code, name) > most:
            yield f"has {getattr(code, name)} {name.replace('_', ' ')} a thread, {most} at most are expected"
    if code.atomics:
        yield "uses atomics: its results would change from run to run"
    row, others = _row(use), _no_feature_maps(use)
    for kind, widths in (("load", code.loads), ("store", code.stores)):
        # Taps of a filter are gathered, one by one.
        tiles = (tile for pointer, tile in code.largest_tile[kind].items() if pointer not in others)
        elements, size = max(tiles, default=(1, 1))
        possible = min(gcd(row * size, 16), elements // of.threads * size)
        if row and max(widths, default=16) < possible:
            yield f"has no {kind} wider than {max(widths)} bytes where {possible} are possible"


def _row(use: Use) -> int:
    """The length of the rows of the feature maps that a launch has, if any; of several the least aligned.

    A feature map has at least the elements of the op's first operand. Where a table points to tensors, some of a launch
    may be aligned and others not: a kernel has code for both.
    """
    maps = [t for t in use.launch.tensors if _is_map(use, t)]
    if maps:
        return min((_row_length(t, windows=use.windows) for t in maps), key=lambda length: gcd(length, 16))
    behind = [t for t in use.launch.pointed_to if t.dim() > 1]
    return max(map(_row_length, behind), key=lambda length: gcd(length, 16), default=0)


def _is_map(use: Use, tensor: Tensor) -> bool:
    return tensor.dim() > 1 and tensor.numel() >= use.elements


def _no_feature_maps(use: Use) -> list[str]:
    """The arguments of a launch that are tensors and no feature maps."""
    of = use.specialization
    pointers = [name for name in of.runtime_arguments if str(of.signature[name]).startswith("*")]
    return [name for name, t in zip(pointers, use.launch.tensors, strict=True) if not _is_map(use, t)]


def _row_length(tensor: Tensor, *, windows: bool = False) -> int:
    """Elements of a row of a dense [N, C, *spatial] in memory: pixels, or channels where those are innermost."""
    pixels = tensor.shape[-1] if windows and tensor.dim() > 2 else prod(tensor.shape[2:])
    return pixels if tensor.is_contiguous() and pixels > 1 else tensor.shape[1]
