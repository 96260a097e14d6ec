"""Steps compiled by ``torch.compile``: each function of a step and its backward pass are one compiled graph."""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.errors import first_line
from fastgan.regularizers import compile_step
from fastgan.training.check import line_of
from fastgan.training.precision import laid_out_as
from fastgan.training.step import Eager

Function = Callable[..., tuple[Tensor, ...]]

# Two losses and a penalty, at nine resolutions from 4 to 1024, each with and without a fade.
_MOST_GRAPHS = 64


class Compiled(Eager):
    """Compiles each function together with its backward pass, including the inner derivative of a penalty.

    The first result for each shape is compared with the eager one for the same inputs and random state: several ways to
    compile a penalty lose its second order silently. Once torch cannot compile a function, or a result differs, all
    functions run eagerly, and ``refused`` is called with a sentence that says why. The buffers of the networks are
    restored after that comparison; ``rounding`` is the unit roundoff of the dtype that they compute in.
    """

    reuses_fakes = False

    def __init__(
        self, networks: Iterable[nn.Module], rounding: float, refused: Callable[[str], None], **options: Any
    ) -> None:
        self._networks = list(networks)
        self._rounding = rounding
        self._refused = refused
        self._is_refused = False
        self._options = options
        self._forwards: dict[Callable[..., Tensor], Callable[..., Tensor]] = {}
        self._steps: dict[Function, Callable[..., Any]] = {}
        self._checked: set[Any] = set()

    def forward(self, function: Callable[..., Tensor], *args: Any) -> Tensor:
        if function not in self._forwards:
            self._forwards[function] = torch.compile(function, fullgraph=True, **self._options)
        if not self._is_refused:
            try:
                with _our_options():
                    return self._forwards[function](*args)
            except torch._dynamo.exc.TorchDynamoException as error:
                self._refuse(f"torch.compile fails on a step of this run: {first_line(error)}{line_of(error)}")
        return super().forward(function, *args)

    def backward(
        self, function: Function, parameters: list[nn.Parameter], scaler: torch.amp.GradScaler, *args: Any
    ) -> tuple[Tensor, ...]:
        """As :meth:`Eager.backward`. This mode excludes float16, so losses are not scaled."""
        trained = [p for p in parameters if p.requires_grad]
        step = functools.partial(_step, function, trained)
        if function not in self._steps:
            self._steps[function] = compile_step(step, **self._options)
        key = function, tuple(None if tensor is None else tensor.shape for tensor in args)
        if key not in self._checked and not self._is_refused:
            self._check(step, self._steps[function], args)
            self._checked.add(key)
        if self._is_refused:
            return super().backward(function, parameters, scaler, *args)
        with _our_options():
            outputs, gradients = self._steps[function](*args)
        for parameter, gradient in zip(trained, gradients, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:
                parameter.grad = laid_out_as(parameter, gradient)
            else:
                parameter.grad += gradient
        return outputs

    def _check(self, step: Callable[..., Any], compiled: Callable[..., Any], args: tuple[Any, ...]) -> None:
        expected = self._untraced(step, args)
        try:
            found = self._untraced(compiled, args)
        except Exception as error:  # torch's compiler raises many types
            self._refuse(f"torch.compile fails on a step of this run: {first_line(error)}{line_of(error)}")
            return
        difference = _difference(found, expected)
        # Half of the digits: an activation near its kink may fall on either side. A lost second order changes the
        # gradient by its own size.
        allowed = self._rounding**0.5
        if not difference <= allowed:
            self._refuse(
                f"a compiled step of this run differs from the eager one by {difference:.2g} of its size, of which "
                f"rounding explains {allowed:.2g}"
            )

    def _refuse(self, why: str) -> None:
        self._is_refused = True
        self._refused(f"{why}, so steps run without torch.compile")

    def _untraced(self, step: Callable[..., Any], args: tuple[Any, ...]) -> list[Tensor]:
        """Runs a step; returns its outputs, gradients and buffers, and restores buffers and random state."""
        buffers = [buffer for network in self._networks for buffer in network.buffers()]
        before = [buffer.clone() for buffer in buffers]
        on_gpu = [args[0].device] if args[0].is_cuda else []
        try:
            with torch.random.fork_rng(on_gpu), _our_options():
                outputs, gradients = step(*args)
            return [*outputs, *(g for g in gradients if g is not None), *(b.clone() for b in buffers)]
        finally:
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)


def _step(
    function: Function, parameters: list[nn.Parameter], *args: Any
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    loss, *others = function(*args)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return (loss.detach(), *others), gradients


@contextmanager
def _our_options() -> Iterator[None]:
    # Random numbers equal those of eager code; Inductor's own have another seed. The limit is higher because torch
    # counts the losses and penalties of every resolution as recompilations of one function.
    with torch._inductor.config.patch(fallback_random=True), torch._dynamo.config.patch(recompile_limit=_MOST_GRAPHS):
        yield


def _difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest error of a tensor in norm, relative to its expected norm or, if more, 1e-3 of the largest such norm.

    The latter is for gradients that cancel to 0, such as that of a Wasserstein critic's last bias.
    """
    wide = [(a.double(), b.double()) for a, b in zip(found, expected, strict=True)]
    least = 1e-3 * max(b.norm() for _, b in wide)
    return max(float((a - b).norm() / max(b.norm(), least)) for a, b in wide)
