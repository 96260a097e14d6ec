"""The commands over a trained generator, in this process."""

import json
import sys
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan import cli
from fastgan.exporting import is_model_folder, save_generator
from fastgan.metrics.report import Basis, Evaluation, to_json
from fastgan.metrics.scores import Score
from fastgan.training.checkpoint import load_trained_generator
from fastgan.training.config import preset_names

SMALL = ["--set", "base_channels=4", "--set", "batch_size=4", "--set", "latent_dim=5", "--set", "resolution=16"]
# In two steps far enough from the first weights, whose images are all of one gray.
FAST = ["--set", "lr=0.1"]


def trained(folder, preset, *settings):
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", preset, "--out", str(folder), "--steps", "2", "--device", "cpu", *SMALL, *settings])
    assert caught.value.code == 0
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    assert {"stylegan", "dcgan"} <= set(preset_names())
    return {
        "STYLES": trained(
            folder / "styles", "stylegan", "--set", "grow_from=0", "--set", "batch_sizes=", "--set", "lrs="
        ),
        "PLAIN": trained(folder / "plain", "dcgan", *FAST),
        "BY_CLASS": trained(folder / "by_class", "dcgan", *FAST, "--set", "conditional=true"),
    }


def size(path):
    with Image.open(path) as image:
        return image.size


@pytest.mark.parametrize(
    ("run", "args", "printed"),
    [
        ("PLAIN", ["interpolate"], "4 interpolations in z, 9 images each from step 2, seed 0: "),
        ("PLAIN", ["interpolate", "--path", "linear"], "4 interpolations in z"),
        ("STYLES", ["interpolate", "--space", "w", "--seed", "3"], "in w, 9 images each from step 2, seed 3: "),
        ("PLAIN", ["walk", "--dimension", "4"], "4 walks along dimension 4 of the latent, 9 images each"),
        ("STYLES", ["walk", "--component", "1"], "4 walks along component 1 of w, 9 images each"),
        ("STYLES", ["truncation"], "Truncation of 4 images, 9 steps from step 2"),
    ],
)
def test_a_sequence_is_a_grid_of_a_row_each(fastgan, runs, tmp_path, run, args, printed):
    code, out, err = fastgan(*args[:1], runs[run], *args[1:], "--out", tmp_path / "a.png")
    assert (code, err) == (0, "")
    assert printed in out
    width, height = size(tmp_path / "a.png")
    assert width > 9 * 34 + 2  # and a margin with the rows' numbers
    assert height > 4 * 34 + 2


