"""The training step of fastgan written bare in torch, as one would in a script: what the engine is compared with."""

import copy

import torch
from torch.nn.functional import softplus

from fastgan.models import build_networks
from fastgan.seeds import Stream, seed_of


class BareTraining:
    """DCGAN, the non-saturating loss, Adam and an averaged generator, from the same seed as the engine's.

    With labels the networks are conditional, and fakes are made for the labels of the real images beside them.
    """

    def __init__(self, config, images, labels=None):
        torch.manual_seed(seed_of(config.seed, Stream.WEIGHTS))
        self.generator, self.discriminator = build_networks(
            "dcgan",
            resolution=images.shape[-1],
            num_channels=images.shape[1],
            latent_dim=config.latent_dim,
            base_channels=config.base_channels or None,
            num_classes=None if labels is None else int(labels.max()) + 1,
        )
        self.average = copy.deepcopy(self.generator)
        betas = (config.beta1, config.beta2)
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), lr=config.lr, betas=betas, fused=True)
        self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=config.lr, betas=betas, fused=True)
        self.random = torch.Generator().manual_seed(seed_of(config.seed, Stream.LATENTS))
        self.data_random = torch.Generator().manual_seed(seed_of(config.seed, Stream.DATA))
        torch.manual_seed(seed_of(config.seed, Stream.NOISE))
        self.config, self.images, self.labels, self.count = config, images, labels, 0

    def step(self):
        """Returns the discriminator's losses [discriminator_steps] and the generator's."""
        config = self.config
        d_losses = []
        for _ in range(config.discriminator_steps):
            chosen = torch.randint(len(self.images), (config.batch_size,), generator=self.data_random)
            real = self.images[chosen].float() / 127.5 - 1
            y = () if self.labels is None else (self.labels[chosen],)
            fake = self.generator(torch.randn(config.batch_size, config.latent_dim, generator=self.random), *y)

            d_real, d_fake = self.discriminator(real, *y), self.discriminator(fake.detach(), *y)
            d_loss = softplus(-d_real).mean() + softplus(d_fake).mean()
            self.d_optimizer.zero_grad()
            d_loss.backward()
            self.d_optimizer.step()
            d_losses.append(d_loss)

        self.discriminator.requires_grad_(False)
        g_loss = softplus(-self.discriminator(fake, *y)).mean()
        self.g_optimizer.zero_grad()
        g_loss.backward()
        self.g_optimizer.step()
        self.discriminator.requires_grad_(True)

        self.count += 1
        decay = min(config.ema_decay, (1 + self.count) / (10 + self.count))
        with torch.no_grad():
            for a, b in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                a.lerp_(b, 1 - decay)
            for a, b in zip(self.average.buffers(), self.generator.buffers(), strict=True):
                a.copy_(a.lerp(b, 1 - decay) if a.is_floating_point() else b)
        return torch.stack(d_losses), g_loss
