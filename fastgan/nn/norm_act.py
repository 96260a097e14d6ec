"""Batch and instance normalization with the following activation, in one op."""

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from fastgan_kernels import bias_act, norm_act


class RefusesTorchsConversion:
    """A ``qconfig`` that fails when ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` reads it, as of every layer.

    That function converts any batch normalization to a torch.nn.SyncBatchNorm, and would silently lose the activation.
    """

    def __get__(self, module: nn.Module | None, owner: type) -> Any:
        if sys._getframe(1).f_code.co_name == "convert_sync_batchnorm":
            raise RuntimeError(
                f"torch's convert_sync_batchnorm would drop the activation of {owner.__name__}; use"
                " fastgan.nn.convert_sync_batchnorm, before accelerate, which keeps it"
            )
        raise AttributeError("qconfig")


class _WithActivation:
    """A norm of torch and an activation; the other arguments are torch's."""

    def __init__(
        self, num_features: int, *args: Any, act: str = "relu", negative_slope: float = 0.2, **settings: Any
    ) -> None:
        super().__init__(num_features, *args, **settings)
        self.act = act
        self.negative_slope = negative_slope

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, act={self.act!r}, negative_slope={self.negative_slope}"


class BatchNormAct2d(_WithActivation, nn.BatchNorm2d):
    """:class:`torch.nn.BatchNorm2d` and an activation, in one op, with the same parameters, buffers and keys.

    Args:
        num_features, eps, momentum, affine, track_running_stats: as in :class:`torch.nn.BatchNorm2d`.
        act: ``"linear"``, ``"relu"`` or ``"lrelu"``.
        negative_slope: slope of ``"lrelu"`` below zero.

    Shape:
        [N, C, H, W] to [N, C, H, W], in the type and layout of the input.
    """

    qconfig = RefusesTorchsConversion()

    def forward(self, x: Tensor) -> Tensor:
        return batch_norm_act(self, x, self.weight, self.bias, self.act, self.negative_slope)


def batch_norm_act(
    norm: nn.BatchNorm2d, x: Tensor, weight: Tensor | None, bias: Tensor | None, act: str, negative_slope: float
) -> Tensor:
    """Computes torch's batch norm with the given scale and shift, then an activation; updates its buffers as torch."""
    norm._check_input_dim(x)
    tracked = norm.track_running_stats or not norm.training
    running = (norm.running_mean, norm.running_var, norm.num_batches_tracked) if tracked else (None, None, None)
    return norm_act(
        x,
        weight,
        bias,
        running_mean=running[0],
        running_var=running[1],
        num_batches_tracked=running[2],
        training=norm.training,
        momentum=norm.momentum,
        eps=norm.eps,
        act=act,
        negative_slope=negative_slope,
    )


class SyncBatchNormAct(nn.SyncBatchNorm):
    """:class:`BatchNormAct2d` over the batch of all ranks: torch's layer, then the activation."""

    qconfig = RefusesTorchsConversion()
    act: str
    negative_slope: float

    def forward(self, x: Tensor) -> Tensor:
        return bias_act(super().forward(x), act=self.act, negative_slope=self.negative_slope)


def convert_sync_batchnorm(module: nn.Module, process_group: Any = None) -> nn.Module:
    """As :meth:`torch.nn.SyncBatchNorm.convert_sync_batchnorm`, but keeps activations of :class:`BatchNormAct2d`.

    Args:
        module: changed in place; if it is itself a batch normalization, a new module is returned.
        process_group: process group of the ranks; ``None`` for all ranks.
    """
    if isinstance(module, BatchNormAct2d):
        made = SyncBatchNormAct(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats, process_group
        )
        made.act, made.negative_slope, made.training = module.act, module.negative_slope, module.training
        made._parameters, made._buffers = module._parameters, module._buffers
        return made
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        return nn.SyncBatchNorm.convert_sync_batchnorm(module, process_group)
    for name, child in module.named_children():
        module.add_module(name, convert_sync_batchnorm(child, process_group))
    return module


class ConditionalBatchNormAct2d(nn.Module):
    """Batch normalization with the scale and shift of each sample's class, and an activation, in one op.

    Dumoulin et al. 2017 (https://arxiv.org/abs/1610.07629, section 2.2, for instance normalization) and de Vries et al.
    2017 (https://arxiv.org/abs/1707.00683). Scales start at 1 and shifts at 0, as in the generators of Miyato and
    Koyama 2018 (https://arxiv.org/abs/1802.05637).

    The statistics are those of :class:`torch.nn.BatchNorm2d`, over all classes together: of the batch in training,
    running averages in evaluation.

    Args:
        num_features: C.
        num_classes: K; labels are 0 to K - 1.
        eps, momentum: as in :class:`torch.nn.BatchNorm2d`.
        act, negative_slope: as in :class:`BatchNormAct2d`.

    Shape:
        x [N, C, H, W] and labels, int64 [N], to [N, C, H, W] in the dtype of x. ``weight`` and ``bias`` are [K, C].
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        *,
        act: str = "relu",
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__()
        self.act = act
        self.negative_slope = negative_slope
        self.norm = nn.BatchNorm2d(num_features, eps, momentum, affine=False)
        self.weight = nn.Parameter(torch.ones(num_classes, num_features))
        self.bias = nn.Parameter(torch.zeros(num_classes, num_features))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        scale, shift = (embedding(labels, table) for table in (self.weight, self.bias))
        if not isinstance(self.norm, nn.SyncBatchNorm):
            return batch_norm_act(self.norm, x, scale, shift, self.act, self.negative_slope)
        scale, shift = (t.to(x.dtype)[:, :, None, None] for t in (scale, shift))
        return bias_act(torch.addcmul(shift, scale, self.norm(x)), act=self.act, negative_slope=self.negative_slope)

    def extra_repr(self) -> str:
        return f"act={self.act!r}, negative_slope={self.negative_slope}"


class InstanceNormAct2d(_WithActivation, nn.InstanceNorm2d):
    """:class:`torch.nn.InstanceNorm2d` and an activation, in one op, with the same parameters, buffers and keys.

    Args:
        num_features, eps, momentum, affine, track_running_stats: as in :class:`torch.nn.InstanceNorm2d`.
        act, negative_slope: as in :class:`BatchNormAct2d`.

    Shape:
        [N, C, H, W] or [C, H, W] to the same, in the type and layout of the input.
    """

    def _apply_instance_norm(self, input: Tensor) -> Tensor:
        return instance_norm_act(self, input, self.act, self.negative_slope)


def instance_norm_act(norm: nn.InstanceNorm2d, x: Tensor, act: str, negative_slope: float) -> Tensor:
    """Computes torch's instance norm of [N, C, H, W], then an activation; like torch, it does not count batches."""
    return norm_act(
        x,
        norm.weight,
        norm.bias,
        norm="instance",
        running_mean=norm.running_mean,
        running_var=norm.running_var,
        training=norm.training or not norm.track_running_stats,
        momentum=norm.momentum or 0.0,
        eps=norm.eps,
        act=act,
        negative_slope=negative_slope,
    )
