"""A convolution or linear layer and the leaky ReLU behind it: bias and activation in one op.

The layer computes ``bias_act(conv_without_bias(x), bias)``, and the activation module returns its input. So the bias
stays in its module, and no module refers to another.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.acceleration.swaps import Recipe, is_rewritten, why_not_rewritable
from fastgan.acceleration.tracing import Call, Dataflow, called_name, reads_shape
from fastgan_kernels import bias_act

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = {
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}
_LAYERS = (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)
_FUNCTIONS = ("relu", "leaky_relu")


def _with_activation(act: str, slope: float) -> Callable[..., Tensor]:
    """The forward of a layer with its activation."""

    def forward(self: nn.Module, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        y = _without_bias(self, input, output_size)
        if isinstance(self, nn.Linear):
            # Channels are the last axis here, and the second one for the op.
            rows = y.reshape(-1, y.shape[-1])
            return bias_act(rows, self.bias, act=act, negative_slope=slope).view(y.shape)
        if y.dim() == len(self.kernel_size) + 1:  # an image without a batch
            return bias_act(y.unsqueeze(0), self.bias, act=act, negative_slope=slope).squeeze(0)
        return bias_act(y, self.bias, act=act, negative_slope=slope)

    return forward


def _pass_through() -> Callable[..., Tensor]:
    """The forward of an activation whose layer computes it."""
    return lambda self, input: input


def _without_bias(layer: nn.Module, x: Tensor, output_size: list[int] | None) -> Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(x, layer.weight)
    if isinstance(layer, _CONVOLUTIONS):
        return layer._conv_forward(x, layer.weight, None)
    output_padding = layer._output_padding(
        x, output_size, layer.stride, layer.padding, layer.kernel_size, len(layer.kernel_size), layer.dilation
    )
    function = next(f for cls, f in _TRANSPOSED.items() if isinstance(layer, cls))
    return function(x, layer.weight, None, layer.stride, layer.padding, output_padding, layer.groups, layer.dilation)


def is_activation(module: nn.Module) -> bool:
    return isinstance(module, nn.ReLU | nn.LeakyReLU) and not is_rewritten(module)


def layer_recipe(activation: nn.Module) -> Recipe:
    """For the layers before ``activation``."""
    if isinstance(activation, nn.LeakyReLU):
        slope = float(activation.negative_slope)
        return Recipe(_with_activation, ("lrelu", slope), f"bias_act(lrelu, {slope})")
    return Recipe(_with_activation, ("relu", 0.0), "bias_act(relu)")


def activation_recipe(layers: str) -> Recipe:
    """For an activation behind ``layers``."""
    return Recipe(_pass_through, (), f"in {layers}")


@dataclass
class Pairs:
    """Activations and the layers before them.

    Attributes:
        layers: for each activation that can be fused, the layers that it follows.
        why_not: the reason for each other activation, and for layers with an activation function behind them.
    """

    layers: dict[nn.Module, list[nn.Module]]
    why_not: dict[nn.Module, str]


def find_pairs(activations: list[nn.Module], flow: Dataflow, path_of: Callable[[nn.Module], str]) -> Pairs:
    """Finds the activations whose inputs are all outputs of layers without other uses."""
    pairs = Pairs({}, {})
    for activation in activations:
        layers, why_not = _layers_before(activation, flow, path_of)
        if why_not is None:
            pairs.layers[activation] = layers
        else:
            pairs.why_not[activation] = why_not
    for layer, calls in flow.calls.items():
        if isinstance(layer, _LAYERS) and not is_rewritten(layer):
            for user in (user for call in calls for user in call.node.users):
                if called_name(user) in _FUNCTIONS:
                    pairs.why_not[layer] = "the activation behind it is a function call, which has no module to swap"
    return pairs


def _layers_before(
    activation: nn.Module, flow: Dataflow, path_of: Callable[[nn.Module], str]
) -> tuple[list[nn.Module], str | None]:
    calls = flow.calls.get(activation)
    if not calls:
        return [], _unobserved(activation, flow, path_of)
    why_not = _why_not_activation(activation) or why_not_rewritable(activation)
    if why_not:
        return [], why_not
    layers: dict[nn.Module, None] = {}
    for call in calls:
        inputs = call.node.all_input_nodes
        source = flow.by_node.get(inputs[0]) if len(inputs) == 1 else None
        if source is None or not isinstance(source.module, _LAYERS):
            origin = f"computed in the forward of `{path_of(call.callers[-1])}`"
            if source is not None:
                origin = f"the output of {type(source.module).__name__} `{path_of(source.module)}`"
            return [], f"its input is {origin}; an unfused activation is one pass in torch too"
        why_not = _why_not_layer(source.module, activation, flow, path_of) or _why_not_between(source, call, path_of)
        if why_not:
            return [], f"{type(source.module).__name__} `{path_of(source.module)}` before it: {why_not}"
        layers[source.module] = None
    return list(layers), None


def _why_not_activation(activation: nn.Module) -> str | None:
    cls = nn.LeakyReLU if isinstance(activation, nn.LeakyReLU) else nn.ReLU
    if type(activation).forward is not cls.forward:
        return f"{type(activation).__name__} overrides forward"
    if cls is nn.LeakyReLU and not 0 <= activation.negative_slope < float("inf"):
        return f"its slope is {activation.negative_slope}, and bias_act takes finite ones from 0 on"
    if _hooked(activation, "_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"):
        return "it has a hook, which would see another input"
    return None


def _why_not_layer(
    layer: nn.Module, activation: nn.Module, flow: Dataflow, path_of: Callable[[nn.Module], str]
) -> str | None:
    cls = next(cls for cls in _LAYERS if isinstance(layer, cls))
    if type(layer).forward is not cls.forward or getattr(type(layer), "_conv_forward", None) is not getattr(
        cls, "_conv_forward", None
    ):
        return f"{type(layer).__name__} overrides forward"
    if any(map(nn.parameter.is_lazy, layer.parameters())):
        return "its parameters are not initialized"
    if layer.bias is None:
        return "it has no bias; an unfused activation is one pass in torch too"
    if _hooked(layer, "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"):
        return "it has a hook, which would see another output"
    for call in flow.calls[layer]:
        users = [user for user in call.node.users if not reads_shape(user)]
        calls = [c for c in flow.calls[activation] if c.node in users]
        if len(users) != 1:
            return f"its output has {len(users)} uses"
        if not calls:
            return "its output is not always followed by this activation"
        if call.callers[-1] in flow.reached_into:
            return f"a forward that cannot be traced may call the layers of `{path_of(call.callers[-1])}` one by one"
    return why_not_rewritable(layer)


def _why_not_between(source: Call, target: Call, path_of: Callable[[nn.Module], str]) -> str | None:
    """A value that changes must not pass a hook of a module that it leaves or enters."""
    shared = sum(1 for a, b in zip(source.callers, target.callers, strict=False) if a is b)
    for module in (*source.callers[shared:], *target.callers[shared:]):
        if _hooked(module, "_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"):
            return f"`{path_of(module)}` between them has a hook, which would see another value"
    return None


def _unobserved(activation: nn.Module, flow: Dataflow, path_of: Callable[[nn.Module], str]) -> str:
    for module, why in flow.untraced.items():
        if any(m is activation for m in module.modules()):
            return f"the forward of `{path_of(module)}` cannot be traced ({why}), and no other calls it"
    return "no forward calls it"


def _hooked(module: nn.Module, *kinds: str) -> bool:
    return any(getattr(module, kind) for kind in kinds)
