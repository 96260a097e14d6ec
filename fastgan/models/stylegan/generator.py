"""The generator: mapping network, styles for each layer, style mixing, truncation."""

import math

import torch
from torch import Tensor, nn

from fastgan.models.stylegan.growing import SMALLEST
from fastgan.models.stylegan.synthesis import Synthesis
from fastgan.nn import BiasAct, EqualizedLinear, PixelNorm

MAPPING_LAYERS = 8
MAPPING_LR_MULTIPLIER = 0.01
# From the authors' code; the paper does not give it.
W_MEAN_DECAY = 0.995


class Mapping(nn.Sequential):
    """From latents [N, latent_dim] to w [N, style_dim]: normalized to unit mean square, then 8 layers, leaky ReLU 0.2.

    Karras et al. 2019, figure 1b; they learn at 0.01 of the learning rate (appendix C). 2,101,248 parameters where both
    lengths are 512.
    """

    def __init__(self, latent_dim: int, style_dim: int) -> None:
        layers: list[nn.Module] = [PixelNorm()]
        for i in range(MAPPING_LAYERS):
            width = style_dim if i else latent_dim
            layers += [
                EqualizedLinear(width, style_dim, gain=math.sqrt(2), lr_multiplier=MAPPING_LR_MULTIPLIER),
                BiasAct(None, act="lrelu", negative_slope=0.2),
            ]
        super().__init__(*layers)


class StyleGANGenerator(nn.Module):
    """Mapping and synthesis network of Karras et al. 2019.

    Args:
        resolution: of the fully grown images, a power of two from 8 to 1024.
        base_channels: channels of the widest maps, 512 in the paper.
        style_dim: length of w and of the styles; ``None`` for as many as ``base_channels``.
        style_mixing: probability, in training, that a sample takes its styles from a second latent from a random layer
            on (mixing regularization, section 3.1; 0.9 in the paper); 0 for none.

    Shape:
        [N, latent_dim] to [N, num_channels, R, R] for the R that it has grown to. The images aim at [-1, 1] and, as in
        the paper, are not bounded. In training mode styles are mixed, noise is drawn at every call and ``w_mean``
        follows the mean of w; in evaluation mode noise is constant, so that a latent gives one image in any batch, and
        ``truncation`` is the psi of :meth:`truncate` for all layers.

    Raises:
        ValueError: for sizes that :func:`~fastgan.models.stylegan.growing.widths` refuses, a ``style_dim`` below 1, or
            a probability outside of 0 to 1; one sentence.
    """

    w_mean: Tensor

    def __init__(
        self,
        resolution: int,
        num_channels: int,
        latent_dim: int = 512,
        *,
        base_channels: int = 512,
        style_dim: int | None = None,
        style_mixing: float = 0.9,
    ) -> None:
        super().__init__()
        if not 0 <= style_mixing <= 1:
            raise ValueError(f"style_mixing is {style_mixing}, expected a probability from 0 to 1")
        style_dim = base_channels if style_dim is None else style_dim
        if style_dim < 1:
            raise ValueError(f"style_dim is {style_dim}, expected at least 1")
        self.latent_dim = latent_dim
        self.style_mixing = style_mixing
        self.mapping = Mapping(latent_dim, style_dim)
        self.synthesis = Synthesis(resolution, num_channels, style_dim=style_dim, base_channels=base_channels)
        self.num_layers = self.synthesis.num_layers
        self.register_buffer("w_mean", torch.zeros(style_dim))

    @property
    def resolution(self) -> int:
        """The current resolution of the images."""
        return self.synthesis.resolution

    def grow(self, resolution: int, fade: float = 1.0) -> None:
        """Makes images of ``resolution`` from now on; see :meth:`GrowingNetwork.grow`."""
        self.synthesis.grow(resolution, fade)

    def forward(self, latents: Tensor, *, truncation: float = 1.0) -> Tensor:
        if not self.training:
            w = self.mapping(latents)
            if truncation != 1:
                w = self.truncate(w, truncation)
            return self.synthesis(self.styles(w), noise="constant")
        if self.style_mixing > 0:
            # Both latents in one call: the mapping network takes as long for one batch as for two.
            latents = torch.cat([latents, torch.randn_like(latents)])
        w = self.mapping(latents)
        self._follow(w.detach())
        styles = self.styles(w)
        if self.style_mixing > 0:
            styles = self._mixed_at_random(*styles.chunk(2))
        return self.synthesis(styles, noise="random")

    def styles(self, w: Tensor) -> Tensor:
        """The same w for every layer: [N, style_dim] to [N, num_layers, style_dim], without a copy."""
        return w.unsqueeze(1).expand(-1, self.num_layers, -1)

    def truncate(self, w: Tensor, psi: float, num_layers: int | None = None) -> Tensor:
        """w_mean + psi * (w - w_mean): nearer to the average image, less varied and with fewer failures.

        Karras et al. 2019, appendix B.

        Args:
            w: w [N, style_dim] or styles [N, num_layers, style_dim].
            psi: 0 for the average, 1 for w itself.
            num_layers: of styles, how many layers from the first on are truncated; ``None`` for all.

        Raises:
            ValueError: for a number of layers without an axis of layers; one sentence.
        """
        truncated = torch.lerp(self.w_mean.to(w.dtype), w, psi)
        if num_layers is None:
            return truncated
        if w.dim() != 3:
            raise ValueError(f"truncate: w has shape {list(w.shape)} and no layers, expected styles with num_layers")
        return mix_styles_at_layer(truncated, w, num_layers)

    @torch.no_grad()
    def _follow(self, w: Tensor) -> None:
        self.w_mean.lerp_(w.mean(0).to(self.w_mean.dtype), 1 - W_MEAN_DECAY)

    def _mixed_at_random(self, a: Tensor, b: Tensor) -> Tensor:
        """Each sample with probability ``style_mixing`` from ``a`` to ``b`` at a random layer of those in use."""
        count, device = len(a), a.device
        layer = torch.randint(1, 2 * len(self.synthesis.in_use()), (count,), device=device)
        mixed = torch.rand(count, device=device) < self.style_mixing
        return mix_styles_at_layer(a, b, torch.where(mixed, layer, self.num_layers))


def mix_styles(a: Tensor, b: Tensor, crossover: int) -> Tensor:
    """Styles of ``a`` below the resolution ``crossover``, of ``b`` from it on (Karras et al. 2019, section 3.1).

    ``b`` from 4 to 8 on lends pose and shape ("coarse"), from 16 to 32 smaller features ("middle"), from 64 on colors
    and texture ("fine"; figure 3).

    Args:
        a, b: styles [N, num_layers, style_dim].
        crossover: a resolution of these layers; 4 for all of ``b``.

    Raises:
        ValueError: for another crossover; one sentence.
    """
    resolutions = [SMALLEST * 2**i for i in range(a.shape[1] // 2)]
    if crossover not in resolutions:
        raise ValueError(f"crossover is {crossover}, expected one of {', '.join(map(str, resolutions))}")
    return mix_styles_at_layer(a, b, 2 * resolutions.index(crossover))


def mix_styles_at_layer(a: Tensor, b: Tensor, layer: int | Tensor) -> Tensor:
    """Styles of ``a`` in the layers before ``layer``, of ``b`` from it on.

    Args:
        a, b: styles [N, num_layers, style_dim].
        layer: 0 to num_layers; for each sample its own where it is an integer tensor [N].
    """
    if isinstance(layer, Tensor):
        layer = layer[:, None]
    before = torch.arange(a.shape[1], device=a.device) < layer
    return torch.where(before[..., None], a, b)