def images_of(fastgan, tmp_path, *args):
    code, _, err = fastgan(*args, "--out", tmp_path / "a.npz")
    assert (code, err) == (0, "")
    with np.load(tmp_path / "a.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize(("run", "space"), [("PLAIN", "z"), ("BY_CLASS", "z"), ("STYLES", "w")])
def test_paths_begin_and_end_at_the_images_that_generate_makes(fastgan, runs, tmp_path, run, space):
    images = images_of(fastgan, tmp_path, "generate", runs[run], "--count", 5, "--seed", 3)["images"]
    path = ["--space", space, "--seed", 3, "--count", 4, "--frames", 3]
    found = images_of(fastgan, tmp_path, "interpolate", runs[run], *path)
    assert found["values"].tolist() == [0, 0.5, 1]
    rows = found["images"].reshape(4, 3, *images.shape[1:])
    assert np.array_equal(rows[:, 0], images[:4])
    if run == "BY_CLASS":
        assert found["labels"].tolist() == [0, 1, 2, 3]
    else:
        assert np.array_equal(rows[:, 2], images[1:])
    for end in (rows[:, 0], rows[:, 2]):
        assert not np.array_equal(rows[:, 1], end)


def test_a_walk_goes_through_the_values_of_its_dimension(fastgan, runs, tmp_path, monkeypatch):
    from fastgan import sampling

    real, rendered = sampling.render, []
    monkeypatch.setattr(
        sampling, "render", lambda g, z, *rest, **named: rendered.append(z) or real(g, z, *rest, **named)
    )
    found = images_of(
        fastgan, tmp_path, "walk", runs["PLAIN"], "--dimension", 2, "--reach", 2, "--frames", 5, "--count", 2
    )
    assert found["values"].tolist() == [-2, -1, 0, 1, 2]
    latents = sampling.draw_latents(2, 5, seed=0)[:, None].repeat(1, 5, 1)
    latents[:, :, 2] = torch.tensor([-2.0, -1, 0, 1, 2])
    assert torch.equal(rendered[0], latents.flatten(0, 1))


def test_truncation_goes_from_one_image_to_each(fastgan, runs, tmp_path):
    generator, step = load_trained_generator(runs["STYLES"], torch.device("cpu"))
    generator.w_mean += 1  # in two steps it has hardly moved
    save_generator(generator, tmp_path / "model", step=step)
    count = ["--count", 3]
    images, average = (
        images_of(fastgan, tmp_path, "generate", tmp_path / "model", *count, "--truncation", psi)["images"]
        for psi in (1, 0)
    )
    rows = images_of(fastgan, tmp_path, "truncation", tmp_path / "model", *count)["images"].reshape(3, 9, 1, 16, 16)
    assert np.array_equal(rows[:, 8], images)
    assert np.array_equal(rows[:, 0], average)
    assert (average == average[0]).all()


def test_mixing_shows_a_and_b_at_the_edges_and_only_b_from_4(fastgan, runs, tmp_path):
    images = images_of(fastgan, tmp_path, "generate", runs["STYLES"], "--count", 6)["images"]
    grids = {
        crossover: images_of(fastgan, tmp_path, "mix", runs["STYLES"], "--count", 3, "--crossover", crossover)["images"]
        for crossover in ("4", "8", "16", "coarse", "middle")
    }
    for grid in (g.reshape(4, 4, 1, 16, 16) for g in grids.values()):
        assert not grid[0, 0].any()
        assert np.array_equal(grid[0, 1:], images[3:])
        assert np.array_equal(grid[1:, 0], images[:3])
    assert np.array_equal(grids["4"].reshape(4, 4, 1, 16, 16)[2, 1:], images[3:])
    assert np.array_equal(grids["16"], grids["middle"])  # the resolution ends with it
    assert len({grid.tobytes() for grid in grids.values()}) == 4


def test_an_animation_has_48_frames_and_goes_back(fastgan, runs, tmp_path):
    code, out, err = fastgan("interpolate", runs["BY_CLASS"], "--class", 3, "--count", 2, "--out", tmp_path / "a.gif")
    assert (code, err) == (0, "")
    assert "2 interpolations in z, 48 images each" in out
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames <= 94  # Pillow joins equal ones
        assert animation.n_frames > 2


def test_numbers_are_written_beside_a_grid_of_generate(fastgan, runs, tmp_path):
    for name, more in (("plain.png", []), ("numbered.png", ["--numbered"])):
        args = "generate", runs["BY_CLASS"], "--count", 20, *more, "--out", tmp_path / name
        assert fastgan(*args)[::2] == (0, "")
    assert size(tmp_path / "plain.png") == (10 * 34 + 2, 2 * 34 + 2)
    width, height = size(tmp_path / "numbered.png")
    assert width > 10 * 34 + 2
    assert height > 2 * 34 + 2


def test_names_of_classes_stand_above_a_grid_where_the_data_has_them(fastgan, runs, tmp_path, monkeypatch):
    from fastgan.training import checkpoint

    drawn = {}
    for names in ([f"no. {label}" for label in range(10)], None):
        real = checkpoint.load_trained_generator

        def named(*args, names=names, real=real, **options):
            generator, step = real(*args, **options)
            generator.class_names = names
            return generator, step

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "load_trained_generator", named)
            assert fastgan("generate", runs["BY_CLASS"], "--count", 20, "--out", tmp_path / "a.png")[::2] == (0, "")
        drawn[names is None] = size(tmp_path / "a.png")
    assert drawn[True] == (10 * 34 + 2, 2 * 34 + 2)
    assert drawn[False][0] == drawn[True][0]
    assert drawn[False][1] > drawn[True][1]


