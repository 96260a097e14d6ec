"""torch's two spectral norms, on the fused ops and as groups.

The parametrization is replaced by that of :mod:`fastgan.nn.spectral_norm` over the same buffers. The older form, a hook
that computes the weight before each forward, is replaced by a hook that uses the same class; the parameters and
buffers, ``weight_orig``, ``weight_u`` and ``weight_v``, stay in the layer. Layers that every forward of the traced
model calls exactly once form a group and share their launches.
"""

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm as TorchParametrization
from torch.nn.utils.spectral_norm import SpectralNorm as TorchHook

from fastgan.acceleration.swaps import Step, Undo
from fastgan.acceleration.tracing import Dataflow
from fastgan.nn.spectral_norm import UNPARAMETRIZED, SpectralNorm, group_layers, norm_of


class OfHook(SpectralNorm):
    """Normalizes a weight whose u and v are buffers of its layer; without state.

    torch's hook moves v before u, which is the power iteration of the transposed matrix with u and v exchanged.
    """

    def weight_in(self, layer: nn.Module) -> Tensor:
        self._u, self._v = layer.weight_v, layer.weight_u
        return layer.weight_orig

    def moves_when_read(self) -> bool:
        # Only the hook reads this, before a forward.
        return self.training

    def operand(self, weight: Tensor) -> tuple[Tensor, int]:
        return weight.movedim(self.dim, 0).flatten(1), 1

    def like_weight(self, normalized: Tensor, weight: Tensor) -> Tensor:
        return normalized.reshape(weight.movedim(self.dim, 0).shape).movedim(0, self.dim)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if k not in ("_u", "_v")}


class FusedHook(TorchHook):
    """A subclass of torch's hook, so that ``remove_spectral_norm`` finds it, with the weight from ``OfHook``."""

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        norm = getattr(module, UNPARAMETRIZED)
        module.weight = norm(norm.weight_in(module))

    def remove(self, module: nn.Module) -> None:
        super().remove(module)
        delattr(module, UNPARAMETRIZED)


def find_spectral_norm(module: nn.Module) -> tuple[str, Step | str] | None:
    """The form of torch's spectral norm in a module, and the step that swaps it or the reason to leave it."""
    for key, hook in module._forward_pre_hooks.items():
        if type(hook) is TorchHook:
            why_not = _why_not(hook.name, getattr(module, f"{hook.name}_orig"))
            return "torch.nn.utils.spectral_norm", why_not or _hook_step(module, key, hook)
    if parametrize.is_parametrized(module):
        for name, norms in module.parametrizations.items():
            for i, norm in enumerate(norms):
                if type(norm) is TorchParametrization:
                    why_not = _why_not(name, norms.original) if i == 0 else "it comes after another parametrization"
                    return "parametrizations.spectral_norm", why_not or _parametrization_step(module, norm)
    return None


def _why_not(name: str, original: Tensor) -> str | None:
    if name != "weight":
        return f"its parameter is `{name}`, not `weight`"
    if original.dim() < 2:
        return "a weight of one axis takes no power iteration"
    if not original.is_floating_point():
        return f"its weight is {original.dtype}"
    return None


def _hook_step(module: nn.Module, key: int, hook: TorchHook) -> Step:
    def step() -> Undo:
        norm = OfHook(hook.n_power_iterations, hook.eps, hook.dim % module.weight_orig.dim())
        norm.training = module.training
        fused = FusedHook(hook.name, hook.n_power_iterations, hook.dim, hook.eps)
        weight = module.weight
        module.add_module(UNPARAMETRIZED, norm)
        module._forward_pre_hooks[key] = fused

        def undo() -> None:
            module._forward_pre_hooks[key] = hook
            delattr(module, UNPARAMETRIZED)
            module.weight = weight

        return undo

    return step


def _parametrization_step(module: nn.Module, theirs: nn.Module) -> Step:
    def step() -> Undo:
        norms = module.parametrizations["weight"]
        ours = SpectralNorm(theirs.n_power_iterations, theirs.eps, theirs.dim)
        ours.training = theirs.training
        for name in ("_u", "_v"):
            ours.register_buffer(name, getattr(theirs, name))
        norms[0] = ours
        return partial(norms.__setitem__, 0, theirs)

    return step


def find_groups(layers: list[nn.Module], flow: Dataflow) -> dict[nn.Module, list[nn.Module]]:
    """Maps each outermost traced module to the layers that each of its forwards calls exactly once."""
    groups: dict[nn.Module, list[nn.Module]] = {}
    for layer in layers:
        calls = flow.calls.get(layer, [])
        # A module is traced after its untraceable submodules.
        for root in reversed(flow.traces):
            if sorted(call.trace for call in calls if call.callers[0] is root) == list(range(flow.traces[root])):
                groups.setdefault(root, []).append(layer)
                break
    return {root: found for root, found in groups.items() if len(found) > 1}


def group_step(root: nn.Module, layers: list[nn.Module]) -> Step:
    """The step that groups layers, run after their own steps; excludes layers whose step was undone."""
    paths = {module: path for path, module in root.named_modules()}
    return lambda: group_layers(root, [paths[layer] for layer in layers if norm_of(layer) is not None])
