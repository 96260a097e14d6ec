"""Identifies the forward that a checkpoint recomputes, for layers whose state changes at every forward.

``torch.utils.checkpoint`` runs a part of a forward again inside the backward pass. Such a layer must then use the state
of the repeated forward, which need not be the latest: a discriminator gets real and generated images before one
backward pass. Each checkpoint is a torch object, held by torch's functions on the Python stack, both in the forward and
in its repetition.
"""

import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import GeneratorType
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.checkpoint import CheckpointFunction

_RECORD, _REPEAT = CheckpointFunction.forward.__code__, CheckpointFunction.backward.__code__


def recomputing() -> bool:
    """Whether this code runs inside a backward pass."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def checkpoints() -> tuple[list[object], object | None]:
    """The checkpoints that record the running code, innermost first, and the surrounding one that repeats it, or None.

    Raises:
        RuntimeError: in a checkpoint of a torch version with other functions.
    """
    recording = []
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_filename == _RECORD.co_filename:
            if code is _RECORD:  # a reentrant checkpoint
                recording.append(frame.f_locals["ctx"])
            elif code is _REPEAT:
                return recording, frame.f_locals["ctx"]
            elif isinstance(running := frame.f_locals.get("gen"), GeneratorType):
                recording.append(running.gi_frame.f_locals["new_frame"])
            elif code.co_name == "unpack_hook":
                return recording, frame.f_locals["frame"]
        frame = frame.f_back
    if not recording and _are_of_checkpoint(_saved_tensor_hooks()):
        raise RuntimeError(
            f"spectral_norm: the checkpoints of torch {torch.__version__} are not known; expected use_reentrant=True"
        )
    return recording, None


class Forward:
    """One forward of a root (``whole``), or one reading of a weight."""

    def __init__(self, *, whole: bool) -> None:
        self.whole = whole
        self._grad, self._hooks = torch.is_grad_enabled(), _saved_tensor_hooks()

    def recording(self) -> list[object]:
        """The checkpoints that record this forward, read at its beginning."""
        # A checkpoint runs its code without gradients, or under hooks that drop the tensors saved for autograd.
        may_record = (not self._grad or self._hooks is not None) and not torch.is_inference_mode_enabled()
        return checkpoints()[0] if may_record else []

    def may_contain_checkpoint_here(self) -> bool:
        """Whether a checkpoint that began inside this forward may cover the running code."""
        if torch.compiler.is_compiling():
            return False
        return torch.is_grad_enabled() != self._grad or _saved_tensor_hooks() is not self._hooks


def _saved_tensor_hooks() -> "weakref.ref[object] | None":
    """A weak reference to the innermost hooks for saved tensors: a checkpoint's hooks hold its inputs."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return None if hooks is None else weakref.ref(hooks[0])


def _are_of_checkpoint(hooks: "weakref.ref[object] | None") -> bool:
    return hooks is not None and hooks().__module__ == torch.utils.checkpoint.__name__


@contextmanager
def outside_checkpoint() -> Iterator[None]:
    """A context whose code is hidden from a surrounding checkpoint.

    A checkpoint matches the tensors saved in a forward (a selective checkpoint also the operators) with those of its
    repetition by order. But u and v change only in the forward, and a weight that the root normalized before the
    checkpoint began is normalized inside the repetition.
    """
    if torch.compiler.is_compiling() or not _are_of_checkpoint(_saved_tensor_hooks()):
        yield
        return
    save = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
    with save, _disable_current_modes():
        yield


class PastVectors:
    """The u and v of the forwards that checkpoints may repeat, in order; kept while these checkpoints exist."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[object, list[tuple[Forward, Tensor, Tensor]]] = WeakKeyDictionary()
        # For each repeated checkpoint, its backward pass and the position of the next forward.
        self._next: WeakKeyDictionary[object, tuple[int, int]] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._kept)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return PastVectors, ()  # no checkpoint repeats a copy

    def keep(self, recording: Sequence[object], forward: Forward, u: Tensor, v: Tensor) -> None:
        """Keeps copies for the checkpoints that record this forward."""
        kept = [self._kept.setdefault(checkpoint, []) for checkpoint in recording]
        missing = [of_checkpoint for of_checkpoint in kept if not of_checkpoint or of_checkpoint[-1][0] is not forward]
        if missing:
            with outside_checkpoint():
                copies = forward, u.clone(), v.clone()
            for of_checkpoint in missing:
                of_checkpoint.append(copies)

    def find(self, *, root_runs_again: bool) -> tuple[Tensor, Tensor] | None:
        """The vectors of the repeated forward; ``None`` if no torch checkpoint repeats one."""
        _, repeated = checkpoints()
        kept = None if repeated is None else self._kept.get(repeated)
        if not kept:
            return None
        task, position = self._next.get(repeated, (-1, 0))
        if task != torch._C._current_graph_task_id():
            if kept[0][0].whole and not root_runs_again:
                # The checkpoint covers only a part of that forward.
                return kept[0][1:]
            position = 0
        self._next[repeated] = torch._C._current_graph_task_id(), position + 1
        return kept[position][1:]
