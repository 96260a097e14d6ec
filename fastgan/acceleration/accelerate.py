"""accelerate(): finds modules to swap, swaps them, and checks and reports the result."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

from fastgan.acceleration.activation import (
    INSTANCE_NORMS,
    activation_recipe,
    calls_function,
    counts_batches,
    is_activation,
    layer_recipe,
    layers_before,
    norm_recipe,
)
from fastgan.acceleration.fixed import recognize_fixed
from fastgan.acceleration.measuring import difference, measure
from fastgan.acceleration.report import Left, Report, Swapped
from fastgan.acceleration.spectral import find_groups, find_spectral_norm, group_step
from fastgan.acceleration.style import recognize_adain
from fastgan.acceleration.swaps import (
    Converter,
    Recipe,
    Refusal,
    Swap,
    convert,
    is_rewritten,
    replacement,
    rewrite,
    settings_of,
)
from fastgan.acceleration.tracing import Dataflow, is_torch_layer, trace_model
from fastgan.random_state import preserved_random_state
from fastgan_kernels import backend_of


@preserved_random_state()
def accelerate(
    model: nn.Module,
    *,
    mapping: Mapping[type[nn.Module], Converter] | None = None,
    example_inputs: Sequence[Any] | None = None,
    check: bool = False,
    dry_run: bool = False,
) -> Report:
    """Swaps recognized modules of ``model`` for fused ops, in place.

    It recognizes

    - a convolution or linear layer with a bias, followed by an ``nn.ReLU`` or ``nn.LeakyReLU`` module
      (:func:`fastgan_kernels.bias_act`);
    - a batch or instance norm followed by such a module, and a single batch norm (:func:`fastgan_kernels.norm_act`);
    - torch's two spectral norms of a ``weight``; layers that each forward of the model calls once share their launches
      (:func:`fastgan_kernels.power_iteration`, :func:`~fastgan_kernels.spectral_normalize`);
    - a module that normalizes each plane and then scales and shifts it by a style (:func:`fastgan_kernels.adain`);
    - a module that computes pixel norm, minibatch standard deviation or blur (:func:`fastgan_kernels.pixel_norm`,
      :func:`~fastgan_kernels.minibatch_stddev`, :func:`~fastgan_kernels.upfirdn2d`).

    The accelerated model is differentiable twice; higher orders are limited as in the ops.

    Parameters stay the same objects, and buffers, hooks, state-dict keys, modes and ``requires_grad`` do not change:
    existing optimizers keep working, and checkpoints load both ways. Copies and pickles of the model keep the swaps.
    Swaps depend on how the traced forward of the model calls its modules. A fused layer, called separately, returns the
    activated output, and its activation module returns its input. Reading the ``weight`` of a parametrized layer in a
    group does not change u and v, and neither does a recomputed forward. A module whose plain attributes (an eps, a
    switch) change afterwards runs its old forward. Call this before ``torch.compile``, and again after changing the
    structure of the model.

    Args:
        model: any module.
        mapping: maps the user's classes to functions that take a module and return its replacement, or ``None`` to
            leave it. A replacement holds the same parameters and buffers under the same names, and gets the module's
            hooks and mode. The mapping has priority over all other recognition.
        example_inputs: positional arguments of the model, for ``check``.
        check: compare outputs, and first and second gradients with respect to inputs and parameters, before and after;
            in float64 if the model runs in float64. A swap with a difference above rounding is undone and reported.
            Buffers and random number generators do not change.
        dry_run: leave the model unchanged, and report the swaps that would be made.

    Returns:
        A report of the swapped and the left modules, with reasons, and the backend of the ops. On the CPU the backend
        is plain torch, which is not faster.

    Raises:
        TypeError: if ``model`` or the result of a converter is not a module, or ``example_inputs`` is a tensor.
        ValueError: for ``check`` without ``example_inputs`` or with ``dry_run``, or a replacement with other
            parameters, buffers or keys.
        Exception: if the model fails on ``example_inputs`` before any swap. The model is then unchanged.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"accelerate: model is a {type(model).__name__}, expected a torch.nn.Module")
    if isinstance(example_inputs, torch.Tensor):
        raise TypeError("accelerate: example_inputs is a Tensor, expected a sequence of the model's arguments, as (x,)")
    if check and example_inputs is None:
        raise ValueError("accelerate: check=True needs example_inputs, the positional arguments of the model")
    if check and dry_run:
        raise ValueError("accelerate: check=True needs the swaps; expected dry_run=False with it")
    tensor = next((t for t in (*model.parameters(), *model.buffers())), torch.empty(0))
    backend = backend_of("bias_act", tensor)
    plan = _Plan(model, dict(mapping or {}))
    verdict = None
    if check:
        verdict = _apply_checked(plan, tuple(example_inputs))
    elif not dry_run:
        _apply(plan.swaps)
    return plan.report(backend=backend, dry_run=dry_run, check=verdict)


