"""What the replaced functions share. Their other arguments are checked by the ops that they call."""

from contextlib import AbstractContextManager, nullcontext

import torch

from fastgan_kernels import use_backend
from fastgan_kernels.backend import is_transformed


def implementation(op: str, impl: str) -> AbstractContextManager[None]:
    """The context for ``impl``: ``'cuda'`` runs the backend of :func:`fastgan_kernels.backend_of`, ``'ref'`` plain
    torch."""
    if impl not in ("cuda", "ref"):
        raise ValueError(f"{op}: impl is {impl!r}, expected 'cuda' or 'ref'")
    return use_backend("reference") if impl == "ref" else nullcontext()


def needs_torchs_operators() -> bool:
    """Whether ``torch.compile`` or ``torch.func`` traces, or forward-mode differentiation is on.

    These cannot see through fastgan's autograd functions, but handle torch's operators.
    """
    return torch.compiler.is_compiling() or is_transformed()
