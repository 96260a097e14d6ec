"""Whole runs on two ranks: one folder, written by the first; stopped, resumed and restarted together."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import own_networks
import pytest
import torch
from processes import in_processes
from rich.console import Console

from fastgan.errors import InputError
from fastgan.training import fit
from fastgan.training import trainer as trainer_module
from fastgan.training.checkpoint import latest_checkpoint, load_tensors, save_checkpoint
from fastgan.training.fit import EndedError
from fastgan.training.run import resume_run, start_run
from fastgan.training.trainer import Trainer


def run_of(config, run, action=None):
    """A run as a rank that torchrun started trains it; ``action`` is taken on it after each step."""
    console = Console(file=io.StringIO(), width=200)
    step = Trainer.step
    if action is not None:
        Trainer.step = lambda trainer: (step(trainer), action(trainer))
    received = start_run(config, run, console=console)
    return received, console.file.getvalue()


def resumed(run):
    return resume_run(run, console=Console(file=io.StringIO()))


def content(run):
    """The last checkpoint's files, and the rows of the log without what depends on the machine."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["images_per_second"], row["peak_memory_mib"]
    return {path.name: path.read_bytes() for path in latest_checkpoint(run).iterdir()}, rows


@pytest.fixture
def config(tiny, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)

    def make(**settings):
        own = {"model": "plain", "data": str(tmp_path / "images.npy"), "checkpoint_every": 6, "log_every": 3}
        return tiny(**own | settings)

    return make


@pytest.mark.parametrize(
    "streamed", [pytest.param(False, marks=pytest.mark.exhaustive), True], ids=["resident", "streamed"]
)
def test_a_run_on_two_ranks_is_one_run(config, tmp_path, streamed):
    """In float64, so that the sum of two halves is the same to many digits."""
    settings = {"precision": "float64"} | ({"data_on_device": "no", "workers": 1} if streamed else {})
    start_run(config(**settings), tmp_path / "one", console=Console(file=io.StringIO()))
    (_, told), (_, told_by_second) = in_processes(2, run_of, config(**settings), tmp_path / "two")
    assert "on cpu, 2 ranks with 20 images" in told
    assert "step 12/12" in told
    assert "step 12/12" not in told_by_second
    names = [sorted(path.name for path in (tmp_path / run).iterdir()) for run in ("one", "two")]
    assert names[0] == names[1]
    (_, one), (_, two) = content(tmp_path / "one"), content(tmp_path / "two")
    assert [row["step"] for row in two] == [3, 6, 9, 12]
    for a, b in zip(one, two, strict=True):
        assert b["discriminator_loss"] == pytest.approx(a["discriminator_loss"], rel=1e-5)
        assert b["generator_loss"] == pytest.approx(a["generator_loss"], rel=1e-5)


def on_own_disk(function, *args):
    """On a host of its own: the same relative paths, and nothing that the other rank wrote."""
    folder = Path(f"host-{os.environ['RANK']}")
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    return function(*args)


def sentence_of(function, *args):
    try:
        function(*args)
    except (InputError, EndedError) as error:
        return type(error), str(error)


@pytest.mark.parametrize(
    "settings",
    [{"steps": 12, "checkpoint_every": 12}, pytest.param({"evaluate_every": 3}, marks=pytest.mark.exhaustive)],
)
def test_hosts_need_not_share_a_disk(config, tmp_path, monkeypatch, settings):
    """Whether a run has begun, its settings, its checkpoints and its samples are what the first rank finds."""
    monkeypatch.chdir(tmp_path)
    settings |= {"evaluate_features": "digits", "evaluate_count": 20}
    run = Path("run")
    in_processes(2, run_of, config(**settings), tmp_path / "straight")
    results = in_processes(2, on_own_disk, run_of, config(**settings), run, interrupt_second)
    assert [received for received, _ in results] == [signal.SIGTERM] * 2
    refusals = in_processes(2, on_own_disk, sentence_of, run_of, config(**settings), run)
    assert refusals[0] == refusals[1]
    assert "has a checkpoint already" in refusals[0][1]
    assert in_processes(2, on_own_disk, resumed, run) == [None, None]
    assert in_processes(2, on_own_disk, resumed, run) == [None, None]  # which finds the run at its last step
    files, _ = content(tmp_path / "host-0" / "run")
    assert files == content(tmp_path / "straight")[0]
    assert (tmp_path / "host-0" / "run" / "samples" / "12.png").exists()
    assert not list((tmp_path / "host-1").iterdir())


