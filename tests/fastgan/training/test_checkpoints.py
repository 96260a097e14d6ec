import json
import os

import pytest
import torch

from fastgan.models import build_networks
from fastgan.training import checkpoint as checkpoint_module
from fastgan.training.checkpoint import (
    check_checkpoint,
    latest_checkpoint,
    load_tensors,
    load_trained_generator,
    save_checkpoint,
)

ARCHITECTURE = {"model": "dcgan", "resolution": 16, "num_channels": 1, "latent_dim": 5, "base_channels": 4}


def content(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def groups(value=1.0):
    # Strided, integer and scalar tensors, as optimizer and random states have them.
    return {
        "first": {"b": torch.full((3, 4), value).T, "a": torch.arange(5), "c": torch.tensor(value)},
        "second": {"state": torch.arange(10, dtype=torch.uint8), "empty": torch.empty(0)},
    }


def generator_groups():
    torch.manual_seed(0)
    network = build_networks(**ARCHITECTURE).generator
    network(torch.randn(8, 5))
    return network, {"averaged_generator": network.state_dict()}


def test_what_is_saved_is_what_is_loaded(tmp_path):
    path = save_checkpoint(tmp_path, 12, groups(), {"step": 12, "text": 'é "'})
    assert path == tmp_path / "checkpoints" / "12"
    state = check_checkpoint(path)
    tensors = {group: load_tensors(path, group) for group in ("first", "second")}
    assert state == {"step": 12, "text": 'é "'}
    for group, members in groups().items():
        assert tensors[group].keys() == members.keys()
        for name, tensor in members.items():
            assert tensors[group][name].dtype == tensor.dtype
            assert torch.equal(tensors[group][name], tensor)


def test_equal_states_are_equal_bytes(tmp_path):
    first = save_checkpoint(tmp_path / "a", 3, groups(), {"step": 3, "device": "cpu"})
    reordered = {group: dict(reversed(members.items())) for group, members in reversed(groups().items())}
    second = save_checkpoint(tmp_path / "b", 3, reordered, {"device": "cpu", "step": 3})
    assert content(first) == content(second)
    third = save_checkpoint(tmp_path / "c", 3, groups(2.0), {"step": 3, "device": "cpu"})
    assert content(first) != content(third)


def test_the_latest_is_the_highest_number_not_the_last_name(tmp_path):
    for step in (9, 100, 20):
        save_checkpoint(tmp_path, step, groups(), {})
    (tmp_path / "checkpoints" / "notes").mkdir()
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "100"


@pytest.mark.parametrize("function", ["fsync", "rename"])
def test_a_crash_at_any_moment_leaves_the_previous_checkpoint_whole(tmp_path, monkeypatch, function):
    """Fails every call that reaches the disk, one after the other, and after each reads and repeats the save."""
    first = save_checkpoint(tmp_path, 1, groups(1.0), {"step": 1})
    before = content(first)
    real = {"fsync": os.fsync, "rename": checkpoint_module.Path.rename}[function]
    crashes = 0
    while True:
        calls = 0

        def fail(*args, at=crashes):
            nonlocal calls
            calls += 1
            if calls > at:
                raise OSError("the power is gone")
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(*{"fsync": (os, "fsync"), "rename": (checkpoint_module.Path, "rename")}[function], fail)
            try:
                save_checkpoint(tmp_path, 2, groups(2.0), {"step": 2})
            except OSError:
                crashes += 1
            else:
                break
        latest = latest_checkpoint(tmp_path)
        assert content(first) == before
        if latest.name == "2":  # the rename had happened: it is all there
            assert check_checkpoint(latest) == {"step": 2}
            break
        assert not (tmp_path / "checkpoints" / ".2.partial").exists()
    # Four files and the folder are synced before the rename.
    assert crashes >= {"fsync": 5, "rename": 1}[function]
    assert latest_checkpoint(tmp_path).name == "2"


def test_leftovers_of_a_crash_are_replaced(tmp_path):
    partial = tmp_path / "checkpoints" / ".5.partial"
    partial.mkdir(parents=True)
    (partial / "old.safetensors").write_bytes(b"old")
    assert latest_checkpoint(tmp_path) is None
    path = save_checkpoint(tmp_path, 5, groups(), {})
    files = ["SHA256SUMS", "first.safetensors", "second.safetensors", "state.json"]
    assert sorted(p.name for p in path.iterdir()) == files
    assert not partial.exists()


def test_the_averaged_generator_comes_back_ready_to_use(tmp_path):
    network, tensors = generator_groups()
    save_checkpoint(tmp_path, 40, tensors, {"step": 40, "architecture": ARCHITECTURE})
    loaded, step = load_trained_generator(tmp_path, torch.device("cpu"))
    assert step == 40
    assert not loaded.training
    assert loaded.latent_dim == 5
    latents = torch.randn(3, 5)
    assert torch.equal(loaded(latents), network.eval()(latents))


def test_json_is_readable_and_without_time(tmp_path):
    path = save_checkpoint(tmp_path, 1, groups(), {"step": 1})
    assert json.loads((path / "state.json").read_text()) == {"format": 2, "step": 1}
