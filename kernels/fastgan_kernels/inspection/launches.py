"""Which kernels an op would launch on a GPU, at which specialisations: asked of the launchers themselves.

The ops run on torch's meta device, where tensors have shapes, types and strides but no memory, under a stand-in for
Triton's driver. Each launch is written down at the point where Triton would compile it, so nothing here describes a
launch a second time, and a tensor of 8 GB costs nothing.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from fastgan_kernels import backend
from fastgan_kernels.inspection.operators import TorchOperators
from fastgan_kernels.inspection.tables import tables_of_pointers

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


@dataclass(frozen=True)
class Specialization:
    """A kernel with everything that Triton compiles it for.

    Two specialisations are the same where their ``kernel``, ``target`` and ``key`` are.
    """

    kernel: str
    target: str
    key: str
    function: JITFunction
    signature: Mapping[str, str]
    constants: Mapping[tuple[int, ...], Any]
    attributes: Mapping[tuple[int, ...], Any]
    options: Mapping[str, Any]

    @property
    def identity(self) -> tuple[str, str, str]:
        return self.kernel, self.target, self.key

    @property
    def num_warps(self) -> int:
        return self.options["num_warps"]

    @property
    def threads(self) -> int:
        """Threads of a program."""
        return self.num_warps * TARGETS[self.target].warp_size

    @property
    def runtime_arguments(self) -> list[str]:
        """Names of the arguments that a launch passes, in order; an absent tensor is a constant."""
        return [name for name, type_ in self.signature.items() if type_ != "constexpr"]

    def constant(self, name: str) -> Any:
        """The value of a compile-time argument; ``None`` where a tensor is absent."""
        return self.constants[(self.function.arg_names.index(name),)]

    def attributes_of(self, name: str) -> set[tuple[str, int]]:
        """What Triton was promised of a run-time argument, such as ``("tt.divisibility", 16)``."""
        return {tuple(a) for a in self.attributes.get((self.function.arg_names.index(name),), ())}

    def is_aligned(self, name: str) -> bool:
        """Whether Triton was promised that a tensor starts at a multiple of 16 bytes."""
        return ("tt.divisibility", 16) in self.attributes_of(name)

    def compile(self) -> CompiledKernel:
        source = ASTSource(self.function, dict(self.signature), dict(self.constants), dict(self.attributes))
        return triton.compile(source, target=TARGETS[self.target], options=dict(self.options))


@dataclass(frozen=True)
class Launch:
    """One launch: its specialisation, grid and the values of its run-time arguments (tensors on the meta device).

    ``pointed_to`` has the tensors that the pointers in a table point to, by the name ``*argument``.
    """

    specialization: Specialization
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    pointed_to: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.arguments.items() if isinstance(value, Tensor)}

    @property
    def integers(self) -> dict[str, int]:
        return {name: value for name, value in self.arguments.items() if isinstance(value, int)}


@dataclass(frozen=True)
class OperatorCall:
    """What torch itself runs: an operator that moves bytes, with the tensors that it reads and writes."""

    name: str
    read: tuple[Tensor, ...]
    written: tuple[Tensor, ...]


class _StandInDriver:
    """What Triton asks of a driver before it compiles. The target is the device: kernels cache by device."""

    def __init__(self, target: str) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return TARGETS[self._target]

    def get_current_device(self) -> str:
        return self._target

    def get_current_stream(self, device: str) -> int:
        return 0


def launches_of(problem: Callable[[], object], target: str) -> list[Launch]:
    """Runs ``problem``, which calls ops on tensors of the meta device, and returns the launches that it makes.

    Nothing is compiled or run. Not for use beside other threads that launch kernels.

    Raises:
        RuntimeError: in a process where Triton is interpreted.
    """
    with recorded(target) as activities:
        problem()
    return [activity for activity in activities if isinstance(activity, Launch)]


@contextmanager
def recorded(target: str) -> Iterator[list[Launch | OperatorCall]]:
    """Writes down, in order, what the block would run on a GPU, where it calls ops on tensors of the meta device.

    Raises:
        RuntimeError: in a process where Triton is interpreted.
    """
    if knobs.runtime.interpret:
        raise RuntimeError("kernels cannot be compiled in a process with TRITON_INTERPRET=1: start one without it")
    activities: list[Launch | OperatorCall] = []
    seen: list[Specialization] = []

    def take_specialization(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        options = json.loads(compile["specialization_data"])["options"]
        seen.append(
            Specialization(
                kernel=f"{fn.module.removeprefix('fastgan_kernels.')}.{fn.name}",
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
        return True  # tells Triton not to compile

    triton_run = JITFunction.run

    def run(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        named = dict(zip(self.arg_names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in self.arg_names}
        triton_run(self, *args, grid=grid, warmup=True, **kwargs)
        specialization = seen.pop()
        arguments = {name: named[name] for name in specialization.runtime_arguments}
        pointed_to = {f"*{name}": behind(value) for name, value in arguments.items() if isinstance(value, Tensor)}
        activities.append(
            Launch(
                specialization,
                tuple(grid(named) if callable(grid) else grid),
                arguments,
                {name: tensors for name, tensors in pointed_to.items() if tensors},
            )
        )

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> torch.autocast:
        # torch has no autocast for the meta device, and ops switch it off around what they compose.
        return torch_autocast("cpu" if device_type == "meta" else device_type, *args, **kwargs)

    def note_operator(name: str, read: Sequence[Tensor], written: Sequence[Tensor]) -> None:
        activities.append(OperatorCall(name, tuple(read), tuple(written)))

    driver_before, decide, torch_autocast = driver._active, backend._decide, torch.autocast
    driver.set_active(_StandInDriver(target))
    backend._decide = lambda *_: True
    JITFunction.run = run
    torch.autocast = autocast
    try:
        with knobs.runtime.scope(), torch.enable_grad(), tables_of_pointers() as behind, TorchOperators(note_operator):
            knobs.runtime.jit_cache_hook = take_specialization
            yield activities
    finally:
        torch.autocast = torch_autocast
        JITFunction.run = triton_run
        backend._decide = decide
        driver.set_active(driver_before)
