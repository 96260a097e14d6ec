import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import fastgan as fastgan_package
import fastgan_kernels
from fastgan import cli
from fastgan.cli.train import _HEADINGS
from fastgan.data import dataset
from fastgan.training.config import TrainingConfig, preset_names
from fastgan_kernels.backend import op_names

TINY = [
    *("--set", "resolution=16", "--set", "base_channels=4", "--set", "batch_size=4", "--set", "latent_dim=5"),
    *("--set", "log_every=2", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("trained")
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "--out", str(run), "--steps", "3", *TINY])
    assert caught.value.code == 0
    return run


def test_train_resume_and_generate(fastgan, tmp_path):
    run = tmp_path / "run"
    code, out, err = fastgan("train", "--out", run, "--steps", 4, "--seed", 9, "--checkpoint-every", 2, *TINY)
    assert (code, err) == (0, "")
    assert "step 4/4  D " in out
    assert f"fastgan generate {run}" in out
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["2", "4"]
    assert "seed = 9\n" in (run / "config.toml").read_text()

    assert fastgan("train", "--resume", run, "--steps", 6)[0] == 0
    assert (run / "checkpoints" / "6").is_dir()

    code, out, err = fastgan("generate", run, "--count", 5, "--seed", 1, "--out", tmp_path / "images")
    assert (code, err) == (0, "")
    assert "5 images from step 6, seed 1" in out
    names = sorted(p.name for p in (tmp_path / "images").iterdir())
    assert names == ["00000.png", "00001.png", "00002.png", "00003.png", "00004.png", "grid.png"]
    with Image.open(tmp_path / "images" / "grid.png") as grid:
        assert grid.size == (3 * 34 + 2, 2 * 34 + 2)


@pytest.mark.parametrize(
    "preset",
    [
        pytest.param(name, marks=[] if name in ("stylegan", "vanilla", "wgan-gp") else pytest.mark.exhaustive)
        for name in preset_names()
    ],
)
def test_every_preset_trains_and_generates(fastgan, tmp_path, preset):
    run = tmp_path / "run"
    small = ["--set", "base_channels=8", "--set", "batch_size=4", "--device", "cpu"]
    code, out, err = fastgan("train", preset, "--out", run, "--steps", 3, *small)
    assert (code, err) == (0, "")
    assert "step 3/3  D " in out
    assert fastgan("generate", run, "--count", 2, "--out", tmp_path / "images")[0] == 0


def test_points_are_drawn_as_points(fastgan, tmp_path):
    run, images = tmp_path / "run", tmp_path / "images"
    assert fastgan("train", "gaussians", "--out", run, "--steps", 2, "--device", "cpu")[0] == 0
    with Image.open(run / "samples" / "2.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (400, 400))
    code, out, err = fastgan("generate", run, "--count", 5, "--out", images)
    assert (code, err) == (0, "")
    assert f"5 images from step 2, seed 0: {images / 'points.png'} and points.csv next to it" in out
    assert len((images / "points.csv").read_text().splitlines()) == 1 + 5


def test_truncation_is_only_for_stylegan(fastgan, tmp_path):
    small = ["--set", "base_channels=4", "--set", "batch_size=4", "--set", "resolution=16", "--device", "cpu"]
    for preset in ("stylegan", "dcgan"):
        assert fastgan("train", preset, "--out", tmp_path / preset, "--steps", 2, *small)[0] == 0
    psi = ["--count", 2, "--truncation", 0.5]
    assert fastgan("generate", tmp_path / "stylegan", *psi)[0] == 0
    code, _, err = fastgan("generate", tmp_path / "dcgan", *psi)
    assert (code, err) == (
        2,
        "fastgan: truncation is 0.5; expected 1, as only model stylegan has truncation\n",
    )


def test_train_without_arguments_takes_the_default_preset_and_folder(fastgan, tmp_path, monkeypatch):
    from fastgan.training import run as run_module
    from fastgan.training.config import load_preset

    calls = []
    monkeypatch.setattr(run_module, "start_run", lambda config, run, **_: calls.append((config, run)))
    monkeypatch.chdir(tmp_path)
    assert fastgan("train")[0] == 0
    ((config, run),) = calls
    assert config == TrainingConfig.from_mapping(load_preset("dcgan"))
    assert str(run) == os.path.join("runs", "dcgan")


def test_options_go_before_set_before_file_before_preset(fastgan, tmp_path):
    (tmp_path / "my.toml").write_text("steps = 50\nbeta1 = 0.25\nlr = 0.125\n")
    run = tmp_path / "run"
    settings = ["--config", tmp_path / "my.toml", "--set", "steps=40", "--set", "lr=0.0625", "--steps", 1]
    assert fastgan("train", "dcgan", "--out", run, *settings, *TINY)[0] == 0
    config = (run / "config.toml").read_text()
    assert all(line in config for line in ("steps = 1\n", "beta1 = 0.25\n", "lr = 0.0625\n", "loss = "))


@pytest.fixture(scope="module")
def trained_by_class(tmp_path_factory):
    run = tmp_path_factory.mktemp("conditional")
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "--out", str(run), "--steps", "2", "--set", "conditional=true", *TINY])
    assert caught.value.code == 0
    return run


