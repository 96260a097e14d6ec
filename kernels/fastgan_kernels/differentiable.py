"""One definition of an op, two routes to it: eager autograd and torch.compile.

In eager mode an op is a ``torch.autograd.Function``, which costs about half of a registered operator per call. Inside
``torch.compile`` it must be a registered operator: a bare Function gives silently wrong second-order gradients in a
compiled region (seen on torch 2.13). :class:`DifferentiableOp` makes both from the same pieces.
"""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_route = threading.local()


class DifferentiableOp:
    """A launcher and its derivative as an op that works in eager mode and inside ``torch.compile``.

    The derivative is written in terms of other ops of this kind or of differentiable torch operations; so a second
    order exists as soon as the op that ``backward`` calls has a derivative of its own.

    Args:
        schema: name and signature without namespace, such as ``"twice(Tensor x) -> Tensor"``. Arguments are positional.
        launch: computes the output from the arguments; it sees no autograd.
        fake: the output's shapes, strides and types for tracing, without data.
        setup_context: ``(ctx, inputs, output)``, saves what ``backward`` needs.
        backward: ``(ctx, *grads)`` to one gradient (or ``None``) for each argument. A gradient that is absent arrives
            as ``None``, never as zeros. Called when the gradient itself is needed or, for a second order, recorded.
    """

    def __init__(
        self,
        schema: str,
        *,
        launch: Callable[..., Any],
        fake: Callable[..., Any],
        setup_context: Callable[..., None],
        backward: Callable[..., Any],
    ) -> None:
        name, signature = schema.split("(", 1)
        qualified_name = f"fastgan::{name}"

        def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.set_materialize_grads(False)
            setup_context(ctx, inputs, output)

        def eager_forward(ctx: Any, *args: Any) -> Any:
            output = launch(*args)
            save(ctx, args, output)
            return output

        def registered_backward(ctx: Any, *grads: Tensor | None) -> Any:
            # The ops that the derivative calls belong to the traced graph as well.
            before = getattr(_route, "registered", False)
            _route.registered = True
            try:
                return backward(ctx, *grads)
            finally:
                _route.registered = before

        self._eager = type(
            name,
            (torch.autograd.Function,),
            {"forward": staticmethod(eager_forward), "backward": staticmethod(backward)},
        ).apply
        registered = torch.library.custom_op(qualified_name, launch, mutates_args=(), schema="(" + signature)
        registered.register_fake(fake)
        registered.register_autograd(registered_backward, setup_context=save)
        self._registered = registered._opoverload

    def __call__(self, *args: Any) -> Any:
        if torch.compiler.is_compiling() or getattr(_route, "registered", False):
            return self._registered(*args)
        return self._eager(*args)
