"""Trains small runs in processes that are killed, again and again.

Called with a folder, a number of kills for each run, a seed, and the runs, each as "model/switch".

torch takes seconds to import, so a process that has it, and has trained once, forks the others. It has no thread but
its first: torch has one on the CPU, with OMP_NUM_THREADS=1 and no GPU in sight. Prints a line of JSON for each run:
how many kills hit a checkpoint half written, and what differs at the end from a run that was never interrupted.
"""

import io
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from rich.console import Console

from fastgan.training.checkpoint import latest_checkpoint
from fastgan.training.config import TrainingConfig, load_preset
from fastgan.training.run import resume_run, start_run

TINY = {
    **{"resolution": 16, "base_channels": 4, "latent_dim": 8, "batch_size": 4, "batch_sizes": "", "device": "cpu"},
    **{"steps": 24, "log_every": 2, "sample_every": 10, "checkpoint_every": 3, "keep_checkpoints": 2},
}
MODELS = {
    "dcgan": {},
    "wgan-gp": {"discriminator_steps": 2},
    "stylegan": {"grow_stable_steps": 8, "grow_fade_steps": 8, "batch_sizes": "8:6"},
}
SWITCHES = {
    "plain": {},
    "channels_last": {"channels_last": True},
    "bfloat16": {"precision": "bfloat16"},
    "fid": {"evaluate_every": 4, "evaluate_count": 32},
}

TOUCHES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")


def config_of(model, switch):
    return TrainingConfig.from_mapping(load_preset(model) | TINY | MODELS[model] | SWITCHES[switch])


def train(run, config):
    console = Console(file=io.StringIO())
    if latest_checkpoint(run) is None:
        start_run(config, run, console=console)
    else:
        resume_run(run, console=console)
        assert "warning" not in console.file.getvalue(), console.file.getvalue()


def begin(run, config, where="", fatal=None):
    """Starts or resumes a run in a process of its own, which kills itself at its ``fatal``-th touch of a file there."""
    pid = os.fork()
    if pid:
        return pid
    touches = 0

    def touch(event, args):
        nonlocal touches
        if event in TOUCHES and str(run) in str(args[0]) and where in str(args[0]):
            touches += 1
            if touches == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    status = 1
    try:
        sys.addaudithook(touch)
        train(run, config)
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def end(pid):
    """Waits for a process; whether it was killed."""
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


def outcome(run):
    """All that a run has to say in the end, by file."""
    folder = latest_checkpoint(run)
    files = {path.name: path.read_bytes() for path in [*folder.iterdir(), *(run / "samples").iterdir()]}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["images_per_second"], row["peak_memory_mib"]
    names = {path.name for path in (run / "checkpoints").iterdir()}
    return files | {"config.toml": (run / "config.toml").read_bytes(), "metrics.jsonl": rows, "checkpoints": names}


def differences(run, straight):
    expected, found = outcome(straight), outcome(run)
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def partials(run):
    """Checkpoints whose writing was cut off; told apart by their inodes."""
    return {path.stat().st_ino for path in run.glob("checkpoints/.*.partial")}


def torment(folder, model, switch, num_kills, rng):
    config = config_of(model, switch)
    straight = folder / model
    train(straight, config)
    assert threading.active_count() == 1
    began = time.monotonic()
    assert not end(begin(folder / f"{model}-timed", config))
    seconds = time.monotonic() - began
    assert not differences(folder / f"{model}-timed", straight)
    kills = half_written = num_runs = 0
    differ = []
    while kills < num_kills:
        run = folder / f"{model}-{num_runs}"
        num_runs += 1
        while True:
            left = partials(run)
            if kills >= num_kills:
                pid = begin(run, config)
            elif kills % 3 == 0:
                pid = begin(run, config, ".partial", rng.randint(1, 40))
            elif kills % 3 == 1:
                pid = begin(run, config)
                time.sleep(rng.uniform(0, seconds / 2))
                os.kill(pid, signal.SIGKILL)
            else:
                pid = begin(run, config, "", rng.randint(1, 150))
            if not end(pid):
                break
            kills += 1
            half_written += bool(partials(run) - left)
        differ += differences(run, straight)
    counts = {"kills": kills, "half_written": half_written, "runs": num_runs}
    return {"model": model, "switch": switch, **counts, "differ": differ}


if __name__ == "__main__":
    where, kills, seed, *runs = sys.argv[1:]
    for model, switch in (run.split("/") for run in runs):
        rng = random.Random(f"{model} {switch} {seed}")
        print(json.dumps(torment(Path(where) / switch, model, switch, int(kills), rng)), flush=True)
