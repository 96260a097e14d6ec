"""Small networks in the style of both families: functions of tensors, built on the ops that they are given."""

import math

import torch
from torch.nn import functional

from fastgan.dropin.nvidia import upfirdn2d as fir


def _tensors(*shapes):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, dtype=torch.float64, generator=generator) * 0.5 for shape in shapes]


class Stylegan2Generator:
    """Modulated convolutions up and not, noise, clamped leaky ReLU, skips to RGB."""

    leaves = _tensors(
        (2, 6), (6, 6), (6,), (4, 4, 4), (4, 4, 3, 3), (4, 6), (4,), (4, 4, 3, 3), (4,), (3, 4, 1, 1), (3,)
    )
    noise = _tensors((1, 1, 8, 8))[0]

    def __init__(self, ops):
        self.ops = ops
        self.filter = fir.setup_filter([1, 3, 3, 1])

    def __call__(self, z, mapping, mapping_bias, const, w1, style, b1, w2, b2, w_rgb, b_rgb):
        ops = self.ops
        w = ops.bias_act.bias_act(z @ mapping, mapping_bias * 0.01, act="lrelu")
        x = const.unsqueeze(0).repeat(len(z), 1, 1, 1)
        styles = w @ style.t() + 1
        x = self.modulated(x, w1, styles, up=2)
        x = ops.fma.fma(x, styles[:, :, None, None], self.noise.to(x.dtype) * 0.1)
        x = ops.bias_act.bias_act(x, b1, act="lrelu", gain=math.sqrt(2) * 0.7, clamp=256 * 0.7)
        x = ops.conv2d_resample.conv2d_resample(x=x, w=w2, f=self.filter, padding=1, flip_weight=True)
        x = ops.bias_act.bias_act(x, b2, act="swish", clamp=1.0)
        rgb = ops.conv2d_resample.conv2d_resample(x, w_rgb, groups=1)
        rgb = ops.bias_act.bias_act(rgb, b_rgb, clamp=256)
        return ops.upfirdn2d.upsample2d(rgb, self.filter)

    def modulated(self, x, weight, styles, up):
        n, c, h, w = x.shape
        weights = weight.unsqueeze(0) * styles.reshape(n, 1, -1, 1, 1)
        weights = weights * (weights.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        x = self.ops.conv2d_resample.conv2d_resample(
            x=x.reshape(1, n * c, h, w), w=weights.reshape(-1, c, 3, 3), f=self.filter, up=up, padding=1, groups=n,
            flip_weight=up == 1,
        )  # fmt: skip
        return x.reshape(n, -1, *x.shape[2:])


class Stylegan2Discriminator:
    """Residual blocks that resample down, fully connected end."""

    leaves = _tensors(
        (2, 3, 8, 8), (4, 3, 1, 1), (4,), (4, 4, 3, 3), (4,), (6, 4, 3, 3), (6,), (6, 4, 1, 1), (96, 5), (5,)
    )

    def __init__(self, ops):
        self.ops = ops
        self.filter = fir.setup_filter([1, 3, 3, 1])

    def __call__(self, image, w0, b0, w1, b1, w2, b2, w_skip, w_end, b_end):
        act, conv = self.ops.bias_act.bias_act, self.ops.conv2d_resample.conv2d_resample
        x = act(conv(image, w0), b0, act="lrelu", clamp=256)
        y = conv(x, w_skip, f=self.filter, down=2)
        x = act(conv(x, w1, padding=1, flip_weight=True), b1, act="lrelu")
        x = act(conv(x, w2, f=self.filter, down=2, padding=1), b2, act="lrelu", gain=math.sqrt(2) * math.sqrt(0.5))
        x = y * math.sqrt(0.5) + x
        x = x + self.ops.upfirdn2d.downsample2d(image, self.filter).mean(1, keepdim=True)
        return act(x.flatten(1) @ w_end, b_end, act="lrelu")


class Stylegan3Generator:
    """Filtered leaky ReLU: separable 12 taps up, radial down, crops, slope 1 to RGB."""

    leaves = _tensors((2, 3, 6, 6), (4, 3, 3, 3), (4,), (3, 4, 1, 1), (3,))

    def __init__(self, ops):
        self.ops = ops
        taps = torch.hann_window(14)[1:-1]
        self.up = taps / taps.sum()
        radius = torch.hypot(*torch.meshgrid(torch.arange(6) - 2.5, torch.arange(6) - 2.5, indexing="ij"))
        radial = torch.exp(-radius)
        self.down = radial / radial.sum()

    def __call__(self, x, w1, b1, w_rgb, b_rgb):
        n, c, h, w = x.shape
        y = self.ops.conv2d_gradfix.conv2d(
            x.reshape(1, n * c, h, w), torch.cat([w1, w1 * 1.5]), padding=2, groups=n
        ).reshape(n, 4, h + 2, w + 2)
        act = self.ops.filtered_lrelu.filtered_lrelu
        y = act(y, fu=self.up, fd=self.down, b=b1, up=2, down=2, padding=[9, 8, 9, 8], clamp=0.8)
        y = act(y, fu=self.up, fd=self.up, b=None, up=2, down=2, padding=[10, 9, -2, 20], gain=1.3, slope=0.1)
        y = self.ops.conv2d_gradfix.conv2d(input=y, weight=w_rgb)
        return act(x=y, b=b_rgb, gain=1, slope=1, clamp=256)


class RosinalityGenerator:
    """Transposed convolution and blur, noise, fused leaky ReLU, skip."""

    leaves = _tensors((2, 6), (6, 4), (4,), (1, 4, 4, 4), (4, 4, 3, 3), (4,), (3, 4, 1, 1))
    noise = _tensors((2, 1, 8, 8))[0]

    def __init__(self, ops):
        self.ops = ops
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.kernel = torch.outer(taps, taps) / 64

    def __call__(self, z, style, style_bias, const, w1, b1, w_rgb):
        ops, kernel = self.ops, self.kernel.to(z.dtype)
        s = ops.fused_act.fused_leaky_relu(z @ style, style_bias)
        n, c = s.shape
        weight = (w1.transpose(0, 1) * s.reshape(n, -1, 1, 1, 1)).reshape(n * c, c, 3, 3)
        x = const.repeat(n, 1, 1, 1).reshape(1, n * c, 4, 4)
        x = ops.conv2d_gradfix.conv_transpose2d(x, weight, padding=0, stride=2, groups=n).reshape(n, c, 9, 9)
        x = ops.upfirdn2d.upfirdn2d(x, kernel * 4, pad=(1, 1)) + 0.1 * self.noise.to(z.dtype)
        x = ops.fused_act.fused_leaky_relu(x, b1, negative_slope=0.3, scale=1.5)
        rgb = ops.conv2d_gradfix.conv2d(x, w_rgb)
        return ops.upfirdn2d.upfirdn2d(rgb, kernel * 4, up=2, down=1, pad=(2, 1))


class RosinalityDiscriminator:
    """Blur and strided convolution, fused leaky ReLU with and without a bias."""

    leaves = _tensors((2, 3, 8, 8), (4, 3, 3, 3), (4,), (4, 4, 3, 3), (4, 3, 1, 1), (64, 3), (3,))

    def __init__(self, ops):
        self.ops = ops
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.kernel = torch.outer(taps, taps) / 64

    def __call__(self, image, w1, b1, w2, w_skip, w_end, b_end):
        ops, kernel = self.ops, self.kernel.to(image.dtype)
        x = ops.fused_act.fused_leaky_relu(ops.conv2d_gradfix.conv2d(image, w1, padding=1), b1)
        x = ops.upfirdn2d.upfirdn2d(x, kernel, pad=(2, 2))
        x = ops.fused_act.fused_leaky_relu(ops.conv2d_gradfix.conv2d(x, w2, stride=2))
        y = ops.upfirdn2d.upfirdn2d(image, kernel, down=2, pad=(1, 1))
        x = (x + functional.conv2d(y, w_skip)) / math.sqrt(2)
        return ops.fused_act.fused_leaky_relu(x.flatten(1) @ w_end, b_end)
