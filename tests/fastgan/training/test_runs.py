import functools
import json
import os
import signal
import time

import pytest
import safetensors.torch
import torch
from PIL import Image

from fastgan.sampling import draw_latents, image_grid, render
from fastgan.training import health, trainer
from fastgan.training.checkpoint import CheckpointError, latest_checkpoint, load_trained_generator, save_checkpoint
from fastgan.training.config import SettingsError, TrainingConfig, load_preset, load_settings, preset_names, to_toml
from fastgan.training.fit import NonFiniteError
from fastgan.training.run import resume_run, start_run
from fastgan.training.trainer import Trainer


def checkpoint_bytes(run, step):
    folder = run / "checkpoints" / str(step)
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def rows(run):
    """The rows of the log, without what depends on the clock."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k not in ("images_per_second", "peak_memory_mib")}
        for line in lines
    ]


@pytest.fixture
def at_step(monkeypatch):
    """Makes the next run call a function once, right after the given step."""

    def arrange(step, action):
        real = Trainer.step
        calls = []

        def instrumented(trainer):
            real(trainer)
            if trainer.step_count == step and not calls:
                calls.append(step)
                action(trainer)

        monkeypatch.setattr(Trainer, "step", instrumented)

    return arrange


class PowerCut(BaseException):
    """Ends a run without giving it a chance to save, as SIGKILL would."""


def cut_power(trainer):
    raise PowerCut


def interrupt(trainer):
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Runs of 12 steps without interruption, one for each architecture, made when asked for."""
    made = {}

    def run(config, console):
        if config not in made:
            made[config] = tmp_path_factory.mktemp("straight")
            assert start_run(config, made[config], console=console) is None
        return made[config]

    return run


LAZY = {"model": "plain", "regularizer": "wgan-gp", "regularizer_interval": 3, "discriminator_steps": 2}
GROWING = {
    **{"model": "growing", "grow_from": 4, "grow_stable_steps": 2, "grow_fade_steps": 3},
    **{"batch_sizes": "4:8, 8:5", "lrs": "8:1e-3"},
}
BY_CLASS = {"conditional": True, "model": "wgan-gp", "regularizer": "wgan-gp", "spectral_norm": True}
NORMALIZED = {"spectral_norm": True, "loss": "hinge", "generator_lr": 1e-3, "ema_ramp_up": 0.05}


def preset_settings(name):
    """What a preset says that makes a run neither larger nor longer."""
    larger = {"resolution", "base_channels", "latent_dim", "batch_size", "batch_sizes", "steps"}
    settings = load_preset(name)
    if "grow_from" in settings:
        settings |= {"grow_stable_steps": 3, "grow_fade_steps": 4}
    if settings["data"] == "gaussians":
        larger.remove("resolution")  # points have no other
    return {setting: value for setting, value in settings.items() if setting not in larger}


# Steps 4 and 8 are checkpoints, 5 and 10 reports. The networks for 28 have dropout, which draws from torch's global
# random state, as the penalty does.
@pytest.mark.parametrize(
    ("settings", "action", "step", "kept"),
    [
        ({}, interrupt, 5, 5),
        ({}, cut_power, 4, None),
        ({}, cut_power, 11, 8),
        ({"resolution": 28}, interrupt, 7, 7),
        (LAZY, cut_power, 6, 4),
        (GROWING, interrupt, 5, 5),  # in the middle of a fade
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in [
                *(({}, interrupt, step, step) for step in (1, 4, 7, 11)),
                ({}, cut_power, 7, 4),
                ({"resolution": 28}, cut_power, 6, 4),
                (LAZY, interrupt, 7, 7),
                (GROWING, cut_power, 6, 4),
                (GROWING, cut_power, 11, 8),
                (NORMALIZED, interrupt, 5, 5),
                (BY_CLASS, interrupt, 7, 7),
                (BY_CLASS, cut_power, 6, 4),
                *((settings, cut_power, 7, 4) for settings in map(preset_settings, preset_names())),
            ]
        ),
    ],
)
def test_a_run_that_is_resumed_ends_as_one_never_interrupted(
    tmp_path, straight, tiny, console, at_step, settings, action, step, kept
):
    config = tiny(**settings)
    expected = straight(config, console)
    at_step(step, action)
    if action is interrupt:
        assert start_run(config, tmp_path, console=console) == signal.SIGINT
    else:
        with pytest.raises(PowerCut):
            start_run(config, tmp_path, console=console)
    if kept is None:
        assert latest_checkpoint(tmp_path) is None
        start_run(config, tmp_path, console=console)
    else:
        assert latest_checkpoint(tmp_path).name == str(kept)
        resume_run(tmp_path, console=console)
    for at in (8, 12):
        assert checkpoint_bytes(tmp_path, at) == checkpoint_bytes(expected, at)
    assert rows(tmp_path) == rows(expected)
    assert [row["step"] for row in rows(tmp_path)] == [5, 10, 12]
    for picture in (expected / "samples").iterdir():
        assert (tmp_path / "samples" / picture.name).read_bytes() == picture.read_bytes()


