"""The pages in docs/: what draws them, with results that are made up and networks that are not trained."""

import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

from docs.make import collapse, digits, gaussians
from docs.make.gaussians import Result, all_cells, result_of, table_cell
from docs.make.page import DOCS, inject
from fastgan import losses, regularizers
from fastgan.collapse.remedies import BENCHES
from fastgan.metrics.digits import ACCURACY, WEIGHTS
from fastgan.metrics.modes import ModeCoverage
from fastgan.models import build_networks
from fastgan.training.config import TrainingConfig, load_preset
from fastgan.training.fit import NonFiniteError

ALL_NEAR = Result(ModeCoverage((1200,) * 8, 10_000), [[0.0, 2.0]], 20.0)
SEVEN_NEAR = Result(ModeCoverage((0, *(1400,) * 7), 10_000), [], 30.0)
FAR = Result(ModeCoverage((999,) * 8, 10_000), [], 30.0)
FAILED = Result(None, [], 7.0)


def test_blocks_are_replaced_and_prose_stays(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "above\n<!-- made: a -->\nold\nlines\n<!-- /made -->\nbetween\n<!-- made: b-c -->\n<!-- /made -->\n"
    )
    inject(page, {"b-c": "new \\1", "a": "table"})
    expected = "above\n<!-- made: a -->\ntable\n<!-- /made -->\nbetween\n<!-- made: b-c -->\nnew \\1\n<!-- /made -->\n"
    assert page.read_text() == expected
    with pytest.raises(ValueError, match="has the blocks a, b-c, expected a"):
        inject(page, {"a": "1"})
    assert page.read_text() == expected


@pytest.fixture
def results() -> dict[str, Result]:
    return {cell.name: ALL_NEAR for cell in all_cells()}


def report(data: str, num_modes: int) -> dict:
    def trial(name, captured, lost, said):
        return {
            "remedy": name,
            "settings": BENCHES[data].remedies()[name],
            "verdict": "collapsed",
            "against_none": said,
            "moments": [{"captured": 0, "high_quality": 0.0}, {"captured": captured, "high_quality": 0.875}],
            "collapse": {"answers": [{"lost": lost}, {"lost": lost}, {"lost": None}]},
        }

    failed = trial("r1", 0, 0.0, "does not help") | {"collapse": None, "verdict": "not finite"}
    trials = [trial("none", 2, 0.75, ""), trial("spectral-norm", 5, 0.3, "helps, not enough"), failed]
    return {"data": data, "modes": ["m"] * num_modes, "high_quality_of_real": 0.9, "trials": trials}


def copy_of(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).write_text((DOCS / name).read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path / name


def test_each_page_has_the_blocks_that_are_made_for_it(tmp_path: Path, results):
    made = {"counts": [100] * 10, "right": None, "wall": 61.0, "processor": 119.6}
    inject(copy_of(tmp_path, "gaussians.md"), gaussians.blocks(results))
    inject(copy_of(tmp_path, "digits.md"), digits.blocks(dict.fromkeys(digits.presets(), made), []))
    inject(copy_of(tmp_path, "evaluation.md"), {"damages": "", "answers": "", "runs": ""})
    # Settings are those of today.
    gaussians_page = (DOCS / "gaussians.md").read_text(encoding="utf-8")
    for name in ("preset", "regularizers"):
        assert gaussians.blocks(results)[name] in gaussians_page


def test_a_comparison_of_remedies_that_has_its_report_is_kept(tmp_path: Path):
    for data, modes in (("gaussians", 8), ("digits", 10)):
        (tmp_path / data).mkdir()
        (tmp_path / data / "report.json").write_text(json.dumps(report(data, modes)))
        (tmp_path / data / "collapse.png").write_bytes(data.encode())
    page = copy_of(tmp_path, "collapse.md")
    collapse.draw(tmp_path, tmp_path)
    assert (tmp_path / "collapse-digits.png").read_bytes() == b"digits"
    for row in (
        "| none |  | 2 of 8 | 87.5% | 75% | 75% | no answer | collapsed |  |",
        "| spectral-norm | `spectral_norm=true` | 5 of 10 | 87.5% | 30% | 30% | no answer | collapsed | helps, not e",
        "| r1 | `regularizer=r1 regularizer_weight=0.02` |  |  |  |  |  | not finite | does not help |",
        "Cut off before label-smoothing, two-time-scales, minibatch-stddev,",
    ):
        assert f"\n{row}" in page.read_text()


def test_the_picture_has_a_field_for_each_cell(tmp_path: Path, results, monkeypatch):
    monkeypatch.setattr(gaussians, "LOSSES", ("minimax", "hinge"))
    monkeypatch.setattr(gaussians, "REGULARIZERS", {name: gaussians.REGULARIZERS[name] for name in ("none", "r1")})
    results[table_cell("minimax", "none").name] = FAILED
    for name in ("a.png", "b.png"):
        gaussians._picture(results, tmp_path / name)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (340, 354)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("name", ["gaussians", "digits", "evaluation", "collapse"])
def test_every_picture_of_a_page_is_there(name: str):
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (DOCS / f"{name}.md").read_text(encoding="utf-8"))
    assert pictures
    assert all((DOCS / picture).is_file() for picture in pictures)
    if name == "digits":
        assert {f"digits-{preset}.png" for preset in digits.presets()} <= set(pictures)


