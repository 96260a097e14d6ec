"""Recognizes pixel norm, minibatch standard deviation and blur: functions of one tensor without parameters.

They are recognized by their outputs. A candidate runs on random inputs of several sizes, ranks and variances in
float64. The constants of the op (eps, group size, padding) follow from its outputs, and it is swapped if values and
gradients agree on all inputs. Outputs do not reveal a clamp that no input reaches, so the module must also consist of
analytic operations.
"""

import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from fastgan.acceleration.measuring import changed_by, scratch_values, unobserved
from fastgan.acceleration.swaps import Recipe, Refusal, require_rewritable, rewrite
from fastgan.random_state import seeded_random_state
from fastgan_kernels import minibatch_stddev, pixel_norm, upfirdn2d

_WHOLE_BATCH = 2**30
_PRIME = 521  # no group divides a batch of as many
# ATen operations that are analytic where differentiable, or only create or move elements.
_ANALYTIC = frozenset(
    """
    add sub rsub mul div pow sqrt rsqrt square reciprocal neg mean sum var std var_mean std_mean linalg_vector_norm
    view reshape _reshape_alias _unsafe_view expand clone permute transpose t unsqueeze squeeze repeat cat stack slice
    select flip constant_pad_nd alias detach convolution ones zeros full new_zeros new_ones new_full ones_like
    zeros_like empty empty_like new_empty copy fill arange lift_fresh_copy _to_copy
    """.split()  # noqa: SIM905
)


def _call(op: Callable[..., Tensor], constants: tuple[tuple[str, Any], ...]) -> Callable[..., Tensor]:
    """Makes the forward of a module that computes ``op``."""
    settings = dict(constants)

    def forward(self: nn.Module, *args: Tensor, **kwargs: Tensor) -> Tensor:
        (x,) = (*args, *kwargs.values())
        return op(x, **settings)

    return forward


def _filter(buffer: str, flip: bool, padding: tuple[int, ...]) -> Callable[..., Tensor]:
    """Makes the forward of a blur, which reads its kernel at each call; ``flip`` if the module correlates."""

    def forward(self: nn.Module, *args: Tensor, **kwargs: Tensor) -> Tensor:
        (x,) = (*args, *kwargs.values())
        kernel = _plane(getattr(self, buffer))
        return upfirdn2d(x, kernel.flip((0, 1)) if flip else kernel, padding=list(padding))

    return forward


def _plane(kernel: Tensor) -> Tensor:
    """The taps [kh, kw] of a kernel that may be repeated per channel."""
    return kernel if kernel.dim() == 2 else kernel.flatten(0, -3)[0]


def recognize_fixed(module: nn.Module) -> Recipe | None:
    """The new forward of a module that computes one of the ops; ``None`` for a module unlike all of them, and Refusal
    for one that is only similar."""
    taken = list(inspect.signature(module.forward).parameters.values())
    takes_one = (
        len(taken) == 1 and taken[0].kind is taken[0].POSITIONAL_OR_KEYWORD and taken[0].default is taken[0].empty
    )
    if not takes_one or next(module.parameters(), None) is not None:
        return None
    with warnings.catch_warnings(), seeded_random_state(0):
        warnings.simplefilter("ignore")  # torch warns about sizes that the module does not expect
        return _as_pixel_norm(module) or _as_minibatch_stddev(module) or _as_blur(module)


def _answer(module: nn.Module, x: Tensor, forward: Callable[..., Tensor] | None = None) -> Tensor | None:
    """The output of the module, or of another ``forward``, for ``x``; ``None`` if it does not take ``x``."""
    try:
        with torch.no_grad(), scratch_values(module), unobserved(module):
            y = module(x.clone()) if forward is None else forward(module, x)
    except Exception:  # the module's code may raise any type
        return None
    return y if isinstance(y, Tensor) and y.isfinite().all() else None


def _agrees(module: nn.Module, recipe: Recipe, x: Tensor, y: Tensor | None, tolerance: float) -> bool:
    """Whether the recipe's output for ``x`` is close to the module's output ``y``, or ``y`` is ``None``."""
    if y is None:
        return True
    ours = _answer(module, x, recipe.make(*recipe.arguments))
    return ours is not None and ours.shape == y.shape and _close(ours, y, tolerance)


def _normal(module: nn.Module, *shape: int, scale: float = 1.0) -> Tensor:
    device = next((b.device for b in module.buffers()), None)
    return scale * torch.randn(shape, dtype=torch.float64, device=device)


def _as_pixel_norm(module: nn.Module) -> Recipe | None:
    x = _normal(module, 3, 6, 5, 4)
    y = _answer(module, x)
    if y is None or y.shape != x.shape or not _agrees(module, _pixel_norm(0.0), x, y, 0.1):
        return None
    # For tiny inputs eps dominates the divisor: eps = (x / y)^2 - mean(x^2).
    tiny = 1e-5 * x
    answer = _answer(module, tiny)
    eps = 0.0
    if answer is not None:
        solved = ((tiny / answer).square() - tiny.square().mean(1, keepdim=True)).median().item()
        eps = float(f"{solved:.6g}") if solved > 1e-20 else 0.0
    shapes = ((3, 6, 5, 4), (2, 9), (4, 3, 7), (2, 5, 2, 3, 2))
    inputs = [_normal(module, *shape, scale=scale) for shape in shapes for scale in (1.0, 1e-4, 1e-8, 30.0)]
    return _verified(module, _pixel_norm(eps), inputs, "x / sqrt(mean(x^2, dim=1) + eps)")


