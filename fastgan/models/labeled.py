"""Sequences of layers, some of which also take the class labels."""

from collections.abc import Iterable

from torch import Tensor, nn

from fastgan.nn import ConditionalBatchNorm2d, ProjectionHead

_TAKE_LABELS = (ConditionalBatchNorm2d, ProjectionHead)


class LabeledSequential(nn.Sequential):
    """Layers in sequence; conditional layers also get the labels, int64 [N]."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, labels) if isinstance(layer, _TAKE_LABELS) else layer(x)
        return x


def sequence(layers: Iterable[nn.Module], num_classes: int | None) -> nn.Sequential:
    """The layers of a network for ``num_classes`` classes, or of an unconditional one."""
    return nn.Sequential(*layers) if num_classes is None else LabeledSequential(*layers)


def run(layers: nn.Sequential, x: Tensor, labels: Tensor | None) -> Tensor:
    """Runs the layers of :func:`sequence`; labels for an unconditional network, or none for a conditional one, are a
    ValueError."""
    if isinstance(layers, LabeledSequential):
        if labels is None:
            raise ValueError("the network is conditional, expected labels, int64 [N], with its input")
        return layers(x, labels)
    if labels is not None:
        raise ValueError("the network is unconditional and takes no labels")
    return layers(x)
