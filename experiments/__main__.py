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


if __name__ == "__main__":
    app()
