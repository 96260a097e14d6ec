"""Networks as people write them in plain torch: what fastgan.accelerate is given."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class EqualLinear(nn.Module):
    def __init__(self, in_dim, out_dim, bias_init=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim))
        self.bias = nn.Parameter(torch.full((out_dim,), bias_init))
        self.scale = 1 / math.sqrt(in_dim)

    def forward(self, x):
        return F.linear(x, self.weight * self.scale, self.bias)


class PixelNorm(nn.Module):
    def forward(self, input):
        return input / torch.sqrt(torch.mean(input**2, dim=1, keepdim=True) + 1e-8)


class NoiseInjection(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.ones(1, channels, 1, 1))

    def forward(self, x):
        noise = torch.randn(x.size(0), 1, x.size(2), x.size(3), dtype=x.dtype, device=x.device)
        return x + self.weight * noise


class AdaINChunk(nn.Module):
    """One linear layer of the user's own, cut in two."""

    def __init__(self, channels, style_dim):
        super().__init__()
        self.norm = nn.InstanceNorm2d(channels)
        self.style = EqualLinear(style_dim, channels * 2)

    def forward(self, input, style):
        style = self.style(style).unsqueeze(2).unsqueeze(3)
        gamma, beta = style.chunk(2, 1)
        out = self.norm(input)
        return (1 + gamma) * out + beta


class AdaINByHand(nn.Module):
    """Statistics written out, two layers, the style first."""

    def __init__(self, channels, style_dim, eps=1e-6):
        super().__init__()
        self.eps = eps
        self.to_scale = nn.Linear(style_dim, channels)
        self.to_shift = nn.Linear(style_dim, channels)

    def forward(self, w, x):
        mean = x.mean(dim=(2, 3), keepdim=True)
        var = x.var(dim=(2, 3), keepdim=True, unbiased=False)
        scale = self.to_scale(w)[:, :, None, None]
        return scale * (x - mean) / torch.sqrt(var + self.eps) + self.to_shift(w)[:, :, None, None]


class AdaINFlat(nn.Module):
    """Flattened planes, rsqrt, a view cut by slices, in-place operators."""

    def __init__(self, channels, style_dim):
        super().__init__()
        self.channels = channels
        self.affine = nn.Sequential(nn.Linear(style_dim, style_dim), nn.Tanh(), nn.Linear(style_dim, 2 * channels))

    def forward(self, x, w):
        n, c = x.size(0), x.size(1)
        style = self.affine(w).view(n, 2, c, 1, 1)
        flat = x.reshape(n, c, -1)
        x = x - flat.mean(2).view(n, c, 1, 1)
        x = x * torch.rsqrt(torch.mean(x.pow(2), dim=[2, 3], keepdim=True) + 1e-5)
        x *= style[:, 0] + 1.0
        return x + style[:, 1]


class AdaINFunctional(nn.Module):
    def __init__(self, channels, style_dim):
        super().__init__()
        self.fc = nn.Linear(style_dim, 2 * channels)

    def forward(self, x, s):
        h = self.fc(s)
        h = h.view(h.size(0), h.size(1), 1, 1)
        gamma, beta = torch.split(h, h.size(1) // 2, dim=1)
        return torch.addcmul(beta, F.instance_norm(x, eps=1e-4), gamma)


class StyledBlock(nn.Module):
    def __init__(self, c_in, c_out, style_dim, adain, style_first=False):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.lrelu = nn.LeakyReLU(0.2)
        self.noise = NoiseInjection(c_out)
        self.adain = adain(c_out, style_dim)
        self.style_first = style_first

    def forward(self, x, w):
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = self.noise(self.lrelu(self.conv(x)))
        return self.adain(w, x) if self.style_first else self.adain(x, w)


class StyleGenerator(nn.Module):
    """The number of blocks is an argument, so the forward as a whole cannot be traced."""

    def __init__(self, style_dim=12):
        super().__init__()
        mapping = [PixelNorm()]
        for _ in range(2):
            mapping += [nn.Linear(style_dim, style_dim), nn.LeakyReLU(0.2)]
        self.mapping = nn.Sequential(*mapping)
        self.const = nn.Parameter(torch.randn(1, 8, 2, 2))
        self.blocks = nn.ModuleList(
            [
                StyledBlock(8, 8, style_dim, AdaINChunk),
                StyledBlock(8, 6, style_dim, AdaINByHand, style_first=True),
                StyledBlock(6, 6, style_dim, AdaINFlat),
                StyledBlock(6, 4, style_dim, AdaINFunctional),
            ]
        )
        self.to_rgb = nn.Conv2d(4, 3, 1)

    def forward(self, z, num_blocks=4):
        w = self.mapping(z)
        x = self.const.repeat(z.shape[0], 1, 1, 1)
        for i, block in enumerate(self.blocks):
            if i < num_blocks:
                x = block(x, w)
        return torch.tanh(self.to_rgb(x)) if num_blocks == 4 else x


class SNDiscriminator(nn.Module):
    """SNGAN; ``norm`` is one of torch's two spectral norms."""

    def __init__(self, norm, channels=8):
        super().__init__()
        c = channels
        self.features = nn.Sequential(
            norm(nn.Conv2d(3, c, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.1, inplace=True),
            norm(nn.Conv2d(c, 2 * c, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.1, inplace=True),
        )
        self.conv = norm(nn.Conv2d(2 * c, 2 * c, 3, padding=1))
        self.relu = nn.ReLU()
        self.fc = norm(nn.Linear(2 * c, 1))

    def forward(self, x):
        h = self.relu(self.conv(self.features(x)))
        return self.fc(h.sum(dim=(2, 3))).squeeze(1)


class Blur(nn.Module):
    def __init__(self, channels):
        super().__init__()
        kernel = torch.tensor([1.0, 2.0, 1.0])
        kernel = kernel[:, None] * kernel[None, :]
        self.register_buffer("weight", (kernel / kernel.sum())[None, None].repeat(channels, 1, 1, 1))
        self.channels = channels

    def forward(self, x):
        return F.conv2d(x, self.weight, padding=1, groups=self.channels)


class MinibatchStdDev(nn.Module):
    def __init__(self, group_size=4, features=1):
        super().__init__()
        self.group_size = group_size
        self.features = features

    def forward(self, x):
        n, c, h, w = x.shape
        group = min(n, self.group_size)
        y = x.view(group, -1, self.features, c // self.features, h, w)
        y = torch.sqrt(y.var(0, unbiased=False) + 1e-8).mean([2, 3, 4], keepdim=True).squeeze(2)
        return torch.cat([x, y.repeat(group, 1, h, w)], dim=1)


class DCGANDiscriminator(nn.Module):
    """With dropout, and what later networks added: blur and minibatch standard deviation. One activation for all."""

    def __init__(self, ndf=4):
        super().__init__()
        self.blur = Blur(ndf)
        self.act = nn.LeakyReLU(0.2, inplace=True)
        self.conv1 = nn.Conv2d(3, ndf, 4, 2, 1)
        self.conv2 = nn.Conv2d(ndf, ndf * 2, 4, 2, 1)
        self.drop = nn.Dropout2d(0.25)
        self.norm = nn.BatchNorm2d(ndf * 2)
        self.stddev = MinibatchStdDev()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear((ndf * 2 + 1) * 16, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))

    def forward(self, x):
        h = self.blur(self.act(self.conv1(x)))
        h = self.norm(self.drop(self.act(self.conv2(h))))
        return self.head(self.stddev(h)).squeeze(1)
