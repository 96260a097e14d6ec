"""How the gradient of a loss gets into the parameters: by autograd as it stands, or by a compiled pass."""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.errors import first_line
from fastgan.regularizers import compile_step
from fastgan.training.config import SettingsError
from fastgan.training.precision import laid_out_as

Function = Callable[..., tuple[Tensor, ...]]
Scale = Callable[[Tensor], Tensor]

# Two losses and a penalty, at nine resolutions from 4 to 1024, each with and without a fade.
_MOST_GRAPHS = 64


class Eager:
    """Autograd as it stands."""

    keeps_graphs = True
    """Whether the gradient of a loss may go back into what was computed before."""

    def forward(self, function: Callable[..., Tensor], *batch: Tensor) -> Tensor:
        """``function(*batch)``."""
        return function(*batch)

    def __call__(
        self, function: Function, parameters: list[nn.Parameter], scale: Scale, *batch: Tensor
    ) -> tuple[Tensor, ...]:
        """Adds the gradient of ``scale(function(*batch)[0])`` to the parameters that require one.

        Args:
            function: returns a loss, and more.
            parameters: those that the loss is to train.
            scale: of the loss, linear.
            batch: what the loss is of.

        Returns:
            What ``function`` returned, the loss without its graph.
        """
        loss, *others = function(*batch)
        scale(loss).backward()
        return loss.detach(), *others


class Compiled:
    """Each function with its backward pass as one graph of ``torch.compile``, the inner derivative of a penalty too.

    The first call at each size is compared with autograd's, on the same batch and from the same random state, and what
    differs is refused: several forms of a compiled penalty lose their second order without an error.

    Args:
        networks: their buffers must not be moved twice by that comparison.
        rounding: the relative error of one rounding in the type that the networks compute in.
        options: of ``torch.compile``.

    Raises:
        SettingsError: by a call, where torch cannot compile the function or its result differs; one sentence.
    """

    keeps_graphs = False

    def __init__(self, networks: Iterable[nn.Module], rounding: float, **options: Any) -> None:
        self._networks = list(networks)
        self._rounding = rounding
        self._options = options
        self._forwards: dict[Callable[..., Tensor], Callable[..., Tensor]] = {}
        self._steps: dict[Function, Callable[..., Any]] = {}
        self._checked: set[Any] = set()

    def forward(self, function: Callable[..., Tensor], *batch: Tensor) -> Tensor:
        """``function(*batch)``, compiled."""
        if function not in self._forwards:
            self._forwards[function] = torch.compile(function, fullgraph=True, **self._options)
        with _our_options():
            return self._forwards[function](*batch)

    def __call__(
        self, function: Function, parameters: list[nn.Parameter], scale: Scale, *batch: Tensor
    ) -> tuple[Tensor, ...]:
        """As :meth:`Eager.__call__`."""
        trained = [p for p in parameters if p.requires_grad]
        step = functools.partial(_step, function, trained, scale)
        if function not in self._steps:
            self._steps[function] = compile_step(step, **self._options)
        key = function, tuple(tensor.shape for tensor in batch)
        if key not in self._checked:
            self._check(step, self._steps[function], batch)
            self._checked.add(key)
        with _our_options():
            outputs, gradients = self._steps[function](*batch)
        for parameter, gradient in zip(trained, gradients, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:
                parameter.grad = laid_out_as(parameter, gradient)
            else:
                parameter.grad += gradient
        return outputs

    def _check(self, step: Callable[..., Any], compiled: Callable[..., Any], batch: tuple[Tensor, ...]) -> None:
        expected = self._untraced(step, batch)
        try:
            found = self._untraced(compiled, batch)
        except Exception as error:  # of many kinds: all of torch's compiler may be behind it
            raise SettingsError(
                f"engine 'compiled' is refused: torch.compile fails on a step of this run ({first_line(error)})"
            ) from error
        difference = _difference(found, expected)
        # Half of the digits: an activation near its kink may go either way. A lost second order is of the size of the
        # gradient itself.
        allowed = self._rounding**0.5
        if not difference <= allowed:
            raise SettingsError(
                f"engine 'compiled' is refused: a compiled step of this run differs from the eager one by "
                f"{difference:.2g} of its size, of which rounding explains {allowed:.2g}"
            )

    def _untraced(self, step: Callable[..., Any], batch: tuple[Tensor, ...]) -> list[Tensor]:
        """What a step returns and what it leaves in the buffers, which are put back as they were."""
        buffers = [buffer for network in self._networks for buffer in network.buffers()]
        before = [buffer.clone() for buffer in buffers]
        on_gpu = [batch[0].device] if batch[0].is_cuda else []
        with torch.random.fork_rng(on_gpu), _our_options():
            outputs, gradients = step(*batch)
        results = [*outputs, *(g for g in gradients if g is not None), *(b.clone() for b in buffers)]
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        return results


Differentiate = Eager | Compiled


def _step(
    function: Function, parameters: list[nn.Parameter], scale: Scale, *batch: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    loss, *others = function(*batch)
    gradients = torch.autograd.grad(scale(loss), parameters, allow_unused=True)
    return (loss.detach(), *others), gradients


@contextmanager
def _our_options() -> Iterator[None]:
    # Random numbers are those that eager code would draw; Inductor's own follow another seed. And torch counts as
    # recompilations of one function what are the losses and penalties of every resolution.
    with torch._inductor.config.patch(fallback_random=True), torch._dynamo.config.patch(recompile_limit=_MOST_GRAPHS):
        yield


def _difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference of two tensors in norm, relative to the norm or, if more, to 1e-3 of the largest norm.

    The gradient of the last bias of a Wasserstein critic, say, is 0 by cancellation.
    """
    wide = [(a.double(), b.double()) for a, b in zip(found, expected, strict=True)]
    least = 1e-3 * max(b.norm() for _, b in wide)
    return max(float((a - b).norm() / max(b.norm(), least)) for a, b in wide)
