"""One encoded image to pixels."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fastgan.data.errors import DataError, reason
from fastgan.data.limits import MAX_PIXELS

# Only decoders that Pillow or its bundled libraries carry themselves: among its others are some that call outside
# programs (Ghostscript for EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

_GREY_MODES = ("1", "L", "LA", "La")
_GREY16_MODES = ("I;16", "I;16L", "I;16B", "I;16N")


def decode_image(data: bytes, where: str) -> np.ndarray:
    """The pixels of an encoded image as uint8 [1, S, S] for a greyscale image and [3, S, S] RGB for any other.

    - Transparency is composited over white, which is how most viewers show it; what lies under a transparent pixel is
      arbitrary and must not be learnt. (The colour key of a 16-bit greyscale PNG is ignored.)
    - 16 bits are scaled to 8, not clipped. 16-bit greyscale with alpha reaches us from Pillow as RGB.
    - CMYK, palettes and the like become RGB; embedded colour profiles are not applied.
    - The EXIF orientation is applied, so that a photograph stands upright.

    Args:
        data: the bytes of the file.
        where: names the image at the start of an error's sentence.

    Raises:
        DataError: not an image in one of ``FORMATS``, broken or truncated, more than ``MAX_PIXELS`` pixels, an
            animation or several pages, not square, or 32-bit values, which have no defined range.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_header(image, where)
                # Decoding alone misses a PNG's checksums. verify() leaves the image unusable, hence the second open.
                image.verify()
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                image.load()
                pixels = _pixels(image, where)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(
            f"{where} is not a readable image (its first bytes are {data[:8].hex(' ') or 'missing'}); "
            f"expected one of {', '.join(FORMATS)}."
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{where} has too many pixels; expected at most {MAX_PIXELS:,}.") from None
    # On damaged input Pillow's decoders raise OSError, SyntaxError, ValueError, IndexError, struct.error and more.
    except Exception as error:
        raise DataError(f"{where} is broken or truncated ({reason(error)}); expected a whole image.") from error
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def _check_header(image: Image.Image, where: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:  # Pillow's own guard can be switched off by whoever shares the process.
        raise DataError(f"{where} is {width}x{height}, too many pixels; expected at most {MAX_PIXELS:,}.")
    if width != height:
        raise DataError(f"{where} is {width}x{height}; expected a square image.")
    # An MPO is a photograph whose further frames are previews or depth maps; Pillow opens it in place of its JPEG.
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise DataError(f"{where} holds {frames} frames or pages; expected a single image.")


def _pixels(image: Image.Image, where: str) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3]."""
    # 16 bits are mode "I" in a PGM, and in a PNG in Pillow before 11.
    has_16_bits = image.mode in _GREY16_MODES or (image.mode == "I" and image.format in ("PNG", "PPM"))
    image = ImageOps.exif_transpose(image)  # A copy, which has forgotten its format.
    if has_16_bits:
        return np.rint(np.asarray(image).astype(np.float64) / 257).astype(np.uint8)  # 65535 / 255 = 257
    if image.mode in ("I", "F"):
        raise DataError(f"{where} holds 32-bit values; expected 8 or 16 bits per channel.")
    target = "L" if image.mode in _GREY_MODES else "RGB"
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert(target))
