import dataclasses
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from image_sources import write_mnist, write_stylegan_zip

from fastgan.data import limits, load_dataset


def test_the_bundled_digits_are_the_default():
    dataset = load_dataset()
    assert dataset.name == "digits"
    assert dataset.images.shape == (1797, 1, 8, 8)
    assert dataset.images.dtype == torch.uint8
    assert dataset.images.is_contiguous()
    assert dataset.labels.dtype == torch.int64
    assert dataset.labels.unique().tolist() == list(range(10))
    assert (dataset.images.min(), dataset.images.max()) == (0, 255)
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.name = "other"


def test_digits_scale_0_16_to_0_255():
    # The first row of the first digit, a zero, is 0 0 5 13 9 1 0 0 of 16; 255/16 = 15.9375.
    assert load_dataset("digits").images[0, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]


def test_digits_are_light_on_dark():
    images = load_dataset("digits").images
    corners = images[:, 0, [0, 0, 7, 7], [0, 7, 0, 7]].float().mean()
    assert corners < 10 < images.float().mean() < 128


def test_photos():
    dataset = load_dataset("photos")
    assert dataset.images.shape == (2754, 3, 64, 64)
    assert dataset.labels.bincount().tolist() == [1377, 1377]
    # Crops begin at every third pixel, row by row.
    assert torch.equal(dataset.images[0, :, :, 3:], dataset.images[1, :, :, :-3])
    # The sky over the temple is brighter than the leaves around the flower.
    assert dataset.images[0].float().mean() > 150 > 100 > dataset.images[1377].float().mean()


def test_resized_digits_keep_their_strokes():
    small, large = load_dataset("digits"), load_dataset("digits", resolution=28)
    assert large.images.shape == (1797, 1, 28, 28)
    assert torch.equal(small.labels, large.labels)
    back = torch.nn.functional.interpolate(large.images.float(), (8, 8), mode="bilinear", antialias=True)
    pair = torch.stack([back.flatten(), small.images.float().flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.95


def test_every_source_takes_a_resolution(tmp_path, rgb, gray):
    np.save(tmp_path / "a.npy", rgb)
    expected = load_dataset(str(tmp_path / "a.npy"), resolution=16).images
    assert expected.shape == (5, 3, 16, 16)
    zipped = load_dataset(str(write_stylegan_zip(tmp_path / "a.zip", rgb)), resolution=16).images
    assert torch.equal(zipped, expected), "one filter for all sources"
    assert load_dataset(str(write_mnist(tmp_path / "m", gray)), resolution=4).images.shape == (5, 1, 4, 4)
    assert load_dataset(str(tmp_path / "a.npy"), resolution=6).images.shape == (5, 3, 6, 6)


@pytest.mark.parametrize("resolution", [0, -4, 2.0, "28", True])
def test_impossible_resolutions(refused, resolution):
    refused("digits", f"{resolution!r}", "positive integer", resolution=resolution)


@pytest.mark.parametrize("resolution", [10**7, 10**30])
def test_a_resolution_past_the_memory_is_refused_before_allocating(refused, resolution):
    refused("digits", "GiB of memory", resolution=resolution)


def test_the_name_is_the_path_as_given(tmp_path, gray, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", gray)
    assert load_dataset("./a.npy").name == "./a.npy"
    assert load_dataset(Path("a.npy")).name == "a.npy"


def test_a_path_called_digits_is_reached_with_its_dot(tmp_path, gray, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path / "digits", gray)
    assert len(load_dataset("./digits").images) == 5
    assert len(load_dataset(Path("digits")).images) == 5
    assert len(load_dataset("digits").images) == 1797


def test_content_decides_not_the_suffix(tmp_path, gray, rgb):
    np.save(tmp_path / "a.npy", gray)
    np.savez(tmp_path / "b.npz", images=gray)
    write_stylegan_zip(tmp_path / "c.zip", rgb)
    write_mnist(tmp_path / "d", gray, gz=True)
    write_mnist(tmp_path / "d", gray)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 5
    for path in written:
        expected = load_dataset(str(path)).images
        renamed = path.rename(path.with_name(f"{path.stem}.{path.suffix[1:]}.data"))
        assert torch.equal(load_dataset(str(renamed)).images, expected)


def test_missing_paths(tmp_path, refused, gray):
    np.save(tmp_path / "a.npy", gray)
    refused(tmp_path / "none", repr(str(tmp_path / "none")), "no file or folder", "'digits'")
    refused(tmp_path / "a.npy" / "below", "no file or folder")
    refused("", "no file or folder")
    refused("a\0b", "cannot be read")
    refused("x" * 5000, "cannot be read")


def test_files_of_no_known_kind(tmp_path, refused):
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    refused(path, "begins with the bytes 68 65 6c 6c 6f", ".npz")
    path.write_bytes(b"")
    refused(path, "is empty")
    for name, part in (
        ("a.zip", "expected a whole zip"),
        ("a.npz", "expected a whole zip"),
        ("a.npy", "cannot be read as a .npy array"),
        ("a.idx", "IDX"),
        ("a.gz", "IDX"),
    ):
        path = tmp_path / name
        for content in (b"", b"hello, world, this is text"):
            path.write_bytes(content)
            refused(path, part)


def test_a_pipe_does_not_block(tmp_path, refused):
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "neither a regular file nor a folder")
    (tmp_path / "images").mkdir()
    os.mkfifo(tmp_path / "images" / "a.png")
    refused(tmp_path / "images", "not a regular file")


def test_names_are_shown_on_one_line(tmp_path, refused):
    refused(tmp_path / "two\nlines\x1b[31m", r"two\nlines\x1b[31m")
    refused(str(tmp_path / "undecodable\udcff"), r"undecodable\udcff")


def test_sources_past_the_memory_are_refused(tmp_path, refused, gray, monkeypatch):
    np.save(tmp_path / "a.npy", gray)
    np.savez(tmp_path / "a.npz", images=gray)
    write_mnist(tmp_path / "m", gray)
    write_stylegan_zip(tmp_path / "a.zip", gray)
    monkeypatch.setattr(limits, "_physical_memory", lambda: gray.nbytes - 1)
    for name in ("a.npy", "a.npz", "m", "a.zip"):
        refused(tmp_path / name, "GiB of memory", name)
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "read", None)
        refused(tmp_path / "a.npz", "GiB of memory")  # Before anything is unpacked.
    monkeypatch.setattr(limits, "_physical_memory", lambda: 10**6)
    for name in ("a.npy", "a.npz", "m", "a.zip"):
        load_dataset(str(tmp_path / name))
