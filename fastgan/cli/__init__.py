"""The command line. Exit codes: 0 done, 1 a fault of ours, values that stopped being finite or a full disk, 2 bad
input, 130 and 143 after Ctrl-C and SIGTERM.

torch takes seconds to import: a command imports what needs it when it runs, so that help comes at once.
"""

import os
import sys
from typing import Annotated

import typer

import fastgan
from fastgan.cli.collapse import collapse
from fastgan.cli.doctor import doctor
from fastgan.cli.evaluate import evaluate
from fastgan.cli.explore import explore
from fastgan.cli.export import export
from fastgan.cli.generate import generate, interpolate, mix, truncation, walk
from fastgan.cli.train import TrainCommand, train
from fastgan.errors import InputError
from fastgan.extras import MissingExtraError

# The base class of typer's errors for a wrong command line; recent versions of typer bundle their own click.
_UsageError = typer.BadParameter.__mro__[1]

app = typer.Typer(name="fastgan", add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def show_help_or_version(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Train generative adversarial networks and use what they have learned."""
    if version:
        print(f"fastgan {fastgan.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


app.command(cls=TrainCommand)(train)
for command in (generate, evaluate, collapse, interpolate, walk, mix, truncation, explore, export, doctor):
    app.command()(command)


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
    except (InputError, MissingExtraError) as error:  # any other ValueError is our fault, and keeps its traceback
        message = str(error)
    except RuntimeError as error:
        from fastgan.training.fit import EndedError

        if not isinstance(error, EndedError):
            raise
        print(f"fastgan: {error}", file=sys.stderr)
        return 1
    print(f"fastgan: {message}", file=sys.stderr)
    return 2
