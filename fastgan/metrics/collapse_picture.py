"""A picture of mode collapse: real images, generated images, and the class shares of both."""

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from fastgan.data.pixels import to_pillow
from fastgan.metrics.shares import Shares

_REAL, _GENERATED, _LOST, _INK = (150, 150, 150), (31, 90, 180), (214, 48, 36), (40, 40, 40)
_WIDTH, _MARGIN, _LINE, _BARS = 400, 12, 16, 140


def collapse_picture(real: Tensor, generated: Tensor, shares: Shares) -> Tensor:
    """Draws two pictures, uint8 [C, H, W], side by side, and below them the real and generated share of each class.

    Real bars are gray, generated bars blue; the names of lost classes are red. Returns uint8 [3, H', W'].
    """
    left, right = _scaled(real), _scaled(generated)
    total = 2 * _WIDTH + 3 * _MARGIN
    top = _MARGIN + _LINE
    base = top + max(left.height, right.height) + 2 * _LINE + _BARS
    image = Image.new("RGB", (total, base + 2 * _LINE), "white")
    draw = ImageDraw.Draw(image)
    for picture, x, title in ((left, _MARGIN, "real"), (right, _WIDTH + 2 * _MARGIN, "generated")):
        draw.text((x, _MARGIN - 4), title, fill=_INK)
        image.paste(picture, (x, top))
    draw.text((_MARGIN, base - _BARS - _LINE - 4), f"share of {shares.kind}, real and generated", fill=_INK)

    draw_shares(draw, (_MARGIN, base), (total - 2 * _MARGIN, _BARS), shares)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def draw_shares(draw: ImageDraw.ImageDraw, corner: tuple[int, int], size: tuple[int, int], shares: Shares) -> None:
    """Draws a gray (real) and a blue (generated) bar per class above the class's name, red if the class is lost.

    ``corner`` is the lower left corner of the bars, and ``size`` their total width and height.
    """
    (left, base), (width, height) = corner, size
    lost = shares.lost()
    tallest = max(*shares.real_shares, *shares.generated_shares) or 1  # 1 if no point is in a class
    step = width / len(shares.names)
    bar = max(1, int(0.35 * step))
    for i, (of_real, of_generated) in enumerate(zip(shares.real_shares, shares.generated_shares, strict=True)):
        x = int(left + (i + 0.12) * step)
        for offset, share, color in ((0, of_real, _REAL), (bar, of_generated, _GENERATED)):
            draw.rectangle((x + offset, base - round(height * share / tallest), x + offset + bar - 1, base), fill=color)
        # Names of the Gaussians' modes are too long for narrow bars.
        name = shares.names[i] if draw.textlength(shares.names[i]) <= step else str(i + 1)
        draw.text((x + bar, base + 4), name, fill=_LOST if i in lost else _INK, anchor="ma")
    draw.line((left, base, left + width, base), fill=_INK)


def _scaled(picture: Tensor) -> Image.Image:
    image = to_pillow(picture).convert("RGB")
    return image.resize((_WIDTH, round(_WIDTH * image.height / image.width)), Image.Resampling.BICUBIC)
