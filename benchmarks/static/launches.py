"""Records which kernels an op would launch on a GPU, and for which specializations.

The ops run on torch's meta device, where tensors have shapes, types and strides but no memory, with a stand-in for
Triton's driver. Each launch is recorded where Triton would compile it, so the launchers themselves are the only
description of their launches, and a tensor of 8 GB costs nothing.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from benchmarks.static.operators import TorchOperators, touched_bytes
from benchmarks.static.tables import tables_of_pointers
from fastgan_kernels import backend

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


@dataclass(frozen=True)
class Specialization:
    """A kernel, a target, and the argument types and constants to compile it for; ``key`` is unique among them."""

    kernel: str
    target: str
    key: str
    function: JITFunction
    signature: Mapping[str, str]
    constants: Mapping[tuple[int, ...], Any]
    attributes: Mapping[tuple[int, ...], Any]
    options: Mapping[str, Any]

    @property
    def threads(self) -> int:
        """Threads per program."""
        return self.options["num_warps"] * TARGETS[self.target].warp_size

    @property
    def runtime_arguments(self) -> list[str]:
        """Names of the arguments that a launch passes, in order; an absent tensor is a constant, so not among them."""
        return [name for name, type_ in self.signature.items() if type_ != "constexpr"]

    @property
    def constants_by_name(self) -> dict[str, Any]:
        """The values of the compile-time arguments; ``None`` where a tensor is absent."""
        return {self.function.arg_names[i]: value for (i, *_), value in self.constants.items()}

    def compile(self) -> CompiledKernel:
        source = ASTSource(self.function, dict(self.signature), dict(self.constants), dict(self.attributes))
        return triton.compile(source, target=TARGETS[self.target], options=dict(self.options))


@dataclass(frozen=True)
class Launch:
    """One launch: its specialization, how many programs it has, and its tensors, which are on meta.

    ``tensors`` has them by argument; ``*argument`` are those behind a table of pointers.
    """

    specialization: Specialization
    programs: int
    tensors: Mapping[str, Sequence[Tensor]]


@dataclass(frozen=True)
class TorchOperator:
    """An operator of torch that moves bytes: those of its inputs and outputs, each once."""

    name: str
    bytes: int


class _StandInDriver:
    """The part of a driver that Triton needs before it compiles. The target serves as the device, the key of caches."""

    def __init__(self, target: str) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return TARGETS[self._target]

    def get_current_device(self) -> str:
        return self._target

    def get_current_stream(self, device: str) -> int:
        return 0


def launches_of(problem: Callable[[], object], target: str) -> list[Launch]:
    """Runs ``problem``, which calls ops on tensors of the meta device, and returns its launches.

    Nothing is compiled or run. Do not use it while other threads launch kernels.

    Raises:
        RuntimeError: in a process where Triton is interpreted.
    """
    with recorded(target) as activities:
        problem()
    return [activity for activity in activities if isinstance(activity, Launch)]


@contextmanager
def recorded(target: str) -> Iterator[list[Launch | TorchOperator]]:
    """Records, in order, what the block would run on a GPU; it calls ops on tensors of the meta device.

    The list has the launches of kernels, and torch's operators that move bytes.

    Raises:
        RuntimeError: in a process where Triton is interpreted.
    """
    if knobs.runtime.interpret:
        raise RuntimeError("kernels cannot be compiled in a process with TRITON_INTERPRET=1: start one without it")
    activities: list[Launch | TorchOperator] = []
    seen: list[Specialization] = []

    def take_specialization(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        options = json.loads(compile["specialization_data"])["options"]
        seen.append(
            Specialization(
                kernel=f"{fn.module.removeprefix('fastgan_kernels.').removeprefix('ops.')}.{fn.name}",
                target=target,
                key=compile["key"],
                function=fn.jit_function,
                signature=compile["signature"],
                constants=compile["constants"],
                attributes=compile["configs"][0],
                # JSON turned tuples into lists; options must be hashable.
                options={name: tuple(v) if isinstance(v, list) else v for name, v in options.items()},
            )
        )
        return True  # so that Triton does not compile

    triton_run = JITFunction.run

    def run(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        named = dict(zip(self.arg_names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in self.arg_names}
        triton_run(self, *args, grid=grid, warmup=True, **kwargs)
        given = {name: value for name, value in named.items() if isinstance(value, Tensor)}
        tensors = {name: [value] for name, value in given.items()} | {f"*{n}": behind(t) for n, t in given.items()}
        activities.append(Launch(seen.pop(), prod(grid(named) if callable(grid) else grid), tensors))

    def note(name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        activities.append(TorchOperator(name, sum(map(touched_bytes, [*inputs, *outputs]))))

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> torch.autocast:
        # torch has no autocast for the meta device, but composed parts of ops switch autocast off on their device.
        return torch_autocast("cpu" if device_type == "meta" else device_type, *args, **kwargs)

    driver_before, decide, torch_autocast = driver._active, backend._decide, torch.autocast
    driver.set_active(_StandInDriver(target))
    backend._decide = lambda *_: True
    JITFunction.run = run
    torch.autocast = autocast
    try:
        with (
            knobs.runtime.scope(),
            torch.enable_grad(),
            tables_of_pointers() as behind,
            TorchOperators(note),
        ):
            knobs.runtime.jit_cache_hook = take_specialization
            yield activities
    finally:
        torch.autocast = torch_autocast
        JITFunction.run = triton_run
        backend._decide = decide
        driver.set_active(driver_before)
