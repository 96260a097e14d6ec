"""Metadata is used where it can be read, and is never a reason to refuse a picture."""

import io
import logging
import struct
import zlib

import numpy as np
import pytest
from image_sources import decoded, encode
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from fastgan.data import DataError, load_dataset, open_dataset
from fastgan.data import files as data_files
from fastgan.data.decode import read_header

PIXELS = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
FIRST = PIXELS.transpose(2, 0, 1)
TURNED = np.rot90(FIRST, -1, (1, 2))
JPEG = encode(PIXELS, "jpg")


def exif(kind=3, count=1, value=b"\0\6\0\0"):
    """EXIF with an orientation alone, by default one that turns the image."""
    entry = struct.pack(">HHHI4s", 1, 0x0112, kind, count, value)
    return b"Exif\0\0MM\0*\0\0\0\x08" + entry + b"\0\0\0\0"


def chunk(kind, content, crc=0):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ crc)


TURN = chunk(b"eXIf", exif()[6:])


def png(*chunks, after=False):
    data = encode(PIXELS)
    at = data.index(b"IEND") - 4 if after else 33
    return data[:at] + b"".join(chunks) + data[at:]


def segment(marker, content):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg(*segments):
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def tiff(tag, kind, count, value, **options):
    """A TIFF with a description and an orientation, of which one directory entry is replaced."""
    directory = ImageFileDirectory_v2()
    directory[270], directory[0x0112] = "a description that is stored elsewhere", 6
    data = bytearray(encode(PIXELS, "tif", tiffinfo=directory, **options))
    (start,) = struct.unpack_from("<I", data, 4)
    (number,) = struct.unpack_from("<H", data, start)
    (at,) = (p for p in range(start + 2, start + 2 + 12 * number, 12) if struct.unpack_from("<H", data, p) == (tag,))
    data[at : at + 12] = struct.pack("<HHII", tag, kind, count, value)
    return bytes(data)


