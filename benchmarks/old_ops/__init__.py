"""The registry: one module an op. A new op is a module here and a name in this list."""

from benchmarks.old_ops import (
    adain,
    bias_act,
    gradient_norms,
    gradient_penalty,
    interpolate,
    minibatch_discrimination,
    minibatch_stddev,
    noise_injection,
    pixel_norm,
    power_iteration,
    spectral_normalize,
    style_epilogue,
    upfirdn2d,
)

OPS = (
    bias_act.OP,
    adain.OP,
    style_epilogue.OP,
    noise_injection.OP,
    gradient_norms.OP,
    gradient_penalty.OP,
    interpolate.OP,
    minibatch_discrimination.OP,
    minibatch_stddev.OP,
    pixel_norm.OP,
    power_iteration.OP,
    spectral_normalize.OP,
    upfirdn2d.OP,
)
