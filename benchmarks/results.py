"""The table of results: its columns, in this one place, and appending to it."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

REPOSITORY_CSV = Path(__file__).with_name("results.csv")

IDENTITY = ("date", "commit", "dirty", "device", "chip", "driver", "torch", "triton")
SUBJECT = ("op", "problem", "shape", "dtype", "layout", "pass", "provider")
MODES = ("cold", "warm", "graph", "wall")
COLUMNS = (
    *IDENTITY,
    *SUBJECT,
    "bytes",
    "operations",
    *(f"{mode}_{part}" for mode in MODES for part in ("us_q1", "us_median", "us_q3", "samples")),
    "share_of_clone_cold",
    "share_of_clone_graph",
    "gb_per_s",
    "peak_bytes",
    "launches",
    "parts_us",
)

Row = Mapping[str, object]


def render(rows: Iterable[Row]) -> str:
    """``rows`` as CSV lines without header. What a row lacks was not measured: its cell is empty.

    Raises:
        ValueError: for a column that the table does not have.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", extrasaction="raise", lineterminator="\n")
    writer.writerows(rows)
    return text.getvalue()


def header() -> str:
    return ",".join(COLUMNS) + "\n"


def append(path: Path, rows: Iterable[Row]) -> None:
    """Appends ``rows`` in one write; a new file gets the header.

    Raises:
        ValueError: if the file has another header.
    """
    if not path.exists() or path.stat().st_size == 0:
        path.write_text(header())
    _check_header(path)
    text = render(rows)
    with path.open("a", newline="") as file:
        file.write(text)


def read(path: Path) -> list[dict[str, str]]:
    """All rows, every cell a string.

    Raises:
        ValueError: if the file has another header.
    """
    _check_header(path)
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def merge(source: Path, target: Path = REPOSITORY_CSV) -> int:
    """Appends to ``target`` the rows of ``source`` that were taken on a GPU and are not there yet; returns how many."""
    known = {tuple(row.values()) for row in read(target)} if target.exists() else set()
    new = [row for row in read(source) if row["device"] != "cpu" and tuple(row.values()) not in known]
    append(target, new)
    return len(new)


def _check_header(path: Path) -> None:
    with path.open(encoding="utf-8-sig") as file:
        found = file.readline()
    if found != header():
        raise ValueError(f"{path} has the columns {found.strip()!r}, expected {header().strip()!r}")
