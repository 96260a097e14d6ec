"""Sequences of layers, some of which take the class labels beside their input."""

from collections.abc import Iterable

from torch import Tensor, nn

from fastgan.nn import ConditionalBatchNorm2d, ProjectionHead

_TAKE_LABELS = (ConditionalBatchNorm2d, ProjectionHead)


class LabelledSequential(nn.Sequential):
    """Layers one after the other; those that are conditional get the labels, int64 [N], too."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, labels) if isinstance(layer, _TAKE_LABELS) else layer(x)
        return x


def sequence(layers: Iterable[nn.Module], num_classes: int | None) -> nn.Sequential:
    """The layers of a network for ``num_classes`` classes, or of an unconditional one."""
    return nn.Sequential(*layers) if num_classes is None else LabelledSequential(*layers)


def run(layers: nn.Sequential, x: Tensor, labels: Tensor | None) -> Tensor:
    """Runs what :func:`sequence` made.

    Raises:
        ValueError: for labels that an unconditional network does not take, or a conditional one lacks.
    """
    if isinstance(layers, LabelledSequential):
        if labels is None:
            raise ValueError("the network is conditional, expected labels, int64 [N], beside its input")
        return layers(x, labels)
    if labels is not None:
        raise ValueError("the network is unconditional and takes no labels")
    return layers(x)
