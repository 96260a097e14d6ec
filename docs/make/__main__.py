"""python -m docs.make PAGE: makes the runs of a page that do not exist yet, and draws its figures and tables."""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from docs.make.page import DOCS, RUNS

PAGES = {
    "gaussians": "every loss by every regularizer on eight Gaussians: an hour on two cores",
    "digits": "every preset for the digits, and style mixing: an hour",
    "evaluation": "the scores of `fastgan evaluate` for damaged digits and for three runs: ten minutes",
    "collapse": "mode collapse with and without each remedy: half an hour",
    "explorer": "a picture of `fastgan explore runs/stylegan`; needs playwright, Chromium and the extra explore",
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