class _Plan:
    """The swaps to make in a model, and the modules to leave. Planning does not change the model."""

    def __init__(self, model: nn.Module, mapping: dict[type[nn.Module], Converter]) -> None:
        self.model = model
        self.swaps: list[Swap] = []
        self._left: list[tuple[nn.Module, Left]] = []
        self._paths = {module: path or "(model)" for path, module in model.named_modules()}
        # Modules that are already decided; traces do not enter them.
        self._closed: set[nn.Module] = set()
        self._find_closed()
        self._find_mapped(mapping)
        self._find_functions()
        normalized = self._find_spectral_norms()
        flow = trace_model(model, self._paths, self._closed | set(normalized))
        self._find_activations(flow)
        self._find_norms()
        for root, layers in find_groups(normalized, flow).items():
            self._swap(root, "one group", [group_step(root, layers)], f"{len(layers)} spectral norms")

    def report(self, **outcome: Any) -> Report:
        order = {module: i for i, module in enumerate(self._paths)}
        swaps = sorted(self.swaps, key=lambda swap: order[swap.module])
        left = sorted(self._left, key=lambda pair: order[pair[0]])
        return Report(tuple(swap.entry for swap in swaps), tuple(entry for _, entry in left), **outcome)

    def leave(self, module: nn.Module, why: str, what: str | None = None) -> None:
        self._left.append((module, Left(self._paths[module], what or _class_name(module), why)))

    def _swap(self, module: nn.Module, by: str, steps: list[Any], what: str | None = None) -> None:
        entry = Swapped(self._paths[module], what or _class_name(module), by)
        self.swaps.append(Swap(module, entry, steps))

    def _open_modules(self) -> list[nn.Module]:
        return [module for module in self._paths if module not in self._closed]

    def _find_closed(self) -> None:
        for module in self._paths:
            if module in self._closed:
                continue
            why = _why_closed(module)
            if why is not None:
                self._closed.update(module.modules())
                self.leave(module, why)

    def _find_mapped(self, mapping: dict[type[nn.Module], Converter]) -> None:
        for module in self._open_modules():
            if module in self._closed or not any(cls in mapping for cls in type(module).__mro__):
                continue
            if module is self.model:
                self.leave(module, "the model itself cannot be replaced in place")
                continue
            new = convert(module, self._paths[module], mapping)
            if new is None:
                self.leave(module, "its converter left it")
            else:
                step = replacement(self.model, module, new)
                self._swap(module, f"{type(new).__name__}, by its converter", [step])
            self._closed.update(module.modules())

    def _find_functions(self) -> None:
        known: dict[str, Recipe] = {}
        for module in self._open_modules():
            if is_torch_layer(module) or isinstance(module, nn.Sequential):
                continue
            try:
                found = recognize_adain(module, known) or recognize_fixed(module)
            except Refusal as why:
                self.leave(module, str(why))
            else:
                if found is None:
                    if not list(module.children()):
                        self.leave(module, "not recognized; a mapping can name its replacement")
                    continue
                self._swap(module, found.name, [partial(rewrite, module, found, settings_of(module))])
                self._closed.add(module)
            # The report on the module also covers norms inside it.
            self._closed.update(m for m in module.modules() if isinstance(m, INSTANCE_NORMS))

    def _find_spectral_norms(self) -> list[nn.Module]:
        normalized = []
        for module in self._open_modules():
            found = find_spectral_norm(module)
            if found is None:
                continue
            form, step = found
            what = f"{_class_name(module)}, {form}"
            if isinstance(step, str):
                self.leave(module, step, what)
            else:
                self._swap(module, "power_iteration, spectral_normalize", [step], what)
                normalized.append(module)
        return normalized

    def _find_activations(self, flow: Dataflow) -> None:
        open_modules = self._open_modules()
        for layer in open_modules:
            if calls_function(layer, flow):
                self.leave(layer, "the activation after it is a function call, which has no module to swap")
        for activation in filter(is_activation, open_modules):
            try:
                layers = layers_before(activation, flow)
            except Refusal as why:
                self.leave(activation, str(why))
                continue
            recipes = [layer_recipe(layer, activation) for layer in layers]
            # An activation that several layers share is swapped for all of them or for none.
            first, path = layers[0], self._paths[activation]
            names = ", ".join(f"`{self._paths[layer]}`" for layer in layers)
            steps = [partial(rewrite, *pair) for pair in zip(layers, recipes, strict=True)]
            steps.append(partial(rewrite, activation, activation_recipe(names)))
            also = f" and {names.split(', ', 1)[1]}" if len(layers) > 1 else ""
            what = f"{_class_name(first)}{also} + {type(activation).__name__} `{path}`"
            self._swap(first, " and ".join(dict.fromkeys(recipe.name for recipe in recipes)), steps, what)
            self._closed.update(layers)

    def _find_norms(self) -> None:
        """Finds norms that are not fused with an activation."""
        for module in self._open_modules():
            if isinstance(module, INSTANCE_NORMS):
                self.leave(module, _why_unstyled(module))
            try:
                if counts_batches(module):
                    recipe = norm_recipe("linear")
                    self._swap(module, recipe.name, [partial(rewrite, module, recipe)])
            except Refusal as why:
                self.leave(module, str(why))


