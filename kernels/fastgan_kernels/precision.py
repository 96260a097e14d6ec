"""In which type an op computes: float32 whatever the storage, float64 for float64."""

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
    """Whether Triton compiles for a GPU of AMD. Dynamo takes the answer as a constant: it cannot trace the driver."""
    return not knobs.runtime.interpret and driver.active.get_current_target().backend == "hip"


def dot_precision() -> str:
    """How ``tl.dot`` multiplies float32: in three products of TF32, which together are as exact as float32, on NVIDIA's
    tensor cores; in float32 on AMD, whose compiler has nothing else. Triton's interpreter does not look at it."""
    return "ieee" if runs_on_amd() else "tf32x3"
