"""Every preset for the bundled digits, trained as `fastgan train PRESET` trains it and judged by a classifier.

The result of a run lies in its folder and is kept, so that a command that was cut off goes on.
"""

import json
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from fastgan.metrics.digits import NUM_CLASSES, digit_classifier
from fastgan.sampling import columns_by_class, generate, image_grid, labels_in_turn, save_png
from fastgan.training.checkpoints import latest_checkpoint, load_averaged_generator
from fastgan.training.config import TrainingConfig, load_preset, preset_names
from fastgan.training.loop import resume_run, start_run

NUM_SAMPLES = 1000
# A class counts from a fifth of its fair share on.
MIN_SHARE = 0.02
_RESULT = "result.json"


@dataclass(frozen=True)
class Result:
    """What came out of a run.

    Attributes:
        counts: of 1,000 generated images, how many show each digit, by the classifier's judgement.
        right: of the images of a conditional run, the share that shows the digit that was asked for, and of the worst
            digit; None otherwise.
        wall_seconds, processor_seconds: of training, reports and checkpoints.
        threads: that torch used.
    """

    counts: tuple[int, ...]
    right: tuple[float, float] | None
    wall_seconds: float
    processor_seconds: float
    threads: int

    @property
    def classes(self) -> int:
        """How many digits have at least 2% of the images."""
        return sum(count >= MIN_SHARE * sum(self.counts) for count in self.counts)


def presets() -> list[str]:
    """The presets that train on the digits."""
    return [name for name in preset_names() if load_preset(name)["data"] == "digits"]


def run_of(out: Path, preset: str, seed: int) -> Path:
    """The folder of a run."""
    return out / f"{preset}-{seed}"


def train_and_judge(out: Path, preset: str, seed: int, docs: Path | None, console: Console) -> Result:
    """Trains a preset unless its result is there already, and draws a grid of 64 images into ``docs``."""
    run = run_of(out, preset, seed)
    result = read_result(run)
    if result is None:
        result = _train(run, preset, seed, console)
    if docs is not None:
        generator, _ = load_averaged_generator(run, torch.device("cpu"))
        columns = None if generator.num_classes is None else columns_by_class(64, generator.num_classes)
        grid = image_grid(generate(generator, 64, seed=seed), columns=columns)
        save_png(grid, docs / picture_name(preset))
    return result


def picture_name(preset: str) -> str:
    """The file of a preset's grid."""
    return f"digits-{preset}.png"


def read_result(run: Path) -> Result | None:
    """The result of a run, or None before it is trained."""
    path = run / _RESULT
    if not path.exists():
        return None
    values = json.loads(path.read_text())
    right = values.pop("right")
    counts = tuple(values.pop("counts"))
    return Result(counts=counts, right=None if right is None else tuple(right), **values)


def _train(run: Path, preset: str, seed: int, console: Console) -> Result:
    config = TrainingConfig.from_mapping(load_preset(preset) | {"seed": seed, "device": "cpu"})
    wall, processor = time.perf_counter(), _processor_seconds()
    if latest_checkpoint(run) is None:
        start_run(config, run, console=console)
    else:
        resume_run(run, console=console)
    wall, processor = time.perf_counter() - wall, _processor_seconds() - processor
    generator, _ = load_averaged_generator(run, torch.device("cpu"))
    # Of a seed of its own, so that no latent was seen in training.
    images = generate(generator, NUM_SAMPLES, seed=1000 + seed)
    digits = digit_classifier()(images)
    counts = tuple(digits.bincount(minlength=NUM_CLASSES).tolist())
    right = None if generator.num_classes is None else _share_right(digits)
    result = Result(counts, right, wall, processor, torch.get_num_threads())
    (run / _RESULT).write_text(json.dumps(asdict(result)) + "\n")
    return result


def _share_right(digits: Tensor) -> tuple[float, float]:
    """Of images of the classes in turn: the share that shows its class, of all and of the worst class."""
    right = (digits == labels_in_turn(len(digits), NUM_CLASSES)).double()
    of_classes = [right[digit::NUM_CLASSES].mean().item() for digit in range(NUM_CLASSES)]
    return right.mean().item(), min(of_classes)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
