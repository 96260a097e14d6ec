"""Writes figures and tables that come from runs into pages of Markdown, between markers."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
RUNS = Path("runs/docs")
"""The folder of the pages' runs. A run whose result is there is not trained again."""

_BLOCK = re.compile(r"<!-- made: ([\w-]+) -->\n(.*?)\n?<!-- /made -->", re.DOTALL)


def inject(page: Path, blocks: dict[str, str]) -> None:
    """Writes each of ``blocks`` between ``<!-- made: NAME -->`` and ``<!-- /made -->`` of the page."""
    text = page.read_text(encoding="utf-8")
    found = [name for name, _ in _BLOCK.findall(text)]
    if sorted(found) != sorted(blocks):
        raise ValueError(f"{page} has the blocks {', '.join(found)}, expected {', '.join(blocks)}")
    text = _BLOCK.sub(lambda match: f"<!-- made: {match[1]} -->\n{blocks[match[1]]}\n<!-- /made -->", text)
    page.write_text(text, encoding="utf-8")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; cells must not hold pipes."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """The content of the JSON file ``path``; if it does not exist, ``make`` makes the content, and it is written."""
    if not path.exists():
        path.write_text(json.dumps(make()) + "\n")
    return json.loads(path.read_text())
