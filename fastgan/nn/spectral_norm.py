"""Spectral normalization (Miyato et al. 2018): weights divided by their largest singular value.

W / sigma with sigma = u^T W v, where u and v approach the first singular vectors of the weight matrix by power
iteration: u <- W v / |W v|, v <- W^T u / |W^T u|. The gradient treats u and v as constants.

For a weight of zeros the quotient is undefined. Such a weight is passed through unchanged, and so is its gradient; u
and v stay unchanged too: a layer that starts at zero becomes non-zero at the first step and is normalized from then
on. torch's parametrization returns NaN.

The layers of a group belong to a root: the model that :func:`spectral_norm_` was called on.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from fastgan.nn.recomputation import Forward, PastVectors, checkpoints, outside_checkpoint, recomputing
from fastgan_kernels import power_iteration, spectral_normalize

Module = TypeVar("Module", bound=nn.Module)

FIRST_ITERATIONS = 15
# Name of the submodule that normalizes a weight without a parametrization.
UNPARAMETRIZED = "accelerated_spectral_norm"
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# The matrix of an embedding has one row per class; a projection discriminator normalizes it like the others.
NORMALIZED_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED, nn.Embedding)


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """Divides a parameter by its spectral norm; :func:`torch.nn.utils.parametrizations.spectral_norm` with fused ops.

    The parameter gets a torch parametrization with the state-dict keys of torch's own, so that checkpoints load both
    ways: ``parametrizations.weight.original``, ``parametrizations.weight.0._u`` and ``..._v``. Checkpoints of the older
    :func:`torch.nn.utils.spectral_norm` (``weight_orig``, ``weight_u``, ``weight_v``) load too. A parameter of one axis
    is divided by its norm.

    As in torch, each reading of the parameter in training mode runs ``n_power_iterations`` on u and v (inside
    :func:`torch.nn.utils.parametrize.cached`, only the first). Unlike in torch, they stay unchanged when a checkpoint
    recomputes a forward, which then uses the u and v of the original forward; inside ``torch.compile`` this holds only
    for :func:`spectral_norm_`. Differentiable as often as :func:`fastgan_kernels.spectral_normalize`.

    Args:
        module: the module with the parameter; changed in place.
        name: name of the parameter.
        n_power_iterations: power iterations per reading, at least 1.
        eps: minimum norm in the normalization of u and v.
        dim: the output axis, which becomes the rows of the matrix; ``None`` for 1 in transposed convolutions and 0
            elsewhere.

    Returns:
        ``module``.

    Raises:
        ValueError: if there is no such parameter, it is uninitialized, or ``n_power_iterations`` is below 1.
        IndexError: if ``dim`` is out of range.
        TypeError: if ``module`` is not a module, or the parameter is not real floating-point.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"spectral_norm: module is a {type(module).__name__}, expected a torch.nn.Module")
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"spectral_norm: {type(module).__name__} has no parameter or buffer {name!r}")
    _check_weight("spectral_norm", name, weight)
    if n_power_iterations < 1:
        raise ValueError(f"spectral_norm: n_power_iterations is {n_power_iterations}, expected at least 1")
    if dim is None:
        dim = 1 if isinstance(module, TRANSPOSED) else 0
    axes = weight.dim()
    if not -axes <= dim < axes:
        raise IndexError(f"spectral_norm: dim is {dim}, expected {-axes} to {axes - 1} for {name} of {axes} axes")
    norm = SpectralNorm(n_power_iterations, eps, dim % axes)
    norm.start(weight)
    parametrize.register_parametrization(module, name, norm)
    # One hook per module, however many of its parameters are normalized.
    hooks = module._load_state_dict_pre_hooks.values()
    if not any(getattr(hook, "hook", hook) is _take_older_keys for hook in hooks):
        module.register_load_state_dict_pre_hook(_take_older_keys)
    return module


