"""Makes the page on mode collapse from the reports of `fastgan collapse` on both data sets."""

import json
import shutil
from pathlib import Path
from typing import Any

from docs.make.page import inject, table
from fastgan.cli.collapse import PICTURE, REPORT, collapse
from fastgan.collapse.remedies import BENCHES


def draw(out: Path, docs: Path) -> None:
    """Runs the command for data sets without a report; writes the pictures and the tables."""
    blocks = {}
    for data in BENCHES:
        folder = out / data
        if not (folder / REPORT).exists():
            collapse(data=data, remedy=None, steps=None, seed=0, out=folder)
        blocks[data] = block(json.loads((folder / REPORT).read_text(encoding="utf-8")))
        shutil.copyfile(folder / PICTURE, docs / f"collapse-{data}.png")
    inject(docs / "collapse.md", blocks)


def block(report: dict[str, Any]) -> str:
    """A report as a table, the remedies that it lacks if it was cut off, and the quality of real data."""
    tried = [trial["remedy"] for trial in report["trials"]]
    missing = [name for name in BENCHES[report["data"]].remedies() if name not in tried]
    head = ["remedy", "settings", "modes captured", "high quality"]
    head += ["missing, by looking", "by clustering", "by a score", "verdict", "the remedy"]
    rows = table(head, (_row(trial, len(report["modes"])) for trial in report["trials"]))
    cut_off = f"\n\nCut off before {', '.join(missing)}." if missing else ""
    return f"{rows}{cut_off}\n\n{report['high_quality_of_real']:.1%} of a sample of real data is of high quality."


def _row(trial: dict[str, Any], num_modes: int) -> list[str]:
    settings = f"`{' '.join(f'{name}={str(value).lower()}' for name, value in trial['settings'].items())}`"
    first = [trial["remedy"], settings if trial["settings"] else ""]
    if trial["collapse"] is None:
        return [*first, *[""] * 5, trial["verdict"], trial["against_none"]]
    last = trial["moments"][-1]
    lost = [
        "no answer" if answer["lost"] is None else f"{answer['lost']:.0%}" for answer in trial["collapse"]["answers"]
    ]
    captured = f"{last['captured']} of {num_modes}"
    return [*first, captured, f"{last['high_quality']:.1%}", *lost, trial["verdict"], trial["against_none"]]
