"""The training step of fastgan written bare in torch, as one would in a script: what the engine is compared with."""

import copy

import torch
from torch.nn.functional import softplus

from fastgan.models import build_networks


class BareTraining:
    """DCGAN, the non-saturating loss, Adam and an averaged generator, from the same seed as the engine's."""

    def __init__(self, config, images):
        torch.manual_seed(config.seed)
        self.generator, self.discriminator = build_networks(
            "dcgan",
            resolution=images.shape[-1],
            num_channels=images.shape[1],
            latent_dim=config.latent_dim,
            base_channels=config.base_channels or None,
        )
        self.average = copy.deepcopy(self.generator)
        betas = (config.beta1, config.beta2)
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), lr=config.lr, betas=betas, fused=True)
        self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=config.lr, betas=betas, fused=True)
        self.random = torch.Generator().manual_seed(config.seed)
        self.config, self.images, self.count = config, images, 0

    def step(self):
        """Returns the discriminator's losses [discriminator_steps] and the generator's."""
        config = self.config
        d_losses = []
        for _ in range(config.discriminator_steps):
            chosen = torch.randint(len(self.images), (config.batch_size,), generator=self.random)
            real = self.images[chosen].float() / 127.5 - 1
            fake = self.generator(torch.randn(config.batch_size, config.latent_dim, generator=self.random))

            d_loss = softplus(-self.discriminator(real)).mean() + softplus(self.discriminator(fake.detach())).mean()
            self.d_optimizer.zero_grad()
            d_loss.backward()
            self.d_optimizer.step()
            d_losses.append(d_loss)

        self.discriminator.requires_grad_(False)
        g_loss = softplus(-self.discriminator(fake)).mean()
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
