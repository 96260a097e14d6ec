"""``fastgan collapse``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fastgan.cli.evaluate import PICTURE, REPORT, make_folder, write_report
from fastgan.collapse.remedies import BENCHES, NONE, choose_remedies, find_bench
from fastgan.console import progress_bars, say, show_log
from fastgan.errors import writing

if TYPE_CHECKING:
    from fastgan.collapse.trials import Reference, Trial

_REMEDIES = ", ".join(name for name in BENCHES["digits"].remedies() if name != NONE)


def collapse(
    data: Annotated[str, typer.Option(metavar="D", help=f"Data: {' or '.join(BENCHES)}.")] = "gaussians",
    remedy: Annotated[
        list[str] | None,
        typer.Option(metavar="R", help=f"{_REMEDIES}; may be repeated; all by default. 'none' is always trained."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=10**6, metavar="N", help="Steps of each GAN; the default depends on the data."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, metavar="S", help="Seed of all random numbers.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for picture and report; runs/collapse-DATA by default.")
    ] = None,
) -> int:
    """Show mode collapse and what helps: small GANs with and without each remedy, in one picture and one table.

    Each remedy changes only the settings listed with it. Mode collapse is detected by looking, by clustering and by a
    score. Runs on the CPU, on one thread.
    """
    bench = find_bench(data)
    remedies = choose_remedies(remedy or [], bench)
    # Refused before torch is imported.
    configs = {name: bench.config(name, steps=steps, seed=seed) for name in remedies}
    folder = make_folder(out or Path("runs") / f"collapse-{data}")
    # An error in writing is found before the work.
    write_report(folder / REPORT, {})

    import torch

    from fastgan.collapse.picture import every_second, remedies_picture
    from fastgan.collapse.trials import make_reference, moments_of, run_trial, to_json
    from fastgan.sampling import save_png

    console = Console(soft_wrap=True)
    show_log(console)
    # More threads are slower for networks this small, and change the order of sums.
    torch.set_num_threads(1)
    reference = make_reference(bench)
    num_columns = len(every_second(moments_of(configs[NONE].steps)))
    trials: list[Trial] = []
    with progress_bars(console, transient=True) as progress:
        total = progress.add_task("", total=sum(config.steps for config in configs.values()))
        for name in remedies:
            progress.update(total, description=name)
            trial = run_trial(
                bench, name, reference, steps=steps, seed=seed, progress=lambda step: progress.advance(total)
            )
            trials.append(trial)
            say(console, f"{name}: {_outcome(trial)}")
            # Written after each trial, so that an interrupted run keeps the results so far.
            write_report(folder / REPORT, to_json(bench, seed, reference, trials))
            with writing(f"file {str(folder / PICTURE)!r}"):
                save_png(remedies_picture(trials, num_columns), folder / PICTURE)
    _show(trials, reference, console)
    say(console, f"Look at {folder / PICTURE}; figures are in {folder / REPORT}")
    return 0


def _outcome(trial: "Trial") -> str:
    if trial.failure is not None:
        return f"not finite; {trial.failure}"
    moment = trial.moments[-1]
    kinds = f"{moment.shares.captured} of {len(moment.shares.names)} {moment.shares.kind}"
    return f"{kinds}, {moment.high_quality:.1%} of high quality, {trial.verdict}"


def _show(trials: "list[Trial]", reference: "Reference", console: Console) -> None:
    from fastgan.metrics.collapse import COLLAPSED_FROM

    kind = reference.network.classes.kind
    table = Table()
    for heading in ("remedy", f"{kind} captured", "high quality", "missing: looking, clustering, score", "the remedy"):
        table.add_column(heading, overflow="fold")
    for trial in trials:
        outcome = "; ".join(filter(None, (trial.verdict, trial.against(trials[0]))))
        if trial.collapse is None:
            table.add_row(trial.remedy, "", "", "", outcome)
            continue
        moment = trial.moments[-1]
        answers = ("no answer" if answer.lost is None else f"{answer.lost:.0%}" for answer in trial.collapse.answers)
        captured = f"{trial.captured} of {len(moment.shares.names)}"
        table.add_row(trial.remedy, captured, f"{moment.high_quality:.1%}", ", ".join(answers), outcome)
    console.print(table)
    say(
        console,
        f"{reference.high_quality_of_real():.1%} of the real {'points' if kind == 'modes' else 'images'} are of high "
        f"quality. By most answers, a GAN that has collapsed misses modes with {COLLAPSED_FROM:.0%} of them or more.",
    )
