"""Files that are not read, and what their refusals say to do."""

import io
import pickle
import struct
import tarfile

import numpy as np
import pytest
import torch
from image_sources import encode

from fastgan.data import DataError, open_dataset


def tar(mode: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        archive.addfile(tarfile.TarInfo("0.png"), io.BytesIO())
    return stream.getvalue()


def saved(**options) -> bytes:
    stream = io.BytesIO()
    torch.save(torch.zeros(2), stream, **options)
    return stream.getvalue()


IMAGE = np.zeros((4, 4), np.uint8)
KINDS = {
    "a.tar": (tar("w"), "a tar archive; unpack it, or pass webdataset's Dataset to fastgan.Trainer"),
    "a.tar.gz": (tar("w:gz"), "a tar archive; unpack it"),
    "a.parquet": (b"PAR1" + bytes(20) + b"PAR1", "a Parquet file; load it with Hugging Face's datasets"),
    "data.mdb": (bytes(16) + struct.pack("<I", 0xBEEFC0DE) + bytes(100), "an LMDB database; pass a Dataset"),
    "data_batch_1": (
        pickle.dumps({b"data": IMAGE}, 2),
        "executes code when it is read; pass torchvision.datasets.CIFAR10",
    ),
    "data.pkl": (pickle.dumps({b"data": IMAGE}), "executes code when it is read; pass torchvision.datasets.CIFAR10"),
    "a.pt": (saved(), "a file written by torch.save; pass its tensor to fastgan.Trainer, or save its images as .npz"),
    "b.pt": (saved(_use_new_zipfile_serialization=False), "a file written by torch.save; pass its tensor"),
    "a.h5": (b"\x89HDF\r\n\x1a\n" + bytes(20), "an HDF5 file; pass a Dataset that reads it"),
    "a.7z": (b"7z\xbc\xaf\x27\x1c", "a compressed archive; unpack it"),
    "0.heic": (
        bytes([0, 0, 0, 24]) + b"ftypheic" + bytes(20),
        "an image in HEIC or AVIF, which not every Pillow reads",
    ),
    "0.png": (encode(IMAGE), "a single image; give the folder that it is in"),
    "0.jpg": (encode(IMAGE, "jpg"), "a single image; give the folder that it is in"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_a_known_kind_is_named_with_what_to_do(tmp_path, name):
    data, sentence = KINDS[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        open_dataset(path)
    assert str(caught.value).startswith(f"'{path}' is ")
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("name", ["data_batch_1", "data.mdb", "a.tar", "0.heic"])
def test_a_folder_of_such_files_too(tmp_path, name):
    data, sentence = KINDS[name]
    (tmp_path / "0 readme.txt").write_text("hello")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path)
    assert f"'{tmp_path}' holds no images, and '{tmp_path / name}' is " in str(caught.value)
    assert sentence in str(caught.value)


def test_images_that_are_not_read_are_counted_beside_others(tmp_path):
    (tmp_path / "0.png").write_bytes(encode(IMAGE))
    for name in ("1.HEIC", "2.heic"):
        (tmp_path / name).write_bytes(b"")
    (note,) = open_dataset(tmp_path).notes
    assert note.startswith(f"2 images in formats that are not read are left out, such as '{tmp_path / '1.HEIC'}'; ")


def test_no_refusal_has_the_address_of_an_object(tmp_path):
    header = b"__import__('os').system('true')\n"
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(DataError, match=r"cannot be read as a \.npy array") as caught:
        open_dataset(path)
    assert "0x" not in str(caught.value)
    assert "<" not in str(caught.value)