def test_more_steps_go_on_as_if_planned(tmp_path, straight, tiny, console):
    expected = straight(tiny(), console)
    run = tmp_path / "run"
    start_run(tiny(steps=7), run, console=console)
    assert [row["step"] for row in rows(run)] == [5, 7]
    resume_run(run, steps=12, console=console)
    assert checkpoint_bytes(run, 12) == checkpoint_bytes(expected, 12)
    assert rows(run) == rows(expected)
    assert TrainingConfig.from_mapping(load_settings(run / "config.toml")) == tiny(steps=12)


def test_a_run_folder_holds_what_is_promised(straight, tiny, console):
    run = straight(tiny(), console)
    assert sorted(p.name for p in run.iterdir()) == [
        "checkpoints",
        "config.toml",
        "metrics.jsonl",
        "samples",
        "tensorboard",
    ]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["12", "4", "8"]
    assert sorted(p.name for p in (run / "samples").iterdir()) == ["12.png", "8.png"]
    assert TrainingConfig.from_mapping(load_settings(run / "config.toml")) == tiny()
    assert list(json.loads((run / "metrics.jsonl").read_text().splitlines()[0])) == [
        "step",
        "discriminator_loss",
        "generator_loss",
        "real_score",
        "fake_score",
        "d_real",
        "d_fake",
        "ranked_right",
        "ranked_right_variance",
        "generator_gradient",
        "spread",
        "fake_to_real",
        "real_to_fake",
        "images_per_second",
        "peak_memory_mib",
    ]


def test_samples_are_drawn_by_the_averaged_generator_from_fixed_latents(straight, tiny, console):
    run = straight(tiny(), console)
    generator, step = load_trained_generator(run, torch.device("cpu"))
    assert step == 12
    grid = image_grid(render(generator, draw_latents(64, 8, seed=3)))
    with Image.open(run / "samples" / "12.png") as picture:
        assert picture.tobytes() == grid[0].numpy().tobytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, tiny, console, at_step, number):
    run = tmp_path / "a run"
    at_step(3, lambda trainer: os.kill(os.getpid(), number))
    assert start_run(tiny(), run, console=console) == number
    assert latest_checkpoint(run).name == "3"
    said = console.file.getvalue()
    assert "Stopped at step 3 of 12" in said
    assert f"fastgan train --resume '{run}'" in said
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_during_the_last_step_leaves_its_samples_to_a_resumed_run(tmp_path, straight, tiny, console, at_step):
    at_step(12, interrupt)
    assert start_run(tiny(), tmp_path, console=console) == signal.SIGINT
    assert latest_checkpoint(tmp_path).name == "12"
    assert "Stopped at step 12 of 12, before its samples, and saved." in console.file.getvalue()
    assert resume_run(tmp_path, console=console) is None
    expected = straight(tiny(), console)
    assert checkpoint_bytes(tmp_path, 12) == checkpoint_bytes(expected, 12)
    assert rows(tmp_path) == rows(expected)
    assert (tmp_path / "samples" / "12.png").read_bytes() == (expected / "samples" / "12.png").read_bytes()


def test_a_signal_cuts_the_rendering_of_samples_short(tmp_path, straight, tiny, console, monkeypatch):
    expected = straight(tiny(), console)
    real = trainer.render
    calls = []

    def slow(*args):
        calls.append(len(calls))
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return real(*args)

    monkeypatch.setattr(trainer, "render", slow)
    began = time.monotonic()
    assert start_run(tiny(), tmp_path, console=console) == signal.SIGTERM
    assert time.monotonic() - began < 30
    assert latest_checkpoint(tmp_path).name == "8"
    assert not list((tmp_path / "samples").iterdir())
    assert resume_run(tmp_path, console=console) is None
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["12.png", "8.png"]
    for picture in (expected / "samples").iterdir():
        assert (tmp_path / "samples" / picture.name).read_bytes() == picture.read_bytes()
    assert checkpoint_bytes(tmp_path, 12) == checkpoint_bytes(expected, 12)


