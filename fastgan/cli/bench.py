"""``fastgan bench``."""

import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
from rich.console import Console

from fastgan.training.config import SettingsError


def bench(
    ops: Annotated[
        list[str] | None,
        typer.Argument(metavar="[OP]...", help="Ops (bias_act) and whole steps (wgan_gp_step, train:dcgan); all."),
    ] = None,
    problem: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A size; may be repeated.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="float32, float16 or bfloat16; may be repeated.")] = None,
    layout: Annotated[list[str] | None, typer.Option(help="contiguous or channels_last; may be repeated.")] = None,
    pass_: Annotated[
        list[str] | None,
        typer.Option("--pass", metavar="PASS", help="forward, backward, double_backward, step or sample."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full/--quick", help="Every size, type and layout, or the most important ones.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for results and report; bench/DATE by default.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A B", help="Measure nothing: tell what moved beyond noise between two runs."),
    ] = None,
    chip: Annotated[str, typer.Option(help="Without a GPU: the chip that figures are predicted for.")] = "H200",
    toy: Annotated[
        bool,
        typer.Option("--toy", help="Without a GPU: time toy sizes in Triton's interpreter, to see the suite work."),
    ] = False,
) -> int:
    """Measure how far the ops are from the limits of this GPU, and against plain torch; exit code 1 if one is wrong.

    Without a GPU nothing is timed: it tells what is known of the kernels and predicts.
    """
    # The tables need room; what is not a terminal has it.
    console = Console(width=None if sys.stdout.isatty() else 120)
    suite = _benchmarks(toy)
    try:
        if compare is not None:
            if ops or problem or dtype or layout or pass_ or full or out or toy:
                raise SettingsError("--compare takes two whole runs, and no choice of what to measure beside them")
            return suite.run_comparison(*compare, console)
        selection = suite.Selection(ops or (), problem or (), dtype or (), layout or (), pass_ or (), full)
        return suite.run(selection, out, toy=toy, chip=chip, console=console)
    except (ValueError, OSError) as error:
        raise SettingsError(str(error)) from error


def _benchmarks(toy: bool) -> ModuleType:
    """The benchmark suite, which is no part of the installed package but of its sources."""
    root = Path(__file__).parents[2]
    if not (root / "benchmarks" / "bench.py").is_file():
        raise SettingsError(
            "the benchmarks come with the sources, not with the package: clone the repository, and in it "
            "pip install -e '.[bench]'"
        )
    if toy:
        import torch

        if torch.cuda.is_available():
            raise SettingsError("--toy is for machines without a GPU, and torch sees one here")
        # Read when the kernels are imported.
        os.environ["TRITON_INTERPRET"] = "1"
    sys.path.insert(0, str(root))
    return import_module("benchmarks.bench")
