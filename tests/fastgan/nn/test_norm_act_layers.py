import copy
import pickle

import pytest
import torch
from torch import nn

from benchmarks.static.traffic import count_traffic
from fastgan.models.dcgan import build_discriminator, build_generator
from fastgan.nn import BatchNormAct2d, ConditionalBatchNormAct2d, InstanceNormAct2d, convert_sync_batchnorm
from fastgan.regularizers import compile_step, find_batch_norm, r1
from fastgan_kernels import norm_act, use_backend

PAIRS = {
    "batch": (
        lambda: BatchNormAct2d(3, act="lrelu", momentum=None),
        lambda: nn.Sequential(nn.BatchNorm2d(3, momentum=None), nn.LeakyReLU(0.2)),
    ),
    "batch, untracked": (
        lambda: BatchNormAct2d(3, 1e-3, affine=False, track_running_stats=False),
        lambda: nn.Sequential(nn.BatchNorm2d(3, 1e-3, affine=False, track_running_stats=False), nn.ReLU()),
    ),
    "instance": (lambda: InstanceNormAct2d(3), lambda: nn.Sequential(nn.InstanceNorm2d(3), nn.ReLU())),
    "instance, tracked": (
        lambda: InstanceNormAct2d(3, affine=True, track_running_stats=True, act="linear"),
        lambda: nn.Sequential(nn.InstanceNorm2d(3, affine=True, track_running_stats=True)),
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_is_torchs_layer_and_the_activation(pair: str, backend: str):
    ours, theirs = (make().double() for make in PAIRS[pair])
    theirs[0].load_state_dict(ours.state_dict())
    assert list(ours.state_dict()) == list(theirs[0].state_dict())
    x = torch.randn(4, 3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for training in (True, True, False):
        ours.train(training), theirs.train(training)
        with use_backend(backend):
            torch.testing.assert_close(ours(x), theirs(x))
            if "instance" in pair:
                torch.testing.assert_close(ours(x[0]), theirs(x[0]))
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, theirs[0].get_buffer(name))


def test_torchs_conversion_for_several_ranks_is_refused_and_ours_keeps_the_activation():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), BatchNormAct2d(3, act="lrelu"), nn.BatchNorm2d(3), InstanceNormAct2d(3))
    x = torch.randn(4, 2, 6, 6)
    model(x)
    model.eval()
    expected, state = model(x), model.state_dict()
    assert not hasattr(model[1], "qconfig")
    for again in (model, pickle.loads(pickle.dumps(copy.deepcopy(model)))):
        with pytest.raises(RuntimeError, match="would drop the activation of BatchNormAct2d; use"):
            nn.SyncBatchNorm.convert_sync_batchnorm(again)
    parameter = model[1].weight
    model = convert_sync_batchnorm(model)
    assert model[1].weight is parameter
    assert [isinstance(layer, nn.SyncBatchNorm) for layer in model] == [False, True, True, False]
    assert list(model.state_dict()) == list(state)
    torch.testing.assert_close(model(x), expected)
    with pytest.raises(RuntimeError, match="would drop the activation of SyncBatchNormAct"):
        nn.SyncBatchNorm.convert_sync_batchnorm(model)


def test_conditional_layers_survive_torchs_conversion():
    torch.manual_seed(0)
    layer = ConditionalBatchNormAct2d(3, 4).eval()
    nn.init.normal_(layer.weight)
    x, labels = torch.randn(5, 3, 2, 2), torch.tensor([2, 0, 2, 1, 0])
    expected, keys = layer(x, labels), list(layer.state_dict())
    layer = nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    assert isinstance(layer.norm, nn.SyncBatchNorm)
    assert list(layer.state_dict()) == keys
    torch.testing.assert_close(layer(x, labels), expected)


class TorchsLayers(nn.Module):
    """Batch norm and activation as two layers of torch."""

    def __init__(self, layer: BatchNormAct2d) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(layer.num_features)
        self.act = nn.ReLU() if layer.act == "relu" else nn.LeakyReLU(layer.negative_slope)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(x))


@pytest.mark.skipif(torch.cuda.is_available(), reason="launches are counted in the interpreter")
@pytest.mark.parametrize(
    ("network", "x", "expected"),
    [
        (build_generator(32, 1, 8, 4, None), torch.zeros(4, 8), (14, 8)),
        (build_discriminator(32, 1, 4, None), torch.zeros(4, 1, 32, 32), (11, 7)),
    ],
    ids=["generator", "discriminator"],
)
def test_a_training_forward_launches_a_third_less(network: nn.Module, x: torch.Tensor, expected: tuple[int, int]):
    """Statistics, activation and count of batches in one launch, where torch's layers take three."""
    counts = []
    plain = copy.deepcopy(network)
    for i, layer in enumerate(plain.layers):
        if isinstance(layer, BatchNormAct2d):
            plain.layers[i] = TorchsLayers(layer)
    for version in (plain, network):
        with use_backend("triton"), count_traffic() as traffic:
            version(x)
        counts.append(len(traffic.launches))
    assert tuple(counts) == expected
    assert all(layer.num_batches_tracked == 1 for layer in network.layers if isinstance(layer, BatchNormAct2d))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_penalty_refuses_a_critic_of_kernels_that_normalize_over_the_batch(compiled: bool):
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))

    def penalty_with(**settings: object) -> torch.Tensor:
        def penalty(x: torch.Tensor) -> torch.Tensor:
            return r1(lambda x: norm_act(x, **settings).square().mean((1, 2, 3)), x).detach()

        return (compile_step(penalty, backend="aot_eager") if compiled else penalty)(x)

    with use_backend("triton"):
        with pytest.raises(ValueError, match=r"^the penalized critic has batch normalization \(norm_act"):
            penalty_with()
        assert penalty_with(norm="instance") > 0
        assert penalty_with(training=False, running_mean=torch.zeros(3), running_var=torch.ones(3)) > 0
    assert find_batch_norm(nn.Sequential(BatchNormAct2d(3))) == "0"
