"""Swaps, which are made and undone as a whole."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import nn

from fastgan.acceleration.report import Swapped
from fastgan.acceleration.rewriting import Recipe, Settings, rewrite
from fastgan.acceleration.running import HOOKS

Converter = Callable[[nn.Module], nn.Module | None]


@dataclass
class Swap:
    """A change and its entry in the report. Each of the ``steps`` changes one thing and returns its undo."""

    module: nn.Module
    entry: Swapped
    steps: list[Callable[[], Callable[[], None]]]
    _undo: ExitStack = field(default_factory=ExitStack)

    def apply(self) -> None:
        with ExitStack() as done:
            for step in self.steps:
                done.callback(step())
            self._undo = done.pop_all()

    def undo(self) -> None:
        self._undo.close()


def rewriting(module: nn.Module, recipe: Recipe, settings: Settings = ()) -> Callable[[], Callable[[], None]]:
    """The step that gives ``module`` another forward, good for its ``settings``."""
    return lambda: rewrite(module, recipe, settings)


def replacement(model: nn.Module, module: nn.Module, new: nn.Module) -> Callable[[], Callable[[], None]]:
    """The step that puts ``new`` in every place of ``module`` in ``model``, with its hooks and its mode."""
    places = [(p, name) for p in model.modules() for name, child in p._modules.items() if child is module]

    def place(child: nn.Module) -> None:
        for parent, name in places:
            parent._modules[name] = child

    def step() -> Callable[[], None]:
        for hooks in HOOKS:
            own = getattr(new, hooks)
            if not own:
                setattr(new, hooks, getattr(module, hooks))  # the same dictionary, so that handles still work
        new._is_full_backward_hook = module._is_full_backward_hook
        inherited = set(module.modules())
        for m in new.modules():
            if m not in inherited:
                m.training = module.training
        place(new)
        return lambda: place(module)

    return step


def convert(module: nn.Module, path: str, mapping: dict[type[nn.Module], Converter]) -> nn.Module | None:
    """The replacement by the user's converter for the module's class; ``None`` to leave the module.

    Raises:
        TypeError, ValueError: it is not a module, or has other parameters, buffers or keys.
    """
    new = mapping[next(cls for cls in type(module).__mro__ if cls in mapping)](module)
    if new is None:
        return None
    named = f"accelerate: the converter of {type(module).__name__} returned for `{path}`"
    if not isinstance(new, nn.Module):
        raise TypeError(f"{named} a {type(new).__name__}, expected a module, or None to leave it")
    if new is module:
        raise ValueError(f"{named} the same module, expected another, or None to leave it")
    before, after = dict(module.named_parameters()), dict(new.named_parameters())
    if before.keys() != after.keys() or any(after[name] is not before[name] for name in before):
        raise ValueError(f"{named} other parameters than the module's own, under the same names: {sorted(after)}")
    before, after = dict(module.named_buffers()), dict(new.named_buffers())
    if before.keys() != after.keys() or not all(torch.equal(after[name], before[name]) for name in before):
        raise ValueError(f"{named} other buffers than the module's own, under the same names: {sorted(after)}")
    if list(module.state_dict()) != list(new.state_dict()):
        raise ValueError(f"{named} a module with the state {list(new.state_dict())}, expected the same keys")
    return new


def is_mapped(module: nn.Module, mapping: dict[type[nn.Module], Converter]) -> bool:
    return any(cls in mapping for cls in type(module).__mro__)