def _pixel_norm(eps: float) -> Recipe:
    return Recipe(_call, (pixel_norm, (("eps", eps),)), f"pixel_norm(eps={eps})")


def _as_minibatch_stddev(module: nn.Module) -> Recipe | None:
    channels = 8
    x = _normal(module, 8, channels, 4, 3)
    y = _answer(module, x)
    if y is None or y.dim() != 4 or y.shape[1] <= channels or not torch.equal(y[:, :channels], x):
        return None
    num_channels = y.shape[1] - channels
    constants = sorted({n for n in _integers(module) if 1 <= n <= 256} | {2, 4, 8, 16})
    batches = {*range(1, 13), 16, 24, *(2 * n for n in constants), *constants, _PRIME}
    asked = {n: (x, _answer(module, x)) for n, x in ((n, _normal(module, n, channels, 3, 2)) for n in sorted(batches))}
    if channels % num_channels:
        raise Refusal(f"its {num_channels} channels do not fit {channels}")
    for group_size in (*constants, _WHOLE_BATCH):
        # A batch that tells it from every other size. A module may refuse batches, and smaller ones look alike.
        if asked[min(2 * group_size, _PRIME)][1] is None:
            continue
        group = "the batch" if group_size == _WHOLE_BATCH else group_size
        settings = ("group_size", group_size), ("num_channels", num_channels)
        name = f"minibatch_stddev(group_size={group}, num_channels={num_channels})"
        recipe = Recipe(_call, (minibatch_stddev, settings), name)
        if all(_agrees(module, recipe, x, y, 1e-4) for x, y in asked.values()):
            inputs = [_normal(module, n, channels, 4, 3, scale=scale) for n in (4, 8, 12) for scale in (1.0, 1e-4)]
            return _verified(module, recipe, inputs, "sqrt(biased variance + 1e-8) over each group, averaged")
    raise Refusal("its statistics are not those of minibatch_stddev (members i, i + N/G, ...) for any group size")


def _integers(module: nn.Module) -> set[int]:
    """The integers among the module's attributes and in the code of its forward."""
    code = type(module).forward.__code__
    found = [*code.co_consts, *(value for m in module.modules() for value in vars(m).values())]
    found += [type(module).forward.__globals__.get(name) for name in code.co_names]
    return {n for n in found if type(n) is int}


def _as_blur(module: nn.Module) -> Recipe | None:
    for name, buffer in module.named_buffers(recurse=False):
        if not (2 <= buffer.dim() <= 4 and buffer.shape[-1] == buffer.shape[-2] and 2 <= buffer.shape[-1] <= 16):
            continue
        for channels in sorted({3, *(buffer.shape[:-2])}):
            x = _normal(module, 2, channels, 32, 32)
            y = _answer(module, x)
            if y is None or y.dim() != 4 or y.shape[:2] != x.shape[:2]:
                continue
            kernel = _plane(buffer).double()
            if not torch.equal(buffer.double(), kernel.expand_as(buffer)):
                raise Refusal(f"`{name}` differs from channel to channel")
            complaint = f"no padding by zeros makes it upfirdn2d with `{name}`"
            for recipe in _blurs(name, kernel, y.shape[-1] - x.shape[-1]):
                if _agrees(module, recipe, x, y, 1e-9):
                    inputs = [_normal(module, 2, channels, *size) for size in ((32, 32), (17, 20), (24, 9))]
                    return _verified(module, recipe, inputs, complaint)
            raise Refusal(complaint)
    return None


def _blurs(name: str, kernel: Tensor, larger: int) -> Iterator[Recipe]:
    """Recipes with all paddings that enlarge an image by ``larger`` pixels."""
    flips = (False,) if torch.equal(kernel, kernel.flip((0, 1))) else (True, False)
    total = larger + kernel.shape[0] - 1
    for before, flip in itertools.product(range(total + 1), flips):
        padding = (before, total - before) * 2
        yield Recipe(_filter, (name, flip, padding), f"upfirdn2d({name}, padding={list(padding)})")


def _verified(module: nn.Module, recipe: Recipe, inputs: Sequence[Tensor], expected: str) -> Recipe:
    """Returns the recipe, after checking that it equals the module on all ``inputs`` that the module takes."""
    require_rewritable(module)
    taken = [x for x in inputs if _answer(module, x) is not None]
    complaint = changed_by(partial(rewrite, module, recipe), module, [(x,) for x in taken])
    if complaint:
        raise Refusal(f"it is close to {recipe.name} and not the same: expected {expected}; {complaint}")
    foreign = sorted({name for x in taken[:1] for name in _operations(module, x)} - _ANALYTIC)
    if foreign:
        raise Refusal(f"it agrees with {recipe.name} on random inputs, but uses {', '.join(foreign)}")
    return recipe


def _operations(module: nn.Module, x: Tensor) -> set[str]:
    """The names of the ATen operations that the module executes."""
    with scratch_values(module), unobserved(module), torch.no_grad():
        graph: fx.Graph = make_fx(lambda a: module(a))(x).graph
    return {_packet(node.target) for node in graph.nodes if node.op == "call_function"}


def _packet(target: Any) -> str:
    return target.overloadpacket.__name__.rstrip("_") if hasattr(target, "overloadpacket") else target.__name__


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max())
