"""The page of the digits, drawn from the results of the runs alone."""

import platform
from collections.abc import Mapping

import torch

from experiments.digits import MIN_SHARE, NUM_SAMPLES, Result, picture_name
from experiments.markdown import table
from experiments.style_mixing import NUM_PAIRS, PICTURE, Crossover
from fastgan.metrics.digits import digit_classifier

PAGE = "digits.md"


def page(results: Mapping[tuple[str, int], Result], crossovers: list[Crossover]) -> str:
    """The page in Markdown.

    Args:
        results: by preset and seed.
        crossovers: of the StyleGAN run.
    """
    first_seeds: dict[str, int] = {}
    for preset, seed in results:
        first_seeds.setdefault(preset, seed)
    pictures = [
        f"`fastgan train {preset} --seed {seed}`\n\n![64 digits of {preset}]({picture_name(preset)})"
        for preset, seed in first_seeds.items()
    ]
    rows = [_row(preset, seed, result) for (preset, seed), result in results.items()]
    mixing = [
        [str(c.resolution), f"{c.digit_of_a:.0%}", f"{c.digit_of_b:.0%}", f"{c.coarse:.0%}", f"{c.fine:.0%}"]
        for c in crossovers
    ]
    threads = {result.threads for result in results.values()}
    joined = "\n\n".join(pictures)
    return f"""# Handwritten digits: every preset

Drawn by `python -m experiments digits`, in the root of the repository; figures and pictures come from its runs. A
classifier fitted on real digits ({digit_classifier().accuracy:.1%} right on those held out) says which digit each of
{NUM_SAMPLES:,} images of the averaged generator shows. A class counts from {MIN_SHARE:.0%} of the images; its fair
share is 10%. Where the digit is asked for, these are 100 images of each, and the share that shows it, of all and of the
worst digit. It tells which digits there are, and nothing of how good they look: for that there are the grids.

{table(["preset", "seed", "classes", "smallest class", "as asked", "wall time", "processor time"], rows)}

With {" or ".join(map(str, sorted(threads)))} of torch's threads on a CPU ({platform.machine()}), torch
{torch.__version__.partition("+")[0]}; where the wall time is the longer one, the machine did other things as well.

{joined}

## Style mixing

Each column of the picture is a pair of latents, A and B, of the run of `stylegan`. The top row is A; in those
below it the layers from a resolution on have B's styles: {", ".join(str(c.resolution) for c in crossovers)}. So the
last row is B itself.

![Mixed styles]({PICTURE})

Measured over {NUM_PAIRS:,} pairs: which digit the mixed image shows, A's or B's, where those differ; and how far it has
gone from A to B, 0% to 100%, in its reduction to 4x4 (coarse) and in what one to half of its size leaves out (fine).

{table(["B's styles from", "A's digit", "B's digit", "coarse, to B", "fine, to B"], mixing)}
"""


def _row(preset: str, seed: int, result: Result) -> list[str]:
    return [
        f"`{preset}`",
        str(seed),
        f"{result.classes} of {len(result.counts)}",
        f"{min(result.counts) / sum(result.counts):.1%}",
        "" if result.right is None else f"{result.right[0]:.1%}, {result.right[1]:.0%}",
        _minutes(result.wall_seconds),
        _minutes(result.processor_seconds),
    ]


def _minutes(seconds: float) -> str:
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"
