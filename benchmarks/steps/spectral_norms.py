"""All spectral norms of a discriminator: one power iteration and the normalised weights of every layer.

A problem's shape is that of :mod:`benchmarks.old_ops.weights`.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from benchmarks.old_ops.weights import PROBLEMS, TOY_PROBLEMS
from benchmarks.passes import Call, Outputs
from benchmarks.steps.step import Setting, Step
from fastgan.nn import spectral_norm_
from fastgan_kernels import use_backend


class _Weights(nn.Module):
    """The layers of a discriminator; a forward gives their weights and computes nothing with them."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(c_in, c_out, 4, stride=2, padding=1) for c_in, c_out in pairwise(channels)]
        self.layers = nn.ModuleList([*convolutions, nn.Linear(channels[-1], 1)])

    def forward(self) -> list[Tensor]:
        return [layer.weight for layer in self.layers]


def _build(setting: Setting, normalise: Callable[[_Weights], object]) -> _Weights:
    """Torch's own parametrisation gives weights, u and v to all: the state dicts have the same keys."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = _Weights(setting.problem.shape)
        _normalise_with_torch(drawn)
        model = _Weights(setting.problem.shape)
    # What it begins with is replaced: at toy size it need not come from Triton's interpreter.
    with use_backend("reference"):
        normalise(model)
    model.load_state_dict(drawn.state_dict())
    return model.to(setting.device, setting.dtype).train()


def _normalise_with_torch(model: _Weights) -> None:
    for layer in model.layers:
        spectral_norm(layer)


def _forward(normalise: Callable[[_Weights], object], *, compiled: bool = False) -> Callable[[Setting], Call]:
    def call_of(setting: Setting) -> Call:
        model = _build(setting, normalise)
        forward = torch.compile(model, backend=setting.compile_backend, dynamic=False) if compiled else model
        return lambda: tuple(forward())

    return call_of


def _forward_and_backward(
    normalise: Callable[[_Weights], object], *, compiled: bool = False
) -> Callable[[Setting], Call]:
    def call_of(setting: Setting) -> Call:
        model = _build(setting, normalise)
        forward = torch.compile(model, backend=setting.compile_backend, dynamic=False) if compiled else model
        parameters = [p for name, p in model.named_parameters() if "weight" in name]
        random = torch.Generator().manual_seed(1)
        drawn = [torch.randn(p.shape, generator=random) for p in parameters]
        gradients = [t.to(setting.device, setting.dtype) for t in drawn]

        def call() -> Outputs:
            return torch.autograd.grad(tuple(forward()), parameters, gradients)

        return call

    return call_of


def _step(pass_: str, form: Callable[..., Callable[[Setting], Call]]) -> Step:
    return Step(
        name="spectral_norms",
        pass_=pass_,
        problems=PROBLEMS,
        toy_problems=TOY_PROBLEMS,
        providers={
            "fused": form(spectral_norm_),
            "eager": form(_normalise_with_torch),
            "compile": form(_normalise_with_torch, compiled=True),
        },
        # Under autocast the weights stay float32.
        dtypes=("float32",),
    )


FORWARD = _step("forward", _forward)
FORWARD_AND_BACKWARD = _step("step", _forward_and_backward)
