"""What the training loop costs beyond its steps."""

import copy
import statistics
import time

import pytest
import torch
from bare_training import BareTraining

from fastgan.data import load_dataset
from fastgan.data.sources import ResidentImages
from fastgan.training.config import TrainingConfig, load_preset
from fastgan.training.trainer import Trainer

_BLOCK = 25
_CLOCKS = (time.process_time, time.perf_counter)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def measure(run, config, images, console, monkeypatch):
    """Fits a trainer of two modules and, between blocks of its steps, runs the same number of bare ones.

    Returns:
        Seconds of the loop and seconds of the bare steps, by each of the clocks. What the loop does beside steps
        (reports, samples, a checkpoint) is in its seconds; building networks and loading data is in neither.
    """
    bare = BareTraining(config, images)
    loop_seconds, bare_seconds = [0.0, 0.0], [0.0, 0.0]
    started = None
    real_step = Trainer.step

    def now():
        return [clock() for clock in _CLOCKS]

    def add(total, since):
        for i, (a, b) in enumerate(zip(since, now(), strict=True)):
            total[i] += b - a

    def step(trainer):
        nonlocal started
        if trainer.step_count % _BLOCK == 0:
            if started is not None:
                add(loop_seconds, started)
            begun = now()
            for _ in range(_BLOCK):
                bare.step()
            add(bare_seconds, begun)
            started = now()
        real_step(trainer)

    networks = copy.deepcopy((bare.generator, bare.discriminator))
    trainer = Trainer(*networks, images, config=config, out=run, console=console)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        trainer.fit()
        add(loop_seconds, started)
    return loop_seconds, bare_seconds


@pytest.mark.judged
def test_the_loop_costs_at_most_three_percent(tmp_path, console, monkeypatch, one_thread):
    """Interleaved blocks of the default run, in batches with which a step takes at least 20 ms.

    The bound holds for processor time, which other processes on the machine hardly change; the wall clock is printed
    beside it.
    """
    settings = load_preset("dcgan") | {"device": "cpu", "steps": 500, "log_every": 100, "batch_size": 12}
    config = TrainingConfig.from_mapping(settings)
    images = load_dataset(config.data, resolution=config.resolution).images
    for module in (
        BareTraining(config, images),
        Trainer.from_config(config, ResidentImages(images, None, torch.device("cpu"))),
    ):
        for _ in range(5):
            module.step()  # the first steps choose and compile convolutions
    overheads = []
    for repeat in range(3):
        loop, bare = measure(tmp_path / str(repeat), config, images, console, monkeypatch)
        assert bare[0] / config.steps >= 0.02
        overheads.append([a / b - 1 for a, b in zip(loop, bare, strict=True)])
    cpu, wall = (statistics.median(values) for values in zip(*overheads, strict=True))
    print(f"\nthe loop costs {cpu:+.2%} of processor time and {wall:+.2%} of wall time over bare torch: {overheads}")
    assert cpu <= 0.03
