"""The vanilla GAN: fully connected networks on flattened images.

Goodfellow et al., "Generative Adversarial Networks", 2014 (https://arxiv.org/abs/1406.2661), whose networks are fully
connected too, with the leaky ReLU and the batch norm of later practice in place of its maxout. Where a leaky ReLU
follows a biased linear layer, both are one :class:`fastgan.nn.BiasAct` after a linear layer without bias; it holds the
same parameters.
"""

from torch import Tensor, nn

from fastgan.nn import BiasAct

DEFAULT_BASE_CHANNELS = 128


def build_vanilla(
    *, resolution: int, num_channels: int, latent_dim: int = 100, base_channels: int | None = None
) -> tuple[nn.Module, nn.Module]:
    """Builds the generator and the discriminator for any resolution.

    Args:
        base_channels: width of the narrowest hidden layer, which the other widths follow from; 128 by default.
    """
    if resolution < 1:
        raise ValueError(f"vanilla has no networks for resolution {resolution}, only for 1 and more")
    base = DEFAULT_BASE_CHANNELS if base_channels is None else base_channels
    return (
        VanillaGenerator(resolution, num_channels, latent_dim, base_channels=base),
        VanillaDiscriminator(resolution, num_channels, base_channels=base),
    )


class VanillaGenerator(nn.Module):
    """Linear layers of widths 128, 256 and 512 with leaky ReLU 0.2, batch norm in the last two; tanh at the image.

    581,264 parameters for 28x28x1 and a latent of 100.

    Args:
        base_channels: width of the first layer, in place of 128; the other two have twice and four times as many.

    Shape:
        [N, latent_dim] to [N, num_channels, resolution, resolution] in [-1, 1].
    """

    def __init__(
        self,
        resolution: int = 28,
        num_channels: int = 1,
        latent_dim: int = 100,
        *,
        base_channels: int = DEFAULT_BASE_CHANNELS,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        base = base_channels
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, base, bias=False),
            BiasAct(base, act="lrelu", negative_slope=0.2),
            nn.Linear(base, 2 * base),
            nn.BatchNorm1d(2 * base),
            nn.LeakyReLU(0.2),
            nn.Linear(2 * base, 4 * base),
            nn.BatchNorm1d(4 * base),
            nn.LeakyReLU(0.2),
            nn.Linear(4 * base, num_channels * resolution * resolution),
            nn.Tanh(),
            nn.Unflatten(1, (num_channels, resolution, resolution)),
        )

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents)


class VanillaDiscriminator(nn.Module):
    """Linear layers of widths 512 and 256 with leaky ReLU 0.2, and one to the logit.

    533,505 parameters for 28x28x1.

    Args:
        base_channels: a quarter of the first width and half of the second, in place of 128.

    Shape:
        [N, num_channels, resolution, resolution] to logits [N].
    """

    def __init__(
        self, resolution: int = 28, num_channels: int = 1, *, base_channels: int = DEFAULT_BASE_CHANNELS
    ) -> None:
        super().__init__()
        base = base_channels
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(num_channels * resolution * resolution, 4 * base, bias=False),
            BiasAct(4 * base, act="lrelu", negative_slope=0.2),
            nn.Linear(4 * base, 2 * base, bias=False),
            BiasAct(2 * base, act="lrelu", negative_slope=0.2),
            nn.Linear(2 * base, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).squeeze(1)
