"""accelerate on norms with the activation behind them."""

import copy
import pickle

import pytest
import torch
from torch import nn

import fastgan
from benchmarks.static.traffic import count_traffic
from fastgan.nn import convert_sync_batchnorm
from fastgan_kernels import use_backend


def generator() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.ConvTranspose2d(3, 4, 4, 2, 1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.InstanceNorm2d(4, affine=True),
        nn.LeakyReLU(0.1),
        nn.BatchNorm2d(4, momentum=None),
        nn.Tanh(),
    )


def test_norms_are_swapped_with_their_activation_and_batch_norms_by_themselves():
    model, x = generator(), torch.randn(2, 3, 4, 4)
    plain = copy.deepcopy(model)
    report = fastgan.accelerate(model, check=True, example_inputs=(x,))
    assert [(entry.path, entry.what, entry.by) for entry in report.swapped] == [
        ("1", "BatchNorm2d + ReLU `2`", "norm_act(relu)"),
        ("4", "InstanceNorm2d + LeakyReLU `5`", "norm_act(lrelu, 0.1)"),
        ("6", "BatchNorm2d", "norm_act(linear)"),
    ]
    assert not report.left
    assert "outputs, first- and second-order gradients agree in float64" in report.check
    for backend in ("triton", "reference"):
        with use_backend(backend):
            for _ in range(2):
                torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-4)
    assert list(model.state_dict()) == list(plain.state_dict())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name])
    torch.testing.assert_close(pickle.loads(pickle.dumps(model)).eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="launches are counted in the interpreter")
def test_batches_are_counted_without_a_launch():
    counts = []
    model, x = generator(), torch.randn(2, 3, 4, 4)
    for accelerated in (False, True):
        if accelerated:
            fastgan.accelerate(model)
        with use_backend("triton"), count_traffic() as traffic:
            model(x)
        counts.append([launch.kernel for launch in traffic.launches])
    before, after = counts
    assert sum("add_" in name for name in before) == 2
    # momentum=None averages over a count that must be there before; the other is counted by the kernel.
    assert sum("add_" in name for name in after) == 1
    assert len(after) <= len(before) * 2 / 3


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d(3), (4, 3)),
        (nn.BatchNorm1d(3), (4, 3, 5)),
        (nn.BatchNorm3d(3, affine=False), (2, 3, 2, 3, 2)),
        (nn.InstanceNorm1d(3), (3, 5)),
        (nn.InstanceNorm3d(3, track_running_stats=True), (2, 3, 2, 3, 2)),
    ],
)
def test_norms_of_other_dimensions(norm: nn.Module, shape: tuple[int, ...]):
    model = nn.Sequential(norm, nn.LeakyReLU(0.3))
    report = fastgan.accelerate(model, check=True, example_inputs=(torch.randn(shape),))
    assert [entry.by for entry in report.swapped] == ["norm_act(lrelu, 0.3)"]


def test_what_overrides_torchs_forward_is_left():
    class Scaled(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) * 2

    class Shifted(nn.InstanceNorm2d):
        def _apply_instance_norm(self, x):
            return super()._apply_instance_norm(x) + 1

    model = nn.Sequential(Scaled(3), nn.ReLU(), Shifted(3), nn.ReLU())
    report = fastgan.accelerate(model)
    assert not report.swapped
    reasons = {entry.path: entry.why for entry in report.left}
    assert reasons["0"] == "Scaled overrides forward"
    assert "Scaled overrides forward" in reasons["1"]
    assert "Shifted overrides forward" in reasons["3"]


def test_conversion_for_several_ranks_is_refused_and_goes_before():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
    fastgan.accelerate(model)
    for convert in (nn.SyncBatchNorm.convert_sync_batchnorm, convert_sync_batchnorm):
        with pytest.raises(RuntimeError, match=r"would drop the activation of BatchNorm2d; use .* before accelerate"):
            convert(copy.deepcopy(model))
    model = convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()))
    assert not fastgan.accelerate(model).swapped
