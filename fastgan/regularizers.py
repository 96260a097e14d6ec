"""Gradient penalties of critics: WGAN-GP, one-sided, R1, R2 and DRAGAN.

Each is a function of any callable critic, which maps images [N, ...] to N (or N x anything) outputs; more arguments,
such as class labels, are bound by the caller (``lambda x: critic(x, labels)``). The gradient is that of the sum of the
outputs, which is the gradient of each sample as long as no sample influences the output of another. The penalty is a
scalar in float32 (float64 for float64 images), whose gradient reaches the critic's parameters; images are constants.

Under autocast the critic computes in the reduced type, while the norms are float32. In float16 the small gradients of
a critic underflow as those of a loss do: pass the ``GradScaler`` of the training step.
"""

import difflib
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastgan_kernels import gradient_penalty, interpolate

Critic = Callable[[Tensor], Tensor]

_COMPILED = (
    "the penalised critic is compiled by torch.compile, which cannot differentiate its backward pass again; compile the"
    " whole step, penalty included, with fastgan.regularizers.compile_step"
)


def wgan_gp(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    *,
    weight: float = 10.0,
    target: float = 1.0,
    one_sided: bool = False,
    alpha: Tensor | None = None,
    scaler: torch.amp.GradScaler | None = None,
    allow_batch_norm: bool = False,
) -> Tensor:
    """weight * mean (|grad D(x)| - target)^2 on random points x between real and fake images.

    Gulrajani et al. 2017 (https://arxiv.org/abs/1704.00028), eq. 3; one-sided, which lets gradients shorter than the
    target be, is max(0, |grad D(x)| - target)^2 (Petzka et al. 2018, https://arxiv.org/abs/1709.08894, eq. 8).

    Args:
        critic: see above.
        real, fake: images [N, ...] of one shape and floating-point type.
        weight: lambda.
        target: the norm that is asked for, at least 0.
        one_sided: penalise only gradients that are longer.
        alpha: [N, 1, ...], the share of the real image in each point; drawn uniformly for each sample where ``None``.
        scaler: see above.
        allow_batch_norm: do not refuse a critic with batch normalisation.

    Raises:
        ValueError: for a critic that normalises over the batch.
        RuntimeError: for one whose second order torch.compile would lose.
    """
    points = interpolate(real, fake, alpha)
    return weight * _penalty(critic, points, target, one_sided, scaler, allow_batch_norm)


def r1(
    critic: Critic,
    real: Tensor,
    *,
    gamma: float = 10.0,
    scaler: torch.amp.GradScaler | None = None,
    allow_batch_norm: bool = False,
) -> Tensor:
    """gamma / 2 * mean |grad D(x)|^2 on real images (Mescheder et al. 2018, https://arxiv.org/abs/1801.04406, eq. 9).

    Arguments and errors are those of :func:`wgan_gp`.
    """
    return gamma / 2 * _penalty(critic, real, 0.0, False, scaler, allow_batch_norm)


def r2(
    critic: Critic,
    fake: Tensor,
    *,
    gamma: float = 10.0,
    scaler: torch.amp.GradScaler | None = None,
    allow_batch_norm: bool = False,
) -> Tensor:
    """gamma / 2 * mean |grad D(x)|^2 on fake images (Mescheder et al. 2018, eq. 10).

    Arguments and errors are those of :func:`wgan_gp`.
    """
    return gamma / 2 * _penalty(critic, fake, 0.0, False, scaler, allow_batch_norm)


def dragan(
    critic: Critic,
    real: Tensor,
    *,
    weight: float = 10.0,
    target: float = 1.0,
    noise: float = 0.5,
    scaler: torch.amp.GradScaler | None = None,
    allow_batch_norm: bool = False,
) -> Tensor:
    """weight * mean (|grad D(x)| - target)^2 on points x near real images (Kodali et al. 2017).

    https://arxiv.org/abs/1705.07215, algorithm 1, with the perturbation of the authors' code: x lies between a real
    image and that image plus ``noise`` times the standard deviation of the batch times uniform noise in [0, 1).

    Other arguments and errors are those of :func:`wgan_gp`.
    """
    perturbed = real + noise * real.std() * torch.rand_like(real)
    return weight * _penalty(critic, interpolate(real, perturbed), target, False, scaler, allow_batch_norm)


def _wgan_gp(critic: Critic, real: Tensor, fake: Tensor, weight: float, **options: Any) -> Tensor:
    return wgan_gp(critic, real, fake, weight=weight, **options)


def _wgan_gp_one_sided(critic: Critic, real: Tensor, fake: Tensor, weight: float, **options: Any) -> Tensor:
    return wgan_gp(critic, real, fake, weight=weight, one_sided=True, **options)


def _r1(critic: Critic, real: Tensor, fake: Tensor, weight: float, alpha: Any = None, **options: Any) -> Tensor:
    return r1(critic, real, gamma=weight, **options)


