"""Animations: GIF by Pillow, MP4 by imageio."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from torch import Tensor

from fastgan.data.pixels import to_pillow
from fastgan.extras import require_extra

_FRAMES_PER_SECOND = 12.5  # 8 hundredths of a second per frame, since GIF counts in hundredths
_SMALLEST_WIDTH = 128  # pixels; smaller frames are enlarged by an integer factor, so that pixels stay squares


def require_imageio() -> ModuleType:
    """Imports imageio; MissingExtraError unless it and its ffmpeg are installed."""
    return require_extra("mp4", "MP4, in place of which there is GIF,", "imageio.v2", "imageio_ffmpeg")


def save_animation(frames: Sequence[Tensor], path: Path) -> None:
    """Writes frames as a GIF that repeats forever, or as an MP4 (H.264), at 12.5 frames per second.

    Args:
        frames: at least one frame, uint8 [C, H, W], gray or color, all of one shape. Frames less than 128 pixels wide
            are enlarged by an integer factor to at least that.
        path: ends in .gif or .mp4.

    Raises:
        MissingExtraError: for MP4 without imageio; one sentence.
        OSError: if the file cannot be written.
    """
    factor = max(1, -(-_SMALLEST_WIDTH // frames[0].shape[2]))
    large = [frame.repeat_interleave(factor, 1).repeat_interleave(factor, 2) for frame in frames]
    if path.suffix == ".gif":
        first, *others = (to_pillow(frame) for frame in large)
        milliseconds = round(1000 / _FRAMES_PER_SECOND)
        first.save(path, format="GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
        return
    imageio = require_imageio()
    # Players' H.264 halves the color resolution, so sizes must be even; imageio would enlarge to multiples of 16.
    with imageio.get_writer(path, fps=_FRAMES_PER_SECOND, macro_block_size=2) as writer:
        for frame in large:
            writer.append_data(_color_of_even_size(frame))


def _color_of_even_size(frame: Tensor) -> np.ndarray:
    channels, height, width = frame.shape
    array = frame.expand(3, -1, -1).permute(1, 2, 0).numpy() if channels == 1 else frame.permute(1, 2, 0).numpy()
    return np.pad(array, ((0, height % 2), (0, width % 2), (0, 0)))
