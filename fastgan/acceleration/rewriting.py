"""Replacing a module's forward in place, such that copies, pickles and undoing work.

A rewritten module gets a subclass of its class with a new ``forward``. Nothing else changes: parameters, buffers, hooks
and state-dict keys stay, ``isinstance`` holds, and undoing restores the class. A ``forward`` set on the instance would
be bound to the original in a copy.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol

from torch import nn
from torch.nn.utils.parametrize import is_parametrized


class Recipe(Protocol):
    """Makes a forward; hashable and picklable, because it identifies the class."""

    def forward(self) -> Callable[..., Any]: ...

    def __str__(self) -> str: ...


Settings = tuple[tuple[str, Any], ...]


def settings_of(module: nn.Module) -> Settings:
    """The plain attributes of a module that its code may read, such as an eps."""
    return tuple(
        (name, value)
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str | None) and name != "training" and not name.startswith("_")
    )


def rewrite(module: nn.Module, recipe: Recipe, settings: Settings = ()) -> Callable[[], None]:
    """Gives ``module`` the forward of ``recipe``; returns what undoes it.

    A recipe may contain constants of the old forward. With other ``settings`` than these the module runs the old one.
    """
    before = module.__class__
    if is_parametrized(module):
        # torch gives such a module its own class and removes it with the last parametrization. It must stay the
        # outermost, or torch would remove ours; copied, because copies of the module share it.
        namespace = {k: v for k, v in vars(before).items() if k not in ("__dict__", "__weakref__")}
        module.__class__ = type(before.__name__, (_rewritten(before.__bases__[0], recipe, settings),), namespace)
    else:
        module.__class__ = _rewritten(before, recipe, settings)

    def undo() -> None:
        module.__class__ = before

    return undo


def is_rewritten(module: nn.Module) -> bool:
    return hasattr(type(module), "_fastgan_recipe")


def why_not_rewritable(module: nn.Module) -> str | None:
    """The reason why ``module`` cannot take another class, or ``None``."""
    cls = type(module)
    if is_rewritten(module):
        return "it is accelerated already"
    if "forward" in vars(module):
        return "its forward was set on the instance"
    if cls.__reduce_ex__ is not object.__reduce_ex__ or cls.__reduce__ is not object.__reduce__:
        return f"{cls.__name__} overrides pickling"
    return None


@functools.cache
def _rewritten(cls: type[nn.Module], recipe: Recipe, settings: Settings) -> type[nn.Module]:
    fused = recipe.forward()

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if any(getattr(self, name, None) != value for name, value in settings):
            return super(made, self).forward(*args, **kwargs)
        return fused(self, *args, **kwargs)

    def reduce(self: nn.Module, protocol: int) -> tuple[Any, ...]:
        _, _, *state = super(made, self).__reduce_ex__(max(protocol, 2))
        return (_new, (cls, recipe, settings), *state)

    def extra_repr(self: nn.Module) -> str:
        return ", ".join(filter(None, [super(made, self).extra_repr(), f"accelerated: {recipe}"]))

    namespace = {
        "_fastgan_recipe": recipe,
        "forward": forward if settings else fused,
        "extra_repr": extra_repr,
        "__reduce_ex__": reduce,
        "__module__": cls.__module__,
        "__doc__": cls.__doc__,
    }
    made = type(cls.__name__, (cls,), namespace)
    return made


def _new(cls: type[nn.Module], recipe: Recipe, settings: Settings) -> nn.Module:
    made = _rewritten(cls, recipe, settings)
    return made.__new__(made)
