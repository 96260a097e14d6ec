"""What the scores of `fastgan evaluate` say of real digits that were damaged, and of three runs."""

import contextlib
import io
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import avg_pool2d

from experiments.markdown import table
from fastgan.data import load_dataset, normalize
from fastgan.metrics.collapse import Collapse, judge_collapse
from fastgan.metrics.collapse_picture import collapse_picture
from fastgan.metrics.comparison import LABELS
from fastgan.metrics.digit_network import ACCURACY
from fastgan.metrics.features import FeatureNetwork, load_features
from fastgan.metrics.scores import score, score_values
from fastgan.sampling import image_grid, save_png
from fastgan.training.checkpoints import latest_checkpoint
from fastgan.training.config import TrainingConfig, load_preset
from fastgan.training.judging import judge_of, look_at, real_batches, shares_of
from fastgan.training.loop import start_run

PAGE, PICTURE, RUN_PICTURE = "evaluation.md", "evaluation-ones-and-sevens.png", "evaluation-run.png"

_RESOLUTION = 32
# A short run that is poor, a longer one, and one of another model.
RUNS = (("vanilla", 300), ("vanilla", 3000), ("dcgan", 400))


def train_runs(out: Path, console: Console) -> list[Path]:
    """Trains the runs that are not there yet, in about seven minutes on one core."""
    runs = []
    for preset, steps in RUNS:
        run = out / f"{preset}-{steps}"
        if latest_checkpoint(run) is None:
            start_run(TrainingConfig.from_mapping(load_preset(preset) | {"steps": steps}), run, console=console)
        runs.append(run)
    return runs


def draw(out: Path, docs: Path, console: Console) -> None:
    """Writes the page and its pictures into the folder ``docs``."""
    runs = train_runs(out, console)
    digits = load_dataset("digits", resolution=_RESOLUTION)
    network = load_features("digits", torch.device("cpu"))
    ones_and_sevens = digits.images[(digits.labels == 1) | (digits.labels == 7)]
    collapse = _judge(network, digits.images, ones_and_sevens)
    grids = [image_grid(normalize(images[:64])) for images in (digits.images, ones_and_sevens)]
    save_png(collapse_picture(*grids, collapse.shown), docs / PICTURE)
    report = (out / "report").resolve()
    shown = _evaluate(runs, report)
    (docs / RUN_PICTURE).write_bytes((report / "1-collapse.png").read_bytes())
    (docs / PAGE).write_text(_page(_damages(network, digits.images, digits.labels), collapse, shown), encoding="utf-8")


def _judge(network: FeatureNetwork, real: Tensor, generated: Tensor) -> Collapse:
    judge = judge_of(network)
    looked = [look_at(real_batches(images), network, judge) for images in (real, generated)]
    return judge_collapse(*(one.features for one in looked), shares_of(judge, *looked), seed=0)


