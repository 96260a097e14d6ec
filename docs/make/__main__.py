"""python -m docs.make PAGE: trains what a page shows, unless it is there, and draws its figures and tables."""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from docs.make.page import DOCS, RUNS

PAGES = {
    "gaussians": "every loss by every regularizer on eight Gaussians: an hour on two cores",
    "digits": "every preset for the digits, and style mixing: an hour",
    "evaluation": "what the scores of `fastgan evaluate` say of damaged digits, and of three runs: ten minutes",
    "collapse": "mode collapse with and without each remedy: half an hour",
    "explorer": "the page of `fastgan explore` of the run runs/stylegan; needs playwright, Chromium, the extra explore",
    "site": "the documentation with the API reference, into site/; needs the extra docs",
    "photos": "the preset photos: ten minutes",
    "digit-network": "the network that classifies and scores generated digits: half a minute",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m docs.make", description=__doc__)
    pages = parser.add_subparsers(dest="page", metavar="PAGE", required=True)
    for name, what in PAGES.items():
        pages.add_parser(name, help=what, description=what)
    name = parser.parse_args().page
    if not Path("docs/make").is_dir():
        sys.exit("docs.make: run it in the root of the repository")
    RUNS.mkdir(parents=True, exist_ok=True)
    import_module(f"docs.make.{name.replace('-', '_')}").draw(RUNS / name, DOCS)


if __name__ == "__main__":
    main()
