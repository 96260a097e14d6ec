"""Which checkpoints of a run stay, and how the others go."""

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from fastgan.training.checkpoints import list_checkpoints
from fastgan.training.files import sync_folder


def drop_checkpoints(run: Path, *, keep_last: int, keep_every: int, protected: Collection[int] = ()) -> list[int]:
    """Deletes what is not to be kept of a run's checkpoints, and what a deletion or a save cut short has left.

    Called once the newest checkpoint is on the disk. A checkpoint loses its name before its files, so that one whose
    deletion is cut short is never taken for a checkpoint.

    Args:
        run: the run's folder.
        keep_last: how many of the highest steps stay; 0 for all.
        keep_every: the checkpoints of steps that this divides stay; 0 for none.
        protected: steps whose checkpoints stay whatever their age, such as that of the best one.

    Returns:
        The steps whose checkpoints are gone.
    """
    for leftover in (run / "checkpoints").glob(".*.*"):
        if leftover.name.endswith((".partial", ".deleted")):
            shutil.rmtree(leftover)
    if keep_last == 0:
        return []
    gone = []
    for checkpoint in list_checkpoints(run)[:-keep_last]:
        step = int(checkpoint.name)
        if step in protected or (keep_every and step % keep_every == 0):
            continue
        doomed = checkpoint.with_name(f".{step}.deleted")
        checkpoint.rename(doomed)
        sync_folder(doomed.parent)
        shutil.rmtree(doomed)
        gone.append(step)
    return gone


def set_aside_after(run: Path, step: int) -> list[Path]:
    """Renames the checkpoints after a step, which are damaged, so that training can reach their steps again.

    Returns:
        What they are called now: ``STEP.damaged``, or ``STEP.damaged-2`` and so on where that is there from before.
    """
    renamed = []
    for checkpoint in list_checkpoints(run):
        if int(checkpoint.name) > step:
            names = [f"{checkpoint.name}.damaged"]
            while os.path.lexists(checkpoint.with_name(names[-1])):
                names.append(f"{names[0]}-{len(names) + 1}")
            renamed.append(checkpoint.rename(checkpoint.with_name(names[-1])))
    return renamed
