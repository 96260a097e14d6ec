"""Generators and discriminators as one sequence of layers, some of which also take class labels."""

from collections.abc import Iterable

from torch import Tensor, nn

from fastgan.nn import ConditionalBatchNormAct2d, ProjectionHead

_TAKE_LABELS = (ConditionalBatchNormAct2d, ProjectionHead)


class Generator(nn.Module):
    """Maps latents [N, latent_dim], and with ``num_classes`` labels, int64 [N], to images [N, C, H, W]."""

    def __init__(self, layers: Iterable[nn.Module], latent_dim: int, num_classes: int | None = None) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.layers = _Layers(layers, num_classes)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.layers(latents, labels)


class Discriminator(nn.Module):
    """Maps images [N, C, H, W], and with ``num_classes`` labels, to logits [N]; the layers end at [N, 1]."""

    def __init__(self, layers: Iterable[nn.Module], num_classes: int | None = None) -> None:
        super().__init__()
        self.layers = _Layers(layers, num_classes)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.layers(images, labels).squeeze(1)


class _Layers(nn.Sequential):
    """Layers in sequence; in a conditional network some of them also get the labels, int64 [N]."""

    def __init__(self, layers: Iterable[nn.Module], num_classes: int | None) -> None:
        super().__init__(*layers)
        self.conditional = num_classes is not None

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        if self.conditional and labels is None:
            raise ValueError("the network is conditional, expected labels, int64 [N], with its input")
        if not self.conditional and labels is not None:
            raise ValueError("the network is unconditional and takes no labels")
        for layer in self:
            x = layer(x, labels) if isinstance(layer, _TAKE_LABELS) else layer(x)
        return x
