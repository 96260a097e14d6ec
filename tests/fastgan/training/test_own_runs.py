"""Runs of networks of the user, from a Dataset: killed and resumed, sampled and evaluated."""

import json
import os
import signal

import numpy as np
import own_networks
import pytest
import torch
from test_own_networks import Photos
from torch.utils.data import get_worker_info

import fastgan as package
from fastgan.training.checkpoint import CheckpointError
from fastgan.training.config import SettingsError

SETTINGS = {
    **{"latent_dim": 8, "batch_size": 6, "steps": 10, "device": "cpu", "workers": 1, "seed": 3},
    **{"log_every": 4, "sample_every": 8, "checkpoint_every": 3, "evaluate_every": 4, "evaluate_count": 20},
}


class Kill:
    def __init__(self, step):
        self.step = step

    def on_step(self, trainer, step, metrics):
        if step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def trainer_of(name, out, console, **more):
    torch.manual_seed(0)
    shape = {"num_channels": 1, "latent_dim": 8, "num_classes": 3}
    build = getattr(own_networks, name)
    networks = build(**{key: shape[key] for key in build.__code__.co_varnames[: build.__code__.co_argcount]})
    settings = SETTINGS | {"evaluate_features": "digits"} | own_networks.SETTINGS[name] | more
    return package.Trainer(*networks, Photos(), out=out, console=console, **settings)


def outcome(run):
    """All that a run has to say in the end, without what depends on the clock."""
    files = {path.name: path.read_bytes() for path in [*(run / "checkpoints" / "10").iterdir(), *run.glob("samples/*")]}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["images_per_second"], row["peak_memory_mib"]
    return files, rows


# Three runs that read a Dataset by worker processes and measure the FID, and an evaluation: ten seconds each.
@pytest.mark.parametrize(
    "name",
    ["r3gan", *(pytest.param(n, marks=pytest.mark.exhaustive) for n in ("dcgan", "sngan", "patch", "conditional"))],
)
def test_networks_of_the_user_train_resume_and_are_evaluated(name, tmp_path, console, fastgan):
    straight, run = tmp_path / "straight", tmp_path / "run"
    trainer_of(name, straight, console).fit()
    pid = os.fork()
    if not pid:
        try:
            trainer_of(name, run, console, callbacks=[Kill(7)]).fit()
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    assert max(int(path.name) for path in (run / "checkpoints").iterdir()) == 6
    trainer = trainer_of(name, run, console)
    trainer.fit()
    assert trainer.step_count == 10
    assert outcome(run) == outcome(straight)

    model = f"own_networks:{name}"
    generator = package.load_generator(run, model=model)
    labels = torch.arange(5) % 3 if name == "conditional" else None
    images = trainer.sample(5, seed=1, labels=labels)
    assert images.shape == (5, 1, 16, 16)
    assert torch.equal(images, package.sampling.generate(generator, 5, seed=1, labels=labels))

    np.save(tmp_path / "real.npy", Photos().images)
    assert fastgan("generate", run, "--count", 4, "--model", model)[0] == 0
    assert len(list((run / "generated").glob("*.png"))) == 5
    code, out, err = fastgan(
        *("evaluate", run, "--model", model, "--data", tmp_path / "real.npy", "--features", "digits", "--count", 20)
    )
    assert (code, err) == (0, "")
    assert "frechet_distance" in out or "FID" in out


def test_a_run_of_other_networks_or_settings_is_not_resumed(tmp_path, console):
    quick = {"steps": 2, "evaluate_every": 0, "out": tmp_path, "console": console}
    trainer_of("patch", **quick).fit()
    with pytest.raises(SettingsError, match=r"was trained with lr 0\.0002, and this trainer has 0\.1; give the same, "):
        trainer_of("patch", **quick, lr=0.1).fit()
    settings = SETTINGS | {"evaluate_features": "digits"} | own_networks.SETTINGS["patch"] | quick
    others = package.Trainer(*own_networks.r3gan(), Photos(), **settings)
    with pytest.raises(CheckpointError, match=r"does not fit its model: Error.* for R3Generator: Missing key.*basis"):
        others.fit()
    trainer = trainer_of("patch", **quick | {"steps": 3}, lr=0.1)
    trainer.resume()
    trainer.fit()
    assert trainer.step_count == 3
    assert "lr 0.1 (was 0.0002)" in console.file.getvalue()


def test_commands_ask_for_the_networks_again(tmp_path, console, fastgan):
    trainer_of("patch", tmp_path, console, steps=1, evaluate_every=0).fit()
    code, _, err = fastgan("generate", tmp_path)
    assert code == 2
    assert "has networks of your own; give the function that builds them again with --model" in err
    code, _, err = fastgan("train", "--resume", tmp_path, "--model", "own_networks:patch")
    assert code == 2
    assert "the data of run" in err
    assert "are <Photos>, which only the script that began it has" in err
    for model, sentence in {
        "own_networks": "names no function; expected package.module:function",
        "no.such:thing": "module 'no.such' cannot be imported: ModuleNotFoundError",
        "own_networks:nothing": "module 'own_networks' has no function 'nothing'",
        "own_networks:real_loss": "fails with : TypeError: missing a required argument",
    }.items():
        code, _, err = fastgan("generate", tmp_path, "--model", model)
        assert (code, sentence in err, err.count("\n")) == (2, True, 1), err


