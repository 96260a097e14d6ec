"""Drop-in layers that run on the fused ops."""

from fastgan.nn.bias_act import BiasAct
from fastgan.nn.blur import Blur
from fastgan.nn.equalized import EqualizedConv2d, EqualizedLinear
from fastgan.nn.minibatch import MinibatchDiscrimination, MinibatchStdDev
from fastgan.nn.norm_act import (
    BatchNormAct2d,
    ConditionalBatchNormAct2d,
    InstanceNormAct2d,
    convert_sync_batchnorm,
)
from fastgan.nn.projection_head import ProjectionHead
from fastgan.nn.singular_values import largest_singular_values
from fastgan.nn.spectral_norm import spectral_norm, spectral_norm_
from fastgan.nn.style import AdaIN, NoiseInjection, PixelNorm, StyleEpilogue
