"""What a call costs the host, in units of torch's own ``leaky_relu(x + bias)`` on the same machine.

Triton compiles the kernels and launches them by its own launcher, but into a stub of CUDA's driver (stub_driver.c), so
no GPU is needed and nothing is computed. Operands are small tensors of the CPU, on which plain torch computes next to
nothing either. A GPU would add the time that CUDA's own driver takes for a launch.

A child process measures: there Triton is not interpreted, and has loaded no driver before the stub.
"""

import ctypes
import gc
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

_STUB = Path(__file__).with_name("stub_driver.c")
_STUB_VARIABLE = "FASTGAN_STUB_DRIVER"
SPECTRAL_NORMS = "8 spectral norms"
"""Beside the ops: a power iteration and the normalization of eight layers, as a model's forward runs them."""


@dataclass(frozen=True)
class HostCost:
    """The cost of one call of a pass, ``"forward"``, ``"backward"`` or ``"double_backward"``.

    Attributes:
        op, pass_: the name of the op, or SPECTRAL_NORMS, and the pass.
        units: CPU time of the fused op, in units.
        eager_units: that of plain torch.
        launches: kernels of this package that the fused op launches.
    """

    op: str
    pass_: str
    units: float
    eager_units: float
    launches: int


def host_costs(ops: Sequence[str] = ()) -> list[HostCost]:
    """Measures the passes of ``ops``, by default of all. Takes about 20 seconds, the first time a minute.

    Raises:
        ValueError: for a name that is not among the ops.
        RuntimeError: if the child process fails; the message is its last output.
    """
    return [HostCost(**cost) for cost in json.loads(run_over_stub("-m", "benchmarks.static.host_cost", *ops))]


def run_over_stub(*arguments: str) -> str:
    """Runs Python with ``arguments`` in a child process, which may enter :func:`stub_driver`; returns its output.

    Raises:
        ValueError: if it ends with exit code 2, for bad input. RuntimeError: if with any other that is not 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "libcuda.so.1"
        compiler = os.environ.get("CC", "cc")
        command = [compiler, "-shared", "-fPIC", "-O2", f"-Wl,-soname,{library.name}", "-o", library, _STUB]
        subprocess.run(command, check=True)
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | {
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "TRITON_LIBCUDA_PATH": folder,
            _STUB_VARIABLE: str(library),
        }
        child = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    if child.returncode:
        raise (ValueError if child.returncode == 2 else RuntimeError)(child.stderr.strip())
    return child.stdout


def lines(ops: Sequence[str] = ()) -> Iterator[str]:
    """The costs as a table of text."""
    yield "Host cost of a call in units of leaky_relu(x + bias): ours, eager torch's, and our launches."
    yield f"{'op':26} {'pass':16} {'ours':>6} {'eager':>6} {'launches':>8}"
    for cost in host_costs(ops):
        yield f"{cost.op:26} {cost.pass_:16} {cost.units:6.1f} {cost.eager_units:6.1f} {cost.launches:8}"


@contextmanager
def stub_driver() -> Iterator[ctypes.CDLL]:
    """Makes Triton launch into the stub, and the ops run their kernels on the CPU; yields the stub.

    Only in a child process of :func:`run_over_stub`.
    """
    stub = ctypes.CDLL(os.environ[_STUB_VARIABLE], mode=ctypes.RTLD_GLOBAL)  # before torch loads another
    import torch
    from triton.backends.nvidia.driver import CudaDriver, CudaLauncher, CudaUtils
    from triton.runtime import driver

    from fastgan_kernels import backend

    class Driver(CudaDriver):
        def __init__(self) -> None:
            self.utils = CudaUtils()
            self.launcher_cls = CudaLauncher
            self.get_device_capability = lambda device=0: (9, 0)
            self.get_current_stream = lambda device: 0
            self.get_current_device = lambda: 0

    stub.stub_launches.restype = ctypes.c_long
    stub.stub_last.restype = ctypes.POINTER(ctypes.c_uint64)
    torch.set_num_threads(1)
    driver.set_active(Driver())
    why_not_triton, backend._why_not_triton = backend._why_not_triton, lambda *_, **__: None
    try:
        yield stub
    finally:
        backend._why_not_triton = why_not_triton


def _calls(names: Sequence[str]) -> Iterator[tuple[str, str, Callable[[], Any], Callable[[], Any]]]:
    """Op, pass, a call of the fused op and one of plain torch."""
    import torch

    import fastgan_kernels
    from benchmarks.cases import Case, bind, draw
    from benchmarks.op import Problem
    from benchmarks.ops import OPS
    from fastgan_kernels import reference

    def together(functions: Any) -> Callable[..., Any]:
        return lambda weights, us, vs: functions.spectral_normalize(
            weights, us, vs, functions.power_iteration(weights, us, vs)
        )

    norms = replace(
        OPS["spectral_normalize"], name=SPECTRAL_NORMS, op=together(fastgan_kernels), reference=together(reference)
    )
    known = {**OPS, SPECTRAL_NORMS: norms}
    for name in names:
        if name not in known:
            raise ValueError(f"no op is called {name!r}; choose from {', '.join(map(repr, known))}")
    eight = tuple((8, 8, 3, 3) for _ in range(8))
    for name, op in known.items():
        if names and name not in names:
            continue
        shape = eight if "spectral" in name or name == "power_iteration" else op.toy
        for pass_ in op.passes:
            case = Case(op, Problem("host", shape, "none"), "float32", "contiguous", pass_)
            fused, eager = (bind(f, case, draw(case, torch.device("cpu"))) for f in (op.op, op.plain))
            yield name, pass_, fused, eager


def measure(names: Sequence[str], *, rounds: int = 30, repeats: int = 20) -> list[HostCost]:
    """All calls and the unit take turns, so a busy machine slows them alike. The shortest time of each counts."""
    with stub_driver() as stub:
        import torch
        from torch.nn import functional as F

        x, bias = torch.randn(4, 4, 4, 4, requires_grad=True), torch.randn(4, requires_grad=True)
        subjects = list(_calls(names))
        functions = [lambda: F.leaky_relu(x + bias.view(-1, 1, 1), 0.2)]
        functions += [function for *_, fused, eager in subjects for function in (fused, eager)]
        launched = []
        for function in functions:
            for _ in range(3):
                before = stub.stub_launches()
                function()
            launched.append(stub.stub_launches() - before)
        gc.disable()
        least = [math.inf for _ in functions]
        for _ in range(rounds):
            least = [
                min(before, _cpu_seconds(function, repeats)) for before, function in zip(least, functions, strict=True)
            ]
    return [
        HostCost(name, pass_, least[i] / least[0], least[i + 1] / least[0], launched[i])
        for i, (name, pass_, _, _) in zip(range(1, len(functions), 2), subjects, strict=True)
    ]


def _cpu_seconds(function: Callable[[], Any], repeats: int) -> float:
    """CPU time, so that other processes on the machine count little."""
    start = time.process_time()
    for _ in range(repeats):
        function()
    return time.process_time() - start


if __name__ == "__main__":
    try:
        print(json.dumps([asdict(cost) for cost in measure(sys.argv[1:])]))
    except ValueError as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(2)
