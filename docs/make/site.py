"""Builds the documentation as a site: gathers the repository's pages in one folder, adapts their links, writes HTML.

Builders read one folder of pages. The READMEs beside the code are pages too.
"""

import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Paths in the repository, and their paths on the site; docs/NAME becomes NAME.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "kernels/README.md": "kernels.md",
    "tests/README.md": "tests.md",
}
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)


def draw(out: Path, docs: Path) -> None:
    """Gathers the pages in ``out``, which mkdocs.yml names, and builds ``site/``; a dead link is an error."""
    gather(out, docs)
    sys.exit(subprocess.run(["zensical", "build", "--clean", "--strict"], cwd=ROOT).returncode)


def gather(out: Path, docs: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(docs, out, ignore=shutil.ignore_patterns("make", "*.py", "*.pyc", "__pycache__"))
    pages = PAGES | {f"docs/{path.relative_to(out)}": str(path.relative_to(out)) for path in out.rglob("*.md")}
    for source, page in pages.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        (out / page).write_text(relinked(text, source, page), encoding="utf-8")


def relinked(text: str, source: str, page: str) -> str:
    """The text of a file of the repository with links into the site; a link to what the site lacks becomes text."""

    def replaced(match: re.Match[str]) -> str:
        words, target, anchor = match.groups()
        if "://" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path not in PAGES and not path.startswith("docs/"):
            return words
        found = posixpath.relpath(PAGES.get(path, path.removeprefix("docs/")), posixpath.dirname(page) or ".")
        return f"[{words}]({found}{anchor or ''})"

    parts = _CODE.split(text)
    return "".join(part if index % 2 else _LINK.sub(replaced, part) for index, part in enumerate(parts))
