"""Runs a model, or a part of it, without side effects, and measures its outputs and gradients.

Computation is in float64 if the code allows: parameters and buffers are temporarily replaced by float64 copies. The
model itself is not copied, because a module that stores the result of a computation cannot be copied.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from fastgan.random_state import seeded_random_state

OBSERVING_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_pre_hooks",
    "_backward_hooks",
)
HOOKS = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", *OBSERVING_HOOKS)


def has_hook(module: nn.Module, hooks: Sequence[str] = HOOKS) -> bool:
    return any(getattr(module, kind) for kind in hooks)


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restores the attributes of all modules, and the entries of lists, dictionaries and sets in them."""
    # Buffers and parameters are among these entries; scratch_values restores their values.
    modules = list(model.modules())
    attributes = [(m, dict(vars(m))) for m in modules]
    entries = [(v, v.copy()) for m in modules for v in vars(m).values() if isinstance(v, list | dict | set)]
    try:
        yield
    finally:
        for module, before in attributes:
            vars(module).clear()
            vars(module).update(before)
        for container, before in entries:
            container.clear()
            container.extend(before) if isinstance(container, list) else container.update(before)


@contextmanager
def unobserved(
    model: nn.Module, hooks: Sequence[str] = OBSERVING_HOOKS, training: bool | None = None
) -> Iterator[None]:
    """Disables hooks, by default not forward pre-hooks, which may compute weights; sets all modes, if one is given."""
    with preserved(model):
        for module in model.modules():
            vars(module).update({kind: OrderedDict() for kind in hooks})
            module.training = module.training if training is None else training
        yield


@contextmanager
def scratch_values(model: nn.Module, dtype: torch.dtype | None = torch.float64) -> Iterator[None]:
    """Replaces parameters and buffers by copies, floating-point ones in ``dtype`` if given; restores them."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}.values()
    values = [(t, t.data) for t in tensors]
    with preserved(model):
        try:
            for tensor, value in values:
                tensor.data = value.to(dtype) if dtype and value.is_floating_point() else value
                if tensor.data is value or tensor.data.data_ptr() == value.data_ptr():
                    tensor.data = value.clone()
            yield
        finally:
            for tensor, value in values:
                tensor.data = value


Measured = dict[str, list[Tensor | None]]


def measure(module: nn.Module, args: Sequence[Any], *, dtype: torch.dtype | None = torch.float64) -> Measured:
    """Runs ``module`` on ``args`` and differentiates twice, without side effects and always with the same seed.

    Returns:
        The outputs, the buffers after the run, the gradients with respect to inputs and parameters, and the
        second-order gradients: those of the first ones' squared length, absent if the module is not twice
        differentiable.
    """
    with scratch_values(module, dtype), seeded_random_state(0), torch.enable_grad():
        args = tree_map(lambda a: _leaf(a, dtype) if isinstance(a, Tensor) else a, tuple(args))
        outputs = [o for o in tree_flatten(module(*args))[0] if isinstance(o, Tensor)]
        leaves = [a for a in tree_flatten(args)[0] if isinstance(a, Tensor) and a.requires_grad]
        num_inputs = len(leaves)
        leaves += [p for p in module.parameters() if p.requires_grad]
        differentiable = [o for o in outputs if o.requires_grad]
        measured = {"outputs": _copies(outputs)}
        measured["buffers"] = _copies([buffer for _, buffer in sorted(module.named_buffers(), key=lambda b: b[0])])
        first: Sequence[Tensor | None] = []
        if differentiable:
            loss = sum((o * torch.randn_like(o)).sum() for o in differentiable)
            first = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
        measured["gradients"] = _copies(first)
        lengths = [g.square().sum() for g in first[:num_inputs] or first if g is not None and g.requires_grad]
        second: Sequence[Tensor | None] = [None] * len(first)
        try:
            if lengths:
                second = torch.autograd.grad(sum(lengths), leaves, allow_unused=True)
            measured["second-order gradients"] = _copies(second)
        except RuntimeError:
            pass
        return measured


def _copies(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if t is None else t.detach().clone() for t in tensors]


def changed_by(
    apply: Callable[[], Callable[[], None]], module: nn.Module, inputs: Sequence[Sequence[Any]]
) -> str | None:
    """A sentence if ``apply`` changes results on any of the ``inputs``, in training or evaluation mode and float64;
    else ``None``."""
    try:
        for training, args in itertools.product((True, False), inputs):
            with unobserved(module, training=training):
                before = measure(module, args)
                undo = apply()
                try:
                    after = measure(module, args)
                finally:
                    undo()
            _, complaint = difference(before, after)
            if complaint:
                return f"{complaint} on random inputs"
    except Exception as error:  # the module's code may raise any type
        return f"it fails on random inputs ({error})"
    return None


def _leaf(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().clone()
    if not tensor.is_floating_point():
        return tensor
    return (tensor.to(dtype) if dtype else tensor).requires_grad_()


def difference(before: Measured, after: Measured) -> tuple[float, str | None]:
    """The largest difference relative to the largest element of its tensor, and a sentence if it exceeds rounding.

    A difference counts as rounding if it is below sqrt(eps) times the largest element of the tensor. Some tensors hold
    only rounding errors, such as the gradient of a bias before a normalization: so a difference below eps^(3/4) times
    the largest element of all outputs, or of all gradients, counts as rounding too.
    """
    worst, complaint = 0.0, None
    for name, olds in before.items():
        news = after.get(name)
        if news is None:
            return float("inf"), "it cannot be differentiated twice any more"
        if len(olds) != len(news):
            return float("inf"), f"the number of {name} changes from {len(olds)} to {len(news)}"
        top = max(map(_largest, olds), default=0.0)
        for old, new in zip(olds, news, strict=True):
            if old is None and new is None:
                continue
            # The gradient of an unused input may be None or zeros.
            old = torch.zeros_like(new) if old is None else old
            new = torch.zeros_like(old) if new is None else new
            if old.shape != new.shape or old.dtype != new.dtype:
                return float("inf"), f"{name} change from {_describe(old)} to {_describe(new)}"
            if not old.is_floating_point():
                old, new = old.double(), new.double()
            eps = torch.finfo(old.dtype).eps
            gap, size = _gap(old, new), _largest(old)
            relative = gap / (size or top or 1.0)
            if gap <= eps**0.5 * size + eps**0.75 * top:
                worst = worst if complaint else max(worst, gap / (top or 1.0))
            elif complaint is None or relative > worst:
                worst, complaint = relative, f"{name} differ by {relative:.1e} of the largest element"
    return worst, complaint


def _largest(tensor: Tensor | None) -> float:
    if tensor is None or tensor.numel() == 0 or not tensor.is_floating_point():
        return 0.0
    return tensor.nan_to_num(0.0, 0.0, 0.0).abs().max().item()


def _gap(old: Tensor, new: Tensor) -> float:
    """The largest difference of elements; infinite if one is NaN or infinite and the other differs."""
    gap = (old - new).abs()
    same = (old == new) | (old.isnan() & new.isnan())
    gap = torch.where(same, torch.zeros_like(gap), gap).nan_to_num(float("inf"), float("inf"))
    return gap.max().item() if gap.numel() else 0.0


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