def spectral_norm_(model: Module) -> Module:
    """Normalizes every convolution, linear layer and embedding of ``model`` as one group, in place.

    A forward of ``model`` runs one power iteration for all layers (in training mode) and normalizes all weights, in a
    number of launches that does not grow with the number of layers. The normalized weights stay the same throughout
    this forward, also in a nested forward of ``model``. If only a part of the model is called, each of its layers
    iterates and normalizes by itself. Reading ``.weight`` never changes u and v. Neither does a forward that
    :func:`torch.utils.checkpoint.checkpoint` recomputes, reentrant or not: it uses the u and v of the original forward,
    even if the model ran again before the backward pass. Differentiable as often as
    :func:`fastgan_kernels.spectral_normalize`.

    State dicts equal those of :func:`spectral_norm` on each layer, and those of torch. Processes that start with equal
    weights, u and v keep them equal: if the models were seeded or loaded alike, ``DistributedDataParallel`` need not
    broadcast buffers at every forward. As with torch's parametrizations, ``copy.deepcopy`` works and pickle is refused.

    Args:
        model: the model whose ``nn.Linear``, ``nn.Conv*d``, ``nn.ConvTranspose*d`` and ``nn.Embedding`` layers are
            normalized, including subclasses.

    Returns:
        ``model``.

    Raises:
        ValueError: if there is no such layer, or a layer's weight is uninitialized or already normalized or
            parametrized; ``model`` is then unchanged.
        TypeError: if ``model`` is not a module, or a weight is not real floating-point.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"spectral_norm_: model is a {type(model).__name__}, expected a torch.nn.Module")
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, NORMALIZED_LAYERS)}
    if not layers:
        raise ValueError(
            f"spectral_norm_: {type(model).__name__} has no convolution, linear layer or embedding of torch.nn;"
            " equalized layers of fastgan.nn are not normalized"
        )
    for name, layer in layers.items():
        weight = layer._parameters.get("weight")
        if weight is None:
            raise ValueError(
                f"spectral_norm_: the weight of {name or 'the model'} is normalized or parametrized already, expected"
                " a plain parameter"
            )
        _check_weight("spectral_norm_", f"the weight of {name or 'the model'}", weight)
    for layer in layers.values():
        spectral_norm(layer)
    group_layers(model, layers)
    return model


def group_layers(model: nn.Module, paths: Iterable[str]) -> Callable[[], None]:
    """Groups already normalized layers of ``model``; returns a function that dissolves the group."""
    paths = [tuple(path.split(".")) if path else () for path in paths]
    handles = []
    norms = []
    for path in paths:
        layer = model.get_submodule(".".join(path))
        norms.append(norm_of(layer))
        norms[-1].grouped = True
        if parametrize.is_parametrized(layer, "weight"):
            handles.append(layer.register_forward_pre_hook(_iterate_outside_root))
    group = _Group(tuple(paths))
    handles.append(model.register_forward_pre_hook(group.begin, prepend=True))
    handles.append(model.register_forward_hook(group.end, always_call=True))

    def undo() -> None:
        for handle in handles:
            handle.remove()
        for norm in norms:
            norm.grouped = False

    return undo


def _check_weight(op: str, name: str, weight: Tensor) -> None:
    if is_lazy(weight):
        raise ValueError(f"{op}: {name} is uninitialized, run the model once before")
    if not weight.is_floating_point():
        raise TypeError(f"{op}: {name} is {weight.dtype}, expected a real floating-point type")


class SpectralNorm(nn.Module):
    """The parametrization of one weight, with torch's buffers; a weight of one axis has no ``_u`` and ``_v``."""

    _u: Tensor
    _v: Tensor

    def __init__(self, n_power_iterations: int, eps: float, dim: int) -> None:
        super().__init__()
        self.n_power_iterations = n_power_iterations
        self.eps = eps
        self.dim = dim
        # In a group, u and v are updated by a forward of the root, not by reading the weight.
        self.grouped = False
        self.running: _Running | None = None
        self.normalized: Tensor | None = None
        self.used: tuple[Tensor, Tensor] | None = None  # the u and v of the running forward
        self.past = PastVectors()

    def start(self, weight: Tensor) -> None:
        """Draws u and v, and runs the first power iterations."""
        if weight.dim() > 1:
            rows = weight.shape[self.dim]
            for name, size in (("_u", rows), ("_v", weight.numel() // rows)):
                vector = weight.detach().new_empty(size).normal_()
                self.register_buffer(name, nn.functional.normalize(vector, dim=0, eps=self.eps))
            self.iterate(weight, FIRST_ITERATIONS)

    def forward(self, weight: Tensor) -> Tensor:
        if weight.dim() == 1:
            # Zeros are replaced by ones only inside normalize, whose gradient would be infinite at zero.
            is_zero = ~weight.any()
            normalized = nn.functional.normalize(torch.where(is_zero, 1.0, weight), dim=0, eps=self.eps)
            return torch.where(is_zero, weight, normalized)
        u, v, sigma = self._u, self._v, None
        if self.is_running():
            forward = self.running.forward
            u, v = self.used
            if forward is not None and forward.may_contain_checkpoint_here():
                self.past.keep(checkpoints()[0], forward, u, v)
            # A part of the forward may enable gradients although the root ran without.
            if self.normalized.requires_grad or not (weight.requires_grad and torch.is_grad_enabled()):
                return self.normalized
        else:
            if recomputing():
                u, v = self.past.find(root_runs_again=False) or (u, v)
            elif self.moves_when_read():
                sigma = self.iterate(weight, self.n_power_iterations)
            if not torch.compiler.is_compiling():
                forward = Forward(whole=False)
                self.past.keep(forward.recording(), forward, u, v)
        with outside_checkpoint():
            operand, dim = self.operand(weight)
            (normalized,) = spectral_normalize([operand], [u], [v], sigma, dims=[dim])
            return self.like_weight(normalized, weight)

    def moves_when_read(self) -> bool:
        return self.training and not self.grouped

    def weight_in(self, layer: nn.Module) -> Tensor:
        """The weight of ``layer`` before its normalization."""
        return layer._modules["parametrizations"]._modules["weight"].original

    def right_inverse(self, value: Tensor) -> Tensor:
        return value

    def iterate(self, weight: Tensor, n_iterations: int) -> Tensor:
        with outside_checkpoint():
            operand, dim = self.operand(weight)
            return power_iteration([operand], [self._u], [self._v], n_iterations=n_iterations, eps=self.eps, dims=[dim])

    def is_running(self) -> bool:
        """Whether a forward of the root is running and has normalized the weight."""
        return self.running is not None and self.running.is_on_the_stack()

    def operand(self, weight: Tensor) -> tuple[Tensor, int]:
        """The tensor that the ops get for ``weight``, and its axis of rows."""
        return weight, self.dim

    def like_weight(self, normalized: Tensor, weight: Tensor) -> Tensor:
        """The result of the ops in the shape of ``weight``."""
        return normalized

    def extra_repr(self) -> str:
        return f"dim={self.dim}, n_power_iterations={self.n_power_iterations}, eps={self.eps}"

    def __getstate__(self) -> dict[str, Any]:
        """Copies start outside any forward."""
        return {**self.__dict__, "running": None, "normalized": None, "used": None}


class _Running:
    """A running forward of the root."""

    def __init__(self, forward: Forward | None, frame: FrameType | None) -> None:
        self.forward = forward
        self.frame = frame
        self.inner_forwards = 0
        self.norms: list[SpectralNorm] = []

    def is_on_the_stack(self) -> bool:
        """Whether the forward still runs. The stack is searched, because Ctrl-C skips the forward's end hooks."""
        if self.frame is None or torch.compiler.is_compiling():
            return True
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame is not self.frame:
            frame = frame.f_back
        return frame is not None


class _Group:
    """The hooks of the root. They hold only names of layers, so that those of a copied root find the copied layers."""

    def __init__(self, layers: tuple[tuple[str, ...], ...]) -> None:
        self.layers = layers

    def begin(self, root: nn.Module, args: Any) -> None:
        """Updates u and v, and normalizes the weights of all layers for this forward."""
        weights = list(self._weights(root))
        if not weights:
            return
        running = weights[0][0].running
        if running is not None and running.is_on_the_stack():
            running.inner_forwards += 1
            return
        compiling = torch.compiler.is_compiling()
        forward = None if compiling else Forward(whole=True)
        running = _Running(forward, None if compiling else sys._getframe(1))
        alike: dict[Any, list[tuple[SpectralNorm, Tensor]]] = {}
        for norm, weight in weights:
            key = (weight.device, weight.dtype, norm.n_power_iterations, norm.eps)
            alike.setdefault(key, []).append((norm, weight))
        recording = [] if forward is None else forward.recording()
        with outside_checkpoint():
            for some in alike.values():
                self._normalize(some, running, recording)

    def end(self, root: nn.Module, args: Any, output: Any) -> None:
        running = next((norm.running for norm, _ in self._weights(root)), None)
        if running is None:
            return
        if running.inner_forwards:
            running.inner_forwards -= 1
            return
        for norm in running.norms:
            norm.running = norm.normalized = norm.used = None

    def _weights(self, root: nn.Module) -> Iterator[tuple["SpectralNorm", Tensor]]:
        for path in self.layers:
            layer: nn.Module | None = root
            for name in path:
                # getattr, because a compiled module forwards attributes to its original.
                layer = getattr(layer, name, None)
            norm = norm_of(layer)
            if norm is not None and norm.grouped:
                yield norm, norm.weight_in(layer)

    def _normalize(
        self, weights: list[tuple[SpectralNorm, Tensor]], running: _Running, recording: list[object]
    ) -> None:
        norms = [norm for norm, _ in weights]
        operands = [norm.operand(weight) for norm, weight in weights]
        tensors, dims = [operand for operand, _ in operands], [dim for _, dim in operands]
        us, vs, sigma = [norm._u for norm in norms], [norm._v for norm in norms], None
        if recomputing():
            past = [norm.past.find(root_runs_again=True) or (norm._u, norm._v) for norm in norms]
            us, vs = [u for u, _ in past], [v for _, v in past]
        else:
            moving = [i for i, norm in enumerate(norms) if norm.training]
            if moving:
                sigma = power_iteration(
                    *([of_all[i] for i in moving] for of_all in (tensors, us, vs)),
                    n_iterations=norms[0].n_power_iterations,
                    eps=norms[0].eps,
                    dims=[dims[i] for i in moving],
                )
            if len(moving) < len(norms):
                sigma = None  # it is that of all layers, or is computed anew
        normalized = spectral_normalize(tensors, us, vs, sigma, dims=dims)
        for (norm, weight), of_norm, u, v in zip(weights, normalized, us, vs, strict=True):
            norm.running, norm.normalized, norm.used = running, norm.like_weight(of_norm, weight), (u, v)
            norm.past.keep(recording, running.forward, u, v)
            running.norms.append(norm)


def norm_of(layer: nn.Module | None) -> SpectralNorm | None:
    """The spectral norm of a layer's weight; None if it was replaced or removed."""
    # Read from the dictionaries, because attributes of modules are slow and this runs twice per layer.
    submodules = {} if layer is None else layer._modules
    if "parametrizations" in submodules:
        norms = submodules["parametrizations"]._modules.get("weight")
        norm = None if norms is None else norms._modules["0"]
    else:
        norm = submodules.get(UNPARAMETRIZED)
    return norm if isinstance(norm, SpectralNorm) else None


def _iterate_outside_root(layer: nn.Module, args: Any) -> None:
    norm = norm_of(layer)
    if norm is not None and norm.grouped and norm.training and not norm.is_running():
        _iterate_unless_recomputing(norm, norm.weight_in(layer), compiled=torch.compiler.is_compiling())


# Only at run time it is known whether this is a recomputation, so torch.compile must not trace it.
@torch.compiler.disable
def _iterate_unless_recomputing(norm: SpectralNorm, weight: Tensor, *, compiled: bool) -> None:
    if not recomputing():
        norm.iterate(weight, norm.n_power_iterations)
    elif compiled:
        raise RuntimeError(
            "spectral_norm_: a checkpoint recomputes a compiled part of the model, which does not have the u and v of"
            " the original forward; compile the model as a whole"
        )


def _take_older_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    """Renames the keys of checkpoints of torch.nn.utils.spectral_norm."""
    if not parametrize.is_parametrized(module):
        return
    for name, norms in module.parametrizations.items():
        if isinstance(norms[0], SpectralNorm):
            for older, key in (("orig", "original"), ("u", "0._u"), ("v", "0._v")):
                if f"{prefix}{name}_{older}" in state_dict:
                    state_dict[f"{prefix}parametrizations.{name}.{key}"] = state_dict.pop(f"{prefix}{name}_{older}")
