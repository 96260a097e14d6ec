"""One definition of an op, two routes to it: eager autograd and torch.compile.

In eager mode an op is a ``torch.autograd.Function``, which costs about half of a registered operator per call. Inside
``torch.compile`` it must be a registered operator: a bare Function gives silently wrong second-order gradients in a
compiled region (seen on torch 2.13). :class:`DifferentiableOp` makes both from the same pieces.
"""

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan_kernels.backend import is_transformed


class _Route(threading.local):
    # Set while the derivative of a registered operator runs: the ops that it calls belong to the traced graph too.
    registered = False


_route = _Route()


class DifferentiableOp:
    """A launcher and its derivative as an op that works in eager mode and inside ``torch.compile``.

    The derivative is written in terms of other ops of this kind or of differentiable torch operations; so a second
    order exists as soon as the op that ``backward`` calls has a derivative of its own.

    Args:
        schema: name and signature without namespace, such as ``"twice(Tensor x) -> Tensor"``. Arguments are positional.
            Those and outputs of type ``Tensor[]`` are lists, and so are the gradients that ``backward`` takes and
            returns for them and their entries of ``ctx.needs_input_grad``.
        launch: computes the output from the arguments; it sees no autograd.
        fake: the output's shapes, strides and types for tracing, without data.
        setup_context: ``(ctx, inputs, output)``, saves what ``backward`` needs.
        backward: ``(ctx, *grads)`` to one gradient (or ``None``) for each argument. A gradient that is absent arrives
            as ``None``, never as zeros; a sparse one, as from a sparse embedding, arrives dense.
        is_gradient: whether this op computes the gradient of another. Such an op refuses to run in a compiled backward
            pass under ``create_graph=True``.
    """

    def __init__(
        self,
        schema: str,
        *,
        launch: Callable[..., Any],
        fake: Callable[..., Any],
        setup_context: Callable[..., None],
        backward: Callable[..., Any],
        is_gradient: bool = False,
    ) -> None:
        name, signature = schema.split("(", 1)
        launch = on_the_device_of_its_tensors(launch)

        def backward_of_dense(ctx: Any, *grads: Any) -> Any:
            return backward(ctx, *map(_as_dense, grads))

        def eager_backward(ctx: Any, *grads: Any) -> Any:
            if is_transformed() or any(map(_is_batched, grads)):
                raise RuntimeError(
                    f"{name}: torch.func, forward-mode differentiation and batched gradients cannot pass the backward"
                    " pass of a kernel; run the forward pass there too, or under use_backend('reference')"
                )
            return backward_of_dense(ctx, *grads)

        def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.set_materialize_grads(False)
            setup_context(ctx, inputs, output)

        def eager_forward(ctx: Any, *args: Any) -> Any:
            output = launch(*args)
            save(ctx, args, output)
            return output

        if "Tensor[]" in signature:
            self._eager = _function_of_lists(name, eager_forward, eager_backward)
        else:
            self._eager = _function(name, eager_forward, eager_backward)

        def registered_launch(*args: Any) -> Any:
            if is_gradient and not _route.registered and _in_compiled_backward_that_is_recorded():
                raise RuntimeError(
                    f"{name}: a compiled backward pass runs with create_graph=True, but torch.compile cannot"
                    " differentiate it again and would drop the second order; compile the whole step, penalty included,"
                    " under torch._dynamo.config.trace_autograd_ops = True, or do not compile the penalised network"
                )
            return launch(*args)

        def registered_backward(ctx: Any, *grads: Tensor | None) -> Any:
            before, _route.registered = _route.registered, True
            try:
                return backward_of_dense(ctx, *grads)
            finally:
                _route.registered = before

        registered = torch.library.custom_op(
            f"fastgan::{name}", registered_launch, mutates_args=(), schema=f"({signature}"
        )
        registered.register_fake(fake)
        registered.register_autograd(registered_backward, setup_context=save)
        self._registered = registered._opoverload

    def __call__(self, *args: Any) -> Any:
        if torch.compiler.is_compiling() or _route.registered:
            return self._registered(*args)
        return self._eager(*args)


def _as_dense(gradient: Any) -> Any:
    if isinstance(gradient, list):
        return [_as_dense(entry) for entry in gradient]
    return gradient if gradient is None or gradient.layout is torch.strided else gradient.to_dense()


def _is_batched(gradient: Any) -> bool:
    """Whether it comes from ``torch.autograd.grad(..., is_grads_batched=True)``."""
    if isinstance(gradient, list):
        return any(map(_is_batched, gradient))
    return gradient is not None and torch._C._functorch.is_legacy_batchedtensor(gradient)


def _function(name: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    namespace = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(name, (torch.autograd.Function,), namespace).apply


class _Lists:
    """How long the lists among the arguments and outputs of one call are; ``None`` for what is no list."""

    def __init__(self, inputs: Sequence[Any]) -> None:
        self.inputs = [len(a) if _is_list_of_tensors(a) else None for a in inputs]
        self.outputs: list[int | None] = []


def _is_list_of_tensors(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, Tensor) for entry in value)


