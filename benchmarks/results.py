"""The table of results: its columns, and the machine and commit behind each row."""

import csv
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch
import triton

REPOSITORY_CSV = Path(__file__).with_name("results.csv")
ROOT = Path(__file__).parents[1]
FILE = "results.csv"

IDENTITY = ("date", "commit", "dirty", "device", "chip", "driver", "torch", "triton")
SUBJECT = ("op", "problem", "shape", "dtype", "layout", "pass", "implementation")
COLUMNS = (
    *IDENTITY,
    *SUBJECT,
    "bytes",
    *(f"{mode}_{part}" for mode in ("device", "graph", "wall") for part in ("us_q1", "us_median", "us_q3", "samples")),
    "share_of_copy_device",
    "share_of_copy_graph",
    "peak_bytes",
)
_HEADER = ",".join(COLUMNS)

Row = Mapping[str, object]


def append(path: Path, rows: Iterable[Row]) -> None:
    """Appends ``rows``; a new file gets the header. A column that a row lacks was not measured: its cell is empty.

    Raises:
        ValueError: if the file has another header, or if a row has a column that the table lacks.
    """
    if path.exists() and path.stat().st_size:
        _check_header(path)
    else:
        path.write_text(_HEADER + "\n")
    with path.open("a", newline="") as file:
        csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n").writerows(rows)


def read(path: Path) -> list[dict[str, str]]:
    """All rows; every cell is a string. ``path`` is a table or a folder that holds one.

    Raises:
        ValueError: if there is no such table.
    """
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"there is no table of results at {path}; give a {FILE}, or a folder that holds one")
    _check_header(path)
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def merge(source: Path, target: Path = REPOSITORY_CSV) -> int:
    """Appends the rows of ``source`` that a GPU measured and ``target`` lacks; returns their number."""
    known = {tuple(row.values()) for row in read(target)} if target.exists() else set()
    new = [row for row in read(source) if row["device"] != "cpu" and tuple(row.values()) not in known]
    append(target, new)
    return len(new)


def identity(commit: str | None = None) -> dict[str, str]:
    """The columns that say where a result comes from.

    Args:
        commit: the commit to record where the sources are not a git checkout; ``dirty`` is then empty.
    """
    found = _output("git", "-C", str(ROOT), "rev-parse", "HEAD")
    # Changed results do not make the sources dirty: a run writes them.
    changes = _output("git", "-C", str(ROOT), "status", "--porcelain", "--", ".", f":!benchmarks/{FILE}")
    hip, gpu = torch.version.hip, torch.cuda.is_available()
    nvidia = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": found or commit or "",
        "dirty": ("yes" if changes else "no") if found else "",
        "device": ("rocm" if hip else "cuda") if gpu else "cpu",
        "chip": torch.cuda.get_device_name() if gpu else platform.processor() or platform.machine(),
        "driver": (f"hip {hip}" if hip else _output(*nvidia).split("\n")[0]) if gpu else "",
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _check_header(path: Path) -> None:
    with path.open(encoding="utf-8-sig") as file:
        found = file.readline().strip()
    if found != _HEADER:
        raise ValueError(f"{path} has the columns {found!r}, expected {_HEADER!r}")
