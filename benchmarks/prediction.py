"""What can be said of the kernels on a machine without a GPU: predictions, and marked as such.

Launches are asked of the launchers themselves, on torch's meta device, at the sizes of real models, and so are the
tensors that each is given. Traffic is counted in Triton's interpreter on small problems that run the same
kernels. What the compiler made of the kernels is read from ``kernels/compiled.csv``. Times follow from these and from a
description of a chip. Nothing here was timed, and nothing goes into ``results.csv``.
"""

import csv
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from triton import knobs

from benchmarks.chips import CHIPS, Chip
from benchmarks.old_ops import OPS
from benchmarks.passes import bind, draw
from benchmarks.registry import Case, Op, Pass, Problem, Shape, cases
from fastgan_kernels.inspection.compiled import Row as CompiledRow
from fastgan_kernels.inspection.compiled import read_table
from fastgan_kernels.inspection.launches import Launch, OperatorCall, recorded
from fastgan_kernels.inspection.operators import extent, touched_bytes

_ROOT = Path(__file__).parents[1]
COMPILED = _ROOT / "kernels" / "compiled.csv"
MARK = "prediction"

# Of a forward pass, at most: what the interpreter counts within seconds.
_COUNTED_BYTES = 2**20
_COUNTED_OPERATIONS = 2**21
_MOST_PROCESSES = 8  # each imports torch


class Span(NamedTuple):
    """A tensor in memory: from ``start`` to ``end`` of a storage, of which ``bytes`` are its own."""

    storage: int
    start: int
    end: int
    bytes: int

    @classmethod
    def of(cls, tensor: Tensor) -> "Span":
        return cls(tensor.untyped_storage()._cdata, *extent(tensor), touched_bytes(tensor))


class Activity(NamedTuple):
    """One launch on the device, of a kernel of ours or by an operator of torch, and the tensors that it is given."""

    name: str
    spans: tuple[Span, ...]

    @property
    def bytes(self) -> int:
        return sum(span.bytes for span in self.spans)


@dataclass(frozen=True)
class Row:
    """One line of ``prediction.csv``: a case, predicted for a chip. ``None`` is an empty cell: not known.

    Times are of one call inside a CUDA graph, caches cold. ``tensor_bytes`` are those of every tensor that a launch is
    given, once, summed over the launches; ``bytes`` are the floor. ``counted`` are what the op's pass really moved in
    Triton's interpreter, at ``counted_shape`` in float32; ``compiled`` is of all the op's kernels in
    ``kernels/compiled.csv``.
    """

    kind: str
    chip: str
    assumptions: str
    op: str
    problem: str
    shape: str
    dtype: str
    layout: str
    pass_: str
    bytes: int
    predicted_floor_us: float
    fused_launches: int
    fused_kernels: str
    fused_tensor_bytes: int
    fused_tensors_over_floor: float
    fused_predicted_us: float
    eager_launches: int
    eager_tensor_bytes: int
    eager_tensors_over_floor: float
    eager_predicted_us: float
    predicted_eager_over_fused: float
    counted_shape: str | None = None
    counted_bytes: int | None = None
    counted_loaded: int | None = None
    counted_stored: int | None = None
    counted_over_floor: float | None = None
    compiled_by: str | None = None
    compiled_target: str | None = None
    compiled_kernels: int | None = None
    compiled_variants: int | None = None
    compiled_registers: int | None = None
    compiled_spilled_registers: int | None = None
    compiled_stack_bytes: int | None = None
    compiled_shared_bytes: int | None = None
    compiled_narrowest_access: int | None = None
    compiled_widest_access: int | None = None
    compiled_spills: str | None = None


COLUMNS = tuple(field.name.rstrip("_") for field in fields(Row))


