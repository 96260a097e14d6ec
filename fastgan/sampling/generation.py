"""Generates images with a trained generator: draws latents from a seed and runs the generator in batches."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastgan.errors import InputError
from fastgan.random_state import preserved_random_state
from fastgan.seeds import Stream, seed_of

# Images per batch; the last batch is padded. The bits of an image depend on the batch size, which decides the order of
# sums in matrix products. On a CPU (oneDNN and MKL, one thread) the images of all models had the same bits in batches
# of 16, 24, 32 and 64, at any position, and differed by up to 1e-4 in batches of 1 to 8 and of 17. Batches of 16 are
# not slower there: a StyleGAN at 64x64 took a third of the time per image of batches of 64.
ROWS = 16


class SamplingError(InputError):
    """A request that a generator does not support, or an output that cannot be written. The message is one sentence."""


def draw_latents(count: int, latent_dim: int, *, seed: int) -> Tensor:
    """Draws standard normal latents, float32 [count, latent_dim] on the CPU; row i depends only on ``seed`` and i.

    Latents are independent of the draws after ``torch.manual_seed(seed)``, from which a run draws its weights.
    Otherwise the first 32 latents of seed 0 would equal the first layer of a StyleGAN trained with seed 0, with images
    unlike those of all other seeds.
    """
    random = torch.Generator().manual_seed(seed_of(seed, Stream.SAMPLES))
    # Drawn row by row: one call for all rows would draw the last values differently for another count.
    return torch.stack([torch.randn(latent_dim, generator=random) for _ in range(count)])


def labels_in_turn(count: int, num_classes: int) -> Tensor:
    """The class indices 0 to ``num_classes`` - 1, repeated, int64 [count]."""
    return torch.arange(count) % num_classes


def check_truncation(generator: nn.Module, truncation: float) -> None:
    """Refuses a truncation outside [0, 1], or below 1 for a generator without truncation."""
    if not 0 <= truncation <= 1:
        raise SamplingError(f"truncation is {truncation}, expected a number from 0 to 1")
    if truncation != 1 and not hasattr(generator, "truncate"):
        raise SamplingError(f"truncation is {truncation}; expected 1, as only model stylegan has truncation")


def render(generator: nn.Module, latents: Tensor, labels: Tensor | None = None, *, truncation: float = 1.0) -> Tensor:
    """Runs a generator in evaluation mode, in batches, and restores its mode.

    Args:
        generator: maps latents [n, latent_dim], and labels if conditional, to images [n, C, H, W] in [-1, 1].
        latents: [N, latent_dim], on any device.
        labels: int64 [N], on any device, for a conditional generator.
        truncation: psi, from 0 (the average image) to 1 (none); below 1 only for a generator with ``truncate``.

    Returns:
        float32 [N, C, H, W] in [-1, 1], on the CPU. On one machine, the bits of an image depend only on its own latent
        and label, not on N or its position.

    Raises:
        SamplingError: as :func:`check_truncation`.
    """
    check_truncation(generator, truncation)
    options = {} if truncation == 1 else {"truncation": truncation}
    inputs = [latents] if labels is None else [latents, labels]
    return run_in_batches(generator, lambda *batch: generator(*batch, **options), inputs)


@preserved_random_state()
@torch.inference_mode()
def run_in_batches(generator: nn.Module, function: Callable[..., Tensor], inputs: list[Tensor]) -> Tensor:
    """Applies a part of a generator, in evaluation mode, to rows in batches of one size.

    ``function`` maps tensors [n, ...] on the generator's device to a tensor [n, ...], row by row; ``inputs`` are
    tensors [N, ...], N at least 1. Returns float32 [N, ...] on the CPU, and restores the generator's mode.
    """
    device = next(generator.parameters()).device
    was_training = generator.training
    generator.eval()
    try:
        batches = zip(*(tensor.to(device).split(ROWS) for tensor in inputs), strict=True)
        return torch.cat([function(*(_filled(t) for t in b))[: len(b[0])].float().cpu() for b in batches])
    finally:
        generator.train(was_training)


def _filled(rows: Tensor) -> Tensor:
    """Pads to a whole batch by repeating the last row."""
    return torch.cat([rows, rows[-1:].expand(ROWS - len(rows), *rows.shape[1:])])


def generate(
    generator: nn.Module,
    count: int,
    *,
    labels: Tensor | None = None,
    truncation: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Generates images from a seed; the same seed gives the same images for every ``count``.

    Args:
        generator: as in :func:`render`, with ``latent_dim``; a conditional one with ``num_classes``.
        count: number of images, at least 1.
        labels: for a conditional generator, int64 [count]; None for the classes in turn.
        truncation: as in :func:`render`.
        seed: seed from 0 to 2**63 - 1.

    Returns:
        float32 [count, C, H, W] in [-1, 1], on the CPU.

    Raises:
        SamplingError: for labels or a truncation that the generator does not take; one sentence.
    """
    num_classes = getattr(generator, "num_classes", None)
    if labels is not None:
        if num_classes is None:
            raise SamplingError("the generator is unconditional and takes no labels")
        if labels.shape != (count,):
            raise SamplingError(f"labels have shape {list(labels.shape)}, expected [{count}], one for each image")
        if not ((labels >= 0) & (labels < num_classes)).all():
            raise SamplingError(
                f"labels are from {labels.min()} to {labels.max()}, expected class numbers from 0 to {num_classes - 1}"
            )
    elif num_classes is not None:
        labels = labels_in_turn(count, num_classes)
    latents = draw_latents(count, generator.latent_dim, seed=seed)
    return render(generator, latents, labels, truncation=truncation)