@pytest.mark.parametrize(("step", "good"), [(2, None), (7, "4"), (9, "8")])
def test_a_value_that_is_not_finite_stops_the_run_and_harms_no_checkpoint(
    tmp_path, straight, tiny, console, at_step, step, good
):
    def poison(trainer):
        def spoil(*_):
            hook.remove()
            with torch.no_grad():
                next(trainer.generator.parameters())[0] = float("nan")

        hook = trainer.generator_optimizer.register_step_post_hook(spoil)

    at_step(step - 1, poison)
    with pytest.raises(NonFiniteError) as caught:
        start_run(tiny(), tmp_path, console=console)
    latest = latest_checkpoint(tmp_path)
    assert (latest and latest.name) == good
    if latest is None:
        assert "no checkpoint was written" in str(caught.value)
    else:
        assert f"the latest checkpoint, {latest}, is from before" in str(caught.value)
        assert checkpoint_bytes(tmp_path, int(good)) == checkpoint_bytes(straight(tiny(), console), int(good))
    assert all(abs(row["generator_loss"]) < 1e3 for row in rows(tmp_path))
    # The first weight of the generator was the first of all, and it is told from what it spoiled.
    name = "layers.0.weight"
    assert f"non-finite values: generator.{name} is the first value" in str(caught.value)
    assert f"not a number, at step {step};" in str(caught.value)
    noticed = {2: 4, 7: 8, 9: 10}[step]
    saved = tmp_path / "non_finite" / str(noticed)
    assert f"the state at step {noticed} is in {saved}" in str(caught.value)
    assert safetensors.torch.load_file(saved / "generator.safetensors")[name].isnan().any()
    state = json.loads((saved / "state.json").read_text())
    assert state["first_non_finite"] == {"name": f"generator.{name}", "step": step}


def test_a_run_that_left_the_finite_numbers_goes_on_from_its_last_checkpoint(
    tmp_path, straight, tiny, console, at_step
):
    for _ in range(2):  # what is there from the first time gives way

        def poison(trainer):
            trainer.discriminator_optimizer.state_dict()["state"][0]["exp_avg_sq"].fill_(float("inf"))

        at_step(8 if latest_checkpoint(tmp_path) else 6, poison)
        run = resume_run if latest_checkpoint(tmp_path) else functools.partial(start_run, tiny())
        with pytest.raises(NonFiniteError, match=r"discriminator_optimizer\.0\.exp_avg_sq"):
            run(tmp_path, console=console)
        assert latest_checkpoint(tmp_path).name == "4"
        assert [p.name for p in (tmp_path / "non_finite").iterdir()] == ["8"]
        assert load_trained_generator(tmp_path, torch.device("cpu"))[1] == 4
    resume_run(tmp_path, console=console)
    assert checkpoint_bytes(tmp_path, 12) == checkpoint_bytes(straight(tiny(), console), 12)
    assert rows(tmp_path) == rows(straight(tiny(), console))


@pytest.fixture
def impatient(monkeypatch):
    """Judges a run from its first steps on."""
    monkeypatch.setattr(health, "_WARM_UP_STEPS", 0)
    monkeypatch.setattr(health, "_FEWEST_STEPS", 3)


BROKEN = {"model": "plain", "discriminator_lr": 1e-30, "generator_lr": 0.05, "log_every": 1, "loss": "minimax"}


@pytest.mark.parametrize("at", [9, pytest.param(10, marks=pytest.mark.exhaustive)])
def test_a_finding_is_told_once_also_where_the_run_is_resumed(tmp_path, tiny, console, at_step, impatient, at):
    expected = tmp_path / "straight"
    start_run(tiny(**BROKEN), expected, console=console)
    said = [line for line in console.file.getvalue().splitlines() if "generator too strong:" in line]
    assert len(said) == 1
    began = [row["step"] for row in rows(expected) if health.GENERATOR_TOO_STRONG in row.get("findings", [])]
    assert began == list(range(began[0], 13))
    assert began[0] < 9

    run = tmp_path / "run"
    at_step(at, interrupt)
    console.file.truncate(0)
    start_run(tiny(**BROKEN), run, console=console)
    resume_run(run, console=console)
    again = [line for line in console.file.getvalue().splitlines() if "generator too strong:" in line]
    assert again == said
    assert rows(run) == rows(expected)
    for step in (8, 12):
        assert checkpoint_bytes(run, step) == checkpoint_bytes(expected, step)


def test_the_reading_of_convergence_is_explained(tmp_path, tiny, console):
    start_run(tiny(steps=5), tmp_path / "odds", console=console)
    said = console.file.getvalue()
    assert "cannot be told apart D(x) and D(G(z)) are 0.5, and G, the generator's loss, is 0.693" in said
    row = rows(tmp_path / "odds")[0]
    assert f"D(x) {row['d_real']:.2f}  D(G(z)) {row['d_fake']:.2f}" in said
    console.file.truncate(0)
    start_run(tiny(steps=5, loss="hinge"), tmp_path / "scores", console=console)
    assert "D(x)" not in console.file.getvalue()
    assert "d_real" not in rows(tmp_path / "scores")[0]


