"""Which forward a checkpoint recomputes, for a layer whose state has changed since.

``torch.utils.checkpoint`` runs a part of a forward again inside the backward pass. A layer whose state changes at every
forward must then use the state of the forward that is repeated, which need not be the latest: a discriminator sees real
and generated images before one backward. Autograd numbers the nodes of its graph in the order of their creation, so the
number of the node that is being differentiated identifies the forward.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

KEPT_FORWARDS = 16


def recomputing() -> bool:
    """Whether this code runs inside a backward pass."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


class Forward:
    """One forward: the numbers of the autograd nodes made in it, and whether a checkpoint surrounds it.

    Args:
        whole: ``True`` for the forward of a root, ending with :meth:`finish`; ``False`` for one reading of a weight.
    """

    def __init__(self, *, whole: bool) -> None:
        self.whole = whole
        self.start = torch.autograd._get_sequence_nr()
        self.end: int | None = None
        self.grad = torch.is_grad_enabled()
        self.hooks = _checkpoint_hooks()

    def finish(self) -> None:
        self.end = torch.autograd._get_sequence_nr()

    def in_nested_checkpoints_of_both_forms(self) -> bool:
        return not self.grad and self.hooks is not None

    def may_be_checkpointed(self) -> bool:
        """A checkpoint runs what it covers without gradients, or under hooks that drop what autograd saves."""
        return (not self.grad or self.hooks is not None) and not torch.is_inference_mode_enabled()

    def may_be_repeated_by(self, number: int) -> bool:
        """Whether a node that is older than every later forward may repeat this one."""
        return self.start > number or self.hooks is not None or (self.end is not None and number < self.end)

    def may_contain_checkpoint_here(self) -> bool:
        """Whether the code that runs now may be covered by a checkpoint that began inside this forward."""
        if torch.compiler.is_compiling():
            return False
        return torch.is_grad_enabled() != self.grad or _checkpoint_hooks() is not self.hooks


def _checkpoint_hooks() -> "weakref.ref[object] | None":
    """The saved-tensor hooks of the checkpoint that surrounds this; weakly, because they hold its inputs."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    if hooks is None or hooks[0].__module__ != torch.utils.checkpoint.__name__:
        return None
    return weakref.ref(hooks[0])


@contextmanager
def outside_checkpoint() -> Iterator[None]:
    """Hides what runs inside from a surrounding checkpoint.

    A checkpoint matches the tensors saved in a forward (a selective checkpoint also the operators) with those of the
    repetition by their order. But u and v move only in the forward, and a weight that the root normalized before the
    checkpoint began is normalized inside the repetition.
    """
    if torch.compiler.is_compiling() or _checkpoint_hooks() is None:
        yield
        return
    save = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
    with save, _disable_current_modes():
        yield


class PastVectors:
    """The vectors of the latest forwards that a backward pass may have to repeat."""

    def __init__(self) -> None:
        self._kept: list[tuple[Forward, Tensor, Tensor]] = []
        self._dropped: Forward | None = None
        self._repeated: tuple[int, int] | None = None
        self._position = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, forward: Forward, u: Tensor, v: Tensor) -> None:
        """``u`` and ``v`` must be copies that never change."""
        self._kept.append((forward, u, v))
        if len(self._kept) > KEPT_FORWARDS:
            self._dropped = self._kept.pop(0)[0]

    def has(self, forward: Forward) -> bool:
        return bool(self._kept) and self._kept[-1][0] is forward

    def find(self, *, root_runs_again: bool) -> tuple[Tensor, Tensor] | None:
        """The vectors of the forward that this backward pass repeats; ``None`` where no forward had a checkpoint.

        Raises:
            RuntimeError: the forward cannot be identified: it is too long ago, or reentrant checkpoints are nested.
        """
        node = torch._C._current_autograd_node()
        if not self._kept or node is None:
            return None
        number = node._sequence_nr()
        before = [i for i, (forward, _, _) in enumerate(self._kept) if forward.start <= number]
        latest = self._kept[before[-1]][0] if before else None
        if latest and latest.whole and not root_runs_again and (latest.end is None or number < latest.end):
            # The checkpoint covers a part of that forward.
            _, u, v = self._kept[before[-1]]
            return u, v
        # The checkpoint covers whole forwards: they are repeated in their order.
        if latest and latest.hooks is not None:
            covered = [i for i, (forward, _, _) in enumerate(self._kept) if forward.hooks is latest.hooks]
        elif self._dropped is not None and latest is None and self._dropped.may_be_repeated_by(number):
            covered = []
        else:  # the reentrant form: its node is older than the forwards that it covers, which ran without gradients
            covered = [i for i, (forward, _, _) in enumerate(self._kept) if forward.start > number and not forward.grad]
        task = torch._C._current_graph_task_id()
        position = self._position + 1 if self._repeated == (task, number) else 0
        self._repeated, self._position = (task, number), position
        if position >= len(covered) or self._kept[covered[position]][0].in_nested_checkpoints_of_both_forms():
            raise RuntimeError(
                "spectral_norm: the forward that a checkpoint recomputes cannot be identified: it is more than"
                f" {KEPT_FORWARDS} forwards ago, or reentrant checkpoints are nested; expected use_reentrant=False"
            )
        _, u, v = self._kept[covered[position]]
        return u, v
