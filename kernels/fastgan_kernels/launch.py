"""Launches whose decisions are kept, so that a call costs the host little more than Triton's launcher does.

``kernel[grid](...)`` binds arguments by name, reads the type and alignment of each and looks the compiled kernel up by
all of them, which takes eight times as long as the launch. But a network launches the same kernels on tensors of the
same shapes at every step. A :class:`Launch` is made once for each shape, layout, type and setting, by a function that
:data:`decided_once` decorates. It then looks only at what may still differ: types, addresses, device and stream.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

# Every training step has the same problems.
decided_once = functools.lru_cache(maxsize=1024)

# The launcher of a compiled kernel is like this in Triton 3.6 to 3.8. Other versions, AMD's (where the size of a
# tensor's storage also decides which kernel is compiled) and the interpreter launch by ``kernel[grid](...)``.
_KEEPS_KERNELS = torch.version.hip is None and triton.__version__.startswith(("3.6.", "3.7.", "3.8."))


class Launch:
    """A kernel, its grid, and all of its arguments but the tensors.

    Args:
        kernel: takes the tensors, then the numbers, then the constants.
        grid: one to three extents.
        numbers: arguments that are no tensors.
        constants: compile-time arguments and Triton's options, by name.
    """

    def __init__(self, kernel: Any, grid: tuple[int, ...], numbers: tuple[Any, ...] = (), **constants: Any) -> None:
        self._kernel = kernel
        self._grid = grid
        self._numbers = numbers
        self._constants = constants
        self._keeps = _KEEPS_KERNELS and isinstance(kernel, JITFunction)
        self._kept: dict[Any, tuple[Any, ...]] = {}

    def __call__(self, *tensors: Tensor | tuple[Tensor, ...] | None) -> None:
        """Launches on the current device, which must be that of ``tensors``; an absent tensor is ``None``."""
        if not self._keeps:
            self._kernel[self._grid](*tensors, *self._numbers, **self._constants)
            return
        active = driver.active
        device = active.get_current_device()
        addresses: list[Any] = []
        # All that decides which kernel Triton compiles: the types of tensors, and which do not start at 16 bytes.
        key = [device]
        for tensor in tensors:
            if tensor is None:
                addresses.append(None)
                key.append(None)
            elif type(tensor) is tuple:
                several = tuple([t.data_ptr() for t in tensor])
                addresses.append(several)
                key += [(t.dtype, address % 16 == 0) for t, address in zip(tensor, several, strict=True)]
            else:
                address = tensor.data_ptr()
                addresses.append(address)
                key.append(tensor.dtype if address % 16 == 0 else (tensor.dtype,))
        key = tuple(key)
        kept = self._kept.get(key)
        if kept is None or self._is_observed():
            compiled = self._kernel[self._grid](*tensors, *self._numbers, **self._constants)
            if isinstance(compiled, CompiledKernel) and not _needs_more(compiled.run):
                self._kept[key] = self._arguments(compiled, len(tensors))
            return
        launch, grid, fixed, rest = kept
        launch(*grid, active.get_current_stream(device), *fixed, (*addresses, *rest))

    def _is_observed(self) -> bool:
        """Whether a profiler or the like has hooks, which Triton calls at a launch with what it then collects."""
        runtime = knobs.runtime
        enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
        return getattr(enter, "calls", enter) or getattr(leave, "calls", leave) or self._kernel.pre_run_hooks

    def _arguments(self, compiled: CompiledKernel, tensors: int) -> tuple[Any, ...]:
        """What :meth:`__call__` passes to Triton's launcher in C, which takes the constants too, and skips them."""
        constants = self._kernel.arg_names[tensors + len(self._numbers) :]
        rest = *self._numbers, *(self._constants[name] for name in constants)
        launcher, grid, metadata = compiled.run, (*self._grid, 1, 1)[:3], compiled.packed_metadata
        fixed = compiled.function, launcher.launch_cooperative_grid, launcher.launch_pdl
        if triton.__version__.startswith("3.6."):
            flat = launcher.launch
            return lambda *args: flat(*args[:-1], *args[-1]), grid, (*fixed, None, None, metadata, *[None] * 3), rest
        nested = launcher.arg_annotations, launcher.kernel_signature
        return launcher.launch, grid, (*fixed, metadata, *[None] * 5, *nested), rest


def _needs_more(launcher: Any) -> bool:
    """Whether Triton allocates memory for each launch, as for instrumented kernels."""
    return launcher.global_scratch_size or launcher.profile_scratch_size or getattr(launcher, "gsan_enabled", False)


def launch_kernel(
    kernel: Any, grid: tuple[int, ...], tensors: Sequence[Tensor | tuple[Tensor, ...] | None],
    numbers: Sequence[Any] = (), **constants: Any,
) -> None:  # fmt: skip
    """Launches where the caller keeps no :class:`Launch`: ``kernel[grid](*tensors, *numbers, **constants)``.

    Finding the launch costs as much as the launch, and half as much as Triton's own path.
    """
    key = kernel.fn, grid, *numbers, *constants, *constants.values()
    launch = _launches.get(key)
    if launch is None:
        if len(_launches) >= _MOST_LAUNCHES:
            _launches.clear()
        launch = _launches[key] = Launch(kernel, grid, tuple(numbers), **constants)
    launch(*tensors)


_MOST_LAUNCHES = 4096
_launches: dict[Any, Launch] = {}