def test_a_start_replaces_what_an_earlier_one_left_but_nothing_else(tmp_path, tiny, console):
    (tmp_path / "samples").mkdir()
    (tmp_path / "tensorboard").mkdir()
    mine = [tmp_path / "notes.txt", tmp_path / "samples" / "notes.txt"]
    stale = [tmp_path / "metrics.jsonl", tmp_path / "samples" / "99.png", tmp_path / "tensorboard" / "events.out.1"]
    for path in mine + stale:
        path.write_text("{}")
    start_run(tiny(steps=2), tmp_path, console=console)
    assert [row["step"] for row in rows(tmp_path)] == [2]
    assert not any(path.exists() for path in stale[1:])
    assert all(path.exists() for path in mine)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, tiny, console):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"run folder .* cannot be written: Not a directory"):
        start_run(tiny(), tmp_path / "file" / "run", console=console)


def test_what_cannot_be_resumed_is_refused(tmp_path, straight, tiny, console):
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        resume_run(tmp_path, console=console)
    run = straight(tiny(), console)
    with pytest.raises(SettingsError, match="is at step 12 already, past its last, 11"):
        resume_run(run, steps=11, console=console)
    assert resume_run(run, console=console) is None
    assert "at its last step, 12" in console.file.getvalue()


def test_a_run_from_before_a_setting_existed_goes_on_with_its_default(tmp_path, straight, tiny, console):
    start_run(tiny(), tmp_path, console=console)
    settings = (tmp_path / "config.toml").read_text()
    # What there was before losses had labels and discriminators penalties.
    older = (
        *("data", "resolution", "model", "base_channels", "latent_dim", "loss", "batch_size", "steps", "lr", "beta1"),
        *("beta2", "ema_decay", "seed", "device", "log_every", "sample_every", "checkpoint_every"),
    )
    kept = [line for line in settings.splitlines(keepends=True) if line.split(" = ")[0] in older]
    assert len(kept) == len(older) < len(settings.splitlines())
    (tmp_path / "config.toml").write_text("".join(kept))
    resume_run(tmp_path, steps=16, console=console)
    assert (tmp_path / "config.toml").read_text() == settings.replace("steps = 12", "steps = 16", 1)
    straight_on = straight(tiny(steps=16), console)
    assert checkpoint_bytes(tmp_path, 16) == checkpoint_bytes(straight_on, 16)


def test_a_checkpoint_from_before_images_had_a_stream_of_their_own_goes_on(tmp_path, tiny, console):
    """It has one stream for images and latents, in which the run goes on drawing latents."""
    trainer = Trainer.from_config(tiny())
    tensors = trainer.tensors()
    del tensors["training"]["random.data"]
    (tmp_path / "config.toml").write_text(to_toml(tiny()))
    save_checkpoint(tmp_path, 0, tensors, trainer.state())
    assert resume_run(tmp_path, console=console) is None
    run = tmp_path / "straight"
    start_run(tiny(), run, console=console)
    assert checkpoint_bytes(tmp_path, 12)["generator.safetensors"] == checkpoint_bytes(run, 12)["generator.safetensors"]


def test_a_missing_settings_file_is_named(tmp_path, tiny, console):
    start_run(tiny(steps=1), tmp_path, console=console)
    (tmp_path / "config.toml").unlink()
    with pytest.raises(SettingsError, match=r"config.toml' cannot be read: No such file"):
        resume_run(tmp_path, console=console)


def test_settings_that_were_altered_are_followed_and_told(tmp_path, straight, tiny, console):
    start_run(tiny(steps=8), tmp_path, console=console)
    config = (tmp_path / "config.toml").read_text()
    assert resume_run(tmp_path, steps=9, console=console) is None
    assert "altered" not in console.file.getvalue()
    (tmp_path / "config.toml").write_text(
        config.replace("\nlr = 0.0002", "\nlr = 0.001").replace("log_every = 5", "log_every = 1")
    )
    assert resume_run(tmp_path, steps=12, console=console) is None
    warning = f"warning: {tmp_path / 'config.toml'} was altered and is followed from here on: lr 0.001 (was 0.0002)\n"
    assert warning in console.file.getvalue()
    assert checkpoint_bytes(tmp_path, 12) != checkpoint_bytes(straight(tiny(), console), 12)
