"""A picture to judge mode collapse by looking: real images, generated ones, and how both spread over the classes."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fastgan.metrics.shares import Shares

_REAL, _GENERATED, _LOST, _INK = (150, 150, 150), (31, 90, 180), (214, 48, 36), (40, 40, 40)
_MARGIN, _LINE, _BARS = 12, 16, 140


def collapse_picture(real: Tensor, generated: Tensor, shares: Shares, *, width: int = 400) -> Tensor:
    """Draws two pictures side by side, and below them the share of each class as a pair of bars.

    Grey bars are real images and blue ones generated; the names of classes that are lost are red.

    Args:
        real: a picture of real images, uint8 [C, H, W], C 1 or 3.
        generated: a picture of generated ones, likewise.
        shares: what the bars show.
        width: of each picture in pixels, to which it is scaled.

    Returns:
        uint8 [3, H', W'].
    """
    left, right = _scaled(real, width), _scaled(generated, width)
    total = 2 * width + 3 * _MARGIN
    top = _MARGIN + _LINE
    base = top + max(left.height, right.height) + 2 * _LINE + _BARS
    image = Image.new("RGB", (total, base + 2 * _LINE), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default()
    for picture, x, title in ((left, _MARGIN, "real"), (right, width + 2 * _MARGIN, "generated")):
        draw.text((x, _MARGIN - 4), title, fill=_INK, font=font)
        image.paste(picture, (x, top))
    draw.text((_MARGIN, base - _BARS - _LINE - 4), f"share of {shares.kind}, real and generated", fill=_INK, font=font)

    lost = shares.lost()
    tallest = max(*shares.real_shares, *shares.generated_shares) or 1  # points may be in no class at all
    step = (total - 2 * _MARGIN) / len(shares.names)
    bar = max(1, int(0.35 * step))
    pairs = zip(shares.names, shares.real_shares, shares.generated_shares, strict=True)
    for i, (name, of_real, of_generated) in enumerate(pairs):
        x = int(_MARGIN + (i + 0.12) * step)
        for offset, share, colour in ((0, of_real, _REAL), (bar, of_generated, _GENERATED)):
            height = round(_BARS * share / tallest)
            draw.rectangle((x + offset, base - height, x + offset + bar - 1, base), fill=colour)
        draw.text((x + bar, base + 4), name, fill=_LOST if i in lost else _INK, font=font, anchor="ma")
    draw.line((_MARGIN, base, total - _MARGIN, base), fill=_INK)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def _scaled(picture: Tensor, width: int) -> Image.Image:
    array = picture.permute(1, 2, 0).cpu().numpy()
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).convert("RGB")
    return image.resize((width, round(width * image.height / image.width)), Image.Resampling.BICUBIC)
