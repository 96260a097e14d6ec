import io
import pickle
import zipfile

import numpy as np
import pytest
import torch

from fastgan.data import DataError, load_dataset


def npy(array, **options) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    content = text.encode() + b"\n"
    return b"\x93NUMPY" + version + len(content).to_bytes(2 if version[0] == 1 else 4, "little") + content


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.npy"


def test_npy_layouts(path, gray, rgb):
    nchw = torch.from_numpy(rgb).permute(0, 3, 1, 2)
    for array, expected in (
        (gray, torch.from_numpy(gray)[:, None]),
        (gray[..., None], torch.from_numpy(gray)[:, None]),
        (gray[:, None], torch.from_numpy(gray)[:, None]),
        (rgb, nchw),
        (rgb.transpose(0, 3, 1, 2), nchw),
        (np.asfortranarray(rgb), nchw),
    ):
        np.save(path, array)
        dataset = load_dataset(str(path))
        assert torch.equal(dataset.images, expected)
        assert dataset.images.is_contiguous()
        assert dataset.labels is None


def test_loaded_images_may_be_written_to(path, gray):
    np.save(path, gray)
    images = load_dataset(str(path)).images
    images.zero_()
    assert images.sum() == 0


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "keys", [("images", "labels"), ("x_train", "y_train"), ("train_images", "train_labels"), ("arr_0", "arr_1")]
)
def test_npz(tmp_path, rgb, save, keys):
    labels = np.array([3, 1, 4, 1, 5])
    for stored in (labels, labels.astype(np.uint8), labels[:, None], labels.astype(">i4")):
        save(tmp_path / "a.npz", **{keys[0]: rgb, keys[1]: stored, "x_test": rgb[:1]})
        dataset = load_dataset(str(tmp_path / "a.npz"))
        assert torch.equal(dataset.images, torch.from_numpy(rgb).permute(0, 3, 1, 2))
        assert dataset.labels.tolist() == [3, 1, 4, 1, 5]
        assert dataset.labels.dtype == torch.int64
    save(tmp_path / "a.npz", **{keys[0]: rgb})
    assert load_dataset(str(tmp_path / "a.npz")).labels is None


@pytest.mark.parametrize(
    ("array", "parts"),
    [
        (np.zeros((5, 6, 6), np.float32), ["float32", "[5, 6, 6]", "uint8"]),
        (np.zeros((5, 6, 6), np.int64), ["int64"]),
        (np.zeros((5, 6, 6), bool), ["bool"]),
        (np.zeros((6, 6), np.uint8), ["[6, 6]", "[N, H, W]"]),
        (np.uint8(3), ["shape []"]),
        (np.zeros((1,) * 5, np.uint8), ["[1, 1, 1, 1, 1]"]),
        (np.zeros((5, 6, 6, 4), np.uint8), ["[5, 6, 6, 4]", "1 or 3 channels"]),
        (np.zeros((5, 2, 6, 6), np.uint8), ["[5, 2, 6, 6]", "1 or 3 channels"]),
        (np.zeros((5, 3, 4, 3), np.uint8), ["[5, 3, 4, 3]"]),
        (np.zeros((5, 3, 3, 3), np.uint8), ["both"]),
        (np.zeros((0, 6, 6), np.uint8), ["[0, 6, 6]", "at least one image"]),
        (np.zeros((5, 0, 0), np.uint8), ["[5, 0, 0]"]),
        (np.zeros(5, [("a", "u1")]), ["'a'", "uint8 of shape"]),
    ],
)
def test_unusable_images(path, refused, array, parts):
    np.save(path, array)
    refused(path, "a.npy", *parts)
    np.savez(path.with_suffix(".npz"), images=array)
    refused(path.with_suffix(".npz"), "'images' in ", "a.npz", *parts)


class Explosive:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_objects_are_never_unpickled(path, refused, gray):
    array = np.array([Explosive()], dtype=object)
    np.save(path, array, allow_pickle=True)
    refused(path, "Python objects in dtype")
    np.savez(path.with_suffix(".npz"), images=gray, labels=array)
    refused(path.with_suffix(".npz"), "'labels' in ", "Object arrays cannot be loaded")
    path.write_bytes(pickle.dumps(Explosive()))
    with pytest.raises(DataError, match="is a Python pickle, which executes code"):
        load_dataset(path)


@pytest.mark.parametrize(
    "data",
    [
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8), }"),
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8), }"),
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 4000 + ", " + "9" * 4000 + "), }"),
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9223372036854775807, " * 300 + "), }"),
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 2), 'more': 1}"),
        header("{'descr': 'nonsense', 'fortran_order': False, 'shape': (1, 2, 2), }"),
        header("__import__('os').system('true')"),
        header("(" * 5000),
        header("{", b"\x02\x00"),
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 2), }", b"\x09\x00") + b"1234",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff",
    ],
)
def test_hostile_headers(path, refused, data):
    path.write_bytes(data)
    refused(path, "a.npy")
    with zipfile.ZipFile(path.with_suffix(".npz"), "w") as archive:
        archive.writestr("images.npy", data)
    refused(path.with_suffix(".npz"), "'images' in ")


def test_wrong_lengths(path, refused, gray):
    data = npy(gray)
    path.write_bytes(data[:-1])
    refused(path, "length is greater than file size")
    path.write_bytes(data + b"x")
    refused(path, f"has {len(data) + 1} bytes; expected {len(data)}")


def test_unknown_names(tmp_path, refused, gray):
    np.savez(tmp_path / "a.npz", faces=gray, other=gray)
    refused(tmp_path / "a.npz", "'faces, other'", "images, x_train, train_images, arr_0")


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        (np.arange(4), ["[4]", "5 images"]),
        (np.zeros(5), ["float64", "integer"]),
        (np.zeros(5, bool), ["bool", "integer"]),
        (np.eye(5, dtype=np.int64), ["[5, 5]", "class numbers of shape [5]"]),
        (np.int64(3), ["shape []"]),
        (np.array(list("abcde")), ["integer"]),
        (np.array([0, 1, -1, 2, 3]), ["from -1 to 3", "from 0"]),
        (np.array([0, 1, 2**63, 2, 3], np.uint64), ["from 0 to 9223372036854775808"]),
    ],
)
def test_unusable_labels(tmp_path, refused, gray, labels, parts):
    np.savez(tmp_path / "a.npz", images=gray, labels=labels)
    refused(tmp_path / "a.npz", "'labels' in ", *parts)
