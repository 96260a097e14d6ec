"""Small fully connected networks without normalization, for points of two dimensions and other toy data.

A point of the plane is an image of one pixel and two channels. The networks are those of the code of Gulrajani et al.
2017 (https://arxiv.org/abs/1704.00028) for eight Gaussians, three hidden layers with ReLU each, but narrower than 512
and with a tanh at the output, because images lie in [-1, 1]. No sample influences another, so every penalty may be
used, except with a ``minibatch`` layer.
"""

from torch import Tensor, nn

from fastgan.models.dcgan import init_weights_without_batch_norm
from fastgan.nn import BiasAct, MinibatchDiscrimination, MinibatchStdDev

DEFAULT_BASE_CHANNELS = 128
HIDDEN_LAYERS = 3

# Sizes of minibatch discrimination. With the 100 kernels of the authors' code this layer would take more than ten times
# as long in plain torch as the rest of a step on 256 points.
_NUM_KERNELS, _KERNEL_DIM = 16, 5


def build_mlp(
    *,
    resolution: int,
    num_channels: int,
    latent_dim: int = 100,
    base_channels: int | None = None,
    minibatch: str = "none",
) -> tuple[nn.Module, nn.Module]:
    """Builds the generator and the discriminator for any resolution.

    Args:
        resolution: height and width of the images, in pixels; 1 for points.
        num_channels: channels of the images; 2 for points of the plane.
        base_channels: width of every hidden layer, 128 by default.
        minibatch: of the discriminator: "none", "stddev" or "discrimination", see :class:`MLPDiscriminator`.
    """
    if resolution < 1:
        raise ValueError(f"mlp has no networks for resolution {resolution}, only for 1 and more")
    base = DEFAULT_BASE_CHANNELS if base_channels is None else base_channels
    return (
        MLPGenerator(resolution, num_channels, latent_dim, base_channels=base),
        MLPDiscriminator(resolution, num_channels, base_channels=base, minibatch=minibatch),
    )


class MLPGenerator(nn.Module):
    """Three linear layers with ReLU, and one to the image with tanh.

    Args:
        base_channels: width of every hidden layer.

    Shape:
        [N, latent_dim] to [N, num_channels, resolution, resolution] in [-1, 1].
    """

    def __init__(
        self, resolution: int, num_channels: int, latent_dim: int, *, base_channels: int = DEFAULT_BASE_CHANNELS
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.layers = nn.Sequential(
            *_hidden(latent_dim, base_channels),
            nn.Linear(base_channels, num_channels * resolution * resolution),
            nn.Tanh(),
            nn.Unflatten(1, (num_channels, resolution, resolution)),
        )
        self.apply(init_weights_without_batch_norm)

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents)


class MLPDiscriminator(nn.Module):
    """Three linear layers with ReLU on the flattened image, and one to the logit.

    Args:
        base_channels: width of every hidden layer.
        minibatch: the layer before the last hidden layer that sees the whole batch: "none", "stddev" for
            :class:`fastgan.nn.MinibatchStdDev`, or "discrimination" for :class:`fastgan.nn.MinibatchDiscrimination`
            (Salimans et al. 2016).

    Shape:
        [N, num_channels, resolution, resolution] to logits [N].
    """

    def __init__(
        self,
        resolution: int,
        num_channels: int,
        *,
        base_channels: int = DEFAULT_BASE_CHANNELS,
        minibatch: str = "none",
    ) -> None:
        super().__init__()
        seen = _hidden(num_channels * resolution * resolution, base_channels, HIDDEN_LAYERS - 1)
        layer, appended = _minibatch(minibatch, base_channels)
        self.layers = nn.Sequential(
            nn.Flatten(),
            *seen,
            *layer,
            *_hidden(base_channels + appended, base_channels, 1),
            nn.Linear(base_channels, 1),
        )
        self.apply(init_weights_without_batch_norm)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).squeeze(1)


def _hidden(in_features: int, width: int, num_layers: int = HIDDEN_LAYERS) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for c_in in [in_features, *[width] * (num_layers - 1)]:
        layers += [nn.Linear(c_in, width, bias=False), BiasAct(width, act="relu")]
    return layers


def _minibatch(name: str, width: int) -> tuple[list[nn.Module], int]:
    """The layer, if any, and how many features it appends."""
    if name == "none":
        return [], 0
    if name == "stddev":
        return [MinibatchStdDev()], 1
    if name == "discrimination":
        return [MinibatchDiscrimination(width, num_kernels=_NUM_KERNELS, kernel_dim=_KERNEL_DIM)], _NUM_KERNELS
    raise ValueError(f"minibatch is {name!r}, expected 'none', 'stddev' or 'discrimination'")
