"""Functions from a layer of somebody else's StyleGAN to the fused layer that takes its place.

For :func:`fastgan.accelerate`, which gives them hooks and mode::

    fastgan.accelerate(model, mapping={FusedLeakyReLU: converters.fused_leaky_relu})

Each keeps the parameters of the layer, the same objects under the same names, so that optimizers and checkpoints go on.
A layer that is not what its name promises is left: the function returns ``None``.
"""

from torch import nn

from fastgan.nn import BiasAct, NoiseInjection


def fused_leaky_relu(module: nn.Module) -> BiasAct:
    """rosinality's ``FusedLeakyReLU``: ``bias`` [C] or ``None``, ``negative_slope``, ``scale``."""
    layer = BiasAct(None, act="lrelu", negative_slope=module.negative_slope, gain=module.scale)
    layer.bias = module.bias
    return layer


def biased_activation(module: nn.Module) -> BiasAct | None:
    """R3GAN's ``BiasedActivation``: ``Bias`` [C], and the activation ``Function``, a name or an ``nn.LeakyReLU``."""
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
    """rosinality's ``NoiseInjection``: ``weight`` [1]. The noise that it draws comes from another generator."""
    if module.weight.numel() != 1 or module.weight.dim() > 1:
        return None
    layer = NoiseInjection(None, parameter_name="weight")
    layer.weight = module.weight
    return layer
