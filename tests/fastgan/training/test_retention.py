import shutil

import pytest
import torch

from fastgan.training import checkpoint as checkpoint_module
from fastgan.training.checkpoint import (
    check_checkpoint,
    drop_checkpoints,
    find_checkpoint,
    list_checkpoints,
    save_checkpoint,
    set_aside_after,
)
from fastgan.training.run import start_run

TENSORS = {"group": {"weight": torch.ones(3)}}


def save(run, *steps):
    for step in steps:
        save_checkpoint(run, step, TENSORS, {})


def steps(run):
    return [int(checkpoint.name) for checkpoint in list_checkpoints(run)]


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({"keep_last": 0, "keep_every": 0}, [1, 2, 4, 8, 10, 20]),
        ({"keep_last": 1, "keep_every": 0}, [20]),
        ({"keep_last": 2, "keep_every": 0}, [10, 20]),
        ({"keep_last": 9, "keep_every": 0}, [1, 2, 4, 8, 10, 20]),
        ({"keep_last": 1, "keep_every": 4}, [4, 8, 20]),
        ({"keep_last": 2, "keep_every": 4, "protected": [1, 10, 77]}, [1, 4, 8, 10, 20]),
    ],
)
def test_which_checkpoints_stay(tmp_path, rules, kept):
    save(tmp_path, 1, 2, 4, 8, 10, 20)
    assert drop_checkpoints(tmp_path, **rules) == [step for step in (1, 2, 4, 8, 10, 20) if step not in kept]
    assert steps(tmp_path) == kept
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == sorted(map(str, kept))


@pytest.mark.parametrize("at", range(5))
def test_a_deletion_that_is_cut_short_leaves_no_half_of_a_checkpoint(tmp_path, monkeypatch, at):
    save(tmp_path, 1, 2, 3)

    def cut_short(folder):
        for path in sorted(folder.iterdir())[:at]:
            path.unlink()
        raise OSError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module.shutil, "rmtree", cut_short)
        with pytest.raises(OSError, match="power"):
            drop_checkpoints(tmp_path, keep_last=1, keep_every=0)
    assert steps(tmp_path) == [2, 3]
    for checkpoint in list_checkpoints(tmp_path):
        check_checkpoint(checkpoint)
    drop_checkpoints(tmp_path, keep_last=2, keep_every=0)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]


def test_other_things_in_the_folder_stay(tmp_path):
    save(tmp_path, 1, 2)
    for name in (".1.partial", ".9.deleted", "1.damaged", "notes"):
        (tmp_path / "checkpoints" / name).mkdir()
    drop_checkpoints(tmp_path, keep_last=1, keep_every=0)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["1.damaged", "2", "notes"]


def test_nothing_goes_before_the_new_checkpoint_is_whole(tmp_path, tiny, console, monkeypatch):
    real = checkpoint_module.drop_checkpoints
    seen = []

    def look(run, **rules):
        before = steps(run)
        find_checkpoint(run, warn=pytest.fail)
        gone = real(run, **rules)
        seen.append((before, gone))
        return gone

    monkeypatch.setattr("fastgan.training.trainer.drop_checkpoints", look)
    start_run(tiny(steps=12, checkpoint_every=2, keep_checkpoints=2, keep_every=4), tmp_path, console=console)
    assert seen == [
        ([2], []),
        ([2, 4], []),
        ([2, 4, 6], [2]),
        ([4, 6, 8], []),
        ([4, 6, 8, 10], [6]),
        ([4, 8, 10, 12], []),
    ]
    assert steps(tmp_path) == [4, 8, 10, 12]


def test_a_run_keeps_its_last_three_checkpoints_by_default(tmp_path, tiny, console):
    start_run(tiny(steps=5, checkpoint_every=1), tmp_path, console=console)
    assert steps(tmp_path) == [3, 4, 5]


def test_what_is_set_aside_stays_whatever_is_there_already(tmp_path):
    save(tmp_path, 1, 2, 3)
    assert [p.name for p in set_aside_after(tmp_path, 1)] == ["2.damaged", "3.damaged"]
    save(tmp_path, 3)
    assert [p.name for p in set_aside_after(tmp_path, 1)] == ["3.damaged-2"]
    save(tmp_path, 3)
    assert [p.name for p in set_aside_after(tmp_path, 1)] == ["3.damaged-3"]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        *("1", "2.damaged", "3.damaged", "3.damaged-2", "3.damaged-3"),
    ]
    shutil.rmtree(tmp_path / "checkpoints")
    assert set_aside_after(tmp_path, 0) == []
