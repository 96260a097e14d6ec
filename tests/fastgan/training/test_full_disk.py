"""Runs whose disk is full: at one write after the other, at the limit of a file's size, and on a small file system."""

import errno
import json
import os
import re
import resource
import subprocess

import pytest
from tensorboard.compat.tensorflow_stub.io import gfile

from fastgan import cli
from fastgan.training import checkpoint as checkpoint_module
from fastgan.training import fit, logging, trainer
from fastgan.training.checkpoint import check_checkpoint, list_checkpoints
from fastgan.training.config import to_toml
from fastgan.training.run import start_run
from fastgan.training.trainer import Trainer


@pytest.fixture
def fastgan(capsys):
    def run(*args):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(arg) for arg in args])
        return caught.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The last checkpoint and the log of a run that always had room, made when asked for."""
    made = []

    def run(config, console):
        if not made:
            made.append(tmp_path_factory.mktemp("expected"))
            start_run(config, made[0], console=console)
        return content(made[0])

    return run


def content(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    of_the_machine = "images_per_second", "peak_memory_mib"
    log = [{key: value for key, value in row.items() if key not in of_the_machine} for row in rows]
    pictures = {path.name: path.read_bytes() for path in (run / "samples").iterdir()}
    return log, pictures, {path.name: path.read_bytes() for path in (run / "checkpoints" / "12").iterdir()}


def require_ended_well(run, code, out, err, what="No space left on device"):
    """One sentence, exit code 1, and nothing half written."""
    assert code == 1
    whole = list_checkpoints(run)
    latest = (
        rf"the latest checkpoint, {run}/checkpoints/{whole[-1].name}, is whole"
        if whole
        else "no checkpoint was written"
    )
    again = f"resume with 'fastgan train --resume {run}'" if whole else "start again"
    assert err == f"fastgan: run folder '{run}' cannot be written: {what}; {latest}; make room and {again}\n"
    assert "Traceback" not in out
    for checkpoint in whole:
        check_checkpoint(checkpoint)
    assert [path for path in run.rglob("*") if "partial" in path.name] == []


SITES = {
    "checkpoint": (checkpoint_module, "write_file"),
    "folder of a checkpoint": (checkpoint_module, "sync_folder"),
    "samples": (logging, "save_png"),
    "log": (logging.Reporter, "sync"),
    "TensorBoard": (gfile.LocalFileSystem, "append"),
    "deletion": (trainer, "drop_checkpoints"),
}


# TensorBoard's thread fails too, and would print a traceback.
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("site", "at"),
    [(site, 0) for site in SITES]
    + [("checkpoint", 7)]
    + [pytest.param(site, 7, marks=pytest.mark.exhaustive) for site in SITES if site != "checkpoint"],
)
def test_every_write_may_find_the_disk_full(tmp_path, tiny, console, fastgan, expected, monkeypatch, site, at):
    config = tiny(model="plain", keep_checkpoints=1)
    straight = expected(config, console)
    (tmp_path / "settings.toml").write_text(to_toml(config))
    run = tmp_path / "run"
    calls = 0
    owner, name = SITES[site]
    real = getattr(owner, name)

    def full(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls > at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        code, out, err = fastgan("train", "--config", tmp_path / "settings.toml", "--out", run)
    if calls <= at:
        assert code == 0  # there are not as many such writes
    else:
        require_ended_well(run, code, out, err)
        again = ("--resume", run) if list_checkpoints(run) else ("--config", tmp_path / "settings.toml", "--out", run)
        assert fastgan("train", *again)[0] == 0
    assert content(run) == straight


def test_a_file_may_be_larger_than_it_may_be(tmp_path, tiny, fastgan):
    """The limit on a file's size is one that any user may set; the largest file of a run is that of its optimizers."""
    (tmp_path / "settings.toml").write_text(to_toml(tiny()))
    run = tmp_path / "run"
    arguments = ("train", "--config", tmp_path / "settings.toml", "--out", run)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        code, out, err = fastgan(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    require_ended_well(run, code, out, err, "File too large")
    assert fastgan(*arguments)[0] == 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte, where the machine lets us make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("left", [3, *(pytest.param(pages, marks=pytest.mark.exhaustive) for pages in (0, 8, 20))])
def test_a_small_disk_fills_up(small_disk, tmp_path, tiny, console, fastgan, expected, monkeypatch, left):
    """After 6 steps another program leaves so many pages of it."""
    config = tiny(model="plain", keep_checkpoints=1)
    straight = expected(config, console)
    (tmp_path / "settings.toml").write_text(to_toml(config))
    run = small_disk / "run"
    real = Trainer.step

    def step(trainer):
        real(trainer)
        if trainer.step_count == 6 and not (small_disk / "others").exists():
            free = os.statvfs(small_disk).f_bavail
            (small_disk / "others").write_bytes(bytes(4096 * max(free - left, 0)))

    monkeypatch.setattr(Trainer, "step", step)
    code, out, err = fastgan("train", "--config", tmp_path / "settings.toml", "--out", run)
    assert re.search("^step 5/12", out, re.MULTILINE)
    require_ended_well(run, code, out, err)
    assert list_checkpoints(run)[0].name == "4"
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert fastgan("train", "--resume", run)[0] == 0
    assert content(run) == straight


def test_what_is_no_lack_of_room_is_told_as_it_is(tmp_path, tiny, console, monkeypatch):
    def fail(*args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(trainer, "save_checkpoint", fail)
    with pytest.raises(fit.WriteError, match="Input/output error; no checkpoint was written; put that right and start"):
        start_run(tiny(), tmp_path, console=console)
