"""``fastgan train gaussians``, judged by the modes that its samples capture."""

import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

from docs.make.gaussians import METHODS, REGULARIZERS
from fastgan.metrics.modes import mode_coverage

# Two cores for two minutes, the bar for a run.
_PROCESSOR_SECONDS = 2 * 120


def run_fastgan(*args):
    command = [sys.executable, "-m", "fastgan", *map(str, args)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=1800).stdout


def trained_and_judged(tmp_path, preset, *, seed, settings=()):
    """The coverage of 10,000 samples, and the processor seconds and the output of the training command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assignments = [part for name, value in dict(settings).items() for part in ("--set", f"{name}={str(value).lower()}")]
    said = run_fastgan("train", preset, "--out", tmp_path / "run", "--seed", seed, "--device", "cpu", *assignments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    samples = tmp_path / "samples"
    run_fastgan("generate", tmp_path / "run", "--count", 10_000, "--seed", 1000 + seed, "--out", samples)
    points = np.loadtxt(samples / "points.csv", delimiter=",", skiprows=1)
    coverage = mode_coverage(torch.from_numpy(points))
    shares = " ".join(f"{count / coverage.num_samples:.1%}" for count in coverage.counts)
    print(
        f"\n{preset} {dict(settings)}, seed {seed}: {coverage.captured} of 8 modes, {coverage.high_quality:.1%} near "
        f"one ({shares}), {seconds:.0f} s of processor time"
    )
    return coverage, seconds, said


@pytest.mark.judged
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", METHODS)
def test_every_mode_is_captured_in_time(tmp_path, method, seed):
    loss, regularizer = METHODS[method]
    settings = {"loss": loss, **REGULARIZERS[regularizer]}
    coverage, seconds, _ = trained_and_judged(tmp_path, "gaussians", seed=seed, settings=settings)
    assert coverage.captured == 8
    assert coverage.high_quality >= 0.8
    assert seconds <= _PROCESSOR_SECONDS


@pytest.mark.judged
@pytest.mark.parametrize("seed", range(3))
def test_a_plain_gan_set_up_to_collapse_does_so_and_health_says_it(tmp_path, seed):
    coverage, _, said = trained_and_judged(tmp_path, "gaussians-collapse", seed=seed)
    assert coverage.captured <= 4
    assert "mode collapse" in said
