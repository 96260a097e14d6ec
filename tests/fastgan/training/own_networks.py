"""Networks as other people write them, for images of 16x16, small enough for a few milliseconds a step."""

import torch
from torch import nn
from torch.nn.utils import spectral_norm


class DCGenerator(nn.Module):
    """As in PyTorch's tutorial: latents are maps of 1x1."""

    def __init__(self, nz=8, ngf=4, nc=1):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(nz, ngf * 2, 4, 1, 0, bias=False),
            nn.BatchNorm2d(ngf * 2),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, z):
        return self.main(z[:, :, None, None])


class DCDiscriminator(nn.Module):
    """Ends in a sigmoid, for a binary cross-entropy."""

    def __init__(self, nc=1, ndf=4):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(nc, ndf, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, ndf * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 2, 1, 4, 1, 0, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.main(x).view(-1, 1)


def real_loss(real, fake):
    bce = nn.functional.binary_cross_entropy
    return bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))


def fake_loss(fake):
    return nn.functional.binary_cross_entropy(fake, torch.ones_like(fake))


class Up(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(inputs, outputs, 3, padding=1))
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(nn.functional.interpolate(x, scale_factor=2))))


class SNGenerator(nn.Module):
    """Spectral norm by torch's older hooks, in both networks."""

    def __init__(self, nz=8):
        super().__init__()
        self.l1 = spectral_norm(nn.Linear(nz, 4 * 16))
        self.blocks = nn.Sequential(Up(4, 4), Up(4, 4))
        self.last = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, z):
        return torch.tanh(self.last(self.blocks(self.l1(z).view(-1, 4, 4, 4))))


class SNDiscriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(1, 8, 4, 4))
        self.last = spectral_norm(nn.Linear(8, 1))

    def forward(self, x):
        return self.last(torch.relu(self.conv(x)).sum(dim=(2, 3)))


class PatchDiscriminator(nn.Sequential):
    """A map of logits, one for each patch, as in pix2pix."""

    def __init__(self):
        layers = nn.Conv2d(1, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 8, 4, 2, 1), nn.InstanceNorm2d(8)
        super().__init__(*layers, nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 3, 1, 1))


class Grouped(nn.Module):
    """A residual block with a grouped convolution and biases before leaky ReLU, without normalization."""

    def __init__(self, width=8, groups=4):
        super().__init__()
        self.first = nn.Conv2d(width, 2 * width, 1, bias=False)
        self.grouped = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=groups, bias=False)
        self.last = nn.Conv2d(2 * width, width, 1, bias=False)
        self.bias1, self.bias2 = (nn.Parameter(torch.zeros(1, 2 * width, 1, 1)) for _ in range(2))

    def forward(self, x):
        y = nn.functional.leaky_relu(self.first(x) + self.bias1, 0.2)
        return x + self.last(nn.functional.leaky_relu(self.grouped(y) + self.bias2, 0.2))


class R3Generator(nn.Module):
    def __init__(self, nz=8, width=8):
        super().__init__()
        self.basis = nn.Parameter(torch.randn(1, width, 4, 4))
        self.style = nn.Linear(nz, width)
        self.blocks = nn.ModuleList([Grouped(width) for _ in range(2)])
        self.to_rgb = nn.Conv2d(width, 1, 1)

    def forward(self, z, y=None):
        x = self.basis * self.style(z)[:, :, None, None]
        for block in self.blocks:
            x = nn.functional.interpolate(block(x), scale_factor=2, mode="bilinear")
        return self.to_rgb(x)


class R3Discriminator(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.from_rgb = nn.Conv2d(1, width, 1)
        self.blocks = nn.ModuleList([Grouped(width) for _ in range(2)])
        self.head = nn.Conv2d(width, width, 4, groups=width)
        self.linear = nn.Linear(width, 1, bias=False)

    def forward(self, x, y=None):
        x = self.from_rgb(x)
        for block in self.blocks:
            x = nn.functional.avg_pool2d(block(x), 2)
        return self.linear(self.head(x).flatten(1)).view(x.shape[0])


class ClassGenerator(nn.Module):
    """Labels are embedded and concatenated, as in the first conditional GAN."""

    def __init__(self, latent_dim, num_classes):
        super().__init__()
        self.embedding = nn.Embedding(num_classes, 4)
        self.net = nn.Sequential(nn.Linear(latent_dim + 4, 32), nn.LeakyReLU(0.2), nn.Dropout(0.1), nn.Linear(32, 256))

    def forward(self, z, labels):
        return torch.tanh(self.net(torch.cat([z, self.embedding(labels)], 1))).view(-1, 1, 16, 16)


class ClassDiscriminator(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.embedding = nn.Embedding(num_classes, 4)
        self.net = nn.Sequential(nn.Linear(256 + 4, 32), nn.LeakyReLU(0.2), nn.Dropout(0.4), nn.Linear(32, 1))

    def forward(self, images, labels):
        return self.net(torch.cat([images.flatten(1), self.embedding(labels)], 1))


# How commands over the runs build them again.


def dcgan():
    return DCGenerator(), DCDiscriminator()


def sngan():
    return SNGenerator(), SNDiscriminator()


def patch(num_channels, latent_dim):
    return DCGenerator(latent_dim, nc=num_channels), PatchDiscriminator()


def r3gan():
    return R3Generator(), R3Discriminator()


def conditional(latent_dim, num_classes):
    return ClassGenerator(latent_dim, num_classes), ClassDiscriminator(num_classes)


SETTINGS = {
    "dcgan": {"loss": (real_loss, fake_loss), "lr": "cosine(2e-4, 5e-5, 10)"},
    "sngan": {"loss": "hinge", "discriminator_steps": 2, "beta1": 0.0},
    "patch": {"loss": "least-squares", "precision": "bfloat16"},
    "r3gan": {
        **{
            "loss": "relativistic-pairing",
            "regularizers": [("r1", "cosine(1, 0.1, 8)", 2), ("r2", 1.0, 1)],
            "beta1": 0.0,
        },
        **{"beta2": "cosine(0.9, 0.99, 8)", "ema_half_life": "cosine(0, 5, 8)"},
    },
    "conditional": {"loss": "non-saturating", "conditional": True},
}
