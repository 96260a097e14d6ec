"""Chooses the implementation of an op, Triton or plain torch, and gives the reason."""

import functools
import logging
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import triton
from torch import Tensor
from triton import knobs

Backend = Literal["triton", "reference"]

# The scheme that Triton uses: Debian's default scheme has no such folder.
_HEADERS = Path(sysconfig.get_path("include", "posix_prefix"))

_logger = logging.getLogger("fastgan_kernels")

# One value per process, not per thread: autograd runs backward passes on its own threads.
_requested: Literal["auto", "triton", "reference"] = "auto"


class BackendChoice(NamedTuple):
    """Which implementation runs (``"triton"`` or ``"reference"``), and a sentence that says why."""

    backend: Backend
    reason: str


@contextmanager
def use_backend(backend: Literal["auto", "triton", "reference"]) -> Iterator[None]:
    """Chooses the implementation of every op within the ``with`` block, in all threads.

    Args:
        backend: ``"auto"`` takes Triton on GPUs where it starts and the reference elsewhere; ``"reference"`` is plain
            torch; ``"triton"`` insists on the kernels, and on the CPU runs them in Triton's interpreter, which needs
            ``TRITON_INTERPRET=1`` in the environment before the first import. ``torch.func`` (``grad``, ``vmap``,
            ``jvp`` ...) and forward-mode differentiation run in plain torch; under ``"triton"`` they raise.

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
    """Which implementation the op ``op_name`` runs on ``tensor``, and why.

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
    """Whether an op on ``tensor`` runs its Triton kernel; if not, logs the reason once."""
    return _decide(_requested, tensor.device)


# The decision depends only on its arguments, which torch.compile guards, so it may become a constant of the graph.
@torch.compiler.assume_constant_result
def _decide(requested: str, device: torch.device) -> bool:
    return _decide_once(requested, device, is_transformed())


@functools.cache
def _decide_once(requested: str, device: torch.device, transformed: bool) -> bool:
    choice = _choose(requested, device.type, device.index, transformed)
    if requested == "auto" and choice.backend == "reference" and (not transformed or choice.reason is _TRANSFORMED):
        _logger.warning("fastgan ops on %s tensors run in plain torch: %s", device.type, choice.reason)
    return choice.backend == "triton"


_TRANSFORMED = "torch.func and forward-mode differentiation cannot pass a kernel"


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode differentiation is active.

    Ops then run in plain torch, which has every derivative there: the tensors of a transform have no memory that a
    kernel could read.
    """
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


@functools.cache
def _choose(requested: str, device_type: str, device_index: int | None, transformed: bool) -> BackendChoice:
    if requested == "reference":
        return BackendChoice("reference", "use_backend chose plain torch")
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
        return f"the kernels are made for NVIDIA and AMD GPUs, not for {device_type} devices"
    if torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device_index)
        if capability < (8, 0):
            return (
                f"Triton needs compute capability 8.0, and the {_gpu_name(device_index)} has "
                f"{capability[0]}.{capability[1]}"
            )
    return _why_triton_cannot_start(lacking_for_launches())


def lacking_for_launches(
    environment: Mapping[str, str] = os.environ,
    which: Callable[[str], str | None] = shutil.which,
    headers: Path = _HEADERS,
) -> str | None:
    """Finds what Triton lacks to build its launcher, in C, at the first launch on a machine.

    Args:
        environment: its variable CC names the compiler; without CC, Triton takes gcc or clang.
        which: maps the name of a program to its path, or to ``None``.
        headers: the folder of Python's headers.

    Returns:
        A sentence with the remedy; ``None`` where nothing is missing.
    """
    cc = environment.get("CC")
    if cc is not None and which(cc) is None:
        return f"Triton needs a C compiler, and there is no {cc!r}, which the environment variable CC names: correct it"
    if cc is None and not any(map(which, ("gcc", "clang"))):
        return "Triton needs a C compiler, and there is no gcc and no clang: install one, or name one in CC"
    if not (headers / "Python.h").is_file():
        return (
            f"Triton needs Python's C headers, and there is no {headers / 'Python.h'}: install them (the package is "
            "often called python3-dev or python3-devel)"
        )
    return None


def _why_triton_cannot_start(lacking: str | None) -> str | None:
    """Starts Triton's driver; returns the reason if that fails, as it would at the first launch."""
    # Triton 3.6 compiles a launcher for every new signature; later versions compile one, once, into their cache.
    if lacking and triton.__version__.startswith("3.6."):
        return lacking
    try:
        _ = triton.runtime.driver.active
    except Exception as error:  # of any kind: a compiler, a linker and the GPU's driver may fail
        return lacking or f"Triton cannot start: {error}".partition("\n")[0]
    return None


def _gpu_name(device_index: int | None) -> str:
    return torch.cuda.get_device_name(device_index)
