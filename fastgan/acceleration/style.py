"""Recognizes AdaIN as it is usually written: an instance norm, then a scale and a shift from a style.

A module's forward is recognized by its dataflow: the output is ``scale * n + shift``, where n depends only on one input
x, through the operations of a normalization, and scale and shift do not depend on the values of x. Whether n is the
instance norm, with the biased variance and eps inside the root, is tested by comparing the module and its replacement
on random inputs in float64. The operations are analytic, so functions that agree there are the same. The new forward
computes scale and shift by the same modules as the old one, and then calls adain.
"""

import itertools
import math
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from fastgan.acceleration.activation import INSTANCE_NORMS
from fastgan.acceleration.measuring import changed_by, has_hook, scratch_values, unobserved
from fastgan.acceleration.swaps import Recipe, Refusal, require_rewritable, rewrite
from fastgan.acceleration.tracing import Tracer, called_name, reads_shape
from fastgan.random_state import seeded_random_state
from fastgan_kernels import adain

# The operations of a normalization: analytic, deterministic and without side effects.
_STATISTICS = ("mean", "var", "std", "var_mean", "std_mean", "instance_norm", "sum")
_ELEMENTWISE = ("add", "sub", "mul", "truediv", "div", "pow", "square", "sqrt", "rsqrt", "neg", "reciprocal")
_RESHAPES = ("view", "reshape", "flatten", "unsqueeze", "squeeze", "expand", "expand_as", "view_as", "contiguous")
# The fixed name of styled_instance_norm in the source of the new forward.
_ALIAS = "fastgan_adain"
_PURE = {*_STATISTICS, *_ELEMENTWISE, *_RESHAPES, "getitem"}


def styled_instance_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """:func:`fastgan_kernels.adain` with scale and shift of shape [N or 1, C, 1, ...] and the rank of ``x``."""
    if scale.dim() != x.dim() or shift.dim() != x.dim():
        raise ValueError(
            f"accelerated AdaIN: scale and shift have shapes {list(scale.shape)} and {list(shift.shape)}, "
            f"expected as many axes as x of shape {list(x.shape)}"
        )
    n = max(x.shape[0], scale.shape[0], shift.shape[0])
    if x.shape[0] != n:
        x = x.expand(n, *x.shape[1:])
    return adain(x, scale.flatten(1).expand(n, -1), shift.flatten(1).expand(n, -1), eps=eps)


def _from_source(source: str) -> Callable[..., Tensor]:
    """Compiles a forward from source by ``torch.fx``: scale and shift as in the old forward, then adain."""
    names: dict[str, Any] = {
        "torch": torch,
        "device": torch.device,
        "inf": math.inf,
        "nan": math.nan,
        _ALIAS: styled_instance_norm,
    }
    exec(source, names)
    return names["forward"]


def recognize_adain(module: nn.Module, known: dict[str, Recipe]) -> Recipe | None:
    """The new forward of ``module``; ``None`` for a module unlike AdaIN, and Refusal for one that is only similar.

    ``known`` maps dataflows to verified forwards: layers of one class differ only in their sizes.
    """
    graphs = []
    for training in (not module.training, module.training):
        try:
            graphs.append(Tracer(set(module.modules()) - {module}).trace_forward(module, training))
        except Exception:  # the model's code may raise any type on symbolic values
            return None
    graph = graphs[-1]
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for x in inputs:
        found = _split(module, graph, x)
        if found is None:
            continue
        if str(graphs[0]) != str(graph):
            raise Refusal("its forward is not the same in training and in evaluation mode")
        require_rewritable(module)
        _require_plain(module, found, inputs)
        norms = [module.get_submodule(node.target) for node in found.normalization if node.op == "call_module"]
        dataflow = f"{type(module)} {graph} {[norm.eps for norm in norms]}"
        if dataflow not in known:
            known[dataflow] = _verified(module, found, inputs)
        return known[dataflow]
    return None


@dataclass(frozen=True)
class _Split:
    """The output as ``product(factors) * n + shift``; a factor is a node or number, with a flag for division."""

    x: fx.Node
    factors: list[tuple[fx.Node | float, bool]]
    shift: fx.Node
    normalization: set[fx.Node]


def _split(module: nn.Module, graph: fx.Graph, x: fx.Node) -> _Split | None:
    output = next(node for node in graph.nodes if node.op == "output").args[0]
    of_x: set[fx.Node] = {x}
    of_style: set[fx.Node] = set()
    for node in graph.nodes:
        inputs = [] if reads_shape(node) else node.all_input_nodes
        if any(i in of_x for i in inputs):
            of_x.add(node)
        if node is not x and (
            node.op in ("placeholder", "get_attr")
            or (node.op == "call_module" and not isinstance(module.get_submodule(node.target), INSTANCE_NORMS))
            or any(i in of_style for i in inputs)
        ):
            of_style.add(node)
    if not isinstance(output, fx.Node) or output not in of_x or output not in of_style:
        return None
    if called_name(output) == "add" and len(output.args) == 2 and not output.kwargs:
        product, shift = output.args if output.args[0] in of_x else reversed(output.args)
        pending: list[tuple[Any, bool]] = [(product, False)]
    elif called_name(output) == "addcmul" and len(output.args) == 3 and not output.kwargs:
        shift = output.args[0]
        pending = [(factor, False) for factor in output.args[1:]]
    else:
        return None
    if not isinstance(shift, fx.Node) or shift in of_x or shift not in of_style:
        return None
    factors: list[tuple[fx.Node | float, bool]] = []
    parts: list[fx.Node] = []
    while pending:
        node, divides = pending.pop()
        if not isinstance(node, fx.Node) or node not in of_x:
            factors.append((node, divides))
        elif node not in of_style:
            parts.append(node)
        elif called_name(node) in ("mul", "truediv", "div") and len(node.args) == 2 and not node.kwargs:
            pending.append((node.args[0], divides))
            pending.append((node.args[1], divides ^ (called_name(node) != "mul")))
        else:
            return None
    normalization = _ancestors(parts) & of_x
    normalizes = any(n.op == "call_module" or called_name(n) in _STATISTICS for n in normalization)
    if not normalizes or not any(isinstance(f, fx.Node) for f, _ in factors):
        return None
    return _Split(x, factors, shift, normalization - {x})


