"""Where the modules of a model are called, and how their outputs are used.

The forward of the model is traced symbolically (``torch.fx``), down to torch's own layers. If that fails, its children
are traced one by one, and children that cannot be traced are opaque calls in the trace around them. A trace follows one
path through the code, so there is one for training and evaluation mode and for each value of the optional arguments
that decide a path.
"""

import ast
import inspect
import itertools
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from fastgan.acceleration.measuring import fixed_random_state, in_mode, unobserved
from fastgan.acceleration.swaps import is_rewritten
from fastgan.errors import first_line

# Functions that torch does not let a tracer override, so a symbolic size would stop the trace.
_FACTORIES = ("arange", "empty", "eye", "full", "linspace", "normal", "ones", "rand", "randint", "randn", "zeros")
_MAX_VARIANTS = 16

_SHAPE_METHODS = ("size", "dim", "numel")
_SHAPE_ATTRIBUTES = ("shape", "ndim", "dtype", "device")


def is_torch_layer(module: nn.Module) -> bool:
    """True for the layers of torch and fastgan, and for what has been rewritten: the leaves of a trace."""
    # By where the forward was written: a subclass that keeps torch's is torch's.
    origin = getattr(type(module).forward, "__module__", None) or ""
    return (origin.startswith(("torch.", "fastgan.nn")) and not isinstance(module, nn.Sequential)) or is_rewritten(
        module
    )


def reads_shape(node: fx.Node) -> bool:
    """True where a node reads only the shape, type or device of its input."""
    if node.op == "call_method":
        return node.target in _SHAPE_METHODS
    return node.op == "call_function" and node.target is getattr and node.args[1] in _SHAPE_ATTRIBUTES


def called_name(node: fx.Node) -> str:
    """The name of the function or method that a node calls, without the underscore of an in-place one."""
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
    """Traces one forward; ``calls`` maps the nodes of leaf modules to them."""

    proxy_buffer_attributes = True

    def __init__(self, leaves: Iterable[nn.Module] = (), number: int = 0) -> None:
        super().__init__()
        self._number = number
        self._leaves = set(leaves)
        self._callers: list[nn.Module] = []
        self.calls: dict[fx.Node, Call] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self._leaves or is_torch_layer(m)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        callers = tuple(self._callers)
        self._callers.append(m)
        try:
            result = super().call_module(m, forward, args, kwargs)
        finally:
            self._callers.pop()
        if self.is_leaf_module(m, ""):
            self.calls[result.node] = Call(result.node, m, callers, self._number)
        return result

    def trace_forward(self, root: nn.Module, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """The graph of ``root``'s forward; attributes that the traced code sets are restored."""
        self._callers = [root]
        with unobserved(root, with_pre_hooks=False), fixed_random_state(), _symbolic_factories():
            return self.trace(root, concrete_args)


@dataclass
class Dataflow:
    """The calls in the traces of a model.

    Attributes:
        calls: each leaf module's calls, in all traces.
        by_node: the same calls by their nodes.
        traces: the modules that were traced, and how often.
        untraced: the modules whose forward cannot be traced, and why.
        reached_into: modules whose children an untraced forward seems to call one by one.
    """

    calls: dict[nn.Module, list[Call]] = field(default_factory=lambda: defaultdict(list))
    by_node: dict[fx.Node, Call] = field(default_factory=dict)
    traces: dict[nn.Module, int] = field(default_factory=dict)
    untraced: dict[nn.Module, str] = field(default_factory=dict)
    reached_into: set[nn.Module] = field(default_factory=set)


def trace_model(model: nn.Module, closed: set[nn.Module]) -> Dataflow:
    """Traces ``model``, or as much of it as can be; ``closed`` modules stay whole."""
    flow = Dataflow()
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
    # The children that cannot be traced may be all that stopped this one.
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
            tracer = Tracer(closed | flow.untraced.keys(), number)
            with in_mode(module, training):
                tracer.trace_forward(module, concrete_args)
            calls += tracer.calls.values()
    except Exception as error:  # whatever the model's own code raises on symbolic values
        return first_line(error)
    flow.traces[module] = len(variants)
    for call in calls:
        flow.calls[call.module].append(call)
        flow.by_node[call.node] = call
    return None


def _variants(module: nn.Module) -> list[dict[str, Any]]:
    """The optional arguments of a forward that can decide its path, in every combination."""
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


@contextmanager
def _symbolic_factories() -> Iterator[None]:
    """Lets torch.randn and its like take symbolic sizes."""

    def symbolic(factory: Any) -> Any:
        def make(*args: Any, **kwargs: Any) -> Any:
            proxies: list[fx.Proxy] = []
            fx.node.map_aggregate((args, kwargs), lambda a: proxies.append(a) if isinstance(a, fx.Proxy) else None)
            if proxies:
                return proxies[0].tracer.create_proxy("call_function", factory, args, kwargs)
            return factory(*args, **kwargs)

        return make

    originals = {name: getattr(torch, name) for name in _FACTORIES}
    try:
        for name, factory in originals.items():
            setattr(torch, name, symbolic(factory))
        yield
    finally:
        for name, factory in originals.items():
            setattr(torch, name, factory)
