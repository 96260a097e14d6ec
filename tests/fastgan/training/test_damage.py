"""Checkpoints that were damaged, and what a run does about them."""

import shutil
import warnings

import pytest
import torch

from fastgan import cli
from fastgan.training.checkpoint import (
    CheckpointError,
    check_checkpoint,
    find_checkpoint,
    list_checkpoints,
    load_trained_generator,
    save_checkpoint,
)
from fastgan.training.run import resume_run, start_run

CPU = torch.device("cpu")
TENSORS = {"one": {"weight": torch.arange(6.0)}, "two": {"weight": torch.arange(6.0), "other": torch.tensor(3)}}
FILES = ("SHA256SUMS", "one.safetensors", "state.json", "two.safetensors")


def flip(path, index=0, bit=0):
    content = bytearray(path.read_bytes())
    content[index] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_every_altered_byte_is_noticed(tmp_path, name):
    """Every byte with a bit flipped, every length cut off, and one byte more: all of them, of every file."""
    checkpoint = save_checkpoint(tmp_path, 3, TENSORS, {"seven": 7})
    path = checkpoint / name
    content = path.read_bytes()
    altered = [content[:i] + bytes([content[i] ^ 1 << (i % 8)]) + content[i + 1 :] for i in range(len(content))]
    altered += [content[:i] for i in range(len(content))] + [content + b"\0", content + b"\n", b" " + content]
    for wrong in altered:
        path.write_bytes(wrong)
        with pytest.raises(CheckpointError, match=r"^checkpoint '.*/3' is damaged: [^\n]*$"):
            check_checkpoint(checkpoint)
    path.write_bytes(content)
    assert check_checkpoint(checkpoint) == {"seven": 7, "step": 3}


def exchange(a, b):
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *[(lambda c, name=name: (c / name).unlink(), f"{name} is missing") for name in FILES],
        (lambda c: exchange(c / "one.safetensors", c / "two.safetensors"), "one.safetensors is not the file that was"),
        (lambda c: exchange(c / "state.json", c.parent / "2" / "state.json"), "state.json is not the file that was"),
        (lambda c: exchange(c / "SHA256SUMS", c.parent / "2" / "SHA256SUMS"), "is not the file that was saved"),
        (lambda c: (c / "more.safetensors").write_bytes(b""), "'more.safetensors' is not one of its files"),
        (lambda c: (c / "folder").mkdir(), "'folder' is no ordinary file"),
        (lambda c: (shutil.rmtree(c), (c.parent / "2").rename(c)), "it is that of step 2"),
        (lambda c: (shutil.rmtree(c), c.write_text("")), "it is no folder"),
        (lambda c: (c.rename(c.parent / "x"), c.symlink_to(c.parent / "x")), "it is no folder"),
        (lambda c: (shutil.rmtree(c), c.mkdir()), "SHA256SUMS is missing"),
    ],
)
def test_what_is_damaged_is_told_in_a_sentence(tmp_path, change, message):
    save_checkpoint(tmp_path, 2, TENSORS | {"one": {"weight": torch.ones(6)}}, {})
    checkpoint = save_checkpoint(tmp_path, 3, TENSORS, {})
    change(checkpoint)
    with pytest.raises(CheckpointError) as caught:
        check_checkpoint(checkpoint)
    assert str(caught.value).startswith(f"checkpoint '{checkpoint}' is damaged: ")
    assert message in str(caught.value)


def test_a_checkpoint_of_another_format_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("fastgan.training.checkpoint._FORMAT", 3)
        checkpoint = save_checkpoint(tmp_path, 3, TENSORS, {})
    with pytest.raises(CheckpointError, match="has format 3, expected 2"):
        check_checkpoint(checkpoint)


def test_sums_are_those_of_sha256sum(tmp_path):
    """So that a copy can be checked with what every machine has."""
    import subprocess

    checkpoint = save_checkpoint(tmp_path, 3, TENSORS, {})
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=checkpoint, check=True, capture_output=True)


