"""Drop-in layers over the fused ops."""

from fastgan.nn.adain import AdaIN
from fastgan.nn.bias_act import BiasAct

__all__ = ["AdaIN", "BiasAct"]
