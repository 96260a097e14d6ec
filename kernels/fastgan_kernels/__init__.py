"""Fused GPU kernels for GAN training, differentiable to second order.

Every op is a function on tensors. On a GPU it runs a Triton kernel, elsewhere its plain-torch reference;
:func:`backend_of` says which and why, :func:`use_backend` chooses.
"""

from fastgan_kernels.adain import adain
from fastgan_kernels.backend import backend_of, use_backend
from fastgan_kernels.bias_act import bias_act

__all__ = ["adain", "backend_of", "bias_act", "use_backend"]
