"""A layer and the ReLU or leaky ReLU after it: bias and activation, or normalization and activation, in one op.

A convolution or linear layer computes ``bias_act(conv_without_bias(x), bias)``, a norm ``norm_act(x, ...)``, and the
activation module returns its input. So the parameters stay in their module, and no module refers to another.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.acceleration.measuring import OBSERVING_HOOKS, has_hook
from fastgan.acceleration.swaps import Recipe, Refusal, is_rewritten, require_rewritable
from fastgan.acceleration.tracing import Call, Dataflow, called_name, reads_shape
from fastgan.nn.norm_act import batch_norm_act, instance_norm_act
from fastgan_kernels import bias_act

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_NORMS = (*BATCH_NORMS, *INSTANCE_NORMS)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = {
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}
_LAYERS = (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED, *_NORMS)
_FUNCTIONS = ("relu", "leaky_relu")
# Methods of a forward that a subclass may override.
_PARTS = ("_conv_forward", "_apply_instance_norm")


def _with_activation(act: str, slope: float) -> Callable[..., Tensor]:
    """Makes the forward of a layer fused with its activation."""

    def forward(self: nn.Module, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        y = _without_bias(self, input, output_size)
        if isinstance(self, nn.Linear):
            # Channels are the last axis here; the op has them second.
            rows = y.reshape(-1, y.shape[-1])
            return bias_act(rows, self.bias, act=act, negative_slope=slope).view(y.shape)
        if y.dim() == len(self.kernel_size) + 1:  # an image without a batch
            return bias_act(y.unsqueeze(0), self.bias, act=act, negative_slope=slope).squeeze(0)
        return bias_act(y, self.bias, act=act, negative_slope=slope)

    return forward


def _pass_through() -> Callable[..., Tensor]:
    """Makes the forward of an activation that is fused into its layer."""
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


def _norm_act(act: str, slope: float) -> Callable[..., Tensor]:
    def forward(self: nn.Module, input: Tensor) -> Tensor:
        if isinstance(self, BATCH_NORMS):
            return batch_norm_act(self, input, self.weight, self.bias, act, slope)
        self._check_input_dim(input)
        if input.dim() == self._get_no_batch_dim():
            return instance_norm_act(self, input[None], act, slope)[0]
        return instance_norm_act(self, input, act, slope)

    return forward


def norm_recipe(act: str, slope: float = 0.0) -> Recipe:
    """The recipe of a norm with an activation."""
    return Recipe(_norm_act, (act, slope), f"norm_act({act}, {slope})" if act == "lrelu" else f"norm_act({act})")


def is_activation(module: nn.Module) -> bool:
    return isinstance(module, nn.ReLU | nn.LeakyReLU) and not is_rewritten(module)


def layer_recipe(layer: nn.Module, activation: nn.Module) -> Recipe:
    """The recipe of a layer before ``activation``."""
    leaky = isinstance(activation, nn.LeakyReLU)
    act, slope = ("lrelu", float(activation.negative_slope)) if leaky else ("relu", 0.0)
    if isinstance(layer, _NORMS):
        return norm_recipe(act, slope)
    return Recipe(_with_activation, (act, slope), f"bias_act({act}, {slope})" if leaky else "bias_act(relu)")


def activation_recipe(layers: str) -> Recipe:
    """The recipe of an activation after ``layers``."""
    return Recipe(_pass_through, (), f"in {layers}")


def counts_batches(module: nn.Module) -> bool:
    """Whether a module is a batch norm of torch to swap without an activation; raises Refusal if it cannot be
    swapped."""
    if not isinstance(module, BATCH_NORMS) or not module.track_running_stats:
        return False
    if type(module).forward is not nn.BatchNorm2d.forward:
        raise Refusal(f"{type(module).__name__} overrides forward")
    require_rewritable(module)
    return True


def calls_function(layer: nn.Module, flow: Dataflow) -> bool:
    """Whether the activation after a layer is a function, not a module."""
    if not isinstance(layer, _LAYERS) or is_rewritten(layer):
        return False
    return any(called_name(user) in _FUNCTIONS for call in flow.calls.get(layer, ()) for user in call.node.users)


def layers_before(activation: nn.Module, flow: Dataflow) -> list[nn.Module]:
    """The layers whose outputs are the only inputs of ``activation`` and have no other use; else raises Refusal."""
    calls = flow.calls.get(activation)
    if not calls:
        raise Refusal(_unobserved(activation, flow))
    _require_plain_activation(activation)
    layers: dict[nn.Module, None] = {}
    for call in calls:
        inputs = call.node.all_input_nodes
        source = flow.by_node.get(inputs[0]) if len(inputs) == 1 else None
        if source is None or not isinstance(source.module, _LAYERS):
            origin = f"computed in the forward of `{flow.paths[call.callers[-1]]}`"
            if source is not None:
                origin = f"the output of {type(source.module).__name__} `{flow.paths[source.module]}`"
            raise Refusal(f"its input is {origin}; an unfused activation is one pass in torch too")
        try:
            _require_plain_layer(source.module, activation, flow)
            _require_nothing_between(source, call, flow)
        except Refusal as why:
            raise Refusal(f"{type(source.module).__name__} `{flow.paths[source.module]}` before it: {why}") from None
        layers[source.module] = None
    return list(layers)


def _require_plain_activation(activation: nn.Module) -> None:
    cls = nn.LeakyReLU if isinstance(activation, nn.LeakyReLU) else nn.ReLU
    if type(activation).forward is not cls.forward:
        raise Refusal(f"{type(activation).__name__} overrides forward")
    if cls is nn.LeakyReLU and not 0 <= activation.negative_slope < float("inf"):
        raise Refusal(f"its slope is {activation.negative_slope}, and the ops take finite ones from 0 on")
    if has_hook(activation):
        raise Refusal("it has a hook, which would see another input")
    require_rewritable(activation)


def _require_plain_layer(layer: nn.Module, activation: nn.Module, flow: Dataflow) -> None:
    cls, own = next(cls for cls in _LAYERS if isinstance(layer, cls)), type(layer)
    if any(getattr(own, name, None) is not getattr(cls, name, None) for name in ("forward", *_PARTS)):
        raise Refusal(f"{own.__name__} overrides forward")
    if any(map(nn.parameter.is_lazy, layer.parameters())):
        raise Refusal("its parameters are not initialized")
    if layer.bias is None and not isinstance(layer, _NORMS):
        raise Refusal("it has no bias; an unfused activation is one pass in torch too")
    if has_hook(layer, OBSERVING_HOOKS):
        raise Refusal("it has a hook, which would see another output")
    for call in flow.calls[layer]:
        users = [user for user in call.node.users if not reads_shape(user)]
        if len(users) != 1:
            raise Refusal(f"its output has {len(users)} uses")
        if not any(c.node in users for c in flow.calls[activation]):
            raise Refusal("its output is not always followed by this activation")
        if call.callers[-1] in flow.reached_into:
            caller = flow.paths[call.callers[-1]]
            raise Refusal(f"a forward that cannot be traced may call the layers of `{caller}` one by one")
    require_rewritable(layer)


def _require_nothing_between(source: Call, target: Call, flow: Dataflow) -> None:
    """Refuses a hook of a module between the layer and its activation, which would see another value."""
    shared = sum(1 for a, b in zip(source.callers, target.callers, strict=False) if a is b)
    for module in (*source.callers[shared:], *target.callers[shared:]):
        if has_hook(module):
            raise Refusal(f"`{flow.paths[module]}` between them has a hook, which would see another value")


def _unobserved(activation: nn.Module, flow: Dataflow) -> str:
    for module, why in flow.untraced.items():
        if any(m is activation for m in module.modules()):
            return f"the forward of `{flow.paths[module]}` cannot be traced ({why}), and no other calls it"
    return "no forward calls it"
