"""Defines an op once, for eager autograd and for torch.compile.

In eager mode an op is a ``torch.autograd.Function``, whose call costs about half as much as that of a registered
operator. Inside ``torch.compile`` it must be a registered operator: a bare Function gives silently wrong second-order
gradients in a compiled region (seen with torch 2.13). :class:`DifferentiableOp` makes both from the same functions.
"""

import hashlib
import itertools
import operator
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan_kernels.backend import is_transformed


def source_digest(package: Path) -> str:
    """A digest of the Python files of a package."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(package.rglob("*.py")))).hexdigest()


# torch.compile caches compiled graphs on disk, under a key with the names of the operators but not their derivatives,
# which are compiled too. Without this tag it would use the derivatives of another version of this package.
torch.compiler.config.cache_key_tag += f" fastgan_kernels {source_digest(Path(__file__).parent)}"


class _Route(threading.local):
    # True while the derivative of a registered operator runs: ops that it calls belong to the traced graph too.
    registered = False


_route = _Route()


class DifferentiableOp:
    """A launcher and its derivative as an op that works in eager mode and inside ``torch.compile``.

    The derivative consists of other ops of this kind and of differentiable torch operations, so a second order exists
    if the op that ``backward`` calls has a derivative.

    Args:
        schema: name and signature without namespace, such as ``"twice(Tensor x) -> Tensor"``. Arguments are positional,
            tensors and lists of them first. Arguments and outputs of type ``Tensor[]`` are lists, and so are their
            gradients and their entries of ``ctx.needs_input_grad``. A last argument ``bool[] needs`` says which outputs
            are needed; the others are ``None``.
        returns_first: whether a call returns only the first output. The others have no gradient: they are what
            ``setup_context`` saves, and in eager mode autograd does not see them.
        launch: computes the outputs from the arguments; autograd does not see it.
        fake: returns outputs of the right shapes, strides and types for tracing, without data.
        setup_context: takes ``(ctx, inputs, output)`` and saves what ``backward`` needs.
        backward: takes ``(ctx, *grads)`` and returns the gradients of the arguments; those left out at the end are
            ``None``. At least one of ``grads`` is given; the others are ``None``, never zeros. Sparse gradients, such
            as those of a sparse embedding, arrive dense. Autograd casts each result to the type of its argument.
        is_gradient: whether this op computes the gradient of another. Such an op refuses to run in a compiled backward
            pass under ``create_graph=True``.
    """

    def __init__(
        self,
        schema: str,
        *,
        returns_first: bool = False,
        launch: Callable[..., Any],
        fake: Callable[..., Any],
        setup_context: Callable[..., None] = lambda ctx, inputs, output: None,
        backward: Callable[..., Any],
        is_gradient: bool = False,
    ) -> None:
        name, signature = schema.split("(", 1)
        self._has_needs = "bool[] needs)" in signature
        self._returns_first = returns_first
        operands = signature.partition("->")[0].count("Tensor")

        def complete_backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
            grads = [_as_dense(grad) for grad in grads]
            gradients = backward(ctx, *grads) if any(map(_is_given, grads)) else ()
            gradients = gradients if isinstance(gradients, tuple) else (gradients,)
            rest = ctx.needs_input_grad[len(gradients) :]
            return *gradients, *[[None] * len(need) if isinstance(need, list) else None for need in rest]

        def eager_backward(ctx: Any, *grads: Any) -> Any:
            if is_transformed() or any(map(_is_batched, grads)):
                raise RuntimeError(
                    f"{name}: torch.func, forward-mode differentiation and batched gradients cannot pass the backward"
                    " pass of a kernel; run the forward pass there too, or under use_backend('reference')"
                )
            return complete_backward(ctx, *grads)

        def eager_forward(ctx: Any, *args: Any) -> Any:
            output = launch(*args)
            ctx.set_materialize_grads(False)
            setup_context(ctx, args, output)
            return output[0] if returns_first else output

        function = (_function_of_lists if "Tensor[]" in signature else _function)(name, eager_forward, eager_backward)

        # A Function costs more than the launch; without gradients, as in most backward passes, it would do nothing.
        unrecorded = (lambda *args: launch(*args)[0]) if returns_first else launch
        self._recorded = on_the_device_of_its_tensors(function, operands)
        self._unrecorded = on_the_device_of_its_tensors(unrecorded, operands)
        launch_there = on_the_device_of_its_tensors(launch, operands)

        def registered_launch(*args: Any) -> Any:
            if is_gradient and not _route.registered and _in_compiled_backward_that_is_recorded():
                raise RuntimeError(
                    f"{name}: a compiled backward pass runs with create_graph=True, but torch.compile cannot"
                    " differentiate it again and would drop the second order; compile the whole step, penalty included,"
                    " under torch._dynamo.config.trace_autograd_ops = True, or do not compile the penalized network"
                )
            return registered_outputs(launch_there(*args), args)

        def registered_outputs(outputs: Any, args: Sequence[Any]) -> Any:
            """Replaces outputs that are not needed by empty tensors or lists: an operator cannot return ``None``."""
            if not self._has_needs:
                return outputs
            a_tensor = next(t for a in args for t in (a if isinstance(a, list) else (a,)) if isinstance(t, Tensor))
            lists = [isinstance(r.type, torch.ListType) for r in self._registered._schema.returns]
            return tuple(
                output if need else [] if is_list else a_tensor.new_empty(0, dtype=torch.float32)
                for output, need, is_list in zip(outputs, args[-1], lists, strict=True)
            )

        def registered_save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.needs_output = inputs[-1]
            ctx.set_materialize_grads(False)
            if returns_first:
                ctx.mark_non_differentiable(*output[1:])
            setup_context(ctx, inputs, output)

        def registered_backward(ctx: Any, *grads: Any) -> Any:
            before, _route.registered = _route.registered, True
            try:
                grads = grads[:1] if returns_first else grads
                return complete_backward(ctx, *(_needed(grads, ctx.needs_output) if self._has_needs else grads))
            finally:
                _route.registered = before

        registered = torch.library.custom_op(
            f"fastgan::{name}", registered_launch, mutates_args=(), schema=f"({signature}"
        )
        self._registered = registered._opoverload
        registered.register_fake(lambda *args: registered_outputs(fake(*args), args))
        registered.register_autograd(registered_backward, setup_context=registered_save)

    def __call__(self, *args: Any) -> Any:
        if torch.compiler.is_compiling() or _route.registered:
            outputs = self._registered(*args)
            if self._has_needs:
                return _needed(outputs, args[-1])
            return outputs[0] if self._returns_first else outputs
        return self._recorded(*args) if torch.is_grad_enabled() else self._unrecorded(*args)


def _needed(values: Sequence[Any], needs: Sequence[bool]) -> tuple[Any, ...]:
    return tuple(value if need else None for value, need in zip(values, needs, strict=True))


def _is_given(gradient: Any) -> bool:
    return gradient is not None and not (isinstance(gradient, list) and all(entry is None for entry in gradient))


def _as_dense(gradient: Any) -> Any:
    if isinstance(gradient, list):
        return [_as_dense(entry) for entry in gradient]
    return gradient if gradient is None or gradient.layout is torch.strided else gradient.to_dense()


def _is_batched(gradient: Any) -> bool:
    """Whether the gradient comes from ``torch.autograd.grad(..., is_grads_batched=True)``."""
    if isinstance(gradient, list):
        return any(map(_is_batched, gradient))
    return gradient is not None and torch._C._functorch.is_legacy_batchedtensor(gradient)


def _function(name: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    namespace = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function = type(name, (torch.autograd.Function,), namespace)
    # Function.apply prepares for torch.func, which never comes here (backend.py), in half the time of a call.
    return super(torch.autograd.Function, function).apply


class _Lists:
    """How the arguments and outputs of one call are taken apart.

    Attributes:
        inputs, outputs: the lengths of the lists; ``None`` where a value stays as it is.
        constant: the lengths of those lists of tensors among the inputs that stay as they are, since they need no
            gradients.
    """

    def __init__(self, inputs: Sequence[Any]) -> None:
        self.inputs: list[int | None] = []
        self.constant: list[int | None] = []
        self.outputs: list[int | None] = []
        for value in inputs:
            count = len(value) if isinstance(value, list) and value and isinstance(value[0], Tensor) else None
            needed = count is not None and any(map(_requires_grad, value))
            self.inputs.append(count if needed else None)
            self.constant.append(None if needed else count)


_requires_grad = operator.attrgetter("requires_grad")


def _flat(values: Sequence[Any], lengths: Sequence[int | None]) -> list[Any]:
    flat: list[Any] = []
    for value, n in zip(values, lengths, strict=True):
        if n is None:
            flat.append(value)
        else:
            flat += value
    return flat


def _nested(flat: Sequence[Any], lengths: Sequence[int | None]) -> list[Any]:
    entries = iter(flat)
    return [next(entries) if n is None else list(itertools.islice(entries, n)) for n in lengths]


def _function_of_lists(name: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    """A Function that takes lists apart before it runs and restores them after: autograd tracks no tensor in a list."""

    def flat_forward(ctx: Any, lists: _Lists, *flat: Any) -> Any:
        output = forward(ctx, *_nested(flat, lists.inputs))
        ctx.lists = lists
        outputs = output if isinstance(output, tuple) else (output,)
        lists.outputs = [len(o) if isinstance(o, list) else None for o in outputs]
        return tuple(_flat(outputs, lists.outputs))

    def flat_backward(ctx: Any, *grads: Tensor | None) -> Any:
        needs, lists = ctx.needs_input_grad, ctx.lists
        nested = _nested(needs[1:], lists.inputs)
        ctx.needs_input_grad = tuple(
            [need if n is None else [False] * n for need, n in zip(nested, lists.constant, strict=True)]
        )
        try:
            gradients = backward(ctx, *_nested(grads, lists.outputs))
        finally:
            ctx.needs_input_grad = needs
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        kept = [g if n is None else None for g, n in zip(gradients, lists.constant, strict=True)]
        return None, *_flat(kept, lists.inputs)

    apply = _function(name, flat_forward, flat_backward)

    def call(*args: Any) -> Any:
        lists = _Lists(args)
        outputs = _nested(apply(lists, *_flat(args, lists.inputs)), lists.outputs)
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    return call


def refuse_third_order(op_name: str) -> Callable[..., Any]:
    """The ``backward`` of an op that ends at the second order: it raises."""

    def refuse(ctx: Any, *grads: Tensor | None) -> Any:
        raise RuntimeError(f"{op_name} has gradients up to the second order, but a third was requested")

    return refuse


def on_the_device_of_its_tensors(launch: Callable[..., Any], operands: int) -> Callable[..., Any]:
    """Wraps ``launch`` to run on the GPU of its tensors, since Triton launches on the current one.

    The first ``operands`` arguments are tensors, lists of tensors or ``None``, and no others are.

    Kernels read memory, so it also materializes tensors that torch negates lazily, such as the imaginary part of a
    conjugate, and unwraps those that have outlived a transform of ``torch.func``.
    """

    def launch_there(*args: Any) -> Any:
        a_tensor, in_memory = None, True
        for arg in args[:operands]:
            if type(arg) is list:
                if arg:
                    a_tensor = arg[0]
                    in_memory = in_memory and not (any(map(Tensor.is_neg, arg)) or any(map(_is_wrapped, arg)))
            elif arg is not None:
                a_tensor = arg
                in_memory = in_memory and not (arg.is_neg() or _is_wrapped(arg))
        if not in_memory:
            args = tuple(map(_in_memory, args))
        if not a_tensor.is_cuda or a_tensor.get_device() == torch.cuda.current_device():
            return launch(*args)
        with torch.cuda.device(a_tensor.device):
            return launch(*args)

    return launch_there


_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor


def _in_memory(arg: Any) -> Any:
    if isinstance(arg, list):
        return [_in_memory(entry) for entry in arg]
    return torch._C._functorch.unwrap_if_dead(arg).resolve_neg() if isinstance(arg, Tensor) else arg


def _in_compiled_backward_that_is_recorded() -> bool:
    """Whether a compiled backward pass runs under ``create_graph=True``.

    torch itself raises only when the second backward pass reaches the compiled one. ``torch.autograd.grad`` for chosen
    parameters often does not reach it; then the penalty's gradient is silently wrong (torch 2.11 and 2.13, in plain
    torch too). Such a pass runs with gradients enabled, or as the forward pass of another autograd Function, the only
    place in a backward pass where forward-mode AD is off.
    """
    recorded = torch.is_grad_enabled() or not torch._C._is_fwd_grad_enabled()
    return recorded and torch._C._current_graph_task_id() != -1


def _copy_op(name: str, *, is_gradient: bool) -> DifferentiableOp:
    return DifferentiableOp(
        f"{name}(Tensor x) -> Tensor",
        launch=torch.clone,
        fake=torch.clone,
        backward=lambda ctx, g: _guarded_backward(g),
        is_gradient=is_gradient,
    )


_guarded_backward = _copy_op("guarded_backward", is_gradient=True)
_guarded = _copy_op("guarded", is_gradient=False)


def guard_second_order(x: Tensor) -> Tensor:
    """Returns ``x``; inside ``torch.compile`` a copy whose gradient raises where a second order would be lost.

    The references need it, since ``torch.compile`` would silently drop the second order of a penalty through them. It
    does nothing in ``torch.export``, whose programs must run without ops of this package, and under ``torch.func``,
    whose gradients are part of the compiled forward pass.
    """
    return _guarded(x) if torch.compiler.is_compiling() and not _is_exported_or_transformed() else x


# Dynamo of torch 2.11 takes is_exporting() for True in everything that it compiles, so it must not trace the call.
@torch.compiler.assume_constant_result
def _is_exported_or_transformed() -> bool:
    return torch.compiler.is_exporting() or is_transformed()
