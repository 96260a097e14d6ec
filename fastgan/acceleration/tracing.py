"""Traces where the modules of a model are called, and how their outputs are used.

The forward of the model is traced symbolically (``torch.fx``), down to torch's own layers. If that fails, the children
are traced one by one, and children that cannot be traced are opaque calls in the surrounding trace. A trace follows one
path through the code, so there is one for each mode, training and evaluation, and each value of the optional arguments
that choose a path.
"""

import ast
import inspect
import itertools
import textwrap
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from fastgan.acceleration.measuring import HOOKS, unobserved
from fastgan.acceleration.swaps import is_rewritten
from fastgan.errors import first_line
from fastgan.random_state import seeded_random_state

# Functions of sizes and no tensor: a symbolic size would stop the trace if they were not wrapped.
_FACTORIES = ("arange", "empty", "eye", "full", "linspace", "normal", "ones", "rand", "randint", "randn", "zeros")
_MAX_VARIANTS = 16

_SHAPE_METHODS = ("size", "dim", "numel")
_SHAPE_ATTRIBUTES = ("shape", "ndim", "dtype", "device")


def is_torch_layer(module: nn.Module) -> bool:
    """Whether a module is a leaf of a trace: a layer of torch or fastgan, or a rewritten module."""
    # Decided by the module that defines the forward: a subclass that inherits torch's forward counts as torch's.
    origin = getattr(type(module).forward, "__module__", None) or ""
    return (origin.startswith(("torch.", "fastgan.nn")) and not isinstance(module, nn.Sequential)) or is_rewritten(
        module
    )


def reads_shape(node: fx.Node) -> bool:
    """Whether a node reads only the shape, dtype or device of its input."""
    if node.op == "call_method":
        return node.target in _SHAPE_METHODS
    return node.op == "call_function" and node.target is getattr and node.args[1] in _SHAPE_ATTRIBUTES


def called_name(node: fx.Node) -> str:
    """The name of the function or method that a node calls, without the underscore of in-place methods."""
    target = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    return target.rstrip("_") if node.op in ("call_function", "call_method") else ""


@dataclass(frozen=True)
class Call:
    """One call of a leaf module in trace number ``trace``; ``callers`` are the modules around it, outermost first."""

    node: fx.Node
    module: nn.Module
    callers: tuple[nn.Module, ...]
    trace: int


class Tracer(fx.Tracer):
    """Traces one forward down to ``leaves`` and torch's layers."""

    proxy_buffer_attributes = True

    def __init__(self, leaves: Iterable[nn.Module]) -> None:
        super().__init__(autowrap_functions=tuple(getattr(torch, name) for name in _FACTORIES))
        self._autowrap_search.append(torch)  # where the code of models finds these functions
        self._leaves = set(leaves)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self._leaves or is_torch_layer(m)

    def trace_forward(self, root: nn.Module, training: bool, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """The graph of ``root``'s forward in a mode; attributes that the traced code sets are restored."""
        with unobserved(root, HOOKS, training), seeded_random_state(0):
            return self.trace(root, concrete_args)


@dataclass
class Dataflow:
    """The calls in the traces of a model.

    Attributes:
        paths: the path of each module.
        calls: for each leaf module, its calls in all traces.
        by_node: the same calls by node.
        traces: the number of traces of each traced module.
        untraced: for each module whose forward cannot be traced, the reason.
        reached_into: modules whose children an untraced forward may call one by one.
    """

    paths: dict[nn.Module, str]
    calls: dict[nn.Module, list[Call]] = field(default_factory=lambda: defaultdict(list))
    by_node: dict[fx.Node, Call] = field(default_factory=dict)
    traces: dict[nn.Module, int] = field(default_factory=dict)
    untraced: dict[nn.Module, str] = field(default_factory=dict)
    reached_into: set[nn.Module] = field(default_factory=set)


def trace_model(model: nn.Module, paths: dict[nn.Module, str], closed: set[nn.Module]) -> Dataflow:
    """Traces ``model`` as far as possible, without entering ``closed`` modules."""
    flow = Dataflow(paths)
    _trace_or_descend(model, closed, flow)
    return flow


def _trace_or_descend(module: nn.Module, closed: set[nn.Module], flow: Dataflow) -> None:
    if module in closed or module in flow.untraced or (is_torch_layer(module) and not list(module.children())):
        return
    refusal = _record(module, closed, flow)
    if refusal is None:
        return
    before = len(flow.untraced)
    for child in module.children():
        _trace_or_descend(child, closed, flow)
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        return
    # Perhaps only the untraceable children stopped this trace.
    if len(flow.untraced) > before:
        refusal = _record(module, closed, flow)
        if refusal is None:
            return
    flow.untraced[module] = refusal
    flow.reached_into |= _reached_into(module)


def _record(module: nn.Module, closed: set[nn.Module], flow: Dataflow) -> str | None:
    """Adds the calls of all traces of ``module``; if a trace fails, adds none and returns the reason."""
    calls: list[Call] = []
    try:
        variants = list(itertools.product((True, False), _variants(module)))
        for number, (training, concrete_args) in enumerate(variants):
            graph = Tracer(closed | flow.untraced.keys()).trace_forward(module, training, concrete_args)
            for node in graph.find_nodes(op="call_module"):
                paths = [path for path, _ in node.meta["nn_module_stack"].values()]
                *callers, leaf = [module, *map(module.get_submodule, paths)]
                calls.append(Call(node, leaf, tuple(callers), number))
    except Exception as error:  # the model's code may raise any type on symbolic values
        return first_line(error)
    flow.traces[module] = len(variants)
    for call in calls:
        flow.calls[call.module].append(call)
        flow.by_node[call.node] = call
    return None


def _variants(module: nn.Module) -> list[dict[str, Any]]:
    """All combinations of the optional arguments that can choose a path through a forward."""
    choices = {}
    for name, parameter in inspect.signature(module.forward).parameters.items():
        if isinstance(parameter.default, bool):
            choices[name] = (False, True)
        elif parameter.default is None:
            choices[name] = (None, fx.PH)  # PH: a symbolic value is given
    variants = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    if len(variants) > _MAX_VARIANTS:
        raise ValueError(f"forward has {len(choices)} optional arguments, too many to follow each path")
    return [{name: value for name, value in variant.items() if value is not fx.PH} for variant in variants]


def _reached_into(module: nn.Module) -> set[nn.Module]:
    """The modules below ``module`` whose children its forward may call one by one, according to its source."""
    if is_torch_layer(module):
        return set()
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(type(module).forward)))
    except (OSError, TypeError, SyntaxError):
        return set(module.modules()) - {module}
    nodes = list(ast.walk(tree))
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    own = [node for node in attributes if isinstance(node.value, ast.Name) and node.value.id == "self"]
    uncalled = {node.attr for node in own if id(node) not in called}
    of_others = {node.attr for node in attributes} - {node.attr for node in own}
    lists = nn.ModuleList | nn.ModuleDict
    reached = {child for name, child in module.named_children() if name in uncalled and not isinstance(child, lists)}
    return reached | {m for m in module.modules() if m is not module and of_others & m._modules.keys()}
