import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from image_sources import encode, write_stylegan_zip

from fastgan.data import DataError, load_dataset, open_dataset, stream
from fastgan.data.sources import ResidentImages
from fastgan.data.stream import StreamedImages, default_workers, indices_of_update, part_of_rank

CPU = torch.device("cpu")
SEED = 2**63 - 1


@pytest.fixture
def folder(tmp_path, gray):
    """Five images of 6x6 with labels."""
    for index, image in enumerate(gray):
        (tmp_path / f"{index}.png").write_bytes(encode(image))
    labels = ", ".join(f'["{index}.png", {index * index}]' for index in range(5))
    (tmp_path / "dataset.json").write_text(f'{{"labels": [{labels}]}}')
    return tmp_path


def growing(update: int) -> int:
    """A batch size that changes in the middle of a run."""
    return 4 if update < 3 else 7


def streamed(source, *, workers: int = 0, **options) -> StreamedImages:
    options = {"seed": SEED, "batch_size_of": growing, "device": CPU} | options
    return StreamedImages(open_dataset(source), num_workers=workers, **options)


def children() -> set[int]:
    return {process.pid for process in multiprocessing.active_children()}


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ended(pids, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


def same(batch, expected) -> bool:
    return all(torch.equal(one, other) for one, other in zip(batch, expected, strict=True))


PROGRAM = """
import multiprocessing, sys, time, torch
from fastgan.data import open_dataset
assert "sklearn" not in sys.modules, "it takes a second to import, and only the bundled digits need it"
from fastgan.data.stream import StreamedImages
source = StreamedImages(
    open_dataset({folder!r}), seed=0, batch_size_of=lambda update: 4, num_workers=2, device=torch.device("cpu")
)
source.next_batch(0, 4)
print(*(process.pid for process in multiprocessing.active_children()), flush=True)
"""


# What an update gets.


def test_a_batch_is_that_of_the_resident_images(folder):
    whole = load_dataset(folder)
    resident = ResidentImages(whole.images, whole.labels, CPU)
    source = streamed(folder)
    for update in range(5):
        images, labels = source.next_batch(update, growing(update))
        chosen = torch.from_numpy(indices_of_update(5, growing(update), seed=SEED, update=update))
        assert images.dtype == torch.uint8
        assert same((images, labels), resident.batch(chosen))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_gets_the_batches_that_it_would_have_got(folder, workers):
    reference = streamed(folder)
    expected = [reference.next_batch(update, growing(update)) for update in range(6)]
    for first in (0, 2, 5):
        source = streamed(folder, workers=workers)
        for update in range(first, 6):
            assert same(source.next_batch(update, growing(update)), expected[update]), (first, update)
        # Back, as after loading a checkpoint.
        assert same(source.next_batch(1, growing(1)), expected[1])
        source.close()


def test_indices_differ_by_seed_and_by_update_and_reach_every_image():
    batches = [
        indices_of_update(1000, 64, seed=seed, update=update)
        for seed, update in ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2**32), (2**32, 0), (SEED, 5))
    ]
    assert len({batch.tobytes() for batch in batches}) == len(batches)
    counts = np.bincount(
        np.concatenate([indices_of_update(10, 50, seed=7, update=update) for update in range(200)]), minlength=10
    )
    # Five standard deviations of a binomial with a mean of 1000.
    assert np.abs(counts - 1000).max() < 5 * 1000**0.5


def test_indices_stay_what_they_are():
    """A change, in numpy too, would let runs that go on get other batches than they would have got."""
    assert indices_of_update(10**6, 4, seed=1, update=2).tolist() == [426585, 233168, 37758, 47021]


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_ranks_have_parts_of_the_same_batch(folder, world_size):
    for size in (0, 1, 7, 8):
        parts = [range(size)[part_of_rank(size, rank, world_size)] for rank in range(world_size)]
        assert [index for part in parts for index in part] == list(range(size))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    whole = streamed(folder).next_batch(2, 4)
    if world_size <= 4:
        ranks = [streamed(folder, rank=rank, world_size=world_size) for rank in range(world_size)]
        parts = [source.next_batch(2, 4) for source in ranks]
        assert same(map(torch.cat, zip(*parts, strict=True)), whole)


def test_labels_where_they_are_wanted(folder, gray):
    assert streamed(folder).next_batch(0, 4)[1].dtype == torch.int64
    source = streamed(folder, with_labels=False)
    assert source.labels is None
    assert source.next_batch(0, 4)[1] is None


def test_a_batch_of_another_size_than_was_read_ahead_is_refused(folder):
    with pytest.raises(ValueError, match="the batch size of update 3 is 4; expected 7"):
        streamed(folder).next_batch(3, 4)