def test_all_classes_are_generated_in_turn_or_only_one(fastgan, trained_by_class, tmp_path, monkeypatch):
    from fastgan.sampling import generation

    real, rendered = generation.render, []
    monkeypatch.setattr(
        generation,
        "render",
        lambda g, z, labels, **rest: rendered.append(labels.tolist()) or real(g, z, labels, **rest),
    )
    code, out, err = fastgan("generate", trained_by_class, "--count", 25, "--out", tmp_path / "images")
    assert (code, err) == (0, "")
    assert "25 images of classes 0 to 9 in turn from step 2" in out
    with Image.open(tmp_path / "images" / "grid.png") as grid:
        assert grid.size == (10 * 34 + 2, 3 * 34 + 2)
    for k in (0, 9):
        args = "--class", k, "--count", 4, "--out", tmp_path / str(k)
        assert f"4 images of class {k} from step 2" in fastgan("generate", trained_by_class, *args)[1]
    assert rendered == [[*range(10), *range(10), *range(5)], [0] * 4, [9] * 4]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["train", "--set", "lrr=3"], "unknown setting 'lrr' in --set; did you mean 'lr'?"),
        (["train", "--steps", "x"], "setting 'steps' is 'x', expected an integer at least 1"),
        (["train", "--set", "regularizer=r1"], "regularizer 'r1' cannot penalize the discriminator of model 'dcgan'"),
        (["train", "--data", "gaussians"], "cannot be resized to 32x32; expected resolution 1."),
        (["train", "--data", "gaussians", "--set", "resolution=1"], "dcgan has no networks for resolution 1, only"),
        (
            ["train", "--device", "cpu", "--batch", "auto"],
            "the batch size 'auto' is the largest that fits on a GPU",
        ),
        (["train", "--batch", "many"], "setting 'batch_size' is 'many', expected an integer from 2 to 1048576"),
        (["train", "--device", "tpu"], "setting 'device' is 'tpu', expected auto"),
        (["train", "--device", "cuda:77"], "device 'cuda:77' is not there"),
        (["train", "dcgn"], "unknown preset 'dcgn'; did you mean 'dcgan'?"),
        (["train", "dcgn"], "; did you mean 'dcgan'?"),
        (["train", "--data", "/nowhere"], "/nowhere"),
        (["train", "--config", "/nowhere.toml"], "settings file '/nowhere.toml' cannot be read"),
        (["train", "--bogus"], "No such option"),
        (["train", "--resume", "/nowhere"], "run '/nowhere' does not exist"),
        (["train", "--resume", "RUN", "--seed", "3"], "; --seed cannot be combined with it, only --steps can"),
        (["train", "--resume", "RUN", "--set", "lr=1"], "; --set cannot be combined with it"),
        (["train", "--resume", "RUN", "--steps", "2"], "is at step 3 already, past its last, 2"),
        (["train", "--out", "RUN"], "has a checkpoint already; resume it with 'fastgan train --resume "),
        (["train", "--out", "RUN", "--data", "."], "has a checkpoint already"),  # said before data are read
        (["generate", "/nowhere"], "'/nowhere' does not exist"),
        (["generate", "."], "'.' is neither a run with a checkpoint nor an export"),
        (["generate", "RUN", "--count", "0"], "Invalid value for '--count'"),
        (["generate", "RUN", "--device", "gpu"], "device is 'gpu', expected auto, cpu, cuda or cuda:INDEX"),
        (
            ["generate", "RUN", "--class", "3"],
            "has no classes, so --class cannot be given; it needs a run with conditional = true",
        ),
        (["generate", "BY_CLASS", "--class", "10"], "--class is 10, and run '"),
        (["generate", "BY_CLASS", "--class", "-1"], "' has the classes 0 to 9"),
        (["train", "vanilla", "--set", "conditional=true"], "model vanilla has no conditional form (dcgan, "),
        (["train", "--set", "conditional=true", "--data", "UNLABELED"], "unlabeled.npy' carries no labels; expected"),
        (["generate", "RUN", "--out", "/dev/null/x"], "folder '/dev/null/x' cannot be written: Not a directory"),
        (["generate"], "Missing argument 'RUN'"),
        (["tarin"], "No such command 'tarin'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    fastgan, trained, trained_by_class, tmp_path_factory, tmp_path, monkeypatch, args, sentence
):
    monkeypatch.chdir(tmp_path)
    paths = {"RUN": trained, "BY_CLASS": trained_by_class}
    if "UNLABELED" in args:
        paths["UNLABELED"] = tmp_path_factory.mktemp("data") / "unlabeled.npy"
        np.save(paths["UNLABELED"], np.zeros((2, 8, 8), np.uint8))
    code, out, err = fastgan(*(paths.get(arg, arg) for arg in args))
    assert code == 2
    assert out == ""
    assert err.startswith("fastgan: ")
    assert err.count("\n") == 1
    assert sentence in err
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_a_fault_of_ours_keeps_its_traceback(fastgan, trained, monkeypatch):
    from fastgan import sampling

    def fail(*args, **kwargs):
        raise ValueError("a bug")

    monkeypatch.setattr(sampling, "generate", fail)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["generate", str(trained)])


