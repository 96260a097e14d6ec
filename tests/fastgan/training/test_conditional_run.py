"""``fastgan train conditional-dcgan``, judged by the classifier of the default run."""

import json
import resource

import numpy as np
import pytest
import torch
from PIL import Image
from test_default_run import run_fastgan

from fastgan.data import load_dataset, normalize
from fastgan.metrics.digits import classify_digits


@pytest.mark.judged
@pytest.mark.parametrize("seed", range(3))
def test_the_class_that_is_asked_for_is_generated_with_variety(tmp_path, seed):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run_fastgan("train", "conditional-dcgan", "--out", tmp_path / "run", "--seed", seed)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # The classes in turn: a hundred images of each.
    run_fastgan("generate", tmp_path / "run", "--count", 1000, "--seed", 1000 + seed, "--out", tmp_path / "images")
    paths = sorted((tmp_path / "images").glob("0*.png"))
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    asked = np.arange(1000) % 10
    right = classify_digits(normalize(torch.from_numpy(pixels)[:, None])).numpy() == asked
    of_class = [int(right[asked == k].sum()) for k in range(10)]
    digits = load_dataset("digits", resolution=32)
    variety = deviation(pixels, asked) / deviation(digits.images[:, 0].numpy(), digits.labels.numpy())
    print(
        f"\nseed {seed}: {seconds:.0f} s of processor time, {right.mean():.1%} right, of 100 of each: {of_class}; "
        f"standard deviation of pixels within a class: {variety:.2f} of the real ones'"
    )
    assert right.mean() >= 0.97
    assert min(of_class) >= 90
    assert variety >= 0.85
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert "findings" not in last


def deviation(pixels, classes):
    """The standard deviation of a pixel over the images of a class, in the mean over pixels and classes."""
    return np.mean([pixels[classes == k].std(axis=0).mean() for k in range(10)])
