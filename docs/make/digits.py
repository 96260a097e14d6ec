"""Trains every preset for the bundled digits, as `fastgan train PRESET` does, and measures it by a classifier; and
mixes styles (Karras et al. 2019, section 3.1) with the StyleGAN among them."""

import platform
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from docs.make.page import inject, kept, table
from fastgan.metrics.digits import ACCURACY, NUM_CLASSES, classify_digits
from fastgan.metrics.modes import MIN_SHARE
from fastgan.models.stylegan import StyleGANGenerator, mix_styles
from fastgan.sampling import (
    columns_by_class,
    draw_latents,
    generate,
    image_grid,
    labels_in_turn,
    map_latents,
    render_styles,
    save_png,
)
from fastgan.training.checkpoint import load_trained_generator
from fastgan.training.config import TrainingConfig, load_preset, preset_names
from fastgan.training.run import start_run

NUM_SAMPLES = 1000
NUM_PAIRS = 1000
_SHOWN = 8


def presets() -> list[str]:
    """The presets that train on the digits."""
    return [name for name in preset_names() if load_preset(name)["data"] == "digits"]


def result_of(run: Path, preset: str) -> dict[str, Any]:
    """The result of a run; trains the run if it has no result yet.

    ``counts``: how many of 1,000 generated images show each digit. ``right``: for a conditional run, the share of
    images that show the requested digit, over all digits and for the worst one; otherwise ``None``. ``wall`` and
    ``processor``: seconds.
    """

    def train() -> dict[str, Any]:
        wall, processor = time.perf_counter(), time.process_time()
        config = TrainingConfig.from_mapping(load_preset(preset) | {"device": "cpu"})
        start_run(config, run, console=Console(soft_wrap=True))
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        generator, _ = load_trained_generator(run, torch.device("cpu"))
        # With another seed than training, so that the latents are new.
        digits = classify_digits(generate(generator, NUM_SAMPLES, seed=1000))
        right = None
        if generator.num_classes is not None:
            is_right = (digits == labels_in_turn(len(digits), NUM_CLASSES)).double()
            right = is_right.mean().item(), min(is_right[d::NUM_CLASSES].mean().item() for d in range(NUM_CLASSES))
        counts = digits.bincount(minlength=NUM_CLASSES).tolist()
        return {"counts": counts, "right": right, "wall": wall, "processor": processor}

    return kept(run / "result.json", train)


def draw(out: Path, docs: Path) -> None:
    """Trains presets without a result; writes a grid for each preset, the mixed styles and the tables."""
    results = {}
    for preset in presets():
        results[preset] = result_of(out / preset, preset)
        generator, _ = load_trained_generator(out / preset, torch.device("cpu"))
        columns = None if generator.num_classes is None else columns_by_class(64, generator.num_classes)
        save_png(image_grid(generate(generator, 64, seed=0), columns=columns), docs / f"digits-{preset}.png")
    generator, _ = load_trained_generator(out / "stylegan", torch.device("cpu"))
    save_png(mixed_grid(generator), docs / "style-mixing.png")
    inject(docs / "digits.md", blocks(results, mixing(generator)))


def blocks(results: dict[str, dict[str, Any]], mixing: list[list[str]]) -> dict[str, str]:
    """The blocks of the page, made from the results."""
    rows = [
        [
            f"`{preset}`",
            f"{sum(count >= MIN_SHARE * sum(of['counts']) for count in of['counts'])} of {len(of['counts'])}",
            f"{min(of['counts']) / sum(of['counts']):.1%}",
            "" if of["right"] is None else f"{of['right'][0]:.1%}, {of['right'][1]:.0%}",
            _minutes(of["wall"]),
            _minutes(of["processor"]),
        ]
        for preset, of in results.items()
    ]
    return {
        "presets": table(["preset", "classes", "smallest class", "as requested", "wall time", "processor time"], rows),
        "machine": f"Trained with torch {torch.__version__.partition('+')[0]} on a CPU ({platform.machine()}, threads: "
        f"{torch.get_num_threads()}); the classifier is {ACCURACY:.1%} right on held-out digits.",
        "mixing": table(["B's styles from", "A's digit", "B's digit", "coarse, to B", "fine, to B"], mixing),
    }


def _minutes(seconds: float) -> str:
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


def mixing(generator: StyleGANGenerator) -> list[list[str]]:
    """Mixes 1,000 pairs, A and B, at every crossover, from the finest to 4, which leaves nothing of A.

    Each row has the shares of the images that show A's and B's digit, where those differ; and how far the images have
    changed from A to B, as |M - A| / (|M - A| + |M - B|), in their reduction to 4x4 and in the detail that halving
    their size loses.
    """
    a, b = (_styles(generator, NUM_PAIRS, seed=seed) for seed in (0, 1))
    images_a, images_b = (render_styles(generator, styles) for styles in (a, b))
    digit_a, digit_b = (classify_digits(images) for images in (images_a, images_b))
    differ = digit_a != digit_b
    rows = []
    for resolution in sorted(generator.synthesis.resolutions, reverse=True):
        mixed = render_styles(generator, mix_styles(a, b, resolution))
        digit = classify_digits(mixed)[differ]
        shares = [(digit == of[differ]).double().mean().item() for of in (digit_a, digit_b)]
        shares += [_share_of_b(*map(part, (mixed, images_a, images_b))) for part in (_coarse, _fine)]
        rows.append([str(resolution), *(f"{share:.0%}" for share in shares)])
    return rows


def mixed_grid(generator: StyleGANGenerator) -> Tensor:
    """A grid with A in the top row, B in the bottom row, and one row per crossover between them."""
    a, b = (_styles(generator, _SHOWN, seed=seed) for seed in (0, 1))
    crossovers = sorted(generator.synthesis.resolutions, reverse=True)
    rows = [a, *(mix_styles(a, b, resolution) for resolution in crossovers)]
    return image_grid(torch.cat([render_styles(generator, styles) for styles in rows]), columns=_SHOWN)


def _styles(generator: StyleGANGenerator, count: int, *, seed: int) -> Tensor:
    return generator.styles(map_latents(generator, draw_latents(count, generator.latent_dim, seed=seed)))


def _coarse(images: Tensor) -> Tensor:
    return avg_pool2d(images, images.shape[-1] // 4)


def _fine(images: Tensor) -> Tensor:
    return images - interpolate(avg_pool2d(images, 2), scale_factor=2, mode="nearest")


def _share_of_b(mixed: Tensor, a: Tensor, b: Tensor) -> float:
    from_a, from_b = ((mixed - other).flatten(1).norm(dim=1) for other in (a, b))
    return (from_a / (from_a + from_b)).mean().item()