def test_values_that_are_not_finite_end_with_exit_code_1(fastgan, tmp_path, monkeypatch):
    from fastgan.training.statistics import NonFinite
    from fastgan.training.trainer import Trainer

    monkeypatch.setattr(Trainer, "first_non_finite", lambda trainer: NonFinite("penalty", 1))
    code, _, err = fastgan("train", "--out", tmp_path, "--steps", 3, *TINY)
    assert code == 1
    assert re.fullmatch(
        r"fastgan: .*penalty is the first value that is infinite or not a number, at step 1; the state at step 2 is in "
        r".*/non_finite/2, for inspection; no checkpoint was written; try .*\n",
        err,
    )


def test_help_names_every_option_and_setting_in_groups(fastgan):
    code, out, _ = fastgan("train", "--help")
    assert code == 0
    for name in ("--data", "--out", "--steps", "--seed", "--checkpoint-every", "--device", "--config", "--resume"):
        assert name in out
    settings = re.findall(r"^│ (\w+) ", out[out.index("─ Data ─") :], re.MULTILINE)
    assert settings == [field.name for field in dataclasses.fields(TrainingConfig)]
    for name, heading in _HEADINGS.items():
        assert re.search(rf"─ {heading} ─.*\n│ {name} ", out), heading
    assert re.search(r"batch_size +32 +images in a batch", out[out.index("─ Optimization ─") :])
    assert re.search('loss +"non-saturating" +adversarial loss; one of minimax, ', out)


@pytest.mark.parametrize("args", [[], ["--help"]])
def test_help_of_all_commands(fastgan, args):
    code, out, err = fastgan(*args)
    assert (code, err) == (0, "")
    assert all(command in out for command in ("train", "generate", "doctor", "--version"))


def test_bundled_data_are_known_before_they_are_loaded():
    assert set(sys.modules["fastgan.cli.train"]._BUNDLED) == set(dataset.BUNDLED)


def test_version(fastgan):
    assert fastgan("--version") == (0, f"fastgan {fastgan_package.__version__}\n", "")


def test_help_and_refusals_that_need_no_torch_do_not_wait_for_it(tmp_path):
    program = """if True:
        import sys
        sys.modules["torch"] = sys.modules["gradio"] = sys.modules["onnx"] = None
        from fastgan import cli
        for args in sys.argv[1:]:
            try:
                cli.main(args.split())
            except SystemExit as ended:
                print(args, ended.code)
        """
    (tmp_path / "checkpoints").mkdir()
    helps = ["--version", "--help", "train --help", "walk --help"]
    refusals = [
        *("train --set loss=hing", "train --set regularizer=r3", "train --data /nowhere", "train --resume /nowhere"),
        *(
            "evaluate /nowhere",
            "generate /nowhere",
            f"mix {tmp_path / 'file'}",
            "collapse --data faces",
            "collapse --remedy prayer",
        ),
        *(f"walk {tmp_path} --dimension 1 --component 1", f"interpolate {tmp_path} --space w --path spherical"),
        *(f"explore {tmp_path}", f"export {tmp_path} --format onnx"),
    ]
    done = subprocess.run([sys.executable, "-c", program, *helps, *refusals], capture_output=True, text=True)
    ends = [*(f"{args} 0" for args in helps), *(f"{args} 2" for args in refusals)]
    assert [line for line in done.stdout.splitlines() if line in ends] == ends
    assert done.stderr.count("\n") == len(refusals)


