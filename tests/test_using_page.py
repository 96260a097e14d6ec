"""docs/using.md: every picture was made by a command on the page, and every command on it is one."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from fastgan.cli import app

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "using.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"`fastgan (\w+ runs/[^`]*)`", PAGE)
PICTURES = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE)


def test_every_picture_is_there_small_and_made_by_a_command_above_it():
    assert len(PICTURES) >= 10
    for name in set(PICTURES) - {"explorer.png"}:
        assert PAGE.index(f"--out docs/{name}`") < PAGE.index(f"({name})")
    assert PAGE.index("python -m docs.make explorer") < PAGE.index("(explorer.png)")
    assert all((DOCS / name).stat().st_size < 200_000 for name in PICTURES)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command):
    name, *args = shlex.split(command)
    group = typer.main.get_command(app)
    # Parsed, and not run.
    assert group.commands[name].make_context(name, args).params["run"].parts[0] == "runs"
