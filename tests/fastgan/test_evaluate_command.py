import errno
import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan import cli
from fastgan.data import load_dataset, normalize

SMALL = ["--set", "base_channels=8", "--set", "batch_size=8", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module", autouse=True)
def cache(folder):
    """The real features of these tests, of no user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield folder / "cache" / "fastgan" / "features"


def trained(run, preset, *settings):
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", preset, "--out", str(run), "--steps", "2", *SMALL, *settings])
    assert caught.value.code == 0
    return run


@pytest.fixture(scope="module")
def run(folder):
    return trained(folder / "run", "vanilla")


@pytest.fixture(scope="module")
def of_points(folder):
    return trained(folder / "points", "gaussians")


class Showing(torch.nn.Module):
    """A "generator" that shows images of a data set, drawn by the latent."""

    latent_dim, num_classes = 2, None

    def __init__(self, images):
        super().__init__()
        self.images = torch.nn.Parameter(normalize(images), requires_grad=False)

    def forward(self, latents):
        share = torch.special.ndtr(latents[:, 0])
        return self.images[(share * len(self.images)).long().clamp(max=len(self.images) - 1)]


def generating(monkeypatch, images):
    from fastgan.training import evaluate

    monkeypatch.setattr(evaluate, "load_trained_generator", lambda *args, **options: (Showing(images), 7))


def test_a_run_is_evaluated_and_its_report_written(fastgan, run):
    code, out, err = fastgan("evaluate", run, "--count", 200)
    assert (code, err) == (0, "")
    for words in ("FID", "Inception Score", "recall", "Digits captured: ", "Mode collapse: ", "by clustering: "):
        assert words in out
    assert "of 200 generated and 200 real images of digits, 1x28x28; resized: bicubic to 32x32, antialiased" in out
    report = json.loads((run / "evaluation" / "report.json").read_text())
    (found,) = report["evaluations"]
    assert found["step"] == 2
    assert found["basis"]["num_real"] == 200
    assert set(found["scores"]) == {
        *("fid", "kid", "inception_score", "precision", "recall", "f1", "density", "coverage"),
    }
    for score in found["scores"].values():
        assert score["low"] <= score["value"] <= score["high"]
    with Image.open(run / "evaluation" / "collapse.png") as picture:
        assert picture.mode == "RGB"


def test_the_same_seed_gives_the_same_report_and_json_is_all_that_is_printed(fastgan, run, folder):
    args = "evaluate", run, "--count", 64, "--json", "--out"
    (_, a, _), (_, b, _), (_, c, _) = (
        fastgan(*args, folder / "a"),
        fastgan(*args, folder / "b"),
        fastgan(*args, folder / "c", "--seed", 1),
    )
    assert a == b != c
    assert json.loads(a) == json.loads((folder / "a" / "report.json").read_text())


def test_real_features_are_computed_once_and_again_where_the_cache_is_damaged(fastgan, run, cache, folder, monkeypatch):
    from fastgan.training import evaluate

    shutil.rmtree(cache, ignore_errors=True)
    calls = []
    real = evaluate.real_batches
    monkeypatch.setattr(evaluate, "real_batches", lambda images: calls.append(len(images)) or real(images))
    args = "evaluate", run, "--count", 50, "--json", "--out", folder / "cached"
    first = fastgan(*args)[1]
    assert fastgan(*args)[1] == first
    assert calls == [50]
    (path,) = cache.iterdir()
    path.write_bytes(path.read_bytes()[:-4])
    code, out, err = fastgan(*args)
    assert (code, out) == (0, first)
    assert "warning: cached features " in err
    assert "are damaged and computed again" in err
    assert calls == [50, 50]
    # Other real images are computed anew.
    assert fastgan("evaluate", run, "--count", 60, "--json", "--out", folder / "cached")[0] == 0
    assert calls == [50, 50, 60]


def test_ones_and_sevens_are_reported_as_collapsed_three_ways(fastgan, run, folder, monkeypatch):
    digits = load_dataset("digits", resolution=28)
    generating(monkeypatch, digits.images[(digits.labels == 1) | (digits.labels == 7)])
    code, out, _ = fastgan("evaluate", run, "--count", 400, "--out", folder / "ones")
    assert code == 0
    assert "Digits captured: 2 of 10" in out
    assert "Mode collapse: collapsed" in out
    for way in ("looking", "clustering", "score"):
        assert f"by {way}: collapsed; " in out


def test_the_data_themselves_are_as_good_as_real(fastgan, run, folder, monkeypatch):
    generating(monkeypatch, load_dataset("digits", resolution=28).images)
    code, out, _ = fastgan("evaluate", run, "--json", "--out", folder / "real")
    assert code == 0
    (found,) = json.loads(out)["evaluations"]
    assert found["collapse"]["verdict"] == "not collapsed"
    assert found["scores"]["precision"]["value"] == 1
    # Drawn with replacement: a few of them are missing.
    assert found["scores"]["fid"]["value"] < 5 * found["scores"]["fid"]["reference"]


def test_points_are_evaluated_by_their_coordinates(fastgan, of_points):
    code, out, err = fastgan("evaluate", of_points, "--count", 500)
    assert (code, err) == (0, "")
    assert "Features points" in out
    assert "Modes captured: " in out
    assert "note: features 'points' give no class logits, so there is no Inception Score" in out
    assert "Inception Score" not in out.replace("there is no Inception Score", "")


def test_a_conditional_run_is_evaluated(fastgan, folder):
    of_classes = trained(folder / "by-class", "dcgan", "--set", "conditional=true", "--set", "resolution=16")
    code, out, err = fastgan("evaluate", of_classes, "--count", 40)
    assert (code, err) == (0, "")
    assert "of 40 generated and 40 real images of digits, 1x16x16" in out
    assert "note: FID is computed from 40 images with 64 features, so the covariance is singular" in out


def test_runs_are_compared_with_a_recommendation_for_each_purpose(fastgan, run, folder, monkeypatch):
    other = trained(folder / "other", "vanilla", "--seed", "1")
    code, out, err = fastgan("evaluate", run, other, "--count", 100, "--out", folder / "both")
    assert (code, err) == (0, "")
    for purpose in ("quality alone", "augmentation", "general use"):
        assert f"For {purpose}: {folder}" in out
    written = json.loads((folder / "both" / "report.json").read_text())
    assert [row["purpose"] for row in written["recommendations"]] == ["quality alone", "augmentation", "general use"]
    assert sorted(path.name for path in (folder / "both").iterdir()) == [
        "1-collapse.png",
        "2-collapse.png",
        "report.json",
    ]
    # Against a report from before, nothing but the new run is judged.
    alone = folder / "alone"
    assert fastgan("evaluate", other, "--count", 100, "--out", alone)[0] == 0
    code, out, err = fastgan(
        "evaluate", run, alone / "report.json", "--count", 100, "--json", "--out", folder / "again"
    )
    assert (code, json.loads(out)["recommendations"]) == (0, written["recommendations"])


def means(images):
    return images.float().mean(dim=(2, 3)).repeat(1, 2)


def test_features_of_the_users_own(fastgan, run, folder, monkeypatch):
    code, out, err = fastgan("evaluate", run, "--count", 20, "--features", f"{__name__}:means", "--out", folder / "own")
    assert (code, err) == (0, "")
    assert f"Features {__name__}:means (" in out
    assert f"note: features '{__name__}:means' are your own function, whose digest covers only its own file" in out
    assert "by looking: no answer; there is no classifier for these images" in out


def test_features_of_the_users_own_follow_what_they_use(fastgan, run, folder, monkeypatch):
    """A helper module, or a file of weights, may change while the file of the function stays as it is."""
    (folder / "helper.py").write_text("scale = 1.0\n")
    (folder / "own_features.py").write_text(
        "import helper\n\ndef features(images):\n    return helper.scale * images.float().mean(dim=3).flatten(1)\n"
    )
    monkeypatch.syspath_prepend(folder)
    args = "evaluate", run, "--count", 20, "--features", "own_features:features", "--json", "--out", folder / "helped"

    def fid():
        return json.loads(fastgan(*args)[1])["evaluations"][0]["scores"]["fid"]["value"]

    before = fid()
    monkeypatch.setattr(sys.modules["helper"], "scale", 2.0)
    assert fid() == pytest.approx(4 * before, rel=1e-4)


@pytest.mark.parametrize("changed", ["pillow", "torch-fidelity"])
def test_real_features_are_computed_anew_by_other_versions(fastgan, run, cache, folder, monkeypatch, changed):
    from fastgan.training import evaluate

    shutil.rmtree(cache, ignore_errors=True)
    args = "evaluate", run, "--count", 20, "--json", "--out", folder / "versions"
    assert fastgan(*args)[0] == 0
    real = evaluate.version
    monkeypatch.setattr(evaluate, "version", lambda name: "another" if name == changed else real(name))
    assert fastgan(*args)[0] == 0
    assert len(list(cache.iterdir())) == 2


def test_images_are_compared_with_images(fastgan, folder, monkeypatch):
    digits = load_dataset("digits", resolution=28)
    np.save(folder / "ones.npy", digits.images[(digits.labels == 1) | (digits.labels == 7)].numpy())
    code, out, err = fastgan(
        "evaluate", "--images", folder / "ones.npy", "--data", "digits", "--out", folder / "images"
    )
    assert (code, err) == (0, "")
    assert "of 361 generated and 1,797 real images of digits, 1x28x28" in out
    assert "Mode collapse: collapsed" in out
    assert " at step " not in out
    assert sorted(path.name for path in (folder / "images").iterdir()) == ["collapse.png", "report.json"]
    (found,) = json.loads((folder / "images" / "report.json").read_text())["evaluations"]
    assert found["run"] == str(folder / "ones.npy")
    assert found["step"] is None


def test_an_export_is_evaluated_like_its_run(fastgan, run, folder):
    assert fastgan("export", run, "--out", folder / "export")[0] == 0
    args = "--count", 50, "--json", "--data", "digits"
    of_run, of_export = (
        json.loads(fastgan("evaluate", source, *args, "--out", folder / "either")[1])["evaluations"][0]
        for source in (run, folder / "export")
    )
    assert of_run["scores"] == of_export["scores"]
    code, _, err = fastgan("evaluate", folder / "export")
    assert code == 2
    assert "does not say what it was trained on; give images with --data" in err


@pytest.fixture(scope="module")
def inputs(folder):
    np.save(folder / "color.npy", np.zeros((20, 8, 8, 3), np.uint8))
    np.save(folder / "single.npy", np.zeros((1, 8, 8), np.uint8))
    nan = np.zeros((20, 8, 8), np.float32)
    nan[3] = np.nan
    np.save(folder / "nan.npy", nan)
    (folder / "junk.pt").write_bytes(b"junk" * 50)
    (folder / "junk.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (
            ["/nowhere"],
            "'/nowhere' does not exist; expected a folder that 'fastgan train' or 'fastgan export' has",
        ),
        (["."], "'.' is neither a run with a checkpoint nor an export"),
        ([], "there is nothing to evaluate; give a run, or --images A --data B"),
        (["RUN", "--images", "digits", "--data", "digits"], "--images A needs --data B, the images to compare with"),
        (["--images", "digits"], "--images A needs --data B, the images to compare with"),
        (["RUN", "RUN"], "a run is given twice"),
        (["RUN", "--data", "/nowhere"], "There is no file or folder '/nowhere'"),
        (["RUN", "--data", "gaussians"], "cannot be resized to 28x28; expected resolution 1."),
        (["RUN", "--data", "@color.npy"], "generates images with 1 channel, and those of "),
        (["RUN", "--data", "@nan.npy"], "float32"),
        (
            ["RUN", "--data", "@single.npy", "--features", "digits"],
            "there is 1 real image; scores and their ",
        ),
        (["RUN", "--count", "1"], "there is 1 generated image; scores and their standard errors need at least 12"),
        (
            ["RUN", "--features", "resnet"],
            "unknown features 'resnet'; choose from 'digits'",
        ),
        (
            ["RUN", "--weights", "@junk.pt"],
            "given for features 'digits'; expected them only for 'inception'",
        ),
        (["RUN", "@junk.json"], "junk.json' is not a report of 'fastgan evaluate'"),
        (["@none.json"], "none.json' cannot be read: No such file or directory"),
        (["RUN", "POINTS"], " are of features digits, those of "),
        (["RUN", "--out", "/dev/null/x"], "folder '/dev/null/x' cannot be written: Not a directory"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    fastgan, run, of_points, inputs, tmp_path, monkeypatch, args, sentence
):
    monkeypatch.chdir(tmp_path)
    paths = {"RUN": run, "POINTS": of_points}
    given = [inputs / arg[1:] if arg.startswith("@") else paths.get(arg, arg) for arg in args]
    shutil.rmtree(run / "evaluation", ignore_errors=True)
    code, out, err = fastgan("evaluate", *given)
    assert code == 2
    assert out == ""
    assert err.startswith("fastgan: ")
    assert err.count("\n") == 1
    assert sentence in err
    assert not list(tmp_path.iterdir())
    assert not (run / "evaluation" / "report.json").exists()


def test_a_generator_of_images_that_are_not_finite_is_refused(fastgan, run, folder):
    from fastgan.training.checkpoint import check_checkpoint, load_tensors, save_checkpoint

    broken, group = folder / "broken", "averaged_generator"
    (checkpoint,) = run.glob("checkpoints/*")
    tensors = load_tensors(checkpoint, group)
    for tensor in tensors.values():
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)
    save_checkpoint(broken, 2, {group: tensors}, check_checkpoint(checkpoint))
    shutil.copy(run / "config.toml", broken)
    code, out, err = fastgan("evaluate", broken)
    assert (code, out) == (2, "")
    assert "generated image 0 has values that are infinite or not a number, so it cannot be evaluated" in err


def test_what_cannot_be_written_after_the_work_is_one_sentence(fastgan, run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fastgan.sampling.save_png", full)
    for of in ([run, "--count", 20], ["--images", "digits", "--data", "digits", "--count", 20]):
        code, _, err = fastgan("evaluate", *of, "--out", tmp_path)
        picture = tmp_path / "collapse.png"
        assert (code, err) == (2, f"fastgan: file '{picture}' cannot be written: No space left on device\n")
