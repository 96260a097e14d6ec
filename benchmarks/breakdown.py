"""Where the time of a step goes, by the kind of kernel: torch's profiler, read by the kernels' names."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile
from triton.runtime.jit import KernelInterface

import fastgan_kernels
from benchmarks.devices import CpuDevice, CudaDevice
from benchmarks.passes import Call

_CALLS = 3

# The first that matches a kernel's (or on a CPU an operator's) name in lower case.
_KINDS = {
    "normalisation": r"batch_?norm|\bbn_|instance_?norm|layer_?norm",
    "convolution": r"conv|cudnn|wgrad|dgrad|fprop|winograd|nchwtonhwc|nhwctonchw|im2col|col2im",
    "matrix product": r"gemm|gemv|cublas|cutlass|matmul|addmm|::mm|::mv|::bmm|xmma|cijk|splitk",
    "optimizer": r"multi_tensor|adam",
    "copies": r"memcpy|memset|copy_|fill_|zero_",
    "compiled": r"^triton_",
}


@dataclass(frozen=True)
class Breakdown:
    """Seconds a call by kind, the largest first; and how many kernels and copies it launches, ``None`` on a CPU and
    where the profiler saw none."""

    seconds: dict[str, float]
    launches: int | None


def breakdown(call: Call, device: CpuDevice | CudaDevice) -> Breakdown:
    """The mean over a few calls, which must have run before."""
    on_gpu = device.kind != "cpu"
    calls = _CALLS if on_gpu else 1
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    device.synchronize()
    with profile(activities=activities) as profiler:
        for _ in range(calls):
            call()
        device.synchronize()
    return summed(profiler.events(), calls, on_gpu=on_gpu)


def summed(events: Iterable[FunctionEvent], calls: int, *, on_gpu: bool) -> Breakdown:
    """The kernels and copies (on a CPU the operators) among the profiler's ``events`` of some calls."""
    seconds: dict[str, float] = defaultdict(float)
    launches = 0
    for event in events:
        # The time of an annotated range, such as an optimizer's step, is that of the kernels in it once more.
        if on_gpu != (event.device_type == DeviceType.CUDA) or event.is_user_annotation:
            continue
        microseconds = event.time_range.elapsed_us() if on_gpu else event.self_cpu_time_total
        seconds[kind_of(event.name)] += microseconds / 1e6 / calls
        launches += 1
    ordered = dict(sorted(seconds.items(), key=lambda item: -item[1]))
    # A profiler that may not look at the device sees no kernel at all: that is no step without launches.
    return Breakdown(ordered, round(launches / calls) if on_gpu and launches else None)


def kind_of(name: str) -> str:
    """The kind of a kernel by its name; ``other`` is mostly elementwise work and reductions of torch's own."""
    if name in _own_kernels() or name.startswith("fastgan::"):
        return "fastgan"
    lower = name.lower()
    return next((kind for kind, pattern in _KINDS.items() if re.search(pattern, lower)), "other")


@cache
def _own_kernels() -> frozenset[str]:
    modules = [import_module(f"fastgan_kernels.{m.name}") for m in iter_modules(fastgan_kernels.__path__)]
    found = (value for module in modules for value in vars(module).values() if isinstance(value, KernelInterface))
    return frozenset(function.fn.__name__ for function in found)