def test_a_zip_is_read_by_several_processes_at_once(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), np.uint8)
    path = write_stylegan_zip(tmp_path / "a.zip", images)
    sources = [streamed(path, workers=workers, batch_size_of=lambda update: 64) for workers in (0, 2)]
    for update in range(12):
        one, other = (source.next_batch(update, 64)[0] for source in sources)
        assert torch.equal(one, other)
    sources[1].close()


def test_the_random_state_of_a_run_does_not_change(folder):
    """Weights, dropout and augmentation draw from it, before and after a run is interrupted."""
    state = torch.get_rng_state()
    for workers in (0, 1):
        source = streamed(folder, workers=workers)
        source.next_batch(0, 4)
        source.close()
    assert torch.equal(torch.get_rng_state(), state)


# Worker processes.


def test_workers_end_with_the_source(folder):
    before = children()
    source = streamed(folder, workers=2)
    assert children() == before
    source.next_batch(0, 4)
    workers = children() - before
    assert len(workers) == 2
    source.next_batch(1, 4)
    assert children() - before == workers
    source.close()
    assert ended(workers, 5)


def test_workers_leave_signals_to_their_parent(folder):
    before = children()
    source = streamed(folder, workers=2)
    source.next_batch(0, 4)
    workers = children() - before
    subprocess.run(["kill", "-INT", *map(str, workers)], check=True)
    subprocess.run(["kill", "-TERM", *map(str, workers)], check=True)
    expected = streamed(folder)
    for update in range(1, 12):
        assert same(source.next_batch(update, growing(update)), expected.next_batch(update, growing(update)))
    assert all(map(alive, workers))
    source.close()
    assert ended(workers, 5)


@pytest.mark.exhaustive
def test_a_parent_that_ends_without_closing_takes_its_workers_along(folder):
    program = PROGRAM.format(folder=str(folder)) + "kept = [source]; kept.append(kept)"
    run = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    workers = [int(pid) for pid in run.stdout.split()]
    assert len(workers) == 2
    assert ended(workers, 5)


def test_workers_do_not_outlive_a_parent_that_is_killed(folder):
    program = PROGRAM.format(folder=str(folder)) + "time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        assert all(map(alive, workers))
        parent.kill()
    assert ended(workers, 30)


def test_a_worker_that_begins_after_its_parent_was_killed_ends():
    program = "import os, time; from fastgan.data.stream import _obey_the_parent; "
    program += "print(os.getpid(), flush=True); _obey_the_parent(os.getppid() + 1, 0); time.sleep(600)"
    run = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=60, check=True)
    assert run.returncode == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_reported_in_one_sentence_when_it_is_read(folder, workers):
    batches = [indices_of_update(5, 2, seed=SEED, update=update).tolist() for update in range(20)]
    first_use = [next(update for update, batch in enumerate(batches) if image in batch) for image in range(5)]
    broken = max(first_use)
    assert broken > 0
    path = folder / f"{first_use.index(broken)}.png"
    path.write_bytes(path.read_bytes()[:-30])
    source = streamed(folder, workers=workers, batch_size_of=lambda update: 2)
    for update in range(broken):
        source.next_batch(update, 2)
    with pytest.raises(DataError) as caught:
        source.next_batch(broken, 2)
    sentence = str(caught.value)
    assert sentence.startswith(f"'{path}' is broken or truncated (")
    assert sentence.endswith("; expected a whole image; skip_broken = true continues without such images.")
    assert "\n" not in sentence
    source.close()


def test_an_error_is_the_last_of_batches_that_are_copied_ahead(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(stream, "_copy", lambda batch, device, copies: (batch, None))
    monkeypatch.setattr(stream, "_received", lambda batch, copied: batch)
    items = [1, 2, DataError("broken")]
    assert list(streamed(folder, device=torch.device("cuda"))._on_device(iter(items))) == items


def test_workers_by_default(monkeypatch):
    for cores, world_size, expected in ((1, 1, 1), (2, 1, 1), (8, 1, 7), (64, 1, 8), (64, 8, 7), (8, 8, 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)))
        assert default_workers(world_size) == expected


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_on_a_gpu_are_the_same(folder, workers):
    source = streamed(folder, workers=workers, device=torch.device("cuda"))
    expected = streamed(folder)
    for update in range(20):
        images, labels = source.next_batch(update, growing(update))
        assert images.is_cuda
        images, labels = images.cpu(), labels.cpu()
        assert same((images, labels), expected.next_batch(update, growing(update)))
    source.close()
