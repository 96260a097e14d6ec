import stat
import struct
import zipfile

import pytest
from image_sources import encode, write_stylegan_zip

from fastgan.data import load_dataset


@pytest.mark.parametrize(
    "name",
    [
        "/etc/a.png",
        "../a.png",
        "x/../../a.png",
        "x/..",
        "..\\a.png",
        "\\\\host\\a.png",
        "C:/a.png",
        "c:a.png",
        "C:\\a.png",
    ],
)
def test_escaping_entries(tmp_path, gray, refused, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("ok.png", encode(gray[0]))
        archive.writestr(name, encode(gray[0]))
    refused(tmp_path / "a.zip", repr(name), "a.zip", "outside the archive")


def test_dots_that_do_not_escape(tmp_path, gray):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a..b/c...png", encode(gray[0]))
    assert len(load_dataset(str(tmp_path / "a.zip")).images) == 1


def test_symbolic_link(tmp_path, gray, refused):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("ok.png", encode(gray[0]))
        link = zipfile.ZipInfo("link.png")
        link.create_system = 3
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    refused(tmp_path / "a.zip", "'link.png'", "symbolic link")


@pytest.mark.parametrize("position", [0, 3])
def test_zero_bytes_in_names(tmp_path, gray, refused, position):
    """zipfile cuts the name there; an empty rest once made it raise IndexError."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("abc@.png", encode(gray[0]))
    name = bytearray(b"abc@.png")
    name[position] = 0
    path.write_bytes(path.read_bytes().replace(b"abc@.png", name))
    refused(path, r"\x00", "not a valid file name")


def test_name_twice(tmp_path, gray, refused):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", encode(gray[0]))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", encode(gray[1]))
    refused(tmp_path / "a.zip", "'a.png'", "twice")


def test_encrypted(tmp_path, gray, refused):
    path = write_stylegan_zip(tmp_path / "a.zip", gray)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = data.find(signature)
        while position >= 0:
            data[position + offset] |= 1
            position = data.find(signature, position + 4)
    path.write_bytes(data)
    refused(path, "is encrypted; expected a zip without a password")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression(tmp_path, gray, refused, method):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.png", encode(gray[0]))
    refused(tmp_path / "a.zip", f"method {method}", "stored or deflated")


def test_truncated_and_flipped(tmp_path, gray, refused):
    path = write_stylegan_zip(tmp_path / "a.zip", gray)
    data = path.read_bytes()
    path.write_bytes(data[:-30])
    refused(path, "is broken")
    flipped = bytearray(data)
    flipped[data.index(b"IDAT") + 6] ^= 1
    path.write_bytes(flipped)
    refused(path, "'00000/img00000000.png' in ", "CRC")


def test_a_bomb_is_refused_unread(tmp_path, refused, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(2):
            archive.writestr(f"{index}.png", bytes(40 * 2**20))
    monkeypatch.setattr(zipfile.ZipFile, "read", None)
    refused(tmp_path / "a.zip", "would explode", "83,886,080", "100:1")


def test_flat_images_below_the_floor_may_be_compressed_at_any_ratio(tmp_path):
    import numpy as np

    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.bmp", encode(np.zeros((512, 512), np.uint8), "bmp"))
    assert load_dataset(str(tmp_path / "a.zip")).images.sum() == 0


def test_forged_sizes(tmp_path, gray, refused):
    """A directory that promises 4 GiB for each small image."""
    path = write_stylegan_zip(tmp_path / "a.zip", gray)
    data = bytearray(path.read_bytes())
    position = data.find(b"PK\x01\x02")
    while position >= 0:
        data[position + 24 : position + 28] = struct.pack("<I", 0xFFFFFFFE)
        position = data.find(b"PK\x01\x02", position + 4)
    path.write_bytes(data)
    refused(path, "would explode")


@pytest.mark.parametrize("change", [-10, 10])
def test_a_wrong_size_is_noticed(tmp_path, gray, refused, change):
    """Data that ends before the promised size has the right CRC, and zipfile is content with it."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", encode(gray[0]))
        size = archive.getinfo("a.png").file_size
    data = bytearray(path.read_bytes())
    position = data.find(b"PK\x01\x02")
    data[position + 24 : position + 28] = struct.pack("<I", size + change)
    path.write_bytes(data)
    refused(path, "'a.png' in ")