def prediction_rows(of: Iterable[Case], chip: Chip, *, counted: bool = True, compiled: Path = COMPILED) -> list[Row]:
    """Predicts the cases ``of`` any ops, which need no GPU and no memory, for ``chip``.

    Args:
        counted: whether traffic is counted as well, in processes of their own: a minute for all ops, not seconds.
        compiled: the table that ``python -m fastgan_kernels.inspection compiled --write`` writes.

    Raises:
        ValueError: in a process where Triton is interpreted.
    """
    if knobs.runtime.interpret:
        raise ValueError("TRITON_INTERPRET is set: kernels cannot be predicted where they are interpreted, unset it")
    of = list(of)
    ops = {case.op.name: case.op for case in of}
    passes = {name: tuple(dict.fromkeys(c.pass_ for c in of if c.op.name == name)) for name in ops}
    traffic = _counted_traffic([(ops[name], passes[name]) for name in ops]) if counted else {}
    version, table = read_table(compiled)
    summaries = {name: _compiled_summary(version, table, name, chip.target) for name in ops}
    return [
        Row(**_predicted(case, chip), **traffic.get((case.op.name, case.pass_), {}), **summaries[case.op.name])
        for case in of
    ]


def activities(function: Callable[..., object], case: Case, target: str) -> list[Activity]:
    """What one call of ``case``'s pass of ``function`` runs on a GPU, in order.

    Raises:
        RuntimeError: in a process where Triton is interpreted.
    """
    return [
        Activity(_name(done), tuple(dict.fromkeys(Span.of(tensor) for tensor in _tensors(done) if tensor.numel())))
        for done in _recorded_call(function, case, target)
    ]


def predicted_seconds(launches: Iterable[Activity], chip: Chip, operations: int = 0) -> float:
    """The sum over ``launches`` of what each takes: its bytes at a copy's bandwidth, or a launch if that is longer.

    ``operations`` of the whole call take at least what the chip needs for them at its best.

    The first launch finds nothing in the cache. What an earlier one was given costs nothing where all that was given
    since fits with it: the next launch finds the intermediate results of small problems there.
    """
    seconds = 0.0
    recent: list[Span] = []
    for launch in launches:
        missed = sum(span.bytes for span in launch.spans if not _is_cached(span, recent, chip.cache_bytes))
        recent += launch.spans
        seconds += max(chip.launch_seconds, missed / chip.copy_bandwidth)
    return max(seconds, operations / chip.arithmetic)


def write(rows: Iterable[Row], path: Path) -> None:
    """Writes ``rows`` as CSV, in place of an earlier prediction.

    Raises:
        ValueError: if the file holds anything else, such as measured results.
    """
    check_output(path)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(asdict(row).values() for row in rows)


def check_output(path: Path) -> None:
    """Raises ValueError where ``path`` is a file that holds anything but predictions."""
    if path.exists() and path.read_text().partition("\n")[0] not in ("", ",".join(COLUMNS)):
        raise ValueError(f"{path} holds something else than predictions: give another file for them")


def render(rows: Sequence[Row]) -> list[Table]:
    """Tables for a terminal of 120 columns: times, counted traffic where it was counted, compiled kernels."""
    tables = [_times(list(group)) for _, group in itertools.groupby(rows, lambda row: row.chip)]
    if any(row.counted_shape for row in rows):
        tables.append(_traffic(rows))
    if any(row.compiled_by for row in rows):
        tables.append(_compiled(rows))
    return tables


def run(names: Sequence[str], chip: str, *, every: bool, counted: bool, out: Path | None) -> int:
    """The command ``predict``: prints the tables, and writes the rows to ``out``.

    Args:
        names: of ops; none means all.
        every: every problem, type and layout, instead of the key problems in float32, contiguous.

    Returns:
        0.

    Raises:
        ValueError: for an op that is not known; see also :func:`tell`.
    """
    known = {op.name: op for op in OPS}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no op is called {unknown[0]!r}, expected one of {', '.join(known)}")
    chosen = cases(known[name] for name in (names or known))
    chosen.sort(key=lambda case: list(known).index(case.op.name))
    if not every:
        chosen = [c for c in chosen if c.problem.key and (c.dtype_name, c.layout) == ("float32", "contiguous")]
    console = Console(width=None if sys.stdout.isatty() else 120)
    return tell(chosen, chip, counted=counted, out=out, console=console)


