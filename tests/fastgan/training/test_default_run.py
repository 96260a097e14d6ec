"""``fastgan train`` without settings, judged by a classifier that was fitted on real digits."""

import resource
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

# Two cores for three minutes, the bar for the default run.
_PROCESSOR_SECONDS = 2 * 180


def fitted_classifier():
    """A support vector machine on the 8x8 digits, and its accuracy on a quarter held out (scikit-learn's example)."""
    digits = load_digits()
    x, held_out, y, truth = train_test_split(
        digits.data, digits.target, test_size=0.25, random_state=0, stratify=digits.target
    )
    classifier = SVC(gamma=0.001).fit(x, y)
    return classifier, classifier.score(held_out, truth)


def as_real_digits(pixels):
    """uint8 [N, S, S], S a multiple of 8, to the classifier's [N, 64] in 0..16, by averaging areas."""
    n, size, _ = pixels.shape
    return pixels.reshape(n, 8, size // 8, 8, size // 8).mean((2, 4)).reshape(n, 64) * (16 / 255)


def run_fastgan(*args):
    subprocess.run([sys.executable, "-m", "fastgan", *map(str, args)], check=True, capture_output=True, timeout=1800)


def test_the_judge_is_right_on_real_digits_as_the_model_sees_them():
    from fastgan.data import load_dataset

    classifier, accuracy = fitted_classifier()
    assert accuracy >= 0.98
    enlarged = load_dataset("digits", resolution=32)
    assert classifier.score(as_real_digits(enlarged.images[:, 0].numpy()), enlarged.labels.numpy()) >= 0.98


def test_a_few_steps_of_the_default_run(tmp_path):
    run_fastgan("train", "--out", tmp_path / "run", "--steps", 2)
    with Image.open(tmp_path / "run" / "samples" / "2.png") as grid:
        assert grid.size == (8 * 34 + 2, 8 * 34 + 2)


@pytest.mark.slow
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
    classifier, accuracy = fitted_classifier()
    assert accuracy >= 0.98
    counts = np.bincount(classifier.predict(as_real_digits(pixels)), minlength=10)
    print(f"\nseed {seed}: {seconds:.0f} s of processor time, digits 0 to 9: {counts.tolist()}")
    assert (counts >= 20).sum() >= 9
    assert seconds <= _PROCESSOR_SECONDS
