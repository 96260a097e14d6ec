"""Small fully connected networks without normalisation, for points of two dimensions and other toy data.

A point of the plane is an image of one pixel and two channels. The networks are those of the code of Gulrajani et al.
2017 (https://arxiv.org/abs/1704.00028) for eight Gaussians, three hidden layers with ReLU each, but narrower than 512
and with a tanh at the output, because images lie in [-1, 1]. No sample sees another, so that every penalty may be used.
"""

from torch import Tensor, nn

from fastgan.models.dcgan import init_weights_without_batch_norm
from fastgan.nn import BiasAct

DEFAULT_BASE_CHANNELS = 128
HIDDEN_LAYERS = 3


def build_mlp(
    *, resolution: int, num_channels: int, latent_dim: int = 100, base_channels: int | None = None
) -> tuple[nn.Module, nn.Module]:
    """Builds the generator and the discriminator for any resolution.

    Args:
        resolution: height and width of the images, in pixels; 1 for points.
        num_channels: channels of the images; 2 for points of the plane.
        latent_dim: length of a latent.
        base_channels: width of every hidden layer, 128 by default.

    Raises:
        ValueError: for a resolution below 1; one sentence.
    """
    if resolution < 1:
        raise ValueError(f"mlp has no networks for resolution {resolution}, only for 1 and more")
    base = DEFAULT_BASE_CHANNELS if base_channels is None else base_channels
    return (
        MLPGenerator(resolution, num_channels, latent_dim, base_channels=base),
        MLPDiscriminator(resolution, num_channels, base_channels=base),
    )


class MLPGenerator(nn.Module):
    """Three linear layers with ReLU, and one to the image with tanh.

    Args:
        resolution: height and width of the images.
        num_channels: channels of the images.
        latent_dim: length of a latent.
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
        resolution: height and width of the images.
        num_channels: channels of the images.
        base_channels: width of every hidden layer.

    Shape:
        [N, num_channels, resolution, resolution] to logits [N].
    """

    def __init__(self, resolution: int, num_channels: int, *, base_channels: int = DEFAULT_BASE_CHANNELS) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            *_hidden(num_channels * resolution * resolution, base_channels),
            nn.Linear(base_channels, 1),
        )
        self.apply(init_weights_without_batch_norm)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).squeeze(1)


def _hidden(in_features: int, width: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for c_in in [in_features, *[width] * (HIDDEN_LAYERS - 1)]:
        layers += [nn.Linear(c_in, width, bias=False), BiasAct(width, act="relu")]
    return layers
