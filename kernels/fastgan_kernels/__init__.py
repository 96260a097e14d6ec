"""Fused GPU kernels for GAN training, differentiable to second order.

Every op is a function on tensors. On a GPU it runs a Triton kernel, elsewhere its plain-torch reference;
:func:`backend_of` says which and why, :func:`use_backend` chooses.
"""

from triton import knobs

from fastgan_kernels.backend import backend_of, use_backend
from fastgan_kernels.ops.adain import adain
from fastgan_kernels.ops.bias_act import bias_act
from fastgan_kernels.ops.filtered_lrelu import filtered_lrelu
from fastgan_kernels.ops.gradient_penalty import gradient_norms, gradient_penalty
from fastgan_kernels.ops.interpolate import interpolate
from fastgan_kernels.ops.minibatch_discrimination import minibatch_discrimination
from fastgan_kernels.ops.minibatch_stddev import minibatch_stddev
from fastgan_kernels.ops.noise_injection import noise_injection
from fastgan_kernels.ops.norm_act import norm_act
from fastgan_kernels.ops.pixel_norm import pixel_norm
from fastgan_kernels.ops.spectral.normalize import spectral_normalize
from fastgan_kernels.ops.spectral.power_iteration import power_iteration
from fastgan_kernels.ops.style_epilogue import style_epilogue
from fastgan_kernels.ops.upfirdn2d import upfirdn2d

if knobs.runtime.interpret:
    import fastgan_kernels.interpreter  # noqa: F401

__all__ = [
    "adain",
    "backend_of",
    "bias_act",
    "filtered_lrelu",
    "gradient_norms",
    "gradient_penalty",
    "interpolate",
    "minibatch_discrimination",
    "minibatch_stddev",
    "noise_injection",
    "norm_act",
    "pixel_norm",
    "power_iteration",
    "spectral_normalize",
    "style_epilogue",
    "upfirdn2d",
    "use_backend",
]
