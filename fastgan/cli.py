"""The command line. Exit codes: 0 done, 1 a fault of ours, 2 bad input, 130 and 143 after Ctrl-C and SIGTERM."""

import logging
import os
import platform
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

# torch takes seconds to import: the commands import what needs it, so that help comes at once.
from fastgan.training.config import (
    SettingsError,
    TrainingConfig,
    describe_settings,
    load_preset,
    load_settings,
    parse_assignment,
    preset_names,
)

# The base class of what typer raises for a wrong command line; recent versions of typer bring a click of their own.
_UsageError = typer.BadParameter.__mro__[1]

_DEFAULT_PRESET = "dcgan"

app = typer.Typer(
    name="fastgan",
    help="Train generative adversarial networks and use what they have learned.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _settings_epilog() -> str:
    config = TrainingConfig.from_mapping(load_preset(_DEFAULT_PRESET))
    lines = [f"Settings for --set and --config, with their values in the preset {_DEFAULT_PRESET}:"]
    lines += [f"{name} = {value}: {help}" for name, value, help in describe_settings(config)]
    return "\n\n".join(lines)


@app.command(epilog=_settings_epilog())
def train(
    preset: Annotated[
        str, typer.Argument(metavar="PRESET", help=f"Settings to start from: {', '.join(preset_names())}.")
    ] = _DEFAULT_PRESET,
    data: Annotated[
        str | None,
        typer.Option(help="'digits' or 'gaussians' (bundled), a folder of images, a zip, an IDX file, .npy or .npz."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Folder of the run; runs/PRESET by default.")] = None,
    steps: Annotated[str | None, typer.Option(metavar="N", help="Steps to train in all.")] = None,
    seed: Annotated[str | None, typer.Option(metavar="S", help="Seed of everything that is drawn.")] = None,
    checkpoint_every: Annotated[str | None, typer.Option(metavar="N", help="Steps between checkpoints.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:INDEX.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="A TOML file of settings.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting; may be repeated.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run from its latest checkpoint.")
    ] = None,
) -> int:
    """Train a GAN; without arguments, on the bundled handwritten digits.

    The preset is overridden by --config, that by --set, and that by the options named here.
    """
    # Parsed as --set is, so that a wrong value is refused in the same words.
    named = {"data": data, "steps": steps, "seed": seed, "checkpoint_every": checkpoint_every, "device": device}
    given = dict(parse_assignment(f"{name}={value}") for name, value in named.items() if value is not None)
    if resume is not None:
        refused = [f"--{name.replace('_', '-')}" for name in given if name != "steps"]
        refused += [name for name, value in (("--out", out), ("--config", config), ("--set", set_)) if value]
        refused += [f"the preset {preset!r}"] if preset != _DEFAULT_PRESET else []
        if refused:
            raise SettingsError(
                f"--resume takes the settings of the run, so {refused[0]} cannot be given with it; only --steps can"
            )
    else:
        settings: dict[str, Any] = load_preset(preset)
        if config is not None:
            settings |= load_settings(config)
        settings |= dict(parse_assignment(assignment) for assignment in set_ or [])
        chosen = TrainingConfig.from_mapping(settings | given)

    from fastgan.training.loop import resume_run, start_run

    console = Console(soft_wrap=True)
    _show_log_of_kernels(console)
    if resume is not None:
        received = resume_run(resume, steps=given.get("steps"), console=console)
    else:
        received = start_run(chosen, out or Path("runs") / preset, console=console)
    return 0 if received is None else 128 + received


@app.command()
def generate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    count: Annotated[int, typer.Option(min=1, help="How many images.")] = 64,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same images.")] = 0,
    class_: Annotated[
        int | None,
        typer.Option("--class", metavar="K", help="The class, in a conditional run; its classes in turn by default."),
    ] = None,
    truncation: Annotated[
        float,
        typer.Option(min=0, max=1, metavar="PSI", help="Of stylegan: 0 for the average image, 1 for all of them."),
    ] = 1.0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the images; RUN/generated by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:INDEX.")] = "auto",
) -> int:
    """Generate images with the averaged generator of a run: a grid, and each image as a PNG of its own.

    Points of the plane are drawn as one scatter, and written as a table.
    """
    import torch

    from fastgan import sampling
    from fastgan.training.checkpoints import load_averaged_generator
    from fastgan.training.device import resolve_device

    console = Console(soft_wrap=True)
    _show_log_of_kernels(console)
    generator, step = load_averaged_generator(run, resolve_device(device))
    labels = columns = None
    of_classes = ""
    if class_ is not None:
        _require_class(class_, generator.num_classes, run)
        labels = torch.full((count,), class_)
        of_classes = f" of class {class_}"
    elif generator.num_classes is not None:
        columns = sampling.columns_by_class(count, generator.num_classes)
        of_classes = f" of classes 0 to {generator.num_classes - 1} in turn"
    try:
        sampling.check_truncation(generator, truncation)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    images = sampling.generate(generator, count, labels=labels, truncation=truncation, seed=seed)
    folder = out or run / "generated"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"folder {str(folder)!r} cannot be made: {error.strerror}") from None
    grid, *others = sampling.save_images(images, folder, columns=columns)
    beside = "one PNG each" if others[0].suffix == ".png" else others[0].name
    console.print(
        f"{count} images{of_classes} from step {step}, seed {seed}: {grid} and {beside} beside it",
        highlight=False,
        markup=False,
    )
    return 0


def _require_class(class_: int, num_classes: int | None, run: Path) -> None:
    if num_classes is None:
        raise SettingsError(
            f"run {str(run)!r} knows no classes, so --class cannot be given; only a run with the setting conditional "
            "does"
        )
    if not 0 <= class_ < num_classes:
        raise SettingsError(f"--class is {class_}, and run {str(run)!r} has the classes 0 to {num_classes - 1}")


@app.command()
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
    root = Path(__file__).parents[1]
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


@app.command()
def doctor() -> int:
    """Tell what hardware and software is there, and which backend each op would run on, and why."""
    import torch
    from triton import knobs

    import fastgan_kernels
    from fastgan_kernels.backend import op_names

    console = Console(soft_wrap=True)
    table = Table("what", "found", title="Software and devices")
    table.add_row("fastgan", version("fastgan"))
    table.add_row("python", f"{platform.python_version()} on {platform.platform()}")
    table.add_row("torch", torch.__version__)
    table.add_row("triton", version("triton"))
    table.add_row("Triton's interpreter", "on (TRITON_INTERPRET is set)" if knobs.runtime.interpret else "off")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    table.add_row(
        "cpu", f"{len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads in torch, {memory:.1f} GiB"
    )
    devices = [torch.device("cpu")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(index))
        table.add_row(
            f"cuda:{index}",
            f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
            f"{free:.1f} of {total:.1f} GiB free",
        )
        devices.append(torch.device("cuda", index))
    if len(devices) == 1:
        table.add_row("cuda", "torch sees no CUDA device")
    console.print(table)

    table = Table("op", "device", "backend", "why", title="Backend of each op")
    for op in op_names():
        for device in devices:
            choice = fastgan_kernels.backend_of(op, torch.empty(0, device=device))
            table.add_row(op, str(device), choice.backend, choice.reason)
    console.print(table)
    return 0


def main(args: list[str] | None = None) -> None:
    """Runs the command line and exits; never returns."""
    # Read when torch loads OpenMP. By default a thread that waits for the others spins, and where another process has
    # the core that they need, all stand still: on two cores under a load average of 4.4 the median step of the default
    # run took 870 ms of wall time and 589 ms of processor time, and 96 and 67 ms with this.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.exit(_run(args))


def _run(args: list[str] | None) -> int:
    try:
        return app(args, standalone_mode=False) or 0
    except _UsageError as error:
        message = error.format_message()  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except SettingsError as error:
        message = str(error)
    except ValueError as error:
        # Only the errors of bad input: any other ValueError is a fault of ours, and keeps its traceback.
        from fastgan.data import DataError
        from fastgan.training.checkpoints import CheckpointError

        if not isinstance(error, DataError | CheckpointError):
            raise
        message = str(error)
    except RuntimeError as error:
        from fastgan.training.loop import NonFiniteError

        if not isinstance(error, NonFiniteError):
            raise
        print(f"fastgan: {error}", file=sys.stderr)
        return 1
    print(f"fastgan: {message}", file=sys.stderr)
    return 2


class _Notes(logging.Handler):
    """Shows log lines in a console that may hold a progress bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(f"note: {record.getMessage()}", style="dim", markup=False, highlight=False)


def _show_log_of_kernels(console: Console) -> None:
    logger = logging.getLogger("fastgan_kernels")
    logger.handlers = [_Notes(console)]
    logger.propagate = False
