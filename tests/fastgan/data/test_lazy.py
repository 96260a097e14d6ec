import io
import os

import numpy as np
import pytest
import torch
from image_sources import decoded, encode, write_mnist, write_stylegan_zip
from PIL import Image

from fastgan.data import DataError, load_dataset, open_dataset
from fastgan.data import files as files_module
from fastgan.data.arrays import map_npy


def folder_of(path, images):
    path.mkdir()
    for index, image in enumerate(images):
        (path / f"{index}.png").write_bytes(encode(image))
    return path


def npy_of(path, images):
    np.save(path, images)
    return path


def npz_of(path, **arrays):
    np.savez(path, **arrays)
    return path


LABELS = [3, 1, 4, 1, 5]
SOURCES = {
    "gray folder": lambda path, gray, rgb: folder_of(path, gray),
    "color folder": lambda path, gray, rgb: folder_of(path, rgb),
    "folder of both, gray first": lambda path, gray, rgb: folder_of(path, [gray[0], gray[1], rgb[0], gray[2]]),
    "folder of both, color first": lambda path, gray, rgb: folder_of(path, [rgb[0], gray[0]]),
    "zip": lambda path, gray, rgb: write_stylegan_zip(path, rgb, LABELS),
    "npy, N S S": lambda path, gray, rgb: npy_of(path.with_suffix(".npy"), gray),
    "npy, N S S C": lambda path, gray, rgb: npy_of(path.with_suffix(".npy"), rgb),
    "npy, N C S S": lambda path, gray, rgb: npy_of(path.with_suffix(".npy"), rgb.transpose(0, 3, 1, 2)),
    "npy in Fortran's order": lambda path, gray, rgb: npy_of(path.with_suffix(".npy"), np.asfortranarray(rgb)),
    "npz": lambda path, gray, rgb: npz_of(path.with_suffix(".npz"), images=rgb, labels=np.array(LABELS)),
    "idx": lambda path, gray, rgb: write_mnist(path, gray, np.array(LABELS)),
    "idx.gz": lambda path, gray, rgb: write_mnist(path, gray, gz=True),
}


def assert_the_same(lazy, whole):
    assert lazy.name == whole.name
    assert len(lazy) == len(whole.images)
    assert lazy.image_shape == whole.images.shape[1:]
    assert lazy.num_bytes == whole.images.numel()
    items = [lazy[index] for index in range(len(lazy))]
    assert torch.equal(torch.stack([image for image, _ in items]), whole.images)
    if whole.labels is None:
        assert lazy.labels is None
        assert {label for _, label in items} == {None}
    else:
        assert torch.equal(lazy.labels, whole.labels)
        assert [label for _, label in items] == whole.labels.tolist()


@pytest.mark.parametrize("resolution", [None, 9])
@pytest.mark.parametrize("source", SOURCES)
def test_images_are_those_of_the_loaded_data_set(tmp_path, gray, rgb, source, resolution):
    path = str(SOURCES[source](tmp_path / "source", gray, rgb))
    assert_the_same(open_dataset(path, resolution=resolution), load_dataset(path, resolution=resolution))


def test_nothing_is_decoded_before_it_is_read(tmp_path, rgb, monkeypatch):
    folder, archive = folder_of(tmp_path / "folder", rgb), write_stylegan_zip(tmp_path / "a.zip", rgb)
    array = npy_of(tmp_path / "a.npy", rgb)
    monkeypatch.setattr(files_module, "decode_image", None)
    monkeypatch.setattr(Image.Image, "load", None)
    monkeypatch.setattr("fastgan.data.arrays.require_memory", None)
    for source in (folder, archive, array):
        assert len(open_dataset(source)) == 5


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 3, 1, 2)], ids=["channels last", "channels first"])
def test_a_npy_file_of_either_layout_stays_on_the_disk(tmp_path, rgb, axes):
    assert isinstance(map_npy(npy_of(tmp_path / "a.npy", rgb.transpose(axes))), np.memmap)


