"""Batch or instance norm and the ReLU or leaky ReLU after it in one op; also a single batch norm.

torch's layers take one launch to count the batch, one or more to normalize, and one for the activation.
"""

from collections.abc import Callable

from torch import Tensor, nn

from fastgan.acceleration.swaps import Recipe, Refusal, require_rewritable
from fastgan.nn.norm_act import batch_norm_act, instance_norm_act

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
NORMS = (*BATCH_NORMS, *INSTANCE_NORMS)


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


def counts_batches(module: nn.Module) -> bool:
    """Whether a module is a batch norm of torch that can be swapped without an activation.

    Raises:
        Refusal: if it is a batch norm that cannot be swapped.
    """
    if not isinstance(module, BATCH_NORMS) or not module.track_running_stats:
        return False
    if type(module).forward is not nn.BatchNorm2d.forward:
        raise Refusal(f"{type(module).__name__} overrides forward")
    require_rewritable(module)
    return True