@pytest.mark.parametrize(("given", "expected"), [(None, "passive"), ("active", "active")])
def test_waiting_threads_yield_unless_set_otherwise(fastgan, monkeypatch, given, expected):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    assert fastgan("--help")[0] == 0
    assert os.environ["OMP_WAIT_POLICY"] == expected


def test_doctor_reports_versions_devices_and_the_backend_of_the_ops_in_ten_lines(fastgan):
    code, out, err = fastgan("doctor")
    assert (code, err) == (0, "")
    assert f"torch       {torch.__version__}, built for " in out
    assert "interpreter" in out
    choice = fastgan_kernels.backend_of("adain", torch.empty(0))
    assert f"ops on cpu  all {len(op_names())} on {choice.backend}: {choice.reason}" in out
    assert out.count("\n") <= 10


def test_doctor_looks_for_the_compiler_that_triton_needs(fastgan, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    code, out, _ = fastgan("doctor")
    assert code == 0
    assert re.search(r"C compiler +Triton needs a C compiler, and there is no 'no-such-compiler'", out)


def start(run, *args):
    """Starts ``python -m fastgan train`` in a process of its own and waits until it has reported a step."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fastgan", "train", "--out", str(run), "--steps", "1000000", *TINY, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_exit_code_is_that_of_the_signal(fastgan, tmp_path, monkeypatch, number, code):
    from fastgan.training.trainer import Trainer

    monkeypatch.setattr(Trainer, "step", lambda trainer: os.kill(os.getpid(), number))
    found, out, err = fastgan("train", "--out", tmp_path, "--steps", 3, *TINY)
    assert (found, err) == (code, "")
    assert "and saved" in out


# In a process of its own, which takes seconds to import torch.
@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.exhaustive), (signal.SIGTERM, 143)]
)
def test_a_signal_to_the_process_saves_and_prints_how_to_resume(fastgan, tmp_path, number, code):
    run = tmp_path / "run"
    process = start(run)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code
    step = int(re.search(r"Stopped at step (\d+) of 1000000 and saved", out)[1])
    assert f"fastgan train --resume {run}" in out
    assert "Traceback" not in out
    assert out.count("note: ") <= 1
    assert [p.name for p in (run / "checkpoints").iterdir()] == [str(step)]
    assert fastgan("train", "--resume", run, "--steps", step + 2)[0] == 0
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] == step + 2


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of photos beside which a run was trained, by its relative path; the work goes on elsewhere."""
    (tmp_path / "here" / "photos").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for index in range(20):
        Image.fromarray(np.full((16, 16), 10 * index, np.uint8)).save(tmp_path / "here" / "photos" / f"{index}.png")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "here" / "photos"


def test_data_given_by_a_relative_path_is_found_from_any_folder(fastgan, tmp_path, photos, monkeypatch):
    run = tmp_path / "run"
    assert fastgan("train", "vanilla", "--data", "photos", "--out", run, "--steps", 2, *TINY)[0] == 0
    assert f"data = {json.dumps(str(photos))}\n" in (run / "config.toml").read_text()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert fastgan("train", "--resume", run, "--steps", 3)[0] == 0
    assert fastgan("evaluate", run, "--count", 15, "--features", "digits")[0] == 0
    assert fastgan("export", run)[0] == 0
    # Others do not learn where it was.
    card = (run / "export" / "README.md").read_text()
    assert "| trained on | photos |" in card
    assert str(photos) not in card


@pytest.mark.parametrize("command", [("train", "--resume", "RUN", "--steps", 3), ("evaluate", "RUN")])
def test_data_that_is_not_where_a_run_says_is_refused_with_the_place(fastgan, tmp_path, photos, monkeypatch, command):
    run = tmp_path / "run"
    assert fastgan("train", "vanilla", "--data", "photos", "--out", run, "--steps", 2, *TINY)[0] == 0
    photos.rename(tmp_path / "moved")
    said = f"setting 'data' in {str(run / 'config.toml')!r} is {{!r}}, and there is no such file or folder"
    args = [run if arg == "RUN" else arg for arg in command]
    code, _, err = fastgan(*args)
    assert code == 2
    assert said.format(str(photos)) + "; expected the path of the images there, absolute" in err
    # As an earlier version wrote it.
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace(json.dumps(str(photos)), '"pictures"'))
    code, _, err = fastgan(*args)
    assert code == 2
    assert said.format("pictures") + f" in {str(tmp_path / 'here')!r}, where this command runs; expected" in err
