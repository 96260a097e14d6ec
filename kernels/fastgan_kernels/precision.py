"""The type that an op computes in: float64 for float64 inputs, else float32."""

import torch
import triton.language as tl
from triton import knobs
from triton.runtime import driver


def compute_dtype(storage: torch.dtype) -> torch.dtype:
    return torch.float64 if storage == torch.float64 else torch.float32


def triton_compute_dtype(storage: torch.dtype) -> tl.dtype:
    return tl.float64 if storage == torch.float64 else tl.float32


@torch.compiler.assume_constant_result
def runs_on_amd() -> bool:
    """Whether Triton compiles for an AMD GPU. A constant for Dynamo, which cannot trace the call of the driver."""
    return not knobs.runtime.interpret and driver.active.get_current_target().backend == "hip"


def dot_precision() -> str:
    """The precision with which ``tl.dot`` multiplies float32; Triton's interpreter ignores it.

    On NVIDIA's tensor cores it is three products in TF32, together as exact as float32. On AMD it is float32, the only
    one that the compiler has.
    """
    return "ieee" if runs_on_amd() else "tf32x3"
