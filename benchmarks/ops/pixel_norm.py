"""Pixel normalization: of StyleGAN's latents, and after the convolutions of progressively grown generators."""

from torch import Tensor
from torch.nn import functional as F

from benchmarks.op import BF16, F16, F32, F64, Call, Op, Problem, Traffic, in_layouts


def _rms_norm(x: Tensor) -> Tensor:
    return F.rms_norm(x.movedim(1, -1), (x.shape[1],), eps=1e-8).movedim(-1, 1)


OP = Op(
    name="pixel_norm",
    operands=lambda shape, **_: {"x": shape},
    reads={"backward": ("dy", "x"), "double_backward": ("dy", "x")},
    penalized=("x",),
    second=("x", "dy"),
    reduction=lambda shape: shape[1],
    highest_order=2,
    saved=lambda t: [t["x"]],
    problems=(
        Problem("pggan_g_128", (16, 256, 128, 128), "progressively grown generator at 128 px, batch 16", key=True),
        Problem("pggan_g_16", (16, 512, 16, 16), "progressively grown generator at 16 px, batch 16", key=True),
        Problem("pggan_g_1024", (4, 16, 1024, 1024), "progressively grown generator at 1024 px, 4 samples per GPU"),
        Problem("stylegan_z", (64, 512, 1, 1), "latents of StyleGAN's mapping network, batch 64"),
    ),
    torch_functions={"rms_norm": _rms_norm},
    fixed=({}, {"eps": 0.1}),
    choices={"eps": (1e-8, 1e-2, 1.0)},
    # One element; several samples per tile; a tile of pixels plus one; strips of two sectors, of one; chunks of
    # channels (first in float64, then in all types; contiguous, and at last by rows too).
    shapes=((1, 1), (37, 5, 3), (2, 3, 1, 1025), (1, 257, 2, 9), (1, 513, 17), (1, 1025, 9), (1, 8193)),
    compiled=(
        # Chunks of channels; unaligned channels.
        *in_layouts([(16, 2048, 8, 8)], [(16, 513, 8, 8)], BF16),
        *in_layouts([(2, 16, 8192, 8200)], [(2, 16, 8192, 8200)], F32),
        Call((16, 512, 32, 32), F16),
        Call((16, 512, 8, 8), F64),
    ),
    traffic=(
        # All channels of a strip of pixels, or of a row, stay in registers; odd planes are read in the longest strips.
        Traffic(1.02, 1.02, in_layouts([(4, 512, 16, 16), (4, 16, 101, 103), (512, 512)], [(4, 64, 33, 35)], F32)),
        Traffic(1.02, 1.02, in_layouts([(16, 512, 8, 8), (64, 512, 4, 4)], [(16, 512, 8, 8)], BF16)),
        # More channels and so shorter strips; odd planes cost one more sector per strip.
        Traffic(1.5, 1.5, (Call((4, 256, 17, 19), F32),)),
        # More channels than registers hold, so they are read twice.
        Traffic(1.5, 1.75, (Call((1, 2048, 16, 16), F32), Call((24, 12000), F32))),
    ),
)
