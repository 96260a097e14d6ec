"""Gradient penalties of critics: WGAN-GP, one-sided WGAN-GP, R1, R2 and DRAGAN.

The critic is any callable that maps images [N, ...] to outputs [N, ...]; bind other arguments, such as class labels,
with ``lambda x: critic(x, labels)``. The penalty uses the gradient of the sum of the outputs, which equals each
sample's own gradient if no sample influences the output of another. The penalty is a scalar in float32 (float64 for
float64 images), differentiable with respect to the critic's parameters; images are constants. Under ``torch.no_grad``
or ``torch.inference_mode`` it has the same value, without a graph.

Under autocast the critic runs in the reduced dtype, and the norms are float32. In float16 the small gradients of a
critic underflow like those of a loss: pass the ``GradScaler`` of the training step.
"""

import functools
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from fastgan.errors import unknown
from fastgan_kernels import gradient_penalty, interpolate

Critic = Callable[[Tensor], Tensor]

_COMPILED = (
    "the penalized critic is compiled by torch.compile, which cannot differentiate its backward pass again; compile the"
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
    """weight * mean (|grad D(x)| - target)^2 at random points x between real and fake images.

    Gulrajani et al. 2017 (https://arxiv.org/abs/1704.00028), eq. 3. The one-sided form does not penalize shorter
    gradients: max(0, |grad D(x)| - target)^2 (Petzka et al. 2018, https://arxiv.org/abs/1709.08894, eq. 8).

    Args:
        critic: see above.
        real, fake: images [N, ...] of equal shape and floating-point dtype.
        weight: lambda.
        target: target of the norm, at least 0.
        one_sided: penalize only norms above the target.
        alpha: [N, 1, ...], weight of the real image in each point; ``None`` draws it uniformly for each sample.
        scaler: see above.
        allow_batch_norm: do not refuse a critic with batch normalization.

    Raises:
        ValueError: for a critic, module or function, that normalizes over the batch, or whose output does not depend on
            the images.
        RuntimeError: for a critic whose second order torch.compile would lose.
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
    """gamma / 2 * mean |grad D(x)|^2 at real images (Mescheder et al. 2018, https://arxiv.org/abs/1801.04406, eq. 9).

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
    """gamma / 2 * mean |grad D(x)|^2 at fake images (Mescheder et al. 2018, eq. 10).

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
    """weight * mean (|grad D(x)| - target)^2 at points x near real images (Kodali et al. 2017).

    https://arxiv.org/abs/1705.07215, algorithm 1, with the perturbation of the authors' code: x lies between a real
    image and that image plus ``noise`` times the standard deviation of the batch times uniform noise in [0, 1).

    Other arguments and errors are those of :func:`wgan_gp`.
    """
    perturbed = real + noise * real.std() * torch.rand_like(real)
    return weight * _penalty(critic, interpolate(real, perturbed), target, False, scaler, allow_batch_norm)


Regularizer = Callable[..., Tensor]

# Functions of critic, real images, fake images and weight. Only WGAN-GP has an alpha; the others ignore it.
REGULARIZERS: dict[str, Regularizer | None] = {
    "none": None,
    "wgan-gp": lambda critic, real, fake, weight, **rest: wgan_gp(critic, real, fake, weight=weight, **rest),
    "wgan-gp-one-sided": lambda critic, real, fake, weight, **rest: wgan_gp(
        critic, real, fake, weight=weight, one_sided=True, **rest
    ),
    "r1": lambda critic, real, fake, weight, alpha=None, **rest: r1(critic, real, gamma=weight, **rest),
    "r2": lambda critic, real, fake, weight, alpha=None, **rest: r2(critic, fake, gamma=weight, **rest),
    "dragan": lambda critic, real, fake, weight, alpha=None, **rest: dragan(critic, real, weight=weight, **rest),
}


def get_regularizer(name: str | Callable[[Critic, Tensor, Tensor], Tensor]) -> Regularizer | None:
    """The penalty with a name in ``REGULARIZERS``, None for "none"; or a penalty from your own function.

    A penalty is a function of critic, real images, fake images and weight (its lambda or gamma), and optionally
    ``alpha`` and ``scaler`` as in :func:`wgan_gp`; only WGAN-GP uses ``alpha``.

    Args:
        name: a name; or a function that maps critic, real images and fake images to a scalar, which is multiplied by
            the weight.

    Raises:
        ValueError: for an unknown name, or an object that is not a function; one sentence.
    """
    if callable(name):
        return lambda critic, real, fake, weight, **_: weight * name(critic, real, fake)
    if not isinstance(name, str) or name not in REGULARIZERS:
        raise ValueError(unknown("regularizer", str(name), REGULARIZERS))
    return REGULARIZERS[name]


def _penalty(
    critic: Critic,
    images: Tensor,
    target: float,
    one_sided: bool,
    scaler: torch.amp.GradScaler | None,
    allow_batch_norm: bool,
) -> Tensor:
    is_recorded = torch.is_grad_enabled()
    if torch.compiler.is_compiling():
        if not _autograd_is_traced():
            raise RuntimeError(_COMPILED)
        with torch.enable_grad():
            # torch.compile cannot trace requires_grad_() (torch 2.11).
            images = images.detach() + _zero_that_requires_grad(images.device)
            with nullcontext() if allow_batch_norm else _WithoutBatchNorm():
                output = critic(images).sum()
            gradients = _gradients(output, images, scaler, is_recorded)
    else:
        with torch.inference_mode(False), torch.enable_grad():
            images = (images.clone() if images.is_inference() else images.detach()).requires_grad_()
            output = critic(images).sum()
            _check_graph(critic, output, images, allow_batch_norm)
            gradients = _gradients(output, images, scaler, is_recorded)
    if scaler is not None:
        # The scale stays a tensor: converting it to a number would synchronize with the GPU.
        gradients = gradients.float() / scaler.scale(torch.ones((), device=images.device))
    return gradient_penalty(gradients, target=target, one_sided=one_sided)


def _gradients(output: Tensor, images: Tensor, scaler: torch.amp.GradScaler | None, is_recorded: bool) -> Tensor:
    scaled = output if scaler is None else scaler.scale(output)
    return torch.autograd.grad(scaled, images, create_graph=is_recorded)[0]


@torch.compiler.assume_constant_result
def _autograd_is_traced() -> bool:
    return torch._dynamo.config.trace_autograd_ops


@torch.compiler.assume_constant_result
def _zero_that_requires_grad(device: torch.device) -> Tensor:
    return _zeros_that_require_grad(device)


@functools.cache
def _zeros_that_require_grad(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.zeros((), device=device, requires_grad=True)


def find_batch_norm(critic: Critic) -> str | None:
    """The name of a layer of the critic that normalizes over the batch, or None; a penalty refuses such a critic.

    In evaluation mode batch norm does not couple samples, because its statistics are constants. The layers of a
    function are known only when it runs (:func:`_check_graph`).
    """
    if isinstance(critic, nn.Module):
        for name, module in critic.named_modules():
            if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
                return name or type(module).__name__
    return None


@torch.compiler.assume_constant_result
def _refuse_batch_norm(name: str) -> None:
    raise ValueError(
        f"the penalized critic has batch normalization ({name}), which makes the output of a sample depend on the"
        " whole batch, so that the norm of its gradient is not what the penalty means; use layer or instance"
        " normalization or none, or pass allow_batch_norm=True"
    )


class _WithoutBatchNorm(TorchFunctionMode):
    """Refuses normalization over the batch while torch.compile traces, when there is no graph to check."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (nn.functional.batch_norm, torch.batch_norm):
            # ``training`` is the sixth argument of both functions.
            is_training = kwargs["training"] if "training" in kwargs else args[5:6] == (True,)
            if is_training and len(args[0]) > 1:
                _refuse_batch_norm("batch_norm")
        # With one group, the statistics are those of the whole batch.
        if function is torch.ops.fastgan.norm_act.default and len(args[0]) > 1 and args[6] == 1:
            _refuse_batch_norm("norm_act")
        return function(*args, **kwargs)


def _check_graph(critic: Critic, output: Tensor, images: Tensor, allow_batch_norm: bool) -> None:
    """Refuses a critic, module or function, by its autograd graph.

    Backward passes of torch.compile have no second order, and may drop it without an error (torch 2.11 and 2.13).
    """
    callers: dict[Node, list[Node]] = {}
    waiting = [] if output.grad_fn is None else [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node.name() == "CompiledFunctionBackward":
            raise RuntimeError(_COMPILED)
        for function, _ in node.next_functions:
            if function is not None:
                if function not in callers:
                    callers[function] = []
                    waiting.append(function)
                callers[function].append(node)
    leaf = get_gradient_edge(images).node
    if leaf not in callers:
        raise ValueError(
            "the output of the penalized critic does not depend on the images by operations that autograd records, so"
            " that there is no gradient to penalize; do not detach it, and do not run the critic under torch.no_grad"
        )
    if not allow_batch_norm:
        batch_norm = next(filter(_couples_samples, _reached_from(leaf, callers)), None)
        if batch_norm is not None:
            _refuse_batch_norm(find_batch_norm(critic) or batch_norm.name())


def _reached_from(start: Node, edges: dict[Node, list[Node]]) -> Iterable[Node]:
    reached = {start}
    waiting = [start]
    while waiting:
        for node in edges.get(waiting.pop(), ()):
            if node not in reached:
                reached.add(node)
                waiting.append(node)
    return reached


def _couples_samples(node: Node) -> bool:
    """Whether a node is a batch normalization with the batch's own statistics."""
    if getattr(node, "couples_samples", False):  # a kernel of norm_act
        return True
    if "batchnorm" not in node.name().lower():
        return False
    # The nodes of SyncBatchNorm and of other libraries have no such attribute, and exist only in training.
    if not hasattr(node, "_saved_training"):
        return True
    # torch computes instance normalization as batch normalization of one sample.
    return node._saved_training and node._input_metadata[0].shape[0] > 1


def compile_step(step: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """``torch.compile(step, fullgraph=True, **options)`` for a step that contains a gradient penalty.

    The penalty's own backward pass becomes a part of the compiled graph, correct to second order. A graph break, which
    could drop it, is an error. The step must compute the gradients of its loss inside (``torch.autograd.grad``) and
    return detached tensors (``loss.detach()``); torch refuses any other step.

    Raises:
        ValueError: if the penalized critic normalizes over the batch.
    """
    compiled = torch.compile(step, fullgraph=True, **options)

    @functools.wraps(step)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            with torch._dynamo.config.patch(trace_autograd_ops=True):
                return compiled(*args, **kwargs)
        except torch._dynamo.exc.InternalTorchDynamoError as error:
            # A refusal during tracing; torch appends lines of the user's code.
            sentence = str(error.__context__).partition("\n")[0]
            if isinstance(error.__context__, ValueError) and sentence.startswith("the penalized critic"):
                raise ValueError(sentence) from None
            raise

    return call
