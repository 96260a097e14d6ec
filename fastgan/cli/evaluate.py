"""``fastgan evaluate``."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fastgan.cli.options import Device, Model, with_generator
from fastgan.console import say, show_log, warner
from fastgan.errors import writing
from fastgan.training.config import SettingsError

if TYPE_CHECKING:
    from fastgan.metrics.comparison import Recommendation
    from fastgan.metrics.report import Evaluation

REPORT, PICTURE = "report.json", "collapse.png"


def evaluate(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN...", help="Folders of runs or exports, or report files (.json) of earlier evaluations."
        ),
    ] = None,
    images: Annotated[
        str | None, typer.Option(metavar="A", help="Images to evaluate instead of a run: anything that --data takes.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="D", help="Real images to compare with; those of the run by default.")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of generated images and maximum number of real ones; by default all real ones, up to 10,000.",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=2**63 - 1, metavar="S", help="Seed of latents, of the choice of real images, and of resampling."
        ),
    ] = 0,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="F",
            help="digits, points, inception, a TorchScript file or module:function (both run their own code); "
            "by default digits and points for the bundled data, and inception for others.",
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights file of inception; downloaded by default.")
    ] = None,
    model: Model = None,
    device: Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for report and pictures; by default RUN/evaluation or ./evaluation."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of tables.")] = False,
) -> int:
    """Evaluate generated images: FID, kernel distance, Inception Score, precision, recall, coverage, mode collapse.

    Several runs are compared, and one is recommended for each purpose.
    """
    runs = runs or []
    if images is not None and (runs or data is None):
        raise SettingsError("--images A needs --data B, the images to compare with, and cannot be combined with runs")
    if not runs and images is None:
        raise SettingsError("there is nothing to evaluate; give a run, or --images A --data B")
    if len(set(runs)) < len(runs):
        raise SettingsError("a run is given twice")
    for run in runs:
        if run.suffix != ".json":
            with_generator(run)
    # A folder has priority over bundled data of the same name, such as photos.
    images, data = (os.path.abspath(path) if path and os.path.exists(path) else path for path in (images, data))
    from fastgan.metrics.comparison import comparison_notes, recommend
    from fastgan.metrics.evaluation import evaluate as evaluate_images
    from fastgan.metrics.report import read_report, require_comparable, to_json
    from fastgan.sampling import save_png
    from fastgan.training.device import resolve_device
    from fastgan.training.evaluate import Subject

    # With --json only the report goes to the standard output.
    console = Console(stderr=json_)
    show_log(console)
    evaluations: list[Evaluation] = []

    def add(evaluation: "Evaluation", picture: Path) -> None:
        evaluations.append(evaluation)
        with writing(f"file {str(picture)!r}"):
            save_png(evaluation.picture, picture)
        if not json_:
            _show(evaluation, picture, console)

    options = {"count": count, "features": features, "weights": weights, "seed": seed}
    if images is not None:
        out = make_folder(out or Path("evaluation"))
        add(evaluate_images(images, data, device=resolve_device(device), **options), out / PICTURE)
    folders, reports = ([path for path in runs if (path.suffix == ".json") is saved] for saved in (False, True))
    earlier = {path: read_report(path) for path in reports}
    options |= {"data": data, "model": model, "device": device, "warn": warner(console)}
    subjects = [Subject(run, **options) for run in folders]
    # Compared before the slow work.
    bases = {str(subject.run): subject.basis for subject in subjects}
    bases |= {f"{path}, {found.run}": found.basis for path, rows in earlier.items() for found in rows}
    if bases:
        require_comparable(bases)
    written = {run: make_folder(out or run / "evaluation") for run in folders}
    for number, subject in enumerate(subjects, 1):
        numbered = f"{number}-{PICTURE}" if out is not None and len(subjects) > 1 else PICTURE
        add(subject.evaluate(console), written[subject.run] / numbered)
        if out is None:
            write_report(written[subject.run] / REPORT, to_json(evaluations[-1:]))
    evaluations += [found for rows in earlier.values() for found in rows]
    content = to_json(evaluations)
    if len(evaluations) > 1:
        recommendations = recommend(evaluations)
        content["recommendations"] = [asdict(recommendation) for recommendation in recommendations]
        content["notes"] = comparison_notes(evaluations)
        if not json_:
            _show_comparison(evaluations, recommendations, content["notes"], console)
    if out is not None:
        write_report(make_folder(out) / REPORT, content)
    if json_:
        print(json.dumps(content, indent=2))
    return 0


def make_folder(folder: Path) -> Path:
    with writing(f"folder {str(folder)!r}"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_report(path: Path, content: dict[str, Any]) -> None:
    with writing(f"report {str(path)!r}"):
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _show(evaluation: "Evaluation", picture: Path, console: Console) -> None:
    from fastgan.metrics.scores import SCALES

    basis = evaluation.basis
    step = "" if evaluation.step is None else f" at step {evaluation.step}"
    table = Table("score", "value", "95% confidence", "real images", "better", title=f"{evaluation.run}{step}")
    for name, score in evaluation.scores.items():
        scale = SCALES[name]
        low, high = score.interval(scale)
        reference = "" if score.reference is None else f"{score.reference:.4g}"
        better = "higher" if scale.higher_is_better else "lower"
        table.add_row(scale.label, f"{score.value:.4g}", f"{low:.4g} to {high:.4g}", reference, better)
    console.print(table)
    say(
        console,
        f"Features {basis.features} ({basis.features_digest[:12]}), of {basis.num_generated:,} generated and "
        f"{basis.num_real:,} real images of {basis.data}, {basis.image_size}; resized: {basis.filter}; seed "
        f"{evaluation.seed}",
    )
    for note in evaluation.notes:
        say(console, f"note: {note}")
    shares = evaluation.collapse["shares"]
    say(
        console,
        f"{shares['kind'].capitalize()} captured: {shares['captured']} of {sum(share > 0 for share in shares['real'])}",
    )
    say(console, f"Mode collapse: {evaluation.collapse['verdict']}")
    for answer in evaluation.collapse["answers"]:
        say(console, f"  by {answer['way']}: {answer['verdict']}; {answer['evidence']}")
    say(console, f"Look at {picture}\n")


def _show_comparison(
    evaluations: "Sequence[Evaluation]",
    recommendations: "Sequence[Recommendation]",
    notes: list[str],
    console: Console,
) -> None:
    from fastgan.metrics.scores import SCALES

    table = Table("score", *(evaluation.run for evaluation in evaluations), title="Comparison")
    for name, scale in SCALES.items():
        if all(name in evaluation.scores for evaluation in evaluations):
            table.add_row(scale.label, *(f"{evaluation.scores[name].value:.4g}" for evaluation in evaluations))
    table.add_row("mode collapse", *(evaluation.collapse["verdict"] for evaluation in evaluations))
    console.print(table)
    for note in notes:
        say(console, f"note: {note}")
    for recommendation in recommendations:
        say(console, f"For {recommendation.purpose}: {recommendation.run}; {recommendation.reason}")