def slow_save(*args, **options):
    time.sleep(0.5)
    return save_checkpoint(*args, **options)


@pytest.mark.parametrize(
    "settings", [{"steps": 6}, pytest.param({"steps": 6, "checkpoint_every": 100}, marks=pytest.mark.exhaustive)]
)
def test_the_last_step_is_saved_once_however_long_that_takes(config, tmp_path, monkeypatch, settings):
    """Another rank that looked for the checkpoint, and did not find it yet, saved it again."""
    monkeypatch.setattr(trainer_module, "save_checkpoint", slow_save)
    (received, _), _ = in_processes(2, run_of, config(**{"checkpoint_every": 6} | settings), tmp_path / "run")
    assert received is None
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["6"]


def full_disk(*args, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", ["Reporter", "save_checkpoint", "find_checkpoint"])
def test_what_fails_on_the_first_rank_ends_all_with_its_sentence(config, tmp_path, monkeypatch, name):
    if name == "find_checkpoint":
        results = in_processes(2, on_own_disk, sentence_of, resumed, tmp_path / "no-run")
    else:
        monkeypatch.setattr(fit if name == "Reporter" else trainer_module, name, full_disk)
        results = in_processes(2, on_own_disk, sentence_of, run_of, config(), tmp_path / "run")
    assert results[0] == results[1]
    assert "No space left" in results[0][1] or "does not exist" in results[0][1]


def interrupt_second(trainer):
    if trainer.distributed.rank == 1 and trainer.step_count == 7:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_to_one_rank_stops_all_and_the_run_goes_on_exactly(config, tmp_path):
    in_processes(2, run_of, config(), tmp_path / "straight")
    results = in_processes(2, run_of, config(), tmp_path / "stopped", interrupt_second)
    assert [received for received, _ in results] == [signal.SIGTERM] * 2
    assert "Stopped at step 7 of 12 and saved" in results[0][1]
    assert latest_checkpoint(tmp_path / "stopped").name == "7"
    assert in_processes(2, resumed, tmp_path / "stopped") == [None, None]
    (files, log), (expected_files, expected_log) = content(tmp_path / "stopped"), content(tmp_path / "straight")
    assert files == expected_files
    # The sums of the interval that was cut were averaged over the ranks once more.
    for row, expected in zip(log, expected_log, strict=True):
        assert row == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("before", "after"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.exhaustive)])
def test_a_run_goes_on_with_another_number_of_ranks(config, tmp_path, before, after):
    settings = {"precision": "float64"}
    start_run(config(**settings), tmp_path / "straight", console=Console(file=io.StringIO()))
    run = tmp_path / "run"
    in_processes(before, run_of, config(**settings), run, interrupt_last)
    assert latest_checkpoint(run).name == "7"
    assert in_processes(after, resumed, run) == [None] * after
    for name in ("generator", "discriminator"):
        folders = latest_checkpoint(run), latest_checkpoint(tmp_path / "straight")
        found, expected = (load_tensors(folder, name, most_bytes=10**9) for folder in folders)
        assert found.keys() == expected.keys()
        for tensor in expected:
            assert (found[tensor] - expected[tensor]).norm() <= 1e-9 * expected[tensor].norm()


def interrupt_last(trainer):
    if trainer.distributed.rank == trainer.distributed.world_size - 1 and trainer.step_count == 7:
        os.kill(os.getpid(), signal.SIGTERM)


def die_in_the_middle(trainer):
    if trainer.step_count == 8:
        os._exit(9) if trainer.distributed.rank else time.sleep(0.1)


def test_ranks_that_are_started_again_go_on_from_the_last_checkpoint(config, tmp_path):
    run = tmp_path / "run"
    with pytest.raises((AssertionError, RuntimeError)):  # one is gone, and the other may have noticed
        in_processes(2, run_of, config(), run, die_in_the_middle)
    assert latest_checkpoint(run).name == "6"
    in_processes(2, run_of, config(), run, TORCHELASTIC_RESTART_COUNT="1")
    in_processes(2, run_of, config(), tmp_path / "straight")
    assert content(run) == content(tmp_path / "straight")


