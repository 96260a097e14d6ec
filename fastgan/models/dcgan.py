"""DCGAN at 28x28 and at every power of two from 16 to 256.

Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
Networks", 2016 (https://arxiv.org/abs/1511.06434), section 3. A biased convolution with a leaky ReLU is implemented as
a convolution without bias and a :class:`fastgan.nn.BiasAct`, with the same parameters.

With classes the generators have conditional batch norm and the discriminators a projection head, as in Miyato and
Koyama, "cGANs with Projection Discriminator", 2018 (https://arxiv.org/abs/1802.05637); nothing else changes.
"""

from itertools import pairwise

from torch import nn

from fastgan.models.sequential import Discriminator, Generator
from fastgan.nn import (
    BatchNormAct2d,
    BiasAct,
    ConditionalBatchNormAct2d,
    MinibatchDiscrimination,
    MinibatchStdDev,
    ProjectionHead,
)

RESOLUTIONS = (16, 28, 32, 64, 128, 256)
_LINEAR = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)


def build_dcgan(
    *,
    resolution: int,
    num_channels: int,
    latent_dim: int = 100,
    base_channels: int | None = None,
    num_classes: int | None = None,
    minibatch: str = "none",
) -> tuple[nn.Module, nn.Module]:
    """Builds the generator and the discriminator.

    Args:
        resolution: 28 or a power of two from 16 to 256.
        base_channels: channels of the generator's last map before the image, from which the other widths follow; 64 by
            default at 28 and 128 elsewhere.
        num_classes: number of classes of conditional networks; ``None`` for networks without labels.
        minibatch: a layer over the whole batch before the discriminator's head, to detect collapse: "none", "stddev"
            for :class:`fastgan.nn.MinibatchStdDev` on the last map, or "discrimination" for
            :class:`fastgan.nn.MinibatchDiscrimination` of its features, with 100 kernels of 5 components (Salimans et
            al. 2016 and their code).
    """
    base = checked_base_channels("dcgan", resolution, base_channels)
    return (
        build_generator(resolution, num_channels, latent_dim, base, num_classes),
        build_discriminator(resolution, num_channels, base, num_classes, minibatch=minibatch),
    )


def checked_base_channels(model: str, resolution: int, base_channels: int | None) -> int:
    """The width of both networks, or the resolution's default if None; refuses sizes that the networks cannot have."""
    check_resolution(model, resolution)
    base = base_channels or (64 if resolution == 28 else 128)
    if resolution == 28 and base % 4:
        raise ValueError(f"{model} at resolution 28 needs base_channels that divide by 4, not {base}")
    return base


def check_resolution(model: str, resolution: int) -> None:
    if resolution not in RESOLUTIONS:
        *others, last = RESOLUTIONS
        raise ValueError(
            f"{model} has no networks for resolution {resolution}, only for {', '.join(map(str, others))} and {last}"
        )


def widths(resolution: int, base_channels: int) -> list[int]:
    """Channels of the maps between image and latent, from 4x4 up to half the image's size.

    The map at half the image's size has ``base_channels``; each halving of the size doubles them, up to
    ``8 * base_channels``. With 128 at resolution 64 that is the paper's 1024, 512, 256, 128.
    """
    num_maps = (resolution // 4).bit_length() - 1
    return [base_channels * min(2**i, 8) for i in reversed(range(num_maps))]


def build_generator(
    resolution: int, num_channels: int, latent_dim: int, base_channels: int, num_classes: int | None
) -> Generator:
    """Builds the generator; at powers of two its widths are those of :func:`widths`."""
    layers = _generator_28 if resolution == 28 else _generator
    channels = [2 * base_channels, base_channels] if resolution == 28 else widths(resolution, base_channels)
    return Generator(layers(channels, num_channels, latent_dim, num_classes), latent_dim, num_classes).apply(
        init_weights
    )


def _generator(channels: list[int], num_channels: int, latent_dim: int, num_classes: int | None) -> list[nn.Module]:
    """Projection to 4x4, then transposed convolutions 4x4 of stride 2; batch norm and ReLU except at the image."""
    layers: list[nn.Module] = [
        nn.Linear(latent_dim, channels[0] * 16, bias=False),
        nn.Unflatten(1, (channels[0], 4, 4)),
        *_batch_norm_relu(channels[0], num_classes),
    ]
    for c_in, c_out in pairwise(channels):
        layers += [
            nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=False),
            *_batch_norm_relu(c_out, num_classes),
        ]
    return [*layers, nn.ConvTranspose2d(channels[-1], num_channels, 4, stride=2, padding=1), nn.Tanh()]


def _generator_28(channels: list[int], num_channels: int, latent_dim: int, num_classes: int | None) -> list[nn.Module]:
    """A linear layer to 128x7x7, then twice nearest upsampling by 2 and a 3x3 convolution; 856,065 parameters."""
    wide, narrow = channels
    return [
        nn.Linear(latent_dim, wide * 7 * 7),
        nn.Unflatten(1, (wide, 7, 7)),
        _batch_norm(wide, num_classes, act="linear"),
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(wide, wide, 3, padding=1),
        *_batch_norm_relu(wide, num_classes),
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(wide, narrow, 3, padding=1),
        *_batch_norm_relu(narrow, num_classes),
        nn.Conv2d(narrow, num_channels, 3, padding=1),
        nn.Tanh(),
    ]


