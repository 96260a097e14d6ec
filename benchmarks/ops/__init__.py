"""The registry: one module an op. A new op is a module here and a name in this list."""

from benchmarks.ops import (
    adain,
    bias_act,
    gradient_norms,
    gradient_penalty,
    interpolate,
    minibatch_stddev,
    pixel_norm,
    upfirdn2d,
)

OPS = (
    bias_act.OP,
    adain.OP,
    gradient_norms.OP,
    gradient_penalty.OP,
    interpolate.OP,
    minibatch_stddev.OP,
    pixel_norm.OP,
    upfirdn2d.OP,
)