def _r2(critic: Critic, real: Tensor, fake: Tensor, weight: float, alpha: Any = None, **options: Any) -> Tensor:
    return r2(critic, fake, gamma=weight, **options)


def _dragan(critic: Critic, real: Tensor, fake: Tensor, weight: float, alpha: Any = None, **options: Any) -> Tensor:
    return dragan(critic, real, weight=weight, **options)


Regularizer = Callable[..., Tensor]

REGULARIZERS: dict[str, Regularizer | None] = {
    "none": None,
    "wgan-gp": _wgan_gp,
    "wgan-gp-one-sided": _wgan_gp_one_sided,
    "r1": _r1,
    "r2": _r2,
    "dragan": _dragan,
}


def get_regularizer(name: str) -> Regularizer | None:
    """Looks a penalty up by its name in ``REGULARIZERS``: a function of critic, real and fake images, weight, and
    optionally ``alpha`` and ``scaler`` as in :func:`wgan_gp`.

    ``weight`` is the penalty's lambda or gamma; ``none`` is no penalty. Only what lies between real and fake images has
    an ``alpha``; the others pass it by.

    Raises:
        ValueError: for an unknown name; one sentence.
    """
    if name not in REGULARIZERS:
        nearest = difflib.get_close_matches(name, REGULARIZERS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"no regularizer is called {name!r} (there is {', '.join(REGULARIZERS)}){hint}")
    return REGULARIZERS[name]


def _penalty(
    critic: Critic,
    images: Tensor,
    target: float,
    one_sided: bool,
    scaler: torch.amp.GradScaler | None,
    allow_batch_norm: bool,
) -> Tensor:
    if not allow_batch_norm:
        _refuse_batch_norm(critic)
    if torch.compiler.is_compiling():
        if not _autograd_is_traced():
            raise RuntimeError(_COMPILED)
        # torch.compile cannot trace requires_grad_() (torch 2.11).
        images = images.detach() + _zero_that_requires_grad(images.device)
        output = critic(images).sum()
    else:
        images = images.detach().requires_grad_()
        output = critic(images).sum()
        _refuse_compiled(output)
    scaled = output if scaler is None else scaler.scale(output)
    (gradients,) = torch.autograd.grad(scaled, images, create_graph=True)
    if scaler is not None:
        # By the scale as a tensor: as a number it would make the CPU wait for the GPU.
        gradients = gradients.float() / scaler.scale(torch.ones((), device=images.device))
    return gradient_penalty(gradients, target=target, one_sided=one_sided)


@torch.compiler.assume_constant_result
def _autograd_is_traced() -> bool:
    return getattr(torch._dynamo.config, "trace_autograd_ops", False)


@torch.compiler.assume_constant_result
def _zero_that_requires_grad(device: torch.device) -> Tensor:
    return _zeros_that_require_grad(device)


@functools.cache
def _zeros_that_require_grad(device: torch.device) -> Tensor:
    return torch.zeros((), device=device, requires_grad=True)


def find_batch_norm(critic: Critic) -> str | None:
    """The name of a layer of the critic that normalises over the batch, or None; no critic may be penalised with one.

    Only what normalises over this very batch couples its samples: in eval mode the statistics are constants.
    """
    if isinstance(critic, nn.Module):
        for name, module in critic.named_modules():
            if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
                return name or type(module).__name__
    return None


def _refuse_batch_norm(critic: Critic) -> None:
    name = find_batch_norm(critic)
    if name is not None:
        raise ValueError(
            f"the penalised critic has batch normalisation ({name}), which makes the output of a sample depend on the"
            " whole batch, so that the norm of its gradient is not what the penalty means; use layer or instance"
            " normalisation or none, or pass allow_batch_norm=True"
        )


def _refuse_compiled(output: Tensor) -> None:
    """torch.compile's backward passes have no second order, and may lose it without an error (torch 2.11 and 2.13)."""
    seen = set()
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == "CompiledFunctionBackward":
            raise RuntimeError(_COMPILED)
        seen.add(node)
        waiting.extend(function for function, _ in node.next_functions)


def compile_step(step: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """``torch.compile(step, fullgraph=True, **options)`` for a step that contains a gradient penalty.

    The penalty's own backward pass becomes a part of the compiled graph, right to second order; a graph that breaks
    could lose it, and is an error. The step takes the gradients of its loss inside (``torch.autograd.grad``) and
    returns tensors without a graph (``loss.detach()``); torch refuses any other.

    Raises:
        RuntimeError: where this torch cannot do that.
    """
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        raise RuntimeError(
            f"torch {torch.__version__} cannot compile a gradient penalty, since it has no"
            " torch._dynamo.config.trace_autograd_ops; run the step without compiling it"
        )
    compiled = torch.compile(step, fullgraph=True, **options)

    @functools.wraps(step)
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            return compiled(*args, **kwargs)

    return call
