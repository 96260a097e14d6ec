import os

import pytest
import torch
from image_sources import encode

from fastgan.data import DataError, load_dataset, open_source, sources
from fastgan.data.sources import ResidentImages, fits, free_memory
from fastgan.data.stream import StreamedImages

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path, gray):
    """Five images of 6x6, 180 bytes in all, with labels."""
    for index, image in enumerate(gray):
        (tmp_path / f"{index}.png").write_bytes(encode(image))
    labels = ", ".join(f'["{index}.png", {index}]' for index in range(5))
    (tmp_path / "dataset.json").write_text(f'{{"labels": [{labels}]}}')
    return tmp_path


@pytest.fixture
def opened(folder):
    def open_it(**options):
        options = {"resolution": 6, "device": CPU, "seed": 0, "batch_size_of": lambda update: 4} | options
        return open_source(str(folder), **options)

    return open_it


def with_free_memory(monkeypatch, cpu: int, device: int | None = None) -> None:
    free = {"cpu": cpu, "meta": device}
    monkeypatch.setattr(sources, "free_memory", lambda device: free[device.type])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_resident_images_are_drawn_with_replacement_by_the_generator(gray):
    images, labels = torch.from_numpy(gray[:, None]), torch.arange(5)
    source = ResidentImages(images, labels, CPU)
    batch, its_labels = source.next_batch(0, 40, generator())
    chosen = torch.randint(5, (40,), generator=generator())
    assert torch.equal(batch, images[chosen])
    assert torch.equal(its_labels, chosen)
    assert batch.dtype == torch.uint8
    # Each image's share of 4,000 draws, within five standard deviations.
    counts = source.next_batch(1, 4000, generator())[1].bincount(minlength=5)
    assert (counts - 800).abs().max() < 5 * 800**0.5


def test_ranks_draw_parts_of_one_batch(gray):
    images, labels = torch.from_numpy(gray[:, None]), torch.arange(5)
    whole = ResidentImages(images, labels, CPU).next_batch(0, 7, generator())
    ranks = [ResidentImages(images, labels, CPU, rank=rank, world_size=3) for rank in range(3)]
    parts = [source.next_batch(0, 7, generator()) for source in ranks]
    for joined, expected in zip(map(torch.cat, zip(*parts, strict=True)), whole, strict=True):
        assert torch.equal(joined, expected)


def test_what_both_forms_tell_of_the_data(opened, folder):
    resident = opened(on_device="yes", with_labels=True)
    streamed = opened(on_device="no", with_labels=True)
    assert type(resident) is ResidentImages
    assert type(streamed) is StreamedImages
    assert resident.capturable
    assert not streamed.capturable
    for source in (resident, streamed):
        assert source.name == str(folder)
        assert source.image_shape == (1, 6, 6)
        assert len(source) == 5
        assert source.labels.tolist() == [0, 1, 2, 3, 4]
        images, labels = source.next_batch(0, 4, generator())
        assert torch.equal(images, load_dataset(folder).images[labels])
        source.close()


@pytest.mark.parametrize("on_device", ["yes", "no"])
def test_labels_only_where_they_are_wanted(opened, on_device):
    source = opened(on_device=on_device)
    assert source.labels is None
    assert source.next_batch(0, 4, generator())[1] is None
    source.close()


def test_images_that_fit_in_a_quarter_of_the_free_memory_are_resident(opened, monkeypatch):
    with_free_memory(monkeypatch, 4 * 180)
    source = opened()
    assert type(source) is ResidentImages
    assert source.note == "The images are kept on cpu: the images take 0.0 MiB, and 0.0 MiB were free"
    with_free_memory(monkeypatch, 4 * 180 - 1)
    source = opened(workers=3)
    assert type(source) is StreamedImages
    assert source.note == (
        "The images are read by 3 worker processes: the images take 0.0 MiB, more than a quarter of the 0.0 MiB free"
    )


def test_both_the_device_and_the_machine_must_have_room(monkeypatch):
    device = torch.device("meta")
    for cpu, free, expected in ((400, 400, True), (399, 400, False), (400, 399, False)):
        with_free_memory(monkeypatch, cpu, free)
        assert fits(100, device) is expected


def test_a_choice_is_kept(opened, monkeypatch):
    with_free_memory(monkeypatch, 180)
    assert type(opened(on_device="yes")) is ResidentImages
    with_free_memory(monkeypatch, 10**9)
    source = opened(on_device="no", workers=1)
    assert type(source) is StreamedImages
    assert source.note == "The images are read by 1 worker process: data_on_device is 'no'"


def test_images_that_are_to_be_on_a_device_without_room_are_refused(opened, folder, monkeypatch):
    with_free_memory(monkeypatch, 179)
    with pytest.raises(DataError) as caught:
        opened(on_device="yes")
    assert str(caught.value) == (
        f"{str(folder)!r} does not fit on cpu: the images take 0.0 MiB, and 0.0 MiB are free; expected fewer or "
        "smaller images, or data_on_device 'no'."
    )


def test_free_memory_of_this_machine():
    assert 2**20 < free_memory(CPU) <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.gpu
def test_resident_batches_in_a_cuda_graph(gray):
    device = torch.device("cuda")
    images, labels = torch.from_numpy(gray[:, None]), torch.arange(5)
    source = ResidentImages(images, labels, device)
    random = torch.Generator(device).manual_seed(5)
    expected = [source.next_batch(update, 8, random) for update in range(3)]
    random.manual_seed(5)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(random)
    with torch.cuda.graph(graph):
        batch = source.next_batch(0, 8, random)
    for images, labels in expected:
        graph.replay()
        assert torch.equal(batch[0], images)
        assert torch.equal(batch[1], labels)