def test_the_table_has_every_loss_and_every_regularizer_once():
    # 'logistic' is another name of 'non-saturating'.
    assert sorted([*gaussians.LOSSES, "logistic"]) == sorted(losses.LOSSES)
    assert sorted(gaussians.REGULARIZERS) == sorted([*regularizers.REGULARIZERS, "spectral norm"])
    cells = all_cells()
    assert len({cell.name for cell in cells}) == len(cells) == 7 * 7 + 3 * 2 + 3
    for cell in cells:
        TrainingConfig.from_mapping(load_preset(cell.preset) | cell.changes)
        assert set(cell.changes) <= {"loss", "regularizer", "regularizer_weight", "spectral_norm", "seed"}


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (ALL_NEAR, "**8 of 8, 96.0%**"),
        (SEVEN_NEAR, "7 of 8, 98.0%"),
        (FAR, "8 of 8, 79.9%"),
        (FAILED, "not finite"),
    ],
)
def test_results_that_meet_the_bar_are_bold_and_failures_are_named(results, result: Result, text: str):
    results[table_cell("minimax", "none").name] = result
    blocks = gaussians.blocks(results)
    assert f"\n| minimax | {text} | **8 of 8, 96.0%** |" in blocks["cells"]
    assert "| WGAN-GP | wasserstein | wgan-gp | **8 of 8, 96.0%** | **8 of 8, 96.0%** |" in blocks["seeds"]
    assert "58 runs on one thread each took" in blocks["cost"]


def test_a_cell_is_trained_once_and_one_that_diverges_is_a_result_too(tmp_path: Path, monkeypatch):
    tiny = {"steps": 2, "base_channels": 8, "batch_size": 4}
    monkeypatch.setattr(gaussians, "load_preset", lambda name: load_preset(name) | tiny)
    monkeypatch.setattr(gaussians, "NUM_SAMPLES", 50)
    cell = table_cell("hinge", "spectral norm", seed=1)
    found = result_of(tmp_path, cell)
    config = (tmp_path / cell.name / "config.toml").read_text()
    assert all(line in config for line in ('loss = "hinge"\n', "spectral_norm = true\n", "seed = 1\n", "steps = 2\n"))
    assert (found.coverage.num_samples, len(found.points)) == (50, 50)

    def diverge(config, run, console):
        raise NonFiniteError("a loss stopped being a finite number")

    monkeypatch.setattr(gaussians, "start_run", diverge)
    assert result_of(tmp_path, cell) == found, "what has its result is not trained again"
    assert str(result_of(tmp_path, table_cell("minimax", "none"))) == "not finite"
    assert result_of(tmp_path, table_cell("minimax", "none")).points == []


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    networks = build_networks("stylegan", resolution=16, num_channels=1, latent_dim=8, base_channels=8)
    return networks.generator.eval()


def test_the_more_layers_b_has_the_more_of_b_there_is(generator, monkeypatch):
    monkeypatch.setattr(digits, "NUM_PAIRS", 64)
    found = digits.mixing(generator)
    assert [row[0] for row in found] == ["16", "8", "4"]
    coarse = [int(row[3].rstrip("%")) for row in found]
    assert 0 < coarse[0] < coarse[1] < 95
    # From 4 on nothing is left of A.
    assert found[-1][1:] == ["0%", "100%", "100%", "100%"]
    # A row for A and one for each crossover.
    assert digits.mixed_grid(generator).shape[-2:] == (4 * 34 + 2, 8 * 34 + 2)  # enlarged to twice the size


def test_the_table_of_the_digits_counts_classes_from_a_fifth_of_their_share_on():
    results = {
        "dcgan": {"counts": [20, 19, 0, 161, *[100, 100], *[150] * 4], "right": None, "wall": 61, "processor": 119.6},
        "conditional-dcgan": {"counts": [90, 110, *[100] * 8], "right": [0.9512, 0.87], "wall": 3, "processor": 4},
    }
    table = digits.blocks(results, [])["presets"]
    assert "| `dcgan` | 8 of 10 | 0.0% |  | 1:01 | 2:00 |" in table
    assert "| `conditional-dcgan` | 10 of 10 | 9.0% | 95.1%, 87% | 0:03 | 0:04 |" in table


# Half a minute of training.
@pytest.mark.exhaustive
def test_the_file_of_weights_is_made_by_its_command(tmp_path: Path):
    from docs.make.digit_network import fit

    accuracy = fit(tmp_path / "weights.safetensors")
    # Another build of torch rounds otherwise: 450 held-out images, five standard errors of 99%.
    assert abs(accuracy - ACCURACY) < 5 * (0.01 * 0.99 / 450) ** 0.5
    made, kept = (safetensors.torch.load_file(path) for path in (tmp_path / "weights.safetensors", WEIGHTS))
    assert {name: tensor.shape for name, tensor in made.items()} == {name: x.shape for name, x in kept.items()}
    assert f"{ACCURACY:.1%} right" in (DOCS / "evaluation.md").read_text(encoding="utf-8")
