"""Damaged checkpoints: nothing in them is run, none is taken for a whole one, and none takes much memory."""

import contextlib
import hashlib
import io
import os
import pickle
import random
import shutil
import signal
import struct
from pathlib import Path

import pytest
import torch

from fastgan.data import load_dataset
from fastgan.data.sources import ResidentImages
from fastgan.training.checkpoint import (
    CheckpointError,
    load_trained_generator,
    save_checkpoint,
)
from fastgan.training.config import SettingsError
from fastgan.training.fit import kept_settings
from fastgan.training.trainer import Trainer

CPU = torch.device("cpu")


class Harm:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def seal(folder):
    """Writes right digests of what there is."""
    lines = []
    for path in sorted(p for p in folder.iterdir() if p.name != "SHA256SUMS"):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    (folder / "SHA256SUMS").write_text("".join(lines))


def pick(folder, rng):
    return rng.choice(sorted(folder.iterdir()))


def truncate(folder, rng):
    path = pick(folder, rng)
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def flip(folder, rng):
    path = pick(folder, rng)
    content = bytearray(path.read_bytes())
    for position in rng.sample(range(len(content)), rng.choice([1, 1, 2, 50])):
        content[position] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def swap(folder, rng):
    a, b = rng.sample(sorted(folder.iterdir()), 2)
    a_bytes = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(a_bytes)


def lose(folder, rng):
    pick(folder, rng).unlink()


def add(folder, rng):
    (folder / rng.choice(["data.pkl", "model.pt", "state.json.bak", ".hidden", "a\nb"])).write_bytes(rng.randbytes(9))


def put_pickle(folder, rng):
    harm, file = Harm(folder.parent / "trace"), io.BytesIO()
    rng.choice([pickle.dump, lambda value, file: torch.save(value, file)])(harm, file)
    path = rng.choice([path for path in sorted(folder.iterdir()) if path.name != "SHA256SUMS"])
    path.write_bytes(file.getvalue())
    if rng.random() < 0.5:
        seal(folder)


def link(folder, rng):
    """One to the file itself, moved away, has right digests too."""
    path = pick(folder, rng)
    moved = path.rename(folder.parent / "moved")
    path.symlink_to(rng.choice([moved, moved, "/dev/zero", path.name]))


def special(folder, rng):
    path = pick(folder, rng)
    path.unlink()
    rng.choice([os.mkfifo, os.mkdir])(path)


def huge_file(folder, rng):
    """Larger than any memory, and without room on the disk."""
    os.truncate(pick(folder, rng), 2**42)


def large_tensor(folder, rng):
    """Half a gigabyte with right digests, in a file that takes no room on the disk."""
    path = folder / rng.choice(["training.safetensors", "averaged_generator.safetensors"])
    header = b'{"a":{"dtype":"F32","shape":[134217728],"data_offsets":[0,536870912]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + 2**29)
    seal(folder)


MUTATIONS = [truncate, flip, swap, lose, add, put_pickle, link, special, huge_file]


def refusal(function):
    """What a function refuses, or None."""
    try:
        function()
    except (CheckpointError, SettingsError) as error:
        return str(error)
    return None


@contextlib.contextmanager
def seconds(limit):
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(limit)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def peak_memory():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("number", [60, pytest.param(1000, marks=pytest.mark.exhaustive)])
def test_damaged_checkpoints_are_refused_and_harm_nobody(tmp_path, tiny, monkeypatch, number):
    def forbidden(*args, **kwargs):
        raise AssertionError("something was unpickled")

    def use(run):
        trainer.folder = run
        trainer.resume()

    source = ResidentImages(load_dataset("digits", resolution=16).images, None, CPU)
    trainer = Trainer.from_config(tiny(), source)
    for _ in range(8):
        trainer.step()
    good = tmp_path / "good"
    save_checkpoint(good, 8, trainer.tensors(), trainer.state() | {"settings": kept_settings(trainer.config)})
    use(good)
    load_trained_generator(good, CPU)
    for target in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, target, forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_memory()
    for i in range(number):
        # The large tensor comes once: its digest takes a second.
        mutate, rng = MUTATIONS[i % len(MUTATIONS)] if i else large_tensor, random.Random(i)
        run = tmp_path / "run"
        shutil.copytree(good / "checkpoints" / "8", run / "checkpoints" / "8")
        mutate(run / "checkpoints" / "8", rng)
        with seconds(30):
            told = refusal(lambda run=run: load_trained_generator(run, CPU)), refusal(lambda run=run: use(run))
        assert told[1], f"{mutate.__name__} {i} was not refused"
        assert all(text is None or (text.isprintable() and len(text) < 700) for text in told)
        assert not (run / "checkpoints" / "trace").exists()
        shutil.rmtree(run)
    assert peak_memory() - before < 2**28