def tell(chosen: Sequence[Case], chip: str, *, counted: bool, out: Path | None, console: Console) -> int:
    """Prints the tables of :func:`prediction_rows`, and writes the rows to ``out``; returns 0.

    Raises:
        ValueError: for a chip that is not known; see also :func:`prediction_rows` and :func:`write`.
    """
    if chip not in CHIPS:
        raise ValueError(f"no chip is called {chip!r}, expected one of {', '.join(CHIPS)}")
    if out is not None:
        check_output(out)
    rows = prediction_rows(chosen, CHIPS[chip], counted=counted)
    for table in render(rows):
        console.print(table)
    if out is not None:
        write(rows, out)
        console.print(f"{len(rows)} predictions written to {out}")
    return 0


# Launches and times


def _recorded_call(function: Callable[..., object], case: Case, target: str) -> list[Launch | OperatorCall]:
    operands = draw(case, torch.device("meta"))
    bind(case.op.reference, case.op, "forward", operands)()  # which makes what is kept between calls, like a filter
    with recorded(target) as done:
        call = bind(function, case.op, case.pass_, operands)
        before = len(done)
        call()
    return done[before:]


def _name(done: Launch | OperatorCall) -> str:
    return done.specialization.kernel if isinstance(done, Launch) else done.name


def _tensors(done: Launch | OperatorCall) -> list[Tensor]:
    if isinstance(done, OperatorCall):
        return [*done.read, *done.written]
    return [*done.tensors.values(), *(t for of_table in done.pointed_to.values() for t in of_table)]


def _is_cached(span: Span, recent: Sequence[Span], cache_bytes: int) -> bool:
    # Backwards over what came before, each span once.
    since = dict.fromkeys([span])
    for earlier in reversed(recent):
        if sum(s.bytes for s in since) > cache_bytes:
            return False
        if earlier.storage == span.storage and earlier.start <= span.start and span.end <= earlier.end:
            return True
        since.setdefault(earlier)
    return False


def _predicted(case: Case, chip: Chip) -> dict[str, object]:
    predicted: dict[str, object] = {
        "kind": MARK,
        "chip": chip.name,
        "assumptions": chip.assumptions,
        "op": case.op.name,
        "problem": case.problem.name,
        "shape": _shape(case.problem.shape),
        "dtype": case.dtype_name,
        "layout": case.layout,
        "pass_": case.pass_,
        "bytes": case.bytes,
        "predicted_floor_us": 1e6
        * max(chip.launch_seconds, case.bytes / chip.copy_bandwidth, case.work.operations / chip.arithmetic),
    }
    for provider, function in (("fused", case.op.fused), ("eager", case.op.reference)):
        launches = activities(function, case, chip.target)
        given = sum(launch.bytes for launch in launches)
        predicted |= {
            f"{provider}_launches": len(launches),
            f"{provider}_tensor_bytes": given,
            f"{provider}_tensors_over_floor": given / case.bytes,
            f"{provider}_predicted_us": predicted_seconds(launches, chip, case.work.operations) * 1e6,
        }
        if provider == "fused":
            predicted["fused_kernels"] = " ".join(launch.name for launch in launches)
    predicted["predicted_eager_over_fused"] = predicted["eager_predicted_us"] / predicted["fused_predicted_us"]
    return predicted


# Counted traffic


