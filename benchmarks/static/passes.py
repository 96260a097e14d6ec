"""What is known without a GPU of each pass of an op, ours against plain torch: launches, bytes, host cost, bounds."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from triton.compiler import CompiledKernel

from benchmarks.cases import Case, bind, cases, draw
from benchmarks.chips import CHIPS, Chip
from benchmarks.op import tensors_of
from benchmarks.ops import OPS
from benchmarks.static import compiled
from benchmarks.static.bodies import Body
from benchmarks.static.bounds import STREAMING, Bound, bound
from benchmarks.static.compiled import compile_all
from benchmarks.static.host_cost import HostCost, host_costs
from benchmarks.static.launches import TARGETS, Launch, TorchOperator, recorded
from benchmarks.static.machine_code import MachineCode, bodies_of, machine_code

TABLE = Path(__file__).with_name("passes.csv")
OPEN_FINDINGS = Path(__file__).with_name("open_findings.txt")
KINDS = (("float32", "contiguous"), ("bfloat16", "channels_last"))
_CHIPS = {chip.target: chip for chip in CHIPS.values()}
HEAD = ("regs", "warps", "instr", "loads", "KB", "waves", "tail", "sts", "bar", "cpu s", "MB", "bound")

Activities = list[Launch | TorchOperator]


@dataclass(frozen=True)
class Pass:
    """A case: what one call of ours and of plain torch runs, and the bytes that each keeps from forward to backward.

    Torch's operators among ours are those of composed derivatives and casts.
    """

    case: Case
    launches: list[Bound | TorchOperator]
    eager: Activities
    kept: int
    eager_kept: int

    @property
    def moved(self) -> int:
        return sum(launch.bytes for launch in self.launches)

    @property
    def eager_moved(self) -> int:
        return sum(launch.bytes for launch in self.eager)

    @property
    def share(self) -> float:
        """The speed of a copy of the minimum bytes that the pass reaches at most. Torch's operators count as copies."""
        shares = (1.0 if isinstance(launch, TorchOperator) else launch.share for launch in self.launches)
        copies = sum(launch.bytes / share for launch, share in zip(self.launches, shares, strict=True))
        return min(1.0, self.case.bytes / copies)

    def failures(self) -> Iterator[str]:
        """One sentence for each rule that a kernel breaks without being allowed to."""
        for launch in self.launches:
            for sentence in launch.broken() if isinstance(launch, Bound) else ():
                said = f"{launch.launch.specialization.kernel} {sentence}"
                if not any(allowed in said for allowed in self.case.op.allowed):
                    yield f"{self.case.key}: {said}"


def passes(chosen: Sequence[Case], chip: Chip) -> list[Pass]:
    """Compiles the kernels of the cases.

    Raises:
        RuntimeError: if a kernel does not compile.
    """
    ours = [activities(case, case.op.op, chip.target) for case in chosen]
    of_launches = [launch.specialization for found in ours for launch in found if isinstance(launch, Launch)]
    specializations = {(of.kernel, of.key): of for of in of_launches}
    codes = dict(zip(specializations, compile_all(specializations.values(), _read, tries=2), strict=True))

    def bounded(launch: Launch | TorchOperator) -> Bound | TorchOperator:
        if isinstance(launch, TorchOperator):
            return launch
        of = launch.specialization
        code, seconds = codes[of.kernel, of.key]
        if isinstance(code, str):
            raise RuntimeError(f"{of.kernel} does not compile for {of.target}: {code}")
        return bound(chip, launch, *code, seconds)

    return [
        Pass(
            case,
            list(map(bounded, found)),
            activities(case, case.op.plain, chip.target),
            *(kept_bytes(case, function, chip.target) for function in (case.op.op, case.op.plain)),
        )
        for case, found in zip(chosen, ours, strict=True)
    ]


def _read(kernel: CompiledKernel) -> tuple[MachineCode, Body, list[Body]]:
    return machine_code(kernel), *bodies_of(kernel)


def activities(case: Case, function: Callable[..., Any], target: str) -> Activities:
    """What one call of a case runs on a GPU, recorded on the meta device."""
    with recorded(target) as everything:
        call = bind(function, case, draw(case, torch.device("meta")))
        before = len(everything)
        call()
    return everything[before:]


def kept_bytes(case: Case, function: Callable[..., Any], target: str) -> int:
    """Bytes of memory that forward keeps for backward, operands among them; counted on the meta device."""
    kept: dict[int, Tensor] = {}

    def keep(t: Tensor) -> Tensor:
        return kept.setdefault(t.untyped_storage()._cdata, t)

    with recorded(target), saved_tensors_hooks(keep, lambda t: t):
        given = draw(case, torch.device("meta"))
        results = tensors_of(function(**given.operands, **case.op.arguments({})))
    del results
    return sum(t.untyped_storage().nbytes() for t in kept.values())


