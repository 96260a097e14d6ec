"""Shared parts of the commands with a trained generator: loading it, its latents and labels, writing images."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fastgan.console import show_log, warner
from fastgan.training.config import SettingsError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fastgan.sampling import Sheet

_FRAMES, _FRAMES_OF_ANIMATION = 9, 48


@dataclass(frozen=True)
class Trained:
    """A generator in evaluation mode, and where it comes from.

    Attributes:
        source: the run or model folder.
        step: how many steps it was trained for; ``None`` where a model folder does not record it.
        console: for the output of the command.
    """

    source: Path
    generator: "nn.Module"
    step: int | None
    console: Console

    def latents(self, count: int, seed: int) -> "Tensor":
        """The latents that ``fastgan generate`` draws from a seed, [count, latent_dim] on the CPU."""
        from fastgan.sampling import draw_latents

        return draw_latents(count, self.generator.latent_dim, seed=seed)

    def labels(self, count: int, class_: int | None) -> "Tensor | None":
        """A label for each image: ``class_``, or the classes in turn; None for an unconditional generator."""
        import torch

        from fastgan.sampling import labels_in_turn

        num_classes = self.generator.num_classes
        if class_ is None:
            return None if num_classes is None else labels_in_turn(count, num_classes)
        if num_classes is None:
            raise SettingsError(
                f"run {str(self.source)!r} knows no classes, so --class cannot be given; only a run with the setting "
                "conditional does"
            )
        if not 0 <= class_ < num_classes:
            raise SettingsError(
                f"--class is {class_}, and run {str(self.source)!r} has the classes 0 to {num_classes - 1}"
            )
        return torch.full((count,), class_)

    def write(self, sheet: "Sheet", path: Path, what: str, seed: int) -> int:
        """Writes images and reports the files."""
        from fastgan.sampling import write_sheet

        files = write_sheet(sheet, path)
        others = ""
        if len(files) > 1:
            others = f" and {'one PNG each' if files[1].suffix == '.png' else files[1].name} next to it"
        step = "" if self.step is None else f" from step {self.step}"
        self.console.print(f"{what}{step}, seed {seed}: {files[0]}{others}", highlight=False, markup=False)
        return 0


def load_trained(source: Path, device: str, model: str | None) -> Trained:
    """Loads the EMA generator of a run's latest checkpoint, or the generator of a model folder.

    Args:
        source: the folder.
        device: as ``--device`` takes it.
        model: ``package.module:function``, for a run of networks of the user's own.
    """
    from fastgan.training.checkpoint import load_trained_generator
    from fastgan.training.device import resolve_device

    console = Console(soft_wrap=True)
    show_log(console)

    where = resolve_device(device)
    return Trained(source, *load_trained_generator(source, where, model=model, warn=warner(console)), console)


def frames_of(frames: int | None, out: Path) -> int:
    """``frames``, or by default as many as suit a picture or an animation."""
    from fastgan.sampling import ANIMATIONS

    return frames or (_FRAMES_OF_ANIMATION if out.suffix in ANIMATIONS else _FRAMES)


def sequences(
    images: "Tensor", frames: int, *, labels: "Tensor | None", names: list[str], values: Any, unit: str
) -> "Sheet":
    """Rows of ``frames`` images each, whose columns belong to ``values``.

    Args:
        images: [R * frames, C, H, W].
        labels: of the rows, [R], or ``None``.
        names: of the rows.
        values: float [frames].
        unit: a format of these, such as ``"+.1f"``.
    """
    from fastgan.sampling import Sheet

    arrays = {"values": values.numpy()} | ({} if labels is None else {"labels": labels.numpy()})
    if labels is not None:
        names = [f"{name}, class {label}" for name, label in zip(names, labels.tolist(), strict=True)]
    return Sheet(images, frames, names, [format(value, unit) for value in values.tolist()], arrays)


def rendered(trained: Trained, latents: "Tensor", labels: "Tensor | None", truncation: float) -> "Tensor":
    """Images [R * F, C, H, W] of latents [R, F, D], each row with its label."""
    from fastgan.sampling import render

    frames = latents.shape[1]
    repeated = None if labels is None else labels.repeat_interleave(frames)
    return render(trained.generator, latents.flatten(0, 1), repeated, truncation=truncation)