def _flat(values: Sequence[Any], lengths: Sequence[int | None]) -> list[Any]:
    return [e for value, n in zip(values, lengths, strict=True) for e in ((value,) if n is None else value)]


def _nested(flat: Sequence[Any], lengths: Sequence[int | None]) -> list[Any]:
    entries = iter(flat)
    return [next(entries) if n is None else list(itertools.islice(entries, n)) for n in lengths]


def _function_of_lists(name: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    """An autograd Function tracks no tensor within a list: lists are taken apart before it and put together after."""

    def flat_forward(ctx: Any, lists: _Lists, *flat: Any) -> Any:
        output = forward(ctx, *_nested(flat, lists.inputs))
        ctx.lists = lists
        outputs = output if isinstance(output, tuple) else (output,)
        lists.outputs = [len(o) if isinstance(o, list) else None for o in outputs]
        return tuple(_flat(outputs, lists.outputs))

    def flat_backward(ctx: Any, *grads: Tensor | None) -> Any:
        needs = ctx.needs_input_grad
        ctx.needs_input_grad = tuple(_nested(needs[1:], ctx.lists.inputs))
        try:
            gradients = backward(ctx, *_nested(grads, ctx.lists.outputs))
        finally:
            ctx.needs_input_grad = needs
        return None, *_flat(gradients if isinstance(gradients, tuple) else (gradients,), ctx.lists.inputs)

    apply = _function(name, flat_forward, flat_backward)

    def call(*args: Any) -> Any:
        lists = _Lists(args)
        outputs = _nested(apply(lists, *_flat(args, lists.inputs)), lists.outputs)
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    return call


def refuse_third_order(op_name: str) -> Callable[..., Any]:
    """The ``backward`` of an op that ends at the second order: it raises."""

    def refuse(ctx: Any, *grads: Tensor | None) -> Any:
        raise RuntimeError(f"{op_name} has gradients up to the second order, and a third was asked for")

    return refuse


def on_the_device_of_its_tensors(launch: Callable[..., Any]) -> Callable[..., Any]:
    """Triton launches on the current GPU, which need not be the one that the tensors are on.

    Kernels read memory, which does not have what torch negates lazily, as the imaginary part of a conjugate.
    """

    def launch_there(*args: Any) -> Any:
        args = tuple(map(_in_memory, args))
        device = next(t.device for a in args for t in (a if isinstance(a, list) else (a,)) if isinstance(t, Tensor))
        if device.type != "cuda" or device.index == torch.cuda.current_device():
            return launch(*args)
        with torch.cuda.device(device):
            return launch(*args)

    return launch_there


def _in_memory(arg: Any) -> Any:
    if isinstance(arg, list):
        return [_in_memory(entry) for entry in arg]
    return arg.resolve_neg() if isinstance(arg, Tensor) and arg.is_neg() else arg


def _in_compiled_backward_that_is_recorded() -> bool:
    """True in a compiled backward pass under ``create_graph=True``.

    torch itself raises only when the second backward reaches the compiled one, which ``torch.autograd.grad`` for chosen
    parameters often does not: then the penalty's gradient is silently wrong (torch 2.11 and 2.13, in plain torch too).
    Such a pass runs with gradients enabled, or as the forward of another autograd Function: the one place in a backward
    where forward-mode AD is off.
    """
    recorded = torch.is_grad_enabled() or not torch._C._is_fwd_grad_enabled()
    return recorded and torch._C._current_graph_task_id() != -1


def _copy_op(name: str, *, is_gradient: bool) -> DifferentiableOp:
    return DifferentiableOp(
        f"{name}(Tensor x) -> Tensor",
        launch=torch.clone,
        fake=torch.clone,
        setup_context=lambda ctx, inputs, output: None,
        backward=lambda ctx, g: None if g is None else _guarded_gradient(g),
        is_gradient=is_gradient,
    )


_guarded_gradient = _copy_op("guarded_gradient", is_gradient=True)
_guarded = _copy_op("guarded", is_gradient=False)


def guard_second_order(x: Tensor) -> Tensor:
    """``x``; inside ``torch.compile`` a copy whose gradient refuses to lose a second order, as those of our ops do.

    The references need it: what torch.compile makes of them would drop the second order of a penalty silently. Not in
    ``torch.export``, whose programs have to run where no op of ours is, and not under ``torch.func``, whose gradients
    are a part of the compiled forward pass.
    """
    return _guarded(x) if torch.compiler.is_compiling() and not _is_exported_or_transformed() else x


# Dynamo of torch 2.11 takes is_exporting() for True in all that it compiles, so it must not see the call.
@torch.compiler.assume_constant_result
def _is_exported_or_transformed() -> bool:
    return torch.compiler.is_exporting() or is_transformed()
