"""One picture of all trials: samples over time, the final mode shares, and curves of modes and quality."""

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from fastgan.collapse.trials import Moment, Trial
from fastgan.data import normalize
from fastgan.data.gaussians import are_points, to_points
from fastgan.metrics.collapse_picture import draw_shares
from fastgan.sampling import image_grid, scatter

_INK, _DIM, _GENERATED, _BAD, _GOOD = "#282828", "#c8c8c8", "#1f5ab4", "#d63024", "#1a7f37"
_TILE, _GAP, _LINE, _SIZE = 146, 14, 16, 11
_NAMES, _BARS, _CURVES = 190, 210, 170
_ROW = _TILE + _LINE + _GAP
_COLORS = {"collapsed": _BAD, "not finite": _BAD, "not collapsed": _GOOD}


def remedies_picture(trials: list[Trial], num_columns: int) -> Tensor:
    """Draws one row per trial, uint8 [3, H, W].

    From left to right: the remedy, its settings and the verdict; samples at every second moment, including the last, in
    ``num_columns`` columns; the share of each mode among real (gray) and generated (blue) samples, with the names of
    lost modes in red; and curves over the steps, from 0 to 1, of the fraction of modes captured (blue) and of
    high-quality samples (green).
    """
    left = 2 * _GAP + _NAMES
    bars = left + num_columns * (_TILE + _GAP)
    width = bars + _BARS + _GAP + _CURVES + _GAP
    image = Image.new("RGB", (width, _GAP + _LINE + len(trials) * _ROW), "white")
    draw = ImageDraw.Draw(image)
    for x, title in (
        (left, "samples over time, with the modes captured and the share of high quality"),
        (bars, "share of each mode, real and generated"),
        (bars + _BARS + _GAP, "captured, high quality"),
    ):
        draw.text((x, _GAP - 4), title, _INK, font_size=_SIZE)
    last_step = max((trial.moments[-1].step for trial in trials if trial.moments), default=1)
    for i, trial in enumerate(trials):
        top = _GAP + _LINE + i * _ROW
        _draw_name(draw, (_GAP, top), trial)
        for column, moment in enumerate(every_second(trial.moments)):
            x = left + column * (_TILE + _GAP)
            image.paste(_tile(moment.shown), (x, top))
            caption = f"{moment.step}: {moment.shares.captured} modes, {moment.high_quality:.0%}"
            draw.text((x, top + _TILE + 1), caption, _INK, font_size=_SIZE)
        if trial.moments:
            draw_shares(draw, (bars, top + _TILE - 4), (_BARS, _TILE - 8), trial.moments[-1].shares)
            _draw_curves(draw, (bars + _BARS + _GAP, top), trial.moments, last_step)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def every_second(items: list) -> list:
    """Every second item, including the last."""
    return items[::-2][::-1]


def _tile(shown: Tensor) -> Image.Image:
    images = normalize(shown)
    pixels = scatter(to_points(images), size=_TILE) if are_points(images) else image_grid(images)
    array = pixels.permute(1, 2, 0).expand(-1, -1, 3).numpy()
    return Image.fromarray(np.ascontiguousarray(array)).resize((_TILE, _TILE), Image.Resampling.BICUBIC)


def _draw_name(draw: ImageDraw.ImageDraw, corner: tuple[int, int], trial: Trial) -> None:
    x, y = corner
    draw.text((x, y), trial.remedy, _INK, font_size=15)
    lines = [f"{name} = {value}" for name, value in trial.changes.items()]
    for i, line in enumerate(lines):
        draw.text((x, y + 24 + i * _LINE), line, _INK, font_size=_SIZE)
    y += 34 + len(lines) * _LINE
    draw.text((x, y), trial.verdict, _COLORS.get(trial.verdict, _INK), font_size=13)
    if trial.collapse is not None:
        for i, answer in enumerate(trial.collapse.answers):
            lost = "no answer" if answer.lost is None else f"{answer.lost:.0%} missing"
            color = _COLORS.get(answer.verdict, _INK)
            draw.text((x, y + 20 + i * _LINE), f"by {answer.way}: {lost}", color, font_size=_SIZE)


def _draw_curves(draw: ImageDraw.ImageDraw, corner: tuple[int, int], moments: list[Moment], last_step: int) -> None:
    x, top = corner
    base = top + _TILE - 4
    draw.rectangle((x, top, x + _CURVES, base), outline=_DIM)
    kinds = len(moments[0].shares.names)
    for color, values in (
        (_GOOD, [moment.high_quality for moment in moments]),
        (_GENERATED, [moment.shares.captured / kinds for moment in moments]),
    ):
        points = [
            (x + _CURVES * moment.step / last_step, base - (base - top) * value)
            for moment, value in zip(moments, values, strict=True)
        ]
        draw.line(points, fill=color, width=2)
        for px, py in points:
            draw.ellipse((px - 2, py - 2, px + 2, py + 2), fill=color)
    draw.text((x, base + 4), "step 0", _INK, font_size=_SIZE)
    draw.text((x + _CURVES, base + 4), str(last_step), _INK, font_size=_SIZE, anchor="ra")
