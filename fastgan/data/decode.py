"""Decodes one encoded image to pixels."""

import io
import math
import warnings
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from fastgan.data.errors import DataError, reason
from fastgan.data.limits import MAX_PIXELS
from fastgan.data.metadata import upright, without_metadata

# Only decoders in Pillow or its bundled libraries: some of the others call external programs (Ghostscript for EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

_GRAY_MODES = ("1", "L", "LA", "La")
_GRAY16_MODES = ("I;16", "I;16L", "I;16B", "I;16N")


def decode_image(
    data: bytes, where: str, on_bad_metadata: Callable[[], None] = lambda: None, *, resolution: int | None = None
) -> Image.Image:
    """Decodes an image to a Pillow image, of mode L if grayscale and RGB otherwise.

    - Transparent images are composited over white, as most viewers show them; the color of a transparent pixel is
      arbitrary and must not be learned. (The color key of a 16-bit grayscale PNG is ignored.)
    - 16-bit values are scaled to 8, not clipped. Pillow reads 16-bit grayscale with alpha as RGB.
    - CMYK, palettes and the like become RGB; embedded color profiles are not applied.
    - The EXIF orientation is applied, so that a photograph stands upright.
    - Unreadable metadata is ignored.

    Args:
        data: the bytes of the file.
        where: the image's name, which starts error messages.
        on_bad_metadata: called if the metadata cannot be read.
        resolution: size to which the shorter side will be reduced. A JPEG is decoded at the smallest of its full, half,
            quarter and eighth size that is at least 5/4 of this, which saves 42% of the time from 160x160 to 64x64, and
            most of it for large photographs. Pixels then differ by 1.6 of 255 on average, and the sharpness (mean
            difference of neighbors) by 1%; between Pillow's bicubic and bilinear filters it differs by 13%.

    Raises:
        DataError: for data that is not an image in one of ``FORMATS``, is broken or truncated, has more than
            ``MAX_PIXELS`` pixels, is an animation or has several pages, or has 32-bit values, whose range is undefined.
    """

    def decode(file: BinaryIO) -> Image.Image:
        with Image.open(file, formats=FORMATS) as image:
            _check_header(image, where)
            if image.format != "PNG":
                if resolution is not None:
                    image.draft(None, (math.ceil(1.25 * resolution),) * 2)
                return upright_pixels(image, where, on_bad_metadata)
            # Decoding does not check a PNG's checksums. verify() leaves the image unusable, hence the second open.
            image.verify()
        with Image.open(file, formats=FORMATS) as image:
            return upright_pixels(image, where, on_bad_metadata)

    return _with_or_without_metadata(decode, io.BytesIO(data), where, on_bad_metadata)


def read_header(
    file: BinaryIO, where: str, on_bad_metadata: Callable[[], None] = lambda: None
) -> tuple[int, tuple[int, int]]:
    """Reads from a file's header the number of channels that :func:`decode_image` will return, and (width, height)."""

    def read(file: BinaryIO) -> tuple[int, tuple[int, int]]:
        with Image.open(file, formats=FORMATS) as image:
            _check_header(image, where)
            return _num_channels(image, where), image.size

    return _with_or_without_metadata(read, file, where, on_bad_metadata)


def _with_or_without_metadata(
    decode: Callable[[BinaryIO], Any], file: BinaryIO, where: str, on_bad_metadata: Callable[[], None]
) -> Any:
    """Decodes a file or, if that fails, a copy of it without metadata."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            is_bad = False
            try:
                decoded = decode(file)
            except DataError:
                raise
            except Exception:
                file.seek(0)
                data = file.read()
                stripped = without_metadata(data)
                if stripped == data:
                    raise
                decoded, is_bad = decode(io.BytesIO(stripped)), True
        if is_bad or caught:  # Pillow's other warnings are about metadata.
            on_bad_metadata()
        return decoded
    except DataError:
        raise
    except UnidentifiedImageError:
        file.seek(0)
        start = file.read(8)
        raise DataError(
            f"{where} is not a readable image (its first bytes are {start.hex(' ') or 'missing'}); "
            f"expected one of {', '.join(FORMATS)}."
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{where} has too many pixels; expected at most {MAX_PIXELS:,}.") from None
    # On damaged input Pillow's decoders raise OSError, SyntaxError, ValueError, IndexError, struct.error and more.
    except Exception as error:
        raise DataError(f"{where} is broken or truncated ({reason(error)}); expected a whole image.") from error


def _check_header(image: Image.Image, where: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:  # Other code in the process may have switched off Pillow's own limit.
        raise DataError(f"{where} is {width}x{height}, too many pixels; expected at most {MAX_PIXELS:,}.")
    # An MPO is a photograph whose further frames are previews or depth maps; Pillow opens it in place of its JPEG.
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise DataError(f"{where} holds {frames} frames or pages; expected a single image.")


def _has_16_bits(image: Image.Image) -> bool:
    # 16-bit grayscale has mode "I" in a PGM, and in a PNG with Pillow before 11.
    return image.mode in _GRAY16_MODES or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _num_channels(image: Image.Image, where: str) -> int:
    if _has_16_bits(image) or image.mode in _GRAY_MODES:
        return 1
    if image.mode in ("I", "F"):
        raise DataError(f"{where} holds 32-bit values; expected 8 or 16 bits per channel.")
    return 3


def upright_pixels(image: Image.Image, where: str, on_bad_metadata: Callable[[], None] = lambda: None) -> Image.Image:
    """The image upright, opaque and of mode L or RGB."""
    has_16_bits, num_channels = _has_16_bits(image), _num_channels(image, where)
    image.load()
    image = upright(image, on_bad_metadata)  # May be a copy, which has no format.
    if has_16_bits:
        values = np.asarray(image).astype(np.float64) / 257  # 65535 / 255 = 257
        return Image.fromarray(np.rint(values).astype(np.uint8))
    target = "L" if num_channels == 1 else "RGB"
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == target else image.convert(target)
