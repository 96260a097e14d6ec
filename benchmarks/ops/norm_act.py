"""Batch and instance norm followed by an activation, the layers of most generators."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.op import BF16, F16, F32, F64, Call, Op, Operands, Problem, Shape, Shapes, Traffic, in_layouts, pixels
from fastgan_kernels import reference

PROBLEMS = (
    Problem("dcgan_g_32", (64, 128, 32, 32), "DCGAN generator for 64 px, last norm, batch of 64", key=True),
    Problem("dcgan_g_8", (64, 512, 8, 8), "DCGAN generator for 64 px, second norm, batch of 64", key=True),
    Problem("biggan_g_128", (32, 96, 128, 128), "BigGAN generator at 128 px, 32 samples per GPU", key=True),
    Problem("dcgan_g_4", (64, 1024, 4, 4), "DCGAN generator for 64 px, first norm, batch of 64"),
    Problem("pix2pix_128", (1, 64, 128, 128), "pix2pix generator at 256 px, batch of 1"),
)


def _operands(shape: Shape, *, per_sample: bool = False, running: bool = False, **_: Any) -> Shapes:
    of_affine = shape[:2] if per_sample else shape[1:2]
    shapes = {"x": shape, "weight": of_affine, "bias": of_affine}
    return {**shapes, "running_mean": shape[1:2], "running_var": shape[1:2]} if running else shapes


def _clear_of_the_kink(
    t: Operands, *, norm: str = "batch", eps: float = 1e-5, training: bool = True, act: str = "relu", **_: Any
) -> Operands:
    """Picks, for each plane or channel, the shift that keeps the activation's input farthest from 0.

    It keeps away from 0 also when every sample is the first one.
    """
    if "running_var" in t:
        t = {**t, "running_var": t["running_var"].abs() + 0.5}
    x, weight = t["x"], t["weight"]
    if not x.numel() or act == "linear":
        return t
    x = (x * 4).round().clamp(-20, 20) / 8
    weight = (weight * 4).round().clamp(-12, 12) / 8 + 9 / 16
    n, c = x.shape[:2]
    rows = x.reshape(n, c, -1)
    versions = [rows, rows[:1].expand(rows.shape)] if training else [rows]
    scaled = []
    for version in versions:
        if training:
            axes = (2,) if norm == "instance" else (0, 2)
            deviation = version - version.mean(axes, keepdim=True)
            r = (deviation.square().mean(axes, keepdim=True) + eps).rsqrt()
        else:
            mean, var = (t[name].bfloat16().to(rows.dtype) for name in ("running_mean", "running_var"))
            deviation, r = version - mean[:, None], (var + eps).rsqrt()[:, None]
        scaled.append(deviation * r * weight[..., None])
    both = torch.cat(scaled, dim=2)
    axes = (2,) if weight.dim() == 2 else (0, 2)
    best, distance = torch.zeros_like(weight), torch.zeros_like(weight)
    for candidate in torch.arange(-64, 65) / 64:
        least = (both + candidate).abs().amin(axes)
        best, distance = torch.where(least > distance, candidate, best), torch.maximum(least, distance)
    return {**t, "x": x, "weight": weight, "bias": best}


def _batch_norm(x: Tensor, weight: Tensor, bias: Tensor, *, act: str) -> Tensor:
    assert act == "relu"
    return F.relu(F.batch_norm(x, None, None, weight, bias, training=True))


def _exact(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, **settings: Any) -> Tensor:
    """The reference; in float64, where it is the oracle, with torch's means instead of its ``batch_norm``.

    On the CPU ``batch_norm`` sums sequentially, with an error of 2e-13 at 16,384 elements.
    """
    if x.dtype != F64:
        return reference.norm_act(x, weight, bias, **settings)
    if settings.get("training", True):
        axes = (0, *range(2, x.dim())) if settings.get("norm", "batch") == "batch" else tuple(range(2, x.dim()))
        deviation = x - x.mean(axes, keepdim=True)
        var = deviation.square().mean(axes, keepdim=True)
    else:
        mean, var = (settings[name].reshape(-1, *(1,) * (x.dim() - 2)) for name in ("running_mean", "running_var"))
        deviation = x - mean
    y = deviation * torch.rsqrt(var + settings.get("eps", 1e-5))
    scale, shift = (None if t is None else t.reshape(*t.shape, *(1,) * (x.dim() - 2)) for t in (weight, bias))
    y = y if scale is None else y * scale
    y = y if shift is None else y + shift
    return reference.bias_act(y, act=settings["act"], negative_slope=settings.get("negative_slope", 0.2))


def _at_least_two(shape: Shape) -> Shape:
    """A shape with more than one pixel: statistics of a single value are refused."""
    return shape if len(shape) > 2 and pixels(shape) != 1 else (*shape[:2], *shape[2:-1], 3)


OP = Op(
    name="norm_act",
    operands=_operands,
    shaping=("per_sample", "running"),
    arrange=_clear_of_the_kink,
    defaults={"act": "relu"},
    reference=_exact,
    constants=("running_mean", "running_var"),
    reads={"backward": ("dy", "x", "weight", "bias"), "double_backward": ("dy", "x", "weight", "bias")},
    penalized=("x", "weight", "bias"),
    second=("x", "weight", "dy"),
    reduction=lambda shape: shape[0] * pixels(shape),
    # x, weight, bias, and two float32 statistics per channel.
    saved=lambda t: [t["x"], t["weight"], t["bias"], 8 * t["x"].shape[1]],
    problems=PROBLEMS,
    torch_functions={"batch_norm": _batch_norm},
    fixed=({}, {"norm": "instance", "act": "lrelu"}, {"per_sample": True, "act": "lrelu"}),
    choices={
        "norm": ("batch", "instance"),
        "per_sample": (False, True),
        "act": ("linear", "relu", "lrelu"),
        "negative_slope": (0.0, 0.2, 1.7),
        "eps": (1e-5, 1e-3),
    },
    shapes=((2, 1, 1, 2), (64, 3, 2, 3), (2, 5, 13, 11), (3, 2, 4097), (1, 1, 16385), (1, 33, 31, 37), (70, 3, 17)),
    drawn=((20, 20, 3), ((1, 4), 20, 40), ((1, 3), 12, 7, 7), ((1, 2), 5, 4, 4, 4)),
    adapt=_at_least_two,
    empty=((0, 3, 4), (0, 3, 4, 4), (2, 3, 0)),
    highest_order=2,
    compiled=(
        # Channels that stay in registers, and channels cut into spans; contiguous, then channels-last.
        *in_layouts([(64, 512, 8, 8), (64, 256, 16, 16), (8, 64, 101, 103)], [], F32, BF16),
        *in_layouts([], [(32, 512, 4, 4), (32, 513, 8, 8), (64, 128, 32, 32)], F32, BF16),
        *in_layouts([(64, 64, 7, 7), (16, 64, 16, 16)], [(4, 64, 4, 4)], F64),
        Call((8, 32, 64, 64), F64),
        Call((64, 256, 16, 16), F16, absent=("weight", "bias"), settings={"act": "lrelu", "negative_slope": 0.1}),
        Call((2, 16, 8192, 8200), BF16, absent=("bias",), settings={"act": "linear", "norm": "instance"}),
        # Statistics of each sample; then scale and shift of each sample.
        Call((16, 256, 64, 64), BF16, settings={"norm": "instance"}),
        Call((2, 64, 256, 256), F32, settings={"norm": "instance"}),
        Call((16, 64, 64, 64), F32, True, settings={"norm": "instance"}),
        *(Call((64, 512, 8, 8), F32, last, settings={"per_sample": True}) for last in (False, True)),
        *(Call((64, 128, 32, 32), BF16, last, settings={"per_sample": True}) for last in (False, True)),
        # Given statistics.
        *(Call((64, 128, 32, 32), BF16, last, settings={"running": True, "training": False}) for last in (False, True)),
        Call((64, 128, 32, 32), F32, settings={"running": True, "training": False, "per_sample": True}),
        # Gradients that are not needed.
        *(
            Call(shape, F32, constant=constant)
            for shape in ((64, 512, 8, 8), (64, 128, 32, 32))
            for constant in (("x",), ("weight",), ("weight", "bias"))
        ),
    ),
    traffic=(
        # Channels that stay in registers.
        Traffic(1.02, 1.02, in_layouts([(64, 64, 8, 8), (16, 32, 32, 32)], [(8, 512, 8, 8)], F32)),
        Traffic(1.02, 1.02, (Call((64, 128, 8, 8), BF16), Call((64, 128, 8, 8), F32, settings={"per_sample": True}))),
        # Longer channels are read twice.
        Traffic(1.5, 1.67, in_layouts([(32, 16, 32, 32), (1, 4, 256, 256)], [], F32)),
        Traffic(1.5, 1.67, (Call((64, 16, 32, 32), BF16), Call((64, 16, 32, 32), F32, settings={"norm": "instance"}))),
        # Channels-last, a program reads the partials of 16 channels, from a few spans each.
        Traffic(1.5, 1.67, (Call((16, 64, 32, 32), F32, True),), apart=0.13),
    ),
)
