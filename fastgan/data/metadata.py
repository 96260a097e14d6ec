"""Metadata of image files: the orientation, and copies of files without metadata.

Metadata is EXIF, XMP, IPTC, color profiles, comments, text and resolution. Where a decoder fails on it, the image is
decoded again from a copy of the file without metadata: broken metadata does not break an image.
"""

import struct
import zlib
from collections.abc import Callable, Iterator

from PIL import Image, ImageOps

_ORIENTATION = 0x0112

_PNG = b"\x89PNG\r\n\x1a\n"
# Ancillary chunks that affect the pixels or the number of frames.
_CHUNKS_OF_PIXELS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")

_JPEG = b"\xff\xd8"
_EXIF = b"Exif\0\0"
# The segments of JFIF and Adobe, which define the color space, and the minimum number of bytes that decoders accept.
_SEGMENTS_OF_PIXELS = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}
_START_OF_SCAN = 0xDA

_TIFF = {b"II*\0": "<", b"MM\0*": ">"}
# Tags of TIFF 6.0 for storage, compression and color of the pixels, and for the orientation.
_TAGS_OF_PIXELS = {
    *range(254, 260),
    *(262, 266, _ORIENTATION, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 338, 339, 340, 341),
    *(347, *range(512, 522), 529, 530, 531, 532),
}


def upright(image: Image.Image, on_bad_metadata: Callable[[], None]) -> Image.Image:
    """Turns a loaded image by its EXIF orientation; an orientation outside 1 to 8 is ignored."""
    try:
        # exif_transpose copies also an upright image.
        return ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION) in range(2, 9) else image
    except Exception:  # Pillow's parsers raise many types on broken metadata.
        on_bad_metadata()
        return image


def without_metadata(data: bytes) -> bytes:
    """A copy of a PNG, JPEG or TIFF without metadata, except readable EXIF; other files unchanged."""
    try:
        if data.startswith(_PNG):
            return _PNG + b"".join(_chunks(data))
        if data.startswith(_JPEG):
            return _JPEG + b"".join(_segments(data))
        if data[:4] in _TIFF:
            return _without_tags(data, _TIFF[data[:4]])
    except (struct.error, IndexError):  # the file ends before its pixels
        pass
    return data


def _chunks(data: bytes) -> Iterator[bytes]:
    position = len(_PNG)
    while position < len(data):
        (length,), kind = struct.unpack_from(">I", data, position), data[position + 4 : position + 8]
        content, end = data[position + 8 : position + 8 + length], position + 12 + length
        whole = data[end - 4 : end] == struct.pack(">I", zlib.crc32(kind + content))
        # A capital first letter marks a chunk that no decoder may ignore.
        if kind[:1].isupper() or kind in _CHUNKS_OF_PIXELS or (kind == b"eXIf" and whole and _is_exif(content)):
            yield data[position:end]
        position = end


def _segments(data: bytes) -> Iterator[bytes]:
    position = len(_JPEG)
    while data[position] == 0xFF and data[position + 1] != _START_OF_SCAN:
        marker, (length,) = data[position + 1], struct.unpack_from(">H", data, position + 2)
        end = position + 2 + max(length, 2)
        content = data[position + 4 : end]
        start, least = _SEGMENTS_OF_PIXELS.get(marker, (b"", 0))
        if 0xE0 <= marker <= 0xEF and not start:
            keep = content.startswith(_EXIF) and _is_exif(content)
        else:
            keep = marker != 0xFE and content.startswith(start) and len(content) >= least
        if keep:
            yield data[position:end]
        position = end
    yield data[position:]


def _without_tags(data: bytes, order: str) -> bytes:
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    end = at + 2 + 12 * count
    entries = [data[i : i + 12] for i in range(at + 2, end, 12)]
    kept = [entry for entry in entries if _is_of_pixels(entry, order)]
    following = data[end : end + 4]
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + following
    return data[:at] + directory + data[at + len(directory) :]


def _is_of_pixels(entry: bytes, order: str) -> bool:
    tag, kind, count = struct.unpack_from(order + "HHI", entry)
    # An orientation is a single short number.
    return tag in _TAGS_OF_PIXELS and (tag != _ORIENTATION or (kind, count) == (3, 1))


def _is_exif(content: bytes) -> bool:
    try:
        Image.Exif().load(content)
    except Exception:
        return False
    return True