def test_the_latest_whole_checkpoint_is_found_and_each_other_one_told_of(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, TENSORS, {})
    said = []
    assert find_checkpoint(tmp_path, warn=said.append)[0].name == "3"
    assert said == []
    flip(tmp_path / "checkpoints" / "3" / "two.safetensors", 100)
    (tmp_path / "checkpoints" / "2" / "state.json").unlink()
    checkpoint, state = find_checkpoint(tmp_path, warn=said.append)
    assert (checkpoint.name, state) == ("1", {"step": 1})
    folder = tmp_path / "checkpoints"
    assert said == [
        f"checkpoint '{folder / '3'}' is damaged: two.safetensors is not the file that was saved, by its SHA-256; "
        f"checkpoint '{folder / '1'}' is used instead",
        f"checkpoint '{folder / '2'}' is damaged: state.json is missing; checkpoint '{folder / '1'}' is used instead",
    ]
    flip(tmp_path / "checkpoints" / "1" / "SHA256SUMS")
    with pytest.raises(CheckpointError, match=r"'.*/3' is damaged: .*; run '.*' has no other that is whole"):
        find_checkpoint(tmp_path)


def test_a_checkpoint_is_never_overwritten(tmp_path):
    checkpoint = save_checkpoint(tmp_path, 3, TENSORS, {})
    with pytest.raises(CheckpointError, match="is there already, and is not overwritten"):
        save_checkpoint(tmp_path, 3, {}, {})
    check_checkpoint(checkpoint)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_whose_latest_checkpoint_is_damaged_resumes_from_the_one_before(tmp_path, tiny, console, capsys):
    straight, run = tmp_path / "straight", tmp_path / "run"
    start_run(tiny(), straight, console=console)
    start_run(tiny(), run, console=console)
    flip(run / "checkpoints" / "12" / "training.safetensors", 700)
    flip(run / "checkpoints" / "8" / "SHA256SUMS", 70)
    damaged = {step: files(run / "checkpoints" / step) for step in ("8", "12")}

    with pytest.raises(SystemExit) as caught:
        cli.main(["generate", str(run), "--count", "2", "--device", "cpu"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "/12' is damaged: training.safetensors is not the file" in out
    assert "from step 4, seed 0" in out
    with pytest.warns(UserWarning, match="is damaged"):
        assert load_trained_generator(run, CPU)[1] == 4
    assert [c.name for c in list_checkpoints(run)] == ["4", "8", "12"]  # to look is not to touch

    console.file.truncate(0)
    assert resume_run(run, console=console) is None
    said = console.file.getvalue()
    assert said.count("warning: ") == 2
    assert f"The damaged checkpoint is kept as {run / 'checkpoints' / '12.damaged'}" in said
    for step in ("8", "12"):
        assert files(run / "checkpoints" / f"{step}.damaged") == damaged[step]
        assert files(run / "checkpoints" / step) == files(straight / "checkpoints" / step)
    logs = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (run, straight)]
    without_speed = [[line.split(', "images_per_second')[0] for line in log] for log in logs]
    assert without_speed[0] == without_speed[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_trained_generator(run, CPU)[1] == 12


def test_a_run_without_a_whole_checkpoint_is_refused_with_exit_code_2(tmp_path, tiny, console, capsys):
    start_run(tiny(steps=8), tmp_path, console=console)
    for checkpoint in list_checkpoints(tmp_path):
        flip(checkpoint / "state.json", 20)
    for command in (["train", "--resume"], ["generate"]):
        with pytest.raises(SystemExit) as caught:
            cli.main([*command, str(tmp_path)])
        assert caught.value.code == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert captured.err.startswith(f"fastgan: checkpoint '{tmp_path}/checkpoints/8' is damaged: state.json is not")
        assert f"; run '{tmp_path}' has no other that is whole; train anew" in captured.err
