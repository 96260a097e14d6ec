"""Swaps: changes of a model that are made and undone as a whole.

Most swaps replace a module's forward: the module's class becomes a subclass with a new ``forward``. Parameters,
buffers, hooks and state-dict keys stay, ``isinstance`` holds, copies and pickles work, and undoing restores the class.
A ``forward`` set on the instance would stay bound to the original in a copy.
"""

import functools
import operator
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from fastgan.acceleration.measuring import HOOKS
from fastgan.acceleration.report import Swapped
from fastgan.nn.norm_act import RefusesTorchsConversion

Undo = Callable[[], None]
Step = Callable[[], Undo]
Converter = Callable[[nn.Module], nn.Module | None]
Settings = tuple[tuple[str, Any], ...]


class Refusal(Exception):
    """The reason for leaving a module unchanged, as a clause for the report."""


@dataclass
class Swap:
    """A change and its entry in the report. Each of the ``steps`` changes one thing and returns its undo."""

    module: nn.Module
    entry: Swapped
    steps: list[Step]
    _undo: ExitStack = field(default_factory=ExitStack)

    def apply(self) -> None:
        with ExitStack() as done:
            for step in self.steps:
                done.callback(step())
            self._undo = done.pop_all()

    def undo(self) -> None:
        self._undo.close()


@dataclass(frozen=True)
class Recipe:
    """The forward ``make(*arguments)``; hashable and picklable, because it identifies the class.

    ``make`` is a module-level function or a class method; ``name`` is the forward's name in reports.
    """

    make: Callable[..., Callable[..., Any]]
    arguments: tuple[Any, ...]
    name: str


def settings_of(module: nn.Module) -> Settings:
    """The plain attributes of a module that its code may read, such as an eps."""
    return tuple(
        (name, value)
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str | None) and name != "training" and not name.startswith("_")
    )


def rewrite(module: nn.Module, recipe: Recipe, settings: Settings = ()) -> Undo:
    """Gives ``module`` the forward of ``recipe``; returns a function that undoes this.

    A recipe may contain constants of the old forward, so the module runs the old one if its ``settings`` change.
    """
    before = module.__class__
    if is_parametrized(module):
        # torch gives such a module its own class, and removes it with the last parametrization. That class must stay
        # outermost, or torch would remove ours instead; it is copied, because copies of the module share it.
        namespace = {k: v for k, v in vars(before).items() if k not in ("__dict__", "__weakref__")}
        module.__class__ = type(before.__name__, (_rewritten(before.__bases__[0], recipe, settings),), namespace)
    else:
        module.__class__ = _rewritten(before, recipe, settings)
    return lambda: setattr(module, "__class__", before)


def is_rewritten(module: nn.Module) -> bool:
    return hasattr(type(module), "_fastgan_recipe")


def require_rewritable(module: nn.Module) -> None:
    """Refuses a module whose class cannot be replaced."""
    cls = type(module)
    if is_rewritten(module):
        raise Refusal("it is accelerated already")
    if "forward" in vars(module):
        raise Refusal("its forward was set on the instance")
    if cls.__reduce_ex__ is not object.__reduce_ex__ or cls.__reduce__ is not object.__reduce__:
        raise Refusal(f"{cls.__name__} overrides pickling")


@functools.cache
def _rewritten(cls: type[nn.Module], recipe: Recipe, settings: Settings) -> type[nn.Module]:
    fused = recipe.make(*recipe.arguments)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if any(getattr(self, name, None) != value for name, value in settings):
            return super(made, self).forward(*args, **kwargs)
        return fused(self, *args, **kwargs)

    def reduce(self: nn.Module, protocol: int) -> tuple[Any, ...]:
        _, _, *state = super(made, self).__reduce_ex__(max(protocol, 2))
        return (_new, (cls, recipe, settings), *state)

    def extra_repr(self: nn.Module) -> str:
        return ", ".join(filter(None, [super(made, self).extra_repr(), f"accelerated: {recipe.name}"]))

    namespace = {
        "_fastgan_recipe": recipe,
        "forward": forward if settings else fused,
        "extra_repr": extra_repr,
        "__reduce_ex__": reduce,
        "__module__": cls.__module__,
        "__doc__": cls.__doc__,
    }
    if issubclass(cls, _BatchNorm):
        namespace["qconfig"] = RefusesTorchsConversion()
    made = type(cls.__name__, (cls,), namespace)
    return made


def _new(cls: type[nn.Module], recipe: Recipe, settings: Settings) -> nn.Module:
    made = _rewritten(cls, recipe, settings)
    return made.__new__(made)


def replacement(model: nn.Module, module: nn.Module, new: nn.Module) -> Step:
    """The step that puts ``new`` in every place of ``module`` in ``model``, with its hooks and its mode."""
    places = [(p, name) for p in model.modules() for name, child in p._modules.items() if child is module]

    def place(child: nn.Module) -> None:
        for parent, name in places:
            parent._modules[name] = child

    def step() -> Undo:
        for hooks in HOOKS:
            if not getattr(new, hooks):
                setattr(new, hooks, getattr(module, hooks))  # the same dictionary, so that handles keep working
        new._is_full_backward_hook = module._is_full_backward_hook
        inherited = set(module.modules())
        for m in new.modules():
            if m not in inherited:
                m.training = module.training
        place(new)
        return lambda: place(module)

    return step


def convert(module: nn.Module, path: str, mapping: dict[type[nn.Module], Converter]) -> nn.Module | None:
    """Makes the replacement with the user's converter for the module's class; ``None`` leaves the module."""
    new = mapping[next(cls for cls in type(module).__mro__ if cls in mapping)](module)
    if new is None:
        return None
    named = f"accelerate: the converter of {type(module).__name__} returned for `{path}`"
    if not isinstance(new, nn.Module):
        raise TypeError(f"{named} a {type(new).__name__}, expected a module, or None to leave it")
    if new is module:
        raise ValueError(f"{named} the same module, expected another, or None to leave it")
    for kind, same in (("parameters", operator.is_), ("buffers", torch.equal)):
        before, after = (dict(getattr(m, f"named_{kind}")()) for m in (module, new))
        if before.keys() != after.keys() or not all(same(after[name], before[name]) for name in before):
            raise ValueError(f"{named} other {kind} than the module's own, under the same names: {sorted(after)}")
    if list(module.state_dict()) != list(new.state_dict()):
        raise ValueError(f"{named} a module with the state {list(new.state_dict())}, expected the same keys")
    return new