def colors() -> dict[str, bytes]:
    """An image of each kind that decode_image distinguishes."""
    palette = Image.new("P", (4, 4))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    kinds = {
        "1.png": Image.new("1", (4, 4)),
        "L.png": Image.new("L", (4, 4)),
        "L.jpg": Image.new("L", (4, 4)),
        "L.gif": Image.new("L", (4, 4)),
        "LA.png": Image.new("LA", (4, 4)),
        "P.png": palette,
        "P.gif": palette,
        "RGB.jpg": Image.new("RGB", (4, 4)),
        "RGB.webp": Image.new("RGB", (4, 4)),
        "RGB.ppm": Image.new("RGB", (4, 4)),
        "RGBA.png": Image.new("RGBA", (4, 4)),
        "RGBA.webp": Image.new("RGBA", (4, 4), (1, 2, 3, 4)),
        "CMYK.tif": Image.new("CMYK", (4, 4)),
        "16 bits.png": Image.fromarray(np.zeros((4, 4), np.uint16)),
        "16 bits.tif": Image.fromarray(np.zeros((4, 4), np.uint16)),
    }
    formats = {"jpg": "JPEG", "tif": "TIFF"}
    encoded = {"16 bits.pgm": b"P5 4 4 65535\n" + bytes(32)}
    for name, image in kinds.items():
        stream = io.BytesIO()
        suffix = name.rpartition(".")[2]
        image.save(stream, formats.get(suffix, suffix.upper()))
        encoded[name] = stream.getvalue()
    return encoded


def test_a_header_has_the_channels_that_decoding_finds(tmp_path):
    for name, data in colors().items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(data)
        lazy = open_dataset(folder)
        assert lazy.image_shape == decoded(data, name).shape, name
        assert torch.equal(lazy[0][0], load_dataset(folder).images[0]), name


def test_an_image_that_is_broken_further_on_is_refused_when_read(tmp_path, rgb):
    folder = folder_of(tmp_path / "folder", rgb)
    path = folder / "3.png"
    path.write_bytes(path.read_bytes()[:-30])
    lazy = open_dataset(folder)
    assert torch.equal(lazy[2][0], torch.from_numpy(rgb[2].transpose(2, 0, 1).copy()))
    with pytest.raises(DataError, match=r"3\.png' is broken or truncated"):
        lazy[3]


def test_an_image_that_has_changed_since_is_refused_when_read(tmp_path, gray, rgb):
    folder = folder_of(tmp_path / "folder", gray)
    lazy = open_dataset(folder, resolution=6, fit="refuse")
    (folder / "1.png").write_bytes(encode(rgb[0]))
    (folder / "2.png").write_bytes(encode(gray[0][:3, :3]))
    (folder / "3.png").unlink()
    for index, sentence in ((1, "1.png' is in color now"), (2, "2.png' is 3x3 while"), (3, "3.png' cannot be read")):
        with pytest.raises(DataError, match=sentence):
            lazy[index]


def test_a_forked_process_reads_an_archive_without_moving_the_parents_position(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (5, 256, 256, 3), np.uint8)  # more than a read ahead
    path = str(write_stylegan_zip(tmp_path / "a.zip", rgb))
    lazy = open_dataset(path)
    first = lazy[0][0]
    (descriptor,) = (int(fd) for fd in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{fd}") == path)
    before = os.lseek(descriptor, 0, os.SEEK_CUR)
    child = os.fork()
    if child == 0:
        os._exit(not torch.equal(lazy[4][0], torch.from_numpy(rgb[4].transpose(2, 0, 1).copy())))
    assert os.waitpid(child, 0)[1] == 0
    assert os.lseek(descriptor, 0, os.SEEK_CUR) == before
    assert torch.equal(lazy[0][0], first)


def test_the_archive_is_closed_with_the_data_set(tmp_path, rgb):
    def open_files() -> list[str]:
        return [
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")
        ]

    path = str(write_stylegan_zip(tmp_path / "a.zip", rgb))
    lazy = open_dataset(path)
    assert path in open_files()
    del lazy
    assert path not in open_files()
