"""What a run takes over from a checkpoint, and what it refuses of one whose files are whole."""

import dataclasses
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from fastgan.data.dataset import BUNDLED
from fastgan.training.checkpoints import (
    MISFITS,
    CheckpointError,
    first_line,
    load_tensors,
    misfit,
    require_layout,
)
from fastgan.training.config import SettingsError, TrainingConfig
from fastgan.training.engine import Engine

_OF_OTHER_RANKS = re.compile(r"random\.(cpu|cuda)\.[1-9][0-9]*")

# They leave every weight as it is, or are refused or given anew where a run goes on.
_NOT_OF_THE_STATE = {
    *("steps", "device", "log_every", "sample_every", "checkpoint_every", "keep_checkpoints", "keep_every", "wandb"),
    *("evaluate_every", "evaluate_count", "evaluate_features"),
}


def require_data(run: Path, data: str) -> None:
    """Refuses the data that the settings of a run name where they are not there.

    Raises:
        SettingsError: one sentence that says where the path is from, and where it was looked for.
    """
    if data not in BUNDLED and not os.path.exists(data):
        here = "" if os.path.isabs(data) else f" in {os.getcwd()!r}, where this command runs"
        raise SettingsError(
            f"setting 'data' in {str(run / 'config.toml')!r} is {data!r}, and there is no such file or folder{here}; "
            "expected the path of the images there, absolute"
        )


def kept_settings(config: TrainingConfig) -> dict[str, Any]:
    """The settings that the weights depend on, for a checkpoint to keep."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in _NOT_OF_THE_STATE}


def altered_settings(config: TrainingConfig, state: dict[str, Any]) -> list[str]:
    """What differs from the settings that a checkpoint was trained with, such as ``lr 0.1 (was 0.2)``."""
    before = state.get("settings", {})
    now = kept_settings(config)
    return [f"{name} {now[name]!r} (was {before[name]!r})" for name in now if before.get(name, now[name]) != now[name]]


def restore(engine: Engine, checkpoint: Path, state: dict[str, Any]) -> None:
    """Brings a new engine to where a checkpoint left off.

    Args:
        engine: made with the settings of the run.
        checkpoint: one whose files are whole.
        state: what it holds beside its tensors.

    Raises:
        SettingsError: see :meth:`Engine.load`.
        CheckpointError: for a state that does not fit the engine; one sentence.
    """
    expected = engine.tensors()
    # Adam adds two averages for each weight of both networks, which are in here with the average of the generator.
    most_bytes = 3 * sum(tensor.nbytes for members in expected.values() for tensor in members.values())
    try:
        if state["architecture"] != engine.architecture:
            engine.load({}, state)  # which says what differs, before a tensor is read
        _require_state(engine.state(), state)
        tensors = {
            group: engine.ranks.of_first(partial(load_tensors, checkpoint, group, most_bytes=most_bytes))
            for group in expected
        }
        # Older checkpoints have one stream for images and latents: latents go on with it, images begin their own.
        tensors["training"].setdefault("random.data", expected["training"]["random.data"])
        engine.load(tensors, state)
        # Loading converts types and stretches scalars: only what comes out as it went in was fit.
        for group, members in engine.tensors().items():
            require_layout(_of_any_world(members), _of_any_world(tensors[group]))
        for optimizer in (engine.generator_optimizer, engine.discriminator_optimizer):
            _require_averages(optimizer)
    except CheckpointError:
        raise
    except SettingsError as error:
        raise SettingsError(first_line(error)) from None
    except MISFITS as error:
        raise misfit(checkpoint, error) from None


def _of_any_world(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is there however many ranks there are: of their random states only the first one's."""
    return {name: tensor for name, tensor in tensors.items() if not _OF_OTHER_RANKS.fullmatch(name)}


def _require_averages(optimizer: Optimizer) -> None:
    for parameter, averages in optimizer.state.items():
        for name in ("step", "exp_avg", "exp_avg_sq"):
            shape = () if name == "step" else parameter.shape
            if averages[name].shape != shape:
                raise ValueError(f"{name} of an optimizer is {list(averages[name].shape)}, expected {list(shape)}")


def _require_state(expected: dict[str, Any], found: dict[str, Any]) -> None:
    for name, value in _counts(expected):
        other: Any = found
        for key in name:
            if not isinstance(other, dict) or key not in other:
                raise ValueError(f"{'.'.join(name)} is missing")
            other = other[key]
        # A signed 64-bit number is the most that a tensor can take.
        if type(value) is int and not (type(other) is int and 0 <= other < 2**63):
            raise ValueError(f"{'.'.join(name)} is {other!r}, expected a count")
    history = found["history"]
    figures = [figure for reading in history["readings"] for figure in reading.values()]
    if not all(type(figure) in (int, float) for figure in [*figures, history["highest_gradient"]]):
        raise ValueError("history holds what is no number")
    if not all(type(name) is str for name in history["going_on"]):
        raise ValueError("history names what is no finding")
    if not isinstance(found.get("settings", {}), dict):
        raise ValueError("settings are no table")


def _counts(values: dict[str, Any], *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The leaves of a state with their paths."""
    for key, value in values.items():
        if key in ("architecture", "growth", "history"):  # looked at by what reads them
            continue
        if isinstance(value, dict):
            yield from _counts(value, *path, key)
        else:
            yield (*path, key), value
