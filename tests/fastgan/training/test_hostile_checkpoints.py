"""A thousand checkpoints that were damaged, or made to harm by somebody who can write right digests."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import signal
import socket
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fastgan.data import load_dataset
from fastgan.data.sources import ResidentImages
from fastgan.training.checkpoints import (
    CheckpointError,
    find_checkpoint,
    load_averaged_generator,
    save_checkpoint,
)
from fastgan.training.config import SettingsError
from fastgan.training.engine import Engine
from fastgan.training.health import judge
from fastgan.training.resuming import kept_settings, restore

CPU = torch.device("cpu")
GROUPS = ("generator", "discriminator", "averaged_generator", "training")


class Harm:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def seal(folder):
    """Writes the digests of what there is, links followed, as a hostile author would."""
    lines = []
    for path in sorted(p for p in folder.iterdir() if p.name != "SHA256SUMS" and p.is_file()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    (folder / "SHA256SUMS").write_text("".join(lines))


# Damage: the digests stay as they were.


def pick(folder, rng):
    return rng.choice(sorted(folder.iterdir()))


def truncate(folder, rng):
    path = pick(folder, rng)
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def flip(folder, rng):
    path = pick(folder, rng)
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 2, 50])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    if bytes(content) == path.read_bytes():
        content[0] ^= 1
    path.write_bytes(content)


def swap(folder, rng):
    a, b = rng.sample(sorted(folder.iterdir()), 2)
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


def lose(folder, rng):
    pick(folder, rng).unlink()


def add(folder, rng):
    (folder / rng.choice(["data.pkl", "model.pt", "state.json.bak", ".hidden", "a\nb"])).write_bytes(rng.randbytes(9))


def put_pickle(folder, rng):
    pick(folder, rng).write_bytes(rng.choice([pickle.dumps, torch_bytes])(Harm(folder.parent / "trace")))


def torch_bytes(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


# Files that are no files.


def link(folder, rng):
    path = pick(folder, rng)
    path.unlink()
    path.symlink_to(rng.choice(["/etc/passwd", "/dev/zero", "/dev/full", "../outside", "state.json", path.name]))


def special(folder, rng):
    path = pick(folder, rng)
    path.unlink()
    kind = rng.choice(["fifo", "folder", "device", "socket"])
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(folder):
            made.bind(path.name)
    elif kind == "device":
        try:
            os.mknod(path, 0o666 | 0o020000, os.makedev(1, 5))  # /dev/zero
        except PermissionError:
            os.mkfifo(path)
    else:
        (os.mkfifo if kind == "fifo" else os.mkdir)(path)


def huge_file(folder, rng):
    path = pick(folder, rng)
    try:
        os.truncate(path, rng.choice([2**40, 2**28 if path.suffix == ".safetensors" else 2**34]))
    except OSError:  # more than a file may have here
        path.unlink()


# Hostile contents: the digests are made right afterwards.

VALUES = [None, True, -1, 2**63, 10**40, 1e400, float("nan"), "", "x" * 1000, "\ud800", [], {}, [[]], {"": 0}]


def leaves(values, path=()):
    for key, value in list(values.items() if isinstance(values, dict) else enumerate(values)):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))


def edit_state(folder, rng):
    state = json.loads((folder / "state.json").read_text())
    for _ in range(rng.choice([1, 1, 3])):
        *path, last = rng.choice(list(leaves(state)))
        inner = state
        for key in path:
            inner = inner[key]
        if rng.random() < 0.3 and isinstance(inner, dict):
            del inner[last]
        else:
            inner[last] = rng.choice(VALUES)
    (folder / "state.json").write_text(json.dumps(state))


def bad_json(folder, rng):
    text = (folder / "state.json").read_text()
    hostile = [
        text.replace('"step"', '"step": 8, "step"'),
        text.replace("{", "{" + '"a": 1, ' * 2, 1),
        "[" * 100_000,
        '{"a":' * 100_000,
        "[" * 900 + "]" * 900,
        "9" * 5000,
        text.replace('"num_images"', f'"more": {"9" * 5000}, "num_images"'),
        "null",
        "[1]",
        '"text"',
        "\ufeff" + text,
        "",
        "{}",
        text + "x",
        " " * 2**24 + text,
        text.replace('"format": 2', '"format": 2.5'),
    ]
    (folder / "state.json").write_text(rng.choice(hostile))


def wild_architecture(folder, rng):
    state = json.loads((folder / "state.json").read_text())
    name = rng.choice(
        ["base_channels", "latent_dim", "num_channels", "num_classes", "resolution", "minibatch", "model"]
    )
    values = [2**62, 10**30, 10**9, 10**6, 4096, 0, -3, 2.5, "stylegan", "../../x", "sngan", [7], None]
    state["architecture"][name] = rng.choice(values)
    if state["architecture"][name] is None:
        state["architecture"][name] = 10**7
    (folder / "state.json").write_text(json.dumps(state))


def edit_tensors(folder, rng):
    path = folder / f"{rng.choice(GROUPS)}.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    name = rng.choice(sorted(tensors))
    tensor = tensors.pop(name)
    # A name less in Adam's state is a step that was never averaged: rarely a fault, so whole entries stay.
    change = rng.choice(["lose", "rename", "add", "flat", "wide", "scalar", "empty", "type", "huge"])
    if change == "rename":
        tensors[name + ".x"] = tensor
    elif change == "add":
        tensors |= {name: tensor, rng.choice(["more", "generator_optimizer.999.step", "__metadata"]): torch.ones(2)}
    elif change == "flat":
        tensors[name] = tensor.flatten()[:-1] if tensor.numel() > 1 else torch.ones(7)
    elif change == "wide":
        tensors[name] = tensor[None].repeat(2, *[1] * tensor.dim())
    elif change == "scalar":
        tensors[name] = torch.ones((1, 1))
    elif change == "empty":
        tensors[name] = torch.empty(0, 10**9)
    elif change == "type":
        tensors[name] = tensor.to(torch.float64 if tensor.dtype != torch.float64 else torch.int8)
    elif change == "huge":
        tensors[name] = torch.zeros(2**19)
    path.write_bytes(safetensors.torch.save(tensors))


def bad_header(folder, rng):
    path = folder / f"{rng.choice(GROUPS)}.safetensors"
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header, data = content[8 : 8 + length], content[8 + length :]
    first = '{"a":{"dtype":"F32","shape":%s,"data_offsets":%s}}'
    headers = [
        first % ("[1099511627776]", "[0,4398046511104]"),
        first % ("[4294967296,4294967296]", "[0,0]"),
        first % ("[1]", "[0,4]"),
        first % ("[1]", "[4,0]"),
        first % ("[-1]", "[0,4]"),
        first % ("[1]", "[18446744073709551612,18446744073709551615]"),
        first.replace("F32", "F77") % ("[1]", "[0,4]"),
        first.replace("F32", "F8_E8M0") % ("[4]", f"[0,{len(data)}]"),
        '{"a":' * 50_000,
        header.decode().replace('"dtype":"F32"', '"dtype":"F64"', 1),
        header.decode()[:-1] + "," + header.decode()[1:],
        "[]",
        "",
        "\x00" * 20,
    ]
    new = rng.choice(headers).encode()
    length = rng.choice([len(new)] * 4 + [2**63, 2**64 - 1, 99_999_999, 0])
    path.write_bytes(struct.pack("<Q", length) + new + data)


def large_file(folder, rng):
    """A tensor of half a gigabyte, in a file that takes no room on the disk."""
    path = folder / rng.choice(["training.safetensors", "averaged_generator.safetensors"])
    header = b'{"a":{"dtype":"F32","shape":[134217728],"data_offsets":[0,536870912]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + 2**29)


def listed_pickle(folder, rng):
    harm = rng.choice([pickle.dumps, torch_bytes])(Harm(folder.parent / "trace"))
    names = ["data.pkl", "optimizer.pt", "generator.pt", *(f"{group}.safetensors" for group in GROUPS), "state.json"]
    (folder / rng.choice(names)).write_bytes(harm)


# Each with its share of the thousand, and whether the digests are made right.
MUTATIONS = {
    **{truncate: (100, False), flip: (150, False), swap: (60, False), lose: (30, False), add: (30, False)},
    **{put_pickle: (50, False), link: (60, True), special: (50, False), huge_file: (20, False)},
    **{edit_state: (150, True), bad_json: (60, True), wild_architecture: (60, True), edit_tensors: (100, True)},
    **{bad_header: (60, True), large_file: (6, True), listed_pickle: (14, True)},
}
HARMLESS = {edit_state, listed_pickle}  # some of them: another count, or a file that nobody reads


def make(tiny):
    config = tiny()
    return Engine(config, ResidentImages(load_dataset("digits", resolution=16).images, None, CPU), CPU)


def refusal(function):
    """What a function refuses, or None."""
    try:
        function()
    except (CheckpointError, SettingsError) as error:
        return str(error)
    return None


def is_one_sentence(text):
    return text.isprintable() and len(text) < 700


@contextlib.contextmanager
def seconds(limit):
    def late(number, frame):
        pytest.fail("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(limit)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def peak_memory():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_a_thousand_checkpoints_harm_nobody(tmp_path, tiny, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("something was unpickled")

    engine = make(tiny)
    for _ in range(8):
        engine.step()
    good = tmp_path / "good"
    state = engine.state() | {"settings": kept_settings(engine.config)}
    save_checkpoint(good, 8, engine.tensors(), state)
    (tmp_path / "outside").write_bytes(b"outside")
    engine = make(tiny)
    restore(engine, *find_checkpoint(good))
    load_averaged_generator(good, CPU)
    for target in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, target, forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_memory()

    def use(run):
        restore(engine, *find_checkpoint(run))
        # What is not refused must do: a step and a report.
        engine.step()
        judge(engine.history, engine.statistics.read(engine.step_count), "non-saturating")
        engine.mean_losses()

    assert sum(share for share, _ in MUTATIONS.values()) == 1000
    counts = {}
    for mutate, (share, sealed) in MUTATIONS.items():
        rng = random.Random(mutate.__name__)
        counts[mutate.__name__] = [0, 0]
        for i in range(share):
            run = tmp_path / "run"
            folder = run / "checkpoints" / "8"
            shutil.copytree(good / "checkpoints" / "8", folder)
            with seconds(30):
                mutate(folder, rng)
                if sealed:
                    with contextlib.suppress(OSError):
                        if not any(p.is_symlink() and "/dev/" in os.readlink(p) for p in folder.iterdir()):
                            seal(folder)
            with seconds(30):
                told = refusal(lambda run=run: load_averaged_generator(run, CPU)), refusal(lambda run=run: use(run))
            assert [text for text in told if text is not None and not is_one_sentence(text)] == []
            assert not (run / "checkpoints" / "trace").exists()
            if mutate not in HARMLESS:
                assert told[1], f"{mutate.__name__} {i} was not refused"
            counts[mutate.__name__][0] += told[0] is not None
            counts[mutate.__name__][1] += told[1] is not None
            shutil.rmtree(run)
    print(counts)
    assert peak_memory() - before < 2**28