@pytest.mark.parametrize("run", ["STYLES", "BY_CLASS"])
def test_an_exported_folder_stands_where_a_run_does(fastgan, runs, tmp_path, run):
    code, out, err = fastgan("export", runs[run], "--out", tmp_path / "model")
    assert (code, err) == (0, "")
    assert f"Generator of step 2: {tmp_path / 'model'}" in out
    assert is_model_folder(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| trained on | digits |" in card
    assert "| steps | 2 |" in card
    for args in (["generate", "--count", 3], ["interpolate", "--count", 2]):
        images = [
            images_of(fastgan, tmp_path, args[0], folder, *args[1:])["images"]
            for folder in (runs[run], tmp_path / "model")
        ]
        assert np.array_equal(*images)


def test_a_generator_without_a_step_is_not_called_one_of_step_none(fastgan, runs, tmp_path, monkeypatch):
    generator, _ = load_trained_generator(runs["PLAIN"], torch.device("cpu"))
    save_generator(generator, tmp_path / "model")
    _, out, _ = fastgan("export", tmp_path / "model", "--out", tmp_path / "copy")
    assert f"Generator: {tmp_path / 'copy'}" in out
    page = Mock()
    command = sys.modules["fastgan.cli.explore"]  # as an attribute it is the function
    monkeypatch.setattr(command, "require_gradio", lambda: None)
    monkeypatch.setattr(command, "threading", Mock())
    monkeypatch.setattr("fastgan.explorer.build_page", page)
    monkeypatch.setattr("fastgan.explorer.serve", lambda *_: "http://here")
    for folder, title in ((tmp_path / "model", "model"), (runs["PLAIN"], f"{runs['PLAIN'].name}, step 2")):
        fastgan("explore", folder)
        assert page.call_args.args[1] == title


def test_the_card_has_the_scores_of_the_step(fastgan, tmp_path):
    run = trained(tmp_path / "run", "dcgan")
    (run / "evaluation").mkdir()
    report = run / "evaluation" / "report.json"
    basis = Basis("digit-network", "", "", "1x16x16", "digits", "", num_real=1797, num_generated=5000)
    cards = []
    for step in (2, 1):
        found = Evaluation(str(run), step, 0, basis, {"fid": Score(12.345678, 0.5, None)}, {})
        report.write_text(json.dumps(to_json([found])))
        assert fastgan("export", run)[0] == 0
        cards.append((run / "export" / "README.md").read_text())
    assert "- fid: 12.35 (11.37 to 13.33)\n- of 5,000 generated and 1,797 real images of digits, by the" in cards[0]
    assert "fid" not in cards[1]
    report.write_text("{}")
    code, _, err = fastgan("export", run)
    assert (code, err.count("\n")) == (2, 1)
    assert "is not a report of 'fastgan evaluate'" in err


def test_a_program_is_exported_and_described(fastgan, runs, tmp_path):
    code, out, err = fastgan("export", runs["BY_CLASS"], "--format", "torch", "--out", tmp_path)
    assert (code, err) == (0, "")
    sentence = "the largest difference of a pixel, whose range is 2, from the generator's was 0."
    assert sentence in out
    assert sentence in (tmp_path / "README.md").read_text()
    assert (tmp_path / "generator.pt2").is_file()


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["interpolate", "/nowhere"], "'/nowhere' does not exist"),
        (["walk", "."], "'.' is neither a run with a checkpoint nor an export"),
        (["interpolate", "PLAIN", "--class", "3"], "has no classes, so --class cannot be given"),
        (["walk", "BY_CLASS", "--class", "10"], "' has the classes 0 to 9"),
        (["interpolate", "PLAIN", "--space", "w"], "interpolation in w needs a generator with styles"),
        (["interpolate", "STYLES", "--space", "w", "--path", "spherical"], "--path spherical is for --space z"),
        (["interpolate", "PLAIN", "--frames", "1"], "Invalid value for '--frames'"),
        (["interpolate", "PLAIN", "--truncation", "0.5"], "truncation is 0.5; expected 1"),
        (["interpolate", "PLAIN", "--path", "round"], "Invalid value for '--path'"),
        (["walk", "PLAIN", "--dimension", "5"], "dimension is 5, expected 0 to 4: a latent is 5 long"),
        (["walk", "PLAIN", "--component", "0"], "a walk along a component of w needs a generator with styles"),
        (["walk", "STYLES", "--component", "4"], "component is 4, expected 0 to 3: w is 4 long"),
        (["walk", "STYLES", "--component", "1", "--dimension", "1"], "cannot be combined"),
        (["mix", "PLAIN"], "mixing styles needs a generator with styles; expected one of model stylegan"),
        (["mix", "STYLES", "--crossover", "12"], "crossover is '12', expected one of 4, 8, 16, coarse, middle"),
        (
            ["mix", "STYLES", "--out", "a.gif"],
            "output 'a.gif' has an unknown suffix; expected .png, .jpg, .jpeg, .npz, or",
        ),
        (["truncation", "PLAIN"], "truncation needs a generator with styles"),
        (["walk", "PLAIN", "--out", "/dev/null/x/a.png"], "folder '/dev/null/x' cannot be written: Not a directory"),
        (["walk", "PLAIN", "--out", "/proc/a.png"], "output '/proc/a.png' cannot be written: "),
        (["export", "PLAIN", "--format", "tf"], "Invalid value for '--format'"),
        (["export", "PLAIN", "--out", "/dev/null/x"], "folder '/dev/null/x' cannot be written: Not a directory"),
        (["explore", "/nowhere"], "'/nowhere' does not exist"),
        (["explore", "PLAIN", "--port", "0"], "Invalid value for '--port'"),
    ],
)
def test_bad_input_to_a_trained_generator_is_one_sentence(fastgan, runs, tmp_path, monkeypatch, args, sentence):
    monkeypatch.setattr(sys.modules["fastgan.cli.explore"], "require_gradio", lambda: None)
    monkeypatch.chdir(tmp_path)
    code, out, err = fastgan(*(runs.get(arg, arg) for arg in args))
    assert (code, out) == (2, "")
    assert err.startswith("fastgan: ")
    assert err.count("\n") == 1
    assert sentence in err
    assert not list(tmp_path.iterdir())  # nothing was begun


@pytest.mark.parametrize(
    ("args", "module", "extra"),
    [
        (["explore", "PLAIN"], "gradio", "-e '.[explore]'"),
        (["export", "PLAIN", "--format", "onnx"], "onnxruntime", "-e '.[onnx]'"),
        (["walk", "PLAIN", "--out", "a.mp4"], "imageio", "-e '.[mp4]'"),
    ],
)
def test_a_missing_extra_is_one_sentence(fastgan, runs, tmp_path, monkeypatch, args, module, extra):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = fastgan(*(runs.get(arg, arg) for arg in args))
    assert code == 2
    assert err.startswith("fastgan: ")
    assert f"needs {module}, which is not installed: pip install {extra}" in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
