"""What the ops of both families compute, in plain torch: the oracle of the tests."""

import math

import torch
from torch.nn import functional

_ACTIVATIONS = {
    "linear": (lambda x, alpha: x, 1),
    "relu": (lambda x, alpha: torch.relu(x), math.sqrt(2)),
    "lrelu": (lambda x, alpha: functional.leaky_relu(x, 0.2 if alpha is None else alpha), math.sqrt(2)),
    "tanh": (lambda x, alpha: torch.tanh(x), 1),
    "sigmoid": (lambda x, alpha: torch.sigmoid(x), 1),
    "elu": (lambda x, alpha: functional.elu(x), 1),
    "selu": (lambda x, alpha: functional.selu(x), 1),
    "softplus": (lambda x, alpha: functional.softplus(x), 1),
    "swish": (lambda x, alpha: x * torch.sigmoid(x), math.sqrt(2)),
}


def bias_act(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None):
    activation, default_gain = _ACTIVATIONS[act]
    if b is not None:
        x = x + b.reshape(-1, *(1,) * (x.dim() - 1 - dim))
    y = activation(x, alpha) * (default_gain if gain is None else gain)
    # No gradient where the limit is met, which matters at clamp=0.
    return y if clamp is None else torch.where(y.abs() < clamp, y, y.detach().clamp(-clamp, clamp))


def _pair(value):
    return (value, value) if not isinstance(value, (list, tuple)) else tuple(value)


def _pads(padding):
    pads = _pair(padding)
    return pads if len(pads) == 4 else (pads[0], pads[0], pads[1], pads[1])


def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1):
    (up_x, up_y), (down_x, down_y) = _pair(up), _pair(down)
    n, c, height, width = x.shape
    y = x.new_zeros(n, c, height, up_y, width, up_x)
    y[:, :, :, 0, :, 0] = x
    y = functional.pad(y.reshape(n, c, height * up_y, width * up_x), [int(p) for p in _pads(padding)])
    f = torch.ones(1, 1) if f is None else f
    f = f.to(x.dtype)
    f = torch.outer(f, f) if f.dim() == 1 else f
    f = (f if flip_filter else f.flip(0, 1)) * gain
    y = functional.conv2d(y, f.expand(c, 1, *f.shape), groups=c)
    return y[:, :, ::down_y, ::down_x]


def _size(f):
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def filter2d(x, f, padding=0, **settings):
    (w, h), p = _size(f), _pads(padding)
    pads = p[0] + w // 2, p[1] + (w - 1) // 2, p[2] + h // 2, p[3] + (h - 1) // 2
    return upfirdn2d(x, f, padding=pads, **settings)


def upsample2d(x, f, up=2, padding=0, gain=1, **settings):
    (w, h), (ux, uy), p = _size(f), _pair(up), _pads(padding)
    pads = p[0] + (w + ux - 1) // 2, p[1] + (w - ux) // 2, p[2] + (h + uy - 1) // 2, p[3] + (h - uy) // 2
    return upfirdn2d(x, f, up=up, padding=pads, gain=gain * ux * uy, **settings)


def downsample2d(x, f, down=2, padding=0, **settings):
    (w, h), (dx, dy), p = _size(f), _pair(down), _pads(padding)
    pads = p[0] + (w - dx + 1) // 2, p[1] + (w - dx) // 2, p[2] + (h - dy + 1) // 2, p[3] + (h - dy) // 2
    return upfirdn2d(x, f, down=down, padding=pads, **settings)


def filtered_lrelu(
    x, fu=None, fd=None, b=None, up=1, down=1, padding=0, gain=2**0.5, slope=0.2, clamp=None, flip_filter=False
):
    y = upfirdn2d(bias_act(x, b), fu, up=up, padding=padding, gain=up**2, flip_filter=flip_filter)
    y = bias_act(y, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
    return upfirdn2d(y, fd, down=down, flip_filter=flip_filter)


def conv2d_resample(x, w, f=None, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False):
    """Step by step, as its description has it."""
    pads = torch.tensor(_pads(padding))
    size = torch.tensor(_size(f)).repeat_interleave(2)
    before = torch.tensor([1, 0, 1, 0])
    if up > 1:
        pads += (size + (up - 1) * before - up * (1 - before)) // 2
    if down > 1:
        pads += (size - down + before) // 2
    x = upfirdn2d(x, f if up > 1 else None, up=up, padding=pads.tolist(), gain=up**2, flip_filter=flip_filter)
    x = functional.conv2d(x, w if flip_weight else w.flip(2, 3), groups=groups)
    return upfirdn2d(x, f, down=down, flip_filter=flip_filter) if down > 1 else x


def fused_leaky_relu(input, bias=None, negative_slope=0.2, scale=2**0.5):
    return bias_act(input, bias, act="lrelu", alpha=negative_slope, gain=scale)


def upfirdn2d_of_op(input, kernel, up=1, down=1, pad=(0, 0)):
    return upfirdn2d(input, kernel, up, down, pad if len(pad) == 4 else (pad[0], pad[1], pad[0], pad[1]))


def orders(function, leaves):
    """Output, gradients in all leaves, and of the squared length of the first one's gradient in the others."""
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    y = function(*leaves)
    generator = torch.Generator().manual_seed(7)
    weights = torch.randn(y.shape, dtype=torch.float64, generator=generator).to(y.dtype)
    # Curved, so that the second order is there of linear functions, too.
    first = torch.autograd.grad((y * weights + 0.5 * y.square()).sum(), leaves, create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), leaves, allow_unused=True, materialize_grads=True)
    return [t.detach() for t in (y, *first, *second)]


def assert_close(actual, expected, tolerance):
    """Each tensor to ``tolerance`` of its largest value."""
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        size = max(e.abs().max().item(), 1.0) if e.numel() else 1.0
        torch.testing.assert_close(
            a.double(), e.double(), rtol=0, atol=tolerance * size, msg=lambda m, i=i: f"{i}: {m}"
        )
