"""python -m experiments: trains, judges and draws what the pages in docs/ show."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Trains, judges and draws what the pages in docs/ show."""


@app.command()
def gaussians(
    out: Annotated[Path, typer.Option(help="Folder of the runs; a cell that has its result there is kept.")] = Path(
        "runs/experiments/gaussians"
    ),
    processes: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 2,
    docs: Annotated[Path, typer.Option(help="Folder for gaussians.md and gaussians.png.")] = Path("docs"),
) -> None:
    """Every loss by every regularizer on eight Gaussians."""
    from experiments.gaussians import train_all
    from experiments.gaussians_report import PAGE, PICTURE, draw

    console = Console(soft_wrap=True)
    train_all(out, processes=processes, console=console)
    draw(out, docs)
    console.print(f"{docs / PAGE} and {docs / PICTURE} are drawn", highlight=False)


@app.command()
def digits(
    out: Annotated[Path, typer.Option(help="Folder of the runs; a run that has its result there is kept.")] = Path(
        "runs/experiments/digits"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each preset; the grids are of the first.")] = 1,
    docs: Annotated[Path, typer.Option(help="Folder for digits.md and the grids.")] = Path("docs"),
) -> None:
    """Every preset for the digits, judged by a classifier, and style mixing."""
    import torch

    from experiments import digits_report, style_mixing
    from experiments.digits import presets, run_of, train_and_judge
    from fastgan.training.checkpoints import load_averaged_generator

    console = Console(soft_wrap=True)
    results = {}
    for preset in presets():
        for seed in range(seeds):
            results[preset, seed] = train_and_judge(out, preset, seed, docs if seed == 0 else None, console)
    generator, _ = load_averaged_generator(run_of(out, "stylegan", 0), torch.device("cpu"))
    style_mixing.draw(generator, docs / style_mixing.PICTURE)
    text = digits_report.page(results, style_mixing.measure(generator))
    (docs / digits_report.PAGE).write_text(text, encoding="utf-8")
    console.print(f"{docs / digits_report.PAGE} and its pictures are drawn", highlight=False)


@app.command()
def digit_network(
    out: Annotated[Path, typer.Option(help="The file of weights.")] = Path("fastgan/metrics/digit_network.safetensors"),
) -> None:
    """The network whose features judge generated digits."""
    from experiments.digit_network import fit

    Console(soft_wrap=True).print(f"{out}: {fit(out):.1%} right on held-out digits", highlight=False)


@app.command()
def evaluation(
    out: Annotated[Path, typer.Option(help="Folder of the runs; a run that is there is kept.")] = Path(
        "runs/experiments/evaluation"
    ),
    docs: Annotated[Path, typer.Option(help="Folder for evaluation.md and its pictures.")] = Path("docs"),
) -> None:
    """What the scores of `fastgan evaluate` say of damaged digits, and of three runs."""
    from experiments.evaluation import draw

    draw(out, docs, Console(soft_wrap=True))


@app.command()
def explorer(
    run: Annotated[Path, typer.Argument(help="Folder of a run of stylegan.")],
    docs: Annotated[Path, typer.Option(help="Folder for explorer.png.")] = Path("docs"),
) -> None:
    """The page of fastgan explore, used in a headless Chromium; needs playwright and the extra explore."""
    import torch

    from experiments.explorer_page import draw
    from fastgan.explorer import Explorer, build_page, serve
    from fastgan.training.checkpoints import load_averaged_generator

    generator, step = load_averaged_generator(run, torch.device("cpu"))
    page = build_page(Explorer(generator), f"{run.resolve().name}, step {step}")
    try:
        draw(serve(page, "127.0.0.1", 7890), docs / "explorer.png")
    finally:
        page.close()


@app.command()
def collapse(
    out: Annotated[Path, typer.Option(help="Folder of the laboratories; one that has its report is kept.")] = Path(
        "runs/experiments/collapse"
    ),
    docs: Annotated[Path, typer.Option(help="Folder for collapse.md and its pictures.")] = Path("docs"),
) -> None:
    """Mode collapse on eight Gaussians and on the digits, with and without each remedy."""
    from experiments.collapse import draw

    draw(out, docs)


if __name__ == "__main__":
    app()
