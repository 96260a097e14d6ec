"""``fastgan train`` without settings, judged by a classifier that was fitted on real digits."""

import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data import normalize
from fastgan.metrics.digits import classify_digits

# Two cores for three minutes, the bar for the default run.
_PROCESSOR_SECONDS = 2 * 180


def run_fastgan(*args):
    subprocess.run([sys.executable, "-m", "fastgan", *map(str, args)], check=True, capture_output=True, timeout=1800)


@pytest.mark.exhaustive
def test_a_few_steps_of_the_default_run(tmp_path):
    run_fastgan("train", "--out", tmp_path / "run", "--steps", 2)
    with Image.open(tmp_path / "run" / "samples" / "2.png") as grid:
        assert grid.size == (8 * 34 + 2, 8 * 34 + 2)


@pytest.mark.judged
@pytest.mark.parametrize("seed", range(5))
def test_the_default_run_learns_the_digits_in_time(tmp_path, seed):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run_fastgan("train", "--out", tmp_path / "run", "--seed", seed)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    run_fastgan("generate", tmp_path / "run", "--count", 1000, "--seed", 1000 + seed, "--out", tmp_path / "images")
    paths = sorted((tmp_path / "images").glob("0*.png"))
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    assert pixels.shape == (1000, 32, 32)
    counts = classify_digits(normalize(torch.from_numpy(pixels)[:, None])).bincount(minlength=10)
    print(f"\nseed {seed}: {seconds:.0f} s of processor time, digits 0 to 9: {counts.tolist()}")
    assert (counts >= 20).sum() >= 9
    assert seconds <= _PROCESSOR_SECONDS