@dataclass(frozen=True)
class Row:
    """Figures of a pass, ours and eager torch's: counted, but for ``host`` (measured) and ``share`` (computed).

    Attributes:
        minimum: the fewest bytes that the pass can move.
        moved: bytes of the tensors that launches read and write, each once in every launch.
        kept: bytes that forward keeps for backward.
        host: CPU time of a call, in units of eager ``leaky_relu(x + bias)``, over a stub of CUDA's driver.
        share: of the speed of a copy of the minimum bytes, at most, on an H200.
    """

    op: str
    problem: str
    dtype: str
    layout: str
    pass_: str
    minimum: int
    launches: int
    eager_launches: int
    moved: int
    eager_moved: int
    kept: int
    eager_kept: int
    host: float
    eager_host: float
    share: float

    @classmethod
    def of(cls, found: Pass, host: Mapping[tuple[str, str], HostCost]) -> "Row":
        case = found.case
        cost = host.get((case.op.name, case.pass_), HostCost(case.op.name, case.pass_, 0, 0, 0))
        return cls(
            *(case.op.name, case.problem.name, case.dtype_name, case.layout, case.pass_, case.bytes),
            *(len(found.launches), len(found.eager), found.moved, found.eager_moved, found.kept, found.eager_kept),
            *(round(cost.units, 1), round(cost.eager_units, 1), round(found.share, 2)),
        )

    def __str__(self) -> str:
        return (
            f"{self.op}/{self.problem}/{self.dtype}/{self.layout}/{self.pass_}: "
            f"{self.launches} launches (eager {self.eager_launches}), "
            f"{self.moved / 1e6:.1f} MB (eager {self.eager_moved / 1e6:.1f}, minimum {self.minimum / 1e6:.1f}), "
            f"keeps {self.kept / 1e6:.1f} MB (eager {self.eager_kept / 1e6:.1f}), "
            f"host {self.host:.1f} (eager {self.eager_host:.1f}), computed: at most {self.share:.0%} of a copy"
        )


def lines(chosen: Sequence[Case], targets: Sequence[str] | None) -> tuple[list[str], bool]:
    """A line for each case and target, one for each of its kernels, and one for each rule that a kernel breaks.

    Also returns whether there is none of the latter.

    Raises:
        ValueError: for an unknown target.
    """
    targets = targets or tuple(TARGETS)
    compiled.refuse_unknown("target", targets, TARGETS)
    host, said, broken = _host(chosen), [], []
    for target in targets:
        said.append(f"{target:36}" + "".join(f"{name:>7}" for name in HEAD))
        for found in passes(chosen, _CHIPS[target]):
            said.append(str(Row.of(found, host)))
            said += [f"  {launch}" for launch in found.launches if isinstance(launch, Bound)]
            broken += found.failures()
    return [*said, *broken, f"{len(broken)} findings"], not broken


def check() -> list[str]:
    """Compiles every case of 4 MB and more for an H200: one sentence for each broken rule and each row that changed.

    Rules that are known to be broken, in ``OPEN_FINDINGS``, must still be. Rows are compared where the table was made
    with this version of Triton; the host's figures are of a machine.
    """
    listed = shown()
    large = [case for case in cases() if (case.dtype_name, case.layout) in KINDS and case.bytes >= STREAMING]
    found = passes(list({case.key: case for case in (*large, *listed)}.values()), _CHIPS["sm_90"])
    failures = [sentence for of in found for sentence in of.failures()]
    known = [line for line in OPEN_FINDINGS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    broken = [sentence for sentence in failures if not sentence.startswith(tuple(known))]
    broken += [
        f"{OPEN_FINDINGS.name}: {line!r} is no longer found; delete the line"
        for line in known
        if not any(sentence.startswith(line) for sentence in failures)
    ]
    if compiled.read()[0] != triton.__version__:
        return broken
    before = read()
    host = {(row.op, row.pass_): HostCost(row.op, row.pass_, row.host, row.eager_host, 0) for row in before}
    now = [Row.of(of, host) for of in found if of.case in listed]
    return broken + [
        f"{TABLE.name}: {what} {row}"
        for what, rows, others in (("has", before, now), ("lacks", now, before))
        for row in rows
        if row not in others
    ]


def shown() -> list[Case]:
    """The cases of the table: each op's first key problem in two types and layouts."""
    first = {op.name: next(problem for problem in op.problems if problem.key) for op in OPS.values()}
    found = [c for c in cases() if (c.dtype_name, c.layout) in KINDS and c.problem == first[c.op.name]]
    return sorted(found, key=lambda case: (case.op.name, KINDS.index((case.dtype_name, case.layout))))


def rows() -> list[Row]:
    """Compiles and measures the rows of the table; the host's figures are of this machine."""
    host = _host(shown())
    return [Row.of(found, host) for found in passes(shown(), _CHIPS["sm_90"])]


def write(path: Path = TABLE) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, rows()))


def read(path: Path = TABLE) -> list[Row]:
    with path.open(newline="") as file:
        types = {field.name: field.type for field in fields(Row)}
        return [Row(**{name: types[name](cell) for name, cell in line.items()}) for line in csv.DictReader(file)]


def _host(chosen: Sequence[Case]) -> dict[tuple[str, str], HostCost]:
    return {(cost.op, cost.pass_): cost for cost in host_costs(sorted({case.op.name for case in chosen}))}