BROKEN = {
    "EXIF": png(chunk(b"eXIf", b"no EXIF at all")),
    "EXIF behind the pixels": png(chunk(b"eXIf", b"no EXIF at all"), after=True),
    "EXIF with another checksum": png(chunk(b"eXIf", exif()[6:], crc=1)),
    "EXIF behind the pixels with another checksum": png(chunk(b"eXIf", exif()[6:], crc=1), after=True),
    "EXIF cut short": png(chunk(b"eXIf", exif()[6:20])),
    "EXIF as text": png(chunk(b"tEXt", b"Raw profile type exif\0no\nhexa\ndecimal\nnumbers")),
    "EXIF as text that is none": png(chunk(b"tEXt", b"Raw profile type exif\0\nexif\n4\nabcdef01\n")),
    "text": png(chunk(b"zTXt", b"key\0\7deflated by no known method")),
    "text with another checksum": png(chunk(b"tEXt", b"key\0value", crc=1)),
    "text that explodes": png(chunk(b"zTXt", b"key\0\0" + zlib.compress(b"a" * 2**21))),
    "profile": png(chunk(b"iCCP", b"")),
    "profile that explodes": png(chunk(b"iCCP", b"name\0\0" + zlib.compress(b"a" * 2**21))),
    "resolution": png(chunk(b"pHYs", b"")),
    "gamma": png(chunk(b"gAMA", b"")),
    "primaries": png(chunk(b"cHRM", b"")),
    "a chunk nobody knows": png(chunk(b"zzZz", b"abc", crc=1)),
    "JPEG: EXIF": jpeg(segment(0xE1, exif()[:18])),
    "JPEG: profile": jpeg(segment(0xE2, b"ICC_PROFILE\0")),
    "JPEG: further pictures": jpeg(segment(0xE2, b"MPF\0garbage")),
    "JPEG: Adobe": jpeg(segment(0xEE, b"Adobe")),
    "JPEG: JFIF": jpeg(segment(0xE0, b"JFIF\0")),
    "TIFF: description": tiff(270, 2, 100, 0xFFFFFFF0),
    "TIFF: orientation": tiff(0x0112, 3, 200, 0xFFFFFFF0),
    "compressed TIFF: orientation": tiff(0x0112, 5, 1, 0xFFFFFFF0, compression="tiff_lzw"),
    "WebP": encode(PIXELS, "webp", lossless=True, exif=b"Exif\0\0MM\0*zzz", icc_profile=b"garbage", xmp=b"\xff<"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.filterwarnings("error")
def test_broken_metadata_is_passed_over(name):
    passed_over = []
    found = decoded(BROKEN[name], "x", lambda: passed_over.append(name))
    kept = TURNED if name == "TIFF: description" else FIRST
    assert np.array_equal(found, decoded(JPEG, "x") if name.startswith("JPEG") else kept)
    assert passed_over
    assert read_header(io.BytesIO(BROKEN[name]), "x") == (3, (16, 16))


@pytest.mark.parametrize(
    "data",
    [
        jpeg(segment(0xFE, b"\xff\xfe a comment of no encoding \x80")),
        jpeg(segment(0xE5, b"")),
        jpeg(segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\xff\xff\xff")),
        jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe<")),
        png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='99'/>")),
        encode(PIXELS, "gif", comment=b"\xff\xfe\x80"),
        encode(PIXELS, "tif", tiffinfo={700: b"\xff\xfe<", 34675: b"garbage"}),
    ],
)
@pytest.mark.filterwarnings("error")
def test_metadata_that_nothing_is_taken_from_is_not_even_noted(data):
    passed_over = []
    assert decoded(data, "x", lambda: passed_over.append(1)).shape == (3, 16, 16)
    assert not passed_over


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied(orientation):
    shown = [
        *(FIRST, FIRST[:, :, ::-1], FIRST[:, ::-1, ::-1], FIRST[:, ::-1], FIRST.swapaxes(1, 2), TURNED),
        *(FIRST[:, ::-1, ::-1].swapaxes(1, 2), np.rot90(FIRST, 1, (1, 2))),
    ][orientation - 1]
    described = exif(value=bytes([0, orientation, 0, 0]))
    assert np.array_equal(decoded(encode(PIXELS, exif=described), "x"), shown)
    assert np.array_equal(decoded(encode(PIXELS, "tif", tiffinfo={0x0112: orientation}), "x"), shown)


@pytest.mark.parametrize(
    "described",
    [
        exif(value=b"\0\0\0\0"),
        exif(value=b"\0\x09\0\0"),
        exif(value=b"\xff\xff\0\0"),
        exif(kind=2, count=4, value=b"six\0"),
        exif(kind=5, value=b"\0\0\0\0"),
        exif(kind=11, value=b"\x7f\xc0\0\0"),
        exif(kind=99),
        exif(count=0),
        exif(count=100, value=b"\xff\xff\xff\xff"),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "webp"])
@pytest.mark.filterwarnings("error")
def test_an_orientation_out_of_range_turns_nothing(described, suffix):
    assert np.array_equal(decoded(encode(PIXELS, suffix, exif=described, lossless=True), "x"), FIRST)


def test_an_orientation_is_applied_where_other_metadata_is_broken():
    assert np.array_equal(decoded(png(TURN, chunk(b"pHYs", b"")), "x"), TURNED)
    assert np.array_equal(decoded(png(TURN, chunk(b"tEXt", b"key\0value", crc=1)), "x"), TURNED)
    turned = np.rot90(decoded(JPEG, "x"), -1, (1, 2))
    assert np.array_equal(decoded(jpeg(segment(0xE1, exif()), segment(0xE2, b"ICC_PROFILE\0")), "x"), turned)
    assert np.array_equal(decoded(tiff(270, 2, 100, 0xFFFFFFF0, compression="tiff_lzw"), "x"), TURNED)


@pytest.mark.parametrize("after", [False, True])
def test_no_flipped_byte_of_a_chunk_of_metadata_changes_more_than_how_the_image_is_turned(after):
    data = png(TURN, after=after)
    start = data.index(b"eXIf")
    for position in range(start + 4, start + len(TURN) - 4):
        flipped = bytearray(data)
        flipped[position] ^= 0x10
        assert np.array_equal(decoded(bytes(flipped), "x"), FIRST)


def test_what_the_pixels_depend_on_is_no_metadata():
    clear = Image.new("RGB", (2, 2), (10, 20, 30))
    stream = io.BytesIO()
    clear.save(stream, "PNG", transparency=(10, 20, 30))
    data = stream.getvalue()
    broken = data[:33] + chunk(b"pHYs", b"") + data[33:]
    assert decoded(broken, "x").min() == 255
    cmyk = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(cmyk, "JPEG", quality=100)
    broken = cmyk.getvalue()[:2] + segment(0xE2, b"ICC_PROFILE\0") + cmyk.getvalue()[2:]
    assert np.array_equal(decoded(broken, "x"), decoded(cmyk.getvalue(), "x"))


@pytest.mark.parametrize("data", [png(chunk(b"eXIf", b"none")), jpeg(segment(0xE2, b"ICC_PROFILE\0")), BROKEN["gamma"]])
def test_broken_pixels_are_refused_with_any_metadata(data):
    with pytest.raises(DataError, match=r"'a.png' is (broken or truncated|not a readable image)"):
        decoded(data[:-40], "'a.png'")


@pytest.fixture
def notes(monkeypatch):
    """What is noted in the log; other tests may have given it a console."""
    found = []

    class Notes(logging.Handler):
        def emit(self, record):
            found.append(record.getMessage())

    monkeypatch.setattr(data_files._logger, "handlers", [Notes()])
    monkeypatch.setattr(data_files._logger, "propagate", False)
    return found


def test_there_is_one_note_in_all(tmp_path, notes):
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(encode(PIXELS) if index == 0 else BROKEN["EXIF"])
    dataset = open_dataset(tmp_path)
    assert np.array_equal(load_dataset(tmp_path).images[2], FIRST)
    assert np.array_equal(dataset[1][0], FIRST)
    (note,) = notes
    assert note.startswith(f"{str(tmp_path / '1.png')!r} has metadata (EXIF, color profile, text ...) that cannot be")
    assert note.endswith(f"in other images of {str(tmp_path)!r}")
