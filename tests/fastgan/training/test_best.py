import json

import numpy as np
import pytest
import torch

from fastgan.metrics import MetricsError
from fastgan.training.checkpoint import list_checkpoints, load_tensors, load_trained_generator
from fastgan.training.config import SettingsError
from fastgan.training.evaluate import FidTracker
from fastgan.training.run import resume_run, start_run

CPU = torch.device("cpu")


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def state(run, step):
    return json.loads((run / "checkpoints" / str(step) / "state.json").read_text())


@pytest.fixture
def watched(tiny):
    def make(**changes):
        return tiny(**{"evaluate_every": 2, "evaluate_count": 20, "log_every": 2, "keep_checkpoints": 1} | changes)

    return make


def falling(monkeypatch, *fids):
    """Has the measurements of a run be these."""
    left = iter(fids)

    def measured(*args):
        return next(left)

    monkeypatch.setattr("fastgan.training.evaluate.frechet_distance", measured)


def test_the_fid_is_reported_and_the_best_checkpoint_stays(tmp_path, watched, console, monkeypatch):
    falling(monkeypatch, 5.0, 3.0, 4.0, 3.0, 6.0, 7.0)
    start_run(watched(), tmp_path, console=console)
    assert {row["step"]: row["fid"] for row in rows(tmp_path)} == {2: 5.0, 4: 3.0, 6: 4.0, 8: 3.0, 10: 6.0, 12: 7.0}
    # 2 was the best for a while; 4 and 8 are checkpoints anyway, 12 is the last.
    assert [path.name for path in list_checkpoints(tmp_path)] == ["4", "12"]
    best = state(tmp_path, 12)["best"]
    assert (best["step"], best["fid"]) == (4, 3.0)
    assert state(tmp_path, 4)["best"] == best
    assert "The best FID was 3 at step 4, whose checkpoint is kept" in console.file.getvalue()
    assert "FID 5  " in console.file.getvalue()


def test_a_step_that_is_best_gets_a_checkpoint_of_its_own(tmp_path, watched, console, monkeypatch):
    falling(monkeypatch, 5.0, 6.0, 1.0, 6.0, 6.0, 7.0)
    start_run(watched(checkpoint_every=12), tmp_path, console=console)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["6", "12"]


def test_the_fid_is_that_of_the_averaged_generator(tmp_path, watched, console):
    config = watched(steps=4)
    start_run(config, tmp_path, console=console)
    generator, step = load_trained_generator(tmp_path, CPU)
    measured, improved = FidTracker(config, CPU).measure(generator, step)
    assert measured == pytest.approx(rows(tmp_path)[-1]["fid"], rel=1e-6)
    assert improved


def test_measuring_leaves_training_as_it_is(tmp_path, watched, console):
    for name, every in (("with", 2), ("without", 0)):
        start_run(watched(evaluate_every=every), tmp_path / name, console=console)
    (last,) = {list_checkpoints(tmp_path / name)[-1].name for name in ("with", "without")}
    for group in ("generator", "discriminator", "averaged_generator", "training"):
        a, b = (load_tensors(tmp_path / name / "checkpoints" / last, group) for name in ("with", "without"))
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert "best" not in state(tmp_path / "without", last)
    assert not any("fid" in row for row in rows(tmp_path / "without"))


def test_a_resumed_run_knows_the_best(tmp_path, watched, console, monkeypatch):
    falling(monkeypatch, 5.0, 3.0, 4.0)
    start_run(watched(steps=6, checkpoint_every=20), tmp_path, console=console)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["4", "6"]
    falling(monkeypatch, 3.5, 2.0)
    resume_run(tmp_path, steps=10, console=console)
    assert state(tmp_path, 10)["best"]["step"] == 10
    assert [path.name for path in list_checkpoints(tmp_path)] == ["10"]
    # 4 stayed until 10 was better.
    assert [row["step"] for row in rows(tmp_path) if "fid" in row] == [2, 4, 6, 8, 10]


def test_the_best_stays_when_nothing_is_measured_any_more(tmp_path, watched, console, monkeypatch):
    falling(monkeypatch, 5.0, 3.0, 4.0)
    start_run(watched(steps=6), tmp_path, console=console)
    path = tmp_path / "config.toml"
    path.write_text(path.read_text().replace("evaluate_every = 2", "evaluate_every = 0"))
    resume_run(tmp_path, steps=12, console=console)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["4", "12"]


def test_fids_of_another_count_are_not_compared(watched):
    generator = torch.nn.Sequential(torch.nn.Linear(8, 256), torch.nn.Unflatten(1, (1, 16, 16)), torch.nn.Tanh())
    generator.latent_dim = 8
    tracker = FidTracker(watched(), CPU)
    assert tracker.measure(generator, 3)[1]
    assert not tracker.measure(generator, 4)[1]
    assert tracker.best.step == 3
    assert FidTracker(watched(evaluate_count=30), CPU, tracker.best).measure(generator, 5)[1]


def test_fids_of_other_data_are_not_compared(tmp_path, watched):
    generator = torch.nn.Sequential(torch.nn.Linear(8, 256), torch.nn.Unflatten(1, (1, 16, 16)), torch.nn.Tanh())
    generator.latent_dim = 8
    trackers = []
    for name, low in (("dark", 0), ("bright", 200)):
        images = torch.randint(low, low + 50, (30, 16, 16), dtype=torch.uint8, generator=torch.Generator())
        np.save(tmp_path / f"{name}.npy", images.numpy())
        config = watched(data=str(tmp_path / f"{name}.npy"), evaluate_features="digits")
        # However much larger the distance to the other data is.
        best = trackers[0].best._replace(fid=0.0) if trackers else None
        trackers.append(FidTracker(config, CPU, best))
        assert trackers[-1].measure(generator, 3)[1]


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"evaluate_every": 3}, SettingsError, "evaluate_every is 3, .* expected a multiple of log_every, 2"),
        ({"evaluate_features": "points"}, MetricsError, "take points of the plane, and these are images of 1 channel"),
        ({"data": "./nowhere"}, SettingsError, "evaluate_features is 'auto', and there are none for './nowhere'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(watched, changes, error, sentence):
    with pytest.raises(error, match=sentence):
        FidTracker(watched(**changes), CPU)


def test_code_of_a_run_folder_is_never_run(watched):
    with pytest.raises(SettingsError, match="evaluate_features"):
        watched(evaluate_features="os:getcwd")
