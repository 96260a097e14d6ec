"""The page on mode collapse: the laboratory on both data sets, from the reports that it writes."""

import json
import shutil
from pathlib import Path
from typing import Any

from experiments.markdown import table
from fastgan.cli.collapse import PICTURE, REPORT, collapse
from fastgan.laboratory.remedies import BENCHES
from fastgan.laboratory.trials import NUM_SAMPLES

PAGE = "collapse.md"


def draw(out: Path, docs: Path) -> None:
    """Runs the laboratory where it has no report yet, and writes the page and its pictures into ``docs``."""
    reports = {}
    for data in BENCHES:
        folder = out / data
        if not (folder / REPORT).exists():
            collapse(data=data, remedy=None, steps=None, seed=0, out=folder)
        reports[data] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        shutil.copyfile(folder / PICTURE, docs / picture_of(data))
    (docs / PAGE).write_text(page(reports), encoding="utf-8")


def picture_of(data: str) -> str:
    """The name of the picture in the docs."""
    return f"collapse-{data}.png"


def page(reports: dict[str, dict[str, Any]]) -> str:
    """The page in Markdown, from the report of each data set."""
    return _INTRODUCTION + "".join(_SECTIONS[data](report) for data, report in reports.items())


_INTRODUCTION = f"""# Mode collapse, and what helps

```
fastgan collapse                              # eight Gaussians, a few processor minutes
fastgan collapse --data digits                # the bundled digits
fastgan collapse --remedy r1 --remedy wgan-gp --seed 3 --steps 2000 --out lab
```

trains a small GAN that collapses, and the same GAN again with each remedy: the same networks, optimizer, batches, steps
and seed, and only the settings changed that stand in the table. It writes `collapse.png` and `report.json` into
`runs/collapse-DATA`, or `--out`. Everything is seeded and runs on the CPU, on one thread. Figures and pictures of this
page are made by `python -m experiments collapse`, in the root of the repository, with seed 0.

Has it collapsed? There are three answers, those of [fastgan evaluate](evaluation.md): each tells the share of the real
data that {NUM_SAMPLES:,} samples leave out, and says `collapsed` from a quarter on. By looking: the modes that are
missing. By clustering: the clusters of the real features that are missing. By a score: how far coverage and recall fall
short of those of real data; none where most samples are unlike the real ones. The majority is the verdict. A remedy
*works* if no answer says `collapsed`; short of that it *helps* if more modes are captured than without any.

The answers may differ. A mode that few samples reach, on the way from one mode to another, is lost to somebody who
counts, while it is covered for a score that asks only whether any sample is near.
"""


def _of_gaussians(report: dict[str, Any]) -> str:
    return f"""
## Eight Gaussians

{_table(report)}

Of the data themselves {report["high_quality_of_real"]:.1%} are of high quality, within three standard deviations of
a mode.

![Samples over time of every remedy on eight Gaussians]({picture_of("gaussians")})

Each row is a remedy. To the right of the samples over time: the share of each mode among real (grey) and generated
(blue) samples, lost modes in red, 1 being the mode on the right and the others following counter-clockwise; then, over
the steps, the modes captured (blue) and the share of high quality (green), the top being all.

The plain GAN is the preset `gaussians` with the non-saturating loss and no penalty, for {_steps("gaussians")} steps.
The preset `gaussians-collapse` goes further, to a single point, by an optimizer with much momentum: R1 and WGAN-GP do
not cure that.
"""


def _of_digits(report: dict[str, Any]) -> str:
    return f"""
## Digits

{_table(report)}

Of high quality is what lies as near to a real digit as that one's third neighbour (precision, by the features of the
digit network); {report["high_quality_of_real"]:.1%} of real digits do.

![Samples over time of every remedy on the digits]({picture_of("digits")})

Fully connected networks at 16x16, {_steps("digits")} steps: a generator that learns at four times the rate of the
discriminator, with momentum.
"""


_SECTIONS = {"gaussians": _of_gaussians, "digits": _of_digits}


def _steps(data: str) -> int:
    return BENCHES[data].settings["steps"]


def _table(report: dict[str, Any]) -> str:
    tried = [trial["remedy"] for trial in report["trials"]]
    missing = [name for name in BENCHES[report["data"]].remedies() if name not in tried]
    rows = table(
        [
            *("remedy", "settings", "modes captured", "high quality"),
            *("left out, by looking", "by clustering", "by a score", "verdict", "the remedy"),
        ],
        (_row(trial, len(report["modes"])) for trial in report["trials"]),
    )
    return f"{rows}\n\nCut off before {', '.join(missing)}." if missing else rows


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