def build_discriminator(
    resolution: int,
    num_channels: int,
    base_channels: int,
    num_classes: int | None,
    *,
    norm: str = "batch",
    minibatch: str = "none",
) -> Discriminator:
    """Builds the discriminator.

    Args:
        norm: "batch", "layer" or "none". Batch norm makes the output for a sample depend on the whole batch, so it
            excludes a gradient penalty. Layer norm is over channels and pixels, with a scale and shift per channel, as
            in the code of Gulrajani et al. 2017.
        minibatch: as in :func:`build_dcgan`.
    """
    if resolution == 28:
        channels, trunk = [base_channels // 4 * 2**i for i in range(4)], _discriminator_28
        # 28 halves to 14, 7, 4 and 2: the head gets maps of 2x2, not 1x1.
        num_pixels = 2 * 2
    else:
        channels, trunk = widths(resolution, base_channels)[::-1], _discriminator
        num_pixels = 4 * 4
    layers = [*trunk([num_channels, *channels], norm), *_head(channels[-1], num_pixels, num_classes, minibatch)]
    init = init_weights if norm == "batch" else init_weights_without_batch_norm
    return Discriminator(layers, num_classes).apply(init)


def _discriminator(channels: list[int], norm: str) -> list[nn.Module]:
    """Convolutions 4x4 of stride 2 down to 4x4; leaky ReLU 0.2, and a norm except at the image."""
    layers: list[nn.Module] = []
    for i, (c_in, c_out) in enumerate(pairwise(channels)):
        layers.append(nn.Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=False))
        normalization = _norm(norm, c_out, act="lrelu") if i > 0 else []
        behind = nn.Identity() if norm == "batch" else nn.LeakyReLU(0.2)
        layers += [*normalization, behind] if normalization else [BiasAct(c_out, negative_slope=0.2)]
    return layers


def _discriminator_28(channels: list[int], norm: str) -> list[nn.Module]:
    """Convolutions 3x3 of stride 2 to 16, 32, 64 and 128 channels, with dropout: 98,113 parameters with the head."""
    layers: list[nn.Module] = []
    for i, (c_in, c_out) in enumerate(pairwise(channels)):
        layers += [
            nn.Conv2d(c_in, c_out, 3, stride=2, padding=1, bias=False),
            BiasAct(c_out, act="lrelu", negative_slope=0.2),
            nn.Dropout2d(0.25),
            *(_norm(norm, c_out) if i > 0 else []),
        ]
    return layers


def _head(num_channels: int, num_pixels: int, num_classes: int | None, minibatch: str) -> list[nn.Module]:
    """The layers after the last map, from [N, num_channels, H, W] to [N, 1]."""
    features = num_channels * num_pixels
    if minibatch == "none":
        return [nn.Flatten(), last_layer(features, num_classes)]
    if minibatch == "stddev":
        return [MinibatchStdDev(), nn.Flatten(), last_layer(features + num_pixels, num_classes)]
    if minibatch == "discrimination":
        layer = MinibatchDiscrimination(features, num_kernels=100, kernel_dim=5)
        return [nn.Flatten(), layer, last_layer(features + 100, num_classes)]
    raise ValueError(f"minibatch is {minibatch!r}, expected 'none', 'stddev' or 'discrimination'")


def last_layer(num_features: int, num_classes: int | None) -> nn.Module:
    """The last layer, from features [N, num_features] to [N, 1]."""
    return nn.Linear(num_features, 1) if num_classes is None else ProjectionHead(num_features, num_classes)


def _batch_norm(num_channels: int, num_classes: int | None, *, act: str) -> nn.Module:
    if num_classes is None:
        return BatchNormAct2d(num_channels, act=act)
    return ConditionalBatchNormAct2d(num_channels, num_classes, act=act)


def _batch_norm_relu(num_channels: int, num_classes: int | None) -> list[nn.Module]:
    """Batch norm with ReLU, and a placeholder for the former ReLU layer: layer indices are checkpoint keys."""
    return [_batch_norm(num_channels, num_classes, act="relu"), nn.Identity()]


def _norm(norm: str, num_channels: int, *, act: str = "linear") -> list[nn.Module]:
    """The normalization layer, if any; batch norm includes the activation."""
    batch_norm = BatchNormAct2d(num_channels, act=act, negative_slope=0.2)
    return {"none": [], "layer": [nn.GroupNorm(1, num_channels)], "batch": [batch_norm]}[norm]


def init_weights(module: nn.Module) -> None:
    """Draws weights from a normal distribution with standard deviation 0.02 (section 4 of the paper); biases are zero.

    The scales of batch norm are drawn around 1, as in the authors' code; those of conditional batch norm are 1. The
    embedding of a projection head is initialized like a linear layer, since it is one on one-hot labels.
    """
    if isinstance(module, _LINEAR):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d) and module.affine:
        nn.init.normal_(module.weight, 1.0, 0.02)


def init_weights_without_batch_norm(module: nn.Module) -> None:
    """Draws weights that preserve the variance of the signal (He et al. 2015), as in the code of Gulrajani et al. 2017.

    With a standard deviation of 0.02 and no normalization, the signal would shrink in every layer: the gradient norm of
    the 28x28 trunk would start at 0.0002. With this initialization it starts at 0.9; the penalty's target is 1.
    """
    if isinstance(module, _LINEAR):
        nn.init.kaiming_normal_(module.weight, a=0.2)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
