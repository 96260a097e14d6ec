"""What this machine can do at most: the bandwidth of a copy, the rate of a matrix product, the cost of a launch."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton

from benchmarks.devices import CpuDevice, CudaDevice
from benchmarks.measure import CLONE, Effort, cells, time_calls
from benchmarks.passes import Call, Outputs
from benchmarks.registry import DTYPES, key_of
from benchmarks.results import Row
from benchmarks.timing import slots_for

OP = "limit"
_MB = 2**20


@triton.jit(do_not_specialize=["n"])
def _empty_kernel(n):
    pass


@dataclass(frozen=True)
class Limit:
    """A limit, as a case of its own. ``size`` is the bytes that a copy moves, or the side of a square matrix."""

    problem: str
    provider: str
    dtype_name: str
    size: int
    modes: tuple[str, ...]
    rank: int = 0

    @property
    def subject(self) -> Row:
        shape = f"{self.size}x{self.size}" if self.problem.startswith("matmul") else str(self.size)
        return {
            "op": OP,
            "problem": self.problem,
            "shape": shape,
            "dtype": self.dtype_name,
            "layout": "contiguous",
            "pass": "forward",
        }

    @property
    def key(self) -> str:
        return key_of(self.subject)


def limits(*, toy: bool = False) -> list[Limit]:
    """The copies, products and launches to measure."""
    copies = (0.25, 1) if toy else (16, 64, 256, 1024)
    side = 64 if toy else 8192
    return [
        *(Limit(f"copy_{mb}mb", CLONE, "float32", int(mb * _MB), ("cold", "wall")) for mb in copies),
        *(Limit(f"matmul_{side}", "eager", dtype, side, ("warm",)) for dtype in DTYPES),
        Limit(f"matmul_{side}_tf32", "eager", "float32", side, ("warm",)),
        Limit("empty_kernel", "triton", "float32", 0, ("warm", "graph", "wall")),
    ]


def measure_limit(limit: Limit, device: CpuDevice | CudaDevice, effort: Effort) -> list[dict[str, object]]:
    """Returns the row of a limit (without the identity of the machine)."""
    make = {CLONE: _copies, "eager": _product, "triton": _launches}[limit.provider]
    calls, work = make(limit, device)
    figures = time_calls({limit.provider: calls}, device, effort, limit.modes)
    return [{**limit.subject, "provider": limit.provider, **work, **cells(figures, limit.provider, work.get("bytes"))}]


def _copies(limit: Limit, device: CpuDevice | CudaDevice) -> tuple[list[Call], dict[str, int]]:
    # Half of the bytes are read and half are written.
    shape = limit.size // 2 // 4
    sources = [torch.randn(shape, device=device.torch_device) for _ in range(slots_for(limit.size, device.cache_bytes))]

    def copy_of(source: torch.Tensor) -> Callable[[], Outputs]:
        return lambda: (source.clone(),)

    return [copy_of(source) for source in sources], {"bytes": limit.size}


def _product(limit: Limit, device: CpuDevice | CudaDevice) -> tuple[list[Call], dict[str, int]]:
    dtype = DTYPES[limit.dtype_name]
    a, b = (torch.randn(limit.size, limit.size, device=device.torch_device, dtype=dtype) for _ in range(2))

    def product() -> Outputs:
        # Set at each call: it is a switch of the whole process.
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if limit.problem.endswith("tf32") else "highest")
        try:
            return (a @ b,)
        finally:
            torch.set_float32_matmul_precision(before)

    return [product], {"operations": 2 * limit.size**3}


def _launches(limit: Limit, device: CpuDevice | CudaDevice) -> tuple[list[Call], dict[str, int]]:
    # For the graph some in a row: between the events around one alone there is more than a launch.
    count = 1 if device.kind == "cpu" else 20

    def launch() -> Outputs:
        _empty_kernel[(1,)](1)
        return ()

    return list(itertools.repeat(launch, count)), {}
