"""Converters from layers of other StyleGAN repositories to fused layers.

They are used by :func:`fastgan.accelerate`, which sets hooks and mode::

    fastgan.accelerate(model, mapping={FusedLeakyReLU: converters.fused_leaky_relu})

A fused layer keeps the parameters of its original, the same objects under the same names, so that optimizers and
checkpoints keep working. For a layer unlike the named one, a converter returns ``None``, and the layer stays.
"""

from torch import nn

from fastgan.nn import BiasAct, NoiseInjection


def fused_leaky_relu(module: nn.Module) -> BiasAct:
    """Converts rosinality's ``FusedLeakyReLU``: ``bias`` [C] or ``None``, ``negative_slope``, ``scale``."""
    layer = BiasAct(None, act="lrelu", negative_slope=module.negative_slope, gain=module.scale)
    layer.bias = module.bias
    return layer


def biased_activation(module: nn.Module) -> BiasAct | None:
    """Converts R3GAN's ``BiasedActivation``: ``Bias`` [C], and activation ``Function``, a name or ``nn.LeakyReLU``."""
    function = module.Function
    if isinstance(function, nn.LeakyReLU):
        slope = function.negative_slope
    elif function == "lrelu":
        slope = 0.2
    else:
        return None
    layer = BiasAct(None, act="lrelu", negative_slope=slope, parameter_name="Bias")
    layer.Bias = module.Bias
    return layer


def noise_injection(module: nn.Module) -> NoiseInjection | None:
    """Converts rosinality's ``NoiseInjection``: ``weight`` [1]. Its noise comes from another random generator."""
    if module.weight.numel() != 1 or module.weight.dim() > 1:
        return None
    layer = NoiseInjection(None, parameter_name="weight")
    layer.weight = module.weight
    return layer