def spoil(trainer):
    if trainer.distributed.rank == 1 and trainer.step_count == 4:
        with torch.no_grad():
            next(trainer.discriminator.parameters()).view(-1)[0] = float("nan")


def fails(config, run):
    try:
        run_of(config, run, spoil)
    except RuntimeError as error:
        return str(error)


def test_what_is_not_finite_on_one_rank_ends_all_with_one_sentence(config, tmp_path):
    sentences = in_processes(2, fails, config(), tmp_path / "run")
    assert sentences[0] == sentences[1]
    assert re.match(r"non-finite values: .*the state at step 6 is in", sentences[0])
    assert (tmp_path / "run" / "non_finite" / "6").is_dir()


def test_the_first_rank_measures_and_all_keep_the_best(config, tmp_path):
    settings = {"evaluate_every": 3, "evaluate_count": 20, "evaluate_features": "digits", "keep_checkpoints": 1}
    run = tmp_path / "run"
    (_, told), _ = in_processes(2, run_of, config(**settings), run)
    _, rows = content(run)
    measured = {row["step"]: row["fid"] for row in rows}
    best = min(measured, key=measured.get)
    assert sorted(measured) == [3, 6, 9, 12]
    assert f"at step {best}, whose checkpoint is kept" in told
    assert {path.name for path in (run / "checkpoints").iterdir()} == {str(best), "12"}


@pytest.mark.exhaustive
def test_torchrun_starts_a_killed_rank_again(config, tmp_path):
    """The real launcher, from the command line; one rank is killed once there is a checkpoint."""
    config_file = tmp_path / "settings.toml"
    run = tmp_path / "run"
    settings = {"resolution": 16, "base_channels": 4, "batch_size": 8, "latent_dim": 8, "log_every": 10}
    config_file.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
    given = ["--config", config_file, "--steps", 400, "--checkpoint-every", 20, "--device", "cpu", "--out"]

    def command(folder, restarts):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", 2, "--max-restarts", restarts]
        launcher += ["--master_port", 29517, "-m", "fastgan", "train", "sngan", *given, folder]
        return list(map(str, launcher))

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command(run, 1), env=environment, stdout=subprocess.PIPE, text=True)
    while not (run / "checkpoints" / "40").exists():
        assert process.poll() is None
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert "Trained to step 400" in out
    subprocess.run(command(tmp_path / "straight", 0), env=environment, check=True, capture_output=True)
    assert content(run) == content(tmp_path / "straight")


class Stop:
    def __init__(self, rank):
        self.rank = rank

    def on_step(self, trainer, step, metrics):
        return step == 4 and trainer.distributed.rank == self.rank


def own_run(out, rank, resumes=False):
    torch.manual_seed(0)
    settings = {"latent_dim": 8, "batch_size": 6, "steps": 8, "device": "cpu", "loss": "hinge", "precision": "float64"}
    images = torch.randint(0, 256, (20, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    networks = own_networks.r3gan()
    penalties = [("r1", "cosine(1, 0.1, 8)", 2), ("r2", 1.0, 1)]
    callbacks = [Stop(None if resumes else rank)]
    console = Console(file=io.StringIO())
    trainer = Trainer(
        *networks, images, out=out, regularizers=penalties, callbacks=callbacks, console=console, **settings
    )
    trainer.fit()
    return trainer.step_count, [p.detach().numpy() for network in networks for p in network.parameters()]


def test_a_script_trains_networks_of_the_user_on_two_ranks(tmp_path):
    """A callback of any rank ends all; the script that is run again resumes all."""
    expected = own_run(tmp_path / "one", 0), own_run(tmp_path / "one", 0, True)
    for resumes, (steps, parameters) in enumerate(expected):
        results = in_processes(2, own_run, tmp_path / "two", 1, bool(resumes))
        assert [step for step, _ in results] == [steps, steps] == [8 if resumes else 4] * 2
        for _, found in results:
            for a, b in zip(found, parameters, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)