def _ancestors(nodes: list[fx.Node]) -> set[fx.Node]:
    seen: set[fx.Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in seen:
            seen.add(node)
            pending += node.all_input_nodes
    return seen


def _require_plain(module: nn.Module, found: _Split, inputs: list[fx.Node]) -> None:
    if any(node.args or str(node.target).startswith("*") for node in inputs):
        raise Refusal("its forward has optional arguments")
    for node in found.normalization:
        if node.op != "call_module":
            if called_name(node) not in _PURE:
                raise Refusal(f"its normalization uses `{called_name(node)}`")
            continue
        norm = module.get_submodule(node.target)
        if norm.affine:
            raise Refusal(f"the scale and shift of `{node.target}` are parameters (affine=True)")
        if norm.track_running_stats:
            raise Refusal(f"`{node.target}` keeps running statistics")
        if has_hook(norm):
            raise Refusal(f"`{node.target}` has a hook, which would not be called any more")


def _verified(module: nn.Module, found: _Split, inputs: list[fx.Node]) -> Recipe:
    probes = _probes(module, inputs, found.x)
    if not probes:
        raise Refusal("no example input was found for it")
    complaints = []
    for eps, source in _sources(found, _eps_candidates(module, found)):
        recipe = Recipe(_from_source, (source,), f"adain(eps={eps})")
        complaint = changed_by(partial(rewrite, module, recipe), module, probes)
        if complaint is None:
            return recipe
        complaints.append(complaint)
    raise Refusal(f"its normalization is not (x - mean) / sqrt(var + eps) with the biased variance: {complaints[0]}")


def _eps_candidates(module: nn.Module, found: _Split) -> list[float]:
    values = [0.0]
    for node in found.normalization:
        if node.op == "call_module":
            values.append(module.get_submodule(node.target).eps)
        elif called_name(node) == "instance_norm":
            values.append(node.kwargs.get("eps", 1e-5))
        values += [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, float) and 0 < a < 0.1]
    return sorted(set(values), reverse=True)


def _sources(found: _Split, candidates: Iterable[float]) -> Iterator[tuple[float, str]]:
    """Turns the graph of the old forward into that of the new one, and yields its source for each eps."""
    graph = found.x.graph
    # Scale and shift use only the shape of the normalized x, which equals that of x.
    for node in found.normalization:
        node.replace_all_uses_with(found.x, lambda user: user not in found.normalization)
    output = next(node for node in graph.nodes if node.op == "output")
    # Factors come before divisors, so that there is always a dividend.
    (scale, divides), *others = sorted(found.factors, key=lambda f: f[1])
    if divides:
        scale, others = 1.0, [(scale, divides), *others]
    with graph.inserting_before(output):
        for factor, divides in others:
            scale = graph.call_function(operator.truediv if divides else operator.mul, (scale, factor))
        call = graph.call_function(styled_instance_norm)
    output.args = (call,)
    call.args = found.x, scale, found.shift, 0.0
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    for eps in candidates:
        call.args = *call.args[:3], eps
        code = graph.python_code("self")
        alias = next(name for name, thing in code.globals.items() if thing is styled_instance_norm)
        yield eps, code.src.replace(f"{alias}(", f"{_ALIAS}(")


# Size of the batch, spatial sizes and scale of each probe.
_PROBES = ((2, (5, 3), 1.0), (3, (4, 6), 1e-3), (2, (3, 4), 1e-7), (2, (7, 2), 30.0))


def _probes(module: nn.Module, inputs: list[fx.Node], x: fx.Node) -> list[tuple[Tensor, ...]]:
    """Random inputs of large and small variance; their shapes are found by trying the sizes of the module's tensors."""
    tensors = [*module.parameters(), *module.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    sizes = {size for t in tensors for size in t.shape}
    sizes |= {v for m in module.modules() for v in vars(m).values() if type(v) is int}
    sizes = sorted({s for size in sizes for s in (size, size // 2) if 1 < s < 1 << 16} | {4})
    position = inputs.index(x)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, device=device)

    def fits(args: tuple[Tensor, ...]) -> bool:
        try:
            y = module(*args)
        except Exception:  # the module does not take these sizes
            return False
        return isinstance(y, Tensor) and y.shape == args[position].shape and bool(y.isfinite().all())

    with warnings.catch_warnings(), seeded_random_state(0), scratch_values(module), unobserved(module), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch, about sizes that are not the module's
        for channels in sizes:
            shapes = [(size,) for size in sizes] + [(channels, 1, 1), (channels, 3, 2)]
            for others in itertools.product(shapes, repeat=len(inputs) - 1):
                probes = []
                for n, spatial, scale in _PROBES:
                    values = [draw(n, *shape) for shape in others]
                    values.insert(position, scale * draw(n, channels, *spatial) + (0 if scale < 1 else 1))
                    probes.append(tuple(values))
                if all(map(fits, probes)):
                    return probes
    return []
