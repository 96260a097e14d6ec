import io
import struct
import zlib

import numpy as np
import pytest
from image_sources import decoded, encode
from PIL import Image

from fastgan.data import DataError


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, bit_depth: int, color_type: int, rows: bytes) -> bytes:
    """A PNG from its parts, for what Pillow reads but does not write; ``rows`` includes the filter bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_lossless_formats_return_the_exact_pixels(gray, rgb):
    for suffix in ("png", "bmp", "tif", "ppm"):
        assert np.array_equal(decoded(encode(gray[0], suffix), "x"), gray[:1]), suffix
        assert np.array_equal(decoded(encode(rgb[0], suffix), "x"), rgb[0].transpose(2, 0, 1)), suffix
    assert np.array_equal(decoded(encode(rgb[0], "webp", lossless=True), "x"), rgb[0].transpose(2, 0, 1))
    # A GIF's pixels are palette entries, even where all of them are gray.
    assert np.array_equal(decoded(encode(gray[0], "gif"), "x"), np.stack([gray[0]] * 3))


def test_jpeg_is_close_and_keeps_its_channels():
    gray = np.tile(np.arange(16, dtype=np.uint8) * 16, (16, 1))
    found = decoded(encode(gray, "jpg", quality=100), "x")
    assert found.shape == (1, 16, 16)
    # At quality 100 the quantisation step is 1 for every DCT coefficient: each of the 64 errs by at most a half, and
    # the orthonormal transform spreads an error of norm at most 4; rounding adds a half.
    assert np.abs(found[0].astype(int) - gray).max() <= 4.5
    assert decoded(encode(np.stack([gray] * 3, -1), "jpg"), "x").shape == (3, 16, 16)


def test_16_bit_grayscale_is_scaled_not_clipped():
    values = np.array([[0, 128, 257, 300], [65535, 65407, 32768, 40000]] * 2, np.uint16)
    expected = [[0, 0, 1, 1], [255, 255, 128, 156]]
    assert decoded(saved(Image.fromarray(values)), "x")[0, :2].tolist() == expected
    assert decoded(saved(Image.fromarray(values), "TIFF"), "x")[0, :2].tolist() == expected
    pgm = b"P5 4 4 65535\n" + values.astype(">u2").tobytes()
    assert decoded(pgm, "x")[0, :2].tolist() == expected


def test_16_bit_rgb_is_scaled():
    rows = b"".join(b"\0" + struct.pack(">6H", 0, 32768, 65535, 257, 40000, 255 * 257) for _ in range(2))
    found = decoded(png(2, 2, 16, 2, rows), "x")
    # Pillow keeps the high byte of 16-bit colors, at most one level from v / 257.
    assert np.abs(found[:, 0].astype(int) - np.array([[0, 1], [128, 156], [255, 255]])).max() <= 1


def test_palette_cmyk_and_bilevel():
    palette = Image.new("P", (2, 2))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert decoded(saved(palette), "x")[:, 0].T.tolist() == [[10, 20, 30], [40, 50, 60]]
    cmyk = saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF")
    assert decoded(cmyk, "x")[:, 0, 0].tolist() == [255, 0, 0]
    assert decoded(saved(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG"), "x").max() <= 2
    assert decoded(saved(Image.new("1", (2, 2), 1)), "x").tolist() == [[[255, 255], [255, 255]]]


def test_transparency_is_composited_over_white():
    rgba = Image.new("RGBA", (2, 2), (10, 20, 30, 255))
    rgba.putpixel((1, 0), (10, 20, 30, 0))
    assert decoded(saved(rgba), "x")[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]
    gray = Image.new("LA", (2, 2), (10, 255))
    gray.putpixel((1, 0), (10, 0))
    assert decoded(saved(gray), "x")[:, 0].tolist() == [[10, 255]]
    palette = Image.new("P", (2, 2))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert decoded(saved(palette, transparency=1), "x")[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]


def test_all_grays_survive_the_way_through_transparency():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    opaque = Image.merge("LA", [Image.fromarray(values), Image.new("L", (16, 16), 255)])
    assert np.array_equal(decoded(saved(opaque), "x"), values[None])


def fails(data: bytes, *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        decoded(data, "'a.png'")
    assert str(caught.value).startswith("'a.png' ")
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_refusals(gray, rgb, monkeypatch):
    fails(b"", "not a readable image", "missing")
    fails(b"not an image at all", "not a readable image", "6e 6f 74")
    fails(encode(gray[0])[:-20], "broken or truncated")
    fails(encode(rgb[0], "jpg")[:-20], "broken or truncated")
    fails(saved(Image.new("F", (4, 4)), "TIFF"), "32-bit")
    fails(saved(Image.new("I", (4, 4)), "TIFF"), "32-bit")
    frames = [Image.fromarray(image) for image in gray]
    fails(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), "5 frames")
    fails(saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]), "5 frames")
    # EPS would run Ghostscript.
    fails(saved(Image.fromarray(rgb[0]), "EPS"), "not a readable image")


def test_any_flipped_byte_in_the_pixels_of_a_png_is_noticed(gray):
    data = encode(gray[0])
    # From the chunk's name to its checksum; the next chunk begins with its length.
    for position in range(data.index(b"IDAT"), data.index(b"IEND") - 4):
        flipped = bytearray(data)
        flipped[position] ^= 0x10
        with pytest.raises(DataError):
            decoded(bytes(flipped), "x")


@pytest.mark.parametrize("side", [9460, 14000])
def test_decompression_bombs(side, recwarn):
    # Past 2**28 / 3 pixels Pillow warns, past twice that it raises; both before a pixel is decoded.
    rows = b"\0" * ((side // 8 + 1) * 20)
    fails(png(side, side, 1, 0, rows), "too many pixels", "89,478,485")
    assert not recwarn.list


def test_bombs_are_refused_with_pillows_guard_switched_off(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    fails(png(9460, 9460, 1, 0, b"\0"), "9460x9460", "too many pixels")