def _damages(network: FeatureNetwork, images: Tensor, labels: Tensor) -> str:
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=random)
    rows = {"nothing": images}
    rows |= {f"noise of {a} of 255": (images + a * noise).clamp(0, 255).to(torch.uint8) for a in (20, 40, 80, 160)}
    rows |= {
        f"blur over {k}x{k}": avg_pool2d(images.float(), k, 1, k // 2).round().to(torch.uint8) for k in (3, 5, 7, 9)
    }
    rows |= {f"without {what}": images[labels >= first] for first, what in _LEFT_OUT.items()}
    real = network(images)
    names = [name for name in LABELS if name != "f1"]
    lines = []
    for name, damaged in rows.items():
        values = score_values(real, network(damaged))
        lines.append([name, *(f"{values[score]:.3g}" for score in names)])
    order = torch.randperm(len(images), generator=random)
    halves = [network(images[half]) for half in (order[::2], order[1::2])]
    found = score(*halves, seed=0)
    lines.append(["two halves", *(f"{found[name].value:.3g}" for name in names)])
    return table(["what was done", *(LABELS[name] for name in names)], lines)


_LEFT_OUT = {1: "0", 3: "0 to 2", 5: "0 to 4", 8: "0 to 7"}


def _evaluate(runs: list[Path], report: Path) -> str:
    """What the command prints of the runs when it compares them."""
    from fastgan.cli import main

    printed = io.StringIO()
    names = [run.name for run in runs]
    with contextlib.chdir(runs[0].parent), contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main(["evaluate", *names, "--device", "cpu", "--out", str(report)])
    return "\n".join(line.rstrip() for line in printed.getvalue().partition("Comparison")[2].strip().splitlines())


_FEATURES = [
    [
        "`digits`",
        "one channel, 8x8 and larger",
        f"64 features and 10 classes of a network fitted to the bundled digits, {ACCURACY:.1%} right on those held "
        "out; comes with the package (122 KB, by `python -m experiments digit-network`); the default for the digits",
    ],
    ["`points`", "points of the plane", "the coordinates; the default for the Gaussians"],
    [
        "`inception`",
        "grey or RGB",
        "2048 features and 1008 classes of the Inception of 2015 in torch-fidelity's form, as published FIDs have "
        "them: `pip install 'fastgan[evaluation]'`; downloaded, or from `--weights FILE`; the default for others",
    ],
    [
        "a TorchScript file",
        "as it takes them",
        "called with uint8 images [N, C, S, S], not resized; returns floating-point [N, F], or a tuple of that and "
        "class logits [N, K]",
    ],
    ["`module:function`", "as it takes them", "a Python function, likewise"],
]

_SCORES = [
    [
        "FID",
        "squared distance of normal distributions with the features' means and covariances (Heusel et al. 2017), in "
        "float64; too large for few images, so it is only compared at equal counts",
        "lower",
    ],
    [
        "kernel distance",
        "unbiased squared MMD with a cubic kernel (KID, Binkowski et al. 2018), of all images; may be below 0",
        "lower",
    ],
    [
        "Inception Score",
        "of class probabilities (Salimans et al. 2016), in one split; absent where features have no classes",
        "higher",
    ],
    [
        "precision, recall",
        "the share of generated images near real ones, and of real ones near generated ones (Kynkäänniemi et al. 2019, "
        "k = 3); F1 is their harmonic mean",
        "higher",
    ],
    [
        "density, coverage",
        "how many real neighbourhoods hold a generated image, and which share of them does (Naeem et al. 2020, k = 5)",
        "higher",
    ],
]


def _page(damages: str, collapse: Collapse, shown: str) -> str:
    answers = "\n".join(f"- by {answer.way}: {answer.verdict}; {answer.evidence}" for answer in collapse.answers)
    return f"""# Judging generated images

`fastgan evaluate RUN` compares images of the averaged generator with real ones. Figures and pictures of this page are
made by `python -m experiments evaluation`, in the root of the repository.

## What is compared

```
fastgan evaluate RUN                           # against the run's own data
fastgan evaluate RUN --data photos/ --count 5000 --features inception
fastgan evaluate RUN_A RUN_B RUN_C             # which to take for what
fastgan evaluate RUN_D old/report.json         # against a report from before
```

Images are compared by the features of a network, and its choice decides what a score means. The report names it with
the digest of its weights, the counts, the sizes of the images and the filter that resizes them; scores that stand on
other features, filters, counts or data are not compared, and a sentence says what differs.

{table(["`--features`", "images", "what they are"], _FEATURES)}

A TorchScript file and a module are code, and run when they are named; nothing of the kind is ever taken from a run's
folder. A file of weights is refused if it holds anything but tensors.

Generated images are rounded to bytes, as files of them would be. There are as many as real ones, up to 10,000, unless
`--count` says otherwise; a conditional run is asked for the classes of the real images. Real features are kept in
`$XDG_CACHE_HOME/fastgan` (`~/.cache/fastgan`) under a digest of the images, the features, the filter, the device and
the versions of the packages that compute them; a file that is damaged is computed again, with a warning. Those of
`module:function` are computed every time: the function may use other modules and files, which no digest covers.

## The scores

{table(["score", "what it is", "better"], _SCORES)}

Intervals hold 95%: 1.96 standard errors to either side, from 20 random halves of both samples without replacement
(the delete-d jackknife). The column "real images" is what real ones have: two samples of them with replacement for FID,
themselves for the Inception Score, two halves for the others. Where generated images are almost as good as real, the
intervals of FID and of the kernel distance are too wide rather than too narrow.

On the same features FID, kernel distance, Inception Score, precision and recall agree with torch-fidelity, FID with
torchmetrics, and precision, recall, density and coverage with prdc, to 1e-6 relative
(`tests/fastgan/metrics/test_metrics_agreement.py`).

Real digits against real digits to which something was done:

{damages}

## Mode collapse

Three answers, each with its evidence, and the majority as the verdict. Each says which share of the real images is left
out, and `collapsed` from a quarter on:

- by looking: `collapse.png` shows real and generated images and how both spread over the classes (or clusters of the
  real features, where no classifier knows the images); of digits and Gaussians a classifier says which classes one
  would miss. A class is lost below a fifth of its real share, and not by chance (Fisher's exact test).
- by clustering: k-means of the real features, and the clusters that are lost in the same sense, with the chi-squared
  test of equal shares.
- by a score: how far coverage and recall fall short of those of as many real images. There is no answer where most
  images are unlike the real ones: they show no variety, good or bad.

A "generator" of real ones and sevens alone:

![Real digits, and ones and sevens]({PICTURE})

{answers}

## While training

`--set evaluate_every=500` measures the averaged generator's FID at that interval (a multiple of `log_every`), of
`evaluate_count` images by `evaluate_features`: into `metrics.jsonl` and TensorBoard. The step with the lowest one gets
a checkpoint that stays until there is a better one, and every checkpoint names it in its `state.json`, as `best`.

## Which run to take

With more than one run, `fastgan evaluate` recommends one for quality alone (precision), for augmentation (recall), and
for general use (FID; among those whose FID does not differ from the best with 95% confidence, F1), and says when the
difference is within the intervals. The name of a run here is its preset and its steps:

```
$ fastgan evaluate {" ".join(f"{preset}-{steps}" for preset, steps in RUNS)}
{shown}
```

The picture of the first:

![Digits of a short run]({RUN_PICTURE})
"""
