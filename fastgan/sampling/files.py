"""Writes images as a picture, a folder, arrays or an animation, chosen by the path's suffix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from fastgan.data import to_uint8
from fastgan.data.gaussians import are_points, to_points
from fastgan.data.pixels import to_pillow
from fastgan.errors import writing
from fastgan.extras import require_extra
from fastgan.sampling.generation import SamplingError
from fastgan.sampling.grids import picture, save_png

PICTURES = (".png", ".jpg", ".jpeg", ".npz")
ANIMATIONS = (".gif", ".mp4")

_FRAMES_PER_SECOND = 12.5  # 8 hundredths of a second per frame, since GIF counts in hundredths
_SMALLEST_WIDTH = 128  # pixels; smaller frames are enlarged by an integer factor, so that pixels stay squares


@dataclass(frozen=True)
class Sheet:
    """Images and their layout.

    Attributes:
        images: float [N, C, H, W] in [-1, 1], row by row.
        columns: columns of a grid; ``None`` for a grid as square as N allows.
        row_names, column_names: names written at the edges of a grid.
        arrays: additional arrays for an .npz file, such as ``seed`` and ``labels``.
    """

    images: Tensor
    columns: int | None = None
    row_names: Sequence[str] = ()
    column_names: Sequence[str] = ()
    arrays: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layout(self) -> dict[str, Any]:
        return {"columns": self.columns, "row_names": self.row_names, "column_names": self.column_names}


def check_output(path: Path, *, animation: bool = False) -> None:
    """Refuses an output of unknown format before images are generated, and makes the folder that it will be in.

    A path without a suffix, or of an existing folder, is a folder. Any other must end in one of ``PICTURES`` or, with
    ``animation``, ``ANIMATIONS``.
    """
    known = PICTURES + (ANIMATIONS if animation else ())
    if path.suffix and not path.is_dir():
        if path.suffix not in known:
            raise SamplingError(
                f"output {str(path)!r} has an unknown suffix; expected {', '.join(known)}, or a folder without a suffix"
            )
        if path.suffix == ".mp4":
            require_imageio()
        folder = path.parent
    else:
        folder = path
    with writing(f"folder {str(folder)!r}", SamplingError):
        folder.mkdir(parents=True, exist_ok=True)


def write_sheet(sheet: Sheet, path: Path) -> list[Path]:
    """Writes images to a path that :func:`check_output` has accepted.

    - .png, .jpg: one picture of all images.
    - .npz: the array ``images``, uint8 [N, C, H, W] (for points of the plane ``points``, float32 [N, 2]), and
      ``arrays``.
    - .gif, .mp4: one frame per column, with the images of all rows side by side; forwards and backwards.
    - a folder: as :func:`save_images`.

    Returns:
        The written files; of several, the picture of all images comes first.
    """
    with writing(f"output {str(path)!r}", SamplingError):
        if path.is_dir():
            return save_images(sheet.images, path, **sheet.layout)
        if path.suffix in ANIMATIONS:
            columns = sheet.columns or len(sheet.images)
            there = [picture(sheet.images[i::columns]) for i in range(columns)]
            # Then backwards to the second frame, so that the animation repeats without a jump.
            save_animation(there + there[-2:0:-1], path)
        elif path.suffix == ".npz":
            is_plane = are_points(sheet.images)
            name, array = ("points", to_points(sheet.images)) if is_plane else ("images", to_uint8(sheet.images))
            np.savez_compressed(path, **{name: array.numpy()}, **sheet.arrays)
        else:
            to_pillow(picture(sheet.images, **sheet.layout)).save(path, quality=95)
    return [path]


def save_images(images: Tensor, folder: Path, **layout: Any) -> list[Path]:
    """Writes images [N, C, H, W] in [-1, 1] to an existing folder: ``grid.png``, and ``00000.png`` and so on.

    ``layout`` is that of :func:`~fastgan.sampling.image_grid`. Points of the plane are written as ``points.png``, a
    scatter plot, and ``points.csv``, with one line "x,y" per point.

    Returns:
        The written files, the picture of all images first.
    """
    if are_points(images):
        files = [folder / "points.png", folder / "points.csv"]
        np.savetxt(files[1], to_points(images).numpy(), fmt="%.6g", delimiter=",", header="x,y", comments="")
    else:
        files = [folder / "grid.png", *(folder / f"{i:05d}.png" for i in range(len(images)))]
        for pixels, path in zip(to_uint8(images), files[1:], strict=True):
            save_png(pixels, path)
    save_png(picture(images, **layout), files[0])
    return files


def require_imageio() -> ModuleType:
    """Imports imageio; MissingExtraError unless it and its ffmpeg are installed."""
    return require_extra("mp4", "an .mp4 file (a .gif needs nothing more)", "imageio.v2", "imageio_ffmpeg")


def save_animation(frames: Sequence[Tensor], path: Path) -> None:
    """Writes frames as a GIF that repeats forever, or as an MP4 (H.264), at 12.5 frames per second.

    Args:
        frames: at least one frame, uint8 [C, H, W], gray or color, all of one shape. Frames less than 128 pixels wide
            are enlarged by an integer factor to at least that.
        path: ends in .gif or .mp4.
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
    height, width = frame.shape[1:]
    array = frame.expand(3, -1, -1).permute(1, 2, 0).numpy()
    return np.pad(array, ((0, height % 2), (0, width % 2), (0, 0)))
