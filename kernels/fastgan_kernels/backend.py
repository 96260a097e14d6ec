"""Which implementation of an op runs, Triton or plain torch, and why."""

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from triton import knobs

Backend = Literal["triton", "reference"]

_logger = logging.getLogger("fastgan_kernels")

# One value for the process, not for the thread: autograd runs backward passes on threads of its own.
_requested: Literal["auto", "triton", "reference"] = "auto"


class BackendChoice(NamedTuple):
    """Which implementation runs (``"triton"`` or ``"reference"``), and a sentence that says why."""

    backend: Backend
    reason: str


@contextmanager
def use_backend(backend: Literal["auto", "triton", "reference"]) -> Iterator[None]:
    """Chooses the implementation of every op within the ``with`` block, in all threads.

    Args:
        backend: ``"auto"`` takes Triton on GPUs that it supports and the reference elsewhere; ``"reference"`` is plain
            torch; ``"triton"`` insists on the kernels, and on the CPU runs them in Triton's interpreter, which needs
            ``TRITON_INTERPRET=1`` in the environment before the first import. ``torch.func`` (``grad``, ``vmap``,
            ``jvp`` ...) and forward-mode differentiation run in plain torch, and under ``"triton"`` not at all.

    Raises:
        ValueError: for any other name.
        RuntimeError: from an op under ``"triton"`` whose tensors Triton cannot reach.
    """
    global _requested
    if backend not in ("auto", "triton", "reference"):
        raise ValueError(f"backend is {backend!r}, expected 'auto', 'triton' or 'reference'")
    before, _requested = _requested, backend
    try:
        yield
    finally:
        _requested = before


def backend_of(op_name: str, tensor: Tensor) -> BackendChoice:
    """Tells which implementation the op ``op_name`` runs on ``tensor``, and why.

    Raises:
        ValueError: if there is no op of that name.
        RuntimeError: under ``use_backend("triton")`` where the kernel cannot run.
    """
    ops = op_names()
    if op_name not in ops:
        raise ValueError(f"no op is called {op_name!r}; the ops are {', '.join(ops)}")
    return _choose(_requested, tensor.device.type, tensor.device.index, is_transformed())


def op_names() -> list[str]:
    """The names of all ops, sorted."""
    import fastgan_kernels

    return sorted(set(fastgan_kernels.__all__) - {"backend_of", "use_backend"})


def runs_triton(tensor: Tensor) -> bool:
    """True where an op on ``tensor`` runs its Triton kernel; says once, in the log, why it does not."""
    return _decide(_requested, tensor.device.type, tensor.device.index)


# The decision depends on nothing but its arguments, which torch.compile guards: it becomes a constant of the graph.
@torch.compiler.assume_constant_result
def _decide(requested: str, device_type: str, device_index: int | None) -> bool:
    return _decide_once(requested, device_type, device_index, is_transformed())


@functools.cache
def _decide_once(requested: str, device_type: str, device_index: int | None, transformed: bool) -> bool:
    choice = _choose(requested, device_type, device_index, transformed)
    if requested == "auto" and choice.backend == "reference" and (not transformed or choice.reason is _TRANSFORMED):
        _logger.warning("fastgan ops on %s tensors run in plain torch: %s", device_type, choice.reason)
    return choice.backend == "triton"


_TRANSFORMED = "torch.func and forward-mode differentiation cannot pass a kernel"


def is_transformed() -> bool:
    """Whether ``torch.func`` transforms what runs, or forward-mode differentiation is on.

    Plain torch has every derivative there. The tensors of a transform have no memory that a kernel could read.
    """
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


@functools.cache
def _choose(requested: str, device_type: str, device_index: int | None, transformed: bool) -> BackendChoice:
    if requested == "reference":
        return BackendChoice("reference", "plain torch was asked for by use_backend")
    refusal = _why_not_triton(device_type, device_index, interpret=requested == "triton")
    if refusal is None and transformed:
        refusal = _TRANSFORMED
    if refusal is None:
        where = "Triton's interpreter on the CPU" if device_type == "cpu" else f"a {_gpu_name(device_index)}"
        return BackendChoice("triton", f"the Triton kernel runs on {where}")
    if requested == "triton":
        raise RuntimeError(f"use_backend('triton') cannot run here: {refusal}")
    return BackendChoice("reference", refusal)


def _why_not_triton(device_type: str, device_index: int | None, *, interpret: bool) -> str | None:
    if device_type == "cpu":
        if interpret and knobs.runtime.interpret:
            return None
        hint = " (its interpreter needs TRITON_INTERPRET=1 before the import)" if interpret else ""
        return f"Triton has no kernels for the CPU{hint}"
    if device_type != "cuda":
        return f"the kernels are tested on NVIDIA and AMD GPUs, not on {device_type} devices"
    if torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device_index)
        if capability < (8, 0):
            return (
                f"Triton needs compute capability 8.0, and the {_gpu_name(device_index)} has "
                f"{capability[0]}.{capability[1]}"
            )
    return None


def _gpu_name(device_index: int | None) -> str:
    return torch.cuda.get_device_name(device_index)
