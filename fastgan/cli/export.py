"""``fastgan export``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fastgan.cli.options import Model, Run, load_trained
from fastgan.extras import require_onnx
from fastgan.training.config import load_settings

_FILES = {"torch": "generator.pt2", "onnx": "generator.onnx"}


class Format(StrEnum):  # typer takes no list of a Literal
    torch = "torch"
    onnx = "onnx"


def export(
    run: Run,
    model: Model = None,
    format: Annotated[
        list[Format] | None,
        typer.Option(help="Also write a program, by torch.export or as ONNX; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the model; RUN/export by default.")
    ] = None,
) -> int:
    """Write the generator of a run as a folder that other machines can use: weights, config and card.

    The commands that make images take such a folder in place of a run. Programs run without fastgan; each is compared
    with the generator before it is kept.
    """
    formats = dict.fromkeys(format or ())
    if Format.onnx in formats:
        require_onnx()

    from fastgan import exporting

    trained = load_trained(run, "cpu", model)
    generator = trained.generator
    folder = out or run / "export"
    settings = load_settings(run / "config.toml") if (run / "config.toml").is_file() else None
    if settings and "data" in settings:
        settings["data"] = Path(settings["data"]).name  # the rest of the path is private to this machine
    scores = _scores(run / "evaluation" / "report.json", trained.step)
    # Before the programs, so that an unwritable folder is found before the work.
    exporting.save_generator(generator, folder, step=trained.step)
    write = {Format.torch: exporting.export_torch, Format.onnx: exporting.export_onnx}
    programs = []
    for each in formats:
        difference = write[each](generator, folder / _FILES[each])
        programs.append(exporting.describe_program(generator, each, _FILES[each], difference))
        trained.say(programs[-1])
    name = run.resolve().name
    about = {"step": trained.step, "settings": settings, "scores": scores, "programs": programs}
    card = exporting.card_of(generator, name=name, **about)
    exporting.save_generator(generator, folder, step=trained.step, card=card)
    of_step = "" if trained.step is None else f" of step {trained.step}"
    trained.say(f"Generator{of_step}: {folder}")
    return 0


def _scores(report: Path, step: int | None) -> list[str]:
    """The scores of ``fastgan evaluate`` for a step, as sentences; none if another step was evaluated."""
    from fastgan.metrics.report import read_report
    from fastgan.metrics.scores import SCALES

    found = next((e for e in (read_report(report) if report.is_file() else []) if e.step == step), None)
    if found is None:
        return []
    sentences = []
    for name, score in found.scores.items():
        low, high = score.interval(SCALES[name])
        sentences.append(f"{name}: {score.value:.4g} ({low:.4g} to {high:.4g})")
    return [
        *sentences,
        f"of {found.basis.num_generated:,} generated and {found.basis.num_real:,} real images of "
        f"{Path(found.basis.data).name}, by the features {found.basis.features}; do not compare with scores of other "
        "features or counts",
    ]
