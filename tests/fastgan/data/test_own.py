"""Datasets, arrays and tensors that a program passes."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, get_worker_info

from fastgan.data import DataError, load_dataset, open_dataset, open_source
from fastgan.data.pixels import to_array

CPU = torch.device("cpu")


class Items(torch.utils.data.Dataset):
    """A map-style dataset of given items, with ``change`` as its transform."""

    def __init__(self, items, change=lambda item: item, **attributes):
        self.items, self.change = items, change
        vars(self).update(attributes)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.change(self.items[index])


class Endless(IterableDataset):
    """Images of one value, divided among workers, in passes of ``count``."""

    classes = ("even", "odd")

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in range(first, self.count, step):
            yield torch.full((1, 4, 4), index, dtype=torch.uint8), index % 2


@pytest.fixture
def images(rgb):
    """uint8 [5, 3, 6, 6]."""
    return torch.from_numpy(rgb).permute(0, 3, 1, 2).contiguous()


def source_of(data, **options):
    options = {"resolution": None, "device": CPU, "seed": 3, "batch_size_of": lambda update: 4} | options
    return open_source(data, **options)


FORMS = {
    "pillow": Image.fromarray,
    "bytes, channels last": lambda image: image,
    "bytes, channels first": lambda image: torch.from_numpy(image).permute(2, 0, 1),
    "from 0 to 1, as ToTensor": lambda image: torch.from_numpy(image).permute(2, 0, 1) / 255,
    "from -1 to 1": lambda image: torch.from_numpy(image).permute(2, 0, 1) / 127.5 - 1,
    "float64 array": lambda image: image / 255.0,
    "half": lambda image: (torch.from_numpy(image).permute(2, 0, 1) / 255).half(),
    "a pair": lambda image: (Image.fromarray(image), 1),
    "another mapping": lambda image: {"img": image, "fine_label": 1},
    "a mapping": lambda image: {"image": Image.fromarray(image), "label": 1},
}


@pytest.mark.parametrize("form", FORMS)
def test_items_of_every_form_are_the_same_bytes(rgb, images, form):
    loaded = load_dataset(Items(list(rgb), FORMS[form]))
    assert (loaded.images.int() - images.int()).abs().max() <= (1 if form == "half" else 0)
    assert (loaded.labels is not None) == (form in ("a pair", "a mapping"))
    assert torch.equal(load_dataset([FORMS[form](image) for image in rgb]).images, loaded.images), "a list"


def test_whole_arrays_and_tensors(rgb, images):
    for whole in (rgb, images, rgb / 255, images / 255, images / 127.5 - 1, TensorDataset(images)):
        dataset = load_dataset(whole)
        assert torch.equal(dataset.images, images)
        assert dataset.labels is None
    labels = torch.tensor([3, 1, 4, 1, 5])
    assert torch.equal(load_dataset(TensorDataset(images, labels)).labels, labels)
    assert load_dataset(rgb[..., 0]).images.shape == (5, 1, 6, 6)
    source = source_of(images)
    assert source.capturable
    assert source.name == "Tensor of shape [5, 3, 6, 6]"


def test_gray_items_among_colored_ones_and_items_of_other_shapes(rgb):
    items = [Image.fromarray(rgb[0]), Image.fromarray(rgb[1]).convert("L"), Image.fromarray(np.tile(rgb[2], (1, 2, 1)))]
    dataset = open_dataset(items)
    assert dataset.image_shape == (3, 6, 6)
    assert dataset.notes == ["1 of 3 images are not square, and the middle of each is kept (fit = 'crop')"]
    assert torch.equal(dataset[1][0][0], dataset[1][0][2])
    assert np.array_equal(dataset[2][0], to_array(items[2].crop((3, 0, 9, 6))))


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (torch.rand(5, 3, 4, 4) * 255, ["values from", "[0, 1]"]),
        (torch.rand(5, 3, 4, 4) - 0.2, ["least value is -0.", "uint8"]),
        (torch.full((5, 3, 4, 4), torch.nan), ["nan"]),
        (torch.zeros(5, 3, 4, 4, dtype=torch.int64), ["int64", "uint8"]),
        (torch.zeros(5, 4, 4, 4, dtype=torch.uint8), ["[5, 4, 4, 4]", "1 or 3 channels"]),
        (Items([]), ["Items is empty"]),
        (Items(["a.png"]), ["is of type str", "Pillow"]),
        ({"train": [], "test": []}, ["dict holds 'train', 'test'; expected one of them"]),
        (iter([1]), ["read only once", "IterableDataset"]),
        (DataLoader(Items([0])), ["its attribute 'dataset'"]),
        (3, ["The data are int", "expected a path"]),
        (Endless(0), ["Endless is empty"]),
        (Endless(3), ["no indices", "map-style"]),
    ],
)
def test_unusable_data(data, parts):
    with pytest.raises(DataError) as caught:
        open_dataset(data)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_the_range_of_floats_is_decided_once():
    bright, dark = torch.full((1, 4, 4), 0.9), torch.full((1, 4, 4), -0.9)
    dataset = open_dataset(Items([bright, *[bright] * 127, dark][::-1]))
    assert dataset[1][0].unique().tolist() == [242], "0.9 in [-1, 1], by the first item"
    dataset = open_dataset(Items([bright, dark, *[bright] * 127]))
    assert dataset[0][0].unique().tolist() == [230], "0.9 in [0, 1], as the second item is not checked"
    with pytest.raises(DataError, match=r"Item 1 of Items has values from -0.9 to -0.9; expected \[0, 1\]"):
        dataset[1]


def test_labels_are_the_targets_where_these_agree_with_the_items(images):
    read = []

    def change(item):
        read.append(item)
        return images[item], item % 2

    items = [index % 5 for index in range(200)]
    dataset = open_dataset(Items(items, change, targets=[item % 2 for item in items], classes=["even", "odd"]))
    assert dataset.class_names == ("even", "odd")
    read.clear()
    assert dataset.labels.tolist() == [item % 2 for item in items]
    assert not read
    dataset = open_dataset(Items(items, change, targets=[1 - item % 2 for item in items]))
    assert dataset.labels.tolist() == [item % 2 for item in items], "a target_transform has changed them"
    assert open_dataset(Items([(images[0], "cat")])).labels is None


def drawn(image):
    """An image with a number from each of the global generators."""
    numbers = torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002
    return torch.tensor(numbers)[:, None, None].expand(3, 4, 4), 1


@pytest.mark.parametrize("workers", [1, 2])
def test_random_transforms_are_exact_in_a_resumed_run(workers):
    before = torch.get_rng_state()
    source = source_of(Items(range(9), drawn), workers=workers, with_labels=True)
    batches = [source.next_batch(update, 4) for update in range(5)]
    assert not source.capturable
    assert source.resume_note is None
    assert len({tuple(image[:, 0, 0].tolist()) for images, _ in batches for image in images}) == 20, (
        "every draw is another"
    )
    resumed = source_of(Items(range(9), drawn), workers=3 - workers, with_labels=True)
    for update in (3, 4):
        images, labels = resumed.next_batch(update, 4)
        assert torch.equal(images, batches[update][0])
        assert torch.equal(labels, torch.ones(4, dtype=torch.int64))
    source.close()
    resumed.close()
    assert torch.equal(before, torch.get_rng_state())


def test_a_dataset_is_resident_where_that_is_set(images):
    source = source_of(Items(list(images)), on_device="yes")
    assert source.capturable
    assert "may be random" in source_of(Items(list(images))).note


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterable_dataset_is_read_again_and_again_in_its_order(workers):
    source = source_of(Endless(6), workers=workers, with_labels=True)
    assert source.labels.tolist() == [0, 1]
    assert "a new pass" in source.resume_note
    with pytest.raises(TypeError, match="no len"):
        len(source)
    batches = [source.next_batch(update, 4) for update in range(3)]
    expected = [[0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5]]
    if workers == 2:
        expected = [[0, 2, 4, 0], [1, 3, 5, 1], [2, 4, 0, 2]]
    assert [images[:, 0, 0, 0].tolist() for images, _ in batches] == expected
    assert [labels.tolist() for _, labels in batches] == [[value % 2 for value in row] for row in expected]
    source.close()


def test_ranks_read_parts_of_a_batch_from_an_iterable_dataset():
    sizes = []
    for rank in range(3):
        source = source_of(Endless(6), rank=rank, world_size=3)
        sizes.append(len(source.next_batch(0, 4)[0]))
        source.close()
    assert sorted(sizes) == [1, 1, 2]
