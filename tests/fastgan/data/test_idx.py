import gzip
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from image_sources import idx_bytes, write_mnist

from fastgan.data import load_dataset

LABELS = np.array([7, 2, 1, 0, 255], np.uint8)


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("by_folder", [False, True])
def test_round_trip(tmp_path, gray, gz, by_folder):
    path = write_mnist(tmp_path / "m", gray, LABELS, gz=gz)
    dataset = load_dataset(str(tmp_path / "m" if by_folder else path))
    assert torch.equal(dataset.images, torch.from_numpy(gray)[:, None])
    assert dataset.labels.tolist() == [7, 2, 1, 0, 255]
    assert dataset.labels.dtype == torch.int64


def test_without_labels(tmp_path, gray):
    assert load_dataset(str(write_mnist(tmp_path, gray))).labels is None


def test_labels_gzipped_beside_plain_images_and_the_other_way(tmp_path, gray):
    for name, gz in (("a", False), ("b", True)):
        path = write_mnist(tmp_path / name, gray, gz=gz)
        labels = tmp_path / name / f"train-labels-idx1-ubyte{'' if gz else '.gz'}"
        labels.write_bytes(idx_bytes(LABELS) if gz else gzip.compress(idx_bytes(LABELS)))
        assert load_dataset(str(path)).labels.tolist() == [7, 2, 1, 0, 255]


def test_the_test_part_takes_its_own_labels(tmp_path, gray):
    write_mnist(tmp_path, gray, LABELS)
    path = write_mnist(tmp_path, gray[:2], LABELS[3:], part="t10k")
    assert load_dataset(str(path)).labels.tolist() == [0, 255]


def test_plain_before_gz_in_a_folder(tmp_path, gray):
    write_mnist(tmp_path, gray)
    write_mnist(tmp_path, gray[:2], gz=True)
    assert len(load_dataset(str(tmp_path)).images) == 5


def store(path, data, gz):
    path.write_bytes(gzip.compress(data) if gz else data)
    return path


@pytest.mark.parametrize("gz", [False, True])
def test_wrong_magic_numbers(tmp_path, gray, refused, gz):
    path = tmp_path / "train-images-idx3-ubyte"
    refused(store(path, idx_bytes(gray, 0x0D03), gz), "magic number 3331", "expected 2051", path.name)
    refused(store(path, idx_bytes(LABELS), gz), "magic number 2049 (labels)", "expected 2051 (images")
    refused(store(path, b"nonsense, and long enough", gz), "magic number", "expected 2051")
    refused(store(path, idx_bytes(gray)[:10], gz), "ends within its IDX header")
    store(path, idx_bytes(gray), gz)
    store(tmp_path / "train-labels-idx1-ubyte", idx_bytes(gray), gz)
    refused(path, "train-labels-idx1-ubyte", "magic number 2051 (images)", "expected 2049 (labels")


def test_wrong_lengths(tmp_path, gray, refused):
    path = tmp_path / "train-images-idx3-ubyte"
    data = idx_bytes(gray)
    refused(store(path, data[:-1], False), "has 195 bytes", "expected 196", "5 x 6 x 6")
    refused(store(path, data + b"x", False), "has 197 bytes", "expected 196")
    refused(store(path, data[:-1], True), "5 x 6 x 6", "has 179")
    refused(store(path, data + b"x", True), "has more")


def test_damaged_gzip(tmp_path, gray, refused):
    path = write_mnist(tmp_path, gray, gz=True)
    data = path.read_bytes()
    path.write_bytes(data[:-12])
    refused(path, "cannot be read", path.name)
    path.write_bytes(data[:-8] + b"\0\0\0\0" + data[-4:])
    refused(path, "cannot be read", "CRC")


def test_label_count(tmp_path, gray, refused):
    refused(write_mnist(tmp_path, gray, LABELS[:4]), "4 labels for the 5 images", "train-labels", "train-images")


def test_no_images(tmp_path, gray, refused):
    refused(write_mnist(tmp_path, gray[:0]), "holds 0 images")
    refused(write_mnist(tmp_path, gray[:, :0, :0]), "0x0", "pixels")


@pytest.mark.parametrize("gz", [False, True])
def test_huge_promises_allocate_nothing(tmp_path, refused, gz):
    path = tmp_path / "train-images-idx3-ubyte"
    sizes = [(2**32 - 1,) * 3, (2**20, 1024, 1024), (1, 2**14, 2**14)]
    tracemalloc.start()
    try:
        for shape in sizes:
            store(path, struct.pack(">4I", 0x0803, *shape) + b"data", gz)
            refused(path, "promises" if not gz else "")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_gzip_bomb_behind_a_small_promise_is_not_unpacked(tmp_path, refused):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">4I", 0x0803, 1, 8, 8) + bytes(200 * 2**20), compresslevel=1))
    tracemalloc.start()
    try:
        refused(path, "promises 1 x 8 x 8 values, has more")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_gzip_bomb_that_keeps_its_promise(tmp_path, refused):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">4I", 0x0803, 100, 1024, 1024) + bytes(100 * 2**20), compresslevel=1))
    refused(path, "would explode", "104,857,600", "100:1")


def test_blank_images_below_the_floor_load(tmp_path):
    path = write_mnist(tmp_path, np.zeros((1000, 28, 28), np.uint8), gz=True)
    assert load_dataset(str(path)).images.shape == (1000, 1, 28, 28)
