"""In which type an op computes: float32 whatever the storage, float64 for float64."""

import torch
import triton.language as tl


def compute_dtype(storage: torch.dtype) -> torch.dtype:
    return torch.float64 if storage == torch.float64 else torch.float32


def triton_compute_dtype(storage: torch.dtype) -> tl.dtype:
    return tl.float64 if storage == torch.float64 else tl.float32