def counted_shape(op: Op, passes: Sequence[Pass]) -> Shape:
    """The shape of ``op``'s first problem, made small for the interpreter while it runs the same kernels.

    Batch, channels, then pixels (of a list of weights: all channels) are halved, as long as each of ``passes`` launches
    what it launches at the first problem: at the same compile-time constants while that is possible, since another
    tiling has another traffic.
    """
    first = shape = op.problems[0].shape
    axes = tuple(range(len(shape)))
    groups = filter(len, (axes[:1], axes[1:2], axes[2:])) if op.operand_shapes(shape)[0] == shape else (axes,)
    for launched_at, together in itertools.product((_specializations, _kernels), groups):
        at_first = launched_at(op, first, passes)
        while _is_large(op, shape) and any(shape[axis] > 1 for axis in together):
            smaller = tuple(max(n // 2, 1) if axis in together else n for axis, n in enumerate(shape))
            if launched_at(op, smaller, passes) != at_first:
                break
            shape = smaller
    return shape


def _counted_case(op: Op, shape: Shape, pass_: Pass) -> Case:
    return Case(op, Problem("counted", shape, ""), "float32", "contiguous", pass_)


def _is_large(op: Op, shape: Shape) -> bool:
    forward = _counted_case(op, shape, "forward")
    return forward.bytes > _COUNTED_BYTES or forward.work.operations > _COUNTED_OPERATIONS


def _specializations(op: Op, shape: Shape, passes: Sequence[Pass]) -> list[object]:
    return [
        done.specialization.identity if isinstance(done, Launch) else done.name
        for done in _recorded_passes(op, shape, passes)
    ]


def _kernels(op: Op, shape: Shape, passes: Sequence[Pass]) -> list[object]:
    return list(map(_name, _recorded_passes(op, shape, passes)))


def _recorded_passes(op: Op, shape: Shape, passes: Sequence[Pass]) -> list[Launch | OperatorCall]:
    return [done for pass_ in passes for done in _recorded_call(op.fused, _counted_case(op, shape, pass_), "sm_90")]


def _counted_traffic(wanted: Sequence[tuple[Op, Sequence[Pass]]]) -> dict[tuple[str, Pass], dict[str, object]]:
    small = []
    for op, passes in wanted:
        shape = counted_shape(op, passes)
        small += [_counted_case(op, shape, pass_) for pass_ in passes]
    jobs = min(os.cpu_count() or 1, _MOST_PROCESSES, len(small))
    shares = [small[i::jobs] for i in range(jobs)]
    with ThreadPoolExecutor(jobs) as pool:
        counted = [pair for of_share in pool.map(_count_apart, shares) for pair in of_share]
    return {
        (case.op.name, case.pass_): {
            "counted_shape": _shape(case.problem.shape),
            "counted_bytes": case.bytes,
            "counted_loaded": loaded,
            "counted_stored": stored,
            "counted_over_floor": (loaded + stored) / case.bytes,
        }
        for case, (loaded, stored) in counted
    }


def _count_apart(share: Sequence[Case]) -> list[tuple[Case, tuple[int, int]]]:
    environment = dict(os.environ, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    environment["PYTHONPATH"] = os.pathsep.join([str(_ROOT), str(_ROOT / "kernels")])
    job = json.dumps([(case.op.name, case.problem.shape, case.pass_) for case in share])
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.counted"], input=job, env=environment, capture_output=True, text=True
    )
    if run.returncode:
        raise RuntimeError(f"traffic could not be counted: {run.stderr.strip()[-2000:]}")
    return list(zip(share, map(tuple, json.loads(run.stdout)), strict=True))


# The compiled table


def _compiled_summary(version: str, table: Iterable[CompiledRow], op: str, target: str) -> dict[str, object]:
    rows = [row for row in table if op in row.ops.split("+") and row.target == target]
    if not rows:
        return {}
    widths = [int(width) for row in rows for width in re.findall(r"[:-](\d+)", f"{row.loads} {row.stores}")]
    spilled: dict[str, int] = {}
    for row in rows:
        if row.spilled_registers or row.stack_bytes:
            spilled[row.kernel] = max(row.spilled_registers, spilled.get(row.kernel, 0))
    return {
        "compiled_by": f"triton {version}",
        "compiled_target": target,
        "compiled_kernels": len({row.kernel for row in rows}),
        "compiled_variants": len(rows),
        "compiled_registers": max(row.registers for row in rows),
        "compiled_spilled_registers": max(row.spilled_registers for row in rows),
        "compiled_stack_bytes": max(row.stack_bytes for row in rows),
        "compiled_shared_bytes": max(row.shared_bytes for row in rows),
        "compiled_narrowest_access": min(widths),
        "compiled_widest_access": max(widths),
        "compiled_spills": " ".join(f"{kernel}:{registers}" for kernel, registers in spilled.items()),
    }


# Tables for people

_SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "contiguous": "nchw", "channels_last": "nhwc"}


def _times(rows: Sequence[Row]) -> Table:
    table = _table(
        f"PREDICTION for {rows[0].chip}, not measured: launches, bytes of their tensors over the floor, microseconds",
        rows[0].assumptions,
        ("", ""),
        ("", "pass"),
        *(("launches", "fused"), ("", "eager"), ("tensors", "fused"), ("", "eager")),
        *(("us", "floor"), ("", "fused"), ("", "eager"), ("eager /", "fused")),
    )
    for op, of_op in itertools.groupby(rows, lambda row: row.op):
        table.add_section()
        table.add_row(f"[bold]{op}")
        last = ""
        for row in of_op:
            name = f"  {row.problem} {_SHORT[row.dtype]} {_SHORT[row.layout]}"
            table.add_row(
                "" if name == last else name,
                row.pass_.replace("_backward", ""),
                *(str(row.fused_launches), str(row.eager_launches)),
                *(f"{row.fused_tensors_over_floor:.2f}", f"{row.eager_tensors_over_floor:.2f}"),
                *(f"{us:.1f}" for us in (row.predicted_floor_us, row.fused_predicted_us, row.eager_predicted_us)),
                f"{'' if row.predicted_eager_over_fused >= 1 else '[red]'}{row.predicted_eager_over_fused:.2f}",
            )
            last = name
    return table


def _traffic(rows: Sequence[Row]) -> Table:
    table = _table(
        "PREDICTION: traffic counted in Triton's interpreter over the floor, float32, contiguous",
        "Sectors of 32 bytes, each time that a program touches one (upfirdn2d: once a program). A shape small enough to"
        " count that runs the same kernels as the op's first problem.",
        *(("", "op"), ("", "shape"), ("", "pass"), ("KB", "floor"), ("KB", "loaded"), ("KB", "stored")),
        ("moved /", "floor"),
    )
    seen = {(row.op, row.pass_): row for row in rows if row.counted_shape is not None}
    for _, of_op in itertools.groupby(seen.values(), lambda row: row.op):
        table.add_section()
        for i, row in enumerate(of_op):
            table.add_row(
                *(("", "") if i else (row.op, row.counted_shape)),
                row.pass_.replace("_backward", ""),
                *(f"{n / 1024:.1f}" for n in (row.counted_bytes, row.counted_loaded, row.counted_stored)),
                f"{row.counted_over_floor:.2f}",
            )
    return table


def _compiled(rows: Sequence[Row]) -> Table:
    seen = {row.op: row for row in rows if row.compiled_by is not None}
    first = next(iter(seen.values()))
    spills = dict.fromkeys(spill for row in seen.values() for spill in (row.compiled_spills or "").split())
    table = _table(
        f"PREDICTION: what {first.compiled_by} makes of the kernels for {first.compiled_target} (kernels/compiled.csv)",
        "The most of any variant of any kernel of the op. Access: bytes of one thread's narrowest and widest access to"
        f" memory. [bold]Spilled registers: {', '.join(spills) or 'none'}",
        *(("", "op"), ("", "kernels"), ("", "variants"), ("registers", "a thread"), ("registers", "spilled")),
        *(("stack", "bytes"), ("shared", "bytes"), ("access", "bytes")),
    )
    for row in seen.values():
        table.add_row(
            row.op,
            *(str(n) for n in (row.compiled_kernels, row.compiled_variants, row.compiled_registers)),
            *(str(n) for n in (row.compiled_spilled_registers, row.compiled_stack_bytes, row.compiled_shared_bytes)),
            f"{row.compiled_narrowest_access}-{row.compiled_widest_access}",
        )
    return table


def _table(title: str, caption: str, *columns: tuple[str, str]) -> Table:
    table = Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title_justify="left",
        caption_justify="left",
    )
    for column in columns:
        words = column[1] in ("", "op", "shape", "pass")
        table.add_column("\n".join(column), justify="left" if words else "right", no_wrap=True)
    return table


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape))