def test_a_run_from_the_command_line_has_networks_of_the_user(tmp_path, fastgan):
    run = tmp_path / "run"
    settings = ["--set", "batch_size=6", "--set", "latent_dim=8", "--set", "resolution=16", "--device", "cpu"]
    model = ["--model", "own_networks:patch"]
    code, out, err = fastgan("train", *model, *settings, "--steps", 2, "--out", run)
    assert (code, err) == (0, "")
    assert f"fastgan generate {run} --model own_networks:patch" in out
    code, _, err = fastgan("train", "--resume", run, "--steps", 3)
    assert code == 2
    assert "has networks of your own, 'own_networks:patch'; give the function that builds them again" in err
    assert fastgan("train", "--resume", run, "--steps", 3, *model)[0] == 0
    code, _, err = fastgan("train", "--config", run / "config.toml", "--out", tmp_path / "other")
    assert code == 2
    assert "setting 'model' is 'own_networks:patch', code of your own; give it with --model" in err


def test_a_generator_of_the_user_is_exported_and_loaded_with_its_function(tmp_path, console, fastgan):
    trainer_of("conditional", tmp_path, console, steps=2, evaluate_every=0).fit()
    model = ["--model", "own_networks:conditional"]
    code, _, err = fastgan("export", tmp_path, *model, "--format", "torch", "--out", tmp_path / "export")
    assert (code, err) == (0, "")
    generators = [
        package.load_generator(folder, model=own_networks.conditional) for folder in (tmp_path, tmp_path / "export")
    ]
    images = [package.sampling.generate(g, 6, seed=1, labels=torch.arange(6) % 3) for g in generators]
    assert torch.equal(*images)
    program = torch.export.load(tmp_path / "export" / "generator.pt2").module()
    assert torch.equal(program(torch.ones(2, 8), torch.arange(2)), generators[0](torch.ones(2, 8), torch.arange(2)))
    assert "--model MODULE:FUNCTION`" in (tmp_path / "export" / "README.md").read_text()
    code, _, err = fastgan("generate", tmp_path / "export")
    assert code == 2
    assert "has networks of your own; give the function that builds them again" in err
    code, _, err = fastgan("generate", tmp_path / "export", "--model", "own_networks:patch")
    assert code == 2
    assert "do not fit together" in err


def test_a_generator_that_cannot_be_traced_is_refused_in_one_sentence(tmp_path, console, fastgan, monkeypatch):
    trainer_of("patch", tmp_path, console, steps=1, evaluate_every=0).fit()
    forward = own_networks.DCGenerator.forward
    monkeypatch.setattr(own_networks.DCGenerator, "forward", lambda self, z: forward(self, z if z.sum() > 0 else -z))
    code, _, err = fastgan("export", tmp_path, "--model", "own_networks:patch", "--format", "torch")
    assert (code, err.count("\n")) == (2, 1)
    assert "torch.export cannot trace DCGenerator" in err


class Watcher:
    def __init__(self, last):
        self.seen, self.ended, self.last = [], 0, last

    def on_step(self, trainer, step, metrics):
        torch.rand(3)
        self.seen.append((step, "generator_loss" in metrics))
        return step == self.last

    def on_end(self, trainer):
        self.ended += 1
        assert trainer.saved_step == trainer.step_count


def test_callbacks_see_each_step_and_may_end_training(tmp_path, console):
    quick = {"evaluate_every": 0, "log_every": 2, "console": console}
    watcher, nobody = Watcher(5), Watcher(None)
    trainer_of("conditional", tmp_path / "a", callbacks=[watcher, nobody], **quick).fit()  # which has dropout
    assert watcher.seen == nobody.seen == [(step, step % 2 == 0) for step in range(1, 6)]
    assert watcher.ended == 1
    plain = trainer_of("conditional", tmp_path / "b", **quick | {"steps": 5})
    plain.fit()
    a, b = ((tmp_path / run / "checkpoints" / "5" / "generator.safetensors").read_bytes() for run in "ab")
    assert a == b


class Unplugged(Photos):
    def __getitem__(self, index):
        if get_worker_info():
            raise OSError("the disk of the data")
        return super().__getitem__(index)


class Log:
    def on_step(self, trainer, step, metrics):
        raise OSError("the disk of the log")


@pytest.mark.parametrize(("data", "callbacks", "disk"), [(Unplugged(), [], "data"), (Photos(), [Log()], "log")])
def test_an_os_error_of_the_users_code_is_not_that_of_the_runs_folder(tmp_path, console, data, callbacks, disk):
    settings = SETTINGS | {"evaluate_every": 0}
    trainer = package.Trainer(
        *own_networks.r3gan(), data, out=tmp_path, console=console, callbacks=callbacks, **settings
    )
    with pytest.raises(OSError, match=f"the disk of the {disk}"):
        trainer.fit()


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_ends_the_script_once_its_step_is_saved(tmp_path, console, number, error):
    class Send:
        def on_step(self, trainer, step, metrics):
            if step == 2:
                os.kill(os.getpid(), number)

    with pytest.raises(error) as ended:
        trainer_of("patch", tmp_path, console, evaluate_every=0, callbacks=[Send()]).fit()
    assert number == signal.SIGINT or ended.value.code == 143
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]
    assert "Stopped at step 2 of 10 and saved. Run the script again to resume" in console.file.getvalue()
