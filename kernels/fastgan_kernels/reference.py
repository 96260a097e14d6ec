"""Every op in plain torch: the oracle of the tests, the baseline of the benchmarks, and the fallback without Triton.

The functions here are differentiable to any order. They compute in float32 (float64 inputs in float64) and return the
type of ``x``. They take the arguments of the public functions, which have checked them.
"""

import functools
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from fastgan_kernels.precision import compute_dtype


def _per_channel(v: Tensor, x: Tensor) -> Tensor:
    """Reshapes ``v`` ([C] or [N, C]) so that it broadcasts over the spatial axes of ``x`` [N, C, *spatial]."""
    return v.to(compute_dtype(x.dtype)).reshape(*v.shape, *(1,) * (x.dim() - 2))


def no_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Turns autocast off on the device of ``x``."""
    # Meta tensors have no autocast, and torch.amp.is_autocast_available cannot be compiled in torch 2.11.
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def sum_of(*terms: Tensor | None) -> Tensor | None:
    """The sum of the terms that are not ``None``; ``None`` if there are none."""
    given = [t for t in terms if t is not None]
    return functools.reduce(torch.add, given) if given else None


_CURVED = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": torch.nn.functional.elu,
    "selu": torch.nn.functional.selu,
    "softplus": torch.nn.functional.softplus,
    "swish": torch.nn.functional.silu,
}


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    act: str = "lrelu",
    negative_slope: float = 0.2,
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    with no_autocast(x):
        y = x.to(compute_dtype(x.dtype))
        if bias is not None:
            y = y + _per_channel(bias, x)
        if act == "relu":
            y = torch.relu(y)
        elif act == "lrelu":
            y = torch.nn.functional.leaky_relu(y, negative_slope)
        elif act != "linear":
            y = _CURVED[act](y)
        if gain != 1.0:
            y = y * gain
        y = y.to(x.dtype)
        if clamp is not None:
            # The gradient must be 0 where |y| == clamp too, and torch.clamp passes it there.
            limit = torch.full((), clamp, dtype=x.dtype, device=x.device)
            y = torch.where(y.abs() >= limit, torch.sign(y).detach() * limit, y)
        return y


def adain(x: Tensor, scale: Tensor, shift: Tensor, *, eps: float = 1e-5) -> Tensor:
    if x.dim() == 2:
        return adain(x.unsqueeze(2), scale, shift, eps=eps).squeeze(2)
    with no_autocast(x):
        spatial = tuple(range(2, x.dim()))
        wide = x.to(compute_dtype(x.dtype))
        deviation = wide - wide.mean(spatial, keepdim=True)
        rstd = torch.rsqrt(deviation.square().mean(spatial, keepdim=True) + eps)
        y = deviation * rstd * _per_channel(scale, x) + _per_channel(shift, x)
        return y.to(x.dtype)


def norm_act(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    norm: str = "batch",
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    num_batches_tracked: Tensor | None = None,
    training: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    act: str = "linear",
    negative_slope: float = 0.2,
) -> Tensor:
    with no_autocast(x):
        dtype = compute_dtype(x.dtype)
        y = x.to(dtype)
        of_x = training or running_mean is None
        moves = training and running_mean is not None
        if moves and num_batches_tracked is not None:
            num_batches_tracked += 1
        mean, var, share = running_mean, running_var, momentum
        torch_moves_them = momentum is not None and (mean is None or mean.dtype == var.dtype == dtype)
        if moves and not torch_moves_them:
            # With a momentum of 1 torch writes the mean and unbiased variance of this batch into these buffers.
            (mean, var), share = x.new_zeros(2, x.shape[1], dtype=dtype), 1.0
        elif mean is not None:
            mean, var = mean.to(dtype), var.to(dtype)
        affine = [None if t is None or t.dim() == 2 else t.to(dtype) for t in (weight, bias)]
        if norm == "instance" and of_x:
            y = torch.nn.functional.instance_norm(y, mean, var, *affine, momentum=share, eps=eps)
        else:
            y = torch.nn.functional.batch_norm(y, mean, var, *affine, training=of_x, momentum=share or 0.0, eps=eps)
        if moves and not torch_moves_them and x.numel():
            move_running_statistics(running_mean, running_var, num_batches_tracked, momentum, mean, var)
        if weight is not None and weight.dim() == 2:
            y = y * _per_channel(weight, x)
        if bias is not None and bias.dim() == 2:
            y = y + _per_channel(bias, x)
        return bias_act(y, act=act, negative_slope=negative_slope).to(x.dtype)


def move_running_statistics(
    running_mean: Tensor, running_var: Tensor, num_batches_tracked: Tensor | None, momentum: float | None,
    mean: Tensor, var: Tensor,
) -> None:  # fmt: skip
    """Updates running statistics [C] in place, towards ``mean`` and the unbiased ``var`` of a batch."""
    share = 1 / num_batches_tracked if momentum is None else momentum
    with torch.no_grad():
        for running, of_batch in ((running_mean, mean), (running_var, var)):
            running += (of_batch - running) * share


def normal_noise(seed: Tensor, x: Tensor) -> Tensor:
    """The noise that kernels draw from an int64 ``seed`` for ``x`` [N, C, *spatial]: [N, 1, *spatial] in float32."""
    shape = x.shape[0], 1, *x.shape[2:]
    with no_autocast(x):
        return standard_normal(seed, torch.arange(math.prod(shape), device=x.device)).reshape(shape)


def standard_normal(seed: Tensor, counter: Tensor) -> Tensor:
    """A normal float32 per int64 counter: Philox4x32-10 (Salmon et al. 2011) keyed by ``seed``, then Box-Muller."""
    # Words are unsigned, of 32 bits, held in int64. Two words are multiplied by halves, since int64 would overflow.
    word = 0xFFFFFFFF
    k0, k1 = seed & word, (seed >> 32) & word
    c0, c1 = counter & word, (counter >> 32) & word
    c2 = c3 = torch.zeros_like(counter)

    def multiply(factor: int, c: Tensor) -> tuple[Tensor, Tensor]:
        of_low, of_high = factor * (c & 0xFFFF), factor * (c >> 16)
        return (of_high + (of_low >> 16)) >> 16, (((of_high & 0xFFFF) << 16) + of_low) & word

    for _ in range(10):
        (high0, low0), (high2, low2) = multiply(0xD2511F53, c0), multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high2 ^ c1 ^ k0, low2, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & word, (k1 + 0xBB67AE85) & word

    def uniform(c: Tensor) -> Tensor:
        # Takes the word as signed, and folds the negative half onto the positive one.
        return torch.where(c > word // 2, word - c, c).to(torch.float32) * 4.6566127342e-10

    radius = torch.sqrt(-2 * torch.log(uniform(c0).clamp(min=1e-7)))
    return radius * torch.cos(2 * math.pi * uniform(c1))


def noise_injection(x: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
    with no_autocast(x):
        dtype = compute_dtype(x.dtype)
        strength = _per_channel(strength, x) if strength.dim() else strength.to(dtype)
        return (x.to(dtype) + strength * noise.to(dtype)).to(x.dtype)


def style_epilogue(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    *,
    noise: Tensor | None = None,
    strength: Tensor | None = None,
    bias: Tensor | None = None,
    act: str = "lrelu",
    negative_slope: float = 0.2,
    order: str = "paper",
    eps: float = 1e-5,
) -> Tensor:
    with no_autocast(x):
        y = x.to(compute_dtype(x.dtype))
        if noise is not None:
            y = noise_injection(y, strength, noise)
        if order == "paper":
            y = adain(bias_act(y, bias, act=act, negative_slope=negative_slope), scale, shift, eps=eps)
        else:
            y = y if bias is None else y + _per_channel(bias, x)
            y = bias_act(adain(y, scale, shift, eps=eps), act=act, negative_slope=negative_slope)
        return y.to(x.dtype)


def pixel_norm(x: Tensor, *, eps: float = 1e-8) -> Tensor:
    with no_autocast(x):
        wide = x.to(compute_dtype(x.dtype))
        return (wide * torch.rsqrt(wide.square().mean(1, keepdim=True) + eps)).to(x.dtype)


def upfirdn2d(
    x: Tensor,
    kernel: Tensor | None,
    *,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: Sequence[int] = (0, 0, 0, 0),
    gain: float = 1.0,
    flip: bool = False,
) -> Tensor:
    (up_x, up_y), (down_x, down_y) = ((f, f) if isinstance(f, int) else f for f in (up, down))
    with no_autocast(x):
        n, c, h, w = x.shape
        wide = x.to(compute_dtype(x.dtype))
        if up_x > 1 or up_y > 1:
            # Inserts up - 1 zeros after each pixel, along each axis.
            wide = torch.nn.functional.pad(wide.reshape(n, c, h, 1, w, 1), (0, up_x - 1, 0, 0, 0, up_y - 1))
            wide = wide.reshape(n, c, h * up_y, w * up_x)
        # Pads before it crops: a crop may remove more than the image has without its padding.
        x0, x1, y0, y1 = padding
        wide = torch.nn.functional.pad(wide, [max(p, 0) for p in padding])
        wide = wide[:, :, max(-y0, 0) : wide.shape[2] - max(-y1, 0), max(-x0, 0) : wide.shape[3] - max(-x1, 0)]
        taps = torch.ones(1, device=x.device) if kernel is None else kernel
        taps = taps.to(wide.dtype) if flip else taps.to(wide.dtype).flip(tuple(range(taps.dim())))
        if taps.dim() == 1:
            y = _correlate(_correlate(wide, taps[:, None] * gain, down_y, 1), taps[None], 1, down_x)
        else:
            y = _correlate(wide, taps * gain, down_y, down_x)
        return y.to(x.dtype)


def _correlate(x: Tensor, taps: Tensor, down_y: int, down_x: int) -> Tensor:
    """Correlates ``x`` [N, C, H, W] with ``taps`` [kh, kw], at every ``down_y``-th row and ``down_x``-th column.

    torch's convolution is not used: cuDNN rounds its operands to TF32, in gradients of any order too, unless a flag of
    the whole process says otherwise. This is also faster on the CPU.
    """
    kh, kw = taps.shape
    height, width = x.shape[2] - kh + 1, x.shape[3] - kw + 1
    terms = (
        x[:, :, i : i + height : down_y, j : j + width : down_x] * taps[i, j] for i in range(kh) for j in range(kw)
    )
    return functools.reduce(torch.add, terms)


def filtered_lrelu(
    x: Tensor,
    up_kernel: Tensor | None,
    down_kernel: Tensor | None,
    bias: Tensor | None = None,
    *,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: Sequence[int] = (0, 0, 0, 0),
    gain: float = 2**0.5,
    negative_slope: float = 0.2,
    clamp: float | None = None,
    flip: bool = False,
) -> Tensor:
    with no_autocast(x):
        y = x.to(compute_dtype(x.dtype))
        y = y if bias is None else y + _per_channel(bias, x)
        up_x, up_y = (up, up) if isinstance(up, int) else up
        y = upfirdn2d(y, up_kernel, up=up, padding=padding, gain=up_x * up_y, flip=flip)
        y = bias_act(y, act="lrelu", negative_slope=negative_slope, gain=gain, clamp=clamp)
        return upfirdn2d(y, down_kernel, down=down, flip=flip).to(x.dtype)


def group_of(samples: int, group_size: int) -> int:
    """The largest divisor of ``samples`` up to ``group_size``; 1 for an empty batch."""
    return next((g for g in range(min(group_size, samples), 0, -1) if samples % g == 0), 1)


def minibatch_stddev(x: Tensor, *, group_size: int = 4, num_channels: int = 1) -> Tensor:
    n, c, *spatial = x.shape
    group = group_of(n, group_size)
    features = c // num_channels * math.prod(spatial)
    with no_autocast(x):
        # The members of a group are every (n / group)-th sample.
        grouped = x.to(compute_dtype(x.dtype)).reshape(group, n // group, num_channels, features)
        deviation = grouped - grouped.mean(0)
        statistic = (deviation.square().mean(0) + 1e-8).sqrt().mean(2)
        statistic = statistic.repeat(group, 1).reshape(n, num_channels, *(1,) * len(spatial)).to(x.dtype)
        return torch.cat([x, statistic.expand(n, num_channels, *spatial)], dim=1)


def minibatch_discrimination(m: Tensor) -> Tensor:
    with no_autocast(m):
        wide = m.to(compute_dtype(m.dtype))
        distance = (wide[:, None] - wide[None]).abs().sum(3)
        return torch.exp(-distance).sum(1).to(m.dtype)


def interpolate(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    with no_autocast(real):
        dtype = compute_dtype(real.dtype)
        alpha = alpha.to(dtype)
        return (alpha * real.to(dtype) + (1 - alpha) * fake.to(dtype)).to(real.dtype)


def gradient_norms(gradients: Tensor) -> Tensor:
    squares = _squares(gradients)
    zero = squares == 0
    # At zero every derivative is 0, as the first one of torch's norm is, whose second derivative is NaN there.
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squares).sqrt())


def gradient_penalty(gradients: Tensor, *, target: float = 1.0, one_sided: bool = False) -> Tensor:
    if target == 0:
        # The sum of squares is smooth at zero; the square of a norm would lose its second derivative there.
        return _squares(gradients).mean()
    excess = gradient_norms(gradients) - target
    return (torch.relu(excess) if one_sided else excess).square().mean()


def _squares(x: Tensor) -> Tensor:
    """The sum of squares of each sample of ``x`` [N, ...], as [N]."""
    with no_autocast(x):
        return x.to(compute_dtype(x.dtype)).square().sum(tuple(range(1, x.dim())))


def _as_matrix(weight: Tensor, dim: int) -> Tensor:
    return weight.movedim(dim, 0).flatten(1)


def power_iteration(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    *,
    n_iterations: int = 1,
    eps: float = 1e-12,
    dims: Sequence[int] | None = None,
) -> Tensor:
    """Updates ``us`` and ``vs`` in place; returns sigma [L] = u^T W v of the updated ones."""
    sigmas = []
    dims = [0] * len(weights) if dims is None else dims
    with torch.no_grad(), no_autocast(weights[0]):
        for weight, u, v, dim in zip(weights, us, vs, dims, strict=True):
            matrix = _as_matrix(weight.detach().to(compute_dtype(weight.dtype)), dim)
            wide_u, wide_v = u.to(matrix.dtype), v.to(matrix.dtype)
            for _ in range(n_iterations):
                wide_u = _normalized(matrix @ wide_v, eps, where_zero=wide_u)
                wide_v = _normalized(matrix.mT @ wide_u, eps, where_zero=wide_v)
            if n_iterations:
                u.copy_(wide_u)
                v.copy_(wide_v)
            sigmas.append(wide_u @ (matrix @ wide_v))
    return torch.stack(sigmas)


def _normalized(vector: Tensor, eps: float, *, where_zero: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(vector)
    return torch.where(norm == 0, where_zero, vector / norm.clamp_min(eps))


def spectral_normalize(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    sigma: Tensor | None = None,
    *,
    dims: Sequence[int] | None = None,
) -> list[Tensor]:
    normalized = []
    dims = [0] * len(weights) if dims is None else dims
    for i, (weight, u, v, dim) in enumerate(zip(weights, us, vs, dims, strict=True)):
        with no_autocast(weight):
            wide = weight.to(compute_dtype(weight.dtype))
            # u and v are copied, since they may change before the backward pass.
            u, v = u.detach().to(wide.dtype, copy=True), v.detach().to(wide.dtype, copy=True)
            of_weight = u @ (_as_matrix(wide, dim) @ v)
            norm = of_weight
            if sigma is not None:
                # The value of sigma with the gradient of u^T W v.
                given = sigma[i].detach() + (of_weight - of_weight.detach())
                norm = torch.where(of_weight.isfinite(), given, of_weight)
            normalized.append((wide / torch.where(norm == 0, 1.0, norm)).to(weight.dtype))
    return normalized
