"""StyleGAN in plain torch, as functions of a state dict, written out from the papers."""

import math

import torch
import torch.nn.functional as F


def scaled(state, name, gain, lr_multiplier=1.0):
    weight = state[name]
    return weight * (gain * lr_multiplier / math.sqrt(weight[0].numel()))


def mapping_twin(state, z):
    w = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for layer in range(8):
        name = f"mapping.{2 * layer + 1}"
        w = w @ scaled(state, f"{name}.weight", math.sqrt(2), 0.01).T + 0.01 * state[f"{name}.bias"]
        w = F.leaky_relu(w, 0.2)
    return w


def binomial(x):
    """Lowpass by (1, 2, 1) / 4 along both axes, with zeros outside."""
    kernel = torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=x.dtype) / 16
    return F.conv2d(x, kernel.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])


def styled(state, name, x, style, noise):
    channels = x.shape[1]
    strength = state[f"{name}.strength"].reshape(-1, 1, 1)
    x = x + strength * noise + state[f"{name}.bias"].reshape(-1, 1, 1)
    y = style @ scaled(state, f"{name}.style.weight", 1).T + state[f"{name}.style.bias"]
    scale, shift = y[:, :channels, None, None], y[:, channels:, None, None]
    return F.instance_norm(F.leaky_relu(x, 0.2)) * scale + shift


def synthesis_twin(state, styles, noises, resolution, fade=None):
    """``noises`` has a tensor for each layer; ``fade`` is ``None`` where nothing fades."""

    def epilogue(block, number, x):
        layer = 2 * (int(math.log2(block)) - 2) + number - 1
        return styled(state, f"synthesis.blocks.{block}.epilogue_{number}", x, styles[:, layer], noises[layer])

    def conv(block, number, x):
        return F.conv2d(x, scaled(state, f"synthesis.blocks.{block}.conv_{number}.weight", math.sqrt(2)), padding=1)

    def image(block, x):
        name = f"synthesis.to_image.{block}"
        return F.conv2d(x, scaled(state, f"{name}.weight", 1), state[f"{name}.bias"])

    def double(x):
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    x = state["synthesis.blocks.4.constant"].repeat(len(styles), 1, 1, 1)
    x = epilogue(4, 2, conv(4, 2, epilogue(4, 1, x)))
    block = 4
    while block < resolution:
        block, below = 2 * block, x
        x = epilogue(block, 1, binomial(conv(block, 1, double(below))))
        x = epilogue(block, 2, conv(block, 2, x))
    images = image(block, x)
    if fade is None:
        return images
    return (1 - fade) * double(image(block // 2, below)) + fade * images


def discriminator_twin(state, images, fade=None):
    def layer(name, x, stride=1):
        weight = scaled(state, f"{name[0]}.weight", math.sqrt(2))
        x = F.conv2d(x, weight, state[f"{name[1]}.bias"], stride=stride, padding=weight.shape[2] // 2)
        return F.leaky_relu(x, 0.2)

    def features(size, x):
        return layer((f"from_image.{size}.0", f"from_image.{size}.1"), x)

    size = images.shape[2]
    x = features(size, images)
    while size > 4:
        block = f"blocks.{size}"
        x = layer((f"{block}.0", f"{block}.1"), x)
        x = layer((f"{block}.3", f"{block}.4"), binomial(x), stride=2)
        size //= 2
        if fade is not None:
            halved = images.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))
            x = (1 - fade) * features(size, halved) + fade * x
            fade = None
    x = with_deviation(x)
    x = layer(("head.1", "head.2"), x).flatten(1)
    x = F.leaky_relu(x @ scaled(state, "head.4.weight", math.sqrt(2)).T + state["head.5.bias"], 0.2)
    return (x @ scaled(state, "head.6.weight", 1).T + state["head.6.bias"])[:, 0]


def with_deviation(x, group_size=4):
    """Appends a map: the standard deviation over a group of samples i, i + N / 4 ..., averaged over all other axes."""
    assert len(x) % group_size == 0
    groups = x.reshape(group_size, -1, *x.shape[1:])
    variance = (groups - groups.mean(0)).square().mean(0)
    deviation = (variance + 1e-8).sqrt().mean((1, 2, 3))
    more = deviation.repeat(group_size).reshape(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
    return torch.cat([x, more], dim=1)