def _class_name(module: nn.Module) -> str:
    """The class name without the prefix that torch adds to a parametrized module's."""
    return type(module).__name__.removeprefix("Parametrized")


def _why_closed(module: nn.Module) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return "it is a ScriptModule, whose code is fixed"
    if isinstance(module, torch._dynamo.OptimizedModule) or module._compiled_call_impl is not None:
        return "it is compiled; accelerate it before torch.compile"
    if is_rewritten(module):
        return "it is accelerated already"
    if type(module).__module__.startswith("fastgan.nn"):
        return "it is a layer of fastgan already"
    return None


def _why_unstyled(norm: nn.Module) -> str:
    if norm.affine:
        return "its scale and shift are parameters (affine=True) and do not come from a style"
    if norm.track_running_stats:
        return "it keeps running statistics"
    return "no scale and shift by a style are found in one module with it"


def _apply(swaps: Sequence[Swap]) -> None:
    with ExitStack() as done:
        for swap in swaps:
            swap.apply()
            done.callback(swap.undo)
        done.pop_all()


def _apply_checked(plan: _Plan, args: tuple[Any, ...]) -> str:
    """Applies the swaps that do not change results, and undoes the others; returns a sentence on the result."""
    model = plan.model
    dtype: torch.dtype | None = torch.float64
    try:
        before = measure(model, args, dtype=dtype)
    except Exception:  # the model's code may require its own dtype
        dtype = None
        before = measure(model, args, dtype=dtype)

    def compare() -> tuple[float, str | None]:
        try:
            return difference(before, measure(model, args, dtype=dtype))
        except Exception as error:
            return float("inf"), f"the model fails: {error}"

    undone = 0
    with ExitStack() as done:
        for swap in plan.swaps:
            done.callback(swap.undo)
        _apply(plan.swaps)
        worst, complaint = compare()
        if complaint:
            kept: list[Swap] = []
            for swap in reversed(plan.swaps):
                swap.undo()
            for swap in plan.swaps:
                swap.apply()
                worst_here, complaint = compare()
                if complaint:
                    swap.undo()
                    undone += 1
                    plan.leave(swap.module, f"undone by the check: {complaint}", swap.entry.what)
                else:
                    worst = worst_here
                    kept.append(swap)
            plan.swaps[:] = kept
        done.pop_all()
    twice = "second-order gradients" in before
    orders = "outputs, first- and second-order gradients" if twice else "outputs and gradients"
    where = "float64" if dtype else "the model's own types, as it does not run in float64"
    return f"{orders} agree in {where}, largest relative difference {worst:.1e}; {undone} swaps undone"
